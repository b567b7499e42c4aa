"""The same against registries of other people: Debian's docker-registry 2.8.2, filled by us and by skopeo."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import shutil
import subprocess
import tarfile

import pytest
from conftest import need
from docker_registry import PASSWORD, USERNAME, DockerRegistry

from regaudit.client.registry import Registry
from regaudit.errors import (
    AccessDenied,
    AuthenticationFailed,
    NotFound,
    UnexpectedStatus,
    Unreachable,
    Unsupported,
)
from regaudit.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
)
from regaudit.reference import Digest, attached_tag

pytestmark = pytest.mark.real

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def dump(document):
    return json.dumps(document, separators=(",", ":")).encode()


def descriptor(media_type, data, **fields):
    return {"mediaType": media_type, "digest": Digest.of(data), "size": len(data), **fields}


def tiny_image(text="hello"):
    """Return layer, config and manifest of an image of one file."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("greeting")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    layer = gzip.compress(archive.getvalue(), mtime=0)
    config = dump(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Labels": {"text": text}},
            "rootfs": {"type": "layers", "diff_ids": [Digest.of(archive.getvalue())]},
        }
    )
    manifest = dump(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, config),
            "layers": [descriptor(LAYER, layer)],
        }
    )
    return layer, config, manifest


def push_tiny(repository, *tags, text="hello"):
    layer, config, manifest = tiny_image(text)
    for data in (layer, config):
        repository.upload_blob(data)
    for tag in tags:
        repository.put_manifest(tag, manifest, OCI_MANIFEST)
    return Digest.of(manifest)


@pytest.fixture
def filled(sample_docker_registry):
    """Give a `Registry` on the shared real registry: change nothing but what has a name of your own."""
    with Registry(sample_docker_registry.host) as registry:
        yield registry


@pytest.fixture
def mine(filled, unique_name):
    """Give a repository of one's own in it."""
    return filled.repository(unique_name("app"))


# -- reading ---------------------------------------------------------------------------------


def test_the_sample_is_read_as_it_was_pushed(filled, sample):
    assert filled.ping().status == 200
    assert {part.name for part in sample.repositories if not part.emptied} <= set(filled.catalog())
    for part in [part for part in sample.repositories if not part.emptied]:
        repository = filled.repository(part.name)
        fallback = {tag for tag in repository.tags() if tag.startswith("sha256-")}
        assert set(repository.tags()) - fallback == part.tags.keys() - fallback
        for made in part.manifests:
            read = repository.manifest(made.digest)
            assert (read.raw, read.digest, read.media_type) == (made.raw, made.digest, made.media_type)
        for tag, digest in part.tags.items():
            assert repository.head(tag).digest == digest


def test_every_blob_arrives_whole(filled, sample, tmp_path):
    part = sample.repository("shop/checkout/worker")
    repository = filled.repository(part.name)
    for digest, data in part.blobs.items():
        assert repository.blob_size(digest) == len(data)
        assert repository.download_blob(digest, tmp_path / "blob") == len(data)
        assert (tmp_path / "blob").read_bytes() == data


def naive(registry, method, path, accept):
    """Ask as a client would that does not know the traps."""
    connection = http.client.HTTPConnection(registry.host, timeout=10)
    try:
        connection.request(method, path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def tag_of_kind(sample, media_type):
    for part in sample.repositories:
        kinds = {made.digest: made.media_type for made in part.manifests}
        for tag, digest in part.tags.items():
            if kinds[digest] == media_type:
                return part.name, tag, digest
    raise AssertionError(f"the sample has no tag of {media_type}")


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, DOCKER_LIST])
def test_who_accepts_anything_is_told_a_digest_that_does_not_exist_and_we_are_not(filled, sample, media_type):
    """R1: the trap is there, and the client does not step into it."""
    name, tag, digest = tag_of_kind(sample, media_type)
    status, headers, body = naive(filled, "GET", f"/v2/{name}/manifests/{tag}", "*/*")
    assert (status, json.loads(body)["schemaVersion"]) == (200, 1)
    converted = headers["Docker-Content-Digest"]
    assert converted != digest
    assert naive(filled, "HEAD", f"/v2/{name}/manifests/{converted}", "*/*")[0] == 404
    repository = filled.repository(name)
    assert repository.head(tag).digest == repository.manifest(tag).digest == digest


