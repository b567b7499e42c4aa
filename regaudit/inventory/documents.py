"""Documents: manifests and image configs as the registry stores them, on disk where they are many.

The file is Parquet in groups of rows, written while a registry is read. Looking one up reads the
digests once and then its group: never the whole.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from regaudit.errors import SnapshotError
from regaudit.text import atomic_write, clean

# Of raw bytes: what is held while reading, and what is read to look up one document (20 ms).
_GROUP_BYTES = 16 << 20
_SCHEMA = pa.schema([("digest", pa.string()), ("media_type", pa.string()), ("raw", pa.binary())])


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest, index or image config as the registry stores it."""

    media_type: str
    raw: bytes = field(repr=False)


class Documents(Mapping[str, Document]):
    """The documents behind a snapshot, by digest: in memory, or in a file that is read as far as it is asked.

    Parameters
    ----------
    documents : mapping, optional
        Documents by digest, in memory.
    path : Path, optional
        A file that has them instead. One that does not exist has none.
    """

    def __init__(self, documents: Mapping[str, Document] | None = None, path: Path | None = None) -> None:
        self._loaded = None if documents is None and path is not None else dict(documents or {})
        self._path = path
        self._staged = False
        self._stored: _Stored | None = None

    @classmethod
    def staged(cls, path: Path, *, keep: bool) -> Self:
        """Return the documents of a file that was just written.

        Parameters
        ----------
        keep : bool
            Whether `save` may give it its name; else it is gone as soon as nobody reads it any more.
        """
        documents = cls(path=path)
        documents._staged = keep
        documents._file()
        if not keep:
            path.unlink()
        return documents

    def save(self, path: Path) -> None:
        """Write the documents to a file; where they are in it already, nothing is copied."""
        if self._loaded is not None:
            with _written(path) as writer:
                for digest, document in sorted(self._loaded.items()):
                    writer.add(digest, document.media_type, document.raw)
            return
        stored = self._file()
        if stored is not None and self._staged and self._path is not None and self._path.parent == path.parent:
            self._path.replace(path)
            self._path, self._staged = path, False
        elif stored is None or not stored.is_at(path):
            with _written(path) as writer:
                for group in range(0 if stored is None else stored.groups):
                    writer.copy(stored.group(group))  # type: ignore[union-attr]  # None has no groups
        else:
            return

    def _file(self) -> _Stored | None:
        if self._stored is None and self._path is not None and self._path.exists():
            with self._damage_said():
                self._stored = _Stored(self._path)
        return self._stored

    @contextmanager
    def _damage_said(self) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, pa.ArrowException) as error:
            raise SnapshotError(f"{clean(self._path)} is damaged ({clean(error, 120)}): audit again") from None

    def __getitem__(self, digest: str) -> Document:
        if self._loaded is not None:
            return self._loaded[digest]
        stored = self._file()
        found = None
        if stored is not None and isinstance(digest, str):
            with self._damage_said():
                found = stored.find(digest)
        if found is None:
            raise KeyError(digest)
        return found

    def __iter__(self) -> Iterator[str]:
        if self._loaded is not None:
            yield from self._loaded
            return
        stored = self._file()
        for group in range(0 if stored is None else stored.groups):
            with self._damage_said():
                digests = stored.group(group)["digest"].to_pylist()  # type: ignore[union-attr]  # as above
            yield from digests

    def __len__(self) -> int:
        if self._loaded is not None:
            return len(self._loaded)
        stored = self._file()
        return 0 if stored is None else stored.count

    def __reduce__(self) -> tuple[Any, ...]:
        return Documents, (dict(self),)


