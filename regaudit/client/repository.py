"""Repository: one repository of a registry, as a person holds it in a notebook."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from regaudit.client import layout, upload, v2, write
from regaudit.client.auth import refusal
from regaudit.client.exchange import Conversation, Response, Session
from regaudit.client.transfer import Content, Download, TransferProgress, Writable, is_stream, opened
from regaudit.errors import BadManifest, BlobInUse, NotFound, Refused, Unsupported
from regaudit.manifest import AnyManifest, Descriptor, ImageConfig, Manifest, parse_image_config, parse_manifest
from regaudit.reference import Digest
from regaudit.text import clean

if TYPE_CHECKING:
    from regaudit.client.registry import Registry

T = TypeVar("T")


class Repository:
    """One repository of a registry. Every method is one or a few requests."""

    def __init__(self, registry: Registry, name: str) -> None:
        self.registry, self.name = registry, name

    def __repr__(self) -> str:
        return f"<Repository {clean(self.registry.host, 120)}/{clean(self.name, 255)}>"

    # -- manifests ---------------------------------------------------------------------------

    def tags(self) -> list[str]:
        """Return all tags, over all pages; raises `NotFound` where there is no such repository."""
        return list(self._run(v2.tags(self._session, self.name)).all())

    def head(self, reference: str) -> v2.Head:
        """Return digest, media type and size of a manifest by tag or digest, without reading it."""
        return self._run(v2.head_manifest(self._session, self.name, reference))

    def manifest(
        self,
        reference: str,
        *,
        max_schema_version: int = 2,
        accept_indexes: bool = True,
        follow_redirects: bool = True,
    ) -> AnyManifest:
        """Return a manifest or index by tag or digest, its bytes verified.

        Parameters
        ----------
        reference : str
            A tag or a digest.
        max_schema_version : int
            1 asks for Docker's schema 1 alone, to which some registries convert: such a manifest is to
            read, and its digest may not exist in the registry.
        accept_indexes : bool
            False lets the registry answer with an image of its choice where the tag is an index.
        follow_redirects : bool
            False makes a redirect an error.
        """
        return self._run(
            v2.get_manifest(
                self._session,
                self.name,
                reference,
                max_schema_version=max_schema_version,
                accept_indexes=accept_indexes,
                follow_redirects=follow_redirects,
            )
        )

    def config(self, manifest: Manifest) -> ImageConfig:
        """Return the config of an image."""
        return parse_image_config(self._run(v2.get_blob(self._session, self.name, manifest.config.digest)))

    def referrers(self, digest: str, *, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """Return descriptors of what refers to a digest (signatures, attestations, SBOMs), perhaps of one type only."""
        return self._run(v2.referrers(self._session, self.name, Digest(digest), artifact_type))

    def put_manifest(self, reference: str, raw: bytes, media_type: str | None = None) -> Digest:
        """Store a manifest byte for byte under a tag or its digest, and return its digest.

        Parameters
        ----------
        media_type : str, optional
            What the bytes say of themselves, unless given.

        Raises
        ------
        BadManifest
            Without `media_type`: the bytes do not say what they are.
        """
        kind = media_type or parse_manifest(raw).media_type
        return self._run(write.put_manifest(self._session, self.name, reference, raw, kind))

    def delete_manifest(self, digest: str) -> int:
        """Delete a manifest **and every tag on it**, and return the status; prefer a plan and a `Cleaner`.

        A referrer is taken off the list under its subject's fallback tag too, where the registry has no
        referrers interface.

        Raises
        ------
        Refused
            The registry did not accept it.
        """
        try:
            manifest = self.manifest(Digest(digest))
        except (BadManifest, NotFound):
            manifest = None  # the registry shall say what it makes of it
        status = self._accepted(
            self._run(write.delete_manifest(self._session, self.name, Digest(digest))), f"@{digest}"
        )
        if manifest is not None:
            self._run(write.unlist_referrer(self._session, self.name, manifest))
        return status

    def delete_tag(self, tag: str) -> int:
        """Delete a tag alone, and return the status; not every registry offers this."""
        response = self._run(write.delete_tag(self._session, self.name, tag))
        if response.status == 400 and refusal(self._session, response, "").code == "DIGEST_INVALID":
            # docker-registry 2.8.2 takes the tag for a digest
            raise Unsupported(
                f"{self.registry.host} does not delete a tag alone: delete its digest, and every tag on it with it",
                status=400,
                code="DIGEST_INVALID",
            )
        return self._accepted(response, f":{tag}")

    # -- blobs -------------------------------------------------------------------------------

    def head_blob(self, digest: str) -> v2.BlobHead:
        """Return a blob's size and every response on the way to it; raises `NotFound` where it is not there."""
        return self._run(v2.head_blob(self._session, self.name, Digest(digest)))

    def blob_size(self, digest: str) -> int | None:
        """Return a blob's size in bytes, None where the registry does not tell; raises `NotFound` as `head_blob`."""
        return self.head_blob(digest).size

    def download_blob(
        self, digest: str, target: str | Path | Writable, *, progress: TransferProgress | None = None
    ) -> int:
        """Stream a blob into a file, verify it, and return its size in bytes.

        What breaks off is gone on with where it stopped. It takes no more memory than a piece of the blob.

        Parameters
        ----------
        target : path or writable
            The file of a path appears only when it is whole and its digest is right. Anything else with
            a ``write`` (a pipe, a socket's file) gets each byte once and in order; it must not be
            believed before this method has returned.
        progress : callable, optional
            Called with the bytes that have arrived and the bytes in all, or None.

        Raises
        ------
        DigestMismatch
            The bytes do not hash to the digest.
        """
        with opened(target) as file:
            return self._download(digest, file, progress)

    def upload_blob(
        self,
        data: bytes | Path | IO[bytes],
        *,
        chunk_bytes: int | None = None,
        mount_from: str | None = None,
        single_post: bool = False,
        algorithm: str = "sha256",
        progress: TransferProgress | None = None,
    ) -> Digest:
        """Upload a blob, unless it is there, and return its digest.

        What breaks off is gone on with where the registry stands, with no more memory than a piece.

        Parameters
        ----------
        data : bytes, Path or readable
            What can be read only once (a pipe) is sent in chunks, and kept in memory a chunk at a time.
        chunk_bytes : int, optional
            Send it in chunks of this size: for proxies that limit a body, and registries that limit a request.
        mount_from : str, optional
            A repository of the same registry that may have the blob: then nothing is sent.
        single_post : bool
            Try it in a single request first.
        algorithm : str
            ``sha512`` where the blob is to be known by that; few registries take it.
        progress : callable, optional
            Called with the bytes sent and the bytes in all, or None.
        """
        if chunk_bytes is not None:
            upload.check_chunk(chunk_bytes)
        if is_stream(data):
            size = chunk_bytes or upload.CHUNK
            assert not isinstance(data, bytes | Path)  # noqa: S101 -- a stream is neither
            return self._run(
                upload.upload_stream(self._session, self.name, data, algorithm, chunk_bytes=size, progress=progress)
            )
        content = Content(data, progress=progress)
        digest = content.digest(algorithm)
        self._run(
            upload.upload_blob(
                self._session,
                self.name,
                digest,
                content,
                chunk_bytes=chunk_bytes,
                mount_from=mount_from,
                single_post=single_post,
            )
        )
        return digest

    def start_upload(self) -> BlobUpload:
        """Open an upload to do by hand, chunk by chunk; `upload_blob` does it all."""
        return BlobUpload(self, self._run(upload.start_upload(self._session, self.name)))

    def mount_blob(self, digest: str, source: str | None = None) -> bool:
        """Take over a blob that another repository has, without sending it, and return whether that was possible.

        Parameters
        ----------
        source : str, optional
            The repository that has it; without one, the registry may look for itself.
        """
        opened = self._run(upload.mount_blob(self._session, self.name, Digest(digest), source))
        if opened is not None:
            with suppress(
                Refused
            ):  # a courtesy, which the specification does not know; the registry forgets it in time
                self._run(upload.cancel_upload(self._session, opened))
        return opened is None

    def delete_blob(self, digest: str, *, force: bool = False) -> int:
        """Take a blob out of the repository, and return the status.

        Parameters
        ----------
        force : bool
            Also where a manifest uses it, and without looking for one.

        Raises
        ------
        BlobInUse
            A manifest that a tag leads to uses it.
        RegistryError
            Something could not be read, which may use it.
        """
        if not force:
            holders = self._run(v2.blob_holders(self._session, self.name, Digest(digest)))
            if holders:
                raise BlobInUse(
                    f"{Digest(digest).short} is used by {clean(', '.join(holders[:5]), 300)} in {self.name}: nothing was "
                    "deleted; force=True breaks them",
                    holders=holders,
                )
        return self._accepted(self._run(write.delete_blob(self._session, self.name, Digest(digest))), f"@{digest}")

    # -- images ------------------------------------------------------------------------------

    def download_image(
        self,
        reference: str,
        folder: str | Path,
        *,
        platform: str | None = None,
        progress: TransferProgress | None = None,
    ) -> Descriptor:
        """Copy a whole image into a folder, an OCI image layout, and return its descriptor.

        Called again, it goes on with what is missing.

        Parameters
        ----------
        reference : str
            Tag or digest; the image carries the tag in the layout.
        folder : path
            A new one, or one that is a layout already.
        platform : str, optional
            Only the image of an index for this platform (``linux/arm64``).
        progress : callable, optional
            Called with the bytes copied and the bytes of all blobs.
        """
        where = layout.Layout(folder)
        return self._run(
            layout.download_image(self._session, self.name, reference, where, platform=platform, progress=progress)
        )

    def upload_image(
        self,
        folder: str | Path,
        reference: str | None = None,
        *,
        name: str | None = None,
        chunk_bytes: int | None = None,
        progress: TransferProgress | None = None,
    ) -> Digest:
        """Copy an image of an OCI image layout into the repository, and return its digest.

        Parameters
        ----------
        reference : str, optional
            The tag that it gets; its name in the layout unless given.
        name : str, optional
            Which image of the layout, by name or digest; not needed where there is only one.
        """
        if chunk_bytes is not None:
            upload.check_chunk(chunk_bytes)
        where = layout.Layout(folder, make=False)
        return self._run(
            layout.upload_image(
                self._session, self.name, where, reference, name=name, chunk_bytes=chunk_bytes, progress=progress
            )
        )

    # -- inside ------------------------------------------------------------------------------

    @property
    def _session(self) -> Session:
        return self.registry.session

    def _run(self, conversation: Conversation[T]) -> T:
        return self.registry.run(conversation)

    def _download(self, digest: str, target: Writable, progress: TransferProgress | None) -> int:
        sink = Download(target, Digest(digest), progress=progress)
        return self._run(v2.download_blob(self._session, self.name, Digest(digest), sink))

    def _accepted(self, response: Response, what: str) -> int:
        if response.status in {200, 202, 204}:
            return response.status
        raise refusal(self._session, response, f"deleting {self.registry.host}/{self.name}{clean(what, 140)}")


