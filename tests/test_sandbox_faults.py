"""The sandbox on a bad day: errors, delays and broken connections where a test wants them, and resuming after them."""

import http.client
import logging
import socket
import threading
import time

import pytest
import requests
from door import ABSENT, OCTETS, code, serving, sha256

from regaudit.errors import UsageError
from regaudit.sandbox.faults import Fault, Faults

LOST = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Fail a test that makes the server complain: a fault is no accident of its own."""
    with caplog.at_level(logging.WARNING):
        yield
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert [record.getMessage() for record in records if record.name.startswith("uvicorn")] == []


# Which request is hit


def test_a_fault_hits_what_fits_as_often_as_it_was_told_and_counts(built):
    door = built()
    door.sandbox.store.create("team/app")
    busy = door.sandbox.faults.add(method="GET", path="/v2/*/tags/list", status=503, retry_after=1, times=2)
    assert door("GET", "/v2/_catalog").status_code == 200
    for _ in range(2):
        reply = door("GET", "tags/list?n=5")
        assert (reply.status_code, code(reply), reply.headers["Retry-After"]) == (503, "UNAVAILABLE", "1")
    assert door("GET", "tags/list").status_code == 200
    assert busy.hits == 2


def test_a_fault_may_let_some_requests_through_first(built):
    door = built()
    door.sandbox.faults.add(path="/v2/", status=500, skip=2, times=1)
    assert [door("GET", "/v2/").status_code for _ in range(4)] == [200, 200, 500, 200]


def test_the_first_fault_that_fits_hits_and_the_next_one_follows(built):
    door = built()
    door.sandbox.faults.add(status=429, times=1)
    door.sandbox.faults.add(status=503, times=1)
    assert [door("GET", "/v2/").status_code for _ in range(3)] == [429, 503, 200]


def test_faults_are_taken_away_one_by_one_or_all_together(built):
    door = built()
    faults = door.sandbox.faults
    first, second = faults.add(status=500), faults.add(status=502)
    faults.remove(first)
    faults.remove(first)
    assert door("GET", "/v2/").status_code == 502
    faults.add(status=500)
    faults.latency = 60
    faults.clear()
    assert (faults.latency, door("GET", "/v2/").status_code, second.hits) == (0, 200, 1)


def test_faults_are_shared_out_among_threads_without_loss():
    faults = Faults()
    fault = faults.add(status=500, times=1000)
    taken = []
    threads = [
        threading.Thread(target=lambda: taken.extend(faults.take("GET", "/") for _ in range(1000))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (fault.hits, sum(one is fault for one in taken)) == (1000, 1000)


@pytest.mark.parametrize("options", [{}, {"path": "/v2/"}, {"drop": "during"}, {"times": 3}])
def test_a_fault_without_an_effect_or_with_a_strange_one_is_a_usage_error(options):
    with pytest.raises(UsageError):
        Fault(**options)


# What happens to it


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, "UNAUTHORIZED"), (403, "DENIED"), (429, "TOOMANYREQUESTS"), (500, "UNKNOWN"), (502, "UNKNOWN")],
)
def test_the_error_has_the_specifications_code(built, status, expected):
    door = built()
    door.sandbox.faults.add(status=status)
    reply = door("GET", "/v2/")
    assert (reply.status_code, code(reply)) == (status, expected)


def test_a_request_that_is_answered_with_an_error_is_not_carried_out(built):
    door = built()
    image = door.push_image("v1")
    door.sandbox.faults.add(method="DELETE", status=500, code="INTERNAL")
    assert code(door("DELETE", f"manifests/{image['digest']}")) == "INTERNAL"
    assert door("HEAD", "manifests/v1").status_code == 200


def test_the_body_of_a_refused_upload_is_read_and_the_connection_goes_on(built):
    door = built()
    door.sandbox.faults.add(method="POST", status=503, times=1)
    data = b"x" * 3_000_000
    assert door("POST", f"blobs/uploads/?digest={sha256(data)}", data=data, headers=OCTETS).status_code == 503
    assert door("POST", f"blobs/uploads/?digest={sha256(data)}", data=data, headers=OCTETS).status_code == 201


def test_headers_of_an_answer_can_be_put_in_place(built):
    door = built()
    door.sandbox.faults.add(headers={"RateLimit-Remaining": "0", "Docker-Content-Digest": ABSENT})
    door.sandbox.store.put_blob("team/app", b"data")
    reply = door("HEAD", f"blobs/{sha256(b'data')}")
    assert (reply.headers["RateLimit-Remaining"], reply.headers["Docker-Content-Digest"]) == ("0", ABSENT)


def test_a_blob_can_be_redirected(built):
    door, store = built(), built()
    digest = store.push_blob(b"stored elsewhere")["digest"]
    elsewhere = f"{store.sandbox.url}/v2/team/app/blobs/{digest}"
    door.sandbox.faults.add(path="/v2/*/blobs/*", status=307, headers={"Location": elsewhere})
    assert door("GET", f"blobs/{digest}").content == b"stored elsewhere"


def test_dropped_before_means_not_carried_out_and_after_means_carried_out(built):
    door = built()
    first, second = door.push_image("v1", seed=b"one"), door.push_image("v2", seed=b"two")
    faults = door.sandbox.faults
    faults.add(method="DELETE", drop="before", times=1)
    faults.add(method="DELETE", drop="after", times=1)
    for image, left in ((first, 200), (second, 404)):
        with pytest.raises(LOST):
            door("DELETE", f"manifests/{image['digest']}")
        assert door("HEAD", f"manifests/{image['digest']}").status_code == left
    assert [status for method, _, status in door.sandbox.requests if method == "DELETE"] == [0, 202]


def test_an_answer_is_cut_after_so_many_bytes_and_said_how_long_it_should_have_been(built):
    door = built()
    data = bytes(range(256)) * 4000
    digest = door.push_blob(data)["digest"]
    for at in (0, 1, 300_000, len(data) - 1):
        door.sandbox.faults.add(path="/v2/*/blobs/*", cut_reply=at, times=1)
        connection = http.client.HTTPConnection(door.sandbox.host, timeout=10)
        connection.request("GET", f"/v2/team/app/blobs/{digest}")
        reply = connection.getresponse()
        assert reply.getheader("Content-Length") == str(len(data))
        with pytest.raises(http.client.IncompleteRead) as cut:
            reply.read()
        assert cut.value.partial == data[:at]
        connection.close()


def test_a_cut_past_the_end_cuts_nothing(built):
    door = built()
    digest = door.push_blob(b"short")["digest"]
    door.sandbox.faults.add(path="/v2/*/blobs/*", cut_reply=5)
    assert door("GET", f"blobs/{digest}").content == b"short"


def test_a_fault_leaves_other_connections_alone(built):
    door = built()
    other = http.client.HTTPConnection(door.sandbox.host, timeout=10)
    other.request("GET", "/v2/")
    other.getresponse().read()
    kept = other.sock
    door.sandbox.faults.add(drop="before", times=1)
    with pytest.raises(LOST):
        door("GET", "/v2/")
    other.request("GET", "/v2/")
    assert other.getresponse().read() == b"{}"
    assert other.sock is kept
    other.close()


# Time


def test_a_delay_holds_up_its_own_request_and_no_other(built):
    door = built()
    door.sandbox.faults.add(path="/v2/_catalog", delay=60)
    waiting = socket.create_connection(door.sandbox.host.split(":"), timeout=10)
    waiting.sendall(b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n")
    started = time.monotonic()
    assert door("GET", "/v2/").status_code == 200
    assert time.monotonic() - started < 5
    waiting.close()


def test_latency_is_for_every_request(built):
    door = built()
    door.sandbox.faults.latency = 0.05
    started = time.monotonic()
    for _ in range(4):
        assert door("GET", "/v2/").status_code == 200
    assert time.monotonic() - started >= 0.2


def test_a_sandbox_ends_promptly_whatever_it_delays():
    with serving() as door:
        door.sandbox.faults.add(delay=60)
        waiting = socket.create_connection(door.sandbox.host.split(":"), timeout=10)
        waiting.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        started = time.monotonic()
        door.sandbox.close()
        assert time.monotonic() - started < 1
        waiting.close()


# Going on after it


def test_a_blob_that_was_cut_is_resumed_where_it_broke(built):
    door = built()
    data = bytes(range(256)) * 4000
    digest = door.push_blob(data)["digest"]
    door.sandbox.faults.add(method="GET", path="/v2/*/blobs/*", cut_reply=400_000, times=2)
    got = b""
    statuses = []
    while len(got) < len(data):
        with door("GET", f"blobs/{digest}", headers={"Range": f"bytes={len(got)}-"}, stream=True) as reply:
            statuses.append((reply.status_code, reply.headers["Content-Range"]))
            try:
                for piece in reply.iter_content(10_000):
                    got += piece
            except LOST:
                continue
    assert got == data
    end = len(data) - 1
    assert statuses == [(206, f"bytes {first}-{end}/{len(data)}") for first in (0, 400_000, 800_000)]


def test_a_registry_without_ranges_sends_the_whole_blob(built):
    door = built(ranges=False)
    digest = door.push_blob(b"0123456789")["digest"]
    for asked in ("bytes=5-", "bytes=99-"):
        reply = door("GET", f"blobs/{digest}", headers={"Range": asked})
        assert (reply.status_code, reply.content) == (200, b"0123456789")
    assert "Accept-Ranges" not in door("HEAD", f"blobs/{digest}").headers


def break_off(door, location, data, claimed, *, shut=True, **headers):
    """Send part of a chunk and end there, as a client whose line broke; return when the sandbox has hung up too."""
    connection = http.client.HTTPConnection(door.sandbox.host, timeout=10)
    connection.putrequest("PATCH", location)
    for name, value in {**OCTETS, "Content-Length": str(claimed), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders(data)
    if shut:
        connection.sock.shutdown(socket.SHUT_WR)
    assert connection.sock.recv(1) == b""
    connection.close()


@pytest.mark.parametrize(("keep", "received"), [(False, "0-3"), (True, "0-6")])
def test_after_a_chunk_that_broke_off_the_session_lives_and_its_status_tells_the_truth(built, keep, received):
    door = built(keep_partial=keep)
    location, data = door.begin(), b"0123456789"
    door("PATCH", location, data=data[:4], headers={**OCTETS, "Content-Range": "0-3"})
    break_off(door, location, data[4:7], 6, **{"Content-Range": "4-9"})
    status = door("GET", location)
    assert (status.status_code, status.headers["Range"]) == (204, received)
    first = int(received[2:]) + 1
    headers = {**OCTETS, "Content-Range": f"{first}-9"}
    assert door("PATCH", location, data=data[first:], headers=headers).headers["Range"] == "0-9"
    assert door("PUT", f"{location}?digest={sha256(data)}").status_code == 201


@pytest.mark.parametrize(("keep", "received"), [(False, 0), (True, 5000)])
def test_the_line_can_be_made_to_break_while_a_chunk_is_sent(built, keep, received):
    door = built(keep_partial=keep)
    location, data = door.begin(), bytes(range(250)) * 40
    fault = door.sandbox.faults.add(method="PATCH", cut_request=5000, times=1)
    with pytest.raises(LOST):
        door("PATCH", location, data=data, headers=OCTETS)
    assert (fault.hits, ("PATCH", location, 0) in door.sandbox.requests) == (1, True)
    session = location.rpartition("/")[2]
    assert door.sandbox.store.uploaded_bytes("team/app", session) == received
    assert door("PATCH", location, data=data[received:], headers=OCTETS).status_code == 202
    assert door("PUT", f"{location}?digest={sha256(data)}").status_code == 201


@pytest.mark.parametrize("effect", [{}, {"status": 503}])
def test_the_line_breaks_at_the_very_byte_and_does_not_wait_for_the_next(built, effect):
    door = built(keep_partial=True)
    location = door.begin()
    door.sandbox.faults.add(method="PATCH", cut_request=3, **effect)
    break_off(door, location, b"012", 10, shut=False)
    assert door("GET", location).headers["Range"] == ("0-0" if effect else "0-2")
    assert door.sandbox.requests[1] == ("PATCH", location, 0)


def test_a_request_shorter_than_the_cut_is_carried_out(built):
    door = built()
    location = door.begin()
    door.sandbox.faults.add(method="PATCH", cut_request=4)
    assert door("PATCH", location, data=b"0123", headers=OCTETS).status_code == 202


def test_of_a_broken_chunk_that_was_out_of_order_or_unauthorised_nothing_is_kept(built):
    door = built(keep_partial=True)
    location = door.begin()
    break_off(door, location, b"abc", 10, **{"Content-Range": "7-16"})
    break_off(door, location, b"abc", 10, **{"Content-Range": "nonsense"})
    break_off(door, "/v2/team/app/blobs/uploads/gone", b"abc", 10)
    break_off(door, "/v2/team/app/manifests/v1", b"abc", 10)
    assert door("GET", location).headers["Range"] == "0-0"
    closed = built(keep_partial=True, users={"alice": "a"})
    location = closed("POST", "blobs/uploads/", auth=("alice", "a")).headers["Location"]
    break_off(closed, location, b"abc", 10)
    assert closed("GET", location, auth=("alice", "a")).headers["Range"] == "0-0"


def test_a_blob_whose_put_broke_off_can_be_put_again(built):
    door = built()
    data = b"x" * 100_000
    location = door.begin()
    door.sandbox.faults.add(method="PUT", cut_request=1000, times=1)
    with pytest.raises(LOST):
        door("PUT", f"{location}?digest={sha256(data)}", data=data, headers=OCTETS)
    assert door("PUT", f"{location}?digest={sha256(data)}", data=data, headers=OCTETS).status_code == 201


def test_an_answer_to_a_finished_upload_that_was_lost_leaves_the_blob_and_no_session(built):
    door = built()
    location = door.begin()
    door.sandbox.faults.add(method="PUT", drop="after", times=1)
    with pytest.raises(LOST):
        door("PUT", f"{location}?digest={sha256(b'data')}", data=b"data", headers=OCTETS)
    assert door("HEAD", f"blobs/{sha256(b'data')}").status_code == 200
    assert code(door("GET", location)) == "BLOB_UPLOAD_UNKNOWN"


# Size


def test_a_large_blob_goes_up_in_many_chunks_and_comes_down_in_linear_time(built):
    door = built()
    piece = bytes(1024) * 256
    times = []
    for count in (16, 128):
        started = time.process_time()
        location = door.begin()
        for _ in range(count):
            door("PATCH", location, data=piece, headers=OCTETS)
        digest = sha256(piece * count)
        assert door("PUT", f"{location}?digest={digest}").status_code == 201
        assert door("GET", f"blobs/{digest}").content == piece * count
        times.append(time.process_time() - started)
    assert times[1] < 8 * times[0] * 4
