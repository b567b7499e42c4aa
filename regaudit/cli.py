"""The command line: the way from a registry to a report and to a reviewed deletion, for scripts.

Results go to stdout, progress and log to stderr. Exit 0: done as asked. Exit 1: it was not. Exit 2:
the command was not typed as it can be carried out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from regaudit._version import __version__
from regaudit.errors import JournalError, UsageError
from regaudit.reference import RegistryName, parse_target
from regaudit.script import SETTINGS, Group, connection_options, fail, log_options, open_registry
from regaudit.text import clean, csv_guard, human_bytes, owned_folder

if TYPE_CHECKING:
    import pandas as pd

    from regaudit.cleaner.journal import Entry, Journal
    from regaudit.cleaner.outcomes import Outcome, Run
    from regaudit.client.registry import Registry
    from regaudit.inventory.snapshot import Snapshot

_fail = partial(fail, program="regaudit")

F = TypeVar("F", bound=Callable[..., Any])

_SHOWN_ROWS = 40
_SHOWN_OUTCOMES = 20
_SHOWN_FINDINGS = 10


@click.group("regaudit", cls=Group, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="regaudit")
@log_options
def main() -> None:
    """See what is in a container registry, decide what can go, and delete exactly that.

    \b
    The usual way:
      regaudit audit registry.example.com --out audit        read it into CSV files and a snapshot
      regaudit report audit/snapshot --out audit/report      plots and one HTML page
      regaudit stale audit/snapshot --older-than 180D        what is old
      regaudit plan audit/snapshot --older-than 180D --keep-latest 5 -o plan.json
      regaudit approve plan.json --by "Ada Lovelace"         after reading it
      regaudit apply plan.json                               delete; prints the name of the run
      regaudit undo RUN                                      put it back, until garbage is collected

    Try it without a registry: regaudit demo
    """  # noqa: D301 -- click looks for the character itself, not for its two letters


def _finish(*, bad: bool, strict: bool, why: str) -> None:
    """End with 1 where the user wants results that are not all well to be failures."""
    if bad and strict:
        _fail(f"{why}, and --strict was given", 1)


# -- options that several commands share -----------------------------------------------------


# Nothing here asks: what is typed once today runs unattended tomorrow.
_connection_options = connection_options(prompts=False)


def _rule_options(command: F) -> F:
    """Add the options that say what is stale, handed on as one dict ``rule``."""

    @wraps(command)
    def with_rule(
        *arguments: Any,
        older_than: str | None,
        keep_latest: int | None,
        clock: str,
        match: tuple[str, ...],
        **options: Any,
    ) -> Any:
        rule = {"older_than": older_than, "keep_latest": keep_latest, "clock": clock, "match": match or None}
        return command(*arguments, rule=rule, **options)

    decorators = [
        click.option("--older-than", metavar="AGE", help="Only what is older: 180D, 12h, 2w."),
        click.option(
            "--keep-latest",
            type=click.IntRange(min=0),
            metavar="N",
            help="Keep the newest N images of each repository.",
        ),
        click.option("--clock", type=click.Choice(["created", "pushed"]), default="created", show_default=True),
        click.option("--match", multiple=True, metavar="PATTERN", help="Only tags like this (pr-*); may be repeated."),
    ]
    for decorate in reversed(decorators):
        with_rule = decorate(with_rule)
    return with_rule  # type: ignore[return-value]  # its options are other ones than the command's


_strict = click.option("--strict", is_flag=True, help="Exit 1 where anything was not read, refused or skipped.")
_protect = click.option("--protect", multiple=True, metavar="PATTERN", help="Tags like this never go; may be repeated.")
_snapshot = click.argument("snapshot_folder", metavar="SNAPSHOT")
_cache_folder = click.option(
    "--cache",
    "cache_folder",
    metavar="DIR",
    help="Where what was read is remembered; the user's cache folder by default.",
)
_journal = click.option(
    "--journal", "journal_path", metavar="FILE", help="The record of deletions; one for each registry by default."
)


# -- seeing ----------------------------------------------------------------------------------


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
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@_cache_folder
@click.option("--no-cache", is_flag=True, help="Read everything again, and remember nothing.")
@_strict
@_connection_options
def audit(
    targets: tuple[str, ...],
    out: str | None,
    dry_run: bool,
    exclude: tuple[str, ...],
    no_referrers: bool,
    quiet: bool,
    cache_folder: str | None,
    no_cache: bool,
    strict: bool,
    connect: Callable[[str], Registry],
) -> None:
    """Read a registry into DIR: tags.csv and one CSV for each other table, and DIR/snapshot.

    PATTERN names repositories: team/app, or with * for a part of a name and ** for any number of parts.
    Without one, every repository in the catalog is read.
    """
    from regaudit.inventory.collect import collect

    if no_cache and cache_folder is not None:
        raise UsageError("--cache and --no-cache contradict each other: give one of them")
    host, patterns = _one_host(targets)
    options: dict[str, Any] = {"exclude": exclude, "referrers": not no_referrers, "progress": not quiet}
    options["cache"] = None if no_cache else cache_folder or True
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
        _fail(f"nothing could be read: {snapshot.why_nothing}", 1)
    snapshot.to_csv(folder)
    click.echo(snapshot)
    _show(snapshot.problems, ["repository", "identifier", "error", "message"])
    click.echo(f"written to {folder}: tags.csv, manifests.csv, blobs.csv, children.csv, problems.csv, snapshot/")
    if interrupted:
        _fail("interrupted: what was read so far is written, and the rest marked as not read", 1)
    _finish(bad=not snapshot.complete, strict=strict, why="not everything was read")


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
@_snapshot
@click.option("--out", metavar="DIR", help="Write stale.csv there.")
@_protect
@_rule_options
def stale(snapshot_folder: str, out: str | None, protect: tuple[str, ...], rule: dict[str, Any]) -> None:
    """List the tags that are stale: a tag must meet every condition given."""
    found = _stale(_load(snapshot_folder), rule, protect)
    _result(found, out, "stale.csv", ["repository", "tag", "created", "content_bytes", "reason"])


@main.command()
@_snapshot
@click.option("--out", metavar="DIR", help="Write duplicates.csv there.")
def duplicates(snapshot_folder: str, out: str | None) -> None:
    """List the tags whose content another tag of the repository holds too."""
    from regaudit.analysis.tags import duplicate_tags

    found = duplicate_tags(_load(snapshot_folder))
    _result(found, out, "duplicates.csv", ["repository", "tag", "basis", "duplicate_of", "content_bytes"])


@main.command()
@_snapshot
@click.option("--out", default="report", show_default=True, metavar="DIR", help="Folder of the report.")
@click.option("--label", "labels", multiple=True, metavar="KEY", help="A label that images must have; may be repeated.")
@click.option("--xlsx/--no-xlsx", default=None, help="The workbook; by default where it takes seconds, not minutes.")
@_protect
@_rule_options
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

    snapshot = _load(snapshot_folder)
    options: dict[str, Any] = {"labels": labels or REQUIRED_LABELS, "xlsx": xlsx}
    if protect or rule != {"older_than": None, "keep_latest": None, "clock": "created", "match": None}:
        options |= {name: rule[name] for name in ("older_than", "keep_latest")}
        options["stale"] = _stale(snapshot, rule, protect)
    click.echo(f"written: {write_report(snapshot, out, **options)}")


@main.command()
@click.argument("before_folder", metavar="BEFORE")
@click.argument("after_folder", metavar="AFTER")
@click.option(
    "--out", metavar="DIR", help="Write changed_tags.csv, changed_manifests.csv, growth.csv, unread.csv there."
)
@click.option("--across-registries", is_flag=True, help="Compare snapshots of two registries, for example of a mirror.")
@_strict
def diff(before_folder: str, after_folder: str, out: str | None, across_registries: bool, strict: bool) -> None:
    """Compare two snapshots: tags and manifests that are new, gone or moved, and how repositories grew.

    What one of them did not read is unknown, and neither new nor gone.
    """
    change = _load(before_folder).diff(_load(after_folder), across_registries=across_registries)
    click.echo(change)
    if out is None:
        _show(change.tags, ["repository", "tag", "change", "digest_before", "digest_after"])
    else:
        click.echo("written: " + ", ".join(str(path) for path in change.to_csv(out)))
    _finish(bad=not change.complete, strict=strict, why="not everything was read")


@main.command()
@_snapshot
@click.option("--out", metavar="DIR", help="Write a CSV for each finding there.")
@click.option("--label", "labels", multiple=True, metavar="KEY", help="A label that images must have; may be repeated.")
def findings(snapshot_folder: str, out: str | None, labels: tuple[str, ...]) -> None:
    """List what is broken, orphaned, largest or unlabelled, and what tags are called."""
    from regaudit.analysis.findings import findings as find
    from regaudit.analysis.labels import REQUIRED_LABELS
    from regaudit.inventory.spreadsheet import write_csv

    found = find(_load(snapshot_folder), labels=labels or REQUIRED_LABELS)
    folder = None if out is None else owned_folder(out)
    for name, frame in found.items():
        written = "" if folder is None else f"  {write_csv(frame, folder / f'{name}.csv')}"
        click.echo(f"{name.replace('_', ' '):<20} {len(frame):>9,}{written}")
    if folder is None:
        for name, frame in found.items():
            _heading(name.replace("_", " "))
            shown = ["repository", "tag", "stream", "tag_count", "digest", "size_bytes", "content_bytes", "reason"]
            _show(frame, [column for column in shown if column in frame.columns], limit=_SHOWN_FINDINGS)


def _load(folder: str) -> Snapshot:
    from regaudit.inventory.snapshot import Snapshot

    return Snapshot.load(folder)


def _stale(snapshot: Snapshot, rule: dict[str, Any], protect: tuple[str, ...]) -> pd.DataFrame:
    from regaudit.analysis.tags import stale_tags

    if rule["older_than"] is None and rule["keep_latest"] is None:
        raise UsageError("say what is stale: --older-than 180D, --keep-latest 5, or both")
    return stale_tags(snapshot, protect=protect, **rule)


def _result(frame: pd.DataFrame, out: str | None, name: str, columns: list[str]) -> None:
    from regaudit.inventory.spreadsheet import write_csv

    if out is not None:
        path = write_csv(frame, owned_folder(out) / name)
        click.echo(f"{len(frame):,} rows written to {path}")
        return
    click.echo(f"{len(frame):,} tags")
    _show(frame, columns)


@main.group()
def cache() -> None:
    """See or empty the cache: manifests and image configs that are not read a second time."""


@cache.command("show")
@_cache_folder
def cache_show(cache_folder: str | None) -> None:
    """Say where it is, and what it has."""
    from regaudit.inventory.cache import Cache

    with Cache(cache_folder) as opened:
        click.echo(f"{clean(opened.path, 400)}: {len(opened):,} documents, {human_bytes(opened.size_bytes)}")


@cache.command("clear")
@_cache_folder
def cache_clear(cache_folder: str | None) -> None:
    """Forget everything: the next audit reads it again."""
    from regaudit.inventory.cache import Cache

    with Cache(cache_folder) as opened:
        before = opened.size_bytes
        opened.clear()
        if not opened.usable:
            _fail(f"{clean(opened.path, 400)} could not be cleared: delete the file", 1)
        click.echo(f"{clean(opened.path, 400)}: cleared, {human_bytes(before)} freed")


# -- deciding --------------------------------------------------------------------------------


@main.command()
@_snapshot
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the plan goes.")
@click.option("--candidates", metavar="CSV", help="Rows of repository and tag, instead of a rule (stale.csv, edited).")
@click.option(
    "--include", multiple=True, metavar="DIGEST", help="This digest may go with all its tags; may be repeated."
)
@click.option("--allow-empty", is_flag=True, help="A repository may be left without tags.")
@click.option("--untag", is_flag=True, help="Let a tag go alone where its digest must stay, if the registry can.")
@_strict
@_protect
@_rule_options
def plan(
    snapshot_folder: str,
    output: str,
    candidates: str | None,
    include: tuple[str, ...],
    allow_empty: bool,
    untag: bool,
    strict: bool,
    protect: tuple[str, ...],
    rule: dict[str, Any],
) -> None:
    """Write a plan: what would be deleted, what goes along, what is refused and why. Deletes nothing."""
    from regaudit.cleaner.plan import plan as make_plan

    snapshot = _load(snapshot_folder)
    chosen = _stale(snapshot, rule, protect) if candidates is None else _read_candidates(candidates)
    made = make_plan(snapshot, chosen, protect=protect, include=include, allow_empty=allow_empty, untag=untag)
    made.save(output)
    click.echo(made)
    if made.refused:
        click.echo("\nrefused:")
        refused = made.frame().query("refusal != ''")
        _show(refused, ["repository", "tags", "refusal", "detail"])
    click.echo(f"written: {output}; read it, then: regaudit approve {output} --by NAME")
    _finish(bad=bool(made.refused), strict=strict, why="some candidates are refused")


def _read_candidates(path: str) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype="string", keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise UsageError(f"{clean(path)} is no table of candidates: {clean(error, 120)}") from None
    return frame[[name for name in ("registry", "repository", "tag", "digest", "reason") if name in frame.columns]]


@main.command()
@click.argument("plan_file", metavar="PLAN")
@click.option("--by", required=True, metavar="NAME", help="Who approves.")
@click.option("--reason", default="", metavar="TEXT", help="Why.")
def approve(plan_file: str, by: str, reason: str) -> None:
    """Approve a plan as it stands: your name, the time and the plan's hash are written into it."""
    from regaudit.cleaner.plan import Plan

    approved = Plan.load(plan_file).approve(by=by, reason=reason)
    approved.save(plan_file)
    click.echo(approved.headline())
    click.echo(f"approved by {clean(by, 200)}, plan {approved.hash[:12]}; now: regaudit apply {plan_file}")


