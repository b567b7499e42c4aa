"""Faults on demand: what a registry does on its bad days, at the moment that a test or a demo chooses.

Which request is hit, and what happens to it, is decided here; `regaudit.sandbox.app` carries it out.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from regaudit.errors import UsageError

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
