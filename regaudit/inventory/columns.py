"""Columns while they grow: a text that repeats is kept once, everything else is a number; and the DataFrames made of them.

A missing number is -1, for nothing counted here is negative; a missing time is `NAT`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.inventory.tables import TABLES, TIME_DTYPE, Column, check, named

Whole = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]

MISSING = -1
# What numpy takes for "not a time".
NAT = int(np.iinfo(np.int64).min)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Texts:
    """Texts that repeat, each kept once and known by its number.

    Examples
    --------
    >>> texts = Texts()
    >>> [texts.code(text) for text in ("b", "a", None, "b")], texts.all()
    ([0, 1, -1, 0], ['b', 'a'])
    """

    __slots__ = ("_codes",)

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def code(self, text: str | None) -> int:
        """Return the number of a text, giving it one where it is new; `MISSING` for None."""
        if text is None:
            return MISSING
        code = self._codes.get(text)
        if code is None:
            # a plain str: what subclasses add (a `Digest`) is not kept a million times
            code = self._codes[str(text)] = len(self._codes)
        return code

    def find(self, text: str) -> int:
        """Return the number of a text, `MISSING` where it has none."""
        return self._codes.get(text, MISSING)

    def all(self) -> list[str]:
        """Return the texts in the order of their numbers."""
        return list(self._codes)

    def __len__(self) -> int:
        return len(self._codes)


class Rows:
    """Rows of whole numbers, packed. A row is there as a whole or not at all, whatever interrupts.

    Parameters
    ----------
    *names : str
        Of the columns.
    typecode : str
        Of `array`: ``q`` for 8 bytes, ``i`` for 4.
    """

    __slots__ = ("_names", "_packed")

    def __init__(self, *names: str, typecode: str = "q") -> None:
        self._names = names
        self._packed: array[int] = array(typecode)

    def add(self, *values: int) -> None:
        """Append a row, or several: a value for each column, row after row."""
        self._packed.extend(values)

    def __len__(self) -> int:
        return len(self._packed) // len(self._names)

    def value(self, row: int, name: str) -> int:
        """Return one number."""
        return self._packed[row * len(self._names) + self._names.index(name)]

    def columns(self, rows: int | None = None) -> dict[str, Any]:
        """Return the first rows as a numpy array for each column; nothing can be added while these are alive."""
        table = np.frombuffer(self._packed, dtype=self._packed.typecode).reshape(-1, len(self._names))[:rows]
        return {name: table[:, place] for place, name in enumerate(self._names)}


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of texts as their numbers."""

    codes: npt.NDArray[np.integer[Any]]
    texts: Sequence[str]


def microseconds(moment: datetime | None) -> int:
    """Return a time as the number that a column of times holds."""
    return NAT if moment is None else (moment - _EPOCH) // _MICROSECOND


def ranks(texts: Sequence[str], used: Iterable[Any]) -> tuple[list[str], Codes]:
    """Return the texts that are used, sorted, and for every number its place among them.

    Parameters
    ----------
    texts : sequence of str
        By number.
    used : iterable of arrays of numbers
        Those that occur; `MISSING` does not count.

    Returns
    -------
    list of str, numpy.ndarray
        ``places[number]`` is `MISSING` for what is not used, and ``places[MISSING]`` is `MISSING` too.
    """
    occurs = np.zeros(len(texts) + 1, dtype=bool)
    for numbers in used:
        occurs[numbers] = True
    chosen = np.flatnonzero(occurs[:-1])
    # bytes of UTF-8 sort as Python sorts text; the texts themselves are not made a second time
    order = pc.array_sort_indices(pa.array([texts[number] for number in chosen.tolist()], pa.large_string()))
    chosen = chosen[order.to_numpy()]
    places = np.full(len(texts) + 1, MISSING, dtype=np.int32)
    places[chosen] = np.arange(len(chosen), dtype=np.int32)
    return [texts[number] for number in chosen.tolist()], places


def ranges(starts: Whole, counts: Whole) -> Whole:
    """Return the numbers of several ranges, one range after the other.

    Examples
    --------
    >>> ranges(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    before = np.cumsum(counts) - counts
    shift = np.repeat(starts - before, counts)
    shift += np.arange(len(shift))
    return shift


def frame(table: str, rows: int, columns: Mapping[str, Any], digests: pd.CategoricalDtype) -> pd.DataFrame:
    """Return a table made straight of numbers: equal to what `tables.conform` makes of the plain values.

    Parameters
    ----------
    table : str
        A key of `tables.TABLES`.
    rows : int
        How many.
    columns : mapping
        By name; one that is absent is missing in every row. A ``digest`` is places in the dictionary, a
        ``word`` places in its vocabulary, a ``name`` or ``text`` is `Coded` (or a sequence of texts), all
        others are numbers.
    digests : pandas.CategoricalDtype
        The dictionary of all digest columns.
    """
    made = {column.name: _array(column, columns.get(column.name), rows, digests) for column in TABLES[table]}
    result = pd.DataFrame(made, index=pd.RangeIndex(rows), copy=False)
    check(table, result)
    return result


def _array(column: Column, values: Any, rows: int, digests: pd.CategoricalDtype) -> Any:
    if column.type in {"text", "json"}:
        return _texts(values, rows)
    if column.type == "name":
        return _names(values, rows)
    if values is None:
        values = np.full(rows, NAT if column.type == "time" else MISSING, dtype=np.int64)
    if column.type == "digest":
        return pd.Categorical.from_codes(values, dtype=digests)
    if column.type == "word":
        return pd.Categorical.from_codes(values, dtype=pd.CategoricalDtype(list(column.words)))
    if column.type == "time":
        naive = pd.Series(np.ascontiguousarray(values, dtype=np.int64).view("datetime64[us]"))
        return naive.dt.tz_localize(UTC).astype(TIME_DTYPE).array
    return _numbers(column, values)


def _numbers(column: Column, values: Any) -> Any:
    missing = values == MISSING
    if column.type == "flag":
        return pd.arrays.BooleanArray(values > 0, missing)
    plain = np.ascontiguousarray(values, dtype=np.int64)
    if missing.any():  # where something is missing lies a 1, as pandas has it
        plain = np.where(missing, 1, plain)
    return pd.arrays.IntegerArray(plain, missing)


def _texts(values: Any, rows: int) -> Any:
    if values is None:
        return pd.array([None] * rows, dtype="string")
    if isinstance(values, Coded):
        values = np.array([*values.texts, None], dtype=object)[values.codes]
    return pd.array(values, dtype="string")


def _names(values: Any, rows: int) -> Any:
    if values is None:
        return named([None] * rows)
    if not isinstance(values, Coded):
        return named(values)
    names, places = ranks(values.texts, [values.codes])
    if not names:
        return named([None] * rows)
    return pd.Categorical.from_codes(places[values.codes], dtype=pd.Categorical(names).dtype)
