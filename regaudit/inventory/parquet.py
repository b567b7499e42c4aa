"""A table and its Parquet file: written in slices and read column by column, so that it is never there twice.

A digest column holds positions in the snapshot's dictionary, without an encoding of its own: a second
dictionary of what are small integers already grows past its limit, and the file with it. Names and
words are dictionaries, in the file as in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from regaudit.errors import UsageError
from regaudit.inventory.tables import PLAIN_DTYPES, TABLES, Column, check
from regaudit.text import atomic_write

# Rows of a group: enough to compress well, few enough that what is written or read at a time stays small.
_GROUP_ROWS = 1 << 18
# Above what a group can hold in names (repositories of a large registry, most of all): a dictionary that is
# full makes Parquet write the rest of the column as plain text.
_DICTIONARY_BYTES = 32 << 20
_COMPRESSION = "zstd"

_TYPES = {
    "digest": pa.int32(),
    "name": pa.dictionary(pa.int32(), pa.string()),
    "word": pa.dictionary(pa.int32(), pa.string()),
    "text": pa.string(),
    "json": pa.string(),
    "count": pa.int64(),
    "bytes": pa.int64(),
    "flag": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}
_CODED = {"digest", "name", "word"}
# Columns of which a row is like the one before it, or a little more.
_STEADY = {"count", "time"}


def write_frame(frame: pd.DataFrame, path: Path) -> Path:
    """Write any table as it is, for other programs to read: digests are text, names and words dictionaries."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with atomic_write(path, "wb") as file:
        pq.write_table(table, file, compression=_COMPRESSION, row_group_size=_GROUP_ROWS)
    return path


def write_digests(path: Path, dictionary: pd.Index[Any]) -> None:
    """Write the dictionary of a snapshot's digests, each once, in its order."""
    schema = pa.schema([("digest", pa.string())])
    with atomic_write(path, "wb") as file, pq.ParquetWriter(file, schema, **_options([], [])) as writer:
        for start, stop in _slices(len(dictionary)):
            digests = pa.array(dictionary[start:stop], pa.string())
            writer.write_batch(pa.record_batch([digests], schema=schema), row_group_size=_GROUP_ROWS)


def read_digests(path: Path) -> pd.CategoricalDtype:
    """Return the dictionary in a file of `write_digests`, in the order of the file: positions count in it."""
    with pq.ParquetFile(path) as file:
        digests = np.empty(file.metadata.num_rows, dtype=object)
        start = 0
        for batch in file.iter_batches(_GROUP_ROWS, columns=["digest"]):
            digests[start : start + len(batch)] = batch.column(0).cast(pa.string()).to_numpy(zero_copy_only=False)
            start += len(batch)
    return pd.CategoricalDtype(pd.Index(digests, dtype=object))


def write_table(path: Path, table: str, frame: pd.DataFrame) -> None:
    """Write a table that `check_digests` has passed."""
    columns = TABLES[table]
    schema = pa.schema([(column.name, _TYPES[column.type]) for column in columns])
    encoders = [_encoder(column, frame[column.name]) for column in columns]
    names = [column.name for column in columns if column.type in _CODED - {"digest"}]
    steady = [column.name for column in columns if column.type in _STEADY]
    with atomic_write(path, "wb") as file, pq.ParquetWriter(file, schema, **_options(names, steady)) as writer:
        for start, stop in _slices(len(frame)):
            arrays = [encode(start, stop) for encode in encoders]
            writer.write_batch(pa.record_batch(arrays, schema=schema), row_group_size=_GROUP_ROWS)


def check_digests(table: str, frame: pd.DataFrame, dictionary: pd.Index[Any]) -> None:
    """Raise `UsageError` where a frame is not the table, or its digests are not those of the dictionary."""
    check(table, frame)
    for column in TABLES[table]:
        # Equal dtypes may list their categories in another order, and positions would name other digests.
        own = frame[column.name].cat.categories if column.type == "digest" else dictionary
        if own is not dictionary and not own.equals(dictionary):
            raise UsageError(
                f"{table}.{column.name} has its own dictionary of digests: make the tables by Snapshot.from_columns"
            )


