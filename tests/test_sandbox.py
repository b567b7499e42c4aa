"""The sandbox is a registry: what it answers, held against the distribution specification 1.1."""

import asyncio
import contextlib
import gc
import hashlib
import http.client
import re
import socket
import sys
import threading
import time
from itertools import chain
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn
from door import ABSENT, OCTETS, SPDX, Door, code, dump, sha256
from hypothesis import given, settings
from hypothesis import strategies as st

from regaudit.errors import MissingExtra, UsageError
from regaudit.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_PLAIN,
)
from regaudit.sandbox.app import MANIFEST_LIMIT, Application, parse_route
from regaudit.sandbox.server import Sandbox
from regaudit.sandbox.store import Store


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as served:
        yield served


@pytest.fixture
def door(sandbox, request):
    with Door(sandbox, "test/" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")) as opened:
        yield opened


# The root, and what every answer has


def test_the_root_says_that_this_is_a_registry(door):
    reply = door("GET", "/v2/")
    assert (reply.status_code, reply.json()) == (200, {})
    assert reply.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@pytest.mark.parametrize("path", ["/", "/v1/_ping", "/v2/team/app", "/v2/team/app/tags", "/token", "/v3/"])
def test_a_path_outside_the_interface_is_a_plain_404(door, path):
    reply = door("GET", path)
    assert (reply.status_code, reply.text) == (404, "404 page not found\n")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2/", "GET, HEAD"),
        ("DELETE", "/v2/_catalog", "GET, HEAD"),
        ("PATCH", "manifests/latest", "DELETE, GET, HEAD, PUT"),
        ("GET", "blobs/uploads/", "POST"),
    ],
)
def test_a_method_that_an_endpoint_lacks_is_405_and_says_which_it_has(door, method, path, allowed):
    reply = door(method, path)
    assert (reply.status_code, reply.headers["Allow"], code(reply)) == (405, allowed, "UNSUPPORTED")


@pytest.mark.parametrize("name", ["Team/app", "team//app", "-team/app", "team/app_", "a" * 256])
@pytest.mark.parametrize(
    ("method", "rest"),
    [("GET", "tags/list"), ("GET", "manifests/x"), ("PUT", "manifests/x"), ("POST", "blobs/uploads/")],
)
def test_a_repository_name_outside_the_grammar_is_name_invalid(door, name, method, rest):
    reply = door(method, f"/v2/{name}/{rest}")
    assert (reply.status_code, code(reply)) == (400, "NAME_INVALID")


@pytest.mark.parametrize(
    ("path", "kind", "name", "reference"),
    [
        ("/v2/a/manifests/b/manifests/c", "manifests", "a/manifests/b", "c"),
        ("/v2/a/blobs/uploads/manifests/c", "manifests", "a/blobs/uploads", "c"),
        ("/v2/a/manifests/tags/list", "tags", "a/manifests", ""),
        ("/v2/tags/list/tags/list", "tags", "tags/list", ""),
        ("/v2/a/blobs/uploads/", "uploads", "a", ""),
        ("/v2/a/blobs/uploads/1-2", "session", "a", "1-2"),
    ],
)
def test_a_repository_may_be_called_like_an_endpoint(path, kind, name, reference):
    route = parse_route(path)
    assert (route.kind, route.name, route.reference) == (kind, name, reference)


def test_every_answer_has_a_length_and_the_connection_stays_open(sandbox):
    digest = sandbox.store.put_manifest("test/keep-alive", "latest", OCI_INDEX, b'{"manifests":[]}')
    connection = http.client.HTTPConnection(sandbox.host, timeout=10)
    connection.connect()
    sock = connection.sock
    for method, path in (("GET", "latest"), ("HEAD", "latest"), ("HEAD", "gone"), ("DELETE", digest), ("GET", digest)):
        connection.request(method, f"/v2/test/keep-alive/manifests/{path}")
        reply = connection.getresponse()
        body = reply.read()
        assert reply.getheader("Transfer-Encoding") is None
        assert method == "HEAD" or int(reply.getheader("Content-Length")) == len(body)
        assert connection.sock is sock
    connection.close()


def test_requests_served_are_noted_with_their_status(built):
    door = built()
    door("GET", "/v2/_catalog?n=3")
    door("HEAD", "manifests/latest")
    assert list(door.sandbox.requests) == [("GET", "/v2/_catalog", 200), ("HEAD", "/v2/team/app/manifests/latest", 404)]


# Listings


def pages(door, path):
    """Follow Link as a client does, and return the pages."""
    found = []
    while path:
        reply = door("GET", path)
        assert reply.status_code == 200
        found.append(next(value for key, value in reply.json().items() if key != "name"))
        path = reply.links["next"]["url"] if "next" in reply.links else None
    return found


