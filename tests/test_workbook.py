"""Tables as a workbook: the claims of `regaudit.inventory.workbook`."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
import zipfile
from datetime import UTC, datetime

import pandas as pd
import pytest

from regaudit.inventory import workbook
from regaudit.inventory.spreadsheet import with_human_sizes
from regaudit.inventory.workbook import LONGEST_TEXT, write_workbook

AT = datetime(2026, 6, 1, tzinfo=UTC)
SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def written(**tables):
    """Write tables and return each sheet by its name as rows of (kind, text, number format)."""
    file = io.BytesIO()
    write_workbook(tables, file, title="x", at=AT)
    with zipfile.ZipFile(file) as book:
        styles = ET.fromstring(book.read("xl/styles.xml"))
        formats = {f.get("numFmtId"): f.get("formatCode") for f in styles.iter(f"{SPACE}numFmt")}
        used = [f.get("numFmtId") for f in styles.find(f"{SPACE}cellXfs")]
        sheets = ET.fromstring(book.read("xl/workbook.xml")).iter(f"{SPACE}sheet")
        return {
            sheet.get("name"): rows_of(ET.fromstring(book.read(f"xl/worksheets/sheet{place}.xml")), used, formats)
            for place, sheet in enumerate(sheets, start=1)
        }


def rows_of(sheet, used, formats):
    """Return every row up to the last one that has a cell."""
    found = {int(row.get("r")): cells_of(row, used, formats) for row in sheet.iter(f"{SPACE}row")}
    return [found.get(place, {}) for place in range(1, max(found) + 1)]


def cells_of(row, used, formats):
    return {
        cell.get("r").rstrip("0123456789"): (
            cell.get("t"),
            "".join(cell.itertext()),
            formats.get(used[int(cell.get("s", 0))]),
        )
        for cell in row
    }


def text(*values):
    return pd.DataFrame({"text": pd.array(values, dtype="string")})


def column(frame, letter="A", sheet="x"):
    return [row.get(letter) for row in written(**{sheet: frame})[sheet][1:]]


@pytest.mark.parametrize(
    "value", ["=1+1", "{=1}", "+1", "@x", "https://example.com", "1234", "TRUE", "_x0041_", "<b>&"]
)
def test_text_is_text_whatever_it_begins_with(value):
    assert column(text(value)) == [("inlineStr", value.replace("_x0041_", "_x005F_x0041_"), None)]


def test_controls_are_replaced_and_a_text_too_long_for_a_cell_is_cut():
    (controls, long) = column(text("a\x00\x1b\u202eb", "x" * 40_000))
    assert controls[1] == "a\ufffd\ufffd\ufffdb"
    assert len(long[1]) == LONGEST_TEXT
    assert long[1].endswith("…")


def test_what_is_missing_is_an_empty_cell():
    frame = text(None, "a").assign(
        n=pd.array([None, 1], dtype="Int64"), t=pd.to_datetime([None, AT]), f=pd.array([None, True], dtype="boolean")
    )
    first, second = written(x=frame)["x"][1:]
    assert first == {}
    assert {letter: cell[:2] for letter, cell in second.items()} == {
        "A": ("inlineStr", "a"),
        "B": (None, "1"),
        "C": (None, "46174"),
        "D": ("b", "1"),
    }


def test_a_time_is_a_real_one_and_shown_with_its_zone():
    frame = pd.DataFrame({"t": pd.to_datetime(["2026-06-01T12:00:00Z", "2026-06-01T12:00:00.5Z"], format="ISO8601")})
    assert column(frame)[0] == (None, "46174.5", 'yyyy-mm-dd hh:mm:ss "UTC"')
    elsewhere = pd.DataFrame({"t": frame["t"].dt.tz_convert("Asia/Tokyo")})
    assert column(elsewhere) == column(frame)


def test_a_time_before_a_workbooks_calendar_is_text():
    old = pd.DataFrame({"t": pd.Series([datetime(1801, 1, 1, tzinfo=UTC), AT], dtype="datetime64[us, UTC]")})
    assert [cell[:2] for cell in column(old)] == [("inlineStr", "1801-01-01 00:00:00+00:00"), (None, "46174")]


def test_a_number_that_a_workbook_would_round_is_text():
    frame = pd.DataFrame({"n": pd.array([2**53, 2**63 - 1], dtype="Int64")})
    assert column(frame) == [(None, "9007199254740992", "#,##0"), ("inlineStr", str(2**63 - 1), None)]


def test_bytes_stand_beside_what_people_read():
    frame = pd.DataFrame({"content_bytes": pd.array([1536, None, 0], dtype="Int64")})
    assert [cell and cell[1] for cell in column(frame, "B")] == ["1.5 KiB", None, "0 B"]
    assert with_human_sizes(frame).columns.tolist() == ["content_bytes", "content_human"]
    assert with_human_sizes(frame.iloc[1:2])["content_human"].isna().all()


def test_the_first_sheet_says_what_is_in_the_others():
    rows = written(tags=text("a", "b"), stale=text())["contents"]
    assert [[cell[1] for cell in row.values()][:2] for row in rows] == [
        ["sheet", "rows"],
        ["tags", "2"],
        ["stale", "0"],
    ]


def test_rows_beyond_what_a_sheet_holds_are_left_out_and_said(monkeypatch):
    monkeypatch.setattr(workbook, "MOST_ROWS", 4)
    sheets = written(tags=text("a", "b", "c", "d"), few=text("a", "b", "c"))
    assert [len(sheets[name]) for name in ("tags", "few")] == [4, 4]
    assert sheets["contents"][1]["C"][1] == "only the first 3 rows are here: see tags.csv"
    assert sheets["contents"][2]["C"][1] == ""


def test_rows_are_written_a_slice_at_a_time(monkeypatch):
    monkeypatch.setattr(workbook, "_SLICE_ROWS", 2)
    assert [cell[1] for cell in column(text(*"abcde"))] == list("abcde")


def test_an_empty_table_has_its_header():
    assert written(x=text())["x"] == [{"A": ("inlineStr", "text", None)}]
