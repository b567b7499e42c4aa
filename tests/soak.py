"""Hours of work in minutes: audits, deletions and their undoing in a loop, under faults, and nothing may grow by it.

As a program, for as long as asked::

    python tests/soak.py --seconds 600

Each round reads a registry, deletes a random part of it, and puts that back, through a proxy that answers a tenth of
all requests by 429 or 503 and breaks a fiftieth off. Afterwards the registry must hold what it held, the journal must
verify and hold what was done and no more, and no file handle, thread or connection may be left. Over the whole run it
is looked whether Python holds more and more, and the process.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from docker_registry import PROGRAM, DockerRegistry, push
from proxy import FaultProxy, storm

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.plan import plan
from regaudit.client.registry import Registry
from regaudit.errors import RegistryError
from regaudit.inventory.collect import collect
from regaudit.sandbox.sample import sample_images
from regaudit.sandbox.server import Sandbox

DRIVERS = ("libcurl", "threads")
# Of the sample, so many repositories take part in a round: many short rounds find more than a few long ones.
REPOSITORIES = 3
# What the allocator, the caches of imported libraries and Python's own may still take after the first rounds.
GROWTH_BYTES = 24 << 20
# Of some 440,000 that are in use; each repository that is met for the first time takes some. A round makes hundreds of
# requests: what keeps one object of every tenth is found in half an hour.
GROWTH_BLOCKS = 20_000
WARM_ROUNDS = 6
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Soak:
    """One soak.

    Attributes
    ----------
    rounds, deleted, requests : int
        What was done.
    resident, blocks : list of int
        After each round: bytes of memory, and how many pieces of it Python has in use. Of the bytes some are free and
        in holes, of the pieces none.
    """

    front: FaultProxy
    folder: Path
    repositories: list[str]
    records: list[Any]
    seed: int = 0
    at_once: int = REPOSITORIES
    rounds: int = 0
    deleted: int = 0
    requests: int = 0
    entries: int = 0
    resident: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.here: list[str] = []
        self.left = self._open_things()

    def round(self) -> None:
        """Read, delete, put back, and look whether anything is left over."""
        driver = DRIVERS[self.rounds % 2]
        self.here = self.random.sample(self.repositories, self.at_once)
        truth = self._read()
        self.front.rule = storm(self.random.randrange(10**6))
        with Registry(self.front.host, driver=driver, tries=8, busy_tries=20) as registry:
            snapshot = collect(registry, *self.here, progress=False, cache=None)
            assert not snapshot.unread, snapshot.problems.to_string()
            assert self._contents(snapshot) == truth
            names = (snapshot.tags["repository"].astype("string") + ":" + snapshot.tags["tag"]).tolist()
            chosen = self.random.sample(names, max(1, len(names) // 5))
            made = plan(snapshot, chosen, allow_empty=True).approve("soak")
            with Cleaner(registry, journal=self.folder / "journal.sqlite") as cleaner:
                run = cleaner.execute(made)
                self.deleted += sum(o.outcome.startswith("deleted") for o in run.outcomes)
                self._put_back(cleaner, run, truth)
                self._check_journal(cleaner.journal, len(made.rows))
            self.requests += sum(registry.session.counts.values())
        self.rounds += 1
        self._check_nothing_is_left()

    def _put_back(self, cleaner: Cleaner, run: Any, truth: Any) -> None:
        """Undo under faults; what they kept from coming back, without them."""
        with suppress(RegistryError):
            cleaner.undo(run)
        self.front.rule = None
        if self._read() != truth:
            cleaner.undo(run)
        assert self._read() == truth

    def _check_journal(self, journal: Journal, rows: int) -> None:
        """Look whether everything is recorded once: for each run a start, a probe and an end, for each row an intent and an outcome."""
        count = journal.verify()
        new = [entry for entry in journal.entries() if entry.number > self.entries]
        assert len({(entry.run, entry.event, entry.key) for entry in new}) == len(new)
        assert len(new) <= len({entry.run for entry in new}) * (3 + 2 * rows)
        self.entries = count

    def _read(self) -> Any:
        rule, self.front.rule = self.front.rule, None
        with Registry(self.front.host) as registry:
            snapshot = collect(registry, *self.here, progress=False, cache=None)
        self.front.rule = rule
        return self._contents(snapshot)

    @staticmethod
    def _contents(snapshot: Any) -> set[tuple[Any, ...]]:
        tags = snapshot.tags.dropna(subset=["digest"])
        return {tuple(row) for row in tags[["repository", "tag", "digest"]].astype("string").itertuples(index=False)}

    def _check_nothing_is_left(self) -> None:
        for record in self.records:  # what proxy and sandbox note of each request is in this process too
            record.clear()
        gc.collect()
        left = self._open_things()
        assert left == self.left, f"after round {self.rounds}: {left}, and {self.left} before the first"
        self.blocks.append(sys.getallocatedblocks())
        give_back_what_is_free()
        self.resident.append(resident_bytes())

    def _open_things(self) -> tuple[int, int, int]:
        """Return the counts of connections, file handles and threads."""
        connections = self.front.settle()
        return connections, len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    def check_memory(self) -> int:
        """Return by how many bytes memory grew after the first rounds, and raise where that is too much."""
        blocks, growth = _growth(self.blocks), _growth(self.resident)
        assert blocks < GROWTH_BLOCKS, f"grew by {blocks:,} blocks in {self.rounds} rounds: {self.blocks}"
        assert growth < GROWTH_BYTES, f"grew by {growth:,} bytes in {self.rounds} rounds: {self.resident}"
        return growth


def _growth(seen: list[int]) -> int:
    """Return by how much the least of the last quarter is above the least of the first, the first rounds apart."""
    warm = seen[WARM_ROUNDS:]
    quarter = max(1, len(warm) // 4)
    return min(warm[-quarter:]) - min(warm[:quarter]) if warm else 0


def give_back_what_is_free() -> None:
    """Let the C library return what it holds in reserve: threads that come and go leave holes that look like growth."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Return the memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


