"""Show what an image of the v1 interface is built on.

python examples/v1/get_img_ancestry.py registry.example.com/team/app:1.0
"""

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo", metavar="REPO[:TAG]")
@click.argument("image_id", required=False)
def get_img_ancestry(repo: str, image_id: str | None, connect: Connect) -> list[str]:
    """Show the ids of an image and of all that it is built on, the topmost first.

    It is the image of TAG, or the one named by IMAGE_ID.
    """
    named = ra.parse_repo_and_tag(repo)
    with connect(named.registry) as registry:
        repository = registry.v1.repository(named.repository)
        return list(repository.ancestry(image_id or repository.image_id(named.tag)))


if __name__ == "__main__":
    get_img_ancestry()
