"""After garbage collection a registry is asked which of the promised blobs are gone: on docker-registry, and where it answers oddly."""

import json
from dataclasses import replace
from random import Random

import pandas as pd
import pytest
from click.testing import CliRunner
from images import Pushed
from registries import made_up
from test_cleaner import image as stored
from test_cleaner import opened
from test_proof_bytes import blobs_on_disk, pushed, random_plan

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.cli import main
from regaudit.client.registry import Registry
from regaudit.errors import JournalError
from regaudit.inventory.collect import collect
from regaudit.reference import Digest

APP, WEB = "team/app", "team/web"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)


@pytest.fixture
def real(docker_registry, tmp_path):
    with Registry(docker_registry.host) as door, Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
        yield docker_registry, door, cleaner


def deleted(door, cleaner, *tags):
    made = plan(collect(door, progress=False), [f"{APP}:{tag}" for tag in tags], allow_empty=True).approve("Ada")
    return made, cleaner.execute(made)


@pytest.mark.real
def test_before_the_collection_all_is_there_and_afterwards_all_is_gone(real):
    server, door, cleaner = real
    place = Pushed(door, APP)
    place.index("top", [place.image(f"child-{n}") for n in range(2)], "old")
    place.image("keep", "keep", layer=b"child-0")
    made, run = deleted(door, cleaner, "old")
    promised = {blob for row in made.rows for blob in row.frees}
    assert len(promised) == 3  # two configs, and the layer that nothing else holds
    before = cleaner.verify(run)
    assert before.counts() == {"gone": 0, "there": 3, "unknown": 0}
    assert not before.ok
    assert f"3 ({before.bytes('there')} B) still there" in str(before)
    assert "docker-registry garbage-collect" in str(before)
    server.garbage_collect()
    after = cleaner.verify(run.id)
    assert after.ok
    assert set(after.blobs["digest"]) == promised
    assert promised.isdisjoint(blobs_on_disk(server))
    assert f"3 of 3 blobs ({after.bytes('gone')} B) are gone" in str(after)
    manifests = sum(len(cleaner.journal.manifest(row.digest)[1]) for row in made.rows)
    assert after.bytes("gone") == made.reclaimable_bytes - manifests


@pytest.mark.real
def test_what_something_unseen_holds_is_found_still_there(real):
    server, door, cleaner = real
    place = Pushed(door, APP)
    place.image("first", "latest", layer=b"a base")  # the next push leaves it without a tag
    place.image("second", "latest", layer=b"a layer of its own")
    place.image("third", "old", layer=b"a base")
    place.image("keep", "keep")
    made, run = deleted(door, cleaner, "old")
    assert Digest.of(b"a base") in made.rows[0].frees
    assert "unlisted" in made.bounds
    server.garbage_collect()
    freed = cleaner.verify(run)
    assert freed.counts() == {"gone": 1, "there": 1, "unknown": 0}
    assert freed.blobs.query("state == 'there'")["digest"].item() == Digest.of(b"a base")
    assert "1 of 2 blobs" in str(freed)
    assert Digest.of(b"a base").short in freed._repr_html_()


@pytest.mark.real
@pytest.mark.parametrize("seed", range(2))
def test_of_any_registry_what_is_said_to_be_gone_is_not_on_the_disk(docker_registry_program, tmp_path, seed):
    made = made_up(seed, repositories=2, images=3, unseen=True)
    with pushed(made, tmp_path) as (server, door), Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
        approved = random_plan(collect(door, progress=False), Random(seed)).approve("Ada")
        run = cleaner.execute(approved)
        server.garbage_collect()
        freed, disk = cleaner.verify(run), blobs_on_disk(server)
        assert set(freed.blobs["digest"]) == {blob for row in approved.rows for blob in row.frees}
        for blob in freed.blobs.itertuples():
            assert (blob.state == "there") == (blob.digest in disk)
        assert freed.counts()["unknown"] == 0


@pytest.fixture
def shop(tmp_path):
    with opened(tmp_path) as shop:
        yield shop


def test_what_a_row_that_stayed_still_holds_was_not_to_come_back(shop):
    stored(shop.store, APP, "a", "a")
    stored(shop.store, APP, "b", "b")
    made = shop.plan("a", "b")
    stored(shop.store, APP, "b2", "b")  # a tag that moved: its row is skipped
    run = shop.execute(made)
    shop.store.collect_garbage()
    freed = shop.cleaner.verify(run)
    (stayed,) = (row for row in made.rows if row.tags == ("b",))
    assert freed.back == (stayed.key,)
    assert set(freed.blobs["key"]) == {row.key for row in made.rows} - {stayed.key}
    assert "1 digest of the plan is in the registry" in str(freed)


