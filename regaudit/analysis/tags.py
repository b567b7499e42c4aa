"""Questions about tags: which are stale, which are duplicates.

Both answer with a frame of candidates, a row per tag, that can go straight into a plan. Nothing
here deletes, asks a registry or looks at a clock: age is measured at the time of the reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.errors import UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.reference import ATTACHED_PREFIXES, Digest, split_attached_tag
from regaudit.text import clean, parse_duration

CLOCKS = ("created", "pushed")
BASES = ("digest", "config", "layers")  # the strongest first

_DAY = timedelta(days=1)
# What a duplicate's row says of the tag itself.
_OF_DUPLICATES = ["registry", "repository", "tag", "digest", "kind", "created", "content_bytes"]
# What takes a slot of keep_latest. Signatures and other artifacts come and go with what they describe.
_RANKED_KINDS = ("image", "index")
# Artifacts share this config (`{}`, image specification 1.1, "empty descriptor"): it says nothing of them.
_EMPTY_CONFIG = Digest.of(b"{}")
_VERSION = r"^v?(?P<major>\d{1,18})(?:\.(?P<minor>\d{1,18}))?(?:\.(?P<patch>\d{1,18}))?(?P<rest>[.+_-].*)?$"


def stale_tags(
    snapshot: Snapshot,
    *,
    older_than: str | timedelta | None = None,
    keep_latest: int | None = None,
    clock: str = "created",
    match: str | Sequence[str] | None = None,
    protect: str | Sequence[str] = (),
    now: datetime | None = None,
) -> pd.DataFrame:
    """Return the tags that are stale: those of which *every* given condition holds.

    A tag of unknown age is never stale. Signatures, and the tags that cosign and the referrers
    fallback attach to a digest, are neither counted nor returned: they go with their subject.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    older_than : str or timedelta, optional
        ``"180D"``, ``"12h"``: stale is what is strictly older. A tag of exactly this age is not.
    keep_latest : int, optional
        So many distinct digests of each repository are kept, newest first. Images and indexes
        count, all tags on one digest are one, and digests of equal age are kept together. With 0
        none is kept for being new. A digest of unknown age is not counted.
    clock : {"created", "pushed"}
        Which time is the age of a tag. Only some registries tell when a tag was pushed.
    match : str or sequence of str, optional
        Only tags that match one of these patterns (``*``, ``?``, ``[0-9]``) may be stale. All
        tags still count for `keep_latest`.
    protect : str or sequence of str
        Tags that match one of these patterns are never stale. They count for `keep_latest`.
    now : datetime, optional
        The moment at which age is measured, with a time zone; by default ``snapshot.taken_at``.

    Returns
    -------
    pandas.DataFrame
        A row for each stale tag, by repository and then oldest first: registry, repository, tag,
        digest, kind, created, created_source (with the clock ``pushed``: pushed, pushed_source),
        age_days (Float64), rank (Int64; 1 is the newest digest of the repository, or image id on a
        registry of the v1 interface; missing where not ranked), content_bytes, reason.

    Raises
    ------
    UsageError
        Where no condition is given, or one cannot be understood; the message says what to type.
    """
    if older_than is None and keep_latest is None:
        raise UsageError("nothing says what is stale: give older_than='180D', keep_latest=5, or both")
    limit = None if older_than is None else parse_duration(older_than)
    kept = None if keep_latest is None else _check_count(keep_latest)
    if clock not in CLOCKS:
        raise UsageError(f"{clean(clock, 40)!r} is not a clock: write clock='created' or clock='pushed'")
    tags, listed = snapshot.tags, may_be_listed(snapshot.tags)
    tags = _with_age(tags, listed, clock, check_now(snapshot.taken_at if now is None else now))
    stale = tags["age"].notna() & listed & _selected(tags["tag"], match, protect) & _beyond(tags, limit, kept)
    found = tags[stale]
    found = found.iloc[_sorted_rows(_places(found["repository"]), _moments(found[clock]), _tag_places(found))]
    found = found.reset_index(drop=True)
    found["reason"] = _stale_reasons(found, limit, kept)
    return found[_stale_columns(clock)]


def duplicate_tags(
    snapshot: Snapshot, *, by: str | Sequence[str] = BASES, across_repositories: bool = False
) -> pd.DataFrame:
    """Return the tags that could go because another tag, which stays, holds the same content.

    Of every group of equals one tag is the representative, which is never in the frame, and each
    row is directly equal to the representative that it names. That one is the oldest by
    `created` (unknown last); among equally old ones a version comes before another name
    (``1.2.3``, ``latest``), the more exact version before the shorter (``1.2.3``, ``1.2``), the
    lower before the higher (``1.9.0``, ``1.10.0``), one without a suffix before one with
    (``1.9.0``, ``1.9.0-rc1``), and then the name decides.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    by : str or sequence of str
        What makes two tags equal: ``digest`` (the same manifest), ``config`` (images with one
        config under different manifests: the same image, packed or annotated differently),
        ``layers`` (images with the same layers in the same order under different configs).
    across_repositories : bool
        Whether a tag may be a duplicate of one in another repository.

    Returns
    -------
    pandas.DataFrame
        A row for each duplicate, by repository, representative and tag: registry, repository,
        tag, digest, kind, created, content_bytes, basis (the strongest way in which it equals its
        representative), duplicate_of (``repository:tag``), reason. Signatures, attached tags and
        tags without a digest are left out.

    Raises
    ------
    UsageError
        Where `by` names no basis, or one that is not known.
    """
    chosen = _check_bases(by)
    tags = snapshot.tags[_OF_DUPLICATES]
    tags = tags[may_be_listed(tags) & tags["digest"].notna()].reset_index(drop=True)
    scope = np.zeros(len(tags), dtype="int64") if across_repositories else _places(tags["repository"])
    digests = max(len(tags["digest"].cat.categories), 1)
    node, distinct = pd.factorize(scope * digests + tags["digest"].array.codes)
    preferred = _by_preference(tags, across_repositories=across_repositories)
    order = _inverse(preferred)
    best = _first_of_each(node, len(distinct), preferred)
    nodes = pd.DataFrame({"scope": scope[best], "order": order[best], "first": best})
    nodes = nodes.assign(**_contents(tags.iloc[best], snapshot))
    keeper = _keepers(nodes, chosen)
    alias = (order != nodes["order"].to_numpy()[node]) if "digest" in chosen else False
    found = np.flatnonzero((keeper[node] != node) | alias)
    own, stays = node[found], keeper[node[found]]
    config = nodes["config"].to_numpy()
    same_config = (config[own] == config[stays]) & (config[own] >= 0)
    basis = np.select([own == stays, same_config], [0, 1], 2)
    return _duplicate_frame(tags, found, best[stays], basis)


def _content(tags: pd.DataFrame) -> pd.Series[Any]:
    """Return a number for what each tag points to: its digest, or else its image id; -1 where neither is known."""
    codes = tags["digest"].cat.codes.astype("int64")
    of_v1 = tags["image_id"].notna()
    if not of_v1.any():
        return codes
    image_ids, _ = pd.factorize(tags["image_id"])
    return codes.mask(of_v1 & (codes < 0), pd.Series(image_ids, index=tags.index) + len(tags["digest"].cat.categories))


def may_be_listed(tags: pd.DataFrame) -> pd.Series[Any]:
    """Return which rows of a tags table stand for themselves: neither a signature nor attached to a digest."""
    name = tags["tag"]
    attached = name.str.startswith(ATTACHED_PREFIXES).fillna(False).astype(bool)
    # The grammar is asked only about names that begin like one: few, or many in a signed registry.
    begins = np.flatnonzero(attached)
    attached.iloc[begins] = np.array(
        [split_attached_tag(t) is not None for t in name.iloc[begins].tolist()], dtype=bool
    )
    return ~attached & (tags["kind"] != "signature")


def tag_matches(tags: pd.Series[Any], patterns: str | Sequence[str]) -> pd.Series[Any]:
    """Return which tags match one of the patterns, as the shell matches file names, capitals apart.

    Parameters
    ----------
    tags : pandas.Series
        Tags as text; a missing one matches nothing.
    patterns : str or sequence of str
        ``*`` is any text, ``?`` one character, ``[0-9]`` one of these, ``[!0-9]`` one of the others.

    Raises
    ------
    UsageError
        Where a pattern is empty, is not text or has a range that runs backwards.

    Examples
    --------
    >>> tag_matches(pd.Series(["1.0", "1.0-rc1", "latest"], dtype="string"), ["*-rc?", "latest"]).tolist()
    [False, True, True]
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    if not listed:
        return pd.Series(False, index=tags.index)
    if not all(isinstance(pattern, str) and pattern for pattern in listed):
        raise UsageError("a pattern is empty or not text: write one like 'v1.*' or 'pr-*'")
    expression = "^(?s:" + "|".join(_translate(pattern) for pattern in listed) + ")$"
    try:
        # Straight to Arrow's engine: linear in the text, and its `$` is the end of the text.
        hits = pc.match_substring_regex(pa.array(tags, type=pa.string(), from_pandas=True), expression)
    except pa.ArrowInvalid:
        raise UsageError(
            f"{clean(', '.join(listed), 160)!r} has a pattern that cannot be read: write one like 'v[0-9]*'"
        ) from None
    return pd.Series(hits.fill_null(False).to_numpy(zero_copy_only=False), index=tags.index)


