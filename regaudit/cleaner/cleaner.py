"""Cleaner: executes an approved plan, verifies what happened, and undoes it.

A registry offers no "delete if unchanged". What can be done about that is done here: everything is
read again just before, the intent and the bytes are on the disk before the request leaves, and the
outcome is what a read afterwards shows, not what the status code said.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from regaudit.cleaner.journal import Journal
from regaudit.cleaner.plan import DELETE_MANIFEST, DELETE_TAG, Plan, PlanRow
from regaudit.client import v2, write
from regaudit.client.exchange import Conversation, Response, Session, Wait, error_of
from regaudit.client.registry import Registry
from regaudit.errors import (
    AccessDenied,
    AuthenticationFailed,
    JournalError,
    NotFound,
    PlanError,
    RateLimited,
    RedirectRefused,
    Refused,
    RegistryError,
)
from regaudit.manifest import AnyManifest, Index, parse_manifest
from regaudit.reference import Digest
from regaudit.text import clean, escape, html_table, redact

logger = logging.getLogger("regaudit.cleaner")

# What a row can come to. The first three of a deletion leave the digest gone.
GONE = frozenset({"deleted", "deleted_unconfirmed", "already_absent"})
_UNDOABLE = frozenset({"deleted", "deleted_unconfirmed", "unknown", "not_deleted"})
_FINE = GONE | {"skipped", "restored", "already_there"}
# After these nothing more is sent to the registry, or to the repository.
_STOPS_REGISTRY = frozenset({"disabled", "denied", "refused_redirect", "rate_limited"})
_STOPS_REPOSITORY = frozenset({"repository_missing"})

# How long a registry may take to show that a manifest is gone, and how often to look (seconds).
_VISIBLE_AFTER = 30.0
_LOOK_EVERY = (0.2, 0.5, 1.0, 2.0)
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row.

    Attributes
    ----------
    outcome : str
        Of a deletion: ``deleted``, ``deleted_unconfirmed`` (gone, though the reply did not say so),
        ``already_absent``, ``not_deleted``, ``disabled``, ``denied``, ``refused_by_registry``,
        ``refused_redirect``, ``rate_limited``, ``repository_missing``, ``skipped``, ``unknown``,
        ``failed``, ``lost`` (a kept tag vanished meanwhile). Of an undo: ``restored``,
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


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a plan, or one undo, as the journal has it.

    Attributes
    ----------
    kind : str
        ``delete`` or ``undo``.
    stopped : bool
        Whether it ended before all rows were tried.
    """

    id: str
    plan_hash: str
    kind: str
    outcomes: tuple[Outcome, ...]
    stopped: bool = False

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
        return f"{self.kind} {self.id}: {counted}{'; stopped before the end' if self.stopped else ''}"

    def _repr_html_(self) -> str:
        shown = self.outcomes[:100]
        rows: list[list[object]] = [[o.repository, " ".join(o.tags[:8]), o.outcome, o.detail] for o in shown]
        return f"<p>{escape(self)}</p>{html_table(['repository', 'tags', 'outcome', 'detail'], rows)}"


Report = Callable[[Outcome], None]


