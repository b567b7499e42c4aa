"""What a life of `test_proof_stateful` stands on: the sandbox, whose store is the truth, or docker-registry, whose disk is.

Used so::

    with on_docker_registry(tmp_path) as ground:
        ground.store.set_tag("team/app", "new", digest)
        ground.wire.before = lambda repository, reference: ...
        ground.faults.add(method="DELETE", status=500)
        Cleaner(ground.door, journal=journal).execute(approved)
        ground.wire.arrived

The sandbox's store is asked, changed and watched in memory. Before docker-registry stands a proxy that notes each deletion and
makes the faults; `RealStore` has the methods of the sandbox's store that are needed here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker_registry import DockerRegistry
from hostile import Cut, Play, Seen, error, reply
from proxy import FaultProxy

from regaudit.client import write
from regaudit.client.registry import Registry
from regaudit.errors import UnexpectedStatus
from regaudit.reference import Digest
from regaudit.sandbox.faults import Faults
from regaudit.sandbox.server import Sandbox

_MANIFEST = re.compile(r"/v2/(?P<repository>.+)/manifests/(?P<reference>[^/]+)")


@dataclass(slots=True)
class Wire:
    """What arrives at the registry: each deletion, with what it took; and what happens just then.

    Attributes
    ----------
    store : Store or RealStore
        What is there.
    remove : callable
        Carries a deletion out.
    asked, arrived : list of (str, str)
        Repository and reference of each deletion of something that was there, and of those that took it.
    before : callable or None
        Called with repository and reference just before a deletion is carried out.
    late : bool
        Deletions are accepted, and show no earlier than `settle`.
    held : list
        Repository, digest, tag, where that points, and the way: who led to a digest when that went.
    """

    store: Any
    remove: Callable[[str, str], Any]
    asked: list[tuple[str, str]] = field(default_factory=list)
    arrived: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[str, str], None] | None = None
    late: bool = False
    held: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    _waiting: list[tuple[str, str]] = field(default_factory=list)

    def delete(self, repository: str, reference: str, carry_out: Callable[[], Any], accepted: Any) -> Any:
        """Note a deletion and carry it out, or return `accepted` where that is done later."""
        if self.before is not None:
            self.before(repository, reference)
        if not self._is_there(repository, reference):
            return carry_out()  # a probe, or somebody was faster: the registry says no
        self.asked.append((repository, reference))
        self.held += [(repository, reference, *holder) for holder in self._holders(repository, reference)]
        if self.late:
            self._waiting.append((repository, reference))
            self.arrived.append((repository, reference))
            return accepted
        answer = carry_out()
        if not self._is_there(repository, reference):  # docker-registry refuses to delete a tag
            self.arrived.append((repository, reference))
        return answer

    def settle(self) -> None:
        """Carry out what was accepted and had not shown yet."""
        while self._waiting:
            self.theirs(*self._waiting.pop())

    def theirs(self, repository: str, reference: str) -> None:
        """Delete as somebody else does, if it is there."""
        with suppress(Exception):
            self.remove(repository, reference)

    def _is_there(self, repository: str, reference: str) -> bool:
        return reference in (self.store.digests if ":" in reference else self.store.tags)(repository)

    def _holders(self, repository: str, reference: str) -> list[tuple[str, str, str]]:
        """Return every tag that leads to a digest now, where it points, and the way: itself, an index, or a subject."""
        if ":" not in reference:
            return []
        tags = self.store.tags(repository)
        led = {tag: dict(self._closure(repository, digest)) for tag, digest in tags.items()}
        return [(tag, tags[tag], below[reference]) for tag, below in led.items() if reference in below]

    def _closure(self, repository: str, digest: str, way: str = "itself", depth: int = 0) -> Iterator[tuple[str, str]]:
        """Yield what a manifest needs, with the way to it; where there are several, by an index comes last."""
        held = self.store.manifest(repository, digest)
        if held is None or depth > 9:
            return
        fields = json.loads(held[1])
        if "subject" in fields:
            yield from self._closure(repository, fields["subject"]["digest"], "subject", depth + 1)
        for entry in fields.get("manifests", ()):
            yield from self._closure(repository, entry["digest"], "index", depth + 1)
        yield digest, way


@dataclass(frozen=True, slots=True)
class Ground:
    """A registry with a cleaner's door that gives up soon, what is there, what arrives, and what goes wrong.

    Attributes
    ----------
    requests : list or deque
        What arrived on the wire so far; cleared by who looks.
    """

    door: Registry
    store: Any
    wire: Wire
    faults: Faults
    requests: Any


@contextmanager
def on_sandbox() -> Iterator[Ground]:
    """Give the sandbox: a deletion arrives where its store is asked for it."""
    with Sandbox() as sandbox, Registry(sandbox.host, tries=1, busy_tries=2) as door:
        remove = sandbox.store.delete_manifest
        wire = Wire(sandbox.store, remove)

        def delete(repository: str, reference: str) -> list[str]:
            return wire.delete(repository, reference, lambda: remove(repository, reference), [reference])

        sandbox.store.delete_manifest = delete
        yield Ground(door, sandbox.store, wire, sandbox.faults, sandbox.requests)


# -- docker-registry -------------------------------------------------------------------------


@contextmanager
def on_docker_registry(folder: Path) -> Iterator[Ground]:
    """Give a docker-registry process, and the cleaner a door to the proxy before it."""
    with (
        DockerRegistry(folder) as server,
        FaultProxy(server.host) as front,
        Registry(server.host) as theirs,
        Registry(front.host, tries=1, busy_tries=2) as door,
    ):
        store = RealStore(server, theirs)
        wire, faults = Wire(store, store.delete_manifest), Faults()
        front.rule = _weather(wire, faults)
        yield Ground(door, store, wire, faults, front.requests)


def _weather(wire: Wire, faults: Faults) -> Callable[[Seen, Callable[[], bytes]], Play]:
    """Return the proxy's rule: faults as the sandbox makes them, and deletions that are noted."""

    def rule(seen: Seen, pass_on: Callable[[], bytes]) -> Play:
        fault = faults.take(seen.method, seen.path)
        if fault is not None and fault.drop == "before":
            return Cut(b"", 0)
        if fault is not None and fault.error is not None:
            return error(*fault.error, **fault.extra_headers)
        named = _MANIFEST.fullmatch(seen.path)
        if seen.method == "DELETE" and named:
            answer = wire.delete(named["repository"], named["reference"], pass_on, reply(202))
        else:
            answer = pass_on()
        return answer if fault is None else Cut(answer, 0)

    return rule


