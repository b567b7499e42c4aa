"""A distance to put before a server: passes TCP on and delays each direction, so that a round trip takes twice that.

    python benchmarks/delay.py 127.0.0.1:5000 --milliseconds 50

prints the address that it listens on. Only bytes are delayed, not the handshake of TCP: whoever opens a connection
for each request, as a loop over a command does, would wait a round trip longer on a real line.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Self


class Direction(asyncio.Protocol):
    """What one side sends, and when the other is given it.

    Every piece has a timer of its own, and a timer that ends delivers the oldest piece, whichever it is: so
    pieces keep their order even where two timers end at once.
    """

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.waiting: deque[bytes | None] = deque()
        self.target: asyncio.Transport | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._later(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._later(None)

    def _later(self, piece: bytes | None) -> None:
        self.waiting.append(piece)
        asyncio.get_running_loop().call_later(self.delay, self._deliver)

    def _deliver(self) -> None:
        piece = self.waiting.popleft()
        if self.target is None or self.target.is_closing():
            return
        if piece is None:
            self.target.close()
        else:
            self.target.write(piece)


class Caller(Direction):
    """A client's connection: opens one to the server, and holds back what comes before that stands."""

    def __init__(self, delay: float, host: str, port: int) -> None:
        super().__init__(delay)
        self.host, self.port = host, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self.opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        assert self.transport is not None
        answers = Direction(self.delay)
        answers.target = self.transport
        try:
            self.target, _ = await asyncio.get_running_loop().create_connection(lambda: answers, self.host, self.port)
        except OSError:
            self.transport.abort()
            return
        self.transport.resume_reading()


async def forward(host: str, port: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    # a backlog as deep as any loop of processes is wide
    server = await loop.create_server(lambda: Caller(delay, host, port), "127.0.0.1", 0, backlog=1024)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


class Delay:
    """A forwarder in a process of its own, from the ``with`` to its end; `host` is where it listens."""

    def __init__(self, target: str, milliseconds: float) -> None:
        self._command = [sys.executable, str(Path(__file__)), target, "--milliseconds", str(milliseconds)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.host = self._process.stdout.readline().strip()
        if not self.host:
            raise RuntimeError("the forwarder did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--milliseconds", type=float, default=50, help="for each direction (50)")
    given = parser.parse_args()
    host, _, port = given.target.rpartition(":")
    asyncio.run(forward(host, int(port), given.milliseconds / 1000))


if __name__ == "__main__":
    main()
