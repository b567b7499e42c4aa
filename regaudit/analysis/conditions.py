"""The conditions that a rule of a policy sets, applied to many tags at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.analysis.policy import Expire, Keep, duration_text, stream_expression, whole
from regaudit.analysis.tags import tag_matches
from regaudit.analysis.versions import Versions
from regaudit.text import isoformat


class Items(Protocol):
    """What a policy judges, as columns of one length."""

    repository: Any
    node: Any
    tagged: Any
    artifact: Any
    tag: pa.Array

    def time(self, clock: str) -> Any:
        """Return the time of each item by a clock, as datetime64 in UTC."""
        ...


class Scope:
    """The items that one section decides on, with what several of its rules ask for, worked out once.

    Attributes
    ----------
    places : numpy.ndarray
        Their places among all items, in rising order.
    now : numpy.datetime64
        The moment at which age is measured.
    """

    def __init__(self, items: Items, places: Any, now: Any) -> None:
        self.places, self.now = places, now
        self.repository, self.node = items.repository[places], items.node[places]
        self.tagged, self.artifact = items.tagged[places], items.artifact[places]
        self._items = items

    @cached_property
    def tag(self) -> Any:
        """The tags, as text of Arrow's; missing for manifests without one."""
        return self._items.tag.take(pa.array(self.places))

    @cached_property
    def versions(self) -> Versions:
        """The versions in the tags."""
        return Versions.of(self.tag)

    def time(self, clock: str) -> Any:
        """Return the time of each item by a clock."""
        return self._items.time(clock)[self.places]

    def age(self, clock: str) -> Any:
        """Return the age of each item by a clock; ``NaT`` where it is not known."""
        return self.now - self.time(clock)

    def in_grace(self, grace: timedelta) -> Any:
        """Return what was created or pushed within that time (of the two, the later counts), or is of unknown age."""
        latest = np.fmax(self.time("created"), self.time("pushed"))
        return ~(self.now - latest >= np.timedelta64(grace))

    def streams(self, per: str) -> Any:
        """Return a number for the stream of each item, in its repository; -1 where it is in none.

        Images and indexes are in streams of their own, apart from other artifacts: neither takes the other's places.
        """
        parts, within = self._parts(per)
        stream = self.repository * 2 + self.artifact
        for part in parts:
            # Numbered anew each time, so that the product stays within 64 bits.
            stream, _ = pd.factorize(stream * (int(part.max(initial=0)) + 1) + part)
        return np.where(within, stream, -1)

    def _parts(self, per: str) -> tuple[list[Any], Any]:
        """Return what tells streams apart within a repository, as numbers, and which items are in any."""
        if per in {"major", "minor"}:
            parts = [getattr(self.versions, name) for name in ("major", "minor")[: 1 if per == "major" else 2]]
            return [pd.factorize(part)[0] for part in parts], self.tagged & self.versions.known & (parts[-1] >= 0)
        expression = stream_expression(per)
        if expression is None:
            return [], self.tagged
        found = pc.extract_regex(self.tag, expression)
        texts = [pc.fill_null(pc.struct_field(found, [place]), "") for place in range(found.type.num_fields)]
        return [
            text.dictionary_encode().indices.to_numpy().astype("int64") for text in texts
        ], found.is_valid().to_numpy(zero_copy_only=False)

    def ranks(self, selected: Any, stream: Any, value: Any) -> Any:
        """Return the rank of each item's digest in its stream, from 1 for the greatest value; NaN where there is none.

        Every digest counts once, with the greatest value among its selected tags, and equals share the better rank.
        """
        rank = np.full(len(self.places), np.nan)
        at = np.flatnonzero(selected & (stream >= 0) & (value >= 0))
        if not len(at):
            return rank
        pair, _ = pd.factorize(stream[at] * (int(self.node.max()) + 1) + self.node[at])
        best, home = np.full(pair.max() + 1, -1), np.empty(pair.max() + 1, dtype="int64")
        np.maximum.at(best, pair, value[at])
        home[pair] = stream[at]
        order = np.lexsort((-best, home))
        # Each stream begins at 1 again, and each run of equals has the rank of its first.
        place = np.arange(len(order))
        opens = np.append(True, np.diff(home[order]) != 0)
        rises = opens | np.append(True, np.diff(best[order]) != 0)
        ranks = np.empty(len(order))
        ranks[order] = np.maximum.accumulate(place * rises) - np.maximum.accumulate(place * opens) + 1
        rank[at] = ranks[pair]
        return rank


