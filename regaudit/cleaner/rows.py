"""What a plan is made of: candidates, as a person hands them in, and the rows that become of them."""

from __future__ import annotations

import fnmatch
import gc
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import pandas as pd

from regaudit.analysis.graph import Graph
from regaudit.errors import UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.reference import Digest
from regaudit.text import clean

T = TypeVar("T")
DELETE_MANIFEST, DELETE_TAG, PUT_INDEX = "delete_manifest", "delete_tag", "put_index"
ACTIONS = frozenset({DELETE_MANIFEST, DELETE_TAG, PUT_INDEX})

# Why a candidate stays. The sentences are what a person reads; {0} is the particular.
REFUSALS: Mapping[str, str] = {
    "kept_alias": "deleting the digest would also delete {0}, not among the candidates",
    "protected": "the tag {0} is protected",
    "child_of_kept_index": "the index {0} stays and needs it",
    "repository_not_read": "something in the repository was not read, so that what needs it is not known",
    "would_empty": "nothing would be left in the repository: say allow_empty (--allow-empty) if that is meant",
    "unknown_age": "age is the reason, and its age is not known",
    "dangling": "its manifest is gone already; a registry cannot delete such a tag by digest",
    "unread": "its manifest was not read and verified",
    "v1": "v1 has no digests, so that what goes cannot be looked at again just before; registry.v1 deletes by name",
    "legacy": "schema 1 may be a conversion whose digest the registry does not have",
    "unverifiable": "its digest uses an algorithm that cannot be verified here",
    "not_in_snapshot": "the snapshot does not have it at this digest",
}


# Why the bytes that a plan promises may be other ones. More come back than is said where a size is not known, else less.
BOUNDS: Mapping[str, str] = {
    "unsized": "of some layers no manifest says the size",
    "unread": "not all of the registry was read, and what was not may hold the same layers",
    "unlisted": "what lost its last tag is listed nowhere, and may hold the same layers; exact if no tag was ever overwritten",
}

# The fields of a `PlanRow` that are several.
LISTS = ("tags", "needs", "frees")


def plain(value: Any) -> dict[str, Any]:
    """Return the fields of a value; `dataclasses.asdict` copies deeply and takes ten times as long."""
    return {name: getattr(value, name) for name in value.__slots__}


