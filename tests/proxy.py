"""Proxies for tests: one that passes requests on and records them, and one before a registry that makes them fail.

Used so::

    with Proxy() as proxy:
        Registry(host, proxy=f"http://user:password@{proxy.host}").ping()
        [seen.target for seen in proxy.requests]
        # ['http://127.0.0.1:40001/v2/']

    with FaultProxy(docker_registry.host) as front:
        front.rule = storm(seed=1)
        collect(Registry(front.host))
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
import threading
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Self, TypeAlias

from hostile import Cut, Hostile, Play, Seen, error, reply


class Proxy:
    """An HTTP proxy on 127.0.0.1: forwards plain requests, and tunnels what comes by CONNECT.

    Parameters
    ----------
    login : str, optional
        The ``user:password`` to insist on.

    Attributes
    ----------
    requests : list of Seen
        Every request and every CONNECT, as it arrived here.
    """

    def __init__(self, login: str | None = None) -> None:
        self._wanted = login and "Basic " + base64.b64encode(login.encode()).decode()
        self.requests: list[Seen] = []
        self._closing = False
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.host}"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Cut all connections and wait for all threads."""
        self._closing = True
        for one in (self._listener, *list(self._open)):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while (head := _head(client)) is not None:
                seen = _seen(head)
                self.requests.append(seen)
                if self._wanted and seen.header("proxy-authorization") != self._wanted:
                    client.sendall(reply(407, headers={"Proxy-Authenticate": 'Basic realm="proxy"'}))
                    continue
                if seen.method == "CONNECT":
                    self._tunnel(client, seen.target)
                    return
                self._forward(client, seen)

    def _forward(self, client: socket.socket, seen: Seen) -> None:
        address, _, path = seen.target.removeprefix("http://").partition("/")
        # What is for the proxy stays here, and one request is one connection.
        lines = [
            f"{name}: {value}" for name, value in seen.headers if not name.lower().startswith(("proxy-", "connection"))
        ]
        head = "\r\n".join([f"{seen.method} /{path} HTTP/1.1", *lines, "Connection: close", "", ""])
        with self._connect(address) as origin:
            origin.sendall(head.encode("latin-1"))
            origin.shutdown(socket.SHUT_WR)
            while data := origin.recv(65536):
                client.sendall(data)

    def _tunnel(self, client: socket.socket, address: str) -> None:
        try:
            origin = self._connect(address)
        except OSError:
            client.sendall(reply(502))
            return
        with origin:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {client: origin, origin: client}
            while True:
                for one in select.select(list(ends), [], [])[0]:
                    data = one.recv(65536)
                    if not data:
                        return
                    ends[one].sendall(data)

    def _connect(self, address: str) -> socket.socket:
        host, _, port = address.rpartition(":")
        origin = socket.create_connection((host, int(port)), timeout=10)
        self._open.add(origin)
        return origin


def _head(client: socket.socket) -> bytes | None:
    """Return a request's head; these tests send no body through a proxy in the clear."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = client.recv(1)
        if not data:
            return None
        head += data
    return head


def _seen(head: bytes) -> Seen:
    line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = line.split(" ", 2)
    headers = [(name, value.strip()) for name, _, value in (field.partition(":") for field in fields)]
    return Seen(method, target, headers, b"", 0)


# -- before a registry -----------------------------------------------------------------------

# From a request, and a function that passes it on and returns the registry's answer, to what the client is told.
Rule: TypeAlias = Callable[[Seen, Callable[[], bytes]], Play]


def passed_on(seen: Seen, host: str) -> bytes:
    """Carry a request out at a registry, over a connection of its own, and return the answer with its length."""
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request(seen.method, seen.target, seen.body, dict(seen.headers))
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    fields = [
        (k, v) for k, v in answer.getheaders() if k.lower() not in {"content-length", "transfer-encoding", "date"}
    ]
    length = -1 if seen.method != "HEAD" else int(answer.getheader("content-length", "0"))
    return reply(answer.status, body, headers=fields, length=None if answer.status == 204 else length)


class FaultProxy(Hostile):
    """A reverse proxy that passes everything on to a registry, except where its rule says otherwise.

    Parameters
    ----------
    registry : str
        The ``host:port`` behind it.

    Attributes
    ----------
    rule : Rule or None
        What is played instead: it may pass the request on first, once, twice or not at all.
    """

    def __init__(self, registry: str, *, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address=address)
        self.registry, self.rule = registry, None
        self.on("*", self._answer)

    rule: Rule | None

    def _answer(self, seen: Seen) -> Play:
        def pass_on() -> bytes:
            return passed_on(seen, self.registry)

        try:
            return pass_on() if self.rule is None else self.rule(seen, pass_on)
        except (OSError, http.client.HTTPException):
            return Cut(b"", 0, reset=True)  # nobody behind it


def storm(seed: int, *, busy: float = 0.1, reset: float = 0.02, retry_after: str = "0") -> Rule:
    """Return a rule for bad weather: so many requests are answered 429 or 503, and so many lose their connection.

    Of those, half were carried out before, and half break off in the middle of the answer. Requests are counted, so
    that the share is exact however they come.
    """
    random, lock = Random(seed), threading.Lock()
    deck: list[str] = []

    def weather(seen: Seen, pass_on: Callable[[], bytes]) -> Play:
        with lock:
            if not deck:
                deck.extend(["busy"] * round(1000 * busy) + ["reset"] * round(1000 * reset))
                deck.extend([""] * (1000 - len(deck)))
                random.shuffle(deck)
            drawn, chance = deck.pop(), random.random()
        if drawn == "busy":
            return error(429 if chance < 0.5 else 503, "TOOMANYREQUESTS", Retry_After=retry_after)
        if drawn == "":
            return pass_on()
        if chance < 0.5:
            return Cut(b"", 0, reset=True)
        raw = pass_on()
        return Cut(raw, int(len(raw) * random.random()), reset=chance < 0.75)

    return weather
