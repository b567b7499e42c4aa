"""Many conversations at once, in both ways: order, sharing, waiting, stopping, and what is left behind."""

from __future__ import annotations

import gc
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from drivers import interrupt_when
from hostile import Cut, Stall, reply

from regaudit.client import v2
from regaudit.client.exchange import Once, Wait, send
from regaudit.client.exchange import Request as _Request
from regaudit.client.rates import RateLimit
from regaudit.client.registry import Registry
from regaudit.client.transport import Interrupted
from regaudit.errors import NotFound, UsageError

pytestmark = pytest.mark.usefixtures("each_bulk")


def request(registry, path, purpose="test"):
    return _Request("GET", f"{registry.session.base}{path}", purpose)


def ask(registry, path):
    return (yield from send(registry.session, request(registry, path)))


def ours():
    """Return the threads of the client that are alive."""
    return {
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("regaudit-") and not thread.name.startswith("regaudit-sandbox") and thread.is_alive()
    }


def descriptors():
    return set(Path("/proc/self/fd").iterdir()) if sys.platform == "linux" else set()


def stalling(hostile, count):
    """Let every request stand still; the event is set once `count` have arrived."""
    arrived, lock, seen = threading.Event(), threading.Lock(), []

    def stall(one):
        with lock:
            seen.append(one)
            if len(seen) == count:
                arrived.set()
        return Stall()

    hostile.on("*", stall)
    return arrived


def collect(registry, count):
    with registry.bulk() as bulk:
        for number in range(count):
            bulk.submit(number, ask(registry, f"/{number}"))
        return list(bulk.results())


# -- what comes back -------------------------------------------------------------------------


def test_results_and_errors_come_under_their_keys_and_more_may_be_submitted_meanwhile(sample_registry, sample):
    registry, found = sample_registry, {}
    with registry.bulk() as bulk:
        for part in sample.repositories:
            bulk.submit(part.name, v2.tags(registry.session, part.name))
        bulk.submit("no/such", v2.head_manifest(registry.session, "no/such", "v1"))
        for result in bulk.results():
            found[result.key] = result
            if isinstance(result.value, v2.Listing):
                for tag in result.value.names[:2]:
                    name = f"{result.key}:{tag}"
                    bulk.submit(name, v2.head_manifest(registry.session, result.key, tag))
    assert isinstance(found.pop("no/such").error, NotFound)
    for part in sample.repositories:
        assert sorted(found.pop(part.name).value.names) == sorted(part.tags | part.broken)
    assert len(found) > 10
    for name, result in found.items():
        repository, _, tag = name.partition(":")
        expected = sample.repository(repository).tags.get(tag)
        assert (result.value.digest if result.error is None else None) == expected


def test_ten_thousand_conversations_end_and_few_connections_are_made(hostile, each_bulk):
    count = 10_000 if each_bulk == "libcurl" else 1000  # threads take as much time as a test may
    hostile.on("*", reply(200, b"x"))
    with Registry(hostile.host, in_flight=8) as registry, registry.bulk() as bulk:
        for number in range(count):
            bulk.submit(number, ask(registry, f"/{number}"))
        assert {result.key for result in bulk.results() if result.value.status == 200} == set(range(count))
        assert bulk.traffic.requests == bulk.traffic.received == count
        assert bulk.traffic.in_flight == 0
    assert hostile.connections <= 8


def test_an_audit_under_faults_finds_what_it_finds_without(hostile):
    """Every tenth reply is a 429, and every fiftieth connection is reset."""
    lock, number = threading.Lock(), 0

    def flaky(seen):
        nonlocal number
        with lock:
            number += 1
            mine = number
        name = seen.path.removeprefix("/v2/").removesuffix("/tags/list")
        if mine % 50 == 0:
            return Cut(b"", 0, reset=True)
        busy = reply(429, headers={"Retry-After": "0"})
        return busy if mine % 10 == 0 else reply(json={"name": name, "tags": [name[-1]]})

    hostile.on("*", flaky)
    names = [f"team/app{number}" for number in range(200)]
    with Registry(hostile.host) as registry, registry.bulk() as bulk:
        for name in names:
            bulk.submit(name, v2.tags(registry.session, name))
        found = {result.key: result.value.all() for result in bulk.results()}
    assert found == {name: (name[-1],) for name in names}


