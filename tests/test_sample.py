"""The sample is believable: real layers, real configs, and every case that an audit must survive."""

import gzip
import hashlib
import io
import json
import tarfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import requests

from regaudit.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    IMAGE_CONFIG_TYPES,
    INDEX_TYPES,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    believable,
    parse_image_config,
    parse_manifest,
)
from regaudit.reference import Digest, attached_tag, is_repository, is_tag, split_attached_tag
from regaudit.sandbox.sample import sample_images
from regaudit.sandbox.server import Sandbox
from regaudit.sandbox.store import Store

NOW = datetime(2026, 11, 23, tzinfo=UTC)
API, WORKER, NIGHTLY, BILLING = "shop/checkout/api", "shop/checkout/worker", "data/etl/nightly", "legacy/billing"


@pytest.fixture(scope="module")
def sample():
    return sample_images(NOW)


@pytest.fixture(scope="module")
def documents(sample):
    """Every manifest, parsed, by repository and digest."""
    return {
        repository.name: {m.digest: parse_manifest(m.raw, m.media_type) for m in repository.manifests}
        for repository in sample.repositories
    }


def images(sample, documents):
    """Yield (repository, manifest, its config as JSON) of every image that has a config to read."""
    for repository in sample.repositories:
        for document in documents[repository.name].values():
            if isinstance(document, Manifest) and document.config.media_type in IMAGE_CONFIG_TYPES:
                yield repository, document, json.loads(repository.blobs[document.config.digest])


def runnable(sample, documents):
    for repository, document, config in images(sample, documents):
        if config["os"] == "linux":
            yield repository, document, config


def test_names_are_valid_and_there_are_as_many_as_a_company_has(sample):
    assert len(sample.repositories) == 10
    assert all(is_repository(r.name) and "/" in r.name for r in sample.repositories)
    assert all(is_tag(tag) for r in sample.repositories for tag in r.tags | r.broken)
    assert 120 <= sum(len(r.tags) + len(r.broken) for r in sample.repositories) <= 200


def test_the_same_time_gives_the_same_bytes_and_another_time_other_dates(sample):
    assert sample_images(NOW) == sample
    later = sample_images(NOW + timedelta(days=1))
    assert later.repository(API).tags["latest"] != sample.repository(API).tags["latest"]
    shift = {tag for tag in later.repository(NIGHTLY).tags if tag.startswith("20")}
    assert "2026-11-23" in shift
    assert "2026-11-23" not in sample.repository(NIGHTLY).tags


def test_it_is_small_and_quickly_made():
    started = time.process_time()
    made = sample_images(NOW)
    assert time.process_time() - started < 2
    blobs = {digest: len(data) for r in made.repositories for digest, data in r.blobs.items()}
    assert 5_000_000 < sum(blobs.values()) < 40_000_000


def test_every_digest_and_size_is_true(sample, documents):
    for repository in sample.repositories:
        assert all(Digest(digest).matches(data) for digest, data in repository.blobs.items())
        for manifest in repository.manifests:
            assert Digest(manifest.digest).matches(manifest.raw)
            document = documents[repository.name][manifest.digest]
            for blob in document.blobs if isinstance(document, Manifest) else ():
                assert len(repository.blobs[blob.digest]) == blob.size
            for child in document.manifests if isinstance(document, Index) else ():
                assert len(documents[repository.name][child.digest].raw) == child.size
                assert documents[repository.name][child.digest].media_type == child.media_type


def test_it_can_be_pushed_in_its_order(sample, documents):
    for repository in sample.repositories:
        pushed = set()
        for document in documents[repository.name].values():
            needed = [child.digest for child in document.manifests] if isinstance(document, Index) else []
            needed += [document.subject.digest] if document.subject else []
            assert pushed.issuperset(needed)
            pushed.add(document.digest)
        assert pushed.issuperset(repository.tags.values())


def test_layers_are_real_archives_and_configs_know_their_uncompressed_digests(sample, documents):
    seen = {}
    for repository, document, config in runnable(sample, documents):
        for layer, diff_id in zip(document.layers, config["rootfs"]["diff_ids"], strict=True):
            if layer.digest not in seen:
                archive = gzip.decompress(repository.blobs[layer.digest])
                seen[layer.digest] = "sha256:" + hashlib.sha256(archive).hexdigest()
                with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
                    assert opened.getnames()
            assert seen[layer.digest] == diff_id
        assert sum(not step.get("empty_layer") for step in config["history"]) == len(document.layers)


def test_layer_sizes_vary_from_kilobytes_to_hundreds_of_kilobytes(sample, documents):
    sizes = {layer.size for _, document, _ in runnable(sample, documents) for layer in document.layers}
    assert min(sizes) < 20_000
    assert max(sizes) > 250_000
    assert len(sizes) > 50


