"""What a registry stores under a digest never changes: the cache reads it once, ever.

Two things are kept, in one SQLite file of the user's: documents (manifests and image configs) by their digest,
and for each repository what it had when it was last read: the digest behind each tag, and which documents
were there. The first are facts, verified on the way in and on the way out. The second are hints: they
decide what is asked for first, and the registry's answer counts.

A cache is never in the way. Where it cannot be opened, read or written, the log has a warning and the reading goes on
without it; deleting it, also while it is in use, costs only requests.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from regaudit.errors import BadManifest, UsageError
from regaudit.manifest import AnyManifest, Index, Manifest, parse_manifest
from regaudit.reference import Digest
from regaudit.text import clean

logger = logging.getLogger("regaudit.inventory")

FILE_NAME = "regaudit-cache.sqlite"
_FORMAT = 1
# A manifest and its config take about 1.5 kB here: room for a registry of a million images.
MOST_BYTES = 2 << 30
# The most that a registry must accept and a reading takes (`client.exchange.MANIFEST_CAP`).
_LARGEST_DOCUMENT = 8 << 20
# Written this often, or when this much waits: a killed reading loses a second's work, and a write costs little of it.
_SECONDS_BETWEEN_WRITES = 1.0
_MOST_WAITING = 8 << 20
# Others write for milliseconds; who waits longer than this for them goes on without the cache.
_PATIENCE = 2.0
# Using a document is noted once a day, so that a warm reading hardly writes.
_DAY = 86400
# So many tags at once: reading more of them saves little, and would let a registry nearby wait.
READ_AHEAD = 32
# An index has children, and these have configs; what is deeper, or more, is read when it is asked for.
_DEEPEST_AHEAD = 1
_MOST_HANGING = 8 * READ_AHEAD
# Documents and notes of what was read ahead, about those of a thousand tags under way.
_MOST_AHEAD = 8192
# Down to this part of the limit when it is exceeded, so that it is not exceeded again at once.
_TRIMMED = 0.9

_SCHEMA = """
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL, media_type TEXT NOT NULL,
    size INTEGER NOT NULL, packed BLOB NOT NULL, used INTEGER NOT NULL, UNIQUE (digest, media_type)
);
CREATE INDEX documents_used ON documents (used);
CREATE TABLE places (id INTEGER PRIMARY KEY, registry TEXT NOT NULL, repository TEXT NOT NULL, UNIQUE (registry, repository));
CREATE TABLE tags (
    place INTEGER NOT NULL, tag TEXT NOT NULL, document INTEGER NOT NULL, PRIMARY KEY (place, tag)
) WITHOUT ROWID;
CREATE TABLE held (place INTEGER NOT NULL, document INTEGER NOT NULL, PRIMARY KEY (place, document)) WITHOUT ROWID;
"""


class Cache:
    """Manifests and image configs on this machine, and what each repository had when it was last read.

    For one thread; any number of processes may share the folder.

    Parameters
    ----------
    folder : path, optional
        Where the file is; by default the user's cache folder. Only the user can read it.
    most_bytes : int
        How large the file may grow; what was not used for longest goes first.

    Examples
    --------
    ``with Cache("build/cache") as cache: collect(registry, cache=cache)``
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, most_bytes: int = MOST_BYTES) -> None:
        if most_bytes < 1:
            raise UsageError("most_bytes= is the size that the cache may have: 1 or more; cache=None switches it off")
        self.path = (default_folder() if folder is None else Path(folder)) / FILE_NAME
        self._most_bytes = most_bytes
        self._codec = pa.Codec("lz4")
        self._documents: dict[tuple[str, str], tuple[bytes, int]] = {}
        self._tags: dict[tuple[int, str], tuple[str, str]] = {}
        self._held: set[tuple[int, str, str]] = set()
        self._gone: list[tuple[int, str]] = []
        self._released: list[tuple[int, str]] = []
        self._used: set[int] = set()
        self._new_places: set[int] = set()
        self._ahead: dict[tuple[str, str], AnyManifest | bytes] = {}
        self._unchanged: dict[tuple[int, str], tuple[str, str]] = {}
        self._sure: set[tuple[int, str, str]] = set()
        self._waiting = 0
        self._written_at = time.monotonic()
        self._connection: sqlite3.Connection | None = None
        with self._tolerant("opened"):
            self._connection = _open(self.path)

    # -- reading ------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether it could be opened, and has not failed since."""
        return self._connection is not None

    def place(self, registry: str, repository: str) -> int:
        """Return the number of a repository, for the other methods."""
        find = "SELECT id FROM places WHERE registry = ? AND repository = ?"
        row = None
        with self._tolerant("read"):
            row = self._one(find, (registry, repository))
            self._new_places.discard(0 if row is None else row[0])
            if row is None:
                self._write(
                    "INSERT OR IGNORE INTO places (registry, repository) VALUES (?, ?)", [(registry, repository)]
                )
                row = self._one(find, (registry, repository))
                self._new_places.add(0 if row is None else row[0])
        return 0 if row is None else int(row[0])

    def is_new(self, place: int) -> bool:
        """Return whether nothing was known of a repository when its number was first asked for: no need to look."""
        return place in self._new_places

    def known_tags(self, place: int, tags: Iterable[str], *, complete: bool) -> frozenset[str]:
        """Return which of the listed tags were there before, on documents that are here.

        Those that a complete list does not have are forgotten.
        """
        listed, known = frozenset(tags), set()
        query = "SELECT tag, EXISTS (SELECT 1 FROM documents WHERE id = document) FROM tags WHERE place = ?"
        for tag, here in self._all(query, (place,)):
            if tag not in listed:
                self._gone += [(place, tag)] if complete else []
            elif here:
                known.add(tag)
        return frozenset(known)

    def read_ahead(self, place: int, tags: Sequence[str]) -> None:
        """Read what some tags were on, and what hangs on it, all at once: one by one takes several times as long.

        Parameters
        ----------
        tags : sequence of str
            At most `READ_AHEAD`.
        """
        if (
            len(self._ahead) + len(self._unchanged) + len(self._sure) > _MOST_AHEAD
        ):  # left over from tags that have moved
            self._forget_ahead()
        hanging: dict[str, None] = {}
        for tag, held, *row in self._all(_BEHIND_TAGS, (place, *_padded(tags))) if tags else ():
            if self._take_ahead(row, hanging):
                _, digest, media_type, *_ = row
                self._unchanged[place, tag] = digest, media_type
                self._sure |= {(place, digest, media_type)} if held else set()
        self._read_hanging(place, [*hanging])

    def _read_hanging(self, place: int, digests: list[str], depth: int = 0) -> None:
        """Read the configs of images and the children of indexes, and their configs, as far as the repository had them."""
        deeper: dict[str, None] = {}
        for start in range(0, min(len(digests), _MOST_HANGING), READ_AHEAD):
            for row in self._all(_HANGING, (*_padded(digests[start : start + READ_AHEAD]), place)):
                if self._take_ahead(row, deeper):
                    self._sure.add((place, row[1], row[2]))
        if deeper and depth < _DEEPEST_AHEAD:
            self._read_hanging(place, [*deeper], depth + 1)

    def _take_ahead(self, row: Sequence[Any], hanging: dict[str, None]) -> bool:
        """Keep a document until it is asked for, and note what hangs on it; return whether it is what it says."""
        _, digest, media_type, *_ = row
        if (digest, media_type) in self._ahead:
            return True
        raw = self._verified(*row)
        document = raw if raw is None or not media_type else _parsed(raw, digest, media_type)
        if document is None:
            return False
        self._ahead[digest, media_type] = document
        if isinstance(document, Manifest):
            hanging[document.config.digest] = None
        elif isinstance(document, Index):
            hanging |= dict.fromkeys(child.digest for child in document.manifests)
        return True

    def manifest(self, digest: str, media_type: str, place: int | None = None) -> AnyManifest | None:
        """Return a manifest of exactly this digest and media type, verified, or None.

        Parameters
        ----------
        place : int, optional
            Only where that repository had it when it was last read.
        """
        if place is None or (place, digest, media_type) in self._sure:
            ahead = self._ahead.pop((digest, media_type), None)
            if ahead is not None and not isinstance(ahead, bytes):
                return ahead
        raw = self._raw(digest, media_type, place)
        return None if raw is None else _parsed(raw, digest, media_type)

    def config(self, digest: str, place: int) -> bytes | None:
        """Return the bytes of an image config that a repository had when it was last read, verified, or None."""
        if (place, digest, "") in self._sure:
            ahead = self._ahead.pop((digest, ""), None)
            if isinstance(ahead, bytes):
                return ahead
        return self._raw(digest, "", place)

    def _raw(self, digest: str, media_type: str, place: int | None) -> bytes | None:
        waiting = self._documents.get((digest, media_type))
        if waiting is not None and (place is None or (place, digest, media_type) in self._held):
            return self._unpacked(*waiting)
        row = None
        with self._tolerant("read"):
            row = self._one(_DOCUMENT, (digest, media_type))
            if row is not None and place is not None and not self._one(_HELD, (place, row[0])):
                return None
        return None if row is None else self._verified(*row)

    def _verified(self, document: int, digest: str, _: str, packed: Any, size: Any, used: int) -> bytes | None:
        raw = self._unpacked(packed, size)
        if raw is None or not Digest(digest).matches(raw):
            self._drop(document)
            return None
        if used + _DAY < time.time():
            self._used.add(document)
        return raw

    def _unpacked(self, packed: Any, size: Any) -> bytes | None:
        if not isinstance(packed, bytes) or not isinstance(size, int) or not 0 <= size <= _LARGEST_DOCUMENT:
            return None
        try:
            return bytes(self._codec.decompress(packed, decompressed_size=size, asbytes=True))
        except (pa.ArrowException, OSError, ValueError):
            return None

    # -- writing ------------------------------------------------------------------------------

    def add(self, place: int, digest: str, media_type: str, raw: bytes) -> None:
        """Remember a document, and that a repository has it; one that does not hash to its digest is left out.

        Parameters
        ----------
        media_type : str
            Of a manifest; empty for a config.
        """
        if self._connection is None or len(raw) > _LARGEST_DOCUMENT or not Digest(digest).matches(raw):
            return
        packed = self._codec.compress(raw, asbytes=True)
        self._documents[digest, media_type] = (packed, len(raw))
        self._waiting += len(packed)
        self.hold(place, digest, media_type)

    def hold(self, place: int, digest: str, media_type: str) -> None:
        """Remember that a repository has a document."""
        key = place, digest, media_type
        if key in self._sure:
            self._sure.discard(key)  # so it is written already
        elif self._connection is not None:
            self._held.add(key)

    def set_tag(self, place: int, tag: str, digest: str, media_type: str) -> None:
        """Remember what a tag is on."""
        if self._unchanged.pop((place, tag), None) == (digest, media_type):
            return
        if self._connection is not None:
            self._tags[place, tag] = (digest, media_type)

    def forget_tag(self, place: int, tag: str) -> None:
        """Forget what a tag was on."""
        self._tags.pop((place, tag), None)
        self._unchanged.pop((place, tag), None)
        self._gone.append((place, tag))

    def release(self, place: int, digest: str) -> None:
        """Note that a repository does not have a document any more."""
        self._sure.clear()
        self._released.append((place, digest))

    def tend(self) -> None:
        """Write what waits, if it is time for it."""
        if self._waiting >= _MOST_WAITING or time.monotonic() - self._written_at >= _SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Write what waits to the disk."""
        now = int(time.time())
        # forgotten here only when it was written: an interrupt in between leaves it for the last flush
        with self._tolerant("written"), self._transaction():
            self._write(_ADD, [(*key, size, packed, now) for key, (packed, size) in self._documents.items()])
            self._write("UPDATE documents SET used = ? WHERE id = ?", [(now, document) for document in self._used])
            self._write("DELETE FROM tags WHERE place = ? AND tag = ?", self._gone)
            self._write(_SET_TAG, [(place, tag, *on) for (place, tag), on in self._tags.items()])
            self._write(_RELEASE, self._released)
            self._write(_HOLD, sorted(self._held))
        self._forget_waiting()
        with self._tolerant("trimmed"):
            self._trim()
        self._written_at = time.monotonic()

    def _forget_waiting(self) -> None:
        self._documents, self._tags, self._held = {}, {}, set()
        self._gone, self._released, self._used, self._waiting = [], [], set(), 0

    def _forget_ahead(self) -> None:
        self._ahead, self._unchanged, self._sure = {}, {}, set()

    def _trim(self) -> None:
        if self.size_bytes <= self._most_bytes:
            return
        while (size := self.size_bytes) > self._most_bytes * _TRIMMED and (count := len(self)):
            surplus = max(1, int(count * (1 - self._most_bytes * _TRIMMED / size)))
            with self._transaction():
                self._write(_DROP_OLDEST, [(surplus,)])
        with self._transaction():
            for table in ("held", "tags"):
                self._write(f"DELETE FROM {table} WHERE document NOT IN (SELECT id FROM documents)", [()])
        self._give_back()

    def _give_back(self) -> None:
        if self._connection is not None:  # `execute` stops at its first page
            self._connection.executescript("PRAGMA incremental_vacuum")

    def _drop(self, document: int) -> None:
        logger.warning("the cache has a document that is not what it says: it is read again")
        with self._tolerant("written"), self._transaction():
            self._write("DELETE FROM documents WHERE id = ?", [(document,)])

    # -- the whole ----------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """The bytes in use in the file."""
        pages = [self._all(f"PRAGMA {name}", ()) for name in ("page_count", "freelist_count", "page_size")]
        count, free, size = (rows[0][0] if rows else 0 for rows in pages)
        return int((count - free) * size)

    def __len__(self) -> int:
        """Return how many documents it has."""
        rows = self._all("SELECT COUNT(*) FROM documents", ())
        return int(rows[0][0]) if rows else 0

    def clear(self) -> None:
        """Forget everything, and give the space back."""
        self._forget_waiting()
        self._forget_ahead()
        self._new_places.clear()
        with self._tolerant("cleared"):
            with self._transaction():
                for table in ("tags", "held", "documents", "places"):
                    self._write(f"DELETE FROM {table}", [()])
            self._give_back()

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.flush()
        self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Cache {clean(self.path, 200)}{'' if self.usable else ', not in use'}>"

    # -- SQLite -------------------------------------------------------------------------------

    @contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        """Go on without the cache where it fails."""
        try:
            yield
        except (sqlite3.Error, OSError, OverflowError) as error:
            logger.warning(
                "the cache %s cannot be %s (%s): going on without it", clean(self.path, 200), what, clean(error, 200)
            )
            self._abandon()
            if type(error) is sqlite3.DatabaseError:  # damaged, and damaged the next time too
                self.path.unlink(missing_ok=True)

    def _abandon(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        self._forget_waiting()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._connection is None:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _one(self, query: str, values: tuple[Any, ...]) -> Any:
        return None if self._connection is None else self._connection.execute(query, values).fetchone()

    def _all(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        with self._tolerant("read"):
            if self._connection is not None:
                return self._connection.execute(query, values).fetchall()
        return []

    def _write(self, statement: str, rows: Iterable[Any]) -> None:
        if self._connection is not None:
            self._connection.executemany(statement, rows)


# What is read from a registry takes the place of an entry that has come to harm.
_ADD = """
INSERT INTO documents (digest, media_type, size, packed, used) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (digest, media_type) DO UPDATE SET size = excluded.size, packed = excluded.packed, used = excluded.used
WHERE packed <> excluded.packed OR size <> excluded.size
"""
_COLUMNS = "id, digest, media_type, packed, size, used"
_DOCUMENT = f"SELECT {_COLUMNS} FROM documents WHERE digest = ? AND media_type = ?"
_ANY_OF = ", ".join("?" * READ_AHEAD)
_BEHIND_TAGS = f"""
SELECT tag, EXISTS (SELECT 1 FROM held WHERE held.place = tags.place AND held.document = id), {_COLUMNS}
FROM tags JOIN documents ON id = document WHERE place = ? AND tag IN ({_ANY_OF})
"""
_HANGING = f"""
SELECT {_COLUMNS} FROM documents
WHERE digest IN ({_ANY_OF}) AND EXISTS (SELECT 1 FROM held WHERE place = ? AND document = id)
"""
_DROP_OLDEST = "DELETE FROM documents WHERE id IN (SELECT id FROM documents ORDER BY used, id LIMIT ?)"
_HELD = "SELECT 1 FROM held WHERE place = ? AND document = ?"
_HOLD = "INSERT OR IGNORE INTO held SELECT ?, id FROM documents WHERE digest = ? AND media_type = ?"
_RELEASE = "DELETE FROM held WHERE place = ? AND document IN (SELECT id FROM documents WHERE digest = ?)"
# Rows that stay as they are must not be written again: a warm reading would rewrite the whole table.
_SET_TAG = """
INSERT INTO tags SELECT ?, ?, id FROM documents WHERE digest = ? AND media_type = ?
ON CONFLICT (place, tag) DO UPDATE SET document = excluded.document WHERE document <> excluded.document
"""


def _parsed(raw: bytes, digest: str, media_type: str) -> AnyManifest | None:
    try:
        manifest = parse_manifest(raw, media_type)
    except BadManifest:
        return None
    if manifest.digest != digest:  # the same bytes under another algorithm
        manifest = replace(manifest, digest=Digest(digest))
    return manifest if manifest.media_type == media_type else None


def _padded(names: Sequence[str]) -> list[str | None]:
    return [*names, *[None] * (READ_AHEAD - len(names))]


def default_folder() -> Path:
    """Return the folder of the user's cache."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("regaudit", appauthor=False))


def _open(path: Path) -> sqlite3.Connection:
    """Open the file, for this user alone; one that is damaged is made anew, one of another format is left alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # locked, full, read only, of another format: nothing that making it anew would heal
        logger.warning("the cache %s is damaged (%s): it is made anew", clean(path, 200), clean(error, 200))
        path.unlink()
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    # O_NOFOLLOW: a link in its place would have us write somewhere else.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    try:
        _prepare(connection)
        # Not WAL, which does not work on the network file systems that notebook servers live on. Not synchronous
        # either: everything is verified when it is read, and can be read again from the registry.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("SELECT digest, media_type, size, packed, used FROM documents LIMIT 1")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in {0, _FORMAT}:
        raise sqlite3.OperationalError(f"it is of format {version}, and this regaudit knows {_FORMAT}")
    if version == _FORMAT:
        return
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        # another process may have been quicker
        if connection.execute("PRAGMA user_version").fetchone() == (0,):
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


__all__ = ["Cache"]
