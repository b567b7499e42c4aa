"""Outcomes: what a row can come to, which answer means what, and a run as the journal has it.

The words, the table that finds them, and their way into the journal and back are here, for both
directions. Nothing here asks a registry.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pandas as pd

from regaudit.cleaner.garbage import ENABLE_DELETION, advice
from regaudit.cleaner.journal import Entry, Journal
from regaudit.cleaner.rows import DELETE_MANIFEST, PlanRow
from regaudit.client.exchange import Response, error_of, registry_error
from regaudit.errors import (
    AccessDenied,
    AuthenticationFailed,
    JournalError,
    NotFound,
    RateLimited,
    RedirectRefused,
    RegistryError,
    Unreachable,
)
from regaudit.text import clean, displayed, escape, html_table

logger = logging.getLogger("regaudit.cleaner")

# -- the words -------------------------------------------------------------------------------

# A deletion that left nothing behind, by whomever.
GONE = frozenset({"deleted", "deleted_unconfirmed", "deleted_before", "already_absent"})
# A run saw that what was asked for is so: a later one need not ask again.
SETTLED = GONE | {"rewritten"}
_FINE = SETTLED | {"skipped", "restored", "already_there"}
# Something may be gone by our doing.
UNDOABLE = frozenset(
    {"deleted", "deleted_unconfirmed", "deleted_before", "unknown", "not_deleted", "lost", "rewritten", "not_rewritten"}
)
# It was asked for, and may happen after we last looked: what a later run finds gone may be our doing.
UNSETTLED = frozenset({"unknown", "not_deleted", "not_rewritten", "failed"})
# After these nothing more is sent to the registry, or to the repository.
STOPS_REGISTRY = frozenset({"disabled", "denied", "refused_redirect", "rate_limited", "lost"})
STOPS_REPOSITORY = frozenset({"repository_missing"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row.

    Attributes
    ----------
    outcome : str
        Of a deletion: ``deleted``, ``deleted_unconfirmed`` (gone, though the reply did not say so, or the registry took
        it along with what it belonged to),
        ``deleted_before`` (by an earlier run of the same plan, which this one goes on with; not asked for again),
        ``rewritten`` (a list of referrers, without what went) and ``not_rewritten``,
        ``already_absent``, ``not_deleted``, ``disabled``, ``denied``, ``refused_by_registry``,
        ``refused_redirect``, ``rate_limited``, ``repository_missing``, ``skipped``, ``unknown``,
        ``failed``, ``lost`` (what was to stay is gone: a kept tag that vanished meanwhile, or a manifest
        that the registry deleted together with one of its tags). Of an undo: ``restored``,
        ``already_there``, ``tag_moved``, ``blobs_gone``, ``failed``.
    detail : str
        One sentence.
    """

    key: str
    repository: str
    digest: str | None
    tags: tuple[str, ...]
    action: str
    outcome: str
    detail: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {"tags": list(self.tags), "at": self.at.isoformat()}


