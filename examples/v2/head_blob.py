"""Show what a registry says of a blob, without reading it.

python examples/v2/head_blob.py alpine@sha256:…
"""

from typing import Any

import click

import regaudit as ra
from regaudit.errors import UsageError
from regaudit.script import Connect, script


@script
@click.argument("repo", metavar="REPO@DIGEST")
def head_blob(repo: str, connect: Connect) -> dict[str, Any]:
    """Show the size of a blob and every response on the way to it, redirects included."""
    named = ra.parse_repo_and_ref(repo)
    if named.digest is None:
        raise UsageError(f"{repo} names no blob: write REPO@DIGEST")
    with connect(named.registry) as registry:
        return registry.repository(named.repository).head_blob(named.digest).to_dict()


if __name__ == "__main__":
    head_blob()
