"""Snapshot: the tables of one reading of a registry, and the documents behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from regaudit.errors import SnapshotError, UsageError
from regaudit.inventory.documents import Documents
from regaudit.inventory.tables import TABLES, check, columns_of, conform, digest_columns, digest_dtype
from regaudit.text import (
    atomic_write,
    clean,
    csv_guard,
    escape,
    html_table,
    human_age,
    human_bytes,
    isoformat,
    owned_folder,
    parse_time,
)

if TYPE_CHECKING:
    import os

FORMAT = "regaudit-snapshot/1"
_DIGEST_FILE = "digests.parquet"
_DOCUMENT_FILE = "documents.parquet"
_HEADER_FILE = "snapshot.json"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What one reading of a registry found.

    Attributes
    ----------
    registry : str
        Normalised ``host[:port]``.
    taken_at, finished_at : datetime
        When the reading began and ended, UTC.
    patterns : tuple of str
        What was asked for; empty for the whole catalog. What was left out begins with ``!``.
    repositories : tuple of str
        Every repository that was to be read, empty and unread ones included.
    tags, manifests, blobs, children, problems : pandas.DataFrame
        The tables of `regaudit.inventory.tables`.
    documents : Documents
        Manifests and image configs by digest, as raw bytes; empty where they were not kept.
    requests : dict
        How many requests of each kind the reading took.
    cached : int
        How many manifests and configs it took from the cache instead.
    """

    registry: str
    taken_at: datetime
    finished_at: datetime
    patterns: tuple[str, ...]
    repositories: tuple[str, ...]
    tags: pd.DataFrame
    manifests: pd.DataFrame
    blobs: pd.DataFrame
    children: pd.DataFrame
    problems: pd.DataFrame
    documents: Documents = field(default_factory=Documents)
    requests: Mapping[str, int] = field(default_factory=dict)
    cached: int = 0

    @classmethod
    def from_columns(cls, columns: Mapping[str, Mapping[str, list[Any]]], **fields: Any) -> Snapshot:
        """Return a snapshot of tables that are still columns of plain values, with one dictionary of digests."""
        digests = digest_dtype(d for table in TABLES for name in digest_columns(table) for d in columns[table][name])
        return cls(**{table: conform(table, columns[table], digests) for table in TABLES}, **fields)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The five tables by name."""
        return {table: getattr(self, table) for table in TABLES}

    @property
    def unread(self) -> frozenset[str]:
        """The repositories in which something was not read; nothing may be deleted there."""
        blocking = self.problems[self.problems["blocking"].fillna(value=True)]
        return frozenset(blocking["repository"].dropna().astype(str))

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for was read."""
        return not self.problems["blocking"].fillna(value=True).any()

    @property
    def whole(self) -> bool:
        """Whether all of the registry was read: only then does nothing unseen hold the same layers."""
        return set(self.patterns) <= {"**"} and self.complete

    # -- on disk ------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the snapshot as a folder of Parquet files and return the folder.

        A digest is stored once, in ``digests.parquet``; digest columns are positions in it.
        The header file is written last: a folder without it is no snapshot.
        """
        target = owned_folder(folder)
        dictionary = self.tags["digest"].cat.categories
        encoded = {name: _encoded(name, frame, dictionary) for name, frame in self.tables.items()}
        (target / _HEADER_FILE).unlink(missing_ok=True)
        _write_parquet(target / _DIGEST_FILE, pa.table({"digest": pa.array(list(dictionary), pa.string())}))
        for name, frame in encoded.items():
            _write_parquet(target / f"{name}.parquet", pa.Table.from_pandas(frame, preserve_index=False))
        self.documents.save(target / _DOCUMENT_FILE)
        with atomic_write(target / _HEADER_FILE) as file:
            json.dump(self._header(), file, indent=2, sort_keys=True)
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Snapshot:
        """Return the snapshot in a folder that `save` wrote.

        Raises
        ------
        SnapshotError
            Where the folder is no snapshot, is damaged, or was written in another format.
        """
        source = Path(folder)
        header = _read_header(source)
        try:
            dictionary = pq.read_table(source / _DIGEST_FILE)["digest"].to_pylist()
            tables = {
                name: _decoded(name, pq.read_table(source / f"{name}.parquet").to_pandas(), dictionary)
                for name in TABLES
            }
            return cls(
                registry=header["registry"],
                taken_at=_time(header["taken_at"]),
                finished_at=_time(header["finished_at"]),
                patterns=tuple(header["patterns"]),
                repositories=tuple(header["repositories"]),
                requests=header["requests"],
                cached=header.get("cached", 0),
                documents=Documents(path=source / _DOCUMENT_FILE),
                **tables,
            )
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise SnapshotError(f"{clean(source)} is damaged ({clean(error, 120)}): audit the registry again") from None

    def to_csv(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write one CSV for each table, safe to open in a spreadsheet, and return their paths.

        The columns are those of the tables; sizes are bytes, times RFC 3339 in UTC. Text that a
        spreadsheet would run begins with ``'``; the Parquet files have the text as it was.
        """
        target = owned_folder(folder)
        return [write_csv(frame, target / f"{name}.csv") for name, frame in self.tables.items()]

    def _header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "registry": self.registry,
            "taken_at": self.taken_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "patterns": list(self.patterns),
            "repositories": list(self.repositories),
            "requests": dict(self.requests),
            "cached": self.cached,
            "rows": {name: len(frame) for name, frame in self.tables.items()},
        }

    # -- for people ---------------------------------------------------------------------------

    def summary(self) -> dict[str, str]:
        """Return what a person wants to know first, as texts by heading."""
        tags = self.tags
        known = tags["created"].dropna()
        ages = "no tag has a known age"
        if len(known):
            oldest, newest = human_age(known.min(), self.taken_at), human_age(known.max(), self.taken_at)
            ages = f"newest {newest}, median {human_age(known.median(), self.taken_at)}, oldest {oldest}"
        unknown = int(tags["created"].isna().sum())
        lines = {
            "registry": f"{self.registry}, read {isoformat(self.taken_at)} in {self._seconds():.1f} s"
            f" with {sum(self.requests.values()):,} requests",
            "repositories": f"{len(self.repositories):,}, with {len(tags):,} tags on {self._contents()}",
            "storage": self._storage(),
            "ages": f"{ages}; unknown: {unknown:,}",
            "largest": self._largest(),
            "requests": self._request_line(),
            "problems": self._problem_line(),
        }
        return {heading: clean(text, 400) for heading, text in lines.items()}

    def stored_bytes(self) -> int:
        """Return the bytes of all distinct blobs and manifests that were read."""
        blobs = self.blobs.drop_duplicates("digest")["size_bytes"]
        manifests = self.manifests.drop_duplicates("digest")["manifest_bytes"]
        # summed as Python's integers: sizes are claims, and 64 bits wrap round
        return int(sum(blobs.dropna().tolist()) + sum(manifests.dropna().tolist()))

    def __str__(self) -> str:
        lines = self.summary()
        width = max(map(len, lines))
        return "\n".join(f"{heading:<{width}}  {text}" for heading, text in lines.items())

    def __repr__(self) -> str:
        state = "complete" if self.complete else "incomplete"
        return f"<Snapshot of {clean(self.registry, 80)}: {len(self.repositories)} repositories, {len(self.tags)} tags, {state}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left">{escape(heading)}</th>'
            f'<td style="text-align:left">{escape(text)}</td></tr>'
            for heading, text in self.summary().items()
        )
        return f"<table><tbody>{rows}</tbody></table>{self._problem_table()}"

    def _contents(self) -> str:
        image_ids = self.tags["image_id"].nunique()
        return f"{image_ids:,} image ids" if image_ids else f"{self.tags['digest'].nunique():,} digests"

    def _storage(self) -> str:
        if self.tags["image_id"].notna().any():
            return "not known: the v1 interface names images, not what they share; see content_bytes of each tag"
        blobs, manifests = (frame["digest"].nunique() for frame in (self.blobs, self.manifests))
        return f"{human_bytes(self.stored_bytes())} in {blobs:,} distinct blobs and {manifests:,} manifests"

    def _seconds(self) -> float:
        return (self.finished_at - self.taken_at).total_seconds()

    def _largest(self) -> str:
        if self.tags["image_id"].notna().any():
            tags = self.tags.dropna(subset="content_bytes").nlargest(3, "content_bytes")
            names = tags["repository"].astype("string") + ":" + tags["tag"]
            pairs = zip(names, tags["content_bytes"], strict=True)
            return ", ".join(f"{name} {human_bytes(size)}" for name, size in pairs) or "no size is known"
        held = self.blobs.drop_duplicates(["repository", "digest"])
        sizes = held.groupby("repository", observed=True)["size_bytes"].sum().sort_values(ascending=False).head(3)
        return ", ".join(f"{name} {human_bytes(size)}" for name, size in sizes.items()) or "nothing stored"

    def _request_line(self) -> str:
        kinds = sorted(self.requests.items(), key=lambda item: (-item[1], item[0]))
        counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds) or "none"
        return counted + (f"; {self.cached:,} documents came from the cache" if self.cached else "")

    def _problem_line(self) -> str:
        if self.problems.empty:
            return "none: everything was read"
        kinds = self.problems["error"].value_counts()
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        unread = len(self.unread)
        state = f"repositories not fully read: {unread}" if unread else "everything else was read"
        if self.problems["repository"].isna().any():
            state = "the list of repositories is not complete"
        return f"{counted}; {state}"

    def _problem_table(self) -> str:
        if self.problems.empty:
            return ""
        shown = self.problems.head(20)[["repository", "identifier", "error", "message"]].astype("object")
        rows = shown.where(shown.notna(), "").to_numpy().tolist()
        more = len(self.problems) - len(rows)
        note = f"<p>and {more} more in <code>snapshot.problems</code></p>" if more else ""
        return html_table(list(shown.columns), rows) + note


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV that is safe in a spreadsheet, whole or not at all."""
    guarded = {}
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            safe = {value: csv_guard(value) for value in column.cat.categories}
            guarded[name] = column.astype("object").map(safe, na_action="ignore")
        elif isinstance(column.dtype, pd.DatetimeTZDtype):
            guarded[name] = column.map(lambda moment: moment.isoformat(), na_action="ignore").astype("object")
        else:
            guarded[name] = (
                column.map(csv_guard, na_action="ignore") if column.dtype in ("string", "object") else column
            )
    with atomic_write(path) as file:
        pd.DataFrame(guarded, index=frame.index).to_csv(file, index=False, lineterminator="\r\n")
    return path


def _time(text: str) -> datetime:
    moment = parse_time(text)
    if moment is None:
        raise ValueError("no time")
    return moment


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / _HEADER_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        raise SnapshotError(
            f"{clean(folder)} is not a snapshot: name the folder 'snapshot' in what `regaudit audit … --out DIR` wrote, "
            "or the folder given to Snapshot.save"
        ) from None
    found = header.get("format") if isinstance(header, dict) else None
    if found != FORMAT:
        raise SnapshotError(
            f"{clean(folder)} is of the format {clean(found, 60)!r} and this regaudit reads {FORMAT!r}: "
            "audit the registry again, or use the regaudit that wrote it"
        )
    return dict(header)


def _encoded(table: str, frame: pd.DataFrame, dictionary: pd.Index[Any]) -> pd.DataFrame:
    """Replace digests by their positions in the dictionary; a missing one is missing."""
    check(table, frame)
    codes = {}
    for name in digest_columns(table):
        # Equal dtypes may list their categories in another order, and positions would name other digests.
        if not frame[name].cat.categories.equals(dictionary):
            raise UsageError(
                f"{table}.{name} has its own dictionary of digests: make the tables by Snapshot.from_columns"
            )
        code = pd.Series(frame[name].cat.codes, index=frame.index).astype("Int32")
        codes[name] = code.mask(code < 0)
    return frame.assign(**codes)


def _decoded(table: str, frame: pd.DataFrame, dictionary: list[str]) -> pd.DataFrame:
    # In the order of the file: the positions count in it.
    dtype = pd.CategoricalDtype(pd.Index(dictionary, dtype=object))
    for name in digest_columns(table):
        codes = frame[name].astype("Int32").fillna(-1).to_numpy(dtype="int32")
        frame[name] = pd.Categorical.from_codes(codes, dtype=dtype)
    decoded = conform(table, {name: frame[name] for name in columns_of(table)}, dtype)
    check(table, decoded)
    return decoded


def _write_parquet(path: Path, table: pa.Table) -> None:
    with atomic_write(path, "wb") as file:
        pq.write_table(table, file, compression="zstd")
