"""Changing a registry: uploads, manifests put back byte for byte, deletions, and the list of referrers."""

from __future__ import annotations

import base64
import json

import pytest
from hostile import Cut, answer, error, reply, session, talk

from regaudit.client import upload, write
from regaudit.client.exchange import DELETE_DEADLINE
from regaudit.client.registry import Registry
from regaudit.client.transfer import Content
from regaudit.errors import (
    AccessDenied,
    BadManifest,
    BadResponse,
    BlobInUse,
    DigestMismatch,
    InvalidReference,
    NotFound,
    RedirectRefused,
    TruncatedResponse,
    UnexpectedStatus,
    Unsupported,
)
from regaudit.manifest import DOCKER_MANIFEST, OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Index
from regaudit.reference import Digest, attached_tag
from regaudit.sandbox.server import Sandbox

ABSENT = Digest("sha256:" + "0" * 64)
DATA = b"blob" * 1000
DIGEST = Digest.of(DATA)
SBOM = "application/spdx+json"


def dump(document):
    return json.dumps(document).encode()


def descriptor(media_type, data=b"{}"):
    return {"mediaType": media_type, "digest": Digest.of(data), "size": len(data)}


IMAGE = dump({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG), "layers": []})


def about(subject, artifact_type=SBOM, **annotations):
    fields = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type}
    fields |= {"config": descriptor(OCI_EMPTY), "layers": [], "subject": descriptor(OCI_MANIFEST, subject)}
    return dump(fields | ({"annotations": annotations} if annotations else {}))


@pytest.fixture(params=[True, False], ids=["with referrers", "without"])
def server(request):
    with Sandbox(referrers=request.param) as sandbox:
        yield sandbox


@pytest.fixture
def app(server):
    """Give an empty repository of a sandbox, with the blob that every manifest here needs."""
    with Registry(server.host) as registry:
        repository = registry.repository("team/app")
        repository.upload_blob(b"{}")
        yield repository


@pytest.fixture
def rogue(hostile):
    """Give the repository ``team/app`` of a hostile server."""
    with Registry(hostile.host, tries=1, deadline=5.0) as registry:
        yield registry.repository("team/app")


# -- blobs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_a_blob_is_uploaded_from_memory_or_from_a_file_and_comes_back(app, server, tmp_path, size):
    for number, where in enumerate(("memory", "file")):
        data = bytes([number]) * size + where.encode() * (size > 0)
        file = tmp_path / where
        file.write_bytes(data)
        digest = app.upload_blob(file if where == "file" else data)
        assert digest == Digest.of(data)
        assert server.store.blob("team/app", digest) == data
        assert app.blob_size(digest) == len(data)
        assert app.download_blob(digest, tmp_path / "back") == len(data)
        assert (tmp_path / "back").read_bytes() == data


def test_a_blob_that_is_there_is_not_uploaded_again(app, server):
    app.upload_blob(DATA)
    server.requests.clear()
    app.upload_blob(DATA)
    assert [method for method, _, _ in server.requests] == ["HEAD"]


def test_an_upload_keeps_the_query_of_its_session(hostile, rogue):
    hostile.on(
        "POST /v2/team/app/blobs/uploads/",
        reply(202, headers={"Location": "/v2/team/app/blobs/uploads/1?_state=a%2Bb%3D%3D"}),
        reply(202, headers={"Location": f"{hostile.url}/v2/team/app/blobs/uploads/2#part"}),
    )
    hostile.on("PUT /v2/team/app/blobs/uploads/1", reply(201))
    hostile.on("PUT /v2/team/app/blobs/uploads/2", reply(201))
    rogue.upload_blob(DATA)
    rogue.upload_blob(DATA)
    first, second = (seen for seen in hostile.requests if seen.method == "PUT")
    colon = DIGEST.replace(":", "%3A")
    assert first.target == f"/v2/team/app/blobs/uploads/1?_state=a%2Bb%3D%3D&digest={colon}"
    assert second.target == f"/v2/team/app/blobs/uploads/2?digest={colon}"
    assert (first.body, first.header("content-type")) == (DATA, "application/octet-stream")


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost:{port}/upload",
        "//evil.example/upload",
        "https://evil.example/upload",
        "file:///tmp/upload",
        "http://alice@127.0.0.1:{port}/upload",
        "http://[::1/upload",
        "",
    ],
)
def test_an_upload_goes_nowhere_but_to_the_registry(hostile, rogue, decoy, location):
    hostile.on("POST /v2/team/app/blobs/uploads/", reply(202, headers={"Location": location.format(port=decoy.port)}))
    with pytest.raises(RedirectRefused, match="wants the upload at"):
        rogue.upload_blob(DATA)
    assert decoy.heard == b""
    assert "PUT" not in {seen.method for seen in hostile.requests}


