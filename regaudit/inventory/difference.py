"""Difference: what changed in a registry between two readings of it.

What one of the readings did not see is unknown, and never new or gone: a list that was not read
to its end, a repository outside the patterns that were asked for, a tag whose manifest was not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from regaudit.errors import UsageError
from regaudit.inventory.reading import Selection
from regaudit.inventory.stored import (
    blob_sizes,
    codes_among,
    distinct,
    footprints,
    place_among,
    repository_names,
    total,
)
from regaudit.text import clean, displayed, html_summary, html_table, human_bytes, isoformat, owned_folder

if TYPE_CHECKING:
    import os

    from regaudit.inventory.snapshot import Snapshot

CHANGES = ("new", "gone", "moved", "unknown")
READINGS = ("before", "after")
FILES: Mapping[str, str] = {
    "tags": "changed_tags.csv",
    "manifests": "changed_manifests.csv",
    "repositories": "growth.csv",
    "unread": "unread.csv",
}

_SHOWN_ROWS = 20
# Of a repository whose list of tags was not read to its end, no tag can be said to be missing.
_LISTING = frozenset({"catalog", "tags"})
_ABSENT, _KNOWN, _DANGLING, _UNREAD = range(4)


@dataclass(frozen=True, eq=False, slots=True)
class Difference:
    """What changed between two snapshots; made by `Snapshot.diff`.

    Attributes
    ----------
    registry : str
        Of the later snapshot.
    before_at, after_at : datetime
        When each reading began, UTC.
    stored_before, stored_after : int
        Bytes of all distinct blobs and manifests that each reading saw.
    tags : pandas.DataFrame
        A row for each tag that is not the same in both: registry, repository, tag, change {new, gone,
        moved, unknown}, digest_before, digest_after, image_id_before, image_id_after (v1 only), kind,
        created_before, created_after, content_bytes_before, content_bytes_after. A tag has moved if
        both readings list it and its digest (of v1: image id) differs, or its manifest is there in
        one alone. It is unknown where one of the readings cannot tell.
    manifests : pandas.DataFrame
        A row for each manifest that one reading saw alone: registry, repository, digest, change {new,
        gone, unknown}, kind, media_type, platform, created, manifest_bytes, content_bytes.
    repositories : pandas.DataFrame
        A row for each repository, the most grown first: registry, repository, change {new, gone,
        unknown, missing where it is in both}, and `_before`, `_after` and `_change` of tag_count,
        manifest_count, content_bytes (distinct configs and layers) and unique_bytes (those that no
        other repository holds); complete (whether both readings saw all of it). Figures of what was
        not asked for are missing, those of what was not fully read are lower bounds.
    unread : pandas.DataFrame
        What a reading did not see: reading {before, after}, repository (missing: the list of
        repositories), identifier, stage, error, message.
    """

    registry: str
    before_at: datetime
    after_at: datetime
    stored_before: int
    stored_after: int
    tags: pd.DataFrame
    manifests: pd.DataFrame
    repositories: pd.DataFrame
    unread: pd.DataFrame

    @property
    def complete(self) -> bool:
        """Whether both readings saw everything, so that nothing is unknown."""
        return bool(self.unread.empty)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of rows of each change, by table."""
        frames = {"tags": self.tags, "manifests": self.manifests, "repositories": self.repositories}
        return {name: {c: int((f["change"] == c).sum()) for c in CHANGES} for name, f in frames.items()}

    def frame(self) -> pd.DataFrame:
        """Return the changed tags as a table of one's own."""
        return self.tags.copy()

    def to_dict(self) -> dict[str, Any]:
        """Return what changed in figures, as plain values; the rows are in the tables."""
        return {
            "registry": self.registry,
            "before_at": isoformat(self.before_at),
            "after_at": isoformat(self.after_at),
            "stored_before": self.stored_before,
            "stored_after": self.stored_after,
            "complete": self.complete,
            **self.counts(),
        }

    def to_csv(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the four tables as CSV that is safe in a spreadsheet, and return their paths.

        They are ``changed_tags.csv``, ``changed_manifests.csv``, ``growth.csv`` and ``unread.csv``.
        """
        from regaudit.inventory.spreadsheet import write_csv

        target = owned_folder(folder)
        return [write_csv(getattr(self, name), target / file) for name, file in FILES.items()]

    # -- for people ---------------------------------------------------------------------------

    def summary(self) -> dict[str, str]:
        """Return what a person wants to know first, as texts by heading."""
        counts = self.counts()
        grown = self.stored_after - self.stored_before
        lines = {
            "registry": f"{self.registry}, from {isoformat(self.before_at)} to {isoformat(self.after_at)}",
            "repositories": _counted(counts["repositories"]),
            "tags": _counted(counts["tags"]),
            "manifests": _counted(counts["manifests"]),
            "storage": f"{human_bytes(self.stored_before)} → {human_bytes(self.stored_after)} ({_signed(grown)})",
            "grown most": self._grown(),
            "not read": self._unread_line(),
        }
        return {heading: clean(text, 400) for heading, text in lines.items()}

    def __str__(self) -> str:
        lines = self.summary()
        width = max(map(len, lines))
        return "\n".join(f"{heading:<{width}}  {text}" for heading, text in lines.items())

    def __repr__(self) -> str:
        return f"<Difference of {clean(self.registry, 80)}: tags {_counted(self.counts()['tags'])}>"

    def _repr_html_(self) -> str:
        return displayed(html_summary(self.summary()) + self._tag_table())

    def _grown(self) -> str:
        known = self.repositories.dropna(subset="content_bytes_change")
        grown = known[known["content_bytes_change"] > 0].head(3)
        pairs = zip(grown["repository"], grown["content_bytes_change"], strict=True)
        return ", ".join(f"{name} {_signed(change)}" for name, change in pairs) or "no repository grew"

    def _unread_line(self) -> str:
        if self.complete:
            return "nothing: both readings saw everything"
        counted = self.unread["reading"].value_counts()
        sides = ", ".join(f"{counted[side]:,} {side}" for side in READINGS if counted[side])
        return f"{sides}; what changed there is unknown"

    def _tag_table(self) -> str:
        if self.tags.empty:
            return ""
        shown = self.tags.head(_SHOWN_ROWS)[["repository", "tag", "change", "digest_before", "digest_after"]]
        rows = shown.astype("object").where(shown.notna(), "").to_numpy().tolist()
        more = len(self.tags) - len(rows)
        note = f"<p>and {more:,} more in <code>difference.tags</code></p>" if more else ""
        return html_table(list(shown.columns), rows) + note


def difference(before: Snapshot, after: Snapshot, *, across_registries: bool = False) -> Difference:
    """Return what changed from one snapshot to a later one: see `Snapshot.diff`."""
    if before.registry != after.registry and not across_registries:
        raise UsageError(
            f"the snapshots are of {clean(before.registry, 80)} and {clean(after.registry, 80)}: "
            "compare two of one registry, or say across_registries=True (--across-registries) for a mirror"
        )
    if before.taken_at > after.taken_at:
        raise UsageError(
            f"the first snapshot is of {isoformat(before.taken_at)}, the second of {isoformat(after.taken_at)}: "
            "give the earlier one first"
        )
    pair = _Pair(before, after)
    return Difference(
        registry=after.registry,
        before_at=before.taken_at,
        after_at=after.taken_at,
        stored_before=total(blob_sizes(before, with_manifests=True)),
        stored_after=total(blob_sizes(after, with_manifests=True)),
        tags=_changed_tags(pair),
        manifests=_changed_manifests(pair),
        repositories=_growth(pair),
        unread=_unread(pair),
    )


# -- two snapshots in one system of numbers ---------------------------------------------------


class _Side:
    """One of the two snapshots, its repositories and the digests of its manifests numbered as the other's are."""

    def __init__(self, snapshot: Snapshot, names: pd.Index[Any], digest_numbers: Any) -> None:
        self.snapshot = snapshot
        self.names = names
        self._numbers = digest_numbers  # by the snapshot's own code; the last is that of a missing digest
        place = np.zeros(len(names), dtype=bool)
        self.named = place.copy()
        self.named[names.get_indexer(pd.Index(snapshot.repositories, dtype=object))] = True
        self.asked = self.named | (~self.named & names.map(_covers(snapshot)).to_numpy(dtype=bool))
        blocking = snapshot.problems[snapshot.problems["blocking"].fillna(value=True)]
        listing = blocking[blocking["stage"].isin(_LISTING)]
        self.unlisted = names.isin(listing["repository"].dropna().astype(str))
        self.unread = names.isin(blocking["repository"].dropna().astype(str))

    def repository(self, table: str) -> Any:
        return codes_among(getattr(self.snapshot, table)["repository"], self.names)

    def digest(self, table: str) -> Any:
        return self._numbers[getattr(self.snapshot, table)["digest"].cat.codes.to_numpy()]

    def take(self, table: str, column: str, rows: Any) -> pd.Series[Any]:
        """Return a column at these rows; a row of -1 is missing."""
        values = getattr(self.snapshot, table)[column]
        if len(values) == 0:
            return values.reindex(range(len(rows))).reset_index(drop=True)
        return values.iloc[np.maximum(rows, 0)].reset_index(drop=True).mask(pd.Series(rows < 0))


class _Pair:
    def __init__(self, before: Snapshot, after: Snapshot) -> None:
        self.names = repository_names(before).union(repository_names(after))
        used = [_used_digests(snapshot) for snapshot in (before, after)]
        texts = pa.chunked_array([text for _, text in used]).combine_chunks()
        numbers = texts.dictionary_encode().indices.to_numpy().astype("int64")
        self.width = len(numbers) + 1
        split = len(used[0][0])
        tables = []
        for snapshot, (codes, _), part in zip((before, after), used, (numbers[:split], numbers[split:]), strict=True):
            table = np.full(len(snapshot.tags["digest"].cat.categories) + 1, -1, dtype="int64")
            table[codes] = part
            tables.append(table)
        self.before, self.after = (_Side(s, self.names, t) for s, t in zip((before, after), tables, strict=True))
        self.sides = (self.before, self.after)


def _used_digests(snapshot: Snapshot) -> tuple[Any, pa.Array]:
    """Return the codes and texts of the digests of manifests: most of the dictionary is blobs, which are not compared."""
    codes = [frame["digest"].cat.codes.to_numpy() for frame in (snapshot.tags, snapshot.manifests)]
    used = np.zeros(len(snapshot.tags["digest"].cat.categories) + 1, dtype=bool)
    for column in codes:
        used[column] = True
    found = np.flatnonzero(used[:-1])
    return found, pa.array(snapshot.tags["digest"].cat.categories[found], type=pa.large_string())


def _covers(snapshot: Snapshot) -> Callable[[str], bool]:
    """Return which repositories the snapshot would have, if the registry had listed them."""
    problems = snapshot.problems
    if (problems["repository"].isna() & problems["blocking"].fillna(value=True)).any():
        return lambda _: False  # the list of repositories was not read to its end
    wanted = tuple(pattern for pattern in snapshot.patterns if not pattern.startswith("!"))
    unwanted = tuple(pattern[1:] for pattern in snapshot.patterns if pattern.startswith("!"))
    selection = Selection(wanted, unwanted)
    return lambda name: bool(selection.of_catalog([name]))


# -- tags -------------------------------------------------------------------------------------


def _changed_tags(pair: _Pair) -> pd.DataFrame:
    names = pa.chunked_array([_texts(side.snapshot.tags["tag"]) for side in pair.sides]).combine_chunks()
    numbers = names.dictionary_encode().indices.to_numpy().astype("int64")
    width = int(numbers.max(initial=0)) + 1
    split = len(pair.before.snapshot.tags)
    keys = [
        side.repository("tags") * width + part
        for side, part in zip(pair.sides, (numbers[:split], numbers[split:]), strict=True)
    ]
    everything = distinct(np.concatenate(keys))
    rows = [_rows(key, everything) for key in keys]
    states = [_tag_states(side, side_rows) for side, side_rows in zip(pair.sides, rows, strict=True)]
    change = _tag_changes(pair, everything // width, states, _same_tags(pair, rows))
    kept = np.flatnonzero(change >= 0)
    found = [side_rows[kept] for side_rows in rows]
    return _tag_frame(pair, found, everything[kept] // width, change[kept])


def _rows(keys: Any, everything: Any) -> Any:
    """Return at which row each of the keys stands, or -1."""
    rows = np.full(len(everything), -1, dtype="int64")
    rows[place_among(keys, everything)] = np.arange(len(keys))
    return rows


def _tag_states(side: _Side, rows: Any) -> Any:
    """Return what a reading knows of each tag: that it is absent, its content, that it dangles, or nothing."""
    tags, problems = side.snapshot.tags, side.snapshot.problems
    known = (tags["digest"].notna() | tags["image_id"].notna()).to_numpy()
    gone = problems[(problems["error"] == "dangling") & ~problems["blocking"].fillna(value=True)]
    dangling = np.zeros(len(tags), dtype=bool)
    if len(gone):
        open_ones = np.flatnonzero(~known)
        there = pd.MultiIndex.from_frame(tags.iloc[open_ones][["repository", "tag"]].astype("object"))
        lost = pd.MultiIndex.from_frame(gone[["repository", "identifier"]].astype("object"))
        dangling[open_ones] = there.isin(lost)
    state = np.select([known, dangling], [_KNOWN, _DANGLING], _UNREAD)
    return np.where(rows < 0, _ABSENT, np.append(state, _ABSENT)[rows])


def _same_tags(pair: _Pair, rows: list[Any]) -> Any:
    """Return whether each tag has one content in both readings: 1, 0, or -1 where they cannot be compared."""
    digests = [np.append(side.digest("tags"), -1)[r] for side, r in zip(pair.sides, rows, strict=True)]
    texts = [_texts(side.snapshot.tags["image_id"]) for side in pair.sides]
    encoded = pa.chunked_array(texts).combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    halves = (encoded[: len(texts[0])], encoded[len(texts[0]) :])
    ids = [np.append(half, -1)[r] for half, r in zip(halves, rows, strict=True)]
    same = np.full(len(rows[0]), -1)
    for first, second in (ids, digests):  # where both are known, the digest decides
        comparable = (first >= 0) & (second >= 0)
        same = np.where(comparable, first == second, same)
    return same


def _tag_changes(pair: _Pair, repository: Any, states: list[Any], same: Any) -> Any:
    """Return each tag's change as a place in `CHANGES`, or -1."""
    before, after = states
    new, gone, moved, unknown = range(4)
    told = [(side.asked & ~side.unlisted)[repository] for side in pair.sides]
    both_known = (before == _KNOWN) & (after == _KNOWN)
    conditions: list[tuple[Any, Any]] = [
        (before == _ABSENT, np.where(told[0], new, unknown)),
        (after == _ABSENT, np.where(told[1], gone, unknown)),
        ((before == _UNREAD) | (after == _UNREAD) | (both_known & (same < 0)), unknown),
        ((before == _DANGLING) & (after == _DANGLING) | (both_known & (same == 1)), -1),
    ]
    return np.select([c for c, _ in conditions], [v for _, v in conditions], moved)


def _tag_frame(pair: _Pair, rows: list[Any], repository: Any, change: Any) -> pd.DataFrame:
    def each(column: str) -> list[pd.Series[Any]]:
        return [side.take("tags", column, r) for side, r in zip(pair.sides, rows, strict=True)]

    columns: dict[str, Any] = {
        "registry": _one(pair.after.snapshot.registry, len(change)),
        "repository": pd.Categorical.from_codes(repository, categories=pair.names),
        "tag": _later(*each("tag")),
        "change": pd.Categorical.from_codes(change, categories=list(CHANGES)),
    }
    for name in ("digest", "image_id"):
        first, second = each(name)
        columns |= {f"{name}_before": first.astype("string"), f"{name}_after": second.astype("string")}
    columns["kind"] = _later(*each("kind"))
    for name in ("created", "content_bytes"):
        first, second = each(name)
        columns |= {f"{name}_before": first, f"{name}_after": second}
    return pd.DataFrame(columns).sort_values(["repository", "tag"], ignore_index=True)


# -- manifests --------------------------------------------------------------------------------


def _changed_manifests(pair: _Pair) -> pd.DataFrame:
    keys = [side.repository("manifests") * pair.width + side.digest("manifests") for side in pair.sides]
    everything = distinct(np.concatenate(keys))
    rows = [_rows(key, everything) for key in keys]
    kept = np.flatnonzero((rows[0] < 0) | (rows[1] < 0))
    first, second = (side_rows[kept] for side_rows in rows)
    repository = everything[kept] // pair.width
    told = [(side.asked & ~side.unread)[repository] for side in pair.sides]
    new, gone, unknown = (CHANGES.index(word) for word in ("new", "gone", "unknown"))
    change = np.where(first < 0, np.where(told[0], new, unknown), np.where(told[1], gone, unknown))

    def either(column: str) -> pd.Series[Any]:
        return _later(pair.before.take("manifests", column, first), pair.after.take("manifests", column, second))

    columns: dict[str, Any] = {
        "registry": _one(pair.after.snapshot.registry, len(kept)),
        "repository": pd.Categorical.from_codes(repository, categories=pair.names),
        "digest": either("digest"),
        "change": pd.Categorical.from_codes(change, categories=list(CHANGES)),
    }
    names = ("kind", "media_type", "platform", "created", "manifest_bytes", "content_bytes")
    columns |= {name: either(name) for name in names}
    return pd.DataFrame(columns).sort_values(["repository", "digest"], ignore_index=True)


# -- repositories -----------------------------------------------------------------------------


def _growth(pair: _Pair) -> pd.DataFrame:
    count = len(pair.names)
    columns: dict[str, Any] = {
        "registry": _one(pair.after.snapshot.registry, count),
        "repository": pd.Categorical(pair.names, categories=pair.names),
        "change": _repository_changes(pair),
    }
    first, second = (_figures(side) for side in pair.sides)
    for name in first.columns:
        before, after = first[name], second[name]
        columns |= {f"{name}_before": before, f"{name}_after": after, f"{name}_change": after - before}
    whole = [side.asked & ~side.unread for side in pair.sides]
    columns["complete"] = pd.array(whole[0] & whole[1], dtype="boolean")
    order = ["content_bytes_change", "repository"]
    return pd.DataFrame(columns).sort_values(order, ascending=[False, True], ignore_index=True)


def _repository_changes(pair: _Pair) -> pd.Categorical:
    before, after = pair.sides
    new, gone, unknown = (CHANGES.index(word) for word in ("new", "gone", "unknown"))
    conditions = [before.named & after.named, ~before.named & ~before.asked, ~after.named & ~after.asked, ~before.named]
    return pd.Categorical.from_codes(np.select(conditions, [-1, unknown, unknown, new], gone), categories=list(CHANGES))


def _figures(side: _Side) -> pd.DataFrame:
    names = ["tag_count", "manifest_count", "content_bytes", "unique_bytes"]
    figures = footprints(side.snapshot, side.names)[names].astype("Int64")
    figures[~side.asked] = pd.NA
    of_v1 = side.snapshot.tags.loc[side.snapshot.tags["image_id"].notna(), "repository"].unique()
    # v1 names images, not what they share
    figures.loc[side.names.isin(of_v1.astype(str)), ["content_bytes", "unique_bytes"]] = pd.NA
    return figures


def _unread(pair: _Pair) -> pd.DataFrame:
    columns = ["repository", "identifier", "stage", "error", "message"]
    parts = []
    for reading, side in zip(READINGS, pair.sides, strict=True):
        problems = side.snapshot.problems
        part = problems.loc[problems["blocking"].fillna(value=True), columns].astype("string")
        outside = pd.DataFrame({"repository": pair.names[~side.asked]}, dtype="string").reindex(columns=columns)
        outside = outside.assign(error="not_asked", message="outside what this reading asked for").astype("string")
        parts.append(pd.concat([part, outside], ignore_index=True).assign(reading=reading))
    frame = pd.concat(parts, ignore_index=True)
    frame["reading"] = pd.Categorical(frame["reading"], categories=list(READINGS))
    return frame[["reading", *columns]]


# -- small things -----------------------------------------------------------------------------


def _texts(column: pd.Series[Any]) -> pa.Array:
    return pa.array(column, type=pa.large_string(), from_pandas=True)


def _one(value: str, count: int) -> pd.Categorical:
    return pd.Categorical.from_codes(np.zeros(count, dtype="int8"), categories=[value])


def _later(before: pd.Series[Any], after: pd.Series[Any]) -> pd.Series[Any]:
    """Return what the later reading says, else what the earlier one said; text where they are categories."""
    if isinstance(before.dtype, pd.CategoricalDtype):
        before, after = before.astype("string"), after.astype("string")
    return after.where(after.notna(), before)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {change}" for change, count in counts.items() if count) or "no change"


def _signed(count: Any) -> str:
    return f"+{human_bytes(count)}" if count >= 0 else f"-{human_bytes(-count)}"