class BlobUpload:
    """An upload that a person goes through by hand: `send` chunks, then `complete` it.

    Attributes
    ----------
    received : int
        Bytes that the registry has, as it last said.
    """

    def __init__(self, repository: Repository, opened: upload.Upload) -> None:
        self._registry, self._upload = repository.registry, opened

    @property
    def received(self) -> int:
        """Bytes that the registry has, as it last said."""
        return self._upload.received

    @property
    def location(self) -> str:
        """Where the upload goes on. Whoever knows it may go on with it."""
        return self._upload.location

    def status(self) -> int:
        """Ask the registry how many bytes it has, and return that."""
        self._upload = self._registry.run(upload.upload_status(self._registry.session, self._upload))
        return self.received

    def send(self, data: bytes | Path | IO[bytes]) -> int:
        """Send the next chunk, once, and return how many bytes the registry has now.

        Raises
        ------
        UnexpectedStatus
            With status 416 where the registry stands elsewhere: ask for `status`, and go on from there.
        """
        self._upload = self._registry.run(upload.send_chunk(self._registry.session, self._upload, Content(data)))
        return self.received

    def complete(self, digest: str, data: bytes | Path | IO[bytes] | None = None) -> Digest:
        """End the upload, perhaps with the last bytes; the blob is there afterwards."""
        rest = None if data is None else Content(data)
        conversation = upload.complete_upload(self._registry.session, self._upload, Digest(digest), rest)
        return self._registry.run(conversation)

    def cancel(self) -> None:
        """Give the upload up."""
        self._registry.run(upload.cancel_upload(self._registry.session, self._upload))


__all__ = ["BlobUpload", "Repository"]