def read_back(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return the value whose fields `plain` gave, as a file has them.

    Raises
    ------
    TypeError
        A field that is missing, unknown, or not of its type: nothing in a file is believed before that.
    """
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, types in _types(kind):  # type: ignore[arg-type]  # a class can be hashed
        value = given.get(name, "")
        if name in given and type(value) not in types:
            raise TypeError(f"{name} is no {' or '.join(t.__name__ for t in types)}")
        if type(value) is tuple and not all(type(item) is str for item in value):
            raise TypeError(f"{name} has something that is no text")
    return kind(**given)


@lru_cache(maxsize=16)
def _types(kind: type[Any]) -> tuple[tuple[str, tuple[type, ...]], ...]:
    """Return the fields of a dataclass with the types that they may have, but for the parameters of these."""
    hints = get_type_hints(kind)
    return tuple((f.name, tuple(get_origin(t) or t for t in _members(hints[f.name]))) for f in fields(kind))


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is UnionType else (hint,)


@contextmanager
def no_collector() -> Iterator[None]:
    """Pause the search for reference cycles, of which rows have none.

    Python begins it for every so many new objects and looks at all of them again: a fifth of the time
    of a plan of 200,000 tags, and more than half of that of grouping 100,000 rows.
    """
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


@dataclass(frozen=True, slots=True)
class Candidate:
    """What somebody would like to see gone: a tag, or a digest without tags, and why."""

    repository: str
    tag: str | None
    digest: str | None
    reason: str = ""
    unknown_age: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the rows that it may have become: its digest, or its tag alone."""
        whole = frozenset({f"{self.repository}@{self.digest}"})
        return whole if self.tag is None else whole | {f"{self.repository}:{self.tag}"}


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What was asked of the plan beside the candidates.

    Attributes
    ----------
    protect : tuple of str
        Shell-style patterns of tag names that never go.
    include : tuple of str
        Digests that may go with all their tags, those that are no candidates included.
    allow_empty : bool
        Whether a repository may be left without tags.
    untag : bool
        Whether a tag may go alone where its digest stays (`DELETE` by tag).
    """

    protect: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    allow_empty: bool = False
    untag: bool = False

    def protects(self, tag: str) -> bool:
        """Return whether a tag never goes."""
        return bool(self.protect) and _any_of(self.protect)(tag) is not None


@lru_cache(maxsize=16)
def _any_of(patterns: tuple[str, ...]) -> Callable[[str], object]:
    """Return a function that tells whether a name matches a pattern: one expression, for a plan asks it of every tag."""
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns)).match


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One thing that would go, or, in ``Plan.refused``, one that stays although it is a candidate.

    Attributes
    ----------
    action : str
        ``delete_manifest``, ``delete_tag``, or ``put_index``: a list of referrers under a fallback tag loses
        the entries of what goes (`needs`), and stays.
    role : str
        ``candidate``, or ``child``, ``referrer`` for what goes along, ``list`` for a list that is written again.
    tags : tuple of str
        All tags on the digest (``delete_manifest``), or the one tag (``delete_tag``).
    freed_bytes : int
        What this row adds to the bytes that come back, in the order of the plan.
    frees : tuple of str
        The digests of the configs and layers among these.
    because : str or None
        The key of the row that it goes along with.
    needs : tuple of str
        The keys of rows that must be gone before this one may go.
    refusal, detail : str
        Why it stays: a key of `REFUSALS`, and its sentence; empty for what goes.
    """

    repository: str
    digest: str | None
    tags: tuple[str, ...]
    action: str = DELETE_MANIFEST
    role: str = "candidate"
    kind: str = "unknown"
    media_type: str | None = None
    created: str | None = None
    content_bytes: int | None = None
    freed_bytes: int = 0
    frees: tuple[str, ...] = ()
    reason: str = ""
    because: str | None = None
    needs: tuple[str, ...] = ()
    refusal: str = ""
    detail: str = ""

    @property
    def key(self) -> str:
        """The row's name: ``repository@digest``, or ``repository:tag`` where only a tag goes or a list is written."""
        if self.action in {DELETE_TAG, PUT_INDEX} or self.digest is None:
            return f"{self.repository}:{self.tags[0] if self.tags else ''}"
        return f"{self.repository}@{self.digest}"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return plain(self) | {name: list(getattr(self, name)) for name in LISTS}


# -- what a person hands in ------------------------------------------------------------------


def parse_candidates(snapshot: Snapshot, given: pd.DataFrame | Iterable[str]) -> tuple[Candidate, ...]:
    """Return the candidates in a DataFrame or in texts ``repository:tag``, each once, in an order of their own.

    Raises
    ------
    UsageError
        Another registry's, or without the columns that name a tag; the message says which are needed.
    """
    if isinstance(given, str):
        raise UsageError(f"{clean(given, 80)!r} is one text where several are expected: write [{clean(given, 80)!r}]")
    frame = given if isinstance(given, pd.DataFrame) else _frame_of_names(given)
    if "repository" not in frame.columns or not {"tag", "digest"} & set(frame.columns):
        raise UsageError("candidates need the columns repository and tag, as stale_tags() returns them")
    if "registry" in frame.columns and (odd := set(frame["registry"].dropna().astype(str)) - {snapshot.registry}):
        raise UsageError(
            f"the candidates are of {clean(min(odd), 80)}, the snapshot is of {clean(snapshot.registry, 80)}"
        )
    columns = [_values(frame, name) for name in ("repository", "tag", "digest", "reason", "age_days")]
    digests = _Digests(snapshot)
    aged = "age_days" in frame.columns
    return _each_once([_candidate(digests, *values, aged=aged) for values in zip(*columns, strict=True)])


def _values(frame: pd.DataFrame, name: str) -> list[Any]:
    """Return a column as plain values; what is missing is None, as everything of a column that is not there."""
    if name not in frame.columns:
        return [None] * len(frame)
    values = frame[name].astype("object").to_numpy(copy=True)
    values[frame[name].isna().to_numpy()] = None
    return list(values.tolist())


def _each_once(found: list[Candidate]) -> tuple[Candidate, ...]:
    """Return each candidate once, with all its reasons, in an order that does not depend on how they came."""
    each: dict[str, dict[tuple[str, str], Candidate]] = {}
    again: dict[tuple[str, str, str], list[Candidate]] = {}
    for candidate in found:
        name = (candidate.tag or "", candidate.digest or "")
        first = each.setdefault(candidate.repository, {}).setdefault(name, candidate)
        if first is not candidate:
            again.setdefault((candidate.repository, *name), [first]).append(candidate)
    for (repository, *rest), same in again.items():
        each[repository][rest[0], rest[1]] = _joined(same)
    return tuple(named[name] for _, named in sorted(each.items()) for name in sorted(named))


def _joined(same: list[Candidate]) -> Candidate:
    reasons = sorted({candidate.reason for candidate in same if candidate.reason})
    return replace(same[0], reason="; ".join(reasons), unknown_age=all(candidate.unknown_age for candidate in same))


def _candidate(
    digests: _Digests, repository: Any, tag: Any, digest: Any, reason: Any, age: Any, *, aged: bool
) -> Candidate:
    repository, reason = str(repository or ""), "" if reason is None else str(reason)
    if not repository or (tag is None and digest is None):
        raise UsageError("a candidate names a repository and a tag, or a repository and a digest")
    if digest is None:
        digest = digests.of(repository, tag)
    return Candidate(
        repository=repository,
        tag=None if tag is None else str(tag),
        digest=None if digest is None else digests.checked(str(digest)),
        reason=reason,
        # as stale_tags words it; rows of other questions have no age, and need none
        unknown_age=aged and age is None and (not reason or "older than" in reason),
    )


class _Digests:
    """The digests of tags, of the repositories that are asked for; and each digest's grammar, checked once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._graph = Graph(snapshot)
        self._tags: dict[str, dict[str, str | None]] = {}
        self._checked: dict[str, str] = {}

    def of(self, repository: str, tag: object) -> str | None:
        """Return the digest of a tag, or None where the snapshot has none."""
        if repository not in self._tags:
            self._tags[repository] = self._graph.tags(repository)
        return self._tags[repository].get(tag)  # type: ignore[call-overload, no-any-return]  # what is no text is no tag

    def checked(self, digest: str) -> str:
        """Return a digest of which the grammar was checked, as a plain text."""
        if digest not in self._checked:
            self._checked[digest] = str(Digest(digest))
        return self._checked[digest]


def _frame_of_names(names: Iterable[str]) -> pd.DataFrame:
    pairs = []
    for name in names:
        repository, colon, tag = str(name).rpartition(":")
        if not colon or "/" in tag:
            raise UsageError(f"{clean(name, 120)!r} names no tag: write repository:tag")
        pairs.append((repository, tag))
    return pd.DataFrame(pairs, columns=["repository", "tag"])