@contextmanager
def soaking(folder: Path, *, real: bool, **options: Any) -> Iterator[Soak]:
    """Open a registry with a sample, docker-registry or the sandbox, and a soak of it."""
    sample = sample_images(datetime(2026, 6, 1, tzinfo=UTC))
    with ExitStack() as opened:
        if real:
            server: Any = opened.enter_context(DockerRegistry(folder / "registry"))
            with Registry(server.host) as door:
                push(door, sample)
        else:
            server = opened.enter_context(Sandbox())
            server.store.load(sample)
        front = opened.enter_context(FaultProxy(server.host))
        execution._VISIBLE_AFTER, before = 1.0, execution._VISIBLE_AFTER
        try:
            records = [front.requests] if real else [front.requests, server.requests]
            yield Soak(front, folder, [part.name for part in sample.repositories if part.tags], records, **options)
        finally:
            execution._VISIBLE_AFTER = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--sandbox", action="store_true", help="the embedded registry in place of docker-registry")
    given = parser.parse_args()
    if not given.sandbox and shutil.which(PROGRAM) is None:
        sys.exit(f"{PROGRAM} is not installed: apt-get install {PROGRAM}, or --sandbox")
    # in a long run a seed of its own, which is said, so that a failure can be had again
    seed, ends = time.time_ns() % 10**6, time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory() as folder, soaking(Path(folder), real=not given.sandbox, seed=seed) as soak:
        while time.monotonic() < ends:
            soak.round()
            if soak.rounds % 10 == 0:
                print(
                    f"round {soak.rounds}: {soak.requests:,} requests, {soak.deleted:,} deletions put back, "
                    f"{soak.resident[-1] >> 20} MiB, {soak.blocks[-1]:,} blocks",
                    flush=True,
                )
        growth = soak.check_memory()
        journal = (Path(folder) / "journal.sqlite").stat().st_size
    connections, handles, threads = soak.left
    print(
        f"seed {seed}: {soak.rounds} rounds, {soak.requests:,} requests, {soak.deleted:,} deletions put back, "
        f"{soak.entries:,} entries in a journal of {journal:,} bytes; "
        f"open before and after: {connections} connections, {handles} file handles, {threads} threads; "
        f"memory {soak.resident[0] >> 20} MiB after the first round, {soak.resident[-1] >> 20} MiB after the last, "
        f"{growth:+,} bytes once warm; Python has {soak.blocks[-1]:,} blocks in use, {_growth(soak.blocks):+,} once warm"
    )


if __name__ == "__main__":
    main()
