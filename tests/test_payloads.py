"""Every hostile text in every field, at every place where something is shown: nothing acts, and the text is still there."""

from __future__ import annotations

import html
import io
import json
import logging
from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
import pytest
from builders import Build, days_before
from click.testing import CliRunner
from hostile import answer
from payloads import PAYLOADS, active_in_csv, active_in_html, active_in_text
from test_form import FakeCleaner, open_page

from regaudit.analysis.labels import missing_labels
from regaudit.analysis.report import report
from regaudit.analysis.retention import Explanation
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.outcomes import Outcome, Run
from regaudit.cleaner.plan import Plan, plan
from regaudit.cli import main
from regaudit.client.exchange import Request, error_of
from regaudit.client.traffic import log_fault, log_response
from regaudit.errors import RegauditError, RegistryError
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.tables import TABLES
from regaudit.log import BODIES, show_log
from regaudit.reference import parse_reference
from regaudit.text import clean

# A display shows its first twenty rows.
PARTS = [PAYLOADS[at : at + 14] for at in range(0, len(PAYLOADS), 14)]
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def storable(payloads):
    return [text for text in payloads if text.isprintable() or not any("\ud800" <= c <= "\udfff" for c in text)]


def evil(payloads):
    """Return a snapshot in which each row has a hostile text in every column that can hold one; half characters it cannot."""
    payloads = storable(payloads)
    build = Build("registry.example.com")
    for number, _ in enumerate(payloads):
        build.image(
            f"r{number:02}", tags=[f"t{number:02}", f"u{number:02}"], created=days_before(900), layers={f"x{number}": 1}
        )
        build.unread(f"r{number:02}")
    base = build.snapshot()
    names = {f"r{number:02}": payload for number, payload in enumerate(payloads)}
    columns = {}
    for table, frame in base.tables.items():
        columns[table] = {}
        for column in TABLES[table]:
            values = list(frame[column.name].astype("object"))
            if column.type in {"name", "text", "json"}:
                values = [names.get(value, payloads[place % len(payloads)]) for place, value in enumerate(values)]
            columns[table][column.name] = values
    return Snapshot.from_columns(
        columns,
        registry=payloads[0],
        taken_at=base.taken_at,
        finished_at=base.finished_at,
        patterns=("**",),
        repositories=tuple(payloads),
    )


def evil_plan(payloads):
    made = plan(
        Build()
        .image("a", tags=["1"], created=days_before(9))
        .image("a", tags=["2"], created=days_before(1))
        .snapshot(),
        ["a:1"],
    )
    rows = tuple(
        replace(
            made.rows[0],
            repository=text,
            tags=(text,),
            reason=text,
            detail=text,
            kind=text,
            media_type=text,
            because=text,
        )
        for text in payloads
    )
    return replace(
        made, registry=payloads[0], rows=rows, refused=tuple(replace(row, refusal="protected") for row in rows)
    )


def evil_run(payloads):
    outcomes = tuple(Outcome(t, t, "sha256:" + "0" * 64, (t,), "delete_manifest", "failed", t, NOW) for t in payloads)
    return Run(
        id=payloads[0], plan_hash="", kind="delete", outcomes=outcomes, stopped=False, resumes=(), advice=payloads[1]
    )


def differing(payloads):
    later = evil(payloads)
    return replace(evil(payloads[:1]), registry=later.registry).diff(later, across_registries=True)


DISPLAYED = {
    "snapshot": evil,
    "plan": evil_plan,
    "outcomes": evil_run,
    "difference": differing,
    "explanation": lambda p: Explanation(p[0], "kept", p[1], p[2], tuple(p), tuple(p)),
}


@pytest.mark.parametrize("part", range(len(PARTS)))
@pytest.mark.parametrize("shown", DISPLAYED)
def test_nothing_acts_in_a_display_and_the_text_is_there(shown, part):
    value = DISPLAYED[shown](PARTS[part])
    page = value._repr_html_()
    assert active_in_html(page) == []
    assert active_in_text(str(value)) == []
    assert active_in_text(repr(value)) == []
    for text in PARTS[part][:2]:
        assert html.escape(clean(text), quote=True)[:20] in page or shown == "snapshot"


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_nothing_acts_in_a_frame_that_pandas_shows(part):
    """In a notebook a frame is shown by pandas, which escapes; its formulas are the user's own setting of pandas."""
    snapshot = evil(PARTS[part])
    frames = [*snapshot.tables.values(), evil_plan(storable(PARTS[part])).frame(), missing_labels(snapshot, ["x"])]
    with pd.option_context("display.html.use_mathjax", False):
        for frame in frames:
            page = frame.to_html()
            assert not [found for found in active_in_html(page) if found.startswith(("<", "on"))]


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_nothing_acts_in_the_details_of_an_image(part):
    said = {text: text for text in storable(PARTS[part])}
    build = Build("registry.example.com").image("a", tags=["1"], labels=said, annotations=said, created=days_before(3))
    details = build.snapshot().image("a:1")
    assert active_in_html(details._repr_html_()) == []
    assert active_in_text(str(details) + repr(details)) == []


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_nothing_acts_in_a_spreadsheet(part, tmp_path):
    payloads = storable(PARTS[part])
    evil(payloads).to_csv(tmp_path / "snapshot")
    evil_plan(payloads).to_csv(tmp_path / "plan.csv")
    differing(payloads).to_csv(tmp_path / "difference")
    paths = list(tmp_path.rglob("*.csv"))
    assert len(paths) > 8
    for path in paths:
        assert active_in_csv(path.read_text("utf-8")) == [], path.name


