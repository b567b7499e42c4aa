"""Somebody pushes while the cleaner deletes: what is lost is counted, reported and put back, on a real docker-registry.

One push for each deletion, at a random moment around it, of the same digest and a tag on it. No registry offers "delete if
unchanged", so that some go down; the claim is that the run says so, of each that leaves a trace.
"""

import json
import queue
import threading
from random import Random

import pytest
from conftest import cases
from registries import Made, Shelf

from regaudit.cleaner import execution
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.cleaner.surroundings import tag_digest
from regaudit.client.registry import Registry
from regaudit.inventory.collect import collect
from regaudit.manifest import OCI_CONFIG, OCI_MANIFEST
from regaudit.reference import Digest

pytestmark = [pytest.mark.real, pytest.mark.timeout(3600)]

# Deleting takes docker-registry a time that grows with the tags of the repository: many small ones.
REPOSITORIES = cases(3, 40)
RACES = 10
# From one outcome to the next deletion it takes some 15 ms: pushes shall fall before, into and after it (seconds).
LATEST = 0.03


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Do not wait half a minute for a digest to go that a push has brought back."""
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)


def image(shelf, number, *tags):
    config = json.dumps({"os": "linux", "architecture": "amd64", "number": number}).encode()
    digest = str(Digest.of(config))
    fields = {"mediaType": OCI_CONFIG, "digest": digest, "size": len(config)}
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": fields, "layers": []}).encode()
    shelf.blobs[digest] = config
    shelf.manifests[str(Digest.of(raw))] = (OCI_MANIFEST, raw)
    shelf.tags |= dict.fromkeys(tags, str(Digest.of(raw)))


class Pusher(threading.Thread):
    """Pushes a tag onto a digest that is about to be deleted, at a random moment, and notes what was acknowledged."""

    def __init__(self, host, made, known):
        super().__init__(daemon=True)
        self._host, self._made, self._random, self._known = host, made, Random(0), known
        self._next, self._pause = queue.SimpleQueue(), threading.Event()
        self.acknowledged = {}

    def aim(self, row):
        self._next.put(row)

    def run(self):
        with Registry(self._host) as door:
            while (row := self._next.get()) is not None:
                self._pause.wait(self._random.uniform(0, LATEST))
                name = f"moving-{row.tags[0]}" if self._known else f"new-{row.tags[0]}"
                raw = self._made.shelves[row.repository].manifests[row.digest][1]
                door.repository(row.repository).put_manifest(name, raw, OCI_MANIFEST)
                self.acknowledged[row.repository, name] = row.digest


def now(door, tags):
    """Return where each of these tags leads now, None where it leads nowhere."""
    return {(name, tag): door.run(tag_digest(door.session, name, tag)) for name, tag in tags}


@pytest.mark.parametrize("known", [True, False], ids=["a tag that was there", "a new tag"])
def test_every_acknowledged_push_that_a_deletion_took_is_reported_and_put_back(docker_registry, tmp_path, known):
    made = Made(0)
    for number in range(REPOSITORIES):
        shelf = made.shelves[f"team/app{number}"] = Shelf()
        image(shelf, -1, "keep", *(f"moving-old-{race}" for race in range(RACES if known else 0)))
        for race in range(RACES):
            image(shelf, race, f"old-{race}")
    with Registry(docker_registry.host) as door, Cleaner(door, journal=tmp_path / "journal.sqlite") as cleaner:
        made.push(door)
        tags = [f"{name}:{tag}" for name, shelf in made.shelves.items() for tag in shelf.tags if tag.startswith("old")]
        made_plan = plan(collect(door, progress=False), tags).approve("Ada")
        run, acknowledged = raced(docker_registry.host, made, made_plan, cleaner, known=known)
        after = now(door, acknowledged)
        listed = {(name, tag) for name in made.shelves for tag in door.repository(name).tags()}
        lost = {pair for pair, digest in acknowledged.items() if after[pair] != digest}
        # A new tag that came and went between two looks leaves no trace anywhere: nobody can report it.
        traceless = set() if known else lost - listed
        reported = {(o.repository, tag) for o in run.outcomes if o.outcome == "lost" for tag in o.tags}
        assert reported == lost - traceless
        cleaner.undo(run)
        repaired = {pair for pair, digest in now(door, lost).items() if digest == acknowledged[pair]}
        assert repaired >= lost & listed
        for name, tag in lost - repaired:  # the digest is back: setting the tag again needs no layer
            raw = made.shelves[name].manifests[acknowledged[name, tag]][1]
            door.repository(name).put_manifest(tag, raw, OCI_MANIFEST)
        assert now(door, acknowledged) == acknowledged
    print(  # noqa: T201 -- for who asks with -s
        f"{len(acknowledged)} pushes raced, {len(lost)} lost, {len(reported)} reported, {len(traceless)} without a trace,"
        f" {len(repaired)} put back by undo; {run.counts()}"
    )


def raced(host, made, made_plan, cleaner, *, known):
    """Execute a plan with a push for each row, and return the run and what was acknowledged."""
    pusher = Pusher(host, made, known)
    following = dict(zip([row.key for row in made_plan.rows], made_plan.rows[1:], strict=False))

    def aim(outcome):
        if outcome.key in following:
            pusher.aim(following[outcome.key])

    pusher.start()
    pusher.aim(made_plan.rows[0])
    run = cleaner.execute(made_plan, progress=aim)
    pusher.aim(None)
    pusher.join()
    return run, pusher.acknowledged