# -- stale ------------------------------------------------------------------------------------


def _check_count(keep_latest: Any) -> int:
    if isinstance(keep_latest, bool) or not isinstance(keep_latest, int | np.integer) or keep_latest < 0:
        raise UsageError(f"keep_latest={clean(repr(keep_latest), 40)} is not a count: write 0, 1, 2 …")
    return int(keep_latest)


def check_now(now: datetime) -> pd.Timestamp:
    """Return the moment at which age is measured, as UTC; raises `UsageError` where it has no time zone."""
    moment = pd.Timestamp(now) if isinstance(now, datetime) else pd.NaT
    if moment is pd.NaT or moment.tzinfo is None:
        raise UsageError(f"now={clean(now, 60)} has no time zone: write datetime.now(UTC)")
    return moment.tz_convert("UTC")


def _selected(tags: pd.Series[Any], match: str | Sequence[str] | None, protect: str | Sequence[str]) -> pd.Series[Any]:
    protected = tag_matches(tags, protect)
    if match is None:
        return ~protected
    if not isinstance(match, str) and not list(match):
        # Taking it for "any tag" would make all tags stale where a computed list came out empty.
        raise UsageError("match= has no pattern: write match='pr-*', or leave it out for all tags")
    return tag_matches(tags, match) & ~protected


