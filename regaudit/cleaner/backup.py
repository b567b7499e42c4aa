"""Whole images in a folder before they are deleted, and back from there: also after garbage collection.

The folder is an OCI image layout, which other tools read. An image is listed in it under
``repository:tag`` (or ``repository@digest``) only once all of it is there, every byte verified.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

from regaudit.cleaner.journal import Journal
from regaudit.cleaner.outcomes import Outcome, Report, Run, Stop, ended, new_run, record_outcome, recorded_run
from regaudit.cleaner.plan import Plan
from regaudit.cleaner.rows import DELETE_MANIFEST, PUT_INDEX, PlanRow
from regaudit.cleaner.surroundings import is_there
from regaudit.cleaner.undo import restore_tags
from regaudit.client import layout as layouts
from regaudit.client import upload, write
from regaudit.client.exchange import Conversation, Session
from regaudit.client.layout import Layout
from regaudit.client.registry import Registry
from regaudit.client.transfer import Content
from regaudit.client.v2 import get_manifest
from regaudit.errors import NotFound, RegauditError, RegistryError, UsageError
from regaudit.manifest import AnyManifest, Descriptor
from regaudit.reference import Digest, check_repository, check_tag
from regaudit.text import clean, human_bytes, redact

# Beside the blobs: manifests, the index, and what the file system itself needs.
_MARGIN = 64 << 20
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of the backup of one row of a plan.

    Attributes
    ----------
    whole : bool
        Whether all of it is in the folder.
    detail : str
        What is missing, where it is not whole.
    absent : bool
        Whether the registry had it no more: then there is nothing to keep, and nothing to delete.
    """

    key: str
    repository: str
    digest: str
    tags: tuple[str, ...]
    whole: bool
    detail: str = ""
    absent: bool = False


KeptReport: TypeAlias = Callable[[Kept], None]


