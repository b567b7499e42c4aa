"""One image as a snapshot knows it: what `docker inspect` shows, and its layers, history and surroundings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from regaudit.errors import BadManifest, UsageError
from regaudit.inventory.stored import blob_sizes, total
from regaudit.manifest import ImageConfig, parse_image_config
from regaudit.reference import ATTACHED_TAG, Digest, attached_tag
from regaudit.text import (
    clean,
    displayed,
    escape,
    html_summary,
    html_table,
    human_age,
    human_bytes,
    isoformat,
    parse_time,
)

if TYPE_CHECKING:
    from regaudit.inventory.snapshot import Snapshot

# Of the config's container settings, those that say how an image runs. Its environment is shown too: it
# is public to whoever may pull.
SETTINGS = (
    "Entrypoint",
    "Cmd",
    "Env",
    "WorkingDir",
    "User",
    "ExposedPorts",
    "Volumes",
    "StopSignal",
    "Healthcheck",
    "OnBuild",
)

# As deep as an audit reads.
_DEEPEST = 8
_SHOWN_ROWS = 60
_LONGEST_CELL = 300
_NEAR_NAMES = 5
_NAMED_SHARERS = 3


@dataclass(frozen=True, eq=False, slots=True)
class ImageDetails:
    """All that a snapshot knows of one image, index or artifact; made by `Snapshot.image`.

    Attributes
    ----------
    registry, repository, tag, digest : str
        Where it is. The tag is the one asked for, None where a digest was; the digest is None where a tag's manifest was not read, and of the v1 interface.
    tags : tuple of str
        All tags of the repository on this digest, sorted.
    facts : dict
        The row of the manifests table as plain values (kind, media_type, artifact_type, platform,
        created, created_source, manifest_bytes, content_bytes …), and image_id of the v1 interface.
    unique_bytes : int or None
        Manifests, configs and layers that nothing but this image, with its children, holds; None where a
        size is not known.
    labels, annotations : dict of str to str
        Of the config; of the manifest.
    settings : dict
        How it runs, from the config: Entrypoint, Cmd, Env, WorkingDir, User, ExposedPorts … as they stand there.
    author : str or None
        As the config names it.
    layers : pandas.DataFrame
        In order: position, digest, media_type, size_bytes, manifest_count and repository_count (who
        holds it, this image included), shared_with (the same in words: how many other manifests of this
        repository, and which other repositories), created_by (the line of the history that made it).
    history : pandas.DataFrame
        In order: created, created_by, comment, empty_layer, position (of the layer it made), size_bytes.
    platforms : pandas.DataFrame
        An index's children: position, platform, role, digest, kind, created, content_bytes, read.
    referrers : pandas.DataFrame
        What refers to it: digest, kind, artifact_type, tag, via {subject, tag}, content_bytes.
    indexes : tuple of str
        The digests of the repository's indexes that list it.
    timeline : pandas.DataFrame
        What happened when, oldest first: time, event.
    missing : tuple of str
        What is not known of it, and why; one sentence each.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None
    tags: tuple[str, ...]
    facts: Mapping[str, Any]
    taken_at: datetime
    layers: pd.DataFrame
    history: pd.DataFrame
    platforms: pd.DataFrame
    referrers: pd.DataFrame
    timeline: pd.DataFrame
    unique_bytes: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    author: str | None = None
    indexes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``registry/repository:tag`` or ``…@digest``, as it was asked for."""
        place = f"{self.registry}/{self.repository}"
        return f"{place}@{self.digest}" if self.tag is None else f"{place}:{self.tag}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values: tables are lists of rows, times RFC 3339, what is not known is None."""
        plain: dict[str, Any] = {
            "registry": self.registry,
            "repository": self.repository,
            "tag": self.tag,
            "digest": self.digest,
            "tags": list(self.tags),
            "facts": _plain(dict(self.facts)),
            "unique_bytes": self.unique_bytes,
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "settings": dict(self.settings),
            "author": self.author,
            "indexes": list(self.indexes),
            "missing": list(self.missing),
        }
        return plain | {name: [_plain(row) for row in frame.to_dict("records")] for name, frame in self._tables.items()}

    # -- for people ---------------------------------------------------------------------------

    @property
    def _tables(self) -> dict[str, pd.DataFrame]:
        names = ("layers", "history", "platforms", "referrers", "timeline")
        return {name: getattr(self, name) for name in names}

    def summary(self) -> dict[str, str]:
        """Return what is known of it as a whole, as texts by heading."""
        facts = self.facts
        size = human_bytes(facts.get("content_bytes"))
        alone = (
            ""
            if self.unique_bytes is None
            else f"; {human_bytes(self.unique_bytes)} with its manifests that nothing else holds"
        )
        created = facts.get("created")
        age = "not known"
        if created is not None:
            age = (
                f"{isoformat(created)} ({human_age(created, self.taken_at)} old, by its {facts.get('created_source')})"
            )
        lines = {
            "image": self.name,
            "digest": self.digest,
            "image id": facts.get("image_id"),
            "tags": ", ".join(self.tags) or "none",
            "kind": " ".join(str(facts[n]) for n in ("kind", "artifact_type", "platform") if facts.get(n)),
            "media type": facts.get("media_type"),
            "created": age,
            "size": size + alone,
            "author": self.author,
            "in indexes": ", ".join(self.indexes) or None,
            "not known": " ".join(self.missing) or None,
        }
        return {heading: clean(text, 600) for heading, text in lines.items() if text is not None}

    def sections(self) -> dict[str, tuple[list[str], list[list[str]]]]:
        """Return each table that is not empty as headings and texts, by its name; labels and settings as key and value."""
        pairs = {"labels": self.labels, "annotations": self.annotations, "settings": self.settings}
        sections = {
            name: (["key", "value"], [[clean(key, 200), _cell("", value)] for key, value in sorted(mapping.items())])
            for name, mapping in pairs.items()
            if mapping
        }
        for name, frame in self._tables.items():
            if len(frame):
                rows = frame.astype("object").to_dict("records")
                sections[name] = (list(frame.columns), [[_cell(key, v) for key, v in row.items()] for row in rows])
        return sections

    def __str__(self) -> str:
        lines = self.summary()
        width = max(map(len, lines))
        text = [f"{heading:<{width}}  {value}" for heading, value in lines.items()]
        for name, (headings, rows) in self.sections().items():
            text += ["", name, *_aligned(headings, rows[:_SHOWN_ROWS])]
            text += [f"and {len(rows) - _SHOWN_ROWS:,} more"] if len(rows) > _SHOWN_ROWS else []
        return "\n".join(text)

    def __repr__(self) -> str:
        return f"<ImageDetails of {clean(self.name, 200)}>"

    def _repr_html_(self) -> str:
        parts = [html_summary(self.summary())]
        for name, (headings, cells) in self.sections().items():
            listed: list[list[object]] = [list(row) for row in cells[:_SHOWN_ROWS]]
            more = f"<p>and {len(cells) - _SHOWN_ROWS:,} more</p>" if len(cells) > _SHOWN_ROWS else ""
            parts.append(
                f"<details><summary>{escape(name)} ({len(cells):,})</summary>{html_table(headings, listed)}{more}</details>"
            )
        return displayed("".join(parts))


