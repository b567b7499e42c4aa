"""Images for servers to give out: written to where a server keeps them, because pushing thousands takes minutes.

An image has a config with a history, as builders write them, and six layers, five of which are shared. The
layers are named and not there: no audit reads them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from regaudit.manifest import OCI_CONFIG, OCI_MANIFEST

_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_SHARED_LAYERS = 5


@dataclass(frozen=True, slots=True)
class Image:
    manifest: bytes
    config: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image(name: str, number: int) -> Image:
    """Return an image: the same bytes for the same name and number."""
    layers = [f"{name} shared {position}" for position in range(_SHARED_LAYERS)] + [f"{name} own {number}"]
    config = json.dumps(_config(layers, number)).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [
            {"mediaType": _LAYER, "digest": digest_of(layer.encode()), "size": (at + 1) << 20}
            for at, layer in enumerate(layers)
        ],
    }
    return Image(json.dumps(manifest).encode(), config)


def _config(layers: list[str], number: int) -> dict[str, object]:
    created = f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}T12:00:00Z"
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "Entrypoint": ["/usr/bin/app"],
            "Labels": {"org.opencontainers.image.revision": digest_of(str(number).encode())[7:47]},
        },
        "rootfs": {"type": "layers", "diff_ids": [digest_of(f"diff {layer}".encode()) for layer in layers]},
        "history": [
            {"created": created, "created_by": f"/bin/sh -c #(nop) COPY file:{layer} in /srv # buildkit"}
            for layer in layers
        ],
    }


def store(storage: Path, repositories: int, tags: int) -> list[str]:
    """Write images into the storage of a docker-registry, as its file system driver lays them out.

    Returns
    -------
    list of str
        The names of the repositories, each with `tags` tags, ``t0`` and on, every one on an image of its own.
    """
    names = [f"bench/app{number}" for number in range(repositories)]
    for name in names:
        for number in range(tags):
            _store_image(storage / "docker/registry/v2", name, f"t{number}", image(name, number))
    return names


def _store_image(root: Path, name: str, tag: str, made: Image) -> None:
    repository = root / "repositories" / name
    for data in (made.manifest, made.config):
        hexadecimal = digest_of(data).removeprefix("sha256:")
        _write(root / "blobs/sha256" / hexadecimal[:2] / hexadecimal / "data", data)
    manifest = made.digest.removeprefix("sha256:")
    config = digest_of(made.config).removeprefix("sha256:")
    for place in (
        f"_layers/sha256/{config}",
        f"_manifests/revisions/sha256/{manifest}",
        f"_manifests/tags/{tag}/index/sha256/{manifest}",
        f"_manifests/tags/{tag}/current",
    ):
        linked = config if place.startswith("_layers") else manifest
        _write(repository / place / "link", f"sha256:{linked}".encode())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
