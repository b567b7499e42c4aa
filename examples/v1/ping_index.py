"""Ask a registry whether it speaks the v1 interface, by the registry's own name.

python examples/v1/ping_index.py registry.example.com
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("index")
def ping_index(index: str, connect: Connect) -> dict[str, Any]:
    """Ask INDEX, a registry, whether it speaks v1."""
    with connect(ra.parse_index(index)) as registry:
        return registry.v1.ping().to_dict()


if __name__ == "__main__":
    ping_index()
