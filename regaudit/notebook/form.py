"""The review form: a thin view over a `Plan`, driving a `Cleaner`.

Everything that matters is here, in Python: which rows there are, their order, what is selected, what
was confirmed. The page holds the rows in view and nothing else. It asks by custom messages, which
name a row by its key and carry the generation of the view that the person looked at, and each is
answered with the whole view anew. No row is ever in a synced trait, because those are saved with
the notebook.

A form is at one stage at a time::

    choose ⇄ review → deleting → done ⇄ undoing
"""

from __future__ import annotations

import getpass
import logging
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import pandas as pd

from regaudit.cleaner.outcomes import UNDOABLE
from regaudit.cleaner.plan import Plan
from regaudit.cleaner.rows import DELETE_TAG, PlanRow
from regaudit.errors import RegauditError, UsageError
from regaudit.text import clean, displayed, escape, human_age, human_bytes, isoformat, parse_time, redact

if TYPE_CHECKING:
    from regaudit.cleaner.cleaner import Cleaner
    from regaudit.cleaner.outcomes import Outcome, Run

_log = logging.getLogger("regaudit.notebook")

CHOOSE, REVIEW, DELETING, DONE, UNDOING = "choose", "review", "deleting", "done", "undoing"
ROWS, REFUSED = "rows", "refused"

# What a person can take in, and what keeps a hostile row from filling the page.
_TAGS_SENT = 100
_ALONG_SENT = 25
_REFUSALS_SENT = 20
_TEXT_SENT = 300
_MAX_PAGE = 200
# Ten views a second are as many as people see; more would only fill the connection.
_SECONDS_BETWEEN_VIEWS = 0.1

_UNDONE = frozenset({"restored", "already_there"})
_OUTCOME_COLUMNS = ("key", "repository", "digest", "tags", "action", "outcome", "detail", "at")

Message = Mapping[str, Any]


_STAGE_TEXTS: Mapping[str, str] = {
    CHOOSE: "choose rows and press Review deletion first",
    REVIEW: "the selection is being reviewed; go back to change it",
    DELETING: "the plan is frozen while it is carried out",
    DONE: "the deletion has ended; run the cell again for a new form",
    UNDOING: "the deletion is being undone",
}
_ANY = frozenset(_STAGE_TEXTS)
_RUNNING = frozenset({DELETING, UNDOING})
_STILL = _ANY - _RUNNING


class _Refusal(UsageError):
    """A message from the page that is not carried out."""


# -- what is looked at -----------------------------------------------------------------------


_SORT_KEYS: Mapping[str, Callable[[PlanRow], Any]] = {
    "repository": lambda row: row.repository,
    "tags": lambda row: row.tags or None,
    "digest": lambda row: row.digest,
    "age": lambda row: row.created,
    "size": lambda row: row.content_bytes,
    "reason": lambda row: row.detail or row.reason or None,
}
_COLUMNS = frozenset({*_SORT_KEYS, "along", "outcome"})


@dataclass(frozen=True, slots=True)
class _Look:
    """What the person looks at: a section, a filter, an order and a page."""

    section: str = ROWS
    filter: str = ""
    column: str = ""
    descending: bool = False
    page: int = 0


