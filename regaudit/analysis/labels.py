"""Which images carry the labels that they should."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from regaudit.analysis.candidates import DEEPEST, IMAGES, candidates, texts_of
from regaudit.analysis.tags import may_be_listed
from regaudit.errors import UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.stored import Manifests
from regaudit.text import clean

# What every image should say of itself (OCI image specification, "Pre-Defined Annotation Keys"): whose it is,
# where it comes from, and under which licence.
REQUIRED_LABELS = (
    "org.opencontainers.image.source",
    "org.opencontainers.image.vendor",
    "org.opencontainers.image.licenses",
)


def missing_labels(snapshot: Snapshot, labels: Sequence[str] = REQUIRED_LABELS) -> pd.DataFrame:
    """Return the tags whose image does not carry every one of these labels.

    A label counts where the image's config has it or the manifest is annotated with it, and it is not
    empty. An index has a label if it is annotated with it, or if each of its images that was read has it.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    labels : sequence of str
        Their keys; by default who made the image, where its source is, and its licence.

    Returns
    -------
    pandas.DataFrame
        A row for each tag on an image or index that lacks one, in the order of the tags table: the columns of a
        finding, and missing (the keys, with commas between them). Images whose config was not read or
        could not be understood are left out: what they carry is not known.

    Raises
    ------
    UsageError
        No label is named, or one that is not text.
    """
    wanted = [labels] if isinstance(labels, str) else list(dict.fromkeys(labels))
    if not wanted or not all(isinstance(label, str) and label for label in wanted):
        raise UsageError("name the labels that images must have, for example ['org.opencontainers.image.source']")
    manifests = Manifests(snapshot)
    has, known = _labelled(snapshot, manifests, wanted)
    tags = snapshot.tags
    tags = tags[may_be_listed(tags) & tags["kind"].isin(IMAGES)]
    place = manifests.place(tags["repository"], tags["digest"])
    tags, place = tags[place >= 0], place[place >= 0]
    lacks = ~has[place] & known[place][:, None]
    hit = lacks.any(axis=1)
    texts = _joined(lacks[hit], wanted)
    return candidates(tags[hit], "without " + texts).assign(missing=texts)


def _labelled(snapshot: Snapshot, manifests: Manifests, wanted: list[str]) -> tuple[Any, Any]:
    """Return which label each manifest has, by place, and of which manifests that is known."""
    table = snapshot.manifests
    place = manifests.place(table["repository"], table["digest"])
    annotated, _ = _present(table["annotations"], wanted)
    carried, readable = _present(table["labels"], wanted)
    own, known = np.zeros((len(manifests), len(wanted)), dtype=bool), np.zeros(len(manifests), dtype=bool)
    own[place] = annotated | carried
    config_problems = snapshot.problems.loc[snapshot.problems["stage"] == "config", "identifier"]
    unread = (
        table["config_digest"].isin(config_problems.dropna().unique()).to_numpy() & table["labels"].isna().to_numpy()
    )
    known[place] = readable & ~unread & (table["kind"] == "image").to_numpy()
    return _with_children(snapshot, manifests, own, known)


def _with_children(snapshot: Snapshot, manifests: Manifests, own: Any, known: Any) -> tuple[Any, Any]:
    parent, child = manifests.children(snapshot)
    runs = (snapshot.children["role"] != "attestation").to_numpy()
    parent, child = parent[runs & (parent >= 0) & (child >= 0)], child[runs & (parent >= 0) & (child >= 0)]
    is_index = np.zeros(len(manifests), dtype=bool)
    is_index[parent] = True
    has, sure = own.copy(), known.copy()
    for _ in range(DEEPEST):  # from the images up, a level of indexes at a time
        before = has.sum() + sure.sum()
        lacking = np.zeros_like(own)
        np.logical_or.at(lacking, parent, ~has[child])
        doubtful = np.zeros_like(known)
        np.logical_or.at(doubtful, parent, ~sure[child])
        has[is_index] = own[is_index] | ~lacking[is_index]
        sure[is_index] = ~doubtful[is_index]
        if has.sum() + sure.sum() == before:
            break
    return has, sure


def _present(texts: pd.Series[Any], wanted: list[str]) -> tuple[Any, Any]:
    """Return which keys each JSON object has with a text that is not empty, and which could be read."""
    encoded = texts_of(texts).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy()
    has, readable = _parsed(encoded.dictionary, wanted)
    # The last row is for what says nothing: it has no label, which is known.
    has, readable = np.vstack([has, np.zeros((1, len(wanted)), dtype=bool)]), np.append(readable, True)
    return has[codes], readable[codes]


def _parsed(distinct_texts: pa.Array, wanted: list[str]) -> tuple[Any, Any]:
    """Read distinct JSON objects with Arrow, which takes a tenth of Python's time; with Python where one is damaged."""
    count = len(distinct_texts)
    if count == 0:
        return np.zeros((0, len(wanted)), dtype=bool), np.zeros(0, dtype=bool)
    lines = pc.binary_join(pa.array([distinct_texts.to_pylist()]), "\n")[0].as_py().encode()
    options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([(key, pa.string()) for key in wanted]), unexpected_field_behavior="ignore"
    )
    longest = pc.max(pc.binary_length(distinct_texts)).as_py()
    reading = pyarrow.json.ReadOptions(block_size=max(1 << 20, 2 * longest))
    try:
        table = pyarrow.json.read_json(io.BytesIO(lines), read_options=reading, parse_options=options)
    except pa.ArrowException:
        table = None
    if table is None or len(table) != count:
        return _parsed_one_by_one(distinct_texts, wanted)
    filled = [pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(table[key]), ""), False) for key in wanted]
    return np.column_stack([column.to_numpy() for column in filled]), np.ones(count, dtype=bool)


def _parsed_one_by_one(texts: pa.Array, wanted: list[str]) -> tuple[Any, Any]:
    has, readable = np.zeros((len(texts), len(wanted)), dtype=bool), np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts.to_pylist()):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            readable[row] = True
            has[row] = [isinstance(fields.get(key), str) and bool(fields[key].strip()) for key in wanted]
    return has, readable


def _joined(lacks: Any, wanted: list[str]) -> pd.Series[Any]:
    """Return the names of the missing ones in each row; there are few different rows."""
    kinds, which = np.unique(lacks, axis=0, return_inverse=True)
    texts = [", ".join(clean(key, 200) for key, gone in zip(wanted, kind, strict=True) if gone) for kind in kinds]
    return pd.Series(pd.Series(texts, dtype="string").array.take(which.ravel()))
