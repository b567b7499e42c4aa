"""What tags are called: the habits of naming in each repository, and what hangs on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from regaudit.analysis.candidates import DEEPEST, full_matches, texts_of
from regaudit.analysis.tags import may_be_listed
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.stored import Manifests, blob_sizes, codes_among, distinct, sums

# What a tag's name says of the habit that made it: the first that matches, capitals apart, from the
# beginning of the name to its end. In the syntax of Arrow's engine (RE2).
_DAY = r"(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
STREAMS: Mapping[str, str] = {
    "pull_request": r"(?:pr|mr|pull|merge|pull[-_]request|merge[-_]request)[-_.]?\d+(?:[-_.].*)?",
    "date": rf"(?:[a-z][a-z0-9]*[-_.])*(?:{_DAY}(?:[-_.t]?\d{{2,6}}z?)?|20\d\d[-_.](?:0?[1-9]|1[0-2]))(?:[-_.].*)?",
    "version": r"v?\d+(?:\.\d+){0,3}(?:[-_+.].*)?|(?:.*[-_])?v?\d+\.\d+\.\d+(?:[-_+.].*)?",
    "commit": r"(?:.+[-_.])?(?:sha[-_.]?|git[-_.]?|commit[-_.]?|g)?[0-9a-f]{7,64}",
    "latest": r"(?:latest|stable|edge|nightly|current|lts|next|canary|alpha|beta|rc|production|prod|staging|test|qa)"
    r"(?:[-_.][a-z].*)?",
    "branch": r"(?:main|master|trunk|head|dev|develop|development|feature|feat|fix|bugfix|hotfix|release|chore|task|topic"
    r"|branch|renovate|dependabot|refs|heads|user)(?:[-_.].*)?",
}
OTHER_STREAM = "other"


def naming_streams(snapshot: Snapshot) -> pd.DataFrame:
    """Return what kinds of names the tags of each repository have, how many there are, and what they hold.

    A stream is a habit of naming, found by `STREAMS`: ``pull_request`` (``pr-12``), ``date``
    (``2026-05-31``, ``nightly-20260531``, ``2026.1``), ``version`` (``1.2.3``, ``v2``, ``1.4-alpine``),
    ``commit`` (``3f2a91c``, ``main-3f2a91c``), ``latest`` (and ``stable``, ``edge``, ``production`` …),
    ``branch`` (``main``, ``feature-login``), and ``other`` for the rest. The first that fits counts.

    Returns
    -------
    pandas.DataFrame
        A row for each repository and stream in it, the most bytes first within each repository:
        registry, repository, stream, tag_count, digest_count, content_bytes (distinct configs and layers
        of these tags; what two streams share counts in both), oldest, newest (by `created`), example (a
        tag of the newest).

    Examples
    --------
    >>> stream_of(pd.Series(["1.2.3", "pr-12", "latest", "main-3f2a91c", "2026-05-31", "main", "xyz"])).tolist()
    ['version', 'pull_request', 'latest', 'commit', 'date', 'branch', 'other']
    """
    manifests = Manifests(snapshot)
    tags = snapshot.tags[may_be_listed(snapshot.tags)].reset_index(drop=True)
    words = [*STREAMS, OTHER_STREAM]
    stream = stream_of(tags["tag"]).codes.astype("int64")
    group = codes_among(tags["repository"], manifests.names) * len(words) + stream
    place = manifests.place(tags["repository"], tags["digest"])
    count = len(manifests.names) * len(words)
    pairs = distinct((group * (len(manifests) + 1) + place)[place >= 0]) // (len(manifests) + 1)
    newest_first = tags.assign(group=group).sort_values(["created", "tag"], ascending=[False, True], na_position="last")
    example = newest_first.drop_duplicates("group").set_index("group")
    oldest = tags["created"].groupby(group).min()
    present = np.flatnonzero(np.bincount(group, minlength=count))
    frame = pd.DataFrame(
        {
            "registry": pd.Categorical([snapshot.registry] * len(present)),
            "repository": pd.Categorical.from_codes(present // len(words), categories=manifests.names),
            "stream": pd.Categorical.from_codes(present % len(words), categories=words),
            "tag_count": np.bincount(group, minlength=count)[present],
            "digest_count": np.bincount(pairs, minlength=count)[present],
            "content_bytes": _bytes_by_stream(snapshot, manifests, place, stream, len(words))[present],
            "oldest": oldest.reindex(present).array,
            "newest": example["created"].reindex(present).array,
            "example": example["tag"].reindex(present).array,
        }
    ).astype({"tag_count": "Int64", "digest_count": "Int64", "content_bytes": "Int64"})
    of_v1 = snapshot.tags.loc[snapshot.tags["image_id"].notna(), "repository"].unique()
    frame.loc[frame["repository"].isin(of_v1), ["digest_count", "content_bytes"]] = pd.NA
    order = ["repository", "content_bytes", "stream"]
    return frame.sort_values(order, ascending=[True, False, True], ignore_index=True)


def stream_of(names: pd.Series[Any]) -> pd.Categorical:
    """Return the stream of each tag by its name."""
    codes = np.full(len(names), len(STREAMS))
    rest = np.arange(len(names))
    texts = texts_of(names)
    for code, expression in enumerate(STREAMS.values()):
        hits = full_matches(texts.take(pa.array(rest)), f"(?i:{expression})")
        codes[rest[hits]] = code
        rest = rest[~hits]
    return pd.Categorical.from_codes(codes, categories=[*STREAMS, OTHER_STREAM])


def _bytes_by_stream(snapshot: Snapshot, manifests: Manifests, place: Any, stream: Any, width: int) -> Any:
    """Return the bytes of the distinct blobs that each repository's streams lead to, by repository and stream."""
    member = np.zeros((width, len(manifests)), dtype=bool)
    member[stream[place >= 0], place[place >= 0]] = True
    parent, child = manifests.children(snapshot)
    read = (parent >= 0) & (child >= 0)
    for row in member:
        _hand_down(row, parent[read], child[read])
    blobs = snapshot.blobs
    holder = manifests.holders(snapshot)
    item = blobs["digest"].cat.codes.to_numpy("int64")
    known = (holder >= 0) & (item >= 0)
    holder, item = holder[known], item[known]
    repository, sizes = manifests.repository, blob_sizes(snapshot)
    result = np.zeros((len(manifests.names), width), dtype="int64")
    for number, row in enumerate(member):
        mine = row[holder]
        held = distinct(repository[holder[mine]] * (len(sizes) + 1) + item[mine])
        result[:, number] = sums(held // (len(sizes) + 1), sizes[held % (len(sizes) + 1)], len(manifests.names))
    return result.ravel()


def _hand_down(member: Any, parent: Any, child: Any) -> None:
    for _ in range(DEEPEST):
        below = child[member[parent]]
        if member[below].all():
            return
        member[below] = True
