"""The journal: what it says was on the disk before the request left, and nothing in it can be changed unseen."""

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from regaudit.cleaner.journal import FORMAT, Journal
from regaudit.errors import JournalBusy, JournalError
from regaudit.reference import Digest

RAW = b'{"schemaVersion": 2}'
DIGEST = Digest.of(RAW)
CONFIG = b'{"os": "linux"}'
CONFIG_DIGEST = Digest.of(CONFIG)
LONG_AGO = "ad56db3e5137fe066dda8879c4f7a5f94863e7551c6f1782e529d28dc529107e"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "journal.sqlite"


def written(path):
    with Journal(path) as journal:
        journal.record("run-1", "started", kind="delete", rows=[])
        journal.record_intent(
            "run-1",
            "app@x",
            digest=DIGEST,
            media_type="application/json",
            raw=RAW,
            config=(CONFIG_DIGEST, CONFIG),
            tags=["1.0"],
        )
        journal.record("run-1", "outcome", "app@x", outcome="deleted")
        journal.record("run-1", "finished", stopped=False)
    return path


def tamper(path, statement, *values):
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


def test_a_journal_makes_its_folder_and_reads_back_what_was_recorded(path):
    with Journal(written(path)) as journal:
        assert [entry.event for entry in journal.entries("run-1")] == ["started", "intent", "outcome", "finished"]
        assert journal.manifest(DIGEST) == ("application/json", RAW)
        assert journal.config(CONFIG_DIGEST) == CONFIG
        assert journal.config(DIGEST) is None
        assert journal.last("run-1", "app@x", "intent").data["tags"] == ["1.0"]
        assert journal.last("run-2", "app@x", "intent") is None
        assert [entry.run for entry in journal.runs()] == ["run-1"]
        assert journal.verify() == 4


def test_an_empty_journal_is_whole(path):
    with Journal(path) as journal:
        assert journal.verify() == 0
        assert list(journal.entries()) == []


@pytest.mark.parametrize("column", ["at", "run", "event", "key", "data", "previous", "hash"])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_any_changed_entry_is_found_by_its_number(path, column, number):
    value = '{"other": 1}' if column == "data" else "2020"
    tamper(written(path), f"UPDATE entries SET {column} = ? WHERE number = ?", value, number)
    with Journal(path) as journal, pytest.raises(JournalError, match=f"entry {number}"):
        journal.verify()


def test_an_entry_that_is_no_json_is_a_journal_error(path):
    tamper(written(path), "UPDATE entries SET data = '{' WHERE number = 3")
    with Journal(path) as journal, pytest.raises(JournalError, match="entry 3"):
        list(journal.entries())


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_removed_entry_is_found_the_last_one_too(path, number):
    tamper(written(path), "DELETE FROM entries WHERE number = ?", number)
    with Journal(path) as journal, pytest.raises(JournalError):
        journal.verify()


def test_an_entry_put_in_is_found(path):
    statement = "INSERT INTO entries SELECT 5, at, run, event, key, data, previous, hash FROM entries WHERE number = 4"
    tamper(written(path), statement)
    with Journal(path) as journal, pytest.raises(JournalError, match="entry 5"):
        journal.verify()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE manifests SET raw = x'00'",
        "UPDATE manifests SET raw = 'text'",
        "UPDATE manifests SET digest = 'md5:00'",
        "DELETE FROM manifests",
        "UPDATE configs SET raw = x'00'",
        "UPDATE configs SET digest = 'md5:00'",
        "DELETE FROM configs",
        "DELETE FROM meta WHERE key = 'newest'",
    ],
)
def test_saved_bytes_that_were_changed_or_removed_are_found(path, statement):
    tamper(written(path), statement)
    with Journal(path) as journal, pytest.raises(JournalError):
        journal.verify()


def test_a_journal_goes_on_where_it_ended(path):
    with Journal(written(path)) as journal:
        journal.record("run-2", "started", kind="undo")
        assert journal.verify() == 5


def test_a_journal_without_its_newest_mark_is_not_written_to(path):
    tamper(written(path), "DELETE FROM meta WHERE key = 'newest'")
    with Journal(path) as journal, pytest.raises(JournalError):
        journal.record("run-2", "started")


def test_another_version_is_refused_and_said(path):
    tamper(written(path), "UPDATE meta SET value = 'regaudit-journal/1' WHERE key = 'format'")
    with pytest.raises(JournalError, match=r"regaudit-journal/1.*--journal"):
        Journal(path)
    assert FORMAT == "regaudit-journal/2"


def test_a_file_that_is_no_database_is_refused_with_what_to_do(path):
    path.parent.mkdir()
    path.write_text("my notes, which are not a database at all, and long enough to be looked at" * 20)
    with pytest.raises(JournalError, match="journal="):
        Journal(path)


@pytest.mark.parametrize("table", ["places (id)", "meta (version)"])
def test_the_database_of_something_else_is_refused_and_left_alone(path, table):
    path.parent.mkdir()
    tamper(path, f"CREATE TABLE {table}")
    before = path.read_bytes()
    with pytest.raises(JournalError, match="something else"):
        Journal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 100, 4096, 8192, 12288])
def test_a_truncated_journal_opens_whole_or_is_refused(path, cut):
    raw = written(path).read_bytes()
    path.write_bytes(raw[: len(raw) - cut])
    with pytest.raises(JournalError), Journal(path) as journal:
        journal.verify()


def test_a_place_that_cannot_be_written_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="journal="):
        Journal(tmp_path / "file" / "journal.sqlite")
    with pytest.raises(JournalError, match="journal="):
        Journal(tmp_path)


