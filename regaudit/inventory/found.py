"""What a reading of the v2 interface has found so far, in little memory.

Of a manifest only its facts stay, as numbers in columns: about 110 bytes of a manifest, 16 of a blob's edge,
20 of a child's, 24 and the name of a tag; and each digest once.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.inventory.columns import (
    MISSING,
    NAT,
    Coded,
    Rows,
    Texts,
    Whole,
    frame,
    microseconds,
    ranges,
    ranks,
)
from regaudit.inventory.derived import Derived, Graph
from regaudit.inventory.tables import CREATED_SOURCES, DISCOVERIES, KINDS, PUSHED_SOURCES
from regaudit.manifest import (
    LARGEST_SIZE,
    AnyManifest,
    Descriptor,
    ImageConfig,
    Index,
    LegacyManifest,
    Manifest,
    believable,
)
from regaudit.text import parse_time

_CREATED_ANNOTATION = "org.opencontainers.image.created"
_KIND_CODES = {kind: code for code, kind in enumerate(KINDS)}
_INDEX, _LEGACY, _UNKNOWN = (_KIND_CODES[kind] for kind in ("index", "legacy", "unknown"))
# A repository and a digest make one number, by which all that is known of the two is found.
_REPOSITORY_SHIFT = 32
# Made once, as `manifest._STRICT` is.
_WRITER = json.JSONEncoder(sort_keys=True, ensure_ascii=False)


class Found:
    """The manifests, configs and tags that a reading has met.

    Whatever interrupts it: what was added is there as a whole or not at all.
    """

    def __init__(self, registry: str, taken_at: datetime) -> None:
        self.registry, self.taken_at = registry, taken_at
        self.digests, self.repositories, self.media_types = Texts(), Texts(), Texts()
        self.platforms, self.artifact_types, self.annotations, self.labels = Texts(), Texts(), Texts(), Texts()
        self.rows: dict[int, int] = {}
        self.discovered = bytearray()
        self.manifests = Rows(
            *("repository", "digest", "media_type", "artifact_type", "kind", "manifest_bytes", "layer_count"),
            *("config", "subject", "annotations", "clock", "content", "blobs", "children"),
        )
        self.blobs, self.blob_sizes = Rows("digest", "media_type", typecode="i"), array("q")
        self.children, self.child_sizes = Rows("digest", "platform", "attests", typecode="i"), array("q")
        self.configs: dict[int, int] = {}
        self.config_rows = Rows("created", "platform", "labels")
        self.missing: set[int] = set()
        self.tags: list[str] = []
        self.tag_rows = Rows("repository", "digest", "seen_at")

    def key(self, repository: str, digest: str) -> int:
        """Return the number by which a digest in a repository is known."""
        return self.repositories.code(repository) << _REPOSITORY_SHIFT | self.digests.code(digest)

    def knows(self, key: int, media_type: str | None = None) -> bool:
        """Return whether a manifest was met, of a media type where one is given."""
        row = self.rows.get(key)
        if row is None or media_type is None:
            return row is not None
        return self.manifests.value(row, "media_type") == self.media_types.find(media_type)

    def add(self, key: int, manifest: AnyManifest, discovered_by: str) -> None:
        """Take in a manifest that is not known yet."""
        blobs, children, content = 0, 0, MISSING
        if isinstance(manifest, Index):
            children = self._add_children(manifest.manifests)
        elif isinstance(manifest, LegacyManifest):
            blobs = self._add_layers(manifest.layers)
        else:
            blobs, content = self._add_blobs(manifest.blobs)
        self.manifests.add(*self._facts(key, manifest), content, blobs, children)
        self.discovered.append(DISCOVERIES.index(discovered_by))
        self.rows[key] = len(self.rows)  # only now it is there

    def _facts(self, key: int, manifest: AnyManifest) -> tuple[int, ...]:
        artifact_type, config, kind = manifest.artifact_type, MISSING, manifest.kind
        if isinstance(manifest, Manifest):
            config = self.digests.code(manifest.config.digest)
            artifact_type = artifact_type or (manifest.config.media_type if kind == "artifact" else None)
        return (
            key >> _REPOSITORY_SHIFT,
            self.digests.code(manifest.digest),
            self.media_types.code(manifest.media_type),
            self.artifact_types.code(artifact_type),
            _KIND_CODES[kind],
            len(manifest.raw),
            len(manifest.manifests if isinstance(manifest, Index) else manifest.layers),
            config,
            MISSING if manifest.subject is None else self.digests.code(manifest.subject.digest),
            self.annotations.code(_json(manifest.annotations)),
            microseconds(self._clock(manifest)),
        )

    def _clock(self, manifest: AnyManifest) -> datetime | None:
        """Return the time that a manifest itself tells: schema 1 in its history, the others as an annotation."""
        if isinstance(manifest, LegacyManifest):
            return believable(manifest.created, self.taken_at)
        annotated = manifest.annotations.get(_CREATED_ANNOTATION)
        return None if annotated is None else believable(parse_time(annotated), self.taken_at)

    def _add_blobs(self, blobs: tuple[Descriptor, ...]) -> tuple[int, int]:
        digest, media_type = self.digests.code, self.media_types.code
        packed = [code for blob in blobs for code in (digest(blob.digest), media_type(blob.media_type))]
        sizes = [blob.size for blob in blobs]
        self.blobs.add(*packed)
        self.blob_sizes.extend(sizes)
        # each distinct blob counts once; sizes are claims, and a sum beyond what a file system can hold is no size
        content = sum(dict(zip(packed[::2], sizes, strict=True)).values())
        return len(blobs), content if content <= LARGEST_SIZE else MISSING

    def _add_layers(self, layers: tuple[str, ...]) -> int:
        """Add the layers of schema 1, which declares neither types nor sizes."""
        self.blobs.add(*(code for layer in layers for code in (self.digests.code(layer), MISSING)))
        self.blob_sizes.extend([MISSING] * len(layers))
        return len(layers)

    def _add_children(self, children: tuple[Descriptor, ...]) -> int:
        for child in children:
            platform = None if child.platform is None else str(child.platform)
            self.children.add(self.digests.code(child.digest), self.platforms.code(platform), child.is_attestation)
        self.child_sizes.extend(child.size for child in children)
        return len(children)

    def find_again(self, key: int, discovered_by: str) -> None:
        """Note one more way in which a known manifest was found: the first of `DISCOVERIES` counts."""
        row = self.rows[key]
        self.discovered[row] = min(self.discovered[row], DISCOVERIES.index(discovered_by))

    def has_config(self, digest: str) -> bool:
        """Return whether a config was met."""
        return self.digests.find(digest) in self.configs

    def add_config(self, digest: str, config: ImageConfig) -> None:
        """Take in what an image config says."""
        created = microseconds(believable(config.created, self.taken_at))
        platform = None if config.platform is None else str(config.platform)
        row = len(self.config_rows)
        self.config_rows.add(created, self.platforms.code(platform), self.labels.code(_json(config.labels)))
        self.configs[self.digests.code(digest)] = row

    def add_tag(self, repository: str, tag: str, digest: str | None) -> None:
        """Take in what a tag is on, as of now; None where that is not known."""
        seen_at = time.time_ns() // 1000
        self.tags.append(tag)
        self.tag_rows.add(self.repositories.code(repository), self.digests.code(digest), seen_at)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables of tags, manifests, blobs and children: sorted, with one dictionary of digests."""
        return _Tables(self).all()


