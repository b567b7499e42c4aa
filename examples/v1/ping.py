"""Ask a registry whether it speaks the v1 interface.

python examples/v1/ping.py registry.example.com/team/app
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo")
def ping(repo: str, connect: Connect) -> dict[str, Any]:
    """Ask the registry of REPO whether it speaks v1."""
    with connect(ra.parse_repo(repo).registry) as registry:
        return registry.v1.ping().to_dict()


if __name__ == "__main__":
    ping()
