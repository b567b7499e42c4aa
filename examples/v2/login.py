"""Log in to a registry of the v2 interface, and see what is granted.

python examples/v2/login.py -u ada quay.io --scope repository:team/app:pull,push
"""

from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("index", required=False)
@click.option("--scope", metavar="SCOPE", help="Rights to ask for, such as repository:team/app:pull,push.")
def login(index: str | None, scope: str | None, connect: Connect) -> dict[str, Any]:
    """Log in to INDEX, a registry, and say what was granted; nothing is stored, and no secret printed."""
    with connect(ra.parse_index(index)) as registry:
        found = registry.login(scope)
    info = {} if found.scheme == "none" else {"type": found.scheme, "username": found.username}
    return {"status": "Login Succeeded", "authInfo": info, "granted": found.granted, "missing": found.missing}


if __name__ == "__main__":
    login()