class Cleaner:
    """Deletes what an approved plan says, and nothing else.

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
        if isinstance(journal, Journal):
            self.journal = journal
        else:
            self.journal = Journal(journal if journal is not None else Journal.default_path(registry.host))

    def execute(self, plan: Plan, *, progress: Report | None = None, stop: threading.Event | None = None) -> Run:
        """Delete what an approved plan lists, row by row, and return what became of each.

        Parameters
        ----------
        plan : Plan
            Approved exactly as it stands.
        progress : callable, optional
            Is given each `Outcome` as it comes.
        stop : threading.Event, optional
            Once set, no further deletion is begun.

        Raises
        ------
        PlanError
            The plan is not approved, was changed after the approval, or is for another registry.
        JournalError
            The journal cannot be written, or another run has it. Nothing was deleted then.
        """
        plan.check()
        if plan.registry != self.registry.host:
            raise PlanError(
                f"the plan is for {clean(plan.registry, 120)}, and this is {clean(self.registry.host, 120)}: "
                "use it with its own registry, or make a plan of this one"
            )
        with self.journal.locked():
            return _Execution(self.registry, self.journal, plan, progress, stop).run()

    def undo(
        self,
        run: Run | str,
        *,
        progress: Report | None = None,
        stop: threading.Event | None = None,
        overwrite: bool = False,
    ) -> Run:
        """Put back what a run deleted: manifests byte for byte, children first, then their tags.

        Possible as long as the registry has not collected its garbage. A tag that somebody has set
        to something else since stays as it is, unless `overwrite`.

        Raises
        ------
        JournalError
            The journal does not know the run.
        """
        name = run if isinstance(run, str) else run.id
        with self.journal.locked():
            return _Restoration(self.registry, self.journal, name, progress, stop, overwrite=overwrite).run()

    def last_run(self, plan: Plan) -> Run | None:
        """Return the newest execution of this very plan in the journal, or None."""
        mine = [entry for entry in self.journal.runs() if entry.data.get("plan_hash") == plan.hash]
        return self.run(mine[-1].run) if mine else None

    def run(self, name: str) -> Run:
        """Return a run as the journal has it; raises `JournalError` where it does not know it."""
        return recorded_run(self.journal, name)


# -- what both directions need ---------------------------------------------------------------


def _new_run() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def recorded_run(journal: Journal, name: str) -> Run:
    """Return a run as a journal has it; raises `JournalError` where it does not know it."""
    started = [entry for entry in journal.entries(name) if entry.event == "started"]
    if not started:
        known = ", ".join(entry.run for entry in journal.runs()[-3:]) or "none"
        raise JournalError(f"the journal has no run {clean(name, 60)!r}: the newest are {known}")
    outcomes: dict[str, Outcome] = {}
    stopped = True
    for entry in journal.entries(name):
        if entry.event == "intent":
            outcomes[entry.key] = _outcome({**entry.data, "key": entry.key, "outcome": "unknown", "at": entry.at})
        elif entry.event == "outcome":
            outcomes[entry.key] = _outcome({**entry.data, "key": entry.key, "at": entry.at})
        elif entry.event == "finished":
            stopped = bool(entry.data.get("stopped"))
    first = started[0].data
    return Run(name, first.get("plan_hash", ""), first["kind"], tuple(outcomes.values()), stopped)


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


class _Stop(Exception):
    """Nothing more may be sent."""


# -- deleting --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Now:
    """What a repository looks like just before a deletion."""

    tags: dict[str, str | None]
    known: set[str]
    referenced: dict[str, str] = field(default_factory=dict)


class _Execution:
    """One execution of a plan."""

    def __init__(
        self, registry: Registry, journal: Journal, plan: Plan, progress: Report | None, stop: threading.Event | None
    ) -> None:
        self._registry, self._journal, self._plan = registry, journal, plan
        self._session = registry.session
        self._report = progress or (lambda _: None)
        self._stop = stop or threading.Event()
        self._run = _new_run()
        self._outcomes: list[Outcome] = []
        self._gone: set[str] = set()
        self._earlier = [e.run for e in journal.runs() if e.data.get("plan_hash") == plan.hash]

    def run(self) -> Run:
        plan = self._plan
        assert plan.approval is not None  # noqa: S101 -- Plan.check said so
        self._journal.record(
            self._run,
            "started",
            kind="delete",
            registry=plan.registry,
            plan_hash=plan.hash,
            approval=plan.approval.to_dict(),
            rows=[row.to_dict() for row in plan.rows],
        )
        stopped = False
        try:
            for repository in dict.fromkeys(row.repository for row in plan.rows):
                self._clean(repository, [row for row in plan.rows if row.repository == repository])
        except _Stop:
            stopped = True
        except KeyboardInterrupt:
            logger.warning("the deletion was interrupted: what is under way is recorded as unknown")
            stopped = True
        self._journal.record(self._run, "finished", stopped=stopped)
        return Run(self._run, plan.hash, "delete", tuple(self._outcomes), stopped)

    def _clean(self, repository: str, rows: list[PlanRow]) -> None:
        try:
            now = self._look(repository)
        except RegistryError as error:
            words = {self._conclude(row, *_unreadable(error)) for row in rows}
            if words & _STOPS_REGISTRY:
                raise _Stop from None
            return
        kept = {tag: digest for tag, digest in now.tags.items() if digest is not None}
        for row in rows:
            if self._stop.is_set():
                raise _Stop
            outcome = self._one(row, now)
            if outcome in _STOPS_REGISTRY:
                raise _Stop
            if outcome in _STOPS_REPOSITORY:
                return
        self._check_kept(repository, kept, rows)

    def _one(self, row: PlanRow, now: _Now) -> str:
        """Delete one row, if everything still is as it was reviewed, and return its outcome."""
        if missing := [key for key in row.needs if key not in self._gone]:
            return self._conclude(row, "skipped", f"{missing[0]} stays, and this goes only along with it")
        try:
            self._look_again(row, now)
            if reason := self._changed(row, now):
                return self._conclude(row, "skipped", reason)
            manifest = self._registry.run(v2.get_manifest(self._session, row.repository, str(row.digest)))
        except NotFound:
            again = self._unfinished_before(row)
            word = "deleted_unconfirmed" if again else "already_absent"
            return self._conclude(
                row, word, "it was not there any more" if not again else "an earlier run had asked for it"
            )
        except RegistryError as error:
            return self._conclude(row, *_unreadable(error))
        return self._delete(row, manifest, now)

    def _delete(self, row: PlanRow, manifest: AnyManifest, now: _Now) -> str:
        self._journal.record_intent(
            self._run,
            row.key,
            digest=str(row.digest),
            media_type=manifest.media_type,
            raw=manifest.raw,
            repository=row.repository,
            tags=[tag for tag in row.tags if now.tags.get(tag) == row.digest],
            action=row.action,
        )
        digest = Digest(str(row.digest))
        asked = (
            write.delete_tag(self._session, row.repository, row.tags[0])
            if row.action == DELETE_TAG
            else write.delete_manifest(self._session, row.repository, digest)
        )
        try:
            reply: Response | RegistryError = self._registry.run(asked)
        except RegistryError as error:
            reply = error
        accepted = isinstance(reply, Response) and reply.status in {200, 202, 204}
        alive = self._registry.run(_alive(self._session, row, patient=accepted))
        word, detail = _classify(reply, alive=alive, tag_only=row.action == DELETE_TAG)
        if word in GONE:
            for tag in row.tags:
                now.tags.pop(tag, None)
        return self._conclude(row, word, detail)

    def _conclude(self, row: PlanRow, word: str, detail: str = "") -> str:
        outcome = Outcome(row.key, row.repository, row.digest, row.tags, row.action, word, redact(detail, 400))
        self._journal.record(
            self._run, "outcome", row.key, **{k: v for k, v in outcome.to_dict().items() if k not in {"key", "at"}}
        )
        if word in GONE:
            self._gone.add(row.key)
        self._outcomes.append(outcome)
        self._report(outcome)
        return word

    def _unfinished_before(self, row: PlanRow) -> bool:
        """Return whether an earlier run of this plan asked for this deletion and never learned the outcome."""
        for run in reversed(self._earlier):
            if self._journal.last(run, row.key, "intent"):
                known = self._journal.last(run, row.key, "outcome")
                return known is None or known.data["outcome"] in {"unknown", "not_deleted", "failed"}
        return False

    # -- what the registry looks like now -----------------------------------------------------

    def _look(self, repository: str) -> _Now:
        """Read every tag of a repository, and what new manifests refer to."""
        state = self._plan.state.get(repository, {})
        names = self._registry.run(v2.tags(self._session, repository)).all()
        now = _Now({}, {digest for digest in state.values() if digest is not None})
        self._read(repository, names, now)
        return now

    def _look_again(self, row: PlanRow, now: _Now) -> None:
        """Read the list of tags, the known aliases of a row, and any new name."""
        names = self._registry.run(v2.tags(self._session, row.repository)).all()
        listed = set(names)
        for tag in [tag for tag in now.tags if tag not in listed]:
            del now.tags[tag]
        aliases = {tag for tag, digest in now.tags.items() if digest == row.digest} | (set(row.tags) & listed)
        self._read(row.repository, [name for name in names if name not in now.tags or name in aliases], now)
        if row.action == DELETE_MANIFEST:
            self._read_referrers(row, now)

    def _read(self, repository: str, names: Iterable[str], now: _Now) -> None:
        with self._registry.bulk() as bulk:
            for name in names:
                bulk.submit(name, _tag_digest(self._session, repository, name))
            for result in bulk.results():
                if result.error is not None:
                    raise result.error
                now.tags[str(result.key)] = result.value
        for tag, digest in now.tags.items():
            if digest is not None and digest not in now.known:
                self._follow(repository, digest, tag, now)

    def _follow(self, repository: str, digest: str, tag: str, now: _Now, depth: int = 0) -> None:
        """Note what a manifest that the plan does not know of refers to."""
        now.known.add(digest)
        try:
            manifest = self._registry.run(v2.get_manifest(self._session, repository, digest))
        except NotFound:
            return
        below = [child.digest for child in manifest.manifests] if isinstance(manifest, Index) else []
        about = [manifest.subject.digest] if manifest.subject is not None else []
        for other in (*below, *about):
            now.referenced[other] = tag
        planned = {row.digest for row in self._plan.rows if row.repository == repository}
        for child in below:
            if child not in now.known and child not in planned and depth < _DEEPEST:
                self._follow(repository, child, tag, now, depth + 1)

    def _read_referrers(self, row: PlanRow, now: _Now) -> None:
        planned = {r.digest for r in self._plan.rows if r.repository == row.repository}
        listed = self._registry.run(v2.listed_referrers(self._session, row.repository, Digest(str(row.digest))))
        for descriptor in listed or ():
            if descriptor.digest not in planned and descriptor.digest not in self._plan_untouched(row.repository):
                now.referenced[str(row.digest)] = f"the referrer {descriptor.digest.short}"

    def _plan_untouched(self, repository: str) -> set[str]:
        """Return the digests that the plan knew to be kept by a tag: a referrer among them was decided on."""
        return {digest for digest in self._plan.state.get(repository, {}).values() if digest is not None}

    def _changed(self, row: PlanRow, now: _Now) -> str:
        """Return why a row is not as it was reviewed, or an empty text."""
        on_digest = sorted(tag for tag, digest in now.tags.items() if digest == row.digest)
        if row.action == DELETE_TAG:
            return (
                ""
                if row.tags[0] in on_digest or row.tags[0] not in now.tags
                else f"tag_moved: {row.tags[0]} is another digest now"
            )
        if moved := sorted(tag for tag in row.tags if now.tags.get(tag) not in {None, row.digest}):
            return f"tag_moved: {moved[0]} is another digest now"
        if new := [tag for tag in on_digest if tag not in row.tags]:
            return f"new_alias: {new[0]} was set to it after the review"
        if row.digest in now.referenced:
            return f"now_referenced: {now.referenced[row.digest]} came after the review and needs it"
        return ""

    def _check_kept(self, repository: str, kept: dict[str, str], rows: list[PlanRow]) -> None:
        """Look whether everything that was to stay is still there, and report what is not."""
        touched = {tag for row in rows for tag in row.tags}
        try:
            after = _Now({}, set(kept.values()))
            self._read(repository, [tag for tag in kept if tag not in touched], after)
        except RegistryError as error:
            logger.warning("%s could not be read after the deletion: %s", clean(repository, 255), error)
            return
        for tag, digest in after.tags.items():
            if digest is None:
                row = PlanRow(repository=repository, digest=kept[tag], tags=(tag,), action=DELETE_TAG)
                self._conclude(row, "lost", "the tag was to stay, and is gone: somebody deleted or pushed it meanwhile")


def _tag_digest(session: Session, repository: str, tag: str) -> Conversation[str | None]:
    """Return what a tag points to now, None where its manifest is gone."""
    try:
        head = yield from v2.head_manifest(session, repository, tag)
        if head.digest is not None:
            return str(head.digest)
    except NotFound:
        pass  # some registries answer 404 to every HEAD: only GET is definite
    try:
        return str((yield from v2.get_manifest(session, repository, tag)).digest)
    except NotFound:
        return None


def _alive(session: Session, row: PlanRow, *, patient: bool) -> Conversation[bool | None]:
    """Return whether the digest (or the tag, where only that goes) is still there; None where no read tells.

    After an accepted deletion a registry may need a while to show it: it is looked at for half a minute.
    """
    reference = row.tags[0] if row.action == DELETE_TAG else str(row.digest)
    waited = 0.0
    pauses: Iterator[float] = iter(_LOOK_EVERY)
    while True:
        try:
            found = yield from v2.get_manifest(session, row.repository, reference)
        except NotFound:
            return False
        except RegistryError:
            return None
        if row.action == DELETE_TAG and found.digest != row.digest:
            return False
        pause = next(pauses, _LOOK_EVERY[-1])
        if not patient or waited >= _VISIBLE_AFTER:
            return True
        yield Wait(pause)
        waited += pause


def _classify(  # noqa: PLR0911 -- a table
    reply: Response | RegistryError, *, alive: bool | None, tag_only: bool
) -> tuple[str, str]:
    """Return the outcome of a deletion from its reply and from what a read afterwards shows."""
    if alive is None:
        return "unknown", f"whether it is gone could not be read; the registry answered {_said(reply)}"
    if isinstance(reply, RegistryError):
        return _classify_error(reply, alive=alive)
    status, code = reply.status, _code(reply)
    if status in {200, 202, 204}:
        return (
            ("not_deleted", f"accepted ({status}), and still there after {_VISIBLE_AFTER:.0f} s")
            if alive
            else ("deleted", "")
        )
    if status == 404 and code == "NAME_UNKNOWN":
        return "repository_missing", "the registry does not know the repository"
    if not alive:
        return (
            ("already_absent", "")
            if status == 404
            else ("deleted_unconfirmed", f"gone, although the answer was {_said(reply)}")
        )
    if status == 405 or code == "UNSUPPORTED" or (tag_only and status == 400):
        return (
            "refused_by_registry" if tag_only else "disabled"
        ), "the registry does not allow deletion: switch it on there"
    if status in {401, 403}:
        return "denied", "the credentials do not allow deletion"
    if status in {409, 423}:
        return "refused_by_registry", f"it is referenced or locked: {_said(reply)}"
    if status == 429:
        return "rate_limited", "the registry asks for fewer requests: go on later with the same plan"
    return "not_deleted", f"still there; the answer was {_said(reply)}"


def _classify_error(error: RegistryError, *, alive: bool) -> tuple[str, str]:
    if not alive:
        return "deleted_unconfirmed", f"gone, although there was no answer: {error}"
    if isinstance(error, RedirectRefused):
        return "refused_redirect", str(error)
    if isinstance(error, AccessDenied | AuthenticationFailed):
        return "denied", str(error)
    return ("rate_limited" if isinstance(error, RateLimited) else "not_deleted"), str(error)


def _unreadable(error: RegistryError) -> tuple[str, str]:
    if isinstance(error, NotFound):
        return "repository_missing", str(error)
    if isinstance(error, AccessDenied | AuthenticationFailed):
        return "denied", str(error)
    return "failed", f"not read again, so not deleted: {error}"


def _code(reply: Response) -> str | None:
    return error_of(reply, "").code


def _said(reply: Response | RegistryError) -> str:
    if isinstance(reply, RegistryError):
        return str(reply)
    code = _code(reply)
    return f"{reply.status} {code}" if code else str(reply.status)


# -- putting back ----------------------------------------------------------------------------


class _Restoration:
    """One undo of a run."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        name: str,
        progress: Report | None,
        stop: threading.Event | None,
        *,
        overwrite: bool,
    ) -> None:
        self._registry, self._journal = registry, journal
        self._session = registry.session
        self._deleted = recorded_run(journal, name)
        self._report = progress or (lambda _: None)
        self._stop = stop or threading.Event()
        self._overwrite = overwrite
        self._run = _new_run()
        started = next(entry for entry in journal.entries(name) if entry.event == "started")
        if started.data.get("registry") != registry.host or self._deleted.kind != "delete":
            raise JournalError(
                f"run {clean(name, 60)} is a {self._deleted.kind} at {clean(started.data.get('registry', '?'), 120)}: "
                f"only a deletion at {clean(registry.host, 120)} can be undone here"
            )

    def run(self) -> Run:
        self._journal.record(
            self._run,
            "started",
            kind="undo",
            registry=self._registry.host,
            undoes=self._deleted.id,
            plan_hash="",
        )
        outcomes: list[Outcome] = []
        stopped = False
        # what went last comes back first: children before their index, referrers before their subject
        for deleted in reversed([o for o in self._deleted.outcomes if o.outcome in _UNDOABLE]):
            if self._stop.is_set():
                stopped = True
                break
            word, detail = self._restore(deleted)
            outcome = replace(deleted, outcome=word, detail=redact(detail, 400), at=datetime.now(UTC))
            fields = {k: v for k, v in outcome.to_dict().items() if k not in {"key", "at"}}
            self._journal.record(self._run, "outcome", outcome.key, **fields)
            outcomes.append(outcome)
            self._report(outcome)
        self._journal.record(self._run, "finished", stopped=stopped)
        return Run(self._run, "", "undo", tuple(outcomes), stopped)

    def _restore(self, deleted: Outcome) -> tuple[str, str]:
        saved = self._journal.manifest(str(deleted.digest))
        intent = self._journal.last(self._deleted.id, deleted.key, "intent")
        if saved is None or intent is None:
            return "failed", "the journal has no bytes for it: it was gone before this run"
        media_type, raw = saved
        try:
            was_there = self._registry.run(_there(self._session, deleted.repository, str(deleted.digest)))
            if not was_there:
                self._put(deleted.repository, str(deleted.digest), raw, media_type)
            return self._restore_tags(deleted, intent.data["tags"], raw, media_type, was_there=was_there)
        except Refused as error:
            gone = error.status in {400, 404} and "UNKNOWN" in (error.code or "")
            return ("blobs_gone", f"its layers were collected: {error}") if gone else ("failed", str(error))
        except RegistryError as error:
            return "failed", str(error)

    def _restore_tags(
        self, deleted: Outcome, tags: list[str], raw: bytes, media_type: str, *, was_there: bool
    ) -> tuple[str, str]:
        moved, put = [], []
        for tag in tags:
            current = self._registry.run(_tag_digest(self._session, deleted.repository, tag))
            if current == deleted.digest:
                continue
            if current is not None and not self._overwrite:
                moved.append(tag)
                continue
            self._put(deleted.repository, tag, raw, media_type)
            put.append(tag)
        if moved:
            return "tag_moved", f"{', '.join(moved[:5])} was set to something else since, and stays so"
        return ("already_there", "") if was_there and not put else ("restored", "")

    def _put(self, repository: str, reference: str, raw: bytes, media_type: str) -> None:
        parse_manifest(raw, media_type)  # never send what is not a manifest, whatever the file holds
        self._registry.run(write.restore_manifest(self._session, repository, reference, raw, media_type))
        found = self._registry.run(_tag_digest(self._session, repository, reference))
        if found is None:
            raise RegistryError(f"{repository}:{reference} was stored, and is not there")


def _there(session: Session, repository: str, digest: str) -> Conversation[bool]:
    try:
        yield from v2.get_manifest(session, repository, digest)
    except NotFound:
        return False
    return True


__all__ = ["Cleaner", "Outcome", "Run"]
