"""How many requests are let in: a registry that exists only as a number of workers, a service time and a distance."""

from __future__ import annotations

import heapq
import random
from collections import deque

import pytest

from regaudit.client.throttle import Gate, Throttle


class Registry:
    """A registry in simulated time.

    Parameters
    ----------
    workers : int
        How many requests it serves at a time; the others wait in its queue.
    service : float
        Seconds for each of them.
    distance : float
        Seconds there and back.
    spread : float
        By which part a service time may be longer or shorter.
    refuses : callable
        Whether the request at a time is answered 429.
    """

    def __init__(self, workers, service, distance=0.0, spread=0.0, refuses=lambda now, flying: False):
        self.workers, self.service, self.distance, self.spread = workers, service, distance, spread
        self.refuses = refuses
        self.random = random.Random(7)
        self.now = 0.0
        self.served = self.busy = self.number = 0
        self.events, self.queue = [], deque()

    def run(self, throttle, seconds, purposes=("manifest",)):
        """Let the client ask as fast as it may; return the limits after each answer."""
        limits, until = [], self.now + seconds
        while True:
            while (ticket := throttle.depart(self.now)) is not None:
                refused = self.refuses(self.now, throttle.flying)
                request = (ticket, self.now, purposes[self.number % len(purposes)], refused)
                self.later(self.distance / 2, "arrives", request)
            if not self.events or self.events[0][0] > until:
                self.now = until
                return limits
            self.now, _, what, request = heapq.heappop(self.events)
            if what == "answered":
                ticket, left, purpose, refused = request
                throttle.arrive(ticket, self.now, good=not refused, purpose=purpose, seconds=self.now - left)
                self.served += not refused
                limits.append(throttle.limit)
            elif what == "arrives":
                self.queue.append(request)
            else:
                self.busy -= 1
                self.later(self.distance / 2, "answered", request)
            self.serve()

    def serve(self):
        while self.queue and self.busy < self.workers:
            self.busy += 1
            slow = self.service * (20 if self.queue[0][2] == "tags" else 1)
            self.later(slow * (1 + self.random.uniform(-self.spread, self.spread)), "served", self.queue.popleft())

    def later(self, seconds, what, request):
        self.number += 1
        heapq.heappush(self.events, (self.now + seconds, self.number, what, request))


def typical(limits):
    return sorted(limits)[len(limits) // 2]


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.8])
@pytest.mark.parametrize(("workers", "service"), [(1, 0.001), (2, 0.002), (2, 0.0003), (4, 0.004)])
def test_nearby_it_settles_where_the_registry_is_busy_and_little_waits(workers, service, spread):
    registry, throttle = Registry(workers, service, spread=spread), Throttle(64)
    registry.run(throttle, 20_000 * service / workers)
    limits = registry.run(throttle, 20_000 * service / workers)
    assert 4 <= typical(limits) <= 4 + 2 * workers
    assert max(limits) <= 16


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.8])
def test_far_away_it_lets_in_what_keeps_the_registry_busy(spread):
    """700 requests a second at 100 ms there and back: some seventy must be on their way."""
    registry, throttle = Registry(2, 1 / 350, distance=0.1, spread=spread), Throttle(128)
    first = registry.run(throttle, 3)
    assert max(first) >= 60, "within three seconds"
    limits, served = registry.run(throttle, 30), registry.served
    assert 60 <= typical(limits) <= 110
    registry.run(throttle, 30)
    assert (registry.served - served) / 30 > 0.9 * 700


def test_the_ceiling_is_never_passed():
    for ceiling in (1, 3, 64):
        throttle = Throttle(ceiling)
        limits = Registry(100, 0.001, distance=0.1).run(throttle, 20)
        assert max(limits) <= ceiling
        assert limits[-1] == ceiling or limits[-1] == ceiling // 2


