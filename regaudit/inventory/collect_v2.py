"""Reading a registry of the v2 interface: tags, manifests, configs and referrers, many at once."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from regaudit.client import v2
from regaudit.client.bulk import Bulk, Result
from regaudit.client.exchange import Conversation
from regaudit.client.registry import Registry
from regaudit.errors import BadManifest, NotFound, RegistryError
from regaudit.inventory.reading import Progress, Selection, columns_from, place_of_problem
from regaudit.inventory.snapshot import Document, Documents, Snapshot
from regaudit.manifest import (
    IMAGE_CONFIG_TYPES,
    LARGEST_SIZE,
    OCI_CONFIG,
    AnyManifest,
    ImageConfig,
    Index,
    LegacyManifest,
    Manifest,
    believable,
    parse_image_config,
)
from regaudit.reference import Digest, subject_of_tag
from regaudit.text import parse_time, redact

logger = logging.getLogger("regaudit.inventory")

# An index nests once or twice; these bounds end a walk that a hostile registry never would.
_DEEPEST_INDEX = 8
_WIDEST_INDEX = 10_000
_CREATED_ANNOTATION = "org.opencontainers.image.created"
_DISCOVERED = {"tag": "tag", "child": "index", "referrer": "referrer", "subject": "referrer"}
# What is found in several ways is found by the first of these, whichever answer came first.
_PRECEDENCE = ("tag", "index", "referrer", "vendor")


@dataclass(slots=True)
class _Found:
    """A manifest of a repository, and how it was found."""

    manifest: AnyManifest
    discovered_by: str
    platform: str | None = None


@dataclass(slots=True)
class ReadingV2:
    """The state of one reading. Only the collecting thread touches it."""

    registry: Registry
    selection: Selection
    referrers: bool
    keep: bool
    head_first: bool
    taken_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    tags: dict[tuple[str, str], tuple[Digest | None, datetime]] = field(default_factory=dict)
    found: dict[tuple[str, Digest], _Found] = field(default_factory=dict)
    asked: set[tuple[str, Digest]] = field(default_factory=set)
    configs: dict[Digest, ImageConfig | None] = field(default_factory=dict)
    media_types: dict[Digest, str] = field(default_factory=dict)
    needing: dict[Digest, set[str]] = field(default_factory=dict)
    repositories: dict[str, None] = field(default_factory=dict)
    pending: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    missing: set[tuple[str, Digest]] = field(default_factory=set)
    subjects: dict[str, set[Digest]] = field(default_factory=dict)
    problems: list[dict[str, Any]] = field(default_factory=list)
    tags_total: int = 0
    tags_done: int = 0

    # -- asking -------------------------------------------------------------------------------

    def run(self, show: Callable[[Progress], None]) -> None:
        """Read everything selected, showing how far it has come."""
        try:
            with self.registry.bulk() as bulk:
                if self.selection.needs_catalog:
                    self._submit(bulk, "", ("catalog",), v2.catalog(self.registry.session))
                for name in self.selection.literals:
                    self._read_repository(bulk, name)
                for result in bulk.results():
                    self._take(bulk, result)
                    show(self._progress())
        except KeyboardInterrupt:
            self._interrupted()

    def _submit(self, bulk: Bulk, repository: str, key: tuple[Any, ...], conversation: Conversation[Any]) -> None:
        self.unfinished += repository in self.repositories and not self.pending[repository]
        self.pending[repository] += 1
        bulk.submit((repository, *key), conversation)

    def _read_repository(self, bulk: Bulk, name: str) -> None:
        if name in self.repositories:
            return
        self.repositories[name] = None
        self._submit(bulk, name, ("tags",), v2.tags(self.registry.session, name))
        if not self.referrers:
            self._problem(name, None, "referrers", "not_asked", "referrers were not asked for", blocking=True)

    def _read_tag(self, repository: str, tag: str) -> Conversation[AnyManifest]:
        session = self.registry.session
        if not self.head_first:
            return (yield from v2.get_manifest(session, repository, tag))
        try:
            head = yield from v2.head_manifest(session, repository, tag)
        except NotFound:  # definite only where the registry answers HEAD at all: let GET say it
            return (yield from v2.get_manifest(session, repository, tag))
        known = self.found.get((repository, head.digest)) if head.digest is not None else None
        if known is not None and known.manifest.media_type == head.media_type:
            return known.manifest
        return (yield from v2.get_manifest(session, repository, head.digest or tag))

    # -- taking -------------------------------------------------------------------------------

    def _take(self, bulk: Bulk, result: Result) -> None:
        key: tuple[Any, ...] = result.key  # type: ignore[assignment]  # as `_submit` made it
        repository, what, *rest = key
        handlers: dict[str, Callable[..., None]] = {
            "catalog": self._take_catalog,
            "tags": self._take_tags,
            "tag": self._take_tag,
            "manifest": self._take_manifest,
            "config": self._take_config,
            "referrers": self._take_referrers,
        }
        handlers[what](bulk, result, repository, *rest)
        # Only now, so that an interrupt in the lines above leaves the repository unread.
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

    def _take_tags(self, bulk: Bulk, result: Result, repository: str) -> None:
        listing: v2.Listing = _value(result)
        for name in listing.invalid:
            self._problem(
                repository, name, "tags", "invalid_name", "the registry lists a tag that is none", blocking=True
            )
        if listing.error is not None:
            self._failed(repository, None, "tags", listing.error)
        self.tags_total += len(listing.names)
        for tag in listing.names:
            self._submit(bulk, repository, ("tag", tag), self._read_tag(repository, tag))

    def _take_tag(self, bulk: Bulk, result: Result, repository: str, tag: str) -> None:
        self.tags_done += 1
        manifest: AnyManifest | None = result.value
        if manifest is not None:
            self._meet(bulk, repository, manifest, "tag", 0)
        # After its manifest: an interrupt in between must not leave a tag on something unknown.
        self.tags[repository, tag] = (None if manifest is None else manifest.digest, datetime.now(UTC))
        if manifest is not None:
            if (subject := subject_of_tag(tag)) is not None:
                self.subjects.setdefault(repository, set()).add(subject)
            return
        if isinstance(result.error, NotFound):
            message = "the tag is listed, and its manifest is gone"
            self._failed(repository, tag, "manifest", result.error, kind="dangling", message=message, blocking=False)
        else:
            self._failed(repository, tag, "manifest", result.error)

    def _take_manifest(
        self, bulk: Bulk, result: Result, repository: str, digest: Digest, role: str, depth: int
    ) -> None:
        if result.value is not None:
            self._meet(bulk, repository, result.value, _DISCOVERED[role], depth)
        elif isinstance(result.error, NotFound) and role == "subject":
            pass  # it was deleted, and its signature was left behind: nothing is missing that something needs
        elif isinstance(result.error, NotFound):
            self.missing.add((repository, digest))
            message = f"listed as a {role}, and not there"
            self._failed(
                repository, digest, "manifest", result.error, kind="missing_child", message=message, blocking=False
            )
        else:
            self._failed(repository, digest, "manifest", result.error)

    def _take_config(self, bulk: Bulk, result: Result, repository: str, digest: Digest) -> None:
        waiting = self.needing.pop(digest) - {repository}
        if result.error is not None:
            # definitely gone, it can protect nothing: only the image's own age and labels are not known
            self._failed(repository, digest, "config", result.error, blocking=not isinstance(result.error, NotFound))
            if waiting:  # a blob is asked for in a repository, and another one may have it
                self._ask_config(bulk, min(waiting), digest, waiting)
            return
        try:
            self.configs[digest] = parse_image_config(result.value)
        except BadManifest:
            self.configs[digest] = None
            for name in {repository, *waiting}:
                self._bad_config(name, digest)

    def _bad_config(self, repository: str, digest: Digest) -> None:
        message = "the image config is not a JSON object that can be believed: age, platform and labels are not known"
        self._problem(repository, digest, "config", BadManifest.kind, message, blocking=False)

    def _take_referrers(self, bulk: Bulk, result: Result, repository: str, digest: Digest, depth: int) -> None:
        if result.error is not None:
            self._failed(repository, digest, "referrers", result.error)
            return
        for descriptor in result.value or ():
            self._read_manifest(bulk, repository, descriptor.digest, "referrer", depth + 1)

    def _meet(self, bulk: Bulk, repository: str, manifest: AnyManifest, discovered_by: str, depth: int) -> None:
        """Take in a manifest, and ask for what hangs on it."""
        key = (repository, manifest.digest)
        if key in self.found:
            known = self.found[key]
            known.discovered_by = min(known.discovered_by, discovered_by, key=_PRECEDENCE.index)
            return
        self.found[key] = _Found(manifest, discovered_by)
        self.asked.add(key)
        if manifest.subject is not None:
            self.subjects.setdefault(repository, set()).add(manifest.subject.digest)
        if isinstance(manifest, LegacyManifest):
            return
        if isinstance(manifest, Index):
            self._read_children(bulk, repository, manifest, depth)
        else:
            self._read_config(bulk, repository, manifest)
        if self.referrers and self.registry.session.capabilities.get("referrers", True):
            self._read_referrers(bulk, repository, manifest.digest, depth)

    def _read_referrers(self, bulk: Bulk, repository: str, digest: Digest, depth: int) -> None:
        if depth >= _DEEPEST_INDEX:
            message = f"attached deeper than {_DEEPEST_INDEX}: its own referrers were not read"
            self._problem(repository, digest, "referrers", "too_deep", message, blocking=True)
            return
        conversation = v2.listed_referrers(self.registry.session, repository, digest)
        self._submit(bulk, repository, ("referrers", digest, depth), conversation)

    def _read_children(self, bulk: Bulk, repository: str, index: Index, depth: int) -> None:
        if depth >= _DEEPEST_INDEX or len(index.manifests) > _WIDEST_INDEX:
            message = f"an index nested deeper than {_DEEPEST_INDEX} or wider than {_WIDEST_INDEX}: its children were not read"
            self._problem(repository, index.digest, "manifest", "too_deep", message, blocking=True)
            return
        for descriptor in index.manifests:
            self._read_manifest(bulk, repository, descriptor.digest, "child", depth + 1)

    def _read_subjects(self, bulk: Bulk, repository: str) -> None:
        """Read what signatures are about and no tag or index led to: an index pushed by digest still needs its children.

        Once everything else of the repository is read, since most of it is found by a tag.
        """
        for digest in sorted(self.subjects.pop(repository, ())):
            self._read_manifest(bulk, repository, digest, "subject", 0)

    def _read_manifest(self, bulk: Bulk, repository: str, digest: Digest, role: str, depth: int) -> None:
        key = (repository, digest)
        if key in self.asked:
            return
        self.asked.add(key)
        conversation = v2.get_manifest(self.registry.session, repository, digest)
        self._submit(bulk, repository, ("manifest", digest, role, depth), conversation)

    def _read_config(self, bulk: Bulk, repository: str, manifest: Manifest) -> None:
        digest = manifest.config.digest
        if manifest.config.media_type not in IMAGE_CONFIG_TYPES:
            return
        self.media_types[digest] = manifest.config.media_type
        if digest in self.needing:
            self.needing[digest].add(repository)
        elif digest not in self.configs:
            self._ask_config(bulk, repository, digest, {repository})
        elif self.configs[digest] is None:
            self._bad_config(repository, digest)

    def _ask_config(self, bulk: Bulk, repository: str, digest: Digest, waiting: set[str]) -> None:
        self.needing[digest] = waiting
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
        waiting |= {name for names in self.needing.values() for name in names}
        for name in sorted(waiting or {""}):
            stage = "tags" if name else "catalog"
            self._problem(name or None, None, stage, "interrupted", "the reading was interrupted", blocking=True)

    def _progress(self) -> Progress:
        total = len(self.repositories)
        requests = sum(self.registry.session.counts.values())
        return Progress(self.tags_done, self.tags_total, total - self.unfinished, total, requests)

    # -- tables -------------------------------------------------------------------------------

    def snapshot(self, patterns: tuple[str, ...], requests: dict[str, int]) -> Snapshot:
        """Return what was read."""
        return Snapshot.from_columns(
            columns_from(_Rows(self).tables()),
            registry=self.registry.host,
            taken_at=self.taken_at,
            finished_at=datetime.now(UTC),
            patterns=patterns,
            repositories=tuple(sorted(self.repositories)),
            documents=Documents(self._documents()),
            requests=requests,
        )

    def _documents(self) -> dict[str, Document]:
        if not self.keep:
            return {}
        kept = {str(d): Document(f.manifest.media_type, f.manifest.raw) for (_, d), f in self.found.items()}
        for digest, config in self.configs.items():
            if config is not None:
                kept[str(digest)] = Document(self.media_types.get(digest, OCI_CONFIG), config.raw)
        return kept


@dataclass(frozen=True, slots=True)
class _Description:
    """What is derived for a manifest: when it was built, and the distinct blobs it needs."""

    created: datetime | None
    source: str
    blobs: dict[Digest, int]
    complete: bool = True


class _Rows:
    """Turns what a reading found into rows."""

    def __init__(self, reading: ReadingV2) -> None:
        self._reading = reading
        self._described: dict[tuple[str, Digest], _Description] = {}
        self._tag_counts = Counter(
            (repository, digest) for (repository, _), (digest, _) in reading.tags.items() if digest
        )
        self._platforms = {
            (repository, child.digest): str(child.platform)
            for (repository, _), found in sorted(reading.found.items(), key=lambda item: item[0])
            if isinstance(found.manifest, Index)
            for child in found.manifest.manifests
            if child.platform is not None
        }

    def tables(self) -> dict[str, Iterable[dict[str, Any]]]:
        ordered = sorted(self._reading.found, key=lambda key: (key[0], key[1]))
        return {
            "tags": (self._tag(*key) for key in sorted(self._reading.tags)),
            "manifests": (self._manifest(*key) for key in ordered),
            "blobs": (row for key in ordered for row in self._blobs(*key)),
            "children": (row for key in ordered for row in self._children(*key)),
            "problems": sorted(self._reading.problems, key=place_of_problem),
        }

    def _place(self, repository: str) -> dict[str, Any]:
        return {"registry": self._reading.registry.host, "repository": repository}

    def _tag(self, repository: str, tag: str) -> dict[str, Any]:
        digest, seen_at = self._reading.tags[repository, tag]
        row = {**self._place(repository), "tag": tag, "digest": digest, "seen_at": seen_at, "pushed_source": "none"}
        if digest is None:
            return {**row, "kind": "unknown", "created_source": "none"}
        manifest = self._reading.found[repository, digest].manifest
        return {**row, "media_type": manifest.media_type, "kind": manifest.kind, **self._derived(repository, digest)}

    def _manifest(self, repository: str, digest: Digest) -> dict[str, Any]:
        found = self._reading.found[repository, digest]
        manifest = found.manifest
        row = {
            **self._place(repository),
            "digest": digest,
            "media_type": manifest.media_type,
            "artifact_type": manifest.artifact_type,
            "kind": manifest.kind,
            "platform": self._platforms.get((repository, digest)),
            "manifest_bytes": len(manifest.raw),
            "layer_count": len(manifest.manifests if isinstance(manifest, Index) else manifest.layers),
            "tag_count": self._tag_counts[repository, digest],
            "subject_digest": manifest.subject.digest if manifest.subject is not None else None,
            "discovered_by": found.discovered_by,
            "annotations": _json(manifest.annotations),
            **self._derived(repository, digest),
        }
        return {**row, **self._of_config(manifest, row)}

    def _of_config(self, manifest: AnyManifest, row: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(manifest, Manifest):
            return {}
        config = self._reading.configs.get(manifest.config.digest)
        platform = str(config.platform) if config is not None and config.platform is not None else None
        kind = manifest.artifact_type or (manifest.config.media_type if manifest.kind == "artifact" else None)
        return {
            "config_digest": manifest.config.digest,
            "artifact_type": kind,
            "platform": row["platform"] or platform,
            "labels": None if config is None else _json(config.labels),
        }

    def _blobs(self, repository: str, digest: Digest) -> Iterator[dict[str, Any]]:
        manifest = self._reading.found[repository, digest].manifest
        place = {**self._place(repository), "manifest_digest": digest}
        if isinstance(manifest, LegacyManifest):  # schema 1 declares no sizes
            for position, layer in enumerate(manifest.layers, start=1):
                yield {**place, "position": position, "role": "layer", "digest": layer}
        elif isinstance(manifest, Manifest):
            for position, blob in enumerate(manifest.blobs):
                yield {
                    **place,
                    "position": position,
                    "role": "layer" if position else "config",
                    "digest": blob.digest,
                    "media_type": blob.media_type,
                    "size_bytes": blob.size,
                }

    def _children(self, repository: str, digest: Digest) -> Iterator[dict[str, Any]]:
        manifest = self._reading.found[repository, digest].manifest
        for position, child in enumerate(manifest.manifests if isinstance(manifest, Index) else ()):
            yield {
                **self._place(repository),
                "index_digest": digest,
                "position": position,
                "digest": child.digest,
                "platform": None if child.platform is None else str(child.platform),
                "size_bytes": child.size,
                "role": "attestation" if child.is_attestation else "image",
            }

    def _derived(self, repository: str, digest: Digest) -> dict[str, Any]:
        described = self._describe(repository, digest)
        total = sum(described.blobs.values())
        return {
            "created": described.created,
            "created_source": described.source,
            # sizes are what a document claims; a sum beyond what a file system can hold is no size
            "content_bytes": total if described.complete and total <= LARGEST_SIZE else None,
        }

    def _describe(self, repository: str, digest: Digest) -> _Description:
        """Describe a manifest, whatever is below it first: a chain of indexes may be longer than Python's stack."""
        if (repository, digest) in self._described:
            return self._described[repository, digest]
        waiting = [digest]
        while waiting:
            key = (repository, waiting[-1])
            manifest = self._reading.found[key].manifest
            if key not in self._described and isinstance(manifest, Index):
                self._described[key] = _Description(None, "none", {}, complete=False)  # ends a cycle
                waiting += [c.digest for c in manifest.manifests if self._undescribed(repository, c.digest)]
                continue
            waiting.pop()
            if isinstance(manifest, Index):
                self._described[key] = self._describe_index(repository, manifest)
            elif key not in self._described:
                self._described[key] = self._describe_one(manifest)
        return self._described[repository, digest]

    def _undescribed(self, repository: str, digest: Digest) -> bool:
        return (repository, digest) in self._reading.found and (repository, digest) not in self._described

    def _describe_one(self, manifest: Manifest | LegacyManifest) -> _Description:
        if isinstance(manifest, LegacyManifest):
            created = believable(manifest.created, self._reading.taken_at)
            return _Description(created, "config" if created else "none", {}, complete=False)
        config = self._reading.configs.get(manifest.config.digest)
        created = believable(config.created if config is not None else None, self._reading.taken_at)
        source = "config"
        if created is None:
            created, source = self._annotated(manifest), "annotation"
        return _Description(created, source if created else "none", {blob.digest: blob.size for blob in manifest.blobs})

    def _describe_index(self, repository: str, index: Index) -> _Description:
        """Sum up an index: its newest child's time, and the distinct blobs of all its children."""
        blobs: dict[Digest, int] = {}
        times: list[tuple[datetime, str]] = []
        complete = True
        for child in index.manifests:
            if (repository, child.digest) not in self._reading.found:
                complete = complete and (repository, child.digest) in self._reading.missing
                continue
            described = self._described[repository, child.digest]
            blobs |= described.blobs
            complete = complete and described.complete
            if described.created is not None and not child.is_attestation:
                times.append((described.created, described.source))
        if not times and (annotated := self._annotated(index)):
            times.append((annotated, "annotation"))
        created, source = max(times, default=(None, "none"))
        return _Description(created, source, blobs, complete)

    def _annotated(self, manifest: AnyManifest) -> datetime | None:
        return believable(parse_time(manifest.annotations.get(_CREATED_ANNOTATION)), self._reading.taken_at)


def _value(result: Result) -> Any:
    """Return a listing, also where the conversation failed as a whole."""
    return v2.Listing((), error=result.error) if result.error is not None else result.value


def _json(fields: dict[str, str]) -> str | None:
    return json.dumps(fields, sort_keys=True, ensure_ascii=False) if fields else None


__all__ = ["ReadingV2"]
