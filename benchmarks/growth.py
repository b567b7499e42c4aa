"""How collecting grows with the number of tags: an audit of a registry of files, from a thousand tags to a million.

    python benchmarks/growth.py [--tags 1000 10000 100000] [--rounds 3]

nginx gives out pages of a thousand tags, and one of a thousand images for each tag. Seconds are those of `collect`, without a cache;
memory is the most that the process has held, imports and all. Whether it grows as the number of tags does is judged by the processor time, which
other work on the machine disturbs less. The largest number takes its turn once, whatever the rounds.
Needs nginx: apt-get install nginx-light.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import contenders
import machine
from figures import Figure, Report, Sample, Spread, Table, hand_over, options, short, turns
from static import StaticRegistry

_IMAGES = 1000
# Below it the first requests and the tables' own start weigh too much.
_FROM = 10_000
_LINEAR_WITHIN = 1.2
_HEAD = ["tags", "seconds", "µs per tag", "µs of CPU per tag", "most memory, MiB"]
_LINEAR = "growth of collecting: CPU per tag at the most tags, by that at 10,000"


def measured(sizes: Sequence[int], rounds: int, driver: Sequence[str]) -> dict[int, list[Sample]]:
    return {tags: measure(tags, 1 if tags == max(sizes) else rounds, driver) for tags in sorted(sizes)}


def measure(tags: int, rounds: int, driver: Sequence[str]) -> list[Sample]:
    images = min(_IMAGES, tags)
    with tempfile.TemporaryDirectory() as folder, StaticRegistry(Path(folder), tags=tags, images=images) as server:
        return turns({"regaudit": functools.partial(contenders.regaudit, server.host, *driver)}, rounds)["regaudit"]


def row(tags: int, samples: Sequence[Sample]) -> list[str]:
    return [
        f"{tags:,}",
        str(Spread.of(one["seconds"] for one in samples)),
        str(Spread.of(one["seconds"] / tags * 1e6 for one in samples)),
        str(Spread.of(one["cpu"] / tags * 1e6 for one in samples)),
        short(max(one["most_kib"] for one in samples) / 1024),
    ]


def linear(samples: dict[int, list[Sample]]) -> Figure:
    large = [tags for tags in samples if tags > _FROM]
    if _FROM not in samples or not large:
        return Figure(_LINEAR, f"≤ {_LINEAR_WITHIN}", "not measured: name 10000 and more with --tags")
    base = Spread.of(one["cpu"] / _FROM for one in samples[_FROM]).median
    most = max(large)
    figure = Figure.at_most(_LINEAR, _LINEAR_WITHIN, [one["cpu"] / most / base for one in samples[most]])
    return Figure(f"{_LINEAR} (here {most:,})", figure.reach, figure.measured, figure.reached)


def main() -> None:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--tags", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--driver", choices=("libcurl", "threads"))
    given = parser.parse_args()
    before, report, lacking = machine.load(), Report("How collecting grows"), machine.missing("nginx")
    if lacking:
        report.not_measured(_LINEAR, _LINEAR_WITHIN, lacking)
    else:
        samples = measured(given.tags, given.rounds, ["--driver", given.driver] if given.driver else [])
        rows = [row(*one) for one in samples.items()]
        report.tables.append(Table("From nginx, a thousand different images", _HEAD, rows))
        report.figures.append(linear(samples))
    report.machine = machine.described(before)
    hand_over(report, given.json)


if __name__ == "__main__":
    main()
