"""The log of what is said to a registry: a record for each request and response, and no secret in any."""

from __future__ import annotations

import io
import json
import logging

import pytest
from hostile import Cut, error, redirect, reply

from regaudit.client.registry import Registry
from regaudit.errors import RegauditError
from regaudit.log import BODIES, FIELDS, show_log
from regaudit.reference import Digest
from regaudit.sandbox.server import Sandbox
from regaudit.text import log_url

CANARY = "canary-5ecret"
BLOB = b"blob" * 1000


def records(caplog, event=None):
    found = [record for record in caplog.records if record.name == "regaudit.client" and hasattr(record, "event")]
    return [record for record in found if event is None or record.event == event]


@pytest.fixture
def debug(caplog):
    """Take every record of the client."""
    with caplog.at_level(BODIES, "regaudit.client"):
        yield caplog


def test_a_record_is_made_for_each_request_and_for_each_response(sample_registry, debug):
    sample_registry.repository("charts/checkout").tags()
    request, response = records(debug)
    assert (request.event, request.method, request.purpose, request.attempt) == ("request", "GET", "tags", 1)
    assert request.url.endswith("/v2/charts/checkout/tags/list?n=1000")
    assert (response.event, response.status, response.url) == ("response", 200, request.url)
    assert response.bytes == len(response.body) > 20
    assert 0 < response.seconds < 10


def test_an_attempt_after_a_fault_carries_its_number_and_the_fault_its_reason(hostile, debug, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)
    hostile.on("GET /v2/", Cut(reply(json={}), 10), reply(503), reply(json={}))
    with Registry(hostile.host) as registry:
        registry.ping()
    assert [(record.event, record.attempt) for record in records(debug)] == [
        ("request", 1),
        ("fault", 1),
        ("request", 2),
        ("response", 2),
        ("request", 3),
        ("response", 3),
    ]
    assert "ended before the answer did" in records(debug, "fault")[0].error


def test_every_hop_of_a_redirect_is_a_record_of_its_own(hostile, debug):
    hostile.on("GET /v2/team/app/tags/list", redirect("/there"))
    hostile.on("GET /there", reply(json={"name": "team/app", "tags": []}))
    with Registry(hostile.host) as registry:
        registry.repository("team/app").tags()
    assert [record.status for record in records(debug, "response")] == [302, 200]


def test_bodies_are_shown_at_the_lowest_level_only(sample_registry, caplog):
    for level, shown in ((logging.DEBUG, False), (BODIES, True)):
        caplog.clear()
        with caplog.at_level(level, "regaudit.client"):
            sample_registry.repository("charts/checkout").tags()
        assert ["0.9.1" in (getattr(record, "body", "") or "") for record in records(caplog, "response")] == [shown]


def test_a_document_of_many_lines_is_shown_as_one_without_marks_of_unsafe_characters(hostile, debug):
    hostile.on("GET /v2/", reply(body=b'{\n   "a": 1\n}\n'))
    with Registry(hostile.host) as registry:
        registry.ping()
    assert records(debug, "response")[0].body == '{ "a": 1 }'


def test_a_blob_is_counted_and_not_shown(hostile, debug, tmp_path):
    digest = Digest.of(BLOB)
    hostile.on(f"GET /v2/team/app/blobs/{digest}", reply(200, BLOB))
    with Registry(hostile.host) as registry:
        registry.repository("team/app").download_blob(digest, tmp_path / "blob")
    [response] = records(debug, "response")
    assert (response.bytes, response.body) == (4000, "(4,000 bytes, streamed)")


def test_bytes_that_are_no_text_are_counted_too(hostile, debug):
    hostile.on("GET /v2/team/app/tags/list", reply(200, b"\xff\xfe\x00"))
    with Registry(hostile.host) as registry, pytest.raises(RegauditError):
        registry.repository("team/app").tags()
    assert records(debug, "response")[0].body == "(3 bytes that are no text)"


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_no_secret_of_a_login_is_in_any_record(kind, debug):
    with (
        Sandbox(users={"alice": CANARY}, auth=kind, sample=True) as server,
        Registry(server.host, username="alice", password=CANARY) as registry,
    ):
        repository = registry.repository("charts/checkout")
        repository.tags()
        repository.upload_blob(BLOB)
        stream = io.StringIO()
        show_log(2, as_json=True, stream=stream)
        repository.manifest("0.9.1")
        show_log(0)
    issued = [token.value for token in registry.session.tokens.values()]
    assert issued or kind == "basic"
    everything = stream.getvalue() + "".join(f"{record.getMessage()} {record.__dict__}" for record in debug.records)
    for secret in (CANARY, *issued, registry.session.credentials.basic().partition(" ")[2]):
        assert secret not in everything
    assert '"authorization": "***"' in everything.lower()