def test_a_place_is_named_without_what_its_name_would_do_to_a_terminal(tmp_path):
    (tmp_path / "\x1b[2Jfile").write_text("")
    with pytest.raises(JournalError) as caught:
        Journal(tmp_path / "\x1b[2Jfile" / "journal.sqlite")
    assert "\x1b" not in str(caught.value)


def test_a_lock_file_that_cannot_be_written_is_a_journal_error(path):
    with Journal(path) as journal:
        path.with_name(path.name + ".lock").mkdir()
        with pytest.raises(JournalError, match="journal="), journal.locked():
            pass


def test_a_read_only_journal_refuses_the_first_entry(path):
    with Journal(written(path)) as journal:
        journal._connection.execute("PRAGMA query_only=ON")
        with pytest.raises(JournalError):
            journal.record("run-2", "started")


def test_after_an_entry_that_failed_halfway_nothing_of_it_is_there_and_the_next_one_is_recorded(path):
    with Journal(written(path)) as journal:
        journal._connection.execute(
            "CREATE TEMP TRIGGER full BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
        with pytest.raises(JournalError, match="disk is full"):
            journal.record("run-2", "started")
        journal._connection.execute("DROP TRIGGER full")
        journal.record("run-3", "started")
        assert journal.verify() == 5
        assert [entry.run for entry in journal.runs()] == ["run-1", "run-3"]


def test_a_journal_that_somebody_turned_to_write_ahead_logging_is_turned_back_or_refused_while_it_is_read(path):
    reader = sqlite3.connect(written(path))
    reader.execute("PRAGMA journal_mode=WAL")
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM entries").fetchall()
    with pytest.raises(JournalError, match=r"locked.*journal="):
        Journal(path)
    reader.close()
    with Journal(path) as journal:
        assert journal._rows("PRAGMA journal_mode") == [("delete",)]
        assert journal.verify() == 4


def test_an_entry_that_was_hashed_long_ago_still_follows(path):
    # What is hashed, written down: the least change to it would condemn every journal that there is.
    data = '{"kept":null,"tags":["\\u00e4","b"]}'
    entry = (1, "2026-01-02T03:04:05+00:00", "run", "outcome", "app@x", data, "0" * 64, LONG_AGO)
    Journal(path).close()
    tamper(path, "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *entry)
    tamper(path, "UPDATE meta SET value = ? WHERE key = 'newest'", f"1 {LONG_AGO}")
    with Journal(path) as journal:
        assert journal.verify() == 1
        journal.record("run", "outcome", "app@x", tags=["\u00e4", "b"], kept=None)
        assert journal._rows("SELECT data FROM entries WHERE number = 2") == [(data,)]


def test_a_second_run_is_refused_while_one_holds_the_journal(path):
    with Journal(path) as one, Journal(path) as other:
        with one.locked(), pytest.raises(JournalError, match="in use"), other.locked():
            pass
        with other.locked():
            pass


def test_another_process_is_refused_too(path):
    script = (
        "import sys; from regaudit.cleaner.journal import Journal\n"
        "with Journal(sys.argv[1]) as journal:\n    with journal.locked(): print('mine')"
    )
    with Journal(path) as journal, journal.locked():
        other = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert "in use by another run" in other.stderr
    assert other.stdout == ""


def test_the_lock_ends_with_an_exception(path):
    with Journal(path) as journal:
        with pytest.raises(ZeroDivisionError), journal.locked():
            raise ZeroDivisionError
        with journal.locked():
            pass


def test_entries_are_on_the_disk_before_the_call_returns(path):
    with Journal(path) as journal:
        assert journal._rows("PRAGMA journal_mode") == [("delete",)]
        assert journal._rows("PRAGMA synchronous") == [(3,)]  # EXTRA
        journal.record_intent("run", "key", digest=DIGEST, media_type="application/json", raw=RAW)
        with Journal(path) as reader:
            assert reader.manifest(DIGEST) == ("application/json", RAW)


def test_an_intent_and_its_bytes_are_kept_both_or_neither(path):
    with Journal(path) as journal:
        with pytest.raises(TypeError):
            journal.record_intent("run", "key", digest=DIGEST, media_type="m", raw=RAW, odd=object())
        assert journal.manifest(DIGEST) is None
        assert journal.verify() == 0


def test_many_threads_write_one_whole_chain(path):
    barrier = threading.Barrier(8)

    def write(number):
        barrier.wait()
        for step in range(5):
            journal.record(f"run-{number}", "outcome", f"key-{step}", outcome="deleted")

    with Journal(path) as journal:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        assert journal.verify() == 40


def test_a_closed_journal_says_so_as_a_journal_error(path):
    journal = Journal(path)
    journal.close()
    with pytest.raises(JournalError):
        journal.record("run", "started")
    with Journal(path) as journal:
        pass
    with pytest.raises(JournalError):
        journal.record("run", "started")


def test_the_default_place_is_a_folder_for_each_registry(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = Journal.default_path("registry:5000"), Journal.default_path("registry:5001")
    assert one != other
    assert one.name == "regaudit-journal.sqlite"
    assert one.parents[1] == tmp_path / "regaudit"  # where an earlier run's journal is looked for


def test_who_reserves_a_journal_runs_in_it_one_run_at_a_time_and_nobody_else_does(path):
    with Journal(path) as journal, Journal(path) as other, ThreadPoolExecutor(1) as pool:

        def elsewhere():
            with pytest.raises(JournalBusy), journal.locked():
                pass

        with journal.reserved():
            for _ in range(2):
                with journal.locked(), pytest.raises(JournalBusy), journal.locked():
                    pass
            with pytest.raises(JournalBusy), other.locked():
                pass
            pool.submit(elsewhere).result()
        with other.locked():
            pass
