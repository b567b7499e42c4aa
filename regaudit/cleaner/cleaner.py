"""Cleaner: executes an approved plan, verifies what happened, and undoes it.

The door: it checks what it is given and holds the journal for one run at a time. How rows go is in
`regaudit.cleaner.execution`, how they come back in `regaudit.cleaner.undo`, and what can become of
them in `regaudit.cleaner.outcomes`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from regaudit.cleaner.backup import Backup, KeptReport, Restoring, back_up
from regaudit.cleaner.execution import Execution
from regaudit.cleaner.freed import Freed, freed_by
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.outcomes import Report, Run, planned_key, recorded_run
from regaudit.cleaner.plan import Plan
from regaudit.cleaner.undo import Restoration
from regaudit.client.registry import Registry
from regaudit.errors import JournalError, PlanError
from regaudit.text import clean


class Cleaner:
    """Deletes what an approved plan says, and nothing else.

    Where a registry keeps a manifest for its tags (Artifact Registry), these go first, one by one: they are in the plan.

    Parameters
    ----------
    registry : Registry
    journal : path or Journal, optional
        Where everything is recorded; by default a file for this registry in the user's state folder.

    Examples
    --------
    ``Cleaner(registry).execute(plan.approve(by="Ada"))``
    """

    def __init__(self, registry: Registry, *, journal: str | Path | Journal | None = None) -> None:
        self.registry = registry
        self._own_journal = not isinstance(journal, Journal)
        if isinstance(journal, Journal):
            self.journal = journal
        else:
            self.journal = Journal(journal if journal is not None else Journal.default_path(registry.host))

    def execute(
        self,
        plan: Plan,
        *,
        progress: Report | None = None,
        stop: threading.Event | None = None,
        backup: str | Path | None = None,
        max_age: str | timedelta | None = None,
    ) -> Run:
        """Delete what an approved plan lists, row by row, and return what became of each.

        Parameters
        ----------
        plan : Plan
            Approved exactly as it stands.
        progress : callable, optional
            Is given each `Outcome` as it comes.
        stop : threading.Event, optional
            Once set, no further deletion is begun.
        backup : path, optional
            Keep whole images in this folder first, as `backup` does; what cannot be kept whole is skipped.
        max_age : str or timedelta, optional
            Refuse a plan whose registry was read longer ago, as in ``"12h"``.

        Raises
        ------
        PlanError
            The plan is not approved, was changed after the approval, is too old, or is for another registry.
        JournalError
            The journal cannot be written, or another run has it. Nothing was deleted then.
        """
        plan.check(max_age=max_age)
        self._check_registry(plan)
        with self.journal.locked():
            kept = None if backup is None else back_up(self.registry, plan, backup, stop=stop)
            return Execution(
                self.registry,
                self.journal,
                plan,
                progress,
                stop,
                backup="" if kept is None else str(kept.folder),
                withheld=None if kept is None else kept.withheld(),
            ).run()

    def backup(
        self,
        plan: Plan,
        folder: str | Path,
        *,
        progress: KeptReport | None = None,
        stop: threading.Event | None = None,
    ) -> Backup:
        """Keep every image that a plan deletes, whole, in a folder: an OCI image layout. Deletes nothing.

        Called again, it goes on with what is missing. The plan needs no approval for it.

        Raises
        ------
        UsageError
            The folder is something else than such a layout, or its disk has not enough room.
        """
        self._check_registry(plan)
        return back_up(self.registry, plan, folder, progress=progress, stop=stop)

    def restore(
        self,
        folder: str | Path,
        *,
        only: str | Iterable[str] = (),
        overwrite: bool = False,
        progress: Report | None = None,
        stop: threading.Event | None = None,
    ) -> Run:
        """Put the images of a backup back, with their tags, also after garbage collection.

        Parameters
        ----------
        only : str or iterable of str
            Only these: a ``repository``, a tag ``repository:tag``, a digest.
        overwrite : bool
            Set tags back even where somebody has set them to something else since.

        Raises
        ------
        UsageError
            The folder is no backup, or has nothing of a name in `only`.
        """
        names = (only,) if isinstance(only, str) else tuple(only)
        with self.journal.locked():
            return Restoring(self.registry, self.journal, folder, progress, stop, overwrite=overwrite, only=names).run()

    def undo(
        self,
        run: Run | str,
        *,
        progress: Report | None = None,
        stop: threading.Event | None = None,
        overwrite: bool = False,
        only: str | Iterable[str] = (),
    ) -> Run:
        """Put back what a run deleted: manifests byte for byte, children first, then their tags.

        Possible as long as the registry has not collected its garbage.

        Parameters
        ----------
        overwrite : bool
            Set tags back even where somebody has set them to something else since.
        only : str or iterable of str
            Put back only these: a ``repository``, a tag ``repository:tag``, a digest. What they need
            comes with them (an index's children, a signature's subject), and so do the signatures
            that went along with them.

        Raises
        ------
        JournalError
            The journal does not know the run.
        UsageError
            The run deleted nothing of a name in `only`.
        """
        name = run if isinstance(run, str) else run.id
        names = (only,) if isinstance(only, str) else tuple(only)
        with self.journal.locked():
            return Restoration(self.registry, self.journal, name, progress, stop, overwrite=overwrite, only=names).run()

    def verify(self, run: Run | str) -> Freed:
        """Ask which of the configs and layers that a run was to bring back are really gone; changes nothing.

        A request for each digest of the plan, and one for each blob. Meant for after the registry has collected its garbage.

        Raises
        ------
        JournalError
            The journal does not know the run, or it is no deletion at this registry.

        Examples
        --------
        ``cleaner.verify(run)`` after ``docker-registry garbage-collect``
        """
        return freed_by(self.registry, self.journal, run if isinstance(run, str) else run.id)

    def run(self, name: str) -> Run:
        """Return a run as the journal has it; raises `JournalError` where it does not know it."""
        return recorded_run(self.journal, name)

    def last_run(self, plan: Plan) -> Run | None:
        """Return the newest deletion in the journal that executed this plan or a selection of it, or None.

        A selection is known by its snapshot and by a row that it has in common with the plan.
        """
        keys = {row.key for row in plan.rows}
        undone: dict[str, str] = {}
        for started in reversed(self.journal.runs()):
            if _executed(started.data, plan, keys):
                return replace(self.run(started.run), undone=undone.get(started.run, ""))
            undone.setdefault(str(started.data.get("undoes", "")), started.run)
        return None

    def interrupted_run(self) -> Run | None:
        """Return the newest deletion of this registry in the journal if it did not come to its end, or None.

        It was stopped, or its process was killed; or it is still under way, in this process or another (`busy`).
        """
        started = [e for e in self.journal.runs() if e.data.get("registry") == self.registry.host]
        if not started or started[-1].data.get("kind") != "delete":
            return None
        run = self.run(started[-1].run)
        return run if run.stopped else None

    @property
    def busy(self) -> bool:
        """Whether a run has the journal just now, in this process or another."""
        try:
            with self.journal.locked():
                return False
        except JournalError:
            return True

    def _check_registry(self, plan: Plan) -> None:
        if plan.registry != self.registry.host:
            raise PlanError(
                f"the plan is for {clean(plan.registry, 120)}, and this is {clean(self.registry.host, 120)}: "
                "use it with its own registry, or make a plan of this one"
            )

    def close(self) -> None:
        """Close the journal, unless it was given as one."""
        if self._own_journal:
            self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _executed(started: dict[str, Any], plan: Plan, keys: set[str]) -> bool:
    """Return whether a run deleted rows of a plan."""
    if started.get("kind") != "delete" or started.get("registry") != plan.registry:
        return False
    if (
        "taken_at" not in started
    ):  # all that a journal of before it was recorded can tell; a large plan's hash takes long
        return bool(started.get("plan_hash") == plan.hash)
    return started["taken_at"] == plan.taken_at and any(planned_key(row) in keys for row in started.get("rows", ()))


__all__ = ["Cleaner"]
