"""What the journal tells of earlier runs of a plan, so that a new run goes on where they were, and the plan itself.

Nothing here asks a registry. A row is *settled* where a run saw that it is gone, and *open* where one
asked for it and never learned what came of it: killed between the request and the record, or cut off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from regaudit.cleaner.journal import Entry, Journal
from regaudit.cleaner.outcomes import SETTLED, UNSETTLED, runs_of
from regaudit.cleaner.plan import Plan
from regaudit.errors import JournalError, PlanError
from regaudit.text import clean


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier runs came to for one row.

    Attributes
    ----------
    run : str
        The run that said so.
    outcome : str
        Its word; ``unknown`` where there is only the intent.
    open : bool
        Whether the registry was asked, and what it made of that is not known.
    """

    run: str
    outcome: str
    open: bool = False

    @property
    def settled(self) -> bool:
        """Whether a run saw that it is gone, or written as it was to be."""
        return not self.open and self.outcome in SETTLED


@dataclass(frozen=True, slots=True)
class History:
    """The earlier runs of a plan, oldest first, and what they came to for each row, by its key."""

    runs: tuple[str, ...]
    rows: dict[str, Past]

    def settled(self, key: str) -> Past | None:
        """Return what is known of a row that is gone, else None."""
        past = self.rows.get(key)
        return past if past is not None and past.settled else None

    def open(self, key: str) -> Past | None:
        """Return what is known of a row that was asked for without an outcome, else None."""
        past = self.rows.get(key)
        return past if past is not None and past.open else None


def history_of(journal: Journal, plan_hash: str) -> History:
    """Return what the executions of exactly this plan came to, less what was put back since."""
    mine = runs_of(journal, plan_hash)
    rows: dict[str, Past] = {}
    for started in journal.runs():
        if started.run in mine:
            for entry in journal.entries(started.run):
                _note(entry, rows)
        elif started.data.get("undoes") in mine:
            _forget(list(journal.entries(started.run)), rows)
    return History(tuple(mine), rows)


def planned_by(journal: Journal, run: str) -> Plan:
    """Return the plan of a deletion, approved as it was.

    Raises
    ------
    JournalError
        The journal does not know the run, or it is no deletion, or what it has of its plan is not what was approved.
    """
    started = journal.last(run, "", "started")
    runs = [] if started is None else [run, *started.data.get("resumes", ())]  # the first of them has it
    apart = next((entry for name in runs if (entry := journal.last(name, "", "planned"))), None)
    if started is None or apart is None:
        raise JournalError(f"the journal has no plan of {clean(run, 60)!r}: `regaudit journal show` lists its runs")
    try:
        found = Plan.parse({**started.data, **apart.data})
        found.check()
    except (KeyError, TypeError, ValueError, AttributeError, PlanError):
        raise JournalError(
            f"the plan of {clean(run, 60)!r} is not the one that was approved: `regaudit journal verify` says what was changed"
        ) from None
    return found


def _note(entry: Entry, rows: dict[str, Past]) -> None:
    if entry.event == "intent":
        rows[entry.key] = Past(entry.run, "unknown", open=True)
    elif entry.event == "kept":
        # What it belongs to was asked for next; a registry may have taken both.
        rows.setdefault(entry.key, Past(entry.run, "unknown", open=True))
    elif entry.event == "outcome":
        word = str(entry.data["outcome"])
        before = rows.get(entry.key)
        if before is not None and before.open and word not in SETTLED:
            # A later run that did not ask, and did not see it gone, has learned nothing of the request.
            open_still = word in UNSETTLED or before.run != entry.run
            rows[entry.key] = replace(before, outcome=word, open=open_still)
        elif word != "deleted_before":  # which only repeats what an earlier run said
            rows[entry.key] = Past(entry.run, word)


def _forget(undo: list[Entry], rows: dict[str, Past]) -> None:
    """Take out what an undo has touched: it may be back. Of one that did not end, nobody knows how far it came."""
    ended = any(entry.event == "finished" and not entry.data.get("stopped") for entry in undo)
    touched = {entry.key for entry in undo if entry.event == "outcome"} if ended else set(rows)
    for key in touched:
        rows.pop(key, None)


__all__ = ["History", "Past", "history_of", "planned_by"]
