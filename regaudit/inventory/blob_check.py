"""missing_blobs(): asks a registry whether every blob that its manifests name is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from regaudit.client import v2
from regaudit.client.bulk import Result
from regaudit.client.registry import Registry
from regaudit.errors import NotFound, UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.reference import Digest
from regaudit.text import clean, redact

# Layers of these types may not be distributed: a registry need not have them (OCI image specification,
# "Non-Distributable Layers", and Docker's foreign layers).
_ELSEWHERE = ("foreign", "nondistributable")
_COLUMNS = ["registry", "repository", "digest", "role", "size_bytes", "error", "message"]


def missing_blobs(registry: Registry, snapshot: Snapshot) -> pd.DataFrame:
    """Ask by HEAD for every blob of a snapshot, and return those that are not as the manifests say.

    A blob is asked for once, in the first of its repositories; where it is not there, in each of the
    others too. That is a request for every distinct blob of the registry, which an audit does not make
    by itself; nothing is downloaded. Give the answer to `broken_tags`.

    Parameters
    ----------
    registry : Registry
        The one that the snapshot is of.
    snapshot : Snapshot
        One reading of it.

    Returns
    -------
    pandas.DataFrame
        A row for each blob and repository: registry, repository, digest, role {config, layer},
        size_bytes (as declared), error (``not_found`` is definite; ``wrong_size``, or the kind of error
        where there was no answer), message. Empty where everything is there.

    Raises
    ------
    UsageError
        The snapshot is of another registry.
    """
    if snapshot.registry != registry.host:
        raise UsageError(
            f"the snapshot is of {clean(snapshot.registry, 80)}, and {clean(registry.host, 80)} was to be asked: "
            "name the registry that was audited"
        )
    wanted = _wanted(snapshot)
    rows: list[dict[str, Any]] = []
    with registry.bulk() as bulk:
        for digest, facts in wanted.items():
            bulk.submit((digest, 0), v2.head_blob(registry.session, facts["repositories"][0], Digest(digest)))
        for result in bulk.results():
            key: tuple[str, int] = result.key  # type: ignore[assignment]  # as it was submitted
            digest, number = key
            facts = wanted[digest]
            rows += _verdict(registry.host, digest, number, facts, result)
            if number == 0 and isinstance(result.error, NotFound):
                for other, repository in enumerate(facts["repositories"][1:], start=1):
                    bulk.submit((digest, other), v2.head_blob(registry.session, repository, Digest(digest)))
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    texts = dict.fromkeys((name for name in _COLUMNS if name != "size_bytes"), "string")
    return frame.astype({**texts, "size_bytes": "Int64"}).sort_values(["repository", "digest"], ignore_index=True)


def _wanted(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Return each distinct blob with its repositories, role and declared size."""
    blobs = snapshot.blobs[snapshot.blobs["digest"].notna()]
    odd = [name for name in blobs["media_type"].cat.categories if any(word in name for word in _ELSEWHERE)]
    held = blobs[~blobs["media_type"].isin(odd)].drop_duplicates(["repository", "digest"])
    rows = held[["digest", "repository", "role", "size_bytes"]].astype("object").sort_values(["digest", "repository"])
    wanted: dict[str, dict[str, Any]] = {}
    for digest, repository, role, size in rows.itertuples(index=False, name=None):
        known = None if pd.isna(size) else int(size)
        wanted.setdefault(digest, {"repositories": [], "role": role, "size": known})["repositories"].append(repository)
    return wanted


def _verdict(host: str, digest: str, number: int, facts: dict[str, Any], result: Result) -> Iterator[dict[str, Any]]:
    row = {"registry": host, "digest": digest, "role": facts["role"], "size_bytes": facts["size"]}
    row["repository"] = facts["repositories"][number]
    if result.error is not None:
        yield row | {"error": result.error.kind, "message": redact(result.error, 300)}
        return
    size = result.value.size
    if size is not None and facts["size"] is not None and size != facts["size"]:
        yield row | {
            "error": "wrong_size",
            "message": f"the registry has {size} bytes, a manifest declares {facts['size']}",
        }
