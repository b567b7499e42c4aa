"""The five tables as data: which columns, of which type, meaning what.

Missing is ``<NA>`` or ``NaT``, never 0, an empty text or 1970. Sizes and counts are ``Int64``,
flags ``boolean``, times ``datetime64[us, UTC]``, free text ``string``; names that repeat are
categories, closed vocabularies categories with the full list. All digest columns of a snapshot
share one dictionary, so that a digest is stored once and tables join on small integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from regaudit.errors import UsageError
from regaudit.text import clean

TIME_DTYPE = "datetime64[us, UTC]"

PLAIN_DTYPES = {
    "text": "string",
    "json": "string",
    "count": "Int64",
    "bytes": "Int64",
    "flag": "boolean",
    "time": TIME_DTYPE,
}

KINDS = ("image", "index", "artifact", "signature", "legacy", "unknown")
CREATED_SOURCES = ("config", "annotation", "vendor", "v1", "none")
PUSHED_SOURCES = ("vendor", "none")
DISCOVERIES = ("tag", "index", "referrer", "vendor")
STAGES = ("catalog", "tags", "manifest", "config", "referrers")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name : str
        As in the DataFrame; a unit is its suffix.
    type : str
        ``name`` (open category), ``digest`` (category over the snapshot's digests), ``word``
        (closed category), ``text``, ``json``, ``count``, ``bytes``, ``flag`` or ``time``.
    meaning : str
        One phrase for the documentation.
    words : tuple of str
        The vocabulary of a ``word``.
    """

    name: str
    type: str
    meaning: str
    words: tuple[str, ...] = ()


def _column(name: str, kind: str, meaning: str, words: tuple[str, ...] = ()) -> Column:
    return Column(name, kind, meaning, words)


_REGISTRY = _column("registry", "name", "host[:port] of the registry")
_REPOSITORY = _column("repository", "name", "name of the repository")
_DIGEST = _column("digest", "digest", "digest of the manifest")
_MEDIA_TYPE = _column("media_type", "name", "media type of the manifest")
_KIND = _column("kind", "word", "what the manifest is", KINDS)
_CREATED = _column("created", "time", "when it was built; NaT where no clock can be believed")
_CREATED_SOURCE = _column("created_source", "word", "where `created` was read", CREATED_SOURCES)
_CONTENT_BYTES = _column("content_bytes", "bytes", "its distinct config and layers, of an index those of all children")

TABLES: Mapping[str, tuple[Column, ...]] = {
    "tags": (
        _REGISTRY,
        _REPOSITORY,
        _column("tag", "text", "the tag"),
        _DIGEST,
        _column("image_id", "text", "v1 only: the image id; such a row is never deleted by digest"),
        _MEDIA_TYPE,
        _KIND,
        _CREATED,
        _CREATED_SOURCE,
        _column("pushed", "time", "when the registry received it, where the registry tells"),
        _column("pushed_source", "word", "where `pushed` was read", PUSHED_SOURCES),
        _column("pulled", "time", "when it was last pulled, where the registry tells"),
        _CONTENT_BYTES,
        _column("seen_at", "time", "when this row was read"),
    ),
    "manifests": (
        _REGISTRY,
        _REPOSITORY,
        _DIGEST,
        _MEDIA_TYPE,
        _column("artifact_type", "name", "artifact type, or the config's media type of an artifact without one"),
        _KIND,
        _column("platform", "name", "os/architecture[/variant]"),
        _CREATED,
        _CREATED_SOURCE,
        _column("manifest_bytes", "bytes", "size of the manifest itself"),
        _CONTENT_BYTES,
        _column("layer_count", "count", "layers of an image, children of an index"),
        _column("tag_count", "count", "tags of this repository on this digest"),
        _column("config_digest", "digest", "digest of the config"),
        _column("subject_digest", "digest", "digest that this manifest refers to"),
        _column("discovered_by", "word", "how it was found", DISCOVERIES),
        _column("labels", "json", "labels of the image config, a JSON object"),
        _column("annotations", "json", "annotations of the manifest, a JSON object"),
    ),
    "blobs": (
        _REGISTRY,
        _REPOSITORY,
        _column("manifest_digest", "digest", "the manifest that holds the blob"),
        _column("position", "count", "0 for the config, then the layers from 1"),
        _column("role", "word", "what the blob is to the manifest", ("config", "layer")),
        _column("digest", "digest", "digest of the blob"),
        _column("media_type", "name", "media type of the blob"),
        _column("size_bytes", "bytes", "size as the manifest declares it"),
    ),
    "children": (
        _REGISTRY,
        _REPOSITORY,
        _column("index_digest", "digest", "the index that lists the child"),
        _column("position", "count", "place in the index, from 0"),
        _column("digest", "digest", "digest of the child"),
        _column("platform", "name", "platform as the index declares it"),
        _column("size_bytes", "bytes", "size of the child manifest as the index declares it"),
        _column("role", "word", "an image to run, or BuildKit's attestation of a sibling", ("image", "attestation")),
    ),
    "problems": (
        _REGISTRY,
        _REPOSITORY,
        _column("identifier", "text", "the tag, digest or page that was not read"),
        _column("stage", "word", "what was being read", STAGES),
        _column("error", "name", "the kind of error, as in regaudit.errors, or dangling, missing_child, interrupted"),
        _column("code", "text", "error code of the registry's reply"),
        _column("status", "count", "HTTP status of the reply"),
        _column("message", "text", "one sentence"),
        _column("blocking", "flag", "whether it keeps anything here from being deleted"),
    ),
}


