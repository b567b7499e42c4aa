"""Uploading blobs: the forms that the distribution specification knows, and what to do when one breaks off.

An upload is a session of the registry. Its last answer says where it goes on, and how many bytes
have arrived; after a fault the registry is asked for both ("Pushing a blob in chunks"). One that has
forgotten the session (docker-registry 2.8.2 gives a session up when a chunk breaks off in it) gets the
blob from its beginning.
"""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO
from urllib.parse import urlencode, urlsplit

from regaudit.client.auth import ask, refusal, repository_scope
from regaudit.client.exchange import Conversation, Request, Response, Session, Wait, origin, resolve
from regaudit.client.transfer import Content, TransferProgress
from regaudit.errors import (
    BadResponse,
    DigestMismatch,
    RedirectRefused,
    Refused,
    RegistryError,
    Unreachable,
    UsageError,
)
from regaudit.reference import Digest, check_repository
from regaudit.text import clean, safe_url

# A chunk is held in memory where its source can be read only once, and is what a fault costs.
CHUNK = 8 << 20
_LARGEST_HELD = 256 << 20

_OCTETS = {"Content-Type": "application/octet-stream"}
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")


@dataclass(frozen=True, slots=True)
class Upload:
    """A session for the upload of a blob, as the registry's last answer left it.

    Attributes
    ----------
    location : str
        Where it goes on. Whoever knows it may go on with it.
    received : int
        Bytes that the registry has.
    least_chunk : int
        The fewest bytes of a chunk that is not the last (``OCI-Chunk-Min-Length``).
    """

    repository: str
    location: str = field(repr=False)
    received: int = 0
    least_chunk: int = 0


def check_chunk(size: int) -> None:
    """Refuse a size of which no number of chunks makes a blob."""
    if size < 1:
        raise UsageError(f"chunk_bytes={size} is no size of a chunk: give at least 1, or leave it out")


def start_upload(session: Session, repository: str, algorithm: str = "sha256") -> Conversation[Upload]:
    """Open a session for the upload of a blob whose digest is of the algorithm."""
    # The parameter is of distribution spec 1.2; whoever does not know it passes it over.
    query = "" if algorithm == "sha256" else f"?{urlencode({'digest-algorithm': algorithm})}"
    response = yield from _post(session, repository, query)
    if response.status != 202:
        raise refusal(session, response, f"opening an upload to {session.host}/{repository}")
    return _opened(repository, response)


def upload_status(session: Session, upload: Upload) -> Conversation[Upload]:
    """Ask how many bytes of an upload have arrived, and where it goes on."""
    response = yield from _ask(session, upload, "GET")
    if response.status != 204:
        raise refusal(session, response, f"the upload to {session.host}/{upload.repository}")
    return _moved_on(upload, response)


def send_chunk(session: Session, upload: Upload, chunk: Content) -> Conversation[Upload]:
    """Send the next bytes of a blob.

    Raises
    ------
    UnexpectedStatus
        With status 416 where the registry has another number of bytes than `upload` says.
    """
    if not chunk.size:
        return upload  # there is no Content-Range of no bytes
    last = upload.received + chunk.size - 1
    headers = {"Content-Range": f"{upload.received}-{last}"}
    response = yield from _ask(session, upload, "PATCH", chunk, headers)
    if response.status != 202:
        raise refusal(session, response, f"uploading to {session.host}/{upload.repository}")
    moved_on = _moved_on(upload, response, otherwise=last + 1)
    if moved_on.received <= upload.received:
        raise BadResponse(
            f"uploading to {session.host}/{upload.repository}: the registry accepted a chunk and has not kept it",
            url=safe_url(upload.location),
        )
    return moved_on


def complete_upload(
    session: Session, upload: Upload, digest: Digest, rest: Content | None = None
) -> Conversation[Digest]:
    """Say what the bytes hash to and, with `rest`, send those that are missing; the blob is there afterwards.

    Raises
    ------
    UnexpectedStatus
        The registry has other bytes (DIGEST_INVALID).
    """
    what = f"uploading {digest.short} to {session.host}/{upload.repository}"
    response = yield from _ask(session, upload, "PUT", rest, query={"digest": digest})
    if response.status != 201:
        raise refusal(session, response, what)
    return _stored(response, digest, what)


