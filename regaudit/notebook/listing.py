"""Listing: the rows of a plan as a person looks at them, grouped, filtered, sorted, page by page. Pure.

A group is a digest with all its tags, and what goes along with it. Groups are found, ordered and counted
here; the page is sent those that are in view. Conditions are asked of whole columns: Arrow's search, RE2
for regular expressions (its time grows with the text and never faster), numpy for ages and sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.cleaner.rows import PlanRow
from regaudit.errors import UsageError
from regaudit.reference import compile_pattern, is_literal
from regaudit.text import clean, parse_bytes, parse_duration, parse_time

ROWS, REFUSED = "rows", "refused"
# RE2 takes time in proportion to the text and to the expression: both are short.
LONGEST_FILTER = 300
# Nobody chains what goes along deeper, and deeper indents could not be told apart.
_DEEPEST = 4

_ROLES = {"child": 0, "referrer": 1, "list": 2}

# What a person may look at, in the order of the table; the name of a row is always there.
NAME = "tags"
COLUMNS = ("repository", "tags", "outcome", "digest", "kind", "created", "age", "size", "frees", "reason", "along")
SHOWN_AT_FIRST = frozenset({"repository", "tags", "digest", "age", "size", "reason", "along", "outcome"})


@dataclass(frozen=True, slots=True)
class Filter:
    """What a person typed to see fewer rows; all of it must hold.

    Attributes
    ----------
    text : str
        Words that must occur in a row's names, digests or reasons, in any case; or, where `regex`, one
        regular expression (RE2) of which ``^`` and ``$`` are the ends of a name or of a reason.
    repository : str
        A part of the name, or a pattern: ``*`` does not cross ``/``, ``**`` does.
    reason : str
        A part of why it is a candidate, or why it stays.
    age, size : str
        At least so much (``180D``, ``10 MiB``), or less, with ``<`` in front. What is not known is neither.
    """

    text: str = ""
    regex: bool = False
    repository: str = ""
    reason: str = ""
    age: str = ""
    size: str = ""

    def __bool__(self) -> bool:
        return self != replace(Filter(), regex=self.regex)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of what can be typed."""
        return tuple(cls.__slots__)


@dataclass(frozen=True, slots=True)
class Look:
    """What a person looks at: a section, a filter, an order and a page; and which groups are opened.

    Attributes
    ----------
    along : bool
        Whether what goes along is shown under each group.
    turned, whole : frozenset of str
        The keys of the groups for which a person wanted it the other way round; of those to be shown to their end.
    """

    section: str = ROWS
    filter: Filter = Filter()
    column: str = ""
    descending: bool = False
    page: int = 0
    along: bool = True
    turned: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    columns: frozenset[str] = SHOWN_AT_FIRST


class Member(NamedTuple):
    """A row that goes along with another one, and how deep below it."""

    row: PlanRow
    depth: int