# Is given each outcome as it comes.
Report: TypeAlias = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a plan, or one undo, as the journal has it.

    Attributes
    ----------
    kind : str
        ``delete``, ``undo`` or ``restore``.
    stopped : bool
        Whether it ended before all rows were tried.
    resumes : tuple of str
        Earlier executions of the same plan, oldest first, which it goes on with.
    advice : str
        Of a deletion that left bytes to collect: what to type for them to come back.
    planned : tuple of str
        The keys of the rows that a deletion was to try, in order.
    by, taken_at : str
        Who approved a deletion, and when the snapshot behind its plan was taken.
    undone : str
        The last undo of it, where that was looked for (`Cleaner.last_run`).
    """

    id: str
    plan_hash: str
    kind: str
    outcomes: tuple[Outcome, ...]
    stopped: bool = False
    resumes: tuple[str, ...] = ()
    advice: str = ""
    planned: tuple[str, ...] = ()
    by: str = ""
    taken_at: str = ""
    undone: str = field(default="", compare=False)  # said beside the run: it is the same one before and after

    @property
    def left(self) -> tuple[str, ...]:
        """The planned rows of which it is not known that they are done, in order: what going on would be about."""
        done = {outcome.key for outcome in self.outcomes if outcome.outcome in SETTLED}
        return tuple(key for key in self.planned if key not in done)

    @property
    def ok(self) -> bool:
        """Whether every row came to what was asked, or was skipped for a reason that the registry's state gave."""
        return not self.stopped and all(outcome.outcome in _FINE for outcome in self.outcomes)

    def counts(self) -> dict[str, int]:
        """Return how many rows came to each outcome."""
        return dict(Counter(outcome.outcome for outcome in self.outcomes))

    def frame(self) -> pd.DataFrame:
        """Return a row per outcome: key, repository, digest, tags, action, outcome, detail, at."""
        names = ["key", "repository", "digest", "tags", "action", "outcome", "detail", "at"]
        records = [{**outcome.to_dict(), "tags": " ".join(outcome.tags), "at": outcome.at} for outcome in self.outcomes]
        frame = pd.DataFrame(records, columns=names)
        frame["at"] = pd.to_datetime(frame["at"], utc=True).astype("datetime64[us, UTC]")
        return frame.astype({name: "string" for name in names if name != "at"})

    def __str__(self) -> str:
        counted = ", ".join(f"{count} {word}" for word, count in self.counts().items()) or "nothing to do"
        onward = f" (goes on after {', '.join(self.resumes[-3:])})" if self.resumes else ""
        return clean(f"{self.kind} {self.id}{onward}: {counted}{'; stopped before the end' if self.stopped else ''}")

    def _repr_html_(self) -> str:
        shown = self.outcomes[:100]
        rows: list[list[object]] = [[o.repository, " ".join(o.tags[:8]), o.outcome, o.detail] for o in shown]
        after = f"<p>{escape(self.advice)}</p>" if self.advice else ""
        table = html_table(["repository", "tags", "outcome", "detail"], rows)
        return displayed(f"<p>{escape(self)}</p>{table}{after}")


# -- which answer means what -----------------------------------------------------------------

# A registry that answers one of these may have carried the deletion out all the same.
BUSY = frozenset({429, 503})
_ACCEPTED = frozenset({200, 202, 204})
NO_TAG_DELETION = "the registry does not delete by tag"
# What registries say of a manifest that others need or that a rule holds (ECR, Artifact Registry, Quay, Harbor).
_HELD = ("referenced", "immutable", "dangling")
_LOCKED = ("immutable", "locked", "disallowed")
# A registry that keeps what has a tag, whoever reviewed the tag (Artifact Registry and Google's older one say so with 400).
_TAGGED = ("dangling_tag", "referenced by tag", "referenced by one or more tags")


def may_take_effect(reply: Response | RegistryError) -> bool:
    """Return whether a deletion may yet happen: it was accepted, or nobody knows how far it came."""
    if isinstance(reply, RegistryError):
        return isinstance(reply, Unreachable)
    return reply.status in _ACCEPTED or reply.status >= 500


def classify(
    reply: Response | RegistryError, *, alive: bool | None, tag_only: bool, again: bool, patience: float
) -> tuple[str, str]:
    """Return the outcome of a deletion, and a sentence.

    Parameters
    ----------
    reply : Response or RegistryError
        What was answered, or why there is no answer.
    alive : bool or None
        What a read afterwards shows; None where no read tells.
    tag_only : bool
        Whether only a tag was to go.
    again : bool
        Whether it had been asked for before, so that a 404 may be our own doing.
    patience : float
        For how many seconds an accepted deletion was looked at.
    """
    if alive is None:
        return "unknown", f"whether it is gone could not be read; the registry answered {_said(reply)}"
    if isinstance(reply, RegistryError):
        return _classify_error(reply, alive=alive)
    code = _code(reply)
    if reply.status == 404 and (code == "NAME_UNKNOWN" or (alive and code is None)):
        return "repository_missing", f"the answer was {_said(reply)}: no registry knows the repository there"
    if alive:
        return _classify_alive(reply, code, tag_only=tag_only, patience=patience)
    return _classify_gone(reply, again=again)


