"""Every error that regaudit raises, split by what its reader does next.

::

    RegauditError
    ├── UsageError              what was typed is wrong: type it as the message says
    │   ├── InvalidReference        a registry, repository, tag or digest outside the grammar
    │   ├── MissingExtra            an optional package is not installed
    │   └── BlobInUse               a blob that a manifest uses: leave it, or force it
    ├── RegistryError           the conversation with a registry failed
    │   ├── Unreachable             no answer: check the address and the network
    │   │   ├── TimedOut                not within its deadline
    │   │   ├── TruncatedResponse       the connection ended before the answer did
    │   │   └── AddressRefused          the address is private and was not to be trusted
    │   ├── Refused                 an answer, and it is no
    │   │   ├── AuthenticationFailed    the credentials are wrong: log in again
    │   │   ├── AccessDenied            the credentials do not suffice: ask for rights
    │   │   ├── NotFound                definitely not there
    │   │   ├── Unsupported             the registry does not offer this
    │   │   ├── RateLimited             too many requests: wait
    │   │   ├── RedirectRefused         a redirect that is not safe to follow
    │   │   └── UnexpectedStatus        any other status
    │   └── BadResponse             an answer that cannot be believed
    │       ├── NotARegistry            the host speaks, but not the registry interface
    │       ├── TooLarge                more bytes than the cap for this kind of document
    │       ├── BadManifest             not a manifest, or one that contradicts itself
    │       ├── DigestMismatch          the bytes do not hash to their digest
    │       ├── BadSignature            a signature that does not fit what it signs
    │       └── PaginationLoop          a listing that repeats itself or never ends
    └── RecordError             a file of regaudit's own cannot be used
        ├── SnapshotError           a snapshot folder
        ├── PlanError               a plan: edited, unapproved, or for another registry
        └── JournalError            a journal: damaged, or of another version
            └── JournalBusy             another run has it: wait for it

Each class names its ``kind``, the word that stands in the ``error`` column of a problems table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class RegauditError(Exception):
    """The root of every error that regaudit raises on purpose."""

    kind: ClassVar[str] = "error"


class UsageError(RegauditError, ValueError):
    """What was typed cannot be carried out; the message says what to type instead."""

    kind = "usage"


class InvalidReference(UsageError):
    """A registry, repository, tag, digest or pattern that the grammar does not allow."""

    kind = "invalid_name"


class MissingExtra(UsageError):
    """An optional package is missing; the message names the extra that brings it."""

    kind = "missing_extra"


class BlobInUse(UsageError):
    """A blob that was to be deleted is used.

    Parameters
    ----------
    message : str
        One sentence, already safe to show.
    holders : sequence of str
        What uses it: ``:TAG`` or ``@DIGEST``.
    """

    kind = "blob_in_use"

    def __init__(self, message: str, *, holders: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.holders = tuple(holders)


class RegistryError(RegauditError):
    """A conversation with a registry failed.

    Parameters
    ----------
    message : str
        One sentence, already safe to show.
    url : str
        The URL asked for, without user information or query.
    status : int or None
        The HTTP status, where there was one.
    code : str or None
        The error code of the registry's own reply (``MANIFEST_UNKNOWN`` and its kin).
    """

    kind = "registry_error"

    def __init__(self, message: str, *, url: str = "", status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.code = code


class Unreachable(RegistryError):
    """The registry gave no answer."""

    kind = "unreachable"


class TimedOut(Unreachable):
    """The exchange did not end within its deadline."""

    kind = "timeout"


class TruncatedResponse(Unreachable):
    """The connection ended inside the headers or the body of an answer."""

    kind = "truncated"


class AddressRefused(Unreachable):
    """A name led to a private address that a public registry has no business sending us to."""

    kind = "address_refused"


class Refused(RegistryError):
    """The registry answered, and the answer is no."""

    kind = "refused"


class AuthenticationFailed(Refused):
    """The user name, password or token was not accepted."""

    kind = "authentication_failed"


class AccessDenied(Refused):
    """The credentials, or their absence, do not give this right."""

    kind = "denied"


class NotFound(Refused):
    """A definite 404 from a registry: the thing is not there."""

    kind = "not_found"


class Unsupported(Refused):
    """The registry does not offer this operation (405, or the code UNSUPPORTED)."""

    kind = "unsupported"


class RateLimited(Refused):
    """The registry asks for fewer requests, for longer than we are ready to wait."""

    kind = "rate_limited"


class RedirectRefused(Refused):
    """A redirect that must not be followed: not a read, too many, or to an unsafe place."""

    kind = "redirect_refused"


class UnexpectedStatus(Refused):
    """A status that the distribution specification does not foresee here."""

    kind = "unexpected_status"


class BadResponse(RegistryError):
    """An answer that cannot be believed."""

    kind = "bad_response"


class NotARegistry(BadResponse):
    """The host answers, but not as a registry does."""

    kind = "not_a_registry"


class TooLarge(BadResponse):
    """More bytes than the cap for this kind of document."""

    kind = "too_large"


class BadManifest(BadResponse):
    """Bytes that are not a manifest, or a manifest that contradicts itself."""

    kind = "bad_manifest"


class DigestMismatch(BadResponse):
    """Bytes that do not hash to the digest they were asked or announced by."""

    kind = "digest_mismatch"


class BadSignature(BadResponse):
    """A signature that does not fit what it signs, or proves nothing."""

    kind = "bad_signature"


class PaginationLoop(BadResponse):
    """A listing that repeats itself, leaves its host, or never ends."""

    kind = "pagination_loop"


class RecordError(RegauditError):
    """A file of regaudit's own cannot be used as it is."""

    kind = "record"


class SnapshotError(RecordError):
    """A snapshot folder is missing, damaged, or of another version."""

    kind = "snapshot"


class PlanError(RecordError):
    """A plan is damaged, edited, not approved, or made for another registry."""

    kind = "plan"


class JournalError(RecordError):
    """A journal is damaged, or of another version."""

    kind = "journal"


class JournalBusy(JournalError):
    """Another run has the journal: wait for it."""

    kind = "busy"