class _Tables:
    """Makes tables of what was found; the work is linear in it, but for the sorting of names."""

    def __init__(self, found: Found) -> None:
        self.found = found
        # What an interrupt cut off in the middle of its adding is behind the end of what counts.
        rows = len(found.rows)
        given = found.manifests.columns(rows)
        self.tag_rows = found.tag_rows.columns()
        self.blob_edges = found.blobs.columns(int(given["blobs"].sum()))
        self.child_edges = found.children.columns(int(given["children"].sum()))
        self._rank(given)
        order = np.lexsort((self.places[given["digest"]], self.repository_places[given["repository"]]))
        self.manifests = {name: values[order] for name, values in given.items()}
        self.discovered = np.frombuffer(found.discovered, dtype=np.uint8)[order]
        self.keys = self._keys(self.manifests["repository"], self.manifests["digest"])
        self.blob_starts, self.child_starts = ((np.cumsum(c) - c)[order] for c in (given["blobs"], given["children"]))
        self.child = self._children()
        self.derived = Derived(self._graph())
        self.tag_order, self.tag_manifests = self._sorted_tags()

    def _rank(self, given: dict[str, Any]) -> None:
        """Sort the digests and the repositories that some row has."""
        found = self.found
        used = [given["digest"], given["config"], given["subject"], self.tag_rows["digest"]]
        used += [self.blob_edges["digest"], self.child_edges["digest"]]
        dictionary, self.places = ranks(found.digests.all(), used)
        self.dictionary = pd.CategoricalDtype(pd.Index(dictionary, dtype=object))
        _, self.repository_places = ranks(found.repositories.all(), [given["repository"], self.tag_rows["repository"]])

    def _keys(self, repositories: Any, digests: Any) -> Whole:
        """Return numbers by which manifests sort as in their table."""
        high = self.repository_places[repositories].astype(np.int64) << _REPOSITORY_SHIFT
        return np.asarray(high | self.places[digests], dtype=np.int64)

    def _find(self, keys: Whole) -> Whole:
        """Return the rows of manifests, `MISSING` for what was not met."""
        if not len(self.keys):
            return np.full(len(keys), MISSING)
        rows = np.searchsorted(self.keys, keys)
        rows[rows == len(self.keys)] = 0
        return np.where(self.keys[rows] == keys, rows, MISSING)

    # -- edges --------------------------------------------------------------------------------

    def _children(self) -> dict[str, Any]:
        """Return the edges from indexes to their children, in the order of the table."""
        counts = self.manifests["children"]
        flat = ranges(self.child_starts, counts)
        index = np.repeat(np.arange(len(counts)), counts)
        edges = {name: values[flat] for name, values in self.child_edges.items()}
        repositories = self.manifests["repository"][index]
        absent = np.fromiter(self.found.missing, dtype=np.int64, count=len(self.found.missing))
        return {
            **edges,
            "index": index,
            "position": ranges(np.zeros_like(counts), counts),
            "size": _sizes(self.found.child_sizes)[flat],
            "row": self._find(self._keys(repositories, edges["digest"])),
            "absent": np.isin(repositories << _REPOSITORY_SHIFT | edges["digest"], absent),
        }

    def _graph(self) -> Graph:
        manifests = self.manifests
        return Graph(
            index=manifests["kind"] == _INDEX,
            legacy=manifests["kind"] == _LEGACY,
            clock=manifests["clock"],
            config_created=self._of_config("created", NAT),
            content=manifests["content"],
            blob_starts=self.blob_starts,
            blob_counts=manifests["blobs"],
            blobs=self.blob_edges["digest"],
            sizes=_sizes(self.found.blob_sizes),
            child_starts=np.cumsum(manifests["children"]) - manifests["children"],
            child_counts=manifests["children"],
            child=self.child["row"],
            attests=self.child["attests"] > 0,
            sparse=self.child["absent"],
        )

    def _of_config(self, name: str, missing: int) -> Whole:
        """Return, for every manifest, what its config says."""
        configs = self.found.configs
        rows = np.full(len(self.found.digests) + 1, MISSING)
        rows[np.fromiter(configs, dtype=np.int64, count=len(configs))] = np.fromiter(configs.values(), np.int64)
        values = np.append(self.found.config_rows.columns()[name], missing)
        return np.asarray(values[rows[self.manifests["config"]]], dtype=np.int64)

    # -- tables -------------------------------------------------------------------------------

    def all(self) -> dict[str, pd.DataFrame]:
        made = {
            "tags": self._tags(),
            "manifests": self._manifest_columns(),
            "blobs": self._blob_columns(),
            "children": self._child_columns(),
        }
        return {name: self._frame(name, columns) for name, columns in made.items()}

    def _frame(self, table: str, columns: dict[str, Any]) -> pd.DataFrame:
        rows = len(columns["repository"])
        place = {
            "registry": Coded(np.zeros(rows, dtype=np.int8), [self.found.registry]),
            "repository": Coded(columns["repository"], self.found.repositories.all()),
        }
        return frame(table, rows, {**columns, **place}, self.dictionary)

    def _sorted_tags(self) -> tuple[Whole, Whole]:
        """Return the order of the tags by repository and name, and the row of the manifest that each is on."""
        rows = self.tag_rows
        names = pa.array(self.found.tags[: len(rows["digest"])], pa.large_string())
        keys = pa.table({"repository": self.repository_places[rows["repository"]], "tag": names})
        order = pc.sort_indices(keys, sort_keys=[("repository", "ascending"), ("tag", "ascending")]).to_numpy()
        repositories, digests = rows["repository"][order], rows["digest"][order]
        manifests = self._find(self._keys(repositories, digests))
        return order, np.where(digests == MISSING, MISSING, manifests)

    def _tags(self) -> dict[str, Any]:
        order, manifests = self.tag_order, self.tag_manifests
        rows = {name: values[order] for name, values in self.tag_rows.items()}
        of = _Of(manifests)
        return {
            "repository": rows["repository"],
            "tag": np.array([*self.found.tags, None], dtype=object)[order],
            "digest": self.places[rows["digest"]],
            "media_type": Coded(of(self.manifests["media_type"], MISSING), self.found.media_types.all()),
            "kind": of(self.manifests["kind"], _UNKNOWN),
            "created": of(self.derived.created, NAT),
            "created_source": of(self.derived.source, CREATED_SOURCES.index("none")),
            "pushed_source": np.full(len(order), PUSHED_SOURCES.index("none")),
            "content_bytes": of(self.derived.content, MISSING),
            "seen_at": rows["seen_at"],
        }

    def _manifest_columns(self) -> dict[str, Any]:
        found, manifests = self.found, self.manifests
        on_them = self.tag_manifests[self.tag_manifests >= 0]
        return {
            "repository": manifests["repository"],
            "digest": self.places[manifests["digest"]],
            "media_type": Coded(manifests["media_type"], found.media_types.all()),
            "artifact_type": Coded(manifests["artifact_type"], found.artifact_types.all()),
            "kind": manifests["kind"],
            "platform": Coded(self._platforms(), found.platforms.all()),
            "created": self.derived.created,
            "created_source": self.derived.source,
            "manifest_bytes": manifests["manifest_bytes"],
            "content_bytes": self.derived.content,
            "layer_count": manifests["layer_count"],
            "tag_count": np.bincount(on_them, minlength=len(self.keys)),
            "config_digest": self.places[manifests["config"]],
            "subject_digest": self.places[manifests["subject"]],
            "discovered_by": self.discovered,
            "labels": Coded(self._of_config("labels", MISSING), found.labels.all()),
            "annotations": Coded(manifests["annotations"], found.annotations.all()),
        }

    def _platforms(self) -> Whole:
        """Return the platform of each manifest: as the last index of its repository says, or else as its config does."""
        platforms = self._of_config("platform", MISSING)
        said = (self.child["platform"] >= 0) & (self.child["row"] >= 0)
        platforms[self.child["row"][said]] = self.child["platform"][said]
        return platforms

    def _blob_columns(self) -> dict[str, Any]:
        counts = self.manifests["blobs"]
        flat = ranges(self.blob_starts, counts)
        manifest = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        # schema 1 has no config, and its layers count from 1 all the same
        first = (self.manifests["kind"] == _LEGACY).astype(np.int64)
        position = ranges(first, counts)
        return {
            "repository": self.manifests["repository"].astype(np.int32)[manifest],
            "manifest_digest": self.places[self.manifests["digest"]][manifest],
            "position": position,
            "role": (position > 0).astype(np.int8),
            "digest": self.places[self.blob_edges["digest"][flat]],
            "media_type": Coded(self.blob_edges["media_type"][flat], self.found.media_types.all()),
            "size_bytes": _sizes(self.found.blob_sizes)[flat],
        }

    def _child_columns(self) -> dict[str, Any]:
        child = self.child
        return {
            "repository": self.manifests["repository"][child["index"]],
            "index_digest": self.places[self.manifests["digest"]][child["index"]],
            "position": child["position"],
            "digest": self.places[child["digest"]],
            "platform": Coded(child["platform"], self.found.platforms.all()),
            "size_bytes": child["size"],
            "role": child["attests"],
        }


class _Of:
    """Looks up, for every tag, a column of the manifest that it is on."""

    def __init__(self, rows: Whole) -> None:
        self._rows = rows

    def __call__(self, column: Whole, missing: int) -> Whole:
        return np.append(column, missing)[self._rows]


def _sizes(packed: array[int]) -> Whole:
    return np.frombuffer(packed, dtype=np.int64)


def _json(fields: Mapping[str, str]) -> str | None:
    return _WRITER.encode(dict(fields)) if fields else None


__all__ = ["Found"]
