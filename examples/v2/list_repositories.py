"""List the repositories of a registry.

python examples/v2/list_repositories.py registry.example.com
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("index")
def list_repositories(index: str, connect: Connect) -> dict[str, Any]:
    """List the repositories of INDEX, a registry, over all pages; many hosted ones deny it."""
    with connect(ra.parse_index(index)) as registry:
        return {"repositories": registry.catalog()}


if __name__ == "__main__":
    list_repositories()
