"""collect() reads everything once, goes on past what it cannot read, and says what that was."""

import itertools
import json

import pandas as pd
import pytest
from hostile import Hostile, reply

from regaudit.cleaner.plan import plan
from regaudit.client import v2
from regaudit.client.registry import Registry
from regaudit.errors import AuthenticationFailed, InvalidReference, NotARegistry, Unreachable, UsageError
from regaudit.inventory.collect import collect
from regaudit.inventory.progress import Progress, in_words
from regaudit.manifest import DOCKER_CONFIG, OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, SCHEMA1_SIGNED
from regaudit.reference import Digest, attached_tag
from regaudit.sandbox.app import Application, Reply
from regaudit.sandbox.server import Sandbox

APP, WEB = "team/app", "team/web"


@pytest.fixture
def empty():
    with Sandbox() as server:
        yield server


@pytest.fixture
def door(empty):
    with Registry(empty.host) as door:
        yield door


def read(door, *patterns, **options):
    return collect(door, *patterns, progress=False, **{"cache": None, **options})


def dump(document):
    return json.dumps(document).encode()


def image(store, repository, name, *tags, created=None, annotated=None, config=None, **fields):
    """Put an image in place whose config says when it was created, and return its digest."""
    about = {"os": "linux", "architecture": "amd64", "created": created, "name": name}
    raw = config if isinstance(config, bytes) else dump(about)
    own = {"mediaType": OCI_CONFIG, "digest": store.put_blob(repository, raw), "size": len(raw)}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config if isinstance(config, dict) else own,
        "layers": [{"mediaType": "x/y", "digest": store.put_blob(repository, name.encode()), "size": len(name)}],
        "annotations": {"org.opencontainers.image.created": annotated} if annotated else {},
        **fields,
    }
    return put(store, repository, OCI_MANIFEST, dump(document), *tags)


def index(store, repository, children, *tags, **fields):
    entries = [{"mediaType": OCI_MANIFEST, "digest": d, "size": 3, "platform": p} for d, p in children]
    return put(
        store,
        repository,
        OCI_INDEX,
        dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, **fields}),
        *tags,
    )


def put(store, repository, media_type, raw, *tags):
    digest = store.put_manifest(repository, str(Digest.of(raw)), media_type, raw)
    for tag in tags:
        store.set_tag(repository, tag, digest)
    return digest


def problems(snapshot):
    rows = snapshot.problems[["repository", "identifier", "stage", "error", "blocking"]].astype("object")
    return [tuple(None if pd.isna(v) else v for v in row) for row in rows.to_numpy().tolist()]


def tag(snapshot, name, repository=APP):
    rows = snapshot.tags[(snapshot.tags["repository"] == repository) & (snapshot.tags["tag"] == name)]
    (row,) = rows.astype("object").to_dict("records")
    return row


def amd64():
    return {"os": "linux", "architecture": "amd64"}


@pytest.fixture
def fault(monkeypatch):
    """Let the sandbox answer a path with something else: ``fault("GET", "manifests/bad", 500)``."""
    faults = {}
    original = Application.answer

    def answer(self, call):
        place = f"{call.route.name}/{call.route.kind}/{call.route.reference}"
        for (method, part), status in faults.items():
            if call.method == method and part in place:
                return Reply(status, {"Content-Type": "application/json"}, b'{"errors": [{"code": "FAULT"}]}')
        return original(self, call)

    monkeypatch.setattr(Application, "answer", answer)

    def add(method, part, status):
        faults[method, part] = status

    return add


# -- the whole sample ------------------------------------------------------------------------


def test_the_tables_have_every_tag_and_manifest_of_the_store(sample_sandbox, sample_registry):
    snapshot = read(sample_registry)
    store = sample_sandbox.store
    assert list(snapshot.repositories) == store.repositories()
    for repository in store.repositories():
        mine = snapshot.tags[snapshot.tags["repository"] == repository]
        read_tags = {
            t: d for t, d in zip(mine["tag"], mine["digest"].astype("object"), strict=True) if isinstance(d, str)
        }
        digests = set(store.digests(repository))
        assert read_tags == {t: d for t, d in store.tags(repository).items() if d in digests}
        manifests = snapshot.manifests[snapshot.manifests["repository"] == repository]
        assert set(manifests["digest"].astype("object")) == digests
        assert {d: snapshot.documents[d].raw for d in digests} == {d: store.manifest(repository, d)[1] for d in digests}
    assert snapshot.complete
    assert problems(snapshot) == [("legacy/billing", "0.8.0-rc1", "manifest", "dangling", False)]


