"""The blocking driver: runs one conversation at a time, on requests.

It does one HTTP exchange and nothing else: it never follows a redirect, never retries, reads no
.netrc and no proxy variable by itself, stores no cookie, and believes no response whose headers or
body did not arrive whole.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
import time
import zlib
from collections.abc import Hashable, Iterator
from typing import IO, Any, TypeVar, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from regaudit.client import faults
from regaudit.client.bodies import Incoming
from regaudit.client.exchange import BUSY, Conversation, Headers, Once, Pause, Request, Response, Wait
from regaudit.client.faults import LocalFault
from regaudit.client.throttle import Gate
from regaudit.client.transport import GLANCE, SLOW_PIECE, Interrupted, Stop, Transport
from regaudit.errors import AddressRefused, RegistryError, TimedOut, UsageError
from regaudit.text import redact

T = TypeVar("T")

_PIECE = 64 << 10


class BlockingDriver:
    """Runs conversations on requests, each in the thread that asks; safe to share between threads."""

    def __init__(self, transport: Transport, gate: Gate) -> None:
        self._transport = transport
        self._adapter = _Adapter(pool_connections=4, pool_maxsize=transport.in_flight, max_retries=0)
        self._watchdog = _Watchdog()
        self._gate = gate
        self._once: dict[Hashable, _Shared] = {}
        self._lock = threading.Lock()
        self.stopping = threading.Event()

    def run(self, conversation: Conversation[T], stop: threading.Event | None = None) -> T:
        """Run a conversation to its end and return its result, or raise its error.

        Once `stop` is set, what is under way is broken off and `Interrupted` is raised.
        """
        if self.stopping.is_set():
            conversation.close()
            raise UsageError("the registry was closed: make a new Registry to speak to it again")
        return self._run(conversation, Stop(self.stopping, stop))

    def _run(self, conversation: Conversation[T], stop: Stop) -> T:
        value: Any = None
        error: RegistryError | None = None
        try:
            while True:
                step = conversation.send(value) if error is None else conversation.throw(error)
                value = error = None
                stop.check()
                try:
                    value = self._perform(step, stop)
                except RegistryError as caught:
                    error = caught
        except StopIteration as end:
            return cast("T", end.value)
        finally:
            conversation.close()

    def close(self) -> None:
        """Close all connections."""
        self.stopping.set()
        self._watchdog.close()
        self._adapter.close()

    def _perform(self, step: Any, stop: Stop) -> Any:
        if isinstance(step, Request):
            return self._exchange(step, stop)
        if isinstance(step, Wait):
            return self._wait(step, stop)
        if isinstance(step, Pause):
            return self._gate.pause(step.seconds)
        return self._share(step, stop)

    def _wait(self, wait: Wait, stop: Stop) -> None:
        if wait.everyone:
            self._gate.pause(wait.seconds)
        stop.sleep(wait.seconds)

    def _share(self, once: Once, stop: Stop) -> Any:
        """Run a conversation unless somebody is running it already; then wait for theirs."""
        while True:
            with self._lock:
                shared = self._once.get(once.key)
                if shared is None:
                    shared = self._once[once.key] = _Shared()
                    break
            try:
                value = shared.result(stop)
            except Interrupted:
                stop.check()  # it was they who were told to stop: now it is our turn
            else:
                once.conversation.close()
                return value
        try:
            shared.value = self._run(once.conversation, stop)
        except BaseException as error:
            shared.error = error
            raise
        finally:
            with self._lock:
                del self._once[once.key]
            shared.done.set()
        return shared.value

    def _exchange(self, request: Request, stop: Stop) -> Response:
        ticket = self._gate.enter(stop)
        good, seconds, received = True, None, None
        started = time.monotonic()
        watch = _Watch(request.deadline, self._transport.stall_seconds, stop, public_only=request.public_only)
        try:
            response = self._watched(request, started, watch)
            good, received = response.status not in BUSY, response.received
            seconds = watch.answered - watch.sent if watch.sent else None
            return response
        except TimedOut:
            good = False
            raise
        finally:
            self._gate.leave(ticket, good=good, purpose=request.purpose, seconds=seconds, received=received)

    def _watched(self, request: Request, started: float, watch: _Watch) -> Response:
        self._watchdog.watch(watch)
        _thread.watch = watch
        try:
            with contextlib.closing(_Body(request)) as body:
                return self._one_exchange(request, body, watch, started)
        except RegistryError:
            raise
        except LocalFault as local:
            raise local.error from None
        except _FAULTS as error:
            if watch.expired:
                watch.stop.check()
            raise _translated(error, request, watch) from None
        finally:
            _thread.watch = None
            self._watchdog.forget(watch)

    def _one_exchange(self, request: Request, body: _Body, watch: _Watch, started: float) -> Response:
        transport = self._transport
        prepared = requests.Request(
            request.method, request.url, headers=transport.fields(request), data=body.data
        ).prepare()
        reply = self._adapter.send(
            prepared,
            stream=True,
            timeout=_timeouts(request, transport),
            verify=transport.verify if isinstance(transport.verify, bool) else str(transport.verify),
            cert=_certificate(transport),
            proxies=transport.proxies_for(request.url),
        )
        watch.answered = time.monotonic()
        try:
            content, received = _read(reply, request, watch)
        except BaseException:
            reply.raw.close()  # a connection with an unread rest must not be used again
            raise
        finally:
            reply.close()
        if watch.expired:
            raise TimeoutError
        arrived = time.monotonic()
        return Response(
            status=reply.status_code,
            url=request.url,
            headers=_header_fields(reply),
            body=content,
            at=arrived,
            seconds=arrived - started,
            peer=watch.peer,
            received=received,
        )


class _Shared:
    """A result that several conversations wait for."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def result(self, stop: Stop) -> Any:
        while not self.done.wait(GLANCE):
            stop.check()
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.value


