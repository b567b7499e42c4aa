"""Policy: what to keep and what may go, for patterns of repositories; a TOML file, or the same in Python.

Nothing is on unless the policy says so. What is typed is checked when the policy is made, whichever way
that happens, and an error says where it stands and what to write.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.analysis.in_use import InUse, references_in_use
from regaudit.analysis.tags import CLOCKS, tag_matches
from regaudit.analysis.versions import VersionRange
from regaudit.errors import UsageError
from regaudit.reference import check_pattern, compile_pattern, is_literal, parse_registry
from regaudit.text import clean, parse_duration

VERSION = 1
# Policies are typed by people.
_LARGEST_FILE = 1 << 20
# RE2 takes time in proportion to the text and to the expression: both are short.
_LONGEST_REGEX = 500
_STREAMS = {
    "repository": None,
    "major": None,
    "minor": None,
    # What continuous integration appends to a branch: a commit of 7 to 40 digits. Any other name is its own.
    "branch": r"(?P<branch>.+?)(?:[-_.]g?[0-9a-f]{7,40})?",
}

_UNITS = ((86400, "D"), (3600, "h"), (60, "min"), (1, "s"))

# -- what a value must be ----------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError("write a text")
    return value.strip()


def _name(value: Any) -> str:
    return "" if value == "" else _text(value)  # without a name, one is made up


def _texts(value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(item, str) and item for item in listed):
        raise UsageError("write a list of texts, as in ['latest', 'v*']")
    return tuple(listed)


def _tag_patterns(value: Any) -> tuple[str, ...]:
    patterns = _texts(value)
    tag_matches(pd.Series([""], dtype="string"), patterns)  # complains of a pattern that cannot be read
    return patterns


def _repository_patterns(value: Any) -> tuple[str, ...]:
    return tuple(check_pattern(pattern) for pattern in _texts(value))


def _registries(value: Any) -> tuple[str, ...]:
    return tuple(parse_registry(name).host for name in _texts(value))


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise UsageError("write a whole number: 0, 1, 2 …")
    return int(value)


def _percent(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 100:
        raise UsageError("write a number from 0 to 100")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError("write true or false")
    return value


def _duration(value: Any) -> timedelta:
    if not isinstance(value, str | timedelta):
        raise UsageError("write a duration with its unit, as in '180D' or '12h'")
    duration = parse_duration(value)
    if duration.microseconds:
        raise UsageError("write a duration of whole seconds")
    return duration


def _day(value: Any) -> date:
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, date) or isinstance(value, datetime):
        raise UsageError("write a day, as in 2027-01-31")
    return value


def _clock(value: Any) -> str:
    if value not in CLOCKS:
        raise UsageError("write 'created' or 'pushed'")
    return str(value)


def _range(value: Any) -> VersionRange:
    return value if isinstance(value, VersionRange) else VersionRange(_text(value))


def _regex(value: Any) -> str:
    expression = _text(value)
    if len(expression) > _LONGEST_REGEX:
        raise UsageError(f"write a regular expression of at most {_LONGEST_REGEX} characters")
    try:
        # On its own too: what is not balanced may become so between the parentheses put around it.
        for each in (expression, whole(expression)):
            pc.match_substring_regex(pa.array([""]), each)
    except pa.ArrowInvalid as error:
        reason = clean(str(error).removeprefix("Invalid regular expression: "), 120)
        raise UsageError(
            f"write a regular expression of RE2 ({reason}); RE2 has neither look-around nor back-references: "
            "what one of these would leave out, a rule under keep can keep"
        ) from None
    return expression


def _stream(value: Any) -> str:
    if value in _STREAMS:
        return str(value)
    if not isinstance(value, str) or "(?P<" not in value:
        raise UsageError(
            f"write {', '.join(map(repr, _STREAMS))}, or a regular expression with a named group, "
            "as in '(?P<branch>.+)-[0-9]+'"
        )
    expression = _regex(value)
    try:
        pc.extract_regex(pa.array([""]), expression)
    except pa.ArrowInvalid:
        raise UsageError("write (?P<name>…) for a group that makes a stream, and (?:…) for any other") from None
    return expression


def whole(expression: str) -> str:
    """Return a regular expression that matches whole tags where `expression` does."""
    return f"^(?:{expression})$"


def stream_expression(per: str) -> str | None:
    """Return the regular expression whose groups make the streams of a rule, if it goes by one."""
    expression = _STREAMS.get(per, per)
    return None if expression is None else whole(expression)


def duration_text(duration: timedelta) -> str:
    """Return a duration as it is typed, in the largest unit that fits: ``180D``, ``36h``.

    Examples
    --------
    >>> duration_text(timedelta(hours=36)), duration_text(timedelta(0))
    ('36h', '0D')
    """
    size, unit = duration_unit(duration)
    return f"{int(duration.total_seconds()) // size}{unit}"


def duration_unit(duration: timedelta) -> tuple[int, str]:
    """Return the seconds and the letters of the largest unit that measures a duration without a rest."""
    seconds = int(duration.total_seconds())
    return next((size, unit) for size, unit in _UNITS if seconds % size == 0)


# -- the values --------------------------------------------------------------------------------


class _Checked:
    """Fields that are parsed when the value is made, by `_PARSERS`; None is off."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, parse in _PARSERS[type(self).__name__].items():
            value = getattr(self, name)
            if value is None:
                continue
            try:
                object.__setattr__(self, name, parse(value))
            except UsageError as error:
                raise _Fault((name,), f"{name} = {clean(repr(value), 120)}: {error}") from None
        self._check()

    def _check(self) -> None:
        """Raise `UsageError` where the fields do not go together."""

    def to_dict(self) -> dict[str, Any]:
        """Return what is set as plain values, as a policy file has it."""
        plain = {item.name: _plain(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]  # a mixin of dataclasses
        unset = {item.name: _plain(item.default) for item in fields(self)}  # type: ignore[arg-type]  # likewise
        return {name: value for name, value in plain.items() if value not in (unset[name], [], None)}


class _Fault(UsageError):
    """An error with the place in the policy that it is about, for the line in the file."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep(_Checked):
    """A rule that saves tags. Every condition that is set must hold; at least one must be set.

    Attributes
    ----------
    name : str
        How results name it; by default its place among the others.
    tags : tuple of str
        Patterns of tags as a shell has them: ``*``, ``?``, ``[0-9]``.
    match : str or None
        A regular expression of RE2 that the whole tag matches.
    semver : VersionRange or None
        A range of versions, ``">=1.4 <2 || 3.1"``.
    prereleases : bool or None
        Only prereleases, or only what is none.
    younger_than : timedelta or None
        What is younger than that; typed as ``"30D"``. What is of unknown age may be young.
    newest : int or None
        So many distinct digests, newest first by `clock`, of the tags that the conditions above select, in
        each stream. Equally new ones are kept together, and one of unknown age without taking a place.
    highest : int or None
        Likewise, the highest stable versions.
    per : str
        What a stream is for `newest` and `highest`: the ``"repository"``; the line of a version,
        ``"major"`` or ``"minor"``; the ``"branch"`` before a commit (``main-4b19eb1``); or a
        regular expression of RE2 whose named groups tell streams apart.
    clock : {"created", "pushed"}
        Which time `younger_than` and `newest` go by.
    """

    name: str = ""
    tags: tuple[str, ...] = ()
    match: str | None = None
    semver: VersionRange | None = None
    prereleases: bool | None = None
    younger_than: timedelta | None = None
    newest: int | None = None
    highest: int | None = None
    per: str = "repository"
    clock: str = "created"

    def _check(self) -> None:
        _need_condition(self, "tags = ['latest'], newest = 10, younger_than = '30D'")
        if self.per != "repository" and self.newest is None and self.highest is None:
            raise _Fault(("per",), "per says how newest and highest are counted: write newest = 10 beside it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire(_Checked):
    r"""A rule that condemns tags. Every condition that is set must hold; at least one must be set.

    Attributes
    ----------
    name : str
        How results name it; by default its place among the others.
    tags : tuple of str
        Patterns of tags as a shell has them; ``["*"]`` is every tag.
    match : str or None
        A regular expression of RE2 that the whole tag matches: ``'pr-\d+'``.
    semver : VersionRange or None
        A range of versions. Only tags that leave no doubt are in it.
    prereleases : bool or None
        Only prereleases, or only what is none.
    older_than : timedelta or None
        What is older than that; typed as ``"180D"``. What is of unknown age is not.
    untagged : bool
        Manifests without a tag, in place of tags: those that no index lists and that refer to no other.
    clock : {"created", "pushed"}
        Which time `older_than` goes by.
    """

    name: str = ""
    tags: tuple[str, ...] = ()
    match: str | None = None
    semver: VersionRange | None = None
    prereleases: bool | None = None
    older_than: timedelta | None = None
    untagged: bool = False
    clock: str = "created"

    def _check(self) -> None:
        _need_condition(self, "tags = ['*'], match = 'pr-[0-9]+', older_than = '180D'")
        if self.untagged and (self.tags or self.match or self.semver or self.prereleases is not None):
            raise _Fault(
                ("untagged",), "untagged = true is about manifests without a tag: no condition on tags can hold"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Section(_Checked):
    """What holds for the repositories that match a pattern. The first section that matches a repository decides.

    Attributes
    ----------
    repositories, exclude : tuple of str
        Patterns: ``*`` stays within a part of a name, ``**`` crosses ``/``.
    name : str
        How results name it; by default its patterns.
    keep, expire : tuple of Keep, tuple of Expire
        A tag may go if a rule of `expire` condemns it and none of `keep` saves it.
    grace : timedelta or None
        Nothing goes that was created or pushed within that time, or of which neither time is known.
    minimum_tags : int or None
        A repository with fewer tags is left alone. Those attached to a digest, and those that lead nowhere, do not count.
    minimum_left : int or None
        So many distinct digests with a tag must be left in a repository, or nothing of it goes.
    maximum_deletions : int or None
        If more distinct digests of a repository would go, nothing of it goes.
    maximum_percent : float or None
        Likewise, per cent of those that it has.
    """

    repositories: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    name: str = ""
    keep: tuple[Keep, ...] = ()
    expire: tuple[Expire, ...] = ()
    grace: timedelta | None = None
    minimum_tags: int | None = None
    minimum_left: int | None = None
    maximum_deletions: int | None = None
    maximum_percent: float | None = None

    def _check(self) -> None:
        if not self.repositories:
            raise _Fault(("repositories",), "repositories is empty: write ['**'] for all of them")
        object.__setattr__(self, "name", self.name or ", ".join(self.repositories))
        object.__setattr__(self, "keep", _named(self.keep, "keep"))
        object.__setattr__(self, "expire", _named(self.expire, "expire"))
        rules: tuple[Keep | Expire, ...] = (*self.keep, *self.expire)
        _refuse_twice([rule.name for rule in rules], "rule")

    def matches(self, repository: str) -> bool:
        """Return whether a repository matches one of the patterns, and none of those that are left out."""
        return _any_matches(self.repositories, repository) and not _any_matches(self.exclude, repository)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingApproval(_Checked):
    """An approval in advance, for runs that nobody watches, with its limits.

    A limit counts everything that a plan deletes, what goes along with others included. Per cent are of
    the manifests that were read.

    Attributes
    ----------
    by, reason : str
        Who approves, and why.
    maximum_deletions : int
        A plan with more deletions is not approved by this.
    maximum_percent : float or None
        Nor is one that deletes more, per cent of what was read.
    maximum_deletions_per_repository, maximum_percent_per_repository : int or None, float or None
        Likewise, in any one repository.
    until : datetime.date or None
        The last day (UTC) on which it approves anything.
    """

    by: str
    reason: str
    maximum_deletions: int
    maximum_percent: float | None = None
    maximum_deletions_per_repository: int | None = None
    maximum_percent_per_repository: float | None = None
    until: date | None = None

    def expired(self, now: datetime) -> bool:
        """Return whether its last day has passed."""
        return self.until is not None and now.astimezone(UTC).date() > self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(_Checked):
    """What to keep and what may go.

    Attributes
    ----------
    sections : tuple of Section
        For each repository, the first that matches it decides. One that matches none is left alone.
    keep : tuple of Keep
        Rules that save tags in every section.
    untag : bool
        Whether a tag may go although another keeps its digest. ``plan(…, untag=True)`` then lets it go
        alone, where the registry can; otherwise such tags are held back.
    maximum_deletions : int or None
        If more distinct digests would go in all repositories together, nothing goes.
    maximum_percent : float or None
        Likewise, per cent of those in the repositories that a section matches.
    in_use : tuple of InUse
        Images that run somewhere, and stay. Those of other registries mean nothing here.
    also_known_as : tuple of str
        Other names of the registry, under which images may be in use.
    approval : StandingApproval or None
        For unattended runs.

    Examples
    --------
    >>> policy = Policy.from_dict({
    ...     "version": 1,
    ...     "sections": [{"repositories": ["team/**"], "expire": [{"match": "pr-[0-9]+", "older_than": "14D"}]}],
    ... })
    >>> policy.sections[0].expire[0].older_than.days
    14
    """

    sections: tuple[Section, ...] = ()
    keep: tuple[Keep, ...] = ()
    untag: bool = False
    maximum_deletions: int | None = None
    maximum_percent: float | None = None
    in_use: tuple[InUse, ...] = ()
    also_known_as: tuple[str, ...] = ()
    approval: StandingApproval | None = None

    def _check(self) -> None:
        object.__setattr__(self, "keep", _named(self.keep, "keep everywhere"))
        _refuse_twice([section.name for section in self.sections], "section")
        for section in self.sections:
            rules: tuple[Keep | Expire, ...] = (*self.keep, *section.keep, *section.expire)
            _refuse_twice([rule.name for rule in rules], "rule")
        _refuse_unreachable(self.sections)

    def section(self, repository: str) -> Section | None:
        """Return the section that decides on a repository, if there is one."""
        return next((section for section in self.sections if section.matches(repository)), None)

    @property
    def hash(self) -> str:
        """The sha256 of what was decided once: everything but what is in use, which changes, and only ever keeps more."""
        fixed = {name: value for name, value in self.to_dict().items() if name != "in_use"}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the policy in a TOML file. What its `in_use_files` name is read now.

        Raises
        ------
        UsageError
            A file that cannot be read, or is no policy; the message names the line, the key, and what to write.
        """
        source = Path(path)
        text = _read(source)
        try:
            return cls.from_dict(tomllib.loads(text), folder=source.parent)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{clean(source)} is not TOML: {clean(error, 200)}") from None
        except RecursionError:
            raise UsageError(f"{clean(source)} is nested too deeply for a policy") from None
        except _Fault as fault:
            line = _lines(text).get(fault.path)
            raise UsageError(f"{clean(source)}{f', line {line}' if line else ''}: {fault}") from None

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, folder: str | os.PathLike[str] = ".") -> Self:
        """Return the policy in plain values, as a policy file has them.

        Parameters
        ----------
        document : mapping
            With ``version = 1``.
        folder : path-like
            What the names in ``in_use_files`` are relative to.

        Raises
        ------
        UsageError
            As `load`, with the path of the key in place of the line.
        """
        found = dict(document)
        if found.pop("version", None) != VERSION or isinstance(document["version"], bool):
            raise _Fault(("version",), f"a policy says which version it is of: write version = {VERSION}")
        files = _at(("in_use_files",), _texts, found.pop("in_use_files", []))
        policy: Self = _value(cls, found, (), extra=("version", "in_use_files"))
        used = references_in_use(*(Path(folder) / name for name in files))
        return replace(policy, in_use=(*policy.in_use, *used)) if used else policy

    def to_dict(self) -> dict[str, Any]:
        """Return the policy as plain values; what files named as in use is listed in ``in_use``."""
        return {"version": VERSION, **_Checked.to_dict(self)}