def _nothing(_: int) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a rule.

    Attributes
    ----------
    asks : str
        The condition as a phrase.
    holds : numpy.ndarray of bool
        Of which items of the scope it holds.
    says, ends : callable
        What there is to say of one item, and what will end that it holds; empty texts where nothing.
    """

    asks: str
    holds: Any
    says: Callable[[int], str] = _nothing
    ends: Callable[[int], str] = _nothing


def conditions(rule: Keep | Expire, scope: Scope) -> Iterator[Condition]:
    """Yield the conditions that a rule sets, applied to the items of a section; the first is whether they have a tag."""
    untagged = isinstance(rule, Expire) and rule.untagged
    yield Condition("has no tag" if untagged else "has a tag", ~scope.tagged if untagged else scope.tagged)
    selected = scope.tagged.copy()
    for condition in _selecting(rule, scope):
        selected &= condition.holds
        yield condition
    if isinstance(rule, Expire):
        if rule.older_than is not None:
            yield _older(rule.older_than, rule.clock, scope)
        return
    if rule.younger_than is not None:
        yield _younger(rule.younger_than, rule.clock, scope)
    if rule.newest is not None:
        yield _newest(rule, rule.newest, scope, selected)
    if rule.highest is not None:
        yield _highest(rule, rule.highest, scope, selected)


def selectors(rule: Keep | Expire) -> dict[str, str]:
    """Return what a rule asks of a tag itself, as phrases by key."""
    asks = {
        "tags": "tag is like " + " or ".join(rule.tags) if rule.tags else "",
        "match": f"tag matches {rule.match}" if rule.match else "",
        "semver": f"version is {rule.semver.text}" if rule.semver else "",
        "prereleases": {None: "", True: "is a prerelease", False: "is no prerelease"}[rule.prereleases],
        "untagged": "has no tag" if isinstance(rule, Expire) and rule.untagged else "",
    }
    return {key: phrase for key, phrase in asks.items() if phrase}


def _selecting(rule: Keep | Expire, scope: Scope) -> Iterator[Condition]:
    doubt, asks = isinstance(rule, Keep), selectors(rule)
    if rule.tags:
        yield Condition(asks["tags"], tag_matches(scope.tag.to_pandas(), rule.tags).to_numpy())
    if rule.match:
        # Arrow's engine is RE2: linear in the text, so that no tag and no expression makes it hang.
        hits = pc.match_substring_regex(scope.tag, whole(rule.match))
        yield Condition(asks["match"], pc.fill_null(hits, False).to_numpy(zero_copy_only=False))
    if rule.semver:
        yield Condition(asks["semver"], rule.semver.selects(scope.versions, doubt=doubt))
    if rule.prereleases is not None:
        known = scope.versions.known if doubt else scope.versions.certain
        yield Condition(asks["prereleases"], known & (scope.versions.stable != rule.prereleases))


def _older(limit: timedelta, clock: str, scope: Scope) -> Condition:
    holds = scope.age(clock) > np.timedelta64(limit)
    return Condition(f"older than {duration_text(limit)} by {clock}", holds, _dated(limit, clock, scope))


def _younger(limit: timedelta, clock: str, scope: Scope) -> Condition:
    # NaT compares as false: what is not known to be as old as that may be younger.
    holds = ~(scope.age(clock) >= np.timedelta64(limit))
    says = _dated(limit, clock, scope)
    return Condition(f"younger than {duration_text(limit)} by {clock}", holds, says, says)


def _dated(limit: timedelta, clock: str, scope: Scope) -> Callable[[int], str]:
    def says(place: int) -> str:
        moment = scope.time(clock)[place]
        if np.isnat(moment):
            return f"when it was {clock} is not known, and unknown is never old"
        then = moment.item().replace(tzinfo=UTC)
        return f"it was {clock} {isoformat(then)}, and is {duration_text(limit)} old at {isoformat(then + limit)}"

    return says


def _newest(rule: Keep, count: int, scope: Scope, selected: Any) -> Condition:
    moment, stream = scope.time(rule.clock), scope.streams(rule.per)
    known = ~np.isnat(moment)
    rank = scope.ranks(selected & known, stream, np.where(known, moment.astype("int64"), -1))
    holds = selected & (stream >= 0) & (~known | (rank <= count))
    asks = f"among the newest {count}{_of_stream(rule.per)} by {rule.clock}"
    unknown = f"when it was {rule.clock} is not known, and unknown is never old"
    return Condition(asks, holds, _ranked(rank, "newer", unknown), _pushed_out(rank, count, "newer"))


def _highest(rule: Keep, count: int, scope: Scope, selected: Any) -> Condition:
    rank = scope.ranks(selected, scope.streams(rule.per), scope.versions.order())
    asks = f"among the highest {count} stable versions{_of_stream(rule.per)}"
    said = _ranked(rank, "higher", "it names no stable version")
    return Condition(asks, selected & (rank <= count), said, _pushed_out(rank, count, "higher"))


def _of_stream(per: str) -> str:
    if per == "repository":
        return ""
    return " of its " + {"major": "major line", "minor": "minor line", "branch": "branch"}.get(per, f"stream by {per}")


def _ranked(rank: Any, word: str, unknown: str) -> Callable[[int], str]:
    def says(place: int) -> str:
        if np.isnan(rank[place]):
            return unknown
        above = int(rank[place]) - 1
        return f"{above} {'digest is' if above == 1 else 'digests are'} {word}"

    return says


def _pushed_out(rank: Any, count: int, word: str) -> Callable[[int], str]:
    def ends(place: int) -> str:
        more = 0 if np.isnan(rank[place]) else count + 1 - int(rank[place])
        return f"with {more} more that are {word}" if more > 0 else ""

    return ends
