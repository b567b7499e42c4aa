"""A made-up snapshot of a large registry: as uneven, shared and untidy as real ones, quick to make, seeded.

`make(tags)` returns it. Of 1,000,000 tags: 2,000 repositories, the largest with some 50,000 tags; 300,000
manifests, of which 24,000 are indexes (each of two images and an attestation), 24,000 cosign signatures
and 12,000 other referrers; 10,000,000 edges to 1.3 million blobs. The figures keep their proportions with
other numbers of tags. Digests are random, sorted, and given out in random order, as hashes are.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.tables import TABLES, columns_of, conform

REGISTRY = "registry.example.com"
TAKEN_AT = datetime(2026, 6, 1, tzinfo=UTC)
OCI_INDEX, OCI_MANIFEST = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_CONFIG, OCI_LAYER = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"
IN_TOTO, COSIGN = "application/vnd.in-toto+json", "application/vnd.dev.cosign.simplesigning.v1+json"
SBOM = "application/spdx+json"

# Of 1,000 manifests: what a build pushes (targets are what people tag), the rest hangs on it.
INDEXES, SIGNATURES, REFERRERS = 80, 80, 40
MANIFESTS_PER_TAG = 0.3
EDGES_PER_TAG = 10
TAGS_PER_REPOSITORY = 500
BASES, BASE_VERSIONS, BASE_LAYERS = 40, 25, 10
SMALLEST_IMAGE, LARGEST_IMAGE = 20, 72  # config and layers
YEARS = 6


@dataclass(slots=True)
class Registry:
    """What is there, as arrays: a row per manifest, in the order in which an audit finds them."""

    repository: np.ndarray
    kind: np.ndarray  # 0 image, 1 index, 2 attestation, 3 signature, 4 referrer
    content: np.ndarray  # equal where two repositories hold the same manifest
    parent: np.ndarray  # the row of the index or subject, or -1
    created: np.ndarray  # seconds before TAKEN_AT; NaN where unknown
    targets: np.ndarray  # the rows that people tag


def make(tags: int, seed: int = 4) -> Snapshot:
    """Return the snapshot of a registry with so many tags."""
    random = np.random.default_rng(seed)
    names = _names(max(3, tags // TAGS_PER_REPOSITORY))
    there = _manifests(random, tags, len(names))
    edges = _edges(random, there, tags)
    digests, code_of, blob_code = _dictionary(random, there, edges["blob"])
    dtype = pd.CategoricalDtype(pd.Index(digests, dtype=object))
    tables = {
        "blobs": _blob_table(random, there, edges, code_of, blob_code, names),
        "manifests": _manifest_table(there, edges, code_of, blob_code, names),
        "children": _child_table(there, code_of, names),
    }
    tables["tags"], tables["problems"] = _tag_table(random, there, code_of, names, tags, digests, tables["manifests"])
    for table, columns in tables.items():
        tables[table] = _frame(table, columns, dtype)
    count = len(there.kind)
    return Snapshot(
        registry=REGISTRY,
        taken_at=TAKEN_AT,
        finished_at=TAKEN_AT + timedelta(minutes=30),
        patterns=(),
        repositories=tuple(names),
        requests={"tags": tags // 1000 + len(names), "manifest": tags + count, "config": count},
        **tables,
    )


def _names(count: int) -> list[str]:
    teams = ("web", "data", "platform", "mobile", "search", "billing", "ml/models", "ml/serving", "infra", "edge")
    return sorted(f"{teams[number % len(teams)]}/service-{number:05}" for number in range(count))


def _zipf(random: np.random.Generator, count: int) -> np.ndarray:
    weights = np.arange(1, count + 1) ** -0.8
    return random.permutation(weights / weights.sum())


# -- manifests --------------------------------------------------------------------------------


def _manifests(random: np.random.Generator, tags: int, repositories: int) -> Registry:
    total = int(tags * MANIFESTS_PER_TAG)
    indexes, signatures, referrers = (total * share // 1000 for share in (INDEXES, SIGNATURES, REFERRERS))
    targets = total - 3 * indexes - signatures - referrers
    owner = np.sort(random.choice(repositories, targets, p=_zipf(random, repositories)))
    is_index = np.zeros(targets, dtype=bool)
    is_index[random.choice(targets, indexes, replace=False)] = True
    kinds, parents = [np.where(is_index, 1, 0)], [np.full(targets, -1)]
    for kind in (0, 0, 2):
        kinds.append(np.full(indexes, kind))
        parents.append(np.flatnonzero(is_index))
    for kind, number in ((3, signatures), (4, referrers)):
        kinds.append(np.full(number, kind))
        parents.append(np.sort(random.choice(targets, number, replace=False)))
    kind, parent = np.concatenate(kinds), np.concatenate(parents)
    age = _ages(random, owner, repositories)
    repository = np.where(parent < 0, np.append(owner, np.zeros(total - targets, dtype=owner.dtype)), owner[parent])
    created = np.where(parent < 0, np.append(age, np.zeros(total - targets)), age[parent])
    content = np.arange(total)
    copies = random.choice(np.flatnonzero((kind == 0) & (parent < 0)), targets // 50, replace=False)
    sources = random.choice(np.setdiff1d(np.flatnonzero((kind == 0) & (parent < 0)), copies), len(copies))
    elsewhere = repository[copies] != repository[sources]
    content[copies[elsewhere]], created[copies[elsewhere]] = sources[elsewhere], created[sources[elsewhere]]
    order = np.argsort(repository, kind="stable")
    place = np.empty(total, dtype="int64")
    place[order] = np.arange(total)
    once = _first_in_repository(repository[order], content[order])
    content[order[~once]] = order[~once]  # a repository holds a manifest once
    moved = np.where(parent[order] < 0, -1, place[parent[order]])
    return Registry(repository[order], kind[order], content[order], moved, created[order], np.sort(place[:targets]))


def _first_in_repository(repository: np.ndarray, content: np.ndarray) -> np.ndarray:
    return ~pd.DataFrame({"repository": repository, "content": content}).duplicated().to_numpy()


def _ages(random: np.random.Generator, owner: np.ndarray, repositories: int) -> np.ndarray:
    """Return seconds: a repository was begun at some time and built evenly since; some clocks are not believed."""
    begun = random.uniform(0.2, YEARS, repositories) * 365 * 86400
    age = random.uniform(0.001, 1, len(owner)) * begun[owner]
    age[random.random(len(owner)) < 0.03] = np.nan
    return np.floor(age)


# -- blobs ------------------------------------------------------------------------------------


def _edges(random: np.random.Generator, there: Registry, tags: int) -> dict[str, np.ndarray]:
    """Return holder, position and number of each edge's blob; configs come first in the numbers."""
    kind, content = there.kind, there.content
    total = len(kind)
    length = np.where(kind == 1, 0, np.where(kind == 0, random.integers(SMALLEST_IMAGE, LARGEST_IMAGE, total), 2))
    images = np.flatnonzero(kind == 0)
    missing = tags * EDGES_PER_TAG - int(length.sum())
    length[images] += missing // len(images)
    length[images[: missing % len(images)]] += 1
    length = length[content]
    holder = np.repeat(np.arange(total), length)
    position = np.arange(len(holder)) - np.repeat(np.cumsum(length) - length, length)
    source = content[holder]
    blob = source.copy()  # the config's number is that of its manifest
    blob[kind[source] == 4] = total  # referrers share the empty config
    layer = position > 0
    blob[layer] = total + 1 + _layers(random, there, length, source[layer], position[layer])
    return {"holder": holder, "position": position, "blob": blob}


