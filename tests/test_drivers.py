"""One exchange, by each driver: the same answer, the same error, the same sentence."""

from __future__ import annotations

import contextlib
import errno
import gc
import gzip
import io
import ssl
import subprocess
import threading
import time
import warnings

import pytest
from conftest import need
from drivers import one_by_one
from hostile import Cut, Drip, Hostile, Stall, error, reply

from regaudit.client.exchange import ERROR_CAP, Request, Wait, send
from regaudit.client.registry import Registry
from regaudit.client.transport import Transport
from regaudit.errors import (
    AccessDenied,
    AddressRefused,
    BadResponse,
    NotARegistry,
    NotFound,
    RegistryError,
    TimedOut,
    TooLarge,
    TruncatedResponse,
    Unreachable,
    UsageError,
)

TAGS = "GET /v2/team/app/tags/list"
LISTED = reply(json={"name": "team/app", "tags": ["a"]})


@pytest.fixture
def driver(each_driver):
    driver = one_by_one(each_driver)
    yield driver
    driver.close()


pytestmark = pytest.mark.usefixtures("each_driver")


def one(request):
    return (yield request)


def get(url, method="GET", **options):
    return Request(method, url, "test", **options)


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


def test_a_wait_waits(driver):
    def conversation():
        yield Wait(0.05)
        return "done"

    started = time.monotonic()
    assert driver.run(conversation()) == "done"
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", BadResponse),
        (b"220 mail.example ESMTP\r\n", BadResponse),
        (b"", TruncatedResponse),
        (b"HT", TruncatedResponse),
        (b"HTTP/1.1 200 OK", TruncatedResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Le", TruncatedResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", TruncatedResponse),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", TruncatedResponse),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0", TruncatedResponse),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", TruncatedResponse),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", TruncatedResponse),
        (b"HTTP/1.1 407 Who?\r\nContent-Length: 0\r\n\r\n", AccessDenied),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc", BadResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", BadResponse),
        (b"\x15\x03\x01\x00\x02\x02\x46", NotARegistry),
    ],
)
def test_what_cannot_be_believed_is_the_same_error(hostile, driver, said, kind):
    hostile.on("GET /x", Cut(said, len(said)))
    with pytest.raises(RegistryError) as caught:
        driver.run(one(get(f"{hostile.url}/x?token=canary")))
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{hostile.url}/x")
    assert "canary" not in str(caught.value)
    assert len(hostile.requests) == 1


def test_what_comes_before_an_answer_and_after_its_body_is_not_taken_for_its_headers(hostile, driver):
    early = b"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Late: 1\r\n\r\n"
    hostile.on("GET /x", early + reply(200, b"body", headers={"X-A": "1"}), Cut(chunked, len(chunked)))
    for body in (b"body", b"abc"):
        response = driver.run(one(get(f"{hostile.url}/x")))
        assert (response.status, response.body, response.headers["x-a"]) == (200, body, "1")
        assert not {"x-early", "x-hint"} & set(response.headers)
        if body == b"abc":
            assert "x-late" not in response.headers


def test_headers_may_hold_any_byte_and_are_read_as_latin_1(hostile, driver):
    hostile.on("GET /x", reply(200, b"", headers=[("X-A", "caf\xe9"), ("X-B", ""), ("X-C", "\x1b[1m \xff")]))
    headers = driver.run(one(get(f"{hostile.url}/x"))).headers
    assert [headers[name] for name in ("x-a", "x-b", "x-c")] == ["caf\xe9", "", "\x1b[1m \xff"]


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "\u20ac"])
def test_a_header_that_cannot_be_sent_is_an_error_and_nothing_leaves(hostile, driver, value):
    with pytest.raises(BadResponse, match="cannot be read"):
        driver.run(one(get(f"{hostile.url}/x", headers={"X-A": value})))
    assert hostile.requests == []


def test_a_compressed_answer_is_read_under_the_cap_though_nobody_asked_for_it(hostile, driver):
    small, bomb = gzip.compress(b"x" * 100), gzip.compress(b"x" * (1 << 20))
    hostile.on(
        "GET /x", *(reply(200, data, headers={"Content-Encoding": "gzip"}) for data in (small, bomb, small[:-9]))
    )
    assert driver.run(one(get(f"{hostile.url}/x", cap=100))).body == b"x" * 100
    with pytest.raises(TooLarge):
        driver.run(one(get(f"{hostile.url}/x", cap=100)))
    with pytest.raises(TruncatedResponse, match="compressed answer ends too early"):
        driver.run(one(get(f"{hostile.url}/x", cap=100)))