def test_an_upload_location_that_says_http_behind_tls_is_reached_by_tls():
    location = {"Location": "http://registry.example/v2/team/app/blobs/uploads/1"}
    conversation = upload.upload_blob(session(), "team/app", DIGEST, Content(DATA))
    _, driver = talk(conversation, answer(404), answer(202, headers=location), answer(201))
    assert driver.requests[2].url.startswith("https://registry.example/v2/team/app/blobs/uploads/1?digest=")
    assert driver.requests[2].deadline is None, "a large blob may take as long as it moves"


@pytest.mark.parametrize(
    ("opened", "kind"), [(error(401, "UNAUTHORIZED"), AccessDenied), (error(403, "DENIED"), AccessDenied)]
)
def test_an_upload_that_is_not_allowed_says_so_before_it_is_sent(hostile, rogue, opened, kind):
    hostile.on("POST /v2/team/app/blobs/uploads/", opened)
    with pytest.raises(kind, match=r"opening an upload to .*/team/app"):
        rogue.upload_blob(DATA)
    assert [seen.method for seen in hostile.requests] == ["HEAD", "POST"]


def test_an_upload_that_the_registry_does_not_take_is_an_error(hostile, rogue):
    hostile.on("POST /v2/team/app/blobs/uploads/", reply(202, headers={"Location": "/upload"}))
    hostile.on("PUT /upload", error(400, "DIGEST_INVALID"), reply(200), reply(202))
    for _ in range(3):
        with pytest.raises(UnexpectedStatus):
            rogue.upload_blob(DATA)


# -- manifests -------------------------------------------------------------------------------


def test_a_manifest_is_stored_byte_for_byte_under_its_tag_and_its_digest(app, server):
    odd = IMAGE.replace(b": ", b"\t:\n ")
    assert app.put_manifest("v1", odd, OCI_MANIFEST) == app.put_manifest(Digest.of(odd), odd, OCI_MANIFEST)
    stored = server.store.find_manifest("team/app", "v1")
    assert (stored[0], stored[1].raw, stored[1].media_type) == (Digest.of(odd), odd, OCI_MANIFEST)
    assert app.manifest("v1").raw == odd


def test_what_was_deleted_and_put_back_has_its_digest_and_its_tags(app):
    digest = app.put_manifest("v1", IMAGE, OCI_MANIFEST)
    app.put_manifest("latest", IMAGE, OCI_MANIFEST)
    assert app.delete_manifest(digest) == 202
    assert app.tags() == []
    with pytest.raises(NotFound):
        app.head(digest)
    for tag in ("v1", "latest"):
        assert app.put_manifest(tag, IMAGE, OCI_MANIFEST) == digest
    assert sorted(app.tags()) == ["latest", "v1"]
    assert app.manifest(digest).raw == IMAGE


def test_a_manifest_whose_blob_is_gone_is_refused_with_the_registrys_own_code(app):
    raw = IMAGE.replace(Digest.of(b"{}").encode(), ABSENT.encode())
    with pytest.raises(UnexpectedStatus, match=r"storing .*/team/app:v1") as caught:
        app.put_manifest("v1", raw, OCI_MANIFEST)
    assert (caught.value.status, caught.value.code) == (400, "MANIFEST_BLOB_UNKNOWN")


