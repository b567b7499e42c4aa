"""10,000 tags in bad weather: the same tables as on a fair day, and how much longer it takes.

A hundred repositories of a hundred tags each, in the embedded registry behind a proxy that answers a tenth of all requests by 429 or 503,
and resets a fiftieth or breaks it off::

    python benchmarks/resilience.py [--repositories 100] [--tags 100]

The proxy passes on in both runs: only the weather differs. It is written in Python, and the figure is of the proxy as much as of the client.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from proxy import FaultProxy, storm

from regaudit.client.registry import Registry
from regaudit.inventory.collect import collect
from regaudit.inventory.tables import TABLES
from regaudit.manifest import OCI_CONFIG, OCI_MANIFEST
from regaudit.reference import Digest
from regaudit.sandbox.server import Sandbox


def fill(sandbox, repositories, tags):
    """Store so many tags, each on an image of its own; configs are shared within a repository."""
    for number in range(repositories):
        name = f"team/app{number:03}"
        config = (
            b'{"os":"linux","architecture":"amd64","created":"2026-01-01T00:00:00Z","config":{"Labels":{"n":"%d"}}}'
            % number
        )
        digest = sandbox.store.put_blob(name, config)
        for tag in range(tags):
            raw = (
                b'{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":%d},"layers":[],'
                b'"annotations":{"tag":"%d"}}'
            ) % (OCI_MANIFEST.encode(), OCI_CONFIG.encode(), str(digest).encode(), len(config), tag)
            made = sandbox.store.put_manifest(name, str(Digest.of(raw)), OCI_MANIFEST, raw)
            sandbox.store.set_tag(name, f"v{tag}", made)


def read(host, driver):
    with Registry(host, driver=driver, busy_tries=20, tries=8) as registry:
        started = time.perf_counter()
        snapshot = collect(registry, progress=False, cache=None)
        return snapshot, time.perf_counter() - started


def rows(snapshot):
    return {
        name: sorted(
            map(
                str, snapshot.tables[name].drop(columns=["seen_at"], errors="ignore").itertuples(index=False, name=None)
            )
        )
        for name in TABLES
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repositories", type=int, default=100)
    parser.add_argument("--tags", type=int, default=100)
    given = parser.parse_args()
    with Sandbox() as sandbox, FaultProxy(sandbox.host) as front:
        fill(sandbox, given.repositories, given.tags)
        for driver in ("libcurl", "threads"):
            front.rule = None
            fair, fair_seconds = read(front.host, driver)
            front.requests.clear()
            front.rule = storm(seed=1)
            foul, foul_seconds = read(front.host, driver)
            same = rows(fair) == rows(foul)
            print(
                f"{driver}: {len(fair.tags):,} tags; fair {fair_seconds:.1f} s with {sum(fair.requests.values()):,} requests, "
                f"foul {foul_seconds:.1f} s with {sum(foul.requests.values()):,}: {foul_seconds / fair_seconds:.2f} times as long, "
                f"the tables are {'the same' if same else 'DIFFERENT'}",
                flush=True,
            )
            if not same:
                sys.exit(1)


if __name__ == "__main__":
    main()
