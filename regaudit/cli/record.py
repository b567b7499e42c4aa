"""The record: the journal of deletions, shown, verified and exported."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from regaudit.cli.front import journal_option, main
from regaudit.cli.shown import show
from regaudit.errors import JournalError, UsageError
from regaudit.reference import parse_target
from regaudit.text import clean, csv_guard

if TYPE_CHECKING:
    from regaudit.cleaner.journal import Entry, Journal


@main.group()
def journal() -> None:
    """Read the record of deletions."""


@journal.command("show")
@click.argument("host", required=False)
@click.option("--run", metavar="RUN", help="What became of each row of this run.")
@journal_option
def journal_show(host: str | None, run: str | None, journal_path: str | None) -> None:
    """List the runs: when, what kind, who approved and why, and what became of the rows."""
    from regaudit.cleaner.outcomes import recorded_run

    with _open_journal(host, journal_path) as opened:
        if run is not None:
            shown = recorded_run(opened, run)
            click.echo(shown)
            show(shown.frame(), ["at", "outcome", "repository", "tags", "digest", "detail"], limit=len(shown.outcomes))
            return
        for started in opened.runs():
            click.echo(clean(f"{recorded_run(opened, started.run)}, {_purpose(started.data)}", 400))


def _purpose(started: dict[str, Any]) -> str:
    """Return by whom and why a run was begun."""
    if approval := started.get("approval"):
        reason = f" ({approval['reason']})" if approval.get("reason") else ""
        if policy := approval.get("policy_hash"):
            return f"approved in advance by {approval['by']}{reason}, policy {policy[:12]}"
        return f"approved by {approval['by']}{reason}"
    part = f", only {' '.join(started['only'])}" if started.get("only") else ""
    return f"from {started['backup']}{part}" if "backup" in started else f"undoes {started.get('undoes', '?')}{part}"


@journal.command("verify")
@click.argument("host", required=False)
@journal_option
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
@journal_option
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
    *("approved_by", "approval_reason", "plan_hash", "policy_hash", "undoes", "hash"),
)


def _csv_line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _cells(entry: Entry) -> list[object]:
    """Return an entry as a row of the export, safe in a spreadsheet."""
    approval = entry.data.get("approval") or {}
    fields = {
        **entry.data,
        "policy_hash": approval.get("policy_hash"),
        "approved_by": approval.get("by"),
        "approval_reason": approval.get("reason"),
    }
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