@pytest.mark.parametrize("size", [(256 << 10) - 1, 256 << 10, 512 << 10, (512 << 10) + 1, 1 << 20])
def test_a_compressed_answer_is_unpacked_step_by_step_to_its_last_byte(hostile, driver, size):
    data = bytes(size)
    hostile.on("GET /x", reply(200, gzip.compress(data), headers={"Content-Encoding": "gzip"}))
    assert driver.run(one(get(f"{hostile.url}/x", cap=1 << 20))).body == data


@pytest.mark.parametrize("name", ["0x7f.1", "2130706433", "127.1", "[::ffff:127.0.0.1]"])
def test_no_other_spelling_of_a_private_address_gets_round_that(driver, decoy, name):
    with pytest.raises(RegistryError):
        driver.run(
            one(
                get(
                    f"http://{name}:{decoy.port}/x", public_only=True, headers={"Authorization": "canary"}, deadline=2.0
                )
            )
        )
    assert decoy.heard == b""


@pytest.mark.parametrize(
    "play",
    [Stall(), Stall(reply(200, b"x")[:20]), Stall(reply(200, b"x", length=5)), Drip(reply(200, b"x" * 500), 5, 0.02)],
)
def test_an_exchange_ends_at_its_deadline_however_it_trickles(hostile, driver, play):
    hostile.on("GET /x", play)
    started = time.monotonic()
    with pytest.raises(TimedOut, match="did not answer"):
        driver.run(one(get(f"{hostile.url}/x", deadline=0.5)))
    assert time.monotonic() - started < 1.5


def test_an_answer_that_stands_still_ends_before_its_deadline(hostile, each_driver):
    hostile.on("GET /x", Stall(reply(200, b"x", length=5)))
    driver = one_by_one(each_driver, Transport(stall_seconds=0.3))
    started = time.monotonic()
    with contextlib.closing(driver), pytest.raises(TimedOut, match="did not answer"):
        driver.run(one(get(f"{hostile.url}/x", deadline=30.0)))
    assert time.monotonic() - started < 2


def test_no_cookie_is_kept_and_no_netrc_is_read(hostile, driver, tmp_path):
    (tmp_path / "home" / ".netrc").write_text("machine 127.0.0.1 login ada password canary\n")
    (tmp_path / "home" / ".netrc").chmod(0o600)
    hostile.on("GET /x", reply(200, b"x", headers={"Set-Cookie": "a=b"}))
    for _ in range(2):
        driver.run(one(get(f"{hostile.url}/x")))
    assert [(seen.header("cookie"), seen.header("authorization")) for seen in hostile.requests] == [(None, None)] * 2
    assert hostile.connections == 1


def test_only_http_is_spoken(driver, tmp_path):
    (tmp_path / "secret").write_text("canary")
    for url in (f"file://{tmp_path}/secret", "ftp://127.0.0.1:9/x", "gopher://127.0.0.1:9/x"):
        with pytest.raises(RegistryError) as caught:
            driver.run(one(get(url)))
        assert "canary" not in str(caught.value)


def test_a_request_that_changes_something_is_never_sent_twice(hostile, driver):
    """A connection that the server closed meanwhile is no reason to try again by itself."""
    hostile.on("GET /x", reply(200, b"x"))
    hostile.on("DELETE /x", Cut(b"", 0))
    driver.run(one(get(f"{hostile.url}/x")))
    with pytest.raises(TruncatedResponse):
        driver.run(one(get(f"{hostile.url}/x", "DELETE")))
    assert len(hostile.seen("DELETE /x")) == 1


def test_a_read_that_was_cut_on_a_connection_in_use_is_sent_once(hostile, driver):
    hostile.on("GET /x", reply(200, b"x"), Cut(b"", 0), reply(200, b"y"))
    driver.run(one(get(f"{hostile.url}/x")))
    with pytest.raises(TruncatedResponse):
        driver.run(one(get(f"{hostile.url}/x")))
    assert len(hostile.requests) == 2
    assert driver.run(one(get(f"{hostile.url}/x"))).body == b"y"


# -- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_name_that_leads_to_this_machine_is_refused_before_anything_is_sent(driver, decoy, name):
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
