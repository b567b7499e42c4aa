"""A registry of a million tags: how long each question to its snapshot takes, and how much memory.

    python benchmarks/scale.py [--tags 1000000] [--rounds 3] [--grow] [--json FILE] [--folder FOLDER]

Makes a snapshot (`synthetic.py`) and saves it once; then each step runs in a process of its own, in turns:
that process loads the snapshot, does the one thing, and says how many seconds that took (of the clock, and of
the processor), and its peak memory, start-up and loading included. ``--grow`` does so for 1,000, 10,000 …
up to the number of tags, and prints how many times longer each thing takes for ten times the rows. With
``--folder`` the snapshots stay where they are and are made only where they are missing.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

ROUNDS_OF_IMPORT = 5
DAY = 86400


# -- in the child: one step -------------------------------------------------------------------


def candidates(snapshot):
    """Return a fifth of all tags, the oldest: spread over all repositories."""
    import regaudit as ra

    aged = ra.stale_tags(snapshot, older_than="1D")["age_days"].sort_values(ascending=False)
    wanted = len(snapshot.tags) // 5
    return ra.stale_tags(snapshot, older_than=f"{int(aged.iloc[min(wanted, len(aged) - 1)] * DAY)}s")


def prepared(step: str, folder: str, out: Path):
    """Return the function that does the step; what it needs is made here, and not timed."""
    import regaudit as ra

    # Names are loaded when they are first used: that is measured below, by `imports`.
    for name in ("Snapshot", "stale_tags", "footprint", "plan"):
        getattr(ra, name)
    if step == "load":
        return lambda: ra.Snapshot.load(folder)
    snapshot = ra.Snapshot.load(folder)
    alone = {
        "stale_tags": lambda: ra.stale_tags(snapshot, older_than="180D", keep_latest=5),
        "duplicate_tags": lambda: ra.duplicate_tags(snapshot),
        "footprint": lambda: ra.footprint(snapshot),
        "stored_bytes": snapshot.stored_bytes,
        "summary": snapshot._repr_html_,
        "save": lambda: snapshot.save(out / "snapshot"),
        "to_csv": lambda: snapshot.to_csv(out / "csv"),
    }
    if step in alone:
        return alone[step]
    chosen = candidates(snapshot)
    if step == "plan":
        return lambda: ra.plan(snapshot, chosen)
    made = ra.plan(snapshot, chosen)
    keys = [row.key for row in made.rows if row.role == "candidate"]
    return {
        "plan.select half": lambda: made.select(keys[::2]),
        "plan.frame": made.frame,
        "plan.save": lambda: made.save(out / "plan.json"),
        "selection": made.selection,
        "select all": lambda: made.selection().set_many(keys, selected=True),
    }[step]


STEPS = (
    "load", "stale_tags", "duplicate_tags", "footprint", "plan", "plan.select half", "plan.frame", "plan.save",
    "selection", "select all", "stored_bytes", "summary", "save", "to_csv",
)  # fmt: skip


def run_step(step: str, folder: str) -> None:
    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as out:
        do = prepared(step, folder, Path(out))
        before = peak_mib()
        clock, processor = time.perf_counter(), time.process_time()
        result = do()
        spent = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - processor}
    print(json.dumps(spent | {"peak_mib": peak_mib(), "before_mib": before, "result": described(result)}))


def described(result) -> str:
    if hasattr(result, "headline"):
        return result.headline()
    return f"{len(result):,} rows" if hasattr(result, "columns") else ""


def peak_mib() -> float:
    """Return the most memory that this process has had so far."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 1024


# -- in the parent: rounds and tables ---------------------------------------------------------


def make(tags: int, folder: Path) -> None:
    if (folder / "snapshot.json").exists():
        return
    # A process of its own, so that what making takes is given back.
    code = "import sys, synthetic; synthetic.make(int(sys.argv[1])).save(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(tags), str(folder)], check=True, env=environment())