def test_tags_come_in_lexical_order_whatever_the_order_of_pushes(door):
    for tag in ("b", "B", "a", "1.10", "1.9", "_"):
        door.sandbox.store.set_tag(door.repository, tag, ABSENT)
    reply = door("GET", "tags/list")
    assert reply.json() == {"name": door.repository, "tags": ["1.10", "1.9", "B", "_", "a", "b"]}
    assert "Link" not in reply.headers


def test_tags_are_paged_by_n_and_last_and_link_leads_through_all_of_them_once(door):
    for number in range(25):
        door.sandbox.store.set_tag(door.repository, f"t{number:02}", ABSENT)
    found = pages(door, "tags/list?n=10")
    assert [len(page) for page in found] == [10, 10, 5]
    assert list(chain.from_iterable(found)) == [f"t{number:02}" for number in range(25)]
    assert door("GET", "tags/list?n=2&last=t03").json()["tags"] == ["t04", "t05"]
    assert door("GET", "tags/list?last=t22x").json()["tags"] == ["t23", "t24"]


def test_the_last_page_carries_no_link_even_if_it_is_full(door):
    for tag in ("a", "b"):
        door.sandbox.store.set_tag(door.repository, tag, ABSENT)
    assert "Link" not in door("GET", "tags/list?n=2").headers


def test_n_of_zero_is_an_empty_list_without_a_link(door):
    door.sandbox.store.set_tag(door.repository, "a", ABSENT)
    for path in ("tags/list?n=0", "/v2/_catalog?n=0"):
        reply = door("GET", path)
        assert (reply.status_code, "Link" in reply.headers) == (200, False)
        assert [] in reply.json().values()


@pytest.mark.parametrize("number", ["-1", "x", "", "1.5", "٣"])
def test_an_n_that_is_no_number_is_refused(door, number):
    door.sandbox.store.create(door.repository)
    for path in ("tags/list", "/v2/_catalog"):
        reply = door("GET", path, params={"n": number})
        assert (reply.status_code, code(reply)) == (400, "PAGINATION_NUMBER_INVALID")


def test_a_page_is_never_longer_than_the_registrys_own_limit(built):
    door = built(page=3)
    for number in range(7):
        door.sandbox.store.set_tag("team/app", str(number), ABSENT)
        door.sandbox.store.create(f"team/{number}")
    assert [len(page) for page in pages(door, "tags/list")] == [3, 3, 1]
    assert [len(page) for page in pages(door, "tags/list?n=100000")] == [3, 3, 1]
    assert [len(page) for page in pages(door, "/v2/_catalog")] == [3, 3, 2]


def test_the_catalog_lists_a_hundred_repositories_unless_asked_for_more(built):
    door = built()
    for number in range(101):
        door.sandbox.store.create(f"team/r{number:03}")
    assert [len(page) for page in pages(door, "/v2/_catalog")] == [100, 1]
    assert [len(page) for page in pages(door, "/v2/_catalog?n=1000")] == [101]
    assert door("GET", "/v2/_catalog?last=team/r099").json() == {"repositories": ["team/r100"]}


def test_a_repository_that_never_was_is_name_unknown(door):
    for method, path in (("GET", "tags/list"), ("GET", "manifests/x"), ("DELETE", f"manifests/{ABSENT}")):
        reply = door(method, path)
        assert (reply.status_code, code(reply)) == (404, "NAME_UNKNOWN")


def test_an_emptied_repository_stays_in_the_catalog_and_lists_null(built):
    door = built()
    door("DELETE", f"manifests/{door.push_image('latest')['digest']}")
    assert door("GET", "tags/list").json() == {"name": "team/app", "tags": None}
    assert door("GET", "/v2/_catalog").json() == {"repositories": ["team/app"]}


def test_an_upload_alone_makes_no_repository(door):
    door.begin()
    assert door("GET", "tags/list").status_code == 404


# Manifests


def test_a_manifest_comes_back_byte_for_byte_with_its_type_and_digest(door):
    config = {**door.push_blob(b"{}"), "mediaType": OCI_CONFIG}
    raw = b'{ "layers":[ ],\n\t"schemaVersion":2, "config": ' + dump(config) + b'  ,"x":"\xc3\xa9"}\n'
    pushed = door.put("v1", raw)
    assert (pushed.status_code, pushed.headers["Docker-Content-Digest"]) == (201, sha256(raw))
    for reference in ("v1", sha256(raw)):
        got = door("GET", f"manifests/{reference}", headers={"Accept": "*/*"})
        assert (got.status_code, got.content, got.headers["Content-Type"]) == (200, raw, OCI_MANIFEST)
        head = door("HEAD", f"manifests/{reference}")
        assert head.headers["Content-Length"] == str(len(raw))
        assert head.headers["Docker-Content-Digest"] == got.headers["Docker-Content-Digest"] == sha256(raw)


