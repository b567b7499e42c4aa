"""Download the layer of an image of the v1 interface.

python examples/v1/download_img_layer.py registry.example.com/team/app:1.0
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo", metavar="REPO[:TAG]")
@click.argument("image_id", required=False)
@click.option("-o", "--output", metavar="FILE", help="Twelve characters of the id and .layer unless given.")
def download_img_layer(repo: str, image_id: str | None, output: str | None, connect: Connect) -> dict[str, Any]:
    """Download the topmost layer of an image, verified by what the registry tells of it.

    It is the image of TAG, or the one named by IMAGE_ID.
    """
    named = ra.parse_repo_and_tag(repo)
    with connect(named.registry) as registry:
        repository = registry.v1.repository(named.repository)
        found = image_id or repository.image_id(named.tag)
        path = output or f"{found[:12]}.layer"
        layer = repository.download_layer(found, path)
    return {"imgId": found, "size": layer.size_bytes, "verifiedBy": layer.verified_by, "path": path}


if __name__ == "__main__":
    download_img_layer()
