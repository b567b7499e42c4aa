"""Findings: what is broken, orphaned, largest, unlabelled, or has moved; and what tags are called.

Each is a frame. Those about tags have the columns of `COLUMNS` first, so that they can go straight into
a plan, which refuses what cannot be deleted and says why. Nothing here deletes, asks a registry or looks
at a clock. As with stale tags, signatures and the tags that are attached to a digest are left out, except
by `orphaned_signatures`, which is about them. What was not read is in no finding: unknown is not missing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from regaudit.analysis.footprint import Holders
from regaudit.analysis.tags import may_be_listed
from regaudit.errors import UsageError
from regaudit.inventory.difference import Difference
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.stored import Manifests, blob_sizes, codes_among, distinct, place_among, sums
from regaudit.reference import ATTACHED_TAG
from regaudit.text import clean

COLUMNS = ("registry", "repository", "tag", "digest", "kind", "created", "content_bytes", "reason")

# What every image should say of itself (OCI image specification, "Pre-Defined Annotation Keys"): whose it is,
# where it comes from, and under which licence.
REQUIRED_LABELS = (
    "org.opencontainers.image.source",
    "org.opencontainers.image.vendor",
    "org.opencontainers.image.licenses",
)

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

# Indexes nest once or twice; an audit reads no deeper than this.
_DEEPEST = 8
_IMAGES = ("image", "index")
# "sha256-" and "sha512-" with the 64 characters of the rest that the specification keeps.
_BASE_LENGTH = 71
_ATTACHMENTS = {"": "list of referrers", "sig": "signature", "att": "attestation", "sbom": "SBOM"}
_SHOWN_NAMES = 3


# -- broken -----------------------------------------------------------------------------------


def broken_tags(snapshot: Snapshot, *, missing_blobs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the tags that cannot be pulled, or not for every platform that they promise.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    missing_blobs : pandas.DataFrame, optional
        From `regaudit.missing_blobs`, which asks the registry for every blob; without it, blobs are
        taken to be there, except configs that the audit was told are gone.

    Returns
    -------
    pandas.DataFrame
        A row for each such tag, by repository and tag: the columns of a finding, and basis {dangling,
        missing_child, missing_blob}, the worst of its reasons. A plan refuses the dangling ones: a
        registry deletes by digest, and theirs is gone. An index of which children are missing may be a
        sparse copy that somebody wants.
    """
    manifests = Manifests(snapshot)
    tags = snapshot.tags[may_be_listed(snapshot.tags)]
    lost = snapshot.problems[~snapshot.problems["blocking"].fillna(value=True)]
    dangling = _named_in(tags["repository"], tags["tag"], lost[lost["error"] == "dangling"]) & tags["digest"].isna()
    parent, child = _child_places(snapshot, manifests)
    entries = snapshot.children
    absent = (child < 0) & _named_in(entries["repository"], entries["digest"], lost[lost["error"] == "missing_child"])
    missing = np.bincount(parent[absent & (parent >= 0)], minlength=len(manifests))
    incomplete = _held_up(missing > 0, parent, child)
    blobless = _held_up(_without_blobs(snapshot, manifests, missing_blobs, lost), parent, child)
    place = manifests.place(tags["repository"], tags["digest"])
    at = _or_false(incomplete, place), _or_false(blobless, place)
    found = dangling | at[0] | at[1]
    counts = np.append(np.bincount(parent[parent >= 0], minlength=len(manifests)), 0)[place]
    texts = _broken_reasons(dangling, *at, np.append(missing, 0)[place], counts)
    basis = np.select([dangling, at[1]], ["dangling", "missing_blob"], "missing_child")
    frame = _finding(tags[found], texts[found])
    frame["basis"] = pd.Categorical(basis[found], categories=["dangling", "missing_blob", "missing_child"])
    return frame.sort_values(["repository", "tag"], ignore_index=True)


def _broken_reasons(dangling: Any, incomplete: Any, blobless: Any, missing: Any, children: Any) -> Any:
    count = pd.Series(missing).astype("string") + " of " + pd.Series(children).astype("string")
    lacks = np.where(missing > 0, "its index lacks " + count + " children", "an index within its index lacks children")
    blobs = np.full(len(missing), "a config or layer that it needs is gone", dtype=object)
    both = blobs + "; " + lacks.astype(object)
    return np.select([dangling, blobless & incomplete, blobless], ["its manifest is gone", both, blobs], lacks)


