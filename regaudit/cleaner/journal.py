"""The durable record of deletions: approvals, intents, saved manifests, outcomes.

A SQLite file with a rollback journal and ``synchronous=EXTRA``: every entry is on the disk before the
request that it announces leaves. (Write-ahead logging does not work on the network file systems
that notebook servers live on.) Entries are only ever added, and each carries the hash of the one before.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import platformdirs

from regaudit.errors import InvalidReference, JournalBusy, JournalError
from regaudit.reference import Digest
from regaudit.text import clean, slug

FORMAT = "regaudit-journal/2"
_FIRST = "0" * 64
_FILE = "regaudit-journal.sqlite"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    run TEXT NOT NULL,
    event TEXT NOT NULL,
    key TEXT NOT NULL,
    data TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE INDEX entries_of_run ON entries (run, number);
CREATE INDEX entries_of_key ON entries (key, number);
CREATE TABLE manifests (digest TEXT PRIMARY KEY, media_type TEXT NOT NULL, raw BLOB NOT NULL);
CREATE TABLE configs (digest TEXT PRIMARY KEY, raw BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the record.

    Attributes
    ----------
    event : str
        ``started`` (with the plan and its approval), ``probed`` (what the registry can do), ``kept`` (the bytes of what goes after
        something else, before that goes), ``intent``, ``outcome`` or ``finished``.
    key : str
        The row of the plan, where the event is about one.
    """

    number: int
    at: str
    run: str
    event: str
    key: str
    data: dict[str, Any]
    previous: str
    hash: str

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


