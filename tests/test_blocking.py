"""The driver below the conversations: its own corners, its watchdog, TLS, and many conversations at once."""

from __future__ import annotations

import errno
import gc
import http.client
import io
import os
import socket
import ssl
import subprocess
import threading
import time
import warnings
from pathlib import Path

import pytest
import requests
import responses
from conftest import need
from hostile import Cut, Drip, Hostile, Stall, error, reply

from regaudit.client import blocking, v2
from regaudit.client.blocking import BlockingDriver, Interrupted, Stop, Throttle, Transport
from regaudit.client.exchange import ERROR_CAP, Once, Request, Wait, send
from regaudit.client.registry import Registry
from regaudit.errors import (
    AddressRefused,
    BadResponse,
    NotFound,
    TimedOut,
    TooLarge,
    TruncatedResponse,
    Unreachable,
    UsageError,
)

TAGS = "GET /v2/team/app/tags/list"
LISTED = reply(json={"name": "team/app", "tags": ["a"]})


@pytest.fixture
def driver():
    driver = BlockingDriver(Transport())
    yield driver
    driver.close()


def one(request):
    return (yield request)


def get(url, method="GET", **options):
    return Request(method, url, "test", **options)


def interrupt():
    raise KeyboardInterrupt


def ours():
    """Return the threads of the client that are alive."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("regaudit-") and thread.is_alive()} - {
        thread for thread in threading.enumerate() if thread.name.startswith("regaudit-sandbox")
    }


# -- one exchange ----------------------------------------------------------------------------


def test_a_response_is_whole_and_says_when_and_from_where(hostile, driver):
    hostile.on("GET /x", reply(200, b"body", headers=[("X-A", "1"), ("x-a", "2")]))
    before = time.monotonic()
    response = driver.run(one(get(f"{hostile.url}/x")))
    assert (response.status, response.body, response.url) == (200, b"body", f"{hostile.url}/x")
    assert response.headers.all("X-A") == ["1", "2"]
    assert before <= response.at <= time.monotonic()
    assert (response.peer, 0 <= response.seconds < 5) == ("127.0.0.1", True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 401, 404, 429, 500, 503])
def test_a_driver_neither_follows_nor_repeats_nor_raises(hostile, driver, status):
    hostile.on("*", reply(status, headers={"Location": "/elsewhere", "Retry-After": "21600"}))
    for method in ("GET", "HEAD", "DELETE"):
        assert driver.run(one(get(f"{hostile.url}/x", method))).status == status
    assert len(hostile.requests) == 3


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_that_has_no_body_needs_no_length(hostile, driver, status):
    hostile.on("*", reply(status, length=None))
    for _ in range(2):
        assert driver.run(one(get(f"{hostile.url}/x"))).body == b""
    assert hostile.connections == 1


@responses.activate
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (requests.ConnectionError("broken"), TruncatedResponse),
        (requests.exceptions.ChunkedEncodingError("broken"), TruncatedResponse),
        (http.client.RemoteDisconnected("bye"), TruncatedResponse),
        (ConnectionResetError(104, "reset"), TruncatedResponse),
        (requests.ConnectTimeout("slow"), TimedOut),
        (requests.ReadTimeout("slow"), TimedOut),
        (TimeoutError(), TimedOut),
        (requests.exceptions.SSLError("certificate verify failed"), Unreachable),
        (requests.exceptions.InvalidURL("no host"), BadResponse),
        (requests.exceptions.InvalidSchema("x:"), BadResponse),
        (http.client.BadStatusLine("SSH-2.0"), BadResponse),
        (http.client.BadStatusLine("HTTP/1."), TruncatedResponse),
        (UnicodeError("label too long"), BadResponse),
    ],
)
def test_every_fault_of_the_libraries_below_is_one_of_our_errors(driver, monkeypatch, fault, kind):
    def fail(*arguments, **options):
        raise fault

    monkeypatch.setattr(driver._adapter, "send", fail)
    with pytest.raises(Unreachable if kind is Unreachable else kind) as caught:
        driver.run(one(get("http://user:pw@127.0.0.1:9/x?token=canary")))
    assert type(caught.value) is kind
    assert caught.value.url == "http://127.0.0.1:9/x"
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None, "a traceback shows none of the request's headers"


@responses.activate
def test_an_address_that_requests_cannot_use_is_our_error(driver):
    responses.get("http://127.0.0.1:9/x", body="here", headers={"Content-Length": "4"})
    for url in ("http://", "http://:80/x", "nothing", f"http://{'a' * 300}.localhost/"):
        with pytest.raises((BadResponse, Unreachable)):
            driver.run(one(get(url)))


def test_an_interrupt_of_the_user_is_not_swallowed(driver, monkeypatch):
    monkeypatch.setattr(driver._adapter, "send", lambda *arguments, **options: interrupt())
    with pytest.raises(KeyboardInterrupt):
        driver.run(one(get("http://127.0.0.1:9/x")))


@pytest.mark.parametrize("size", [0, 1, 100, 101])
def test_the_cap_is_on_the_body_and_exact(hostile, driver, size):
    hostile.on("GET /x", reply(200, b"x" * size), reply(200, chunks=[b"x" * size] if size else []))
    for _ in range(2):
        if size <= 100:
            assert len(driver.run(one(get(f"{hostile.url}/x", cap=100))).body) == size
        else:
            with pytest.raises(TooLarge):
                driver.run(one(get(f"{hostile.url}/x", cap=100)))


def test_an_error_body_is_kept_to_its_cap(hostile, driver):
    hostile.on("GET /x", reply(404, b"x" * (1 << 20)))
    assert len(driver.run(one(get(f"{hostile.url}/x", cap=100))).body) == ERROR_CAP


def test_after_an_answer_that_was_not_read_the_next_one_is_the_right_one(hostile, driver):
    """A connection with an unread rest would give it out as the next answer."""
    hostile.on("GET /large", reply(200, b"x" * (1 << 20)))
    hostile.on("GET /small", reply(200, b"small"))
    with pytest.raises(TooLarge):
        driver.run(one(get(f"{hostile.url}/large", cap=10)))
    assert driver.run(one(get(f"{hostile.url}/small"))).body == b"small"


class Parts:
    """A sink that remembers how often it began."""

    position = 0

    def __init__(self):
        self.data, self.begun = b"", 0

    def begin(self, status, headers):
        self.begun += 1

    def write(self, data):
        self.data += data


def test_a_sink_gets_the_body_of_a_success_only(hostile, driver):
    hostile.on("GET /x", error(404, "BLOB_UNKNOWN"), reply(200, b"blob" * 10_000))
    sink = Parts()
    assert b"BLOB_UNKNOWN" in driver.run(one(get(f"{hostile.url}/x", into=sink))).body
    assert (sink.data, sink.begun) == (b"", 0)
    response = driver.run(one(get(f"{hostile.url}/x", into=sink, deadline=None)))
    assert (response.body, sink.data, sink.begun) == (b"", b"blob" * 10_000, 1)
    assert response.received == len(sink.data)


class Full(Parts):
    """A sink on a disk without room."""

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_fault_of_this_machine_is_not_blamed_on_the_registry(hostile, driver):
    hostile.on("GET /x", reply(200, b"blob" * 10_000))
    with pytest.raises(OSError, match="No space left") as caught:
        driver.run(one(get(f"{hostile.url}/x", into=Full(), deadline=None)))
    assert caught.value.errno == errno.ENOSPC
    assert len(hostile.requests) == 1


class Book:
    """A body that can be opened again, and remembers whether it was closed."""

    def __init__(self, data):
        self.data, self.size, self.files = data, len(data), []

    def open(self):
        self.files.append(io.BytesIO(self.data))
        return self.files[-1]


@pytest.mark.parametrize("data", [b"", b"x", b"blob" * 100_000])
def test_a_body_is_sent_with_its_length_opened_for_each_attempt_and_closed_after_it(hostile, driver, data):
    hostile.on("PUT /x", reply(503, headers={"Retry-After": "0"}), reply(201))
    book = Book(data)
    with Registry(hostile.host) as registry:
        request = get(f"{hostile.url}/x", "PUT", body=book, deadline=None)
        assert registry.run(send(registry.session, request)).status == 201
    assert [seen.body for seen in hostile.requests] == [data, data]
    assert {seen.header("content-length") for seen in hostile.requests} == {str(len(data))}
    assert {seen.header("transfer-encoding") for seen in hostile.requests} == {None}
    assert [file.closed for file in book.files] == [True, True]


def test_bytes_without_a_deadline_are_sent_as_a_stream(hostile, driver):
    """So that a long upload lives as long as it moves."""
    hostile.on("PUT /x", reply(201))
    data = b"blob" * 100_000
    assert driver.run(one(get(f"{hostile.url}/x", "PUT", body=data, deadline=None))).status == 201
    assert hostile.requests[0].body == data
    assert hostile.requests[0].header("content-length") == str(len(data))


def test_nothing_is_left_open():
    """No socket, no thread, no warning, however an exchange ended."""
    before = ours()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Hostile() as server, Registry(server.host, tries=1, deadline=0.3) as registry:
            server.on(TAGS, LISTED, error(404, "X"), reply(200, b"x", length=5), Stall())
            server.on("PUT /v2/team/app/manifests/v1", Stall())
            for _ in range(4):
                try:
                    registry.repository("team/app").tags()
                except (NotFound, Unreachable):
                    continue
        del registry
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert ours() == before


def test_a_registry_that_was_closed_says_so():
    with Registry("127.0.0.1:9") as registry:
        pass
    with pytest.raises(UsageError, match="was closed: make a new Registry"):
        registry.ping()


# -- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "cdn.example", "127.1"])
def test_a_name_that_leads_to_this_machine_is_refused_before_anything_is_sent(driver, decoy, monkeypatch, name):
    known = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: known("127.0.0.1", *rest, **more))
    with pytest.raises(AddressRefused, match=r"private address 127\.0\.0\.1: refused, because another host named it"):
        driver.run(one(get(f"http://{name}:{decoy.port}/x", public_only=True, headers={"Authorization": "canary"})))
    assert decoy.heard == b""


def test_a_connection_that_is_open_already_is_refused_too(driver, hostile):
    """It was made for a request that might use it."""
    hostile.on("GET /x", reply(200, b"x"))
    assert driver.run(one(get(f"{hostile.url}/x"))).status == 200
    with pytest.raises(AddressRefused):
        driver.run(one(get(f"{hostile.url}/x", public_only=True)))
    assert len(hostile.requests) == 1
    assert driver.run(one(get(f"{hostile.url}/x"))).status == 200


# -- TLS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tests -addext subjectAltName=IP:127.0.0.1"
    command += " -keyout key.pem -out certificate.pem"
    subprocess.run([need("openssl", "a certificate"), *command.split()], cwd=folder, check=True, capture_output=True)
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture
def encrypted(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Hostile(tls=context) as server:
        server.on("GET /v2/", reply(json={}))
        server.on(TAGS, LISTED)
        yield server


def test_a_certificate_is_verified_and_the_message_names_the_way_out(encrypted):
    with Registry(encrypted.url, tries=1) as registry, pytest.raises(Unreachable, match=r"TLS failed .*ca="):
        registry.ping()
    assert encrypted.requests == []


def test_a_certificate_authority_of_ones_own_is_trusted(encrypted, certificate):
    with Registry(encrypted.url, ca=certificate[0], tries=1) as registry:
        assert registry.ping().status == 200
        assert registry.repository("team/app").tags() == ["a"]
    assert encrypted.connections == 1


def test_insecure_warns_once_and_not_at_every_request(encrypted):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Registry(encrypted.url, insecure=True, tries=1) as registry:
            registry.ping()
            registry.repository("team/app").tags()
    assert [str(warning.message) for warning in caught] == [f"the certificate of {encrypted.host} is not verified"]


def test_a_link_that_says_http_behind_tls_is_followed_with_tls(encrypted, certificate):
    link = {"Link": f"<http://{encrypted.host}/v2/team/app/tags/list?last=a>; rel=next"}
    encrypted.on(TAGS, reply(json={"name": "team/app", "tags": ["a"]}, headers=link), reply(json={"tags": ["b"]}))
    with Registry(encrypted.url, ca=certificate[0], tries=1) as registry:
        assert registry.repository("team/app").tags() == ["a", "b"]
    assert [seen.target for seen in encrypted.requests] == [
        "/v2/team/app/tags/list?n=1000",
        "/v2/team/app/tags/list?last=a",
    ]


def test_a_registry_without_tls_is_never_spoken_to_plainly_by_itself():
    with Hostile(greeting=reply(400)) as server, Registry(f"https://{server.host}", tries=1) as registry:
        with pytest.raises(Unreachable, match="plain_http=True"):
            registry.ping()
        assert server.requests == []


@pytest.mark.parametrize(
    "greeting", [Stall(), Drip(b"\x16\x03\x03\x40\x00" + bytes(200), 5, 0.05)], ids=["stall", "drip"]
)
def test_a_handshake_keeps_the_deadline_too(greeting):
    with (
        Hostile(greeting=greeting) as server,
        Registry(server.url.replace("http", "https"), tries=1, deadline=1.0) as r,
    ):
        started = time.monotonic()
        with pytest.raises(TimedOut):
            r.ping()
        assert time.monotonic() - started < 2


# -- Wait, Once and the throttle -------------------------------------------------------------


def test_a_wait_waits(driver):
    def conversation():
        yield Wait(0.05)
        return "done"

    started = time.monotonic()
    assert driver.run(conversation()) == "done"
    assert time.monotonic() - started >= 0.05


def until_everyone_waits(registry):
    """Return when a reply that asks for it has been read."""
    throttle = registry._driver._throttle
    with throttle._changed:
        assert throttle._changed.wait_for(lambda: throttle._not_before > time.monotonic(), timeout=5)


def test_when_one_is_told_to_wait_everyone_does(hostile):
    hostile.on("GET /v2/", reply(429, headers={"Retry-After": "1"}), reply(json={}))
    hostile.on(TAGS, LISTED)
    with Registry(hostile.host) as registry, registry.bulk() as bulk:
        bulk.submit("first", v2.ping(registry.session))
        until_everyone_waits(registry)
        started = time.monotonic()
        bulk.submit("second", v2.tags(registry.session, "team/app"))
        assert {result.key for result in bulk.results()} == {"first", "second"}
        assert time.monotonic() - started > 0.8


def test_what_many_need_once_is_run_once_and_its_error_is_everybodys(driver, monkeypatch):
    ran, problems, waiting = [], [], threading.Semaphore(0)
    wait_for_result = blocking._Shared.result

    def result(self, stop):
        waiting.release()
        return wait_for_result(self, stop)

    monkeypatch.setattr(blocking._Shared, "result", result)

    def shared():
        ran.append(1)
        for _ in range(3):
            assert waiting.acquire(timeout=5), "the others wait"
        yield Wait(0)
        raise NotFound("gone")

    def conversation():
        return (yield Once("key", shared()))

    def ask():
        try:
            driver.run(conversation())
        except NotFound as problem:
            problems.append(problem)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(ran), len(problems), driver._once) == (1, 4, {})


def test_who_waits_for_somebody_that_is_stopped_takes_over(driver):
    entered, stop = threading.Event(), threading.Event()

    def slow():
        entered.set()
        yield Wait(60)

    def quick():
        yield Wait(0)
        return "mine"

    def conversation(inner):
        return (yield Once("key", inner))

    def first():
        with pytest.raises(Interrupted):
            driver.run(conversation(slow()), stop)

    results = []
    threads = [
        threading.Thread(target=first),
        threading.Thread(target=lambda: results.append(driver.run(conversation(quick())))),
    ]
    threads[0].start()
    entered.wait(5)
    threads[1].start()
    stop.set()
    for thread in threads:
        thread.join(5)
    assert results == ["mine"]


def test_a_throttle_halves_when_the_registry_groans_and_recovers_slowly():
    throttle, stop = Throttle(8), Stop(threading.Event())
    for good, limit in ((False, 4), (False, 2), (False, 1), (False, 1)):
        throttle.enter(stop)
        throttle.leave(good=good)
        assert throttle.limit == limit
    for _ in range(100):
        throttle.enter(stop)
        throttle.leave(good=True)
    assert throttle.limit == 2


def test_no_more_requests_than_allowed_are_in_flight(hostile):
    flying, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(3)

    def count(seen):
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
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


# -- many at once ----------------------------------------------------------------------------


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
        return (
            reply(429, headers={"Retry-After": "0"})
            if mine % 10 == 0
            else reply(json={"name": name, "tags": [name[-1]]})
        )

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


def stalled(hostile, registry, bulk, count=4):
    hostile.on("*", Stall())
    for number in range(count):
        bulk.submit(number, v2.tags(registry.session, f"team/app{number}"))
    hostile.wait_for(min(count, 4))


def test_leaving_by_an_exception_ends_within_a_second_and_leaves_nothing_running(hostile):
    before = ours()
    with Registry(hostile.host, in_flight=4) as registry:
        try:
            with registry.bulk() as bulk:
                stalled(hostile, registry, bulk, 20)
                started = time.monotonic()
                interrupt()
        except KeyboardInterrupt:
            pass
        assert time.monotonic() - started < 1
        assert {thread.name for thread in ours() - before} <= {"regaudit-watchdog"}
        assert len(hostile.requests) == 4, "nothing more was begun"
        hostile.on("*", reply(json={"name": "team/app", "tags": ["a"]}))
        assert registry.repository("team/app").tags() == ["a"], "the registry can be used again"


def test_another_thread_may_cancel_and_whoever_waits_for_results_wakes_up(hostile):
    with Registry(hostile.host, in_flight=4) as registry, registry.bulk() as bulk:
        stalled(hostile, registry, bulk)
        started = time.monotonic()
        threading.Timer(0.05, bulk.cancel).start()
        assert list(bulk.results()) == []
        assert time.monotonic() - started < 1


def test_cancelling_ends_a_wait_of_a_minute(hostile):
    hostile.on("*", reply(429, headers={"Retry-After": "60"}))
    with Registry(hostile.host, in_flight=4) as registry:
        with registry.bulk() as bulk:
            for number in range(4):
                bulk.submit(number, v2.tags(registry.session, f"team/app{number}"))
            until_everyone_waits(registry)
            started = time.monotonic()
        assert time.monotonic() - started < 1


def test_closing_the_registry_below_a_bulk_is_noticed(hostile):
    registry = Registry(hostile.host, in_flight=4)
    with registry.bulk() as bulk:
        stalled(hostile, registry, bulk)
        threading.Timer(0.05, registry.close).start()
        with pytest.raises(Interrupted):
            list(bulk.results())


# -- what the tests themselves stand on ------------------------------------------------------


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_INET6, ("2001:db8::1", 80))]
)
def test_a_test_that_leaves_this_machine_fails(family, address, method):
    with (
        socket.socket(family) as connection,
        pytest.raises(pytest.fail.Exception, match=r"tests talk to 127\.0\.0\.1 only"),
    ):
        getattr(connection, method)(address)


def test_a_test_that_looks_up_a_foreign_name_fails():
    with pytest.raises(pytest.fail.Exception, match=r"looked up 'registry\.example'"):
        socket.getaddrinfo("registry.example", 443)


def test_a_missing_program_skips_here_and_fails_in_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install no-such-program"):
        need("no-such-program", "a test")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="is not installed"):
        need("no-such-program", "a test")


def test_a_test_does_not_see_the_developers_settings(tmp_path):
    assert Path.home() == tmp_path / "home"
    assert not any(name.startswith(("DOCKER_", "XDG_", "REGAUDIT_", "REGISTRY_")) for name in os.environ)
