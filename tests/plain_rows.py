"""What a reading's tables must be, worked out the obvious way: a dict for every row, and no thought of speed."""

from collections import Counter

from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.tables import DISCOVERIES, TABLES, columns_of
from regaudit.manifest import LARGEST_SIZE, Index, LegacyManifest, Manifest, believable
from regaudit.text import parse_time


class PlainRows:
    """Tables of what is given to it, as `Found` makes them."""

    def __init__(self, registry, taken_at):
        self.registry, self.taken_at = registry, taken_at
        self.manifests, self.discovered, self.configs, self.tags, self.missing = {}, {}, {}, {}, set()

    def add(self, repository, manifest, discovered_by):
        key = (repository, manifest.digest)
        self.manifests[key] = manifest
        known = self.discovered.get(key, discovered_by)
        self.discovered[key] = min(known, discovered_by, key=DISCOVERIES.index)

    def tables(self):
        ordered = sorted(self.manifests)
        rows = {
            "tags": [self._tag(*key) for key in sorted(self.tags)],
            "manifests": [self._manifest(*key) for key in ordered],
            "blobs": [row for key in ordered for row in self._blobs(*key)],
            "children": [row for key in ordered for row in self._children(*key)],
        }
        columns = {t: {c: [r.get(c) for r in rows.get(t, ())] for c in columns_of(t)} for t in TABLES}
        fields = {"taken_at": self.taken_at, "finished_at": self.taken_at, "patterns": (), "repositories": ()}
        snapshot = Snapshot.from_columns(columns, registry=self.registry, **fields)
        return {table: getattr(snapshot, table) for table in rows}

    def _place(self, repository):
        return {"registry": self.registry, "repository": repository}

    def _tag(self, repository, tag):
        digest = self.tags[repository, tag]
        row = {**self._place(repository), "tag": tag, "digest": digest, "pushed_source": "none"}
        if digest is None:
            return {**row, "kind": "unknown", "created_source": "none"}
        manifest = self.manifests[repository, digest]
        return {**row, "media_type": manifest.media_type, "kind": manifest.kind, **self._derived(repository, digest)}

    def _manifest(self, repository, digest):
        manifest = self.manifests[repository, digest]
        platform, artifact_type, labels = self._listed_platform(repository, digest), manifest.artifact_type, {}
        if isinstance(manifest, Manifest):
            config = self.configs.get(manifest.config.digest)
            artifact_type = artifact_type or (manifest.config.media_type if manifest.kind == "artifact" else None)
            if config is not None:
                platform = platform or (config.platform and str(config.platform))
                labels = config.labels
        return {
            **self._place(repository),
            "digest": digest,
            "media_type": manifest.media_type,
            "artifact_type": artifact_type,
            "kind": manifest.kind,
            "platform": platform,
            "manifest_bytes": len(manifest.raw),
            "layer_count": len(manifest.manifests if isinstance(manifest, Index) else manifest.layers),
            "tag_count": Counter((r, d) for (r, _), d in self.tags.items())[repository, digest],
            "config_digest": manifest.config.digest if isinstance(manifest, Manifest) else None,
            "subject_digest": manifest.subject.digest if manifest.subject else None,
            "discovered_by": self.discovered[repository, digest],
            "labels": as_json(labels),
            "annotations": as_json(dict(manifest.annotations)),
            **self._derived(repository, digest),
        }

    def _listed_platform(self, repository, digest):
        said = None
        for other, index in sorted(self.manifests):
            manifest = self.manifests[other, index]
            for child in manifest.manifests if other == repository and isinstance(manifest, Index) else ():
                if child.digest == digest and child.platform is not None:
                    said = str(child.platform)
        return said

    def _blobs(self, repository, digest):
        manifest = self.manifests[repository, digest]
        place = {**self._place(repository), "manifest_digest": digest}
        if isinstance(manifest, LegacyManifest):
            for position, layer in enumerate(manifest.layers, start=1):
                yield {**place, "position": position, "role": "layer", "digest": layer}
        elif isinstance(manifest, Manifest):
            for position, blob in enumerate(manifest.blobs):
                about = {"digest": blob.digest, "media_type": blob.media_type, "size_bytes": blob.size}
                yield {**place, "position": position, "role": "layer" if position else "config", **about}

    def _children(self, repository, digest):
        manifest = self.manifests[repository, digest]
        for position, child in enumerate(manifest.manifests if isinstance(manifest, Index) else ()):
            yield {
                **self._place(repository),
                "index_digest": digest,
                "position": position,
                "digest": child.digest,
                "platform": child.platform and str(child.platform),
                "size_bytes": child.size,
                "role": "attestation" if child.is_attestation else "image",
            }

    def _derived(self, repository, digest):
        created, source, blobs, complete = self._describe(repository, digest)
        total = sum(blobs.values())
        known = complete and total <= LARGEST_SIZE
        return {"created": created, "created_source": source, "content_bytes": total if known else None}

    def _describe(self, repository, digest):
        manifest = self.manifests[repository, digest]
        if isinstance(manifest, LegacyManifest):
            created = believable(manifest.created, self.taken_at)
            return created, "config" if created else "none", {}, False
        annotated = believable(parse_time(manifest.annotations.get("org.opencontainers.image.created")), self.taken_at)
        if isinstance(manifest, Manifest):
            config = self.configs.get(manifest.config.digest)
            created = believable(config.created, self.taken_at) if config else None
            source = "config" if created else "annotation" if annotated else "none"
            return created or annotated, source, {blob.digest: blob.size for blob in manifest.blobs}, True
        times, blobs, complete = [], {}, True
        for child in manifest.manifests:
            if (repository, child.digest) not in self.manifests:
                complete = complete and (repository, child.digest) in self.missing
                continue
            child_created, child_source, child_blobs, child_complete = self._describe(repository, child.digest)
            blobs |= child_blobs
            complete = complete and child_complete
            if child_created is not None and not child.is_attestation:
                times.append((child_created, child_source))
        if not times and annotated:
            times.append((annotated, "annotation"))
        return *max(times, default=(None, "none")), blobs, complete


def as_json(fields):
    import json

    return json.dumps(fields, sort_keys=True, ensure_ascii=False) if fields else None
