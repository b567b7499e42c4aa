"""Delete an image by digest, or a tag alone. There is no way back: `regaudit plan` has one.

python examples/v2/delete_manifest.py registry.example.com/team/app@sha256:…
"""

from typing import Any

import click

import regaudit as ra
from regaudit.errors import UsageError
from regaudit.script import Connect, script


@script
@click.argument("repo", metavar="REPO:TAG|REPO@DIGEST")
def delete_manifest(repo: str, connect: Connect) -> dict[str, Any]:
    """Delete a manifest with every tag on it, by its digest; or a tag alone, where the registry offers that."""
    named = ra.parse_reference(repo)
    if (named.tag is None) == (named.digest is None):  # no tag is implied here, and none is passed over
        raise UsageError(f"{repo} does not say what to delete: write REPO:TAG or REPO@DIGEST")
    with connect(named.registry) as registry:
        repository = registry.repository(named.repository)
        if named.digest is not None:
            return {"digest": named.digest, "status": repository.delete_manifest(named.digest)}
        return {"tag": named.tag, "status": repository.delete_tag(named.tag)}


if __name__ == "__main__":
    delete_manifest()