def cancel_upload(session: Session, upload: Upload) -> Conversation[None]:
    """Give an upload up; the registry forgets what it received."""
    response = yield from _ask(session, upload, "DELETE")
    if response.status not in {200, 202, 204}:
        raise refusal(session, response, f"cancelling the upload to {session.host}/{upload.repository}")


def mount_blob(
    session: Session, repository: str, digest: Digest, source: str | None = None
) -> Conversation[Upload | None]:
    """Ask for a blob that another repository has, without sending it.

    Parameters
    ----------
    source : str, optional
        The repository that has it; without one the registry may look by itself, and many do not.

    Returns
    -------
    Upload or None
        None where the blob is there now; where not, the session that the registry has opened instead.
    """
    query = {"mount": digest} if source is None else {"mount": digest, "from": check_repository(source)}
    wanted = repository_scope(repository, "pull,push")
    scopes = (wanted,) if source is None else (f"{wanted} {repository_scope(source, 'pull')}",)
    response = yield from _post(session, repository, f"?{urlencode(query)}", scopes=scopes)
    if response.status == 201:
        return None
    if response.status != 202:
        raise refusal(session, response, f"mounting {digest.short} in {session.host}/{repository}")
    return _opened(repository, response)


def post_blob(session: Session, repository: str, digest: Digest, content: Content) -> Conversation[Upload | None]:
    """Upload a blob in a single request; where the registry only opens a session for it, return that."""
    response = yield from _post(session, repository, f"?{urlencode({'digest': digest})}", content)
    if response.status == 201:
        _stored(response, digest, f"uploading {digest.short} to {session.host}/{repository}")
        return None
    if response.status != 202:
        raise refusal(session, response, f"uploading {digest.short} to {session.host}/{repository}")
    return _opened(repository, response)


def upload_blob(
    session: Session,
    repository: str,
    digest: Digest,
    content: Content,
    *,
    chunk_bytes: int | None = None,
    mount_from: str | None = None,
    single_post: bool = False,
) -> Conversation[None]:
    """Upload a blob, unless it is there, and go on after a fault with what is missing.

    Parameters
    ----------
    chunk_bytes : int, optional
        Send it in chunks of this size; in one piece unless given.
    mount_from : str, optional
        A repository that may have it already.
    single_post : bool
        Try it in a single request first.

    Raises
    ------
    RedirectRefused
        The registry wants the upload elsewhere: bodies and logins go to the registry itself.
    UnexpectedStatus
        The registry does not accept it (DIGEST_INVALID, SIZE_INVALID).
    """
    sending = _Sending(session, repository, digest, content, chunk_bytes)
    if (yield from _is_there(session, repository, digest)):
        return
    if mount_from is not None and (yield from sending.is_mounted(mount_from)):
        return
    if single_post and sending.upload is None:
        with suppress(Unreachable):  # below it goes up in a session, which can be gone on with
            sending.upload = yield from post_blob(session, repository, digest, content)
            if sending.upload is None:
                return
    yield from sending.run()


def upload_stream(
    session: Session,
    repository: str,
    stream: IO[bytes],
    algorithm: str = "sha256",
    *,
    chunk_bytes: int = CHUNK,
    progress: TransferProgress | None = None,
) -> Conversation[Digest]:
    """Upload what can be read only once, a chunk at a time, and return the digest that it turned out to have."""
    hasher = Digest.of(b"", algorithm).hasher()
    upload = yield from start_upload(session, repository, algorithm)
    if upload.least_chunk > _LARGEST_HELD:
        raise BadResponse(
            f"uploading to {session.host}/{repository}: the registry wants chunks of {upload.least_chunk:,} bytes, too "
            "many to hold of a stream: upload it from a file",
            url=safe_url(upload.location),
        )
    while piece := _fill(stream, max(chunk_bytes, upload.least_chunk)):
        upload = yield from _send_for_sure(session, upload, piece)
        hasher.update(piece)
        if progress is not None:
            progress(upload.received, None)
    return (yield from _complete_for_sure(session, upload, Digest(f"{algorithm}:{hasher.hexdigest()}")))


