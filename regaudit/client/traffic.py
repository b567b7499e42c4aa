"""What the log says of the traffic with a registry: a record per request, per response and per fault.

A record carries its facts as fields (`regaudit.log.FIELDS`). A secret has no way in: headers that hold
one are named without their value, URLs lose what may be a signature, and the bodies of a login are left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from regaudit.errors import RegistryError
from regaudit.log import BODIES
from regaudit.text import clean, log_url, redact

if TYPE_CHECKING:
    from regaudit.client.exchange import Request, Response

logger = logging.getLogger("regaudit.client")

_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-docker-token"})
# These point at places, with signatures in their queries.
_URL_HEADERS = frozenset({"location", "link", "content-location"})
_TARGET = re.compile(r"<([^<>]*)")
_LONGEST_BODY = 4096


def log_request(request: Request, attempt: int) -> None:
    """Log that a request goes out, for the `attempt`-th time."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    size = _size(request.body)
    url = log_url(request.url)
    fields: dict[str, Any] = {"event": "request", **_facts(request, url, attempt), "bytes": size}
    if logger.isEnabledFor(BODIES):
        fields |= {"headers": _headers(request.headers.items()), "body": _request_body(request)}
    again = f", attempt {attempt}" if attempt > 1 else ""
    with_body = f", {size:,} bytes" if size else ""
    logger.debug("%s %s%s%s", request.method, url, with_body, again, extra=fields)


def log_response(request: Request, response: Response, attempt: int) -> None:
    """Log how a request was answered."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    url = log_url(request.url)
    fields: dict[str, Any] = {
        "event": "response",
        **_facts(request, url, attempt),
        "status": response.status,
        "seconds": round(response.seconds, 4),
        "bytes": response.received,
    }
    if logger.isEnabledFor(BODIES):
        fields |= {"headers": _headers(response.headers.pairs), "body": _response_body(request, response)}
    logger.debug(
        "%s %s -> %d, %s bytes in %.3f s",
        request.method,
        url,
        response.status,
        f"{response.received:,}",
        response.seconds,
        extra=fields,
    )


def log_fault(request: Request, error: RegistryError, attempt: int) -> None:
    """Log that there was no answer, or none that can be believed."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    url = log_url(request.url)
    reason = redact(error)
    fields = {"event": "fault", **_facts(request, url, attempt), "error": reason}
    logger.debug("%s %s failed: %s", request.method, url, reason, extra=fields)


def _facts(request: Request, url: str, attempt: int) -> dict[str, Any]:
    return {"method": request.method, "url": url, "purpose": request.purpose, "attempt": attempt}


def _headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {clean(name, 80): shown_header(name.lower(), value) for name, value in pairs}


def shown_header(name: str, value: str) -> str:
    """Return the value of a header, by its name in lower case, without what may be a login."""
    if name in _SECRET_HEADERS:
        return "***"
    if name not in _URL_HEADERS:
        return redact(value, 512)
    if name == "link":  # several addresses, each in angle brackets
        return redact(_TARGET.sub(lambda target: f"<{log_url(target[1])}", value), 1024)
    return redact(log_url(value), 1024)


def _size(body: object) -> int:
    if body is None:
        return 0
    return len(body) if isinstance(body, bytes) else int(getattr(body, "size", 0))


def _request_body(request: Request) -> str:
    if request.purpose == "token":
        return "(a login)" if request.body else ""
    return _text(request.body) if isinstance(request.body, bytes) else _streamed(_size(request.body))


def _response_body(request: Request, response: Response) -> str:
    if request.purpose == "token":
        return "(a login)"
    return _text(response.body) if response.body else _streamed(response.received)


def _streamed(size: int) -> str:
    return f"({size:,} bytes, streamed)" if size else ""


def _text(body: bytes) -> str:
    try:
        text = body[:_LONGEST_BODY].decode("utf-8", "strict" if len(body) <= _LONGEST_BODY else "ignore")
    except UnicodeDecodeError:
        return f"({len(body):,} bytes that are no text)"
    return redact(" ".join(text.split()))  # the line breaks of a document would be shown as characters that are unsafe
