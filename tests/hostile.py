"""Servers that misbehave by script, a listener that must hear nothing, and a driver without a socket.

Used so::

    with Hostile() as server:
        server.on("GET /v2/", reply(503, headers={"Retry-After": "1"}), reply(json={}))
        server.on("GET /v2/team/app/tags/list", Cut(reply(json={"name": "team/app", "tags": ["a"]}), 40))
        Registry(server.host).ping()
        [seen.target for seen in server.requests]
        # ['/v2/', '/v2/']
"""

from __future__ import annotations

import contextlib
import json as _json
import socket
import ssl
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeAlias

from regaudit.client.exchange import Conversation, Headers, Once, Request, Response, Session, Wait
from regaudit.errors import RegistryError
from regaudit.reference import parse_registry

_EMPTY = object()


def reply(
    status: int = 200,
    body: bytes = b"",
    *,
    json: Any = _EMPTY,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    length: int | None = -1,
    chunks: list[bytes] | None = None,
) -> bytes:
    """Return the bytes of an HTTP/1.1 response.

    Parameters
    ----------
    json : object
        Sent as JSON instead of `body`.
    headers : mapping or list of pairs
        A list where a field comes several times.
    length : int or None
        The Content-Length to claim: the true one unless given, none where None.
    chunks : list of bytes
        Sent with Transfer-Encoding: chunked instead of `body`.
    """
    lines = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    if json is not _EMPTY:
        body = _json.dumps(json).encode()
        lines.append(("Content-Type", "application/json"))
    if chunks is not None:
        lines.append(("Transfer-Encoding", "chunked"))
        body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    elif length is not None:
        lines.append(("Content-Length", str(len(body) if length == -1 else length)))
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Odd"
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"HTTP/1.1 {status} {phrase}\r\n{head}\r\n".encode("latin-1") + body


def error(status: int, code: str, message: str = "", **headers: str) -> bytes:
    """Return a registry's error response; underscores in header names become hyphens."""
    document = {"errors": [{"code": code, "message": message}]}
    return reply(status, json=document, headers={name.replace("_", "-"): text for name, text in headers.items()})


def redirect(location: str, status: int = 302) -> bytes:
    """Return a redirect."""
    return reply(status, headers={"Location": location})


@dataclass(frozen=True)
class Cut:
    """Send the first `at` bytes and end the connection, with FIN or by a reset."""

    raw: bytes
    at: int
    reset: bool = False


@dataclass(frozen=True)
class Drip:
    """Send the first `after` bytes at once and then one every `seconds`."""

    raw: bytes
    after: int = 0
    seconds: float = 0.1


@dataclass(frozen=True)
class Stall:
    """Send some bytes and then nothing more, until the client gives up or the server closes."""

    raw: bytes = b""


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        return next((text for own, text in self.headers if own.lower() == name.lower()), None)


Play: TypeAlias = "bytes | Cut | Drip | Stall"
Entry: TypeAlias = "Play | Callable[[Seen], Play]"