# -- going on --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sending:
    """The upload of a blob that can be read again: a loop around what may break off."""

    session: Session
    repository: str
    digest: Digest
    content: Content
    chunk_bytes: int | None
    upload: Upload | None = None

    def run(self) -> Conversation[None]:
        faults = furthest = 0
        while True:
            try:
                yield from self._send()
            except RegistryError as error:
                if not _may_go_on(error, self.upload):
                    raise
                broken = error
            else:
                return
            faults += 1
            yield Wait(self.session.retry.pause(faults - 1))
            if (yield from _is_there(self.session, self.repository, self.digest)):
                return  # only the answer was lost
            yield from self._find_place(broken)
            if self.upload is not None and self.upload.received > furthest:
                faults, furthest = 0, self.upload.received
            elif faults >= self.session.retry.tries:
                raise broken

    def is_mounted(self, source: str) -> Conversation[bool]:
        try:
            self.upload = yield from mount_blob(self.session, self.repository, self.digest, source)
        except Refused:
            return False  # who may not read there, or not mount at all, may still push here
        return self.upload is None

    def _send(self) -> Conversation[None]:
        if self.upload is None:
            self.upload = yield from start_upload(self.session, self.repository, self.digest.algorithm)
        if self.chunk_bytes is None:
            # What is left goes by itself after a fault: a PUT that broke off once is a large one.
            self.chunk_bytes = max(self.content.size, 1)
            yield from complete_upload(self.session, self.upload, self.digest, self.content)
            return
        while (left := self.content.size - self.upload.received) > 0:
            size = min(max(self.chunk_bytes, self.upload.least_chunk, 1), left)
            chunk = self.content.part(self.upload.received, size)
            self.upload = yield from send_chunk(self.session, self.upload, chunk)
        yield from complete_upload(self.session, self.upload, self.digest)

    def _find_place(self, error: RegistryError) -> Conversation[None]:
        """Ask where the upload goes on; it begins anew where the registry does not know, or contradicts itself."""
        before, self.upload = self.upload, None
        if before is None:
            return
        try:
            standing = yield from upload_status(self.session, before)
        except (Refused, BadResponse):
            return
        refused_there = error.status == 416 and standing.received == before.received
        if standing.received <= self.content.size and not refused_there:
            self.upload = standing


def _send_for_sure(session: Session, upload: Upload, piece: bytes) -> Conversation[Upload]:
    """Send a chunk that nobody can read again, as often as it takes."""
    start, faults = upload.received, 0
    while upload.received < start + len(piece):
        try:
            upload = yield from send_chunk(session, upload, Content(piece, start=upload.received - start))
        except RegistryError as error:
            faults += 1
            if faults >= session.retry.tries or not _may_go_on(error, upload):
                raise
            yield Wait(session.retry.pause(faults - 1))
            upload = yield from upload_status(session, upload)
            if not start <= upload.received <= start + len(piece):
                raise BadResponse(
                    f"uploading to {session.host}/{upload.repository}: the registry lost what it had received, and "
                    "a stream cannot be sent again: upload it from a file",
                    url=safe_url(upload.location),
                ) from None
    return upload


def _complete_for_sure(session: Session, upload: Upload, digest: Digest) -> Conversation[Digest]:
    """End the upload of what nobody can read again, as often as it takes."""
    faults = 0
    while True:
        try:
            return (yield from complete_upload(session, upload, digest))
        except RegistryError as error:
            faults += 1
            if faults >= session.retry.tries or not _may_go_on(error, upload):
                raise
        yield Wait(session.retry.pause(faults - 1))
        if (yield from _is_there(session, upload.repository, digest)):
            return digest  # only the answer was lost


def _is_there(session: Session, repository: str, digest: Digest) -> Conversation[bool]:
    url = session.url(f"/v2/{check_repository(repository)}/blobs/{digest}")
    # With the right to push, so that one token does for all of the upload.
    scopes = (repository_scope(repository, "pull,push"),)
    known = yield from ask(session, Request("HEAD", url, "blob", deadline=session.deadline), scopes)
    return bool(known.status == 200)


