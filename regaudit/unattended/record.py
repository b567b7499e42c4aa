"""The report of an unattended run: for whoever reads it the next morning, and for what watches over it.

`STATUSES` is the contract with monitoring: a word for each way in which a run can end, and the exit status of
``regaudit clean`` that goes with it.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from regaudit.analysis.retention import Retention
from regaudit.cleaner.outcomes import GONE, Run
from regaudit.cleaner.plan import Plan
from regaudit.inventory.snapshot import Snapshot
from regaudit.text import atomic_write, clean, count_of, human_bytes, isoformat, owned_folder

FORMAT = "regaudit-clean/1"

# 75 is EX_TEMPFAIL of sysexits.h: try again later. All others keep to what every command of regaudit ends with.
STATUSES = {
    "done": 0,
    "nothing_to_do": 0,
    "dry_run": 0,
    "incomplete": 1,
    "held_back": 1,
    "needs_approval": 1,
    "not_deleted": 1,
    "stopped": 1,
    "failed": 1,
    "usage": 2,
    "busy": 75,
}
# Of what may be many and is no outcome, so many rows are in the report; their number is always whole.
_ROWS = 1000
_SHOWN = 20
# The fields that are in the file as they are.
_PLAIN = (
    *("registry", "dry_run", "status", "exit_status", "reason", "policy", "snapshot", "problems", "unmatched", "notes"),
    *("held", "plan", "plan_file", "approval", "sends", "cut_off", "freed_bytes"),
)


@dataclass(frozen=True, slots=True)
class Verification:
    """What a reading after a deletion found that should not be so.

    Attributes
    ----------
    missing : tuple of str
        Tags that are gone, and that this run did not delete.
    still_there : tuple of str
        Tags that were deleted, and are there as before.
    broken : tuple of str
        Tags that cannot be pulled whole any more, and could before.
    unread : tuple of str
        Repositories that could not be read again.
    """

    missing: tuple[str, ...] = ()
    still_there: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything was read, and is as it should be."""
        return not any(getattr(self, name) for name in self.__slots__)

    def to_dict(self) -> dict[str, list[str]]:
        """Return plain values."""
        return {name: list(getattr(self, name)) for name in self.__slots__}

    def __str__(self) -> str:
        parts = [f"{name.replace('_', ' ')}: {', '.join(getattr(self, name)[:5])}" for name in self.__slots__]
        return (
            "; ".join(part for part, name in zip(parts, self.__slots__, strict=True) if getattr(self, name))
            or "as it should be"
        )


