"""Search a registry of the v1 interface.

python examples/v1/search.py registry.example.com/app
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("term", metavar="[INDEX/]TERM")
def search(term: str, connect: Connect) -> dict[str, Any]:
    """Search names and descriptions for TERM, over all pages."""
    named = ra.parse_repo(term)
    sought = named.local_name if named.registry.official else named.repository
    with connect(named.registry) as registry:
        return registry.v1.search(sought).to_dict()


if __name__ == "__main__":
    search()
