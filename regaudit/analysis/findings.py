"""Findings: what is broken, orphaned, largest, unlabelled, or has moved; and what tags are called.

Each is a frame. Those about tags have the columns of `regaudit.analysis.candidates.COLUMNS` first, so that they can go straight into
a plan, which refuses what cannot be deleted and says why. Nothing here deletes, asks a registry or looks
at a clock. As with stale tags, signatures and the tags that are attached to a digest are left out, except
by `orphaned_signatures`, which is about them. What was not read is in no finding: unknown is not missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.analysis.candidates import DEEPEST, candidates, full_matches, texts_of
from regaudit.analysis.labels import REQUIRED_LABELS, missing_labels
from regaudit.analysis.largest import largest_images, largest_layers
from regaudit.analysis.streams import naming_streams, stream_of
from regaudit.analysis.tags import may_be_listed
from regaudit.errors import UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.stored import Manifests, codes_among, distinct, place_among
from regaudit.reference import ATTACHED_TAG

# "sha256-" and "sha512-" with the 64 characters of the rest that the specification keeps.
_BASE_LENGTH = 71
_ATTACHMENTS = {"": "list of referrers", "sig": "signature", "att": "attestation", "sbom": "SBOM"}


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
    parent, child = manifests.children(snapshot)
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
    frame = candidates(tags[found], texts[found])
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
        raise UsageError(
            "missing_blobs= needs the columns repository, digest and error, as missing_blobs() returns them"
        )
    definite = missing[missing["error"] == "not_found"]
    return definite[["repository", "digest"]].astype("object").set_axis(["repository", "identifier"], axis=1)


def _held_up(broken: Any, parent: Any, child: Any) -> Any:
    """Return what is broken, and every index above it."""
    broken = broken.copy()
    read = (parent >= 0) & (child >= 0)
    for _ in range(DEEPEST):
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
    again = np.isin(*(manifests.place(frame["repository"], frame["digest"]) for frame in (by_subject, by_tag)))
    frame = pd.concat([by_tag, by_subject[~again]], ignore_index=True)
    frame = _conformed(frame)
    frame["basis"] = pd.Categorical(frame["basis"], categories=["tag", "subject"])
    return frame.sort_values(["repository", "subject", "tag"], ignore_index=True)


def _orphans_by_tag(snapshot: Snapshot, manifests: Manifests) -> pd.DataFrame:
    tags = snapshot.tags
    attached = full_matches(texts_of(tags["tag"]), ATTACHED_TAG)
    tags = tags[attached & tags["digest"].notna() & _read_whole(snapshot, tags["repository"])]
    base = tags["tag"].str.slice(0, _BASE_LENGTH)
    # The tag that would be attached to each manifest, made once for each digest.
    held = distinct(manifests.digest)
    texts = pa.array(snapshot.manifests["digest"].cat.categories[held], type=pa.large_string())
    bases = pc.utf8_slice_codeunits(pc.replace_substring(texts, ":", "-", max_replacements=1), 0, _BASE_LENGTH)
    both = pa.chunked_array([bases, texts_of(base)]).combine_chunks()
    codes = both.dictionary_encode().indices.to_numpy().astype("int64")
    width = int(codes.max(initial=0)) + 1
    there = distinct(manifests.repository * width + codes[place_among(manifests.digest, held)])
    wanted = codes_among(tags["repository"], manifests.names) * width + codes[len(bases) :]
    gone = place_among(wanted, there) < 0
    found = tags[gone]
    subject = base[gone].str.replace("-", ":", n=1, regex=False)
    suffix = found["tag"].str.slice(_BASE_LENGTH + 1)
    what = suffix.map(_ATTACHMENTS).astype("string").fillna("." + suffix)
    return candidates(found, what + _of_subject(subject)).assign(subject=subject.to_numpy(), basis="tag")


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
    return candidates(found, what + _of_subject(subject)).assign(subject=subject.to_numpy(), basis="subject")


def _of_subject(subject: pd.Series[Any]) -> pd.Series[Any]:
    return " of " + subject.str.slice(0, 19) + ", which nothing in the repository leads to"


def _read_whole(snapshot: Snapshot, repository: pd.Series[Any]) -> Any:
    return ~repository.isin(sorted(snapshot.unread)).to_numpy()


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
    tags = before.diff(after).tags
    rows = tags[(tags["change"] == "moved") & may_be_listed(tags)].reset_index(drop=True)
    found = rows.rename(columns={f"{name}_after": name for name in ("digest", "created", "content_bytes")})
    was = rows["digest_before"].fillna(rows["image_id_before"]).str.slice(0, 19).fillna("a manifest that was gone")
    now = rows["digest_after"].fillna(rows["image_id_after"]).str.slice(0, 19).fillna("a manifest that is gone")
    frame = candidates(found, "moved from " + was + " to " + now)
    return frame.assign(
        digest_before=rows["digest_before"], created_before=rows["created_before"], stream=stream_of(rows["tag"])
    )


# -- what several share -----------------------------------------------------------------------


def _conformed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of two that were put together with the dtypes that each had."""
    names = ["registry", "repository", "kind"]
    return frame.astype(dict.fromkeys(names, "category") | {"digest": "string", "subject": "string"})


def _or_false(flags: Any, places: Any) -> Any:
    return np.append(flags, np.False_)[places]


def _named_in(repository: pd.Series[Any], identifier: pd.Series[Any], problems: pd.DataFrame) -> Any:
    """Return which rows are named by a problem: few are, so that only those of its repositories are compared."""
    hit = np.zeros(len(repository), dtype=bool)
    near = np.flatnonzero(repository.isin(problems["repository"].dropna().unique()).to_numpy())
    if len(near) == 0:
        return hit
    mine = pd.MultiIndex.from_arrays([repository.iloc[near].astype("object"), identifier.iloc[near].astype("object")])
    theirs = pd.MultiIndex.from_frame(problems[["repository", "identifier"]].astype("object"))
    hit[near] = mine.isin(theirs)
    return hit