def _without_blobs(snapshot: Snapshot, manifests: Manifests, missing: pd.DataFrame | None, lost: pd.DataFrame) -> Any:
    """Return of which manifests a config or layer is definitely not there."""
    gone = lost[(lost["stage"] == "config") & (lost["error"] == "not_found")]
    pairs = pd.concat([gone[["repository", "identifier"]].astype("object"), _missing_pairs(missing)])
    found = np.zeros(len(manifests), dtype=bool)
    if pairs.empty:
        return found
    digests = snapshot.blobs["digest"].cat.categories
    codes = np.zeros(len(digests) + 1, dtype=bool)
    codes[np.flatnonzero(digests.isin(pairs["identifier"]))] = True
    edges = snapshot.blobs[codes[snapshot.blobs["digest"].cat.codes.to_numpy()]]
    edges = edges[_named_in(edges["repository"], edges["digest"], pairs)]
    places = manifests.place(edges["repository"], edges["manifest_digest"])
    found[places[places >= 0]] = True
    return found


def _missing_pairs(missing: pd.DataFrame | None) -> pd.DataFrame:
    if missing is None:
        return pd.DataFrame({"repository": [], "identifier": []}, dtype="object")
    if not {"repository", "digest", "error"} <= set(missing.columns):
        raise UsageError("missing_blobs= needs the columns repository, digest and error, as missing_blobs() returns them")
    definite = missing[missing["error"] == "not_found"]
    return definite[["repository", "digest"]].astype("object").set_axis(["repository", "identifier"], axis=1)


def _held_up(broken: Any, parent: Any, child: Any) -> Any:
    """Return what is broken, and every index above it."""
    broken = broken.copy()
    read = (parent >= 0) & (child >= 0)
    for _ in range(_DEEPEST):
        above = parent[read & _or_false(broken, child)]
        if broken[above].all():
            break
        broken[above] = True
    return broken


# -- orphans ----------------------------------------------------------------------------------


def orphaned_signatures(snapshot: Snapshot) -> pd.DataFrame:
    """Return the signatures, attestations and other referrers whose subject nothing in the repository leads to.

    These are cosign's tags (``sha256-….sig``, ``.att``, ``.sbom``), the fallback tags of the referrers
    interface, and manifests that name a ``subject``. Only repositories that were read completely are
    looked at. A subject without a tag may still be there, out of an audit's sight, until the registry collects
    its garbage: whoever pulls by digest would miss the signature. BuildKit's attestations are
    entries of their index, which goes or stays with them, and are no orphans.

    Returns
    -------
    pandas.DataFrame
        A row for each orphan, one for each of its tags, by repository: the columns of a finding (tag is
        missing where it has none), subject (the digest, or the cut one that is in the tag), and basis
        {tag, subject}, what names the subject.
    """
    manifests = Manifests(snapshot)
    by_tag = _orphans_by_tag(snapshot, manifests)
    by_subject = _orphans_by_subject(snapshot, manifests)
    again = by_subject.set_index(["repository", "digest"]).index.isin(by_tag.set_index(["repository", "digest"]).index)
    frame = pd.concat([by_tag, by_subject[~again]], ignore_index=True)
    frame = _conformed(frame)
    frame["basis"] = pd.Categorical(frame["basis"], categories=["tag", "subject"])
    return frame.sort_values(["repository", "subject", "tag"], ignore_index=True)


