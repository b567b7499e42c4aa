"""A small builder of Snapshots in memory, for tests of questions and plans.

Every manifest is a real document: its bytes are written, parsed with `parse_manifest` and kept in
``snapshot.documents``, and its digest is the hash of these bytes. Blobs are named: the digest of a
layer called ``base`` is `blob("base")` wherever it appears, so that two images share a layer by
naming it alike. Documents are padded with spaces to whole thousands of bytes, so that sums are easy
to read: a config is 1,000 bytes, a manifest with a few layers too.

>>> build = Build("registry:5000")
>>> build = build.image("team/app", tags=["1.0", "latest"], created="2026-01-01", layers={"base": 100, "app": 20})
>>> snapshot = build.attach("team/app", "1.0", name="sbom").dangling("team/app", "gone").snapshot()
>>> snapshot.tags[["tag", "kind", "content_bytes"]].values.tolist()
[['1.0', 'image', 1120], ['gone', 'unknown', <NA>], ['latest', 'image', 1120]]
>>> build.digest("team/app", "1.0") == build.digest("team/app", "latest")
True
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from regaudit.inventory.documents import Document, Documents
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.tables import columns_of
from regaudit.manifest import (
    LARGEST_SIZE,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_SIGNED,
    AnyManifest,
    Index,
    LegacyManifest,
    Manifest,
    believable,
    parse_manifest,
)
from regaudit.reference import Digest, attached_tag
from regaudit.text import parse_time

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
TAKEN_AT = "2026-06-01T00:00:00Z"
# What cosign puts into the one layer of the manifest behind each of its tags.
COSIGN_LAYERS = {
    "sig": "application/vnd.dev.cosign.simplesigning.v1+json",
    "att": "application/vnd.dsse.envelope.v1+json",
    "sbom": "text/spdx+json",
}


def blob(name: str) -> Digest:
    """Return the digest of the layer of that name."""
    return Digest.of(name.encode())


def days_before(days: float, moment: str = TAKEN_AT) -> datetime:
    """Return the time so many days before a snapshot is taken: an image of that age."""
    return moment_of(moment) - timedelta(days=days)


def moment_of(time: str | datetime) -> datetime:
    """Return a time, typed as "2026-01-01" or given as one."""
    moment = time if isinstance(time, datetime) else parse_time(time)
    assert moment is not None, time
    return moment


def padded(fields: Any) -> bytes:
    """Return JSON padded with spaces to the next thousand of bytes."""
    raw = json.dumps(fields, separators=(",", ":")).encode()
    return raw + b" " * (-len(raw) % 1000)


@dataclass
class _Stored:
    """A manifest in one repository: the document, and what the tables say besides."""

    document: AnyManifest
    created: datetime | None = None
    platform: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    pushed: datetime | None = None
    pulled: datetime | None = None
    unknown_sizes: frozenset[str] = frozenset()


@dataclass
class _Repository:
    stored: dict[str, _Stored] = field(default_factory=dict)  # by digest
    names: dict[str, Digest] = field(default_factory=dict)
    tags: dict[str, Digest | None] = field(default_factory=dict)
    image_ids: dict[str, tuple[str, datetime | None]] = field(default_factory=dict)  # by tag, v1 only


class Build:
    """Collects what a registry holds; `snapshot` returns it as one reading."""

    def __init__(self, registry: str = "registry:5000") -> None:
        self.registry = registry
        self._repositories: dict[str, _Repository] = {}
        self._documents: dict[str, Document] = {}
        self._problems: list[dict[str, Any]] = []

    # -- what is there ------------------------------------------------------------------------

    def repository(self, *names: str) -> Self:
        """Add repositories that were read and hold nothing (yet)."""
        for name in names:
            self._repository(name)
        return self

    def image(
        self,
        repository: str,
        *,
        tags: Iterable[str] = (),
        name: str | None = None,
        created: str | datetime | None = None,
        layers: Mapping[str, int | None] | None = None,
        config: str | None = None,
        config_type: str = OCI_CONFIG,
        layer_type: str = LAYER_TYPE,
        artifact_type: str | None = None,
        platform: str = "linux/amd64",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        subject: Digest | None = None,
        pushed: str | datetime | None = None,
        pulled: str | datetime | None = None,
    ) -> Self:
        """Add an image, known by `name` (its first tag) and by each tag.

        Two images have the same config if `config` (by default the repository and the name),
        `created`, `platform` and `labels` are alike, and then the same digest if `layers` and
        `annotations` are alike too. The config "{}" is the empty one. A layer of size None is one
        whose size is not known.
        """
        tags = list(tags)
        name = name or tags[0]
        layers = {f"{repository}/{name}": 10} if layers is None else layers
        moment = moment_of(created) if created else None
        about = {"name": config or f"{repository}/{name}", "created": moment.isoformat() if moment else None}
        system, architecture, *variant = platform.split("/")
        about |= {"os": system, "architecture": architecture} | ({"variant": variant[0]} if variant else {})
        raw_config = (
            b"{}"
            if config_type == OCI_EMPTY or config == "{}"
            else padded({**about, "config": {"Labels": dict(labels or {})}})
        )
        config_digest = Digest.of(raw_config)
        self._documents[config_digest] = Document(config_type, raw_config)
        fields: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": config_type, "digest": config_digest, "size": len(raw_config)},
            "layers": [{"mediaType": layer_type, "digest": blob(n), "size": s or 0} for n, s in layers.items()],
        }
        stored = _Stored(
            self._document(fields, artifact_type, annotations, subject),
            created=moment,
            platform=platform if config_type == OCI_CONFIG else None,
            labels=dict(labels or {}),
            pushed=moment_of(pushed) if pushed else None,
            pulled=moment_of(pulled) if pulled else None,
            unknown_sizes=frozenset(blob(n) for n, size in layers.items() if size is None),
        )
        return self._store(repository, name, tags, stored)

    def index(
        self,
        repository: str,
        *,
        tags: Iterable[str] = (),
        name: str | None = None,
        created: str | datetime | None = None,
        platforms: Mapping[str, Mapping[str, int | None]] | None = None,
        children: Iterable[str] = (),
        attestations: Iterable[str] = (),
        missing: Iterable[str] = (),
        annotations: Mapping[str, str] | None = None,
        artifact_type: str | None = None,
        subject: Digest | None = None,
        pushed: str | datetime | None = None,
    ) -> Self:
        """Add an index, known by `name` (its first tag) and by each tag.

        Parameters
        ----------
        platforms
            New untagged children, ``{"linux/amd64": {"base": 100}}``, known as ``NAME/linux/amd64``
            and created at `created`.
        children
            Names of what this repository has already: images, or indexes for a nested one.
        attestations
            Names of images to list as BuildKit lists its attestations.
        missing
            Platforms whose child the registry does not have (a sparse index).
        """
        tags = list(tags)
        name = name or tags[0]
        for platform, layers in (platforms or {}).items():
            self.image(repository, name=f"{name}/{platform}", created=created, layers=layers, platform=platform)
        entries = [self._entry(repository, f"{name}/{platform}") for platform in platforms or {}]
        entries += [self._entry(repository, child) for child in children]
        marks = {"vnd.docker.reference.type": "attestation-manifest"}
        nowhere = {"os": "unknown", "architecture": "unknown"}
        entries += [self._entry(repository, a) | {"annotations": marks, "platform": nowhere} for a in attestations]
        for platform in missing:
            absent = blob(f"{repository}/{name}/{platform}")
            self._problem(repository, absent, error="missing_child", status=404, blocking=False)
            system, architecture = platform.split("/")[:2]
            where = {"os": system, "architecture": architecture}
            entries.append({"mediaType": OCI_MANIFEST, "digest": absent, "size": 1000, "platform": where})
        fields = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        stored = _Stored(self._document(fields, artifact_type, annotations, subject))
        stored.pushed = moment_of(pushed) if pushed else None
        return self._store(repository, name, tags, stored)

    def attach(
        self,
        repository: str,
        subject: str,
        *,
        name: str,
        tags: Iterable[str] = (),
        artifact_type: str = "application/spdx+json",
        size: int = 10,
        fallback: bool = False,
    ) -> Self:
        """Add an artifact whose subject is a manifest here; with `fallback`, list it under the fallback tag too.

        The fallback index is named as its tag. A second attachment rewrites it, as clients do.
        """
        digest = self.digest(repository, subject)
        self.image(
            repository,
            name=name,
            tags=tags,
            layers={f"{repository}/{name}": size},
            config_type=OCI_EMPTY,
            artifact_type=artifact_type,
            subject=digest,
        )
        return self._list_in_fallback(repository, digest, name) if fallback else self

    def cosign(self, repository: str, subject: str, suffix: str = "sig", *, size: int = 10) -> Self:
        """Add what cosign puts under ``sha256-….sig``, ``.att`` or ``.sbom``, named as that tag."""
        tag = f"{attached_tag(self.digest(repository, subject))}.{suffix}"
        layers = {f"{repository}/{tag}": size}
        return self.image(repository, tags=[tag], layers=layers, layer_type=COSIGN_LAYERS[suffix])

    def legacy(
        self, repository: str, *, tags: Iterable[str], created: str | None = None, layers: Iterable[str] = ()
    ) -> Self:
        """Add a schema 1 manifest, which declares no sizes."""
        tags = list(tags)
        history = [{"v1Compatibility": json.dumps({"created": created})}] if created else []
        sums = [{"blobSum": blob(layer)} for layer in layers]
        raw = padded({"schemaVersion": 1, "name": repository, "tag": tags[0], "fsLayers": sums, "history": history})
        document = parse_manifest(raw, SCHEMA1_SIGNED)
        assert isinstance(document, LegacyManifest)
        self._documents[document.digest] = Document(SCHEMA1_SIGNED, raw)
        return self._store(repository, tags[0], tags, _Stored(document, document.created))

    def v1(self, repository: str, tag: str, *, image_id: str = "0" * 64, created: str | None = None) -> Self:
        """Add a tag as the v1 interface knows it: an image id and no digest."""
        place = self._repository(repository)
        place.tags[tag] = None
        place.image_ids[tag] = (image_id, moment_of(created) if created else None)
        return self

    def tag(self, repository: str, name: str, *tags: str) -> Self:
        """Put more tags on what is there already: aliases."""
        place, digest = self._repository(repository), self.digest(repository, name)
        for tag in tags:
            place.tags[tag] = place.names[tag] = digest
        return self

    def copy(self, repository: str, name: str, *, to: str, tags: Iterable[str] = ()) -> Self:
        """Put the same manifest, and what it lists, into another repository, as `skopeo copy` does."""
        source, target = self._repository(repository), self._repository(to)
        digest = self.digest(repository, name)
        stored = source.stored[digest]
        target.stored[digest] = stored
        target.names[name] = digest
        for tag in tags:
            target.tags[tag] = target.names[tag] = digest
        for child in stored.document.manifests if isinstance(stored.document, Index) else ():
            if child.digest in source.stored:
                self.copy(repository, next(n for n, d in source.names.items() if d == child.digest), to=to)
        return self

    # -- what was not read --------------------------------------------------------------------

    def dangling(self, repository: str, tag: str) -> Self:
        """Add a tag that is listed and answers 404: a problem that blocks nothing."""
        self._repository(repository).tags[tag] = None
        return self._problem(repository, tag, error="dangling", status=404, blocking=False)

    def unread(
        self, repository: str | None, tag: str | None = None, *, stage: str = "manifest", error: str = "timeout"
    ) -> Self:
        """Add a blocking problem: a tag that was not read, without `tag` a page of the list or of the catalog."""
        if repository is not None:
            place = self._repository(repository)
            if tag is not None:
                place.tags[tag] = None
        return self._problem(repository, tag or f"page of {stage}", stage=stage, error=error, blocking=True)

    # -- what comes out -----------------------------------------------------------------------

    def digest(self, repository: str, name: str) -> Digest:
        """Return the digest of a manifest by its name or tag."""
        return self._repositories[repository].names[name]

    def pair(self, repository: str, name: str) -> tuple[str, Digest]:
        """Return ``(repository, digest)`` of a manifest by its name or tag."""
        return repository, self.digest(repository, name)

    def snapshot(self, taken_at: str | datetime = TAKEN_AT, patterns: tuple[str, ...] = ()) -> Snapshot:
        """Return all this as read at `taken_at`; rows are sorted by repository, then by tag or digest."""
        now = moment_of(taken_at)
        rows: dict[str, list[dict[str, Any]]] = {"tags": [], "manifests": [], "blobs": [], "children": []}
        for name in sorted(self._repositories):
            self._read(name, now, rows)
        columns = {
            table: {column: [row.get(column) for row in listed] for column in columns_of(table)}
            for table, listed in {**rows, "problems": self._problems}.items()
        }
        return Snapshot.from_columns(
            columns,
            registry=self.registry,
            taken_at=now,
            finished_at=now + timedelta(seconds=1),
            patterns=patterns,
            repositories=tuple(sorted(self._repositories)),
            documents=Documents(self._documents),
        )

    # -- the rest is the builder's own --------------------------------------------------------

    def _repository(self, name: str) -> _Repository:
        return self._repositories.setdefault(name, _Repository())

    def _document(
        self,
        fields: dict[str, Any],
        artifact_type: str | None,
        annotations: Mapping[str, str] | None,
        subject: Digest | None,
    ) -> AnyManifest:
        extras: dict[str, Any] = {"artifactType": artifact_type, "annotations": dict(annotations or {})}
        if subject:
            extras["subject"] = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1000}
        raw = padded({**fields, **{key: value for key, value in extras.items() if value}})
        document = parse_manifest(raw, fields["mediaType"])
        self._documents[document.digest] = Document(document.media_type, raw)
        return document

    def _store(self, repository: str, name: str, tags: Iterable[str], stored: _Stored) -> Self:
        place, digest = self._repository(repository), stored.document.digest
        place.stored[digest] = stored
        place.names[name] = digest
        return self.tag(repository, name, *tags)

    def _entry(self, repository: str, name: str) -> dict[str, Any]:
        stored = self._repositories[repository].stored[self.digest(repository, name)]
        document = stored.document
        entry: dict[str, Any] = {"mediaType": document.media_type, "digest": document.digest, "size": len(document.raw)}
        if document.artifact_type:
            entry["artifactType"] = document.artifact_type
        if stored.platform:
            system, architecture = stored.platform.split("/")[:2]
            entry["platform"] = {"os": system, "architecture": architecture}
        return entry

    def _list_in_fallback(self, repository: str, subject: Digest, name: str) -> Self:
        place, tag = self._repository(repository), attached_tag(subject)
        entries = [self._entry(repository, name)]
        old = place.names.get(tag)
        if old is not None:
            entries = json.loads(place.stored.pop(old).document.raw)["manifests"] + entries
        fields = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return self._store(repository, tag, [tag], _Stored(self._document(fields, None, None, None)))

    def _problem(self, repository: str | None, identifier: str, **fields: Any) -> Self:
        row = {"registry": self.registry, "repository": repository, "identifier": identifier, "stage": "manifest"}
        self._problems.append({**row, "message": f"{fields['error']} at {identifier}", **fields})
        return self

    def _read(self, repository: str, now: datetime, rows: dict[str, list[dict[str, Any]]]) -> None:
        place = self._repositories[repository]
        where = {"registry": self.registry, "repository": repository}
        for digest in sorted(place.stored):
            rows["manifests"].append(where | self._manifest_row(place, digest, now))
            rows["blobs"] += [where | row for row in _blob_rows(place.stored[digest])]
            rows["children"] += [where | row for row in _child_rows(place.stored[digest].document)]
        for tag in sorted(place.tags):
            rows["tags"].append(where | self._tag_row(place, tag, now))

    def _manifest_row(self, place: _Repository, digest: str, now: datetime) -> dict[str, Any]:
        stored = place.stored[digest]
        document = stored.document
        tag_count = sum(tagged == digest for tagged in place.tags.values())
        listed = {
            entry.digest
            for s in place.stored.values()
            if isinstance(s.document, Index)
            for entry in s.document.manifests
        }
        created = _created(place, stored, now)
        config = document.config if isinstance(document, Manifest) else None
        return {
            "digest": digest,
            "media_type": document.media_type,
            "artifact_type": document.artifact_type
            or (config.media_type if config and document.kind == "artifact" else None),
            "kind": document.kind,
            "platform": stored.platform,
            "created": created,
            "created_source": "config" if created else "none",
            "manifest_bytes": len(document.raw),
            "content_bytes": _content(place, digest),
            "layer_count": len(document.manifests if isinstance(document, Index) else document.layers),
            "tag_count": tag_count,
            "config_digest": config.digest if config else None,
            "subject_digest": document.subject.digest if document.subject else None,
            "discovered_by": _discovered_by(document, digest in listed, tag_count),
            "labels": json.dumps(stored.labels) if stored.labels else None,
            "annotations": json.dumps(dict(document.annotations)) if document.annotations else None,
        }

    def _tag_row(self, place: _Repository, tag: str, now: datetime) -> dict[str, Any]:
        digest = place.tags[tag]
        row: dict[str, Any] = {"tag": tag, "seen_at": now, "pushed_source": "none"}
        if digest is None:
            image_id, created = place.image_ids.get(tag, (None, None))
            source = "v1" if created else "none"
            return row | {"kind": "unknown", "image_id": image_id, "created": created, "created_source": source}
        stored = place.stored[digest]
        same = {
            key: value for key, value in self._manifest_row(place, digest, now).items() if key in columns_of("tags")
        }
        pushed = {
            "pushed": stored.pushed,
            "pushed_source": "vendor" if stored.pushed else "none",
            "pulled": stored.pulled,
        }
        return row | same | pushed


def _reachable(place: _Repository, digest: str) -> list[_Stored]:
    """Return a manifest and everything below it that is there, each once."""
    found: dict[str, _Stored] = {}
    waiting = [digest]
    while waiting:
        digest = waiting.pop()
        stored = place.stored.get(digest)
        if stored is None or digest in found:
            continue
        found[digest] = stored
        waiting += [entry.digest for entry in stored.document.manifests] if isinstance(stored.document, Index) else []
    return list(found.values())


def _created(place: _Repository, stored: _Stored, now: datetime) -> datetime | None:
    ages = [believable(s.created, now) for s in _reachable(place, stored.document.digest)]
    return max((age for age in ages if age), default=None)


def _content(place: _Repository, digest: str) -> int | None:
    rows = [row for stored in _reachable(place, digest) for row in _blob_rows(stored)]
    if any(row["size_bytes"] is None for row in rows):
        return None
    return min(sum({row["digest"]: row["size_bytes"] for row in rows}.values()), LARGEST_SIZE)


def _discovered_by(document: AnyManifest, listed: bool, tag_count: int) -> str:  # noqa: FBT001 -- a column's rule
    if tag_count:
        return "tag"
    if listed:
        return "index"
    return "referrer" if document.subject else "vendor"


def _blob_rows(stored: _Stored) -> list[dict[str, Any]]:
    document = stored.document
    if isinstance(document, Index):
        return []
    if isinstance(document, LegacyManifest):
        known = [(digest, None, None) for digest in document.layers]
        return [_blob_row(document, position, *facts) for position, facts in enumerate(known, start=1)]
    unknown = stored.unknown_sizes
    described = [(d.digest, d.media_type, None if d.digest in unknown else d.size) for d in document.blobs]
    return [_blob_row(document, position, *facts) for position, facts in enumerate(described)]


def _blob_row(
    document: AnyManifest, position: int, digest: Digest, media_type: str | None, size: int | None
) -> dict[str, Any]:
    return {
        "manifest_digest": document.digest,
        "position": position,
        "role": "layer" if position else "config",
        "digest": digest,
        "media_type": media_type,
        "size_bytes": size,
    }


def _child_rows(document: AnyManifest) -> list[dict[str, Any]]:
    if not isinstance(document, Index):
        return []
    return [
        {
            "index_digest": document.digest,
            "position": position,
            "digest": entry.digest,
            "platform": str(entry.platform) if entry.platform else None,
            "size_bytes": entry.size,
            "role": "attestation" if entry.is_attestation else "image",
        }
        for position, entry in enumerate(document.manifests)
    ]
