"""The door to the v1 interface: what `Registry.v1` holds.

It is for registries that speak nothing else. Nothing here goes through a plan: an image of v1 has no
digest, so that nobody could tell whether what is deleted is what was looked at. What writes does so because
the caller asked for exactly that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from regaudit.client import v1, write
from regaudit.client.exchange import Conversation
from regaudit.client.grants import ListedImage, SessionV1
from regaudit.client.transfer import Content, Writable, opened
from regaudit.client.v2 import Ping
from regaudit.errors import BadResponse, UsageError
from regaudit.text import clean

if TYPE_CHECKING:
    from regaudit.client.registry import Registry

T = TypeVar("T")


class RegistryV1:
    """A registry of the v1 interface.

    Parameters
    ----------
    registry : Registry
        Its credentials and connections are used.
    trusted_endpoints : sequence of str
        Hosts that the registry may send us on to, and that may see its tokens.

    Examples
    --------
    ``Registry("registry.example.com").v1.repository("team/app").tags()``
    """

    def __init__(self, registry: Registry, trusted_endpoints: Sequence[str] = ()) -> None:
        if isinstance(trusted_endpoints, str):
            raise UsageError(
                f"trusted_endpoints is one text where several are expected: write [{clean(trusted_endpoints)!r}]"
            )
        self.registry = registry
        self.session = SessionV1(registry.session, tuple(trusted_endpoints))

    def ping(self) -> Ping:
        """Ask whether the registry speaks v1: status, headers and body.

        Raises
        ------
        NotARegistry, Unreachable, AuthenticationFailed
            With what to do about it.
        """
        return self.registry.run(v1.ping(self.session))

    def login(self) -> v1.Login:
        """Ask whether user name and password are accepted; no account is made."""
        return self.registry.run(v1.login(self.session))

    def search(self, term: str, *, page_size: int = v1.PAGE_SIZE) -> v1.Search:
        """Search names and descriptions, over all pages; many registries find everything for an empty term."""
        return self.registry.run(v1.search(self.session, term, page_size)).all()

    def repository(self, name: str) -> RepositoryV1:
        """Return a repository by its name, in ``library`` where no namespace is given; nothing is asked."""
        return RepositoryV1(self, v1.full_name(name))

    def __repr__(self) -> str:
        return f"<RegistryV1 {clean(self.registry.host, 120)}>"


class RepositoryV1:
    """One repository of a registry of the v1 interface."""

    def __init__(self, door: RegistryV1, name: str) -> None:
        self.door, self.name = door, name

    def __repr__(self) -> str:
        return f"<RepositoryV1 {clean(self.door.registry.host, 120)}/{clean(self.name, 255)}>"

    def images(self) -> tuple[ListedImage, ...]:
        """Return all images of the repository; raises `NotFound` where there is no such repository."""
        return self._run(v1.images(self._session, self.name))

    def tags(self) -> dict[str, str]:
        """Return the image id of each tag.

        Raises
        ------
        BadResponse
            A tag, or its image id, is outside the grammar.
        """
        tags = self._run(v1.tags(self._session, self.name))
        if tags.invalid:
            raise BadResponse(
                f"{self}: the registry lists {clean(repr(tags.invalid[0]), 140)}, which is no tag of an image"
            )
        return dict(tags.images)

    def image_id(self, tag: str) -> str:
        """Return the image id of a tag."""
        return self._run(v1.tagged_image(self._session, self.name, tag))

    def ancestry(self, image_id: str) -> tuple[str, ...]:
        """Return the ids of an image and of all that it is built on, the topmost first."""
        return self._run(v1.ancestry(self._session, self.name, image_id))

    def image(self, image_id: str) -> v1.Image:
        """Return the image JSON of one layer, with its size and checksum."""
        return self._run(v1.get_image(self._session, self.name, image_id))

    def download_layer(self, image_id: str, target: str | Path | Writable) -> v1.Layer:
        """Stream a layer into a file, verify it, and say by what.

        Parameters
        ----------
        target : path or writable
            The file of a path appears only when it is whole and right. Anything else with a ``write`` gets
            each byte once and in order; it must not be believed before this method has returned.

        Raises
        ------
        DigestMismatch, BadResponse
            What arrived has another checksum or size than the registry tells.
        """
        with opened(target) as file:
            return self._run(v1.download_layer(self._session, self.name, image_id, file))

    def upload_layer(self, image_id: str, data: bytes | Path | IO[bytes], *, about: bytes | None = None) -> None:
        """Store a layer; with its image JSON before and its checksum after it, where `about` is given.

        Registries take a layer only once they have its image JSON, and an image JSON only once they have its
        parent.

        Raises
        ------
        UnexpectedStatus
            409: the registry has this image already.
        """
        self._run(write.put_layer_v1(self._session, self.name, image_id, Content(data), about))

    def put_tag(self, tag: str, image_id: str) -> None:
        """Point a tag at an image."""
        self._run(write.put_tag_v1(self._session, self.name, tag, image_id))

    def delete_tag(self, tag: str) -> None:
        """Delete a tag; its image stays."""
        self._run(write.delete_tag_v1(self._session, self.name, tag))

    def delete(self) -> None:
        """Delete the repository with all its tags. There is no way back."""
        self._run(write.delete_repository_v1(self._session, self.name))

    @property
    def _session(self) -> SessionV1:
        return self.door.session

    def _run(self, conversation: Conversation[T]) -> T:
        return self.door.registry.run(conversation)


__all__ = ["RegistryV1", "RepositoryV1"]