def _orphans_by_tag(snapshot: Snapshot, manifests: Manifests) -> pd.DataFrame:
    tags = snapshot.tags
    attached = _matches(tags["tag"], ATTACHED_TAG)
    tags = tags[attached & tags["digest"].notna() & _read_whole(snapshot, tags["repository"])]
    base = tags["tag"].str.slice(0, _BASE_LENGTH)
    # The tag of each manifest's own digest, made once for each digest of the dictionary.
    categories = pa.array(snapshot.manifests["digest"].cat.categories, type=pa.large_string())
    bases = pc.utf8_slice_codeunits(pc.replace_substring(categories, ":", "-", max_replacements=1), 0, _BASE_LENGTH)
    both = pa.chunked_array([bases, pa.array(base, type=pa.large_string(), from_pandas=True)]).combine_chunks()
    codes = both.dictionary_encode().indices.to_numpy().astype("int64")
    width = int(codes.max(initial=0)) + 1
    there = distinct(manifests.repository * width + codes[: len(bases)][manifests.digest])
    wanted = codes_among(tags["repository"], manifests.names) * width + codes[len(bases) :]
    gone = place_among(wanted, there) < 0
    found = tags[gone]
    subject = base[gone].str.replace("-", ":", n=1, regex=False)
    suffix = found["tag"].str.slice(_BASE_LENGTH + 1)
    what = suffix.map(_ATTACHMENTS).astype("string").fillna("." + suffix)
    return _finding(found, what + _of_subject(subject)).assign(subject=subject.to_numpy(), basis="tag")


def _orphans_by_subject(snapshot: Snapshot, manifests: Manifests) -> pd.DataFrame:
    listed = snapshot.manifests
    gone = manifests.place(listed["repository"], listed["subject_digest"]) < 0
    orphans = listed[gone & listed["subject_digest"].notna() & _read_whole(snapshot, listed["repository"])]
    places = distinct(manifests.place(orphans["repository"], orphans["digest"]))
    at = place_among(manifests.place(snapshot.tags["repository"], snapshot.tags["digest"]), places)
    names = pd.DataFrame({"place": places[at[at >= 0]], "tag": snapshot.tags["tag"].to_numpy()[at >= 0]})
    orphans = orphans.assign(place=manifests.place(orphans["repository"], orphans["digest"]))
    found = orphans.merge(names, on="place", how="left").astype({"tag": "string"})
    subject = found["subject_digest"].astype("string")
    what = found["artifact_type"].astype("string").fillna(found["kind"].astype("string"))
    return _finding(found, what + _of_subject(subject)).assign(subject=subject.to_numpy(), basis="subject")


def _of_subject(subject: pd.Series[Any]) -> pd.Series[Any]:
    return " of " + subject.str.slice(0, 19) + ", which nothing in the repository leads to"


def _read_whole(snapshot: Snapshot, repository: pd.Series[Any]) -> Any:
    return ~repository.isin(sorted(snapshot.unread)).to_numpy()


# -- largest ----------------------------------------------------------------------------------


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
    count = _check_limit(limit)
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
    count = _check_limit(limit)
    manifests = Manifests(snapshot)
    tags = snapshot.tags
    tags = tags[may_be_listed(tags) & tags["kind"].isin(_IMAGES) & tags["digest"].notna() & tags["content_bytes"].notna()]
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
    frame = _finding(found, "number " + found["rank"].astype("string") + " by size")
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
    parent, child = _child_places(snapshot, manifests)
    read = (parent >= 0) & (child >= 0)
    edges = pd.DataFrame({"place": parent[read], "child": child[read]})
    level = pd.DataFrame({"origin": np.arange(len(places)), "place": places})
    levels = [level]
    for _ in range(_DEEPEST):
        level = level.merge(edges[edges["place"].isin(level["place"])], on="place")
        level = level[["origin", "child"]].set_axis(["origin", "place"], axis=1).drop_duplicates()
        if level.empty:
            break
        levels.append(level)
    everything = pd.concat(levels).drop_duplicates()
    return everything["origin"].to_numpy(), everything["place"].to_numpy()


# -- labels -----------------------------------------------------------------------------------


