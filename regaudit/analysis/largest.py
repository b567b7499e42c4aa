"""The largest layers and images, and who shares them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from regaudit.analysis.candidates import DEEPEST, IMAGES, candidates, check_limit
from regaudit.analysis.footprint import Holders
from regaudit.analysis.tags import may_be_listed
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.stored import Manifests, blob_sizes

_SHOWN_NAMES = 3


def largest_layers(snapshot: Snapshot, *, limit: int = 50) -> pd.DataFrame:
    """Return the largest layers and who holds them.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    limit : int
        How many.

    Returns
    -------
    pandas.DataFrame
        A row for each layer, the largest first: registry, digest, media_type, size_bytes (the smallest
        that a manifest declares), manifest_count (distinct manifests that hold it), repository_count,
        repositories (the first three by name). A layer is no candidate: it goes when its manifests do.
    """
    count = check_limit(limit)
    blobs = snapshot.blobs
    is_layer = (blobs["role"] == "layer").to_numpy()
    code = blobs["digest"].cat.codes.to_numpy("int64")
    sizes = blob_sizes(snapshot)
    layers = np.zeros(len(sizes) + 1, dtype=bool)
    layers[code[is_layer]] = True
    layers[-1] = False
    known = np.flatnonzero(layers[:-1] & (sizes >= 0))
    digests = blobs["digest"].cat.categories
    # Digests are sorted, so that a stable sort puts equally large ones in the order of their digests.
    top = known[np.argsort(-sizes[known], kind="stable")][:count]
    rank = np.full(len(sizes) + 1, -1)
    rank[top] = np.arange(len(top))
    edges = blobs[(rank[code] >= 0) & is_layer].assign(rank=lambda frame: rank[frame["digest"].cat.codes.to_numpy()])
    held = edges[["rank", "repository", "media_type"]].drop_duplicates(["rank", "repository"])
    held = held.assign(name=held["repository"].astype("string")).sort_values(["rank", "name"])
    holders = edges["manifest_digest"].cat.codes.groupby(edges["rank"]).nunique()
    by_rank = held.groupby("rank")
    names = held[by_rank.cumcount() < _SHOWN_NAMES].groupby("rank")["name"].agg(", ".join)
    return pd.DataFrame(
        {
            "registry": pd.Categorical([snapshot.registry] * len(top)),
            "digest": pd.Series(digests[top], dtype="string"),
            "media_type": by_rank["media_type"].first().astype("string"),
            "size_bytes": pd.array(sizes[top], dtype="Int64"),
            "manifest_count": holders.astype("Int64"),
            "repository_count": by_rank.size().astype("Int64"),
            "repositories": names.astype("string"),
        }
    )


def largest_images(snapshot: Snapshot, *, limit: int = 50) -> pd.DataFrame:
    """Return the largest images that have a tag, and how much of each nothing else holds.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    limit : int
        How many distinct images and indexes; all tags of each are returned.

    Returns
    -------
    pandas.DataFrame
        A row for each tag, the largest image first: the columns of a finding, rank (from 1; equal for
        the tags of one image), tag_count, and unique_bytes: the manifests, configs and layers that
        only this image, with its children, holds, and that would come back if it went with all its tags.
    """
    count = check_limit(limit)
    manifests = Manifests(snapshot)
    tags = snapshot.tags
    tags = tags[
        may_be_listed(tags) & tags["kind"].isin(IMAGES) & tags["digest"].notna() & tags["content_bytes"].notna()
    ]
    place = manifests.place(tags["repository"], tags["digest"])
    # Repositories and digests are numbered in their order, so that a stable sort breaks ties by name.
    order = np.lexsort((place, -tags["content_bytes"].to_numpy("int64")))
    firsts = order[~pd.Series(place[order]).duplicated().to_numpy()][:count]
    rank = np.full(len(manifests) + 1, -1)
    rank[place[firsts]] = np.arange(len(firsts))
    found = tags[rank[place] >= 0].assign(rank=rank[place][rank[place] >= 0] + 1)
    unique = _unique_bytes(snapshot, manifests, place[firsts])
    found = found.sort_values(["rank", "tag"], ignore_index=True)
    alone = pd.Series(unique, dtype="Int64").take(found["rank"] - 1).reset_index(drop=True)
    frame = candidates(found, "number " + found["rank"].astype("string") + " by size")
    counts = found.groupby("rank")["rank"].transform("size").astype("Int64")
    return frame.assign(rank=found["rank"].astype("Int64"), tag_count=counts, unique_bytes=alone)


def _unique_bytes(snapshot: Snapshot, manifests: Manifests, places: Any) -> list[int]:
    """Return the bytes that each of these manifests, with everything below it, holds alone; a few of them at a time."""
    holders = Holders(snapshot)
    origin, below = _below(snapshot, manifests, places)
    digests = snapshot.manifests["digest"].cat.categories
    pairs = pd.DataFrame(
        {"repository": manifests.names[manifests.repository[below]], "digest": digests[manifests.digest[below]]}
    )
    return [min(holders.reclaimable(pairs[origin == number]), 2**63 - 1) for number in range(len(places))]


def _below(snapshot: Snapshot, manifests: Manifests, places: Any) -> tuple[Any, Any]:
    """Return each of these manifests and all below it, beside the number of the one that they belong to."""
    parent, child = manifests.children(snapshot)
    read = (parent >= 0) & (child >= 0)
    edges = pd.DataFrame({"place": parent[read], "child": child[read]})
    level = pd.DataFrame({"origin": np.arange(len(places)), "place": places})
    levels = [level]
    for _ in range(DEEPEST):
        level = level.merge(edges[edges["place"].isin(level["place"])], on="place")
        level = level[["origin", "child"]].set_axis(["origin", "place"], axis=1).drop_duplicates()
        if level.empty:
            break
        levels.append(level)
    everything = pd.concat(levels).drop_duplicates()
    return everything["origin"].to_numpy(), everything["place"].to_numpy()
