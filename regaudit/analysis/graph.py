"""Who holds whom in a repository: tags, indexes and their children, subjects and their referrers.

A registry accepts the deletion of a child of a live index and of a signed image alike; that
nothing breaks is the client's business, and this graph is what it decides by. Holding is a
matter of one repository: the same digest in another repository is another copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import pandas as pd

from regaudit.inventory.snapshot import Snapshot
from regaudit.reference import Digest, attached_tag, split_attached_tag

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


@dataclass(slots=True)
class Graph:
    """The graphs of a snapshot's repositories, each built when it is first asked for.

    Examples
    --------
    ``Graph(snapshot).repository("team/app").tags_of[digest]``
    """

    snapshot: Snapshot
    _rows: dict[str, dict[str, pd.Index]] = field(init=False, repr=False)
    _built: dict[str, RepositoryGraph] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        tables = {"tags": self.snapshot.tags, "manifests": self.snapshot.manifests, "children": self.snapshot.children}
        self._rows = {name: dict(frame.groupby("repository", observed=True).indices) for name, frame in tables.items()}

    def repository(self, name: str) -> RepositoryGraph:
        """Return the graph of one repository; of one that was not read, an empty graph."""
        if name not in self._built:
            self._built[name] = _build(name, *(self._slice(table, name) for table in ("tags", "manifests", "children")))
        return self._built[name]

    def _slice(self, table: str, repository: str) -> pd.DataFrame:
        return getattr(self.snapshot, table).iloc[self._rows[table].get(repository, [])]


def _build(repository: str, tags: pd.DataFrame, manifests: pd.DataFrame, children: pd.DataFrame) -> RepositoryGraph:
    digest_of = dict(zip(tags["tag"].tolist(), _texts(tags["digest"]), strict=True))
    read = frozenset(str(d) for d in _texts(manifests["digest"]))
    attached = _attachments(digest_of, read)
    on_tag = [(digest, tag) for tag, digest in digest_of.items() if digest is not None]
    below = list(zip(_texts(children["index_digest"]), _texts(children["digest"]), strict=True))
    refers = [
        (s, r) for s, r in zip(_texts(manifests["subject_digest"]), _texts(manifests["digest"]), strict=True) if s and r
    ]
    refers += [(subject, str(digest_of[tag])) for tag, subject in attached.items()]
    return RepositoryGraph(
        repository=repository,
        tags=digest_of,
        manifests=read,
        tags_of=_edges(on_tag),
        children=_edges(below),
        parents=_edges([(child, index) for index, child in below]),
        referrers=_edges(refers),
        subjects=_edges([(referrer, subject) for subject, referrer in refers]),
        attached=attached,
    )


def _attachments(digest_of: Mapping[str, str | None], read: frozenset[str]) -> dict[str, str]:
    named = {tag: parts[0] for tag in digest_of if (parts := split_attached_tag(tag)) and digest_of[tag] is not None}
    if not named:
        return {}
    subject_of = {attached_tag(Digest(digest)): digest for digest in read}
    return {tag: subject_of[base] for tag, base in named.items() if base in subject_of}


def _edges(pairs: Iterable[tuple[str | None, str | None]]) -> Edges:
    edges: dict[str, dict[str, None]] = defaultdict(dict)
    for source, target in pairs:
        if source is not None and target is not None and source != target:
            edges[source][target] = None
    return {source: tuple(targets) for source, targets in edges.items()}


def _texts(column: pd.Series) -> list[str | None]:
    return [value if isinstance(value, str) else None for value in column.astype("object").tolist()]


def _reach(starts: Iterable[str], step: Callable[[str], tuple[str, ...]]) -> frozenset[str]:
    seen = dict.fromkeys(starts)
    frontier = list(seen)
    while frontier:
        following = dict.fromkeys(other for digest in frontier for other in step(digest) if other not in seen)
        seen.update(following)
        frontier = list(following)
    return frozenset(seen)
