"""The sandbox keeps the whole OCI distribution specification 1.1, walked through endpoint by endpoint.

What `test_sandbox.py` already says of single endpoints is not repeated: here every way to push meets every kind of
content, under sha256 and sha512.
"""

import base64
import hashlib
import http.client
import json
import secrets

import pytest
from door import ABSENT, OCTETS, SPDX, Door, code, dump, sha256

from regaudit.manifest import DOCKER_MANIFEST, OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from regaudit.sandbox.server import Sandbox

ALGORITHMS = ("sha256", "sha512")


def digest_of(data, algorithm="sha256"):
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as served:
        yield served


@pytest.fixture
def door(sandbox):
    with Door(sandbox, f"walk/{secrets.token_hex(6)}") as opened:
        yield opened


def ranged(first, last):
    return {**OCTETS, "Content-Range": f"{first}-{last}"}


# Every way to push a blob. Each returns the last reply.


def by_post(door, data, digest):
    return door("POST", "blobs/uploads/", params={"digest": digest}, data=data, headers=OCTETS)


def by_post_and_put(door, data, digest):
    return door("PUT", door.begin(), params={"digest": digest}, data=data, headers=OCTETS)


def by_announced_algorithm(door, data, digest):
    begun = door("POST", "blobs/uploads/", params={"digest-algorithm": digest.partition(":")[0]})
    return door("PUT", begun.headers["Location"], params={"digest": digest}, data=data, headers=OCTETS)


def by_stream(door, data, digest):
    reply = door("PATCH", door.begin(), data=iter([data[:100], data[100:]]) if data else b"", headers=OCTETS)
    assert reply.status_code == 202
    return door("PUT", reply.headers["Location"], params={"digest": digest})


