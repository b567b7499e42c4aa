"""Ask a registry whether it speaks the v2 interface.

python examples/v2/ping.py quay.io/team/app
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo")
def ping(repo: str, connect: Connect) -> dict[str, Any]:
    """Ask the registry of REPO whether it speaks v2: status 200, or 401 where it wants a login."""
    with connect(ra.parse_repo(repo).registry) as registry:
        return registry.ping().to_dict()


if __name__ == "__main__":
    ping()