# -- deleting --------------------------------------------------------------------------------


@main.command()
@click.argument("plan_file", metavar="PLAN")
@click.option("--backup", metavar="DIR", help="Keep whole images there first; what cannot be kept whole stays.")
@_journal
@_strict
@_connection_options
def apply(
    plan_file: str, backup: str | None, journal_path: str | None, strict: bool, connect: Callable[[str], Registry]
) -> None:
    """Delete what an approved plan lists. Asks nothing; everything is read again just before.

    What has changed since the plan was made is skipped. Every step is recorded first, so that the
    same command goes on after a crash, and `regaudit undo` can put everything back.
    """
    from regaudit.cleaner.cleaner import Cleaner
    from regaudit.cleaner.plan import Plan

    approved = Plan.load(plan_file)
    approved.check()
    with connect(approved.registry) as registry:
        cleaner = Cleaner(registry, journal=journal_path)
        with cleaner.journal:
            done = cleaner.execute(approved, progress=_print_outcome, backup=backup)
            if done.advice:
                click.echo(f"{done.advice}\nuntil then it can be undone: regaudit undo {done.id}")
            _close(done, cleaner.journal, strict=strict)


@main.command()
@click.argument("run", metavar="RUN")
@click.option("--overwrite", is_flag=True, help="Set tags back even where somebody has set them to something else.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this REPOSITORY, REPOSITORY:TAG or DIGEST; may be repeated."
)
@_journal
@_strict
@_connection_options
def undo(
    run: str,
    overwrite: bool,
    only: tuple[str, ...],
    journal_path: str | None,
    strict: bool,
    connect: Callable[[str], Registry],
) -> None:
    """Put back what a run of `apply` deleted, as long as the registry has not collected its garbage."""
    from regaudit.cleaner.cleaner import Cleaner

    with _journal_of(run, journal_path) as journal:
        started = next(entry for entry in journal.entries(run) if entry.event == "started")
        with connect(started.data["registry"]) as registry:
            done = Cleaner(registry, journal=journal).undo(run, progress=_print_outcome, overwrite=overwrite, only=only)
        _close(done, journal, strict=strict)


