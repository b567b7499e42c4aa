"""The review form: a thin view over a `Plan`, driving a `Cleaner`.

Everything that matters is in Python: which rows there are, their order, what is selected, what was
confirmed. The page holds the rows in view and nothing else. It asks by custom messages, which
name a row by its key and carry the generation of the view that the person looked at, and each is
answered with the whole view anew. No row is ever in a synced trait, because those are saved with
the notebook.

Here are the messages and the stages. What a person looks at is a `regaudit.notebook.table.Table`, what is
done to the registry a `regaudit.notebook.work.Work`; texts are made in `regaudit.notebook.wording`.

A form is at one stage at a time::

    choose ⇄ review ⇄ deleting → done ⇄ undoing
"""

from __future__ import annotations

import getpass
import logging
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import pandas as pd
from IPython.core.getipython import get_ipython

from regaudit.cleaner.outcomes import UNDOABLE
from regaudit.cleaner.plan import Plan
from regaudit.cleaner.rows import PlanRow
from regaudit.errors import RegauditError, UsageError
from regaudit.inventory.spreadsheet import write_csv
from regaudit.notebook.table import Table
from regaudit.notebook.wording import (
    TEXT_SENT,
    counted,
    details_of,
    earlier_text,
    name_of,
    phrase_of,
    words_of,
)
from regaudit.notebook.work import DELETING, UNDOING, Work
from regaudit.text import clean, count_of, displayed, escape, human_bytes, parse_time, redact

if TYPE_CHECKING:
    from regaudit.cleaner.cleaner import Cleaner
    from regaudit.cleaner.decide import Selection
    from regaudit.cleaner.outcomes import Outcome, Run

_log = logging.getLogger("regaudit.notebook")

CHOOSE, REVIEW, DONE = "choose", "review", "done"