def test_the_signature_of_an_address_and_a_cookie_are_not_in_the_log(hostile, debug):
    hostile.on("GET /v2/team/app/tags/list", redirect(f"/there?X-Amz-Signature={CANARY}&n=5"))
    said = {"Set-Cookie": f"session={CANARY}", "Link": f'</v2/team/app/tags/list?cursor={CANARY}&last=b>; rel="next"'}
    hostile.on("GET /there", reply(json={"name": "team/app", "tags": []}, headers=said), error(404, "X"))
    with Registry(hostile.host) as registry, pytest.raises(RegauditError):
        registry.repository("team/app").tags()
    text = "".join(f"{record.getMessage()} {record.__dict__}" for record in debug.records)
    assert CANARY not in text
    assert "/there?X-Amz-Signature=***&n=5" in text
    assert "cursor=***&last=b" in text


def test_a_line_of_json_holds_every_field(sample_registry):
    stream = io.StringIO()
    show_log(2, as_json=True, stream=stream)
    sample_registry.repository("charts/checkout").tags()
    show_log(0)
    request, response = map(json.loads, stream.getvalue().splitlines())
    assert (request["logger"], request["level"], request["event"]) == ("regaudit.client", "debug", "request")
    assert request["time"].endswith("Z")
    assert set(response) == {"time", "level", "logger", "message", *FIELDS} - {"error"}


def test_a_line_of_text_is_one_line_and_bodies_are_indented_below_it(sample_registry):
    shown = {}
    for verbosity in (0, 1, 2):
        stream = io.StringIO()
        show_log(verbosity, stream=stream)
        sample_registry.repository("charts/checkout").tags()
        shown[verbosity] = stream.getvalue().splitlines()
    show_log(0)
    assert shown[0] == []
    assert len(shown[1]) == 2
    assert " -> 200, " in shown[1][1]
    assert shown[2][-1].startswith('    {"name"')


def test_hostile_text_cannot_forge_a_line(hostile):
    stream = io.StringIO()
    show_log(2, stream=stream)
    hostile.on("GET /v2/team/app/tags/list", reply(200, b"x\r\nFORGED\x1b[2J line", headers={"X-Odd": "\x1b]8;;evil"}))
    with Registry(hostile.host) as registry, pytest.raises(RegauditError):
        registry.repository("team/app").tags()
    show_log(0)
    assert "\x1b" not in stream.getvalue()
    assert not [line for line in stream.getvalue().splitlines() if line.startswith("FORGED")]


def test_showing_the_log_again_changes_how_and_never_doubles_it(sample_registry):
    first, second = io.StringIO(), io.StringIO()
    show_log(1, stream=first)
    show_log(1, stream=second)
    sample_registry.ping()
    show_log(0)
    assert (len(first.getvalue().splitlines()), len(second.getvalue().splitlines())) == (0, 2)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://alice:pw@r.example/v2/?n=5&last=a%2Fb", "https://r.example/v2/?n=5&last=a%2Fb"),
        ("https://r.example/v2/?_state=abc&digest=sha256:0", "https://r.example/v2/?_state=***&digest=sha256:0"),
        ("https://r.example/x#frag", "https://r.example/x"),
        ("http://[::1/x?n=1", "(not a URL)"),
    ],
)
def test_a_url_in_the_log_keeps_what_says_what_is_asked_for_and_nothing_else(url, shown):
    assert log_url(url) == shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Link", f'</a?_state={CANARY}>; rel="prev", </b?cursor={CANARY}>; rel="next"'),
        ("Link", f"</a?_state={CANARY}"),
        ("Location", f"/upload?n=1<&_state={CANARY}<"),
        ("Location", f"/upload?n=1>&_state={CANARY}"),
    ],
)
def test_every_address_in_a_header_loses_what_may_be_a_login(hostile, debug, name, value):
    hostile.on("GET /v2/team/app/tags/list", error(404, "X", **{name: value}))
    with Registry(hostile.host) as registry, pytest.raises(RegauditError):
        registry.repository("team/app").tags()
    assert CANARY not in "".join(f"{record.getMessage()} {record.__dict__}" for record in debug.records)


def test_a_fault_is_told_without_secrets_to_a_handler_of_ones_own_too(hostile, debug):
    encoding = {"Content-Encoding": f"Bearer {CANARY}"}
    hostile.on("GET /v2/team/app/tags/list", reply(200, b"{}", headers=encoding))
    with Registry(hostile.host) as registry, pytest.raises(RegauditError):
        registry.repository("team/app").tags()
    [fault] = records(debug, "fault")
    assert CANARY not in fault.getMessage()