@main.command("backup")
@click.argument("plan_file", metavar="PLAN")
@click.option("--to", "folder", required=True, metavar="DIR", help="A new folder, or one with an earlier backup.")
@_connection_options
def backup_plan(plan_file: str, folder: str, connect: Callable[[str], Registry]) -> None:
    """Keep every image that a plan deletes, whole, as an OCI image layout. Deletes nothing.

    The same command goes on with what is missing. Put images back with `regaudit restore`.
    """
    from regaudit.cleaner.backup import back_up
    from regaudit.cleaner.plan import Plan

    loaded = Plan.load(plan_file)
    with connect(loaded.registry) as registry:
        done = back_up(registry, loaded, folder)
    for kept in done.rows:
        if not kept.whole:
            name = " ".join(kept.tags) or kept.digest[:19]
            click.echo(
                clean(f"{'absent' if kept.absent else 'not_whole':<20} {kept.repository} {name}  {kept.detail}", 400)
            )
    click.echo(done)
    if not done.ok:
        _fail("not everything could be kept whole: the lines above say what and why", 1)
    click.echo(f"put images back with: regaudit restore {folder} {loaded.registry}")


@main.command()
@click.argument("folder", metavar="DIR")
@click.argument("host", metavar="HOST")
@click.option("--overwrite", is_flag=True, help="Set tags back even where somebody has set them to something else.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this REPOSITORY, REPOSITORY:TAG or DIGEST; may be repeated."
)
@_journal
@_connection_options
def restore(
    folder: str,
    host: str,
    overwrite: bool,
    only: tuple[str, ...],
    journal_path: str | None,
    connect: Callable[[str], Registry],
) -> None:
    """Put the images of a backup back, with their tags, also after garbage collection."""
    from regaudit.cleaner.cleaner import Cleaner

    with connect(host) as registry, Cleaner(registry, journal=journal_path) as cleaner:
        done = cleaner.restore(folder, only=only, overwrite=overwrite, progress=_print_outcome)
        _close(done, cleaner.journal, strict=False)