def test_a_fault_of_our_own_reaches_whoever_collects(sample_registry):
    def faulty():
        yield Wait(0)
        raise ZeroDivisionError

    with sample_registry.bulk() as bulk:
        bulk.submit("x", faulty())
        with pytest.raises(ZeroDivisionError):
            list(bulk.results())


def test_one_bulk_after_the_other_uses_the_same_connections(hostile):
    hostile.on("*", reply(200, b"x"))
    with Registry(hostile.host, in_flight=1) as registry:
        for _ in range(3):
            with registry.bulk() as bulk:
                bulk.submit("x", ask(registry, "/x"))
                assert [result.value.body for result in bulk.results()] == [b"x"]
    assert hostile.connections == 1


def test_two_bulks_of_one_registry_may_be_open_at_once(hostile):
    hostile.on("*", reply(200, b"x"))
    with Registry(hostile.host) as registry, registry.bulk() as outer:
        outer.submit("a", ask(registry, "/a"))
        for result in outer.results():
            with registry.bulk() as inner:
                inner.submit("b", ask(registry, "/b"))
                assert [found.key for found in (result, *inner.results())] == ["a", "b"]


# -- Wait, Once and the ceiling --------------------------------------------------------------


def test_no_more_requests_than_allowed_are_in_flight(hostile):
    flying, most, started, lock = 0, 0, 0, threading.Lock()
    gate = threading.Barrier(3)

    def count(seen):
        nonlocal flying, most, started
        with lock:
            flying += 1
            most, started = max(most, flying), started + 1
            first = started <= 3
        if first:  # later it may have found that fewer are as quick
            gate.wait(5)
        with lock:
            flying -= 1
        return reply(json={"name": seen.path.removeprefix("/v2/").removesuffix("/tags/list"), "tags": []})

    hostile.on("*", count)
    with Registry(hostile.host, in_flight=3) as registry, registry.bulk() as bulk:
        for number in range(12):
            bulk.submit(number, v2.tags(registry.session, f"team/app{number}"))
        assert all(result.value.error is None for result in bulk.results())
    assert most == 3


def test_when_one_is_told_to_wait_everyone_does(hostile):
    arrived = []

    def answered(seen):
        arrived.append(time.monotonic())
        return reply(429, headers={"Retry-After": "1"}) if len(arrived) == 1 else reply(200, b"x")

    hostile.on("*", answered)
    with Registry(hostile.host, in_flight=1) as registry, registry.bulk() as bulk:
        for path in ("/a", "/b", "/c"):
            bulk.submit(path, ask(registry, path))
        waited = [bulk.traffic.waiting_seconds for result in bulk.results()]
    assert all(time - arrived[0] > 0.9 for time in arrived[1:])
    assert len(arrived) == 4
    assert waited[-1] == 0.0


def test_when_nothing_is_left_everyone_waits_until_there_is_more_and_nobody_is_told_no(hostile):
    arrived = []

    def answered(seen):
        arrived.append(time.monotonic())
        left = {"RateLimit-Limit": "100;w=3600", "RateLimit-Remaining": "0;w=3600", "RateLimit-Reset": "1"}
        return reply(200, b"x", headers=left if len(arrived) == 1 else {})

    hostile.on("*", answered)
    with Registry(hostile.host, in_flight=1) as registry, registry.bulk() as bulk:
        for path in ("/a", "/b"):
            bulk.submit(path, ask(registry, path))
        first = next(results := bulk.results())
        assert first.value.body == b"x", "who has an answer does not wait"
        assert 0 < bulk.traffic.waiting_seconds <= 1
        assert len(list(results)) == 1
        assert registry.session.rate_limit == RateLimit(100, 0, 1.0, 3600.0)
    assert arrived[1] - arrived[0] > 0.9


def test_what_many_need_once_is_run_once_and_its_error_is_everybodys(hostile):
    hostile.on("*", reply(200, b"x"))
    ran = []

    def shared(registry):
        ran.append(1)
        yield Wait(0.2)
        yield from ask(registry, "/shared")
        raise NotFound("gone")

    def conversation(registry):
        return (yield Once("key", shared(registry)))

    with Registry(hostile.host) as registry, registry.bulk() as bulk:
        for number in range(4):
            bulk.submit(number, conversation(registry))
        errors = [result.error for result in bulk.results()]
    assert [str(error) for error in errors] == ["gone"] * 4
    assert (len(ran), len(hostile.requests)) == (1, 1)


