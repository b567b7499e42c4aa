"""Write what a registry holds as CSV files, and say what is stale: the whole of it in a few lines.

    python examples/csv_report.py registry.example.com 'team/**' --out contents --older-than 180D

Credentials are those that docker has for the registry. Nothing is changed there.
"""

import argparse
import sys

import regaudit as ra


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("host", help="host[:port]")
    options.add_argument("patterns", nargs="*", help="repositories; * is a part of a name, ** any number of parts")
    options.add_argument("--out", default="contents", help="folder for the CSV files")
    options.add_argument("--older-than", default="180D", help="what counts as stale")
    given = options.parse_args()
    try:
        with ra.Registry(given.host) as registry:
            snapshot = ra.collect(registry, *given.patterns, progress=sys.stderr.isatty())
        for path in snapshot.to_csv(given.out):
            print(path)
        stale = ra.stale_tags(snapshot, older_than=given.older_than, keep_latest=5)
    except ra.RegauditError as error:
        print(f"csv_report: {error}", file=sys.stderr)
        return 1
    print(f"{len(snapshot.tags)} tags, {len(stale)} of them stale", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
