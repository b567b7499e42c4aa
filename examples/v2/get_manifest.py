"""Show the manifest of an image, verified.

python examples/v2/get_manifest.py alpine:3 -o alpine.json
"""

from pathlib import Path
from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("repo", metavar="REPO[:TAG][@DIGEST]")
@click.option("--max-schema-version", type=click.IntRange(1, 2), default=2, help="1 asks for schema 1 alone.")
@click.option("--no-manifest-lists", is_flag=True, help="Of an index, let the registry choose an image.")
@click.option("--no-redirects", is_flag=True, help="Fail where the registry redirects.")
@click.option("-o", "--output", metavar="FILE", help="Write it there too, byte for byte.")
def get_manifest(
    repo: str,
    max_schema_version: int,
    no_manifest_lists: bool,
    no_redirects: bool,
    output: str | None,
    connect: Connect,
) -> dict[str, Any]:
    """Show the manifest of an image. Its bytes are verified against its digest; with -o they are kept."""
    named = ra.parse_repo_and_ref(repo)
    with connect(named.registry) as registry:
        manifest = registry.repository(named.repository).manifest(
            named.digest or named.tag,
            max_schema_version=max_schema_version,
            accept_indexes=not no_manifest_lists,
            follow_redirects=not no_redirects,
        )
    if output is not None:
        Path(output).write_bytes(manifest.raw)
    return manifest.to_dict()


if __name__ == "__main__":
    get_manifest()