def test_nothing_acts_in_the_report(tmp_path):
    payloads = storable(PAYLOADS)
    report(evil(payloads), tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert active_in_text(page) == []
    assert page.count("<script") == 1
    assert "<svg/onload" not in page
    assert "<img src=x" not in page
    for path in (tmp_path / "out").glob("*.csv"):
        assert active_in_csv(path.read_text("utf-8")) == [], path.name


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_acts_in_the_log(as_json, monkeypatch):
    # What pytest keeps of the records is the bare text, and a lone surrogate in it ends a run of several processes.
    monkeypatch.setattr(logging.getLogger("regaudit"), "propagate", False)
    stream = io.StringIO()
    show_log(2, as_json=as_json, stream=stream)
    for text in PAYLOADS:
        request = Request("GET", f"https://registry.example/v2/{text}", "test", headers={"X-A": text})
        raw = text.encode("utf-8", "surrogatepass")
        log_response(request, answer(500, raw, headers=[("X-A", text), ("Location", text), ("Link", f"<{text}>")]), 1)
        log_fault(request, RegistryError(text), 1)
        logging.getLogger("regaudit.client").log(BODIES, "%s", text)
    show_log(0)
    logged = stream.getvalue()
    assert len(logged.splitlines()) >= 3 * len(PAYLOADS)
    assert active_in_text(logged) == []
    if as_json:
        assert all(json.loads(line) for line in logged.splitlines())


@pytest.mark.parametrize("text", PAYLOADS)
def test_nothing_acts_in_the_text_of_an_error(text, tmp_path):
    body = json.dumps({"errors": [{"code": text, "message": text}]}).encode()
    assert active_in_text(str(error_of(answer(400, body), "reading"))) == []
    with pytest.raises(RegauditError) as refused:
        parse_reference(f"{text}:{text}")
    assert active_in_text(str(refused.value)) == []
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"format": text}))
    with pytest.raises(RegauditError) as refused:
        Plan.load(path)
    assert active_in_text(str(refused.value)) == []


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_nothing_acts_in_what_the_form_sends_to_the_page(part):
    """The page puts every text in place as text (tests/test_browser.py); what crosses has no control left in it."""
    payloads = storable(PARTS[part])
    build = Build(payloads[0]).image("team/app", tags=["kept"], created=days_before(1))
    for number, text in enumerate(payloads):
        build.image("team/app", tags=[f"v{number}"], created=days_before(900), layers={text: 1})
    frame = pd.DataFrame(
        {"repository": "team/app", "tag": [f"v{number}" for number in range(len(payloads))], "reason": payloads}
    )
    page = open_page(plan(build.snapshot(), frame), FakeCleaner())
    assert len(page.view["rows"]) == len(payloads)
    for view in (page.view, page.ask("filter", text=payloads[0]), page.ask("no such thing", text=payloads[0])):
        assert active_in_text(json.dumps(view, ensure_ascii=False)) == []
    data, _ = page.form._repr_mimebundle_()
    assert active_in_html(data["text/html"]) == []
    assert active_in_text(data["text/plain"]) == []


def test_nothing_acts_at_the_terminal(tmp_path):
    payloads = storable(PAYLOADS)
    evil(payloads).save(tmp_path / "snapshot")
    evil(payloads[:3]).save(tmp_path / "before")
    with Journal(tmp_path / "journal.sqlite") as journal:
        for text in payloads:
            journal.record(
                text, "started", kind="delete", registry=text, approval={"by": text, "reason": text}, rows=[]
            )
            journal.record(text, "outcome", text, repository=text, tags=[text], outcome="failed", detail=text)
            journal.record(text, "finished", stopped=True)
    commands = [
        ["stale", str(tmp_path / "snapshot"), "--keep-latest", "0"],
        ["duplicates", str(tmp_path / "snapshot")],
        ["findings", str(tmp_path / "snapshot")],
        ["diff", str(tmp_path / "before"), str(tmp_path / "snapshot"), "--across-registries"],
        ["journal", "show", "--journal", str(tmp_path / "journal.sqlite")],
        *(["journal", "show", "--run", text, "--journal", str(tmp_path / "journal.sqlite")] for text in payloads[:20]),
        *(
            ["journal", "export", "--format", form, "--journal", str(tmp_path / "journal.sqlite")]
            for form in ("csv", "jsonl")
        ),
        *(["stale", text] for text in payloads if "\0" not in text),
    ]
    for command in commands:
        shown = CliRunner().invoke(main, command)
        assert shown.exception is None or isinstance(shown.exception, SystemExit), (command, shown.exception)
        assert active_in_text(shown.output.replace("\r\n", "\n")) == [], command
        if "csv" in command:
            assert active_in_csv(shown.output) == []


def test_what_acts_is_found():
    """Each detector finds what it is there for."""
    assert len(PAYLOADS) >= 40
    assert active_in_html("<p>$\\href{javascript:x}{y}$</p>") == ["a formula"]
    assert active_in_html("<a href=x>") == ["<a>", "href=x"]
    assert active_in_html("<p onclick=x>\x1b</p>") == ["onclick=x", "'\\x1b'"]
    assert active_in_csv("a,=1+1\n-5,@x") == ["=1+1", "@x"]
    assert active_in_text("a\u202eb\x9b") == ["'\\u202e'", "'\\x9b'"]