def test_configs_carry_the_labels_that_people_filter_by(sample, documents):
    for repository, _, config in runnable(sample, documents):
        labels = config["config"]["Labels"]
        title, prefix = repository.name.rpartition("/")[2], "org.opencontainers.image."
        assert labels[f"{prefix}title"] == title
        assert {f"{prefix}version", f"{prefix}revision", f"{prefix}source"} <= labels.keys()


def test_nothing_is_garbage_and_no_manifest_is_out_of_reach(sample, documents):
    store = Store()
    store.load(sample)
    assert store.collect_garbage() == set()
    for repository in sample.repositories:
        known = documents[repository.name]
        reached, frontier = set(), set(repository.tags.values())
        while frontier:
            reached |= frontier
            children = {child.digest for d in frontier if isinstance(known[d], Index) for child in known[d].manifests}
            referrers = {d for d, document in known.items() if document.subject and document.subject.digest in reached}
            frontier = (children | referrers) - reached
        assert reached == known.keys()


def test_services_stand_on_the_layers_of_their_base_image(sample, documents):
    def bottoms(name):
        return {tuple(la.digest for la in d.layers[:3]) for _, d, c in runnable(sample, documents) if _.name == name}

    python, node = bottoms("platform/base/python"), bottoms("platform/base/node")
    for name in (API, WORKER, NIGHTLY, BILLING):
        assert bottoms(name) <= python
    assert bottoms("web/frontend") <= node


def test_releases_have_aliases(sample):
    tags = sample.repository(API).tags
    newest = {tag for tag, digest in tags.items() if digest == tags["latest"]}
    assert newest == {"latest", "stable", "1", "1.4", "1.4.2"}
    assert tags["1.3"] == tags["1.3.2"] != tags["1.4"]


def test_there_is_every_kind_of_manifest(sample, documents):
    types = Counter(m.media_type for r in sample.repositories for m in r.manifests)
    assert set(types) == {OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST}
    kinds = {document.kind for known in documents.values() for document in known.values()}
    assert kinds == {"image", "index", "artifact", "signature"}


def test_one_index_holds_another(documents):
    known = documents["tools/ci/builder"]
    nested = [d for d in known.values() if isinstance(d, Index) and {c.media_type for c in d.manifests} & INDEX_TYPES]
    assert len(nested) == 1


def test_attestations_stand_beside_the_image_that_they_attest(sample, documents):
    known = documents[API]
    index = known[sample.repository(API).tags["latest"]]
    run = [child for child in index.manifests if not child.is_attestation]
    attested = [child for child in index.manifests if child.is_attestation]
    assert [str(child.platform) for child in run] == ["linux/amd64", "linux/arm64/v8"]
    assert {str(child.platform) for child in attested} == {"unknown/unknown"}
    assert [child.annotations["vnd.docker.reference.digest"] for child in attested] == [c.digest for c in run]
    assert {layer.media_type for child in attested for layer in known[child.digest].layers} == {
        "application/vnd.in-toto+json"
    }


def test_the_newest_release_has_a_signature_by_tag_and_an_sbom_by_subject(sample, documents):
    repository, known = sample.repository(API), documents[API]
    latest = Digest(repository.tags["latest"])
    assert known[repository.tags[f"{attached_tag(latest)}.sig"]].kind == "signature"
    (sbom,) = [d for d in known.values() if d.subject and d.subject.digest == latest]
    assert (sbom.artifact_type, sbom.config.media_type) == ("application/spdx+json", OCI_EMPTY)
    assert repository.blobs[sbom.config.digest] == b"{}"
    assert sbom.digest not in repository.tags.values()


def test_each_case_of_signature_and_sbom_exists_alone_too(sample, documents):
    signed = [tag for tag in sample.repository(WORKER).tags if split_attached_tag(tag)]
    assert len(signed) == 1
    assert not any(document.subject for document in documents[WORKER].values())
    older = sample.repository(API).tags["1.3.2"]
    assert sum(1 for d in documents[API].values() if d.subject and d.subject.digest == older) == 1


def test_fallback_tags_list_the_referrers_where_a_registry_cannot():
    with_tags = sample_images(NOW, fallback_tags=True).repository(API)
    plain = sample_images(NOW).repository(API)
    extra = with_tags.tags.keys() - plain.tags.keys()
    assert extra == {attached_tag(Digest(plain.tags["1.4.2"])), attached_tag(Digest(plain.tags["1.3.2"]))}
    by_digest = {m.digest: m for m in with_tags.manifests}
    for tag in extra:
        (entry,) = parse_manifest(by_digest[with_tags.tags[tag]].raw).manifests
        assert (entry.artifact_type, entry.digest in by_digest) == ("application/spdx+json", True)


