"""Ask a registry whether it is there, and which interface it speaks.

python examples/ping.py quay.io/team/app
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo")
def ping(repo: str, connect: Connect) -> dict[str, Any]:
    """Ask the registry of REPO whether it is there, by the newest interface that it speaks."""
    with connect(ra.parse_repo(repo).registry) as registry:
        version = registry.version
        answer = registry.ping() if version == "v2" else registry.v1.ping()
    return {"version": version, **answer.to_dict()}


if __name__ == "__main__":
    ping()