def _beyond(tags: pd.DataFrame, limit: timedelta | None, kept: int | None) -> pd.Series[Any]:
    """Return of which tags every given condition holds; what has no rank is not beyond any."""
    beyond = pd.Series(True, index=tags.index)
    if limit is not None:
        beyond &= tags["age"] > limit
    if kept is not None:
        beyond &= (tags["rank"] > kept).fillna(False).astype(bool)
    return beyond


def _with_age(tags: pd.DataFrame, listed: pd.Series[Any], clock: str, now: pd.Timestamp) -> pd.DataFrame:
    """Add the age, and the rank among the repository's distinct digests, of which 1 is the newest."""
    age = now - tags[clock]
    # Small integers, not categories: pandas would hash every digest of the snapshot once per step.
    codes = pd.DataFrame({"repository": tags["repository"].cat.codes, "content": _content(tags)})
    counted = tags["kind"].isin(_RANKED_KINDS) & (codes["content"] >= 0) & age.notna() & listed
    content = codes[counted].groupby(["repository", "content"], sort=False).ngroup()
    # A digest is as new as its newest tag: with the clock `pushed` its tags may differ.
    newest = tags.loc[counted, clock].groupby(content).transform("max")
    distinct = ~content.duplicated()
    # "min" gives equals the better rank, so that a tie across the limit is kept whole.
    ranks = newest[distinct].groupby(codes["repository"]).rank(method="min", ascending=False)
    rank = content.map(ranks.set_axis(content[distinct])).reindex(tags.index)
    days = (age / _DAY).astype("Float64")
    return tags.assign(age=age, age_days=days.mask(age.isna()), rank=rank.astype("Int64"))