def missing_labels(snapshot: Snapshot, labels: Sequence[str] = REQUIRED_LABELS) -> pd.DataFrame:
    """Return the tags whose image does not carry every one of these labels.

    A label counts where the image's config has it or the manifest is annotated with it, and it is not
    empty. An index has a label if it is annotated with it, or if each of its images that was read has it.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    labels : sequence of str
        Their keys; by default who made the image, where its source is, and its licence.

    Returns
    -------
    pandas.DataFrame
        A row for each tag on an image or index that lacks one, by repository and tag: the columns of a
        finding, and missing (the keys, with commas between them). Images whose config was not read or
        could not be understood are left out: what they carry is not known.

    Raises
    ------
    UsageError
        No label is named, or one that is not text.
    """
    wanted = [labels] if isinstance(labels, str) else list(dict.fromkeys(labels))
    if not wanted or not all(isinstance(label, str) and label for label in wanted):
        raise UsageError("name the labels that images must have, for example ['org.opencontainers.image.source']")
    manifests = Manifests(snapshot)
    has, known = _labelled(snapshot, manifests, wanted)
    tags = snapshot.tags
    tags = tags[may_be_listed(tags) & tags["kind"].isin(_IMAGES)]
    place = manifests.place(tags["repository"], tags["digest"])
    tags, place = tags[place >= 0], place[place >= 0]
    lacks = ~has[place] & known[place][:, None]
    hit = lacks.any(axis=1)
    texts = _joined(lacks[hit], wanted)
    frame = _finding(tags[hit], "without " + pd.Series(texts, dtype="string")).assign(
        missing=pd.Series(texts, dtype="string")
    )
    return frame.sort_values(["repository", "tag"], ignore_index=True)


def _labelled(snapshot: Snapshot, manifests: Manifests, wanted: list[str]) -> tuple[Any, Any]:
    """Return which label each manifest has, by place, and of which manifests that is known."""
    table = snapshot.manifests
    place = manifests.place(table["repository"], table["digest"])
    annotated, _ = _present(table["annotations"], wanted)
    carried, readable = _present(table["labels"], wanted)
    own, known = np.zeros((len(manifests), len(wanted)), dtype=bool), np.zeros(len(manifests), dtype=bool)
    own[place] = annotated | carried
    config_problems = snapshot.problems.loc[snapshot.problems["stage"] == "config", "identifier"]
    unread = table["config_digest"].isin(config_problems.dropna().unique()).to_numpy() & table["labels"].isna().to_numpy()
    known[place] = readable & ~unread & (table["kind"] == "image").to_numpy()
    return _with_children(snapshot, manifests, own, known)


def _with_children(snapshot: Snapshot, manifests: Manifests, own: Any, known: Any) -> tuple[Any, Any]:
    parent, child = _child_places(snapshot, manifests)
    runs = (snapshot.children["role"] != "attestation").to_numpy()
    parent, child = parent[runs & (parent >= 0) & (child >= 0)], child[runs & (parent >= 0) & (child >= 0)]
    is_index = np.zeros(len(manifests), dtype=bool)
    is_index[parent] = True
    has, sure = own.copy(), known.copy()
    for _ in range(_DEEPEST):  # from the images up, a level of indexes at a time
        before = has.sum() + sure.sum()
        lacking = np.zeros_like(own)
        np.logical_or.at(lacking, parent, ~has[child])
        doubtful = np.zeros_like(known)
        np.logical_or.at(doubtful, parent, ~sure[child])
        has[is_index] = own[is_index] | ~lacking[is_index]
        sure[is_index] = ~doubtful[is_index]
        if has.sum() + sure.sum() == before:
            break
    return has, sure


def _present(texts: pd.Series[Any], wanted: list[str]) -> tuple[Any, Any]:
    """Return which keys each JSON object has with a text that is not empty, and which could be read."""
    encoded = pa.array(texts, type=pa.large_string(), from_pandas=True).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy()
    has, readable = _parsed(encoded.dictionary, wanted)
    # The last row is for what says nothing: it has no label, which is known.
    has, readable = np.vstack([has, np.zeros((1, len(wanted)), dtype=bool)]), np.append(readable, True)
    return has[codes], readable[codes]


def _parsed(distinct_texts: pa.Array, wanted: list[str]) -> tuple[Any, Any]:
    """Read distinct JSON objects with Arrow, which takes a tenth of Python's time; with Python where one is damaged."""
    count = len(distinct_texts)
    if count == 0:
        return np.zeros((0, len(wanted)), dtype=bool), np.zeros(0, dtype=bool)
    lines = pc.binary_join(pa.array([distinct_texts.to_pylist()]), "\n")[0].as_py().encode()
    options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([(key, pa.string()) for key in wanted]), unexpected_field_behavior="ignore"
    )
    longest = pc.max(pc.binary_length(distinct_texts)).as_py()
    reading = pyarrow.json.ReadOptions(block_size=max(1 << 20, 2 * longest))
    try:
        table = pyarrow.json.read_json(io.BytesIO(lines), read_options=reading, parse_options=options)
    except pa.ArrowException:
        table = None
    if table is None or len(table) != count:
        return _parsed_one_by_one(distinct_texts, wanted)
    filled = [pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(table[key]), ""), False) for key in wanted]
    return np.column_stack([column.to_numpy() for column in filled]), np.ones(count, dtype=bool)


