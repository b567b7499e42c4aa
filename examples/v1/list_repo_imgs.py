"""List the images of a repository of the v1 interface.

python examples/v1/list_repo_imgs.py registry.example.com/team/app
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo")
def list_repo_imgs(repo: str, connect: Connect) -> list[dict[str, Any]]:
    """List all images of REPO by their ids."""
    named = ra.parse_repo(repo)
    with connect(named.registry) as registry:
        return [image.to_dict() for image in registry.v1.repository(named.repository).images()]


if __name__ == "__main__":
    list_repo_imgs()
