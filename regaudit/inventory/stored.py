"""What repositories hold, as arrays of small integers: what several questions to a snapshot begin with.

A manifest is one of a repository, a blob is one of the registry: it is stored once however many hold
it, and is no bigger than the smallest size that any manifest declares for it. Sums are of sizes as
declared, and a blob of unknown size counts 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from regaudit.inventory.snapshot import Snapshot

UNKNOWN_SIZE = -1
# A sum of hostile sizes, each up to 2^63-1, stops here instead of wrapping round to a negative one:
# the largest number that is exact in both float64 and Int64.
_LARGEST_SUM = 2**63 - 1024
# Sums are made in float64, which is exact for whole numbers up to here (9 PB); single answers of
# more are added up as Python integers.
_EXACT = 2**53


def repository_names(snapshot: Snapshot) -> pd.Index[Any]:
    """Return all repositories of a snapshot, sorted: those that were to be read and those in its tables."""
    named = {str(name) for frame in snapshot.tables.values() for name in frame["repository"].cat.categories}
    return pd.Index(sorted(named | set(snapshot.repositories)), dtype=object)


def codes_among(values: pd.Series[Any], names: pd.Index[Any]) -> Any:
    """Return the place of each value of a category among the names, or -1."""
    if values.cat.categories is names:
        return values.cat.codes.to_numpy("int64")
    among = names.get_indexer(values.cat.categories.astype(object))
    return np.append(among, -1)[values.cat.codes.to_numpy()].astype("int64")


def distinct(numbers: Any) -> Any:
    """Return distinct numbers, sorted. `np.unique` hashes them first: ten times slower at ten million."""
    ordered = np.sort(numbers)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]


def place_among(keys: Any, ordered: Any) -> Any:
    """Return the place of each key among distinct, sorted ones, or -1."""
    if not len(ordered):
        return np.full(len(keys), -1, dtype="int64")
    place = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.where(ordered[place] == keys, place, -1)


def blob_sizes(snapshot: Snapshot, *, with_manifests: bool = False) -> Any:
    """Return the bytes of everything by its digest's code; -1 where no document declares them."""
    declared = [(snapshot.blobs["digest"], snapshot.blobs["size_bytes"])]
    if with_manifests:
        declared.append((snapshot.manifests["digest"], snapshot.manifests["manifest_bytes"]))
    sizes = np.full(len(snapshot.blobs["digest"].cat.categories), np.iinfo("int64").max)
    seen = np.zeros(len(sizes), dtype=bool)
    for digest, size in declared:
        known = (digest.notna() & size.notna()).to_numpy()
        code = digest.cat.codes.to_numpy()[known]
        np.minimum.at(sizes, code, size.to_numpy("int64", na_value=0)[known])
        seen[code] = True
    return np.where(seen, sizes, UNKNOWN_SIZE)


def sums(groups: Any, sizes: Any, count: int) -> Any:
    """Return the sum of sizes in each group; unknown ones count 0, and no sum wraps round."""
    totals = np.bincount(groups, weights=np.maximum(sizes, 0), minlength=count)
    return np.minimum(totals, float(_LARGEST_SUM)).astype("int64")


def total(sizes: Any) -> int:
    """Return the sum of all sizes, exactly; unknown ones count 0."""
    known = sizes[sizes > 0]
    return int(known.sum()) if float(known.sum(dtype="float64")) < _EXACT else sum(known.tolist())


class Manifests:
    """The manifests of a snapshot, each a place in one order; by repository and digest.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.

    Attributes
    ----------
    names : pandas.Index
        All repositories, sorted.
    keys : numpy.ndarray
        Distinct and sorted: the repository's place times `width`, plus the digest's code.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.names = repository_names(snapshot)
        self.width = max(len(snapshot.manifests["digest"].cat.categories), 1)
        keys = self.key(snapshot.manifests["repository"], snapshot.manifests["digest"])
        self.keys = distinct(keys[keys >= 0])

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def repository(self) -> Any:
        """The repository of each, as a place among `names`."""
        return self.keys // self.width

    @property
    def digest(self) -> Any:
        """The digest of each, as a code of the snapshot's dictionary."""
        return self.keys % self.width

    def key(self, repository: pd.Series[Any], digest: pd.Series[Any]) -> Any:
        """Return one number for each repository and digest, or -1 where one of them is missing."""
        place, code = codes_among(repository, self.names), digest.cat.codes.to_numpy("int64")
        return np.where((place >= 0) & (code >= 0), place * self.width + code, -1)

    def place(self, repository: pd.Series[Any], digest: pd.Series[Any]) -> Any:
        """Return the place of each repository and digest, or -1 where no such manifest was read."""
        return place_among(self.key(repository, digest), self.keys)

    def holders(self, snapshot: Snapshot) -> Any:
        """Return the place of the manifest in each row of the blobs table, or -1.

        The rows of a manifest stand together as a rule, so that each is looked up once and not for every layer.
        """
        rows = snapshot.blobs
        codes = [rows[name].cat.codes.to_numpy() for name in ("repository", "manifest_digest")]
        begins = np.append(True, (codes[0][1:] != codes[0][:-1]) | (codes[1][1:] != codes[1][:-1]))[: len(rows)]
        starts = np.flatnonzero(begins)
        first = rows[["repository", "manifest_digest"]].iloc[starts]
        places = self.place(first["repository"], first["manifest_digest"])
        return np.repeat(places, np.diff(np.append(starts, len(rows))))

    def children(self, snapshot: Snapshot) -> tuple[Any, Any]:
        """Return the places of the index and of the child in each row of the children table; -1 is one not read."""
        rows = snapshot.children
        return self.place(rows["repository"], rows["index_digest"]), self.place(rows["repository"], rows["digest"])


def footprints(snapshot: Snapshot, names: pd.Index[Any]) -> pd.DataFrame:
    """Return what each of these repositories holds, a row for each in their order.

    Returns
    -------
    pandas.DataFrame
        tag_count, manifest_count, blob_count (distinct configs and layers), content_bytes (theirs),
        unique_bytes (those that no other repository holds), manifest_bytes, unsized_count (blobs of
        unknown size). `names` must have every repository of the snapshot.
    """
    count = len(names)
    blobs, manifests = snapshot.blobs, snapshot.manifests
    width = max(len(blobs["digest"].cat.categories), 1)
    item = blobs["digest"].cat.codes.to_numpy("int64")
    held = distinct((codes_among(blobs["repository"], names) * width + item)[item >= 0])
    owner, blob = held // width, held % width
    sizes = blob_sizes(snapshot)[blob]
    alone = np.bincount(blob, minlength=width)[blob] == 1
    place = codes_among(manifests["repository"], names)
    return pd.DataFrame(
        {
            "tag_count": np.bincount(codes_among(snapshot.tags["repository"], names), minlength=count),
            "manifest_count": np.bincount(place, minlength=count),
            "blob_count": np.bincount(owner, minlength=count),
            "content_bytes": sums(owner, sizes, count),
            "unique_bytes": sums(owner, np.where(alone, sizes, 0), count),
            "manifest_bytes": sums(place, manifests["manifest_bytes"].fillna(0).to_numpy("int64"), count),
            "unsized_count": np.bincount(owner[sizes == UNKNOWN_SIZE], minlength=count),
        }
    )