class _Section:
    """Some rows of a plan, to be searched and sorted. What that needs is built when first needed."""

    def __init__(self, rows: Sequence[PlanRow], along: Mapping[str, Sequence[PlanRow]]) -> None:
        self.rows = rows
        self._along = along
        self._texts: list[str] = []
        self._ranks: dict[str, list[Any]] = {}

    def places(self, look: _Look, outcome_of: Callable[[str], str]) -> list[int]:
        """Return the places of the rows that match, in order. Rows without a value come last either way."""
        words = look.filter.casefold().split()
        found = (
            [place for place, text in enumerate(self._searched()) if all(word in text for word in words)]
            if words
            else None
        )
        places: Iterable[int] = range(len(self.rows)) if found is None else found
        if not look.column:
            return list(places)
        ranks = self._ranked(look.column, outcome_of)
        # The youngest was created last.
        reverse = look.descending != (look.column == "age")
        known = sorted((p for p in places if ranks[p] is not None), key=ranks.__getitem__, reverse=reverse)
        return known + [p for p in places if ranks[p] is None]

    def _ranked(self, column: str, outcome_of: Callable[[str], str]) -> list[Any]:
        if column == "outcome":
            return [outcome_of(row.key) or None for row in self.rows]
        if column not in self._ranks:
            key = _SORT_KEYS.get(column, self._count_along)
            self._ranks[column] = [key(row) for row in self.rows]
        return self._ranks[column]

    def _count_along(self, row: PlanRow) -> int:
        return len(self._along.get(row.key, ()))

    def _searched(self) -> list[str]:
        if not self._texts:
            self._texts = [
                f"{row.repository} {' '.join(row.tags)} {row.digest or ''} {row.reason} {row.detail}".casefold()
                for row in self.rows
            ]
        return self._texts


def _going_along(rows: Iterable[PlanRow]) -> dict[str, list[PlanRow]]:
    """Return, for each candidate, the rows whose chain of ``because`` leads to it."""
    along: dict[str, list[PlanRow]] = {}
    because = {row.key: row.because for row in rows if row.because is not None}
    for row in rows if because else ():
        if row.because is None:
            continue
        top, seen = row.because, {row.key}
        while top in because and top not in seen:
            seen.add(top)
            top = str(because[top])
        along.setdefault(top, []).append(row)
    return along


# -- how a row is put into words ---------------------------------------------------------------


def _short(digest: str | None) -> str:
    return clean(digest[: digest.find(":") + 13], 80) if digest else ""


def _short_key(key: str | None) -> str:
    return _short(key.rpartition("@")[2]) if key and "@" in key else clean(key or "", 80)


def _tag_text(row: PlanRow, limit: int = 5) -> str:
    shown = ", ".join(row.tags[:limit])
    return clean(f"{shown} and {len(row.tags) - limit} more" if len(row.tags) > limit else shown, _TEXT_SENT)


def _name(row: PlanRow) -> str:
    return clean(f"{row.repository} {_tag_text(row) or _short(row.digest)}", _TEXT_SENT)


def _along_texts(rows: Sequence[PlanRow]) -> dict[str, Any]:
    roles = Counter(row.role for row in rows)
    plural = {"child": "children", "referrer": "referrers"}
    counted = [f"{count} {role if count == 1 else plural.get(role, role)}" for role, count in sorted(roles.items())]
    texts = [f"{row.role} {_short(row.digest)} {_tag_text(row)}".strip() for row in rows[:_ALONG_SENT]]
    return {"summary": ", ".join(counted), "rows": texts, "more": len(rows) - len(texts)}


def _words(outcome: str) -> str:
    return clean(outcome.replace("_", " "), 80)


def _counted(outcomes: Iterable[Outcome]) -> str:
    counts = Counter(outcome.outcome for outcome in outcomes)
    return ", ".join(f"{count:,} {_words(word)}" for word, count in counts.most_common()) or "nothing"


def _phrase(plan: Plan) -> str:
    """Return what a person types to confirm: the number of digests, or of tags where only tags go."""
    return f"delete {plan.digests}" if plan.digests else f"untag {plan.tags}"


def _user() -> str:
    try:
        return clean(getpass.getuser(), 200)
    except (OSError, KeyError, ImportError):  # a container without a name for its user
        return ""


# -- the form --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Command:
    """What a message may ask for: at which stages, and whether only from a view that is up to date."""

    act: Callable[[Any, Message], None]
    stages: frozenset[str] = _ANY
    fresh: bool = False


