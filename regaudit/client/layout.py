"""Whole images in a folder: an OCI image layout, read and written.

The form is that of the OCI image specification 1.1 ("OCI Image Layout Specification"), which skopeo,
crane, podman and others read. A blob that broke off stays beside its place as ``.part``, so that a later
download goes on with it; what bears its digest as name is whole and verified.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from regaudit.client import upload, v2, write
from regaudit.client.exchange import MANIFEST_CAP, PAGE_CAP, Conversation, Session
from regaudit.client.transfer import Content, Download, TransferProgress
from regaudit.errors import BadManifest, BadResponse, NotFound, UsageError
from regaudit.manifest import (
    OCI_INDEX,
    AnyManifest,
    Descriptor,
    Index,
    LegacyManifest,
    Manifest,
    load_json,
    parse_manifest,
)
from regaudit.reference import Digest, check_tag, is_tag
from regaudit.text import atomic_write, clean, owned_folder

# The annotation by which an image is found in a layout (image specification, "Pre-Defined Annotation Keys").
_NAME = "org.opencontainers.image.ref.name"
_VERSION = {"imageLayoutVersion": "1.0.0"}
_MOST_MANIFESTS = 10_000


class Layout:
    """An OCI image layout in a folder.

    Parameters
    ----------
    folder : path
        Made, with its parents, where it is not there.
    make : bool
        False where it is only read, and must be there.

    Raises
    ------
    UsageError
        The folder is something else: a file, a symbolic link, a folder with other content.
    """

    def __init__(self, folder: str | Path, *, make: bool = True) -> None:
        self.folder = owned_folder(folder) if make else Path(folder)
        marker = self._marker
        if marker.is_file():
            return
        if not make:
            raise UsageError(f"{clean(self.folder)} is no OCI layout: name a folder that is one")
        if any(self.folder.iterdir()):
            raise UsageError(f"{clean(self.folder)} has files and is no OCI layout: name an empty or a new folder")
        with atomic_write(marker) as file:
            json.dump(_VERSION, file)
        self._write_index({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})

    def images(self) -> list[dict[str, Any]]:
        """Return the descriptors of the images in the layout, as its index has them."""
        return list(self._index()["manifests"])

    def find(self, name: str | None = None) -> Descriptor:
        """Return the image of a name, or the only one.

        Raises
        ------
        UsageError
            There is none, or without a name there are several.
        """
        entries = [e for e in self.images() if name is None or name in {_name_of(e), e.get("digest")}]
        names = ", ".join(clean(_name_of(entry) or entry.get("digest"), 80) for entry in self.images()[:10])
        if not entries:
            raise UsageError(f"{clean(self.folder)} has no such image; it has: {names or 'nothing'}")
        if len({entry.get("digest") for entry in entries}) > 1:
            raise UsageError(f"{clean(self.folder)} has several images, name one of them: {names}")
        raw = json.dumps({"schemaVersion": 2, "manifests": entries[:1]}).encode()
        index = parse_manifest(raw, OCI_INDEX)
        assert isinstance(index, Index)  # noqa: S101 -- the media type says so
        return index.manifests[0]

    def named(self) -> list[tuple[str | None, Descriptor]]:
        """Return the images of the layout with their names."""
        found = []
        for entry in self.images():
            index = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(), OCI_INDEX)
            assert isinstance(index, Index)  # noqa: S101 -- the media type says so
            found.append((_name_of(entry), index.manifests[0]))
        return found

    def add(self, image: Descriptor, name: str | None) -> None:
        """List an image, under a name that another one then loses."""
        self.add_all([(image, name)])

    def add_all(self, images: Iterable[tuple[Descriptor, str | None]]) -> None:
        """List images as `add` does, writing the index once."""
        with self._marker.open("rb") as marker:
            _lock(marker, wait=True)  # of two that list an image, neither loses the other's
            index = self._index()
            listed = {_name_of(e) or e["digest"]: e for e in index["manifests"]}
            for image, name in images:
                entry = image.to_dict()
                if name is not None:
                    entry["annotations"] = {**entry.get("annotations", {}), _NAME: name}
                listed.pop(name or str(image.digest), None)
                listed[name or str(image.digest)] = entry
            index["manifests"] = list(listed.values())
            self._write_index(index)

    def path(self, digest: Digest) -> Path:
        """Return where a blob is, or would be."""
        return self.folder / "blobs" / digest.algorithm / digest.encoded

    def has(self, digest: Digest, size: int = 0) -> bool:
        """Return whether a blob is there, and of its size where that is known; what a symbolic link leads to is not."""
        path = self.path(digest)
        if any(step.is_symlink() for step in (path, path.parent, path.parent.parent)):
            return False  # who made the folder could have any file of this machine uploaded
        return path.is_file() and size in {0, path.stat().st_size}

    def manifest(self, digest: Digest, media_type: str) -> AnyManifest:
        """Return a manifest of the layout; raises `BadManifest` where its bytes are not those of its digest."""
        if not self.has(digest):
            raise UsageError(f"{clean(self.folder)} lacks the manifest {digest.short}: download the image again")
        raw = _read(self.path(digest), MANIFEST_CAP)
        manifest = parse_manifest(raw, media_type)
        if manifest.digest != digest and not digest.matches(raw):
            raise BadManifest(f"{clean(self.path(digest))} does not hash to its name: download it again")
        return replace(manifest, digest=digest)  # which may be of another algorithm than sha256

    def store(self, digest: Digest, raw: bytes) -> None:
        """Store a small blob whose digest is known to be right."""
        with atomic_write(self._place(digest), "wb") as file:
            file.write(raw)

    @contextmanager
    def receiving(self, blob: Descriptor, progress: TransferProgress | None = None) -> Iterator[Download]:
        """Give a sink for a blob, which has its place when the block ends well and all of it has arrived."""
        blob.digest.hasher()  # raises before there is a file where nothing can be verified
        path = self._place(blob.digest)
        partial, file = _open_partial(path)
        with file:
            if blob.size and partial.stat().st_size > blob.size:
                file.truncate(0)
            # Zero is also what a document without sizes says; the digest then decides alone.
            sink = Download(file, blob.digest, size=blob.size or None, progress=progress)
            file.seek(0)
            sink.take_up(file)
            try:
                yield sink
            except BaseException as error:
                if isinstance(error, BadResponse) or not sink.position or partial != _partial(path):
                    partial.unlink()  # there is nothing in it to go on with
                raise
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)  # before the file is closed, and another one may take it up

    @property
    def _marker(self) -> Path:
        return self.folder / "oci-layout"

    def _place(self, digest: Digest) -> Path:
        path = self.path(digest)
        owned_folder(path.parent.parent)
        owned_folder(path.parent)
        return path

    def _index(self) -> dict[str, Any]:
        path = self.folder / "index.json"
        if not path.is_file():
            raise UsageError(f"{clean(self.folder)} has no index.json: it is no whole OCI layout")
        index = load_json(_read(path, PAGE_CAP))
        entries = index.get("manifests") if isinstance(index, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and isinstance(entry.get("digest"), str) for entry in entries
        ):
            raise BadManifest(f"{clean(path)} is not the index of an OCI layout")
        assert isinstance(index, dict)  # noqa: S101 -- it has entries
        return index

    def _write_index(self, index: dict[str, Any]) -> None:
        with atomic_write(self.folder / "index.json") as file:
            json.dump(index, file, separators=(",", ":"), ensure_ascii=False)


def download_image(
    session: Session,
    repository: str,
    reference: str,
    layout: Layout,
    *,
    platform: str | None = None,
    progress: TransferProgress | None = None,
) -> Conversation[Descriptor]:
    """Copy an image into a layout: its manifest, children, configs and layers, each verified.

    Parameters
    ----------
    platform : str, optional
        Only the image of an index for this platform (``linux/arm64``).
    progress : callable, optional
        Called with the bytes copied and the bytes of all blobs.

    Returns
    -------
    Descriptor
        Of the image, as the layout lists it.
    """
    root = yield from v2.get_manifest(session, repository, reference)
    if platform is not None:
        root = yield from v2.get_manifest(session, repository, _of_platform(root, platform))
    manifests = yield from closure(session, repository, root)
    blobs: dict[Digest, Descriptor] = {}
    for manifest in manifests:
        found = yield from blobs_of(session, repository, manifest)
        blobs.update({blob.digest: blob for blob in found})
    copied, total = 0, sum(blob.size for blob in blobs.values())
    for blob in blobs.values():
        if not layout.has(blob.digest, blob.size):
            yield from fetch_blob(session, repository, layout, blob, _moved_by(progress, copied, total))
        copied += blob.size
    for manifest in reversed(manifests):  # children before what lists them
        layout.store(manifest.digest, manifest.raw)
    image = Descriptor(root.media_type, root.digest, len(root.raw), artifact_type=root.artifact_type)
    layout.add(image, reference if is_tag(reference) else None)
    return image


def upload_image(
    session: Session,
    repository: str,
    layout: Layout,
    reference: str | None = None,
    *,
    name: str | None = None,
    chunk_bytes: int | None = None,
    progress: TransferProgress | None = None,
) -> Conversation[Digest]:
    """Copy an image of a layout into a repository: blobs, then children, then the image itself.

    Parameters
    ----------
    reference : str, optional
        The tag that it gets; its name in the layout unless given, or none.
    name : str, optional
        Which image of the layout: its name or digest. Not needed where there is only one.
    """
    if reference is not None:
        check_tag(reference)
    image = layout.find(name)
    manifests = stored_closure(layout, image)
    blobs = {blob.digest: blob for manifest in manifests for blob in own_blobs(manifest)}
    copied, total = 0, sum(blob.size for blob in blobs.values())
    for blob in blobs.values():
        if layout.has(blob.digest):
            content = Content(layout.path(blob.digest), progress=_moved_by(progress, copied, total))
            yield from upload.upload_blob(session, repository, blob.digest, content, chunk_bytes=chunk_bytes)
        elif not may_be_missing(blob):
            raise UsageError(f"{clean(layout.folder)} lacks the blob {blob.digest.short}: download the image again")
        copied += blob.size
    for manifest in reversed(manifests):
        yield from write.put_manifest(session, repository, manifest.digest, manifest.raw, manifest.media_type)
    tag = reference if reference is not None else image.annotations.get(_NAME)
    if tag is not None and is_tag(tag):
        yield from write.put_manifest(session, repository, tag, manifests[0].raw, manifests[0].media_type)
    return image.digest


# -- what belongs to an image ----------------------------------------------------------------


def closure(session: Session, repository: str, root: AnyManifest) -> Conversation[list[AnyManifest]]:
    """Return a manifest and all that its indexes list, parents before children; what is not there is left out."""
    found: dict[Digest, AnyManifest] = {root.digest: root}
    asked = {root.digest}
    waiting = [root]
    while waiting:
        manifest = waiting.pop()
        for child in manifest.manifests if isinstance(manifest, Index) else ():
            if child.digest in asked:
                continue
            if len(asked) >= _MOST_MANIFESTS:
                raise BadManifest(f"the index lists more than {_MOST_MANIFESTS:,} manifests")
            asked.add(child.digest)
            try:
                found[child.digest] = yield from v2.get_manifest(session, repository, child.digest)
            except NotFound:
                continue  # a sparse index is a valid one
            waiting.append(found[child.digest])
    return _parents_first(found, root)


def stored_closure(layout: Layout, image: Descriptor) -> list[AnyManifest]:
    """Return an image of a layout and all of its children that the layout has, parents before children."""
    root = layout.manifest(image.digest, image.media_type)
    found: dict[Digest, AnyManifest] = {root.digest: root}
    waiting = [root]
    while waiting:
        manifest = waiting.pop()
        for child in manifest.manifests if isinstance(manifest, Index) else ():
            if child.digest not in found and layout.has(child.digest):
                found[child.digest] = layout.manifest(child.digest, child.media_type)
                waiting.append(found[child.digest])
    return _parents_first(found, root)


def _parents_first(found: dict[Digest, AnyManifest], root: AnyManifest) -> list[AnyManifest]:
    """Return manifests so that each comes before all that it lists, also where two indexes list the same."""
    children_first: dict[Digest, AnyManifest] = {}
    waiting = [(root, False)]
    while waiting:
        manifest, is_entered = waiting.pop()
        if is_entered:
            children_first[manifest.digest] = manifest
        elif manifest.digest not in children_first:
            children = manifest.manifests if isinstance(manifest, Index) else ()
            waiting.append((manifest, True))
            waiting += [(found[child.digest], False) for child in children if child.digest in found]
    return list(reversed(children_first.values()))


def blobs_of(session: Session, repository: str, manifest: AnyManifest) -> Conversation[list[Descriptor]]:
    """Return the blobs of a manifest; of schema 1, which has no sizes, the registry is asked for them."""
    if not isinstance(manifest, LegacyManifest):
        return own_blobs(manifest)
    found = []
    for blob in own_blobs(manifest):
        head = yield from v2.head_blob(session, repository, blob.digest)
        found.append(replace(blob, size=head.size or 0))
    return found


def own_blobs(manifest: AnyManifest) -> list[Descriptor]:
    """Return the config and layers that a manifest names; of schema 1 without their sizes."""
    if isinstance(manifest, LegacyManifest):
        return [Descriptor("application/octet-stream", digest, 0) for digest in dict.fromkeys(manifest.layers)]
    return list(manifest.blobs) if isinstance(manifest, Manifest) else []


def may_be_missing(blob: Descriptor) -> bool:
    """Return whether a layer stays with its vendor, who is never asked for it: its manifest names a URL instead."""
    return "nondistributable" in blob.media_type or ".foreign." in blob.media_type


def fetch_blob(
    session: Session, repository: str, layout: Layout, blob: Descriptor, progress: TransferProgress | None
) -> Conversation[None]:
    """Copy a blob into a layout, verified; what stays with its vendor may be missing."""
    try:
        with layout.receiving(blob, progress) as sink:
            yield from v2.download_blob(session, repository, blob.digest, sink)
    except NotFound:
        if not may_be_missing(blob):
            raise


def _of_platform(root: AnyManifest, platform: str) -> Digest:
    if not isinstance(root, Index):
        raise UsageError(f"{root.digest.short} is not an index: leave the platform out")
    offered = [(child.platform, child.digest) for child in root.manifests if child.platform is not None]
    for own, digest in offered:
        # Without a variant any will do, the first one as elsewhere.
        if platform in {str(own), f"{own.os}/{own.architecture}"}:
            return digest
    names = ", ".join(sorted({clean(own, 60) for own, _ in offered}))
    raise UsageError(f"there is no image for {clean(platform, 60)!r}: the index has {names or 'no platforms'}")


def _moved_by(progress: TransferProgress | None, before: int, total: int) -> TransferProgress | None:
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def _read(path: Path, cap: int) -> bytes:
    with path.open("rb") as file:
        raw = file.read(cap + 1)
    if len(raw) > cap:
        raise BadManifest(f"{clean(path)} is larger than {cap:,} bytes, which no such document is")
    return raw


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _open_partial(path: Path) -> tuple[Path, IO[bytes]]:
    """Open what an earlier attempt has left of a blob; where somebody else is at it, a file of our own."""
    partial = _partial(path)
    if partial.is_symlink():
        partial.unlink()
    file = partial.open("a+b")
    with suppress(OSError):
        if _lock(file, wait=False) and os.path.samestat(os.fstat(file.fileno()), partial.stat()):
            return partial, file
    file.close()
    own = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    return own, own.open("x+b")


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    """Lock a file for this process, and return whether it is; some file systems and systems have no locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _name_of(entry: dict[str, Any]) -> str | None:
    annotations = entry.get("annotations")
    name = annotations.get(_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None
