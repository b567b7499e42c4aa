"""Whole images to a folder and back: an OCI image layout that other tools read."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import need
from hostile import Cut, reply
from test_schema1 import BLOB, PAYLOAD, signature, signed

from regaudit.client.layout import Layout
from regaudit.client.registry import Registry
from regaudit.errors import BadManifest, DigestMismatch, InvalidReference, NotFound, TruncatedResponse, UsageError
from regaudit.manifest import DOCKER_LIST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, Index
from regaudit.reference import Digest
from regaudit.sandbox.server import Sandbox

LAYER = bytes(range(256)) * 100
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def dump(document):
    return json.dumps(document, separators=(",", ":")).encode()


def descriptor(media_type, data, **fields):
    return {"mediaType": media_type, "digest": Digest.of(data), "size": len(data), **fields}


def config(architecture):
    return dump({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []}})


def image(architecture, *layers):
    listed = [descriptor(GZIP, layer) for layer in layers]
    return dump(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, config(architecture)),
            "layers": listed,
        }
    )


AMD, ARM = image("amd64", LAYER), image("arm64", LAYER, b"arm")
NESTED = dump(
    {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            descriptor(OCI_MANIFEST, AMD, platform={"os": "linux", "architecture": "amd64"}),
            descriptor(OCI_MANIFEST, ARM, platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
            descriptor(OCI_MANIFEST, b"gone", platform={"os": "linux", "architecture": "s390x"}),
        ],
    }
)


def push(repository):
    for data in (LAYER, b"arm", config("amd64"), config("arm64")):
        repository.upload_blob(data)
    for raw in (AMD, ARM):
        repository.put_manifest(Digest.of(raw), raw)
    repository.put_manifest("v1", NESTED)


@pytest.fixture
def server():
    """Give an empty sandbox."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def app(server):
    """Give a repository with an index ``v1`` of two images and a third that is not there."""
    with Registry(server.host) as registry:
        repository = registry.repository("team/app")
        push(repository)
        yield repository


def test_an_image_goes_to_a_folder_and_comes_back_byte_for_byte(server, app, tmp_path):
    copied = app.download_image("v1", tmp_path / "layout")
    assert copied.digest == Digest.of(NESTED)
    again = app.registry.repository("team/copy")
    assert again.upload_image(tmp_path / "layout") == copied.digest
    assert again.tags() == ["v1"]
    for digest in (Digest.of(NESTED), Digest.of(AMD), Digest.of(ARM)):
        assert server.store.manifest("team/copy", digest) == server.store.manifest("team/app", digest)
    assert server.store.blobs("team/copy") == server.store.blobs("team/app")


def test_the_folder_is_what_the_specification_says(app, tmp_path):
    folder = tmp_path / "layout"
    app.download_image("v1", folder)
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((folder / "index.json").read_text())
    [entry] = index["manifests"]
    assert entry == {
        "mediaType": OCI_INDEX,
        "digest": Digest.of(NESTED),
        "size": len(NESTED),
        "annotations": {"org.opencontainers.image.ref.name": "v1"},
    }
    for file in (folder / "blobs" / "sha256").iterdir():
        assert Digest.of(file.read_bytes()).encoded == file.name


def test_only_one_platform_is_copied_where_that_is_asked(app, tmp_path):
    copied = app.download_image("v1", tmp_path / "one", platform="linux/arm64")
    assert copied.digest == Digest.of(ARM)
    assert len(list((tmp_path / "one" / "blobs" / "sha256").iterdir())) == 4
    with pytest.raises(UsageError, match="the index has linux/amd64, linux/arm64/v8, linux/s390x"):
        app.download_image("v1", tmp_path / "other", platform="plan9/mips")
    with pytest.raises(UsageError, match="is not an index"):
        app.download_image(Digest.of(AMD), tmp_path / "third", platform="linux/amd64")