def same(one, other, *, without=()):
    for name, frame in one.tables.items():
        ignored = [column for column in ("seen_at", *without) if column in frame.columns]
        left, right = (f.drop(columns=ignored).astype("object") for f in (frame, other.tables[name]))
        pd.testing.assert_frame_equal(left, right)


def test_the_tables_do_not_depend_on_the_order_of_the_answers(sample_sandbox):
    with Registry(sample_sandbox.host, in_flight=1) as one, Registry(sample_sandbox.host, in_flight=8) as many:
        same(read(one), read(many))


def test_head_first_gives_the_same_tables_with_fewer_gets(sample_sandbox):
    with Registry(sample_sandbox.host) as first, Registry(sample_sandbox.host, in_flight=1) as second:
        plain, frugal = read(first), read(second, head_first=True)
    same(plain, frugal)
    assert frugal.requests["manifest"] < plain.requests["manifest"]
    assert frugal.requests["head"] == len(frugal.tags)


def test_the_requests_of_a_snapshot_are_those_that_were_served(sandbox, registry):
    snapshot = read(registry, "shop/**")
    assert sum(snapshot.requests.values()) == len(sandbox.requests)
    assert snapshot.requests["catalog"] == snapshot.requests["ping"] == 1


def test_a_second_reading_counts_its_own_requests(sandbox, registry):
    read(registry, "charts/checkout")
    sandbox.requests.clear()
    assert sum(read(registry, "charts/checkout").requests.values()) == len(sandbox.requests)


# -- which repositories ----------------------------------------------------------------------


def test_literal_names_need_no_catalog(sandbox, registry):
    snapshot = read(registry, "charts/checkout", "archive/prototype")
    assert list(snapshot.repositories) == ["archive/prototype", "charts/checkout"]
    assert not any(path.startswith("/v2/_catalog") for _, path, _ in sandbox.requests)


def test_patterns_choose_and_exclude_leaves_out(sample_registry):
    assert read(sample_registry, "shop/*").repositories == ()
    assert read(sample_registry, "shop/**", exclude=["**/worker"]).repositories == ("shop/checkout/api",)
    both = read(sample_registry, "charts/*", "platform/base/node", exclude=["platform/**"])
    assert both.repositories == ("charts/checkout",)


def test_an_emptied_repository_is_listed_without_tags_or_problems(sample_registry):
    snapshot = read(sample_registry, "archive/*")
    assert snapshot.repositories == ("archive/prototype",)
    assert snapshot.tags.empty
    assert snapshot.complete


def test_a_pattern_that_is_none_and_one_text_for_exclude_are_usage_errors(sample_sandbox, sample_registry):
    before = len(sample_sandbox.requests)
    with pytest.raises(InvalidReference):
        read(sample_registry, "Team/App")
    with pytest.raises(UsageError, match="several"):
        read(sample_registry, exclude="team/*")
    assert len(sample_sandbox.requests) == before


# -- what could not be read ------------------------------------------------------------------


def test_a_dangling_tag_is_a_problem_that_blocks_nothing(empty, door):
    empty.store.drop_manifest(APP, image(empty.store, APP, "a", "gone"))
    snapshot = read(door)
    assert problems(snapshot) == [(APP, "gone", "manifest", "dangling", False)]
    assert tag(snapshot, "gone")["kind"] == "unknown"
    assert snapshot.complete


def test_names_outside_the_grammar_are_recorded_and_never_asked_for(empty, door):
    image(empty.store, APP, "a", "good")
    for name in ("a\nb", "<script>", "x" * 300):
        empty.store.set_tag(APP, name, "sha256:" + "0" * 64)
    empty.store.create("../Etc")
    snapshot = read(door)
    assert {row[3] for row in problems(snapshot)} == {"invalid_name"}
    assert all(blocking for *_, blocking in problems(snapshot))
    assert list(snapshot.tags["tag"]) == ["good"]
    assert not [path for _, path, _ in empty.requests if "script" in path or "Etc" in path]
    assert not plan(snapshot, [f"{APP}:good"], allow_empty=True).rows


def test_a_repository_that_is_denied_blocks_itself_and_no_other(empty, door, fault):
    image(empty.store, APP, "a", "1")
    image(empty.store, WEB, "b", "1")
    fault("GET", f"{APP}/tags", 401)
    snapshot = read(door)
    assert problems(snapshot) == [(APP, None, "tags", "denied", True)]
    assert snapshot.unread == {APP}
    assert list(snapshot.tags["repository"]) == [WEB]
    assert not snapshot.complete