def _print_outcome(outcome: Outcome) -> None:
    tags = " ".join(outcome.tags) or clean(outcome.digest, 19)
    click.echo(clean(f"{outcome.outcome:<20} {outcome.repository} {tags}  {outcome.detail}".rstrip(), 400))


def _close(run: Run, journal: Journal, *, strict: bool) -> None:
    click.echo(f"{run}\nrecorded in {journal.path}")
    if not run.ok:
        _fail("not everything came to what was asked: the lines above say what and why", 1)
    _finish(bad="skipped" in run.counts(), strict=strict, why="some rows were skipped")


def _journal_of(run: str, path: str | None) -> Journal:
    """Open the journal that has a run: the one named, or the one of the registry whose run it is."""
    from regaudit.cleaner.journal import Journal

    folder = Journal.default_path("x").parent.parent
    paths = [Path(path)] if path is not None else sorted(folder.glob("*/regaudit-journal.sqlite"))
    for candidate in paths:
        if not candidate.is_file():
            raise JournalError(f"{clean(candidate)} does not exist: name the journal that `regaudit apply` printed")
        journal = Journal(candidate)
        if any(entry.event == "started" for entry in journal.entries(run)):
            return journal
        journal.close()
    raise JournalError(
        f"no journal has the run {clean(run, 60)!r}: name its file with --journal, or see `regaudit journal show HOST`"
    )


