"""Bytes: what repositories hold, what they share, what a set of deletions would free.

A blob, like a manifest, is stored once however many repositories hold it, and its bytes come back
(at the registry's next garbage collection) only when its last holder is gone. All figures are of
the registry *as read*: holders that were not read are not known, and no blob is bigger than the
smallest size that any manifest declares for it. Where no manifest declares one (schema 1), the
size is unknown and counts 0, and the figure is a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from regaudit.errors import UsageError
from regaudit.inventory.snapshot import Snapshot

# A sum of hostile sizes, each up to 2^63-1, stops here instead of wrapping round to a negative one:
# the largest number that is exact in both float64 and Int64.
_LARGEST_SUM = 2**63 - 1024
# Sums are made in float64, which is exact for whole numbers up to here (9 PB); single answers of
# more are added up as Python integers.
_EXACT = 2**53
_UNKNOWN = -1
# Where so many times fewer names are looked up than there are, searching each is quicker than hashing them all.
_FEW = 16
# What a footprint says that only digests can tell.
_OF_BLOBS = ["blob_count", "content_bytes", "unique_bytes", "shared_bytes"]


def footprint(snapshot: Snapshot) -> pd.DataFrame:
    """Return what each repository holds, alone and together with others.

    Returns
    -------
    pandas.DataFrame
        A row for each repository that was to be read, the largest first: registry, repository,
        tag_count, manifest_count, blob_count (distinct configs and layers), content_bytes (theirs),
        unique_bytes (those of them that no other repository holds), shared_bytes (the rest),
        manifest_bytes (the manifests themselves), unsized_count (blobs of unknown size, which count
        0), complete (whether everything here was read). An empty repository has zeros; on a registry of
        the v1 interface, which does not name what images share, what it holds is missing.
    """
    names = repository_names(snapshot)
    count = len(names)
    holder, blob = _held_blobs(snapshot, names)
    sizes = _sizes(snapshot)[blob]
    alone = np.bincount(blob)[blob] == 1
    unsized = np.bincount(holder[sizes == _UNKNOWN], minlength=count)
    np.maximum(sizes, 0, out=sizes)
    content = _sums(holder, sizes, count)
    unique = _sums(holder[alone], sizes[alone], count)
    manifests = snapshot.manifests
    owner = _codes(manifests["repository"], names)
    frame = pd.DataFrame(
        {
            "registry": pd.Categorical([snapshot.registry] * count),
            "repository": pd.Categorical(names, categories=names),
            "tag_count": np.bincount(_codes(snapshot.tags["repository"], names), minlength=count),
            "manifest_count": np.bincount(owner, minlength=count),
            "blob_count": np.bincount(holder, minlength=count),
            "content_bytes": content,
            "unique_bytes": unique,
            "shared_bytes": content - unique,
            "manifest_bytes": _sums(owner, manifests["manifest_bytes"].fillna(0).to_numpy("int64"), count),
            "unsized_count": unsized,
            "complete": pd.array(~names.isin(snapshot.unread), dtype="boolean"),
        }
    )
    frame = frame.astype({name: "Int64" for name in frame.columns if name.endswith(("_count", "_bytes"))})
    of_v1 = snapshot.tags.loc[snapshot.tags["image_id"].notna(), "repository"].unique()
    frame.loc[frame["repository"].isin(of_v1), _OF_BLOBS] = pd.NA
    return frame.sort_values(["content_bytes", "repository"], ascending=[False, True], ignore_index=True)


def reclaimable_bytes(snapshot: Snapshot, manifests: pd.DataFrame | Iterable[tuple[str, str]]) -> int:
    """Return the bytes that come back once these manifests are gone.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    manifests : DataFrame or iterable of (repository, digest)
        Exactly these: an index's children and a subject's referrers are not added. A DataFrame
        needs the columns ``repository`` and ``digest``; rows without a digest are passed over.

    Returns
    -------
    int
        Bytes of manifests, configs and layers that nothing else in the registry as read holds.
    """
    return Holders(snapshot).reclaimable(manifests)


class Holders:
    """Who holds which bytes: built once from a snapshot, then asked about sets of manifests.

    A manifest holds itself, its config and its layers; an index holds the manifests that it lists too, but not what
    these hold: that is how garbage collection counts.

    Building reads every edge of the snapshot; a question costs only the edges of the manifests
    asked about.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        manifests, blobs = snapshot.manifests, snapshot.blobs
        self._names = repository_names(snapshot)
        self._digests = manifests["digest"].cat.categories
        self._width = max(len(self._digests), 1)
        self.sizes = _sizes(snapshot, with_manifests=True)
        keys = self._key(manifests["repository"], manifests["digest"])
        self._keys = _distinct(keys[keys >= 0])
        self._items, self._ends = self._edges(blobs, self._listed(snapshot.children))
        self._starts = np.append(0, self._ends[:-1])
        self._is_blob = np.zeros(self._width, dtype=bool)
        self._is_blob[blobs["digest"].array.codes] = True
        self.holder_counts = np.bincount(self._items, minlength=len(self._digests))

    def _edges(self, blobs: pd.DataFrame, children: pd.DataFrame) -> tuple[Any, Any]:
        """Return what each manifest holds, one after the other, and where that of each ends.

        Itself, its config and layers, and an index its children; each once, however often it lists them.
        """
        count = len(self._keys)
        # A manifest's blobs stand together, so that it is looked for once, not once for each of them.
        repository, manifest = blobs["repository"].array.codes, blobs["manifest_digest"].array.codes
        starts = np.flatnonzero(
            np.append(True, (manifest[1:] != manifest[:-1]) | (repository[1:] != repository[:-1]))[: len(blobs)]
        )
        first = blobs[["repository", "manifest_digest"]].iloc[starts]
        holder = self._place(self._key(first["repository"], first["manifest_digest"]))
        holder = np.repeat(holder.astype("int32"), np.diff(np.append(starts, len(blobs))))
        pairs = _Pairs(len(self._digests), len(blobs) + len(children) + count)
        pairs.add(holder, blobs["digest"].array.codes)
        parent = self._place(self._key(children["repository"], children["index_digest"]))
        pairs.add(parent, children["digest"].array.codes)
        pairs.add(np.arange(count), self._keys % self._width)
        holder, items = pairs.distinct()
        return items, np.cumsum(np.bincount(holder, minlength=count))

    def reclaimable(self, manifests: pd.DataFrame | Iterable[tuple[str, str]]) -> int:
        """Return the bytes that nothing else holds once these (repository, digest) manifests are gone."""
        repositories, digests = _columns(manifests)
        places = self._place(self._key(repositories, digests))
        places = _distinct(places[places >= 0])
        held = np.bincount(self.items_of_places(places), minlength=len(self.sizes))
        return _total(self.sizes[(held > 0) & (held == self.holder_counts)])

    def freed_in_order(
        self, manifests: pd.DataFrame | Iterable[tuple[str, str]]
    ) -> tuple[list[int], list[tuple[str, ...]], bool]:
        """Return what each manifest adds to what comes back, when they go in this order.

        Returns
        -------
        list of int
            For each manifest, its bytes.
        list of tuple of str
            For each manifest, the digests of the configs and layers among it.
        bool
            Whether something of unknown size comes back too.
        """
        places = self.places(manifests)
        read = np.flatnonzero(places >= 0)
        items = self.items_of_places(places[read])
        lengths = np.zeros(len(places), dtype="int64")
        lengths[read] = self._ends[places[read]] - self._starts[places[read]]
        last = np.flatnonzero(_occurrence(items) == self.holder_counts[items])
        row = np.repeat(np.arange(len(places)), lengths)[last]
        sizes = self.sizes[items[last]]
        unsized = len(read) < len(places) or bool((sizes == _UNKNOWN).any())
        return _sums_of_each(row, sizes, len(places)), self._blobs_of_each(row, items[last], len(places)), unsized

    def _blobs_of_each(self, group: Any, items: Any, count: int) -> list[tuple[str, ...]]:
        """Return the digests of each group, given group by group, that are blobs of a manifest and not one themselves."""
        listed = self._is_blob[items]
        group, items = group[listed], items[listed]
        names = self._digests.take(items).to_numpy(object).tolist()
        ends = np.cumsum(np.bincount(group, minlength=count)).tolist()
        return [tuple(sorted(names[start:end])) for start, end in zip([0, *ends], ends, strict=False)]

    def tally(self) -> Tally:
        """Return an empty tally, which grows and shrinks one manifest at a time."""
        return Tally(self)

    def items_of(self, repository: str, digest: str) -> Any:
        """Return the codes of what one manifest holds, itself included, or None where it was not read."""
        try:
            key = self._names.get_loc(repository) * self._width + self._digests.get_loc(digest)
        except KeyError:
            return None
        place = np.searchsorted(self._keys, key)
        if place == len(self._keys) or self._keys[place] != key:
            return None
        return self._items[self._starts[place] : self._ends[place]]

    def _listed(self, children: pd.DataFrame) -> pd.DataFrame:
        """Return the children that are there in any repository: a collector keeps their bytes for an index that lost them."""
        there = np.zeros(self._width, dtype=bool)
        there[self._keys % self._width] = True
        code = children["digest"].cat.codes.to_numpy("int64")
        return children[(code >= 0) & there[code]]

    def _key(self, repository: Any, digest: Any) -> Any:
        """Return one number for each repository and digest, or -1 where one is not in the snapshot."""
        place, code = _codes(repository, self._names), _codes(digest, self._digests)
        return np.where((place >= 0) & (code >= 0), place.astype("int64") * self._width + code, -1)

    def _place(self, keys: Any) -> Any:
        """Return the place of each manifest among those read, or -1."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, place, -1)

    def places(self, manifests: pd.DataFrame | Iterable[tuple[str, str]]) -> Any:
        """Return the place of each (repository, digest) among the manifests read, or -1."""
        return self._place(self._key(*_columns(manifests)))

    def items_of_places(self, places: Any) -> Any:
        """Return the codes of everything that the manifests at these places hold, one manifest after the other."""
        lengths = self._ends[places] - self._starts[places]
        offsets = np.repeat(self._starts[places] - (np.cumsum(lengths) - lengths), lengths)
        return self._items[offsets + np.arange(lengths.sum())]


class Tally:
    """A set of manifests that grows and shrinks, and the bytes that it would free.

    Adding or discarding costs that manifest's own blobs, however large the registry is. From
    `Holders.tally`. A manifest that was not read may be added: it counts 0.

    Attributes
    ----------
    bytes : int
        What comes back once all the selected manifests are gone.
    lower_bound : bool
        Whether something of unknown size comes back too.
    """

    def __init__(self, holders: Holders) -> None:
        self._of = holders
        self._selected: set[tuple[str, str]] = set()
        # Zeroed pages that are never touched cost nothing, so this is as large as the tally.
        self._taken = np.zeros(len(holders.sizes), dtype="int32")
        self._unsized = 0
        self.bytes = 0

    @property
    def lower_bound(self) -> bool:
        """Whether something of unknown size comes back too."""
        return self._unsized > 0

    def __len__(self) -> int:
        return len(self._selected)

    def __contains__(self, manifest: object) -> bool:
        return manifest in self._selected

    def add(self, repository: str, digest: str) -> None:
        """Select a manifest; nothing changes where it is selected."""
        if (repository, digest) not in self._selected:
            self._selected.add((repository, digest))
            self._change(self._of.items_of(repository, digest), 1)

    def discard(self, repository: str, digest: str) -> None:
        """Take a manifest out of the tally; nothing changes where it is not in it."""
        if (repository, digest) in self._selected:
            self._selected.remove((repository, digest))
            self._change(self._of.items_of(repository, digest), -1)

    def change(self, added: Iterable[tuple[str, str]], discarded: Iterable[tuple[str, str]] = ()) -> None:
        """Add and discard many (repository, digest) manifests, in less time than one by one."""
        for pairs, sign in ((added, 1), (discarded, -1)):
            moved = {pair for pair in pairs if (pair in self._selected) == (sign < 0)}
            self._selected ^= moved
            places = self._of.places(moved)
            self._unsized += sign * int((places < 0).sum())
            self._change_many(self._of.items_of_places(places[places >= 0]), sign)

    def _change_many(self, items: Any, sign: int) -> None:
        counts = self._of.holder_counts
        touched, times = np.unique(items, return_counts=True)  # an item may be of several of these manifests
        before = self._taken[touched] == counts[touched]
        self._taken[touched] += (sign * times).astype("int32")
        after = self._taken[touched] == counts[touched]
        sizes = self._of.sizes[touched[before != after]]
        self.bytes += sign * _total(sizes)
        self._unsized += sign * int((sizes == _UNKNOWN).sum())

    def _change(self, items: Any, sign: int) -> None:
        """Count one holder of these more or less; what then has, or had, no other comes or goes."""
        if items is None:
            self._unsized += sign
            return
        before = self._taken[items]
        self._taken[items] = before + sign
        freed = items[np.maximum(before, before + sign) == self._of.holder_counts[items]]
        sizes = self._of.sizes[freed]
        self.bytes += sign * _total(sizes)
        self._unsized += sign * int((sizes == _UNKNOWN).sum())


def repository_names(snapshot: Snapshot) -> pd.Index[Any]:
    """Return all repositories of a snapshot, sorted: those that were to be read and those in its tables."""
    named = {str(name) for frame in snapshot.tables.values() for name in frame["repository"].cat.categories}
    return pd.Index(sorted(named | set(snapshot.repositories)), dtype=object)


def shared_layers(snapshot: Snapshot, repositories: list[str]) -> Any:
    """Return the bytes of layers that each pair of repositories holds together, as a square array.

    Parameters
    ----------
    repositories : list of str
        The rows and columns, in this order. On the diagonal stand the layers of each.
    """
    names = pd.Index(repositories, dtype=object)
    layers = snapshot.blobs[snapshot.blobs["role"] == "layer"]
    place, item = _codes(layers["repository"], names), layers["digest"].array.codes.astype("int64")
    items, column = np.unique(item[place >= 0], return_inverse=True)
    holds = np.zeros((len(names), len(items)))
    holds[place[place >= 0], column] = 1.0
    return (holds * np.maximum(_sizes(snapshot)[items], 0)) @ holds.T


# -- on arrays of codes -----------------------------------------------------------------------


def _codes(values: Any, names: pd.Index[Any]) -> Any:
    """Return the place of each value among the names, or -1."""
    if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        if values.cat.categories is names:
            return values.array.codes
        among = names.get_indexer(values.cat.categories.astype(object))
        return np.append(among, -1).astype("int32")[values.array.codes]
    wanted = np.array(list(values), dtype=object)
    if len(wanted) * _FEW < len(names) and names.is_monotonic_increasing and all(isinstance(v, str) for v in wanted):
        place = np.minimum(np.searchsorted(names.to_numpy(object), wanted), len(names) - 1)
        return np.where(names.to_numpy(object)[place] == wanted, place, -1)
    return names.get_indexer(pd.Index(wanted, dtype=object))


def _distinct(numbers: Any) -> Any:
    """Return distinct numbers, sorted. `np.unique` hashes them first: ten times slower at ten million."""
    ordered = np.sort(numbers)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]


class _Pairs:
    """Pairs of codes, each as one number, sorted where they are: ten million take 80 MB, and no copy of them is made."""

    def __init__(self, width: int, most: int) -> None:
        self._bits = max(width, 1).bit_length()
        self._pairs = np.empty(most, dtype="int64")
        self._count = 0

    def add(self, first: Any, second: Any) -> None:
        """Add pairs; those of which a code is -1 are passed over."""
        known = (first >= 0) & (second >= 0)
        if not known.all():
            first, second = first[known], second[known]
        pairs = self._pairs[self._count : self._count + len(first)]
        pairs[:] = first
        pairs <<= self._bits
        pairs |= second
        self._count += len(first)

    def distinct(self) -> tuple[Any, Any]:
        """Return both codes of the distinct pairs, sorted; to be asked once."""
        pairs = self._pairs[: self._count]
        pairs.sort()
        kept = np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]
        if not kept.all():
            pairs = pairs[kept]
        second = (pairs & ((1 << self._bits) - 1)).astype("int32")
        pairs >>= self._bits
        return pairs, second


def _held_blobs(snapshot: Snapshot, names: pd.Index[Any]) -> tuple[Any, Any]:
    """Return which repository holds which blob, once each, as codes."""
    blobs = snapshot.blobs
    pairs = _Pairs(len(blobs["digest"].cat.categories), len(blobs))
    pairs.add(_codes(blobs["repository"], names), blobs["digest"].array.codes)
    return pairs.distinct()


def _sizes(snapshot: Snapshot, *, with_manifests: bool = False) -> Any:
    """Return the bytes of everything by its digest's code; -1 where no document declares them."""
    declared = [(snapshot.blobs["digest"], snapshot.blobs["size_bytes"])]
    if with_manifests:
        declared.append((snapshot.manifests["digest"], snapshot.manifests["manifest_bytes"]))
    largest = np.iinfo("int64").max
    sizes = np.full(len(snapshot.blobs["digest"].cat.categories), largest)
    seen = np.zeros(len(sizes), dtype=bool)
    for digest, size in declared:
        code, known = digest.array.codes, size.notna().to_numpy()
        known = known & (code >= 0)
        value = size.to_numpy("int64", na_value=0)
        if not known.all():
            code, value = code[known], value[known]
        np.minimum.at(sizes, code, value)
        seen[code] = True
    sizes[~seen] = _UNKNOWN
    return sizes