def _stale_columns(clock: str) -> list[str]:
    first = ["registry", "repository", "tag", "digest", "kind"]
    return [*first, clock, f"{clock}_source", "age_days", "rank", "content_bytes", "reason"]


def _stale_reasons(stale: pd.DataFrame, limit: timedelta | None, kept: int | None) -> pd.Series[Any]:
    reasons = []
    if limit is not None:
        unit, size = _unit_of(limit)
        beginning = f"older than {limit // size} {unit} ("
        reasons.append(_texts_of(stale["age"] // pd.Timedelta(size), beginning, f" {unit})"))
    if kept is not None:
        reasons.append(_texts_of(stale["rank"], f"not among the newest {kept} (rank ", ")"))
    texts = reasons[0] if len(reasons) == 1 else pc.binary_join_element_wise(*reasons, "; ")
    return pd.Series(_text_column(texts), index=stale.index)


def _texts_of(numbers: pd.Series[Any], beginning: str, end: str) -> pa.Array:
    """Return a text around each whole number, made once for each that differs."""
    codes, distinct = pd.factorize(numbers.to_numpy("int64"))
    texts = pa.array([f"{beginning}{number}{end}" for number in distinct.tolist()], pa.string())
    return texts.take(pa.array(codes))


def _unit_of(duration: timedelta) -> tuple[str, timedelta]:
    """Return the largest unit that measures a duration without a rest."""
    units = {"d": _DAY, "h": timedelta(hours=1), "min": timedelta(minutes=1), "s": timedelta(seconds=1)}
    whole = (item for item in units.items() if not duration % item[1])
    return next(whole, ("ms", timedelta(milliseconds=1)))


# -- patterns ---------------------------------------------------------------------------------


def _translate(pattern: str) -> str:
    """Return a shell pattern as a regular expression of Arrow's engine (`fnmatch.translate` writes Python's)."""
    wild = {"*": ".*", "?": "."}
    pieces = re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", pattern)
    return "".join(
        _set_of(p) if p[:1] == "[" and p[-1:] == "]" and len(p) > 2 else wild.get(p[:1], re.escape(p)) for p in pieces
    )


def _set_of(piece: str) -> str:
    inner = piece[1:-1]
    negated = inner.startswith("!")
    body = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner[negated:])
    return f"[{'^' if negated else ''}{body}]"


# -- duplicates -------------------------------------------------------------------------------


def _check_bases(by: str | Iterable[str]) -> frozenset[str]:
    chosen = frozenset([by] if isinstance(by, str) else by)
    odd = chosen - set(BASES)
    if odd or not chosen:
        named = clean(", ".join(sorted(map(str, odd))), 80)
        raise UsageError(
            f"{named or 'nothing'} is not what tags can share: write by='digest', 'config', 'layers' or several"
        )
    return chosen


def _by_preference(tags: pd.DataFrame, *, across_repositories: bool) -> Any:
    """Return the rows in the order in which representatives are chosen; within a repository, or among all."""
    names = _text_array(tags["tag"]).dictionary_encode()
    # What a name is worth is found once for a name: the same versions are in many repositories.
    worth = _ranks_of_versions(names.dictionary)[names.indices.to_numpy()]
    last = [_ranks(tags["tag"]), _places(tags["repository"])] if across_repositories else [_tag_places(tags)]
    return _sorted_rows(_moments(tags["created"]), worth, *last)


def _ranks_of_versions(names: pa.Array) -> Any:
    """Return numbers that sort as tags are preferred, equal where only the text of the name decides."""
    version = pc.extract_regex(names, _VERSION)
    named = version.is_null().to_numpy(zero_copy_only=False)
    parts = {part: pc.struct_field(version, part).fill_null("") for part in ("major", "minor", "patch", "rest")}
    numbers = [
        pc.if_else(pc.equal(parts[part], ""), "-1", parts[part]).cast(pa.int64()).to_numpy()
        for part in ("major", "minor", "patch")
    ]
    short = sum((number < 0).astype("int8") for number in numbers)
    keys = [named, short, *numbers, pc.not_equal(parts["rest"], "").to_numpy(zero_copy_only=False)]
    order = _sorted_rows(*keys)
    differs = np.zeros(len(names), dtype=bool)
    for key in keys:
        differs |= _changes(key[order])
    ranks = np.empty(len(names), dtype="int64")
    ranks[order] = np.cumsum(differs)
    return ranks


def _contents(tags: pd.DataFrame, snapshot: Snapshot) -> dict[str, Any]:
    """Return codes for the config and the layers of each of these tags: equal where these are, -1 where there are none."""
    digest = tags["digest"].array.codes
    is_image = (tags["kind"] == "image").to_numpy()
    known = {"config": _configs(snapshot), "layers": _layer_lists(snapshot, digest[is_image])}
    return {name: np.where(is_image, codes[digest], -1) for name, codes in known.items()}


def _configs(snapshot: Snapshot) -> Any:
    """Return the code of each manifest's config, by the manifest's code; -1 where it has none of its own."""
    manifests = snapshot.manifests
    config, digest = manifests["config_digest"], manifests["digest"]
    said = (config.notna() & digest.notna()).to_numpy() & (config.array.codes != _code_of(config, _EMPTY_CONFIG))
    codes = np.full(len(digest.cat.categories), -1, dtype="int64")
    # backwards, so that the first of several stays
    codes[digest.array.codes[said][::-1]] = config.array.codes[said][::-1]
    return codes


def _code_of(column: pd.Series[Any], text: str) -> int:
    """Return the code of a category, or -2 where there is none."""
    names = column.cat.categories.to_numpy(object)
    # Sorted as a rule, so that it stands where a search ends; else every one is looked at.
    place = int(np.searchsorted(names, text))
    if place < len(names) and names[place] == text:
        return place
    found = np.flatnonzero(names == text)
    return int(found[0]) if len(found) else -2


def _layer_lists(snapshot: Snapshot, manifests: Any) -> Any:
    """Return a number for each manifest with layers, equal where the ordered lists are, by the manifest's code.

    Where they may be equal, the lists are laid out as one binary value for each manifest, which Arrow
    then compares whole: exact, and without a Python loop.
    """
    digest = snapshot.blobs["digest"].cat
    wanted = np.zeros(len(digest.categories), dtype=bool)
    wanted[manifests] = True
    manifest, lengths, layers = _layers(snapshot.blobs, wanted)
    numbers = np.arange(len(manifest)) + len(manifest)
    # Lists of different sums differ; only the others are laid out, which are few.
    sums = np.diff(np.append(0, np.cumsum(layers, dtype="int64"))[np.append(0, np.cumsum(lengths))])
    alike = pd.Series(sums).duplicated(keep=False).to_numpy()
    numbers[alike] = _equal_lists(lengths[alike], layers[np.repeat(alike, lengths)])
    codes = np.full(len(digest.categories), -1, dtype="int64")
    codes[manifest] = numbers
    return codes


def _equal_lists(lengths: Any, values: Any) -> Any:
    """Return a number for each list, of those that stand one after the other: equal where the lists are."""
    values = np.ascontiguousarray(values, dtype="int32")
    offsets = np.append(0, np.cumsum(lengths)).astype("int64") * values.itemsize
    lists = pa.Array.from_buffers(pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(values)])
    return lists.dictionary_encode().indices.to_numpy()