class RealStore:
    """What a docker-registry holds, read from its disk; people push manifests to it over HTTP, past the proxy."""

    def __init__(self, server: DockerRegistry, door: Registry) -> None:
        self._server, self._door = server, door
        self._root = server.storage / "docker/registry/v2"

    def tags(self, repository: str) -> dict[str, str]:
        """Return every tag with its digest."""
        links = self._manifests(repository).glob("tags/*/current/link")
        return {link.parts[-3]: link.read_text() for link in sorted(links)}

    def digests(self, repository: str) -> list[str]:
        """Return the digest of every manifest."""
        return sorted(link.read_text() for link in self._manifests(repository).glob("revisions/*/*/link"))

    def manifest(self, repository: str, digest: str) -> tuple[str, bytes] | None:
        """Return media type and bytes of a manifest, None where it is not there."""
        if not (self._manifests(repository) / "revisions" / digest.replace(":", "/") / "link").exists():
            return None
        raw = self._data(digest).read_bytes()
        return json.loads(raw)["mediaType"], raw

    def put_blob(self, repository: str, data: bytes) -> None:
        """Store a blob as an upload leaves it behind, in a tenth of the time."""
        digest = str(Digest.of(data))
        file = self._data(digest)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self.mount_blob(repository, digest)

    def mount_blob(self, repository: str, digest: str, _: str | None = None) -> None:
        """Link a blob of any repository, if it is on the disk."""
        if self._data(digest).exists():
            link = self._root / "repositories" / repository / "_layers" / digest.replace(":", "/") / "link"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.write_text(digest)

    def put_manifest(self, repository: str, reference: str, media_type: str, raw: bytes) -> str | None:
        """Push a manifest as it is, and return its digest; None where the registry wants what it lists to be there first."""
        session = self._door.session
        try:
            return str(self._door.run(write.restore_manifest(session, repository, reference, raw, media_type)))
        except UnexpectedStatus as error:
            if error.code != "MANIFEST_BLOB_UNKNOWN":
                raise
            return None

    def set_tag(self, repository: str, tag: str, digest: str) -> None:
        """Push a manifest that is there under a tag."""
        media_type, raw = self.manifest(repository, digest)
        self.put_manifest(repository, tag, media_type, raw)

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Delete a manifest with every tag on it; a tag alone goes on the disk, for docker-registry has no such request."""
        if ":" in reference:
            self._door.run(write.delete_manifest(self._door.session, repository, Digest(reference)))
        else:
            shutil.rmtree(self._manifests(repository) / "tags" / reference)

    def collect_garbage(self) -> None:
        """Free what no manifest holds, as its operator does."""
        self._server.garbage_collect()

    def drop_repository(self, repository: str) -> None:
        """Forget a repository; its blobs wait for garbage collection."""
        shutil.rmtree(self._root / "repositories" / repository)

    def _data(self, digest: str) -> Path:
        algorithm, _, number = digest.partition(":")
        return self._root / "blobs" / algorithm / number[:2] / number / "data"

    def _manifests(self, repository: str) -> Path:
        return self._root / "repositories" / repository / "_manifests"
