"""Who holds whom in a repository: tags, indexes and their children, subjects and their referrers.

A registry accepts the deletion of a child of a live index and of a signed image alike; that
nothing breaks is the client's business, and this graph is what it decides by. Holding is a
matter of one repository: the same digest in another repository is another copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from regaudit.inventory.snapshot import Snapshot
from regaudit.reference import ATTACHED_PREFIXES, Digest, attached_tag, split_attached_tag

Edges = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class RepositoryGraph:
    """The manifests of one repository and what ties them together. Digests are plain texts.

    Attributes
    ----------
    tags : mapping of str to str or None
        Every tag that was listed, with its digest; None where it could not be read.
    manifests : frozenset of str
        The digests whose bytes were read.
    tags_of : mapping
        The tags on a digest.
    children, parents : mapping
        An index's children; a child's indexes.
    referrers, subjects : mapping
        What refers to a digest, by a ``subject`` or by an attached tag; and the other way round.
    attached : mapping of str to str
        The digest that a fallback or cosign tag is attached to, where it was read.
    """

    repository: str
    tags: Mapping[str, str | None]
    manifests: frozenset[str]
    tags_of: Edges
    children: Edges
    parents: Edges
    referrers: Edges
    subjects: Edges
    attached: Mapping[str, str]

    def is_tied(self, digest: str) -> bool:
        """Return whether anything is tied to a digest at all."""
        # Spelled out, for it is asked of each of a hundred thousand rows that are selected at once.
        return digest in self.children or digest in self.parents or digest in self.referrers or digest in self.subjects

    def neighbours(self, digest: str) -> tuple[str, ...]:
        """Return everything that one step ties to a digest."""
        return tuple(
            other
            for edges in (self.children, self.parents, self.referrers, self.subjects)
            for other in edges.get(digest, ())
        )

    def dependants(self, digest: str) -> tuple[str, ...]:
        """Return what may go along with a digest: its children, and what refers to it."""
        return (*self.children.get(digest, ()), *self.referrers.get(digest, ()))

    def component(self, digest: str) -> frozenset[str]:
        """Return everything that is tied to a digest by any number of steps, itself included."""
        return _reach([digest], self.neighbours)

    def closure(self, digests: Iterable[str], within: AbstractSet[str] | None = None) -> frozenset[str]:
        """Return the digests and everything that might go along with them, without leaving `within` where it is given."""
        if within is None:
            return _reach(digests, self.dependants)
        return _reach(digests, lambda digest: tuple(d for d in self.dependants(digest) if d in within))


class Graph:
    """The graphs of a snapshot's repositories, each built when it is first asked for.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.

    Examples
    --------
    ``Graph(snapshot).repository("team/app").tags_of[digest]``
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._tags = _Slices(snapshot.tags, "tag", "digest")
        self._manifests = _Slices(snapshot.manifests, "digest", "subject_digest")
        self._children = _Slices(snapshot.children, "index_digest", "digest")
        self._built: dict[str, RepositoryGraph] = {}

    def repository(self, name: str) -> RepositoryGraph:
        """Return the graph of one repository; of one that was not read, an empty graph."""
        if name not in self._built:
            self._built[name] = _build(
                name, *(table.of(name) for table in (self._tags, self._manifests, self._children))
            )
        return self._built[name]

    def tags(self, name: str) -> dict[str, str | None]:
        """Return every tag of a repository with its digest, without the rest of the graph."""
        return dict(zip(*self._tags.of(name), strict=True))

    def manifest_rows(self, name: str) -> dict[str, int]:
        """Return in which row of the snapshot's table each manifest of a repository is."""
        digests, _ = self._manifests.of(name)
        return dict(zip(digests, self._manifests.rows(name).tolist(), strict=True))


