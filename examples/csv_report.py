"""Write what a registry holds as CSV files, and say what is stale: the whole of it in a few lines.

python examples/csv_report.py registry.example.com 'team/**' --out contents --older-than 180D
"""

import sys
from typing import Any

import click

import regaudit as ra
from regaudit.script import Connect, script


@script
@click.argument("host")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--out", default="contents", show_default=True, metavar="DIR", help="Folder for the CSV files.")
@click.option("--older-than", default="180D", show_default=True, metavar="AGE", help="What counts as stale.")
def csv_report(host: str, patterns: tuple[str, ...], out: str, older_than: str, connect: Connect) -> dict[str, Any]:
    """Write what HOST holds as CSV files, and count what is stale; nothing is changed there.

    PATTERN names repositories: * is a part of a name, ** any number of parts. Without one, all are read.
    """
    with connect(host) as registry:
        snapshot = ra.collect(registry, *patterns, progress=sys.stderr.isatty())
    if snapshot.tags.empty and not snapshot.complete:
        raise ra.RegauditError(f"nothing could be read: {snapshot.problems['message'].iloc[0]}")
    stale = ra.stale_tags(snapshot, older_than=older_than, keep_latest=5)
    files = [str(path) for path in snapshot.to_csv(out)]
    return {"files": files, "tags": len(snapshot.tags), "stale": len(stale), "problems": len(snapshot.problems)}


if __name__ == "__main__":
    csv_report()
