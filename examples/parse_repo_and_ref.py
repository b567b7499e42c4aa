"""Show how the name of a repository is parsed.

python examples/parse_repo_and_ref.py alpine:3
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import script_without_registry


@script_without_registry
@click.argument("repo", metavar="REPO[:TAG][@DIGEST]")
@click.option("--default-index", metavar="INDEX", help="Registry of a name without one; Docker Hub unless given.")
def parse_repo_and_ref(repo: str, default_index: str | None) -> dict[str, Any]:
    """Parse REPO, the name of a repository, with tag or digest; without either, the tag is latest."""
    return ra.parse_repo_and_ref(repo, default_index).to_dict()


if __name__ == "__main__":
    parse_repo_and_ref()