@dataclass(slots=True, kw_only=True)
class CleanReport:
    """What an unattended run found, decided and did; filled in step by step.

    Attributes
    ----------
    status : str
        A key of `STATUSES`; empty while the run is under way.
    reason : str
        Why it is not done, and what to type next.
    unmatched : list of str
        Names that the registry does not know, and patterns that match no repository.
    sends : list of str
        Of a dry run: the requests, other than reads, that a run would send, in their order.
    freed_bytes : int
        What comes back after garbage collection, of what went.
    file : str
        Where the report is.
    """

    registry: str
    dry_run: bool = False
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    status: str = ""
    reason: str = ""
    policy: dict[str, Any] = field(default_factory=dict)
    snapshot: dict[str, Any] = field(default_factory=dict)
    problems: list[dict[str, Any]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    headline: str = ""
    held: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    plan_headline: str = ""
    plan_file: str | None = None
    approval: dict[str, str] | None = None
    sends: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    run: Run | None = None
    freed_bytes: int = 0
    verification: Verification | None = None
    file: str | None = None

    @property
    def exit_status(self) -> int:
        """What ``regaudit clean`` ends with."""
        return STATUSES.get(self.status, 1)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return ((self.finished_at or datetime.now(UTC)) - self.started_at).total_seconds()

    # -- filled in ----------------------------------------------------------------------------

    def note_snapshot(self, snapshot: Snapshot, *, unknown: tuple[str, ...]) -> None:
        """Note what was read, and what could not be."""
        self.snapshot = {
            "taken_at": isoformat(snapshot.taken_at),
            "repositories": len(snapshot.repositories),
            "tags": len(snapshot.tags),
            "complete": snapshot.complete,
            "unread": sorted(snapshot.unread),
            "requests": dict(snapshot.requests),
        }
        self.unmatched = list(unknown)
        self.problems = _records(
            snapshot.problems, ["repository", "identifier", "stage", "error", "code", "status", "message", "blocking"]
        )

    def note_retention(self, judged: Retention) -> None:
        """Note what the policy lets go, and what it holds back."""
        self.headline = judged.headline()
        self.notes += judged.notes
        counts = judged.held["held_by"].astype(str).value_counts()
        self.held = {
            "count": len(judged.held),
            "by": {str(word): int(count) for word, count in counts.items()},
            "rows": _records(judged.held, ["repository", "tag", "digest", "rule", "held_by", "detail"]),
        }

    def note_plan(self, made: Plan) -> None:
        """Note what would go, and what is refused."""
        self.plan_headline = made.headline()
        refused = [
            {
                name: value
                for name, value in row.to_dict().items()
                if name in {"repository", "tags", "digest", "refusal", "detail"}
            }
            for row in made.refused[:_ROWS]
        ]
        self.plan = {
            "hash": made.hash,
            "digests": made.digests,
            "tags": made.tags,
            "reclaimable_bytes": made.reclaimable_bytes,
            "bytes_may_be": _bounds(made),
            "refused_count": len(made.refused),
            "refused_by": dict(Counter(row.refusal for row in made.refused)),
            "refused": refused,
        }

    def note_run(self, run: Run, made: Plan) -> None:
        """Note what became of each row."""
        self.run = run
        gone = {outcome.key for outcome in run.outcomes if outcome.outcome in GONE - {"already_absent"}}
        self.freed_bytes = sum(row.freed_bytes for row in made.rows if row.key in gone)

    def lacking(self) -> str:
        """Return what was condemned and did not go, as far as somebody may have to see to it; empty where nothing was.

        What an alias, an index or a minimum holds back is so day after day, and what was not read is said elsewhere.
        """
        limits = ("maximum_deletions", "maximum_percent", "whole_registry")
        held = sum(self.held.get("by", {}).get(word, 0) for word in limits)
        skipped = 0 if self.run is None else self.run.counts().get("skipped", 0)
        counts = {
            "are held back by a limit": held,
            "are refused": self.plan.get("refused_count", 0),
            "were skipped": skipped,
        }
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)

    def end(self, status: str, reason: str) -> None:
        """Say how it ended."""
        self.status, self.reason = status, reason

    def finish(self, folder: Path | None) -> None:
        """Write the report, under a name of its own and as ``latest.json``; that it cannot be written is said in it."""
        self.finished_at = datetime.now(UTC)
        if folder is None:
            return
        path = folder / f"clean-{self.started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.json"
        try:
            owned_folder(folder)
            self.file = str(path)
            for target in (path, folder / "latest.json"):
                with atomic_write(target) as file:
                    json.dump(self.to_dict(), file, indent=1)
        except (OSError, ValueError) as error:
            self.file = None
            self.end(
                "failed" if self.exit_status == 0 else self.status,
                f"{self.reason} The report cannot be written: {clean(error, 300)}".strip(),
            )

    # -- read ---------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, as the file has it."""
        run = self.run
        done = (
            None
            if run is None
            else {
                "id": run.id,
                "stopped": run.stopped,
                "counts": run.counts(),
                "outcomes": [outcome.to_dict() for outcome in run.outcomes],
            }
        )
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in _PLAIN},
            "started_at": isoformat(self.started_at),
            "finished_at": None if self.finished_at is None else isoformat(self.finished_at),
            "duration_seconds": round(self.seconds, 3),
            "run": done,
            "advice": "" if run is None else run.advice,
            "verification": None if self.verification is None else self.verification.to_dict(),
        }

    def __str__(self) -> str:
        shown = [f"{self.registry}: {self.status.replace('_', ' ')}", *self.cut_off]
        if self.snapshot:
            repositories = count_of(self.snapshot["repositories"], "repository", "repositories")
            read = f"read: {repositories} with {count_of(self.snapshot['tags'], 'tag')}"
            shown += [
                f"policy {self.policy['hash'][:12]}; {read}",
                f"{self.headline}{_counted(self.held['by'])}" if self.headline else "",
            ]
        shown += self.notes
        shown += [_problem(row) for row in self.problems[:_SHOWN]]
        shown.append(f"and {len(self.problems) - _SHOWN:,} more problems" if len(self.problems) > _SHOWN else "")
        if self.plan and (self.plan["digests"] or self.plan["refused_count"]):
            shown.append(f"plan {self.plan['hash'][:12]}: {self.plan_headline}{_counted(self.plan['refused_by'])}")
        if self.approval:
            shown.append(f"approved in advance by {self.approval['by']} ({self.approval['reason']})")
        shown += self._sent() if self.dry_run and self.plan else []
        if self.run is not None:
            shown += [str(self.run)]
            shown += [f"{human_bytes(self.freed_bytes)} to come back: {self.run.advice}"] if self.run.advice else []
        shown += [f"looked at again: {self.verification}"] if self.verification is not None else []
        shown += [f"report: {self.file}"] if self.file else []
        return "\n".join(clean(line, 1000) for line in shown if line)

    def _sent(self) -> list[str]:
        if not self.sends:
            return ["a run would send nothing but reads"]
        asks = (
            "first, DELETE of a digest and of a tag that cannot be there, to learn whether the registry deletes; then"
        )
        return [
            f"a run would send {count_of(len(self.sends), 'request')} to change something ({asks}):",
            *(f"  {line}" for line in self.sends),
        ]


def _counted(counts: dict[str, int]) -> str:
    text = ", ".join(f"{count:,} {word}" for word, count in counts.items())
    return f" ({text})" if text else ""


def _problem(row: dict[str, Any]) -> str:
    kind = "found" if row["blocking"] is False else "not read"
    return f"{kind}: {row['repository'] or 'the catalog'} {row['identifier'] or ''} {row['error']}: {row['message']}"


def _bounds(made: Plan) -> str:
    return {(False, False): "exact", (True, False): "more", (False, True): "less", (True, True): "more or less"}[
        made.lower_bound, made.upper_bound
    ]


def _records(frame: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Return the first rows of a table as plain values."""
    plain = frame[columns].head(_ROWS).astype("object")
    return [
        dict(zip(columns, row, strict=True))
        for row in plain.where(plain.notna(), None).itertuples(index=False, name=None)
    ]


__all__ = ["STATUSES", "CleanReport", "Verification"]
