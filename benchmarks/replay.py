"""Replays a list of requests once, with HEADs in it: what wrk cannot, since it waits for the body that a HEAD announces.

    python benchmarks/replay.py 127.0.0.1:5000 recording.json --connections 8

Nothing is understood but where an answer ends. It costs some hundredths of a millisecond per request, little beside what a registry
takes; `audit.py` lets it and wrk replay the same GETs in turns, so that one can see how near it comes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from recording import Recording, Sent

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


def ended(answer: bytes, method: str) -> bool:
    """Tell whether an answer is there as a whole."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank:
        return False
    if method == "HEAD":
        return True
    length = _LENGTH.search(head)
    if length is not None:
        return len(body) >= int(length[1])
    return body.endswith(b"0\r\n\r\n") if _CHUNKED.search(head) else True


class Connection:
    """One connection, and the answer that is coming in over it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.method, self.answer = "", b""

    def ask(self, request: tuple[str, bytes]) -> None:
        self.method, data = request
        self.answer = b""
        self.socket.sendall(data)

    def hear(self) -> bool:
        """Take in what has come; True where the answer is complete."""
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionError("the server closed a connection")
        self.answer = self.answer + piece if self.answer else piece
        return ended(self.answer, self.method)


def replay(host: str, sent: Sequence[Sent], connections: int) -> float:
    """Return the seconds that all of the requests took, over so many connections."""
    name, _, port = host.rpartition(":")
    waiting = iter([(one.method, _bytes(one, host)) for one in sent])
    opened = [Connection((name, int(port))) for _ in range(min(connections, len(sent)))]
    known = {one.socket.fileno(): one for one in opened}
    with select.epoll() as poll:
        for number in known:
            poll.register(number, select.EPOLLIN)
        started = time.perf_counter()
        for one in opened:
            one.ask(next(waiting))
        _drive(poll, known, waiting)
        seconds = time.perf_counter() - started
    for one in opened:
        one.socket.close()
    return seconds


def _drive(poll: select.epoll, known: dict[int, Connection], waiting: Iterator[tuple[str, bytes]]) -> None:
    busy = len(known)
    while busy:
        for number, _ in poll.poll():
            if not known[number].hear():
                continue
            request = next(waiting, None)
            if request is None:
                busy -= 1
                poll.unregister(number)
            else:
                known[number].ask(request)


def _bytes(one: Sent, host: str) -> bytes:
    return f"{one.method} {one.path} HTTP/1.1\r\nHost: {host}\r\nAccept: {one.accept}\r\n\r\n".encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", metavar="HOST:PORT")
    parser.add_argument("recording", type=Path)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--as-get", action="store_true", help="send every HEAD as a GET, to compare with wrk")
    given = parser.parse_args()
    sent = list(Recording.load(given.recording).sent)
    if given.as_get:
        sent = [replace(one, method="GET") for one in sent]
    random.Random(1).shuffle(sent)
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = replay(given.host, sent, given.connections)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": seconds, "requests": len(sent), "cpu": cpu}))


if __name__ == "__main__":
    main()