@main.group()
def journal() -> None:
    """Read the record of deletions."""


@journal.command("show")
@click.argument("host", required=False)
@click.option("--run", metavar="RUN", help="What became of each row of this run.")
@_journal
def journal_show(host: str | None, run: str | None, journal_path: str | None) -> None:
    """List the runs: when, what kind, who approved and why, and what became of the rows."""
    from regaudit.cleaner.outcomes import recorded_run

    with _open_journal(host, journal_path) as opened:
        if run is not None:
            shown = recorded_run(opened, run)
            click.echo(shown)
            _show(shown.frame(), ["at", "outcome", "repository", "tags", "digest", "detail"], limit=len(shown.outcomes))
            return
        for started in opened.runs():
            click.echo(clean(f"{recorded_run(opened, started.run)}, {_purpose(started.data)}", 400))


def _purpose(started: dict[str, Any]) -> str:
    """Return by whom and why a run was begun."""
    if approval := started.get("approval"):
        reason = f" ({approval['reason']})" if approval.get("reason") else ""
        return f"approved by {approval['by']}{reason}"
    part = f", only {' '.join(started['only'])}" if started.get("only") else ""
    return f"from {started['backup']}{part}" if "backup" in started else f"undoes {started.get('undoes', '?')}{part}"


@journal.command("verify")
@click.argument("host", required=False)
@_journal
def journal_verify(host: str | None, journal_path: str | None) -> None:
    """Check that no entry was changed, removed or put in between."""
    with _open_journal(host, journal_path) as opened:
        click.echo(f"{opened.verify():,} entries, each follows from the one before")


