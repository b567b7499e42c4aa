"""The page of a report: one file of HTML that asks for nothing, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any

import pandas as pd

from regaudit._version import __version__
from regaudit.analysis.report_tables import TABLES_SHOWN, Rules, Table, is_number, moment, not_everything, shown
from regaudit.inventory.snapshot import Snapshot
from regaudit.text import count_of, escape

# A page of more rows is slow to open; the CSV files have them all.
MOST_ROWS = 2000

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>Read {taken}. Sizes are what manifests declare; ages are measured at that time.</p>
{warning}
<dl>{summary}</dl>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
<div class="plots">
{figures}
</div>
{sections}
</main>
<footer>
<p>{files}</p>
<p>Written by regaudit {version}. The CSV files put a <code>&#39;</code> before text that a spreadsheet would run; the Parquet
files have it as it was.</p>
</footer>
<script>{script}</script>
</body>
</html>
"""
_TABLE = """<section class="table" id="{name}">
<h2>{heading} <small>{count}</small></h2>
<p>{lead}</p>
<div class="find" hidden><input type="search" aria-label="Search {heading}" placeholder="Search"> <output></output></div>
<div class="scroll" tabindex="0" role="region" aria-label="{heading}"><table><thead><tr>{head}</tr></thead>
<tbody>{body}</tbody></table></div>
<p>{rest}</p>
</section>"""
_EMPTY = '<section id="{name}"><h2>{heading} <small>0</small></h2><p>{none}</p></section>'
_FIGURE = """<figure><picture><source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">
<img alt="{meaning}" src="data:image/png;base64,{light}"></picture></figure>"""


def page(
    snapshot: Snapshot,
    frames: Mapping[str, pd.DataFrame],
    pictures: Mapping[str, tuple[str, bytes, bytes]],
    rules: Rules,
    written: str,
) -> str:
    """Return the page.

    Parameters
    ----------
    snapshot : Snapshot
        What the report is of.
    frames : mapping of str to pandas.DataFrame
        Its tables and findings.
    pictures : mapping of str to (str, bytes, bytes)
        What each means, and the PNG for a light and for a dark ground.
    rules : Rules
        By what its rows were chosen.
    written : str
        One sentence on the files beside the page.
    """
    style, script = (files("regaudit.analysis").joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    sentences = rules.sentences()
    warning = not_everything(snapshot)
    return _PAGE.format(
        policy=_policy(style, script),
        title=escape(f"Audit of {snapshot.registry}"),
        style=style,
        taken=escape(moment(snapshot.taken_at)),
        warning=f'<p class="warn">{escape(warning)}</p>' if warning else "",
        links="".join(_link(table, len(frames[table.name])) for table in TABLES_SHOWN),
        summary="".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in snapshot.summary().items()),
        figures="\n".join(_figure(*picture) for picture in pictures.values()),
        sections="\n".join(_section(table, frames[table.name], sentences[table.name]) for table in TABLES_SHOWN),
        files=escape(written),
        version=escape(__version__),
        script=script,
    )


def _policy(style: str, script: str) -> str:
    """Return a content security policy under which this style and script run, and nothing else does or loads."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    own = f"style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
    return f"default-src 'none'; img-src data:; {own}; base-uri 'none'; form-action 'none'"


def _link(table: Table, count: int) -> str:
    return f'<a href="#{table.name}">{escape(table.heading)} <small>{count:,}</small></a>'


def _figure(meaning: str, light: bytes, dark: bytes) -> str:
    encoded = [base64.b64encode(picture).decode() for picture in (light, dark)]
    return _FIGURE.format(meaning=escape(meaning), light=encoded[0], dark=encoded[1])


def _section(table: Table, frame: pd.DataFrame, rule: str) -> str:
    if frame.empty:
        return _EMPTY.format(name=table.name, heading=escape(table.heading), none=escape(table.none))
    columns = [name for name in table.columns if name in frame.columns]
    first = frame[columns].head(MOST_ROWS)
    rows = zip(*(_cells(name, first[name]) for name in columns), strict=True)
    return _TABLE.format(
        name=table.name,
        heading=escape(table.heading),
        count=f"{len(frame):,}",
        lead=escape(rule),
        head="".join(_head(name, table.columns[name]) for name in columns),
        body="\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows),
        rest=_rest(table.name, len(first), len(frame)),
    )


def _rest(name: str, first: int, rows: int) -> str:
    file = f'<a href="{name}.csv">{name}.csv</a>'
    if first == rows:
        return f"{count_of(rows, 'row')}; also in {file}."
    return f"The first {first:,} of {rows:,} rows; all of them are in {file}."


def _head(name: str, heading: str) -> str:
    return f'<th scope="col"{_style(name)}>{escape(heading)}</th>'


def _style(name: str) -> str:
    if is_number(name):
        return ' class="number"'
    if name in {"reason", "message"}:
        return ' class="text"'
    return ' class="short"' if name in {"digest", "created", "pushed", "kind", "oldest", "newest"} else ""


def _cells(name: str, column: pd.Series[Any]) -> Iterable[str]:
    """Return a column as table cells, with the value to sort by where that is not the text; unknown ones are empty."""
    for value in column.astype("object"):
        if pd.isna(value):
            yield f"<td{_style(name)}></td>"
            continue
        text = escape(shown(name, value))
        if name == "digest":
            yield f'<td{_style(name)} title="{escape(value)}"><code>{text}</code></td>'
        elif name.endswith("_bytes"):
            yield f'<td{_style(name)} data-by="{int(value)}" title="{int(value):,} bytes">{text}</td>'
        elif isinstance(value, datetime):
            yield f'<td{_style(name)} data-by="{value.timestamp():.0f}">{text}</td>'
        elif is_number(name):
            yield f'<td{_style(name)} data-by="{float(value):g}">{text}</td>'
        else:
            yield f"<td{_style(name)}>{text}</td>"
