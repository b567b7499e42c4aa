"""Trying it out: an embedded registry, and a demonstration on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from regaudit.cli.front import end, main, stale_of
from regaudit.cli.shown import heading, show
from regaudit.script import open_registry
from regaudit.text import human_bytes, owned_folder

if TYPE_CHECKING:
    from regaudit.client.registry import Registry
    from regaudit.inventory.snapshot import Snapshot

_SHOWN_OUTCOMES = 20


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

    heading(f"1. See: an audit of the embedded registry {registry.host}")
    before = collect(registry, progress=progress, cache=None)
    click.echo(before)
    before.save(folder / "snapshot")
    page = write_report(before, folder)
    click.echo(f"report: {page}, with a CSV for each table, the candidates and the plots beside it")

    heading("2. Decide: what is older than 180 days and not among the newest 5 of its repository")
    made = make_plan(before, stale_of(before, {"older_than": "180D", "keep_latest": 5}, ()))
    made.save(folder / "plan.json")
    click.echo(made)

    heading("3. Delete: the plan, approved by the demo")
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
        show(gone.frame().query("tags != ''"), ["outcome", "repository", "tags"], limit=_SHOWN_OUTCOMES)
        click.echo(f"{gone} (with the manifests that nothing else held)")
        cleaned = collect(registry, progress=False)
        change = f"{len(before.tags)} → {len(cleaned.tags)} tags"
        click.echo(
            f"the registry now: {change}, {human_bytes(before.stored_bytes())} → {human_bytes(cleaned.stored_bytes())} in use"
        )

        heading("4. Undo: every manifest byte for byte, then its tags")
        back = cleaner.undo(gone)
        click.echo(back)
        click.echo(f"recorded in {record.path}: {record.verify()} entries, each follows from the one before")
    after = collect(registry, progress=False)
    same = _contents(after) == _contents(before)
    if not (gone.ok and back.ok and same):
        end("the registry is not as it was before the demo: this is a bug, please report it", 1)


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