class Listing:
    """Groups of rows, to be searched and sorted. What that needs is built when first needed.

    Parameters
    ----------
    rows : sequence of PlanRow
        The first row of each group.
    along : mapping
        The members of a group, by the key of its first row.
    now : datetime, optional
        When ages are counted from.

    Examples
    --------
    ``Listing(plan.rows, {}, now).places(Look(filter=Filter(age="180D")), lambda key: "")``
    """

    def __init__(
        self, rows: Sequence[PlanRow], along: Mapping[str, Sequence[Member]], now: datetime | None = None
    ) -> None:
        self.rows = rows
        self.along = along
        self._now = now
        self._ranks: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def keys(self) -> list[str]:
        """The key of each group's first row."""
        return [row.key for row in self.rows]

    @cached_property
    def selectable(self) -> frozenset[str]:
        """The keys of the groups that can be selected: candidates whose key a page can show as it is."""
        found = frozenset(key for key, row in zip(self.keys, self.rows, strict=True) if row.role == "candidate")
        # Asked of all at once first, for there may be a hundred thousand.
        joined = "/".join(found)
        return found if clean(joined, len(joined)) == joined else frozenset(key for key in found if key == clean(key))

    def places(self, look: Look, outcome_of: Callable[[str], str]) -> list[int]:
        """Return the places of the groups that match, in order. Those without a value come last either way.

        Raises
        ------
        UsageError
            What was typed cannot be read; the message says what can.
        """
        found = self._found(look.filter)
        places: Iterable[int] = range(len(self.rows)) if found is None else np.flatnonzero(found).tolist()
        if not look.column:
            return list(places)
        ranks = self._ranked(look.column, outcome_of)
        # The youngest was created last.
        reverse = look.descending != (look.column == "age")
        known = sorted((p for p in places if ranks[p] is not None), key=ranks.__getitem__, reverse=reverse)
        return known + [p for p in places if ranks[p] is None]

    def repositories(self, most: int) -> list[str]:
        """Return the repositories in the order of the plan, as many as a person would choose from."""
        return list(dict.fromkeys(row.repository for row in self.rows))[:most]

    # -- conditions ---------------------------------------------------------------------------

    def _found(self, given: Filter) -> Any:
        """Return for each group whether it matches, or None where nothing is asked."""
        asked = []
        if given.text.strip():
            asked.append(self._matching(given.text) if given.regex else self._with_words(given.text))
        if given.repository.strip():
            asked.append(self._in_repository(given.repository.strip()))
        if words := given.reason.casefold().split():
            asked.append(_all_occur(words, self._reasons))
        if given.age.strip():
            less, age = _bound(given.age, parse_duration)
            asked.append(_compared(self._ages, age.total_seconds(), less=less))
        if given.size.strip():
            less, size = _bound(given.size, parse_bytes)
            asked.append(_compared(self._sizes, size, less=less))
        return np.logical_and.reduce(asked) if asked else None

    def _with_words(self, text: str) -> Any:
        return _all_occur(text.casefold().split(), self._folded)

    def _matching(self, expression: str) -> Any:
        try:
            found = pc.match_substring_regex(self._texts, f"(?m:{expression})")
        except pa.ArrowInvalid as error:
            why = clean(str(error).removeprefix("Invalid regular expression: "), 120)
            raise UsageError(
                f"that is no regular expression of RE2 ({why}): switch it off to search for the words themselves"
            ) from None
        return found.to_numpy(zero_copy_only=False)

    def _in_repository(self, wanted: str) -> Any:
        matches: Callable[[str], object] = _contains(wanted.casefold())
        if not is_literal(wanted):
            matches = compile_pattern(wanted).fullmatch
        known: dict[str, bool] = {}
        for row in self.rows:
            if row.repository not in known:
                known[row.repository] = bool(matches(row.repository))
        return np.fromiter((known[row.repository] for row in self.rows), bool, len(self.rows))

    # -- columns, each built once -------------------------------------------------------------

    @cached_property
    def _lines(self) -> list[str]:
        """Return all that is searched of each group, a name or a reason on each line."""
        return ["\n".join(self._said(row)) for row in self.rows]

    def _said(self, row: PlanRow) -> list[str]:
        lines = _names(row)
        for member in self.along.get(row.key, ()):
            lines += _names(member.row)
        return [*lines, *(text for text in (row.reason, row.detail) if text)]

    @cached_property
    def _texts(self) -> Any:
        return _array(self._lines)

    @cached_property
    def _folded(self) -> Any:
        return _array([text.casefold() for text in self._lines])

    @cached_property
    def _reasons(self) -> Any:
        return _array([f"{row.reason}\n{row.detail}".casefold() for row in self.rows])

    @cached_property
    def _ages(self) -> Any:
        """Return the age of each group in seconds, NaN where it is not known."""
        now = self._now
        moments = (None if now is None else parse_time(row.created) for row in self.rows)
        return np.array([np.nan if then is None or now is None else (now - then).total_seconds() for then in moments])

    @cached_property
    def _sizes(self) -> Any:
        return np.array([np.nan if row.content_bytes is None else float(row.content_bytes) for row in self.rows])

    def _ranked(self, column: str, outcome_of: Callable[[str], str]) -> list[Any]:
        if column == "outcome":
            return [outcome_of(row.key) or None for row in self.rows]
        if column not in self._ranks:
            key = _SORT_KEYS.get(column) or {"along": self._count_along, "frees": self.frees}[column]
            self._ranks[column] = [key(row) for row in self.rows]
        return self._ranks[column]

    def _count_along(self, row: PlanRow) -> int:
        return len(self.along.get(row.key, ()))

    def frees(self, row: PlanRow) -> int:
        """Return the bytes that a group adds to what comes back, in the order of the plan."""
        return row.freed_bytes + sum(member.row.freed_bytes for member in self.along.get(row.key, ()))


