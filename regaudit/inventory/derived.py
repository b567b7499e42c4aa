"""What follows from manifests and the edges between them: when each was built, and the bytes it needs.

Indexes are worked out from below, a level of nesting at a time, so that the work is linear in the edges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from regaudit.inventory.columns import MISSING, NAT, Whole, ranges
from regaudit.inventory.tables import CREATED_SOURCES

_CONFIG, _ANNOTATION, _NONE = (CREATED_SOURCES.index(source) for source in ("config", "annotation", "none"))
# So many edges index → blob are sorted at a time: about 200 MB.
_MOST_PAIRS = 2_000_000
_HALF = 32


@dataclass(frozen=True, slots=True)
class Graph:
    """Manifests by row, and the edges below them, as arrays.

    Attributes
    ----------
    index, legacy : array of bool
        Which manifests are indexes, and which are of schema 1.
    clock, config_created : array
        When it was built as the manifest itself tells, and as its config does.
    content : array
        Bytes of an image's or artifact's distinct blobs.
    blob_starts, blob_counts : array
        Where a manifest's blobs lie in `blobs` and `sizes`.
    child_starts, child_counts : array
        Where an index's children lie in `child`, `attests` and `sparse`.
    child : array
        The row of each child, `MISSING` where it was not read.
    attests : array of bool
        Whether the child is an attestation.
    sparse : array of bool
        Whether the child is known not to be there.
    """

    index: Any
    legacy: Any
    clock: Whole
    config_created: Whole
    content: Whole
    blob_starts: Whole
    blob_counts: Whole
    blobs: Any
    sizes: Whole
    child_starts: Whole
    child_counts: Whole
    child: Whole
    attests: Any
    sparse: Any


class Derived:
    """When each manifest was built, where that was read, and its distinct bytes.

    Attributes
    ----------
    created, source, content : array
        By row, as the tables have them.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._complete = ~(graph.index | graph.legacy)
        self.content = np.where(self._complete, graph.content, MISSING)
        self._date_by_own_word()
        # Only an index that is listed by another one is needed again, by that other one.
        listed = graph.child[graph.child >= 0]
        self._nested = np.zeros(len(graph.index), dtype=bool)
        self._nested[listed] = graph.index[listed]
        self._held: dict[int, tuple[Any, Any]] = {}
        for level in _levels(graph, self._nested):
            for part in self._parts(level):
                self._describe(part)

    def _date_by_own_word(self) -> None:
        graph = self._graph
        configured = self._complete & (graph.config_created != NAT)
        self.created = np.where(configured, graph.config_created, graph.clock)
        self.source = np.where(configured | graph.legacy, _CONFIG, _ANNOTATION)
        self.source[self.created == NAT] = _NONE

    def _parts(self, level: Whole) -> Iterator[Whole]:
        """Cut a level so that no part has too many edges to hold at once."""
        graph = self._graph
        child = graph.child[ranges(graph.child_starts[level], graph.child_counts[level])]
        if len(level) > 1 and graph.blob_counts[child[child >= 0]].sum() > _MOST_PAIRS:
            middle = len(level) // 2
            yield from self._parts(level[:middle])
            yield from self._parts(level[middle:])
        else:
            yield level

    def _describe(self, level: Whole) -> None:
        """Describe indexes whose children are described."""
        graph = self._graph
        edges = ranges(graph.child_starts[level], graph.child_counts[level])
        holder = np.repeat(np.arange(len(level)), graph.child_counts[level])
        child = graph.child[edges]
        there = child >= 0
        uncertain = np.where(there, ~self._complete[child], ~graph.sparse[edges])
        self._complete[level] = np.bincount(holder[uncertain], minlength=len(level)) == 0
        self._date(level, holder, child, there & ~graph.attests[edges])
        self._weigh(level, holder, np.where(there, child, MISSING))

    def _date(self, level: Whole, holder: Whole, child: Whole, counts: Any) -> None:
        """Give indexes the time of their newest child; of two of one time the config's word counts."""
        counts = counts & (self.created[child] != NAT)
        newest = np.full(len(level), NAT)
        told = self.created[child[counts]] * 2 + (self.source[child[counts]] == _CONFIG)
        np.maximum.at(newest, holder[counts], told)
        dated = newest != NAT
        self.created[level] = np.where(dated, newest >> 1, self._graph.clock[level])
        self.source[level] = np.where(dated & (newest & 1 == 1), _CONFIG, _ANNOTATION)
        self.source[level[self.created[level] == NAT]] = _NONE

    def _weigh(self, level: Whole, holder: Whole, child: Whole) -> None:
        """Sum up the distinct blobs of all children; where two tell different sizes, the last one counts."""
        edge, blobs, sizes = self._blobs_below(child)
        order = np.lexsort((edge, blobs, holder[edge]))
        edge, blobs, sizes = edge[order], blobs[order], sizes[order]
        owner = holder[edge]
        last = np.ones(len(owner), dtype=bool)
        last[:-1] = (owner[1:] != owner[:-1]) | (blobs[1:] != blobs[:-1])
        owner, blobs, sizes = owner[last], blobs[last], sizes[last]
        self.content[level] = np.where(self._complete[level], _sums(owner, sizes, len(level)), MISSING)
        for place in np.flatnonzero(self._nested[level]).tolist():
            low, high = np.searchsorted(owner, (place, place + 1))
            self._held[int(level[place])] = blobs[low:high], sizes[low:high]

    def _blobs_below(self, child: Whole) -> tuple[Whole, Any, Any]:
        """Return the blobs below each edge: edge, blob, size. Schema 1 tells no sizes, and counts for nothing."""
        graph = self._graph
        plain = np.flatnonzero((child >= 0) & ~(graph.index | graph.legacy)[child])
        counts = graph.blob_counts[child[plain]]
        flat = ranges(graph.blob_starts[child[plain]], counts)
        edges, blobs, sizes = [np.repeat(plain, counts)], [graph.blobs[flat]], [graph.sizes[flat]]
        for place in np.flatnonzero((child >= 0) & graph.index[child]).tolist():
            held_blobs, held_sizes = self._held[int(child[place])]
            edges.append(np.full(len(held_blobs), place))
            blobs.append(held_blobs)
            sizes.append(held_sizes)
        return np.concatenate(edges), np.concatenate(blobs), np.concatenate(sizes)