class _Stored:
    """A file of documents: where each one is, by a hash of its digest, 16 bytes for each; and the group last read."""

    def __init__(self, path: Path) -> None:
        self._file = pa.OSFile(str(path))  # stays readable when the name is gone
        self._identity = _identity(path)
        self._parquet = pq.ParquetFile(self._file)
        self.groups = self._parquet.num_row_groups
        hashes = [_hashes(self._parquet.read_row_group(group, ["digest"])["digest"]) for group in range(self.groups)]
        self._group_of = np.repeat(np.arange(self.groups, dtype=np.int32), [len(part) for part in hashes])
        joined = np.concatenate([np.zeros(0, dtype=np.uint64), *hashes])
        order = np.argsort(joined, kind="stable")
        self._hashes, self._group_of = joined[order], self._group_of[order]
        self.count = len(np.unique(joined))
        self._last: tuple[int, pa.Table, dict[str, int]] | None = None

    def is_at(self, path: Path) -> bool:
        """Return whether the file is the one of a name."""
        return self._identity == _identity(path)

    def group(self, number: int) -> pa.Table:
        return self._group(number)[1]

    def find(self, digest: str) -> Document | None:
        wanted = _hashes(pa.array([digest]))[0]
        low, high = np.searchsorted(self._hashes, wanted, "left"), np.searchsorted(self._hashes, wanted, "right")
        for number in self._group_of[low:high].tolist():
            _, table, rows = self._group(number)
            if digest in rows:
                row = rows[digest]
                return Document(table["media_type"][row].as_py(), table["raw"][row].as_py())
        return None

    def _group(self, number: int) -> tuple[int, pa.Table, dict[str, int]]:
        if self._last is None or self._last[0] != number:
            table = self._parquet.read_row_group(number, _SCHEMA.names)
            self._last = number, table, {digest: row for row, digest in enumerate(table["digest"].to_pylist())}
        return self._last


def _hashes(digests: Any) -> npt.NDArray[np.uint64]:
    return np.asarray(pd.util.hash_array(digests.to_numpy(zero_copy_only=False).astype(object)), dtype=np.uint64)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class DocumentWriter:
    """Takes documents while they are met: few stay in memory, many go to a file.

    Parameters
    ----------
    folder : Path, optional
        Where the file is to stay; else it is a private temporary one, gone with the `Documents` that read it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._writer: _Writer | None = None
        self._waiting: list[tuple[str, str, bytes]] = []
        self._bytes = 0

    def add(self, digest: str, media_type: str, raw: bytes) -> None:
        """Take a document; each digest once."""
        self._waiting.append((digest, media_type, raw))
        self._bytes += len(raw)
        if self._bytes >= _GROUP_BYTES:
            self._spill()

    def _spill(self) -> None:
        if self._writer is None:
            self._path = self._new_path()
            self._writer = _Writer(self._path)
        self._writer.write(self._waiting)
        self._waiting, self._bytes = [], 0

    def _new_path(self) -> Path:
        if self._folder is not None:
            return self._folder / f".documents.{secrets.token_hex(4)}.tmp"
        handle, name = tempfile.mkstemp(prefix="regaudit-", suffix=".parquet")
        os.close(handle)
        return Path(name)

    def finish(self) -> Documents:
        """Return the documents."""
        if self._writer is None or self._path is None:
            return Documents({digest: Document(media_type, raw) for digest, media_type, raw in self._waiting})
        if self._waiting:
            self._spill()
        self._writer.close()
        path, self._path = self._path, None
        return Documents.staged(path, keep=self._folder is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:  # not finished
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close() if self._writer is not None else None
            self._path.unlink(missing_ok=True)


class _Writer:
    """Writes groups of documents to a file."""

    def __init__(self, target: Any) -> None:
        # a file of Arrow's own: an interrupt cannot break off a write in the middle
        self._file = pa.OSFile(str(target), "wb") if isinstance(target, Path) else target
        self._parquet = pq.ParquetWriter(self._file, _SCHEMA, compression="zstd", use_dictionary=["media_type"])
        self._waiting: list[tuple[str, str, bytes]] = []
        self._bytes = 0

    def add(self, digest: str, media_type: str, raw: bytes) -> None:
        self._waiting.append((digest, media_type, raw))
        self._bytes += len(raw)
        if self._bytes >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self.write(self._waiting)
            self._waiting, self._bytes = [], 0

    def write(self, documents: list[tuple[str, str, bytes]]) -> None:
        columns = [list(column) for column in zip(*documents, strict=True)]
        self._parquet.write_table(pa.table(columns, schema=_SCHEMA), row_group_size=len(documents))

    def copy(self, group: pa.Table) -> None:
        self._parquet.write_table(group.select(_SCHEMA.names).cast(_SCHEMA), row_group_size=max(1, len(group)))

    def close(self) -> None:
        self.flush()
        self._parquet.close()
        if isinstance(self._file, pa.NativeFile):
            self._file.close()


@contextmanager
def _written(path: Path) -> Iterator[_Writer]:
    with atomic_write(path, "wb") as file:
        writer = _Writer(file)
        yield writer
        writer.close()


__all__ = ["Document", "DocumentWriter", "Documents"]