def test_the_location_of_a_pushed_manifest_can_be_read(door):
    door.push_image("v1")
    config = {**door.push_blob(b"{}"), "mediaType": OCI_CONFIG}
    reply = door.put("v2", {"config": config, "layers": []})
    assert door("GET", reply.headers["Location"]).status_code == 200
    assert reply.headers["Content-Length"] == "0"


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_MANIFEST])
def test_an_image_needs_its_blobs_in_the_same_repository(door, media_type):
    with Door(door.sandbox, "test/elsewhere") as elsewhere:
        layer = elsewhere.push_blob(b"only elsewhere")
    config = {**door.push_blob(b"{}"), "mediaType": OCI_CONFIG}
    missing = {"mediaType": "x/y", "digest": ABSENT, "size": 1}
    reply = door.put("v1", {"config": config, "layers": [layer, missing, missing]}, media_type)
    assert reply.status_code == 400
    errors = reply.json()["errors"]
    assert {error["code"] for error in errors} == {"MANIFEST_BLOB_UNKNOWN"}
    assert [error["detail"]["digest"] for error in errors] == [layer["digest"], ABSENT]
    assert door("GET", "manifests/v1").status_code == 404


def test_a_layer_that_may_not_be_redistributed_is_not_asked_for(door):
    config = {**door.push_blob(b"{}"), "mediaType": OCI_CONFIG}
    layer = {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "digest": ABSENT, "size": 1}
    assert door.put("v1", {"config": config, "layers": [layer]}).status_code == 201


def test_a_schema_1_manifest_needs_its_layers_and_garbage_collection_knows_them(built):
    door = built()
    raw = dump(
        {"schemaVersion": 1, "name": "team/app", "tag": "v1", "fsLayers": [{"blobSum": sha256(b"old")}], "history": []}
    )
    assert code(door.put("v1", raw, SCHEMA1_PLAIN)) == "MANIFEST_BLOB_UNKNOWN"
    door.push_blob(b"old")
    assert door.put("v1", raw, SCHEMA1_PLAIN).status_code == 201
    assert door.sandbox.store.collect_garbage() == set()


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_index_may_be_sparse(door, media_type):
    child = {"mediaType": OCI_MANIFEST, "digest": ABSENT, "size": 7}
    assert door.put("v1", {"manifests": [child]}, media_type).status_code == 201


def test_a_push_by_digest_must_hash_to_it_and_makes_no_tag(door):
    raw = dump({"schemaVersion": 2, "manifests": []})
    assert code(door.put(ABSENT, raw, OCI_INDEX)) == "DIGEST_INVALID"
    assert code(door.put("sha256:short", raw, OCI_INDEX)) == "DIGEST_INVALID"
    assert code(door.put("blake3:" + "0" * 64, raw, OCI_INDEX)) == "DIGEST_INVALID"
    assert door.put(sha256(raw), raw, OCI_INDEX).status_code == 201
    assert door("GET", "tags/list").json()["tags"] is None


def test_sha512_names_manifests_and_blobs_as_well(door):
    raw = dump({"schemaVersion": 2, "manifests": []})
    digest = "sha512:" + hashlib.sha512(raw).hexdigest()
    assert door.put(digest, raw, OCI_INDEX).headers["Docker-Content-Digest"] == digest
    assert door("HEAD", f"manifests/{digest}").headers["Docker-Content-Digest"] == digest
    assert door("POST", f"blobs/uploads/?digest={digest}", data=raw, headers=OCTETS).status_code == 201
    assert door("GET", f"blobs/{digest}").content == raw


@pytest.mark.parametrize(
    ("raw", "media_type"),
    [
        (b"", OCI_MANIFEST),
        (b"[]", OCI_MANIFEST),
        (b"{not json", OCI_MANIFEST),
        (b'{"schemaVersion":2,"layers":[],"manifests":[]}', OCI_INDEX),
        (b'{"schemaVersion":2,"mediaType":"' + OCI_INDEX.encode() + b'","manifests":[]}', DOCKER_LIST),
        (b'{"schemaVersion":2}', "text/plain"),
    ],
)
def test_what_is_no_manifest_is_refused(door, raw, media_type):
    reply = door.put("v1", raw, media_type)
    assert (reply.status_code, code(reply)) == (400, "MANIFEST_INVALID")


