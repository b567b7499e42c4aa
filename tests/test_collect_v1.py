"""collect() on a registry of the v1 interface: the same tables, as far as it can tell, and nothing to delete."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import NOW
from hostile import Hostile, reply

from regaudit.analysis.footprint import footprint
from regaudit.analysis.report import report
from regaudit.analysis.tags import duplicate_tags, stale_tags
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.cli import main
from regaudit.client.registry import Registry
from regaudit.errors import AuthenticationFailed
from regaudit.inventory.collect import collect
from regaudit.inventory.progress import Progress
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.tables import TABLES, check
from regaudit.sandbox.server import Sandbox
from regaudit.sandbox.v1 import OptionsV1

APP, LIBRARY = "team/app", "library/busybox"


@pytest.fixture
def old():
    """Give a v1-only registry: two tags of team/app share a base, and one has both clocks wrong."""
    with Sandbox(v1="only") as server:
        store = server.v1
        base = store.put_image(APP, b"x" * 100, created="2014-01-01T00:00:00Z")
        older = store.put_image(APP, b"y" * 20, parent=base, created="2015-01-01T00:00:00Z")
        newer = store.put_image(APP, b"z" * 3, parent=older, created="2016-01-01T00:00:00Z")
        store.set_tag(APP, "1.0", older)
        store.set_tag(APP, "2.0", newer)
        store.set_tag(APP, "latest", newer)
        store.set_tag(LIBRARY, "odd", store.put_image(LIBRARY, b"odd", created="1970-01-01T00:00:00Z"))
        yield server


def read(server, *patterns, **options):
    with Registry(server.host) as registry:
        return collect(registry, *patterns, progress=False, **options)


def by_tag(snapshot):
    return snapshot.tags.set_index("tag")


# -- what is read ----------------------------------------------------------------------------


def test_tags_have_an_image_id_in_place_of_a_digest_a_time_and_a_size(old):
    snapshot = read(old)
    tags = by_tag(snapshot)
    assert snapshot.complete
    assert snapshot.problems.empty
    assert tags["digest"].isna().all()
    assert tags["media_type"].isna().all()
    assert tags["image_id"].to_dict() == {**old.v1.tags[APP], **old.v1.tags[LIBRARY]}
    assert tags["content_bytes"].to_dict() == {"1.0": 120, "2.0": 123, "latest": 123, "odd": 3}
    assert tags.loc["2.0", "created"] == pd.Timestamp("2016-01-01", tz="UTC")
    assert tags["created_source"].to_dict() == {"1.0": "v1", "2.0": "v1", "latest": "v1", "odd": "none"}
    assert pd.isna(tags.loc["odd", "created"])
    assert set(tags["kind"]) == {"image"}
    assert snapshot.repositories == (LIBRARY, APP)


def test_what_only_digests_could_tell_stays_empty_and_every_table_keeps_its_columns(old):
    snapshot = read(old)
    for name in TABLES:
        check(name, getattr(snapshot, name))
    assert snapshot.manifests.empty
    assert snapshot.blobs.empty
    assert snapshot.children.empty
    assert len(snapshot.documents) == 0


def test_each_layer_is_asked_for_once_and_the_version_too(old):
    snapshot = read(old)
    assert snapshot.requests == {"ping": 2, "search": 1, "images": 2, "tags": 2, "ancestry": 3, "image": 4}


def test_a_size_is_what_the_image_json_says_or_else_what_the_registry_stores():
    with Sandbox(v1="only") as old:
        base = old.v1.put_image(APP, b"12345", Size=None)
        old.v1.set_tag(APP, "mixed", old.v1.put_image(APP, b"abc", parent=base, Size=1000))
        assert by_tag(read(old)).loc["mixed", "content_bytes"] == 1005


def test_where_one_size_is_not_known_the_sum_is_not():
    with Sandbox(v1=OptionsV1(only=True, sized=False)) as old:
        base = old.v1.put_image(APP, b"12345", Size=None)
        old.v1.set_tag(APP, "mixed", old.v1.put_image(APP, b"abc", parent=base, Size=1000))
        old.v1.set_tag(APP, "vast", old.v1.put_image(APP, b"abc", parent=old.v1.put_image(APP, b"d", Size=2**63 - 1)))
        snapshot = read(old)
        assert by_tag(snapshot)["content_bytes"].isna().all()
        assert snapshot.complete


@pytest.mark.parametrize(
    ("patterns", "exclude", "found"),
    [
        ([], [], [LIBRARY, APP]),
        (["team/*"], [], [APP]),
        (["*"], [], [LIBRARY]),  # the namespace is implied
        (["busy*"], [], [LIBRARY]),
        (["**"], ["busybox"], [APP]),
        (["**"], ["team/**"], [LIBRARY]),
        (["busybox", LIBRARY], [], [LIBRARY]),
        (["busybox"], ["library/*"], []),
    ],
)
def test_patterns_select_as_elsewhere_with_or_without_the_implied_namespace(old, patterns, exclude, found):
    assert list(read(old, *patterns, exclude=exclude).repositories) == found


def test_a_literal_name_needs_no_search():
    with Sandbox(v1=OptionsV1(only=True, searchable=False)) as old:
        old.v1.set_tag(LIBRARY, "latest", old.v1.put_image(LIBRARY, b"x"))
        assert len(read(old, "busybox").tags) == 1
        (problem,) = read(old).problems.itertuples()
        assert (problem.stage, problem.error, problem.blocking) == ("catalog", "not_found", True)
        assert "name the repositories that you mean" in problem.message


def test_progress_counts_tags_and_repositories(old):
    seen: list[Progress] = []
    with Registry(old.host) as registry:
        collect(registry, progress=seen.append)
    assert (seen[-1].tags_done, seen[-1].tags_total) == (4, 4)
    assert (seen[-1].repositories_done, seen[-1].repositories_total) == (2, 2)


# -- what is not read ------------------------------------------------------------------------


def test_a_tag_whose_image_is_gone_is_dangling_and_the_rest_is_read(old):
    old.v1.set_tag(APP, "broken", "f" * 64)
    snapshot = read(old)
    (problem,) = snapshot.problems.itertuples()
    assert (problem.repository, problem.identifier, problem.error) == (APP, "broken", "dangling")
    assert not problem.blocking
    broken = by_tag(snapshot).loc["broken"]
    assert (broken["kind"], broken["image_id"], broken["created_source"]) == ("unknown", "f" * 64, "none")
    assert by_tag(snapshot).loc["2.0", "content_bytes"] == 123


def test_a_lost_layer_leaves_the_age_and_takes_the_size(old):
    base = old.v1.ancestry(old.v1.tags[APP]["1.0"])[-1]
    old.v1.listed[APP].pop(base)
    snapshot = read(old, APP)
    assert by_tag(snapshot)["content_bytes"].isna().all()
    assert by_tag(snapshot)["created"].notna().all()
    assert set(snapshot.problems["identifier"]) == {base}
    assert set(snapshot.problems["stage"]) == {"config"}


def test_one_repository_that_cannot_be_read_does_not_stop_the_others(old):
    snapshot = read(old, APP, "no/such")
    (problem,) = snapshot.problems.itertuples()
    assert (problem.repository, problem.stage, problem.error) == ("no/such", "tags", "not_found")
    assert snapshot.unread == {"no/such"}
    assert len(snapshot.tags) == 3


def test_names_that_are_none_become_problems(hostile):
    hostile.on("GET /v2/", reply(404))
    hostile.on("GET /v1/_ping", reply(json=True))
    hostile.on("GET /v1/search", reply(json={"results": [{"name": "../x"}, {"name": APP}]}))
    hostile.on(f"GET /v1/repositories/{APP}/images", reply(json=[]))
    hostile.on(f"GET /v1/repositories/{APP}/tags", reply(json={"=cmd()": "a", "v1": "a/b"}))
    snapshot = read(hostile)
    assert snapshot.tags.empty
    assert set(snapshot.problems["identifier"]) == {"../x", "=cmd()", "v1"}
    assert set(snapshot.problems["error"]) == {"invalid_name"}
    assert not snapshot.complete


def test_a_foreign_endpoint_is_a_problem_that_says_how_to_trust_it(decoy):
    with Sandbox(v1=OptionsV1(only=True, endpoints=(decoy.host,))) as old:
        old.v1.set_tag(APP, "latest", old.v1.put_image(APP, b"x"))
        (problem,) = read(old, APP).problems.itertuples()
    assert problem.error == "redirect_refused"
    assert f"trusted_endpoints=['{decoy.host}']" in problem.message
    assert decoy.heard == b""


def test_a_trusted_endpoint_is_read():
    with Hostile() as index, Sandbox(v1=OptionsV1(only=True, session="none")) as old:
        image_id = old.v1.put_image(APP, b"x")
        old.v1.set_tag(APP, "latest", image_id)
        index.on("GET /v2/", reply(404))
        index.on("GET /v1/_ping", reply(json=True))
        headers = {"X-Docker-Endpoints": old.host, "X-Docker-Token": "signature=0"}
        index.on(f"GET /v1/repositories/{APP}/images", reply(json=[{"id": image_id}], headers=headers))
        with Registry(index.host, trusted_endpoints=[old.host]) as registry:
            snapshot = collect(registry, APP, progress=False)
    assert snapshot.complete
    assert snapshot.tags["image_id"].tolist() == [image_id]


def test_an_interrupt_keeps_what_was_read(old):
    def stop(_):
        raise KeyboardInterrupt

    with Registry(old.host) as registry:
        snapshot = collect(registry, progress=stop)
    assert not snapshot.complete
    assert set(snapshot.problems["error"]) == {"interrupted"}


def test_a_wrong_password_ends_the_reading_before_it_begins_or_marks_it_unread():
    with Sandbox(v1="only", users={"ada": "s3cret"}) as old:
        old.v1.set_tag(APP, "latest", old.v1.put_image(APP, b"x"))
        with Registry(old.host, username="ada", password="no") as registry:
            snapshot = collect(registry, APP, progress=False)
    assert snapshot.problems["error"].tolist() == [AuthenticationFailed.kind]


# -- what comes of it ------------------------------------------------------------------------


def test_the_snapshot_is_shown_saved_loaded_and_written(old, tmp_path):
    snapshot = read(old)
    assert "4 tags on 3 image ids" in str(snapshot)
    assert "team/app:2.0 123 B" in str(snapshot)
    assert "not known" in snapshot.summary()["storage"]
    assert "<table>" in snapshot._repr_html_()
    loaded = Snapshot.load(snapshot.save(tmp_path / "snapshot"))
    pd.testing.assert_frame_equal(loaded.tags, snapshot.tags)
    assert {path.name for path in snapshot.to_csv(tmp_path / "csv")} == {f"{name}.csv" for name in TABLES}
    assert old.v1.tags[APP]["2.0"] in (tmp_path / "csv" / "tags.csv").read_text()
    assert report(snapshot, tmp_path / "report").exists()


def test_tags_go_stale_by_age_and_by_rank_of_their_images(old):
    snapshot = read(old)
    assert set(stale_tags(snapshot, older_than="30D")["tag"]) == {"1.0", "2.0", "latest"}
    assert stale_tags(snapshot, keep_latest=1)["tag"].tolist() == ["1.0"]
    assert duplicate_tags(snapshot).empty


def test_what_a_repository_holds_is_missing_and_not_nothing(old):
    held = footprint(read(old)).set_index("repository")
    assert held["tag_count"].to_dict() == {APP: 3, LIBRARY: 1}
    assert held[["blob_count", "content_bytes", "unique_bytes", "shared_bytes"]].isna().all(axis=None)


def test_no_tag_of_it_can_be_planned_and_so_nothing_deleted(old, tmp_path):
    snapshot = read(old)
    names = [f"{row.repository}:{row.tag}" for row in snapshot.tags.itertuples()]
    made = plan(snapshot, names, allow_empty=True, untag=True)
    assert made.rows == ()
    assert {row.refusal for row in made.refused} == {"v1"}
    assert len(made.refused) == 4
    before = {name: dict(tags) for name, tags in old.v1.tags.items()}
    with Registry(old.host) as registry, Cleaner(registry, journal=tmp_path / "journal") as cleaner:
        assert cleaner.execute(made.approve(by="Ada")).outcomes == ()
    assert old.v1.tags == before
    assert {method for method, _, _ in old.requests} == {"GET"}


def test_the_command_line_audits_it_and_refuses_to_plan_it(old, tmp_path):
    run = CliRunner().invoke
    audited = run(main, ["audit", old.host, "--out", str(tmp_path / "out"), "-q", "--strict"])
    assert audited.exit_code == 0
    assert "4 tags on 3 image ids" in audited.stdout
    assert len((tmp_path / "out" / "tags.csv").read_text().splitlines()) == 5
    snapshot, target = str(tmp_path / "out" / "snapshot"), tmp_path / "plan.json"
    planned = run(main, ["plan", snapshot, "--older-than", "30D", "-o", str(target)])
    assert planned.exit_code == 0
    assert "refused, v1: 3" in planned.stdout
    assert json.loads(target.read_text())["rows"] == []


def test_the_command_line_says_where_nothing_could_be_read(old, tmp_path):
    audited = CliRunner().invoke(main, ["audit", f"{old.host}/no/such", "--out", str(tmp_path / "out"), "-q"])
    assert audited.exit_code == 1
    assert "nothing could be read" in audited.stderr


def test_the_sample_reads_the_same_through_v1_each_time():
    tables = []
    for _ in range(2):
        with Sandbox(sample=True, now=NOW, v1="only") as old:
            tables.append(read(old).tags.drop(columns=["registry", "seen_at"]))
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]) > 100
