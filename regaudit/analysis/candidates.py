"""The shape in which findings about tags can go straight into a plan, and what their questions share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.errors import UsageError
from regaudit.text import clean

COLUMNS = ("registry", "repository", "tag", "digest", "kind", "created", "content_bytes", "reason")

# What people run. Signatures and other artifacts come and go with what they describe.
IMAGES = ("image", "index")
# Indexes nest once or twice; an audit reads no deeper than this.
DEEPEST = 8


def candidates(rows: pd.DataFrame, reasons: Any) -> pd.DataFrame:
    """Return rows of tags or manifests as candidates, each with its reason."""
    frame = rows[list(COLUMNS[:-1])].reset_index(drop=True)
    return frame.assign(reason=pd.Series(reasons).reset_index(drop=True).astype("string"))


def check_limit(limit: Any) -> int:
    """Return how many rows were asked for; raises `UsageError` where that is no count."""
    if isinstance(limit, bool) or not isinstance(limit, int | np.integer) or limit < 1:
        raise UsageError(f"limit={clean(repr(limit), 40)} is not a count: write 50")
    return int(limit)


def full_matches(texts: pa.Array, expression: str) -> Any:
    """Return which texts match from beginning to end, by Arrow's engine: linear in the text."""
    hits = pc.match_substring_regex(texts, f"^(?s:{expression})$")
    return hits.fill_null(False).to_numpy(zero_copy_only=False)


def texts_of(column: pd.Series[Any]) -> pa.Array:
    """Return a column of text for Arrow, also where all of it together is more than 2 GiB."""
    texts = pa.array(column, type=pa.large_string(), from_pandas=True)
    # what was loaded from a file comes in pieces, and in none where it is empty
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
