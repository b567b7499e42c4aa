"""Store a manifest under a tag or its digest.

python examples/v2/put_manifest.py registry.example.com/team/app:1.0 manifest.json
"""

from pathlib import Path
from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo", metavar="REPO[:TAG|@DIGEST]")
@click.argument("file")
@click.option("--media-type", metavar="TYPE", help="What FILE says of itself unless given.")
def put_manifest(repo: str, file: str, media_type: str | None, connect: Connect) -> dict[str, Any]:
    """Store the manifest in FILE byte for byte; the blobs that it names must be there."""
    named, raw = ra.parse_repo_and_ref(repo), Path(file).read_bytes()
    kind = media_type or ra.parse_manifest(raw).media_type
    with connect(named.registry) as registry:
        digest = registry.repository(named.repository).put_manifest(named.digest or named.tag, raw, kind)
    return {"digest": digest, "mediaType": kind}


if __name__ == "__main__":
    put_manifest()
