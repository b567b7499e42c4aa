"""List the tags of a repository of the v1 interface.

python examples/v1/list_repo_tags.py registry.example.com/team/app
"""

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo")
def list_repo_tags(repo: str, connect: Connect) -> dict[str, str]:
    """List the tags of REPO, each with the id of its image."""
    named = ra.parse_repo(repo)
    with connect(named.registry) as registry:
        return registry.v1.repository(named.repository).tags()


if __name__ == "__main__":
    list_repo_tags()
