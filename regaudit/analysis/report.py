"""The report: a folder with every table and finding as CSV, Parquet and a workbook, plots, one page, and a summary."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from regaudit.analysis.drawing import picture
from regaudit.analysis.findings import findings
from regaudit.analysis.footprint import footprint
from regaudit.analysis.labels import REQUIRED_LABELS
from regaudit.analysis.plots import plot_layers, plot_sharing, plot_storage, plot_treemap
from regaudit.analysis.plots_of_time import plot_ages, plot_growth
from regaudit.analysis.report_page import page
from regaudit.analysis.report_summary import summary
from regaudit.analysis.report_tables import Rules
from regaudit.analysis.tags import duplicate_tags, stale_tags
from regaudit.inventory.parquet import write_frame
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.spreadsheet import with_human_sizes, write_csv
from regaudit.inventory.workbook import write_workbook
from regaudit.text import atomic_write, owned_folder

OLDER_THAN = "180D"
KEEP_LATEST = 5
PAGE, SUMMARY, WORKBOOK = "index.html", "summary.md", "report.xlsx"
# A workbook takes some 9 µs of processor time for each cell: about 5 seconds for as many.
MOST_CELLS = 500_000
_UNFINISHED = ".unfinished"
_FOLDERS = ("plots", "parquet")

_Pictures = Mapping[str, tuple[str, bytes, bytes]]


def report(
    snapshot: Snapshot,
    folder: str | os.PathLike[str],
    *,
    older_than: str | None = OLDER_THAN,
    keep_latest: int | None = KEEP_LATEST,
    labels: Iterable[str] = REQUIRED_LABELS,
    stale: pd.DataFrame | None = None,
    duplicates: pd.DataFrame | None = None,
    xlsx: bool | None = None,
) -> Path:
    """Write a report of a snapshot into a folder: tables and findings, plots, one page that shows all, a summary.

    The page is one file that asks for nothing from the network and runs no script but its own. Everything is
    written aside first and then put in its place, file by file, the page last: where that fails, an older report
    stays as it was. Other files of the folder are left alone, and no symbolic link in it is followed.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    folder : path
        Made if missing. A symbolic link is refused.
    older_than : str or None
        For stale tags, and for the cut in the picture of ages.
    keep_latest : int or None
        For stale tags.
    labels : iterable of str
        For `missing_labels`.
    stale : pandas.DataFrame, optional
        From `stale_tags`, or any other candidates; by default by `older_than` and `keep_latest`.
    duplicates : pandas.DataFrame, optional
        From `duplicate_tags`; by default with its defaults.
    xlsx : bool, optional
        Whether to write the workbook; by default where all tables together have at most half a million
        cells, which takes some five seconds. The page says where there is none.

    Returns
    -------
    pathlib.Path
        The page, ``index.html``. Beside it: ``tags.csv`` and each other table of the snapshot, ``footprint.csv``,
        ``stale.csv``, ``duplicates.csv``, one for each of `findings`, the same as ``parquet/*.parquet`` and as sheets
        of ``report.xlsx``, ``plots/*.png`` and ``*-dark.png``, and ``summary.md`` for a pull request. In CSV and
        workbook ``content_human`` stands behind ``content_bytes``, and so on.

    Raises
    ------
    UsageError
        Where the folder, or one in it, is a file or a symbolic link, or a rule cannot be understood.
    """
    target = owned_folder(folder)
    for name in _FOLDERS:
        owned_folder(target / name)
    rules = Rules(older_than, keep_latest, tuple(labels), _given(stale=stale, duplicates=duplicates))
    frames = _frames(snapshot, rules, stale, duplicates)
    parts = _Parts(snapshot, frames, rules, _with_workbook(frames, xlsx))
    with _put_in_place(target) as aside:
        parts.write(aside)
    return target / PAGE


def _given(**frames: pd.DataFrame | None) -> frozenset[str]:
    return frozenset(name for name, frame in frames.items() if frame is not None)


def _frames(
    snapshot: Snapshot, rules: Rules, stale: pd.DataFrame | None, duplicates: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    if stale is None:
        stale = stale_tags(snapshot, older_than=rules.older_than, keep_latest=rules.keep_latest)
    return {
        **snapshot.tables,
        "footprint": footprint(snapshot),
        "stale": stale,
        "duplicates": duplicate_tags(snapshot) if duplicates is None else duplicates,
        **findings(snapshot, labels=rules.labels),
    }


def _with_workbook(frames: Mapping[str, pd.DataFrame], wanted: bool | None) -> bool:  # noqa: FBT001 -- the user's option, as it is
    return sum(frame.size for frame in frames.values()) <= MOST_CELLS if wanted is None else wanted


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a report consists of, and how each part is written."""

    snapshot: Snapshot
    frames: Mapping[str, pd.DataFrame]
    rules: Rules
    workbook: bool

    def write(self, folder: Path) -> None:
        """Write all of it into an empty folder."""
        for name in _FOLDERS:
            (folder / name).mkdir()
        for name, frame in self.frames.items():
            write_csv(with_human_sizes(frame), folder / f"{name}.csv")
            write_frame(frame, folder / "parquet" / f"{name}.parquet")
        if self.workbook:
            with atomic_write(folder / WORKBOOK, "wb") as file:
                title = f"Audit of {self.snapshot.registry}"
                write_workbook(self.frames, file, title=title, at=self.snapshot.taken_at)
        pictures = self._draw(folder / "plots")
        with atomic_write(folder / SUMMARY) as file:
            file.write(summary(self.snapshot, self.frames, self.rules))
        with atomic_write(folder / PAGE) as file:
            file.write(page(self.snapshot, self.frames, pictures, self.rules, self._files()))

    def _draw(self, folder: Path) -> _Pictures:
        pictures = {}
        for name, (meaning, plot) in _plots(self.rules.older_than).items():
            light, dark = (picture(partial(plot, self.snapshot), dark=dark) for dark in (False, True))
            pictures[name] = (meaning, light, dark)
            for file_name, image in ((f"{name}.png", light), (f"{name}-dark.png", dark)):
                with atomic_write(folder / file_name, "wb") as file:
                    file.write(image)
        return pictures

    def _files(self) -> str:
        cells = sum(frame.size for frame in self.frames.values())
        sheets = (
            f"{WORKBOOK} (a sheet each)"
            if self.workbook
            else f"no workbook, for {cells:,} cells take long (xlsx=True, or --xlsx, writes it all the same)"
        )
        return (
            f"Beside this page: a CSV file for each table and finding, parquet/ (the same without loss), {sheets}, plots/, "
            f"and {SUMMARY} for a pull request."
        )


def _plots(older_than: str | None) -> dict[str, tuple[str, Callable[..., Any]]]:
    """Return what each picture means and what draws it, those beside each other that are about as high."""
    marked = f", those older than {older_than} marked" if older_than else ""
    return {
        "storage": ("Bars: bytes of each repository, in it only and shared with others", plot_storage),
        "layers": ("Bars: the biggest layers, and whether several repositories share them", plot_layers),
        "treemap": ("Treemap: every byte once, by the repository that alone holds it, or shared", plot_treemap),
        "sharing": ("Heat map: bytes of layers that each pair of repositories shares", partial(plot_sharing, top=9)),
        "ages": (f"Bars: tags by date of creation{marked}", partial(plot_ages, older_than=older_than)),
        "growth": ("Line: stored bytes by the date of the oldest image that holds them", plot_growth),
    }


# -- on disk ----------------------------------------------------------------------------------


@contextmanager
def _put_in_place(target: Path) -> Iterator[Path]:
    """Give a folder to write into; what is in it at the end takes its place in the target, the page last."""
    aside = target / _UNFINISHED
    _discard(aside)
    aside.mkdir()
    try:
        yield aside
        written = sorted(path for path in aside.rglob("*") if path.is_file())
        for path in sorted(written, key=lambda path: path.name == PAGE):
            path.replace(target / path.relative_to(aside))
        if aside / WORKBOOK not in written:
            (target / WORKBOOK).unlink(missing_ok=True)  # of an earlier report, and no part of this one
    finally:
        _discard(aside)


def _discard(folder: Path) -> None:
    """Take away what a report that was killed left behind; a link goes, and not what it points to."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