def test_a_manifest_over_four_mebibytes_is_413_and_the_connection_goes_on(door):
    door.push_image("v1")
    filler = dump({"schemaVersion": 2, "manifests": []})
    assert door.put("big", filler + b" " * (MANIFEST_LIMIT - len(filler)), OCI_INDEX).status_code == 201
    assert door.put("bigger", filler + b" " * (5 * MANIFEST_LIMIT), OCI_INDEX).status_code == 413
    assert door("GET", "tags/list").json()["tags"] == ["big", "v1"]


def test_a_tag_outside_the_grammar_can_neither_be_pushed_nor_found(door):
    door.push_image("v1")
    raw = dump({"schemaVersion": 2, "manifests": []})
    assert code(door.put("-x", raw, OCI_INDEX)) == "TAG_INVALID"
    assert code(door("GET", "manifests/-x")) == "MANIFEST_UNKNOWN"


def test_a_tag_moves_and_the_manifest_that_it_left_stays(door):
    first, second = door.push_image("v1", seed=b"one"), door.push_image("v1", seed=b"two")
    assert door.sandbox.store.tags(door.repository) == {"v1": second["digest"]}
    assert door("HEAD", f"manifests/{first['digest']}").status_code == 200


def test_deleting_a_digest_takes_every_tag_on_it(door):
    image = door.push_image("v1", "v1.2", "latest", seed=b"one")
    door.push_image("other", seed=b"two")
    reply = door("DELETE", f"manifests/{image['digest']}")
    assert (reply.status_code, reply.content) == (202, b"")
    assert door("GET", "tags/list").json()["tags"] == ["other"]
    assert code(door("DELETE", f"manifests/{image['digest']}")) == "MANIFEST_UNKNOWN"


def test_deleting_a_tag_takes_that_tag_alone(door):
    image = door.push_image("v1", "latest")
    assert door("DELETE", "manifests/latest").status_code == 202
    assert door("GET", "tags/list").json()["tags"] == ["v1"]
    assert door("HEAD", f"manifests/{image['digest']}").status_code == 200
    assert door("DELETE", "manifests/latest").status_code == 404


def test_a_tag_whose_manifest_is_gone_is_listed_and_404(door):
    image = door.push_image("v1")
    door.sandbox.store.drop_manifest(door.repository, image["digest"])
    assert door("GET", "tags/list").json()["tags"] == ["v1"]
    assert code(door("GET", "manifests/v1")) == "MANIFEST_UNKNOWN"


def test_a_registry_without_deletion_answers_405_to_every_delete(built):
    door = built(deletion=False)
    image = door.push_image("v1")
    blob = door.push_blob(b"blob")
    for path in (f"manifests/{image['digest']}", "manifests/v1", f"blobs/{blob['digest']}"):
        reply = door("DELETE", path)
        assert (reply.status_code, code(reply)) == (405, "UNSUPPORTED")
    assert door("HEAD", "manifests/v1").status_code == 200


def test_a_registry_without_tag_deletion_answers_as_docker_registry_2_8_does(built):
    door = built(tag_deletion=False)
    image = door.push_image("v1")
    reply = door("DELETE", "manifests/v1")
    assert (reply.status_code, code(reply)) == (400, "DIGEST_INVALID")
    assert door("DELETE", f"manifests/{image['digest']}").status_code == 202


# Blobs


def test_a_blob_is_uploaded_by_post_then_put(door):
    data = b"some bytes"
    reply = door("PUT", f"{door.begin()}?digest={sha256(data)}", data=data, headers=OCTETS)
    assert (reply.status_code, reply.headers["Docker-Content-Digest"]) == (201, sha256(data))
    assert door("GET", reply.headers["Location"]).content == data


def test_a_blob_is_uploaded_by_a_single_post(door):
    data = b"in one go"
    reply = door("POST", f"blobs/uploads/?digest={sha256(data)}", data=data, headers=OCTETS)
    assert reply.status_code == 201
    assert door("GET", reply.headers["Location"]).content == data


def test_a_blob_is_uploaded_in_chunks_and_each_answer_says_how_far_it_came(door):
    location, data = door.begin(), b"0123456789"
    for first, last in ((0, 3), (4, 6)):
        headers = {**OCTETS, "Content-Range": f"{first}-{last}"}
        reply = door("PATCH", location, data=data[first : last + 1], headers=headers)
        assert (reply.status_code, reply.headers["Range"]) == (202, f"0-{last}")
        status = door("GET", reply.headers["Location"])
        assert (status.status_code, status.headers["Range"], status.content) == (204, f"0-{last}", b"")
    headers = {**OCTETS, "Content-Range": "7-9"}
    assert door("PUT", f"{location}?digest={sha256(data)}", data=data[7:], headers=headers).status_code == 201
    assert door("GET", f"blobs/{sha256(data)}").content == data


