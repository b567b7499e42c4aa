"""A plan that is applied again goes on where the last run was, whatever the point at which that ended.

The runs that end early are killed for real (SIGKILL), at named points, on Debian's docker-registry.
"""

import signal
import sqlite3
import threading
from collections import Counter

import pytest
from conftest import cases
from images import Pushed
from killed import apply_and_die
from test_cleaner import APP, content, family, image, opened, words

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.history import history_of
from regaudit.cleaner.plan import plan
from regaudit.client.registry import Registry
from regaudit.errors import JournalError
from regaudit.inventory.collect import collect

# How often each point of `killed.POINTS` is passed while the plan below is carried out: the process dies at any of them.
PASSED = {
    "the list was not read": 6,
    "before the intent": 5,
    "in the middle of recording the intent": 5,
    "between intent and request": 5,
    "between request and outcome": 5,
    "in the middle of recording the outcome": 5,
    "between outcomes": 5,
    "while checking what stays": 1,
    "before the end": 1,
}
TALLY = Counter()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)


@pytest.mark.real
@pytest.mark.parametrize("time", range(1, cases(2, 51)))
@pytest.mark.parametrize("point", PASSED)
def test_after_a_kill_the_same_plan_goes_on_and_its_report_tells_of_both_runs(
    docker_registry, processes, tmp_path, point, time
):
    path = tmp_path / "journal.sqlite"
    with Registry(docker_registry.host) as door, Cleaner(door, journal=path) as cleaner:
        place = Pushed(door, APP)
        children = [place.image(f"child-{n}") for n in range(2)]
        top = place.index("top", children, "old", "old-alias")
        place.referrer("sbom", top)
        place.image("keep", "keep")
        before = place.tags()
        made = plan(collect(door, progress=False), [f"{APP}:old", f"{APP}:old-alias"]).approve("Ada")
        assert len(made.rows) == 5
        plan_file = made.save(tmp_path / "plan.json")
        arguments = (docker_registry.host, plan_file, path, point, time % PASSED[point])
        process = processes.Process(target=apply_and_die, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        cleaner.journal.verify()
        first = cleaner.last_run(made)
        run = cleaner.execute(made)
        assert run.ok, run.frame()
        assert run.resumes == (first.id,)
        assert {o.key for o in run.outcomes} == {row.key for row in made.rows}
        assert set(run.counts()) <= {"deleted", "deleted_before", "deleted_unconfirmed"}
        settled = {o.key for o in first.outcomes if o.outcome == "deleted"}
        assert {o.key for o in run.outcomes if o.outcome == "deleted_before"} == settled
        assert set(place.tags()) == {"keep"}
        cleaner.journal.verify()
        assert cleaner.undo(run).ok  # the newest run knows all that the plan has done
        assert place.tags() == before
    TALLY[point] += 1
    print(f"so far {dict(TALLY)}", flush=True)  # noqa: T201 -- for who asks with -s


@pytest.fixture
def shop(tmp_path, impatient):
    with opened(tmp_path) as shop:
        yield shop


def stopped_after(shop, made, count):
    stop, seen = threading.Event(), []

    def heard(outcome):
        seen.append(outcome)
        if len(seen) == count:
            stop.set()

    return shop.execute(made, progress=heard, stop=stop)


def test_what_is_settled_is_not_asked_for_and_not_even_looked_at(shop):
    for name in ("a", "b", "c"):
        image(shop.store, APP, name, name)
    made = shop.plan("a", "b", "c")
    stopped_after(shop, made, 2)
    run = shop.execute(made)
    assert words(run) == {"a": "deleted_before", "b": "deleted_before", "c": "deleted"}
    settled = {row.digest for row in made.rows if row.tags in {("a",), ("b",)}}
    assert not [path for _, path, _ in shop.sandbox.requests if path.rpartition("/")[2] in settled | {"a", "b"}]
    assert len(shop.deletes()) == 1


def test_a_plan_that_is_done_is_done_without_a_request(shop):
    image(shop.store, APP, "a", "a")
    made = shop.plan("a")
    first = shop.execute(made)
    second, third = shop.execute(made), shop.execute(made)
    assert not shop.sandbox.requests
    for run in (second, third):
        (outcome,) = run.outcomes
        assert (outcome.outcome, outcome.detail) == ("deleted_before", f"run {first.id}: deleted")
    assert f"(goes on after {first.id}, {second.id})" in str(third)
    assert words(shop.cleaner.undo(third)) == {"a": "restored"}  # the newest knows all that the plan has done


def test_what_is_open_is_looked_at_before_anything_else_is_asked(shop, monkeypatch):
    for name in ("a", "b"):
        image(shop.store, APP, name, name)
    made = shop.plan("a", "b")

    def interrupt(*_, **__):
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patch:
        patch.setattr(execution, "_alive", interrupt)
        first = shop.execute(made)
    assert words(first) == {"a": "unknown"}
    assert [(p.outcome, p.open) for p in history_of(shop.journal, made.hash).rows.values()] == [("unknown", True)]
    run = shop.execute(made)
    assert words(run) == {"a": "deleted_unconfirmed", "b": "deleted"}
    assert first.id in run.outcomes[0].detail
    assert shop.sandbox.requests[0][1] == f"/v2/{APP}/manifests/{made.rows[0].digest}"
    assert history_of(shop.journal, made.hash).settled(made.rows[0].key)


def test_what_is_open_stays_so_over_a_run_that_did_not_ask(shop, monkeypatch):
    old = image(shop.store, APP, "a", "a")
    made = shop.plan("a")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execution.Execution, "_request", interrupt)
        first = shop.execute(made)
    newer = image(shop.store, APP, "newer", "a")
    assert words(shop.execute(made)) == {"a": "skipped"}
    past = history_of(shop.journal, made.hash).open(made.rows[0].key)
    assert (past.run, past.outcome) == (first.id, "skipped")
    shop.store.drop_manifest(APP, old)
    assert words(shop.execute(made)) == {"a": "deleted_unconfirmed"}
    assert shop.store.tags(APP)["a"] == newer


