"""What people read of a table: a heading, aligned columns, sizes and times in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from regaudit.text import clean, human_bytes

if TYPE_CHECKING:
    import pandas as pd

SHOWN_ROWS = 40


def heading(text: str) -> None:
    """Print a heading, underlined."""
    click.echo(f"\n{text}\n{'-' * len(text)}")


def show(frame: pd.DataFrame, columns: list[str], limit: int = SHOWN_ROWS, missing: str = "?") -> None:
    """Print some columns of a table as aligned text, sizes and times as people read them.

    What is missing is not known, ``?``, unless `missing` says otherwise.
    """
    if frame.empty:
        return
    cells = {
        name: [_cell(name, value, missing) for value in frame[name].head(limit).astype("object")] for name in columns
    }
    widths = {name: max(len(name), *map(len, texts)) for name, texts in cells.items()}
    click.echo("  ".join(name.ljust(widths[name]) for name in columns).rstrip())
    for row in zip(*cells.values(), strict=True):
        click.echo("  ".join(text.ljust(widths[name]) for name, text in zip(columns, row, strict=True)).rstrip())
    if len(frame) > limit:
        click.echo(f"and {len(frame) - limit:,} more")


def _cell(column: str, value: Any, missing: str) -> str:
    import pandas as pd

    if pd.isna(value):
        return missing
    if column.endswith("_bytes"):
        return human_bytes(value)
    form = "%Y-%m-%d %H:%M:%S" if column == "at" else "%Y-%m-%d"
    return clean(value.strftime(form) if hasattr(value, "strftime") else value, 120)