def test_a_chunk_out_of_order_is_416_and_the_upload_can_go_on(door):
    location = door.begin()
    door("PATCH", location, data=b"0123", headers={**OCTETS, "Content-Range": "0-3"})
    for first, last in ((0, 3), (6, 9)):
        reply = door("PATCH", location, data=b"abcd", headers={**OCTETS, "Content-Range": f"{first}-{last}"})
        assert (reply.status_code, code(reply)) == (416, "BLOB_UPLOAD_INVALID")
        assert (reply.headers["Range"], reply.headers["Location"]) == ("0-3", location)
    door("PATCH", location, data=b"4567", headers={**OCTETS, "Content-Range": "4-7"})
    assert door("PUT", f"{location}?digest={sha256(b'01234567')}").status_code == 201


@pytest.mark.parametrize(
    ("chunk", "expected"), [("x-y", "BLOB_UPLOAD_INVALID"), ("0-9", "SIZE_INVALID"), ("5-2", "SIZE_INVALID")]
)
def test_a_content_range_that_does_not_fit_is_refused(door, chunk, expected):
    reply = door("PATCH", door.begin(), data=b"abc", headers={**OCTETS, "Content-Range": chunk})
    assert (reply.status_code, code(reply)) == (400, expected)


@settings(max_examples=25, deadline=None)
@given(chunks=st.lists(st.binary(max_size=2000), max_size=6))
def test_a_blob_is_the_same_however_it_was_cut(sandbox, chunks):
    data = b"".join(chunks)
    with Door(sandbox, "test/chunks") as door:
        location = door.begin()
        for chunk in chunks:
            assert door("PATCH", location, data=iter([chunk]) if chunk else b"", headers=OCTETS).status_code == 202
        assert door("PUT", f"{location}?digest={sha256(data)}").status_code == 201
        assert door("GET", f"blobs/{sha256(data)}").content == data


def test_an_upload_that_does_not_hash_to_its_digest_is_refused_and_over(door):
    location = door.begin()
    reply = door("PUT", f"{location}?digest={ABSENT}", data=b"data", headers=OCTETS)
    assert (reply.status_code, code(reply)) == (400, "DIGEST_INVALID")
    assert code(door("GET", location)) == "BLOB_UPLOAD_UNKNOWN"
    assert door("HEAD", f"blobs/{ABSENT}").status_code == 404


def test_an_upload_is_not_finished_without_a_digest(door):
    location = door.begin()
    assert code(door("PUT", location)) == "DIGEST_INVALID"
    assert door("GET", location).status_code == 204


def test_a_cancelled_upload_is_gone(door):
    location = door.begin()
    assert door("DELETE", location).status_code == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        assert code(door(method, location)) == "BLOB_UPLOAD_UNKNOWN"


def test_an_upload_belongs_to_its_repository(door):
    session = door.begin().rpartition("/")[2]
    assert code(door("GET", f"/v2/test/another/blobs/uploads/{session}")) == "BLOB_UPLOAD_UNKNOWN"


def test_a_blob_is_mounted_from_another_repository_or_an_upload_begins(door):
    with Door(door.sandbox, "test/source") as source:
        digest = source.push_blob(b"to be mounted")["digest"]
    assert door("POST", f"blobs/uploads/?mount={digest}&from=test/nowhere").status_code == 202
    assert door("HEAD", f"blobs/{digest}").status_code == 404
    mounted = door("POST", f"blobs/uploads/?mount={digest}&from=test/source")
    assert (mounted.status_code, mounted.headers["Docker-Content-Digest"]) == (201, digest)
    assert door("GET", mounted.headers["Location"]).content == b"to be mounted"


def test_a_blob_is_mounted_from_wherever_it_is_if_no_source_is_named(door):
    with Door(door.sandbox, "test/source") as source:
        digest = source.push_blob(b"somewhere")["digest"]
    assert door("POST", f"blobs/uploads/?mount={digest}").status_code == 201
    assert door("POST", f"blobs/uploads/?mount={ABSENT}").status_code == 202


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("0-0", 0, 0), ("2-5", 2, 5), ("7-", 7, 9), ("5-99", 5, 9), ("-3", 7, 9), ("-99", 0, 9)],
)
def test_part_of_a_blob_is_206(door, asked, first, last):
    data = b"0123456789"
    digest = door.push_blob(data)["digest"]
    reply = door("GET", f"blobs/{digest}", headers={"Range": f"bytes={asked}"})
    assert (reply.status_code, reply.content) == (206, data[first : last + 1])
    assert reply.headers["Content-Range"] == f"bytes {first}-{last}/10"