@journal.command("export")
@click.argument("host", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="jsonl: everything, a line of JSON for each entry. csv: what a spreadsheet can show of it.",
)
@_journal
def journal_export(host: str | None, form: str, journal_path: str | None) -> None:
    """Print every entry: the audit trail."""
    with _open_journal(host, journal_path) as opened:
        if form == "csv":
            click.echo(_csv_line(_EXPORTED))
            for entry in opened.entries():
                click.echo(_csv_line(_cells(entry)))
            return
        for entry in opened.entries():
            click.echo(json.dumps(entry.to_dict(), sort_keys=True))


_EXPORTED = (
    *("number", "at", "run", "event", "kind", "repository", "digest", "tags", "action", "outcome", "detail"),
    *("approved_by", "approval_reason", "plan_hash", "undoes", "hash"),
)


def _csv_line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _cells(entry: Entry) -> list[object]:
    """Return an entry as a row of the export, safe in a spreadsheet."""
    approval = entry.data.get("approval") or {}
    fields = {**entry.data, "approved_by": approval.get("by"), "approval_reason": approval.get("reason")}
    fields |= {"number": entry.number, "at": entry.at, "run": entry.run, "event": entry.event, "hash": entry.hash}
    found = [fields.get(name) for name in _EXPORTED]
    return [csv_guard(" ".join(map(str, cell)) if isinstance(cell, list) else cell) for cell in found]


def _open_journal(host: str | None, path: str | None) -> Journal:
    from regaudit.cleaner.journal import Journal

    if (host is None) == (path is None):
        raise UsageError("name the journal: HOST for the one of that registry, or --journal FILE")
    where = Path(path) if path is not None else Journal.default_path(parse_target(str(host))[0].host)
    if not where.is_file():
        raise JournalError(
            f"{clean(where)} does not exist: nothing was deleted there with regaudit, or by another user"
        )
    return Journal(where)


# -- trying it out ---------------------------------------------------------------------------