# -- one exchange ----------------------------------------------------------------------------

# What requests and the libraries below it raise where an exchange fails.
_FAULTS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    zlib.error,
    OSError,
    UnicodeError,  # a host name that no label of IDNA can hold
)


class _Thread(threading.local):
    """What the connection classes know of the exchange that their thread is in."""

    watch: _Watch | None = None


_thread = _Thread()


class _Watch:
    """One exchange under the watchdog's eye."""

    def __init__(self, deadline: float | None, stall: float, stop: Stop, *, public_only: bool) -> None:
        self.seconds = stall if deadline is None else deadline
        self.expires = time.monotonic() + self.seconds
        self._stall = stall
        self.stop = stop
        self.public_only = public_only
        self.expired = False
        self.peer: str | None = None
        self.sent = self.answered = 0.0
        self._socket: socket.socket | None = None

    def attach(self, connection: socket.socket | None) -> None:
        """Learn which socket the exchange uses."""
        self._socket = connection
        if connection is not None and self.peer is None:
            try:
                self.peer = connection.getpeername()[0]
            except OSError:
                self.peer = None
        if self.expired:
            self.expire()

    def moved(self) -> None:
        """Begin the wait anew: a blob has made progress."""
        self.expires = time.monotonic() + self._stall

    def expire(self) -> None:
        """End the exchange from another thread: whatever waits for the socket wakes up."""
        self.expired = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it ended by itself
                # the plain method: an SSLSocket's own takes the session away from the thread that reads
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Watchdog:
    """Ends exchanges at their deadline. Timeouts of requests begin anew with each byte; this does not."""

    def __init__(self) -> None:
        self._watches: set[_Watch] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, watch: _Watch) -> None:
        """Begin to watch an exchange."""
        with self._changed:
            self._watches.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._patrol, name="regaudit-watchdog", daemon=True)
                self._thread.start()

    def forget(self, watch: _Watch) -> None:
        """Stop watching an exchange that has ended."""
        with self._changed:
            self._watches.discard(watch)

    def close(self) -> None:
        """End the patrol."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(1.0)

    def _patrol(self) -> None:
        with self._changed:
            while not self._closed:
                # four looks a second keep every deadline within a quarter of a second, at no cost to an exchange
                self._changed.wait(0.25)
                now = time.monotonic()
                for watch in [w for w in self._watches if w.expires <= now or w.stop.asked]:
                    self._watches.discard(watch)
                    watch.expire()


class _WholeHeaders(http.client.HTTPResponse):
    """A response that insists on the blank line that ends its headers.

    http.client takes the end of the connection for the end of the headers, and a response cut there
    for a whole one with an empty body (measured: 22 of 827 offsets of a manifest, 153 of 249 of a
    list of tags, 191 of 203 of a HEAD).
    """

    def begin(self) -> None:
        """Read the status line and the headers, whole."""
        if getattr(self, "headers", None) is not None:
            return
        reader = self.fp
        self.lines = _LastLine(reader)
        self.fp = cast("Any", self.lines)
        try:
            super().begin()
        finally:
            if self.fp is cast("Any", self.lines) and not self.chunked:
                self.fp = reader
        if self.lines.line not in {b"\r\n", b"\n"}:
            raise http.client.IncompleteRead(b"")

    def _read_status(self) -> tuple[str, int, str]:
        """Read the status line of the answer; http.client takes a 103 that comes before it for it."""
        while True:
            version, status, reason = cast("Any", super())._read_status()  # noqa: SLF001 -- the one place where http.client reads it
            if not 102 <= status <= 199:
                return version, status, reason
            http.client.parse_headers(cast("Any", self.fp))

    @property
    def cut(self) -> bool:
        """Whether a chunked body that was read to its end lacks the empty line that belongs there.

        urllib3 would take ``0``, the beginning of a length that was cut, for the last chunk.
        """
        return bool(self.chunked) and self.lines.line != b"\r\n"


class _LastLine:
    """A reader that remembers the last line it gave."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.line = b""

    def readline(self, limit: int = -1) -> bytes:
        """Return the next line."""
        self.line = self._reader.readline(limit)
        return self.line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def _attach(connection: socket.socket | None, host: str) -> None:
    """Tell the watch of this thread's exchange its socket, and refuse an address that it may not use."""
    watch = _thread.watch
    if watch is None or connection is None:
        return
    watch.attach(connection)
    watch.sent = time.monotonic()
    if watch.public_only:
        try:
            faults.refuse_private(host, watch.peer)
        except AddressRefused:
            connection.close()
            raise