def test_a_slow_kind_of_request_is_not_taken_for_a_queue():
    quick = Registry(8, 0.002, distance=0.05)
    quick.run(alone := Throttle(64), 20)
    mixed = Registry(8, 0.002, distance=0.05)
    mixed.run(both := Throttle(64), 20, purposes=("manifest", "manifest", "manifest", "tags"))
    assert both.limit >= alone.limit / 2


def test_it_follows_a_registry_that_moves_away_and_comes_back():
    registry, throttle = Registry(2, 1 / 350), Throttle(128)
    near = registry.run(throttle, 30)
    registry.distance = 0.1
    far = registry.run(throttle, 40)
    registry.distance = 0.0
    again = registry.run(throttle, 60)
    assert typical(near[-2000:]) <= 10
    assert typical(far[-2000:]) >= 50
    assert typical(again[-2000:]) <= 12


def test_it_halves_when_the_registry_groans_and_recovers():
    throttle = Throttle(64)
    for limit in (4, 2, 1, 1):
        ticket = throttle.depart(0.0)
        throttle.arrive(ticket, 0.0, good=False)
        assert throttle.limit == limit
    registry = Registry(20, 0.01, distance=0.05)
    assert max(registry.run(throttle, 30)) >= 30


def test_many_refusals_of_one_round_halve_once():
    throttle = Throttle(8)
    tickets = [throttle.depart(0.0) for _ in range(8)]
    assert throttle.depart(0.0) is None
    for ticket in tickets:
        throttle.arrive(ticket, 0.0, good=False)
    assert throttle.limit == 4


def test_a_registry_that_refuses_more_than_so_many_is_asked_for_about_so_many():
    registry = Registry(100, 0.01, distance=0.05, refuses=lambda now, flying: flying > 20)
    throttle = Throttle(64)
    registry.run(throttle, 10)
    limits = registry.run(throttle, 60)
    assert 8 <= typical(limits) <= 22


def test_who_asks_for_less_than_the_limit_does_not_raise_it():
    throttle = Throttle(64)
    for number in range(1000):
        throttle.arrive(throttle.depart(number), number, good=True, purpose="x", seconds=0.1)
    assert throttle.limit <= 8


def test_a_pause_lets_nobody_in_until_it_is_over():
    throttle = Throttle(8)
    throttle.pause(10.0, 5.0)
    throttle.pause(10.0, 1.0)
    assert (throttle.depart(14.9), throttle.waiting(14.0)) == (None, 1.0)
    assert throttle.depart(15.0) is not None
    assert throttle.waiting(16.0) == 0.0


def test_what_has_passed_is_counted():
    gate = Gate(8, clock=lambda: 1.0)
    first, second = gate.try_enter(), gate.try_enter()
    gate.leave(first, good=True, received=100)
    gate.pause(3.0)
    traffic = gate.traffic()
    assert (traffic.requests, traffic.received, traffic.in_flight, traffic.limit) == (1, 100, 1, 8)
    assert traffic.waiting_seconds == 3.0
    gate.leave(second, good=True)
    assert gate.traffic().requests == 1, "an exchange that failed is none"


@pytest.mark.parametrize(("workers", "service", "distance"), [(2, 1 / 350, 0.1), (4, 1 / 350, 0.1), (2, 1 / 500, 0.2)])
def test_it_doubles_each_time_there_and_back(workers, service, distance):
    """From 8 to the hundred and more that are needed in seven times there and back: three to see what is typical, four doublings."""
    registry, throttle = Registry(workers, service, distance=distance), Throttle(128)
    assert max(registry.run(throttle, 8 * (distance + service))) >= 64


def test_five_thousand_answers_from_afar_take_little_longer_than_with_the_number_that_is_best():
    registry, throttle = Registry(2, 1 / 350, distance=0.1, spread=0.3), Throttle(128)
    while registry.served < 5000:
        registry.run(throttle, 0.05, purposes=("manifest", "blob"))
    assert 5000 / 700 / registry.now > 0.9
