"""One audit in a process of its own, and what it took, as a line of JSON.

    python benchmarks/reader.py HOST [--driver libcurl] [--cache FOLDER] [--record FILE]

``seconds`` and ``cpu`` (user and system, of all threads) are of the call of `collect` alone: imports, and the start of Python, are not in
it. ``most_kib`` is the most memory that the process has held.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import time
from pathlib import Path
from typing import Any

from recording import Recorder

import regaudit as ra


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def most_kib() -> int:
    """Return the high-water mark of this process; getrusage would count what its parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def read(registry: ra.Registry, record: Path | None, **options: Any) -> dict[str, Any]:
    with contextlib.ExitStack() as opened:
        recorder = opened.enter_context(Recorder()) if record else None
        cpu, started = cpu_seconds(), time.perf_counter()
        snapshot = ra.collect(registry, progress=False, **options)
        seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    if recorder is not None and record is not None:
        recorder.recording().save(record)
    return {
        "seconds": seconds,
        "cpu": cpu,
        "requests": sum(snapshot.requests.values()),
        "kinds": dict(snapshot.requests),
        "tags": len(snapshot.tags),
        "complete": bool(snapshot.complete),
        "most_kib": most_kib(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("--driver", choices=("libcurl", "threads"))
    parser.add_argument("--cache", metavar="FOLDER", help="without it nothing is kept, and nothing known before")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the requests there; the log costs time")
    given = parser.parse_args()
    # Loaded before the clock runs: the tables' room is large.
    import regaudit.inventory.collect  # noqa: F401 -- for its effect

    driver = {"driver": given.driver} if given.driver else {}
    with ra.Registry(given.host, **driver) as registry:
        print(json.dumps(read(registry, given.record, cache=given.cache)))


if __name__ == "__main__":
    main()
