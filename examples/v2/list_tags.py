"""List the tags of a repository.

python examples/v2/list_tags.py quay.io/team/app
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo")
def list_tags(repo: str, connect: Connect) -> dict[str, Any]:
    """List the tags of REPO, over all pages."""
    named = ra.parse_repo(repo)
    with connect(named.registry) as registry:
        return {"name": named.repository, "tags": registry.repository(named.repository).tags()}


if __name__ == "__main__":
    list_tags()
