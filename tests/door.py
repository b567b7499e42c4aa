"""The way into one repository of a sandbox, over HTTP, for the tests of the sandbox.

Used so::

    with serving(page=7) as door:
        door.push_image("latest")
        door("GET", "tags/list").json()
        # {'name': 'team/app', 'tags': ['latest']}
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import requests

from regaudit.manifest import OCI_CONFIG, OCI_EMPTY, OCI_MANIFEST
from regaudit.sandbox.server import Sandbox

OCTETS = {"Content-Type": "application/octet-stream"}
SPDX = "application/spdx+json"
ABSENT = "sha256:" + "0" * 64


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def dump(document):
    return json.dumps(document).encode()


class Door:
    """The way into one repository of a sandbox, over HTTP."""

    def __init__(self, sandbox, repository="team/app"):
        self.sandbox = sandbox
        self.repository = repository
        self.session = requests.Session()
        self.session.trust_env = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.close()

    def __call__(self, method, path, **options):
        path = path if path.startswith("/") else f"/v2/{self.repository}/{path}"
        return self.session.request(method, self.sandbox.url + path, timeout=10, **options)

    def push_blob(self, data):
        digest = sha256(data)
        assert self("POST", f"blobs/uploads/?digest={digest}", data=data, headers=OCTETS).status_code == 201
        return {"mediaType": "application/octet-stream", "digest": digest, "size": len(data)}

    def put(self, reference, document, media_type=OCI_MANIFEST, **options):
        raw = (
            document if isinstance(document, bytes) else dump({"schemaVersion": 2, "mediaType": media_type, **document})
        )
        return self("PUT", f"manifests/{reference}", data=raw, headers={"Content-Type": media_type}, **options)

    def push_image(self, *tags, seed=b"layer", **fields):
        config = {**self.push_blob(dump({"seed": seed.decode()})), "mediaType": OCI_CONFIG}
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config,
            "layers": [self.push_blob(seed)],
            **fields,
        }
        raw = dump(document)
        for reference in tags or [sha256(raw)]:
            assert self.put(reference, raw).status_code == 201
        return {"mediaType": OCI_MANIFEST, "digest": sha256(raw), "size": len(raw)}

    def push_referrer(self, subject, purpose=SPDX, **fields):
        config = {**self.push_blob(b"{}"), "mediaType": OCI_EMPTY}
        document = {"schemaVersion": 2, "config": config, "layers": [], "subject": subject, "artifactType": purpose}
        raw = dump({**document, "mediaType": OCI_MANIFEST, **fields})
        return sha256(raw), self.put(sha256(raw), raw)

    def begin(self):
        return self("POST", "blobs/uploads/").headers["Location"]


def code(reply):
    """Return the code of an error reply, after checking that its body is the specification's."""
    assert reply.headers["Content-Type"].startswith("application/json")
    (error,) = reply.json()["errors"]
    assert set(error) <= {"code", "message", "detail"}
    assert error["message"]
    return error["code"]


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[Door]:
    """Open the door of a sandbox with options, and close both at the end."""
    with Sandbox(**options) as sandbox, Door(sandbox) as door:
        yield door
