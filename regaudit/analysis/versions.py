"""Versions in tags, by semantic versioning 2.0.0: which are in a range, and which is the highest.

A tag is read more generously than the specification allows, because tags are: ``v1.4.2`` and ``1.4.2``
are one version, ``_`` stands for the ``+`` that no tag can have (as Helm writes it), and ``1.4`` and ``1``
stand for every version that begins so. Whoever wants to keep takes such a tag at its word; whoever
wants to delete does so only where there is no doubt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.errors import UsageError
from regaudit.text import clean

_NUMBER = r"0|[1-9]\d{0,17}"
_TAG = (
    rf"^v?(?P<major>{_NUMBER})(?:\.(?P<minor>{_NUMBER}))?(?:\.(?P<patch>{_NUMBER}))?"
    r"(?:-(?P<prerelease>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:[_+][0-9A-Za-z.-]+)?$"
)
_COMPARATOR = re.compile(
    rf"(?P<operator>>=|<=|>|<|=|)\s*v?(?P<major>{_NUMBER})(?:\.(?P<minor>{_NUMBER}))?(?:\.(?P<patch>{_NUMBER}))?"
    r"(?:-(?P<prerelease>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?",
    re.ASCII,
)
# Above every number that the grammar here allows, and within 64 bits.
_ENDLESS = 10**18
# A bare number of more digits is a build number or a date, and no version 1 or 2026 of anything.
_LARGEST_BARE = 9999


@dataclass(frozen=True, slots=True)
class _Bound:
    """A point in the order of versions: a version, or what lies just below it and all its prereleases."""

    core: tuple[int, int, int]
    prerelease: str | None = None
    below: bool = False


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of many tags, as columns.

    Attributes
    ----------
    major, minor, patch : numpy.ndarray of int64
        -1 where the tag does not say.
    prerelease : numpy.ndarray of str
        Empty where there is none.
    known : numpy.ndarray of bool
        Tags that name a version, or a line of them (``1.4``, ``1``, ``1.5-alpine``).
    certain : numpy.ndarray of bool
        Tags that leave no doubt: three numbers, or two and nothing after them.
    """

    major: Any
    minor: Any
    patch: Any
    prerelease: Any
    known: Any
    certain: Any

    @classmethod
    def of(cls, tags: pa.Array) -> Self:
        """Return the versions in an array of tags; a missing tag has none."""
        found = pc.extract_regex(tags, _TAG)
        parts = {name: pc.fill_null(pc.struct_field(found, name), "") for name in ("major", "minor", "patch")}
        numbers = [pc.if_else(pc.equal(p, ""), "-1", p).cast(pa.int64()).to_numpy() for p in parts.values()]
        prerelease = pc.fill_null(pc.struct_field(found, "prerelease"), "").to_numpy(zero_copy_only=False)
        major, minor, patch = numbers
        plain = prerelease == ""
        known = (major >= 0) & ((minor >= 0) | (plain & (major <= _LARGEST_BARE)))
        certain = known & ((patch >= 0) | ((minor >= 0) & plain))
        return cls(major, minor, patch, prerelease, known, certain)

    @property
    def stable(self) -> Any:
        """Which tags name a version or a line without a prerelease."""
        return self.known & (self.prerelease == "")

    def order(self) -> Any:
        """Return the place of each certain, stable version among all, from 0 for the lowest; -1 for every other tag."""
        place = np.full(len(self.major), -1, dtype="int64")
        ranked = np.flatnonzero(self.certain & self.stable)
        core = np.maximum(np.stack([self.major, self.minor, self.patch])[:, ranked], 0)
        first = np.lexsort(core[::-1])
        differs = (np.diff(core[:, first], axis=1) != 0).any(axis=0)
        place[ranked[first]] = np.concatenate([[0], np.cumsum(differs)])[: len(ranked)]
        return place

    def against(self, bound: _Bound, *, highest: bool) -> Any:
        """Return -1, 0 or 1: how the highest (or lowest) version that each tag may mean compares to a bound."""
        core = [np.where(part < 0, _ENDLESS if highest else 0, part) for part in (self.major, self.minor, self.patch)]
        sign = np.zeros(len(self.major), dtype="int8")
        for part, number in zip(core, bound.core, strict=True):
            sign = np.where(sign == 0, np.sign(part - number), sign)
        # What stands behind the hyphen of a line (1.5-alpine) says which variant, not which prerelease.
        given = np.where(self.patch >= 0, self.prerelease, "")
        return np.where(sign == 0, _compare_prereleases(given, bound, sign == 0), sign)


