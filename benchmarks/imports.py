"""How long `import regaudit` takes beside `import pandas`, in fresh processes, in turns.

    python benchmarks/imports.py [--rounds 10]

Counted is the import alone, without the start of Python. Names of regaudit are loaded when they are first used, so the first use of
`collect` and of `stale_tags` is counted too.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable

import contenders
import machine
from figures import Figure, Report, Sample, Spread, Table, hand_over, options, ratios, turns

_STATEMENTS = {
    "import pandas": "import pandas",
    "import regaudit": "import regaudit",
    "import regaudit, and its collect and stale_tags": "import regaudit; regaudit.collect; regaudit.stale_tags",
}
_TIMED = "import time; started = time.perf_counter(); {statement}; print(time.perf_counter() - started)"


def run(statement: str) -> Sample:
    command = [sys.executable, "-c", _TIMED.format(statement=statement)]
    done = subprocess.run(
        command, env=contenders.environment("/nonexistent"), stdout=subprocess.PIPE, text=True, check=True
    )
    return {"seconds": float(done.stdout)}


def main() -> None:
    parser = options(__doc__, rounds=10)
    given = parser.parse_args()
    before = machine.load()
    taking_part: dict[str, Callable[[], Sample]] = {
        name: functools.partial(run, statement) for name, statement in _STATEMENTS.items()
    }
    turns(taking_part, 1)  # the first round fills the system's cache of files
    samples = turns(taking_part, given.rounds)
    against = {name: ratios(samples, name, "import pandas", "seconds") for name in samples}
    rows = [
        [name, str(Spread.of(one["seconds"] * 1000 for one in found)), str(Spread.of(against[name]))]
        for name, found in samples.items()
    ]
    report = Report("Imports")
    report.tables.append(Table("In fresh processes", ["statement", "ms", "by import pandas"], rows))
    report.figures.append(Figure.at_most("`import regaudit`, by `import pandas`", 2, against["import regaudit"]))
    report.machine = machine.described(before)
    hand_over(report, given.json)


if __name__ == "__main__":
    main()
