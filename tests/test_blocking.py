"""The blocking driver's own corners: the libraries below it, and threads that share a result."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from pathlib import Path

import pytest
import requests
import responses
from conftest import need
from drivers import one_by_one

from regaudit.client import blocking
from regaudit.client.exchange import Once, Request, Wait
from regaudit.client.transport import Interrupted
from regaudit.errors import AddressRefused, BadResponse, NotFound, TimedOut, TruncatedResponse, Unreachable


@pytest.fixture
def driver():
    driver = one_by_one("blocking")
    yield driver
    driver.close()


def one(request):
    return (yield request)


def get(url, method="GET", **options):
    return Request(method, url, "test", **options)


def interrupt():
    raise KeyboardInterrupt


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


def test_a_name_that_leads_to_this_machine_is_refused_before_anything_is_sent(driver, decoy, monkeypatch):
    known = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: known("127.0.0.1", *rest, **more))
    with pytest.raises(AddressRefused, match=r"private address 127\.0\.0\.1: refused, because another host named it"):
        driver.run(one(get(f"http://cdn.example:{decoy.port}/x", public_only=True)))
    assert decoy.heard == b""


def test_an_interrupt_of_the_user_is_not_swallowed(driver, monkeypatch):
    monkeypatch.setattr(driver._adapter, "send", lambda *arguments, **options: interrupt())
    with pytest.raises(KeyboardInterrupt):
        driver.run(one(get("http://127.0.0.1:9/x")))


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
