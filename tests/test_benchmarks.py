"""The benchmarks measure what they say: their parts at tiny sizes. Nothing here is about how long anything takes."""

import json
import socket
import sys
import threading
from pathlib import Path

import pytest
from conftest import need
from docker_registry import DockerRegistry

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import contenders
import delay
import figures
import loop
import replay
import results
import static
import stored_images
import wrk
from recording import Recorder, Recording, Sent

from regaudit.client.registry import Registry
from regaudit.inventory.collect import collect

SUMMARY = """Running 2s test @ http://127.0.0.1:5000
  2 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     9.10ms    2.31ms  24.67ms   74.05%
    Req/Sec   441.38     61.33   575.00     65.00%
  1764 requests in 2.00s, 1.64MB read
{more}Requests/sec:    881.48
Transfer/sec:    840.34KB
"""
API = "shop/checkout/api"
ACCEPT = "application/vnd.oci.image.manifest.v1+json"


def times(*events):
    """Return records of a log, from pairs of a moment and ``request`` or ``response``."""
    return [(moment, event, Sent("GET", f"/{number}")) for number, (moment, event) in enumerate(events)]


# -- recording and replaying -------------------------------------------------------------------


def test_a_recording_has_every_request_that_the_audit_counted(sample_registry):
    with Recorder() as recorder:
        snapshot = collect(sample_registry, API, progress=False)
    recording = recorder.recording()
    assert len(recording.sent) == sum(snapshot.requests.values())
    assert Sent("GET", f"/v2/{API}/tags/list?n=1000") in recording.sent
    manifests = [one for one in recording.sent if "/manifests/" in one.path]
    assert manifests
    assert all("vnd.oci.image.index" in one.accept for one in manifests)


def test_in_flight_is_what_was_not_exceeded_for_half_of_the_time():
    recording = Recording.of(
        times((1, "request"), (2, "request"), (3, "request"), (4, "response"), (9, "response"), (10, "fault"))
    )
    assert (recording.in_flight, recording.in_flight_most, len(recording.sent)) == (2, 3, 3)


def test_a_recording_survives_its_file(tmp_path):
    recording = Recording((Sent("HEAD", "/v2/a/manifests/t", ACCEPT),), 3, 4)
    recording.save(tmp_path / "file")
    assert Recording.load(tmp_path / "file") == recording


def test_the_script_of_wrk_has_every_request_once_in_another_order():
    sent = [Sent("GET", f"/v2/a/manifests/t{number}", ACCEPT) for number in range(50)]
    lines = [line for line in wrk.script(sent).splitlines() if line.startswith('{"GET"')]
    expected = [f'{{"GET", "/v2/a/manifests/t{number}", "{ACCEPT}"}},' for number in range(50)]
    assert lines != expected
    assert sorted(lines) == sorted(expected)
    assert wrk.script(sent) == wrk.script(sent)


def test_a_path_cannot_leave_its_string_in_the_script_of_wrk():
    assert '{"GET", "/v2/\\034\\092\\010\\195\\164", "*/*"},' in wrk.script([Sent("GET", '/v2/"\\\nä')])


def test_the_summary_of_wrk_is_read_with_its_failures():
    assert wrk.parse(SUMMARY.format(more="")) == wrk.Outcome(1764, 881.48, 0)
    more = "  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 5\n"
    assert wrk.parse(SUMMARY.format(more=more)).failed == 12
    with pytest.raises(ValueError, match="no summary"):
        wrk.parse("unable to connect")


def test_heads_and_gets_are_replayed_each_once(sandbox):
    with Registry(sandbox.host) as door, Recorder() as recorder:
        collect(door, API, progress=False, head_first=True)
    sent = recorder.recording().sent
    assert {"HEAD", "GET"} <= {one.method for one in sent}
    asked = sorted((one.method, one.path.partition("?")[0]) for one in sent)
    sandbox.requests.clear()
    replay.replay(sandbox.host, sent, 3)
    assert sorted((method, path.partition("?")[0]) for method, path, _ in sandbox.requests) == asked


@pytest.mark.parametrize(
    ("answer", "method", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", "GET", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "GET", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length:3\r\n\r\nabc", "GET", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "GET", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "GET", True),
    ],
)
def test_an_answer_ends_where_its_head_says(answer, method, whole):
    assert replay.ended(answer, method) is whole


# -- servers -----------------------------------------------------------------------------------