def _compare_prereleases(given: Any, bound: _Bound, where: Any) -> Any:
    """Compare by section 11 of the specification: a prerelease comes before its version."""
    if bound.below:
        return 1
    if bound.prerelease is None:
        return np.where(given == "", 0, -1)
    theirs, sign = _precedence(bound.prerelease), np.ones(len(given), dtype="int8")
    for place in np.flatnonzero(where & (given != "")):
        ours = _precedence(given[place])
        sign[place] = (ours > theirs) - (ours < theirs)
    return sign


def _precedence(prerelease: str) -> tuple[tuple[int, int, str], ...]:
    parts = prerelease.split(".")
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


@dataclass(frozen=True, slots=True)
class VersionRange:
    """A range of versions, as it was typed.

    Examples
    --------
    >>> VersionRange(">=1.4 <2 || 3.1").selects(Versions.of(pa.array(["1.4.0", "v1.9", "2.0.0", "3.1.7"])), doubt=True)
    array([ True,  True, False,  True])
    """

    text: str
    _any: tuple[tuple[tuple[str, _Bound], ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_any", tuple(self._parse(part.strip()) for part in self.text.split("||")))

    def selects(self, versions: Versions, *, doubt: bool) -> Any:
        """Return which tags are in the range.

        Parameters
        ----------
        versions : Versions
        doubt : bool
            Whether a tag that stands for a line is in the range if any version of the line is (for
            keeping), or only if all of them are and it is sure to be a version (for deleting).
        """
        selected = np.zeros(len(versions.major), dtype=bool)
        for bounds in self._any:
            inside = (versions.known if doubt else versions.certain).copy()
            for operator, bound in bounds:
                sign = versions.against(bound, highest=(operator[0] == ">") == doubt)
                inside &= {">=": sign >= 0, ">": sign > 0, "<=": sign <= 0, "<": sign < 0}[operator]
            selected |= inside
        return selected

    def _parse(self, part: str) -> tuple[tuple[str, _Bound], ...]:
        if part == "*":
            return ()
        pieces = re.split(r"[\s,]+", re.sub(r"([<>=])\s+", r"\1", part))
        found = [_COMPARATOR.fullmatch(piece) for piece in pieces]
        if not part or not all(found):
            raise UsageError(
                f"{clean(self.text, 80)!r} is not a range of versions: write '>=1.4', '>=1.4 <2', '1.4' for all of that "
                "line, '*' for all, and || between alternatives"
            )
        return tuple(bound for match in found if match for bound in _bounds(match))


def _bounds(match: re.Match[str]) -> list[tuple[str, _Bound]]:
    """Return a comparator as bounds; one with fewer than three numbers is about a whole line of versions."""
    numbers = [int(match[name]) for name in ("major", "minor", "patch") if match[name] is not None]
    operator = match["operator"] or "="
    if len(numbers) == 3:
        exact = _Bound((numbers[0], numbers[1], numbers[2]), match["prerelease"])
        return [(">=", exact), ("<=", exact)] if operator == "=" else [(operator, exact)]
    if match["prerelease"] is not None:
        raise UsageError(
            f"{clean(match[0], 80)!r}: a prerelease belongs to three numbers, as in '>={numbers[0]}.0.0-rc.1'"
        )
    begins = _line(numbers)
    ends = _line([*numbers[:-1], numbers[-1] + 1])
    return {
        ">=": [(">=", begins)],
        "<": [("<", begins)],
        ">": [(">=", ends)],
        "<=": [("<", ends)],
        "=": [(">=", begins), ("<", ends)],
    }[operator]


def _line(numbers: list[int]) -> _Bound:
    major, minor, patch = (*numbers, 0, 0)[:3]
    return _Bound((major, minor, patch), below=True)