def _parsed_one_by_one(texts: pa.Array, wanted: list[str]) -> tuple[Any, Any]:
    has, readable = np.zeros((len(texts), len(wanted)), dtype=bool), np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts.to_pylist()):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            readable[row] = True
            has[row] = [isinstance(fields.get(key), str) and bool(fields[key].strip()) for key in wanted]
    return has, readable


def _joined(lacks: Any, wanted: list[str]) -> Any:
    """Return the names of the missing ones in each row; there are few different rows."""
    kinds, which = np.unique(lacks, axis=0, return_inverse=True)
    texts = [", ".join(clean(key, 200) for key, gone in zip(wanted, kind, strict=True) if gone) for kind in kinds]
    return np.array(texts, dtype=object)[which.ravel()]


# -- moved ------------------------------------------------------------------------------------


def moved_tags(before: Snapshot, after: Snapshot) -> pd.DataFrame:
    """Return the tags that led to another manifest in a later reading of the registry.

    Parameters
    ----------
    before, after : Snapshot
        Two readings of one registry, the earlier first.

    Returns
    -------
    pandas.DataFrame
        A row for each tag, by repository and tag: the columns of a finding as of the later reading,
        digest_before, created_before, and stream (as in `naming_streams`): that ``latest`` moves is its
        purpose, that a version does is worth a question. Of a registry of the v1 interface the digests are missing.
    """
    change: Difference = before.diff(after)
    tags = change.tags
    rows = tags[(tags["change"] == "moved") & may_be_listed(tags)].reset_index(drop=True)
    found = rows.rename(columns={f"{name}_after": name for name in ("digest", "created", "content_bytes")})
    was = rows["digest_before"].fillna(rows["image_id_before"]).str.slice(0, 19).fillna("a manifest that was gone")
    now = rows["digest_after"].fillna(rows["image_id_after"]).str.slice(0, 19).fillna("a manifest that is gone")
    frame = _finding(found, "moved from " + was + " to " + now)
    return frame.assign(
        digest_before=rows["digest_before"], created_before=rows["created_before"], stream=_streams(rows["tag"])
    )