def test_a_tag_that_fails_blocks_its_repository_and_the_others_are_read(empty, fault):
    image(empty.store, APP, "a", "good", "bad")
    fault("GET", "manifests/bad", 500)
    with Registry(empty.host, tries=1) as door:
        snapshot = read(door)
    assert problems(snapshot) == [(APP, "bad", "manifest", "unexpected_status", True)]
    assert tag(snapshot, "good")["digest"] is not None
    refused = plan(snapshot, [f"{APP}:good"], allow_empty=True).refused
    assert [row.refusal for row in refused] == ["repository_not_read"]


def test_a_missing_child_is_a_sparse_index_and_blocks_nothing(empty, door):
    here, absent = image(empty.store, APP, "a"), str(Digest.of(b"absent"))
    index(empty.store, APP, [(here, amd64()), (absent, {"os": "linux", "architecture": "s390x"})], "1")
    snapshot = read(door)
    assert problems(snapshot) == [(APP, absent, "manifest", "missing_child", False)]
    assert tag(snapshot, "1")["content_bytes"] == tag_bytes(snapshot, here)


def tag_bytes(snapshot, digest):
    return snapshot.manifests.set_index("digest").loc[digest, "content_bytes"]


@pytest.mark.parametrize(
    ("raw", "media_type"),
    [
        (b"nonsense", OCI_MANIFEST),
        (b'{"schemaVersion": 2, "layers": [], "manifests": []}', OCI_MANIFEST),
        (
            dump({"schemaVersion": 2, "config": {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": -1}}),
            OCI_MANIFEST,
        ),
        (dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}), OCI_MANIFEST),
    ],
)
def test_a_document_that_cannot_be_believed_blocks_its_repository(empty, door, raw, media_type):
    put(empty.store, APP, media_type, raw, "bad")
    assert problems(read(door)) == [(APP, "bad", "manifest", "bad_manifest", True)]


def test_bytes_of_another_digest_block_their_repository(empty, door):
    raw = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
    empty.store.put_manifest(APP, "sha256:" + "a" * 64, OCI_INDEX, raw)
    empty.store.set_tag(APP, "lie", "sha256:" + "a" * 64)
    assert problems(read(door)) == [(APP, "lie", "manifest", "digest_mismatch", True)]


def test_a_missing_config_is_a_problem_and_the_image_has_no_age(empty, door):
    image(empty.store, APP, "a", "1", created="2026-01-01T00:00:00Z")
    config = next(d for d in empty.store.blobs(APP) if b"linux" in empty.store.blob(APP, d))
    empty.store.delete_blob(APP, config)
    snapshot = read(door)
    assert problems(snapshot) == [(APP, config, "config", "not_found", False)]
    assert pd.isna(tag(snapshot, "1")["created"])
    assert tag(snapshot, "1")["created_source"] == "none"


def test_a_config_that_one_repository_lost_is_read_from_another_one(empty, door):
    for repository in ("aaa", "bbb"):
        image(empty.store, repository, "same", "1", created="2026-01-01T00:00:00Z")
    config = next(d for d in empty.store.blobs("aaa") if b"linux" in empty.store.blob("aaa", d))
    empty.store.delete_blob("aaa", config)
    snapshot = read(door)
    assert problems(snapshot) in ([("aaa", config, "config", "not_found", False)], [])
    assert tag(snapshot, "1", "bbb")["created"].year == 2026


def test_every_repository_with_an_unread_config_says_so_whichever_asked_first(empty, fault):
    for repository in ("aaa", "bbb", "ccc"):
        image(empty.store, repository, "same", "1")
    config = next(d for d in empty.store.blobs("aaa") if b"linux" in empty.store.blob("aaa", d))
    fault("GET", f"blobs/{config}", 500)
    with Registry(empty.host, tries=1) as door:
        assert read(door).unread == {"aaa", "bbb", "ccc"}


@pytest.mark.parametrize("raw", [b"[]", b"not json", b"{" * 100])
def test_a_config_that_is_none_leaves_the_age_unknown_everywhere_and_blocks_nothing(empty, door, raw):
    for repository in ("aaa", "bbb"):
        image(empty.store, repository, "same", "1", config=raw)
    snapshot = read(door)
    assert [(row[0], *row[2:]) for row in problems(snapshot)] == [
        (r, "config", "bad_manifest", False) for r in ("aaa", "bbb")
    ]


def test_a_denied_catalog_says_to_name_the_repositories(empty, door, fault):
    image(empty.store, APP, "a", "1")
    fault("GET", "/catalog/", 401)
    snapshot = read(door, APP, "x/*")
    ((repository, _, stage, _, blocking),) = problems(snapshot)
    assert (repository, stage, blocking) == (None, "catalog", True)
    assert "name those" in snapshot.problems["message"][0]
    assert list(snapshot.tags["repository"]) == [APP]


def test_without_referrers_nothing_can_be_deleted(empty, door):
    image(empty.store, APP, "a", "1", "2")
    snapshot = read(door, referrers=False)
    assert problems(snapshot) == [(APP, None, "referrers", "not_asked", True)]
    assert "referrers" not in snapshot.requests


def test_referrers_that_cannot_be_listed_block_their_repository(empty, fault):
    digest = image(empty.store, APP, "a", "1")
    with Registry(empty.host, tries=1) as door:
        read(door)
        fault("GET", f"referrers/{digest}", 500)
        assert problems(read(door)) == [(APP, digest, "referrers", "unexpected_status", True)]


# -- what hangs together ---------------------------------------------------------------------


def artifact(store, repository, name, subject):
    about = {"mediaType": OCI_MANIFEST, "digest": subject, "size": len(store.manifest(repository, subject)[1])}
    config = {"mediaType": OCI_EMPTY, "digest": store.put_blob(repository, b"{}"), "size": 2}
    return image(store, repository, name, subject=about, config=config, artifactType="application/spdx+json")


def test_referrers_and_their_referrers_are_found_by_the_interface(empty, door):
    subject = image(empty.store, APP, "a", "1")
    sbom = artifact(empty.store, APP, "sbom", subject)
    proof = artifact(empty.store, APP, "proof", sbom)
    rows = read(door).manifests.set_index("digest")
    assert list(rows.loc[[subject, sbom, proof], "discovered_by"]) == ["tag", "referrer", "referrer"]
    assert rows.loc[proof, "subject_digest"] == sbom
    assert rows.loc[sbom, "artifact_type"] == "application/spdx+json"


def test_referrers_are_found_by_the_fallback_tag_where_there_is_no_interface():
    with Sandbox(referrers=False) as server, Registry(server.host) as door:
        subject = image(server.store, APP, "a", "1")
        sbom = artifact(server.store, APP, "sbom", subject)
        index(server.store, APP, [(sbom, amd64())], attached_tag(Digest(subject)))
        rows = read(door).manifests.set_index("digest")
        assert rows.loc[sbom, "discovered_by"] == "index"
        assert rows.loc[sbom, "subject_digest"] == subject


def test_a_referrer_too_deep_to_follow_is_a_blocking_problem(empty, door):
    digest = image(empty.store, APP, "a", "1")
    for number in range(9):
        digest = artifact(empty.store, APP, f"link-{number}", digest)
    assert {(row[2], row[3], row[4]) for row in problems(read(door))} == {("referrers", "too_deep", True)}


def test_an_index_too_deep_to_follow_is_a_blocking_problem(empty, door):
    digest = image(empty.store, APP, "a")
    for _ in range(10):
        digest = index(empty.store, APP, [(digest, amd64())])
    empty.store.set_tag(APP, "deep", digest)
    assert {(row[2], row[3], row[4]) for row in problems(read(door, referrers=True))} >= {
        ("manifest", "too_deep", True)
    }


def test_a_chain_of_tagged_indexes_longer_than_the_stack_is_described(empty, door):
    digest = image(empty.store, APP, "a", created="2026-01-01T00:00:00Z")
    for number in range(700):
        digest = index(empty.store, APP, [(digest, amd64())], f"n{999 - number}")
    snapshot = read(door)
    assert tag(snapshot, "n300")["created"].year == 2026
    assert snapshot.complete


def test_a_manifest_that_is_tagged_and_a_child_is_discovered_by_its_tag(empty, door):
    child = image(empty.store, APP, "a", "z-child")
    index(empty.store, APP, [(child, amd64())], "a-index")
    (row,) = read(door).manifests[lambda m: m["digest"] == child].to_dict("records")
    assert (row["discovered_by"], row["platform"], row["tag_count"]) == ("tag", "linux/amd64", 1)


@pytest.mark.parametrize("order", [("index", "tag"), ("tag", "index"), ("referrer", "tag", "index")])
def test_how_a_manifest_was_found_does_not_depend_on_which_answer_came_first(empty, door, order):
    from regaudit.inventory.collect_v2 import ReadingV2, _Want
    from regaudit.inventory.reading import Selection

    image(empty.store, APP, "a", "1")
    manifest = door.repository(APP).manifest("1")
    reading = ReadingV2(door, Selection((), ()), referrers=False, head_first=False)
    with door.bulk() as bulk:
        for way in order:
            reading._meet(bulk, APP, manifest, _Want(way))
    assert reading.found.tables()["manifests"]["discovered_by"].tolist() == ["tag"]


def test_aliases_share_a_digest_and_are_counted(empty, door):
    digest = image(empty.store, APP, "a", "1", "1.0", "latest")
    snapshot = read(door)
    assert set(snapshot.tags["digest"]) == {digest}
    assert list(snapshot.manifests["tag_count"]) == [3]
    assert len(snapshot.blobs) == 2


# -- ages ------------------------------------------------------------------------------------

FUTURE = "9999-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "created", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1980-01-01T00:00:01Z", FUTURE, "soon", None]
)
def test_a_time_that_cannot_be_believed_is_no_time(empty, door, created):
    image(empty.store, APP, "a", "1", created=created)
    row = tag(read(door), "1")
    assert pd.isna(row["created"])
    assert row["created_source"] == "none"