def test_what_somebody_pushed_again_after_it_went_stays_with_its_children(shop):
    top, *children = family(shop)[:3]
    made = shop.plan("old", "old-alias")
    raw = shop.store.manifest(APP, top)
    stopped_after(shop, made, 1)
    shop.store.put_manifest(APP, "old", *raw)
    run = shop.execute(made)
    assert set(run.counts()) == {"skipped"}
    assert "came_back" in run.outcomes[0].detail
    assert set(shop.store.digests(APP)) >= {top, *children}


def test_after_an_undo_the_plan_deletes_again(shop):
    family(shop)
    made = shop.plan("old", "old-alias")
    run = shop.execute(made)
    after = content(shop.store)
    shop.cleaner.undo(run)
    assert shop.execute(made).counts() == {"deleted": len(made.rows)}
    assert content(shop.store) == after


def test_after_an_undo_of_a_part_only_that_part_is_asked_for_again(shop):
    for name in ("a", "b"):
        image(shop.store, APP, name, name)
    made = shop.plan("a", "b")
    assert shop.cleaner.undo(shop.execute(made), only=f"{APP}:a").ok
    assert words(shop.execute(made)) == {"a": "deleted", "b": "deleted_before"}


def test_after_an_undo_that_did_not_end_every_row_is_looked_at(shop):
    for name in ("a", "b"):
        image(shop.store, APP, name, name)
    made = shop.plan("a", "b")
    stop = threading.Event()
    shop.cleaner.undo(shop.execute(made), stop=stop, progress=lambda _: stop.set())
    assert sorted(shop.execute(made).counts().items()) == [("already_absent", 1), ("deleted", 1)]