# -- names ------------------------------------------------------------------------------------


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
    >>> _streams(pd.Series(["1.2.3", "pr-12", "latest", "main-3f2a91c", "2026-05-31", "main", "xyz"])).tolist()
    ['version', 'pull_request', 'latest', 'commit', 'date', 'branch', 'other']
    """
    manifests = Manifests(snapshot)
    tags = snapshot.tags[may_be_listed(snapshot.tags)].reset_index(drop=True)
    words = [*STREAMS, OTHER_STREAM]
    stream = _streams(tags["tag"]).codes.astype("int64")
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


def _streams(names: pd.Series[Any]) -> pd.Categorical:
    codes = np.full(len(names), len(STREAMS))
    rest = np.arange(len(names))
    texts = pa.array(names, type=pa.large_string(), from_pandas=True)
    for code, expression in enumerate(STREAMS.values()):
        hits = _full_matches(texts.take(pa.array(rest)), f"(?i:{expression})")
        codes[rest[hits]] = code
        rest = rest[~hits]
    return pd.Categorical.from_codes(codes, categories=[*STREAMS, OTHER_STREAM])


def _bytes_by_stream(snapshot: Snapshot, manifests: Manifests, place: Any, stream: Any, width: int) -> Any:
    """Return the bytes of the distinct blobs that each repository's streams lead to, by repository and stream."""
    member = np.zeros((width, len(manifests)), dtype=bool)
    member[stream[place >= 0], place[place >= 0]] = True
    parent, child = _child_places(snapshot, manifests)
    read = (parent >= 0) & (child >= 0)
    for row in member:
        _hand_down(row, parent[read], child[read])
    blobs = snapshot.blobs
    holder = manifests.place(blobs["repository"], blobs["manifest_digest"])
    item = blobs["digest"].cat.codes.to_numpy("int64")
    known = (holder >= 0) & (item >= 0)
    holder, item = holder[known], item[known]
    repository, sizes = manifests.repository[holder], blob_sizes(snapshot)
    result = np.zeros((len(manifests.names), width), dtype="int64")
    for number, row in enumerate(member):
        mine = row[holder]
        held = distinct(repository[mine] * (len(sizes) + 1) + item[mine])
        result[:, number] = sums(held // (len(sizes) + 1), sizes[held % (len(sizes) + 1)], len(manifests.names))
    return result.ravel()


def _hand_down(member: Any, parent: Any, child: Any) -> None:
    for _ in range(_DEEPEST):
        below = child[member[parent]]
        if member[below].all():
            return
        member[below] = True


# -- what several share -----------------------------------------------------------------------


def _finding(rows: pd.DataFrame, reasons: Any) -> pd.DataFrame:
    frame = rows.reset_index(drop=True)[list(COLUMNS[:-1])] if "registry" in rows else rows
    return frame.assign(reason=pd.Series(np.asarray(reasons, dtype=object), dtype="string", index=frame.index))


def _conformed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of two that were put together with the dtypes that each had."""
    names = ["registry", "repository", "kind"]
    return frame.astype({name: "category" for name in names} | {"digest": "string", "subject": "string"})


def _check_limit(limit: Any) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int | np.integer) or limit < 1:
        raise UsageError(f"limit={clean(repr(limit), 40)} is not a count: write 50")
    return int(limit)


def _child_places(snapshot: Snapshot, manifests: Manifests) -> tuple[Any, Any]:
    children = snapshot.children
    return (
        manifests.place(children["repository"], children["index_digest"]),
        manifests.place(children["repository"], children["digest"]),
    )


def _or_false(flags: Any, places: Any) -> Any:
    return np.append(flags, np.False_)[places]


def _named_in(repository: pd.Series[Any], identifier: pd.Series[Any], problems: pd.DataFrame) -> Any:
    """Return which rows are named by a problem: few are, so that only those of its repositories are compared."""
    hit = np.zeros(len(repository), dtype=bool)
    near = np.flatnonzero(repository.isin(problems["repository"].dropna().unique()).to_numpy())
    if len(near) == 0:
        return hit
    mine = pd.MultiIndex.from_arrays(
        [repository.iloc[near].astype("object"), identifier.iloc[near].astype("object")]
    )
    theirs = pd.MultiIndex.from_frame(problems[["repository", "identifier"]].astype("object"))
    hit[near] = mine.isin(theirs)
    return hit


def _matches(names: pd.Series[Any], expression: str) -> Any:
    return _full_matches(pa.array(names, type=pa.large_string(), from_pandas=True), expression)


def _full_matches(texts: pa.Array, expression: str) -> Any:
    hits = pc.match_substring_regex(texts, f"^(?s:{expression})$")
    return hits.fill_null(False).to_numpy(zero_copy_only=False)


def findings(
    snapshot: Snapshot, *, labels: Iterable[str] = REQUIRED_LABELS, missing_blobs: pd.DataFrame | None = None
) -> dict[str, pd.DataFrame]:
    """Return every finding of one snapshot by its name, as `regaudit findings` writes them.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    labels : iterable of str
        For `missing_labels`.
    missing_blobs : pandas.DataFrame, optional
        For `broken_tags`.

    Returns
    -------
    dict
        The frames of `broken_tags`, `orphaned_signatures`, `largest_layers`, `largest_images`,
        `missing_labels` and `naming_streams`.
    """
    return {
        "broken_tags": broken_tags(snapshot, missing_blobs=missing_blobs),
        "orphaned_signatures": orphaned_signatures(snapshot),
        "largest_layers": largest_layers(snapshot),
        "largest_images": largest_images(snapshot),
        "missing_labels": missing_labels(snapshot, list(labels)),
        "naming_streams": naming_streams(snapshot),
    }