_REFUSALS_SENT = 20
_MAX_PAGE = 200
# Some sentences, with a command to type.
_ADVICE_SENT = 1000
# A notebook server passes messages on whole; what is larger is written from a cell.
_LARGEST_FILE = 16 << 20
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
        self._plan, self._cleaner = plan, cleaner
        self._now = parse_time(plan.taken_at)
        self._selection: Selection | None = None
        plan.check_snapshot()  # says at once that there is none
        self._final: Plan | None = None
        self._previous: Run | None = None
        self._busy = False
        self._deletion: Work | None = None
        self._undoing: Work | None = None
        self._armed = False
        self._error = ""
        self._generation = 1
        self._table = Table(plan, self._now, page_size, self._outcome_text)
        self._following = False
        self._lookup: threading.Thread | None = None
        self._shown_at = 0.0
        # Messages of one form arrive on different threads, and the worker is one more.
        self._lock = threading.RLock()
        self._totals: dict[str, Any] = {"rows": 0, "digests": 0, "tags": 0, "bytes": human_bytes(0)}
        self._title = clean(plan.headline(), TEXT_SENT)
        self.on_msg(self._receive)
        self._take_up(Work.under_way(cleaner))
        _replace_forms_of_cell(self)

    # -- for the cells that follow ------------------------------------------------------------

    @property
    def selected(self) -> list[str]:
        """The keys of the selected rows, in the order of the plan."""
        with self._lock:
            chosen = self._selection.keys if self._selection is not None else set()
            return [row.key for row in self._plan.rows if row.key in chosen] if chosen else []

    @property
    def outcomes(self) -> pd.DataFrame:
        """The outcomes of the deletion so far, a row for each row of the plan that was tried."""
        with self._lock:
            if self.run is not None:
                return self.run.frame()
            done = list(self._deletion.outcomes.values()) if self._deletion else []
        return pd.DataFrame(
            [{name: getattr(outcome, name) for name in _OUTCOME_COLUMNS} for outcome in done],
            columns=list(_OUTCOME_COLUMNS),
        )

    def save_outcomes(self, path: str | Path) -> Path:
        """Write what became of each row, of the deletion and of its undo, as CSV that is safe in a spreadsheet.

        Raises
        ------
        UsageError
            Nothing was deleted yet.
        """
        runs = [run for run in (self.run, self.undo_run) if run is not None]
        if not runs:
            raise UsageError("there are no outcomes yet: they are there once a deletion has ended")
        return write_csv(pd.concat([run.frame().assign(run=run.id, kind=run.kind) for run in runs]), Path(path))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no deletion or undo is running, at most `timeout` seconds; return whether that is so."""
        work = self._undoing or self._deletion
        if work is not None:
            work.join(timeout)
        return work is None or not work.alive

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
            self._prepare()

    def _act(self, message: Message) -> None:
        command = self._commands.get(str(message.get("do")))
        if command is None:
            raise UsageError(f"the form has no command {clean(message.get('do'), 40)!r}")
        if command.fresh and message.get("generation") != self._generation:
            raise UsageError("nothing was done, because the view had changed meanwhile: look again")
        if self.stage not in command.stages:
            raise UsageError(f"nothing was done, because that cannot be done now: {_STAGE_TEXTS[self.stage]}")
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

    def _do_hello(self, _message: Message) -> None:
        self._table.repeat_names()

    def _do_look(self, _message: Message) -> None:
        pass  # the answer is the view

    def _do_table(self, message: Message) -> None:
        if self._table.ask(message):
            self._following = False
            self._turn()

    def _do_details(self, message: Message) -> None:
        """Answer with one image, beside the view: it is sent when it is asked for, and kept nowhere."""
        row = self._known(message.get("key"))
        digest = message.get("digest")
        if isinstance(digest, str):
            name = f"{row.repository}@{digest}"
        else:
            name = f"{row.repository}:{row.tags[0]}" if row.tags else f"{row.repository}@{row.digest}"
        assert self._plan.snapshot is not None  # noqa: S101 -- or there would be no selection
        image = details_of(self._plan.snapshot.image(name))
        about = {
            "type": "details",
            "answer": message.get("id"),
            "key": clean(row.key),
            "inner": isinstance(digest, str),
        }
        self.send(about | image)

    def _known(self, key: object) -> PlanRow:
        found = self._by_key.get(key) if isinstance(key, str) else None
        if found is None and self._final is not None:  # which may be the plan of an earlier run
            found = next((row for row in self._final.rows if row.key == key), None)
        if found is None:
            raise UsageError(f"{clean(key, 120)!r} is not a row of this plan")
        return found

    @cached_property
    def _by_key(self) -> dict[str, PlanRow]:
        return {row.key: row for row in (*self._plan.refused, *self._plan.rows)}

    def _open_plan(self, plan: Plan) -> None:
        self._table.open(plan)
        self._title = clean(plan.headline(), TEXT_SENT)

    # -- choosing -----------------------------------------------------------------------------

    def _do_set(self, message: Message) -> None:
        self._chosen.set(self._candidate(message.get("key")), selected=message.get("selected") is True)
        self._count()

    def _do_set_range(self, message: Message) -> None:
        """Select from one row to another, as the person sees them: on other pages too."""
        ends = [self._candidate(message.get(end)) for end in ("key", "to")]
        seen = self._table.matching()
        places = sorted(seen.index(key) for key in ends if key in seen)
        if len(places) < 2:
            raise UsageError("nothing was done, because one end of the range is filtered out: tick a row first")
        self._chosen.set_many(seen[places[0] : places[1] + 1], selected=message.get("selected") is True)
        self._count()

    def _do_select_filtered(self, _message: Message) -> None:
        self._chosen.set_many(self._table.matching(), selected=True)
        self._count()

    @property
    def _chosen(self) -> Selection:
        # Made when first needed: of a large plan it takes longer than showing it does.
        if self._selection is None:
            self._selection = self._plan.selection()
        return self._selection

    def _do_clear(self, _message: Message) -> None:
        self._chosen.set_many(tuple(self._chosen.keys), selected=False)
        self._count()

    def _candidate(self, key: object) -> str:
        if not isinstance(key, str) or not self._chosen.selectable(key):
            raise UsageError(f"{clean(key, 120)!r} is not a row of this plan that can be selected")
        return key

    def _count(self) -> None:
        chosen = self._chosen
        self._totals = {
            "rows": len(chosen.keys),
            "digests": chosen.digests,
            "tags": chosen.tags,
            "bytes": self._plan.bytes_text(chosen.bytes) if chosen.keys else human_bytes(0),
        }

    # -- reviewing ----------------------------------------------------------------------------

    def _do_review(self, _message: Message) -> None:
        if not self._chosen.keys:
            raise UsageError("nothing is selected: tick the rows to delete first")
        final = self._plan.select(self._chosen.keys)
        if not final.rows:
            details = "; ".join(dict.fromkeys(row.detail for row in final.refused[:3]))
            raise UsageError(f"nothing of the selection can be deleted: {clean(details, TEXT_SENT)}")
        self._review_plan(final, self._cleaner.last_run(final) or self._previous)

    def _review_plan(self, final: Plan, previous: Run | None) -> None:
        self._final, self._previous = final, previous
        self._open_plan(final)
        self._turn(REVIEW)

    def _do_back(self, _message: Message) -> None:
        self._final = None
        self._open_plan(self._plan)
        self._turn(CHOOSE)

    def _do_continue(self, _message: Message) -> None:
        """Take up what a run left undone: it is reviewed and confirmed like any other deletion."""
        run = self._open_run()
        if run is None:
            raise UsageError("there is no deletion to go on with")
        # Its own plan, and no new one: what has lost its index is found by no audit.
        self._review_plan(self._cleaner.planned(run), run)

    def _open_run(self) -> Run | None:
        """Return the run to go on with, or None."""
        run = self.run if self.stage == DONE else self._previous
        if run is None or not run.stopped or not run.left or run.undone or self._busy or self.undo_run is not None:
            return None
        return run

    # -- deleting -----------------------------------------------------------------------------

    def _do_delete(self, message: Message) -> None:
        final = self._final
        if final is None:
            raise UsageError("there is nothing to confirm: press Review deletion first")
        if " ".join(str(message.get("typed", "")).split()).casefold() != phrase_of(final):
            raise UsageError(f"nothing was deleted: to confirm, type exactly {phrase_of(final)}")
        if not (by := str(message.get("by", "")).strip()):
            raise UsageError("nothing was deleted: an approval names who approves")
        approved = final.approve(by=by, reason=str(message.get("reason", "")))
        self._previous = self.run or self._previous
        self._armed, self.run, self.undo_run, self._undoing = False, None, None, None
        self._deletion = Work(DELETING, self._cleaner, approved)
        self._begin(self._deletion)

    def _do_stop(self, _message: Message) -> None:
        if work := self._at_work:
            work.stop()

    def _do_pause(self, _message: Message) -> None:
        if work := self._at_work:
            work.pause()

    def _do_resume(self, _message: Message) -> None:
        if work := self._at_work:
            work.resume()

    @property
    def _at_work(self) -> Work | None:
        return {DELETING: self._deletion, UNDOING: self._undoing}.get(self.stage)

    # -- undoing ------------------------------------------------------------------------------

    def _do_undo(self, message: Message) -> None:
        run = self._undoable()
        if run is None:
            raise UsageError("there is nothing to undo")
        if not (self._armed and message.get("sure") is True):
            self._armed = True
            self._turn()
            return
        self._armed, self.run, self.undo_run = False, run, None
        self._undoing = Work(UNDOING, self._cleaner, self._final or self._plan, run)
        self._begin(self._undoing)

    def _do_keep(self, _message: Message) -> None:
        self._armed = False
        self._turn()

    def _undoable(self) -> Run | None:
        """Return the run that Undo would put back: the one of this form, or else an earlier one of the same plan or a part of it."""
        run = self.run or self._previous
        if run is None or self.stage in _RUNNING or self._busy or not any(o.outcome in UNDOABLE for o in run.outcomes):
            return None
        undo = self.undo_run
        whole = undo is not None and not undo.stopped and all(o.outcome in _UNDONE for o in undo.outcomes)
        return None if whole else run

    # -- at work ------------------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        work.tell(self._hear)
        self._following = work.kind == DELETING
        self._turn(work.kind)
        work.start()

    def _take_up(self, work: Work | None) -> None:
        """Show what is under way already: the cell was run again while it lasts."""
        if work is None or work.plan.registry != self._plan.registry:
            return
        with self._lock:
            if work.kind == DELETING:
                self._deletion, self._final, self._following = work, work.plan, True
            else:
                self._undoing, self.run = work, work.deleted
            self._open_plan(work.plan)
            self._turn(work.kind)
        work.tell(self._hear)
        self._hear()  # it may have ended just now, with nobody told

    def _hear(self) -> None:
        """Note that something has happened: called by the thread at work, after each outcome and at the end."""
        with self._lock:
            work = self._at_work
            if work is None:
                return
            if not work.alive:
                self._end(work)
                self._show()
            # What is left out here is shown by the next view: while a run lasts, the page asks for one each second.
            elif time.monotonic() - self._shown_at >= _SECONDS_BETWEEN_VIEWS:
                self._show()

    def _end(self, work: Work) -> None:
        if work.error is not None:
            self._fail(work.error)
        if work.kind == DELETING:
            self.run = work.run
        else:
            self.undo_run = work.run
        self._following = False
        nothing_done = work.kind == DELETING and work.error is not None and not work.outcomes
        self._turn(REVIEW if nothing_done else DONE)

    # -- what the journal tells ---------------------------------------------------------------

    def _prepare(self) -> None:
        """Do beside the page what takes a while: ask the journal for earlier runs, and make the first click quick."""
        with self._lock:
            if self._lookup is not None:
                return
            self._lookup = threading.Thread(target=self._look_back, name="regaudit-last-run", daemon=True)
        self._lookup.start()

    def _look_back(self) -> None:
        try:
            found = self._cleaner.last_run(self._plan) or self._cleaner.interrupted_run()
            busy = found is not None and found.stopped and self.stage not in _RUNNING and self._cleaner.busy
        except Exception as error:  # noqa: BLE001 - it is shown in the form, and logged there
            self._fail(error)
            found, busy = None, False
        with self._lock:
            self._previous, self._busy = self._previous or found, busy
            if found is not None or self._error:
                self._show()
        with self._lock:
            chosen = self._chosen
        chosen.prepare()
        self._table.prepare()

    def _fail(self, error: Exception) -> None:
        """Show one sentence, and log where it came from; neither holds a secret."""
        told = str(error) if isinstance(error, RegauditError) else f"{type(error).__name__}: {error}"
        with self._lock:
            self._error = redact(told, TEXT_SENT * 2)
        if isinstance(error, UsageError):
            return
        trace = [redact(line) for part in traceback.format_exception(error) for line in part.splitlines()]
        _log.warning("the review form of %s failed\n%s", clean(self._plan.registry, 80), "\n".join(trace))

    # -- a file -------------------------------------------------------------------------------

    def _do_csv(self, message: Message) -> None:
        """Answer with the outcomes as a file, beside the view."""
        with tempfile.TemporaryDirectory() as folder:
            content = self.save_outcomes(Path(folder) / "outcomes.csv").read_bytes()
        if len(content) > _LARGEST_FILE:
            raise UsageError(
                f"the file has {human_bytes(len(content))}, too much for a download: "
                "name the form and write form.save_outcomes('outcomes.csv') in a cell"
            )
        run = self.run or self.undo_run
        name = f"regaudit-outcomes-{clean(run.id if run else '', 60)}.csv"
        about = {"type": "file", "answer": message.get("id"), "name": name, "media_type": "text/csv;charset=utf-8"}
        self.send(about, [content])

    # -- the view -----------------------------------------------------------------------------

    def _show(self, answer: object = None) -> None:
        self._shown_at = time.monotonic()
        try:
            self.send(self._view(answer))
        except Exception:  # noqa: BLE001 - a page that cannot be told must not end a deletion that goes well
            _log.exception("the review form could not be shown")

    def _view(self, answer: object) -> dict[str, Any]:
        if self._following and (work := self._at_work):
            self._table.follow(work.current)
        return {
            "type": "view",
            "answer": answer,
            "generation": self._generation,
            "stage": self.stage,
            "registry": clean(self._plan.registry, 200),
            "title": self._title,
            "journal": clean(self._cleaner.journal.path, 1000),
            **self._table.view(self._personal),
            "totals": self._totals,
            "review": self._review_view(),
            "progress": self._progress_view(),
            "undo": self._undo_view(),
            "notice": self._notice(),
            "continue": self._continue_text(),
            "error": self._error,
        }

    def _personal(self, row: PlanRow, first: bool) -> dict[str, Any]:  # noqa: FBT001 -- as the table calls it
        """Return what a row is to this person and run: ticked or not, and what became of it."""
        key = row.key
        work, outcome = self._at_work, self._outcome(key)
        can_go = first and row.role == "candidate" and not row.refusal
        return {
            "selected": can_go and self._selection is not None and key in self._selection.keys,
            "choosable": can_go and self.stage == CHOOSE and key == clean(key),
            "outcome": self._outcome_text(key) or ("under way…" if work and key == work.current else ""),
            "detail": clean(outcome.detail, TEXT_SENT) if outcome else "",
        }

    def _outcome(self, key: str) -> Outcome | None:
        """Return what became of a row last."""
        works = (self._undoing, self._deletion)
        found = next((work.outcomes[key] for work in works if work is not None and key in work.outcomes), None)
        return found or self._earlier.get(key)

    def _outcome_text(self, key: str) -> str:
        deleted = self._deletion.outcomes.get(key) if self._deletion else self._earlier.get(key)
        restored = self._undoing.outcomes.get(key) if self._undoing else None
        return ", then ".join(words_of(outcome.outcome) for outcome in (deleted, restored) if outcome is not None)

    @property
    def _earlier(self) -> Mapping[str, Outcome]:
        """The outcomes of a deletion that was not this form's, while it is undone from here."""
        if self._deletion is not None or self._undoing is None or self._undoing.deleted is None:
            return {}
        return self._undoing.undoes

    def _review_view(self) -> dict[str, Any] | None:
        if self.stage != REVIEW or self._final is None:
            return None
        refused = self._final.refused
        return {
            "title": self._title,
            "phrase": phrase_of(self._final),
            "by": _user(),
            "refused": [f"{name_of(row)}: {clean(row.detail, TEXT_SENT)}" for row in refused[:_REFUSALS_SENT]],
            "more_refused": max(0, len(refused) - _REFUSALS_SENT),
        }

    def _progress_view(self) -> dict[str, Any] | None:
        if self.stage in (CHOOSE, REVIEW):
            return None
        work, run, undo = self._at_work, self.run, self.undo_run
        deleted = run.counts() if run else self._deletion.counts if self._deletion else {}
        restored = undo.counts() if undo else self._undoing.counts if self._undoing else {}
        return {
            "done": len(work.outcomes) if work else 0,
            "total": work.total if work else 0,
            "stopping": bool(work and work.stopping),
            "paused": bool(work and work.paused),
            "deleted": counted(deleted),
            "restored": counted(restored) if self._undoing else "",
            "stopped": bool(run and run.stopped and not work),
            "run": clean(run.id, 80) if run else "",
            "advice": clean(run.advice, _ADVICE_SENT) if run and not work and undo is None else "",
            "file": run is not None and not work,
        }

    def _undo_view(self) -> dict[str, Any] | None:
        run = self._undoable()
        if run is None:
            return None
        count = sum(outcome.outcome in UNDOABLE for outcome in run.outcomes)
        return {"armed": self._armed, "count": count, "run": clean(run.id, 80)}

    def _notice(self) -> str:
        run = self._previous
        if run is None or self.stage not in (CHOOSE, REVIEW):
            return ""
        text = earlier_text(run)
        if self._busy:
            return f"{text}. It may be under way in another kernel or process: run this cell again when that has ended."
        if self.stage == REVIEW and self._final is not None and run.stopped and run.plan_hash == self._final.hash:
            return f"{text}. This deletion goes on with it: what is done is not asked for again."
        return f"{text}."

    def _continue_text(self) -> str:
        run = self._open_run() if self.stage in (CHOOSE, DONE) else None
        return "" if run is None else f"Go on with the {count_of(len(run.left), 'row that is', 'rows that are')} left"

    # Looking changes nothing, and Stop must never be refused: these are taken from any view.
    _commands: ClassVar[Mapping[str, _Command]] = {
        "hello": _Command(_do_hello),
        "look": _Command(_do_look),
        "filter": _Command(_do_table),
        "sort": _Command(_do_table),
        "page": _Command(_do_table),
        "section": _Command(_do_table),
        "columns": _Command(_do_table),
        "along": _Command(_do_table),
        "open": _Command(_do_table),
        "details": _Command(_do_details),
        "csv": _Command(_do_csv),
        "stop": _Command(_do_stop, _RUNNING),
        "pause": _Command(_do_pause, _RUNNING),
        "resume": _Command(_do_resume, _RUNNING),
        "set": _Command(_do_set, frozenset({CHOOSE}), fresh=True),
        "set_range": _Command(_do_set_range, frozenset({CHOOSE}), fresh=True),
        "select_filtered": _Command(_do_select_filtered, frozenset({CHOOSE}), fresh=True),
        "clear": _Command(_do_clear, frozenset({CHOOSE}), fresh=True),
        "review": _Command(_do_review, frozenset({CHOOSE}), fresh=True),
        "continue": _Command(_do_continue, frozenset({CHOOSE, DONE}), fresh=True),
        "back": _Command(_do_back, frozenset({REVIEW}), fresh=True),
        "delete": _Command(_do_delete, frozenset({REVIEW}), fresh=True),
        "undo": _Command(_do_undo, _STILL, fresh=True),
        "keep": _Command(_do_keep, _STILL, fresh=True),
    }


