"""Work: one deletion or one undo in a thread of its own, with pause, resume and stop.

A form only looks at it. So the cell can be run again while it lasts: the new form finds it by the
journal that it writes to, and shows the same work with the same buttons.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from regaudit.cleaner.outcomes import UNDOABLE, Outcome, Run
from regaudit.cleaner.plan import Plan

if TYPE_CHECKING:
    from regaudit.cleaner.cleaner import Cleaner

_log = logging.getLogger("regaudit.notebook")

DELETING, UNDOING = "deleting", "undoing"

# By journal: one run has it at a time.
_under_way: dict[Path, Work] = {}


class Work:
    """What is being done to a registry, or was.

    Attributes
    ----------
    kind : str
        ``deleting`` or ``undoing``.
    plan : Plan
        Whose rows it is about.
    deleted : Run or None
        Of an undo, the deletion that it undoes.
    outcomes : dict
        The outcomes so far, by the key of their row.
    counts : Counter
        How many came to what.
    run : Run or None
        The whole of it, once it has ended.
    error : Exception or None
        What ended it before its time.
    undoes : dict
        Of an undo, the outcomes of that deletion by the key of their row.
    """

    def __init__(self, kind: str, cleaner: Cleaner, plan: Plan, deleted: Run | None = None) -> None:
        self.kind, self.plan, self.deleted = kind, plan, deleted
        self.outcomes: dict[str, Outcome] = {}
        self.counts: Counter[str] = Counter()
        self.run: Run | None = None
        self.error: Exception | None = None
        self._cleaner = cleaner
        self._stop, self._going = threading.Event(), threading.Event()
        self._going.set()
        self._told: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._work, name=f"regaudit-{kind}", daemon=True)
        self.undoes = {} if deleted is None else {outcome.key: outcome for outcome in deleted.outcomes}
        self._rows = _in_order_of_execution(plan) if kind == DELETING else []
        self._reached = 0
        self._ended = False

    @classmethod
    def under_way(cls, cleaner: Cleaner) -> Work | None:
        """Return the work of this kernel that has the cleaner's journal just now, or None."""
        work = _under_way.get(_place(cleaner))
        return work if work is not None and work.alive else None

    def start(self) -> None:
        """Begin."""
        _under_way[_place(self._cleaner)] = self
        self._thread.start()

    def tell(self, whom: Callable[[], None]) -> None:
        """Call `whom` after each outcome and at the end, instead of whoever was called before; it must not raise."""
        self._told = whom

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self._ended

    @property
    def total(self) -> int:
        """How many rows it is about."""
        if self.kind == DELETING:
            return len(self.plan.rows)
        return sum(outcome.outcome in UNDOABLE for outcome in self.deleted.outcomes) if self.deleted else 0

    @property
    def current(self) -> str:
        """The key of the row of a deletion whose turn it is, by the order of rows; empty where none is being asked for."""
        if not self.alive or self.paused or self._stop.is_set():
            return ""
        while self._reached < len(self._rows) and self._rows[self._reached] in self.outcomes:
            self._reached += 1
        return self._rows[self._reached] if self._reached < len(self._rows) else ""

    # -- what a person does -------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether no further row is begun until `resume`."""
        return not self._going.is_set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    def pause(self) -> None:
        """Begin no further row. What is asked for already is finished, and its outcome recorded."""
        self._going.clear()

    def resume(self) -> None:
        """Go on after `pause`. Every row is looked at again just before, however long the pause was."""
        self._going.set()

    def stop(self) -> None:
        """Begin no further row, for good."""
        self._stop.set()
        self._going.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        self._thread.join(timeout)

    # -- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self.run = self._carry_out()
        except Exception as error:  # noqa: BLE001 -- whoever looks shows it, and logs it
            self.error = error
            self.run = self._recorded()
        self._ended = True
        _under_way.pop(_place(self._cleaner), None)
        self._told()

    def _carry_out(self) -> Run:
        if self.deleted is not None:
            return self._cleaner.undo(self.deleted, progress=self._note, stop=self._stop)
        return self._cleaner.execute(self.plan, progress=self._note, stop=self._stop)

    def _note(self, outcome: Outcome) -> None:
        self.outcomes[outcome.key] = outcome
        self.counts[outcome.outcome] += 1
        self._told()
        # The cleaner begins the next row when this returns, and looks at everything again before it asks.
        self._going.wait()

    def _recorded(self) -> Run | None:
        """Return what a deletion did before it failed, from the journal: it can be undone from there."""
        if self.kind != DELETING or not self.outcomes:
            return None
        try:
            return self._cleaner.last_run(self.plan)
        except Exception as error:  # noqa: BLE001 -- the first failure is the one to show
            _log.warning("the journal cannot be read after a failed run", exc_info=error)
            return None


def _place(cleaner: Cleaner) -> Path:
    return Path(cleaner.journal.path).absolute()


def _in_order_of_execution(plan: Plan) -> list[str]:
    """Return the keys of a plan's rows as they are carried out: repository by repository."""
    repositories: dict[str, list[str]] = {}
    for row in plan.rows:
        repositories.setdefault(row.repository, []).append(row.key)
    return [key for keys in repositories.values() for key in keys]


__all__ = ["DELETING", "UNDOING", "Work"]