def in_chunks(door, data, digest, *, put_last=False, disorder=False):
    location, first, size = door.begin(), 0, max(len(data) // 3 + 1, 1)
    while first < len(data):
        last = min(first + size, len(data)) - 1
        if disorder:
            wrong = 0 if first else len(data) - 1
            for method in ("PATCH", "PUT"):
                reply = door(
                    method,
                    location,
                    params={"digest": digest},
                    data=data[wrong : wrong + 1],
                    headers=ranged(wrong, wrong),
                )
                assert (reply.status_code, reply.headers["Location"]) == (416, location)
                assert reply.headers["Range"] == f"0-{max(first - 1, 0)}"
            status = door("GET", location)
            assert (status.status_code, status.headers["Range"]) == (204, f"0-{max(first - 1, 0)}")
            assert "Content-Length" not in status.headers
        if put_last and last == len(data) - 1:
            return door(
                "PUT", location, params={"digest": digest}, data=data[first : last + 1], headers=ranged(first, last)
            )
        reply = door("PATCH", location, data=data[first : last + 1], headers=ranged(first, last))
        assert (reply.status_code, reply.headers["Range"]) == (202, f"0-{last}")
        location, first = reply.headers["Location"], last + 1
    return door("PUT", location, params={"digest": digest})


def in_chunks_the_last_by_put(door, data, digest):
    return in_chunks(door, data, digest, put_last=True)


def in_chunks_after_some_out_of_order(door, data, digest):
    return in_chunks(door, data, digest, disorder=True)


def in_chunks_after_some_out_of_order_the_last_by_put(door, data, digest):
    return in_chunks(door, data, digest, put_last=True, disorder=True)


def by_mount(door, data, digest):
    with Door(door.sandbox, "walk/source") as source:
        assert by_post(source, data, digest).status_code in {201, 400}
    return door("POST", "blobs/uploads/", params={"mount": digest, "from": "walk/source"})


def by_anonymous_mount(door, data, digest):
    with Door(door.sandbox, "walk/source") as source:
        assert by_post(source, data, digest).status_code in {201, 400}
    return door("POST", "blobs/uploads/", params={"mount": digest})


UPLOADS = [
    by_post,
    by_post_and_put,
    by_announced_algorithm,
    by_stream,
    in_chunks,
    in_chunks_the_last_by_put,
    in_chunks_after_some_out_of_order,
    in_chunks_after_some_out_of_order_the_last_by_put,
]
MOUNTS = [by_mount, by_anonymous_mount]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("push", [*UPLOADS, *MOUNTS])
@pytest.mark.parametrize("size", [0, 2, 3067])
def test_a_blob_comes_back_however_it_was_pushed_and_goes_at_once_when_it_is_deleted(door, push, algorithm, size):
    data = secrets.token_bytes(size)
    digest = digest_of(data, algorithm)
    path = f"/v2/{door.repository}/blobs/{digest}"
    pushed = push(door, data, digest)
    assert (pushed.status_code, pushed.headers["Docker-Content-Digest"]) == (201, digest)
    assert (pushed.headers["Location"], pushed.headers["Content-Length"]) == (path, "0")
    got, head = door("GET", path), door("HEAD", path)
    assert (got.status_code, head.status_code, got.content, head.content) == (200, 200, data, b"")
    for reply in (got, head):
        assert reply.headers["Content-Length"] == str(size)
        assert reply.headers["Docker-Content-Digest"] == digest
    assert door("DELETE", path).status_code == 202
    assert [door(method, path).status_code for method in ("HEAD", "GET", "DELETE")] == [404, 404, 404]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("push", UPLOADS)
def test_content_that_is_not_what_its_digest_says_is_never_there(door, push, algorithm):
    data = secrets.token_bytes(3067)
    digest = digest_of(data, algorithm)
    reply = push(door, data + b"oh no", digest)
    assert (reply.status_code, code(reply)) == (400, "DIGEST_INVALID")
    assert door("HEAD", f"blobs/{digest}").status_code == 404


@pytest.mark.parametrize("asked", ["sha256:short", "nonsense", "sha256:" + "G" * 64, ""])
def test_a_mount_of_what_is_no_digest_or_not_there_begins_an_upload(door, asked):
    for query in ({"mount": asked}, {"mount": asked, "from": "walk/nowhere"}, {"mount": ABSENT, "from": "UPPER"}):
        reply = door("POST", "blobs/uploads/", params=query)
        assert reply.status_code == 202
        assert door("GET", reply.headers["Location"]).status_code == 204


@pytest.mark.parametrize("form", ["0-3", "bytes 0-3/4", "bytes=0-3", "bytes 0-3/*"])
def test_the_forms_of_content_range_that_clients_send_are_understood(door, form):
    headers = {**OCTETS, "Content-Range": form}
    assert door("PATCH", door.begin(), data=b"0123", headers=headers).headers["Range"] == "0-3"


def test_a_chunk_without_content_range_goes_to_the_end(door):
    location = door.begin()
    for number in range(3):
        reply = door("PATCH", location, data=b"0123", headers=OCTETS)
        assert (reply.status_code, reply.headers["Range"]) == (202, f"0-{number * 4 + 3}")


# Every kind of content that a manifest can have


def blob(door, data, media_type, *, algorithm="sha256", inline=False):
    digest = digest_of(data, algorithm)
    assert by_post(door, data, digest).status_code == 201
    described = {"mediaType": media_type, "digest": digest, "size": len(data)}
    return {**described, "data": base64.b64encode(data).decode()} if inline else described


def image(door, algorithm="sha256", *, inline=False, **fields):
    layer = "application/vnd.oci.image.layer.v1.tar+gzip"
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": blob(
            door, dump({"os": "linux", "seed": secrets.token_hex()}), OCI_CONFIG, algorithm=algorithm, inline=inline
        ),
        "layers": [blob(door, secrets.token_bytes(99), layer, algorithm=algorithm, inline=inline) for _ in range(2)],
    }
    return {**document, **fields}


def artifact(door, algorithm="sha256", **fields):
    empty = blob(door, b"{}", OCI_EMPTY, algorithm=algorithm)
    layer = blob(door, secrets.token_bytes(9), SPDX, algorithm=algorithm)
    return image(door, algorithm, config=empty, layers=[layer], artifactType=SPDX, **fields)


def index(door, algorithm="sha256", children=(), **fields):
    manifests = [describe(door, child, algorithm) for child in children]
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, **fields}


def describe(door, document, algorithm="sha256"):
    raw = dump(document)
    digest = digest_of(raw, algorithm)
    assert door.put(digest, raw, document["mediaType"]).status_code == 201
    return {"mediaType": document["mediaType"], "digest": digest, "size": len(raw)}


def without_distribution(door, algorithm):
    layer = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    document = image(door, algorithm)
    document["layers"].append({"mediaType": layer, "digest": ABSENT, "size": 5, "urls": ["https://x.example/layer"]})
    return document


def strange(door, algorithm):
    return {**image(door, algorithm), "org.example": {"a": [1, {"b": None}]}, "annotations": {"a": "ä\n"}}


def nested(door, algorithm):
    return index(door, algorithm, [index(door, algorithm, [image(door, algorithm)]), index(door, algorithm)])


def sparse_index(door, algorithm):
    child = {"mediaType": OCI_MANIFEST, "digest": ABSENT, "size": 7, "platform": {"os": "linux", "architecture": "arm"}}
    return index(door, algorithm, manifests=[child])


