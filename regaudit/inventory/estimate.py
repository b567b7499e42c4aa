"""What a reading would cost: the pages are read, a few manifests are tried, and nothing else is asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from regaudit.client import v1, v2
from regaudit.client.bulk import Bulk, Result
from regaudit.client.exchange import Conversation
from regaudit.client.rates import RateLimit
from regaudit.client.registry import Registry
from regaudit.errors import RegistryError
from regaudit.inventory.cache import Cache
from regaudit.inventory.reading import Selection
from regaudit.manifest import IMAGE_CONFIG_TYPES, INDEX_TYPES, Index, Manifest
from regaudit.text import clean, count_of, displayed, html_summary, redact

# Enough to see how long a request takes and whether there are indexes; nothing to a registry.
_MOST_SAMPLES = 20
# Where a GET is metered, children are not counted by reading an index: images are built for up to about so many platforms.
_PLATFORMS = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a reading would cost, before it begins.

    Attributes
    ----------
    registry : str
    repositories, tags : int
        That would be read.
    known_tags : int
        Of these, tags that the cache knows: each costs a HEAD if it has not moved.
    at_least, at_most : dict
        Requests still to be made, by kind. How many manifests share a config, and how many children indexes have,
        is not known before: the upper figures go by the manifests that were tried.
    seconds : pair of float, or None
        For the fewest and the most requests, at the pace of the requests that were tried; None where none was.
    asked : dict
        Requests that the estimate itself took, by kind.
    rate_limit : RateLimit or None
        What the registry announces (``limit``, ``remaining``, ``reset_seconds``, ``window_seconds``).
    problems : tuple of str
        What could not be listed; the figures are without it.
    """

    registry: str
    repositories: int
    tags: int
    known_tags: int = 0
    at_least: Mapping[str, int] = field(default_factory=dict)
    at_most: Mapping[str, int] = field(default_factory=dict)
    seconds: tuple[float, float] | None = None
    asked: Mapping[str, int] = field(default_factory=dict)
    rate_limit: RateLimit | None = None
    problems: tuple[str, ...] = ()

    @property
    def requests(self) -> tuple[int, int]:
        """The fewest and the most requests still to be made."""
        return sum(self.at_least.values()), sum(self.at_most.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        limit = self.rate_limit
        return {
            "registry": self.registry,
            "repositories": self.repositories,
            "tags": self.tags,
            "known_tags": self.known_tags,
            "at_least": dict(self.at_least),
            "at_most": dict(self.at_most),
            "seconds": self.seconds and list(self.seconds),
            "asked": dict(self.asked),
            "rate_limit": None if limit is None else limit.to_dict(),
            "problems": list(self.problems),
        }

    def summary(self) -> dict[str, str]:
        """Return what a person wants to know, as texts by heading."""
        lines = {
            "registry": f"{self.registry}: nothing was read but its lists and a few manifests to try",
            "repositories": f"{self.repositories:,}, with {count_of(self.tags, 'tag')}; the cache knows {self.known_tags:,} of them",
            "requests": self._request_line(),
            "time": self._time_line(),
        }
        if self.rate_limit is not None:
            lines["rate limit"] = self._limit_line(self.rate_limit)
        if self.problems:
            lines["problems"] = "; ".join(self.problems[:5]) + (" …" if len(self.problems) > 5 else "")
        return {heading: clean(text, 600) for heading, text in lines.items()}

    def __str__(self) -> str:
        lines = self.summary()
        width = max(map(len, lines))
        return "\n".join(f"{heading:<{width}}  {text}" for heading, text in lines.items())

    def _repr_html_(self) -> str:
        return displayed(html_summary(self.summary()))

    def _request_line(self) -> str:
        kinds = [f"{_range(self.at_least.get(k, 0), most)} {k}" for k, most in self.at_most.items() if most]
        return f"{_range(*self.requests)} still to be made: {', '.join(kinds) or 'none'}"

    def _time_line(self) -> str:
        if self.seconds is None:
            return "not known: there was nothing to try"
        least, most = (_duration(seconds) for seconds in self.seconds)
        return f"about {least}" if least == most else f"about {least} to {most}"

    def _limit_line(self, limit: RateLimit) -> str:
        said = f"{limit.remaining} of {limit.limit or '?'} requests are left"
        if self.requests[1] <= limit.remaining:
            return said
        when = "" if limit.reset_seconds is None else f" for up to {_duration(limit.reset_seconds)} at a time"
        surely = "would" if self.requests[0] > limit.remaining else "may"
        return f"{said}: the audit {surely} exceed that, and then wait{when}; log in for a higher limit, or read a part"


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(slots=True)
class Survey:
    """Finds out what a reading would cost."""

    registry: Registry
    selection: Selection
    referrers: bool
    head_first: bool
    cache: Cache | None
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    known: int = 0
    problems: list[str] = field(default_factory=list)
    tried: int = 0
    tried_seconds: float = 0.0
    indexes: int = 0
    children: int = 0
    configs: int = 0

    def estimate(self) -> Estimate:
        """Read the lists, try a few manifests, and return what the rest would cost."""
        before = dict(self.registry.session.counts)
        old = self.registry.find_version() == "v1"
        with self.registry.bulk() as bulk:
            self._list(bulk, old=old)
        if not old:
            with self.registry.bulk() as bulk:
                self._try(bulk)
        least, most = self._counts_of_v1() if old else self._counts()
        asked = {k: n - before.get(k, 0) for k, n in self.registry.session.counts.items() if n > before.get(k, 0)}
        pace = self.tried_seconds / self.tried if self.tried else None
        return Estimate(
            registry=self.registry.host,
            repositories=len(self.tags),
            tags=self._total,
            known_tags=self.known,
            at_least=least,
            at_most=most,
            seconds=None if pace is None else (sum(least.values()) * pace, sum(most.values()) * pace),
            asked=asked,
            rate_limit=self.registry.session.rate_limit,
            problems=tuple(self.problems),
        )

    @property
    def _total(self) -> int:
        return sum(map(len, self.tags.values()))

    # -- asking -------------------------------------------------------------------------------

    def _list(self, bulk: Bulk, *, old: bool) -> None:
        started = time.monotonic()
        if self.selection.needs_catalog:
            bulk.submit(None, v1.search(self.registry.v1.session, "") if old else v2.catalog(self.registry.session))
        for name in self.selection.literals:
            self._ask_tags(bulk, v1.full_name(name) if old else name, old=old)
        answers = 0
        for result in bulk.results():
            answers += 1
            if result.key is None:
                self._take_catalog(bulk, result, old=old)
            else:
                self._take_tags(result, old=old)
        if old and answers:
            self.tried, self.tried_seconds = answers, time.monotonic() - started

    def _ask_tags(self, bulk: Bulk, name: str, *, old: bool) -> None:
        if name in self.tags:
            return
        self.tags[name] = ()
        conversation: Conversation[Any] = (
            v1.tags(self.registry.v1.session, name) if old else v2.tags(self.registry.session, name)
        )
        bulk.submit(name, conversation)

    def _take_catalog(self, bulk: Bulk, result: Result, *, old: bool) -> None:
        self._note(result.error or result.value.error)
        if result.value is None:
            return
        names = [v1.full_name(hit.name) for hit in result.value.hits] if old else result.value.names
        for name in self.selection.of_catalog(names):
            self._ask_tags(bulk, name, old=old)

    def _take_tags(self, result: Result, *, old: bool) -> None:
        name = str(result.key)
        if result.value is None or old:
            self._note(result.error)
            self.tags[name] = () if result.value is None else tuple(result.value.images)
            return
        self._note(result.value.error)
        self.tags[name] = result.value.names
        if self.cache is not None:
            place = self.cache.place(self.registry.host, name)
            self.known += len(self.cache.known_tags(place, result.value.names, complete=False))

    def _note(self, error: RegistryError | None) -> None:
        if error is not None:
            self.problems.append(redact(error, 200))

    def _try(self, bulk: Bulk) -> None:
        """Try a few manifests, spread over the repositories; only by HEAD where a GET is metered."""
        started = time.monotonic()
        session = self.registry.session
        for repository, tag in self._samples():
            ask = v2.head_manifest if self.head_first else v2.get_manifest
            bulk.submit(repository, ask(session, repository, tag))
        tried = []
        for result in bulk.results():
            self.tried += 1
            if result.value is not None:
                tried.append((str(result.key), result.value))
        self.tried_seconds = time.monotonic() - started
        for _, value in tried:
            self._learn(value)
        if self.referrers and tried and tried[0][1].digest is not None:
            self._probe_referrers(tried[0][0], tried[0][1])

    def _samples(self) -> Iterator[tuple[str, str]]:
        filled = [(name, tags) for name, tags in sorted(self.tags.items()) if tags]
        step = max(1, len(filled) // _MOST_SAMPLES)
        chosen = filled[::step][:_MOST_SAMPLES]
        each = max(1, _MOST_SAMPLES // max(1, len(chosen)))
        for name, tags in chosen:
            for tag in tags[:: max(1, len(tags) // each)][:each]:
                yield name, tag

    def _learn(self, value: Any) -> None:
        if isinstance(value, v2.Head):
            self.indexes += value.media_type in INDEX_TYPES
            self.configs += value.media_type not in INDEX_TYPES
        elif isinstance(value, Index):
            self.indexes += 1
            self.children += len(value.manifests)
        elif isinstance(value, Manifest):
            self.configs += value.config.media_type in IMAGE_CONFIG_TYPES

    def _probe_referrers(self, repository: str, value: Any) -> None:
        try:
            self.registry.run(v2.listed_referrers(self.registry.session, repository, value.digest))
        except RegistryError as error:
            self._note(error)

    # -- counting -----------------------------------------------------------------------------

    def _counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the fewest and the most requests by kind; of a known tag the most is that it has moved."""
        total, new = self._total, self._total - self.known
        heads = total if self.head_first else self.known
        learnt = max(1, self.indexes + self.configs)
        per_index = _PLATFORMS if self.head_first else self.children / max(1, self.indexes)
        children = math.ceil(total * self.indexes / learnt * per_index)
        configs = math.ceil(total * self.configs / learnt) + children
        # digests that tags share are got once where a GET is metered, and tag by tag elsewhere
        fewest = (1 if new else 0) if self.head_first else new
        least = {"head": heads, "manifest": fewest, "blob": 1 if configs and not self.known else 0}
        most = {"head": heads, "manifest": total + children, "blob": configs}
        if self.referrers and self.registry.session.capabilities.get("referrers", True):
            least["referrers"] = sum(bool(tags) for tags in self.tags.values())
            most["referrers"] = total + children
        return least, most

    def _counts_of_v1(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the requests of the v1 interface: an image and its ancestry for each tag; layers are not known before."""
        repositories = sum(bool(tags) for tags in self.tags.values())
        return {"image": repositories, "ancestry": repositories}, {"image": self._total, "ancestry": self._total}


__all__ = ["Estimate"]
