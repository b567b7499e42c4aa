"""The whole way on Debian's docker-registry: push, collect, plan, delete, undo, garbage collection."""

import hashlib
import json
import subprocess

import pandas as pd
import pytest
from conftest import need
from docker_registry import DockerRegistry, push_repository

from regaudit.analysis.tags import stale_tags
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.client.registry import Registry
from regaudit.errors import RegistryError
from regaudit.inventory.collect import collect
from regaudit.manifest import OCI_CONFIG, OCI_MANIFEST
from regaudit.reference import Digest

pytestmark = pytest.mark.real

API = "shop/checkout/api"


def read(server, *patterns):
    with Registry(server.host) as door:
        return collect(door, *patterns, progress=False)


def blobs_on_disk(server):
    """Return the bytes of every blob file by digest, manifests included: what garbage collection frees."""
    files = (server.storage / "docker/registry/v2/blobs").glob("*/*/*/data")
    return {f"{file.parts[-4]}:{file.parts[-2]}": file.stat().st_size for file in files}


def readable(server, snapshot):
    """Which tags and digests of a snapshot the registry gives out now, by their bytes' own hash."""
    with Registry(server.host) as door:
        found = set()
        for table, column in (("tags", "tag"), ("manifests", "digest")):
            rows = getattr(snapshot, table)[["repository", column, "digest"]].dropna().astype("object")
            for repository, reference, digest in set(map(tuple, rows.to_numpy().tolist())):
                try:
                    manifest = door.repository(repository).manifest(reference)
                except RegistryError:
                    continue
                if f"sha256:{hashlib.sha256(manifest.raw).hexdigest()}" == digest:
                    found.add((repository, reference))
        return found


def everything(snapshot):
    tags = snapshot.tags.dropna(subset=["digest"])[["repository", "tag"]].astype("object").to_numpy().tolist()
    manifests = snapshot.manifests[["repository", "digest"]].astype("object").to_numpy().tolist()
    return {tuple(row) for row in tags + manifests}


@pytest.fixture
def full(full_docker_registry):
    """Give a registry of the test's own with the sample."""
    return full_docker_registry


@pytest.fixture
def cleaner(full, tmp_path):
    with Registry(full.host) as door, Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
        yield cleaner


def comparable(frame, repositories, skipped):
    mine = frame[frame["repository"].isin(repositories)].drop(columns=["registry", *skipped])
    return mine.astype("object").where(mine.notna(), None).to_numpy().tolist()


@pytest.mark.usefixtures("each_bulk")
def test_the_tables_agree_with_the_sandboxs_tables_of_the_same_sample(sample_docker_registry, sample_sandbox):
    real, ours = read(sample_docker_registry), read(sample_sandbox)
    # Referrers differ by nature: here they are listed under fallback tags, which the client wrote.
    repositories = set(ours.repositories) - {API, "archive/prototype"}
    keep = ours.tags["digest"].notna()  # nobody can push a broken tag
    for name, skipped in (("tags", ["seen_at"]), ("manifests", []), ("blobs", []), ("children", [])):
        mine = ours.tags[keep] if name == "tags" else getattr(ours, name)
        assert comparable(getattr(real, name), repositories, skipped) == comparable(mine, repositories, skipped)
    assert real.complete
    assert set(real.tags[real.tags["repository"] == API]["tag"]) > set(ours.tags[ours.tags["repository"] == API]["tag"])
    found = {
        name: set(s.manifests[s.manifests["repository"] == API]["digest"]) for name, s in (("r", real), ("o", ours))
    }
    assert found["r"] >= found["o"]


def test_exactly_the_plan_goes_and_undo_brings_all_of_it_back(full, cleaner):
    snapshot = read(full)
    everything_before = readable(full, snapshot)
    assert everything_before == everything(snapshot)
    made = plan(snapshot, stale_tags(snapshot, older_than="180D", now=snapshot.tags["created"].max())).approve("Ada")
    assert {row.role for row in made.rows} >= {"candidate", "child"}
    run = cleaner.execute(made)
    assert run.ok, run.counts()
    assert run.counts() == {"deleted": made.digests}
    going = {(row.repository, name) for row in made.rows for name in (row.digest, *row.tags)}
    assert readable(full, snapshot) == everything_before - going
    assert cleaner.undo(run).counts() == {"restored": made.digests}
    assert readable(full, snapshot) == everything_before


