"""How far a reading has come, told to whoever shows it: at most ten times a second, also while nothing arrives."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from regaudit.client.bulk import Bulk, Result
from regaudit.text import human_bytes

# As often as a person can follow; at 10,000 results a second it costs nothing.
SECONDS_BETWEEN_CALLS = 0.1
# While nothing arrives, so that a pause which the registry asked for is seen to pass.
_TICK = 0.25
# Rates are of the last seconds: long enough to be calm, short enough to follow a registry that slows down.
_WINDOW = 5.0
# Before this the time left would be a guess.
_EARLIEST_ESTIMATE = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a reading has come.

    Attributes
    ----------
    tags_done, tags_total : int
        Tags read, and tags listed so far.
    repositories_done, repositories_total : int
        Repositories that nothing is outstanding for, and repositories to be read.
    requests : int
        Requests of this reading.
    requests_per_second : float
        Over the last seconds.
    in_flight, limit : int
        Requests under way, and how many may be as the registry copes.
    received_bytes : int
        Bytes of answers.
    waiting_seconds : float
        For how much longer nothing starts, because the registry asked for that; 0 where it did not.
    elapsed_seconds : float
        Since the reading began.
    remaining_seconds : float or None
        At the pace of the last seconds; None until all tags are listed and some read.
    """

    tags_done: int
    tags_total: int
    repositories_done: int
    repositories_total: int
    requests: int
    requests_per_second: float = 0.0
    in_flight: int = 0
    limit: int = 0
    received_bytes: int = 0
    waiting_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    remaining_seconds: float | None = None


class Countable(Protocol):
    """A reading, as far as its progress is concerned."""

    tags_done: int

    def counted(self) -> tuple[int, int, int, bool]:
        """Return tags listed, repositories done, repositories to be read, and whether all tags are listed."""


class Meter:
    """Gives the results of a reading, and tells how far it has come."""

    def __init__(self, reading: Countable, counts: Counter[str], show: Callable[[Progress], None]) -> None:
        self._reading, self._counts, self._show = reading, counts, show
        self._before = sum(counts.values())
        self._started = time.monotonic()
        self._shown = -SECONDS_BETWEEN_CALLS
        self._samples: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])

    def results(self, bulk: Bulk) -> Iterator[Result]:
        """Yield the results of a bulk, and show the progress in between and at the end."""
        for result in bulk.results(tick_seconds=_TICK):
            if result is not None:
                yield result
            now = time.monotonic()
            if now - self._shown >= SECONDS_BETWEEN_CALLS:
                self._shown = now
                self._show(self._state(bulk, now))
        self._show(self._state(bulk, time.monotonic()))

    def _state(self, bulk: Bulk, now: float) -> Progress:
        requests = sum(self._counts.values()) - self._before
        done = self._reading.tags_done
        total, repositories_done, repositories, listed = self._reading.counted()
        then, earlier_requests, earlier_done = self._earlier(now, requests, done)
        seconds = max(now - then, 1e-6)
        pace = (done - earlier_done) / seconds
        known = listed and pace > 0 and (now - self._started >= _EARLIEST_ESTIMATE or done == total)
        traffic = bulk.traffic
        return Progress(
            tags_done=done,
            tags_total=total,
            repositories_done=repositories_done,
            repositories_total=repositories,
            requests=requests,
            requests_per_second=(requests - earlier_requests) / seconds,
            in_flight=traffic.in_flight,
            limit=traffic.limit,
            received_bytes=traffic.received,
            waiting_seconds=traffic.waiting_seconds,
            elapsed_seconds=now - self._started,
            remaining_seconds=traffic.waiting_seconds + (total - done) / pace if known else None,
        )

    def _earlier(self, now: float, requests: int, done: int) -> tuple[float, int, int]:
        """Return where the reading was some seconds ago, and remember where it is."""
        while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        self._samples.append((now, requests, done))
        return self._samples[0]


@contextmanager
def shown(*, progress: bool | Callable[[Progress], None]) -> Iterator[Callable[[Progress], None]]:
    """Give the callback that shows progress: the caller's own, a bar, or nothing."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda _: None
    else:
        from tqdm.auto import tqdm

        # Nothing from a registry goes into the bar's text: in a notebook it is HTML. There the bar is as wide as the page, or it
        # would be a dot beside the text.
        with tqdm(total=0, unit="tag", desc="reading", mininterval=SECONDS_BETWEEN_CALLS, dynamic_ncols=True) as bar:

            def show(state: Progress) -> None:
                bar.total = state.tags_total
                bar.update(state.tags_done - bar.n)
                bar.set_postfix_str(in_words(state))

            yield show


def in_words(state: Progress) -> str:
    """Return what a bar says beside the tags and the time left."""
    if state.waiting_seconds > 0:
        return f"the registry asks to wait {state.waiting_seconds:.0f} s"
    return (
        f"{state.repositories_done:,}/{state.repositories_total:,} repositories, "
        f"{state.requests_per_second:,.0f} requests/s, {state.in_flight} in flight, {human_bytes(state.received_bytes)}"
    )


__all__ = ["Progress"]