KINDS = {
    "image": image,
    "image with data in its descriptors": lambda door, algorithm: image(door, algorithm, inline=True),
    "image without layers": lambda door, algorithm: image(door, algorithm, layers=[]),
    "image with layers that may not be distributed": without_distribution,
    "image with fields that nobody knows": strange,
    "image of nearly four mebibytes": lambda door, algorithm: image(
        door, algorithm, annotations={f"a{number}": "A" * 10_000 for number in range(390)}
    ),
    "image of docker": lambda door, algorithm: image(door, algorithm, mediaType=DOCKER_MANIFEST),
    "artifact": artifact,
    "artifact with an empty layer": lambda door, algorithm: (
        artifact(door, algorithm) | {"layers": [blob(door, b"{}", OCI_EMPTY, algorithm=algorithm)]}
    ),
    "index": lambda door, algorithm: index(door, algorithm, [image(door, algorithm), image(door, algorithm)]),
    "index of indexes": nested,
    "index of nothing": index,
    "index of what is not there": sparse_index,
    "index of artifacts": lambda door, algorithm: index(
        door, algorithm, [artifact(door, algorithm)], artifactType=SPDX
    ),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_comes_back_by_digest_and_by_tag_and_goes_at_once(door, kind, algorithm):
    document = KINDS[kind](door, algorithm)
    raw, media_type = dump(document), document["mediaType"]
    digest = digest_of(raw, algorithm)
    pushed = door.put(digest, raw, media_type, params=[("tag", "one"), ("tag", "two")])
    assert (pushed.status_code, pushed.headers["Docker-Content-Digest"]) == (201, digest)
    assert pushed.headers["Location"] == f"/v2/{door.repository}/manifests/{digest}"
    assert pushed.headers["OCI-Tag"] == "one, two"
    assert door("GET", "tags/list").json()["tags"] == ["one", "two"]
    for reference in (digest, "one", "two"):
        for method in ("GET", "HEAD"):
            reply = door(method, f"manifests/{reference}", headers={"Accept": media_type})
            assert (reply.status_code, reply.headers["Content-Type"]) == (200, media_type)
            assert reply.headers["Content-Length"] == str(len(raw))
            assert reply.headers["Docker-Content-Digest"] == digest
            assert reply.content == (raw if method == "GET" else b"")
    assert door("DELETE", "manifests/one").status_code == 202
    assert [door("HEAD", f"manifests/{reference}").status_code for reference in ("one", "two")] == [404, 200]
    assert door("GET", "tags/list").json()["tags"] == ["two"]
    assert door("DELETE", f"manifests/{digest}").status_code == 202
    gone = [(method, reference) for reference in (digest, "two") for method in ("HEAD", "GET", "DELETE")]
    assert [door(method, f"manifests/{reference}").status_code for method, reference in gone] == [404] * 6
    assert door("GET", "tags/list").json()["tags"] is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_manifest_that_does_not_hash_to_its_digest_is_refused_with_all_its_tags(door, algorithm):
    raw = dump(image(door))
    reply = door.put(digest_of(raw, algorithm), raw + b"  ", params={"tag": "v1"})
    assert (reply.status_code, code(reply)) == (400, "DIGEST_INVALID")
    assert code(door.put(f"{algorithm}:baddigeststring", raw)) == "DIGEST_INVALID"
    assert door("GET", "tags/list").json()["tags"] is None


def test_of_several_tags_one_that_is_none_refuses_the_whole_push(door):
    raw = dump(image(door))
    reply = door.put(sha256(raw), raw, params=[("tag", "good"), ("tag", "-bad")])
    assert (reply.status_code, code(reply)) == (400, "TAG_INVALID")
    assert door("HEAD", f"manifests/{sha256(raw)}").status_code == 404
    assert door("GET", "tags/list").json()["tags"] is None


def test_the_tag_parameter_is_for_pushes_by_digest_alone(door):
    reply = door.put("v1", dump(image(door)), params={"tag": "v2"})
    assert (reply.status_code, "OCI-Tag" in reply.headers) == (201, False)
    assert door("GET", "tags/list").json()["tags"] == ["v1"]


@pytest.mark.parametrize("suffix", ["; charset=utf-8", ";charset=utf-8", " ; a=b"])
def test_parameters_of_the_content_type_are_no_part_of_it(door, suffix):
    raw = dump(image(door))
    headers = {"Content-Type": OCI_MANIFEST + suffix}
    assert door("PUT", "manifests/v1", data=raw, headers=headers).status_code == 201
    assert door("HEAD", "manifests/v1").headers["Content-Type"] == OCI_MANIFEST


def test_without_a_content_type_the_documents_own_one_counts(door):
    raw = dump(index(door))
    assert door("PUT", "manifests/v1", data=raw).status_code == 201
    assert door("HEAD", "manifests/v1").headers["Content-Type"] == OCI_INDEX


@pytest.mark.parametrize("media_type", ["application/vnd.example+json", "text/plain", OCI_INDEX])
def test_a_media_type_that_is_unknown_or_not_the_documents_own_is_manifest_invalid(door, media_type):
    reply = door("PUT", "manifests/v1", data=dump(image(door)), headers={"Content-Type": media_type})
    assert (reply.status_code, code(reply)) == (400, "MANIFEST_INVALID")


def test_an_image_whose_blobs_are_not_there_is_refused_unless_the_registry_takes_sparse_ones(built):
    layer = {"mediaType": SPDX, "digest": ABSENT, "size": 5}
    strict, lenient = built(), built(sparse=True)
    assert code(strict.put("v1", image(strict, layers=[layer]))) == "MANIFEST_BLOB_UNKNOWN"
    document = image(lenient, layers=[layer])
    assert lenient.put("v1", document).status_code == 201
    assert lenient("GET", "manifests/v1").json() == document
    assert lenient("GET", f"blobs/{ABSENT}").status_code == 404


# Referrers


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", ["image", "artifact", "index of artifacts", "index of nothing"])
@pytest.mark.parametrize("there", [True, False])
def test_whatever_names_a_subject_is_listed_under_it_until_it_is_deleted(door, kind, algorithm, there):
    missing = {"mediaType": OCI_MANIFEST, "digest": digest_of(b"missing", algorithm), "size": 7}
    subject = describe(door, image(door, algorithm), algorithm) if there else missing
    document = KINDS[kind](door, algorithm) | {"subject": subject, "annotations": {"a": "b"}}
    raw = dump(document)
    digest = digest_of(raw, algorithm)
    for reference in (digest, "tagged") if algorithm == "sha256" else (digest,):
        assert door.put(reference, raw, document["mediaType"]).headers["OCI-Subject"] == subject["digest"]
    reply = door("GET", f"referrers/{subject['digest']}")
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, OCI_INDEX)
    assert (reply.json()["schemaVersion"], reply.json()["mediaType"]) == (2, OCI_INDEX)
    expected = {"mediaType": document["mediaType"], "digest": digest, "size": len(raw), "annotations": {"a": "b"}}
    artifact_type = document.get("artifactType") or document.get("config", {}).get("mediaType")
    (entry,) = reply.json()["manifests"]
    assert entry == expected | ({"artifactType": artifact_type} if artifact_type else {})
    asked = {"artifactType": artifact_type or ""}
    filtered = door("GET", f"referrers/{subject['digest']}", params=asked)
    assert (filtered.headers["OCI-Filters-Applied"], filtered.json()["manifests"]) == ("artifactType", [entry])
    other = door("GET", f"referrers/{subject['digest']}", params={"artifactType": "x/y"})
    assert (other.headers["OCI-Filters-Applied"], other.json()["manifests"]) == ("artifactType", [])
    assert door("DELETE", f"manifests/{digest}").status_code == 202
    assert door("GET", f"referrers/{subject['digest']}").json()["manifests"] == []