def columns_of(table: str) -> list[str]:
    """Return the names of a table's columns, in order."""
    return [column.name for column in TABLES[table]]


def digest_columns(table: str) -> list[str]:
    """Return the names of a table's digest columns."""
    return [column.name for column in TABLES[table] if column.type == "digest"]


def digest_dtype(digests: Iterable[Any]) -> pd.CategoricalDtype:
    """Return the dictionary for all digest columns of a snapshot: distinct, sorted, without missing ones."""
    return pd.CategoricalDtype(pd.Index(sorted({str(d) for d in digests if isinstance(d, str)}), dtype=object))


def conform(
    table: str, columns: Mapping[str, Sequence[Any] | pd.Series[Any]], digests: pd.CategoricalDtype
) -> pd.DataFrame:
    """Return columns of plain values as the table that they belong to.

    Parameters
    ----------
    table : str
        A key of `TABLES`.
    columns : mapping
        One sequence of equal length for every column; None is missing.
    digests : pandas.CategoricalDtype
        The snapshot's dictionary, from `digest_dtype`.

    Returns
    -------
    pandas.DataFrame
        With exactly the table's columns, order and dtypes.

    Raises
    ------
    UsageError
        Where a column is missing or one too many, or has a word or digest outside its vocabulary, naming it.
    """
    expected = columns_of(table)
    if set(columns) != set(expected):
        odd = sorted(set(columns) ^ set(expected))
        raise UsageError(f"the {table} table has the columns {', '.join(expected)}; these differ: {', '.join(odd)}")
    if len({len(values) for values in columns.values()}) > 1:
        raise UsageError(f"the columns of the {table} table are not of one length")
    return pd.DataFrame({column.name: _series(column, columns[column.name], digests) for column in TABLES[table]})


def check(table: str, frame: pd.DataFrame) -> None:
    """Raise `UsageError` where a DataFrame is not of a table's columns and dtypes, naming the first difference."""
    if list(frame.columns) != columns_of(table):
        raise UsageError(f"the {table} table has the columns {', '.join(columns_of(table))}, in this order")
    for column in TABLES[table]:
        dtype = frame[column.name].dtype
        wanted = PLAIN_DTYPES.get(column.type, "category")
        if dtype != wanted:
            raise UsageError(f"{table}.{column.name} has the dtype {dtype}; it must be {wanted}")


def _series(column: Column, values: Sequence[Any] | pd.Series[Any], digests: pd.CategoricalDtype) -> pd.Series[Any]:
    if column.type == "digest":
        return _category(column, values, digests)
    if column.type == "word":
        return _category(column, values, pd.CategoricalDtype(list(column.words)))
    if column.type == "name":
        return pd.Series(named(values))
    if isinstance(values, pd.Series):
        return values.reset_index(drop=True).astype(PLAIN_DTYPES[column.type])
    return pd.Series(list(values), dtype=PLAIN_DTYPES[column.type])


def named(values: Sequence[Any] | pd.Series[Any]) -> pd.Categorical:
    """Return texts as an open category."""
    found = pd.Categorical(values)
    # Of nothing but missing values pandas makes categories that are numbers.
    return found if len(found.categories) else pd.Categorical.from_codes(found.codes, [])


def _category(column: Column, values: Sequence[Any] | pd.Series[Any], dtype: pd.CategoricalDtype) -> pd.Series[Any]:
    given = pd.Series(values, dtype=None if isinstance(values, pd.Series) else object).reset_index(drop=True)
    codes = dtype.categories.get_indexer(given)
    # To pandas a value outside the vocabulary is a missing one; here unknown must not pass for absent.
    outside = (codes < 0) & given.notna().to_numpy()
    if outside.any():
        odd = clean(given[outside].iloc[0], 100)
        raise UsageError(f"the column {column.name} has {odd!r}, which is not in its vocabulary")
    return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype))
