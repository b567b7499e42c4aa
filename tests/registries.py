"""Registries made up at random for the proofs: everything that ties manifests and blobs together, from a seed.

`made_up` returns what a registry holds. `Made.push` stores it through the interface of a registry, blobs mounted
across repositories where another has them; `Made.store` puts it into a sandbox. `Made.held_bytes` says, by a rule of
its own and in the plainest way, which bytes a garbage collector must keep: the proofs compare with that and with the disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from regaudit.client import write
from regaudit.client.registry import Registry
from regaudit.manifest import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
)
from regaudit.reference import Digest, attached_tag

Json = dict[str, Any]
Manifests = Iterable[tuple[str, str]]

_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_COSIGN_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
# What build tools write for a step without files (docker's is 32 bytes), and what is of no length at all.
_EMPTY_LAYERS = (bytes.fromhex("1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000"), b"")
_TYPES = {
    "oci": (OCI_MANIFEST, OCI_INDEX, OCI_CONFIG, _OCI_LAYER),
    "docker": (DOCKER_MANIFEST, DOCKER_LIST, DOCKER_CONFIG, _DOCKER_LAYER),
}
_SUFFIXES = ("sig", "att", "sbom")


@dataclass(slots=True)
class Shelf:
    """What one repository holds, in the order in which it can be pushed."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)

    def needs(self, digest: str) -> Iterator[str]:
        """Yield what a manifest lists: config and layers, or the children of an index."""
        fields = json.loads(self.manifests[digest][1])
        for entry in (fields.get("config"), *fields.get("layers", ()), *fields.get("manifests", ())):
            if entry is not None:
                yield entry["digest"]


@dataclass(slots=True)
class Made:
    """A registry made up at random.

    Attributes
    ----------
    shelves : dict
        What each repository holds.
    seed : int
        What it was made from; in the message of a failure.
    """

    seed: int
    shelves: dict[str, Shelf] = field(default_factory=dict)

    def manifests(self) -> set[tuple[str, str]]:
        """Return every manifest as ``(repository, digest)``."""
        return {(name, digest) for name, shelf in self.shelves.items() for digest in shelf.manifests}

    def unseen(self) -> set[tuple[str, str]]:
        """Return the manifests that no tag, index or list of referrers leads to: no client can know of them."""
        return {(name, digest) for name, shelf in self.shelves.items() for digest in shelf.unseen}

    def held_bytes(self, manifests: Manifests) -> int:
        """Return the bytes of these manifests and of all that they list, each digest once in the whole registry."""
        sizes = {d: len(data) for shelf in self.shelves.values() for d, data in shelf.blobs.items()}
        sizes |= {d: len(raw) for shelf in self.shelves.values() for d, (_, raw) in shelf.manifests.items()}
        held = set()
        for name, digest in manifests:
            held |= {digest, *self.shelves[name].needs(digest)}
        return sum(sizes[digest] for digest in held)

    def freed_bytes(self, gone: Manifests, *, known: Manifests | None = None) -> int:
        """Return what comes back once some manifests are gone, of all in the registry or of those that are known."""
        before = self.manifests() if known is None else set(known)
        return self.held_bytes(before) - self.held_bytes(before - set(gone))

    def push(self, registry: Registry) -> None:
        """Store all of it in a registry, mounting what another repository has already."""
        where: dict[str, str] = {}
        for name, shelf in self.shelves.items():
            repository = registry.repository(name)
            for digest, data in shelf.blobs.items():
                repository.upload_blob(data, mount_from=where.get(digest))
                where[digest] = name
            for digest, (media_type, raw) in shelf.manifests.items():
                tags = [tag for tag, target in shelf.tags.items() if target == digest]
                for reference in (digest, *tags):
                    # as it is, without the client's own care for lists of referrers
                    registry.run(write.restore_manifest(registry.session, name, reference, raw, media_type))

    def store(self, store: Any) -> None:
        """Put all of it into a sandbox."""
        for name, shelf in self.shelves.items():
            for data in shelf.blobs.values():
                store.put_blob(name, data)
            for digest, (media_type, raw) in shelf.manifests.items():
                store.put_manifest(name, digest, media_type, raw)
            for tag, digest in shelf.tags.items():
                store.set_tag(name, tag, digest)


def made_up(seed: int, *, repositories: int = 3, images: int = 5, unseen: bool = False) -> Made:
    """Return a registry made up from a seed.

    Parameters
    ----------
    repositories, images : int
        How many, and how many images in each at most.
    unseen : bool
        Also manifests that nothing leads to, and blobs that no manifest lists.
    """
    random = Random(seed)
    made = Made(seed)
    pool = [random.randbytes(random.choice((1, 100, 1000, random.randrange(5000)))) for _ in range(6)]
    pool += _EMPTY_LAYERS
    for number in range(repositories):
        _Maker(made, f"team{number % 2}/app{number}", random, pool, unseen=unseen).fill(random.randint(2, images))
    return made


