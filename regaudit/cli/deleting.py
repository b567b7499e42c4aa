"""Deleting: what was approved goes, and comes back where somebody wants it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from regaudit.cli.front import connection, end, finish, journal_option, main, strict_option
from regaudit.cli.shown import show
from regaudit.errors import JournalError
from regaudit.text import clean, owned_folder

if TYPE_CHECKING:
    from regaudit.cleaner.journal import Journal
    from regaudit.cleaner.outcomes import Outcome, Run
    from regaudit.client.registry import Registry


@main.command()
@click.argument("plan_file", metavar="PLAN")
@click.option("--backup", metavar="DIR", help="Keep whole images there first; what cannot be kept whole stays.")
@click.option("--max-age", metavar="AGE", help="Refuse a plan whose registry was read longer ago: 12h, 7D.")
@journal_option
@strict_option
@connection
def apply(
    plan_file: str,
    backup: str | None,
    max_age: str | None,
    journal_path: str | None,
    strict: bool,
    connect: Callable[[str], Registry],
) -> None:
    """Delete what an approved plan lists. Asks nothing; everything is read again just before.

    What has changed since the plan was made is skipped. Every step is recorded first, so that the
    same command goes on after a crash, and `regaudit undo` can put everything back.
    """
    from regaudit.cleaner.cleaner import Cleaner
    from regaudit.cleaner.plan import Plan

    approved = Plan.load(plan_file)
    approved.check(max_age=max_age)
    with connect(approved.registry) as registry:
        cleaner = Cleaner(registry, journal=journal_path)
        with cleaner.journal:
            done = cleaner.execute(approved, progress=print_outcome, backup=backup, max_age=max_age)
            if done.advice:
                click.echo(f"{done.advice}\nuntil then it can be undone: regaudit undo {done.id}")
            _close(done, cleaner.journal, strict=strict)


@main.command()
@click.argument("run", metavar="RUN")
@click.option("--overwrite", is_flag=True, help="Set tags back even where somebody has set them to something else.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this REPOSITORY, REPOSITORY:TAG or DIGEST; may be repeated."
)
@journal_option
@strict_option
@connection
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

    journal, host = _journal_of(run, journal_path)
    with journal:
        with connect(host) as registry:
            done = Cleaner(registry, journal=journal).undo(run, progress=print_outcome, overwrite=overwrite, only=only)
        _close(done, journal, strict=strict)


@main.command()
@click.argument("run", metavar="RUN")
@click.option("--out", metavar="DIR", help="Write freed.csv there: each blob that was to come back.")
@journal_option
@strict_option
@connection
def verify(
    run: str, out: str | None, journal_path: str | None, strict: bool, connect: Callable[[str], Registry]
) -> None:
    """Ask which blobs that a run of `apply` was to bring back are really gone, after garbage collection."""
    from regaudit.cleaner.cleaner import Cleaner
    from regaudit.inventory.spreadsheet import write_csv

    journal, host = _journal_of(run, journal_path)
    with journal, connect(host) as registry:
        freed = Cleaner(registry, journal=journal).verify(run)
    click.echo(freed)
    if out is None:
        show(freed.blobs[freed.blobs["state"] != "gone"], ["repository", "digest", "size_bytes", "state", "detail"])
    else:
        click.echo(f"written: {write_csv(freed.blobs, owned_folder(out) / 'freed.csv')}")
    finish(bad=not freed.ok, strict=strict, why="not everything that was to come back is gone")


@main.command("backup")
@click.argument("plan_file", metavar="PLAN")
@click.option("--to", "folder", required=True, metavar="DIR", help="A new folder, or one with an earlier backup.")
@connection
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
        end("not everything could be kept whole: the lines above say what and why", 1)
    click.echo(f"put images back with: regaudit restore {folder} {loaded.registry}")


@main.command()
@click.argument("folder", metavar="DIR")
@click.argument("host", metavar="HOST")
@click.option("--overwrite", is_flag=True, help="Set tags back even where somebody has set them to something else.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this REPOSITORY, REPOSITORY:TAG or DIGEST; may be repeated."
)
@journal_option
@connection
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
        done = cleaner.restore(folder, only=only, overwrite=overwrite, progress=print_outcome)
        _close(done, cleaner.journal, strict=False)


def print_outcome(outcome: Outcome) -> None:
    """Print what became of a row, as it comes."""
    tags = " ".join(outcome.tags) or clean(outcome.digest, 19)
    click.echo(clean(f"{outcome.outcome:<20} {outcome.repository} {tags}  {outcome.detail}".rstrip(), 400))


def _close(run: Run, journal: Journal, *, strict: bool) -> None:
    click.echo(f"{run}\nrecorded in {journal.path}")
    if not run.ok:
        end("not everything came to what was asked: the lines above say what and why", 1)
    finish(bad="skipped" in run.counts(), strict=strict, why="some rows were skipped")


def _journal_of(run: str, path: str | None) -> tuple[Journal, str]:
    """Open the journal that has a run: the one named, or the one of the registry whose run it is; and say whose it is."""
    from regaudit.cleaner.journal import Journal

    for candidate in [Path(path)] if path is not None else Journal.default_paths():
        if not candidate.is_file():
            raise JournalError(f"{clean(candidate)} does not exist: name the journal that `regaudit apply` printed")
        journal = Journal(candidate)
        for started in journal.runs():
            if started.run == run:
                return journal, str(started.data["registry"])
        journal.close()
    raise JournalError(
        f"no journal has the run {clean(run, 60)!r}: name its file with --journal, or see `regaudit journal show HOST`"
    )
