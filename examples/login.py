"""Try a user name and a password at a registry, whichever interface it speaks.

python examples/login.py -u ada quay.io
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
        if registry.version == "v1":
            return registry.v1.login().to_dict()
        found = registry.login()
    info = {} if found.scheme == "none" else {"type": found.scheme, "username": found.username}
    return {"status": "Login Succeeded", "authInfo": info}


if __name__ == "__main__":
    login()
