"""How long the review form takes in a real JupyterLab: until its rows are on the screen, and until all of them are selected.

    python benchmarks/form.py [--rows 100 10000 100000] [--rounds 3]

Needs Chromium, and what the extra ``browser`` brings. Counted is the time that a person waits: from the running of the cell that shows the
form, the plan being made already, to the first row in the page; and from the click on "Select all" to the total that Python sends back.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
from figures import Figure, Report, Sample, Spread, Table, hand_over, options, short

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from lab import STARTUP_SECONDS, Lab, Notebook, browser_page, missing, wait_until

# Of the tags of a made-up registry that are old enough, six lead to a digest that can go by itself.
_TAGS_PER_ROW = 6
_SHOWN = "document.querySelector('.regaudit tbody tr:not([hidden])')"
_SELECTED = "/rows? selected/.test(document.querySelector('.regaudit .ra-totals')?.textContent ?? '')"
_PLAN = """
import sys; sys.path.insert(0, {here!r})
import regaudit as ra, synthetic, tempfile
snapshot = synthetic.make({tags})
candidates = ra.stale_tags(snapshot, older_than="30D")
plan = ra.plan(snapshot, candidates)
chosen = [row.key for row in plan.rows if row.role == "candidate"]
if len(chosen) > {rows}:
    plan = plan.select(chosen[:{rows}])
cleaner = ra.Cleaner(ra.Registry(plan.registry), journal=tempfile.mkdtemp() + "/journal.sqlite")
print("rows:", sum(row.role == "candidate" for row in plan.rows))
"""
_FORM = "ra.review(plan, cleaner)"


def run(page: Any, lab: Lab, rows: int, number: int, *, first: bool) -> Sample:
    """Show a form over so many rows in a notebook of its own, and say what was waited for."""
    import nbformat

    name = f"form-{rows}-{number}.ipynb"
    plan = _PLAN.format(here=str(Path(__file__).parent), tags=max(1000, rows * _TAGS_PER_ROW), rows=rows)
    cells = [nbformat.v4.new_code_cell(source) for source in (plan, _FORM)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), lab.folder / name)
    book = Notebook(page, lab, name)
    book.command("notebook:run-cell-and-select-next")
    printed = page.locator(".jp-OutputArea-output").filter(has_text="rows:")
    printed.wait_for(timeout=STARTUP_SECONDS * 1000)
    began = time.perf_counter()
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-cell')")
    page.wait_for_function(_SHOWN)
    shown = time.perf_counter()
    page.locator(".regaudit .ra-select-all").click()
    page.wait_for_function(_SELECTED)
    selected = time.perf_counter()
    if first:
        book.command("@jupyter-widgets/jupyterlab-manager:saveWidgetState")  # a switch, which stays as it is set
    book.save()
    path = lab.folder / name
    wait_until(lambda: "widget-state" in path.read_text(), 20, "the widget state was not saved")
    return {
        "rows": float(str(printed.text_content()).rpartition(":")[2]),
        "shown": shown - began,
        "selected": selected - shown,
        "kb": path.stat().st_size / 1000,
    }


def main() -> None:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 10_000, 100_000])
    given = parser.parse_args()
    if lacking := missing():
        sys.exit(f"not measured: there is no {lacking}")
    before = machine.load()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        lab = Lab(home / "lab")
        try:
            with browser_page(home / "chromium") as page:
                samples: dict[int, list[Sample]] = {}
                for rows in given.rows:
                    samples[rows] = [run(page, lab, rows, n, first=not samples and n == 0) for n in range(given.rounds)]
        finally:
            lab.close()
    hand_over(_report(samples, before), given.json)


def _report(samples: dict[int, list[Sample]], before: str) -> Report:
    def spread(found: list[Sample], name: str) -> str:
        return str(Spread.of(sample[name] for sample in found))

    rows = [
        [f"{found[0]['rows']:,.0f}", spread(found, "shown"), spread(found, "selected"), spread(found, "kb")]
        for found in samples.values()
    ]
    report = Report("The review form in JupyterLab")
    head = ["rows", "seconds until they are shown", "seconds until all are selected", "saved notebook, kB"]
    report.tables.append(Table("What a person waits for", head, rows))
    most = max(samples)
    shown = f"a form over {samples[most][0]['rows']:,.0f} rows: until they are shown"
    report.figures.append(Figure.at_most(shown, 0.5, [sample["shown"] for sample in samples[most]], " s"))
    largest = max(sample["kb"] for found in samples.values() for sample in found)
    report.figures.append(Figure("a notebook saved with it", "≤ 100 kB", f"{short(largest)} kB", largest <= 100))
    report.machine = machine.described(before)
    return report


if __name__ == "__main__":
    main()
