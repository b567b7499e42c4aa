"""The core of every conversation with a registry, without any I/O.

A conversation is a generator. It yields a `Request` and is sent a `Response`; it yields
`Wait` to back off, and `Once` for what many conversations need a single time. A driver runs it: it
does one HTTP exchange at a time and nothing else, and throws a `RegistryError` into the generator
where an exchange failed. Retry, redirects and limits are therefore written once, here, and tested
without a socket.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import random
from collections import Counter
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any, Protocol, TypeAlias, TypeVar
from urllib.parse import urljoin, urlsplit

from regaudit.client.credentials import Credentials
from regaudit.client.rates import RateLimit, rate_limit
from regaudit.client.traffic import log_fault, log_request, log_response
from regaudit.errors import (
    AccessDenied,
    AddressRefused,
    AuthenticationFailed,
    NotFound,
    RateLimited,
    RedirectRefused,
    Refused,
    RegistryError,
    TooLarge,
    UnexpectedStatus,
    Unreachable,
    Unsupported,
)
from regaudit.reference import RegistryName
from regaudit.text import redact, safe_url

# Caps on decoded bytes. A manifest of 4 MiB is the most that registries must accept (distribution
# spec 1.1); a page of 32 MiB holds far more names than a registry sends at once.
MANIFEST_CAP = 8 << 20
PAGE_CAP = 32 << 20
TOKEN_CAP = 64 << 10
ERROR_CAP = 64 << 10
_ERROR_TEXT = 2048

# Seconds. A total for everything but blobs, which may take as long as they keep moving.
READ_DEADLINE = 60.0
# A DELETE costs docker-registry time linear in the tags of the repository (19 a second at 1,000).
DELETE_DEADLINE = 120.0
STALL = 30.0

SAFE_METHODS = frozenset({"GET", "HEAD"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_HOPS = 5
_LONGEST_WAIT = 60.0
_TRANSIENT = frozenset({500, 502, 504})
# They say that a request was not carried out, and to ask less.
BUSY = frozenset({429, 503})
# What to do about an error code of the distribution specification, where that is not in its message.
_ADVICE = {
    "MANIFEST_BLOB_UNKNOWN": "upload its config and layers first",
    "DIGEST_INVALID": "the bytes are not those of the digest",
    "MANIFEST_INVALID": "check the document and its media type",
}
# A try that brought this much of a blob was no failure: what broke off is gone on with, and the count begins anew.
_WORTH_A_TRY = 1 << 20

T = TypeVar("T")
Conversation: TypeAlias = Generator[Any, Any, T]


class Source(Protocol):
    """A body that can be sent again from its beginning."""

    size: int

    def open(self) -> IO[bytes]:
        """Return a new reader from the beginning."""


class Sink(Protocol):
    """A place for a body that is too large to hold, filled by one exchange or, after a fault, by several.

    Attributes
    ----------
    position : int
        How many bytes of the whole it has: where the next exchange goes on.
    """

    position: int

    def begin(self, status: int, headers: Headers) -> None:
        """Learn what the body that follows is a part of; raises `RegistryError` where it does not fit."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes of that body."""


