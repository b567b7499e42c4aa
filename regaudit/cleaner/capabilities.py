"""What a registry can do, found out before the first deletion of a run without deleting anything.

What is asked to go cannot be there: a digest drawn at random has no document that anybody knows, and a
tag drawn at random was set by nobody. A registry with deletion says 404 then, one without says so.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from regaudit.client import v2, write
from regaudit.client.exchange import Response, error_of
from regaudit.client.registry import Registry
from regaudit.errors import RegistryError
from regaudit.reference import Digest
from regaudit.text import redact

_ACCEPTED = frozenset({200, 202, 204})
# What the advice on garbage collection goes by; nothing in them is secret.
_TELLING = (
    "docker-distribution-api-version",
    "gitlab-container-registry-version",
    "server",
    "x-artifactory-id",
    "x-jfrog-version",
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a registry answered to who asks it to delete what is not there.

    Attributes
    ----------
    deletion, tag_deletion : bool or None
        Whether manifests can be deleted by digest, and tags alone; None where the answer leaves it open.
    referrers : bool or None
        Whether it lists what refers to a digest; None where it was not asked or did not say. Without, signatures are found by their tags.
    digest, tag : str
        What was asked for.
    said : dict
        The answers: status and code, or why there was none.
    headers : dict
        Those that tell which software it is.
    """

    deletion: bool | None
    tag_deletion: bool | None
    referrers: bool | None
    digest: str
    tag: str
    said: dict[str, str]
    headers: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def probe(registry: Registry, repository: str, known: Digest | None = None) -> Capabilities:
    """Find out what a registry can do, by asking for the deletion of what cannot be there.

    Parameters
    ----------
    known : Digest, optional
        A manifest of the repository, of which the referrers are asked for. Of one that is not there registries of both
        kinds may say 404.
    """
    digest, tag = Digest(f"sha256:{secrets.token_hex(32)}"), f"regaudit-probe-{secrets.token_hex(16)}"
    by_digest = _answer(registry, write.delete_manifest(registry.session, repository, digest))
    deletion = _by_digest(by_digest)
    said = {"digest": _said(by_digest)}
    tag_deletion = None
    if deletion:
        by_tag = _answer(registry, write.delete_tag(registry.session, repository, tag))
        tag_deletion = _by_tag(by_tag)
        said["tag"] = _said(by_tag)
    referrers = _lists_referrers(registry, repository, known) if deletion is not False else None
    return Capabilities(deletion, tag_deletion, referrers, str(digest), tag, said, _headers(by_digest))


def _lists_referrers(registry: Registry, repository: str, known: Digest | None) -> bool | None:
    if known is None:
        return None
    try:
        return registry.run(v2.listed_referrers(registry.session, repository, known)) is not None
    except RegistryError:
        return None


def _answer(registry: Registry, conversation: Any) -> Response | RegistryError:
    try:
        response: Response = registry.run(conversation)
    except RegistryError as error:
        return error
    return response


def _by_digest(answer: Response | RegistryError) -> bool | None:
    if isinstance(answer, RegistryError):
        return None
    code = error_of(answer, "").code if answer.status >= 400 else None
    if answer.status == 405 or code == "UNSUPPORTED":
        return False
    # A 404 without a code is a proxy's or a web server's, and one that names the repository tells nothing.
    found = answer.status == 404 and code not in {None, "NAME_UNKNOWN"}
    return True if found or answer.status in _ACCEPTED else None


def _by_tag(answer: Response | RegistryError) -> bool | None:
    if isinstance(answer, Response) and answer.status == 400:
        return False  # docker-registry 2.8 takes the tag for a digest, and finds it invalid
    return _by_digest(answer)


def _said(answer: Response | RegistryError) -> str:
    if isinstance(answer, RegistryError):
        return redact(answer, 200)
    code = error_of(answer, "").code if answer.status >= 400 else None
    return f"{answer.status} {code}" if code else str(answer.status)


def _headers(answer: Response | RegistryError) -> dict[str, str]:
    if isinstance(answer, RegistryError):
        return {}
    return {name: redact(answer.headers[name], 200) for name in _TELLING if answer.headers.get(name) is not None}


__all__ = ["Capabilities", "probe"]