_SORT_KEYS: Mapping[str, Callable[[PlanRow], Any]] = {
    "repository": lambda row: row.repository,
    "tags": lambda row: row.tags or None,
    "digest": lambda row: row.digest,
    "kind": lambda row: row.kind,
    "age": lambda row: row.created,
    "created": lambda row: row.created,
    "size": lambda row: row.content_bytes,
    "reason": lambda row: row.detail or row.reason or None,
}


def grouped(rows: Sequence[PlanRow]) -> tuple[list[PlanRow], dict[str, list[Member]]]:
    """Return the first row of each group, and the members below it, each under the row that it goes along with.

    A row that goes along with none of these rows is a group of its own: no row is ever left out.
    """
    named = [row.key for row in rows]  # a key is put together each time
    keys = set(named)
    first, tops, below = [], set(), dict[str, list[tuple[str, PlanRow]]]()
    for key, row in zip(named, rows, strict=True):
        if row.because is None or row.because not in keys:
            first.append(row)
            tops.add(key)
        else:
            below.setdefault(row.because, []).append((key, row))
    along = {key: _members(key, below) for key in below if key in tops}
    if sum(map(len, along.values())) + len(first) < len(rows):  # a circle, in which each goes along with the next
        reached = tops.union(member.row.key for members in along.values() for member in members)
        first += [row for key, row in zip(named, rows, strict=True) if key not in reached]
    return first, along


def _members(key: str, below: Mapping[str, list[tuple[str, PlanRow]]], depth: int = 1) -> list[Member]:
    found = []
    for name, row in sorted(below[key], key=_place_in_group):
        found.append(Member(row, min(depth, _DEEPEST)))
        if name in below:
            found += _members(name, below, depth + 1)
    return found


def _place_in_group(named: tuple[str, PlanRow]) -> int:
    # An index's children before its signatures, as people count them; a list that is written again comes last.
    return _ROLES.get(named[1].role, len(_ROLES))


def _names(row: PlanRow) -> list[str]:
    names = [f"{row.repository}:{tag}" for tag in row.tags]
    return names if row.digest is None else [*names, f"{row.repository}@{row.digest}"]


def _array(texts: list[str]) -> Any:
    # Half a character, which Python's text can hold and Arrow's cannot, would be found by nobody anyway.
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        return pa.array([text.encode("utf-8", "replace").decode() for text in texts], pa.large_string())


def _all_occur(words: Sequence[str], texts: Any) -> Any:
    found = [pc.match_substring(texts, word).to_numpy(zero_copy_only=False) for word in words]
    return np.logical_and.reduce(found) if found else np.ones(len(texts), bool)


def _contains(part: str) -> Callable[[str], bool]:
    return lambda name: part in name.casefold()


def _bound(typed: str, parse: Callable[[str], Any]) -> tuple[bool, Any]:
    """Return whether less was asked for than what stands behind the sign, and that."""
    text = typed.strip()
    less = text.startswith("<")
    return less, parse(text.lstrip("<>=≥ "))


def _compared(values: Any, bound: float, *, less: bool) -> Any:
    # What is not a number is on neither side.
    return values < bound if less else values >= bound


__all__ = ["COLUMNS", "NAME", "REFUSED", "ROWS", "SHOWN_AT_FIRST", "Filter", "Listing", "Look", "Member", "grouped"]