class _Maker:
    """Fills one repository."""

    def __init__(self, made: Made, name: str, random: Random, pool: list[bytes], *, unseen: bool) -> None:
        self._made, self._name, self._random, self._pool = made, name, random, pool
        self._others = list(made.shelves)
        self._shelf = made.shelves.setdefault(name, Shelf())
        self._unseen = unseen
        self._count = 0

    def fill(self, images: int) -> None:
        random = self._random
        singles = [self._image() for _ in range(images)]
        if self._others and random.random() < 0.8:
            singles.append(self._copy(random.choice(self._others)))
        indexes = [self._index(singles) for _ in range(random.randint(0, 2))]
        if indexes and random.random() < 0.5:
            indexes.append(self._index([*indexes, *singles[:1]]))
        for digest in [d for d in (*singles, *indexes) if random.random() < 0.4]:
            self._attach(digest)
        for digest in (*indexes, *singles):
            if self._is_loose(digest) or random.random() < 0.5:
                self._tag(digest, random.randint(1, 3))
        if self._unseen:
            self._hide()

    def _image(self, *, subject: str | None = None, kind: str | None = None, layer_type: str | None = None) -> str:
        random = self._random
        manifest_type, _, config_type, usual_layer = _TYPES[kind or random.choice(("oci", "oci", "docker"))]
        layers = random.choices(self._pool, k=random.randint(0, 3))  # the same one twice, now and then
        layers += [random.randbytes(random.randrange(1, 3000)) for _ in range(random.randint(0, 2))]
        if random.random() < 0.3:
            self._pool.append(random.choice(layers or [b"x"]))
        config = b"{}" if subject else self._config()
        fields: Json = {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": self._blob(config, OCI_EMPTY if subject else config_type),
            "layers": [self._blob(layer, layer_type or usual_layer) for layer in layers or [b"a layer"]],
        }
        if subject:
            fields |= {"artifactType": "application/spdx+json", "subject": self._entry(subject)}
        if manifest_type == OCI_MANIFEST:
            fields["annotations"] = {"number": self._number()}
        return self._document(fields, manifest_type)

    def _config(self) -> bytes:
        """Return a config of its own, or one that other images share."""
        who = "shared" if self._random.random() < 0.2 else self._number()
        return json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers"}, "who": who}).encode()

    def _copy(self, source: str) -> str:
        """Put an image of another repository in here, byte for byte."""
        shelf = self._made.shelves[source]
        plain = [d for d, (media_type, _) in shelf.manifests.items() if media_type in {OCI_MANIFEST, DOCKER_MANIFEST}]
        digest = self._random.choice([d for d in plain if "subject" not in json.loads(shelf.manifests[d][1])])
        self._shelf.blobs |= {blob: shelf.blobs[blob] for blob in shelf.needs(digest)}
        self._shelf.manifests[digest] = shelf.manifests[digest]
        return digest

    def _index(self, of: list[str]) -> str:
        random = self._random
        kind = random.choice(("oci", "docker"))
        index_type = _TYPES[kind][1]
        children = random.sample(of, random.randint(1, min(3, len(of))))
        if kind == "docker":  # which knows no annotations: two of the same children are the same list
            children = [d for d in children if self._shelf.manifests[d][0] == DOCKER_MANIFEST] or [
                self._image(kind="docker")
            ]
        entries = [self._entry(child) | {"platform": {"os": "linux", "architecture": "amd64"}} for child in children]
        fields: Json = {"schemaVersion": 2, "mediaType": index_type, "manifests": entries}
        if kind == "oci":
            fields["annotations"] = {"number": self._number()}
            entries += [self._attestation(child) for child in children if random.random() < 0.4]
        return self._document(fields, index_type)

    def _attestation(self, image: str) -> Json:
        about = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image}
        entry = self._entry(self._image(kind="oci"))
        return entry | {"annotations": about, "platform": {"os": "unknown", "architecture": "unknown"}}

    def _attach(self, subject: str, depth: int = 0) -> None:
        """Sign it: as cosign does, or by a subject that its fallback tag lists; now and then sign that too."""
        random = self._random
        tag = attached_tag(Digest(subject))
        if random.random() < 0.5:
            signature = self._image(kind="oci", layer_type=_COSIGN_LAYER)
            self._shelf.tags[f"{tag}.{random.choice(_SUFFIXES)}"] = signature
        else:
            referrers = [self._image(kind="oci", subject=subject) for _ in range(random.randint(1, 2))]
            fields = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [self._entry(r) for r in referrers]}
            self._shelf.tags[tag] = self._document(fields, OCI_INDEX)
            signature = referrers[0]
        if depth < 1 and random.random() < 0.3:
            self._attach(signature, depth + 1)

    def _hide(self) -> None:
        """Leave things behind that nothing leads to: an image that lost its tag, an upload without a manifest."""
        for _ in range(self._random.randint(1, 2)):
            self._shelf.unseen.add(self._image(kind="oci"))
        self._blob(self._random.randbytes(500), "")

    def _is_loose(self, digest: str) -> bool:
        held = {d for index in self._shelf.manifests for d in self._shelf.needs(index)}
        return digest not in held

    def _tag(self, digest: str, count: int) -> None:
        for _ in range(count):
            self._shelf.tags[f"v{self._number()}"] = digest

    def _number(self) -> str:
        self._count += 1
        return f"{self._count}-{self._random.randrange(10**6)}"

    def _blob(self, data: bytes, media_type: str) -> Json:
        digest = str(Digest.of(data))
        self._shelf.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def _entry(self, digest: str) -> Json:
        media_type, raw = self._shelf.manifests[digest]
        return {"mediaType": media_type, "digest": digest, "size": len(raw)}

    def _document(self, fields: Json, media_type: str) -> str:
        raw = json.dumps(fields).encode()
        digest = str(Digest.of(raw))
        self._shelf.manifests.setdefault(digest, (media_type, raw))
        return digest