def _layers(blobs: pd.DataFrame, wanted: Any) -> tuple[Any, Any, Any]:
    """Return the manifests that are wanted and have layers, how many each has, and the layers, in order."""
    repository, manifest, role, layer = (
        blobs[name].array.codes for name in ("repository", "manifest_digest", "role", "digest")
    )
    is_layer = role == blobs["role"].cat.categories.get_loc("layer")
    first = _changes(manifest)
    first |= _changes(repository)
    begins = np.flatnonzero(first)
    held = manifest[begins]
    position = blobs["position"].to_numpy("int64", na_value=-1)
    together = len(held) == len(pd.unique(pd.Series(repository[begins].astype("int64") * len(wanted) + held)))
    if not together or not ((position[1:] > position[:-1]) | first[1:]).all():
        return _shuffled_layers(blobs, np.flatnonzero(is_layer & (manifest >= 0) & wanted[manifest]))
    # A manifest of several repositories has the same layers in each: content decides, not place.
    kept = (held >= 0) & ~pd.Series(held).duplicated().to_numpy() & wanted[held]
    # by what is no layer, which is one in thirty
    others = np.searchsorted(begins, np.flatnonzero(~is_layer), side="right") - 1
    lengths = np.diff(np.append(begins, len(blobs))) - np.bincount(others, minlength=len(begins))
    is_layer &= np.repeat(kept, np.diff(np.append(begins, len(blobs))))
    kept &= lengths > 0
    return held[kept], lengths[kept], layer[is_layer]


