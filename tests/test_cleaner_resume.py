"""A plan that is applied again goes on where the last run was, whatever the point at which that ended.

The runs that end early are killed for real (SIGKILL), at named points, on Debian's docker-registry.
"""

import subprocess
import sys
import threading

import pytest
from images import Pushed
from test_cleaner import APP, content, family, image, opened, words

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.history import history_of
from regaudit.cleaner.plan import plan
from regaudit.client.registry import Registry
from regaudit.inventory.collect import collect

KILLED = """
import os, signal, sys
from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.plan import Plan
from regaudit.client.registry import Registry

host, plan_file, journal, point, count = sys.argv[1:]
left = [int(count)]

def die_at(place, name, *, late=False, only=lambda *_: True):
    original = getattr(place, name)
    def dying(*args, **kwargs):
        left[0] -= only(*args)
        if left[0] < 0 and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(place, name, dying)

is_intent = lambda journal, run, event, *_: event == "intent"
is_outcome = lambda journal, run, event, *_: event == "outcome"
points = {
    "the list was not read": lambda: die_at(execution.Execution, "_look"),
    "before the intent": lambda: die_at(Journal, "record_intent"),
    "in the middle of recording the intent": lambda: die_at(Journal, "_add", late=True, only=is_intent),
    "between intent and request": lambda: die_at(execution.Execution, "_request"),
    "between request and outcome": lambda: die_at(execution, "_alive"),
    "in the middle of recording the outcome": lambda: die_at(Journal, "_add", late=True, only=is_outcome),
    "between outcomes": lambda: die_at(execution, "record_outcome", late=True),
    "while checking what stays": lambda: die_at(execution.Execution, "_check_kept"),
    "before the end": lambda: die_at(Journal, "record", late=True, only=lambda j, run, event, *_: event == "finished"),
}
points[point]()
with Registry(host) as registry:
    Cleaner(registry, journal=journal).execute(Plan.load(plan_file))
"""
POINTS = {
    "the list was not read": 1,
    "before the intent": 1,
    "in the middle of recording the intent": 1,
    "between intent and request": 1,
    "between request and outcome": 1,
    "in the middle of recording the outcome": 1,
    "between outcomes": 1,
    "while checking what stays": 0,
    "before the end": 0,
}


def kill(host, made, journal, point, folder, count):
    file = made.save(folder / "plan.json")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, host, str(file), str(journal), point, str(count)], check=False
    )
    assert killed.returncode == -9


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)


@pytest.mark.real
@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_the_same_plan_goes_on_and_its_report_tells_of_both_runs(docker_registry, tmp_path, point):
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
        kill(docker_registry.host, made, path, point, tmp_path, POINTS[point])
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
    assert [p.open for p in history_of(shop.journal, made.hash).rows.values()] == [True]
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


def test_a_cleaner_knows_whether_its_journal_is_in_use(shop):
    assert not shop.cleaner.busy
    with shop.cleaner.journal.locked():
        assert shop.cleaner.busy
    assert not shop.cleaner.busy