def _classify_alive(reply: Response, code: str | None, *, tag_only: bool, patience: float) -> tuple[str, str]:
    status = reply.status
    if status in _ACCEPTED:
        return "not_deleted", f"accepted ({status}), and still there after {patience:.0f} s"
    if _holds(reply, code):
        return "refused_by_registry", f"the registry keeps it ({_words(reply)}): {_what_holds(reply)}"
    if status == 405 or code == "UNSUPPORTED" or (tag_only and status == 400):
        return ("refused_by_registry", NO_TAG_DELETION) if tag_only else ("disabled", ENABLE_DELETION)
    if status in {401, 403}:
        return "denied", (
            f"the credentials do not allow deletion ({_words(reply)}): log in as somebody who may delete. Docker Hub says this of "
            "what has a tag or is part of another image too: delete the tag there first"
        )
    if status in BUSY:
        return "rate_limited", "the registry asks for fewer requests: go on later with the same plan"
    return "not_deleted", f"still there; the answer was {_said(reply)}"


def _classify_gone(reply: Response, *, again: bool) -> tuple[str, str]:
    if reply.status in _ACCEPTED:
        return "deleted", "" if reply.status == 202 else f"the answer was {reply.status}"
    if reply.status == 404 and not again:
        return "already_absent", "somebody else deleted it at the same time, or a proxy sent the request twice"
    return "deleted_unconfirmed", f"gone, although the answer was {_said(reply)}"


def _classify_error(error: RegistryError, *, alive: bool) -> tuple[str, str]:
    if not alive:
        return "deleted_unconfirmed", f"gone, although there was no answer: {error}"
    if isinstance(error, RedirectRefused):
        return "refused_redirect", str(error)
    return _kept_out(error) or "not_deleted", str(error)


def classify_unread(error: RegistryError) -> tuple[str, str]:
    """Return the outcome of a row that could not be read again, and so was not asked for, and a sentence."""
    if isinstance(error, NotFound):
        return "repository_missing", str(error)
    if word := _kept_out(error):
        return word, str(error)
    return "failed", f"not read again, so not deleted: {error}"


def _kept_out(error: RegistryError) -> str | None:
    if isinstance(error, AccessDenied | AuthenticationFailed):
        return "denied"
    return "rate_limited" if isinstance(error, RateLimited) else None


def keeps_for_its_tags(reply: Response | RegistryError) -> bool:
    """Return whether a registry refuses a digest for nothing but the tags on it."""
    return isinstance(reply, Response) and reply.status >= 400 and any(word in _text(reply) for word in _TAGGED)


def _holds(reply: Response, code: str | None) -> bool:
    """Return whether a no is about this one manifest, and the next may go.

    A 405 with a code of its own is: zot answers it (DENIED) to the child of an index, Azure's registry
    (REGISTRY_DISALLOWED_OPERATION) to what is locked. Where deletion is switched off, the code is UNSUPPORTED, or there is none.
    """
    if reply.status in {409, 412, 423} or (reply.status == 405 and code not in {None, "UNSUPPORTED"}):
        return True
    return reply.status < 500 and any(word in _text(reply) for word in _HELD)


def _what_holds(reply: Response) -> str:
    """Return what to do about a refusal, as far as its words tell."""
    text = _text(reply)
    if any(word in text for word in _LOCKED):
        return "unlock it there, and apply the same plan again"
    if any(word in text for word in _TAGGED):
        return "its tags must go first, and this registry deletes no tag alone: delete them there, and apply the same plan again"
    return (
        "an index or an artifact that is not in the plan needs it, perhaps one that no tag names: look for it in the "
        "registry's own interface, delete that first, and apply the same plan again"
    )


def _words(reply: Response) -> str:
    """Return what a registry says, in its own words."""
    code, message = registry_error(reply)
    return clean(" ".join(filter(None, (str(reply.status), code, message))), 160)


def _text(reply: Response) -> str:
    return _words(reply).lower()


def _code(reply: Response) -> str | None:
    return error_of(reply, "").code


def _said(reply: Response | RegistryError) -> str:
    if isinstance(reply, RegistryError):
        return str(reply)
    code = _code(reply)
    return f"{reply.status} {code}" if code else str(reply.status)


