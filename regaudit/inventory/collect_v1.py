"""Reading a registry of the v1 interface into the same tables, as far as it can tell.

A tag has an image id and no digest, because nothing in v1 is known by its bytes: manifests, blobs and
children stay empty, and no plan takes such a tag. Its size is that of all layers that it is built on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from regaudit.client import v1
from regaudit.client.bulk import Bulk, Result
from regaudit.client.exchange import Conversation, Once
from regaudit.client.grants import SessionV1
from regaudit.client.registry import Registry
from regaudit.errors import NotFound, RegistryError
from regaudit.inventory.cache import Cache
from regaudit.inventory.columns import MISSING, NAT, frame, microseconds
from regaudit.inventory.documents import DocumentWriter
from regaudit.inventory.progress import Meter, Progress
from regaudit.inventory.reading import Selection, problem_table
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.tables import CREATED_SOURCES, KINDS, PUSHED_SOURCES, digest_dtype
from regaudit.manifest import LARGEST_SIZE, believable
from regaudit.text import redact

logger = logging.getLogger("regaudit.inventory")

_LISTINGS = frozenset({"catalog", "tags"})


@dataclass(frozen=True, slots=True)
class _Layer:
    """What is remembered of an image JSON: when the image was built, and the size of its own layer."""

    created: datetime | None
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Described:
    """What was found out about a tagged image, and what could not be read: (image id, stage, error)."""

    created: datetime | None = None
    content_bytes: int | None = None
    read: bool = True
    failures: tuple[tuple[str, str, RegistryError], ...] = ()


@dataclass(slots=True)
class ReadingV1:
    """The state of one reading. Only the collecting thread changes it, the known layers apart."""

    registry: Registry
    selection: Selection
    # Nothing in v1 is known by its bytes: it has no use for these.
    cache: Cache | None = None
    documents: DocumentWriter | None = None
    taken_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    layers: dict[str, _Layer] = field(default_factory=dict)
    tags: dict[tuple[str, str], tuple[str, datetime]] = field(default_factory=dict)
    images: dict[tuple[str, str], _Described] = field(default_factory=dict)
    waiting: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    repositories: dict[str, None] = field(default_factory=dict)
    pending: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)
    tags_done: int = 0
    listing: int = 0

    def run(self, show: Callable[[Progress], None]) -> None:
        """Read everything selected, showing how far it has come."""
        try:
            with self.registry.bulk() as bulk:
                if self.selection.needs_catalog:
                    self._submit(bulk, "", ("catalog",), v1.search(self._session, ""))
                for name in self.selection.literals:
                    self._read_repository(bulk, v1.full_name(name))
                for result in Meter(self, self.registry.session.counts, show).results(bulk):
                    self._take(bulk, result)
        except KeyboardInterrupt:
            self._interrupted()

    # -- asking -------------------------------------------------------------------------------

    @property
    def _session(self) -> SessionV1:
        return self.registry.v1.session

    def _submit(self, bulk: Bulk, repository: str, key: tuple[str, ...], conversation: Conversation[Any]) -> None:
        self.pending[repository] += 1
        self.listing += key[0] in _LISTINGS
        bulk.submit((repository, *key), conversation)

    def _read_repository(self, bulk: Bulk, name: str) -> None:
        if name in self.repositories or any(map(self.selection.leaves_out, _spellings(name))):
            return
        self.repositories[name] = None
        self._submit(bulk, name, ("tags",), v1.tags(self._session, name))

    def _describe(self, repository: str, image_id: str) -> Conversation[_Described]:
        """Find out about an image and all that it is built on, asking for each layer once in the whole reading."""
        try:
            top = yield from self._layer(repository, image_id)
        except RegistryError as error:
            return _Described(read=False, failures=((image_id, "config", error),))
        created = believable(top.created, self.taken_at)
        try:
            ids = yield from v1.ancestry(self._session, repository, image_id)
        except RegistryError as error:
            return _Described(created, failures=((image_id, "manifest", error),))
        total, failures = 0, []
        for ancestor in ids:
            try:
                layer = yield from self._layer(repository, ancestor)
            except RegistryError as error:
                failures.append((ancestor, "config", error))
                continue
            total = -1 if total < 0 or layer.size_bytes is None else total + layer.size_bytes
        known = not failures and 0 <= total <= LARGEST_SIZE
        return _Described(created, total if known else None, failures=tuple(failures))

    def _layer(self, repository: str, image_id: str) -> Conversation[_Layer]:
        if image_id not in self.layers:
            yield Once(("v1", "image", repository, image_id), self._learn(repository, image_id))
        return self.layers[image_id]

    def _learn(self, repository: str, image_id: str) -> Conversation[None]:
        if image_id in self.layers:
            return
        image = yield from v1.get_image(self._session, repository, image_id)
        size = image.size_bytes if image.size_bytes is not None else image.layer_bytes
        self.layers[image_id] = _Layer(image.created, size)

    # -- taking -------------------------------------------------------------------------------

    def _take(self, bulk: Bulk, result: Result) -> None:
        key: tuple[str, ...] = result.key  # type: ignore[assignment]  # as `_submit` made it
        repository, what, *rest = key
        if what == "catalog":
            self._take_catalog(bulk, result)
        elif what == "tags":
            self._take_tags(bulk, result, repository)
        else:
            self._take_image(result, repository, rest[0])
        self.pending[repository] -= 1
        self.listing -= what in _LISTINGS

    def _take_catalog(self, bulk: Bulk, result: Result) -> None:
        found: v1.Search | None = result.value
        error = result.error if found is None else found.error
        if error is not None:
            message = (
                f"{error}; where a registry of the v1 interface has no search, name the repositories that you mean"
            )
            self._problem(None, None, "catalog", error, message=message)
        names = [hit.name for hit in found.hits] if found is not None else []
        for name in found.invalid if found is not None else ():
            self._odd(None, name, "catalog", "the registry lists a name that is none")
        spelt = {spelling for name in names for spelling in _spellings(v1.full_name(name))}
        chosen = {v1.full_name(spelling) for spelling in self.selection.of_catalog(spelt)}
        for name in sorted(chosen):
            self._read_repository(bulk, name)

    def _take_tags(self, bulk: Bulk, result: Result, repository: str) -> None:
        if result.error is not None:
            self._problem(repository, None, "tags", result.error)
            return
        found: v1.Tags = result.value
        for tag in found.invalid:
            self._odd(repository, tag, "tags", "the registry lists a tag that is none, or that names no image")
        for tag, image_id in found.images.items():
            self.tags[repository, tag] = (image_id, datetime.now(UTC))
            self.waiting.setdefault((repository, image_id), []).append(tag)
        for image_id in dict.fromkeys(found.images.values()):
            self._submit(bulk, repository, ("image", image_id), self._describe(repository, image_id))

    def _take_image(self, result: Result, repository: str, image_id: str) -> None:
        tags = self.waiting.pop((repository, image_id))
        self.tags_done += len(tags)
        described = result.value
        if described is None:
            assert result.error is not None  # noqa: S101 -- a result has a value or an error
            described = _Described(read=False, failures=((image_id, "config", result.error),))
        self.images[repository, image_id] = described
        for failed, stage, error in described.failures:
            if failed != image_id or described.read:
                self._problem(repository, failed, stage, error)
                continue
            for tag in tags:
                self._unread_tag(repository, tag, error)

    def _unread_tag(self, repository: str, tag: str, error: RegistryError) -> None:
        if isinstance(error, NotFound):
            message = "the tag is listed, and its image is gone"
            self._problem(repository, tag, "manifest", error, kind="dangling", message=message)
        else:
            self._problem(repository, tag, "manifest", error)

    # -- what went wrong ----------------------------------------------------------------------

    def _problem(
        self,
        repository: str | None,
        identifier: str | None,
        stage: str,
        error: RegistryError,
        *,
        kind: str | None = None,
        message: str | None = None,
    ) -> None:
        definite = isinstance(error, NotFound) and identifier is not None
        self._note(
            repository,
            identifier,
            stage,
            error=kind or error.kind,
            message=message or str(error),
            blocking=not definite,
            code=error.code,
            status=error.status,
        )

    def _odd(self, repository: str | None, identifier: str, stage: str, message: str) -> None:
        self._note(repository, identifier, stage, error="invalid_name", message=message, blocking=True)

    def _note(self, repository: str | None, identifier: str | None, stage: str, *, message: str, **fields: Any) -> None:
        place = {"registry": self.registry.host, "repository": repository, "identifier": identifier, "stage": stage}
        self.problems.append({**place, **fields, "message": redact(message)})

    def _interrupted(self) -> None:
        """Mark as not read whatever was still to come."""
        logger.warning("the reading was interrupted: what was read so far is kept and marked incomplete")
        for name in sorted(name for name, count in self.pending.items() if count) or [""]:
            stage = "tags" if name else "catalog"
            message = "the reading was interrupted"
            self._note(name or None, None, stage, error="interrupted", message=message, blocking=True)

    def counted(self) -> tuple[int, int, int, bool]:
        """Return tags listed, repositories done, repositories to be read, and whether all tags are listed."""
        total = len(self.repositories)
        unfinished = sum(bool(self.pending[name]) for name in self.repositories)
        return len(self.tags), total - unfinished, total, not self.listing

    # -- tables -------------------------------------------------------------------------------

    def snapshot(self, patterns: tuple[str, ...], requests: dict[str, int]) -> Snapshot:
        """Return what was read."""
        dictionary = digest_dtype(())
        none = {table: frame(table, 0, {}, dictionary) for table in ("manifests", "blobs", "children")}
        return Snapshot(
            registry=self.registry.host,
            taken_at=self.taken_at,
            finished_at=datetime.now(UTC),
            patterns=patterns,
            repositories=tuple(sorted(self.repositories)),
            tags=frame("tags", len(self.tags), self._tag_columns(), dictionary),
            problems=problem_table(self.problems),
            requests=requests,
            **none,
        )

    def _tag_columns(self) -> dict[str, Any]:
        keys = sorted(self.tags)
        ids = [self.tags[key][0] for key in keys]
        described = [
            self.images.get((repository, image_id), _Described(read=False))
            for (repository, _), image_id in zip(keys, ids, strict=True)
        ]
        created = np.array([microseconds(found.created) for found in described], dtype=np.int64)
        sizes = [MISSING if found.content_bytes is None else found.content_bytes for found in described]
        kinds = [KINDS.index("image" if found.read else "unknown") for found in described]
        return {
            "registry": [self.registry.host] * len(keys),
            "repository": [repository for repository, _ in keys],
            "tag": [tag for _, tag in keys],
            "image_id": ids,
            "kind": np.array(kinds, dtype=np.int8),
            "created": created,
            "created_source": np.where(created == NAT, *(CREATED_SOURCES.index(word) for word in ("none", "v1"))),
            "pushed_source": np.full(len(keys), PUSHED_SOURCES.index("none")),
            "content_bytes": np.array(sizes, dtype=np.int64),
            "seen_at": np.array([microseconds(self.tags[key][1]) for key in keys], dtype=np.int64),
        }


def _spellings(name: str) -> set[str]:
    """Return how a person may write a repository: with its namespace, and without it where it is the implied one."""
    return {name, name.removeprefix(f"{v1.NAMESPACE}/")}


__all__ = ["ReadingV1"]
