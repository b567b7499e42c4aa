"""Show the image JSON of an image of the v1 interface.

python examples/v1/get_img_json.py registry.example.com/team/app:1.0
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo", metavar="REPO[:TAG]")
@click.argument("image_id", required=False)
def get_img_json(repo: str, image_id: str | None, connect: Connect) -> dict[str, Any]:
    """Show what is known of an image, its image JSON.

    It is the image of TAG, or the one named by IMAGE_ID.
    """
    named = ra.parse_repo_and_tag(repo)
    with connect(named.registry) as registry:
        repository = registry.v1.repository(named.repository)
        return repository.image(image_id or repository.image_id(named.tag)).to_dict()


if __name__ == "__main__":
    get_img_json()