def _sums(groups: Any, sizes: Any, count: int) -> Any:
    totals = np.bincount(groups, weights=sizes, minlength=count)
    return np.minimum(totals, float(_LARGEST_SUM)).astype("int64")


def _occurrence(numbers: Any) -> Any:
    """Return of each number how many times it has come up by then, itself included."""
    # The place behind the number in one integer: such are sorted in a fraction of the time of a stable argsort.
    bits = max(len(numbers), 1).bit_length()
    pairs = (numbers.astype("int64") << bits) | np.arange(len(numbers))
    pairs.sort()
    ordered, order = pairs >> bits, pairs & ((1 << bits) - 1)
    first = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    begun = np.maximum.accumulate(np.where(first, np.arange(len(ordered)), 0))
    times = np.empty(len(numbers), dtype="int64")
    times[order] = np.arange(len(ordered)) - begun + 1
    return times


def _sums_of_each(group: Any, sizes: Any, count: int) -> list[int]:
    """Return exact sums of the known sizes of each group, however large they are."""
    known = sizes > 0
    group, sizes = group[known], sizes[known]
    if float(sizes.sum(dtype="float64")) < _EXACT:
        totals = np.bincount(group, weights=sizes, minlength=count).astype("int64")
        return list(totals.tolist())
    exact = [0] * count
    for place, size in zip(group.tolist(), sizes.tolist(), strict=True):
        exact[place] += size
    return exact


def _total(sizes: Any) -> int:
    known = sizes[sizes > 0]
    return int(known.sum()) if float(known.sum(dtype="float64")) < _EXACT else sum(known.tolist())


def _columns(manifests: pd.DataFrame | Iterable[tuple[str, str]]) -> tuple[Any, Any]:
    if not isinstance(manifests, pd.DataFrame):
        pairs = list(manifests)
        return [repository for repository, _ in pairs], [digest for _, digest in pairs]
    if not {"repository", "digest"} <= set(manifests.columns):
        raise UsageError("the frame needs the columns repository and digest, as a tags or manifests table has")
    return manifests["repository"], manifests["digest"]