@pytest.mark.parametrize("asked", ["10-", "10-12", "-0", "5-2"])
def test_a_range_that_no_byte_lies_in_is_416(door, asked):
    digest = door.push_blob(b"0123456789")["digest"]
    reply = door("GET", f"blobs/{digest}", headers={"Range": f"bytes={asked}"})
    assert (reply.status_code, reply.headers["Content-Range"]) == (416, "bytes */10")


@pytest.mark.parametrize("asked", ["bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4"])
def test_a_range_that_is_not_understood_is_ignored(door, asked):
    digest = door.push_blob(b"0123456789")["digest"]
    reply = door("GET", f"blobs/{digest}", headers={"Range": asked})
    assert (reply.status_code, reply.content) == (200, b"0123456789")


def test_head_of_a_blob_gives_its_length_and_digest(door):
    blob = door.push_blob(b"0123456789")
    reply = door("HEAD", f"blobs/{blob['digest']}")
    assert (reply.headers["Content-Length"], reply.headers["Docker-Content-Digest"]) == ("10", blob["digest"])
    assert reply.headers["Accept-Ranges"] == "bytes"


def test_a_blob_is_seen_only_where_it_was_pushed_and_deleted_only_there(door):
    digest = door.push_blob(b"shared by two")["digest"]
    with Door(door.sandbox, "test/second-owner") as second:
        second.push_blob(b"shared by two")
        assert code(second("GET", "/v2/test/no-owner/blobs/" + digest)) == "BLOB_UNKNOWN"
        assert door("DELETE", f"blobs/{digest}").status_code == 202
        assert door("DELETE", f"blobs/{digest}").status_code == 404
        assert second("GET", f"blobs/{digest}").content == b"shared by two"
        before = door.sandbox.store.stored_bytes()
        assert second("DELETE", f"blobs/{digest}").status_code == 202
    assert before - door.sandbox.store.stored_bytes() == len(b"shared by two")


@pytest.mark.parametrize("path", ["blobs/sha256:xyz", "blobs/nonsense", "referrers/sha256:xyz", "manifests/sha256:xyz"])
def test_a_digest_outside_the_grammar_is_digest_invalid_or_not_there(door, path):
    door.push_image("v1")
    reply = door("GET", path)
    assert code(reply) == ("MANIFEST_UNKNOWN" if path.startswith("manifests") else "DIGEST_INVALID")


# Referrers


def test_a_referrer_is_announced_and_listed_under_its_subject(door):
    subject = door.push_image("v1")
    notes = {"org.opencontainers.image.created": "2026-01-31T00:00:00Z"}
    digest, pushed = door.push_referrer(subject, annotations=notes)
    assert pushed.headers["OCI-Subject"] == subject["digest"]
    reply = door("GET", f"referrers/{subject['digest']}")
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, OCI_INDEX)
    (entry,) = reply.json()["manifests"]
    size = int(door("HEAD", f"manifests/{digest}").headers["Content-Length"])
    expected = {"mediaType": OCI_MANIFEST, "digest": digest, "size": size, "artifactType": SPDX, "annotations": notes}
    assert entry == expected


def test_a_referrer_without_an_artifact_type_takes_its_configs_type(door):
    subject = door.push_image("v1")
    door.push_referrer(subject, purpose=None)
    (entry,) = door("GET", f"referrers/{subject['digest']}").json()["manifests"]
    assert entry["artifactType"] == OCI_EMPTY


def test_referrers_are_filtered_by_artifact_type_and_the_answer_says_so(door):
    subject = door.push_image("v1")
    for purpose in (SPDX, "application/x"):
        door.push_referrer(subject, purpose)
    reply = door("GET", f"referrers/{subject['digest']}", params={"artifactType": SPDX})
    assert reply.headers["OCI-Filters-Applied"] == "artifactType"
    assert [entry["artifactType"] for entry in reply.json()["manifests"]] == [SPDX]
    assert "OCI-Filters-Applied" not in door("GET", f"referrers/{subject['digest']}").headers


def test_the_referrers_of_a_digest_that_is_not_there_are_an_empty_index_or_those_that_wait_for_it(door):
    reply = door("GET", f"referrers/{ABSENT}")
    assert (reply.status_code, reply.json()["manifests"]) == (200, [])
    subject = {"mediaType": OCI_MANIFEST, "digest": ABSENT, "size": 7}
    digest, pushed = door.push_referrer(subject)
    assert pushed.status_code == 201
    assert [entry["digest"] for entry in door("GET", f"referrers/{ABSENT}").json()["manifests"]] == [digest]


def test_a_deleted_referrer_is_no_longer_listed(door):
    subject = door.push_image("v1")
    digest, _ = door.push_referrer(subject)
    door("DELETE", f"manifests/{digest}")
    assert door("GET", f"referrers/{subject['digest']}").json()["manifests"] == []