class Hostile:
    """An HTTP server on 127.0.0.1 that says, byte for byte, what its script says.

    Parameters
    ----------
    tls : ssl.SSLContext, optional
        Speak TLS.
    greeting : Entry, optional
        What is played as soon as somebody connects, before any request.
    address : (str, int)
        Where to listen, on this machine; the port is free where it is 0.

    Attributes
    ----------
    requests : list of Seen
        Every request, in order of arrival.
    connections : int
        How many were accepted.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        greeting: Play | None = None,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.requests: list[Seen] = []
        self.connections = 0
        self._tls, self._greeting = tls, greeting
        self._script: dict[str, list[Entry]] = defaultdict(list)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._arrival = threading.Condition()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(address, backlog=128)
        self.port = self._listener.getsockname()[1]
        self.host = f"{address[0]}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def on(self, what: str, *entries: Entry) -> None:
        """Script the replies to ``"METHOD /path"``, or to ``"*"``: one after the other, the last one again and again."""
        with self._lock:
            self._script[what] = list(entries)

    def seen(self, what: str) -> list[Seen]:
        """Return the requests of ``"METHOD /path"``."""
        return [seen for seen in self.requests if f"{seen.method} {seen.path}" == what]

    def wait_for(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        with self._arrival:
            if not self._arrival.wait_for(lambda: len(self.requests) >= count, timeout=10):
                raise AssertionError(f"only {len(self.requests)} of {count} requests have arrived")

    def settle(self) -> int:
        """Wait until whoever went away is gone here too, and return how many connections are left open."""
        for thread in list(self._threads):
            thread.join(5)
        return len(self._open)

    def close(self) -> None:
        """Cut all connections and wait for all threads."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            with self._lock:
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True)
            # Only those who are still at work need be waited for: a test makes thousands.
            self._threads = [other for other in self._threads if other.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            with contextlib.suppress(OSError):  # the client went away, as some are meant to
                if self._greeting is not None and not self._play(connection, self._greeting):
                    return
                wire = connection if self._tls is None else self._tls.wrap_socket(connection, server_side=True)
                with wire:
                    reader = wire.makefile("rb")
                    while (seen := _read_request(reader, number)) is not None:
                        with self._arrival:
                            self.requests.append(seen)
                            self._arrival.notify_all()
                        if not self._play(wire, self._next(seen)):
                            break
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _next(self, seen: Seen) -> Play:
        with self._lock:
            for what in (f"{seen.method} {seen.path}", "*"):
                entries = self._script.get(what)
                if entries:
                    entry = entries.pop(0) if len(entries) > 1 else entries[0]
                    break
            else:
                return error(404, "UNSCRIPTED")
        return entry(seen) if callable(entry) else entry

    def _play(self, connection: socket.socket, play: Play) -> bool:
        """Send what the script says, and return whether the connection goes on."""
        if isinstance(play, bytes):
            connection.sendall(play)
            return True
        if isinstance(play, Cut):
            connection.sendall(play.raw[: play.at])
            if play.reset:
                # close() with a linger of zero seconds sends RST
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                connection.shutdown(socket.SHUT_WR)
            return False
        if isinstance(play, Drip):
            connection.sendall(play.raw[: play.after])
            for byte in play.raw[play.after :]:
                if self._closing.wait(play.seconds):
                    return False
                connection.sendall(bytes([byte]))
            return True
        connection.sendall(play.raw)
        while connection.recv(65536):  # until the client, or close(), ends it
            pass
        return False


def _read_request(reader: Any, number: int) -> Seen | None:
    line = reader.readline().decode("latin-1")
    if line.count(" ") < 2:
        return None
    method, target, _ = line.split(" ", 2)
    headers = []
    while (text := reader.readline().decode("latin-1").strip()) != "":
        name, _, value = text.partition(":")
        headers.append((name, value.strip()))
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Seen(method, target, headers, reader.read(length) if length else b"", number)


class Decoy:
    """A listener on this machine to whom nobody should speak: it records whatever it hears.

    Attributes
    ----------
    heard : bytes
        Everything that was sent to it.
    """

    def __init__(self) -> None:
        self.heard = b""
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(0.5)
                with contextlib.suppress(OSError):
                    while data := connection.recv(65536):
                        self.heard += data
                        if b"\r\n\r\n" in data:
                            connection.sendall(reply(json={}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


# -- without a socket ------------------------------------------------------------------------

# An address that no test machine has: what a public registry answers from.
PUBLIC = "203.0.114.1"


def session(host: str = "registry.example", *, scheme: str = "https", **options: Any) -> Session:
    """Return a `Session` with a registry that exists only in a script."""
    name = parse_registry(host)
    return Session(name, f"{scheme}://{name.server}", **options)


def answer(
    status: int = 200,
    body: bytes = b"",
    *,
    json: Any = _EMPTY,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    peer: str | None = PUBLIC,
    at: float = 0.0,
) -> Response:
    """Return a `Response`; its URL is that of the request that it answers."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    if json is not _EMPTY:
        body = _json.dumps(json).encode()
        pairs.append(("Content-Type", "application/json"))
    return Response(status, "", Headers(pairs), body, at=at, peer=peer)


@dataclass
class Talk:
    """Drives a conversation without a socket: each request gets the next of the answers.

    An answer is a `Response`, an error to throw, or a function from the request to one of them; the
    last one is given again and again.

    Attributes
    ----------
    requests, waits, onces : list
        What the conversation asked for.
    """

    answers: list[Any]
    requests: list[Request] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    onces: list[Once] = field(default_factory=list)

    def run(self, conversation: Conversation[Any]) -> Any:
        value: Any = None
        thrown: RegistryError | None = None
        while True:
            try:
                step = conversation.send(value) if thrown is None else conversation.throw(thrown)
            except StopIteration as end:
                return end.value
            value = thrown = None
            try:
                value = self._perform(step)
            except RegistryError as fault:
                thrown = fault

    def _perform(self, step: Any) -> Any:
        if isinstance(step, Wait):
            self.waits.append(step)
            return None
        if isinstance(step, Once):
            self.onces.append(step)
            return self.run(step.conversation)
        self.requests.append(step)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        found = found(step) if callable(found) else found
        if isinstance(found, RegistryError):
            raise found
        return replace(found, url=step.url)


def talk(conversation: Conversation[Any], *answers: Any) -> tuple[Any, Talk]:
    """Run a conversation over some answers and return its result, and what it asked for."""
    driver = Talk(list(answers))
    return driver.run(conversation), driver
