"""A large blob up and down by regaudit beside what people use instead, on one docker-registry, in one run.

    python benchmarks/stream.py [--mib 1024] [--rounds 3]

Each contender runs in a process of its own, in turns. All of them hash what they move: regaudit because it
believes nothing else, the others with sha256sum or hashlib, as a careful script would. Printed are seconds
(median, smallest, largest) and the most memory that the process took. Needs docker-registry and curl.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import machine
from docker_registry import DockerRegistry
from figures import Report, Spread, Table, hand_over, options, short

UP_REGAUDIT = """
import sys, pathlib, regaudit as ra
with ra.Registry(sys.argv[1]) as registry:
    assert registry.repository(sys.argv[2]).upload_blob(pathlib.Path(sys.argv[3])) == sys.argv[4]
"""
DOWN_REGAUDIT = """
import sys, regaudit as ra
with ra.Registry(sys.argv[1]) as registry:
    registry.repository(sys.argv[2]).download_blob(sys.argv[4], sys.argv[3])
"""
UP_REQUESTS = """
import sys, hashlib, requests
host, name, path, _ = sys.argv[1:]
with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
session = requests.Session()
where = session.post(f"http://{host}/v2/{name}/blobs/uploads/").headers["Location"]
with open(path, "rb") as file:
    session.put(f"{where}&digest=sha256:{digest}", data=file).raise_for_status()
"""
DOWN_REQUESTS = """
import sys, hashlib, requests
host, name, path, digest = sys.argv[1:]
hasher = hashlib.sha256()
with requests.get(f"http://{host}/v2/{name}/blobs/{digest}", stream=True) as reply, open(path, "wb") as file:
    for piece in reply.iter_content(1 << 20):
        hasher.update(piece)
        file.write(piece)
assert f"sha256:{hasher.hexdigest()}" == digest
"""
UP_CURL = (
    'd=$(sha256sum "$3" | cut -d" " -f1); '
    'l=$(curl -s -X POST -D - -o /dev/null "http://$1/v2/$2/blobs/uploads/" | tr -d "\\r" | sed -n "s/^[Ll]ocation: //p"); '
    'curl -s --fail -T "$3" -H "Content-Type: application/octet-stream" "$l&digest=sha256:$d"'
)
DOWN_CURL = 'curl -s --fail -o "$3" "http://$1/v2/$2/blobs/$4" && echo "${4#sha256:}  $3" | sha256sum -c --quiet'


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def shell(script: str) -> list[str]:
    return ["sh", "-c", script, "sh"]


CONTENDERS = {
    "regaudit": (python(UP_REGAUDIT), python(DOWN_REGAUDIT)),
    "requests": (python(UP_REQUESTS), python(DOWN_REQUESTS)),
    "curl": (shell(UP_CURL), shell(DOWN_CURL)),
}


def measured(command: list[str]) -> tuple[float, float]:
    """Return the seconds that a command took, and the MiB of its largest process, looked at 50 times a second."""
    started, most = time.perf_counter(), 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            most = max([most, *(high_water(pid) for pid in family(process.pid))])
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{command[:3]} failed")
    return time.perf_counter() - started, most / 1024


def family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(int(child) for child in children)]


def high_water(pid: int) -> int:
    """Return the most KiB that a process has held since it began; getrusage would count what its parent had."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def make(path: Path, mib: int) -> str:
    hasher, seed = hashlib.sha256(), os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(mib):
            piece = number.to_bytes(8, "big") + seed[8:]
            hasher.update(piece)
            file.write(piece)
    return f"sha256:{hasher.hexdigest()}"


def run(mib: int, rounds: int, folder: Path) -> dict[tuple[str, str], list[tuple[float, float]]]:
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    source, target = folder / "source", folder / "target"
    digest = make(source, mib)
    for round_ in range(rounds):
        for name, (up, down) in CONTENDERS.items():
            # a fresh registry for each: a blob that is there is not sent again
            with DockerRegistry(folder / f"{name}-{round_}") as server:
                arguments = [server.host, "bench/blob"]
                for way, command, path in (("up", up, source), ("down", down, target)):
                    figures.setdefault((way, name), []).append(measured([*command, *arguments, str(path), digest]))
                target.unlink()
            shutil.rmtree(folder / f"{name}-{round_}")
    return figures


_WHO = {"regaudit": "regaudit", "requests": "requests, streamed", "curl": "curl and sha256sum"}


def main() -> None:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--mib", type=int, default=1024)
    given = parser.parse_args()
    before, report = machine.load(), Report("A large blob")
    lacking = machine.missing("docker-registry", "curl")
    if lacking:
        report.tables.append(Table("Up and down", [], [], f"Not measured: {lacking}."))
    else:
        with tempfile.TemporaryDirectory() as folder:
            figures = run(given.mib, given.rounds, Path(folder))
        rows = [
            [_WHO[name], way, str(Spread.of(seconds for seconds, _ in found)), short(max(most for _, most in found))]
            for (way, name), found in sorted(figures.items(), reverse=True)
        ]
        head = ["contender", "way", "seconds", "most memory, MiB"]
        report.tables.append(Table(f"{given.mib} MiB up and down, hashed by everybody", head, rows))
    report.machine = machine.described(before)
    hand_over(report, given.json)


if __name__ == "__main__":
    main()
