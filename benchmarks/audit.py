"""An audit by regaudit beside wrk and beside what people use instead, on one docker-registry, in one run.

    python benchmarks/audit.py [--milliseconds 50] [--repositories 10] [--tags 250] [--rounds 3]

The contenders take turns:

- regaudit, cold: `collect` with an empty cache; and warm: the same again with the cache that the first has filled;
- wrk with the very requests of the cold audit, which are recorded before (`recording.py`), over as many connections as the audit
  had in flight, and over some other numbers; the warm audit's requests are HEADs, which wrk cannot do: `replay.py` replays those, and
  both replay them as GETs, which says how near the one comes to the other;
- skopeo in a loop of a shell, manifest and config of each tag, several processes side by side;
- the npm package docker-registry-client, if node and npm are there: it is installed into a temporary folder.

Beside wrk it is the time of the call of `collect` that counts, beside programs the time of the whole process. Needs
docker-registry, wrk and skopeo: apt-get install docker-registry wrk skopeo.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import contenders
import machine
import stored_images
import wrk
from delay import Delay
from docker_registry import DockerRegistry
from figures import Figure, Report, Sample, Spread, Table, hand_over, options, ratios, short, turns
from recording import Recording

# In how many connections, processes or calls at once the others are tried: near by, and at a distance, where more of them help.
_NEAR = {"wrk": (4, 8, 16), "skopeo": (2, 4, 8), "node": (4, 8, 16)}
_FAR = {"wrk": (16, 64, 128), "skopeo": (2, 4, 8, 32), "node": (16, 64)}
# What the figures of skopeo are judged by, near and far; more processes are shown beside them.
_JUDGED = (2, 4, 8)
# skopeo takes so long that a part of the tags must do: so many for each of its processes.
_IMAGES_PER_PROCESS = 30


@dataclass(frozen=True, slots=True)
class Setting:
    """Where to read, and what was recorded of an audit there."""

    host: str
    folder: Path
    names: Sequence[str]
    tags: int
    seconds: float
    cold: Recording
    warm: Recording
    node: Path | None
    far: bool

    @property
    def tried(self) -> dict[str, tuple[int, ...]]:
        return _FAR if self.far else _NEAR

    @property
    def images(self) -> list[str]:
        return [f"{name}:t{number}" for number in range(self.tags) for name in self.names]

    def connections(self, recording: Recording) -> list[int]:
        """Return the numbers of connections to try: first as many as the audit had in flight."""
        return list(dict.fromkeys([recording.in_flight, *self.tried["wrk"]]))


@dataclass(slots=True)
class Caches:
    """A cache for each cold audit, which the warm one after it reads."""

    folder: Path
    made: int = 0
    newest: str = field(default="")

    def fresh(self) -> str:
        self.made += 1
        self.newest = str(self.folder / f"cache-{self.made}")
        return self.newest


def record(host: str, folder: Path) -> tuple[Recording, Recording]:
    """Return the requests of a cold audit and of the warm one after it."""
    cache = str(folder / "recorded-cache")
    found = []
    for kind in ("cold", "warm"):
        path = folder / f"{kind}.json"
        contenders.regaudit(host, "--cache", cache, "--record", str(path))
        found.append(Recording.load(path))
    return found[0], found[1]


def taking_part(setting: Setting) -> dict[str, Callable[[], Sample]]:
    caches = Caches(setting.folder)
    found: dict[str, Callable[[], Sample]] = {
        "regaudit": lambda: _cold_and_warm(setting.host, caches),
    }
    for number in setting.connections(setting.cold):
        found[f"wrk {number}"] = functools.partial(_by_wrk, setting, setting.cold, number)
    for number in setting.connections(setting.warm):
        found[f"replay {number}"] = functools.partial(
            contenders.replay, setting.host, setting.folder / "warm.json", number
        )
    number = setting.warm.in_flight
    as_gets = replace(setting.warm, sent=tuple(replace(one, method="GET") for one in setting.warm.sent))
    found["GETs by wrk"] = functools.partial(_by_wrk, setting, as_gets, number)
    found["GETs by replay"] = functools.partial(
        contenders.replay, setting.host, setting.folder / "warm.json", number, "--as-get"
    )
    for number in setting.tried["skopeo"]:
        some = setting.images[: number * _IMAGES_PER_PROCESS]
        found[f"skopeo {number}"] = functools.partial(contenders.skopeo, setting.host, some, number)
    for number in setting.tried["node"] if setting.node else ():
        found[f"node {number}"] = functools.partial(
            contenders.node_client, setting.node, setting.host, setting.names, number
        )
    return found


def _cold_and_warm(host: str, caches: Caches) -> Sample:
    """Audit twice, always in this order, and give one sample of both."""
    cold = contenders.regaudit(host, "--cache", caches.fresh())
    warm = contenders.regaudit(host, "--cache", caches.newest)
    return {**cold, **{f"warm {key}": value for key, value in warm.items()}, **_rates(cold)}


def _rates(cold: Sample) -> dict[str, float]:
    return {"per_second": cold["requests"] / cold["seconds"], "per_tag": cold["whole"] / cold["tags"] * 1000}


def _by_wrk(setting: Setting, recording: Recording, connections: int) -> Sample:
    done = wrk.run(setting.host, recording.sent, connections=connections, seconds=setting.seconds)
    return {"per_second": done.per_second, "seconds": len(recording.sent) / done.per_second}


# -- the report ------------------------------------------------------------------------------


Samples = dict[str, list[Sample]]


def told(setting: Setting, samples: Samples, place: str) -> Report:
    report = Report(f"Audit {place}")
    report.tables = [
        _against_wrk(setting, samples),
        _against_replay(setting, samples),
        _replay_by_wrk(setting, samples),
        _per_tag(samples),
    ]
    ours, same, heads = samples["regaudit"], setting.cold.in_flight, setting.warm.in_flight
    cold, warm, skopeo = expected(place, far=setting.far)
    warm_times = [
        one["warm seconds"] / other["seconds"] for one, other in zip(ours, samples[f"replay {heads}"], strict=True)
    ]
    report.figures = [
        Figure.at_least(*cold, ratios(samples, "regaudit", f"wrk {same}", "per_second")),
        Figure.at_most(*warm, warm_times),
        Figure.at_least(*skopeo, _best_by_ours(samples, "skopeo", _JUDGED)),
    ]
    return report


def expected(place: str, *, far: bool) -> list[tuple[str, float]]:
    """Return what is to be reached, and how much."""
    return [
        (f"cold audit {place}: requests per second, by wrk's with the same requests and connections", 0.9),
        (f"warm audit {place}: time, by that of the same requests alone", 1.1),
        (
            f"cold audit {place}: times faster per tag than the best loop over skopeo of {_listed(_JUDGED)} processes",
            10 if far else 5,
        ),
    ]


def _best_by_ours(samples: Samples, name: str, numbers: Sequence[int]) -> list[float]:
    """Return, for each round, the milliseconds per tag of the best of them by ours."""
    best = [min(_milliseconds(samples[f"{name} {n}"][at]) for n in numbers) for at in range(len(samples["regaudit"]))]
    return [other / one["per_tag"] for one, other in zip(samples["regaudit"], best, strict=True)]


def _milliseconds(sample: Sample) -> float:
    return float(sample["whole"] / sample["tags"] * 1000)


def _listed(numbers: Sequence[int]) -> str:
    return f"{', '.join(str(number) for number in numbers[:-1])} and {numbers[-1]}"


def _against_wrk(setting: Setting, samples: Samples) -> Table:
    ours = samples["regaudit"]
    rows = [
        [
            "regaudit `collect`, cold",
            str(Spread.of(one["per_second"] for one in ours)),
            "",
            _cpu(ours, "cpu", "requests"),
        ]
    ]
    for number in setting.connections(setting.cold):
        name = f"wrk {number}"
        speed = str(Spread.of(one["per_second"] for one in samples[name]))
        rows.append(
            [f"wrk, {number} connections", speed, str(Spread.of(ratios(samples, "regaudit", name, "per_second"))), ""]
        )
    note = (
        f"{len(setting.cold.sent):,} requests: {_kinds(ours[-1]['kinds'])}. The audit had {setting.cold.in_flight} in flight for most of"
        f" the time, and at most {setting.cold.in_flight_most}."
    )
    return Table(
        "Cold, beside wrk", ["contender", "requests a second", "regaudit by it", "ms of CPU per request"], rows, note
    )


def _against_replay(setting: Setting, samples: Samples) -> Table:
    ours = samples["regaudit"]
    cpu = _cpu(ours, "warm cpu", "warm requests")
    rows = [["regaudit `collect`, warm", str(Spread.of(one["warm seconds"] for one in ours)), "", cpu]]
    for number in setting.connections(setting.warm):
        theirs = samples[f"replay {number}"]
        times = [one["warm seconds"] / other["seconds"] for one, other in zip(ours, theirs, strict=True)]
        name = f"the requests alone, {number} connections"
        rows.append(
            [
                name,
                str(Spread.of(one["seconds"] for one in theirs)),
                str(Spread.of(times)),
                _cpu(theirs, "cpu", "requests"),
            ]
        )
    note = f"{len(setting.warm.sent):,} requests: {_kinds(ours[-1]['warm kinds'])}; {setting.warm.in_flight} in flight for most of the time."
    return Table(
        "Warm, beside the same requests",
        ["contender", "seconds", "regaudit by it", "ms of CPU per request"],
        rows,
        note,
    )


def _replay_by_wrk(setting: Setting, samples: Samples) -> Table:
    rows = [
        ["wrk", str(Spread.of(one["seconds"] for one in samples["GETs by wrk"])), ""],
        [
            "replay.py",
            str(Spread.of(one["seconds"] for one in samples["GETs by replay"])),
            str(Spread.of(ratios(samples, "GETs by replay", "GETs by wrk", "seconds"))),
        ],
    ]
    note = f"The requests of the warm audit, all of them as GETs, over {setting.warm.in_flight} connections."
    return Table("How near replay.py comes to wrk", ["contender", "seconds", "by wrk's"], rows, note)


def _per_tag(samples: Samples) -> Table:
    ours = samples["regaudit"]
    rows = [["regaudit, cold", str(Spread.of(one["per_tag"] for one in ours)), ""]]
    rows.append(["regaudit, warm", str(Spread.of(one["warm whole"] / one["warm tags"] * 1000 for one in ours)), ""])
    for name, found in samples.items():
        if name.startswith(("skopeo", "node")):
            kind, _, number = name.partition(" ")
            who = {"skopeo": f"skopeo, {number} processes", "node": f"docker-registry-client (npm), {number} at once"}[
                kind
            ]
            times = [_milliseconds(other) / one["per_tag"] for one, other in zip(ours, found, strict=True)]
            rows.append([who, str(Spread.of(_milliseconds(one) for one in found)), str(Spread.of(times))])
    return Table(
        "Per tag, beside other programs, each from the start of its process to its end",
        ["contender", "ms per tag", "by regaudit's, cold"],
        rows,
    )


def _cpu(samples: Sequence[Sample], cpu: str, requests: str) -> str:
    return short(Spread.of(one[cpu] / one[requests] * 1000 for one in samples).median)


def _kinds(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())


def forwarder(direct: str, setting: Setting, milliseconds: float) -> Table:
    """Show that the forwarder is not what holds everybody up: wrk over 100 connections, with and without it."""
    rows = []
    with Delay(direct, 0) as none:
        for name, host in (("none", direct), ("of 0 ms", none.host), (f"of {milliseconds:g} ms", setting.host)):
            done = wrk.run(host, setting.cold.sent, connections=100, seconds=setting.seconds)
            rows.append([name, short(done.per_second)])
    note = f"Over 100 connections, one at {milliseconds:g} ms each way can answer no more than {50_000 / milliseconds:,.0f} requests a second."
    return Table("What the forwarder costs, by wrk", ["forwarder", "requests a second"], rows, note)


# -- running it ------------------------------------------------------------------------------


@contextlib.contextmanager
def distant(host: str, milliseconds: float) -> Iterator[str]:
    if not milliseconds:
        yield host
        return
    with Delay(host, milliseconds) as line:
        yield line.host


def measure(given: Any, folder: Path, place: str) -> Report:
    server = DockerRegistry(folder / "registry")
    names = stored_images.store(server.storage, given.repositories, given.tags)
    node = folder / "node"
    node.mkdir()
    absent = contenders.install_node_client(node)
    far = bool(given.milliseconds)
    with server, distant(server.host, given.milliseconds) as host:
        cold, warm = record(host, folder)
        ready = None if absent else node
        setting = Setting(host, folder, names, given.tags, given.seconds, cold, warm, ready, far)
        samples = turns(taking_part(setting), given.rounds)
        report = told(setting, samples, place)
        if far:
            report.tables.append(forwarder(server.host, setting, given.milliseconds))
    if absent:
        report.tables.append(Table("docker-registry-client (npm)", [], [], f"Not measured: {absent}."))
    return report


def main() -> None:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--milliseconds", type=float, default=0, help="delay each direction by so much (0)")
    parser.add_argument("--repositories", type=int, default=10)
    parser.add_argument("--tags", type=int, default=250, help="in each repository (250)")
    parser.add_argument("--seconds", type=float, default=4, help="for each run of wrk (4)")
    given = parser.parse_args()
    before, place = machine.load(), f"at {given.milliseconds:g} ms each way" if given.milliseconds else "on loopback"
    lacking = machine.missing("docker-registry", "wrk", "skopeo")
    if lacking:
        report = Report(f"Audit {place}")
        for name, bound in expected(place, far=bool(given.milliseconds)):
            report.not_measured(name, bound, lacking)
    else:
        with tempfile.TemporaryDirectory() as folder:
            report = measure(given, Path(folder), place)
    report.machine = machine.described(before)
    hand_over(report, given.json)


if __name__ == "__main__":
    main()