class Journal:
    """The record in one file. Safe to share between threads.

    Parameters
    ----------
    path : path
        Made where it does not exist, with its folder.

    Raises
    ------
    JournalError
        The file is no journal, is damaged, of another version, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._reserved_for: int | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from None
        try:
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            self._connection.close()
            raise self._unusable(error) from None
        except JournalError:
            self._connection.close()
            raise

    @staticmethod
    def default_path(registry: str) -> Path:
        """Return where the journal of a registry lives unless another place is named."""
        return platformdirs.user_state_path("regaudit") / slug(registry) / _FILE

    @staticmethod
    def default_paths() -> list[Path]:
        """Return all journals that are where `default_path` says, of whichever registry."""
        return sorted(platformdirs.user_state_path("regaudit").glob(f"*/{_FILE}"))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- writing ------------------------------------------------------------------------------

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Hold the journal for more than one run: for the reading before, and the looking after.

        The runs of this thread are let through, one at a time; `JournalBusy` as for `locked`.
        """
        with self._alone():
            self._reserved_for = threading.get_ident()
            try:
                yield
            finally:
                self._reserved_for = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the journal for one run; raises `JournalBusy` where another process, thread or run has it."""
        if self._reserved_for != threading.get_ident():
            with self._alone():
                yield
            return
        self._reserved_for = None  # a run that begins within this one is another one
        try:
            yield
        finally:
            self._reserved_for = threading.get_ident()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            file = self.path.with_name(self.path.name + ".lock").open("a")
        except OSError as error:
            raise self._unusable(error) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise JournalBusy(
                    f"{clean(self.path)} is in use by another run: wait for it, or name another journal"
                ) from None
            yield

    def record(self, run: str, event: str, key: str = "", **data: Any) -> None:
        """Add an entry; when this returns, it is on the disk."""
        with self._transaction():
            self._add(run, event, key, data)

    def record_all(self, run: str, event: str, entries: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Add an entry for each key; when this returns, all of them are on the disk."""
        with self._transaction():
            for key, data in entries:
                self._add(run, event, key, data)

    def record_intent(
        self,
        run: str,
        key: str,
        *,
        digest: str,
        media_type: str,
        raw: bytes,
        config: tuple[str, bytes] | None = None,
        **data: Any,
    ) -> None:
        """Add what is about to be deleted together with its bytes; when this returns, both are on the disk.

        Parameters
        ----------
        config : pair of str and bytes, optional
            The digest and the bytes of an image's config, kept once for all images that share it.
        """
        saved = {"digest": digest, "media_type": media_type, "raw": raw, "config": config, **data}
        with self._transaction():
            self._save(run, "intent", key, saved)

    def record_kept(self, run: str, entries: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Add the bytes of what may go together with something else, with the fields of an intent, for each key."""
        with self._transaction():
            for key, saved in entries:
                self._save(run, "kept", key, saved)

    def _save(self, run: str, event: str, key: str, saved: dict[str, Any]) -> None:
        data = dict(saved)
        manifest, config = (data["digest"], data["media_type"], data.pop("raw")), data.pop("config", None)
        self._connection.execute("INSERT OR IGNORE INTO manifests VALUES (?, ?, ?)", manifest)
        if config is not None:
            self._connection.execute("INSERT OR IGNORE INTO configs VALUES (?, ?)", config)
        self._add(run, event, key, {**data, "config": None if config is None else config[0]})

    # -- reading ------------------------------------------------------------------------------

    def entries(self, run: str | None = None) -> Iterator[Entry]:
        """Yield the entries of a run, or all, oldest first."""
        where, values = ("WHERE run = ?", (run,)) if run is not None else ("", ())
        for row in self._rows(f"SELECT * FROM entries {where} ORDER BY number", values):
            yield _entry(row)

    def runs(self) -> list[Entry]:
        """Return the ``started`` entries of all runs, oldest first."""
        return [_entry(row) for row in self._rows("SELECT * FROM entries WHERE event = 'started' ORDER BY number")]

    def last(self, run: str, key: str, event: str) -> Entry | None:
        """Return the newest entry of an event for a row of a run."""
        rows = self._rows(
            "SELECT * FROM entries WHERE run = ? AND key = ? AND event = ? ORDER BY number DESC LIMIT 1",
            (run, key, event),
        )
        return _entry(rows[0]) if rows else None

    def saved(self, run: str, key: str) -> Entry | None:
        """Return where the bytes of a row of a run are: its intent, or what was kept of it before something else went."""
        return self.last(run, key, "intent") or self.last(run, key, "kept")

    def manifest(self, digest: str) -> tuple[str, bytes] | None:
        """Return media type and bytes of a saved manifest."""
        rows = self._rows("SELECT media_type, raw FROM manifests WHERE digest = ?", (digest,))
        return (rows[0][0], rows[0][1]) if rows else None

    def config(self, digest: str) -> bytes | None:
        """Return the bytes of a saved image config."""
        rows = self._rows("SELECT raw FROM configs WHERE digest = ?", (digest,))
        return rows[0][0] if rows else None

    def verify(self) -> int:
        """Check that no entry was changed, removed or put in between, and return how many there are.

        Raises
        ------
        JournalError
            With the number of the first entry that does not follow from the one before.
        """
        previous, count = _FIRST, 0
        for count, entry in enumerate(self.entries(), start=1):
            if entry.number != count or entry.previous != previous or entry.hash != _hash(entry):
                raise JournalError(
                    f"{clean(self.path)}: entry {count} does not follow from the one before: the record was changed"
                )
            previous = entry.hash
            self._check_saved(entry)
        if self._newest() != (count, previous):
            raise JournalError(f"{clean(self.path)}: entries after number {count} were removed")
        for digest, raw in self._rows("SELECT digest, raw FROM manifests UNION ALL SELECT digest, raw FROM configs"):
            if not _is_digest_of(digest, raw):
                raise JournalError(f"{clean(self.path)}: the saved bytes of {clean(digest, 100)} were changed")
        return count

    # -- inside -------------------------------------------------------------------------------

    def _check_saved(self, entry: Entry) -> None:
        if entry.event not in {"intent", "kept"}:
            return
        config = entry.data.get("config")
        for digest, saved in ((entry.data["digest"], self.manifest), (config, self.config)):
            if digest is not None and saved(digest) is None:
                raise JournalError(f"{clean(self.path)}: the saved bytes of {clean(digest, 100)} were removed")

    def _prepare(self) -> None:
        tables = {name for (name,) in self._rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and not tables >= {"meta", "entries", "manifests"}:
            raise JournalError(f"{clean(self.path)} is a database of something else: name another file with journal=")
        self._connection.execute("PRAGMA journal_mode=DELETE")
        self._connection.execute("PRAGMA synchronous=EXTRA")
        with self._transaction():
            if not self._rows("SELECT 1 FROM sqlite_master WHERE name = 'meta'"):
                self._create()
        found = self._rows("SELECT value FROM meta WHERE key = 'format'")
        if not found or found[0][0] != FORMAT:
            raise JournalError(
                f"{clean(self.path)} is a journal of another version ({clean(found[0][0] if found else '?', 60)}): "
                f"this regaudit writes {FORMAT}. Move the file away, or name another with journal= (--journal); "
                "its runs can be undone only by the regaudit that wrote it"
            )

    def _create(self) -> None:
        for statement in _SCHEMA.split(";\n"):
            self._connection.execute(statement)
        self._connection.execute("INSERT INTO meta VALUES ('format', ?), ('newest', ?)", (FORMAT, f"0 {_FIRST}"))

    def _newest(self) -> tuple[int, str]:
        """Return number and hash of the newest entry as noted apart from it: what is missing at the end shows."""
        noted = self._rows("SELECT value FROM meta WHERE key = 'newest'")
        number, _, own = str(noted[0][0]).partition(" ") if noted else ("", "", "")
        return (int(number), own) if number.isdecimal() else (-1, "")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise self._unusable(error) from None
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        # After a fault (a full disk, a closed file) there may be nothing left to roll back, or no way to.
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _add(self, run: str, event: str, key: str, data: dict[str, Any]) -> None:
        newest, previous = self._newest()
        if newest < 0:
            raise JournalError(
                f"{clean(self.path)} does not say which entry is its newest: name another with journal= (--journal)"
            )
        number = newest + 1
        entry = Entry(number, datetime.now(UTC).isoformat(), run, event, key, data, previous, "")
        own = _hash(entry)
        self._connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, entry.at, run, event, key, _canonical(data), previous, own),
        )
        self._connection.execute("UPDATE meta SET value = ? WHERE key = 'newest'", (f"{number} {own}",))

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> JournalError:
        return JournalError(
            f"{clean(self.path)} cannot be used as a journal ({clean(error, 120)}): name another with journal= (--journal)"
        )


def _entry(row: tuple[Any, ...]) -> Entry:
    number, at, run, event, key, data, previous, own = row
    try:
        return Entry(number, at, run, event, key, dict(json.loads(data)), previous, own)
    except (ValueError, TypeError, RecursionError):
        raise JournalError(f"entry {number} of the journal cannot be read: the file was changed") from None


def _is_digest_of(digest: Any, raw: Any) -> bool:
    try:
        return Digest(digest).matches(raw)
    except (TypeError, AttributeError, InvalidReference):
        return False


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _hash(entry: Entry) -> str:
    parts = [entry.number, entry.at, entry.run, entry.event, entry.key, _canonical(entry.data), entry.previous]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode("ascii")).hexdigest()