def environment() -> dict[str, str]:
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def measured(steps: list[str], folder: Path, rounds: int) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {step: [] for step in steps}
    for _ in range(rounds):
        for step in steps:
            command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
            done = subprocess.run(command, check=True, env=environment(), capture_output=True, text=True)
            found[step].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def imports(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a process that imports regaudit, pandas, or regaudit with what an audit uses."""
    codes = {
        "nothing": "",
        "import pandas": "import pandas",
        "import regaudit": "import regaudit",
        "regaudit, its door used": "import regaudit as ra; ra.Registry, ra.collect, ra.stale_tags, ra.plan, ra.Snapshot",
    }
    times: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(rounds):
        for name, code in codes.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, env=environment())
            times[name].append(time.perf_counter() - started)
    return times


def machine() -> dict[str, object]:
    versions = {name: version(name) for name in ("numpy", "pandas", "pyarrow")}
    return {
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **versions,
    }


def print_rows(tags: int, found: dict[str, list[dict]]) -> None:
    print(f"\n{tags:,} tags; seconds of the clock (median, smallest … largest), of the processor, peak MiB")
    for step, rounds in found.items():
        seconds = [one["seconds"] for one in rounds]
        spread = f"{statistics.median(seconds):8.3f}   {min(seconds):8.3f} … {max(seconds):8.3f}"
        cpu = statistics.median(one["cpu"] for one in rounds)
        print(
            f"{step:<18}{spread}   cpu {cpu:8.3f}   {max(one['peak_mib'] for one in rounds):7.0f}   {rounds[0]['result']}"
        )


def print_growth(grown: dict[int, dict[str, list[dict]]]) -> None:
    sizes = sorted(grown)
    print("\nprocessor time per row, as a multiple of that at the next smaller number of tags (1.0: linear)")
    print(f"{'':<18}" + "".join(f"{size:>12,}" for size in sizes[1:]))
    for step in grown[sizes[0]]:
        cpu = {size: statistics.median(one["cpu"] for one in grown[size][step]) for size in sizes}
        ratios = [cpu[larger] / cpu[size] * size / larger for size, larger in pairwise(sizes)]
        print(f"{step:<18}" + "".join(f"{ratio:>12.2f}" for ratio in ratios))


def as_rows(grown: dict[int, dict[str, list[dict]]]) -> list[dict]:
    return [
        {
            "what": step,
            "tags": tags,
            "seconds": [one["seconds"] for one in rounds],
            "cpu_seconds": [one["cpu"] for one in rounds],
            "peak_mib": max(one["peak_mib"] for one in rounds),
        }
        for tags, found in grown.items()
        for step, rounds in found.items()
    ]


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tags", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--grow", action="store_true")
    options.add_argument("--json", type=Path)
    options.add_argument("--folder", type=Path)
    options.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    options.add_argument("--step", help=argparse.SUPPRESS)
    return options.parse_args()


def main() -> None:
    given = arguments()
    if given.step:
        run_step(given.step, str(given.folder))
        return
    sizes = [size for size in (1_000, 10_000, 100_000) if given.grow and size < given.tags] + [given.tags]
    grown = {}
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            folder = (given.folder or Path(temporary)) / str(size)
            folder.parent.mkdir(parents=True, exist_ok=True)
            make(size, folder)
            grown[size] = measured(given.only, folder, given.rounds)
            print_rows(size, grown[size])
    if given.grow:
        print_growth(grown)
    times = imports(max(given.rounds, ROUNDS_OF_IMPORT))
    print("\nseconds of a process that does nothing, or imports")
    for name, spent in times.items():
        print(f"{name:<24}{statistics.median(spent):8.3f}   {min(spent):8.3f} … {max(spent):8.3f}")
    if given.json:
        result = {"name": "scale", "machine": machine(), "rows": as_rows(grown), "imports": times}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