def read_table(path: Path, table: str, digests: pd.CategoricalDtype) -> pd.DataFrame:
    """Return the table in a file of `write_table`.

    Raises
    ------
    ValueError, KeyError, pyarrow.ArrowException
        Where the file is not of that table.
    """
    with pq.ParquetFile(path) as file:
        columns = {c.name: _decoded(c, file.read([c.name])[c.name], digests) for c in TABLES[table]}
    frame = pd.DataFrame(columns, copy=False)
    check(table, frame)
    return frame


# -- columns ----------------------------------------------------------------------------------


def _options(dictionaries: list[str], steady: list[str]) -> dict[str, Any]:
    return {
        "compression": _COMPRESSION,
        "use_dictionary": dictionaries,
        "dictionary_pagesize_limit": _DICTIONARY_BYTES,
        "column_encoding": dict.fromkeys(steady, "DELTA_BINARY_PACKED") or None,
    }


def _slices(rows: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + _GROUP_ROWS, rows)) for start in range(0, rows, _GROUP_ROWS))


def _encoder(column: Column, values: pd.Series[Any]) -> Any:
    kind = _TYPES[column.type]
    if column.type not in _CODED:
        return lambda start, stop: pa.array(values.iloc[start:stop], kind, from_pandas=True)
    codes = values.array.codes
    if column.type == "digest":
        return lambda start, stop: _positions(codes[start:stop])
    names = pa.array(values.cat.categories, pa.string())
    return lambda start, stop: pa.DictionaryArray.from_arrays(_positions(codes[start:stop]), names)


def _positions(codes: Any) -> pa.Array:
    return pa.array(codes.astype("int32", copy=False), pa.int32(), mask=codes < 0)


def _decoded(column: Column, values: pa.ChunkedArray, digests: pd.CategoricalDtype) -> Any:
    if column.type == "digest":
        if not pa.types.is_integer(values.type):
            raise ValueError(f"{column.name} has no positions of digests")
        return pd.Categorical.from_codes(_codes(values), dtype=digests)
    if column.type == "name":
        return pd.Categorical.from_codes(*_named(values))
    if column.type == "word":
        codes, names = _named(values)
        return pd.Categorical.from_codes(_as_words(column, codes, names), list(column.words))
    return pd.api.types.pandas_dtype(PLAIN_DTYPES[column.type]).__from_arrow__(values.cast(_TYPES[column.type]))


def _codes(values: pa.ChunkedArray) -> Any:
    return np.concatenate([np.empty(0, "int32"), *map(_chunk_codes, values.chunks)], dtype="int32")


def _chunk_codes(chunk: pa.Array) -> Any:
    # Without a null, what Arrow has is what numpy sees: nothing is copied.
    return (chunk.fill_null(-1) if chunk.null_count else chunk).to_numpy(zero_copy_only=False)


def _named(values: pa.ChunkedArray) -> tuple[Any, list[str]]:
    """Return the codes and the names of a column, the names in the order in which they were written."""
    coded = values.unify_dictionaries() if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    if not coded.num_chunks:
        return np.empty(0, "int8"), []
    names = coded.chunk(0).dictionary.to_pylist()
    narrow = np.min_scalar_type(-len(names) - 1)
    return np.concatenate([_chunk_codes(chunk.indices).astype(narrow) for chunk in coded.chunks]), names


def _as_words(column: Column, codes: Any, names: list[str]) -> Any:
    if odd := set(names) - set(column.words):
        raise ValueError(f"{column.name} has {min(odd)!r}, which is not in its vocabulary")
    places = np.array([*map(column.words.index, names), -1], dtype="int8")
    return places[codes]
