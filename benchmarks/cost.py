"""What a request costs the client: an audit of a registry that is nothing but files given out by nginx.

    python benchmarks/cost.py [--tags 10000] [--rounds 3]

Counted is the processor time (user and system, all threads) of the reading process during `collect`, imports excluded, parsing,
hashing and the rows of the tables included; by the requests that it sent. Both drivers of regaudit take part, and the loop that
people write themselves on requests or urllib3, 16 threads, which verifies nothing and makes no tables. Once all tags are on one
image, once each is on an image of its own, with a config of its own. Needs nginx: apt-get install nginx-light.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import contenders
import machine
from figures import Figure, Report, Sample, Spread, Table, hand_over, options, ratios, turns
from static import REPOSITORY, StaticRegistry

_MOST_MILLISECONDS = 0.08


def drivers() -> dict[str, str]:
    """Return the drivers that are there, by the name of the contender."""
    try:
        import pycurl  # noqa: F401 -- whether it is installed is all that matters
    except ImportError:
        return {"regaudit, threads": "threads"}
    return {"regaudit, libcurl": "libcurl", "regaudit, threads": "threads"}


def taking_part(host: str) -> dict[str, Callable[[], Sample]]:
    ours = {name: functools.partial(_audit, host, driver) for name, driver in drivers().items()}
    loops = {name: functools.partial(_loop, host, name) for name in ("requests", "urllib3")}
    return {**ours, **{f"a loop on {name}, 16 threads": loop for name, loop in loops.items()}}


def _audit(host: str, driver: str) -> Sample:
    with tempfile.TemporaryDirectory() as cache:
        return _rated(contenders.regaudit(host, "--driver", driver, "--cache", cache))


def _loop(host: str, client: str) -> Sample:
    return _rated(contenders.loop(host, REPOSITORY, client))


def _rated(sample: Sample) -> Sample:
    requests = sample["requests"]
    return {**sample, "per_second": requests / sample["seconds"], "cpu_each": sample["cpu"] / requests * 1000}


def measure(tags: int, images: int, rounds: int) -> tuple[Table, list[Figure]]:
    with tempfile.TemporaryDirectory() as folder, StaticRegistry(Path(folder), tags=tags, images=images) as server:
        samples = turns(taking_part(server.host), rounds)
    first = next(iter(samples))
    rows = [
        [
            name,
            str(Spread.of(one["cpu_each"] for one in found)),
            str(Spread.of(ratios(samples, name, first, "cpu_each"))),
            str(Spread.of(one["per_second"] for one in found)),
        ]
        for name, found in samples.items()
    ]
    what = _behind(images)
    head = ["contender", "ms of CPU per request", f"by {first}", "requests a second"]
    table = Table(f"{tags:,} tags: {what}", head, rows, f"{samples[first][-1]['requests']:,} requests.")
    return table, _figures(samples, what)


def _behind(images: int) -> str:
    return "one image behind all tags" if images == 1 else "an image and a config for each tag"


def _figures(samples: dict[str, list[Sample]], what: str) -> list[Figure]:
    if "regaudit, libcurl" not in samples:
        why = 'not measured: pycurl is not installed; `pip install ".[fast]"` first'
        return [Figure(_figure_name(what), f"{_MOST_MILLISECONDS} ms", why)]
    spent = [one["cpu_each"] for one in samples["regaudit, libcurl"]]
    return [Figure.at_most(_figure_name(what), _MOST_MILLISECONDS, spent, " ms")]


def _figure_name(what: str) -> str:
    return f"CPU per request with libcurl against nginx, {what}"


def main() -> None:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--tags", type=int, default=10_000)
    given = parser.parse_args()
    before, report, lacking = machine.load(), Report("What a request costs the client"), machine.missing("nginx")
    for images in (1, given.tags):
        if lacking:
            report.not_measured(_figure_name(_behind(images)), _MOST_MILLISECONDS, lacking)
            continue
        table, figures = measure(given.tags, images, given.rounds)
        report.tables.append(table)
        report.figures += figures
    report.machine = machine.described(before)
    hand_over(report, given.json)


if __name__ == "__main__":
    main()