def test_what_is_in_the_folder_already_is_not_read_again(server, app, tmp_path):
    app.download_image("v1", tmp_path / "layout")
    server.requests.clear()
    app.download_image("v1", tmp_path / "layout")
    assert not [path for _, path, _ in server.requests if "/blobs/" in path]
    assert len(Layout(tmp_path / "layout").images()) == 1


def test_several_images_share_a_folder_and_are_told_apart_by_name(app, tmp_path):
    app.put_manifest("v2", AMD)
    for tag in ("v1", "v2"):
        app.download_image(tag, tmp_path / "layout")
    copy = app.registry.repository("team/copy")
    with pytest.raises(UsageError, match="several images, name one of them: v1, v2"):
        copy.upload_image(tmp_path / "layout")
    with pytest.raises(UsageError, match="no such image; it has: v1, v2"):
        copy.upload_image(tmp_path / "layout", name="v3")
    assert copy.upload_image(tmp_path / "layout", "release", name="v2") == Digest.of(AMD)
    assert copy.tags() == ["release"]


def test_a_name_that_moves_is_taken_from_the_former_image(app, tmp_path):
    app.download_image("v1", tmp_path / "layout")
    app.put_manifest("v1", AMD)
    app.download_image("v1", tmp_path / "layout")
    assert Layout(tmp_path / "layout").find("v1").digest == Digest.of(AMD)


def test_progress_counts_every_byte_of_every_blob(app, tmp_path):
    seen = []
    app.download_image("v1", tmp_path / "layout", progress=lambda done, total: seen.append((done, total)))
    total = len(LAYER) + 3 + len(config("amd64")) + len(config("arm64"))
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    sent = []
    copy = app.registry.repository("team/copy")
    copy.upload_image(tmp_path / "layout", progress=lambda done, total: sent.append((done, total)))
    assert sent[-1] == (total, total)