class ReviewForm(anywidget.AnyWidget):
    """A form to choose, confirm, delete and put back, row by row. Made by `review`.

    Attributes
    ----------
    run : Run or None
        The last deletion, once it has ended.
    undo_run : Run or None
        The last undo, once it has ended.
    outcomes : pandas.DataFrame
        The outcomes of the deletion so far; empty before.
    selected : list of str
        The keys of the selected rows, in the order of the plan.
    stage : str
        ``choose``, ``review``, ``deleting``, ``done`` or ``undoing``.
    """

    _esm = Path(__file__).with_name("form.js")
    _css = Path(__file__).with_name("form.css")

    def __init__(self, plan: Plan, cleaner: Cleaner, *, page_size: int = 25) -> None:
        if not 1 <= page_size <= _MAX_PAGE:
            raise UsageError(f"page_size={page_size!r} is not between 1 and {_MAX_PAGE}")
        super().__init__()
        self.run: Run | None = None
        self.undo_run: Run | None = None
        self.stage = CHOOSE
        self._plan, self._cleaner, self._page_size = plan, cleaner, page_size
        self._now = parse_time(plan.taken_at)
        self._chosen = plan.selection()
        self._order = {row.key: place for place, row in enumerate(plan.rows) if row.role == "candidate"}
        self._final: Plan | None = None
        self._previous: Run | None = None
        self._deleted: dict[str, Outcome] = {}
        self._restored: dict[str, Outcome] = {}
        self._expected = 0
        self._armed = False
        self._error = ""
        self._generation = 1
        self._look = _Look()
        self._ordered: list[int] | None = None
        self._stop = threading.Event()
        self._worker: threading.Thread | None = None
        self._lookup: threading.Thread | None = None
        self._shown_at = 0.0
        # Messages of one form arrive on different threads, and the worker is one more.
        self._lock = threading.RLock()
        self._totals = {"rows": 0, "digests": 0, "tags": 0, "bytes": human_bytes(0)}
        self._open_plan(plan, [row for row in plan.rows if row.role == "candidate"])
        self.on_msg(self._receive)

    # -- for the cells that follow ------------------------------------------------------------

    @property
    def selected(self) -> list[str]:
        """The keys of the selected rows, in the order of the plan."""
        with self._lock:
            return sorted(self._chosen.keys, key=self._order.__getitem__)

    @property
    def outcomes(self) -> pd.DataFrame:
        """The outcomes of the deletion so far, a row for each row of the plan that was tried."""
        with self._lock:
            if self.run is not None:
                return self.run.frame()
            records = [{name: getattr(o, name) for name in _OUTCOME_COLUMNS} for o in self._deleted.values()]
        return pd.DataFrame(records, columns=list(_OUTCOME_COLUMNS))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no deletion or undo is running, at most `timeout` seconds; return whether that is so."""
        worker = self._worker
        if worker is not None:
            worker.join(timeout)
        return worker is None or not worker.is_alive()

    def __repr__(self) -> str:
        return f"<ReviewForm of {clean(self._plan.registry, 80)}: {self._title}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Return the widget, and beside it a text for pages without a kernel. It holds no row."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, *metadata = bundle if isinstance(bundle, tuple) else (bundle,)
        summary = displayed(
            f"<p><strong>Review of {escape(self._plan.registry)}</strong>: {escape(self._title)}.</p>"
            "<p>Run the cell in Jupyter to choose and confirm.</p>"
        )
        return {**data, "text/plain": repr(self), "text/html": summary}, *metadata

    # -- messages -----------------------------------------------------------------------------

    def _receive(self, _widget: Any, message: Any, _buffers: Any) -> None:
        """Carry out one message from the page, and answer with the view as it then is."""
        with self._lock:
            content: Message = message if isinstance(message, dict) else {}
            if content.get("do") not in ("hello", "look"):
                self._error = ""
            with self._reporting():
                self._act(content)
            self._show(answer=content.get("id"))
        if content.get("do") == "hello":
            self._look_for_previous()

    def _act(self, message: Message) -> None:
        command = self._commands.get(str(message.get("do")))
        if command is None:
            raise _Refusal(f"the form has no command {clean(message.get('do'), 40)!r}")
        if command.fresh and message.get("generation") != self._generation:
            raise _Refusal("nothing was done, because the view had changed meanwhile: look again")
        if self.stage not in command.stages:
            raise _Refusal(f"nothing was done, because that cannot be done now: {_STAGE_TEXTS[self.stage]}")
        command.act(self, message)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Show what goes wrong inside, so that the form lives on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it is shown in the form, and logged
            self._fail(error)

    def _turn(self, stage: str | None = None) -> None:
        """Begin a new generation: what the page shows is no longer what would be acted upon."""
        self._generation += 1
        if stage is not None:
            self.stage = stage

    # -- looking ------------------------------------------------------------------------------

    def _do_nothing(self, _message: Message) -> None:
        pass  # the answer is the view

    def _do_filter(self, message: Message) -> None:
        self._look_at(replace(self._look, filter=str(message.get("text", ""))[:_TEXT_SENT], page=0))

    def _do_sort(self, message: Message) -> None:
        column = str(message.get("column") or "")
        if column and column not in _COLUMNS:
            raise _Refusal(f"there is no column {clean(column, 40)!r}")
        self._look_at(replace(self._look, column=column, descending=bool(message.get("descending")), page=0))

    def _do_page(self, message: Message) -> None:
        page = message.get("page")
        if not isinstance(page, int):
            raise _Refusal("a page is a number")
        self._look_at(replace(self._look, page=max(0, page)))

    def _do_section(self, message: Message) -> None:
        if message.get("section") not in self._sections:
            raise _Refusal("there is no such section")
        self._look_at(replace(self._look, section=str(message["section"]), page=0))

    def _look_at(self, look: _Look) -> None:
        if look != self._look:
            self._look = look
            self._ordered = None
            self._turn()

    def _open_plan(self, plan: Plan, rows: Sequence[PlanRow]) -> None:
        """Let the person look at some rows of a plan, and at what it refuses."""
        self._along = _going_along(plan.rows)
        self._sections = {ROWS: _Section(rows, self._along), REFUSED: _Section(plan.refused, {})}
        self._title = clean(plan.headline(), _TEXT_SENT)
        self._ordered = None
        self._look = replace(self._look, section=ROWS, filter="", page=0)

    def _places(self) -> list[int]:
        if self._ordered is None or self._look.column == "outcome":
            self._ordered = self._sections[self._look.section].places(self._look, self._outcome_text)
        return self._ordered

    # -- choosing -----------------------------------------------------------------------------

    def _do_set(self, message: Message) -> None:
        self._chosen.set(self._candidate(message.get("key")), selected=message.get("selected") is True)
        self._count()

    def _do_select_filtered(self, _message: Message) -> None:
        if self._look.section != ROWS:
            raise _Refusal("refused rows cannot be selected")
        rows = self._sections[ROWS].rows
        keys = (rows[place].key for place in self._places())
        self._chosen.set_many([key for key in keys if key == clean(key)], selected=True)
        self._count()

    def _do_clear(self, _message: Message) -> None:
        self._chosen = self._plan.selection()
        self._count()

    def _candidate(self, key: object) -> str:
        if not isinstance(key, str) or key not in self._order:
            raise _Refusal(f"{clean(key, 120)!r} is not a row of this plan that can be selected")
        return key

    def _count(self) -> None:
        chosen = self._chosen
        self._totals = {
            "rows": len(chosen.keys),
            "digests": chosen.digests,
            "tags": chosen.tags,
            "bytes": self._plan.bytes_text(chosen.bytes),
        }

    # -- reviewing ----------------------------------------------------------------------------

    def _do_review(self, _message: Message) -> None:
        if not self._chosen.keys:
            raise _Refusal("nothing is selected: tick the rows to delete first")
        final = self._plan.select(self._chosen.keys)
        if not final.rows:
            details = "; ".join(dict.fromkeys(row.detail for row in final.refused[:3]))
            raise _Refusal(f"nothing of the selection can be deleted: {clean(details, _TEXT_SENT)}")
        self._final = final
        self._previous = self._cleaner.last_run(final) or self._previous
        self._open_plan(final, final.rows)
        self._turn(REVIEW)

    def _do_back(self, _message: Message) -> None:
        self._final = None
        self._open_plan(self._plan, [row for row in self._plan.rows if row.role == "candidate"])
        self._turn(CHOOSE)

    # -- deleting -----------------------------------------------------------------------------

    def _do_delete(self, message: Message) -> None:
        final = self._final
        if final is None:
            raise _Refusal("there is nothing to confirm: press Review deletion first")
        if " ".join(str(message.get("typed", "")).split()).casefold() != _phrase(final):
            raise _Refusal(f"nothing was deleted: to confirm, type exactly {_phrase(final)}")
        if not (by := str(message.get("by", "")).strip()):
            raise _Refusal("nothing was deleted: an approval names who approves")
        approved = final.approve(by=by, reason=str(message.get("reason", "")))
        self._expected, self._armed = len(approved.rows), False
        self._start(DELETING, lambda: self._delete(approved))

    def _delete(self, approved: Plan) -> None:
        failed = False
        try:
            run: Run | None = self._cleaner.execute(approved, progress=self._note_deleted, stop=self._stop)
        except Exception as error:  # noqa: BLE001 - it is shown in the form, and logged there
            failed = True
            self._fail(error)
            run = self._recorded(approved)
        with self._lock:
            self.run = run
            self._deleted |= {outcome.key: outcome for outcome in run.outcomes} if run else {}
        self._finish(REVIEW if failed and not self._deleted else DONE)

    def _recorded(self, approved: Plan) -> Run | None:
        """Return what a failed run did, from the journal: it can be undone from there."""
        try:
            return self._cleaner.last_run(approved) if self._deleted else None
        except Exception as error:  # noqa: BLE001 - the first failure is the one to show
            _log.warning("the journal cannot be read after a failed run", exc_info=error)
            return None

    def _note_deleted(self, outcome: Outcome) -> None:
        with self._lock:
            self._deleted[outcome.key] = outcome
            self._show_soon()

    def _do_stop(self, _message: Message) -> None:
        self._stop.set()

    # -- undoing ------------------------------------------------------------------------------

    def _do_undo(self, message: Message) -> None:
        run = self._undoable()
        if run is None:
            raise _Refusal("there is nothing to undo")
        if not (self._armed and message.get("sure") is True):
            self._armed = True
            self._turn()
            return
        self._armed, self.run, self.undo_run = False, run, None
        self._deleted, self._restored = {outcome.key: outcome for outcome in run.outcomes}, {}
        self._expected = sum(outcome.outcome in UNDOABLE for outcome in run.outcomes)
        self._start(UNDOING, lambda: self._undo(run))

    def _do_keep(self, _message: Message) -> None:
        self._armed = False
        self._turn()

    def _undo(self, run: Run) -> None:
        try:
            undone: Run | None = self._cleaner.undo(run, progress=self._note_restored, stop=self._stop)
        except Exception as error:  # noqa: BLE001 - it is shown in the form, and logged there
            undone = None
            self._fail(error)
        with self._lock:
            self.undo_run = undone
        self._finish(DONE)

    def _note_restored(self, outcome: Outcome) -> None:
        with self._lock:
            self._restored[outcome.key] = outcome
            self._show_soon()

    def _undoable(self) -> Run | None:
        """Return the run that Undo would put back: the one of this form, or else an earlier one of the same plan or a part of it."""
        run = self.run or self._previous
        if run is None or self.stage in _RUNNING or not any(o.outcome in UNDOABLE for o in run.outcomes):
            return None
        undo = self.undo_run
        whole = undo is not None and not undo.stopped and all(o.outcome in _UNDONE for o in undo.outcomes)
        return None if whole else run

    def _look_for_previous(self) -> None:
        """Ask the journal, beside the page, whether this plan or a part of it already ran: its hash takes a while to compute."""
        with self._lock:
            if self._lookup is not None:
                return
            self._lookup = threading.Thread(target=self._find_previous, name="regaudit-last-run", daemon=True)
        self._lookup.start()

    def _find_previous(self) -> None:
        try:
            found = self._cleaner.last_run(self._plan)
        except Exception as error:  # noqa: BLE001 - it is shown in the form, and logged there
            self._fail(error)
            found = None
        with self._lock:
            self._previous = self._previous or found
            if found is not None or self._error:
                self._show()

    # -- the worker ---------------------------------------------------------------------------

    def _start(self, stage: str, work: Callable[[], None]) -> None:
        self._stop.clear()
        self._turn(stage)
        self._worker = threading.Thread(target=work, name=f"regaudit-{stage}", daemon=True)
        self._worker.start()

    def _finish(self, stage: str) -> None:
        with self._lock:
            self._ordered = None
            self._turn(stage)
            self._show()

    def _fail(self, error: Exception) -> None:
        """Show one sentence, and log where it came from; neither holds a secret."""
        told = str(error) if isinstance(error, RegauditError) else f"{type(error).__name__}: {error}"
        with self._lock:
            self._error = redact(told, _TEXT_SENT * 2)
        if isinstance(error, _Refusal):
            return
        trace = [redact(line) for part in traceback.format_exception(error) for line in part.splitlines()]
        _log.warning("the review form of %s failed\n%s", clean(self._plan.registry, 80), "\n".join(trace))

    # -- the view -----------------------------------------------------------------------------

    def _show(self, answer: object = None) -> None:
        self._shown_at = time.monotonic()
        try:
            self.send(self._view(answer))
        except Exception:  # noqa: BLE001 - a page that cannot be told must not end a deletion that goes well
            _log.exception("the review form could not be shown")

    def _show_soon(self) -> None:
        # What is left out here is shown by the next view: while a run lasts, the page asks for one each second.
        if time.monotonic() - self._shown_at >= _SECONDS_BETWEEN_VIEWS:
            self._show()

    def _view(self, answer: object) -> dict[str, Any]:
        places = self._places()
        last = max(0, (len(places) - 1) // self._page_size)
        page = min(self._look.page, last)
        shown = places[page * self._page_size : (page + 1) * self._page_size]
        rows = self._sections[self._look.section].rows
        return {
            "type": "view",
            "answer": answer,
            "generation": self._generation,
            "stage": self.stage,
            "registry": clean(self._plan.registry, 200),
            "title": self._title,
            "journal": clean(self._cleaner.journal.path, 1000),
            "section": self._look.section,
            "counts": {name: len(section.rows) for name, section in self._sections.items()},
            "filter": clean(self._look.filter, _TEXT_SENT),
            "column": self._look.column,
            "descending": self._look.descending,
            "page": page,
            "pages": last + 1,
            "page_size": self._page_size,
            "matching": len(places),
            "rows": [self._row(rows[place]) for place in shown],
            "totals": self._totals,
            "review": self._review_view(),
            "progress": self._progress_view(),
            "undo": self._undo_view(),
            "notice": self._notice(),
            "error": self._error,
        }

    def _row(self, row: PlanRow) -> dict[str, Any]:
        key, created = row.key, parse_time(row.created)
        choosable = self.stage == CHOOSE and key in self._order and not row.refusal and key == clean(key)
        outcome = self._restored.get(key) or self._deleted.get(key)
        return {
            "key": clean(key),
            "label": _name(row),
            "repository": clean(row.repository, _TEXT_SENT),
            "tags": [clean(tag, 140) for tag in row.tags[:_TAGS_SENT]],
            "more_tags": max(0, len(row.tags) - _TAGS_SENT),
            "digest": _short(row.digest),
            "digest_full": clean(row.digest or "", 200),
            "kind": "tag only" if row.action == DELETE_TAG else clean(row.kind, 40),
            "age": human_age(created, self._now) if self._now else "?",
            "created": isoformat(created) if created else "not known",
            "size": human_bytes(row.content_bytes),
            "reason": clean(row.reason, _TEXT_SENT),
            "why": clean(row.detail, _TEXT_SENT),
            "along": _along_texts(self._along.get(key, ())) if not row.refusal else _along_texts(()),
            "with": f"{row.role} of {_short_key(row.because)}" if row.because else "",
            "selected": not row.refusal and key in self._chosen.keys,
            "choosable": choosable,
            "outcome": self._outcome_text(key),
            "detail": clean(outcome.detail, _TEXT_SENT) if outcome else "",
        }

    def _outcome_text(self, key: str) -> str:
        told = [_words(found[key].outcome) for found in (self._deleted, self._restored) if key in found]
        return ", then ".join(told)

    def _review_view(self) -> dict[str, Any] | None:
        if self.stage != REVIEW or self._final is None:
            return None
        refused = self._final.refused
        return {
            "title": self._title,
            "phrase": _phrase(self._final),
            "by": _user(),
            "refused": [f"{_name(row)}: {clean(row.detail, _TEXT_SENT)}" for row in refused[:_REFUSALS_SENT]],
            "more_refused": max(0, len(refused) - _REFUSALS_SENT),
        }

    def _progress_view(self) -> dict[str, Any] | None:
        if self.stage in (CHOOSE, REVIEW):
            return None
        undoing = self.stage == UNDOING
        run, undo = self.run, self.undo_run
        return {
            "done": len(self._restored if undoing else self._deleted),
            "total": self._expected,
            "stopping": self._stop.is_set(),
            "deleted": _counted(run.outcomes if run else self._deleted.values()),
            "restored": _counted(undo.outcomes if undo else self._restored.values()) if self._restored or undo else "",
            "stopped": bool(run and run.stopped and not undoing),
            "run": clean(run.id, 80) if run else "",
        }

    def _undo_view(self) -> dict[str, Any] | None:
        run = self._undoable()
        if run is None:
            return None
        return {"armed": self._armed, "count": sum(outcome.outcome in UNDOABLE for outcome in run.outcomes)}

    def _notice(self) -> str:
        run = self._previous
        if run is None or self.stage not in (CHOOSE, REVIEW):
            return ""
        when = max((outcome.at for outcome in run.outcomes), default=None)
        ended = f" on {isoformat(when)}" if when else ""
        return f"This plan, or part of it, already ran{ended} (run {clean(run.id, 80)}): {_counted(run.outcomes)}."

    # Looking changes nothing, and Stop must never be refused: these are taken from any view.
    _commands: ClassVar[Mapping[str, _Command]] = {
        "hello": _Command(_do_nothing),
        "look": _Command(_do_nothing),
        "filter": _Command(_do_filter),
        "sort": _Command(_do_sort),
        "page": _Command(_do_page),
        "section": _Command(_do_section),
        "stop": _Command(_do_stop, _RUNNING),
        "set": _Command(_do_set, frozenset({CHOOSE}), fresh=True),
        "select_filtered": _Command(_do_select_filtered, frozenset({CHOOSE}), fresh=True),
        "clear": _Command(_do_clear, frozenset({CHOOSE}), fresh=True),
        "review": _Command(_do_review, frozenset({CHOOSE}), fresh=True),
        "back": _Command(_do_back, frozenset({REVIEW}), fresh=True),
        "delete": _Command(_do_delete, frozenset({REVIEW}), fresh=True),
        "undo": _Command(_do_undo, _STILL, fresh=True),
        "keep": _Command(_do_keep, _STILL, fresh=True),
    }


def review(plan: Plan, cleaner: Cleaner, *, page_size: int = 25) -> ReviewForm:
    """Return a form in which a person chooses rows of a plan, confirms and deletes them.

    Nothing is selected at first, and nothing is deleted before the number of digests was typed.
    Showing the form again, or running its cell again, deletes nothing.

    Parameters
    ----------
    plan : Plan
        What may be deleted. Its snapshot is needed (``Plan.load(path, snapshot=…)``).
    cleaner : Cleaner
        What carries the chosen plan out, and keeps the journal that undo needs.
    page_size : int
        How many rows are shown at a time, 1 to 200.

    Returns
    -------
    ReviewForm
        A widget. As the last value of a cell it is displayed; give it a name to read
        ``form.run``, ``form.outcomes`` and ``form.selected`` in the cells that follow.

    Raises
    ------
    PlanError
        The plan was loaded without its snapshot.
    UsageError
        A page size that is none.

    Examples
    --------
    ``form = review(plan, Cleaner(registry))`` and ``form`` as the last line of a cell
    """
    return ReviewForm(plan, cleaner, page_size=page_size)


__all__ = ["ReviewForm", "review"]