def test_referrers_outlive_their_subject_and_wait_for_it(door):
    subject = describe(door, image(door))
    pushed = describe(door, artifact(door, subject=subject))
    door("DELETE", f"manifests/{subject['digest']}")
    (entry,) = door("GET", f"referrers/{subject['digest']}").json()["manifests"]
    assert entry["digest"] == pushed["digest"]


def test_the_referrers_of_a_repository_that_never_was_are_an_empty_index(door):
    reply = door("GET", f"referrers/{ABSENT}")
    assert reply.json() == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def test_referrers_are_paged_by_link_and_the_filter_goes_along(built):
    door = built(page=2)
    subject = describe(door, image(door))
    pushed = {describe(door, artifact(door, subject=subject))["digest"] for _ in range(5)}
    describe(door, image(door, subject=subject))
    for query, expected in (({}, 6), ({"artifactType": SPDX}, 5)):
        path, found, sizes = f"/v2/team/app/referrers/{subject['digest']}", [], []
        reply = door("GET", path, params=query)
        while True:
            assert ("OCI-Filters-Applied" in reply.headers) == bool(query)
            found += [entry["digest"] for entry in reply.json()["manifests"]]
            sizes.append(len(reply.json()["manifests"]))
            if "next" not in reply.links:
                break
            reply = door("GET", reply.links["next"]["url"])
        assert (sizes, len(set(found))) == ([2, 2, expected - 4], expected)
        assert pushed <= set(found)


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("GET", "tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "manifests/v1", 404, "NAME_UNKNOWN"),
        ("HEAD", "manifests/v1", 404, ""),
        ("DELETE", "manifests/v1", 404, "NAME_UNKNOWN"),
        ("GET", f"manifests/{ABSENT}", 404, "NAME_UNKNOWN"),
        ("GET", f"blobs/{ABSENT}", 404, "BLOB_UNKNOWN"),
        ("HEAD", f"blobs/{ABSENT}", 404, ""),
        ("DELETE", f"blobs/{ABSENT}", 404, "BLOB_UNKNOWN"),
        ("GET", "blobs/uploads/gone", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", "blobs/uploads/gone", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PUT", f"blobs/uploads/gone?digest={ABSENT}", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("DELETE", "blobs/uploads/gone", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("POST", f"blobs/uploads/?digest={ABSENT}", 400, "DIGEST_INVALID"),
        ("POST", "blobs/uploads/?digest=md5:0123", 400, "DIGEST_INVALID"),
        ("PUT", "manifests/v1", 400, "MANIFEST_INVALID"),
        ("PUT", "manifests/.v1", 400, "TAG_INVALID"),
        ("GET", "/v2/UPPER/case/tags/list", 400, "NAME_INVALID"),
        ("POST", "/v2/a//b/blobs/uploads/", 400, "NAME_INVALID"),
        ("GET", "/v2/_catalog?n=x", 400, "PAGINATION_NUMBER_INVALID"),
    ],
)
def test_what_is_not_there_or_not_well_said_has_the_specifications_error(door, method, path, status, expected):
    reply = door(method, path)
    assert reply.status_code == status
    assert method == "HEAD" or code(reply) == expected
    assert reply.headers["Docker-Distribution-API-Version"] == "registry/2.0"


def test_head_says_the_length_that_get_has_everywhere(door):
    document = image(door)
    described = describe(door, document)
    door.sandbox.store.set_tag(door.repository, "v1", described["digest"])
    paths = ["/v2/", "/v2/_catalog", "tags/list", "manifests/v1", "manifests/gone", f"blobs/{ABSENT}"]
    paths += [f"blobs/{document['config']['digest']}", f"referrers/{described['digest']}", "/v2/nothing"]
    for path in paths:
        got, head = door("GET", path), door("HEAD", path)
        assert head.content == b""
        for name in ("Content-Length", "Content-Type"):
            assert head.headers[name] == got.headers[name]
        assert (head.status_code, int(head.headers["Content-Length"])) == (got.status_code, len(got.content))


def test_a_cancelled_upload_leaves_nothing(door):
    location = door.begin()
    door("PATCH", location, data=b"0123", headers=OCTETS)
    before = door.sandbox.store.stored_bytes()
    assert door("DELETE", location).status_code == 204
    assert code(door("GET", location)) == "BLOB_UPLOAD_UNKNOWN"
    assert door.sandbox.store.stored_bytes() == before


def test_expect_100_continue_is_answered_before_the_body(door):
    connection = http.client.HTTPConnection(door.sandbox.host, timeout=10)
    connection.putrequest("PUT", f"{door.begin()}?digest={sha256(b'0123')}")
    for name, value in {**OCTETS, "Content-Length": "4", "Expect": "100-continue"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.sock.recv(64).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    connection.send(b"0123")
    assert connection.getresponse().status == 201
    connection.close()


def test_tags_are_in_lexical_order_from_any_point_on(door):
    tags = sorted(["latest", "v1", "v10", "v2", "V2", "_", "0", "a.b", "a-b", "a_b"])
    for tag in reversed(tags):
        assert door.put(tag, dump(index(door)), OCI_INDEX).status_code == 201
    for last in [*tags, "", "a", "~", "zzz"]:
        following = [tag for tag in tags if tag > last]
        assert door("GET", "tags/list", params={"last": last}).json()["tags"] == following
        for count in (0, 1, 3, 99):
            reply = door("GET", "tags/list", params={"last": last, "n": count})
            assert reply.json()["tags"] == following[:count]
            assert ("next" in reply.links) == (0 < count < len(following))


def test_every_body_in_json_is_json_and_says_so(door):
    for path in ("/v2/", "/v2/_catalog", "tags/list", "manifests/v1", f"referrers/{ABSENT}"):
        reply = door("GET", path)
        assert "json" in reply.headers["Content-Type"]
        assert isinstance(json.loads(reply.content), dict)