def test_a_folder_with_something_else_in_it_is_left_alone(app, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    with pytest.raises(UsageError, match="no OCI layout: name an empty or a new folder"):
        app.download_image("v1", tmp_path / "precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="symbolic link"):
        app.download_image("v1", tmp_path / "link")
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["file"]


def test_an_image_whose_layer_is_gone_is_not_listed_in_the_folder(server, app, tmp_path):
    server.store.delete_blob("team/app", Digest.of(LAYER))
    with pytest.raises(NotFound):
        app.download_image("v1", tmp_path / "layout")
    assert Layout(tmp_path / "layout").images() == []
    assert not list((tmp_path / "layout").rglob("*.part"))


def test_a_blob_that_was_damaged_in_the_folder_is_not_uploaded(app, tmp_path):
    app.download_image("v1", tmp_path / "layout")
    path = Layout(tmp_path / "layout").path(Digest.of(AMD))
    path.write_bytes(path.read_bytes().replace(b"tar", b"rat"))
    copy = app.registry.repository("team/copy")
    with pytest.raises(BadManifest, match="does not hash to its name"):
        copy.upload_image(tmp_path / "layout")


def test_a_layer_that_is_missing_in_the_folder_is_named(app, tmp_path):
    app.download_image("v1", tmp_path / "layout")
    Layout(tmp_path / "layout").path(Digest.of(LAYER)).unlink()
    with pytest.raises(UsageError, match=f"lacks the blob {Digest.of(LAYER).short}"):
        app.registry.repository("team/copy").upload_image(tmp_path / "layout")


def test_layers_that_stay_with_their_vendor_are_never_fetched_and_may_be_missing(server, app, tmp_path):
    kept = descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"far")
    kept["urls"] = ["http://127.0.0.1:9/never"]
    raw = dump(json.loads(AMD) | {"layers": [kept, descriptor(GZIP, LAYER)]})
    app.put_manifest("windows", raw)
    app.download_image("windows", tmp_path / "layout")
    app.registry.repository("team/copy").upload_image(tmp_path / "layout")
    assert server.store.manifest("team/copy", "windows")[1] == raw


def test_a_download_that_was_ended_goes_on_from_what_is_in_the_folder(hostile, tmp_path):
    """In another process, too: what broke off stays beside its place."""
    whole = reply(200, LAYER)

    def serve(seen):
        start = int((seen.header("range") or "bytes=0-")[6:-1])
        if start == 0:
            return Cut(whole, len(whole) - len(LAYER) + 20_000)
        span = {"Content-Range": f"bytes {start}-{len(LAYER) - 1}/{len(LAYER)}"}
        return reply(206, LAYER[start:], headers=span)

    hostile.on("GET /v2/team/app/manifests/v1", reply(200, AMD, headers={"Content-Type": OCI_MANIFEST}))
    hostile.on(f"GET /v2/team/app/blobs/{Digest.of(config('amd64'))}", reply(200, config("amd64")))
    hostile.on(f"GET /v2/team/app/blobs/{Digest.of(LAYER)}", serve)
    with Registry(hostile.host, tries=1) as registry, pytest.raises(TruncatedResponse):
        registry.repository("team/app").download_image("v1", tmp_path / "layout")
    with Registry(hostile.host, tries=1) as registry:
        registry.repository("team/app").download_image("v1", tmp_path / "layout")
    assert Layout(tmp_path / "layout").path(Digest.of(LAYER)).read_bytes() == LAYER
    assert [s.header("range") for s in hostile.requests if s.path.endswith(Digest.of(LAYER))] == [
        None,
        "bytes=20000-",
    ]


def test_a_beginning_that_is_wrong_is_not_gone_on_with_twice(hostile, tmp_path):
    layout = Layout(tmp_path / "layout")
    partial = layout.path(Digest.of(LAYER))
    partial.parent.mkdir(parents=True)
    partial = partial.with_name(f"{partial.name}.part")
    partial.write_bytes(b"rubbish")
    span = {"Content-Range": f"bytes 7-{len(LAYER) - 1}/{len(LAYER)}"}
    hostile.on("GET /v2/team/app/manifests/v1", reply(200, AMD, headers={"Content-Type": OCI_MANIFEST}))
    hostile.on(f"GET /v2/team/app/blobs/{Digest.of(config('amd64'))}", reply(200, config("amd64")))
    hostile.on(f"GET /v2/team/app/blobs/{Digest.of(LAYER)}", reply(206, LAYER[7:], headers=span), reply(200, LAYER))
    with Registry(hostile.host) as registry:
        with pytest.raises(DigestMismatch):
            registry.repository("team/app").download_image("v1", tmp_path / "layout")
        assert not partial.exists()
        registry.repository("team/app").download_image("v1", tmp_path / "layout")


# -- folders that somebody else made, and several hands in one folder -------------------------


def layout_of(folder, *documents, entries=None):
    """Write an OCI layout that holds some documents, and lists the last."""
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    for raw in documents:
        (folder / "blobs" / "sha256" / Digest.of(raw).encoded).write_bytes(raw)
    listed = [descriptor(json.loads(documents[-1])["mediaType"], documents[-1])] if entries is None else entries
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": listed}))
    return folder


def index_of(*children):
    listed = [descriptor(json.loads(raw)["mediaType"], raw) for raw in children]
    return dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed})