def test_the_forwarder_changes_no_byte_and_no_order():
    pieces = [bytes([number]) * (number * 997) for number in range(1, 40)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        heard = threading.Thread(target=_echo, args=(server,))
        heard.start()
        with delay.Delay(f"127.0.0.1:{server.getsockname()[1]}", 2) as line:
            host, _, port = line.host.partition(":")
            with socket.create_connection((host, int(port))) as caller, caller.makefile("rb") as back:
                for piece in pieces:
                    caller.sendall(piece)
                whole = b"".join(pieces)
                assert back.read(len(whole)) == whole
        heard.join()


def _echo(server):
    connection, _ = server.accept()
    with connection:
        while piece := connection.recv(65536):
            connection.sendall(piece)


def test_an_audit_through_the_forwarder_finds_the_same(sample_sandbox, sample_registry):
    with delay.Delay(sample_sandbox.host, 2) as line, Registry(line.host) as door:
        tags = collect(door, API, progress=False).tags
    expected = collect(sample_registry, API, progress=False).tags
    assert len(tags)
    assert tags["digest"].astype("object").tolist() == expected["digest"].astype("object").tolist()


@pytest.mark.real
def test_docker_registry_gives_out_the_images_that_were_written_for_it(docker_registry_program, tmp_path):
    server = DockerRegistry(tmp_path)
    names = stored_images.store(server.storage, 2, 3)
    with server, Registry(server.host) as door:
        snapshot = collect(door, progress=False)
    assert len(snapshot.tags) == 6
    assert set(snapshot.tags["repository"]) == set(names)
    assert snapshot.complete
    assert snapshot.problems.empty
    assert snapshot.tags["digest"].nunique() == 6


@pytest.mark.real
def test_every_contender_reads_all_tags(docker_registry_program, tmp_path):
    need("skopeo", "a contender of the benchmarks")
    server = DockerRegistry(tmp_path)
    (name,) = stored_images.store(server.storage, 1, 2)
    with server:
        recording = tmp_path / "recording.json"
        ours = contenders.regaudit(server.host, "--record", str(recording))
        assert (ours["tags"], ours["requests"]) == (2, len(Recording.load(recording).sent))
        assert contenders.replay(server.host, recording, 2)["requests"] == ours["requests"]
        assert contenders.skopeo(server.host, [f"{name}:t0", f"{name}:t1"], 2)["tags"] == 2
        for library in (loop.with_requests, loop.with_urllib3):
            assert loop.read(library(2), f"http://{server.host}/v2/{name}", 2) == (2, 5)


def test_the_pages_of_the_static_registry_lead_from_one_to_the_next(tmp_path):
    static.StaticRegistry(tmp_path, tags=2500, images=100)
    links = dict(line.split(" ", 1) for line in (tmp_path / "pages.map").read_text().splitlines())
    tags, last = [], ""
    while True:
        tags += json.loads((tmp_path / f"files/tags/after{last}").read_text())["tags"]
        if f'"{last}"' not in links:
            break
        last = links[f'"{last}"'].partition("last=")[2].partition("&")[0]
    assert tags == [f"t{number:07}" for number in range(2500)]
    assert len((tmp_path / "digests.map").read_text().splitlines()) == 100


def test_the_static_registry_takes_only_numbers_that_its_names_can_tell(tmp_path):
    with pytest.raises(ValueError, match="power of ten"):
        static.StaticRegistry(tmp_path, tags=2500, images=30)


# -- the page ----------------------------------------------------------------------------------


def test_the_page_says_what_was_reached_and_what_was_not_measured():
    near = figures.Report("Near", [figures.Table("A table", ["a|b", "c"], [["1", "2"]], "A note.")])
    near.figures = [figures.Figure.at_least("speed", 0.9, [0.8, 0.95, 1.0]), figures.Figure.at_most("time", 1.1, [1.2])]
    near.not_measured("cost", 0.08, "no nginx")
    text = results.page([figures.Report.from_json(near.to_json())], {"date": "today"}, quick=False, minutes=3)
    assert "| speed | ≥ 0.9 | 0.950 (0.800 … 1.00) | yes |" in text
    assert "| time | ≤ 1.1 | 1.20 | **no** |" in text
    assert "| cost | 0.08 | not measured: no nginx |  |" in text
    assert "| a\\|b | c |\n| --- | --- |\n| 1 | 2 |\n\nA note.\n" in text
    assert "- date: today" in text
    assert "quick run" not in text


def test_the_figures_of_a_million_tags_are_taken_from_the_rows_of_scale():
    rows = [
        {"what": what, "tags": tags, "seconds": [seconds], "cpu_seconds": [seconds], "peak_mib": 900}
        for what, tags, seconds in (
            ("load", 1000, 1),
            ("load", 10_000, 1),
            ("load", 1_000_000, 110),
            ("plan", 1_000_000, 4),
        )
    ]
    report = results.of_scale({"name": "scale", "rows": rows})
    found = {figure.name: (figure.measured, figure.reached) for figure in report.figures}
    assert found["load, 1,000,000 tags"] == ("110", False)
    assert found["plan, 1,000,000 tags"] == ("4.00", True)
    assert found["peak memory of these, 1,000,000 tags"] == ("900", True)
    assert found["growth of load: CPU per tag at 1,000,000, by that at 10,000"] == ("1.10", True)


def test_a_benchmark_that_fails_is_a_row_of_the_page():
    report = results.report_of(results.Run("none", "no-such-program.py", "", ""), quick=True)
    assert "not measured" in report.figures[0].measured
    assert "no-such-program" in results.page([report], {}, quick=True, minutes=0)


def test_turns_let_every_contender_begin():
    order = []
    samples = figures.turns({name: lambda name=name: order.append(name) or {"n": len(order)} for name in "ab"}, 2)
    assert order == ["a", "b", "b", "a"]
    assert figures.ratios(samples, "b", "a", "n") == [2, 0.75]