def test_bytes_that_are_not_of_their_digest_are_not_sent(hostile, rogue):
    with pytest.raises(DigestMismatch, match="nothing was sent"):
        rogue.put_manifest(ABSENT, IMAGE, OCI_MANIFEST)
    for reference in ("a b", "../x", "sha256:abc"):
        with pytest.raises(InvalidReference):
            rogue.put_manifest(reference, IMAGE, OCI_MANIFEST)
    assert hostile.requests == []


def test_a_registry_that_stored_something_else_is_caught(hostile, rogue):
    hostile.on("PUT /v2/team/app/manifests/v1", reply(201, headers={"Docker-Content-Digest": ABSENT}))
    with pytest.raises(DigestMismatch, match="the registry stored it as"):
        rogue.put_manifest("v1", IMAGE, OCI_MANIFEST)


def test_what_is_no_manifest_known_here_is_stored_all_the_same(hostile, rogue):
    """An undo puts back whatever was there."""
    hostile.on("PUT /v2/team/app/manifests/v1", reply(201))
    assert rogue.put_manifest("v1", b"odd", "application/x-odd") == Digest.of(b"odd")


def test_no_change_is_sent_twice_when_its_answer_is_lost(hostile):
    for what in ("PUT /v2/team/app/manifests/v1", "DELETE /v2/team/app/manifests/v1"):
        hostile.on(what, Cut(reply(202), 12), Cut(b"", 0, reset=True))
    with Registry(hostile.host) as registry:
        repository = registry.repository("team/app")
        for _ in range(2):
            with pytest.raises(TruncatedResponse):
                repository.put_manifest("v1", IMAGE, OCI_MANIFEST)
            with pytest.raises(TruncatedResponse):
                repository.delete_tag("v1")
    assert len(hostile.requests) == 4


# -- deletions -------------------------------------------------------------------------------


def test_a_digest_goes_with_every_tag_and_a_tag_goes_alone(app, server):
    other = IMAGE.replace(b'"layers": []', b'"layers": [], "annotations": {"a": "b"}')
    for tag in ("a", "b", "c"):
        app.put_manifest(tag, IMAGE, OCI_MANIFEST)
    app.put_manifest("d", other, OCI_MANIFEST)
    assert app.delete_tag("a") == 202
    assert sorted(app.tags()) == ["b", "c", "d"]
    assert app.head("b").digest == Digest.of(IMAGE), "the manifest of a deleted tag stays"
    assert app.delete_manifest(Digest.of(IMAGE)) == 202
    assert app.tags() == ["d"]


def test_deleting_what_is_not_there_is_not_found(app):
    for attempt in (lambda: app.delete_manifest(ABSENT), lambda: app.delete_tag("none")):
        with pytest.raises(NotFound):
            attempt()


def test_a_registry_that_does_not_delete_says_so():
    with Sandbox(deletion=False) as server, Registry(server.host) as registry:
        repository = registry.repository("team/app")
        repository.upload_blob(b"{}")
        digest = repository.put_manifest("v1", IMAGE, OCI_MANIFEST)
        with pytest.raises(Unsupported) as caught:
            repository.delete_manifest(digest)
        assert (caught.value.status, caught.value.code) == (405, "UNSUPPORTED")
        assert repository.tags() == ["v1"]


def test_a_registry_that_does_not_delete_tags_answers_400_and_keeps_everything():
    with Sandbox(tag_deletion=False) as server, Registry(server.host) as registry:
        repository = registry.repository("team/app")
        repository.upload_blob(b"{}")
        repository.put_manifest("v1", IMAGE, OCI_MANIFEST)
        with pytest.raises(Unsupported, match="does not delete a tag alone") as caught:
            repository.delete_tag("v1")
        assert caught.value.status == 400
        assert repository.tags() == ["v1"]


def test_a_digest_is_deleted_by_its_digest_and_never_by_anything_else(hostile, rogue):
    for text in ("v1", "sha256:abc", "latest", ""):
        with pytest.raises(InvalidReference):
            rogue.delete_manifest(text)
    assert hostile.requests == []


