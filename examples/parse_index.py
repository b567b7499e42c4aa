"""Show how the name of a registry is parsed.

python examples/parse_index.py https://quay.io
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import script_without_registry


@script_without_registry
@click.argument("index", required=False)
def parse_index(index: str | None) -> dict[str, Any]:
    """Parse INDEX, the name of a registry; without one, Docker Hub's."""
    return ra.parse_index(index).to_dict()


if __name__ == "__main__":
    parse_index()
