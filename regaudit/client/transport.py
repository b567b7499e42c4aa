"""How to reach a registry, and how to stop: what every driver is given."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from regaudit.client.exchange import SAFE_METHODS, STALL, Request

# How long somebody who waits may overlook that he should stop: not long for a person, nothing for a processor.
GLANCE = 0.2
# A blob that moves slower than one small piece in each stall interval (about 500 bytes a second) has stalled.
SLOW_PIECE = 16 << 10
# What a driver may have in flight where nobody says otherwise: at 50 ms of distance each way some eighty keep a
# registry busy that answers 700 requests a second. How many really fly is found by the `Throttle`.
IN_FLIGHT = 128


@dataclass(frozen=True, slots=True)
class Transport:
    """How to reach a registry.

    Attributes
    ----------
    verify : bool or Path
        Whether to verify TLS certificates, or a file of certificate authorities to verify against.
    client_certificate : tuple of Path or None
        Certificate and key files to show.
    proxies : dict
        Proxy URLs by scheme; empty for none. The environment is not read here.
    bypasses : callable or None
        Whether to reach a ``host[:port]`` without the proxy.
    connect_seconds : float
        The longest wait for a connection.
    stall_seconds : float
        The longest wait for the next bytes of an answer, and of a blob.
    in_flight : int
        The most requests at a time to this registry.
    """

    verify: bool | Path = True
    client_certificate: tuple[Path, Path] | None = None
    proxies: dict[str, str] = field(default_factory=dict, repr=False)
    bypasses: Callable[[str], bool] | None = None
    user_agent: str = "regaudit"
    connect_seconds: float = 10.0
    stall_seconds: float = STALL
    in_flight: int = IN_FLIGHT

    def proxies_for(self, url: str) -> dict[str, str]:
        """Return the proxies by scheme that a request to a URL may use."""
        direct = self.bypasses is not None and self.bypasses(urlsplit(url).netloc)
        return {} if direct else self.proxies

    def fields(self, request: Request) -> dict[str, str]:
        """Return the header fields to send."""
        # identity: a registry's documents are small, and a body that is not compressed cannot be a bomb
        return {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": self.user_agent, **request.headers}

    def silence(self, request: Request) -> float:
        """Return the longest wait for the next bytes, in seconds.

        A DELETE or PUT may be at work for as long as its deadline before it says anything.
        """
        if request.deadline is None:
            return self.stall_seconds
        return request.deadline if request.method not in SAFE_METHODS else min(request.deadline, self.stall_seconds)


class Interrupted(Exception):
    """The driver was told to stop while a conversation was under way."""


class Stop:
    """Whether to stop: asked for by whoever runs the conversation, or by the driver's own end."""

    def __init__(self, driver: threading.Event, own: threading.Event | None = None) -> None:
        self._events = [driver] if own is None else [driver, own]

    @property
    def asked(self) -> bool:
        """Whether somebody asked."""
        return any(event.is_set() for event in self._events)

    def check(self) -> None:
        """Raise `Interrupted` where somebody asked."""
        if self.asked:
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        """Wait, and raise `Interrupted` as soon as somebody asks."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.asked:
            self._events[-1].wait(min(left, GLANCE))
        self.check()