@pytest.mark.parametrize("status", [200, 202, 204, 400, 401, 403, 404, 405, 409, 423, 500, 502])
def test_a_deletion_returns_what_the_registry_answered_and_is_sent_once(status):
    """What a status means is decided by whoever reads the state afterwards."""
    response, driver = talk(write.delete_manifest(session(), "team/app", ABSENT), answer(status))
    assert response.status == status
    (request,) = driver.requests
    assert (request.method, request.deadline, request.body) == ("DELETE", DELETE_DEADLINE, None)
    assert request.url == f"https://registry.example/v2/team/app/manifests/{ABSENT}"


@pytest.mark.parametrize("status", [200, 202, 204])
def test_each_status_that_accepts_a_deletion_is_accepted(hostile, rogue, status):
    hostile.on(f"DELETE /v2/team/app/manifests/{ABSENT}", reply(status))
    assert rogue.delete_manifest(ABSENT) == status


# -- referrers -------------------------------------------------------------------------------


def test_a_referrer_that_is_pushed_is_listed_whether_or_not_the_registry_keeps_lists(app, server):
    subject = app.put_manifest("v1", IMAGE, OCI_MANIFEST)
    raws = [about(IMAGE, created="yesterday"), about(IMAGE, "application/x-signature")]
    for raw in (*raws, raws[0]):  # the first one twice: it is listed once
        app.put_manifest(Digest.of(raw), raw, OCI_MANIFEST)
    found = app.referrers(subject)
    assert sorted((entry.artifact_type, entry.digest, entry.size, entry.annotations) for entry in found) == [
        (SBOM, Digest.of(raws[0]), len(raws[0]), {"created": "yesterday"}),
        ("application/x-signature", Digest.of(raws[1]), len(raws[1]), {}),
    ]
    assert app.referrers(Digest.of(raws[0])) == ()


def test_only_where_the_registry_does_not_list_them_there_is_a_fallback_tag(app, server):
    app.put_manifest("v1", IMAGE, OCI_MANIFEST)
    raw = about(IMAGE)
    app.put_manifest("sbom", raw, OCI_MANIFEST)
    fallback = attached_tag(Digest.of(IMAGE))
    app.referrers(Digest.of(IMAGE))
    by_itself = app.registry.session.capabilities["referrers"]
    assert set(app.tags()) == {"v1", "sbom"} | (set() if by_itself else {fallback})
    if not by_itself:
        index = app.manifest(fallback)
        assert isinstance(index, Index)
        assert (index.media_type, [entry.digest for entry in index.manifests]) == (OCI_INDEX, [Digest.of(raw)])


def test_what_is_restored_touches_no_list(app, server):
    app.put_manifest("v1", IMAGE, OCI_MANIFEST)
    raw = about(IMAGE)
    ours = app.registry.session
    restored = app.registry.run(write.restore_manifest(ours, "team/app", Digest.of(raw), raw, OCI_MANIFEST))
    assert (restored, app.tags()) == (Digest.of(raw), ["v1"])


def test_a_fallback_tag_that_is_something_else_is_left_alone():
    with Sandbox(referrers=False) as server, Registry(server.host) as registry:
        repository = registry.repository("team/app")
        repository.upload_blob(b"{}")
        fallback = attached_tag(Digest.of(IMAGE))
        repository.put_manifest(fallback, IMAGE, OCI_MANIFEST)
        raw = about(IMAGE)
        with pytest.raises(BadResponse, match="is no index"):
            repository.put_manifest(Digest.of(raw), raw, OCI_MANIFEST)
        assert repository.manifest(fallback).raw == IMAGE


def test_a_fallback_list_that_cannot_be_read_is_not_overwritten(hostile, rogue):
    raw = about(IMAGE)
    fallback = f"/v2/team/app/manifests/{attached_tag(Digest.of(IMAGE))}"
    hostile.on(f"PUT /v2/team/app/manifests/{Digest.of(raw)}", reply(201))
    for said in (error(500, "X"), reply(200, b"{", headers={"Content-Type": OCI_INDEX})):
        hostile.on(f"GET {fallback}", said)
        with pytest.raises((UnexpectedStatus, BadManifest)):
            rogue.put_manifest(Digest.of(raw), raw, OCI_MANIFEST)
    assert not hostile.seen(f"PUT {fallback}")