def image_details(snapshot: Snapshot, name: str) -> ImageDetails:
    """Return all that a snapshot knows of one image: see `Snapshot.image`."""
    repository, tag, digest = _parse(snapshot, name)
    tags = snapshot.tags[snapshot.tags["repository"] == repository]
    if tag is not None:
        row = tags[tags["tag"] == tag]
        if row.empty:
            raise _no_such(snapshot, repository, tag, tags)
        known = row["digest"].iloc[0]
        if not isinstance(known, str):
            return _without_manifest(snapshot, repository, row)
        digest = known
    view = _View(snapshot, repository, str(digest), tag)
    if view.row is None:
        raise UsageError(f"the snapshot has no manifest {clean(digest, 100)} in {clean(repository, 200)}")
    return view.details()


# -- which one --------------------------------------------------------------------------------


def _parse(snapshot: Snapshot, name: str) -> tuple[str, str | None, str | None]:
    text = str(name).removeprefix(f"{snapshot.registry}/")
    repository, at, digest = text.partition("@")
    if at:
        return repository.rpartition(":")[0] or repository, None, Digest(digest)
    repository, colon, tag = text.rpartition(":")
    if not colon or "/" in tag or not repository:
        raise UsageError(f"{clean(name, 160)!r} names no image: write repository:tag or repository@sha256:…")
    return repository, tag, None


def _no_such(snapshot: Snapshot, repository: str, tag: str, tags: pd.DataFrame) -> UsageError:
    where = clean(repository, 200)
    if tags.empty:
        known = "and holds no tag" if repository in snapshot.repositories else "which the snapshot does not have"
        return UsageError(f"{clean(tag, 128)!r} is not in {where}, {known}")
    newest = tags.sort_values("created", ascending=False)["tag"].head(_NEAR_NAMES)
    return UsageError(f"{where} has no tag {clean(tag, 128)!r}; its newest are {clean(', '.join(newest), 400)}")


