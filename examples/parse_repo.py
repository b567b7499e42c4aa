"""Show how the name of a repository is parsed.

python examples/parse_repo.py quay.io/team/app
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import script_without_registry


@script_without_registry
@click.argument("repo", metavar="REPO")
@click.option("--default-index", metavar="INDEX", help="Registry of a name without one; Docker Hub unless given.")
def parse_repo(repo: str, default_index: str | None) -> dict[str, Any]:
    """Parse REPO, the name of a repository, without tag or digest."""
    return ra.parse_repo(repo, default_index).to_dict()


if __name__ == "__main__":
    parse_repo()