def test_a_referrer_that_is_deleted_is_taken_off_its_subjects_fallback_list():
    with Sandbox(referrers=False) as server, Registry(server.host) as registry:
        repository = registry.repository("team/app")
        repository.upload_blob(b"{}")
        subject = repository.put_manifest("v1", IMAGE)
        gone, stays = about(IMAGE, note="1"), about(IMAGE, note="2")
        for raw in (gone, stays):
            repository.put_manifest(Digest.of(raw), raw)
        foreign = json.loads(server.store.manifest("team/app", attached_tag(subject))[1])
        foreign["manifests"][1]["com.example.field"] = "kept"
        repository.put_manifest(attached_tag(subject), dump(foreign), OCI_INDEX)
        repository.delete_manifest(Digest.of(gone))
        [left] = repository.manifest(attached_tag(subject)).to_dict()["manifests"]
        assert left["digest"] == Digest.of(stays)
        assert left["com.example.field"] == "kept", "what others wrote there is not ours to drop"
        repository.delete_manifest(Digest.of(stays))
        assert repository.referrers(subject) == ()


def test_where_the_registry_keeps_the_lists_a_deletion_touches_nothing_else():
    with Sandbox() as server, Registry(server.host) as registry:
        repository = registry.repository("team/app")
        repository.upload_blob(b"{}")
        subject, signature = repository.put_manifest("v1", IMAGE), about(IMAGE)
        repository.put_manifest(Digest.of(signature), signature)
        repository.delete_manifest(Digest.of(signature))
        assert repository.referrers(subject) == ()
        assert not [path for _, path, _ in server.requests if path.endswith(attached_tag(subject))]


@pytest.mark.parametrize("interface", [True, False])
def test_referrers_are_filtered_by_type_whoever_does_it(interface):
    with Sandbox(referrers=interface) as server, Registry(server.host) as registry:
        repository = registry.repository("team/app")
        repository.upload_blob(b"{}")
        subject = repository.put_manifest("v1", IMAGE)
        for kind in (SBOM, "application/vnd.example.other"):
            raw = about(IMAGE, kind)
            repository.put_manifest(Digest.of(raw), raw)
        assert len(repository.referrers(subject)) == 2
        assert [d.artifact_type for d in repository.referrers(subject, artifact_type=SBOM)] == [SBOM]
        assert repository.referrers(subject, artifact_type="application/none") == ()


def test_a_registry_that_does_not_filter_is_filtered_here(hostile, rogue):
    entries = [descriptor(OCI_MANIFEST, kind.encode()) | {"artifactType": kind} for kind in (SBOM, "application/other")]
    raw = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    hostile.on(f"GET /v2/team/app/referrers/{DIGEST}", reply(200, raw, headers={"Content-Type": OCI_INDEX}))
    assert [d.artifact_type for d in rogue.referrers(DIGEST, artifact_type=SBOM)] == [SBOM]
    assert hostile.requests[-1].target.endswith("?artifactType=application%2Fspdx%2Bjson")


# -- the blob that is still used -------------------------------------------------------------


def image_of(*layers):
    listed = [descriptor("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers]
    return dump(json.loads(IMAGE) | {"layers": listed})


@pytest.fixture
def used(app):
    """Give the repository with a layer that the child of an index uses, one of a signature, and one of nobody."""
    for data in (b"layer", b"signed", b"nobody"):
        app.upload_blob(data)
    child, signature = image_of(b"layer"), dump(json.loads(about(IMAGE)) | {"layers": [descriptor("x/y", b"signed")]})
    app.put_manifest(Digest.of(child), child)
    app.put_manifest("v1", IMAGE)
    app.put_manifest(Digest.of(signature), signature)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(OCI_MANIFEST, child)]}
    app.put_manifest("multi", dump(index))
    return app


