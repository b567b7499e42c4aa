"""Show the image id of a tag.

python examples/v1/get_img_id.py registry.example.com/team/app:1.0
"""

import click

import regaudit as ra
from regaudit.errors import UsageError
from regaudit.script import Connect, script


@script
@click.argument("repo", metavar="REPO[:TAG]")
def get_img_id(repo: str, connect: Connect) -> str:
    """Show the id of the image that a tag names."""
    named = ra.parse_repo_and_tag(repo)
    if named.tag is None:
        raise UsageError(f"{repo} has a digest, which v1 does not know: write REPO:TAG")
    with connect(named.registry) as registry:
        return registry.v1.repository(named.repository).image_id(named.tag)


if __name__ == "__main__":
    get_img_id()