def test_an_index_may_be_a_referrer(door):
    subject = door.push_image("v1")
    reply = door.put("bundle", {"manifests": [], "subject": subject, "artifactType": SPDX}, OCI_INDEX)
    assert reply.headers["OCI-Subject"] == subject["digest"]
    (entry,) = door("GET", f"referrers/{subject['digest']}").json()["manifests"]
    assert (entry["mediaType"], entry["artifactType"]) == (OCI_INDEX, SPDX)


def test_a_registry_without_referrers_is_a_plain_404_there_and_announces_no_subject(built):
    door = built(referrers=False)
    subject = door.push_image("v1")
    _, pushed = door.push_referrer(subject)
    assert (pushed.status_code, "OCI-Subject" in pushed.headers) == (201, False)
    reply = door("GET", f"referrers/{subject['digest']}")
    assert (reply.status_code, reply.text) == (404, "404 page not found\n")
    assert reply.headers["Content-Type"].startswith("text/plain")


# The store behind it


def test_garbage_is_the_blobs_that_no_manifest_of_any_repository_holds(built):
    door = built()
    kept, dropped = door.push_image("keep", seed=b"kept layer"), door.push_image("drop", seed=b"dropped layer")
    loose = door.push_blob(b"never used")["digest"]
    with Door(door.sandbox, "team/second") as second:
        second.push_image("v1", seed=b"dropped layer")
        assert door.sandbox.store.collect_garbage() == {loose}
        door("DELETE", f"manifests/{dropped['digest']}")
        assert door.sandbox.store.collect_garbage() == set()
        second("DELETE", f"manifests/{dropped['digest']}")
    before = door.sandbox.store.stored_bytes()
    gone = door.sandbox.store.collect_garbage()
    assert gone == {sha256(b"dropped layer"), sha256(dump({"seed": "dropped layer"}))}
    assert before - door.sandbox.store.stored_bytes() == len(b"dropped layer") + len(dump({"seed": "dropped layer"}))
    assert door("GET", f"blobs/{sha256(b'dropped layer')}").status_code == 404
    assert door("GET", f"manifests/{kept['digest']}").status_code == 200


def test_untagged_manifests_and_their_blobs_survive_garbage_collection(built):
    door = built()
    first = door.push_image("v1", seed=b"one")
    door.push_image("v1", seed=b"two")
    assert door.sandbox.store.collect_garbage() == set()
    assert door("GET", f"manifests/{first['digest']}").status_code == 200


def test_a_deleted_manifest_can_be_put_back_until_its_garbage_is_collected(built):
    door = built()
    image = door.push_image("v1")
    _, raw = door.sandbox.store.manifest("team/app", image["digest"])
    door("DELETE", f"manifests/{image['digest']}")
    assert door.put("v1", raw).headers["Docker-Content-Digest"] == image["digest"]
    door("DELETE", f"manifests/{image['digest']}")
    door.sandbox.store.collect_garbage()
    reply = door.put("v1", raw)
    assert (reply.status_code, reply.json()["errors"][0]["code"]) == (400, "MANIFEST_BLOB_UNKNOWN")


def test_a_test_may_put_what_no_registry_accepts(door):
    store = door.sandbox.store
    store.put_manifest(door.repository, "broken", OCI_MANIFEST, b"{not json")
    store.put_manifest(door.repository, ABSENT, OCI_MANIFEST, b"other bytes")
    assert door("GET", "manifests/broken").content == b"{not json"
    assert door("GET", f"manifests/{ABSENT}").content == b"other bytes"
    odd = b'{"schemaVersion":1,"signatures":[1],"subject":7,"config":[],"layers":[{"digest":1},2]}'
    assert store.put_manifest(door.repository, "odd", OCI_MANIFEST, odd) == sha256(odd)
    assert store.referrers(door.repository, "7") == []
    store.collect_garbage()


def test_a_dropped_repository_leaves_the_catalog(built):
    door = built()
    door.push_image("v1")
    door.sandbox.store.drop_repository("team/app")
    assert door("GET", "/v2/_catalog").json() == {"repositories": []}
    assert door.sandbox.store.blob("team/app", sha256(b"layer")) is None


def test_the_store_gives_the_ground_truth(built):
    door = built()
    image = door.push_image("v1", "latest")
    store = door.sandbox.store
    assert store.repositories() == ["team/app"]
    assert store.tags("team/app") == {"v1": image["digest"], "latest": image["digest"]}
    assert store.digests("team/app") == [image["digest"]]
    assert store.manifest("team/app", "v1") == store.manifest("team/app", image["digest"])
    assert store.manifest("team/app", "nope") is None
    assert store.manifest("team/nope", "v1") is None
    assert store.blobs("team/app") == {sha256(b"layer"), sha256(dump({"seed": "layer"}))}
    assert store.delete_manifest("team/app", image["digest"]) == ["v1", "latest"]


