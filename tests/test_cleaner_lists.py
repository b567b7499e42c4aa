"""A referrer that goes is taken off its subject's list, where a client keeps such lists, and comes back onto it."""

import pandas as pd
import pytest
from images import Pushed

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import Plan, plan
from regaudit.client.registry import Registry
from regaudit.errors import NotFound
from regaudit.inventory.collect import collect
from regaudit.reference import Digest, attached_tag

pytestmark = pytest.mark.real
APP = "team/app"


class Place:
    """A real registry, which has no referrers interface, with an image that three artifacts refer to."""

    def __init__(self, door, cleaner):
        self.door, self.cleaner, self.app = door, cleaner, Pushed(door, APP)
        self.subject = self.app.image("app", "1.0")
        self.sboms = [self.app.referrer(f"sbom-{n}", self.subject) for n in range(3)]
        self.tag = attached_tag(Digest(self.subject))
        self.list = self.app.tags()[self.tag]

    def plan(self, *digests, **options):
        rows = pd.DataFrame({"repository": APP, "digest": list(digests)})
        return plan(collect(self.door, progress=False), rows, **options).approve("Ada")

    def listed(self):
        return [str(entry.digest) for entry in self.app.repository.manifest(self.tag).manifests]


@pytest.fixture
def place(docker_registry, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)
    with Registry(docker_registry.host) as door, Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
        yield Place(door, cleaner)


def words(run):
    return {outcome.key: outcome.outcome for outcome in run.outcomes}


def test_the_plan_shows_the_list_after_what_it_loses_and_survives_being_saved(place, tmp_path):
    made = place.plan(*place.sboms[:2])
    *_, last = made.rows
    assert (last.action, last.role, last.tags) == ("put_index", "list", (place.tag,))
    assert set(last.needs) == {f"{APP}@{digest}" for digest in place.sboms[:2]}
    assert (made.digests, made.tags, made.refused) == (2, 0, ())
    assert Plan.load(made.save(tmp_path / "plan.json")).rows == made.rows


def test_what_goes_is_taken_off_the_list_and_the_others_stay_on_it(place):
    run = place.cleaner.execute(place.plan(*place.sboms[:2]))
    assert run.ok, run.frame()
    assert run.counts() == {"deleted": 2, "rewritten": 1}
    assert place.listed() == [place.sboms[2]]
    assert place.app.repository.referrers(place.subject)[0].digest == place.sboms[2]
    place.cleaner.journal.verify()


def test_undo_lists_them_again_byte_for_byte(place):
    run = place.cleaner.execute(place.plan(*place.sboms))
    assert place.listed() == []
    assert place.cleaner.undo(run).ok
    assert place.app.tags()[place.tag] == place.list
    assert set(place.cleaner.undo(run).counts()) == {"already_there"}


def test_an_undo_of_one_lists_only_that_one(place):
    run = place.cleaner.execute(place.plan(*place.sboms))
    part = place.cleaner.undo(run, only=place.sboms[1])
    assert words(part) == {f"{APP}@{place.sboms[1]}": "restored", f"{APP}:{place.tag}": "restored"}
    assert part.outcomes[-1].detail == "with 1 of the 3 that it lost"
    assert place.listed() == [place.sboms[1]]
    whole = place.cleaner.undo(run)
    assert whole.ok
    assert whole.outcomes[-1].detail == ""
    assert place.app.tags()[place.tag] == place.list


def test_what_somebody_listed_meanwhile_stays_listed_both_ways(place):
    made = place.plan(place.sboms[0])
    early = place.app.referrer("early", place.subject)
    run = place.cleaner.execute(made)
    assert set(place.listed()) == {*place.sboms[1:], early}
    late = place.app.referrer("late", place.subject)
    assert place.cleaner.undo(run).ok
    assert set(place.listed()) == {*place.sboms, early, late}


def test_a_list_is_left_as_it_is_where_its_referrer_stays(place):
    made = place.plan(place.sboms[0])
    place.app.repository.put_manifest("precious", place.app.repository.manifest(place.sboms[0]).raw)
    assert set(words(place.cleaner.execute(made)).values()) == {"skipped"}
    assert place.app.tags()[place.tag] == place.list


def test_a_protected_list_keeps_its_referrers(place):
    made = place.plan(place.sboms[0], protect=["sha256-*"])
    assert [row.refusal for row in made.refused] == ["child_of_kept_index"]


def test_with_its_subject_the_list_goes_as_a_whole(place):
    place.app.image("keep", "keep")
    made = plan(collect(place.door, progress=False), [f"{APP}:1.0"]).approve("Ada")
    assert {row.action for row in made.rows} == {"delete_manifest"}
    assert place.cleaner.execute(made).counts() == {"deleted": 5}
    with pytest.raises(NotFound):
        place.app.repository.manifest(place.tag)


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_run_that_ended_at_the_list_goes_on_with_it(place, monkeypatch, point):
    made = place.plan(place.sboms[0])
    restore = execution.write.restore_manifest

    def interrupted(*arguments):
        if point == "after":
            yield from restore(*arguments)
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patch:
        patch.setattr(execution.write, "restore_manifest", interrupted)
        first = place.cleaner.execute(made)
    assert words(first)[f"{APP}:{place.tag}"] == "unknown"
    second = place.cleaner.execute(made)
    assert second.counts() == {"deleted_before": 1, "rewritten": 1}
    assert place.listed() == place.sboms[1:]
    assert place.cleaner.execute(made).counts() == {"deleted_before": 1, "rewritten": 1}
    assert place.cleaner.undo(second).ok
    assert place.app.tags()[place.tag] == place.list


def test_a_list_that_somebody_gave_a_name_since_the_review_holds_what_it_lists(place):
    place.app.image("other", "t2")
    made = place.plan(place.sboms[0])
    raw = place.app.repository.manifest(place.tag)
    place.app.repository.put_manifest(
        "t2", raw.raw, raw.media_type
    )  # a tag that was there, and is known to be reviewed
    run = place.cleaner.execute(made)
    assert set(words(run).values()) == {"skipped"}
    assert "now_referenced: t2" in run.outcomes[0].detail
    assert place.sboms[0] in place.listed()
