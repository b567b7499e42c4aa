"""The report: a folder with every table as CSV, three plots, and one page that shows them together."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from regaudit._version import __version__
from regaudit.analysis.findings import findings
from regaudit.analysis.footprint import footprint
from regaudit.analysis.labels import REQUIRED_LABELS
from regaudit.analysis.plots import plot_sharing, plot_storage
from regaudit.analysis.plots_of_time import plot_ages
from regaudit.analysis.tags import duplicate_tags, stale_tags
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.spreadsheet import write_csv
from regaudit.text import atomic_write, escape, human_bytes, owned_folder

OLDER_THAN = "180D"
KEEP_LATEST = 5
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
<nav aria-label="Sections">{links}</nav>
<dl>{summary}</dl>
</header>
<main>
{main}
</main>
<footer>Written by regaudit {version}. The tables without loss are in the snapshot folder; the CSV files beside this page
put a <code>&#39;</code> before text that a spreadsheet would run.</footer>
<script>{script}</script>
</body>
</html>
"""
_TABLE = """<section class="table" id="{name}">
<h2>{heading}</h2>
<p>{lead}</p>
<div class="find" hidden><input type="search" aria-label="Search {heading}" placeholder="Search"> <output></output></div>
<div class="scroll" tabindex="0" role="region" aria-label="{heading}"><table><thead><tr>{head}</tr></thead>
<tbody>{body}</tbody></table></div>
<p>{rest}</p>
</section>"""
_FIGURE = '<figure><img alt="{meaning}" src="data:image/png;base64,{data}"></figure>'


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the page: which file has all of it, and which columns are shown under which heading."""

    name: str
    heading: str
    columns: Mapping[str, str]
    none: str


_FINDING_COLUMNS = {
    "repository": "repository",
    "tag": "tag",
    "digest": "digest",
    "created": "created",
    "content_bytes": "content",
    "reason": "reason",
}
_TABLES = (
    _Table(
        "footprint",
        "Repositories",
        {
            "repository": "repository",
            "tag_count": "tags",
            "manifest_count": "manifests",
            "blob_count": "blobs",
            "content_bytes": "content",
            "unique_bytes": "only here",
            "shared_bytes": "shared",
            "complete": "fully read",
        },
        "No repository was to be read.",
    ),
    _Table(
        "stale",
        "Stale tags",
        {
            "repository": "repository",
            "tag": "tag",
            "digest": "digest",
            "created": "created",
            "pushed": "pushed",
            "rank": "rank",
            "content_bytes": "content",
            "reason": "reason",
        },
        "No tag is stale by this rule.",
    ),
    _Table(
        "duplicates",
        "Duplicate tags",
        {
            "repository": "repository",
            "tag": "tag",
            "digest": "digest",
            "created": "created",
            "content_bytes": "content",
            "reason": "reason",
        },
        "No tag holds the same content as another one.",
    ),
    _Table(
        "broken_tags",
        "Broken tags",
        _FINDING_COLUMNS,
        "No tag that was read is broken, as far as manifests and configs tell; blobs were not asked for.",
    ),
    _Table(
        "orphaned_signatures",
        "Orphaned signatures",
        _FINDING_COLUMNS,
        "No orphan was found in the repositories that were read completely.",
    ),
    _Table(
        "largest_images",
        "Largest images",
        {**_FINDING_COLUMNS, "unique_bytes": "held by it alone"},
        "No image of known size has a tag.",
    ),
    _Table(
        "largest_layers",
        "Largest layers",
        {
            "digest": "digest",
            "size_bytes": "size",
            "manifest_count": "manifests",
            "repository_count": "repositories",
            "repositories": "in",
        },
        "No layer of known size was read.",
    ),
    _Table(
        "missing_labels", "Without labels", _FINDING_COLUMNS, "No image whose config was read lacks one of the labels."
    ),
    _Table(
        "naming_streams",
        "Names of tags",
        {
            "repository": "repository",
            "stream": "stream",
            "tag_count": "tags",
            "digest_count": "digests",
            "content_bytes": "content",
            "oldest": "oldest",
            "newest": "newest",
            "example": "example",
        },
        "No tag was read.",
    ),
    _Table(
        "tags",
        "All tags",
        {
            "repository": "repository",
            "tag": "tag",
            "kind": "kind",
            "digest": "digest",
            "created": "created",
            "content_bytes": "content",
        },
        "No tag was read.",
    ),
    _Table(
        "problems",
        "Problems",
        {
            "repository": "repository",
            "identifier": "what",
            "stage": "while reading",
            "error": "error",
            "status": "status",
            "message": "message",
            "blocking": "blocks deletion",
        },
        "None: everything was read.",
    ),
)
_PLOTS: Mapping[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "storage": (plot_storage, {}, "Bars: bytes of each repository, in it only and shared with others"),
    "ages": (
        plot_ages,
        {"older_than": OLDER_THAN},
        f"Bars: tags by month of creation, those older than {OLDER_THAN} marked",
    ),
    "sharing": (plot_sharing, {}, "Heat map: bytes of layers that each pair of repositories shares"),
}


def report(
    snapshot: Snapshot,
    folder: str | os.PathLike[str],
    *,
    stale: pd.DataFrame | None = None,
    duplicates: pd.DataFrame | None = None,
) -> Path:
    """Write a report of a snapshot into a folder: CSV files, plots, and one page that shows all.

    The page is one file that asks for nothing from the network and runs no script but its own.
    Each file appears whole or not at all, the page last; other files of the folder are left alone.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    folder : path
        Made if missing. A symbolic link is refused.
    stale : pandas.DataFrame, optional
        From `stale_tags`; by default with ``older_than="180D", keep_latest=5``.
    duplicates : pandas.DataFrame, optional
        From `duplicate_tags`; by default with its defaults.

    Returns
    -------
    pathlib.Path
        The page, ``index.html``. Beside it: ``tags.csv`` and each other table of the snapshot,
        ``footprint.csv``, ``stale.csv``, ``duplicates.csv``, one for each of `findings`, ``plots/*.png``.

    Raises
    ------
    UsageError
        Where the folder, or ``plots`` in it, is a file or a symbolic link.
    """
    target = owned_folder(folder)
    rules = _rules(stale is None, duplicates is None)
    frames = {
        **snapshot.tables,
        "footprint": footprint(snapshot),
        "stale": stale_tags(snapshot, older_than=OLDER_THAN, keep_latest=KEEP_LATEST) if stale is None else stale,
        "duplicates": duplicate_tags(snapshot) if duplicates is None else duplicates,
        **findings(snapshot),
    }
    for name, frame in frames.items():
        write_csv(frame, target / f"{name}.csv")
    pictures = {name: _picture(snapshot, name) for name in _PLOTS}
    plots = owned_folder(target / "plots")
    for name, picture in pictures.items():
        with atomic_write(plots / f"{name}.png", "wb") as file:
            file.write(picture)
    page = target / "index.html"
    with atomic_write(page) as file:
        file.write(_page(snapshot, frames, pictures, rules))
    return page


def _rules(own_stale: bool, own_duplicates: bool) -> dict[str, str]:  # noqa: FBT001 -- one of each, named at the call
    given = "As given to the report: each row says why it is here."
    stale = (
        f"Rule: older than {OLDER_THAN} by the time of creation, and not among the {KEEP_LATEST} newest images of its "
        "repository; a tag of unknown age is never stale."
    )
    duplicates = "Rule: another tag of the same repository, which is not listed, has the same digest, config or layers."
    then = " What would go with these tags, what is refused, and how many bytes come back, is what a plan says: regaudit plan."
    return {
        "footprint": "Bytes of distinct configs and layers. Shared ones come back only when every repository gives them up.",
        "stale": (stale if own_stale else given) + then,
        "duplicates": (duplicates if own_duplicates else given) + then,
        "broken_tags": "Tags that cannot be pulled, or not for every platform: the manifest, a child of the index or a config is gone.",
        "orphaned_signatures": "Signatures, attestations and SBOMs of which nothing in the repository leads to the subject."
        + then,
        "largest_images": "By the distinct configs and layers of an image and its children; what it alone holds would come back with it.",
        "largest_layers": "A layer goes when the last manifest that holds it goes.",
        "missing_labels": f"Labels or annotations that every image should have: {', '.join(REQUIRED_LABELS)}.",
        "naming_streams": "What tags are called; what two streams share counts in both.",
        "tags": "Every tag that was listed; a missing digest is one that was not read.",
        "problems": "What was not read, and whether that keeps anything there from being deleted.",
    }


# -- pictures ---------------------------------------------------------------------------------


def _picture(snapshot: Snapshot, name: str) -> bytes:
    """Return a plot as PNG, made without pyplot and so without a window or a figure that stays behind."""
    from matplotlib.figure import Figure

    plot, options, _ = _PLOTS[name]
    figure = Figure(layout="constrained")
    ax = figure.subplots()
    plot(snapshot, ax=ax, **options)
    rows = len(ax.get_yticks()) if ax.axison else 1
    figure.set_size_inches(9, 3.6 if name == "ages" else 1.9 + 0.38 * rows)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


# -- the page ---------------------------------------------------------------------------------


def _page(
    snapshot: Snapshot, frames: Mapping[str, pd.DataFrame], pictures: Mapping[str, bytes], rules: Mapping[str, str]
) -> str:
    style, script = (files("regaudit.analysis").joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    figures = [
        _FIGURE.format(meaning=escape(_PLOTS[name][2]), data=base64.b64encode(picture).decode())
        for name, picture in pictures.items()
    ]
    sections = [_section(table, frames[table.name], rules[table.name]) for table in _TABLES]
    return _PAGE.format(
        policy=_policy(style, script),
        title=escape(f"Audit of {snapshot.registry}"),
        style=style,
        taken=escape(_moment(snapshot.taken_at)),
        warning=_warning(snapshot),
        links="".join(
            f'<a href="#{table.name}">{escape(table.heading)} ({len(frames[table.name]):,})</a>' for table in _TABLES
        ),
        summary="".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in snapshot.summary().items()),
        main="\n".join([*figures, *sections]),
        version=escape(__version__),
        script=script,
    )


def _policy(style: str, script: str) -> str:
    """Return a content security policy under which this style and script run, and nothing else does or loads."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    own = f"style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
    return f"default-src 'none'; img-src data:; {own}; base-uri 'none'; form-action 'none'"


def _warning(snapshot: Snapshot) -> str:
    if snapshot.complete:
        return ""
    return '<p class="warn">Not everything was read: see Problems. Figures are of what was read.</p>'


def _section(table: _Table, frame: pd.DataFrame, rule: str) -> str:
    if frame.empty:
        return f'<section id="{table.name}"><h2>{escape(table.heading)}</h2><p>{escape(table.none)}</p></section>'
    columns = [name for name in table.columns if name in frame.columns]
    shown = frame[columns].head(MOST_ROWS)
    head = "".join(f'<th scope="col"{_style(name)}>{escape(table.columns[name])}</th>' for name in columns)
    rows = zip(*(_cells(name, shown[name]) for name in columns), strict=True)
    return _TABLE.format(
        name=table.name,
        heading=escape(table.heading),
        lead=escape(rule),
        head=head,
        body="\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows),
        rest=_rest(table.name, len(shown), len(frame)),
    )


def _rest(name: str, shown: int, rows: int) -> str:
    file = f'<a href="{name}.csv">{name}.csv</a>'
    if shown == rows:
        return f"{rows:,} {'row' if rows == 1 else 'rows'}; also in {file}."
    return f"The first {shown:,} of {rows:,} rows; all of them are in {file}."


def _is_number(name: str) -> bool:
    return name.endswith(("_bytes", "_count", "_days")) or name in {"rank", "status"}


def _style(name: str) -> str:
    if _is_number(name):
        return ' class="number"'
    if name in {"reason", "message"}:
        return ' class="text"'
    return ' class="short"' if name in {"digest", "created", "pushed", "kind", "oldest", "newest"} else ""


def _cells(name: str, column: pd.Series[Any]) -> Iterable[str]:
    """Return a column as table cells; whatever is not known is an empty cell."""
    for value in column.astype("object"):
        if pd.isna(value):
            yield f"<td{_style(name)}></td>"
        elif name == "digest":
            yield f'<td{_style(name)} title="{escape(value)}"><code>{escape(_short(str(value)))}</code></td>'
        else:
            yield f"<td{_style(name)}>{escape(_text(name, value))}</td>"


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return _moment(value)
    if name.endswith("_bytes"):
        return human_bytes(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _short(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm}:{encoded[:12]}"


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