def test_who_accepts_no_index_is_told_of_a_child_and_we_are_not(filled, sample):
    """R2: deleting that digest would break the index."""
    name, tag, digest = tag_of_kind(sample, DOCKER_LIST)
    _, headers, _ = naive(filled, "HEAD", f"/v2/{name}/manifests/{tag}", DOCKER_MANIFEST)
    index = filled.repository(name).manifest(tag)
    assert isinstance(index, Index)
    assert headers["Docker-Content-Digest"] in {child.digest for child in index.manifests}
    assert filled.repository(name).head(tag).digest == digest


def test_an_emptied_repository_has_no_tags_and_stays_in_the_catalog(filled, mine):
    """R3: it answers ``"tags": null``."""
    digest = push_tiny(mine, "v1")
    assert mine.tags() == ["v1"]
    mine.delete_manifest(digest)
    assert mine.tags() == []
    assert mine.name in filled.catalog()


def test_a_missing_repository_is_not_found(filled):
    for question in (lambda r: r.tags(), lambda r: r.head("v1"), lambda r: r.manifest("v1")):
        with pytest.raises(NotFound):
            question(filled.repository("no/such"))


def test_a_tag_whose_manifest_was_lost_is_listed_and_not_found(sample_docker_registry, mine):
    """R10: and it cannot be deleted through the interface."""
    digest = push_tiny(mine, "v1")
    repositories = sample_docker_registry.storage / "docker/registry/v2/repositories"
    shutil.rmtree(repositories / mine.name / "_manifests/revisions/sha256" / digest.encoded)
    assert mine.tags() == ["v1"]
    for question in (mine.head, mine.manifest):
        with pytest.raises(NotFound) as caught:
            question("v1")
    assert caught.value.code == "MANIFEST_UNKNOWN"
    with pytest.raises(Unsupported):
        mine.delete_tag("v1")


