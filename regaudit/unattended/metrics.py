"""Figures of unattended runs for monitoring: a file in the text format of Prometheus, as its node exporter collects it."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from regaudit.cleaner.outcomes import GONE
from regaudit.text import atomic_write
from regaudit.unattended.record import CleanReport

_HELP = {
    "last_run_timestamp_seconds": "When the last run ended.",
    "last_success_timestamp_seconds": "When a run last ended with 0.",
    "next_run_timestamp_seconds": "When the next run is due.",
    "exit_status": "What the last run ended with.",
    "duration_seconds": "How long the last run took.",
    "deleted": "Digests and tags that the last run saw gone by its doing.",
    "not_deleted": "Rows of the last run's plan that did not come to what was asked.",
    "refused": "Candidates that the last run's plan refused.",
    "held_back": "Tags that the policy condemns and something holds back.",
    "unread_repositories": "Repositories of which something was not read.",
    "freed_bytes": "What the last run's deletions give back after garbage collection.",
}


def write_metrics(path: Path, report: CleanReport, due: datetime | None = None) -> None:
    """Write the figures of a run; when one last succeeded is taken over from the file that is there.

    Parameters
    ----------
    due : datetime, optional
        When the next run is due.
    """
    label = f'{{registry="{report.registry}"}}'
    figures = _figures(report, _last_success(path, label))
    if due is not None:
        figures["next_run_timestamp_seconds"] = due.timestamp()
    with atomic_write(path) as file:
        for name, value in figures.items():
            metric = f"regaudit_clean_{name}"
            file.write(f"# HELP {metric} {_HELP[name]}\n# TYPE {metric} gauge\n{metric}{label} {value}\n")


def _figures(report: CleanReport, success: float | None) -> dict[str, float]:
    ended = 0.0 if report.finished_at is None else report.finished_at.timestamp()
    success = ended if report.exit_status == 0 else success
    outcomes = () if report.run is None else report.run.outcomes
    ours = GONE - {"already_absent"}
    fine = GONE | {"rewritten", "skipped"}
    figures = {"last_run_timestamp_seconds": ended}
    if success is not None:
        figures["last_success_timestamp_seconds"] = success
    return figures | {
        "exit_status": report.exit_status,
        "duration_seconds": round(report.seconds, 3),
        "deleted": sum(outcome.outcome in ours for outcome in outcomes),
        "not_deleted": sum(outcome.outcome not in fine for outcome in outcomes),
        "refused": report.plan.get("refused_count", 0),
        "held_back": report.held.get("count", 0),
        "unread_repositories": len(report.snapshot.get("unread", ())),
        "freed_bytes": report.freed_bytes,
    }


def _last_success(path: Path, label: str) -> float | None:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(
        rf"^regaudit_clean_last_success_timestamp_seconds{re.escape(label)} ([0-9.]+)$", text, re.MULTILINE
    )
    return float(found[1]) if found else None


__all__ = ["write_metrics"]