def test_what_is_needed_once_may_need_something_once_itself(hostile):
    hostile.on("*", reply(200, b"x"))

    def inner(registry):
        return (yield from ask(registry, "/inner"))

    def outer(registry):
        yield Wait(0.05)
        return (yield Once("inner", inner(registry)))

    def conversation(registry):
        first = yield Once("outer", outer(registry))
        second = yield Once("inner", inner(registry))
        return first.body + second.body

    with Registry(hostile.host) as registry, registry.bulk() as bulk:
        for number in range(4):
            bulk.submit(number, conversation(registry))
        assert [result.value for result in bulk.results()] == [b"xx"] * 4
    assert len(hostile.requests) <= 5, "one for the outer, and one for each that came after it"


def test_a_fault_of_ours_in_what_many_need_reaches_whoever_collects(hostile):
    def shared():
        yield Wait(0.05)
        raise ZeroDivisionError

    def conversation():
        return (yield Once("key", shared()))

    with Registry(hostile.host) as registry, registry.bulk() as bulk:
        for number in range(3):
            bulk.submit(number, conversation())
        with pytest.raises(ZeroDivisionError):
            list(bulk.results())


# -- stopping --------------------------------------------------------------------------------


def test_ctrl_c_ends_it_within_a_second_and_leaves_nothing_running(hostile, capfd):
    before, open_before = ours(), descriptors()
    arrived = stalling(hostile, 4)
    with Registry(hostile.host, in_flight=4) as registry:
        thread = interrupt_when(arrived)
        with pytest.raises(KeyboardInterrupt):
            collect(registry, 20)
        stopped = time.monotonic()
        thread.join()
        assert time.monotonic() - stopped < 1
        assert {thread.name for thread in ours() - before} <= {"regaudit-watchdog"}
        assert len(hostile.requests) == 4, "nothing more was begun"
        hostile.on("*", reply(json={"name": "team/app", "tags": ["a"]}))
        assert registry.repository("team/app").tags() == ["a"], "the registry can be used again"
        with registry.bulk() as bulk:
            bulk.submit("x", v2.tags(registry.session, "team/app"))
            assert [result.value.names for result in bulk.results()] == [("a",)]
    hostile.close()
    gc.collect()
    assert ours() == before
    assert len(descriptors()) <= len(open_before), "but for the server's own, which is closed"
    assert capfd.readouterr().err == ""


def test_another_thread_may_cancel_and_whoever_waits_for_results_wakes_up(hostile):
    arrived = stalling(hostile, 4)
    with Registry(hostile.host, in_flight=4) as registry, registry.bulk() as bulk:
        for number in range(8):
            bulk.submit(number, ask(registry, f"/{number}"))
        cancelled = []

        def cancel():
            assert arrived.wait(10)
            cancelled.append(time.monotonic())
            bulk.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        assert list(bulk.results()) == []
        assert time.monotonic() - cancelled[0] < 1
        thread.join()


def test_cancelling_ends_a_wait_of_a_minute(hostile):
    arrived = threading.Event()

    def busy(seen):
        arrived.set()
        return reply(429, headers={"Retry-After": "60"})

    hostile.on("*", busy)
    with Registry(hostile.host, in_flight=4) as registry, registry.bulk() as bulk:
        bulk.submit("x", ask(registry, "/x"))
        thread = threading.Thread(target=lambda: (arrived.wait(10), bulk.cancel()))
        thread.start()
        started = time.monotonic()
        assert list(bulk.results()) == []
        assert time.monotonic() - started < 2
        thread.join()


def test_closing_the_registry_below_a_bulk_is_noticed(hostile):
    arrived = stalling(hostile, 2)
    registry = Registry(hostile.host, in_flight=4)
    with registry.bulk() as bulk:
        for number in range(2):
            bulk.submit(number, ask(registry, f"/{number}"))
        thread = threading.Thread(target=lambda: (arrived.wait(10), registry.close()))
        thread.start()
        with pytest.raises(Interrupted):
            list(bulk.results())
        thread.join()
    with pytest.raises(UsageError, match="was closed: make a new Registry"):
        registry.bulk()


def test_conversations_that_were_not_run_are_closed_without_a_warning(hostile):
    ended = []

    def conversation(registry):
        try:
            yield from ask(registry, "/x")
        finally:
            ended.append(1)

    hostile.on("*", reply(200, b"x"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Registry(hostile.host, in_flight=1) as registry, registry.bulk() as bulk:
            for number in range(5):
                bulk.submit(number, conversation(registry))
            next(bulk.results())
        gc.collect()
    assert 1 <= len(ended) <= 5
