"""What is to be done after a deletion: bytes come back when the registry collects its garbage. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENABLE_DELETION = (
    "the registry does not allow deletion: switch it on there (docker-registry: `storage: {delete: {enabled: true}}` in "
    "its configuration, or REGISTRY_STORAGE_DELETE_ENABLED=true in its environment; then restart it; one that is a "
    "pull-through cache never deletes)"
)

_COLLECT_2 = "`docker-registry garbage-collect CONFIG.yml` (in its image: `registry garbage-collect /etc/docker/registry/config.yml`)"
_COLLECT_3 = "`registry garbage-collect /etc/distribution/config.yml`"
_CHILDREN = "leave --delete-untagged out: in 2.x it removes the children of multi-architecture images"
_SUBJECTS = "beware of --delete-untagged: 3.x keeps the children of an index, and removes untagged signatures and SBOMs"

# By the end of the host's name: who collects without being asked.
_BY_THEMSELVES = {
    ".amazonaws.com": "Amazon ECR",
    ".azurecr.io": "Azure Container Registry",
    ".pkg.dev": "Artifact Registry",
    ".gcr.io": "Google's registry",
    ".ghcr.io": "GitHub's registry",
    ".docker.io": "Docker Hub",
    ".quay.io": "Quay",
}

_ARTIFACTORY = "in Artifactory, Administration, Maintenance, run the storage garbage collection"
# A header of an answer, what is in it, and where to look.
_BY_HEADER = (
    (
        "gitlab-container-registry-version",
        "",
        "`gitlab-ctl registry-garbage-collect` on its host; leave -m out, it removes untagged manifests",
    ),
    ("x-jfrog-version", "", _ARTIFACTORY),
    ("x-artifactory-id", "", _ARTIFACTORY),
    (
        "server",
        "nexus",
        "in Nexus, run the tasks `Docker - Delete unused manifests and images` and `Admin - Compact blob store`",
    ),
)


def advice(registry: str, probed: Mapping[str, Any]) -> str:
    """Return what to type for the bytes to come back, by what a run found out of the registry.

    Parameters
    ----------
    registry : str
        Its ``host[:port]``.
    probed : mapping
        A `Capabilities` as plain values, as the journal has them.
    """
    return f"bytes come back when the registry collects its garbage: {_how(registry, probed)}"


def _how(registry: str, probed: Mapping[str, Any]) -> str:
    host, headers = f".{registry.partition(':')[0]}", probed.get("headers", {})
    if name := next((name for ending, name in _BY_THEMSELVES.items() if host.endswith(ending)), None):
        return f"{name} does so by itself, there is nothing to type"
    for header, word, how in _BY_HEADER:
        if word in headers.get(header, "").lower() and header in headers:
            return how
    if headers.get("docker-distribution-api-version") == "registry/2.0":
        return _docker_registry(probed.get("tag_deletion"))
    return "look for `garbage collection` in the registry's documentation; collect nothing untagged with it"


def _docker_registry(tag_deletion: bool | None) -> str:  # noqa: FBT001 -- what the probe found
    """Say it for docker-registry, whose versions are told apart by whether a tag can be deleted alone."""
    stop = "stop all pushes (or set it read-only)"
    if tag_deletion is None:
        how = f"docker-registry: {stop}, then {_COLLECT_2}; {_CHILDREN}, in 3.x untagged signatures and SBOMs"
    elif tag_deletion:
        how = f"docker-registry 3.x: {stop}, then {_COLLECT_3}; {_SUBJECTS}"
    else:
        how = f"docker-registry 2.x: {stop}, then {_COLLECT_2}; {_CHILDREN}"
    return f"it answers as {how}. If it is another one (Harbor, zot), see its documentation"  # zot and others announce the same


__all__ = ["ENABLE_DELETION", "advice"]