def test_a_reading_client_never_sees_a_tag_half_written(built):
    door = built()
    store = door.sandbox.store
    ended = threading.Event()

    def write():
        for number in range(2000):
            store.put_manifest("team/app", f"t{number}", OCI_INDEX, b'{"n":%d}' % number)
            if number % 3 == 0:
                store.delete_manifest("team/app", f"t{number}")
        ended.set()

    store.create("team/app")
    writer = threading.Thread(target=write)
    writer.start()
    while not ended.is_set():
        tags = door("GET", "tags/list").json()["tags"] or []
        assert tags == sorted(tags)
    writer.join()
    assert len(store.tags("team/app")) == 2000 - 667


# The server


def test_closing_is_prompt_and_leaves_no_thread_no_port_and_no_connection():
    before = threading.active_count()
    sandbox = Sandbox(sample=True)
    address = urlsplit(sandbox.url)
    idle = [socket.create_connection((address.hostname, address.port), timeout=10) for _ in range(20)]
    # One stands in the middle of an upload that will never end.
    idle[0].sendall(b"POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc")
    started = time.monotonic()
    sandbox.close()
    assert time.monotonic() - started < 1
    assert threading.active_count() == before
    for connection in idle:
        connection.close()
    with Sandbox(port=address.port) as again:
        assert again.host == sandbox.host
    sandbox.close()
    assert "closed" in repr(sandbox)


def test_closing_loses_no_connection_that_comes_in_meanwhile(monkeypatch):
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: lost.append(str(unraisable.exc_value)))
    for _ in range(15):
        sandbox, connections = Sandbox(), []
        address = urlsplit(sandbox.url)

        def knock(address=address, connections=connections):
            with contextlib.suppress(OSError):
                for _ in range(40):
                    connections.append(socket.create_connection((address.hostname, address.port), timeout=10))

        knocking = threading.Thread(target=knock)
        knocking.start()
        sandbox.close()
        knocking.join()
        for connection in connections:
            connection.close()
    del sandbox
    gc.collect()
    assert lost == []


def test_a_port_that_is_taken_is_an_error_and_nothing_stays_behind(sandbox):
    before = threading.active_count()
    with pytest.raises(UsageError, match=r"in use\): name another port"):
        Sandbox(port=urlsplit(sandbox.url).port)
    assert threading.active_count() == before


def test_a_server_that_cannot_start_says_why_and_leaves_nothing_behind(monkeypatch, sandbox):
    async def fail(*_, **__):
        raise RuntimeError("no server today")

    before = threading.active_count()
    with monkeypatch.context() as patched:
        patched.setattr(uvicorn.Server, "serve", fail)
        with pytest.raises(RuntimeError, match="no server today"):
            Sandbox()
    assert threading.active_count() == before


def test_it_starts_and_answers_inside_a_running_event_loop():
    async def cell():
        with Sandbox() as sandbox, Door(sandbox) as door:
            return (await asyncio.to_thread(door, "GET", "/v2/")).status_code

    assert asyncio.run(cell()) == 200


def test_two_sandboxes_know_nothing_of_each_other(built):
    first, second = built(), built()
    first.push_image("v1")
    assert first.sandbox.host != second.sandbox.host
    assert second("GET", "/v2/_catalog").json() == {"repositories": []}


@pytest.mark.parametrize("package", ["uvicorn", "httptools"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=re.escape('pip install "regaudit[sandbox]"')):
        Sandbox()


def test_what_is_not_http_is_no_concern_of_the_application():
    async def nothing(*_):
        pytest.fail("the application must neither receive nor send")

    asyncio.run(Application(Store())({"type": "lifespan"}, nothing, nothing))


def test_a_link_carries_names_that_need_quoting(door):
    for tag in ("a_1", "a_2"):
        door.sandbox.store.set_tag(door.repository, tag, ABSENT)
    url = door("GET", "tags/list?n=1").links["next"]["url"]
    assert parse_qs(urlsplit(url).query) == {"n": ["1"], "last": ["a_1"]}


def test_a_kept_connection_serves_thousands_of_requests_a_minute_without_delay(sandbox):
    """A listener without TCP_NODELAY would take 40 ms for each of these."""
    sandbox.store.put_manifest("test/speed", "latest", OCI_INDEX, b'{"manifests":[]}' + b" " * 900)
    connection = http.client.HTTPConnection(sandbox.host, timeout=10)
    started = time.monotonic()
    for _ in range(200):
        connection.request("GET", "/v2/test/speed/manifests/latest")
        connection.getresponse().read()
    connection.close()
    assert time.monotonic() - started < 4