def _without_manifest(snapshot: Snapshot, repository: str, row: pd.DataFrame) -> ImageDetails:
    """Return what is known of a tag whose manifest was not read, or that the v1 interface told of."""
    facts = _row(row)
    tag = str(facts["tag"])
    if facts.get("image_id"):
        why = "The v1 interface names an image id; it tells no digest, and not what images share."
    else:
        problems = snapshot.problems
        mine = problems[(problems["repository"] == repository) & (problems["identifier"] == tag)]
        why = (
            f"Its manifest was not read: {clean(mine['message'].iloc[0], 300)}."
            if len(mine)
            else "Its manifest was not read."
        )
    empty = {name: pd.DataFrame(columns=list(columns)) for name, columns in _COLUMNS.items()}
    return ImageDetails(
        registry=snapshot.registry,
        repository=repository,
        tag=tag,
        digest=None,
        tags=(tag,),
        facts=facts,
        taken_at=snapshot.taken_at,
        missing=(why,),
        **(empty | {"timeline": _timeline(row, (), facts)}),
    )


_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "layers": (
        "position",
        "digest",
        "media_type",
        "size_bytes",
        "manifest_count",
        "repository_count",
        "shared_with",
        "created_by",
    ),
    "history": ("created", "created_by", "comment", "empty_layer", "position", "size_bytes"),
    "platforms": ("position", "platform", "role", "digest", "kind", "created", "content_bytes", "read"),
    "referrers": ("digest", "kind", "artifact_type", "tag", "via", "content_bytes"),
    "timeline": ("time", "event"),
}


# -- looking ----------------------------------------------------------------------------------


