"""Whatever happens to the journal's file and disk, nothing is deleted without an intent that is on the disk.

The file is cut at every page, the disk is full after any number of pages (`RLIMIT_FSIZE`), the folder cannot be written
(as a user without rights), the one who reports fails. Then it refuses with what to do, or goes on; never in between.
"""

import sqlite3

import pytest
from killed import apply_on_a_small_disk, apply_without_rights
from test_cleaner import APP, content, image, opened

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.journal import Journal
from regaudit.errors import JournalError

PAGE = 4096


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)


@pytest.fixture
def shop(tmp_path):
    with opened(tmp_path) as shop:
        for name in ("a", "b", "c"):
            image(shop.store, APP, name, name)
        yield shop


def asked_for(shop):
    """Return the digests that the registry was asked to delete, the probes apart: by their keys."""
    asked = [path.rpartition("/")[2] for method, path, _ in shop.sandbox.requests if method == "DELETE"]
    return {f"{APP}@{digest}" for digest in asked} & shop.keys


def durable(path):
    """Return the keys of the intents that a reader of the file finds whole."""
    with Journal(path) as journal:
        journal.verify()
        return {entry.key for entry in journal.entries() if entry.event == "intent"}


def planned(shop, names="abc"):
    made = shop.plan(*names)
    shop.keys = {row.key for row in made.rows}
    shop.sandbox.requests.clear()
    return made


def test_a_journal_cut_at_any_page_is_refused_or_goes_on_with_every_intent_in_it(shop, tmp_path):
    made = planned(shop)
    before = content(shop.store)
    run = shop.cleaner.execute(made)
    assert shop.cleaner.undo(run).ok
    shop.journal.close()
    raw = shop.journal.path.read_bytes()
    assert len(raw) > 8 * PAGE
    refused = 0
    for size in range(0, len(raw) + 1, PAGE):
        path = tmp_path / f"cut-{size}.sqlite"
        path.write_bytes(raw[:size])
        shop.sandbox.requests.clear()
        try:
            with Cleaner(shop.registry, journal=path) as cleaner:
                run = cleaner.execute(made)
        except JournalError:
            assert not asked_for(shop)
            assert content(shop.store) == before
            refused += 1
            continue
        assert asked_for(shop) <= durable(path)
        with Cleaner(shop.registry, journal=path) as cleaner:
            assert cleaner.undo(run).ok
        assert content(shop.store) == before
    assert refused == len(raw) // PAGE - 1  # all but the empty file, which is a new journal, and the whole one


def test_a_disk_that_is_full_after_any_number_of_pages_stops_the_run_before_what_it_could_not_record(
    shop, processes, tmp_path
):
    for name in "def":
        image(shop.store, APP, name, name)
    made = planned(shop, "abcdef")
    file, journal = made.save(tmp_path / "plan.json"), tmp_path / "small" / "journal.sqlite"
    after, failures = set(shop.store.tags(APP)) - set("abcdef"), set()
    Journal(journal).close()
    for pages in range(journal.stat().st_size // PAGE, 100, 2):  # a run that is stopped leaves a page behind
        answer = run(processes, apply_on_a_small_disk, shop.sandbox.host, file, journal, pages * PAGE)
        assert asked_for(shop) <= durable(journal)
        if answer == "done":
            break
        assert "cannot be used as a journal" in answer
        failures.add(len(asked_for(shop)))
    assert answer == "done"
    assert len(failures) > 1  # it was stopped before the first deletion, and in between
    assert set(shop.store.tags(APP)) == after
    with Cleaner(shop.registry, journal=journal) as cleaner:
        assert cleaner.undo(cleaner.last_run(made)).ok
    assert set(shop.store.tags(APP)) == after | set("abcdef")


@pytest.mark.parametrize("there", [False, True], ids=["no journal yet", "a journal that may be written"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_asked(shop, processes, tmp_path, there):
    made = planned(shop)
    folder = tmp_path / "read-only"
    folder.mkdir()
    journal = folder / "journal.sqlite"
    if there:
        Journal(journal).close()
        journal.chmod(0o666)
    folder.chmod(0o555)
    file = made.save(tmp_path / "plan.json")
    for parent in (file, *tmp_path.parents[:2], tmp_path):
        parent.chmod(0o755)
    answer = run(processes, apply_without_rights, shop.sandbox.host, file, journal)
    assert "journal" in answer
    assert "--journal" in answer
    assert not [request for request in shop.sandbox.requests if request[0] == "DELETE"]


def run(processes, target, *arguments):
    """Run something in a process of its own, and return what it says."""
    ours, theirs = processes.Pipe()
    process = processes.Process(target=target, args=(*arguments, theirs))
    process.start()
    theirs.close()
    answer = ours.recv()
    process.join()
    return answer


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("fault", [BrokenPipeError, MemoryError, sqlite3.OperationalError])
def test_where_the_one_who_reports_fails_the_same_plan_goes_on(shop, after, fault):
    made = planned(shop)
    left = [after]

    def report(_):
        left[0] -= 1
        if not left[0]:
            raise fault

    with pytest.raises(fault):
        shop.cleaner.execute(made, progress=report)
    assert len(asked_for(shop)) == after
    assert asked_for(shop) == durable(shop.journal.path)
    done = shop.cleaner.execute(made)
    assert done.counts() == {name: n for name, n in (("deleted_before", after), ("deleted", 3 - after)) if n}
    assert shop.cleaner.undo(done).ok
