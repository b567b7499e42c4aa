"""Small images, indexes and referrers, pushed through the project's own client to any registry."""

import json

from regaudit.manifest import OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from regaudit.reference import Digest

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def dump(document):
    return json.dumps(document).encode()


class Pushed:
    """A repository of a registry, to push small things to and to look at."""

    def __init__(self, door, name="team/app"):
        self.door, self.name = door, name
        self.repository = door.repository(name)

    def image(self, name, *tags, subject=None, config_type=OCI_CONFIG, layer=None):
        """Push an image of its own blobs, or an artifact about `subject`, and return its digest."""
        blobs = [dump({"os": "linux", "architecture": "amd64", "name": name}), layer or name.encode()]
        config, content = (self.repository.upload_blob(raw) for raw in blobs)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": config_type, "digest": config, "size": len(blobs[0])},
            "layers": [{"mediaType": LAYER, "digest": content, "size": len(blobs[1])}],
        }
        if subject is not None:
            document["subject"] = self.descriptor(subject)
        return self._put(document, OCI_MANIFEST, tags)

    def referrer(self, name, subject, *tags):
        return self.image(name, *tags, subject=subject, config_type=OCI_EMPTY)

    def index(self, name, children, *tags):
        entries = [self.descriptor(child) for child in children]
        return self._put(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, "annotations": {"name": name}},
            OCI_INDEX,
            tags,
        )

    def descriptor(self, digest):
        manifest = self.repository.manifest(digest)
        return {"mediaType": manifest.media_type, "digest": str(digest), "size": len(manifest.raw)}

    def tags(self):
        """Return what every tag points to, by reading it."""
        return {tag: str(self.repository.manifest(tag).digest) for tag in self.repository.tags()}

    def _put(self, document, media_type, tags):
        raw = dump(document)
        for reference in tags or (str(Digest.of(raw)),):
            self.repository.put_manifest(reference, raw, media_type)
        return str(Digest.of(raw))