def test_one_config_stands_under_two_manifests_and_one_set_of_layers_under_two_configs(sample, documents):
    nightly = documents[NIGHTLY]
    configs = Counter(d.config.digest for d in nightly.values())
    assert sorted(configs.values())[-2:] == [2, 2]
    tags, known = sample.repository("tools/ci/builder").tags, documents["tools/ci/builder"]
    release, debug = known[tags["2026.1-release"]], known[tags["2026.1-debug"]]
    assert release.layers == debug.layers
    assert release.config != debug.config


def test_charts_are_artifacts(documents):
    for document in documents["charts/checkout"].values():
        assert (document.kind, document.config.media_type) == ("artifact", "application/vnd.cncf.helm.config.v1+json")


def test_ages_reach_from_three_years_to_yesterday_and_never_into_the_future(sample, documents):
    times = [parse_image_config(json.dumps(config).encode()).created for _, _, config in runnable(sample, documents)]
    real = [moment for moment in times if believable(moment, NOW)]
    assert NOW - timedelta(days=1) <= max(real) < NOW
    assert NOW - timedelta(days=3 * 366) < min(real) < NOW - timedelta(days=3 * 360)


def test_constants_of_build_tools_and_a_missing_date_are_there(sample, documents):
    created = Counter(config.get("created", "")[:10] for _, _, config in runnable(sample, documents))
    assert created["1970-01-01"] == 3
    assert created["1980-01-01"] == created["0001-01-01"] == created[""] == 1


def test_dated_tags_tell_the_day_of_their_build(sample, documents):
    repository = sample.repository(NIGHTLY)
    for tag, digest in repository.tags.items():
        if tag.startswith("20") and "rebuild" not in tag:
            config = json.loads(repository.blobs[documents[NIGHTLY][digest].config.digest])
            assert config["created"].startswith(tag)


def test_tags_are_named_as_people_and_pipelines_name_them(sample):
    tags = {tag for r in sample.repositories for tag in r.tags}
    assert {"main", "develop", "feature-login", "latest", "stable", "1.4.2", "2026-11-22", "edge"} <= tags
    assert sum(tag.startswith("pr-") for tag in tags) > 10
    assert sum(tag.startswith("main-") for tag in tags) > 20


def test_the_broken_tag_is_listed_and_404_and_the_emptied_repository_lists_null():
    with Sandbox(sample=True) as sandbox:
        tags = requests.get(f"{sandbox.url}/v2/{BILLING}/tags/list", timeout=10).json()["tags"]
        assert "0.8.0-rc1" in tags
        assert requests.get(f"{sandbox.url}/v2/{BILLING}/manifests/0.8.0-rc1", timeout=10).status_code == 404
        emptied = requests.get(f"{sandbox.url}/v2/archive/prototype/tags/list", timeout=10).json()
        assert emptied == {"name": "archive/prototype", "tags": None}
        assert "archive/prototype" in sandbox.store.repositories()


def test_only_one_repository_has_nothing_to_push_and_only_one_a_tag_that_cannot_be(sample):
    assert [r.name for r in sample.repositories if r.emptied] == ["archive/prototype"]
    assert [r.name for r in sample.repositories if r.broken] == [BILLING]
    with pytest.raises(KeyError):
        sample.repository("team/nowhere")


def test_a_sandbox_without_referrers_carries_the_fallback_tags_instead():
    with Sandbox(sample=True, referrers=False, now=NOW) as sandbox:
        latest = Digest(sandbox.store.tags(API)["latest"])
        assert attached_tag(latest) in sandbox.store.tags(API)


def test_pushed_by_a_client_it_is_the_same_as_loaded(sample):
    loaded = Store()
    loaded.load(sample)
    with Sandbox() as sandbox, requests.Session() as session:
        for repository in sample.repositories:
            push(session, f"{sandbox.url}/v2/{repository.name}", repository)
            if not repository.emptied:
                assert sandbox.store.digests(repository.name) == loaded.digests(repository.name)
                assert sandbox.store.blobs(repository.name) == loaded.blobs(repository.name)
                assert sandbox.store.tags(repository.name) == repository.tags
        subject = sample.repository(API).tags["latest"]
        assert sandbox.store.referrers(API, subject) == loaded.referrers(API, subject)


def push(session, base, repository):
    for digest, data in repository.blobs.items():
        reply = session.post(f"{base}/blobs/uploads/", params={"digest": digest}, data=data, timeout=10)
        assert reply.status_code == 201
    by_digest = {manifest.digest: manifest for manifest in repository.manifests}
    references = [(digest, digest) for digest in by_digest] + list(repository.tags.items())
    for reference, digest in references:
        manifest = by_digest[digest]
        headers = {"Content-Type": manifest.media_type}
        reply = session.put(f"{base}/manifests/{reference}", data=manifest.raw, headers=headers, timeout=10)
        assert reply.status_code == 201