# -- checks that need more than one field ------------------------------------------------------


def _need_condition(rule: Keep | Expire, example: str) -> None:
    unset = {item.name: item.default for item in fields(rule)}
    conditions = [name for name in unset if name not in {"name", "per", "clock"}]
    if all(getattr(rule, name) == unset[name] for name in conditions):
        raise _Fault((), f"a rule needs a condition: write {example}")


def _named(rules: tuple[Any, ...], word: str) -> tuple[Any, ...]:
    return tuple(rule if rule.name else replace(rule, name=f"{word} {n}") for n, rule in enumerate(rules, start=1))


def _refuse_twice(names: list[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _Fault(
            (), f"the name {clean(twice[0], 80)!r} is that of more than one {what}: write another name for one"
        )


def _refuse_unreachable(sections: tuple[Section, ...]) -> None:
    """Refuse a section of which every pattern is taken by an earlier one: whoever wrote it expects it to count."""
    for place, section in enumerate(sections):
        for earlier in sections[:place]:
            if not earlier.exclude and all(
                any(_covers(wide, pattern) for wide in earlier.repositories) for pattern in section.repositories
            ):
                raise _Fault(
                    ("sections", place, "repositories"),
                    f"the section {clean(section.name, 80)!r} would never decide, because {clean(earlier.name, 80)!r} comes "
                    "first and takes all its repositories: put it before that one",
                )


def _covers(wide: str, pattern: str) -> bool:
    """Return whether it is plain that every name that matches `pattern` matches `wide`."""
    if wide in {"**", pattern}:
        return True
    if is_literal(pattern):
        return compile_pattern(wide).fullmatch(pattern) is not None
    return wide.endswith("/**") and is_literal(wide[:-3]) and pattern.startswith(wide[:-2])


def _any_matches(patterns: Iterable[str], repository: str) -> bool:
    return any(_compiled(pattern).fullmatch(repository) for pattern in patterns)


_compiled = lru_cache(maxsize=1024)(compile_pattern)  # asked of every repository, by every section


# -- from plain values, and back ---------------------------------------------------------------


def _tuple_of(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(item, kind) for item in value):
            raise UsageError(f"write a sequence of {kind.__name__}")
        return tuple(value)

    return parse


def _used(value: Any) -> tuple[InUse, ...]:
    listed = value if isinstance(value, list | tuple) else None
    if listed is None or not all(isinstance(item, str | InUse) for item in listed):
        raise UsageError("write a list of images, as in ['registry.example.com/team/app:1.4']")
    return tuple(item if isinstance(item, InUse) else InUse.parse(item) for item in listed)


def _approval(value: Any) -> StandingApproval:
    if not isinstance(value, StandingApproval):
        raise UsageError("write a StandingApproval")
    return value


_SELECTORS: dict[str, Callable[[Any], Any]] = {
    "name": _name,
    "tags": _tag_patterns,
    "match": _regex,
    "semver": _range,
    "prereleases": _flag,
    "clock": _clock,
}
_LIMITS: dict[str, Callable[[Any], Any]] = {"maximum_deletions": _count, "maximum_percent": _percent}
_PARSERS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "Keep": {**_SELECTORS, "younger_than": _duration, "newest": _count, "highest": _count, "per": _stream},
    "Expire": {**_SELECTORS, "older_than": _duration, "untagged": _flag},
    "Section": {
        "repositories": _repository_patterns,
        "exclude": _repository_patterns,
        "name": _name,
        "keep": _tuple_of(Keep),
        "expire": _tuple_of(Expire),
        "grace": _duration,
        "minimum_tags": _count,
        "minimum_left": _count,
        **_LIMITS,
    },
    "StandingApproval": {
        "by": _text,
        "reason": _text,
        **_LIMITS,
        "maximum_deletions_per_repository": _count,
        "maximum_percent_per_repository": _percent,
        "until": _day,
    },
    "Policy": {
        "sections": _tuple_of(Section),
        "keep": _tuple_of(Keep),
        "untag": _flag,
        "in_use": _used,
        "also_known_as": _registries,
        "approval": _approval,
        **_LIMITS,
    },
}
# Tables within tables: which value each becomes, and whether there are several.
_NESTED: dict[str, dict[str, tuple[type, bool]]] = {
    "Policy": {"sections": (Section, True), "keep": (Keep, True), "approval": (StandingApproval, False)},
    "Section": {"keep": (Keep, True), "expire": (Expire, True)},
}


def _value(kind: type[Any], document: Any, path: tuple[str | int, ...], extra: tuple[str, ...] = ()) -> Any:
    if not isinstance(document, Mapping):
        raise _Fault(path, f"{_spelled(path)} is not a table of keys and values")
    known = [item.name for item in fields(kind)]
    for key in document:
        if key not in known:
            raise _Fault((*path, key), _unknown(str(key), [*known, *extra], path))
    given = dict(document)
    for name, (inner, several) in _NESTED.get(kind.__name__, {}).items():
        if name in given:
            given[name] = _values(inner, given[name], (*path, name), several=several)
    return _at(path, lambda found: _made(kind, found), given)


def _made(kind: type[Any], given: dict[str, Any]) -> Any:
    missing = [item.name for item in fields(kind) if item.name not in given and item.default is _NO_DEFAULT]
    if missing:
        raise _Fault((), f"{missing[0]} is missing: write {missing[0]} = …")
    return kind(**given)


def _values(kind: type[Any], document: Any, path: tuple[str | int, ...], *, several: bool) -> Any:
    if not several:
        return _value(kind, document, path)
    if not isinstance(document, list | tuple):
        header = ".".join(part for part in path if isinstance(part, str))
        raise _Fault(path, f"{_spelled(path)} is a list of tables: write [[{header}]]")
    return tuple(_value(kind, item, (*path, place)) for place, item in enumerate(document))


def _at(path: tuple[str | int, ...], parse: Callable[[Any], Any], value: Any) -> Any:
    """Parse a value, and let an error say where it stands."""
    try:
        return parse(value)
    except _Fault as fault:
        where = f"{_spelled(path)}: " if path and fault.path[:1] != ("sections",) else ""
        raise _Fault((*path, *fault.path), f"{where}{fault}") from None
    except UsageError as error:
        raise _Fault(path, f"{_spelled(path)}: {error}") from None


def _unknown(key: str, known: list[str], path: tuple[str | int, ...]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    where = f"{_spelled(path)}: " if path else ""
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
    return f"{where}there is no key {clean(key, 80)!r}; {hint}"


def _spelled(path: tuple[str | int, ...]) -> str:
    """Return a path as people count: ``sections 2, expire 1``."""
    text = ""
    for part in path:
        text += f" {part + 1}" if isinstance(part, int) else f", {clean(part, 60)}"
    return text.removeprefix(", ")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, VersionRange | InUse):
        return value.text
    return value.to_dict() if isinstance(value, _Checked) else value


_NO_DEFAULT = fields(StandingApproval)[0].default


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"{clean(path)} is larger than a policy: name a TOML file with version = {VERSION}")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"the policy {clean(path)} cannot be read ({clean(error.strerror, 80)})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{clean(path)} is not UTF-8 text: save it as that") from None


_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.-]+)\s*\]\]?")
_KEY = re.compile(r"\s*([\w-]+)\s*=")


def _lines(text: str) -> dict[tuple[str | int, ...], int]:
    """Return on which line each key of a policy stands, as far as that can be told without parsing TOML again."""
    lines: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = ()
            *parents, last = header[2].split(".")
            for name in parents:
                table = (*table, name)
                table += (counts[table],) if table in counts else ()
            table = (*table, last)
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, key[1]), number)
    return lines