def test_an_annotation_stands_in_for_a_config_that_says_nothing_believable(empty, door):
    image(empty.store, APP, "a", "1", created="1970-01-01T00:00:00Z", annotated="2025-05-05T00:00:00Z")
    image(empty.store, APP, "b", "2", created="2024-04-04T00:00:00Z", annotated="2025-05-05T00:00:00Z")
    snapshot = read(door)
    assert [tag(snapshot, t)["created_source"] for t in "12"] == ["annotation", "config"]
    assert [tag(snapshot, t)["created"].year for t in "12"] == [2025, 2024]


def test_an_index_is_as_old_as_its_newest_child_attestations_apart(empty, door):
    old = image(empty.store, APP, "old", created="2023-01-01T00:00:00Z")
    new = image(empty.store, APP, "new", created="2024-01-01T00:00:00Z")
    proof = image(empty.store, APP, "proof", created="2026-01-01T00:00:00Z")
    entries = [{"mediaType": OCI_MANIFEST, "digest": d, "size": 1, "platform": amd64()} for d in (old, new)]
    entries.append(
        {
            "mediaType": OCI_MANIFEST,
            "digest": proof,
            "size": 1,
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        }
    )
    put(empty.store, APP, OCI_INDEX, dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}), "1")
    snapshot = read(door)
    assert tag(snapshot, "1")["created"].year == 2024
    assert list(snapshot.children["role"]) == ["image", "image", "attestation"]