@pytest.mark.parametrize(
    ("data", "holder"),
    [(b"{}", ":v1"), (b"layer", "@sha256:"), (b"signed", "@sha256:")],
    ids=["config", "child", "sig"],
)
def test_a_blob_that_a_manifest_uses_is_not_deleted(used, server, data, holder):
    with pytest.raises(BlobInUse, match="nothing was deleted") as caught:
        used.delete_blob(Digest.of(data))
    assert any(name.startswith(holder) for name in caught.value.holders)
    assert not [1 for method, _, _ in server.requests if method == "DELETE"]
    assert used.blob_size(Digest.of(data)) == len(data)


def test_a_blob_of_nobody_is_deleted(used):
    assert used.delete_blob(Digest.of(b"nobody")) == 202
    with pytest.raises(NotFound):
        used.head_blob(Digest.of(b"nobody"))


def test_a_blob_in_use_goes_where_that_is_forced(used):
    assert used.delete_blob(Digest.of(b"layer"), force=True) == 202


def test_what_cannot_be_read_may_use_the_blob(hostile, rogue):
    hostile.on("GET /v2/team/app/tags/list", reply(json={"name": "team/app", "tags": ["v1"]}))
    hostile.on("GET /v2/team/app/manifests/v1", error(500, "UNKNOWN"))
    with pytest.raises(UnexpectedStatus):
        rogue.delete_blob(DIGEST)
    assert "DELETE" not in {seen.method for seen in hostile.requests}


# -- of which kind ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_a_manifest_is_stored_as_the_kind_that_it_says_it_is(app, server, kind):
    raw = dump(json.loads(IMAGE) | {"mediaType": kind})
    app.put_manifest("v1", raw)
    assert server.store.manifest("team/app", "v1") == (kind, raw)


def test_an_index_that_says_nothing_is_known_by_its_fields(app, server):
    raw = dump({"schemaVersion": 2, "manifests": []})
    app.put_manifest("v1", raw)
    assert server.store.manifest("team/app", "v1") == (OCI_INDEX, raw)


def test_bytes_that_do_not_say_what_they_are_are_not_sent(hostile, rogue):
    with pytest.raises(BadManifest, match="not a kind of manifest"):
        rogue.put_manifest("v1", b"{}")
    assert not hostile.requests


def test_a_manifest_whose_blobs_are_missing_says_what_to_do_first(app):
    with pytest.raises(UnexpectedStatus, match="upload its config and layers first") as caught:
        app.put_manifest("v1", image_of(b"never uploaded"))
    assert caught.value.code == "MANIFEST_BLOB_UNKNOWN"


def signed_schema1():
    """Return a manifest of schema 1 and its digest, which is of the bytes before the signatures."""
    payload = json.dumps({"schemaVersion": 1, "name": "team/app", "tag": "v1", "fsLayers": []}, indent=3)
    tail = base64.urlsafe_b64encode(b"\n}").decode().rstrip("=")
    header = base64.urlsafe_b64encode(dump({"formatLength": len(payload) - 2, "formatTail": tail})).decode()
    signature = dump([{"header": {}, "signature": "x", "protected": header.rstrip("=")}]).decode()
    return f'{payload[:-2]},\n   "signatures": {signature}\n}}'.encode(), Digest.of(payload.encode())


def test_a_signed_manifest_of_schema_1_is_stored_under_its_own_digest(app, server, hostile, rogue):
    raw, digest = signed_schema1()
    assert app.put_manifest("v1", raw) == digest
    assert server.store.manifest("team/app", "v1")[1] == raw
    hostile.on(f"PUT /v2/team/app/manifests/{digest}", reply(201, headers={"Docker-Content-Digest": digest}))
    assert rogue.put_manifest(digest, raw) == digest


def test_a_registry_may_name_a_manifest_by_sha256_that_was_put_by_sha512(hostile, rogue):
    by_512 = Digest.of(IMAGE, "sha512")
    stored = reply(201, headers={"Docker-Content-Digest": Digest.of(IMAGE)})
    hostile.on(f"PUT /v2/team/app/manifests/{by_512}", stored)
    assert rogue.put_manifest(by_512, IMAGE) == by_512
