"""What a benchmark hands over: tables of what was measured, and figures that are to be reached.

A benchmark prints its `Report`, and writes it as JSON where it is asked to (``--json FILE``); `results.py` puts
the reports of all into RESULTS.md. Reports of other programs count as well, as long as they are of this form::

    {"name": "…", "tables": [{"title": "…", "head": ["…"], "rows": [["…"]], "note": "…"}],
     "figures": [{"name": "…", "reach": "…", "measured": "…", "reached": true}], "machine": {"…": "…"}}
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, and the smallest and largest, which say how noisy the machine was."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1])

    def __str__(self) -> str:
        if self.least == self.most:  # one round
            return short(self.median)
        return f"{short(self.median)} ({short(self.least)} … {short(self.most)})"


def short(value: float) -> str:
    """Return a number with three digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        lines = [f"### {self.title}", ""]
        if self.rows:
            lines += [_row(self.head), _row("---" for _ in self.head), *(_row(row) for row in self.rows), ""]
        return "\n".join([*lines, self.note, ""] if self.note else lines)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of what is to be reached; `reached` is None where it was not measured, and `measured` then says why."""

    name: str
    reach: str
    measured: str
    reached: bool | None = None

    @classmethod
    def at_least(cls, name: str, bound: float, values: Iterable[float], unit: str = "") -> Self:
        spread = Spread.of(values)
        return cls(name, f"≥ {bound:g}{unit}", str(spread), spread.median >= bound)

    @classmethod
    def at_most(cls, name: str, bound: float, values: Iterable[float], unit: str = "") -> Self:
        spread = Spread.of(values)
        return cls(name, f"≤ {bound:g}{unit}", str(spread), spread.median <= bound)

    def cells(self) -> list[str]:
        answer = "" if self.reached is None else "yes" if self.reached else "**no**"
        return [self.name, self.reach, self.measured, answer]


@dataclass(slots=True)
class Report:
    name: str
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    machine: Mapping[str, str] = field(default_factory=dict)

    def not_measured(self, name: str, bound: float, why: str) -> None:
        self.figures.append(Figure(name, f"{bound:g}", f"not measured: {why}"))

    def markdown(self) -> str:
        parts = [f"## {self.name}", "", *(table.markdown() for table in self.tables)]
        return "\n".join([*parts, figures_table(self.figures)] if self.figures else parts)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        read: dict[str, Any] = json.loads(text)
        tables = [Table(**table) for table in read.get("tables", ())]
        figures = [Figure(**figure) for figure in read.get("figures", ())]
        return cls(read["name"], tables, figures, read.get("machine", {}))


def figures_table(figures: Iterable[Figure]) -> str:
    head = ["figure", "to reach", "measured: median (smallest … largest)", "reached"]
    return "\n".join([_row(head), _row("---" for _ in head), *(_row(figure.cells()) for figure in figures), ""])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def options(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"how often each takes its turn ({rounds})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    return parser


def hand_over(report: Report, target: Path | None) -> None:
    print(report.markdown())
    for name, value in report.machine.items():
        print(f"{name}: {value}")
    if target is not None:
        target.write_text(report.to_json())


Sample = Mapping[str, Any]


def turns(contenders: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, list[Sample]]:
    """Let each contender run once a round, in an order that is turned round every time.

    A machine whose speed drifts is fair to all in this way, and a ratio is taken within a round.
    """
    found: dict[str, list[Sample]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders.items())
        for name, run in order if number % 2 == 0 else reversed(order):
            found[name].append(run())
    return found


def ratios(samples: Mapping[str, Sequence[Sample]], over: str, under: str, key: str) -> list[float]:
    """Return, for each round, how many times the one contender's figure is the other's."""
    return [a[key] / b[key] for a, b in zip(samples[over], samples[under], strict=True)]
