"""`Sandbox`: a registry of one's own, in this process, for trying things out."""

from __future__ import annotations

import asyncio
import atexit
import socket
import threading
from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from regaudit.errors import MissingExtra, UsageError
from regaudit.sandbox.app import Application, Features
from regaudit.sandbox.faults import Faults, FaultyLine
from regaudit.sandbox.login import Authority, Login
from regaudit.sandbox.sample import sample_images
from regaudit.sandbox.store import Store
from regaudit.sandbox.v1 import ApplicationV1, OptionsV1, StoreV1, options_v1

# A long session makes millions of requests; the last so many are enough to look at.
_REQUESTS_KEPT = 100_000
# Clients keep connections for minutes; a shorter time here would be a reset in the middle of somebody's demo.
_KEEP_ALIVE_SECONDS = 600
_BACKLOG = 2048
# From the accepting of a connection to the closing of its socket it takes four turns of the event loop.
_LAST_TURNS = 6


class Sandbox:
    """A registry in memory, served on this machine until it is closed.

    It speaks the OCI distribution specification 1.1. It runs in a thread with an event loop of its
    own, so it can be started in a notebook as well as in a test, and installs no signal handlers.

    Parameters
    ----------
    sample : bool
        Fill it with the sample of images (`regaudit.sandbox.sample`).
    port : int
        0 takes a free one.
    host : str
        The IPv4 address to listen on. Anybody who reaches it can write; leave it at this machine.
    now : datetime, optional
        The time that the ages in the sample count from: today at midnight UTC unless given.
    users : dict, optional
        Password by user name; switches a login on.
    auth : str or Login, optional
        The kind of login: ``basic`` (the default where there are users) or ``bearer``. A
        `regaudit.sandbox.login.Login` says more: who may do what, how long tokens live.
    referrers, tag_deletion, deletion, ranges : bool
        False makes a registry that lacks the referrers interface, refuses to delete by tag, refuses to
        delete at all, or sends the whole blob to who asks for a range. Without referrers the sample carries
        fallback tags instead.
    sparse : bool
        Accept images whose blobs are not there.
    keep_partial : bool
        Keep the bytes of a chunk that arrived before its connection broke. Otherwise such a chunk changes nothing.
    page : int
        The most names, or referrers, in one page of a listing.
    v1 : bool, str or OptionsV1
        True adds the v1 interface, with images of its own (`Sandbox.v1`) that begin as those of the
        sample; ``"only"`` makes ``/v2/`` a 404 as well.

    Attributes
    ----------
    host : str
        ``127.0.0.1:PORT``, what a person passes to ``Registry``.
    url : str
        The same as a URL.
    store : Store
        What is served: the ground truth to compare with, and the place to break things.
    v1 : StoreV1
        What the v1 interface serves, where there is one.
    faults : Faults
        What is to go wrong, empty at first: `regaudit.sandbox.faults`.
    requests : deque
        ``(method, path, status)`` of the requests served so far, oldest first; the status is 0 where a fault
        closed the connection before there was one.

    Raises
    ------
    MissingExtra
        Where uvicorn or httptools are not installed.

    Examples
    --------
    >>> with Sandbox(sample=True) as sandbox:
    ...     sorted(sandbox.store.tags("charts/checkout"))
    ['0.8.0', '0.9.0', '0.9.1']
    """

    def __init__(
        self,
        *,
        sample: bool = False,
        port: int = 0,
        host: str = "127.0.0.1",
        now: datetime | None = None,
        users: dict[str, str] | None = None,
        auth: str | Login | None = None,
        referrers: bool = True,
        tag_deletion: bool = True,
        deletion: bool = True,
        ranges: bool = True,
        sparse: bool = False,
        keep_partial: bool = False,
        page: int = 1000,
        v1: bool | str | OptionsV1 = False,
    ) -> None:
        uvicorn = _import_server()
        login = _login(users, auth)
        self.store = Store()
        self.faults = Faults()
        self.requests: deque[tuple[str, str, int]] = deque(maxlen=_REQUESTS_KEPT)
        if sample:
            self.store.load(sample_images(now or _midnight(), fallback_tags=not referrers))
        self._socket = _listen(host, port)
        self.host = f"{host}:{self._socket.getsockname()[1]}"
        self.url = f"http://{self.host}"
        self._authority = None if login is None else Authority(login, users or {}, f"{self.url}/token")
        application: Application | ApplicationV1 = Application(
            self.store,
            Features(
                referrers=referrers,
                tag_deletion=tag_deletion,
                deletion=deletion,
                ranges=ranges,
                sparse=sparse,
                keep_partial=keep_partial,
                page=page,
            ),
            authority=self._authority,
            requests=self.requests,
        )
        self.v1 = StoreV1()
        options = options_v1(v1)
        if options is not None:
            self.v1.load(self.store)
            application = ApplicationV1(self.v1, application, options=options, users=users, requests=self.requests)
        self._line = FaultyLine(application, self.faults, hang_up=self._hang_up_on, requests=self.requests)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._start(uvicorn)

    def revoke_tokens(self, *, refresh: bool = False) -> None:
        """Make every bearer token that was issued invalid, as after their expiry; `refresh` tokens too if asked."""
        if self._authority is not None:
            self._authority.revoke_tokens(refresh=refresh)

    def close(self) -> None:
        """Stop serving: connections are cut, the thread has ended and the port is free on return."""
        atexit.unregister(self.close)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._hang_up)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "serving" if self._thread.is_alive() else "closed"
        return f"<Sandbox {self.host}: {len(self.store.repositories())} repositories, {state}>"

    def _start(self, uvicorn: Any) -> None:
        config = uvicorn.Config(
            self._line,
            loop="asyncio",
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            log_level="error",  # a client that tries TLS first is no news
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
            callback_notify=self._notify,  # first called when the server is up
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name=f"regaudit-sandbox-{self.host}", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        # Otherwise the interpreter would end with the socket open and say so.
        atexit.register(self.close)

    async def _notify(self) -> None:
        self._ready.set()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                self._loop = runner.get_loop()
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - it belongs to the thread that waits
            self._failure = error
        finally:
            self._socket.close()
            self._ready.set()

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._socket])
        # Connections that came in between: accepted in one turn of the loop, made in the next, known after that.
        for _ in range(_LAST_TURNS):
            self._cut_connections()
            await asyncio.sleep(0)

    def _hang_up_on(self, client: Any) -> None:
        """Close one client's connection, after what was sent to it."""
        for connection in list(self._server.server_state.connections):
            if connection.client == client:
                connection.transport.close()

    def _hang_up(self) -> None:
        self._server.should_exit = True
        self._line.closing.set()
        # Accept no more, and leave the closing to uvicorn, a turn of the loop later: asyncio loses the sockets
        # that it accepted in the turn in which their listener is closed.
        self._loop.remove_reader(self._socket)
        self._cut_connections()

    def _cut_connections(self) -> None:
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


def _import_server() -> Any:
    try:
        import httptools  # noqa: F401 - uvicorn would miss it only in the thread
        import uvicorn
    except ImportError:
        raise MissingExtra('the sandbox needs uvicorn and httptools: pip install "regaudit[sandbox]"') from None
    return uvicorn


def _login(users: dict[str, str] | None, auth: str | Login | None) -> Login | None:
    login = auth if isinstance(auth, Login) else Login(kind=auth or "basic")
    if auth is not None and not (users or login.identity_tokens or login.anonymous):
        raise UsageError("a login needs users: write users={'alice': 'secret'}")
    return login if users or auth is not None else None


def _midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _listen(host: str, port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only where the protocol is named; without it each answer waits 40 ms for the
    # client's delayed acknowledgement. `socket.create_server` does not name it.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"{host}:{port} cannot be listened on ({error.strerror}): name another port, or 0 for a free one"
        ) from None
    except BaseException:
        listener.close()
        raise
    return listener