@dataclass(frozen=True, slots=True)
class Backup:
    """What a folder keeps of a plan."""

    folder: Path
    rows: tuple[Kept, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that was there is kept whole."""
        return all(kept.whole or kept.absent for kept in self.rows)

    def withheld(self) -> dict[str, str]:
        """Return why rows must not be deleted, by their keys: they are not kept whole."""
        return {kept.key: kept.detail for kept in self.rows if not kept.whole and not kept.absent}

    def __str__(self) -> str:
        whole = sum(kept.whole for kept in self.rows)
        broken = len(self.withheld())
        more = f", {broken} could not be kept whole" if broken else ""
        return f"backup in {clean(self.folder)}: {whole} of {len(self.rows)} digests are kept whole{more}"


# -- into the folder -------------------------------------------------------------------------


@dataclass(slots=True)
class _Keeping:
    """One backup under way: manifests first, so that the space needed is known before any blob is fetched."""

    registry: Registry
    layout: Layout
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    verified: set[Digest] = field(default_factory=set)

    def read(self, row: PlanRow) -> Descriptor | Kept:
        """Store the manifests of a row, note their blobs, and return the image; what is not there, as `Kept`."""
        try:
            return self.registry.run(self._read(self.registry.session, row))
        except NotFound as error:
            return _kept(row, whole=False, detail=str(error), absent=error.code != "NAME_UNKNOWN")
        except RegistryError as error:
            return _kept(row, whole=False, detail=str(error))

    def _read(self, session: Session, row: PlanRow) -> Conversation[Descriptor]:
        root = yield from get_manifest(session, row.repository, str(row.digest))
        manifests = yield from layouts.closure(session, row.repository, root)
        for manifest in reversed(manifests):
            found = yield from layouts.blobs_of(session, row.repository, manifest)
            self.blobs.update({blob.digest: blob for blob in found})
            self.layout.store(manifest.digest, manifest.raw)
        return Descriptor(root.media_type, root.digest, len(root.raw), artifact_type=root.artifact_type)

    def check_space(self) -> None:
        """Raise where the folder has no room for what is still to come."""
        missing = [blob.size for blob in self.blobs.values() if not self.layout.has(blob.digest, blob.size)]
        free = shutil.disk_usage(self.layout.folder).free
        if missing and sum(missing) + _MARGIN > free:
            raise UsageError(
                f"{clean(self.layout.folder)} has {human_bytes(free)} free, and the backup needs "
                f"{human_bytes(sum(missing))} more: name a folder on a larger disk; nothing was deleted"
            )

    def fetch(self, row: PlanRow, image: Descriptor) -> Kept:
        """Copy what a row's manifests name, and return whether all of it is there."""
        try:
            for manifest in layouts.stored_closure(self.layout, image):
                for blob in layouts.own_blobs(manifest):
                    self._fetch(row.repository, self.blobs.get(blob.digest, blob))
        except RegauditError as error:
            return _kept(row, whole=False, detail=str(error))
        return _kept(row, whole=True)

    def _fetch(self, repository: str, blob: Descriptor) -> None:
        if blob.digest in self.verified:
            return
        if self.layout.has(blob.digest, blob.size) and not _is_right(self.layout, blob.digest):
            self.layout.path(blob.digest).unlink()  # a disk can forget: it is fetched anew
        if not self.layout.has(blob.digest, blob.size):
            self.registry.run(layouts.fetch_blob(self.registry.session, repository, self.layout, blob, None))
        self.verified.add(blob.digest)


def back_up(
    registry: Registry,
    plan: Plan,
    folder: str | Path,
    *,
    progress: KeptReport | None = None,
    stop: threading.Event | None = None,
) -> Backup:
    """Keep every image that a plan deletes, whole, in a folder; called again, it goes on with what is missing.

    Raises
    ------
    UsageError
        The folder is something else than an OCI image layout, or its disk has not enough room.
    """
    keeping = _Keeping(registry, Layout(folder))
    read = [(row, keeping.read(row)) for row in plan.rows if row.digest is not None and row.action != PUT_INDEX]
    keeping.check_space()
    by_repository: dict[str, list[tuple[PlanRow, Descriptor | Kept]]] = {}
    for row, found in read:
        by_repository.setdefault(row.repository, []).append((row, found))
    rows: list[Kept] = []
    for part in by_repository.values():
        listed: list[tuple[Descriptor, str | None]] = []
        for row, found in part:
            if stop is not None and stop.is_set():
                break
            kept = found if isinstance(found, Kept) else keeping.fetch(row, found)
            if kept.whole and isinstance(found, Descriptor):
                listed += [(found, name) for name in _names(row)]
            rows.append(kept)
            (progress or (lambda _: None))(kept)
        keeping.layout.add_all(listed)
    done = {kept.key for kept in rows}
    rows += [
        _kept(row, whole=False, detail="the backup was stopped before it") for row, _ in read if row.key not in done
    ]
    return Backup(keeping.layout.folder, tuple(rows))


def _kept(row: PlanRow, *, whole: bool, detail: str = "", absent: bool = False) -> Kept:
    return Kept(row.key, row.repository, str(row.digest), row.tags, whole, redact(detail, 400), absent)


def _names(row: PlanRow) -> list[str]:
    return [f"{row.repository}:{tag}" for tag in row.tags] or [f"{row.repository}@{row.digest}"]


def _is_right(layout: Layout, digest: Digest) -> bool:
    """Return whether the bytes of a blob still hash to its name."""
    hasher = digest.hasher()
    with layout.path(digest).open("rb") as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
    return bool(hasher.hexdigest() == digest.encoded)


# -- and back --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Image:
    """An image of a backup, with the tags that it had."""

    repository: str
    descriptor: Descriptor
    tags: list[str]

    def is_named(self, name: str) -> bool:
        digest = str(self.descriptor.digest)
        return name in {self.repository, digest, f"{self.repository}@{digest}"}


class Restoring:
    """One restoration of a backup, recorded in the journal as a run of kind ``restore``.

    Raises
    ------
    UsageError
        The folder is no backup, or `only` names nothing in it.
    """

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        folder: str | Path,
        progress: Report | None,
        stop: threading.Event | None,
        *,
        overwrite: bool,
        only: Iterable[str] = (),
    ) -> None:
        self._registry, self._journal = registry, journal
        self._layout = Layout(folder, make=False)
        self._only = tuple(only)
        self._images = _chosen(_images(self._layout), self._only, self._layout.folder)
        self._report = progress or (lambda _: None)
        self._stop = stop or threading.Event()
        self._overwrite = overwrite
        self._run = new_run()

    def run(self) -> Run:
        """Put the images back, with their tags, and return what became of each."""
        self._journal.record(
            self._run,
            "started",
            kind="restore",
            registry=self._registry.host,
            backup=str(self._layout.folder),
            only=list(self._only),
            plan_hash="",
        )
        with ended(self._journal, self._run):
            for image in self._images:
                if self._stop.is_set():
                    raise Stop
                word, detail = self._restore(image)
                digest = str(image.descriptor.digest)
                key = f"{image.repository}@{digest}"
                outcome = Outcome(
                    key, image.repository, digest, tuple(image.tags), DELETE_MANIFEST, word, redact(detail, 400)
                )
                record_outcome(self._journal, self._run, outcome)
                self._report(outcome)
        return recorded_run(self._journal, self._run)

    def _restore(self, image: _Image) -> tuple[str, str]:
        session, digest = self._registry.session, str(image.descriptor.digest)
        try:
            manifests = layouts.stored_closure(self._layout, image.descriptor)
            if lacking := self._lacking(manifests):
                return "blobs_gone", f"the backup lacks the blob {lacking.short}, so nothing of the image was sent"
            was_there = self._registry.run(is_there(session, image.repository, digest))
            if not was_there:
                self._send(image.repository, manifests)
            put = partial(self._put, image.repository, manifest=manifests[0])
            return restore_tags(
                self._registry,
                image.repository,
                digest,
                image.tags,
                put,
                was_there=was_there,
                overwrite=self._overwrite,
            )
        except RegauditError as error:
            return "failed", str(error)

    def _lacking(self, manifests: list[AnyManifest]) -> Digest | None:
        blobs = (blob for manifest in manifests for blob in layouts.own_blobs(manifest))
        missing = (b.digest for b in blobs if not self._layout.has(b.digest, b.size) and not layouts.may_be_missing(b))
        return next(missing, None)

    def _send(self, repository: str, manifests: list[AnyManifest]) -> None:
        session = self._registry.session
        for digest in dict.fromkeys(blob.digest for manifest in manifests for blob in layouts.own_blobs(manifest)):
            if self._layout.has(digest):
                content = Content(self._layout.path(digest))
                self._registry.run(upload.upload_blob(session, repository, digest, content))
        root, *others = manifests
        for manifest in reversed(others):
            self._put(repository, str(manifest.digest), manifest)
        if root.subject is None:
            self._put(repository, str(root.digest), root)
        else:  # and on the list of what refers to its subject, where a client keeps such lists
            self._registry.run(write.put_manifest(session, repository, root.digest, root.raw, root.media_type))

    def _put(self, repository: str, reference: str, manifest: AnyManifest) -> None:
        self._registry.run(
            write.restore_manifest(self._registry.session, repository, reference, manifest.raw, manifest.media_type)
        )


