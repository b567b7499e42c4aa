"""CSV that is safe in a spreadsheet, written in slices: a table of ten million rows is never text as a whole.

A line is made by joining columns of text, which is how Arrow keeps them: the bytes of such an array
are the file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.text import CSV_SUSPECT, LONGEST_CELL, atomic_write, csv_guard, human_bytes

# Rows that are text at a time: some 40 MB of a table of digests.
_SLICE_ROWS = 1 << 17
_NEEDS_QUOTES = '[",\r\n]'
_END = "\r\n"
_WHOLE_SECOND = 1_000_000

_Texts = Callable[[int, int], pa.Array]


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV that is safe in a spreadsheet, whole or not at all."""
    columns = [_column(column) for _, column in frame.items()]
    with atomic_write(path, "wb") as file:
        file.write(_header(frame))
        for start in range(0, len(frame) if columns else 0, _SLICE_ROWS):
            stop = min(start + _SLICE_ROWS, len(frame))
            *first, last = (texts(start, stop) for texts in columns)
            last = pc.binary_join_element_wise(last, _END, "")
            file.write(_bytes_of(pc.binary_join_element_wise(*first, last, ",")))
    return path


def with_human_sizes(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which a column of text that people read stands behind each column of bytes.

    Behind ``content_bytes`` stands ``content_human``: ``1.5 GiB``, and nothing where the size is not known.
    """
    columns = {}
    for name, column in frame.items():
        columns[name] = column
        if str(name).endswith("_bytes"):
            columns[f"{str(name).removesuffix('bytes')}human"] = _human(column)
    return pd.DataFrame(columns, index=frame.index)


def _human(sizes: pd.Series[Any]) -> pd.Series[Any]:
    # As categories: of ten million edges to a hundred thousand layers only these are made into text.
    codes, distinct = pd.factorize(sizes)
    texts, places = np.unique([human_bytes(size) for size in distinct], return_inverse=True)
    codes = np.append(places, -1)[codes] if len(places) else codes
    made = pd.Categorical.from_codes(codes, categories=pd.Index(texts, dtype="string"))
    return pd.Series(made, index=sizes.index)


def _header(frame: pd.DataFrame) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator=_END).writerow(list(frame.columns))
    return line.getvalue().encode()


def _bytes_of(lines: pa.Array) -> memoryview:
    _, offsets, text = lines.buffers()
    ends = memoryview(offsets).cast("i")
    return memoryview(text)[ends[lines.offset] : ends[lines.offset + len(lines)]]


def _column(column: pd.Series[Any]) -> _Texts:
    """Return a function that returns the cells between two rows as they stand in the file."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _of_category(column)
    make = _maker(column)
    return lambda start, stop: _quoted(make(column.iloc[start:stop])).fill_null("")


def _of_category(column: pd.Series[Any]) -> _Texts:
    categories = pd.Series(column.cat.categories.to_numpy(), dtype=column.cat.categories.dtype, copy=False)
    texts, codes = _quoted(_maker(categories)(categories)), column.array.codes
    return lambda start, stop: texts.take(
        pa.array(codes[start:stop].astype("int32"), mask=codes[start:stop] < 0)
    ).fill_null("")


def _maker(column: pd.Series[Any]) -> Callable[[pd.Series[Any]], pa.Array]:
    dtype = column.dtype
    if isinstance(dtype, pd.StringDtype) or (
        pd.api.types.is_object_dtype(dtype) and pd.api.types.infer_dtype(column) == "string"
    ):
        return _guarded
    if dtype == "datetime64[us, UTC]":
        return _times
    if pd.api.types.is_integer_dtype(dtype):
        return lambda numbers: _arrow(pa.array(numbers, from_pandas=True)).cast(pa.string())
    return _one_by_one


def _guarded(texts: pd.Series[Any]) -> pa.Array:
    """Return texts as `csv_guard` makes them, which is asked about the few that it would change."""
    try:
        made = _arrow(pa.array(texts, pa.string(), from_pandas=True))
    except UnicodeEncodeError:  # half a character, which Python's text can hold and UTF-8 cannot
        return _one_by_one(texts)
    suspect = pc.or_(pc.match_substring_regex(made, CSV_SUSPECT), pc.greater(pc.utf8_length(made), LONGEST_CELL))
    safe = [csv_guard(text) for text in made.filter(suspect).to_pylist()]
    return pc.replace_with_mask(made, suspect.fill_null(False), pa.array(safe, pa.string())) if safe else made


def _times(moments: pd.Series[Any]) -> pa.Array:
    """Return times of UTC as `isoformat` writes them: with a fraction only where there is one."""
    numbers, missing = moments.to_numpy("datetime64[us]"), moments.isna().to_numpy()
    texts = np.datetime_as_string(numbers, unit="s")
    fraction = (numbers.astype("int64") % _WHOLE_SECOND != 0) & ~missing
    if fraction.any():
        texts = np.where(fraction, np.datetime_as_string(numbers, unit="us"), texts)
    return pc.binary_join_element_wise(pa.array(texts, pa.string(), mask=missing), "+00:00", "")


def _one_by_one(values: pd.Series[Any]) -> pa.Array:
    shown = (None if missing else _shown(value) for value, missing in zip(values, values.isna(), strict=True))
    return pa.array(list(shown), pa.string())


def _shown(value: Any) -> str:
    return value.isoformat() if isinstance(value, pd.Timestamp) else str(csv_guard(value))


def _quoted(texts: pa.Array) -> pa.Array:
    special = pc.match_substring_regex(texts, _NEEDS_QUOTES)
    if not pc.any(special).as_py():
        return texts
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(texts, '"', '""'), '"', "")
    return pc.if_else(special, quoted, texts)


def _arrow(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