# The forms that the last run of each cell has made, and which run that was.
_forms_of_cells: dict[str, tuple[str, list[weakref.ref[ReviewForm]]]] = {}


def _replace_forms_of_cell(form: ReviewForm) -> None:
    """Close the forms that an earlier run of this cell made: nobody sees them, and a notebook would save all of them."""
    shell = get_ipython()
    if shell is None or not hasattr(shell, "get_parent"):
        return
    parent = shell.get_parent() or {}
    cell, run = (parent.get("metadata") or {}).get("cellId"), (parent.get("header") or {}).get("msg_id", "")
    if not cell:  # a front end that does not tell
        return
    made_by, forms = _forms_of_cells.get(cell, ("", []))
    if made_by != run:
        for earlier in forms:
            if (closed := earlier()) is not None:
                closed.close()
        forms = []
    _forms_of_cells[cell] = run, [*forms, weakref.ref(form)]


def _user() -> str:
    try:
        return clean(getpass.getuser(), 200)
    except (OSError, KeyError, ImportError):  # a container without a name for its user
        return ""


def review(plan: Plan, cleaner: Cleaner, *, page_size: int = 25) -> ReviewForm:
    """Return a form in which a person chooses rows of a plan, confirms and deletes them.

    Nothing is selected at first, and nothing is deleted before the number of digests was typed.
    Showing the form again, or running its cell again, deletes nothing: it shows what is under way,
    and offers to go on with what an earlier run left undone.

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
