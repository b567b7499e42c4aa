"""Seeing: from a registry to tables, findings and reports."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from regaudit.cli.front import (
    cache_option,
    cache_options,
    connection,
    end,
    finish,
    load_snapshot,
    main,
    protect_option,
    rule_options,
    snapshot_argument,
    stale_of,
    strict_option,
)
from regaudit.cli.shown import heading, show
from regaudit.errors import UsageError
from regaudit.reference import RegistryName, parse_target
from regaudit.text import clean, count_of, human_bytes, owned_folder

if TYPE_CHECKING:
    import pandas as pd

    from regaudit.client.registry import Registry

_SHOWN_FINDINGS = 10


@main.command()
@click.argument("targets", nargs=-1, required=True, metavar="HOST[/PATTERN]...")
@click.option("--out", metavar="DIR", help="Folder for the CSV files and the snapshot.")
@click.option(
    "--dry-run", is_flag=True, help="Only say what it would cost: requests, time, rate limit. Writes nothing."
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out repositories like this; may be repeated.")
@click.option(
    "--no-referrers", is_flag=True, help="Do not ask for signatures and SBOMs; such a snapshot cannot be cleaned."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar; there is none in a log.")
@cache_options
@strict_option
@connection
def audit(
    targets: tuple[str, ...],
    out: str | None,
    dry_run: bool,
    exclude: tuple[str, ...],
    no_referrers: bool,
    quiet: bool,
    cache: str | bool | None,
    strict: bool,
    connect: Callable[[str], Registry],
) -> None:
    """Read a registry into DIR: tags.csv and one CSV for each other table, and DIR/snapshot.

    PATTERN names repositories: team/app, or with * for a part of a name and ** for any number of parts.
    Without one, every repository in the catalog is read.
    """
    from regaudit.inventory.collect import collect

    host, patterns = _one_host(targets)
    options: dict[str, Any] = {"exclude": exclude, "referrers": not no_referrers, "cache": cache}
    options["progress"] = not quiet and sys.stderr.isatty()  # in a log, a bar is a line as long as the reading
    if dry_run:
        with connect(host) as registry:
            click.echo(collect(registry, *patterns, dry_run=True, **options))
        return
    if out is None:
        raise UsageError("say where the result goes: --out DIR, or --dry-run to see what it would cost")
    folder = owned_folder(out)
    with connect(host) as registry:
        snapshot = collect(registry, *patterns, into=folder / "snapshot", **options)
    interrupted = bool((snapshot.problems["error"] == "interrupted").any())
    if snapshot.why_nothing is not None:
        end(f"nothing could be read: {snapshot.why_nothing}", 1)
    if not snapshot.repositories and patterns:
        end(f"no repository that {snapshot.registry} lists is like {', '.join(patterns)}: nothing was read", 1)
    snapshot.to_csv(folder)
    click.echo(snapshot)
    show(snapshot.problems, ["repository", "identifier", "error", "message"])
    click.echo(f"written to {folder}: tags.csv, manifests.csv, blobs.csv, children.csv, problems.csv, snapshot/")
    if interrupted:
        end("interrupted: what was read so far is written, and the rest marked as not read", 1)
    finish(bad=not snapshot.complete, strict=strict, why="not everything was read")


def _one_host(targets: tuple[str, ...]) -> tuple[str, list[str]]:
    parsed = [parse_target(target) for target in targets]
    hosts: dict[RegistryName, None] = dict.fromkeys(registry for registry, _ in parsed)
    if len(hosts) > 1:
        raise UsageError(f"one registry at a time: {', '.join(map(str, hosts))} were named")
    registry = next(iter(hosts))
    patterns = [pattern for _, pattern in parsed if pattern is not None]
    whole = len(patterns) < len(targets)
    return registry.address, [] if whole else patterns


@main.command()
@snapshot_argument
@click.option("--out", metavar="DIR", help="Write stale.csv there.")
@protect_option
@rule_options
def stale(snapshot_folder: str, out: str | None, protect: tuple[str, ...], rule: dict[str, Any]) -> None:
    """List the tags that are stale: a tag must meet every condition given."""
    found = stale_of(load_snapshot(snapshot_folder), rule, protect)
    _result(found, out, "stale.csv", ["repository", "tag", "created", "content_bytes", "reason"])


@main.command()
@snapshot_argument
@click.option("--out", metavar="DIR", help="Write duplicates.csv there.")
def duplicates(snapshot_folder: str, out: str | None) -> None:
    """List the tags whose content another tag of the repository holds too."""
    from regaudit.analysis.tags import duplicate_tags

    found = duplicate_tags(load_snapshot(snapshot_folder))
    _result(found, out, "duplicates.csv", ["repository", "tag", "basis", "duplicate_of", "content_bytes"])


@main.command()
@snapshot_argument
@click.option("--out", default="report", show_default=True, metavar="DIR", help="Folder of the report.")
@click.option("--label", "labels", multiple=True, metavar="KEY", help="A label that images must have; may be repeated.")
@click.option("--xlsx/--no-xlsx", default=None, help="The workbook; by default where it takes seconds, not minutes.")
@protect_option
@rule_options
def report(
    snapshot_folder: str,
    out: str,
    labels: tuple[str, ...],
    xlsx: bool | None,
    protect: tuple[str, ...],
    rule: dict[str, Any],
) -> None:
    """Write a report: a CSV, a Parquet file and a sheet for each table and finding, plots, and summary.md for a pull request.

    index.html shows all of it, and opens offline. Stale is what the options say, as for `regaudit stale`; without any,
    what is older than 180D and not among the newest 5 of its repository.
    """
    from regaudit.analysis.labels import REQUIRED_LABELS
    from regaudit.analysis.report import report as write_report

    snapshot = load_snapshot(snapshot_folder)
    options: dict[str, Any] = {"labels": labels or REQUIRED_LABELS, "xlsx": xlsx}
    if protect or rule != {"older_than": None, "keep_latest": None, "clock": "created", "match": None}:
        options |= {name: rule[name] for name in ("older_than", "keep_latest")}
        options["stale"] = stale_of(snapshot, rule, protect)
    click.echo(f"written: {write_report(snapshot, out, **options)}")


@main.command()
@click.argument("before_folder", metavar="BEFORE")
@click.argument("after_folder", metavar="AFTER")
@click.option(
    "--out",
    metavar="DIR",
    help="Write changed_tags.csv, changed_manifests.csv, growth.csv, unread.csv (of plans: changed_plan.csv) there.",
)
@click.option("--across-registries", is_flag=True, help="Compare snapshots of two registries, for example of a mirror.")
@strict_option
def diff(before_folder: str, after_folder: str, out: str | None, across_registries: bool, strict: bool) -> None:
    """Compare two snapshots: tags and manifests that are new, gone or moved, and how repositories grew.

    What one of them did not read is unknown, and neither new nor gone. BEFORE and AFTER may be two plans
    instead: what one deletes and the other does not, and what is judged otherwise.
    """
    files = [Path(name).is_file() for name in (before_folder, after_folder)]
    if any(files) and not all(files):
        raise UsageError(
            "one of them is a file and the other is not: name two folders of snapshots, or two files of plans"
        )
    if all(files):
        _diff_plans(before_folder, after_folder, out)
        return
    change = load_snapshot(before_folder).diff(load_snapshot(after_folder), across_registries=across_registries)
    click.echo(change)
    if out is None:
        show(change.tags, ["repository", "tag", "change", "digest_before", "digest_after"], missing="-")
    else:
        click.echo("written: " + ", ".join(str(path) for path in change.to_csv(out)))
    finish(bad=not change.complete, strict=strict, why="not everything was read")


def _diff_plans(before_file: str, after_file: str, out: str | None) -> None:
    from regaudit.cleaner.plan import Plan

    change = Plan.load(before_file).diff(Plan.load(after_file))
    click.echo(change)
    if out is None:
        columns = ["repository", "digest", "change", "tags_before", "tags_after", "refusal_before", "refusal_after"]
        show(change.rows, columns, missing="-")
    else:
        click.echo(f"written: {change.to_csv(owned_folder(out) / 'changed_plan.csv')}")


@main.command()
@snapshot_argument
@click.option("--out", metavar="DIR", help="Write a CSV for each finding there.")
@click.option("--label", "labels", multiple=True, metavar="KEY", help="A label that images must have; may be repeated.")
def findings(snapshot_folder: str, out: str | None, labels: tuple[str, ...]) -> None:
    """List what is broken, orphaned, largest or unlabelled, and what tags are called."""
    from regaudit.analysis.findings import findings as find
    from regaudit.analysis.labels import REQUIRED_LABELS
    from regaudit.inventory.spreadsheet import write_csv

    found = find(load_snapshot(snapshot_folder), labels=labels or REQUIRED_LABELS)
    folder = None if out is None else owned_folder(out)
    for name, frame in found.items():
        written = "" if folder is None else f"  {write_csv(frame, folder / f'{name}.csv')}"
        click.echo(f"{name.replace('_', ' '):<20} {len(frame):>9,}{written}")
    if folder is None:
        for name, frame in ((name, frame) for name, frame in found.items() if len(frame)):
            heading(name.replace("_", " "))
            shown = ["repository", "tag", "stream", "tag_count", "digest", "size_bytes", "content_bytes", "reason"]
            show(frame, [column for column in shown if column in frame.columns], limit=_SHOWN_FINDINGS)


def _result(frame: pd.DataFrame, out: str | None, name: str, columns: list[str]) -> None:
    from regaudit.inventory.spreadsheet import write_csv

    if out is not None:
        path = write_csv(frame, owned_folder(out) / name)
        click.echo(f"{count_of(len(frame), 'row')} written to {path}")
        return
    click.echo(count_of(len(frame), "tag"))
    show(frame, columns)


@main.group()
def cache() -> None:
    """See or empty the cache: manifests and image configs that are not read a second time."""


@cache.command("show")
@cache_option
def cache_show(cache_folder: str | None) -> None:
    """Say where it is, and what it has."""
    from regaudit.inventory.cache import Cache

    with Cache(cache_folder) as opened:
        click.echo(f"{clean(opened.path, 400)}: {count_of(len(opened), 'document')}, {human_bytes(opened.size_bytes)}")


@cache.command("clear")
@cache_option
def cache_clear(cache_folder: str | None) -> None:
    """Forget everything: the next audit reads it again."""
    from regaudit.inventory.cache import Cache

    with Cache(cache_folder) as opened:
        before = opened.size_bytes
        opened.clear()
        if not opened.usable:
            end(f"{clean(opened.path, 400)} could not be cleared: delete the file", 1)
        click.echo(f"{clean(opened.path, 400)}: cleared, {human_bytes(before)} freed")
