"""Download a whole image into a folder.

python examples/v2/download_img.py alpine:3 alpine --platform linux/arm64
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo", metavar="REPO[:TAG][@DIGEST]")
@click.argument("folder", required=False)
@click.option("--platform", metavar="OS/ARCH", help="Of an index, this image alone (linux/arm64).")
def download_img(repo: str, folder: str | None, platform: str | None, connect: Connect) -> dict[str, Any]:
    """Download an image into FOLDER, an OCI image layout; run again, it goes on with what is missing."""
    named = ra.parse_repo_and_ref(repo)
    path = folder or named.repository.replace("/", "-")
    with connect(named.registry) as registry:
        image = registry.repository(named.repository).download_image(named.digest or named.tag, path, platform=platform)
    return {**image.to_dict(), "path": path}


if __name__ == "__main__":
    download_img()
