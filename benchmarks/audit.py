"""An audit by regaudit beside what people use instead, on one docker-registry, in one run.

    python benchmarks/audit.py [--tags 200] [--rounds 3]

The contenders take turns, so that a machine whose speed drifts is fair to all:

- regaudit: `collect`, tables and all, in a new process;
- skopeo: a shell loop over ``skopeo inspect --raw`` and ``--config``, four processes side by side;
- requests: a script of a few lines, 8 threads, manifest and config of each tag, nothing verified.

Each figure is milliseconds per tag: median, and the smallest and largest of the rounds, which say how
noisy the machine was. Needs docker-registry and skopeo.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from docker_registry import DockerRegistry

from regaudit.client.registry import Registry
from regaudit.manifest import OCI_CONFIG, OCI_MANIFEST
from regaudit.reference import Digest

REPOSITORY = "bench/app"

REGAUDIT = """
import sys, regaudit as ra
with ra.Registry(sys.argv[1]) as registry:
    snapshot = ra.collect(registry, progress=False)
assert len(snapshot.tags) == int(sys.argv[2]) and snapshot.complete
"""

REQUESTS = """
import sys, requests
from concurrent.futures import ThreadPoolExecutor
base, count = f"http://{sys.argv[1]}/v2/bench/app", int(sys.argv[2])
session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=8))
accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
def read(tag):
    manifest = session.get(f"{base}/manifests/{tag}", headers=accept).json()
    return session.get(f"{base}/blobs/{manifest['config']['digest']}").json()
tags = session.get(f"{base}/tags/list").json()["tags"]
with ThreadPoolExecutor(8) as pool:
    assert len(list(pool.map(read, tags))) == count
"""

SKOPEO = (
    "seq 0 {last} | xargs -P 4 -I N sh -c 'skopeo inspect --tls-verify=false --raw docker://{host}/bench/app:tN >/dev/null"
    " && skopeo inspect --tls-verify=false --config docker://{host}/bench/app:tN >/dev/null'"
)


def descriptor(data: bytes, media_type: str) -> dict:
    return {"mediaType": media_type, "digest": Digest.of(data), "size": len(data)}


def fill(host: str, tags: int) -> None:
    with Registry(host) as registry:
        repository = registry.repository(REPOSITORY)
        base = b"base layer" * 1000
        repository.upload_blob(base)
        for number in range(tags):
            created = f"2026-{number % 12 + 1:02}-01T00:00:00Z"
            config = json.dumps({"os": "linux", "architecture": "amd64", "created": created, "n": number}).encode()
            layer = f"layer {number}".encode() * 100
            repository.upload_blob(config)
            repository.upload_blob(layer)
            manifest = {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": descriptor(config, OCI_CONFIG),
                "layers": [descriptor(data, "application/vnd.oci.image.layer.v1.tar") for data in (base, layer)],
            }
            repository.put_manifest(f"t{number}", json.dumps(manifest).encode(), OCI_MANIFEST)


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tags", type=int, default=200)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, DockerRegistry(Path(folder)) as server:
        fill(server.host, given.tags)
        arguments = [server.host, str(given.tags)]
        contenders = {
            "regaudit": [sys.executable, "-c", REGAUDIT, *arguments],
            "requests": [sys.executable, "-c", REQUESTS, *arguments],
            "skopeo": ["sh", "-c", SKOPEO.format(last=given.tags - 1, host=server.host)],
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(given.rounds):
            for name, command in contenders.items():
                times[name].append(timed(command) / given.tags * 1000)
    print(
        f"{given.tags} tags, {given.rounds} rounds, {os.cpu_count()} processors; milliseconds per tag, start-up included"
    )
    for name, spent in times.items():
        print(f"{name:<10} median {statistics.median(spent):6.2f}   {min(spent):6.2f} … {max(spent):6.2f}")


if __name__ == "__main__":
    main()