def test_what_the_plan_promises_is_what_garbage_collection_frees_and_undo_then_says_so(full, cleaner):
    snapshot = read(full)
    made = plan(snapshot, stale_tags(snapshot, keep_latest=3), protect=["latest"]).approve("Ada")
    run = cleaner.execute(made)
    assert run.counts() == {"deleted": made.digests}
    before = blobs_on_disk(full)
    full.stop()
    full.garbage_collect()
    full.start()
    after = blobs_on_disk(full)
    assert not set(after) - set(before)
    assert made.reclaimable_bytes == sum(before.values()) - sum(after.values())
    assert made.reclaimable_bytes > 0
    undone = cleaner.undo(run)
    # Where others still hold the layers, the journal has the config that was collected, and the image comes back.
    back = {outcome.key for outcome in undone.outcomes if outcome.outcome == "restored"}
    assert undone.counts() == {"blobs_gone": made.digests - len(back), "restored": len(back)}
    layers = snapshot.blobs[snapshot.blobs["role"] == "layer"].astype("object")
    held = set(layers["repository"] + "@" + layers["manifest_digest"]) - set(
        (layers["repository"] + "@" + layers["manifest_digest"])[~layers["digest"].isin(set(after))]
    )
    assert back == {row.key for row in made.rows} & held
    still_gone = {(r.repository, n) for r in made.rows if r.key not in back for n in (r.digest, *r.tags)}
    assert readable(full, snapshot) == everything(snapshot) - still_gone


def test_deleting_everything_frees_every_byte_that_was_stored(full, cleaner):
    snapshot = read(full)
    names = snapshot.tags[["repository", "tag"]].astype("object")
    made = plan(snapshot, names, allow_empty=True).approve("Ada")
    assert made.refused == ()
    before = blobs_on_disk(full)
    held = set(snapshot.manifests["digest"].astype("object")) | set(snapshot.blobs["digest"].astype("object"))
    assert cleaner.execute(made).counts() == {"deleted": made.digests}
    full.garbage_collect()
    # A fallback list that a later one replaced lies there untagged, and no client can list it.
    assert blobs_on_disk(full).keys() == before.keys() - held
    assert made.reclaimable_bytes == sum(size for digest, size in before.items() if digest in held)


def test_where_deletion_is_disabled_one_delete_is_sent_and_everything_stays(docker_registry_program, sample, tmp_path):
    with DockerRegistry(tmp_path / "registry", deletion=False) as server, Registry(server.host) as door:
        push_repository(door, sample.repository("charts/checkout"))
        snapshot = collect(door, progress=False)
        made = plan(snapshot, ["charts/checkout:0.8.0", "charts/checkout:0.9.0"]).approve("Ada")
        with Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
            before = door.session.counts["delete"]
            run = cleaner.execute(made)
        assert run.counts() == {"disabled": 1}
        assert door.session.counts["delete"] - before == 1
        assert readable(server, snapshot) == everything(snapshot)


def test_a_tag_alone_cannot_be_deleted_here_and_nothing_is_lost(full, cleaner):
    snapshot = read(full, "platform/base/python")
    made = plan(snapshot, ["platform/base/python:latest"], untag=True).approve("Ada")
    assert cleaner.execute(made).counts() == {"refused_by_registry": 1}
    assert readable(full, snapshot) == everything(snapshot)


def test_a_registry_that_was_restarted_in_between_is_cleaned_all_the_same(full, cleaner):
    snapshot = read(full, "data/etl/nightly")
    tags = sorted(t for t in snapshot.tags["tag"] if t != "latest")[:6]
    made = plan(snapshot, [f"data/etl/nightly:{tag}" for tag in tags]).approve("Ada")
    restarted = []

    def restart(_):
        if not restarted:
            restarted.append(True)
            full.restart()

    run = cleaner.execute(made, progress=restart)
    assert run.counts() == {"deleted": made.digests}


# -- an independent client -------------------------------------------------------------------


def layout(folder):
    """Write an image as an OCI layout, as a build tool would, and return its digest."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def store(raw):
        digest = Digest.of(raw)
        (blobs / digest.encoded).write_bytes(raw)
        return digest

    layer = b"not really a tar"
    about = {
        "os": "linux",
        "architecture": "arm64",
        "created": "2026-02-03T04:05:06Z",
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    config = json.dumps({**about, "config": {"Labels": {"who": "skopeo"}}}).encode()
    entries = [
        {"mediaType": OCI_CONFIG, "digest": store(config), "size": len(config)},
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": store(layer), "size": len(layer)},
    ]
    raw = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}
    ).encode()
    digest = store(raw)
    names = {"org.opencontainers.image.ref.name": "1.0"}
    index = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": OCI_MANIFEST, "digest": digest, "size": len(raw), "annotations": names}],
    }
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return digest


def test_what_skopeo_pushed_is_collected_right(docker_registry, tmp_path):
    skopeo = need("skopeo", "an independent client that pushes")
    digest = layout(tmp_path / "layout")
    command = [skopeo, "--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false"]
    target = f"docker://{docker_registry.host}/team/app:1.0"
    subprocess.run([*command, f"oci:{tmp_path / 'layout'}:1.0", target], check=True, capture_output=True)
    snapshot = read(docker_registry)
    (row,) = snapshot.tags.astype("object").to_dict("records")
    assert (row["repository"], row["tag"], row["digest"], row["kind"]) == ("team/app", "1.0", digest, "image")
    assert row["created"] == pd.Timestamp("2026-02-03T04:05:06Z")
    (manifest,) = snapshot.manifests.astype("object").to_dict("records")
    assert (manifest["platform"], manifest["labels"]) == ("linux/arm64", '{"who": "skopeo"}')
    assert snapshot.complete
