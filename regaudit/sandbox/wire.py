"""One request on one connection, as ASGI has them: its body in, the answer out, or the line gone dead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple

# Small enough that a slow reader holds up its own blob only, large enough to cost no time.
_PIECE = 256 * 1024

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HangUp = Callable[[Any], None]


class Body(NamedTuple):
    """What arrived of a request's body, and whether that is all of it."""

    data: bytes
    complete: bool


class Connection:
    """A request that waits for its answer.

    Parameters
    ----------
    scope, receive, send
        As ASGI passes them to an application.
    hang_up : callable
        Closes the connection of the client that it is given. ASGI has no word for that.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, hang_up: HangUp) -> None:
        self._client = scope.get("client")
        self._receive = receive
        self._send = send
        self._hang_up = hang_up

    async def read(self, limit: int | None = None, cut: int | None = None) -> Body:
        """Return the request's body.

        Parameters
        ----------
        limit : int, optional
            Keep one byte more than this at most. The rest is read and dropped, so that the connection can go on.
        cut : int, optional
            Read no more than so many bytes; the body then counts as broken off.
        """
        pieces: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return Body(b"".join(pieces), complete=False)
            piece, more = message.get("body", b""), message.get("more_body", False)
            if limit is None or size <= limit:
                pieces.append(piece)
                size += len(piece)
            if cut is not None and size >= cut and (more or size > cut):
                return Body(b"".join(pieces)[:cut], complete=False)
        return Body(b"".join(pieces), complete=True)

    async def answer(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, cut: int | None = None
    ) -> None:
        """Send an answer, or its head and the first `cut` bytes of its body."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        end = len(body) if cut is None else min(cut, len(body))
        for first in range(0, max(end, 1), _PIECE):
            last = min(first + _PIECE, end)
            await self._send({"type": "http.response.body", "body": body[first:last], "more_body": last < len(body)})
        if end < len(body):
            await self.close()

    async def close(self) -> None:
        """Close the connection once everything that was sent is on its way."""
        self._hang_up(self._client)
        while (await self._receive())["type"] != "http.disconnect":
            pass