class _Slices:
    """Two columns of a table by repository. Lists of two columns are made far sooner than a frame of all."""

    def __init__(self, frame: pd.DataFrame, *names: str) -> None:
        repository = frame["repository"].cat
        codes = repository.codes.to_numpy()
        self._order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes[codes >= 0], minlength=len(repository.categories))
        ends = np.count_nonzero(codes < 0) + np.cumsum(counts)
        self._bounds = dict(
            zip(repository.categories, zip((ends - counts).tolist(), ends.tolist(), strict=True), strict=True)
        )
        self._columns = [_column(frame[name]) for name in names]

    def rows(self, repository: str) -> Any:
        """Return the numbers of a repository's rows, in the order of the table."""
        start, stop = self._bounds.get(repository, (0, 0))
        return self._order[start:stop]

    def of(self, repository: str) -> list[list[Any]]:
        """Return the columns of a repository as lists; a missing digest is None."""
        rows = self.rows(repository)
        return [column(rows) for column in self._columns]


def _column(column: pd.Series[Any]) -> Callable[[Any], list[Any]]:
    """Return a function that returns some rows of a column as a list."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return lambda rows: column.array.take(rows).tolist()
    codes, texts = column.array.codes, column.cat.categories.to_numpy(object)

    def named(rows: Any) -> list[Any]:
        found = codes[rows]
        some = np.full(len(found), None, dtype=object)
        some[found >= 0] = texts[found[found >= 0]]
        return some.tolist()

    return named


def _build(
    repository: str, tags: list[list[Any]], manifests: list[list[Any]], children: list[list[Any]]
) -> RepositoryGraph:
    digest_of = dict(zip(*tags, strict=True))
    read = frozenset(str(d) for d in manifests[0])
    attached = _attachments(digest_of, read)
    below = list(zip(*children, strict=True))
    refers = [(subject, referrer) for referrer, subject in zip(*manifests, strict=True) if subject and referrer]
    refers += [(subject, str(digest_of[tag])) for tag, subject in attached.items()]
    return RepositoryGraph(
        repository=repository,
        tags=digest_of,
        manifests=read,
        tags_of=_tags_of(digest_of),
        children=_edges(below),
        parents=_edges([(child, index) for index, child in below]),
        referrers=_edges(refers),
        subjects=_edges([(referrer, subject) for subject, referrer in refers]),
        attached=attached,
    )


def _tags_of(digest_of: Mapping[str, str | None]) -> Edges:
    tags: dict[str, list[str]] = {}
    for tag, digest in digest_of.items():
        if digest is not None:
            tags.setdefault(digest, []).append(tag)
    return {digest: tuple(names) for digest, names in tags.items()}


def _attachments(digest_of: Mapping[str, str | None], read: frozenset[str]) -> dict[str, str]:
    begin = [tag for tag in digest_of if tag.startswith(ATTACHED_PREFIXES)]
    named = {tag: parts[0] for tag in begin if (parts := split_attached_tag(tag)) and digest_of[tag] is not None}
    if not named:
        return {}
    subject_of = _subjects({*named.values()}, read)
    return {tag: subject_of[base] for tag, base in named.items() if base in subject_of}


def _subjects(bases: set[str], read: frozenset[str]) -> dict[str, str]:
    """Return the digest behind each fallback tag, of those that were read."""
    # A sha256 is whole in its fallback tag. A longer digest is cut, and found only among all that were read.
    found = {base: digest for base in bases if (digest := base.replace("-", ":", 1)) in read}
    if any(not base.startswith("sha256-") for base in bases):
        longer = (digest for digest in read if not digest.startswith("sha256:"))
        found |= {tag: digest for digest in longer if (tag := attached_tag(Digest(digest))) in bases}
    return found


def _edges(pairs: Iterable[tuple[str | None, str | None]]) -> Edges:
    edges: dict[str, dict[str, None]] = defaultdict(dict)
    for source, target in pairs:
        if source is not None and target is not None and source != target:
            edges[source][target] = None
    return {source: tuple(targets) for source, targets in edges.items()}


def _reach(starts: Iterable[str], step: Callable[[str], tuple[str, ...]]) -> frozenset[str]:
    seen = dict.fromkeys(starts)
    frontier = list(seen)
    while frontier:
        following = dict.fromkeys(other for digest in frontier for other in step(digest) if other not in seen)
        seen.update(following)
        frontier = list(following)
    return frozenset(seen)