def _levels(graph: Graph, nested: Any) -> Iterator[Whole]:
    """Yield the indexes from below: first those that list no index, then those that list only such, and so on.

    What lists itself, however far round, is in none.
    """
    parent = np.repeat(np.arange(len(graph.index)), graph.child_counts)
    between = (graph.child >= 0) & graph.index[graph.child]
    waiting = np.bincount(parent[between], minlength=len(graph.index))
    holders: dict[int, list[int]] = defaultdict(list)
    for child, holder in zip(graph.child[between].tolist(), parent[between].tolist(), strict=True):
        holders[child].append(holder)
    ready = np.flatnonzero(graph.index & (waiting == 0))
    while len(ready):
        yield ready
        following = []
        for child in ready[nested[ready]].tolist():
            for holder in holders[child]:
                waiting[holder] -= 1
                if not waiting[holder]:
                    following.append(holder)
        ready = np.array(following, dtype=np.int64)


def _sums(owner: Whole, sizes: Whole, owners: int) -> Whole:
    """Return the sum of the sizes of each owner, `MISSING` beyond 2^63-1: sizes are claims, and 64 bits wrap round."""
    high, low = np.zeros(owners, dtype=np.int64), np.zeros(owners, dtype=np.int64)
    np.add.at(high, owner, sizes >> _HALF)
    np.add.at(low, owner, sizes & ((1 << _HALF) - 1))
    high += low >> _HALF
    total = (np.minimum(high, (1 << 31) - 1) << _HALF) | (low & ((1 << _HALF) - 1))
    return np.where(high >= 1 << 31, MISSING, total)
