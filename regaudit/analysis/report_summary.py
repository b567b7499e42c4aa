"""The summary of a report in Markdown: short enough for a pull request, and safe in one.

Names come from a registry. Each stands in a code span, where nothing is a link, a mention or HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from regaudit.analysis.report_tables import TABLES_SHOWN, Rules, Table, is_number, moment, not_everything, shown
from regaudit.inventory.snapshot import Snapshot
from regaudit.text import clean, human_bytes

# Rows of each finding: what a reviewer takes in. A comment on GitHub ends at 65,536 characters.
_SHOWN_ROWS = 5
_LONGEST = 120
_SUMMED = ("stale", "duplicates")


def summary(snapshot: Snapshot, frames: Mapping[str, pd.DataFrame], rules: Rules) -> str:
    """Return the summary: what there is, what was found, and the first rows of each finding."""
    warning = not_everything(snapshot)
    parts = [
        f"## Audit of {code(snapshot.registry)}",
        f"Read {moment(snapshot.taken_at)}.",
        *([f"**{warning}**"] if warning else []),
        _counts(snapshot, frames),
        *(
            _finding(table, frames[table.name], rules.sentences()[table.name])
            for table in TABLES_SHOWN
            if table.finding
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def code(text: object) -> str:
    """Return text as a code span that may stand in a cell of a table."""
    # A backtick would end the span, a bar the cell; both are outside the grammar of every name.
    safe = clean(text, _LONGEST).replace("`", "'").replace("|", "¦").strip()
    return f"`{safe}`" if safe else ""


def _counts(snapshot: Snapshot, frames: Mapping[str, pd.DataFrame]) -> str:
    rows = [("stored", human_bytes(snapshot.stored_bytes())), ("repositories", f"{len(snapshot.repositories):,}")]
    rows += [("tags", f"{len(snapshot.tags):,}"), ("manifests", f"{len(snapshot.manifests):,}")]
    rows += [(table.heading.lower(), f"{len(frames[table.name]):,}") for table in TABLES_SHOWN if table.finding]
    return "\n".join(["| | |", "| --- | ---: |", *(f"| {name} | {figure} |" for name, figure in rows)])


def _finding(table: Table, frame: pd.DataFrame, rule: str) -> str:
    if frame.empty:
        return ""
    columns = [name for name in table.columns if name in frame.columns]
    head = "| " + " | ".join(table.columns[name] for name in columns) + " |"
    line = "| " + " | ".join("---:" if is_number(name) else "---" for name in columns) + " |"
    rows = [_row(columns, values) for values in frame[columns].head(_SHOWN_ROWS).astype("object").to_dict("records")]
    more = len(frame) - len(rows)
    rest = [f"and {more:,} more in `{table.name}.csv`"] if more else []
    lines = [
        f"<details><summary>{table.heading}: {len(frame):,}</summary>",
        "",
        _sentence(rule),
        "",
        head,
        line,
        *rows,
        "",
        *rest,
        "",
        "</details>",
    ]
    return "\n".join(lines)


def _sentence(rule: str) -> str:
    """Return a rule, which may name labels of the user's, as text that Markdown leaves alone."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>()#+-!|~@" else letter for letter in clean(rule, 2000))


def _row(columns: list[str], values: Mapping[Any, Any]) -> str:
    cells = (shown(name, values[name]) for name in columns)
    texts = (text if _is_ours(name) else code(text) for name, text in zip(columns, cells, strict=True))
    return "| " + " | ".join(texts) + " |"


def _is_ours(name: str) -> bool:
    """Return whether a column's text is made here, of a number or a time."""
    return is_number(name) or name in {"created", "pushed", "oldest", "newest"}
