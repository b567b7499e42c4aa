"""Faults on demand: what a registry does on its bad days, at the moment that a test or a demo chooses.

`Faults` decides which request is hit. `FaultyLine` stands between the network and the registry, whatever its
interface, and makes the fault happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from regaudit.errors import UsageError
from regaudit.sandbox.app import Message, Receive, Scope, Send, error_reply, send_reply
from regaudit.sandbox.store import ApiError

# What the log of requests says where the connection was closed without an answer.
NO_ANSWER = 0
_CODES = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "NAME_UNKNOWN",
    405: "UNSUPPORTED",
    429: "TOOMANYREQUESTS",
    503: "UNAVAILABLE",
}


@dataclass(slots=True, eq=False, kw_only=True)
class Fault:
    """Something that goes wrong with the requests that fit, and how often it has.

    Parameters
    ----------
    method : str
        ``GET``, ``HEAD`` and so on; ``*`` for any.
    path : str
        The path without its query; ``*`` stands for anything, slashes included: ``/v2/*/tags/list``.
    times : int, optional
        How many requests are hit, all if not given.
    skip : int
        How many requests that fit are let through before.
    delay : float
        Seconds before the request is carried out.
    status : int, optional
        Answered instead of carrying the request out, with an error of the distribution specification.
    code : str, optional
        The code of that error, if it is not to be the usual one for the status.
    retry_after : int or str, optional
        The header of that name: seconds, or a date.
    headers : mapping
        Headers of the answer, beside those that it has anyway; with `status` or without.
    drop : str, optional
        ``before``: the connection is closed and the request not carried out. ``after``: it is carried out,
        and the connection closed without an answer.
    cut_request : int, optional
        The connection is closed once so many bytes of the request's body have arrived, as where the
        client's line breaks. What the sandbox keeps of them is its option ``keep_partial``.
    cut_reply : int, optional
        The connection is closed after so many bytes of the answer's body.

    Attributes
    ----------
    hits : int
        How many requests were hit so far.

    Examples
    --------
    Two requests are too many, and the third is fine; a blob breaks off in its middle; a deletion is carried
    out, and nobody hears of it; an upload breaks after its first megabyte; a token server that takes its time:

    >>> busy = Fault(status=429, retry_after=1, times=2)
    >>> torn = Fault(method="GET", path="/v2/*/blobs/*", cut_reply=1000, times=1)
    >>> lost = Fault(method="DELETE", drop="after", times=1)
    >>> broken = Fault(method="PATCH", cut_request=1_000_000, times=1)
    >>> slow = Fault(path="/token", delay=2)
    """

    method: str = "*"
    path: str = "*"
    times: int | None = None
    skip: int = 0
    delay: float = 0.0
    status: int | None = None
    code: str = ""
    retry_after: int | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: str | None = None
    cut_request: int | None = None
    cut_reply: int | None = None
    hits: int = field(default=0, init=False)
    _passed: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.drop not in {None, "before", "after"}:
            raise UsageError(f"drop={self.drop!r} is no moment: write 'before' or 'after'")
        effects = (self.status, self.drop, self.cut_request, self.cut_reply)
        if effects == (None,) * 4 and not self.delay and not self.headers:
            raise UsageError("a fault needs an effect: delay, status, headers, drop, cut_request or cut_reply")

    @property
    def error(self) -> tuple[int, str] | None:
        """The status and the code to answer with, or None where the request is carried out."""
        return None if self.status is None else (self.status, self.code or _CODES.get(self.status, "UNKNOWN"))

    @property
    def extra_headers(self) -> dict[str, str]:
        """What the answer carries beside its own headers."""
        retry = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return {**retry, **self.headers}

    def hit(self, method: str, path: str) -> bool:
        """Return whether a request is hit, and count it."""
        if self.method not in {"*", method} or not fnmatchcase(path, self.path):
            return False
        if self._passed < self.skip:
            self._passed += 1
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.hits += 1
        return True


class Faults:
    """The faults of one sandbox, in the order in which they were added; the first that fits a request hits it.

    Every method may be called from any thread, while the sandbox serves.

    Attributes
    ----------
    latency : float
        Seconds that every request waits, whatever else happens to it.

    Examples
    --------
    >>> faults = Faults()
    >>> busy = faults.add(method="GET", path="/v2/*/tags/list", status=503, retry_after=1, times=2)
    >>> faults.take("GET", "/v2/team/app/tags/list") is busy
    True
    >>> busy.hits
    1
    """

    def __init__(self) -> None:
        self.latency = 0.0
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, **effects: Any) -> Fault:
        """Add a `Fault`, whose parameters these are, and return it: its ``hits`` tell what became of it."""
        fault = Fault(**effects)
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Take a fault away, if it is still there."""
        with self._lock:
            self._faults = [other for other in self._faults if other is not fault]

    def clear(self) -> None:
        """Take all faults away, and the latency."""
        with self._lock:
            self._faults.clear()
            self.latency = 0.0

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault that hits a request, counting it, or None."""
        with self._lock:
            return next((fault for fault in self._faults if fault.hit(method, path)), None)


class FaultyLine:
    """The ASGI application that the server serves: another one, behind a line on which things go wrong.

    Parameters
    ----------
    behind : callable
        The ASGI application that answers.
    faults : Faults
        What goes wrong.
    hang_up : callable
        Closes the connection of a client (ASGI's ``scope["client"]``): ASGI has no word for that.
    requests : deque
        Where ``(method, path, status)`` of the requests is added that never reach the application.

    Attributes
    ----------
    closing : asyncio.Event
        To be set when the server ends: whoever waits out a delay goes on at once.
    """

    def __init__(
        self,
        behind: Callable[[Scope, Receive, Send], Awaitable[None]],
        faults: Faults,
        *,
        hang_up: Callable[[Any], None],
        requests: deque[tuple[str, str, int]],
    ) -> None:
        self.closing = asyncio.Event()
        self._behind = behind
        self._faults = faults
        self._hang_up = hang_up
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or not."""
        fault = self._faults.take(scope["method"], scope["path"]) if scope["type"] == "http" else None
        await self._pause(self._faults.latency + (fault.delay if fault else 0))
        if fault is None:
            await self._behind(scope, receive, send)
            return
        hit = _Hit(fault, scope, receive, send)
        status = await self._suffer(hit)
        if status is not None:
            self._requests.append((scope["method"], scope["path"], status))
        if hit.broken:
            self._hang_up(scope.get("client"))
            while (await receive())["type"] != "http.disconnect":
                pass

    async def _suffer(self, hit: _Hit) -> int | None:
        """Make a fault happen; return the status to note, or None where the application has noted one."""
        if hit.fault.drop == "before":
            hit.broken = True
            return NO_ANSWER
        error = hit.fault.error
        if error is None:
            await self._behind(hit.scope, hit.receive, hit.send)
            hit.broken = hit.broken or hit.fault.drop == "after"
            return NO_ANSWER if hit.interrupted else None
        # The body is read first, so that the connection can go on.
        while (message := await hit.receive())["type"] == "http.request" and message.get("more_body"):
            pass
        if hit.interrupted:
            return NO_ANSWER
        await send_reply(error_reply(ApiError(*error, "the sandbox was told to answer so")), hit.send)
        return error[0]

    async def _pause(self, seconds: float) -> None:
        if seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.closing.wait(), seconds)