def test_referrers_are_kept_under_fallback_tags_and_the_interface_is_asked_for_once(filled, mine):
    """R16: it answers a 404 of plain text."""
    subject = push_tiny(mine, "v1")
    mine.upload_blob(b"{}")
    sbom = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_EMPTY, b"{}"), "layers": []}
    raw = dump(sbom | {"subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}})
    mine.put_manifest(Digest.of(raw), raw, OCI_MANIFEST)
    before = filled.session.counts["referrers"]
    for _ in range(3):
        assert [entry.digest for entry in mine.referrers(subject)] == [Digest.of(raw)]
    assert filled.session.counts["referrers"] - before == 1
    assert set(mine.tags()) == {"v1", attached_tag(subject)}


# -- writing ---------------------------------------------------------------------------------


def test_deleting_a_digest_takes_every_tag_and_putting_it_back_restores_them(mine):
    digest = push_tiny(mine, "v1", "v2", "latest")
    saved = mine.manifest(digest)
    assert mine.delete_manifest(digest) == 202
    assert mine.tags() == []
    with pytest.raises(NotFound):
        mine.head(digest)
    for tag in ("v1", "v2", "latest"):
        assert mine.put_manifest(tag, saved.raw, saved.media_type) == digest
    assert sorted(mine.tags()) == ["latest", "v1", "v2"]
    assert mine.manifest("v1").raw == saved.raw


def test_after_garbage_collection_a_manifest_cannot_be_put_back(docker_registry):
    with Registry(docker_registry.host) as registry:
        repository = registry.repository("team/app")
        digest = push_tiny(repository, "v1")
        saved = repository.manifest(digest)
        repository.delete_manifest(digest)
        assert "blob eligible for deletion" in docker_registry.garbage_collect()
        with pytest.raises(UnexpectedStatus) as caught:
            repository.put_manifest("v1", saved.raw, saved.media_type)
        assert (caught.value.status, caught.value.code) == (400, "MANIFEST_BLOB_UNKNOWN")


def test_a_tag_alone_cannot_be_deleted(mine):
    push_tiny(mine, "v1")
    with pytest.raises(Unsupported) as caught:
        mine.delete_tag("v1")
    assert caught.value.status == 400
    assert mine.tags() == ["v1"]


def test_deleting_twice_is_not_found(mine):
    digest = push_tiny(mine, "v1")
    mine.delete_manifest(digest)
    with pytest.raises(NotFound) as caught:
        mine.delete_manifest(digest)
    assert caught.value.status == 404


def test_where_deletion_is_off_it_says_so(docker_registry_program, tmp_path):
    with DockerRegistry(tmp_path / "server", deletion=False) as server, Registry(server.host) as registry:
        repository = registry.repository("team/app")
        digest = push_tiny(repository, "v1")
        with pytest.raises(Unsupported) as caught:
            repository.delete_manifest(digest)
        assert (caught.value.status, caught.value.code) == (405, "UNSUPPORTED")
        assert repository.head("v1").digest == digest


# -- logging in ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(docker_registry_program, tmp_path_factory):
    with DockerRegistry(tmp_path_factory.mktemp("guarded"), login=True) as server:
        yield server


def test_the_right_password_reads_and_writes(guarded):
    with Registry(guarded.host, username=USERNAME, password=PASSWORD) as registry:
        assert registry.ping().status == 200
        digest = push_tiny(registry.repository("team/app"), "v1")
        assert registry.repository("team/app").manifest("v1").digest == digest
        assert registry.catalog() == ["team/app"]


def test_a_wrong_password_fails_at_ping_and_is_never_a_missing_repository(guarded):
    with Registry(guarded.host, username=USERNAME, password="wrong") as registry:
        for question in (registry.ping, registry.catalog, registry.repository("no/such").tags):
            with pytest.raises(AuthenticationFailed):
                question()


def test_nobody_is_told_to_log_in(guarded):
    with Registry(guarded.host) as registry:
        assert registry.ping().status == 401
        with pytest.raises(AccessDenied, match="docker login"):
            registry.repository("team/app").tags()


def test_credentials_come_from_where_docker_keeps_them(guarded, tmp_path):
    docker = tmp_path / "home" / ".docker"
    docker.mkdir()
    login = {"auth": "YWxpY2U6c2VjcmV0"}  # alice:secret
    (docker / "config.json").write_text(json.dumps({"auths": {guarded.host: login, "127.0.0.1": {"auth": "eDp5"}}}))
    with Registry(guarded.host) as registry:
        assert registry.ping().status == 200


# -- other programs --------------------------------------------------------------------------


def skopeo(*arguments):
    program = need("skopeo", "an independent client")
    done = subprocess.run(
        [program, "--insecure-policy", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_skopeo_pushed_is_read_right(filled, mine, tmp_path):
    layer, config, manifest = tiny_image("from skopeo")
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for data in (layer, config, manifest):
        (blobs / Digest.of(data).encoded).write_bytes(data)
    name = {"org.opencontainers.image.ref.name": "v1"}
    index = {"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST, manifest, annotations=name)]}
    (tmp_path / "layout" / "index.json").write_bytes(dump(index))
    (tmp_path / "layout" / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')

    target = f"docker://{filled.host}/{mine.name}:v1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path / 'layout'}:v1", target)

    read = mine.manifest("v1")
    assert isinstance(read, Manifest)
    assert (read.raw, read.digest) == (manifest, Digest.of(manifest))
    assert mine.config(read).labels == {"text": "from skopeo"}
    assert mine.download_blob(read.layers[0].digest, tmp_path / "layer") == len(layer)
    assert (tmp_path / "layer").read_bytes() == layer


def test_what_we_pushed_is_read_right_by_skopeo(filled, mine, sample):
    digest = push_tiny(mine, "v1", text="from us")
    manifest = mine.manifest(digest)
    index = dump(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [descriptor(OCI_MANIFEST, manifest.raw, platform={"os": "linux", "architecture": "amd64"})],
        }
    )
    mine.put_manifest("multi", index, OCI_INDEX)
    for tag, raw in (("v1", manifest.raw), ("multi", index)):
        read = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{filled.host}/{mine.name}:{tag}")
        assert read.encode() == raw
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{filled.host}/{mine.name}:v1"))
    assert inspected["Digest"] == digest
    assert inspected["Labels"] == {"text": "from us"}


# -- restarts --------------------------------------------------------------------------------


def test_a_registry_that_was_killed_and_started_again_is_read_on(docker_registry):
    with Registry(docker_registry.host) as registry:
        repository = registry.repository("team/app")
        digest = push_tiny(repository, "v1")
        docker_registry.restart()
        assert repository.tags() == ["v1"]
        docker_registry.stop(kill=True)
        with pytest.raises(Unreachable):
            repository.head("v1")
        docker_registry.start()
        assert repository.head("v1").digest == digest