def test_schema_1_is_read_and_has_no_sizes(empty, door):
    raw = dump(
        {"schemaVersion": 1, "name": APP, "tag": "old", "fsLayers": [{"blobSum": str(Digest.of(b"x"))}], "history": []}
    )
    put(empty.store, APP, SCHEMA1_SIGNED, raw, "old")
    row = tag(read(door), "old")
    assert (row["kind"], pd.isna(row["content_bytes"])) == ("legacy", True)


def test_a_docker_config_is_read_as_an_oci_one(empty, door):
    raw = dump({"os": "linux", "architecture": "arm64", "variant": "v8", "config": {"Labels": {"a": "b"}}})
    config = {"mediaType": DOCKER_CONFIG, "digest": empty.store.put_blob(APP, raw), "size": len(raw)}
    put(
        empty.store,
        APP,
        OCI_MANIFEST,
        dump({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}),
        "3",
    )
    (row,) = read(door).manifests.to_dict("records")
    assert (row["platform"], row["labels"]) == ("linux/arm64/v8", '{"a": "b"}')


# -- interrupts and progress -----------------------------------------------------------------


def test_progress_is_told_and_ends_at_the_whole(sample_registry, every_result):
    seen = []
    snapshot = collect(sample_registry, "shop/**", "archive/*", progress=seen.append)
    assert all(isinstance(state, Progress) for state in seen)
    last = seen[-1]
    assert last.tags_done == last.tags_total == len(snapshot.tags)
    assert last.repositories_done == last.repositories_total == 3
    assert [s.tags_done for s in seen] == sorted(s.tags_done for s in seen)
    assert all(0 <= s.repositories_done <= s.repositories_total for s in seen)