class _View:
    """A snapshot seen from one manifest. Rows are found by the codes of the categories: a comparison of integers."""

    def __init__(self, snapshot: Snapshot, repository: str, digest: str, tag: str | None) -> None:
        self.snapshot, self.repository, self.digest, self.tag = snapshot, repository, digest, tag
        self.manifests = self._mine(snapshot.manifests)
        self.children = self._mine(snapshot.children)
        self.tags = self._mine(snapshot.tags)
        found = self.manifests[self.manifests["digest"] == digest]
        self.row = None if found.empty else found.head(1)

    def _mine(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["repository"] == self.repository]

    def details(self) -> ImageDetails:
        assert self.row is not None  # noqa: S101 -- whoever calls has looked
        facts = _row(self.row)
        config, missing = self._config(facts)
        layers = self._layers()
        history = _history(config, layers)
        tags = self.tags[self.tags["digest"] == self.digest].sort_values("tag")
        return ImageDetails(
            registry=self.snapshot.registry,
            repository=self.repository,
            tag=self.tag,
            digest=self.digest,
            tags=tuple(tags["tag"]),
            facts=facts,
            taken_at=self.snapshot.taken_at,
            unique_bytes=self._unique_bytes(),
            labels=_fields(facts.get("labels")),
            annotations=_fields(facts.get("annotations")),
            settings=_settings(config),
            author=None if config is None else config.author,
            layers=_with_commands(layers, history),
            history=history,
            platforms=self._platforms(),
            referrers=self._referrers(),
            indexes=tuple(
                self.children.loc[self.children["digest"] == self.digest, "index_digest"].astype(str).unique()
            ),
            timeline=_timeline(tags, () if config is None else config.history, facts),
            missing=(*missing, *self._unread()),
        )

    def _config(self, facts: Mapping[str, Any]) -> tuple[ImageConfig | None, tuple[str, ...]]:
        if facts["kind"] == "legacy":
            return None, ("Schema 1 declares no sizes, and its history is in its manifest.",)
        if facts["kind"] == "index":
            return None, ()
        document = self.snapshot.documents.get(str(facts["config_digest"]))
        if document is None and facts["kind"] != "image":
            return None, ()
        if document is None:
            return None, ("Its config is not among the documents of the snapshot: history and settings are not known.",)
        try:
            return parse_image_config(document.raw), ()
        except BadManifest as error:
            return None, (f"Its config cannot be read: {clean(error, 200)}.",)

    def _unread(self) -> tuple[str, ...]:
        if self.repository not in self.snapshot.unread:
            return ()
        return ("Something in the repository was not read: tags, indexes and referrers may be missing here.",)

    def _layers(self) -> pd.DataFrame:
        blobs = self.snapshot.blobs
        mine = self._mine(blobs[blobs["manifest_digest"] == self.digest])
        layers = mine[mine["role"] == "layer"].sort_values("position").drop_duplicates("position")
        code = blobs["digest"].cat.codes.to_numpy()
        wanted = np.zeros(len(blobs["digest"].cat.categories) + 1, dtype=bool)
        wanted[layers["digest"].cat.codes.to_numpy()] = True
        wanted[-1] = False
        edges = blobs.loc[wanted[code], ["repository", "manifest_digest", "digest"]]
        held = {
            name: edges[name].cat.codes.groupby(edges["digest"].astype("string")).nunique()
            for name in edges.columns[:2]
        }
        digest = layers["digest"].astype("string")
        return pd.DataFrame(
            {
                "position": layers["position"],
                "digest": digest,
                "media_type": layers["media_type"].astype("string"),
                "size_bytes": layers["size_bytes"],
                "manifest_count": digest.map(held["manifest_digest"]).astype("Int64"),
                "repository_count": digest.map(held["repository"]).astype("Int64"),
                "shared_with": digest.map(self._sharers(edges)).astype("string"),
            }
        ).reset_index(drop=True)

    def _sharers(self, edges: pd.DataFrame) -> dict[str, str]:
        """Return who else holds each digest: other manifests here, counted, and other repositories by name."""
        each = edges.drop_duplicates().astype("object")
        sharers = {}
        for digest, held in each.groupby("digest"):
            here = int((held["repository"] == self.repository).sum()) - 1
            others = sorted(set(held["repository"]) - {self.repository})
            named = [f"{here:,} more here"] if here > 0 else []
            named += others[:_NAMED_SHARERS]
            named += [f"{len(others) - _NAMED_SHARERS:,} more repositories"] if len(others) > _NAMED_SHARERS else []
            sharers[str(digest)] = clean(", ".join(named), _LONGEST_CELL)
        return sharers

    def _platforms(self) -> pd.DataFrame:
        mine = self.children[self.children["index_digest"] == self.digest].sort_values("position")
        facts = self.manifests[["digest", "kind", "created", "content_bytes"]].drop_duplicates("digest")
        facts = facts[facts["digest"].isin(mine["digest"])].assign(read=True)
        rows = mine[["position", "platform", "role", "digest"]].astype({"digest": "string"})
        merged = rows.merge(facts.astype({"digest": "string"}), on="digest", how="left")
        read = merged["read"].astype("boolean").fillna(value=False)
        texts = dict.fromkeys(("platform", "role", "kind"), "string")
        return merged.assign(read=read).astype(texts)[list(_COLUMNS["platforms"])]

    def _referrers(self) -> pd.DataFrame:
        by_subject = self.manifests[self.manifests["subject_digest"] == self.digest]
        tag_of = self.tags.drop_duplicates("digest").set_index(
            self.tags.drop_duplicates("digest")["digest"].astype("string")
        )
        digest = by_subject["digest"].astype("string")
        first = by_subject.assign(tag=digest.map(tag_of["tag"]), via="subject", digest=digest)
        base = attached_tag(Digest(self.digest))
        near = self.tags[self.tags["tag"].str.startswith(base)]
        attached = near[near["tag"].str.fullmatch(ATTACHED_TAG)]
        second = attached.assign(via="tag", artifact_type=pd.NA, digest=attached["digest"].astype("string"))
        names = list(_COLUMNS["referrers"])
        parts = [part[names].astype("object") for part in (first, second) if len(part)]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)

    def _unique_bytes(self) -> int | None:
        """Return the bytes that only this manifest and what is below it hold, in the registry as read.

        None where the size of one of these is not known.
        """
        snapshot = self.snapshot
        family = self._family()
        everything = snapshot.manifests
        code, place = (everything[name].cat.codes.to_numpy() for name in ("digest", "repository"))
        width = len(everything["digest"].cat.categories)
        inside = np.zeros(width + 1, dtype=bool)
        inside[everything["digest"].cat.categories.get_indexer(family)] = True
        inside[-1] = False
        here = everything["repository"].cat.categories.get_loc(self.repository)
        elsewhere = np.zeros(width + 1, dtype=bool)
        elsewhere[code[inside[code] & (place != here)]] = True
        blobs = snapshot.blobs
        holder, item = (blobs[name].cat.codes.to_numpy() for name in ("manifest_digest", "digest"))
        mine = inside[holder] & (blobs["repository"] == self.repository).to_numpy()
        held = np.zeros(width + 1, dtype=bool)
        held[item[mine]] = True
        held[item[~mine]] = False
        held[:-1] |= inside[:-1] & ~elsewhere[:-1]
        sizes = blob_sizes(snapshot, with_manifests=True)[np.flatnonzero(held[:-1])]
        # A child that was not read has no size either, and nothing of it is known to be held.
        return None if (sizes[np.isin(np.flatnonzero(held[:-1]), item[mine])] < 0).any() else total(sizes)

    def _family(self) -> list[str]:
        """Return the digests of this manifest and of all that is below it."""
        family = {self.digest}
        level = {self.digest}
        for _ in range(_DEEPEST):
            rows = self.children[self.children["index_digest"].isin(level)]
            level = set(rows["digest"].dropna().astype(str)) - family
            if not level:
                break
            family |= level
        return sorted(family)


