"""Runs every benchmark and writes RESULTS.md: what was to be reached, what was measured, and on which machine.

    python benchmarks/results.py [--quick] [--only cost growth] [--target benchmarks/RESULTS.md]

What is missing on the machine is said in its row, and the rest is measured. ``--quick`` looks whether everything runs, in a few minutes:
its figures are of few tags and few rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
from figures import Figure, Report, Spread, Table, figures_table, short

_HERE = Path(__file__).parent
# The questions of scale.py that a figure is about, and the most seconds for each.
_MOST_SECONDS = {"load": 4, "stale_tags": 1, "duplicate_tags": 1, "footprint": 1, "plan": 5}
_MOST_MIB = 1536
_LINEAR_FROM, _LINEAR_WITHIN = 10_000, 1.2


@dataclass(frozen=True, slots=True)
class Run:
    """A benchmark: its name, its program, and the options of a whole and of a quick run."""

    name: str
    program: str
    whole: str
    quick: str


_SCALE = f"--grow --only {' '.join(_MOST_SECONDS)}"
RUNS = (
    Run("near", "audit.py", "--rounds 3", "--repositories 4 --tags 50 --rounds 2 --seconds 1"),
    Run(
        "far",
        "audit.py",
        "--milliseconds 50 --rounds 3",
        "--milliseconds 50 --repositories 4 --tags 50 --rounds 1 --seconds 1",
    ),
    Run("cost", "cost.py", "--tags 10000 --rounds 3", "--tags 1000 --rounds 1"),
    Run("growth", "growth.py", "--tags 1000 10000 100000 1000000", "--tags 1000 10000 20000 --rounds 1"),
    Run("scale", "scale.py", f"--rounds 3 {_SCALE}", f"--tags 100000 --rounds 1 {_SCALE}"),
    Run("form", "form.py", "--rounds 3", "--rows 100 1000 --rounds 1"),
    Run("imports", "imports.py", "--rounds 10", "--rounds 3"),
    Run("stream", "stream.py", "--mib 512 --rounds 3", "--mib 32 --rounds 1"),
)


def report_of(run: Run, *, quick: bool) -> Report:
    """Run a benchmark and return its report; where it fails, a report that says so."""
    arguments, before = (run.quick if quick else run.whole).split(), machine.load()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, str(_HERE / run.program), *arguments, "--json", file.name]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        text = Path(file.name).read_text()
    shown = f"python benchmarks/{run.program} {' '.join(arguments)}"
    if done.returncode or not text:
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        table = Table(f"`{shown}`", [], [], f"Not measured: it failed with `{why}`.")
        return Report(run.name, [table], [Figure(f"all of `{run.program}`", "", f"not measured: `{why}`")])
    read = json.loads(text)
    report = of_scale(read) if "rows" in read else Report.from_json(text)
    report.tables.append(Table("How", [], [], f"`{shown}`; load average before and after: {before}; {machine.load()}."))
    return report


# -- the million tags, which scale.py tells in its own form ------------------------------------


def of_scale(read: dict[str, Any]) -> Report:
    """Make a report of what scale.py hands over: rows of what, tags, seconds, cpu_seconds and peak_mib."""
    rows: list[dict[str, Any]] = read["rows"]
    most = max(row["tags"] for row in rows)
    report = Report("A snapshot of a million tags" if most == 1_000_000 else f"A snapshot of {most:,} tags")
    report.tables = [_times(rows, most), _growth(rows)]
    report.figures = [*_scale_figures([row for row in rows if row["tags"] == most]), *_linear(rows, most)]
    return report


def _times(rows: Iterable[dict[str, Any]], most: int) -> Table:
    cells = [
        [row["what"], str(Spread.of(row["seconds"])), str(Spread.of(row["cpu_seconds"])), short(row["peak_mib"])]
        for row in rows
        if row["tags"] == most
    ]
    head = ["question", "seconds", "seconds of CPU", "most memory of the process, MiB"]
    return Table(f"{most:,} tags", head, cells, "Each in a process of its own, which has loaded the snapshot before.")


def _per_row(row: dict[str, Any]) -> float:
    """Return microseconds of CPU per tag."""
    return float(Spread.of(row["cpu_seconds"]).median / row["tags"] * 1e6)


def _growth(rows: Sequence[dict[str, Any]]) -> Table:
    sizes = sorted({row["tags"] for row in rows})
    found = {(row["what"], row["tags"]): short(_per_row(row)) for row in rows}
    questions = dict.fromkeys(row["what"] for row in rows)
    cells = [[what, *(found.get((what, size), "") for size in sizes)] for what in questions]
    return Table("How they grow: µs of CPU per tag", ["question", *(f"{size:,} tags" for size in sizes)], cells)


def _scale_figures(rows: Iterable[dict[str, Any]]) -> list[Figure]:
    known = {row["what"]: row for row in rows}
    asked = {what: bound for what, bound in _MOST_SECONDS.items() if what in known}
    tags = next(iter(known.values()))["tags"]
    figures = [
        Figure.at_most(f"{what}, {tags:,} tags", bound, known[what]["seconds"], " s") for what, bound in asked.items()
    ]
    memory = [known[what]["peak_mib"] for what in asked]
    peak = Figure(
        f"peak memory of these, {tags:,} tags", f"≤ {_MOST_MIB:,} MiB", short(max(memory)), max(memory) <= _MOST_MIB
    )
    return [*figures, peak]


def _linear(rows: Iterable[dict[str, Any]], most: int) -> list[Figure]:
    each = {(row["what"], row["tags"]): _per_row(row) for row in rows}
    if most <= _LINEAR_FROM:
        return []
    return [
        Figure.at_most(f"growth of {what}: CPU per tag at {most:,}, by that at 10,000", _LINEAR_WITHIN, [value / base])
        for (what, tags), value in each.items()
        if tags == most and what in _MOST_SECONDS and (base := each.get((what, _LINEAR_FROM)))
    ]


# -- the page --------------------------------------------------------------------------------


def page(reports: Sequence[Report], facts: Mapping[str, str], *, quick: bool, minutes: float) -> str:
    """Return RESULTS.md."""
    how = "make bench QUICK=1" if quick else "make bench"
    few = " **A quick run: few tags, few rounds. It shows that everything runs, and no more.**" if quick else ""
    parts = [
        "# Results",
        "",
        f"Written by `{how}` in {minutes:.0f} minutes; [README.md](README.md) says what each figure means.{few}",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        "## What is to be reached",
        "",
        figures_table(figure for report in reports for figure in report.figures),
        *(_without_figures(report).markdown() for report in reports),
    ]
    return "\n".join(parts).rstrip("\n") + "\n"


def _without_figures(report: Report) -> Report:
    return Report(report.name, report.tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[run.name for run in RUNS], default=[run.name for run in RUNS])
    parser.add_argument("--target", type=Path, default=_HERE / "RESULTS.md")
    given = parser.parse_args()
    started, reports, before = time.monotonic(), [], machine.load()
    for run in RUNS:
        if run.name in given.only:
            begun = time.monotonic()
            reports.append(report_of(run, quick=given.quick))
            print(f"{run.name}: {time.monotonic() - begun:.0f} seconds", file=sys.stderr, flush=True)
    minutes = (time.monotonic() - started) / 60
    text = page(reports, machine.described(before), quick=given.quick, minutes=minutes)
    given.target.write_text(text)
    print(figures_table(figure for report in reports for figure in report.figures))


if __name__ == "__main__":
    main()
