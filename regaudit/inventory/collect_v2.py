"""Reading a registry of the v2 interface: tags, manifests, configs and referrers, many at once."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import pandas as pd

from regaudit.client import v2
from regaudit.client.bulk import Bulk, Result
from regaudit.client.exchange import Conversation
from regaudit.client.registry import Registry
from regaudit.errors import BadManifest, NotFound, RegistryError
from regaudit.inventory.cache import READ_AHEAD, Cache
from regaudit.inventory.documents import Documents, DocumentWriter
from regaudit.inventory.found import Found
from regaudit.inventory.progress import Meter, Progress
from regaudit.inventory.reading import Selection, problem_table
from regaudit.inventory.snapshot import Snapshot
from regaudit.manifest import (
    IMAGE_CONFIG_TYPES,
    AnyManifest,
    Descriptor,
    Index,
    LegacyManifest,
    Manifest,
    parse_image_config,
)
from regaudit.reference import Digest, subject_of_tag
from regaudit.text import redact

logger = logging.getLogger("regaudit.inventory")

_LISTINGS = frozenset({"catalog", "tags"})
# An index nests once or twice; these bounds end a walk that a hostile registry never would.
_DEEPEST_INDEX = 8
_MOST_BELOW = 10_000
# How a manifest is found that only its signature leads to.
_SUBJECT = "subject"
# So many tags are under way at a time: more than any number of requests in flight, and a small part of a million,
# each of which would otherwise lie in memory as a conversation that has not begun.
_MOST_TAGS_UNDER_WAY = 1_000


@dataclass(slots=True)
class _Walk:
    """The way down from one index: how many manifests all indexes of it have listed so far."""

    listed: int = 0


class _Want(NamedTuple):
    """Why a manifest is asked for by its digest: how it was found, how deep, the tag that is on it, and on which walk."""

    way: str
    depth: int = 0
    tag: str | None = None
    walk: _Walk | None = None


@dataclass(slots=True)
class ReadingV2:
    """The state of one reading. Only the collecting thread touches it."""

    registry: Registry
    selection: Selection
    referrers: bool
    head_first: bool
    cache: Cache | None = None
    documents: DocumentWriter | None = None
    taken_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    found: Found = field(init=False)
    kept: bytearray = field(default_factory=bytearray)
    places: dict[str, int] = field(default_factory=dict)
    cached: int = 0
    waiting: deque[tuple[str, Iterator[str], frozenset[str]]] = field(default_factory=deque)
    under_way: int = 0
    wanted: dict[int, list[_Want]] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    bad_configs: set[Digest] = field(default_factory=set)
    needing: dict[Digest, tuple[str, set[str]]] = field(default_factory=dict)
    repositories: dict[str, None] = field(default_factory=dict)
    pending: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    subjects: dict[str, set[Digest]] = field(default_factory=dict)
    problems: list[dict[str, Any]] = field(default_factory=list)
    tags_total: int = 0
    tags_done: int = 0
    listing: int = 0

    def __post_init__(self) -> None:
        self.found = Found(self.registry.host, self.taken_at)

    # -- asking -------------------------------------------------------------------------------

    def run(self, show: Callable[[Progress], None]) -> None:
        """Read everything selected, showing how far it has come."""
        try:
            with self.registry.bulk() as bulk:
                if self.selection.needs_catalog:
                    self._submit(bulk, "", ("catalog",), v2.catalog(self.registry.session))
                for name in self.selection.literals:
                    self._read_repository(bulk, name)
                for result in Meter(self, self.registry.session.counts, show).results(bulk):
                    self._take(bulk, result)
                    self._feed(bulk)
                    if self.cache is not None:
                        self.cache.tend()
        except KeyboardInterrupt:
            self._interrupted()

    def _submit(self, bulk: Bulk, repository: str, key: tuple[Any, ...], conversation: Conversation[Any]) -> None:
        self._expect(repository, 1)
        self.listing += key[0] in _LISTINGS
        bulk.submit((repository, *key), conversation)

    def _expect(self, repository: str, answers: int) -> None:
        self.unfinished += repository in self.repositories and not self.pending[repository] and answers > 0
        self.pending[repository] += answers

    def _read_repository(self, bulk: Bulk, name: str) -> None:
        if name in self.repositories:
            return
        self.repositories[name] = None
        self._submit(bulk, name, ("tags",), v2.tags(self.registry.session, name))
        if not self.referrers:
            self._problem(name, None, "referrers", "not_asked", "referrers were not asked for", blocking=True)

    def _feed(self, bulk: Bulk) -> None:
        """Ask for more tags where there is room."""
        while self.waiting and self.under_way < _MOST_TAGS_UNDER_WAY:
            repository, tags, known = self.waiting[0]
            some = list(islice(tags, READ_AHEAD))
            if not some:
                self.waiting.popleft()
                continue
            self.under_way += len(some)
            if self.cache is not None and known:
                self.cache.read_ahead(self.places[repository], [tag for tag in some if tag in known])
            for tag in some:
                if self.head_first or tag in known:
                    bulk.submit((repository, "head", tag), v2.head_manifest(self.registry.session, repository, tag))
                else:
                    bulk.submit((repository, "tag", tag), v2.get_manifest(self.registry.session, repository, tag))

    def _want(self, bulk: Bulk, repository: str, digest: Digest, want: _Want) -> None:
        """Ask for a manifest by its digest, once for all who want it."""
        key = self.found.key(repository, digest)
        if key in self.wanted:
            self.wanted[key].append(want)
            return
        self.wanted[key] = [want]
        self._submit(bulk, repository, ("manifest", digest), v2.get_manifest(self.registry.session, repository, digest))

    # -- taking -------------------------------------------------------------------------------

    def _take(self, bulk: Bulk, result: Result) -> None:
        key: tuple[Any, ...] = result.key  # type: ignore[assignment]  # as `_submit` made it
        repository, what, *rest = key
        getattr(self, f"_take_{what}")(bulk, result, repository, *rest)
        # Only now, so that an interrupt in the lines above leaves the repository unread.
        self.listing -= what in _LISTINGS
        self.pending[repository] -= 1
        if repository in self.repositories and not self.pending[repository]:
            self.unfinished -= 1
            self._read_subjects(bulk, repository)

    def _take_catalog(self, bulk: Bulk, result: Result, _: str) -> None:
        listing: v2.Listing = _value(result)
        for name in listing.invalid:
            self._problem(
                None, name, "catalog", "invalid_name", "the registry lists a name that is none", blocking=True
            )
        if listing.error is not None:
            self._failed(None, None, "catalog", listing.error)
        for name in self.selection.of_catalog(listing.names):
            self._read_repository(bulk, name)

    def _take_tags(self, _: Bulk, result: Result, repository: str) -> None:
        listing: v2.Listing = _value(result)
        for name in listing.invalid:
            self._problem(
                repository, name, "tags", "invalid_name", "the registry lists a tag that is none", blocking=True
            )
        if listing.error is not None:
            self._failed(repository, None, "tags", listing.error)
        self.tags_total += len(listing.names)
        self._expect(repository, len(listing.names))
        known: frozenset[str] = frozenset()
        if self.cache is not None:
            self.places[repository] = self.cache.place(self.registry.host, repository)
            known = self.cache.known_tags(self.places[repository], listing.names, complete=listing.error is None)
        self.waiting.append((repository, iter(listing.names), known))

    def _take_head(self, bulk: Bulk, result: Result, repository: str, tag: str) -> None:
        head: v2.Head | None = result.value
        if head is None and not isinstance(result.error, NotFound):
            self._lose_tag(repository, tag, result.error)
        elif head is None or head.digest is None:  # a 404 is definite only where the registry answers HEAD at all
            conversation = v2.get_manifest(self.registry.session, repository, tag)
            self._submit(bulk, repository, ("tag", tag), conversation)
        elif self.found.knows(self.found.key(repository, head.digest), head.media_type):
            self.found.find_again(self.found.key(repository, head.digest), "tag")
            self._settle_tag(repository, tag, head.digest, head.media_type)
        elif self._meet_cached(bulk, repository, head.digest, head.media_type, _Want("tag"), anywhere=True):
            self._settle_tag(repository, tag, head.digest, head.media_type)
        else:
            self._want(bulk, repository, head.digest, _Want("tag", 0, tag))

    def _take_tag(self, bulk: Bulk, result: Result, repository: str, tag: str) -> None:
        manifest: AnyManifest | None = result.value
        if manifest is None:
            self._lose_tag(repository, tag, result.error)
            return
        self._meet(bulk, repository, manifest, _Want("tag"))
        self._settle_tag(repository, tag, manifest.digest, manifest.media_type)

    def _settle_tag(self, repository: str, tag: str, digest: Digest | None, media_type: str = "") -> None:
        """Note what a tag is on. After its manifest: an interrupt in between must not leave a tag on something unknown."""
        self.under_way -= 1
        self.tags_done += 1
        self.found.add_tag(repository, tag, digest)
        if digest is not None and (subject := subject_of_tag(tag)) is not None:
            self.subjects.setdefault(repository, set()).add(subject)
        if self.cache is None:
            return
        if digest is None:
            self.cache.forget_tag(self.places[repository], tag)
        else:
            self.cache.set_tag(self.places[repository], tag, digest, media_type)

    def _lose_tag(self, repository: str, tag: str, error: RegistryError | None) -> None:
        self._settle_tag(repository, tag, None)
        if isinstance(error, NotFound):
            message = "the tag is listed, and its manifest is gone"
            self._failed(repository, tag, "manifest", error, kind="dangling", message=message, blocking=False)
        else:
            self._failed(repository, tag, "manifest", error)

    def _take_manifest(self, bulk: Bulk, result: Result, repository: str, digest: Digest) -> None:
        key = self.found.key(repository, digest)
        wants = self.wanted.pop(key)
        if result.value is None:
            self._lose_manifest(repository, digest, wants, result.error)
            return
        for want in wants:
            self._meet(bulk, repository, result.value, want)
            if want.tag is not None:
                self._settle_tag(repository, want.tag, digest, result.value.media_type)

    def _lose_manifest(self, repository: str, digest: Digest, wants: list[_Want], error: RegistryError | None) -> None:
        for tag in (want.tag for want in wants if want.tag is not None):
            self._lose_tag(repository, tag, error)
        ways = [want.way for want in wants if want.tag is None]
        if not ways or (isinstance(error, NotFound) and set(ways) == {_SUBJECT}):
            return  # a subject that was deleted, and left its signature behind, is nothing that anything needs
        self.lost.add(self.found.key(repository, digest))
        if isinstance(error, NotFound):
            self._release(repository, digest)
            self.found.missing.add(self.found.key(repository, digest))
            way = next(way for way in ways if way != _SUBJECT)
            message = f"listed as a {'child' if way == 'index' else way}, and not there"
            self._failed(repository, digest, "manifest", error, kind="missing_child", message=message, blocking=False)
        else:
            self._failed(repository, digest, "manifest", error)

    def _take_config(self, bulk: Bulk, result: Result, repository: str, digest: Digest) -> None:
        media_type, needing = self.needing.pop(digest)
        waiting = needing - {repository}
        if result.error is not None:
            if isinstance(result.error, NotFound):
                self._release(repository, digest)
            # definitely gone, it can protect nothing: only the image's own age and labels are not known
            self._failed(repository, digest, "config", result.error, blocking=not isinstance(result.error, NotFound))
            if waiting:  # a blob is asked for in a repository, and another one may have it
                self._ask_config(bulk, min(waiting), digest, media_type, waiting)
            return
        if self.cache is not None:
            self.cache.add(self.places[repository], digest, "", result.value)
        self._take_in_config(digest, media_type, result.value, needing)

    def _take_in_config(self, digest: Digest, media_type: str, raw: bytes, needing: set[str]) -> None:
        for name in needing:
            self._hold(name, digest, "")
        try:
            self.found.add_config(digest, parse_image_config(raw))
        except BadManifest:
            self.bad_configs.add(digest)
            for name in needing:
                self._bad_config(name, digest)
        else:
            self._keep(digest, media_type, raw)

    def _hold(self, repository: str, digest: Digest, media_type: str) -> None:
        if self.cache is not None:
            self.cache.hold(self.places[repository], digest, media_type)

    def _release(self, repository: str, digest: Digest) -> None:
        if self.cache is not None:
            self.cache.release(self.places[repository], digest)

    def _bad_config(self, repository: str, digest: Digest) -> None:
        message = "the image config is not a JSON object that can be believed: age, platform and labels are not known"
        self._problem(repository, digest, "config", BadManifest.kind, message, blocking=False)

    def _take_referrers(self, bulk: Bulk, result: Result, repository: str, digest: Digest, depth: int) -> None:
        if result.error is not None:
            self._failed(repository, digest, "referrers", result.error)
            return
        for descriptor in result.value or ():
            # the registry lists it now: if the cache has it from here, it is still here
            self._read_manifest(bulk, repository, descriptor, _Want("referrer", depth + 1), there=True)

    def _meet_cached(
        self, bulk: Bulk, repository: str, digest: Digest, media_type: str, want: _Want, *, anywhere: bool = False
    ) -> bool:
        """Meet a manifest that the cache has, from this repository or else from anywhere; return whether it has."""
        if self.cache is None:
            return False
        manifest = self.cache.manifest(digest, media_type, None if anywhere else self.places[repository])
        if manifest is None:
            return False
        self.cached += 1
        self._meet(bulk, repository, manifest, want, cached=True)
        return True

    def _meet(
        self,
        bulk: Bulk,
        repository: str,
        manifest: AnyManifest,
        want: _Want,
        *,
        cached: bool = False,
    ) -> None:
        """Take in a manifest, and ask for what hangs on it: where it is from the cache, what is there needs no asking."""
        key = self.found.key(repository, manifest.digest)
        way = "referrer" if want.way == _SUBJECT else want.way
        if self.found.knows(key):
            self.found.find_again(key, way)
            return
        self.found.add(key, manifest, way)
        if manifest.subject is not None:
            self.subjects.setdefault(repository, set()).add(manifest.subject.digest)
        self._keep(manifest.digest, manifest.media_type, manifest.raw)
        self._remember(repository, manifest, cached=cached)
        if isinstance(manifest, LegacyManifest):
            return
        if isinstance(manifest, Index):
            self._read_children(bulk, repository, manifest, want, cached=cached)
        else:
            self._read_config(bulk, repository, manifest)
        if self.referrers and self.registry.session.capabilities.get("referrers", True):
            self._read_referrers(bulk, repository, manifest.digest, want.depth)

    def _remember(self, repository: str, manifest: AnyManifest, *, cached: bool) -> None:
        if self.cache is None:
            return
        if cached:
            self.cache.hold(self.places[repository], manifest.digest, manifest.media_type)
        else:
            self.cache.add(self.places[repository], manifest.digest, manifest.media_type, manifest.raw)

    def _keep(self, digest: Digest, media_type: str, raw: bytes) -> None:
        """Keep a document, once of those that several repositories have."""
        if self.documents is None:
            return
        code = self.found.digests.code(digest)
        if code >= len(self.kept):
            self.kept.extend(bytes(code + 1024))
        if not self.kept[code]:
            self.documents.add(digest, media_type, raw)
            self.kept[code] = 1

    def _read_referrers(self, bulk: Bulk, repository: str, digest: Digest, depth: int) -> None:
        if depth >= _DEEPEST_INDEX:
            message = f"attached deeper than {_DEEPEST_INDEX}: its own referrers were not read"
            self._problem(repository, digest, "referrers", "too_deep", message, blocking=True)
            return
        conversation = v2.listed_referrers(self.registry.session, repository, digest)
        self._submit(bulk, repository, ("referrers", digest, depth), conversation)

    def _read_children(self, bulk: Bulk, repository: str, index: Index, want: _Want, *, cached: bool) -> None:
        walk = want.walk or _Walk()
        walk.listed += len(index.manifests)
        if want.depth >= _DEEPEST_INDEX or walk.listed > _MOST_BELOW:
            message = (
                f"an index nested deeper than {_DEEPEST_INDEX}, or more than {_MOST_BELOW:,} manifests below one index: "
                "its children were not read"
            )
            self._problem(repository, index.digest, "manifest", "too_deep", message, blocking=True)
            return
        child = _Want("index", want.depth + 1, walk=walk)
        for descriptor in index.manifests:
            self._read_manifest(bulk, repository, descriptor, child, there=cached)

    def _read_subjects(self, bulk: Bulk, repository: str) -> None:
        """Read what signatures are about and no tag or index led to: an index pushed by digest still needs its children.

        Once everything else of the repository is read, since most of it is found by a tag.
        """
        for digest in sorted(self.subjects.pop(repository, ())):
            key = self.found.key(repository, digest)
            if not self.found.knows(key) and key not in self.lost:
                self._want(bulk, repository, digest, _Want(_SUBJECT))

    def _read_manifest(self, bulk: Bulk, repository: str, descriptor: Descriptor, want: _Want, *, there: bool) -> None:
        key = self.found.key(repository, descriptor.digest)
        if self.found.knows(key):
            self.found.find_again(key, want.way)
            return
        if there and self._meet_cached(bulk, repository, descriptor.digest, descriptor.media_type, want):
            return
        if key not in self.lost:
            self._want(bulk, repository, descriptor.digest, want)

    def _read_config(self, bulk: Bulk, repository: str, manifest: Manifest) -> None:
        digest, media_type = manifest.config.digest, manifest.config.media_type
        if media_type not in IMAGE_CONFIG_TYPES:
            return
        if digest in self.needing:
            self.needing[digest][1].add(repository)
        elif digest in self.bad_configs:
            self._bad_config(repository, digest)
        elif self.found.has_config(digest):
            self._hold(repository, digest, "")
        elif (raw := self._cached_config(repository, digest)) is not None:
            self.cached += 1
            self._take_in_config(digest, media_type, raw, {repository})
        else:
            self._ask_config(bulk, repository, digest, media_type, {repository})

    def _cached_config(self, repository: str, digest: Digest) -> bytes | None:
        if self.cache is None or self.cache.is_new(self.places[repository]):
            return None
        return self.cache.config(digest, self.places[repository])

    def _ask_config(self, bulk: Bulk, repository: str, digest: Digest, media_type: str, waiting: set[str]) -> None:
        self.needing[digest] = (media_type, waiting)
        self._submit(bulk, repository, ("config", digest), v2.get_blob(self.registry.session, repository, digest))

    # -- what went wrong ----------------------------------------------------------------------

    def _failed(
        self,
        repository: str | None,
        identifier: str | None,
        stage: str,
        error: RegistryError | None,
        *,
        kind: str | None = None,
        message: str | None = None,
        blocking: bool = True,
    ) -> None:
        assert error is not None  # noqa: S101 -- a result has a value or an error
        text = message or str(error)
        word = kind or error.kind
        self._problem(
            repository, identifier, stage, word, text, blocking=blocking, code=error.code, status=error.status
        )

    def _problem(
        self,
        repository: str | None,
        identifier: str | None,
        stage: str,
        error: str,
        message: str,
        *,
        blocking: bool,
        code: str | None = None,
        status: int | None = None,
    ) -> None:
        self.problems.append(
            {
                "registry": self.registry.host,
                "repository": repository,
                "identifier": identifier,
                "stage": stage,
                "error": error,
                "code": code,
                "status": status,
                "message": redact(message),
                "blocking": blocking,
            }
        )

    def _interrupted(self) -> None:
        """Mark as not read whatever was still to come."""
        logger.warning("the reading was interrupted: what was read so far is kept and marked incomplete")
        waiting = {name for name, count in self.pending.items() if count}
        waiting |= {name for _, names in self.needing.values() for name in names}
        for name in sorted(waiting or {""}):
            stage = "tags" if name else "catalog"
            self._problem(name or None, None, stage, "interrupted", "the reading was interrupted", blocking=True)

    def counted(self) -> tuple[int, int, int, bool]:
        """Return tags listed, repositories done, repositories to be read, and whether all tags are listed."""
        total = len(self.repositories)
        return self.tags_total, total - self.unfinished, total, not self.listing

    # -- tables -------------------------------------------------------------------------------

    def snapshot(self, patterns: tuple[str, ...], requests: dict[str, int]) -> Snapshot:
        """Return what was read."""
        tables: dict[str, pd.DataFrame] = self.found.tables()
        return Snapshot(
            registry=self.registry.host,
            taken_at=self.taken_at,
            finished_at=datetime.now(UTC),
            patterns=patterns,
            repositories=tuple(sorted(self.repositories)),
            problems=problem_table(self.problems),
            documents=Documents() if self.documents is None else self.documents.finish(),
            requests=requests,
            cached=self.cached,
            **tables,
        )


def _value(result: Result) -> Any:
    """Return a listing, also where the conversation failed as a whole."""
    return v2.Listing((), error=result.error) if result.error is not None else result.value


__all__ = ["ReadingV2"]