class _PlainConnection(HTTPConnection):
    response_class = _WholeHeaders

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        _attach(connection, self.host)
        return connection

    def request(self, *arguments: Any, **options: Any) -> None:
        _attach(self.sock, self.host)  # a connection that is used again
        super().request(*arguments, **options)


class _TLSConnection(HTTPSConnection):
    response_class = _WholeHeaders
    _twin: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        # TLS takes the descriptor away from this socket; only through a twin can a slow handshake be ended
        self._twin = connection.dup()
        try:
            _attach(self._twin, self.host)
        except BaseException:
            connection.close()
            raise
        return connection

    def connect(self) -> None:
        try:
            super().connect()
            _attach(self.sock, self.host)  # the socket that TLS put in place of the first
        finally:
            if self._twin is not None:
                self._twin.close()

    def request(self, *arguments: Any, **options: Any) -> None:
        _attach(self.sock, self.host)
        super().request(*arguments, **options)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection

    def _validate_conn(self, conn: Any) -> None:
        """Connect before the request; urllib3 would also warn at each request that nobody verifies."""
        if conn.is_closed:  # who asked for that was warned when he did
            conn.connect()


class _Adapter(HTTPAdapter):
    """requests' adapter over connections of our own; proxied ones too."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TLSPool}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TLSPool}
        return manager


def _timeouts(request: Request, transport: Transport) -> tuple[float, float]:
    """Return the longest waits for a connection and for the next bytes."""
    connect = transport.connect_seconds
    return connect if request.deadline is None else min(connect, request.deadline), transport.silence(request)


def _certificate(transport: Transport) -> tuple[str, str] | None:
    if transport.client_certificate is None:
        return None
    certificate, key = transport.client_certificate
    return str(certificate), str(key)


class _Body:
    """The body of one attempt: opened for it, and closed after it."""

    def __init__(self, request: Request) -> None:
        self._file: IO[bytes] | None = None
        self.data: Any = request.body
        if isinstance(request.body, bytes) and request.deadline is None and request.body:
            self.data = _Reader(io.BytesIO(request.body), len(request.body))
        elif request.body is not None and not isinstance(request.body, bytes):
            self._file = request.body.open()
            # requests would send an empty stream chunked
            self.data = _Reader(self._file, request.body.size) if request.body.size else b""

    def close(self) -> None:
        """Close what was opened."""
        if self._file is not None:
            self._file.close()


class _Reader:
    """A body that requests streams with a Content-Length."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self.len = file, size

    def __len__(self) -> int:
        return int(self.len)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; each read shows the watchdog that the upload moves."""
        if _thread.watch is not None:
            _thread.watch.moved()
        try:
            data: bytes = self._file.read(size)
        except OSError as error:
            raise LocalFault(error) from None
        return data

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(_PIECE), b"")


def _header_fields(reply: requests.Response) -> Headers:
    raw = getattr(reply.raw, "headers", None)
    pairs = reply.headers.items() if raw is None else raw.iteritems()
    return Headers((name, value) for name, value in pairs)


def _read(reply: requests.Response, request: Request, watch: _Watch) -> tuple[bytes, int]:
    """Read the body whole, into the sink or into memory up to the cap; return the latter, and how many bytes came."""
    incoming = Incoming(request, reply.status_code, _header_fields(reply))
    if not incoming.wanted:
        reply.raw.drain_conn()  # nothing, but the connection can be used again
        return b"", 0
    watch.moved() if incoming.streams else None
    for piece in reply.raw.stream(SLOW_PIECE if incoming.streams else _PIECE, decode_content=False):
        if incoming.streams:
            watch.moved()
        incoming.take(piece)
        if incoming.enough:
            reply.raw.close()  # of a longer body the connection is given up
            break
    body = incoming.end()
    original = getattr(reply.raw, "_original_response", None)
    if isinstance(original, _WholeHeaders) and original.cut and not incoming.enough:
        raise http.client.IncompleteRead(b"")
    return body, incoming.received


def _translated(error: Exception, request: Request, watch: _Watch) -> RegistryError:  # noqa: PLR0911 -- a table
    """Return our error for one of requests, urllib3, http.client or the socket."""
    if watch.expired:
        return faults.late(request, watch.seconds)
    if cause := _cause(error, AddressRefused):
        return cause
    if _cause(error, urllib3.exceptions.ProxyError):
        return _proxy_fault(error, request)
    if isinstance(error, requests.exceptions.SSLError) or _cause(error, urllib3.exceptions.SSLError):
        return faults.tls_failed(request, _short(error), str(error))
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return faults.silent(request)
    if _cause(error, urllib3.exceptions.NewConnectionError) or _cause(error, ConnectionRefusedError):
        return faults.unreachable(request, _short(error))
    if _speaks_tls(error):
        return faults.speaks_tls(request)
    if isinstance(error, zlib.error | UnicodeError | ValueError) or "got more than" in str(error) or _foreign(error):
        return faults.unreadable(request, _short(error))
    return faults.truncated(request, _short(error))


def _proxy_fault(error: Exception, request: Request) -> RegistryError:
    # http.client's own words; the number alone may also be in a port or in an object's address
    if "Tunnel connection failed: 407" in str(_cause(error, urllib3.exceptions.ProxyError)):
        return faults.proxy_asks(request)
    return faults.proxy_unreachable(request, _short(error))


def _speaks_tls(error: Exception) -> bool:
    """Return whether what answered plain http is a TLS alert."""
    bad = _cause(error, http.client.BadStatusLine)
    return bad is not None and str(bad.args[0]).startswith("\x15\x03")


def _foreign(error: Exception) -> bool:
    """Return whether what answered is not HTTP: its first line is not even the beginning of a status line."""
    bad = _cause(error, http.client.BadStatusLine)
    if bad is None or isinstance(bad, http.client.RemoteDisconnected):
        return False
    return not "HTTP/".startswith(str(bad.args[0])[:5])


E = TypeVar("E", bound=BaseException)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then its causes and its arguments, each once."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if current in seen:
            continue
        yield current
        seen.append(current)
        # urllib3 keeps an error in `reason`, where ssl and codecs keep a text
        inner = [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
        waiting += [cause for cause in inner if isinstance(cause, BaseException)]


def _cause(error: BaseException, kind: type[E]) -> E | None:
    return next((cause for cause in _causes(error) if isinstance(cause, kind)), None)


def _short(error: BaseException) -> str:
    """Return the system's own words where it has some: requests' repeat the whole address."""
    incomplete = _cause(error, http.client.IncompleteRead)
    if incomplete is not None and incomplete.expected:
        return f"{incomplete.expected:,} bytes were still to come"
    system = (cause.strerror for cause in _causes(error) if isinstance(cause, OSError))
    reason = next((text for text in system if isinstance(text, str)), str(error).rsplit(": ", 1)[-1])
    return redact(reason, 160)