# -- a run, into the journal and back --------------------------------------------------------


class Stop(Exception):
    """Nothing more may be sent."""


def new_run() -> str:
    """Return a name for a run that begins now."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@contextmanager
def ended(journal: Journal, run: str) -> Iterator[None]:
    """Record the end of a run, also where it was stopped (`Stop`) or interrupted before all rows were tried."""
    stopped = False
    try:
        yield
    except Stop:
        stopped = True
    except KeyboardInterrupt:
        logger.warning("run %s was interrupted: what was under way is recorded as unknown", run)
        stopped = True
    journal.record(run, "finished", stopped=stopped)


def record_outcome(journal: Journal, run: str, outcome: Outcome) -> None:
    """Add what became of a row to the journal."""
    record_outcomes(journal, run, [outcome])


def record_outcomes(journal: Journal, run: str, outcomes: Iterable[Outcome]) -> None:
    """Add what became of several rows, all of it or nothing."""
    plain = ((outcome.key, outcome.to_dict()) for outcome in outcomes)
    fields = [(key, {name: v for name, v in values.items() if name not in {"key", "at"}}) for key, values in plain]
    journal.record_all(run, "outcome", fields)


def recorded_run(journal: Journal, name: str) -> Run:
    """Return a run as a journal has it; raises `JournalError` where it does not know it."""
    try:
        return _recorded_run(journal, name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JournalError(
            f"the run {clean(name, 60)!r} cannot be read ({clean(error, 80)}): "
            "`regaudit journal verify` says which entry was changed"
        ) from None


def _recorded_run(journal: Journal, name: str) -> Run:
    entries = list(journal.entries(name))
    started = next((entry.data for entry in entries if entry.event == "started"), None)
    if started is None:
        known = ", ".join(entry.run for entry in journal.runs()[-3:]) or "none"
        raise JournalError(f"the journal has no run {clean(name, 60)!r}: the newest are {known}")
    outcomes: dict[str, Outcome] = {}
    stopped = True
    for entry in entries:
        if entry.event == "intent":
            outcomes[entry.key] = _outcome({**entry.data, "key": entry.key, "outcome": "unknown", "at": entry.at})
        elif entry.event == "outcome":
            outcomes[entry.key] = _outcome({**entry.data, "key": entry.key, "at": entry.at})
        elif entry.event == "finished":
            stopped = bool(entry.data.get("stopped"))
    return Run(
        id=name,
        plan_hash=started.get("plan_hash", ""),
        kind=started["kind"],
        outcomes=tuple(outcomes.values()),
        stopped=stopped,
        resumes=tuple(started.get("resumes", ())),
        advice=_advice(started, entries, outcomes.values()),
        planned=tuple(planned_key(row) for row in started.get("rows", ())),
        by=(started.get("approval") or {}).get("by", ""),
        taken_at=started.get("taken_at", ""),
    )


def planned_key(row: dict[str, Any]) -> str:
    """Return the key of a row of a plan as the journal has it."""
    return PlanRow(row["repository"], row["digest"], tuple(row["tags"]), row["action"]).key


def _advice(started: dict[str, Any], entries: list[Entry], outcomes: Iterable[Outcome]) -> str:
    if started["kind"] != "delete" or not any(o.outcome in GONE - {"already_absent"} for o in outcomes):
        return ""
    probed = next((entry.data for entry in entries if entry.event == "probed"), {})
    return advice(started.get("registry", ""), probed)


def _outcome(data: dict[str, Any]) -> Outcome:
    return Outcome(
        key=data["key"],
        repository=data["repository"],
        digest=data.get("digest"),
        tags=tuple(data.get("tags", ())),
        action=data.get("action", DELETE_MANIFEST),
        outcome=data["outcome"],
        detail=data.get("detail", ""),
        at=datetime.fromisoformat(data["at"]),
    )


def runs_of(journal: Journal, plan_hash: str) -> list[str]:
    """Return the names of the executions of exactly this plan, oldest first."""
    return [entry.run for entry in journal.runs() if plan_hash and entry.data.get("plan_hash") == plan_hash]