def _shuffled_layers(blobs: pd.DataFrame, rows: Any) -> tuple[Any, Any, Any]:
    """Return what `_layers` does, of rows that do not stand in their order."""
    manifest, layer = (blobs[name].array.codes[rows] for name in ("manifest_digest", "digest"))
    edges = pd.DataFrame({"manifest": manifest, "position": blobs["position"].iloc[rows].array, "layer": layer})
    edges = edges.drop_duplicates(["manifest", "position"]).sort_values(["manifest", "position"])
    manifests, lengths = np.unique(edges["manifest"].to_numpy(), return_counts=True)
    return manifests, lengths, edges["layer"].to_numpy()


def _keepers(nodes: pd.DataFrame, bases: frozenset[str]) -> Any:
    """Return for each distinct content the one that stands for it: itself, or one that is directly equal.

    Equality by config and by layers may chain (A has B's config, B has C's layers, A and C have
    nothing in common), so a content that stands for others by config alone is not given up for
    its layers.
    """
    own = nodes.index.to_numpy()
    config, layers, order = (nodes[name].to_numpy() for name in ("config", "layers", "order"))
    keeper = own
    if "config" in bases:
        keeper = np.where(config >= 0, _first(nodes, "config", order), own)
    if "layers" not in bases:
        return keeper
    pinned = np.isin(own, keeper[layers != layers[keeper]])
    kept = keeper == own
    beyond = order.max(initial=0) + 1
    preferred = _first(nodes, "layers", order + np.where(pinned, -beyond, np.where(kept, 0, beyond)))
    leaves = kept & ~pinned & (layers >= 0) & ((config != config[preferred]) | (config < 0))
    keeper = np.where(leaves, preferred, keeper)
    return keeper[keeper]


def _first(nodes: pd.DataFrame, key: str, order: Any) -> Any:
    """Return for each content the one that comes first among those of its scope with the same key."""
    keys = nodes[key].to_numpy()
    group, distinct = pd.factorize(nodes["scope"].to_numpy() * (keys.max(initial=0) + 2) + keys + 1)
    return _first_of_each(group, len(distinct), np.argsort(order, kind="stable"))[group]


def _first_of_each(group: Any, count: int, preferred: Any) -> Any:
    """Return the row of each group that comes first in an order of rows."""
    first = np.empty(count, dtype="int64")
    first[group[preferred[::-1]]] = preferred[::-1]  # the last one written where the order runs backwards
    return first