def test_progress_counts_requests_and_bytes_and_knows_the_time_left_at_the_end(sandbox, registry, every_result):
    seen = []
    snapshot = collect(registry, progress=seen.append, cache=None)
    last = seen[-1]
    assert last.requests == sum(snapshot.requests.values()) - snapshot.requests["ping"]
    assert last.received_bytes > sum(len(document.raw) for document in snapshot.documents.values())
    assert last.remaining_seconds == 0
    assert last.requests_per_second > 0
    # A limit that was just lowered is below what is under way already: the ceiling is what always holds.
    assert all(0 <= s.in_flight <= 128 and 1 <= s.limit <= 128 for s in seen)
    assert seen[0].remaining_seconds is None


def test_progress_is_told_at_most_ten_times_a_second_and_at_the_end(registry):
    seen = []
    collect(registry, progress=seen.append, cache=None)
    times = [state.elapsed_seconds for state in seen]
    assert all(after - before > 0.09 for before, after in itertools.pairwise(times[:-1]))
    assert seen[-1].tags_done == seen[-1].tags_total > len(seen)


def test_a_registry_that_asks_to_wait_is_seen_to_while_nothing_arrives(sandbox, registry):
    sandbox.faults.add(path="/v2/charts/checkout/tags/list", status=429, retry_after=1, times=1)
    seen = []
    assert collect(registry, "charts/checkout", progress=seen.append, cache=None).complete
    waits = [state.waiting_seconds for state in seen if state.waiting_seconds]
    assert len(waits) >= 2
    assert waits == sorted(waits, reverse=True)
    assert "asks to wait 1 s" in in_words(next(state for state in seen if state.waiting_seconds > 0.5))
    assert "in flight" in in_words(seen[-1])


def test_a_bar_is_shown_on_stderr_and_nothing_of_the_registry_is_in_it(sample_registry, capsys):
    collect(sample_registry, "charts/checkout")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "reading" in shown.err
    assert "charts" not in shown.err


@pytest.mark.parametrize("results", [1, 2, 3, 5, 20, 60, 150])
def test_an_interrupt_keeps_what_was_read_and_lets_nothing_unread_be_deleted(sample_sandbox, results, every_result):
    left = [results]

    def interrupt(_):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with Registry(sample_sandbox.host) as door:
        snapshot = collect(door, "shop/**", "charts/**", progress=interrupt)
    assert not snapshot.complete
    whole = {r: len(sample_sandbox.store.digests(r)) for r in snapshot.repositories}
    counts = snapshot.manifests["repository"].value_counts()
    for repository in set(snapshot.repositories) - snapshot.unread:
        assert counts[repository] == whole[repository]
    names = [f"{r}:{t}" for r, t in snapshot.tags[["repository", "tag"]].astype("object").to_numpy().tolist()]
    assert {row.repository for row in plan(snapshot, names, allow_empty=True).rows} <= set(
        snapshot.repositories
    ) - snapshot.unread


def test_an_interrupt_inside_our_own_work_leaves_the_repository_unread(empty, door, monkeypatch):
    from regaudit.inventory.collect_v2 import ReadingV2

    image(empty.store, APP, "a", "1")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ReadingV2, "_meet", interrupt)
    snapshot = read(door, APP)
    assert snapshot.unread == {APP}


# -- nothing to read -------------------------------------------------------------------------


def test_where_nobody_answers_nothing_is_returned():
    with Registry("127.0.0.1:1", tries=1) as door, pytest.raises(Unreachable):
        read(door)


def test_a_host_that_is_no_registry_is_said():
    with Hostile() as server, Registry(server.host) as door:
        server.on("*", reply(200, b"<html>login</html>", headers={"Content-Type": "text/html"}))
        with pytest.raises(NotARegistry):
            read(door)


def test_a_wrong_password_fails_before_anything_is_read():
    with Sandbox(users={"ada": "right"}) as server, Registry(server.host, username="ada", password="wrong") as door:
        with pytest.raises(AuthenticationFailed):
            read(door)
        assert {path for _, path, _ in server.requests} == {"/v2/"}


def test_documents_can_be_left_out(sample_registry):
    assert len(read(sample_registry, "charts/*", documents=False).documents) == 0
    assert len(read(sample_registry, "charts/*").documents) == 3


def test_a_fault_of_our_own_is_raised_and_not_recorded(door, empty, monkeypatch):
    image(empty.store, APP, "a", "1")

    def broken(*_, **__):
        raise ZeroDivisionError
        yield

    monkeypatch.setattr(v2, "get_manifest", broken)
    with pytest.raises(ZeroDivisionError):
        read(door)