@main.command()
@click.option("--out", default="demo-report", show_default=True, metavar="DIR", help="Folder of the report.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def demo(out: str, quiet: bool) -> None:
    """Audit, clean and restore an embedded registry with sample images. Touches nothing else."""
    from regaudit.sandbox.server import Sandbox

    with Sandbox(sample=True) as sandbox, open_registry(sandbox.host) as registry:
        _demonstrate(registry, owned_folder(out), progress=not quiet)


def _demonstrate(registry: Registry, folder: Path, *, progress: bool) -> None:
    from regaudit.analysis.report import report as write_report
    from regaudit.cleaner.plan import plan as make_plan
    from regaudit.inventory.collect import collect

    _heading(f"1. See: an audit of the embedded registry {registry.host}")
    before = collect(registry, progress=progress, cache=None)
    click.echo(before)
    before.save(folder / "snapshot")
    page = write_report(before, folder)
    click.echo(f"report: {page}, with a CSV for each table, the candidates and the plots beside it")

    _heading("2. Decide: what is older than 180 days and not among the newest 5 of its repository")
    made = make_plan(before, _stale(before, {"older_than": "180D", "keep_latest": 5}, ()))
    made.save(folder / "plan.json")
    click.echo(made)

    _heading("3. Delete: the plan, approved by the demo")
    _delete_and_restore(registry, folder, made.approve(by="regaudit demo", reason="trying it out"), before)
    click.echo(f"\nEverything is back. Look at {page}.")
    click.echo("Next, do it yourself in a notebook:  make notebook   (opens notebooks/01_audit.ipynb)")
    click.echo("or audit a registry of your own:     regaudit audit HOST --out audit")


def _delete_and_restore(registry: Registry, folder: Path, approved: Any, before: Snapshot) -> None:
    from regaudit.cleaner.cleaner import Cleaner
    from regaudit.cleaner.journal import Journal
    from regaudit.inventory.collect import collect

    with Journal(folder / "journal.sqlite") as record:
        cleaner = Cleaner(registry, journal=record)
        gone = cleaner.execute(approved)
        _show(gone.frame().query("tags != ''"), ["outcome", "repository", "tags"], limit=_SHOWN_OUTCOMES)
        click.echo(f"{gone} (with the manifests that nothing else held)")
        cleaned = collect(registry, progress=False)
        change = f"{len(before.tags)} → {len(cleaned.tags)} tags"
        click.echo(
            f"the registry now: {change}, {human_bytes(before.stored_bytes())} → {human_bytes(cleaned.stored_bytes())} in use"
        )

        _heading("4. Undo: every manifest byte for byte, then its tags")
        back = cleaner.undo(gone)
        click.echo(back)
        click.echo(f"recorded in {record.path}: {record.verify()} entries, each follows from the one before")
    after = collect(registry, progress=False)
    same = _contents(after) == _contents(before)
    if not (gone.ok and back.ok and same):
        _fail("the registry is not as it was before the demo: this is a bug, please report it", 1)


def _contents(snapshot: Snapshot) -> set[tuple[Any, ...]]:
    """Return every tag with its digest and every manifest: what a deletion changes and an undo restores."""
    tags = snapshot.tags[["repository", "tag", "digest"]].astype("object").fillna("")
    manifests = snapshot.manifests[["repository", "digest"]].astype("object")
    return {*tags.itertuples(index=False, name=None), *manifests.itertuples(index=False, name=None)}


@main.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default="a free one",
    metavar="PORT",
    help="Port on 127.0.0.1.",
)
@click.option("--empty", is_flag=True, help="Without the sample images.")
@click.option("--v1", is_flag=True, help="Speak the v1 interface too.")
def sandbox(port: int, empty: bool, v1: bool) -> None:
    """Serve the embedded registry on this machine until interrupted, for trying things out."""
    import threading

    from regaudit.sandbox.server import Sandbox

    with Sandbox(sample=not empty, port=port, v1=v1) as served:
        try:
            click.echo(f"{served.host}  (in memory; Ctrl-C ends it)")
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("ended", err=True)


# -- what people read ------------------------------------------------------------------------


def _heading(text: str) -> None:
    click.echo(f"\n{text}\n{'-' * len(text)}")


def _show(frame: pd.DataFrame, columns: list[str], limit: int = _SHOWN_ROWS) -> None:
    """Print some columns of a table as aligned text, sizes and times as people read them."""
    if frame.empty:
        return
    cells = {name: [_cell(name, value) for value in frame[name].head(limit).astype("object")] for name in columns}
    widths = {name: max(len(name), *map(len, texts)) for name, texts in cells.items()}
    click.echo("  ".join(name.ljust(widths[name]) for name in columns).rstrip())
    for row in zip(*cells.values(), strict=True):
        click.echo("  ".join(text.ljust(widths[name]) for name, text in zip(columns, row, strict=True)).rstrip())
    if len(frame) > limit:
        click.echo(f"and {len(frame) - limit:,} more")


def _cell(column: str, value: Any) -> str:
    import pandas as pd

    if pd.isna(value):
        return "?"
    if column.endswith("_bytes"):
        return human_bytes(value)
    form = "%Y-%m-%d %H:%M:%S" if column == "at" else "%Y-%m-%d"
    return clean(value.strftime(form) if hasattr(value, "strftime") else value, 120)


if __name__ == "__main__":
    main()