def test_uploading_makes_no_folder_and_writes_in_none(app, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        with pytest.raises(UsageError, match="is no OCI layout"):
            app.upload_image(tmp_path / name)
    assert not (tmp_path / "absent").exists()
    assert not list((tmp_path / "empty").iterdir())


def test_a_file_outside_of_the_folder_is_not_uploaded(server, app, tmp_path):
    """Digests of other algorithms are any name, and a link makes any folder theirs."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "credentials").write_text("canary")
    raw = dump(json.loads(AMD) | {"layers": [{"mediaType": GZIP, "digest": "x:credentials", "size": 6}]})
    folder = layout_of(tmp_path / "layout", config("amd64"), raw)
    (folder / "blobs" / "x").symlink_to(tmp_path / "elsewhere")
    server.requests.clear()
    with pytest.raises(UsageError, match="lacks the blob x:credentials"):
        app.upload_image(folder)
    assert not [path for _, path, _ in server.requests if "credentials" in path]


@pytest.mark.parametrize("entries", [[5], [None], [{}], [{"digest": ["a"]}], [{"digest": 7}]])
def test_an_index_whose_entries_are_none_is_refused(app, tmp_path, entries):
    with pytest.raises(BadManifest, match="not the index of an OCI layout"):
        app.upload_image(layout_of(tmp_path / "layout", AMD, entries=entries))


def test_an_image_that_is_listed_and_not_there_is_named(app, tmp_path):
    folder = layout_of(tmp_path / "layout", AMD)
    Layout(folder).path(Digest.of(AMD)).unlink()
    with pytest.raises(UsageError, match=f"lacks the manifest {Digest.of(AMD).short}"):
        app.upload_image(folder)


def test_a_document_of_any_size_is_not_read_into_memory(app, tmp_path):
    folder = layout_of(tmp_path / "layout", AMD)
    for path in (Layout(folder).path(Digest.of(AMD)), folder / "index.json"):
        with path.open("r+b") as file:
            file.truncate(1 << 30)  # sparse
        with pytest.raises(BadManifest, match="is larger than"):
            app.upload_image(folder)


def test_children_go_up_before_every_index_that_lists_them(server, app, tmp_path):
    inner = index_of(AMD)
    outer = index_of(AMD, inner)
    folder = layout_of(tmp_path / "layout", LAYER, config("amd64"), AMD, inner, outer)
    server.requests.clear()
    app.registry.repository("team/copy").upload_image(folder)
    sent = [path.rpartition("/")[2] for method, path, _ in server.requests if method == "PUT" and "/manifests/" in path]
    assert sent == [Digest.of(raw) for raw in (AMD, inner, outer)]


def test_children_that_are_not_there_count_against_the_most_and_are_asked_for_once(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr("regaudit.client.layout._MOST_MANIFESTS", 6)
    gone = [image(str(number)) for number in range(4)]
    inner, many = index_of(*gone), index_of(*(image(str(number)) for number in range(9)))
    for tag, raw in (("v1", index_of(inner, *gone)), ("v2", many), (Digest.of(inner), inner)):
        hostile.on(f"GET /v2/team/app/manifests/{tag}", reply(200, raw, headers={"Content-Type": OCI_INDEX}))
    with Registry(hostile.host) as registry:
        repository = registry.repository("team/app")
        repository.download_image("v1", tmp_path / "layout")
        assert len(hostile.requests) == 6
        with pytest.raises(BadManifest, match="more than 6 manifests"):
            repository.download_image("v2", tmp_path / "layout")


@pytest.mark.parametrize("reference", ["no tag", "release/1", Digest.of(b"")])
def test_what_is_no_tag_is_refused_before_anything_is_sent(server, app, tmp_path, reference):
    app.download_image("v1", tmp_path / "layout")
    server.requests.clear()
    with pytest.raises(InvalidReference):
        app.registry.repository("team/copy").upload_image(tmp_path / "layout", reference)
    assert not server.requests


def test_a_blob_that_was_cut_in_the_folder_is_read_again(app, tmp_path):
    app.download_image("v1", tmp_path / "layout")
    path = Layout(tmp_path / "layout").path(Digest.of(LAYER))
    path.write_bytes(LAYER[:100])
    app.download_image("v1", tmp_path / "layout")
    assert path.read_bytes() == LAYER


@pytest.mark.parametrize("left", [LAYER, LAYER + b"more"])
def test_what_is_left_of_a_blob_may_be_all_of_it_or_too_much(hostile, tmp_path, left):
    """And a storage service that says 416 without a Content-Range must not stand in the way for ever."""
    layout = Layout(tmp_path / "layout")
    path = layout.path(Digest.of(LAYER))
    path.parent.mkdir(parents=True)
    path.with_name(f"{path.name}.part").write_bytes(left)
    hostile.on("GET /v2/team/app/manifests/v1", reply(200, AMD, headers={"Content-Type": OCI_MANIFEST}))
    hostile.on(f"GET /v2/team/app/blobs/{Digest.of(config('amd64'))}", reply(200, config("amd64")))
    hostile.on(
        f"GET /v2/team/app/blobs/{Digest.of(LAYER)}",
        lambda seen: reply(416) if seen.header("range") else reply(200, LAYER),
    )
    with Registry(hostile.host) as registry:
        registry.repository("team/app").download_image("v1", tmp_path / "layout")
    assert path.read_bytes() == LAYER


def test_two_downloads_of_one_blob_into_a_folder_do_not_mix(tmp_path):
    layout = Layout(tmp_path / "layout")
    blob = Descriptor(GZIP, Digest.of(LAYER), len(LAYER))
    with layout.receiving(blob) as first:
        first.write(LAYER[:9000])
        with layout.receiving(blob) as second:
            second.write(LAYER[:9000][second.position :])
            first.write(LAYER[9000:15_000])
            second.write(LAYER[9000:])
        first.write(LAYER[15_000:])
    assert layout.path(blob.digest).read_bytes() == LAYER
    assert len(list(layout.path(blob.digest).parent.iterdir())) == 1


def test_many_that_list_an_image_at_once_lose_none(tmp_path):
    layout = Layout(tmp_path / "layout")
    images = [Descriptor(OCI_MANIFEST, Digest.of(bytes([number])), 1) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda image: layout.add(image, image.digest.encoded[:8]), images))
    assert {entry["digest"] for entry in layout.images()} == {image.digest for image in images}


def test_a_blob_that_cannot_be_verified_leaves_nothing_behind(app, tmp_path):
    layout = Layout(tmp_path / "layout")
    with pytest.raises(InvalidReference), layout.receiving(Descriptor(GZIP, Digest("blake3:abc"), 3)):
        pass
    assert not list((tmp_path / "layout").rglob("*.part"))


def test_a_signed_image_of_schema_1_is_copied_under_its_own_digest(app, tmp_path):
    payload = PAYLOAD.replace(BLOB.encode(), Digest.of(LAYER).encode())
    raw, digest = signed(signature(payload=payload), payload=payload), Digest.of(payload)
    app.put_manifest("old", raw)
    assert app.download_image("old", tmp_path / "layout").digest == digest
    copy = app.registry.repository("team/copy")
    assert copy.upload_image(tmp_path / "layout") == digest
    assert copy.manifest("old").raw == copy.manifest(digest).raw == raw


@pytest.mark.real
class TestOnARealRegistry:
    def test_an_image_of_skopeo_goes_through_a_folder_of_ours(self, sample_docker_registry, unique_name, tmp_path):
        """And skopeo reads the folder, and pushes from it."""
        skopeo = need("skopeo", "an independent client that reads the folder")
        with Registry(sample_docker_registry.host) as registry:
            mine = registry.repository(unique_name("app"))
            for data in (LAYER, b"arm", config("amd64"), config("arm64")):
                mine.upload_blob(data)
            for raw in (AMD, ARM):
                mine.put_manifest(Digest.of(raw), raw)
            whole = json.loads(NESTED)
            index = dump(whole | {"manifests": whole["manifests"][:2]})
            mine.put_manifest("v1", index)
            mine.download_image("v1", tmp_path / "layout")
            theirs = registry.repository(unique_name("skopeo"))
            target = f"docker://{sample_docker_registry.host}/{theirs.name}:v1"
            source = f"oci:{tmp_path / 'layout'}:v1"
            command = [
                skopeo,
                "--insecure-policy",
                "copy",
                "--quiet",
                "--all",
                "--preserve-digests",
                "--dest-tls-verify=false",
                source,
                target,
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            assert theirs.manifest("v1").raw == index
            theirs.download_image("v1", tmp_path / "back")
            ours = registry.repository(unique_name("ours"))
            assert ours.upload_image(tmp_path / "back") == Digest.of(index)
            assert isinstance(ours.manifest("v1"), Index)
            assert ours.manifest("v1").media_type != DOCKER_LIST
