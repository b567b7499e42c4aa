"""What the sandbox holds: repositories, blobs, manifests, tags, uploads and referrers, in memory.

No HTTP here. There are two ways in. ``push_manifest`` and the uploads keep the rules of a registry
and raise `ApiError`, the answer that a client would get. ``load``, ``put_blob``, ``put_manifest``,
``set_tag`` and ``drop_manifest`` keep none, so that a test can set up what no registry would accept.
"""

from __future__ import annotations

import json
import threading
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from regaudit.errors import BadManifest, InvalidReference
from regaudit.manifest import AnyManifest, LegacyManifest, Manifest, digest_of_document, parse_manifest
from regaudit.reference import Digest, is_repository, is_tag

if TYPE_CHECKING:
    from regaudit.sandbox.sample import Sample


class ApiError(Exception):
    """A request that is answered with an error of the distribution specification.

    Parameters
    ----------
    status : int
        The HTTP status.
    code, message : str
        As the specification's table of errors has them.
    *details : object
        One entry of the reply's ``errors`` for each; one entry without detail if there are none.
    headers : dict, optional
        What the answer carries beside its body.
    """

    def __init__(
        self, status: int, code: str, message: str, *details: object, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it was put: its media type, its bytes, and the digest of its subject."""

    media_type: str
    raw: bytes
    subject: str | None = None

    def held_blobs(self) -> set[str]:
        """Return the digests of the blobs that garbage collection must leave for this manifest."""
        document = _lenient(self.raw)
        entries = [document.get("config"), *_list(document.get("layers")), *_list(document.get("fsLayers"))]
        texts = (entry.get("digest", entry.get("blobSum")) for entry in entries if isinstance(entry, dict))
        return {text for text in texts if isinstance(text, str)}


@dataclass(slots=True)
class _Repository:
    blobs: set[str] = field(default_factory=set)
    manifests: dict[str, StoredManifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    # subject → referrer → the descriptor that the referrers endpoint lists
    referrers: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    # A listing of 100,000 tags is asked for page by page: it is sorted once, not once a page.
    ordered_tags: list[str] | None = None


@dataclass(slots=True)
class _Upload:
    repository: str
    # As they came: a blob of hundreds of MiB is put together once, when it is complete.
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0


class Store:
    """The content of one registry. Every method may be called from any thread.

    Blobs are kept once, however many repositories link to them; a repository shows only its own.

    Examples
    --------
    >>> store = Store()
    >>> digest = store.put_manifest("team/app", "latest", "application/vnd.oci.image.index.v1+json", b"{}")
    >>> store.tags("team/app") == {"latest": digest}
    True
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._content: dict[str, bytes] = {}
        self._repositories: dict[str, _Repository] = {}
        self._ordered_repositories: list[str] | None = None
        self._uploads: dict[str, _Upload] = {}

    # What there is

    def repositories(self) -> list[str]:
        """Return the names of all repositories in lexical order, the emptied ones included."""
        with self._lock:
            return list(self._order())

    def tags(self, repository: str) -> dict[str, str]:
        """Return each tag of a repository and its digest; raises `ApiError` if there is no such repository."""
        with self._lock:
            return dict(self._find(repository).tags)

    def digests(self, repository: str) -> list[str]:
        """Return the digests of all manifests of a repository, tagged or not, oldest push first."""
        with self._lock:
            return list(self._find(repository).manifests)

    def manifest(self, repository: str, reference: str) -> tuple[str, bytes] | None:
        """Return the media type and the bytes of a manifest named by digest or tag, or None."""
        with self._lock:
            found = self._look_up(repository, reference)
        return None if found is None else (found[1].media_type, found[1].raw)

    def blob(self, repository: str, digest: str) -> bytes | None:
        """Return the bytes of a blob of a repository, or None."""
        with self._lock:
            known = self._repositories.get(repository)
            return self._content.get(digest) if known is not None and digest in known.blobs else None

    def blobs(self, repository: str) -> set[str]:
        """Return the digests of the blobs that a repository links to."""
        with self._lock:
            return set(self._find(repository).blobs)

    def stored_bytes(self) -> int:
        """Return the bytes of all blobs and all manifests; what several repositories share counts once."""
        with self._lock:
            manifests = {d: len(m.raw) for r in self._repositories.values() for d, m in r.manifests.items()}
            return sum(map(len, self._content.values())) + sum(manifests.values())

    def referrers(self, repository: str, subject: str) -> list[dict[str, Any]]:
        """Return the descriptors of the manifests that name a digest as their subject."""
        with self._lock:
            known = self._repositories.get(repository)
            return [] if known is None else list(known.referrers.get(subject, {}).values())

    def referrer_page(
        self, repository: str, subject: str, artifact_type: str | None, last: str, count: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return at most `count` referrers by digest after `last`, of one type if it is given, and whether more follow."""
        wanted = {
            descriptor["digest"]: descriptor
            for descriptor in self.referrers(repository, subject)
            if artifact_type is None or descriptor.get("artifactType", "") == artifact_type
        }
        digests, more = _page(sorted(wanted), last, count)
        return [wanted[digest] for digest in digests], more

    def repository_page(self, last: str, count: int) -> tuple[list[str], bool]:
        """Return at most `count` names of repositories after `last`, and whether more follow."""
        with self._lock:
            return _page(self._order(), last, count)

    def tag_page(self, repository: str, last: str, count: int) -> tuple[list[str], bool]:
        """Return at most `count` tags after `last`, and whether more follow."""
        with self._lock:
            known = self._find(repository)
            if known.ordered_tags is None:
                known.ordered_tags = sorted(known.tags)
            return _page(known.ordered_tags, last, count)

    def find_manifest(self, repository: str, reference: str) -> tuple[str, StoredManifest]:
        """Return the digest and the manifest of a tag or digest; raises `ApiError` 404 if there is none."""
        with self._lock:
            found = self._look_up(repository, reference)
            if found is None:
                self._find(repository)
                raise ApiError(404, "MANIFEST_UNKNOWN", "manifest unknown to registry", {"reference": reference})
            return found

    def find_blob(self, repository: str, digest: str) -> bytes:
        """Return the bytes of a blob; raises `ApiError` 404 if the repository does not have it."""
        data = self.blob(repository, parse_digest(digest))
        if data is None:
            raise ApiError(404, "BLOB_UNKNOWN", "blob unknown to registry", {"digest": digest})
        return data

    # Without rules: what a sample or a test puts in place

    def load(self, images: Sample) -> None:
        """Put a whole sample in place, its broken tags and emptied repositories included."""
        with self._lock:
            for repository in images.repositories:
                self.create(repository.name)
                for digest, data in repository.blobs.items():
                    self.put_blob(repository.name, data, digest)
                for manifest in repository.manifests:
                    self.put_manifest(repository.name, manifest.digest, manifest.media_type, manifest.raw)
                for tag, digest in (repository.tags | repository.broken).items():
                    self.set_tag(repository.name, tag, digest)

    def create(self, repository: str) -> None:
        """Make a repository, empty and in the catalog, unless it is there."""
        with self._lock:
            self._open(repository)

    def put_blob(self, repository: str, data: bytes, digest: str | None = None) -> str:
        """Store a blob and return its digest; a digest that is given is believed."""
        name = Digest.of(data) if digest is None else digest
        with self._lock:
            self._content[name] = data
            self._open(repository).blobs.add(name)
        return name

    def put_manifest(self, repository: str, reference: str, media_type: str, raw: bytes) -> str:
        """Store any bytes as a manifest, by tag or by a digest that is believed, and return the digest."""
        digest = reference if ":" in reference else _digest_of(raw)
        with self._lock:
            known = self._open(repository)
            self._forget_referrer(known, digest)
            subject = self._note_referrer(known, digest, media_type, raw)
            known.manifests[digest] = StoredManifest(media_type, raw, subject)
            if digest != reference:
                self.set_tag(repository, reference, digest)
        return digest

    def set_tag(self, repository: str, tag: str, digest: str) -> None:
        """Point a tag at a digest, whether or not there is such a manifest."""
        with self._lock:
            known = self._open(repository)
            if tag not in known.tags:
                known.ordered_tags = None
            known.tags[tag] = digest

    def drop_manifest(self, repository: str, digest: str) -> None:
        """Lose a manifest and leave its tags dangling, as a damaged storage does."""
        with self._lock:
            known = self._find(repository)
            self._forget_referrer(known, digest)
            known.manifests.pop(digest, None)

    def drop_repository(self, repository: str) -> None:
        """Remove a repository and its name from the catalog; its blobs wait for garbage collection."""
        with self._lock:
            self._repositories.pop(repository, None)
            self._ordered_repositories = None

    def collect_garbage(self) -> set[str]:
        """Drop the blobs that no manifest of any repository holds, and return their digests.

        Manifests stay, tagged or not, as with ``docker-registry garbage-collect`` without options.
        """
        with self._lock:
            held = {d for r in self._repositories.values() for m in r.manifests.values() for d in m.held_blobs()}
            dropped = self._content.keys() - held
            for digest in dropped:
                del self._content[digest]
            for repository in self._repositories.values():
                repository.blobs -= dropped
        return dropped

    # By the rules of a registry: what a client does

    def push_manifest(
        self,
        repository: str,
        reference: str,
        media_type: str,
        raw: bytes,
        *,
        tags: Sequence[str] = (),
        sparse: bool = False,
    ) -> tuple[str, str | None]:
        """Store a manifest as a registry does, and return its digest and its subject's.

        The specification leaves it to the registry whether what a manifest names must be there. Here the
        blobs of an image must be, unless it may be `sparse`, and the children of an index need not.

        Parameters
        ----------
        repository, reference : str
            Where to put it: a tag, or the digest that the bytes must hash to.
        media_type, raw : str, bytes
            The manifest.
        tags : sequence of str
            Tags that are to point at it too.
        sparse : bool
            Do not look for the blobs.

        Raises
        ------
        ApiError
            NAME_INVALID, TAG_INVALID, DIGEST_INVALID, MANIFEST_INVALID or MANIFEST_BLOB_UNKNOWN, all
            with status 400 as docker-registry 2.8.2 answers them.
        """
        check_name(repository)
        if ":" in reference:
            wanted = parse_digest(reference)
            if wanted != _digest_of(raw):  # which is of what is signed, where schema 1 is
                _check_content(wanted, raw)
        for tag in tags if ":" in reference else (reference, *tags):
            if not is_tag(tag):
                raise ApiError(400, "TAG_INVALID", "manifest tag did not match the grammar", {"tag": tag})
        document = _parse_pushed(raw, media_type)
        with self._lock:
            if not sparse:
                self._check_blobs(repository, document)
            digest = self.put_manifest(repository, reference, document.media_type, raw)
            for tag in tags:
                self.set_tag(repository, tag, digest)
        return digest, None if document.subject is None else document.subject.digest

    def delete_manifest(self, repository: str, reference: str) -> list[str]:
        """Delete a manifest with every tag on it or, named by tag, that tag alone; return the tags that went.

        Raises
        ------
        ApiError
            404 MANIFEST_UNKNOWN or NAME_UNKNOWN.
        """
        with self._lock:
            known = self._find(repository)
            if reference not in (known.manifests if ":" in reference else known.tags):
                raise ApiError(404, "MANIFEST_UNKNOWN", "manifest unknown to registry", {"reference": reference})
            gone = [reference]
            if ":" in reference:
                self.drop_manifest(repository, reference)
                gone = [tag for tag, digest in known.tags.items() if digest == reference]
            for tag in gone:
                del known.tags[tag]
            known.ordered_tags = None
        return gone

    def delete_blob(self, repository: str, digest: str) -> None:
        """Take a blob out of a repository; its bytes go when no repository links to them."""
        with self._lock:
            self.find_blob(repository, digest)
            self._find(repository).blobs.remove(digest)
            if not any(digest in other.blobs for other in self._repositories.values()):
                del self._content[digest]

    def mount_blob(self, repository: str, digest: str, source: str | None) -> bool:
        """Link a blob of another repository (any, where `source` is None); return whether that was possible."""
        check_name(repository)
        with self._lock:
            places = list(self._repositories) if source is None else [source]
            data = next((data for name in places if (data := self.blob(name, digest)) is not None), None)
            if data is None:
                return False
            self.put_blob(repository, data, digest)
        return True

    def push_blob(self, repository: str, data: bytes, digest: str) -> str:
        """Store a blob whose bytes must hash to the digest, and return the digest."""
        check_name(repository)
        _check_content(parse_digest(digest), data)
        return self.put_blob(repository, data, digest)

    def begin_upload(self, repository: str) -> str:
        """Open an upload session and return its name. The repository comes into being with its first blob."""
        check_name(repository)
        session = str(uuid.uuid4())
        with self._lock:
            self._uploads[session] = _Upload(repository)
        return session

    def uploaded_bytes(self, repository: str, session: str) -> int:
        """Return how many bytes a session has received; raises `ApiError` 404 if it is not open."""
        with self._lock:
            return self._upload(repository, session).size

    def extend_upload(self, repository: str, session: str, data: bytes, start: int | None = None) -> int:
        """Add a chunk to a session and return how many bytes it has now.

        Parameters
        ----------
        repository, session : str
            The session that `begin_upload` opened, and its repository.
        data : bytes
            The chunk.
        start : int, optional
            The position of the chunk's first byte; one that is not the next one raises `ApiError` 416.
        """
        with self._lock:
            upload = self._upload(repository, session)
            if start is not None and start != upload.size:
                detail = {"expected": upload.size, "received": start}
                raise ApiError(416, "BLOB_UPLOAD_INVALID", "chunks must come in order", detail)
            upload.chunks.append(data)
            upload.size += len(data)
            return upload.size

    def finish_upload(self, repository: str, session: str, digest: str) -> str:
        """Close a session, store what it received as a blob, and return the digest."""
        with self._lock:
            upload = self._upload(repository, session)
            del self._uploads[session]
        return self.push_blob(repository, b"".join(upload.chunks), digest)

    def cancel_upload(self, repository: str, session: str) -> None:
        """Close a session and forget what it received; raises `ApiError` 404 if it is not open."""
        with self._lock:
            self._upload(repository, session)
            del self._uploads[session]

    # Inside

    def _open(self, name: str) -> _Repository:
        known = self._repositories.get(name)
        if known is None:
            known = self._repositories[name] = _Repository()
            self._ordered_repositories = None
        return known

    def _find(self, name: str) -> _Repository:
        known = self._repositories.get(name)
        if known is None:
            raise ApiError(404, "NAME_UNKNOWN", "repository name not known to registry", {"name": name})
        return known

    def _order(self) -> list[str]:
        if self._ordered_repositories is None:
            self._ordered_repositories = sorted(self._repositories)
        return self._ordered_repositories

    def _look_up(self, repository: str, reference: str) -> tuple[str, StoredManifest] | None:
        known = self._repositories.get(repository)
        if known is None:
            return None
        digest = reference if ":" in reference else known.tags.get(reference, "")
        found = known.manifests.get(digest)
        return None if found is None else (digest, found)

    def _upload(self, repository: str, session: str) -> _Upload:
        upload = self._uploads.get(session)
        if upload is None or upload.repository != repository:
            raise ApiError(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry", {"session": session})
        return upload

    def _check_blobs(self, repository: str, document: AnyManifest) -> None:
        known = self._repositories.get(repository, _Repository())
        missing = [digest for digest in _needed_blobs(document) if digest not in known.blobs]
        if missing:
            details = ({"digest": digest} for digest in dict.fromkeys(missing))
            raise ApiError(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", *details)

    @staticmethod
    def _note_referrer(known: _Repository, digest: str, media_type: str, raw: bytes) -> str | None:
        if b'"subject"' not in raw:
            return None
        document = _lenient(raw)
        subject = document.get("subject")
        target = subject.get("digest") if isinstance(subject, dict) else None
        if not isinstance(target, str):
            return None
        known.referrers.setdefault(target, {})[digest] = _referrer_descriptor(document, digest, media_type, len(raw))
        return target

    @staticmethod
    def _forget_referrer(known: _Repository, digest: str) -> None:
        former = known.manifests.get(digest)
        if former is None or former.subject is None:
            return
        del known.referrers[former.subject][digest]
        if not known.referrers[former.subject]:
            del known.referrers[former.subject]


def check_name(repository: str) -> None:
    """Raise `ApiError` NAME_INVALID for a repository name outside the grammar."""
    if not is_repository(repository):
        raise ApiError(400, "NAME_INVALID", "invalid repository name", {"name": repository})


def parse_digest(text: str) -> Digest:
    """Return a digest, or raise `ApiError` DIGEST_INVALID."""
    try:
        return Digest(text)
    except InvalidReference as error:
        raise ApiError(400, "DIGEST_INVALID", "invalid digest", str(error)) from None


def _check_content(digest: Digest, data: bytes) -> None:
    if not digest.matches(data):
        raise ApiError(400, "DIGEST_INVALID", "provided digest did not match uploaded content", {"digest": digest})


def _parse_pushed(raw: bytes, media_type: str) -> AnyManifest:
    try:
        document = parse_manifest(raw, media_type)
    except BadManifest as error:
        raise ApiError(400, "MANIFEST_INVALID", "manifest invalid", str(error)) from None
    # Who reads forgives a Content-Type that says nothing; who stores does not, since it is what readers will be told.
    named = media_type.partition(";")[0].strip().lower()
    if named not in {"", document.media_type}:
        detail = f"it was sent as {named} and is {document.media_type}"
        raise ApiError(400, "MANIFEST_INVALID", "manifest invalid", detail)
    return document


def _needed_blobs(document: AnyManifest) -> Iterable[str]:
    if isinstance(document, LegacyManifest):
        return document.layers
    if not isinstance(document, Manifest):
        return ()
    # Layers that may not be redistributed stay with their vendor: the manifest names a URL instead.
    return (
        b.digest for b in document.blobs if "nondistributable" not in b.media_type and ".foreign." not in b.media_type
    )


def _referrer_descriptor(document: dict[str, Any], digest: str, media_type: str, size: int) -> dict[str, Any]:
    descriptor: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": size}
    config = document.get("config")
    purpose = document.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    if purpose:
        descriptor["artifactType"] = purpose
    if document.get("annotations"):
        descriptor["annotations"] = document["annotations"]
    return descriptor


def _page(names: list[str], last: str, count: int) -> tuple[list[str], bool]:
    first = bisect_right(names, last) if last else 0
    return names[first : first + count], first + count < len(names)


def _digest_of(raw: bytes) -> str:
    try:
        return digest_of_document(raw)
    except BadManifest:
        return Digest.of(raw)


def _lenient(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _list(value: object) -> Iterator[Any]:
    return iter(value if isinstance(value, list) else ())