class Headers(Mapping[str, str]):
    """Header fields: case does not matter, and a field may come several times."""

    __slots__ = ("_first", "pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self.pairs = tuple([(name.lower(), value) for name, value in pairs])
        self._first = dict(reversed(self.pairs))

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower()]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the first value of a field, or `default`."""
        return self._first.get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def all(self, name: str) -> list[str]:
        """Return every value of a field, in order."""
        wanted = name.lower()
        return [value for own, value in self.pairs if own == wanted]

    def __iter__(self) -> Any:
        return iter(dict.fromkeys(name for name, _ in self.pairs))

    def __len__(self) -> int:
        return len(self._first)


class HeaderText(Headers):
    """Header fields as they came, one a line: few of them are ever asked for, and most never parsed."""

    __slots__ = ("_lower", "_parsed", "_text")

    def __init__(self, text: str) -> None:
        self._text = f"\n{text}"
        self._lower = self._text.lower()
        self._parsed: Headers | None = None

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]  # parsed when it is asked for
        """Every field with its name in lower case, in order."""
        if self._parsed is None:
            lines = (line for line in self._text.split("\n") if line.find(":") > 0)
            fields = (line.partition(":") for line in lines)
            self._parsed = Headers((name, value.strip()) for name, _, value in fields)
        return self._parsed.pairs

    def get(self, name: str, default: Any = None) -> Any:
        """Return the first value of a field, or `default`."""
        mark = f"\n{name.lower()}:"
        start = self._lower.find(mark)
        if start < 0:
            return default
        start += len(mark)
        return self._text[start : self._text.find("\n", start)].strip()

    def __getitem__(self, name: str) -> str:
        value: str | None = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and f"\n{name.lower()}:" in self._lower

    def __len__(self) -> int:
        return len(dict(self.pairs))


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes
    ----------
    purpose : str
        What it is for, in one word; requests are counted by it.
    body : bytes or Source or None
        A `Source` is opened again for each attempt.
    into : Sink or None
        Where the body of a 200 or 206 goes; without it, `cap` bounds the body in memory.
    deadline : float or None
        Seconds for the whole exchange; None where only a stall ends it.
    public_only : bool
        Whether to refuse a loopback, private or link-local address: set when another host named it.
    hops : int
        How many redirects may be followed.
    """

    method: str
    url: str
    purpose: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Source | None = field(default=None, repr=False)
    into: Sink | None = field(default=None, repr=False)
    cap: int = PAGE_CAP
    deadline: float | None = READ_DEADLINE
    public_only: bool = False
    hops: int = MOST_HOPS

    def with_header(self, name: str, value: str | None) -> Request:
        """Return the request with a header set, or without it where `value` is None."""
        if value is None and name not in self.headers and name.lower() not in map(str.lower, self.headers):
            return self
        kept = {own: text for own, text in self.headers.items() if own.lower() != name.lower()}
        return replace(self, headers=kept if value is None else {**kept, name: value})


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response, whole.

    Attributes
    ----------
    at : float
        When it arrived, on a monotonic clock in seconds: what token expiry is counted from.
    peer : str or None
        The address that answered.
    received : int
        Bytes of the body, wherever they went.
    history : tuple of Response
        The redirects that led here, oldest first.
    """

    status: int
    url: str
    headers: Headers
    body: bytes = field(default=b"", repr=False)
    at: float = 0.0
    seconds: float = 0.0
    peer: str | None = None
    received: int = 0
    history: tuple[Response, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask the driver to wait; `everyone` makes all conversations with this registry wait."""

    seconds: float
    everyone: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Ask the driver to let no request to this registry start for some seconds; whoever asks goes on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Once:
    """Ask the driver for a conversation that is under way at most once for a key.

    Whoever asks meanwhile gets the same result or error. What should be remembered for longer,
    the conversation keeps in its `Session`.
    """

    key: Hashable
    conversation: Conversation[Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently an exchange is tried again.

    Attributes
    ----------
    tries : int
        Attempts of a GET or HEAD where there was no answer or a 500, 502 or 504. Other methods
        are never repeated without having looked first.
    busy_tries : int
        Attempts of any request that is answered 429 or 503: it was not carried out.
    """

    tries: int = 3
    busy_tries: int = 6

    def pause(self, attempt: int) -> float:
        """Return the seconds before the next attempt after a fault: 0.1, 0.3, 0.9 …, with jitter."""
        return min(_LONGEST_WAIT, 0.1 * 3.0**attempt) * random.uniform(0.75, 1.25)  # noqa: S311 -- spreads load, hides nothing

    def busy_pause(self, attempt: int) -> float:
        """Return the seconds to wait where the registry is busy and does not say for how long."""
        return min(_LONGEST_WAIT, 0.5 * 2.0**attempt) * random.uniform(0.75, 1.25)  # noqa: S311 -- as above


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a driver is doing.

    Attributes
    ----------
    requests : int
        Exchanges that have ended.
    received : int
        Bytes of bodies that have arrived.
    in_flight : int
        Exchanges under way.
    limit : int
        How many may be.
    waiting_seconds : float
        For how much longer nothing starts, because the registry asked for that.
    """

    requests: int
    received: int
    in_flight: int
    limit: int
    waiting_seconds: float


@dataclass(frozen=True, slots=True)
class TokenServer:
    """Where a registry sends us for tokens, in its own words.

    Attributes
    ----------
    peer : str or None
        The address that the registry answered from when it said so.
    """

    realm: str
    service: str
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token.

    Attributes
    ----------
    renew_at : float
        When it should be renewed, on the clock of `Response.at`.
    scope : str
        What it was asked for.
    granted : tuple of str or None
        What it gives a right to, where that can be known.
    worked : bool
        Whether the registry has answered a request with it other than by a no.
    """

    value: str = field(repr=False)
    renew_at: float
    scope: str = ""
    granted: tuple[str, ...] | None = None
    worked: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """When a no was said, on the clock of `Response.at`, and the error where it was a token server's."""

    at: float
    error: RegistryError | None = None


@dataclass
class Session:
    """What all conversations with one registry share. Holds no socket.

    Attributes
    ----------
    base : str
        ``https://host[:port]``.
    basic : bool
        Whether the registry asked for Basic and gets it with each request.
    proven : bool
        Whether the registry or its token server has accepted the credentials.
    rejected : Refusal or None
        When they were last found wrong.
    token_server : TokenServer or None
        Once a challenge named it.
    tokens : dict
        By need: the narrowest scope that is known to serve it.
    refused : dict
        By need, when there was last nothing more to show for it.
    capabilities : dict
        What probing found: ``referrers``; whether the token server knows ``oauth2``.
    counts : collections.Counter
        Requests by purpose.
    parts : dict
        By the beginning of a repository's name, the session for where a login of its own is stored.
    rate_limit : RateLimit or None
        As the registry last announced it.
    """

    registry: RegistryName
    base: str
    credentials: Credentials | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    deadline: float = READ_DEADLINE
    trusted_realms: Sequence[str] = ()
    basic: bool = False
    proven: bool = False
    rejected: Refusal | None = None
    token_server: TokenServer | None = None
    tokens: dict[str, Token] = field(default_factory=dict, repr=False)
    refused: dict[str, Refusal] = field(default_factory=dict)
    capabilities: dict[str, bool] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    parts: dict[str, Session] = field(default_factory=dict)
    now: float = 0.0
    rate_limit: RateLimit | None = None

    @property
    def host(self) -> str:
        """The registry as people write it."""
        return self.registry.host

    def divide(self, logins: Mapping[str, Credentials]) -> None:
        """Use other credentials in some parts of the registry."""
        own: dict[str, Any] = {"capabilities": self.capabilities, "counts": self.counts}
        shared = {name: getattr(self, name) for name in ("registry", "base", "retry", "deadline", "trusted_realms")}
        self.parts = {path: Session(**shared, **own, credentials=login) for path, login in logins.items()}

    def part(self, repository: str) -> Session:
        """Return the session whose credentials count for a repository: that of the longest part that it is in."""
        paths = [path for path in self.parts if f"{repository}/".startswith(f"{path}/")]
        return self.parts[max(paths, key=len)] if paths else self

    def url(self, path: str) -> str:
        """Return the URL of a path below the registry."""
        return self.base + path

    def ours(self, url: str) -> bool:
        """Return whether a URL is of the registry itself."""
        return origin(url) == origin(self.base)


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of a URL, with the scheme's port made explicit."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def resolve(base: str, location: str) -> str | None:
    """Return the http URL that a registry's own words point at, or None where we have no business there.

    That is: what cannot be parsed, another scheme than http and https, no host, user information.
    """
    try:
        target = urljoin(base, location)
        scheme, host, _ = origin(target)
        named = urlsplit(target).username is not None
    except ValueError:  # brackets without an address, a port out of range
        return None
    return target if scheme in {"http", "https"} and host and not named else None


def is_private(address: str | None) -> bool:
    """Return whether an address is of this machine or a private network. An unknown one is not."""
    if address is None:
        return False
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return not (mapped or parsed).is_global


def send(session: Session, request: Request) -> Conversation[Response]:
    """Exchange one request for a response, trying again where that is safe.

    Raises
    ------
    Unreachable
        No answer after the last attempt.
    RateLimited
        The registry asks for a longer wait than a minute, or is still busy after the last attempt.
    """
    faults = busy = attempt = 0
    repeatable = request.method in SAFE_METHODS
    while True:
        session.counts[request.purpose] += 1
        attempt += 1
        held = _held(request)
        if held:
            request = _resumed(request, held)
        log_request(request, attempt)
        try:
            response: Response = yield request
        except RegistryError as error:
            log_fault(request, error, attempt)
            faults = 1 if _held(request) - held >= _WORTH_A_TRY else faults + 1
            final = not repeatable or faults >= session.retry.tries
            if final or not isinstance(error, Unreachable) or isinstance(error, AddressRefused):
                raise
            yield Wait(session.retry.pause(faults - 1))
            continue
        log_response(request, response, attempt)
        session.now = max(session.now, response.at)
        if _announces(response):
            yield from _heed(session, response)
        if response.status < 400:
            return response
        if response.status in BUSY:
            busy += 1
            if busy >= session.retry.busy_tries:
                return response
            yield Wait(_busy_pause(session.retry, request, response, busy), everyone=True)
        elif response.status in _TRANSIENT and repeatable and faults + 1 < session.retry.tries:
            faults += 1
            yield Wait(session.retry.pause(faults - 1))
        else:
            return response


def follow(session: Session, request: Request) -> Conversation[Response]:
    """Send a request and follow its redirects, where they are safe.

    Only GET and HEAD are followed, five hops at most. Authorization stays with the origin that it
    was meant for. A redirect to plain http, to another scheme or with user information is
    refused, and so is one to a private address from a public one.

    Raises
    ------
    RedirectRefused
        With the status of the redirect.
    """
    response = yield from send(session, request)
    history: tuple[Response, ...] = ()
    while response.status in _REDIRECTS:
        if len(history) >= request.hops:
            raise _too_many_hops(request, response)
        request = _redirected(request, response)
        history = (*history, response)
        response = yield from send(session, request)
    return replace(response, history=history) if history else response


def error_of(response: Response, what: str, *, shown: str = "nothing") -> Refused:  # noqa: PLR0911 -- a table
    """Return the error for a response that is a no, in one sentence that begins with `what`.

    The registry's own code and message are read from the body, cleaned, and kept short.

    Parameters
    ----------
    shown : str
        What the registry had seen of us, which decides what a 401 means: ``nothing``, ``credentials``
        that it does not accept, or the ``rights`` that a token server gave to accepted credentials.
    """
    code, message = registry_error(response)
    said = f" ({message})" if message else ""
    options: dict[str, Any] = {"url": safe_url(response.url), "status": response.status, "code": code}
    status = response.status
    if status == 401 and shown == "credentials":
        return AuthenticationFailed(
            f"{what}: the credentials were not accepted{said}: check user name and password", **options
        )
    if status == 401 and shown == "nothing":
        return AccessDenied(
            f"{what}: the registry asks for a login{said}: give username= and password=, -u on the command line, or `docker login`",
            **options,
        )
    if status in {401, 403} or code == "DENIED":
        return AccessDenied(
            f"{what}: not allowed{said}: ask for the right, or log in as somebody who has it", **options
        )
    if status == 404:
        return NotFound(f"{what}: not found{said}", **options)
    if status == 405 or code == "UNSUPPORTED":
        return Unsupported(f"{what}: the registry does not offer this{said}", **options)
    if status == 429:
        return RateLimited(f"{what}: too many requests{said}: wait, or log in for a higher limit", **options)
    advice = f": {_ADVICE[code]}" if code in _ADVICE else ""
    return UnexpectedStatus(f"{what}: the registry answered {status}{said}{advice}", **options)


def _announces(response: Response) -> bool:
    return "ratelimit-remaining" in response.headers or "ratelimit" in response.headers


def _heed(session: Session, response: Response) -> Conversation[None]:
    """Keep what the registry says of its limit; where nothing is left, let all wait until there is more.

    A longer wait than a minute is not begun on the strength of an announcement: the registry may still
    answer, and its 429 says what it wants.
    """
    announced = rate_limit(response.headers)
    if announced is None or not session.ours(response.url):
        return
    session.rate_limit = announced
    reset = announced.reset_seconds
    if announced.remaining == 0 and reset is not None and 0 < reset <= _LONGEST_WAIT:
        yield Pause(reset)


def _held(request: Request) -> int:
    return 0 if request.into is None else request.into.position


def _resumed(request: Request, position: int) -> Request:
    """Ask only for the rest of a body whose beginning the sink has (RFC 9110, section 14.2)."""
    return request.with_header("Range", f"bytes={position}-")


def _busy_pause(policy: RetryPolicy, request: Request, response: Response, attempt: int) -> float:
    """Return the seconds that a busy registry asks to wait or, where it does not say, a guess that grows."""
    asked = _retry_after(response)
    if asked is None:
        return policy.busy_pause(attempt - 1)
    if asked > _LONGEST_WAIT:
        raise RateLimited(
            f"{safe_url(request.url)}: the registry asks to wait {asked:.0f} s: try again then",
            url=safe_url(request.url),
            status=response.status,
        )
    return asked


def _retry_after(response: Response) -> float | None:
    """Return the seconds that Retry-After asks for, given in seconds or as a date beside the reply's own Date."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        then = email.utils.parsedate_to_datetime(text)
        now = email.utils.parsedate_to_datetime(response.headers.get("date", ""))
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _too_many_hops(request: Request, response: Response) -> RedirectRefused:
    url = safe_url(request.url)
    if request.hops:
        return RedirectRefused(f"{url} redirects more than {request.hops} times", url=url, status=response.status)
    target = safe_url(response.headers.get("location", ""))
    return RedirectRefused(
        f"{url} redirects to {target}, and redirects were not to be followed", url=url, status=response.status
    )


def _redirected(request: Request, response: Response) -> Request:
    location = response.headers.get("location", "")
    where = f"{safe_url(request.url)} redirects to {safe_url(location)}"
    if request.method not in SAFE_METHODS:
        raise RedirectRefused(
            f"{where}: a {request.method} is never redirected", url=safe_url(request.url), status=response.status
        )
    target = resolve(response.url, location) if location else None
    if target is None or (origin(request.url)[0] == "https" and origin(target)[0] != "https"):
        raise RedirectRefused(f"{where}: that is not safe to follow", url=safe_url(request.url), status=response.status)
    if origin(target) == origin(request.url):
        return replace(request, url=target)
    elsewhere = request.with_header("Authorization", None).with_header("Cookie", None)
    return replace(elsewhere, url=target, public_only=request.public_only or not is_private(response.peer))


def registry_error(response: Response) -> tuple[str | None, str]:
    """Return the code and the message in an error body (distribution spec, "Error Codes")."""
    try:
        document = json.loads(response.body[:ERROR_CAP])
        # the v1 interface has one text instead of a list
        entry = {"message": document["error"]} if "error" in document else document["errors"][0]
        code, message = (str(entry.get(key) or "")[:_ERROR_TEXT] for key in ("code", "message"))
        return redact(code, 64) or None, redact(message, 300)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        text = response.body[:_ERROR_TEXT].decode("utf-8", "replace").strip()
        return None, "" if text.startswith("<") else redact(text, 200)


def too_large(request: Request) -> TooLarge:
    """Return the error for a body beyond a request's cap."""
    return TooLarge(
        f"{safe_url(request.url)}: the answer is larger than {request.cap:,} bytes", url=safe_url(request.url)
    )