class _Hit:
    """One request that is hit: what the application receives and sends goes through here."""

    def __init__(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        self.fault = fault
        self.scope = scope
        # The connection is to be closed; and it is so because the request was cut.
        self.broken = False
        self.interrupted = False
        self._receive = receive
        self._send = send
        self._received = 0
        self._sent = 0

    async def receive(self) -> Message:
        """Return what arrives next, up to the cut; after it the client seems to have gone."""
        if self.interrupted:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if self.fault.cut_request is None or message["type"] != "http.request":
            return message
        body = message.get("body", b"")
        left = self.fault.cut_request - self._received
        self._received += len(body)
        if len(body) > left or (len(body) == left and message.get("more_body")):
            self.broken = self.interrupted = True
            return {"type": "http.request", "body": body[:left], "more_body": True}
        return message

    async def send(self, message: Message) -> None:
        """Pass on what is sent, up to the cut, with the fault's headers."""
        if self.broken or self.fault.drop == "after":
            return
        if message["type"] == "http.response.start":
            extra = {name.lower().encode("latin-1"): value for name, value in self.fault.extra_headers.items()}
            kept = [(name, value) for name, value in message["headers"] if name not in extra]
            added = [(name, value.encode("latin-1")) for name, value in extra.items()]
            await self._send({**message, "headers": kept + added})
            return
        body = message.get("body", b"")
        left = len(body) if self.fault.cut_reply is None else self.fault.cut_reply - self._sent
        if len(body) > left and self.scope["method"] != "HEAD":
            self.broken = True
            message = {**message, "body": body[:left], "more_body": True}
        self._sent += len(body)
        await self._send(message)