def _images(layout: Layout) -> list[_Image]:
    """Return the images of a backup, those that refer to others last."""
    found: dict[tuple[str, str], _Image] = {}
    for name, descriptor in layout.named():
        repository, tag = _parse_name(name or "", layout)
        image = found.setdefault((repository, str(descriptor.digest)), _Image(repository, descriptor, []))
        image.tags += [] if tag is None else [tag]
    return sorted(found.values(), key=lambda image: _refers(layout, image))


def _refers(layout: Layout, image: _Image) -> bool:
    return layout.manifest(image.descriptor.digest, image.descriptor.media_type).subject is not None


def _parse_name(name: str, layout: Layout) -> tuple[str, str | None]:
    repository, at, _ = name.partition("@")
    if at:
        return check_repository(repository), None
    repository, colon, tag = name.rpartition(":")
    if not colon:
        raise UsageError(
            f"{clean(layout.folder)} is no backup of regaudit: its images are not named REPOSITORY:TAG; "
            "push one with Repository.upload_image"
        )
    return check_repository(repository), check_tag(tag)


def _chosen(images: list[_Image], names: tuple[str, ...], folder: Path) -> list[_Image]:
    if not names:
        return images
    chosen: dict[int, _Image] = {}
    for name in names:
        found = [(number, tags) for number, i in enumerate(images) if (tags := _tags_meant(i, name)) is not None]
        if not found:
            has = ", ".join(f"{i.repository}:{tag}" for i in images[:5] for tag in i.tags[:1]) or "nothing with a tag"
            raise UsageError(f"{clean(folder)} has nothing by the name {clean(name, 200)!r}; it has: {clean(has, 300)}")
        for number, tags in found:
            known = chosen.setdefault(number, _Image(images[number].repository, images[number].descriptor, []))
            known.tags += [tag for tag in tags if tag not in known.tags]
    return [chosen[number] for number in sorted(chosen)]


def _tags_meant(image: _Image, name: str) -> list[str] | None:
    if image.is_named(name):
        return image.tags
    repository, colon, tag = name.rpartition(":")
    return [tag] if colon and repository == image.repository and tag in image.tags else None


__all__ = ["Backup", "Kept", "Restoring", "back_up"]
