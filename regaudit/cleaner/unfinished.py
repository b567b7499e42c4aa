"""Runs that were cut off: found in the journal, and their open questions answered by looking.

A run that was killed between a request and its record leaves an intent without an outcome. What became
of it can be seen in the registry, and is recorded with that run, which is ended then: it can be undone
like any other. What it had not begun is not taken up again here, since the policy, or what is in use, may be
another one by now: whoever runs next decides anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from regaudit.cleaner.journal import Entry, Journal
from regaudit.cleaner.outcomes import Outcome, record_outcome, recorded_run
from regaudit.cleaner.rows import DELETE_TAG, PUT_INDEX
from regaudit.cleaner.surroundings import tag_digest
from regaudit.client import v2
from regaudit.client.registry import Registry
from regaudit.errors import NotFound, RegistryError


@dataclass(frozen=True, slots=True)
class CutOff:
    """A run that did not come to its end.

    Attributes
    ----------
    run, kind : str
        Its name, and ``delete``, ``undo`` or ``restore``.
    settled : tuple of Outcome
        What was open, and is recorded now as the registry shows it.
    open : int
        How many rows nobody could tell of; the run stays unfinished then.
    """

    run: str
    kind: str
    settled: tuple[Outcome, ...] = ()
    open: int = 0

    def __str__(self) -> str:
        counted = f"{len(self.settled)} of its rows were looked at and recorded"
        if self.open:
            return f"run {self.run} was cut off; {counted}, and {self.open} could not be looked at"
        if self.kind != "delete":
            return f"run {self.run} ({self.kind}) was cut off: type the same command again to go on with it"
        return f"run {self.run} was cut off; {counted}. It can be undone: regaudit undo {self.run}"


def settle_cut_off(registry: Registry, journal: Journal) -> tuple[CutOff, ...]:
    """Look at what runs that were cut off left open, record it, and return them; for who holds the journal."""
    return tuple(_settle(registry, journal, started) for started in _cut_off(journal))


def _cut_off(journal: Journal) -> list[Entry]:
    runs = journal.runs()
    open_runs = [entry for entry in runs if journal.last(entry.run, "", "finished") is None]
    names = {entry.run for entry in open_runs}
    # An undo that was cut off and typed again has been gone on with.
    again = {_purpose(entry): entry.number for entry in runs if entry.run not in names and "undoes" in entry.data}
    return [entry for entry in open_runs if again.get(_purpose(entry), 0) < entry.number]


def _purpose(started: Entry) -> tuple[str, str]:
    return started.data["kind"], str(started.data.get("undoes", started.run))


def _settle(registry: Registry, journal: Journal, started: Entry) -> CutOff:
    kind = str(started.data["kind"])
    if kind != "delete":
        return CutOff(started.run, kind)
    told = {entry.key for entry in journal.entries(started.run) if entry.event == "outcome"}
    unknown = [outcome for outcome in recorded_run(journal, started.run).outcomes if outcome.key not in told]
    seen = [found for outcome in unknown if (found := _look(registry, journal, started.run, outcome)) is not None]
    for outcome in seen:
        record_outcome(journal, started.run, outcome)
    if len(seen) == len(unknown):
        journal.record(started.run, "finished", stopped=True, cut_off=True)
    return CutOff(started.run, kind, tuple(seen), len(unknown) - len(seen))


def _look(registry: Registry, journal: Journal, run: str, outcome: Outcome) -> Outcome | None:
    """Return what became of a row, as the registry shows it now; None where no read tells."""
    try:
        if outcome.action in {DELETE_TAG, PUT_INDEX}:
            found = registry.run(tag_digest(registry.session, outcome.repository, outcome.tags[0]))
        else:
            found = str(registry.run(v2.get_manifest(registry.session, outcome.repository, str(outcome.digest))).digest)
    except NotFound as error:
        if error.code in {None, "NAME_UNKNOWN"}:
            return None
        found = None
    except RegistryError:
        return None
    word = _word(journal, run, outcome, found)
    return replace(outcome, outcome=word, detail="the run was cut off; this is what was seen later")


def _word(journal: Journal, run: str, outcome: Outcome, found: str | None) -> str:
    if outcome.action == PUT_INDEX:
        intent = journal.last(run, outcome.key, "intent")
        written = None if intent is None else intent.data.get("written")
        return "rewritten" if found is not None and found == written else "not_rewritten"
    if found is None:
        return "deleted_unconfirmed"
    return "not_deleted" if found == outcome.digest else "unknown"


__all__ = ["CutOff", "settle_cut_off"]
