"""HTTP exchanges on libcurl's multi interface: many in flight, HTTP/2 where TLS offers it, all in one thread.

It does what the blocking driver does and nothing else: no redirect, no retry, no .netrc, no proxy variable, no
cookie; and no response whose headers or body did not arrive whole.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import Any

import pycurl

from regaudit.client.easy import Easy, Ended
from regaudit.client.exchange import SAFE_METHODS, Request
from regaudit.client.multi import MultiBulk
from regaudit.client.throttle import Gate
from regaudit.client.transport import Transport
from regaudit.errors import RegistryError

# Four looks a second keep every deadline within a quarter of a second, at no cost to an exchange.
_LOOK_SECONDS = 0.25
# libcurl takes a connection that ended inside the headers for one that can be used again, until it looks next.
_STALE_SECONDS = 1.5
_EVENTS = {pycurl.POLL_NONE: 0, pycurl.POLL_IN: select.POLLIN, pycurl.POLL_OUT: select.POLLOUT}
_EVENTS[pycurl.POLL_INOUT] = select.POLLIN | select.POLLOUT
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class LibcurlDriver:
    """Gives out bulks, and keeps the connections of one for the next."""

    def __init__(self, transport: Transport, gate: Gate) -> None:
        self._transport, self._gate = transport, gate
        self._lock = threading.Lock()
        self._idle: list[Curls] = []
        self._busy: set[Curls] = set()
        self._closed = False

    def open(self) -> MultiBulk:
        """Return a bulk."""
        with self._lock:
            wire = self._idle.pop() if self._idle else Curls(self._transport)
            self._busy.add(wire)
        return MultiBulk(wire, self._gate, self._transport.in_flight, lambda: self._closed, self._take_back)

    def close(self) -> None:
        """End what is under way, each in its own thread, and close all other connections."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for wire in self._busy:
                wire.wake()
        for wire in idle:
            wire.close()

    def _take_back(self, bulk: MultiBulk) -> None:
        with self._lock:
            wire: Any = bulk.wire
            known = wire in self._busy
            self._busy.discard(wire)
            if known and not self._closed:
                self._idle.append(wire)
                return
        wire.close()


