"""Try a user name and a password at a registry of the v1 interface.

python examples/v1/login.py -u ada registry.example.com
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("index", required=False)
def login(index: str | None, connect: Connect) -> dict[str, Any]:
    """Log in to INDEX, a registry, and say whether user name and password are right; nothing is stored."""
    with connect(ra.parse_index(index)) as registry:
        return registry.v1.login().to_dict()


if __name__ == "__main__":
    login()