def _duplicate_frame(tags: pd.DataFrame, found: Any, stays: Any, basis: Any) -> pd.DataFrame:
    """Return the frame of the tags found, of which those that stay are the representatives."""
    codes, distinct = pd.factorize(stays)
    named = tags.iloc[distinct]
    texts = pc.binary_join_element_wise(
        pa.array(named["repository"].astype("object"), pa.string(), from_pandas=True), _text_array(named["tag"]), ":"
    )
    frame = tags.iloc[found][_OF_DUPLICATES]
    order = _sorted_rows(_places(frame["repository"]), _ranks(texts)[codes], _tag_places(frame))
    frame, codes, basis = frame.iloc[order].reset_index(drop=True), codes[order], basis[order]
    representative = texts.take(pa.array(codes))
    phrases = pa.array(["same digest as ", "same config as ", "same layers as "])
    frame["basis"] = pd.Categorical.from_codes(basis, categories=list(BASES))
    frame["duplicate_of"] = _text_column(representative)
    frame["reason"] = _text_column(pc.binary_join_element_wise(phrases.take(pa.array(basis)), representative, ""))
    return frame


# -- columns as numbers, which sort and compare far sooner than texts --------------------------


def _places(names: pd.Series[Any]) -> Any:
    return names.array.codes.astype("int64")


def _moments(times: pd.Series[Any]) -> Any:
    """Return times as numbers that sort alike; what is missing comes last."""
    numbers = times.to_numpy("datetime64[us]").astype("int64")
    missing = times.isna().to_numpy()
    if missing.any():
        numbers[missing] = numbers[~missing].max(initial=0) + 1
    return numbers


def _text_array(texts: pd.Series[Any]) -> pa.Array:
    found = pa.array(texts, type=pa.string(), from_pandas=True)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _text_column(texts: pa.Array) -> Any:
    return pd.StringDtype().__from_arrow__(texts)


def _ranks(texts: pd.Series[Any] | pa.Array) -> Any:
    """Return numbers that sort as the texts do, missing ones last."""
    array = _text_array(texts) if isinstance(texts, pd.Series) else texts
    return pc.rank(array, tiebreaker="dense").to_numpy().astype("int64")


def _tag_places(tags: pd.DataFrame) -> Any:
    """Return numbers that sort as the tags of each repository do; those of different ones do not compare."""
    repository, texts = _places(tags["repository"]), _text_array(tags["tag"])
    begins = _changes(repository)
    # As registries list them, and `collect` keeps them: then the place in the table is the place among the tags.
    ascending = pc.less_equal(texts[:-1], texts[1:]).fill_null(False).to_numpy(zero_copy_only=False)
    if (ascending | begins[1:]).all() and begins.sum() == len(pd.unique(pd.Series(repository))):
        return np.arange(len(tags))
    return _ranks(texts)


def _changes(numbers: Any) -> Any:
    """Return where a number differs from the one before it; the first does."""
    return np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)]


def _sorted_rows(*keys: Any) -> Any:
    """Return the order of rows sorted by these whole numbers, the first counting most; equal rows stay as they are."""
    words: list[Any] = [np.zeros(len(keys[0]), dtype="int64")]
    free = 63
    for key in keys if len(keys[0]) else ():
        low = int(key.min())
        bits = (int(key.max()) - low).bit_length()
        if bits > free:
            # A sort takes as long as it has keys: as many as fit are put into one.
            words.append(key if bits > 63 else np.zeros(len(key), dtype="int64"))
            free = 63 if bits <= 63 else 0
        if bits <= free:
            words[-1] = (words[-1] << bits) | (key.astype("int64") - low)
            free -= bits
    return np.lexsort(words[::-1])


def _inverse(order: Any) -> Any:
    places = np.empty(len(order), dtype="int64")
    places[order] = np.arange(len(order))
    return places
