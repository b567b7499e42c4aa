"""Why an exchange failed, in a sentence that says what to do: the same for every driver."""

from __future__ import annotations

from regaudit.client.exchange import Request, is_private
from regaudit.errors import (
    AccessDenied,
    AddressRefused,
    BadResponse,
    NotARegistry,
    TimedOut,
    TruncatedResponse,
    Unreachable,
)
from regaudit.text import clean, safe_url


class LocalFault(Exception):
    """A fault of this machine in the middle of an exchange: a full disk, a file that cannot be read."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def late(request: Request, seconds: float) -> TimedOut:
    """Return the error for an exchange that was broken off at its deadline, or stood still for too long."""
    url = safe_url(request.url)
    return TimedOut(f"{url} did not answer within {seconds:g} s: is it overloaded, or the network slow?", url=url)


def silent(request: Request) -> TimedOut:
    """Return the error for a wait that one of the limits of the transport has ended."""
    url = safe_url(request.url)
    return TimedOut(f"{url} did not answer in time", url=url)


def truncated(request: Request, reason: str) -> TruncatedResponse:
    """Return the error for a connection that ended inside an answer."""
    url = safe_url(request.url)
    return TruncatedResponse(f"{url}: the connection ended before the answer did ({reason})", url=url)


def endless(request: Request) -> TruncatedResponse:
    """Return the error for a body that only the end of the connection ends: it cannot be told from a cut one."""
    url = safe_url(request.url)
    return TruncatedResponse(
        f"{url}: the answer does not say where it ends, so that a cut one would look whole", url=url
    )


def compressed_too_short(request: Request) -> TruncatedResponse:
    """Return the error for a compressed body that lacks its end."""
    url = safe_url(request.url)
    return TruncatedResponse(f"{url}: the compressed answer ends too early", url=url)


def unreadable(request: Request, reason: str) -> BadResponse:
    """Return the error for an answer that is not HTTP, or an address that is none."""
    url = safe_url(request.url)
    return BadResponse(f"{url}: the answer cannot be read ({reason})", url=url)


def encoded(request: Request, encoding: str) -> BadResponse:
    """Return the error for a body in an encoding that was not asked for."""
    url = safe_url(request.url)
    return BadResponse(f"{url}: the answer is encoded as {clean(encoding, 60)!r}, which was not asked for", url=url)


def unreachable(request: Request, reason: str) -> Unreachable:
    """Return the error for a connection that could not be made."""
    url = safe_url(request.url)
    return Unreachable(
        f"{url} cannot be reached ({reason}): check the address, and that the registry is running", url=url
    )


def proxy_unreachable(request: Request, reason: str) -> Unreachable:
    """Return the error for a proxy that does not let us through."""
    url = safe_url(request.url)
    return Unreachable(f"{url} cannot be reached through the proxy ({reason}): check proxy=", url=url)


def proxy_asks(request: Request) -> AccessDenied:
    """Return the error for a proxy that wants to know who we are."""
    url = safe_url(request.url)
    return AccessDenied(
        f"{url}: the proxy asks for a login of its own: give proxy=http://USER:PASSWORD@HOST:PORT", url=url, status=407
    )


def speaks_tls(request: Request) -> NotARegistry:
    """Return the error for plain http to a port that answers with a TLS alert."""
    url = safe_url(request.url)
    return NotARegistry(f"{url}: it speaks https: write https:// in front of the host", url=url)


def tls_failed(request: Request, reason: str, details: str = "") -> Unreachable:
    """Return the error for TLS that failed, for a `reason` in the words of the library.

    Parameters
    ----------
    details : str
        More of its words, which are not shown.
    """
    url = safe_url(request.url)
    said = f"{reason} {details}".lower().replace("_", " ")
    advice = next((advice for mark, advice in _TLS_ADVICE if mark in said), _OWN_AUTHORITY)
    return Unreachable(f"{url}: TLS failed ({reason}): {advice}", url=url)


def refuse_private(host: str, peer: str | None) -> None:
    """Raise where a host that another host named is of this machine or a private network."""
    if is_private(peer):
        raise AddressRefused(f"{host} is the private address {peer}: refused, because another host named it")


_OWN_AUTHORITY = "give ca= for a certificate authority of your own"
_OTHER_NAME = "write the name that the certificate is for"
_OTHER_CERTIFICATE = "give client_certificate= one that it accepts"
_PAIR = "give client_certificate= a certificate and the key that belongs to it"
# What to do, by a mark in the words of OpenSSL, Python or libcurl; small letters, spaces for underscores.
_TLS_ADVICE = (
    (
        "wrong version number",
        "if it speaks plain http, ask for that (plain_http=True, --plain-http on the command line)",
    ),
    ("not valid for", _OTHER_NAME),
    ("hostname mismatch", _OTHER_NAME),
    ("has expired", "whoever runs it has to renew it"),
    ("not yet valid", "check the clock of this machine"),
    ("key values mismatch", _PAIR),
    ("private key", _PAIR),
    ("client certificate", _PAIR),
    ("alert certificate required", "give client_certificate="),
    ("alert bad certificate", _OTHER_CERTIFICATE),
    ("alert unknown ca", _OTHER_CERTIFICATE),
    ("alert handshake failure", "it may want a client_certificate="),
    # as TLS 1.3 ends where the alert comes too late
    ("eof occurred", "it may want a client_certificate="),
)