# -- from documents ---------------------------------------------------------------------------


def _history(config: ImageConfig | None, layers: pd.DataFrame) -> pd.DataFrame:
    """Return the history's lines, each beside the layer that it made: those that made none are marked so."""
    steps = () if config is None else config.history
    rows = []
    sizes = iter(zip(layers["position"], layers["size_bytes"], strict=True))
    for step in steps:
        empty = step.get("empty_layer") is True
        position, size = (None, None) if empty else next(sizes, (None, None))
        said = {name: step[name] if isinstance(step.get(name), str) else None for name in ("created_by", "comment")}
        moment = parse_time(step.get("created"))
        rows.append({"created": moment, **said, "empty_layer": empty, "position": position, "size_bytes": size})
    frame = pd.DataFrame(rows, columns=list(_COLUMNS["history"]))
    dtypes = {
        "created_by": "string",
        "comment": "string",
        "empty_layer": "boolean",
        "position": "Int64",
        "size_bytes": "Int64",
    }
    return frame.astype(dtypes).assign(created=pd.to_datetime(frame["created"], utc=True).astype("datetime64[us, UTC]"))


def _with_commands(layers: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    made = history.dropna(subset="position").set_index("position")["created_by"]
    # A history that is longer or shorter than the layers says of none which line made it.
    fits = len(made) == len(layers) and not history.loc[~history["empty_layer"], "position"].isna().any()
    commands = layers["position"].map(made) if fits else None
    return layers.assign(created_by=pd.Series(commands, index=layers.index, dtype="string"))


def _settings(config: ImageConfig | None) -> dict[str, Any]:
    if config is None:
        return {}
    document = config.to_dict()
    container = document.get("config")
    return {name: container[name] for name in SETTINGS if container.get(name)} if isinstance(container, dict) else {}


def _timeline(tags: pd.DataFrame, steps: tuple[dict[str, Any], ...], facts: Mapping[str, Any]) -> pd.DataFrame:
    moments = sorted(moment for step in steps if (moment := parse_time(step.get("created"))) is not None)
    events: list[tuple[Any, str]] = []
    if moments and moments[0] != moments[-1]:
        events.append((moments[0], "the oldest layer was made (a base image's, as a rule)"))
    events.append((facts.get("created"), f"created, by its {facts.get('created_source')}"))
    for column, words in (("pushed", "pushed"), ("pulled", "last pulled"), ("seen_at", "seen by this reading")):
        events += [(time, f"{words}: {tag}") for tag, time in zip(tags["tag"], tags[column], strict=True)]
    known = [(time, event) for time, event in events if time is not None and not pd.isna(time)]
    frame = pd.DataFrame(known, columns=list(_COLUMNS["timeline"]))
    frame["time"] = pd.to_datetime(frame["time"], utc=True).astype("datetime64[us, UTC]")
    return frame.sort_values("time", kind="stable", ignore_index=True)


# -- small things -----------------------------------------------------------------------------


def _row(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the one row of a frame as plain values; what is missing is None."""
    record = frame.astype("object").to_dict("records")[0]
    return {name: None if pd.isna(value) else value for name, value in record.items()}


def _fields(text: str | None) -> dict[str, str]:
    try:
        fields = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in fields.items()} if isinstance(fields, dict) else {}


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    values = {str(key): None if pd.isna(value) else value for key, value in row.items()}
    return {key: isoformat(value) if isinstance(value, datetime) else value for key, value in values.items()}


def _cell(column: str, value: Any) -> str:
    if isinstance(value, dict | list):
        return clean(json.dumps(value, ensure_ascii=False), _LONGEST_CELL)
    if value is None or pd.isna(value):
        return ""
    if column.endswith("_bytes"):
        return human_bytes(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(isoformat(value) if isinstance(value, datetime) else value, _LONGEST_CELL)


def _aligned(headings: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in [headings, *rows]
    ]