class Curls:
    """A multi handle with its connections: the wire of a `MultiBulk`, for one thread at a time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._poll = select.poll()  # unlike select(), it knows no highest descriptor
        self._ear, self._mouth = socket.socketpair()
        for end in (self._ear, self._mouth):
            end.setblocking(False)
        self._poll.register(self._ear, select.POLLIN)
        self._timer: float | None = None
        self._alarms: list[int] = []
        self._looked = self._fresh_until = 0.0
        self._answered = self._shared = False
        self._idle: dict[bool, list[Easy]] = {False: [], True: []}
        self._flying: dict[pycurl.Curl, Easy] = {}
        self._starting: list[Easy] = []
        self._ended: list[Ended] = []
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._interest)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._alarms.append)
        self._multi.setopt(pycurl.M_MAXCONNECTS, transport.in_flight)
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)

    def start(self, request: Request, context: Any) -> None:
        """Begin an exchange; `context` comes back with its end."""
        line = self._line(request)
        try:
            # With TLS the first must have an answer before it is known whether others can share its connection;
            # otherwise libcurl would let all wait for the first one too.
            patient = not self._answered and request.url.startswith("https:")
            line.begin(
                request, context, fresh=self._fresh_until > time.monotonic(), patient=patient, shared=self._shared
            )
        except (RegistryError, OSError) as error:
            line.close()
            self._ended.append(Ended(request, context, error=error))
        else:
            self._starting.append(line)

    def listen(self, seconds: float | None) -> list[tuple[int, int]]:
        """Wait for so many seconds at most until there is work, and return it."""
        return self._poll.poll(0 if self._ended else self._milliseconds(seconds))

    def work(self, events: list[tuple[int, int]]) -> list[Ended]:
        """Do some work, and return the exchanges that have ended."""
        self._act(events)
        self._collect()
        self._look()
        ended, self._ended = self._ended, []
        return ended

    def launch(self) -> None:
        """Let libcurl begin with what was started."""
        for line in self._starting:
            self._multi.add_handle(line.curl)
            self._flying[line.curl] = line
        self._starting.clear()

    def wake(self) -> None:
        """Let `wait` return, from any thread."""
        with contextlib.suppress(OSError):  # it is awake, or closed
            self._mouth.send(b"!")

    def abandon(self) -> list[Any]:
        """Break off what is under way, and return the contexts of it."""
        lines = [*self._starting, *self._flying.values()]
        contexts = [ended.context for ended in self._ended] + [line.context for line in lines]
        for line in self._flying.values():
            self._multi.remove_handle(line.curl)
        for line in lines:
            line.close()
        self._starting, self._ended = [], []
        self._flying.clear()
        return contexts

    def close(self) -> None:
        """Close all connections."""
        for line in (*self._idle[False], *self._idle[True]):
            line.close()
        self._idle = {False: [], True: []}
        self._multi.close()
        self._ear.close()
        self._mouth.close()

    # -- libcurl's own wishes: they are called by it, and must not raise ----------------------

    def _interest(self, what: int, descriptor: int, _multi: Any, _data: Any) -> None:
        if what != pycurl.POLL_REMOVE:
            self._poll.register(descriptor, _EVENTS[what])
            return
        try:  # noqa: SIM105 -- for each request: suppress() costs more than what it guards
            self._poll.unregister(descriptor)
        except KeyError:
            pass

    # -- one step -----------------------------------------------------------------------------

    def _line(self, request: Request) -> Easy:
        """Return a handle for a request; what sends a body, or must never be sent twice, gets one of its own."""
        if request.body is not None or request.method not in SAFE_METHODS:
            return Easy(self._transport, guarded=request.public_only, again=False)
        idle = self._idle[request.public_only]
        return idle.pop() if idle else Easy(self._transport, guarded=request.public_only, again=True)

    def _milliseconds(self, seconds: float | None) -> float | None:
        self._set_timer()
        now = time.monotonic()
        times = [] if seconds is None else [seconds]
        if self._timer is not None:
            times.append(self._timer - now)
        if self._flying:
            times.append(_LOOK_SECONDS)
        return max(0.0, min(times)) * 1000 if times else None

    def _act(self, events: list[tuple[int, int]]) -> None:
        ear = self._ear.fileno()
        for descriptor, event in events:
            if descriptor == ear:
                self._ear.recv(4096)
                continue
            readable = pycurl.CSELECT_IN if event & _READABLE else 0
            self._multi.socket_action(descriptor, readable | (pycurl.CSELECT_OUT if event & select.POLLOUT else 0))
        self._set_timer()
        if self._timer is not None and self._timer <= time.monotonic():
            self._timer = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def _set_timer(self) -> None:
        """Set the timer as libcurl last asked for it."""
        if self._alarms:
            milliseconds = self._alarms[-1]
            self._alarms.clear()
            self._timer = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def _collect(self) -> None:
        more = 1
        while more:
            more, good, bad = self._multi.info_read(len(self._flying) + 1)
            for curl in good:
                self._end(self._flying[curl], 0, "")
            for curl, code, message in bad:
                self._end(self._flying[curl], code, message)

    def _end(self, line: Easy, code: int, message: str) -> None:
        self._answered, self._shared = True, line.framed or self._shared
        self._ended.append(line.end(code, message))
        if line.stale:
            self._fresh_until = time.monotonic() + _STALE_SECONDS
        self._put_back(line)

    def _put_back(self, line: Easy) -> None:
        self._multi.remove_handle(line.curl)
        del self._flying[line.curl]
        if line.again:
            self._idle[line.guarded].append(line)
        else:
            line.close()

    def _look(self) -> None:
        """Break off what is late; libcurl's own limits know whole seconds, and no piece of a blob."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        for line in list(self._flying.values()):
            if (error := line.late(now)) is not None:
                self._ended.append(Ended(line.request, line.context, error=error))
                self._put_back(line)
