"""Tables as the sheets of one XLSX file, written row by row: memory does not grow with the rows.

Text is stored as text, never as a formula or a link, whatever it begins with. Times are real ones, shown with
their zone, which a workbook cannot store; whole numbers beyond what a workbook can hold exactly are text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from regaudit.inventory.spreadsheet import with_human_sizes
from regaudit.text import clean

if TYPE_CHECKING:
    from pathlib import Path

# Of the file format (support.microsoft.com, "Excel specifications and limits").
MOST_ROWS = 1_048_576
LONGEST_TEXT = 32_767
_LONGEST_NAME = 31
# A cell's number is a binary64.
_EXACT = 2**53
# Days between the beginning of a workbook's calendar and 1970.
_EPOCH_DAY = 25_569
_MICROSECONDS = 86_400_000_000
_FIRST_YEAR = 1900
# So many rows decide how wide a column is, which is at most so many characters.
_MEASURED, _WIDEST = 100, 60
# Rows that are Python's values at a time.
_SLICE_ROWS = 1 << 14

_Write = Callable[[Any, int, int, Any, Mapping[str, Any]], None]


def write_workbook(tables: Mapping[str, pd.DataFrame], file: IO[bytes] | Path, *, title: str, at: datetime) -> None:
    """Write each table as a sheet of its own, behind one that says what is in them.

    Parameters
    ----------
    tables : mapping of str to pandas.DataFrame
        By the name of the sheet. Beside each column of bytes stands one that people can read.
    file : path or binary file
        Where the workbook goes.
    title : str
        What the workbook is called.
    at : datetime
        When its content was taken; nothing else in the file depends on the time, so that the same tables give the
        same bytes.
    """
    import xlsxwriter

    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
    }
    with xlsxwriter.Workbook(file, options) as book:
        book.set_properties({"title": clean(title, 200), "created": at.replace(tzinfo=None)})
        formats = {
            "head": book.add_format({"bold": True, "bottom": 1}),
            "time": book.add_format({"num_format": 'yyyy-mm-dd hh:mm:ss "UTC"'}),
            "whole": book.add_format({"num_format": "#,##0"}),
        }
        _write_sheet(book.add_worksheet("contents"), _contents(tables), formats)
        for name, frame in tables.items():
            shown = frame.head(MOST_ROWS - 1)
            _write_sheet(book.add_worksheet(name[:_LONGEST_NAME]), with_human_sizes(shown), formats)


def _contents(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    rows = [
        (
            name,
            len(frame),
            "" if len(frame) < MOST_ROWS else f"only the first {MOST_ROWS - 1:,} rows are here: see {name}.csv",
        )
        for name, frame in tables.items()
    ]
    frame = pd.DataFrame(rows, columns=["sheet", "rows", "note"])
    return frame.astype({"sheet": "string", "note": "string"})


def _write_sheet(sheet: Any, frame: pd.DataFrame, formats: Mapping[str, Any]) -> None:
    sheet.freeze_panes(1, 0)
    for place, name in enumerate(frame.columns):
        sheet.set_column(place, place, _width(str(name), frame[name]))
    for place, name in enumerate(frame.columns):
        sheet.write_string(0, place, clean(name, 255), formats["head"])
    if frame.empty:
        return
    sheet.autofilter(0, 0, len(frame), len(frame.columns) - 1)
    writers = [_writer(frame[name]) for name in frame.columns]
    for row, values in enumerate(_rows(frame), start=1):
        for place, (write, value) in enumerate(zip(writers, values, strict=True)):
            if value is not None:
                write(sheet, row, place, value, formats)


def _rows(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(frame), _SLICE_ROWS):
        part = frame.iloc[start : start + _SLICE_ROWS]
        yield from zip(*(_values(part[name]) for name in frame.columns), strict=True)


def _values(column: pd.Series[Any]) -> list[Any]:
    """Return a column's values as its writer takes them; None where one is missing."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        numbers = column.dt.tz_convert("UTC").to_numpy("datetime64[us]").astype("int64")
        days = numbers / _MICROSECONDS + _EPOCH_DAY
        years = column.dt.year.fillna(0).to_numpy()
        # What is before a workbook's calendar is written as text.
        texts = [] if (years[years > 0] >= _FIRST_YEAR).all() else column.astype("string").tolist()
        values = [text if texts and year < _FIRST_YEAR else day for day, year, text in _zipped(days, years, texts)]
    else:
        values = column.astype("object").tolist()
    return [None if missing else value for value, missing in zip(values, column.isna(), strict=True)]


def _zipped(days: Any, years: Any, texts: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    return zip(days.tolist(), years.tolist(), texts or [None] * len(days), strict=True)


def _writer(column: pd.Series[Any]) -> _Write:
    dtype = column.dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _write_time
    if pd.api.types.is_bool_dtype(dtype):
        return _write_flag
    return _write_number if pd.api.types.is_numeric_dtype(dtype) else _write_text


def _write_text(sheet: Any, row: int, place: int, value: Any, _formats: Mapping[str, Any]) -> None:
    sheet.write_string(row, place, clean(value, LONGEST_TEXT))


def _write_flag(sheet: Any, row: int, place: int, value: Any, _formats: Mapping[str, Any]) -> None:
    sheet.write_boolean(row, place, value)


def _write_time(sheet: Any, row: int, place: int, value: Any, formats: Mapping[str, Any]) -> None:
    if isinstance(value, str):
        _write_text(sheet, row, place, value, formats)
    else:
        sheet.write_number(row, place, value, formats["time"])


def _write_number(sheet: Any, row: int, place: int, value: Any, formats: Mapping[str, Any]) -> None:
    if not np.isfinite(value) or abs(value) > _EXACT:
        _write_text(sheet, row, place, value, formats)
    elif isinstance(value, int):
        sheet.write_number(row, place, value, formats["whole"])
    else:
        sheet.write_number(row, place, value)


def _width(name: str, column: pd.Series[Any]) -> int:
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return 24
    longest = max((len(str(value)) for value in column.head(_MEASURED) if not pd.isna(value)), default=0)
    return min(max(len(name) + 3, longest + 2), _WIDEST)