def _may_go_on(error: RegistryError, upload: Upload | None) -> bool:
    """Return whether an upload can be gone on with: no answer, or one that says the chunk did not fit."""
    if isinstance(error, Unreachable):
        return True
    return upload is not None and isinstance(error, Refused) and error.status in {404, 416, 500, 502, 504}


def _fill(stream: IO[bytes], size: int) -> bytes:
    """Read as many bytes as there are, up to a size: a pipe gives them as they come."""
    pieces, left = [], size
    while left and (piece := stream.read(left)) != b"":
        if piece is None:
            raise BlockingIOError(errno.EAGAIN, "the stream has nothing yet, which is not its end: let it block")
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


# -- one request -----------------------------------------------------------------------------


def _post(
    session: Session, repository: str, query: str, body: Content | None = None, scopes: tuple[str, ...] = ()
) -> Conversation[Response]:
    url = session.url(f"/v2/{check_repository(repository)}/blobs/uploads/{query}")
    request = Request("POST", url, "upload", deadline=session.deadline)
    if body is not None:
        request = Request("POST", url, "upload", _OCTETS, body=body, deadline=None)
    return (yield from ask(session, request, scopes or (repository_scope(repository, "pull,push"),)))


def _ask(
    session: Session,
    upload: Upload,
    method: str,
    body: Content | None = None,
    headers: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
) -> Conversation[Response]:
    url = upload.location
    if query:
        url += ("&" if urlsplit(url).query else "?") + urlencode(query)
    request = Request(method, url, "upload", deadline=session.deadline)
    if body is not None:
        request = Request(method, url, "upload", {**_OCTETS, **(headers or {})}, body=body, deadline=None)
    return (yield from ask(session, request, (repository_scope(upload.repository, "pull,push"),)))


def _opened(repository: str, response: Response) -> Upload:
    text = response.headers.get("oci-chunk-min-length", "")
    least = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
    return Upload(repository, _target(response), least_chunk=least)


def _moved_on(upload: Upload, response: Response, otherwise: int | None = None) -> Upload:
    """Return an upload as an answer left it. Where it has no Range, nothing has arrived, or `otherwise` bytes."""
    text = response.headers.get("range", "").strip()
    match = _RANGE.fullmatch(text)
    if text and match is None:
        raise BadResponse(f"an upload stands at {clean(text, 60)!r}, which is no range", url=safe_url(response.url))
    if match is None and otherwise is None:
        raise BadResponse("the registry does not say where an upload stands", url=safe_url(response.url))
    # "0-0" means one byte and none to docker-registry; none is what can be gone on with either way.
    last = int(match[1]) if match else (otherwise or 0) - 1
    received = last + 1 if last or otherwise == 1 else 0
    location = _target(response) if response.headers.get("location") else upload.location
    return Upload(upload.repository, location, received, upload.least_chunk)


def _stored(response: Response, digest: Digest, what: str) -> Digest:
    announced = response.headers.get("docker-content-digest", "").strip()
    # Known by sha256 as well, a blob may be announced so although it was pushed by another digest.
    if announced and announced != digest and announced.partition(":")[0] == digest.algorithm:
        raise DigestMismatch(f"{what}: the registry stored it as {clean(announced, 100)}", url=safe_url(response.url))
    return digest


def _target(response: Response) -> str:
    """Return where the upload goes on, which must be the registry itself: the body and the login go there."""
    location = response.headers.get("location", "")
    target = resolve(response.url, location) if location else None
    if target is None or origin(response.url)[1] != origin(target)[1]:
        raise RedirectRefused(
            f"{safe_url(response.url)} wants the upload at {safe_url(location)}: refused", status=response.status
        )
    own = urlsplit(response.url)
    # What would be put behind a fragment, as the digest is, would never be sent.
    return urlsplit(target)._replace(scheme=own.scheme, netloc=own.netloc, fragment="").geturl()
