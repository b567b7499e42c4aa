"""Upload a file as a blob.

python examples/v2/upload_blob.py registry.example.com/team/app layer.tar.gz
"""

from pathlib import Path
from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo")
@click.argument("file")
@click.option("--chunk-bytes", type=click.IntRange(min=1), metavar="N", help="Send it in chunks of this size.")
@click.option("--mount-from", metavar="NAME", help="A repository there that may have it; then nothing is sent.")
def upload_blob(
    repo: str, file: str, chunk_bytes: int | None, mount_from: str | None, connect: Connect
) -> dict[str, Any]:
    """Upload FILE to REPO, unless it is there; what breaks off is gone on with."""
    named, path = ra.parse_repo(repo), Path(file)
    with connect(named.registry) as registry:
        digest = registry.repository(named.repository).upload_blob(path, chunk_bytes=chunk_bytes, mount_from=mount_from)
    return {"digest": digest, "size": path.stat().st_size}


if __name__ == "__main__":
    upload_blob()