def test_what_was_undone_is_not_counted_and_nothing_was_to_come_back(shop):
    stored(shop.store, APP, "a", "a")
    run = shop.execute(shop.plan("a"))
    shop.cleaner.undo(run)
    freed = shop.cleaner.verify(run)
    assert freed.blobs.empty
    assert freed.ok
    assert "no blob was to come back" in str(freed)


def test_what_could_not_be_asked_for_is_unknown_and_never_gone(shop):
    stored(shop.store, APP, "a", "a")
    run = shop.execute(shop.plan("a"))
    shop.store.collect_garbage()
    shop.sandbox.faults.add(method="HEAD", path="/v2/*/blobs/*", status=403)
    freed = shop.cleaner.verify(run)
    assert freed.counts() == {"gone": 0, "there": 0, "unknown": 2}
    assert freed.blobs["detail"].str.len().gt(0).all()
    assert not freed.ok
    assert str(freed) == f"run {run.id}: 0 of 2 blobs (0 B) are gone, 2 could not be asked for"


def test_blobs_are_asked_for_also_behind_a_tag_that_went_alone(shop):
    stored(shop.store, APP, "a", "a", "a-alias")
    stored(shop.store, WEB, "b", "b")
    stored(shop.store, WEB, "keep", "keep")
    made = shop.plan("a", f"{WEB}:b", untag=True)
    assert [row.action for row in made.rows] == ["delete_tag", "delete_manifest"]
    freed = shop.cleaner.verify(shop.execute(made))
    assert set(freed.blobs["repository"]) == {WEB}
    assert freed.counts()["there"] == 2


def test_a_notebook_shows_twenty_blobs_that_are_left_and_counts_the_others(shop):
    names = [f"n{number:02}" for number in range(11)]
    for name in names:
        stored(shop.store, APP, name, name)
    run = shop.execute(shop.plan(*names))
    freed = shop.cleaner.verify(run)
    page, fewer = freed._repr_html_(), replace(freed, blobs=freed.blobs[:20])._repr_html_()
    assert page.count(">there</td>") == fewer.count(">there</td>") == 20
    assert "<p>and 2 more in <code>freed.blobs</code></p>" in page
    assert "more in" not in fewer
    for cell in ("repository", "digest", "bytes", "state", "detail", APP, Digest(freed.blobs["digest"][0]).short):
        assert f">{cell}</t" in page
    assert repr(freed) == f"<Freed: {freed.headline()}>"
    shop.store.collect_garbage()
    assert "<table" not in shop.cleaner.verify(run)._repr_html_()


def test_the_figures_are_there_as_plain_values(shop):
    stored(shop.store, APP, "a", "a")
    stored(shop.store, APP, "b", "b")
    made = shop.plan("a", "b")
    stored(shop.store, APP, "b2", "b")
    run = shop.execute(made)
    freed = shop.cleaner.verify(run)
    assert freed.to_dict() == {
        "run": run.id,
        "registry": shop.registry.host,
        "ok": False,
        "gone": 0,
        "there": 2,
        "unknown": 0,
        "gone_bytes": 0,
        "there_bytes": freed.blobs["size_bytes"].sum(),
        "unknown_bytes": 0,
        "back": 1,
    }
    assert freed.bytes("there") > 0
    own = freed.frame()
    del own["state"]
    assert "state" in freed.blobs


def test_where_a_manifest_cannot_be_read_its_blobs_are_unknown(shop):
    stored(shop.store, APP, "a", "a")
    run = shop.execute(shop.plan("a"))
    shop.sandbox.faults.add(method="GET", path="/v2/*/manifests/*", status=403)
    assert shop.cleaner.verify(run).counts() == {"gone": 0, "there": 0, "unknown": 2}


def test_only_a_deletion_at_this_registry_can_be_asked_for(shop):
    stored(shop.store, APP, "a", "a")
    run = shop.execute(shop.plan("a"))
    undone = shop.cleaner.undo(run)
    with pytest.raises(JournalError, match="only what a deletion"):
        shop.cleaner.verify(undone)
    with pytest.raises(JournalError, match="no run"):
        shop.cleaner.verify("20200101T000000-abcdef")


def test_regaudit_verify_says_it_and_is_strict_when_asked(shop, tmp_path):
    stored(shop.store, APP, "a", "a")
    run = shop.execute(shop.plan("a"))
    command = ["verify", run.id, "--journal", str(shop.journal.path)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "0 of 2 blobs" in done.output
    assert CliRunner().invoke(main, [*command, "--strict"]).exit_code == 1
    shop.store.collect_garbage()
    done = CliRunner().invoke(main, [*command, "--strict", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "2 of 2 blobs" in done.output
    assert list(pd.read_csv(tmp_path / "out" / "freed.csv")["state"]) == ["gone", "gone"]
    json.dumps(shop.cleaner.verify(run).to_dict())
