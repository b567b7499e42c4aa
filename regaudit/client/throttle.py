"""How many requests may be in flight to a registry: found by watching how long its answers take.

A small docker-registry on two cores peaks at four to eight in flight, and what is sent beyond that only waits in
its queue; at 50 ms of distance each way some seventy are needed to keep the same registry busy. Neither number
can be a constant. But a queue shows in the time to the first byte: it grows with every request that waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import TypeAlias

from regaudit.client.exchange import Traffic
from regaudit.client.transport import GLANCE, Stop

# What most registries serve without a queue; measured: two cores of docker-registry peak at four to eight.
START = 8
# A round of fewer answers says little; that on trial is what the others are held against, for long.
_LEAST_ROUND = 8
_LEAST_TRIAL = 32
# How often the number is halved for one round, to see how fast the registry is without a queue of ours: its
# state changes, and a queue that stands for long would pass for distance. One round of half the number in ten
# seconds costs a hundredth of the time at most.
_PROBE_SECONDS = 10.0
# A number of requests at which it groaned is neared one by one, every other in eighths.
_STEP = 8

# A place in flight: the number of the round in which its request left.
Ticket: TypeAlias = int


class Throttle:
    """How many requests may be in flight, and until when none may start. Pure: it is told the time.

    It counts in rounds of about as many answers as are in flight. After each it estimates how many of the
    requests stood in a queue, ``limit * (1 - unqueued / typical)``, from the time to the first byte for each
    kind of request, and lets in more where nearly none did, fewer where many did: doubling at the beginning,
    by an eighth later. `unqueued` is what was typical when the number was last halved on trial, and the least
    of the rounds before that. Every 429, 503 and time-out halves the number, once a round.

    Parameters
    ----------
    ceiling : int
        The most that may be in flight, whatever the registry can do.

    Attributes
    ----------
    limit : int
        How many may be in flight.
    flying : int
        How many are.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = max(1, ceiling)
        self.limit = min(START, self._ceiling)
        self.flying = 0
        self._not_before = -math.inf
        self._doubling = True
        self._groaned = math.inf
        self._pressed = False
        self._round = 0
        self._times: defaultdict[str, list[float]] = defaultdict(list)
        self._answers, self._enough = 0, _LEAST_ROUND
        self._unqueued: dict[str, float] = {}
        self._probing_from: int | None = None
        self._probed = -math.inf

    def depart(self, now: float) -> Ticket | None:
        """Let one request start, or return None where there is no place for it."""
        if now < self._not_before:
            return None
        if self.flying >= self.limit:
            self._pressed = True
            return None
        self.flying += 1
        return self._round

    def arrive(
        self, ticket: Ticket, now: float, *, good: bool, purpose: str = "", seconds: float | None = None
    ) -> None:
        """Take the place back.

        Parameters
        ----------
        good : bool
            Whether the registry coped: no 429, no 503, no time-out.
        seconds : float or None
            From the end of the request to the first byte of its answer, None where that says nothing.
        """
        self.flying -= 1
        current = ticket == self._round
        if not good and (current or self.limit == 1):
            self._groan()
        elif current and seconds is not None:
            self._times[purpose].append(seconds)
            self._answers += 1
            if self._answers >= self._enough:
                self._end_round(now)

    def pause(self, now: float, seconds: float) -> None:
        """Let nobody start for some seconds."""
        self._not_before = max(self._not_before, now + seconds)

    def waiting(self, now: float) -> float:
        """Return for how many more seconds nobody may start."""
        return max(0.0, self._not_before - now)

    def _groan(self) -> None:
        self._doubling, self._probing_from = False, None
        self._groaned = self.limit
        self._begin_round(self.limit // 2)

    def _end_round(self, now: float) -> None:
        queued = self._queued()
        if self._probing_from is not None:
            self._end_probe(now)
        elif queued is None:
            self._begin_round(self.limit)  # what is new has to be seen once before it can be held against itself
        elif self._doubling:
            self._double(queued, now)
        elif now - self._probed > _PROBE_SECONDS and self.limit > 1:
            self._begin_probe(self.limit)
        else:
            self._begin_round(self.limit + self._change(queued))

    def _queued(self) -> float | None:
        """Return how many of the requests in flight stood in a queue, by this round's times; learn from them.

        None where most of them were of a kind that was not seen before.
        """
        share, known = 0.0, 0
        for purpose, times in self._times.items():
            typical, best = median(times), self._unqueued.get(purpose)
            if best is None:
                self._unqueued[purpose] = typical
                continue
            known += len(times)
            share += len(times) * max(0.0, 1 - best / typical if typical > 0 else 0.0)
            if self._doubling:
                self._unqueued[purpose] = min(best, typical)
        return self.limit * share / known if 2 * known > self._answers else None

    def _double(self, queued: float, now: float) -> None:
        if not self._pressed:
            self._begin_round(self.limit)
        elif queued > self.limit / 4:
            # Half of it would be all that was doubled last; what is sent at once queues a little in any case.
            # Go back to those that did not wait, and look from there how fast it is with less.
            self._doubling = False
            self._begin_probe(max(1, self.limit // 2, int(self.limit - queued)))
        elif self.limit >= self._ceiling:
            self._doubling, self._probed = False, now
            self._begin_round(self.limit)
        else:
            self._begin_round(self.limit * 2)

    def _change(self, queued: float) -> int:
        step = 1 if 2 * self.limit >= self._groaned else max(1, self.limit // _STEP)
        if queued > self._many:
            return -max(1, self.limit // _STEP)
        return step if queued < self._few and self._pressed else 0

    @property
    def _few(self) -> float:
        """So many in the queue keep the registry busy; of many in flight, times that vary look like a few more."""
        return 2 + self.limit / 20

    @property
    def _many(self) -> float:
        return 3 + self.limit / 10

    def _begin_probe(self, afterwards: int) -> None:
        self._probing_from = afterwards
        self._unqueued.clear()
        self._begin_round(afterwards // 2)

    def _end_probe(self, now: float) -> None:
        afterwards, self._probing_from, self._probed = self._probing_from, None, now
        self._begin_round(afterwards or 1)

    def _begin_round(self, limit: int) -> None:
        """Begin to count anew: who left before tells of another number in flight."""
        self.limit = min(self._ceiling, max(1, limit))
        self._round += 1
        self._times.clear()
        self._answers, self._enough = 0, self._round_length()
        self._pressed = False

    def _round_length(self) -> int:
        """Return how many answers end a round. While it doubles, those that the last doubling let in: one time there and back."""
        if self._probing_from is not None:
            return max(_LEAST_TRIAL, self.limit)
        return max(_LEAST_ROUND, self.limit // 2 if self._doubling else self.limit)


class Gate:
    """The throttle of one registry, shared by all that speak to it, and what has passed through it.

    Safe to share between threads.
    """

    def __init__(self, ceiling: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._throttle = Throttle(ceiling)
        self._clock = clock
        # the plain lock, and not the condition: every request passes it twice
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        self._requests, self._received = 0, 0

    def try_enter(self) -> Ticket | None:
        """Return a place where there is one now."""
        with self._lock:
            return self._throttle.depart(self._clock())

    def enter(self, stop: Stop) -> Ticket:
        """Wait for a place; raises `Interrupted` when told to stop."""
        with self._lock:
            self._waiting += 1
            try:
                while (ticket := self._throttle.depart(self._clock())) is None:
                    stop.check()
                    pause = self._throttle.waiting(self._clock())
                    self._changed.wait(min(GLANCE, pause) if pause > 0 else GLANCE)
            finally:
                self._waiting -= 1
            return ticket

    def leave(
        self,
        ticket: Ticket,
        *,
        good: bool,
        purpose: str = "",
        seconds: float | None = None,
        received: int | None = None,
    ) -> None:
        """Give the place back, and say how the registry coped.

        Parameters
        ----------
        seconds : float or None
            To the first byte of the answer, None where that says nothing.
        received : int or None
            Bytes of its body, None where the exchange failed.
        """
        with self._lock:
            self._throttle.arrive(ticket, self._clock(), good=good, purpose=purpose, seconds=seconds)
            if received is not None:
                self._requests += 1
                self._received += received
            if self._waiting:
                self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Let nobody start a request for some seconds."""
        with self._lock:
            self._throttle.pause(self._clock(), seconds)
            self._changed.notify_all()

    @property
    def pausing(self) -> float:
        """For how many more seconds nobody may start."""
        with self._lock:
            return self._throttle.waiting(self._clock())

    def traffic(self, since: Traffic | None = None) -> Traffic:
        """Return what is in flight, and what has passed since an earlier look, or in all."""
        with self._lock:
            return Traffic(
                requests=self._requests - (since.requests if since else 0),
                received=self._received - (since.received if since else 0),
                in_flight=self._throttle.flying,
                limit=self._throttle.limit,
                waiting_seconds=self._throttle.waiting(self._clock()),
            )