def test_a_plan_does_not_go_on_with_the_run_of_another(shop):
    for name in ("a", "b"):
        image(shop.store, APP, name, name)
    made = shop.plan("a", "b")
    part = made.select([made.rows[0].key]).approve("Ada")
    first = shop.execute(part)
    run = shop.execute(made)
    assert run.resumes == ()
    assert run.counts() == {"already_absent": 1, "deleted": 1}
    assert shop.execute(part).resumes == (first.id,)


def test_an_undo_of_another_plan_that_did_not_end_says_nothing_of_this_one(shop):
    for name in ("a", "b"):
        image(shop.store, APP, name, name)
    made, other = shop.plan("a"), shop.plan("b")
    shop.execute(made)
    stop = threading.Event()
    stop.set()
    assert shop.cleaner.undo(shop.execute(other), stop=stop).stopped
    assert words(shop.execute(made)) == {"a": "deleted_before"}
    assert not shop.sandbox.requests


def test_the_command_line_says_after_which_run_it_goes_on(shop):
    image(shop.store, APP, "a", "a")
    made = shop.plan("a")
    first = shop.execute(made)
    assert f"goes on after {first.id}" in str(shop.execute(made))


def test_a_deletion_that_was_cut_off_is_found_without_its_plan_until_something_else_happens(shop):
    for name in ("a", "b", "c", "keep"):
        image(shop.store, APP, name, name)
    made = shop.plan("a", "b", "c")
    assert shop.cleaner.interrupted_run() is None
    run = stopped_after(shop, made, 1)
    found = shop.cleaner.interrupted_run()
    assert (found.id, found.by, found.taken_at) == (run.id, made.approval.by, made.taken_at)
    assert found.planned == tuple(row.key for row in made.rows)
    assert found.left == found.planned[1:]
    assert shop.cleaner.last_run(made).undone == ""
    undo = shop.cleaner.undo(run)
    assert shop.cleaner.last_run(made).undone == undo.id
    assert shop.cleaner.interrupted_run() is None
    assert shop.execute(made).left == ()


def test_the_plan_of_a_run_is_in_the_journal_once_and_is_gone_on_with_from_there(shop):
    for name in ("a", "b", "c", "keep"):
        image(shop.store, APP, name, name)
    made = shop.plan("a", "b", "c")
    runs = [stopped_after(shop, made, 1), stopped_after(shop, made, 2)]
    assert [shop.cleaner.planned(run) for run in runs] == [made, made]
    assert [entry.event for entry in shop.journal.entries()].count("planned") == 1
    assert set(words(shop.cleaner.execute(shop.cleaner.planned(runs[-1])))) == {"a", "b", "c"}
    assert set(shop.store.tags(APP)) == {"keep"}


def test_what_is_no_deletion_has_no_plan(shop):
    image(shop.store, APP, "a", "a")
    image(shop.store, APP, "keep", "keep")
    run = shop.execute(shop.plan("a"))
    undo = shop.cleaner.undo(run)
    for name in (undo.id, "nonsense"):
        with pytest.raises(JournalError, match=r"no plan of .*journal show"):
            shop.cleaner.planned(name)


def test_a_plan_that_was_changed_in_the_journal_is_not_gone_on_with(shop):
    image(shop.store, APP, "a", "a")
    image(shop.store, APP, "keep", "keep")
    run = shop.execute(shop.plan("a"))
    with sqlite3.connect(shop.journal.path) as file:
        (data,) = file.execute("SELECT data FROM entries WHERE event = 'planned'").fetchone()
        file.execute("UPDATE entries SET data = ? WHERE event = 'planned'", (data.replace('"a"', '"b"'),))
    with pytest.raises(JournalError, match="not the one that was approved"):
        shop.cleaner.planned(run)


def test_a_cleaner_knows_whether_its_journal_is_in_use(shop):
    assert not shop.cleaner.busy
    with shop.cleaner.journal.locked():
        assert shop.cleaner.busy
    assert not shop.cleaner.busy
