"""The requests of an audit, as its own log tells them, to be replayed by somebody else.

The logger ``regaudit.client`` makes a record for each request and each response (`regaudit.log`); with headers where
it is set to `BODIES`. From the order of those follows how many were in flight at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from regaudit.log import BODIES


@dataclass(frozen=True, slots=True)
class Sent:
    """A request: what stands in its first line, and the header that decides the answer."""

    method: str
    path: str
    accept: str = "*/*"


@dataclass(frozen=True, slots=True)
class Recording:
    """The requests of an audit, and how many were in flight: for half of the time so many or fewer, and at most."""

    sent: tuple[Sent, ...]
    in_flight: int
    in_flight_most: int

    @classmethod
    def of(cls, records: Iterable[tuple[float, str, Sent]]) -> Recording:
        """Make one of (time in seconds, event, request), in the order of the log."""
        sent: list[Sent] = []
        spent: dict[int, float] = {}  # seconds, by the number in flight
        flying, before = 0, 0.0
        for time, event, one in records:
            spent[flying] = spent.get(flying, 0.0) + (time - before if before else 0.0)
            before = time
            flying += 1 if event == "request" else -1
            if event == "request":
                sent.append(one)
        return cls(tuple(sent), _middle(spent), max(spent, default=0))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Recording:
        read: dict[str, Any] = json.loads(path.read_text())
        return cls(tuple(Sent(**one) for one in read["sent"]), read["in_flight"], read["in_flight_most"])


def _middle(spent: dict[int, float]) -> int:
    """Return the number that was not exceeded for half of the time."""
    half, passed = sum(spent.values()) / 2, 0.0
    for number, seconds in sorted(spent.items()):
        passed += seconds
        if passed >= half:
            return max(number, 1)
    return 1


class Recorder(logging.Handler):
    """A handler that keeps what a `Recording` is made of."""

    def __init__(self) -> None:
        super().__init__(BODIES)
        self.records: list[tuple[float, str, Sent]] = []

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event not in {"request", "response", "fault"}:
            return
        url = urlsplit(record.url)
        path = f"{url.path}?{url.query}" if url.query else url.path
        headers = getattr(record, "headers", {}) if event == "request" else {}
        accept = next((value for name, value in headers.items() if name.lower() == "accept"), "*/*")
        self.records.append((record.created, str(event), Sent(record.method, path, accept)))

    def __enter__(self) -> Self:
        logger = logging.getLogger("regaudit.client")
        self._level = logger.level
        logger.setLevel(BODIES)
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("regaudit.client")
        logger.removeHandler(self)
        logger.setLevel(self._level)

    def recording(self) -> Recording:
        return Recording.of(self.records)
