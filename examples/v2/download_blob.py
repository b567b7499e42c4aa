"""Download a blob, verified.

python examples/v2/download_blob.py alpine@sha256:… -o layer.tar.gz
"""

from typing import Any

import click

import regaudit as ra
from regaudit.errors import UsageError
from regaudit.script import Connect, script


@script
@click.argument("repo", metavar="REPO@DIGEST")
@click.option("-o", "--output", metavar="FILE", help="Twelve characters of the digest and .blob unless given.")
def download_blob(repo: str, output: str | None, connect: Connect) -> dict[str, Any]:
    """Download a blob into a file, which appears only when it is whole and hashes to its digest."""
    named = ra.parse_repo_and_ref(repo)
    if named.digest is None:
        raise UsageError(f"{repo} names no blob: write REPO@DIGEST")
    path = output or f"{named.digest.encoded[:12]}.blob"
    with connect(named.registry) as registry:
        size = registry.repository(named.repository).download_blob(named.digest, path)
    return {"digest": named.digest, "size": size, "path": path}


if __name__ == "__main__":
    download_blob()
