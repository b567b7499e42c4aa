"""Unattended: a policy is carried out without anybody watching, once or by a schedule."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from regaudit.cli.deleting import print_outcome
from regaudit.cli.front import cache_options, connection, end, journal_option, main
from regaudit.errors import RegauditError, UsageError
from regaudit.reference import parse_target
from regaudit.text import clean as cleaned
from regaudit.text import redact

if TYPE_CHECKING:
    from regaudit.client.registry import Registry
    from regaudit.unattended.cleaning import Job
    from regaudit.unattended.record import CleanReport
    from regaudit.unattended.schedule import Schedule
    from regaudit.unattended.stopping import Stopping


@main.command()
@click.argument("host", metavar="HOST")
@click.option("--policy", "policy_file", required=True, metavar="FILE", help="What to keep and what may go.")
@click.option(
    "--repositories", "list_file", metavar="FILE", help="Only these: a name or a pattern on each line; # comments."
)
@click.option("--dry-run", is_flag=True, help="Send nothing but reads, and list what a run would send.")
@click.option("--cron", metavar="EXPRESSION", help="Stay, and run at these times: '0 3 * * *', @daily.")
@click.option("--timezone", metavar="NAME", help="Of --cron: Europe/Berlin; this machine's own by default.")
@click.option("--report", "folder", metavar="DIR", help="For reports and plans; beside the journal by default.")
@click.option("--backup", metavar="DIR", help="Keep whole images there first; what cannot be kept whole stays.")
@click.option(
    "--strict", is_flag=True, help="Exit 1 where a limit held anything back, or anything was refused or skipped."
)
@click.option("--metrics", metavar="FILE", help="Figures of the last run, for Prometheus's textfile collector.")
@journal_option
@cache_options
@connection
def clean(
    host: str,
    policy_file: str,
    list_file: str | None,
    dry_run: bool,
    cron: str | None,
    timezone: str | None,
    folder: str | None,
    backup: str | None,
    strict: bool,
    metrics: str | None,
    journal_path: str | None,
    cache: str | bool | None,
    connect: Callable[[str], Registry],
) -> None:
    """Read, judge, delete what the policy's standing approval covers, look again, and report.

    A plan that no standing approval covers is written, and waits for `regaudit approve`. Ends with 0 where all was
    done; 1 where something was not, with the reason; 2 where it was not typed as it can be; 75 where another run
    has the journal. SIGINT and SIGTERM end it: a deletion that is under way is finished and recorded first.
    """
    from regaudit.unattended.cleaning import Job
    from regaudit.unattended.stopping import Stopping

    if timezone is not None and cron is None:
        raise UsageError("--timezone says what --cron means: give both")
    job = Job(
        policy=Path(policy_file),
        repositories=_path(list_file),
        dry_run=dry_run,
        folder=_path(folder),
        journal=_path(journal_path),
        cache=Path(cache) if isinstance(cache, str) else cache,
        backup=_path(backup),
        strict=strict,
    )
    registry, pattern = parse_target(host)
    if pattern is not None:
        raise UsageError("name the registry alone: which repositories, the policy says, or --repositories FILE")
    with Stopping() as stopping:
        runs = _Runs(registry.address, job, connect, stopping, _path(metrics))
        if cron is None:
            runs.once()
        else:
            runs.again_and_again(cron, timezone)


class _Runs:
    """One run, or many by a schedule, each with a connection of its own."""

    def __init__(
        self, host: str, job: Job, connect: Callable[[str], Registry], stopping: Stopping, metrics: Path | None
    ) -> None:
        self._host, self._job, self._connect, self._stopping, self._metrics = host, job, connect, stopping, metrics
        self._last: CleanReport | None = None

    def once(self) -> None:
        """Run once, and end with the status of that."""
        report = self._run(None)
        if report.exit_status:
            end(f"{_word(report)}: {report.reason}", report.exit_status)

    def again_and_again(self, cron: str, timezone: str | None) -> None:
        """Run by a schedule until a signal comes; what is typed wrong ends it before."""
        from regaudit.analysis.policy import Policy
        from regaudit.unattended.repository_list import load_repositories
        from regaudit.unattended.schedule import Schedule, keep_to, wait_until

        schedule = Schedule(cron, timezone)
        Policy.load(self._job.policy)
        if self._job.repositories is not None:
            load_repositories(self._job.repositories)
        self._connect(self._host).close()  # says what is wrong with its options

        def wait(due: datetime) -> None:
            click.echo(f"the next run is at {due.isoformat()}", err=True)
            wait_until(due)

        try:
            keep_to(schedule, lambda due: self._act(schedule, due), wait=wait)
        except KeyboardInterrupt:
            if self._last is not None and self._last.status == "stopped":
                end(f"{_word(self._last)}: {self._last.reason}", self._last.exit_status)
            click.echo("ended", err=True)

    def _act(self, schedule: Schedule, due: datetime) -> None:
        """Run, and let no failure end the schedule."""
        try:
            self._last = self._run(schedule.after(due))
            if self._last.exit_status:
                click.echo(f"regaudit: {_word(self._last)}: {cleaned(self._last.reason)}", err=True)
        except (RegauditError, OSError) as error:
            click.echo(f"regaudit: failed: {redact(error)}", err=True)
        if self._stopping.asked:
            raise KeyboardInterrupt

    def _run(self, due: datetime | None) -> CleanReport:
        from regaudit.unattended.cleaning import clean as clean_once
        from regaudit.unattended.metrics import write_metrics

        with self._connect(self._host) as registry:
            report = clean_once(registry, self._job, progress=print_outcome, stopping=self._stopping)
        if self._metrics is not None:
            write_metrics(self._metrics, report, due)
        click.echo(report)
        return report


def _word(report: CleanReport) -> str:
    return report.status.replace("_", " ")


def _path(typed: str | None) -> Path | None:
    return None if typed is None else Path(typed)