def _layers(
    random: np.random.Generator, there: Registry, length: np.ndarray, source: np.ndarray, position: np.ndarray
) -> np.ndarray:
    """Return the number of each layer: of the base image, of the repository, or the image's own."""
    own = random.integers(2, 6, len(length))
    own[random.random(len(own)) < 0.03] = 0  # rebuilt: another config over the same layers
    own[there.kind > 1] = 1
    repositories = int(there.repository.max()) + 1
    base = random.integers(0, BASES, repositories)[there.repository] * BASE_VERSIONS
    base += random.integers(0, BASE_VERSIONS, len(length))
    window = np.arange(len(length)) // 8 * 4
    of_base = (base * BASE_LAYERS)[source] + position
    of_repository = BASES * BASE_VERSIONS * BASE_LAYERS + window[source] + position
    first_own = int(of_repository.max(initial=0)) + 1 + np.cumsum(own) - own
    from_end = (length[source] - 1) - position
    numbers = np.where(position <= BASE_LAYERS, of_base, of_repository)
    return np.where(from_end < own[source], first_own[source] + from_end, numbers)


def _dictionary(
    random: np.random.Generator, there: Registry, blobs: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return all digests, sorted, and the code of each manifest's and of each blob's; only what is used has one."""
    held, made = np.bincount(blobs) > 0, np.bincount(there.content, minlength=len(there.kind)) > 0
    used = np.append(made, held)
    raw = random.bytes(32 * int(used.sum())).hex()
    digests = sorted("sha256:" + raw[start : start + 64] for start in range(0, len(raw), 64))
    codes = np.full(len(used), -1, dtype="int32")
    codes[used] = random.permutation(len(digests))
    return digests, codes[: len(made)][there.content], codes[len(made) :]


# -- tables -----------------------------------------------------------------------------------


def _blob_table(random, there, edges, code_of, blob_code, names) -> dict:
    holder, position, blob = edges["holder"], edges["position"], edges["blob"]
    total = len(there.kind)
    size = random.lognormal(14, 2, len(blob_code)).astype("int64") + 32
    size[:total], size[total] = random.integers(1500, 12000, total), 2
    kind = there.kind[holder]
    types = [OCI_CONFIG, OCI_LAYER, IN_TOTO, COSIGN, SBOM]
    return {
        "registry": _one(len(holder)),
        "repository": (there.repository[holder], names),
        "manifest_digest": code_of[holder],
        "position": position,
        "role": (position > 0).astype("int8"),
        "digest": blob_code[blob],
        "media_type": (np.where(position == 0, 0, np.where(kind == 0, 1, kind)), types),
        "size_bytes": size[blob],
    }


def _manifest_table(there, edges, code_of, blob_code, names) -> dict:
    kind, total = there.kind, len(there.kind)
    counts = np.bincount(edges["holder"], minlength=total)
    types, children = (
        [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST],
        np.bincount(there.parent[_of_index(there)], minlength=total),
    )
    config = np.where(kind == 1, -1, np.where(kind == 4, blob_code[total], blob_code[there.content]))
    labels = [
        json.dumps({"org.opencontainers.image.revision": f"{number * 2654435761 % 2**32:08x}"})
        for number in range(total)
    ]
    return {
        "registry": _one(total),
        "repository": (there.repository, names),
        "digest": code_of,
        "media_type": (np.where(kind == 1, 1, np.where((kind == 0) & (there.repository % 3 == 0), 2, 0)), types),
        "artifact_type": (np.where(kind == 3, 0, np.where(kind == 4, 1, -1)), [OCI_CONFIG, SBOM]),
        "kind": np.array([0, 1, 2, 3, 2])[kind],
        "platform": (np.where(kind == 0, np.arange(total) % 2, -1), ["linux/amd64", "linux/arm64"]),
        "created": _times(np.where(kind < 2, there.created, np.nan)),
        "created_source": np.where((kind < 2) & ~np.isnan(there.created), 0, 4),
        "manifest_bytes": 500 + counts * 130 + children * 220,
        "content_bytes": np.where(kind == 1, 0, counts) * 4_000_000 + 7000,
        "layer_count": np.where(kind == 1, children, np.maximum(counts - 1, 0)),
        "tag_count": np.zeros(total, dtype="int64"),
        "config_digest": config,
        "subject_digest": np.where(kind == 4, code_of[there.parent], -1),
        "discovered_by": np.where(kind == 4, 2, np.where(_of_index(there), 1, 0)),
        "labels": pd.array(labels, dtype="string"),
        "annotations": pd.array(["{}"] * total, dtype="string"),
    }


def _of_index(there: Registry) -> np.ndarray:
    return (there.parent >= 0) & ((there.kind == 0) | (there.kind == 2))


def _child_table(there, code_of, names) -> dict:
    child = np.flatnonzero(_of_index(there))
    child = child[np.argsort(there.parent[child], kind="stable")]
    return {
        "registry": _one(len(child)),
        "repository": (there.repository[child], names),
        "index_digest": code_of[there.parent[child]],
        "position": np.arange(len(child)) % 3,
        "digest": code_of[child],
        "platform": (np.where(there.kind[child] == 2, 2, child % 2), ["linux/amd64", "linux/arm64", "unknown/unknown"]),
        "size_bytes": np.full(len(child), 1500),
        "role": (there.kind[child] == 2).astype("int8"),
    }


def _tag_table(random, there, code_of, names, tags, digests, manifests) -> tuple[dict, dict]:
    signed = np.flatnonzero(there.kind == 3)
    target = _tagged(random, there.targets, tags - len(signed))
    texts = _tag_names(random, target, there.repository[target], code_of)
    texts += [digests[code].replace(":", "-") + ".sig" for code in code_of[there.parent[signed]].tolist()]
    row = np.append(target, signed)
    frame = pd.DataFrame({"row": row, "repository": there.repository[row], "tag": texts})
    frame = frame.sort_values(["repository", "tag"], ignore_index=True)
    row = frame["row"].to_numpy()
    gone = np.flatnonzero((random.random(tags) < 0.0002) & (there.kind[row] == 0))
    seen = TAKEN_AT + pd.to_timedelta(np.arange(tags) * 1.8e-3, unit="s").floor("us")
    digest, created = code_of[row], np.where(there.kind[row] < 2, there.created[row], np.nan)
    digest[gone], created[gone] = -1, np.nan
    known = digest >= 0
    content = pd.Series(manifests["content_bytes"][row], dtype="Int64").where(known)
    media, types = manifests["media_type"]
    columns = {
        "registry": _one(tags),
        "repository": (frame["repository"].to_numpy(), names),
        "tag": frame["tag"].astype("string"),
        "digest": digest,
        "image_id": pd.array([None] * tags, dtype="string"),
        "media_type": (np.where(known, media[row], -1), types),
        "kind": np.where(known, manifests["kind"][row], 5),
        "created": _times(created),
        "created_source": np.where(np.isnan(created), 4, 0),
        "pushed": _times(np.full(tags, np.nan)),
        "pushed_source": np.ones(tags, dtype="int8"),
        "pulled": _times(np.full(tags, np.nan)),
        "content_bytes": content,
        "seen_at": pd.Series(seen),
    }
    manifests["tag_count"] += np.bincount(row[known], minlength=len(there.kind))
    return columns, _problem_table(frame, gone, names)


def _tagged(random: np.random.Generator, targets: np.ndarray, count: int) -> np.ndarray:
    """Return the manifest of each tag: every target has one, some have many."""
    extra = random.geometric(0.35, len(targets)).astype("float64") ** 1.5
    more = random.choice(targets, count - len(targets), p=extra / extra.sum())
    return np.sort(np.append(targets, more))


def _tag_names(
    random: np.random.Generator, target: np.ndarray, repository: np.ndarray, code_of: np.ndarray
) -> list[str]:
    number = np.arange(len(target)) - np.searchsorted(repository, repository)
    style = random.choice(5, len(target), p=[0.35, 0.15, 0.25, 0.1, 0.15])
    style[number == 0] = 5
    make_name = (
        lambda n, _: f"v{n // 400}.{n // 20 % 20}.{n % 20}",
        lambda n, _: f"20{18 + n % 8}-{n // 8 % 12 + 1:02}-{n // 96 % 28 + 1:02}.{n}",
        lambda n, code: f"{(code * 2654435761 + n * 40503) % 2**32:08x}{n:x}",
        lambda n, _: f"feature-{n % 97}-rework-{n}",
        lambda n, _: f"pr-{n}",
        lambda _n, _c: "latest",
    )
    values = zip(style.tolist(), number.tolist(), code_of[target].tolist(), strict=True)
    return [make_name[chosen](n, code) for chosen, n, code in values]


def _problem_table(frame: pd.DataFrame, gone: np.ndarray, names: list[str]) -> dict:
    unread = list(range(0, len(names), 500))[1:]
    repository = np.append(frame["repository"].to_numpy()[gone], np.array(unread, dtype="int64"))
    count, dangling = len(repository), len(gone)
    return {
        "registry": _one(count),
        "repository": (repository, names),
        "identifier": pd.array([*frame["tag"].iloc[gone], *(["page 2"] * len(unread))], dtype="string"),
        "stage": np.where(np.arange(count) < dangling, 2, 1),
        "error": (np.where(np.arange(count) < dangling, 0, 1), ["dangling", "RegistryTimeout"]),
        "code": pd.array([None] * count, dtype="string"),
        "status": pd.Series([404] * dangling + [None] * len(unread), dtype="Int64"),
        "message": pd.array(["not there"] * count, dtype="string"),
        "blocking": pd.array([False] * dangling + [True] * len(unread), dtype="boolean"),
    }


def _one(count: int) -> tuple[np.ndarray, list[str]]:
    return np.zeros(count, dtype="int8"), [REGISTRY]


def _times(seconds: np.ndarray) -> pd.Series:
    moments = pd.Timestamp(TAKEN_AT) - pd.to_timedelta(pd.Series(seconds), unit="s")
    return moments.astype("datetime64[us, UTC]")


def _frame(table: str, columns: dict, dtype: pd.CategoricalDtype) -> pd.DataFrame:
    """Return the table, checked: codes become categories, the rest what the column is to be."""
    words = {column.name: list(column.words) for column in TABLES[table] if column.type == "word"}
    digests = {column.name for column in TABLES[table] if column.type == "digest"}
    made = {}
    for name in columns_of(table):
        values = columns[name]
        if isinstance(values, tuple):
            made[name] = pd.Series(pd.Categorical.from_codes(*values))
        elif name in words:
            made[name] = pd.Series(pd.Categorical.from_codes(values, categories=words[name]))
        elif name in digests:
            made[name] = pd.Series(pd.Categorical.from_codes(values, dtype=dtype))
        else:
            made[name] = pd.Series(values)
    return conform(table, made, dtype)
