"""What only libcurl does, and who gets it."""

from __future__ import annotations

import shutil
import threading
from importlib import util
from pathlib import Path

import pytest
from certificates import Authority
from docker_registry import DockerRegistry
from drivers import interrupt_when
from hostile import reply
from proxy import Proxy

from regaudit.client import bulk as bulk_module
from regaudit.client.exchange import Request as _Request
from regaudit.client.exchange import send
from regaudit.client.registry import Registry
from regaudit.errors import MissingExtra, UsageError
from regaudit.inventory.collect import collect as read


def request(registry, path, purpose="test"):
    return _Request("GET", f"{registry.session.base}{path}", purpose)


def ask(registry, path):
    return (yield from send(registry.session, request(registry, path)))


def collect(registry, count):
    with registry.bulk() as bulk:
        for number in range(count):
            bulk.submit(number, ask(registry, f"/{number}"))
        return list(bulk.results())


@pytest.mark.real
def test_where_tls_offers_http_2_many_requests_share_few_connections(sample_storage, tmp_path):
    """Counted by a proxy that makes a tunnel for each."""
    authority = Authority(tmp_path / "authority")
    storage = Path(shutil.copytree(sample_storage, tmp_path / "copy"))
    tls = authority.issue("server", "127.0.0.1")
    with DockerRegistry(tmp_path / "registry", tls=tls, storage=storage) as server, Proxy() as proxy:
        options = {"ca": authority.certificate, "proxy": proxy.url, "driver": "libcurl"}
        with Registry(server.url, **options) as registry:
            snapshot = read(registry, progress=False)
            assert registry.session.counts.total() > 100
    assert snapshot.complete
    assert [seen.method for seen in proxy.requests] == ["CONNECT"] * len(proxy.requests)
    assert 1 <= len(proxy.requests) <= 2


def test_ctrl_c_in_the_middle_of_much_work_is_never_lost(hostile, capfd):
    """Wherever it arrives: in libcurl, in what libcurl calls, or in a conversation. In threads nobody calls back."""
    busy, answered = threading.Event(), 0

    def count(seen):
        nonlocal answered
        answered += 1
        if answered % 37 == 0:
            busy.set()
        return reply(200, b"x" * 100)

    hostile.on("*", count)
    with Registry(hostile.host, in_flight=8, driver="libcurl") as registry:
        for _ in range(5):
            busy.clear()
            thread = interrupt_when(busy)
            with pytest.raises(KeyboardInterrupt):
                collect(registry, 20_000)
            thread.join()
        assert registry._gate.traffic().in_flight == 0, "every place was given back"
    assert capfd.readouterr().err == ""


def test_without_pycurl_threads_do_it_and_who_insists_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert bulk_module.choose_driver(None) == "threads"
    with pytest.raises(MissingExtra, match=r'pip install "regaudit\[fast\]"'):
        Registry("127.0.0.1:9", driver="libcurl")


def test_a_driver_that_is_unknown_is_said():
    with pytest.raises(UsageError, match="driver='curl' is unknown: give 'libcurl', 'threads' or None"):
        Registry("127.0.0.1:9", driver="curl")


def test_less_than_one_at_a_time_is_said():
    with pytest.raises(UsageError, match="in_flight="):
        Registry("127.0.0.1:9", in_flight=0)
