"""Snapshot: the tables of one reading of a registry, and the documents behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from regaudit.errors import SnapshotError
from regaudit.inventory.documents import Documents
from regaudit.inventory.parquet import check_digests, read_digests, read_table, write_digests, write_table
from regaudit.inventory.spreadsheet import write_csv
from regaudit.inventory.tables import TABLES, conform, digest_columns, digest_dtype
from regaudit.text import (
    atomic_write,
    clean,
    count_of,
    displayed,
    html_summary,
    html_table,
    human_age,
    human_bytes,
    isoformat,
    owned_folder,
    parse_time,
)

if TYPE_CHECKING:
    import os

    from regaudit.inventory.difference import Difference
    from regaudit.inventory.image import ImageDetails

FORMAT = "regaudit-snapshot/2"
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

    @property
    def why_nothing(self) -> str | None:
        """Why nothing at all could be read, as the first problem says it; None where something was, or was not asked for."""
        interrupted = (self.problems["error"] == "interrupted").any()
        if self.complete or interrupted or self.tags[["digest", "image_id"]].notna().any(axis=None):
            return None
        return clean(self.problems["message"].iloc[0])

    # -- on disk ------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the snapshot as a folder of Parquet files and return the folder.

        A digest is stored once, in ``digests.parquet``; digest columns are positions in it.
        The header file is written last: a folder without it is no snapshot.
        """
        target = owned_folder(folder)
        dictionary = self.tags["digest"].cat.categories
        for name, frame in self.tables.items():
            check_digests(name, frame, dictionary)
        (target / _HEADER_FILE).unlink(missing_ok=True)
        write_digests(target / _DIGEST_FILE, dictionary)
        for name, frame in self.tables.items():
            write_table(target / f"{name}.parquet", name, frame)
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
            digests = read_digests(source / _DIGEST_FILE)
            tables = {name: read_table(source / f"{name}.parquet", name, digests) for name in TABLES}
            # Arrow keeps what it read with for the next file, and there is none.
            pa.default_memory_pool().release_unused()
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

    # -- questions ----------------------------------------------------------------------------

    def diff(self, later: Snapshot, *, across_registries: bool = False) -> Difference:
        """Return what changed from this reading to a later one.

        Parameters
        ----------
        later : Snapshot
            A reading of the same registry.
        across_registries : bool
            Compare readings of two registries, for example of a mirror.

        Returns
        -------
        Difference
            With the tables ``tags``, ``manifests``, ``repositories`` and ``unread``. What one reading
            did not see is ``unknown``, never ``new`` or ``gone``.

        Raises
        ------
        UsageError
            The other one is earlier, or of another registry.
        """
        from regaudit.inventory.difference import difference

        return difference(self, later, across_registries=across_registries)

    def image(self, name: str) -> ImageDetails:
        """Return all that is known of one image: layers and who shares them, history, labels, platforms, referrers.

        Parameters
        ----------
        name : str
            ``"repository:tag"`` or ``"repository@sha256:…"``, with or without the registry in front.

        Returns
        -------
        ImageDetails
            Displays itself. What the documents would tell is missing where they were not kept; it says so.

        Raises
        ------
        UsageError
            The snapshot has no such tag or manifest; the message names what it has.
        """
        from regaudit.inventory.image import image_details

        return image_details(self, name)

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
            f" with {count_of(sum(self.requests.values()), 'request')}",
            "repositories": f"{len(self.repositories):,}, with {count_of(len(tags), 'tag')} on {self._contents()}",
            "storage": self._storage(),
            "ages": f"{ages}; unknown: {unknown:,}",
            "largest": self._largest(),
            "requests": self._request_line(),
            "problems": self._problem_line(),
        }
        return {heading: clean(text, 400) for heading, text in lines.items()}

    def stored_bytes(self) -> int:
        """Return the bytes of all distinct blobs and manifests that were read."""
        blobs, manifests = self.blobs, self.manifests
        return _sum_of_first(blobs["digest"], blobs["size_bytes"]) + _sum_of_first(
            manifests["digest"], manifests["manifest_bytes"]
        )

    def __str__(self) -> str:
        lines = self.summary()
        width = max(map(len, lines))
        return "\n".join(f"{heading:<{width}}  {text}" for heading, text in lines.items())

    def __repr__(self) -> str:
        state = "complete" if self.complete else "incomplete"
        found = f"{count_of(len(self.repositories), 'repository', 'repositories')}, {count_of(len(self.tags), 'tag')}"
        return f"<Snapshot of {clean(self.registry, 80)}: {found}, {state}>"

    def _repr_html_(self) -> str:
        return displayed(html_summary(self.summary()) + self._problem_table())

    def _contents(self) -> str:
        image_ids = self.tags["image_id"].nunique()
        return count_of(image_ids, "image id") if image_ids else count_of(_distinct(self.tags["digest"]), "digest")

    def _storage(self) -> str:
        if self.tags["image_id"].notna().any():
            return "not known: the v1 interface names images, not what they share; see content_bytes of each tag"
        blobs, manifests = (_distinct(frame["digest"]) for frame in (self.blobs, self.manifests))
        return f"{human_bytes(self.stored_bytes())} in {count_of(blobs, 'distinct blob')} and {count_of(manifests, 'manifest')}"

    def _seconds(self) -> float:
        return (self.finished_at - self.taken_at).total_seconds()

    def _largest(self) -> str:
        if self.tags["image_id"].notna().any():
            tags = self.tags.dropna(subset="content_bytes").nlargest(3, "content_bytes")
            names = tags["repository"].astype("string") + ":" + tags["tag"]
            pairs = zip(names, tags["content_bytes"], strict=True)
            return ", ".join(f"{name} {human_bytes(size)}" for name, size in pairs) or "no size is known"
        repository, digest = (self.blobs[name].array.codes.astype("int64") for name in ("repository", "digest"))
        once = ~pd.Series((repository << 32) | (digest + 1)).duplicated().to_numpy()
        held = self.blobs[["repository", "size_bytes"]][once]
        sizes = held.groupby("repository", observed=True)["size_bytes"].sum().sort_values(ascending=False).head(3)
        return ", ".join(f"{name} {human_bytes(size)}" for name, size in sizes.items()) or "nothing stored"

    def _request_line(self) -> str:
        kinds = sorted(self.requests.items(), key=lambda item: (-item[1], item[0]))
        counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds) or "none"
        return counted + (f"; {count_of(self.cached, 'document')} came from the cache" if self.cached else "")

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


def _distinct(column: pd.Series[Any]) -> int:
    """Return how many categories a column has a value of: marked, for to hash ten million values takes far longer."""
    seen = np.zeros(len(column.cat.categories) + 1, dtype=bool)
    seen[column.array.codes] = True  # a missing one is -1, the last
    return int(seen[:-1].sum())


def _sum_of_first(digest: pd.Series[Any], size: pd.Series[Any]) -> int:
    """Return the sum of the first size that stands beside each digest, and beside none."""
    first = np.full(len(digest.cat.categories) + 1, -1, dtype="int64")
    first[digest.array.codes[::-1]] = size.to_numpy("int64", na_value=-1)[::-1]
    known = first[first > 0]
    # In two halves, and Python's integers: sizes are claims, and 64 bits wrap round.
    return (int((known >> 32).sum()) << 32) + int((known & 0xFFFFFFFF).sum())


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
