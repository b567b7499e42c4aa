"""Cleaner: executes an approved plan, verifies what happened, and undoes it.

A registry offers no "delete if unchanged". What can be done about that is done here: everything is
read again just before, the intent and the bytes are on the disk before the request leaves, and the
outcome is what a read afterwards shows, not what the status code said.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd

from regaudit.cleaner.journal import Entry, Journal
from regaudit.cleaner.plan import Plan
from regaudit.cleaner.rows import DELETE_MANIFEST, DELETE_TAG, PlanRow
from regaudit.client import v2, write
from regaudit.client.exchange import Conversation, Request, Response, Session, Wait, error_of
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
    Unreachable,
)
from regaudit.manifest import AnyManifest, Index, parse_manifest
from regaudit.reference import Digest, attached_tag, split_attached_tag
from regaudit.text import clean, escape, html_table, redact

logger = logging.getLogger("regaudit.cleaner")

# What a row can come to. The first three of a deletion leave the digest gone.
GONE = frozenset({"deleted", "deleted_unconfirmed", "already_absent"})
_UNDOABLE = frozenset({"deleted", "deleted_unconfirmed", "unknown", "not_deleted", "lost"})
_FINE = GONE | {"skipped", "restored", "already_there"}
# After these nothing more is sent to the registry, or to the repository.
_STOPS_REGISTRY = frozenset({"disabled", "denied", "refused_redirect", "rate_limited", "lost"})
# What registries say of a manifest that others need or that a rule holds (ECR, Artifact Registry, Quay, Harbor).
_HELD = ("referenced", "immutable", "dangling_tag")
_STOPS_REPOSITORY = frozenset({"repository_missing"})

# How long a registry may take to show that a manifest is gone, and how often to look (seconds).
_VISIBLE_AFTER = 30.0
_LOOK_EVERY = (0.2, 0.5, 1.0, 2.0)
# So many tags are read one after the other: starting a pool for them would take longer.
_FEW = 3
# Between two rows only their own tags and new names are read; after so many seconds all tags are again.
_LOOK_AT_ALL_AFTER = 60.0
_DEEPEST = 8
# How registries say that something a manifest needs is not there any more.
_BLOBS_GONE = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row.

    Attributes
    ----------
    outcome : str
        Of a deletion: ``deleted``, ``deleted_unconfirmed`` (gone, though the reply did not say so),
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
        self._own_journal = not isinstance(journal, Journal)
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


@contextmanager
def _ended(journal: Journal, run: str) -> Iterator[None]:
    """Record the end of a run, also where it was stopped or interrupted before all rows were tried."""
    stopped = False
    try:
        yield
    except _Stop:
        stopped = True
    except KeyboardInterrupt:
        logger.warning("run %s was interrupted: what was under way is recorded as unknown", run)
        stopped = True
    journal.record(run, "finished", stopped=stopped)


def _runs_of(journal: Journal, plan_hash: str) -> list[str]:
    """Return the executions of a plan, oldest first."""
    return [entry.run for entry in journal.runs() if plan_hash and entry.data.get("plan_hash") == plan_hash]


# -- deleting --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Now:
    """What a repository looks like just before a deletion.

    Attributes
    ----------
    tags : dict
        Every tag that is listed, with its digest; None where its manifest is gone.
    seen : dict
        Every tag that was seen with a digest since the run began.
    known : set
        Digests whose references need no more reading: the plan took them into account, or they were followed.
    referenced : dict
        What came after the review and needs a digest: its tag.
    all_again : float
        When all tags are due to be read again, on the monotonic clock.
    """

    repository: str
    known: set[str]
    tags: dict[str, str | None] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    referenced: dict[str, str] = field(default_factory=dict)
    all_again: float = 0.0


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
        self._rows: dict[str, list[PlanRow]] = {}
        for row in plan.rows:
            self._rows.setdefault(row.repository, []).append(row)
        self._asked: set[str] = set()
        self._gone: set[str] = set()
        self._untags = True
        self._earlier = _runs_of(journal, plan.hash)

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
        with _ended(self._journal, self._run):
            for repository, rows in self._rows.items():
                self._clean(repository, rows)
        return recorded_run(self._journal, self._run)

    def _clean(self, repository: str, rows: list[PlanRow]) -> None:
        planned = {str(row.digest) for row in rows}
        now = _Now(repository, planned | self._tagged(repository))
        try:
            self._look(now)
        except RegistryError as error:
            words = {self._conclude(row, *_unreadable(error)) for row in rows}
            if words & _STOPS_REGISTRY:
                raise _Stop from None
            return
        stopped = self._work(rows, now)
        self._check_kept(rows, now)
        if stopped:
            raise _Stop

    def _work(self, rows: list[PlanRow], now: _Now) -> bool:
        """Delete rows one by one, and return whether nothing more may be sent to the registry."""
        for row in rows:
            if self._stop.is_set():
                return True
            word = self._one(row, now)
            if word in _STOPS_REGISTRY | _STOPS_REPOSITORY:
                return word in _STOPS_REGISTRY
        return False

    def _one(self, row: PlanRow, now: _Now) -> str:
        """Delete one row, if everything still is as it was reviewed, and return its outcome."""
        try:
            if obstacle := self._obstacle(row, now):
                return self._conclude(row, *obstacle)
        except RegistryError as error:
            return self._conclude(row, *_unreadable(error))
        try:
            manifest = self._registry.run(v2.get_manifest(self._session, row.repository, str(row.digest)))
        except NotFound:
            return self._conclude(row, *self._absent(row))
        except RegistryError as error:
            return self._conclude(row, *_unreadable(error))
        return self._delete(row, manifest, now)

    def _obstacle(self, row: PlanRow, now: _Now) -> tuple[str, str] | None:
        """Look again, and return the outcome of a row that is not to be asked for."""
        if missing := [key for key in row.needs if key not in self._gone]:
            return "skipped", f"{missing[0]} stays, and this may go only after it"
        if row.action == DELETE_TAG and not self._untags:
            return "refused_by_registry", "the registry does not delete by tag"
        self._look(now, row)
        if reason := self._changed(row, now):
            return "skipped", reason
        return self._absent(row) if row.action == DELETE_TAG and now.tags.get(row.tags[0]) is None else None

    def _absent(self, row: PlanRow) -> tuple[str, str]:
        if self._unfinished_before(row):
            return "deleted_unconfirmed", "an earlier run had asked for it"
        return "already_absent", "it was not there any more"

    def _delete(self, row: PlanRow, manifest: AnyManifest, now: _Now) -> str:
        on_digest = sorted(tag for tag, digest in now.tags.items() if digest == row.digest)
        self._journal.record_intent(
            self._run,
            row.key,
            digest=str(row.digest),
            media_type=manifest.media_type,
            raw=manifest.raw,
            repository=row.repository,
            tags=[tag for tag in on_digest if tag in row.tags],
            aliases=[tag for tag in on_digest if tag not in row.tags],
            action=row.action,
        )
        self._asked.add(row.key)
        statuses: list[int] = []
        try:
            reply: Response | RegistryError = self._registry.run(_noting(self._request(row), statuses))
        except RegistryError as error:
            reply = error
        alive = self._registry.run(_alive(self._session, row, patient=_may_take_effect(reply)))
        again = bool({429, 503} & set(statuses)) or self._unfinished_before(row)
        word, detail = _classify(reply, alive=alive, tag_only=row.action == DELETE_TAG, again=again)
        if row.action == DELETE_TAG:
            word, detail = self._check_untagged(row, word, detail)
        if word in GONE:
            for tag in row.tags:
                now.tags.pop(tag, None)
        return self._conclude(row, word, detail)

    def _request(self, row: PlanRow) -> Conversation[Response]:
        if row.action == DELETE_TAG:
            return write.delete_tag(self._session, row.repository, row.tags[0])
        return write.delete_manifest(self._session, row.repository, Digest(str(row.digest)))

    def _check_untagged(self, row: PlanRow, word: str, detail: str) -> tuple[str, str]:
        """Look whether only the tag went: there are registries that delete its manifest with every other tag."""
        self._untags = self._untags and word != "refused_by_registry"
        if word not in GONE:
            return word, detail
        try:
            kept = self._registry.run(_there(self._session, row.repository, str(row.digest)))
        except RegistryError as error:
            return "unknown", f"whether only the tag went could not be read: {error}"
        return (word, detail) if kept else ("lost", "the registry deleted the manifest with its tag: undo puts it back")

    def _conclude(self, row: PlanRow, word: str, detail: str = "") -> str:
        outcome = Outcome(row.key, row.repository, row.digest, row.tags, row.action, word, redact(detail, 400))
        _record_outcome(self._journal, self._run, outcome)
        if word in GONE:
            self._gone.add(row.key)
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

    def _tagged(self, repository: str) -> set[str]:
        """Return the digests that had a tag when the plan was made: what they refer to was taken into account."""
        return {digest for digest in self._plan.state.get(repository, {}).values() if digest is not None}

    def _look(self, now: _Now, row: PlanRow | None = None) -> None:
        """Read the list of tags, and of these any new name and those on a row; all of them where that is due."""
        names = self._registry.run(v2.tags(self._session, now.repository)).all()
        now.tags = {name: now.tags[name] for name in names if name in now.tags}
        if row is None or time.monotonic() >= now.all_again:
            now.all_again = time.monotonic() + _LOOK_AT_ALL_AFTER
            self._read(names, now)
        else:
            aliases = {tag for tag, digest in now.tags.items() if digest == row.digest} | set(row.tags)
            self._read([name for name in names if name not in now.tags or name in aliases], now)
        if row is not None and row.action == DELETE_MANIFEST:
            self._read_referrers(row, now)

    def _read(self, names: Iterable[str], now: _Now) -> None:
        """Read tags, and what those that changed since the review refer to."""
        state = self._plan.state.get(now.repository, {})
        for tag, digest in self._digests(now.repository, names).items():
            now.tags[tag] = digest
            if digest is None:
                continue
            now.seen[tag] = digest
            parts = split_attached_tag(tag)
            if parts is not None and state.get(tag) != digest:
                now.referenced[parts[0]] = tag
            if digest not in now.known:
                self._follow(digest, tag, now)

    def _digests(self, repository: str, names: Iterable[str]) -> dict[str, str | None]:
        """Return what tags point to now, None where the manifest is gone."""
        asked = {name: _tag_digest(self._session, repository, name) for name in names}
        if len(asked) <= _FEW:
            return {name: self._registry.run(conversation) for name, conversation in asked.items()}
        found: dict[str, str | None] = {}
        with self._registry.bulk() as bulk:
            for name, conversation in asked.items():
                bulk.submit(name, conversation)
            for result in bulk.results():
                if result.error is not None:
                    raise result.error
                found[str(result.key)] = result.value
        return found

    def _follow(self, digest: str, tag: str, now: _Now, depth: int = 0) -> None:
        """Note what a manifest that the plan does not know of refers to."""
        now.known.add(digest)
        try:
            manifest = self._registry.run(v2.get_manifest(self._session, now.repository, digest))
        except NotFound:
            return
        below = [child.digest for child in manifest.manifests] if isinstance(manifest, Index) else []
        about = [manifest.subject.digest] if manifest.subject is not None else []
        now.referenced.update(dict.fromkeys((*below, *about), tag))
        for child in below:
            if child not in now.known and depth < _DEEPEST:
                self._follow(child, tag, now, depth + 1)

    def _read_referrers(self, row: PlanRow, now: _Now) -> None:
        listed = self._registry.run(v2.listed_referrers(self._session, row.repository, Digest(str(row.digest))))
        decided = {str(r.digest) for r in self._rows[row.repository]} if listed else set()
        for descriptor in listed or ():
            if descriptor.digest in decided | self._tagged(row.repository):
                continue
            # some registries go on listing what is gone
            if self._registry.run(_there(self._session, row.repository, descriptor.digest)):
                now.referenced[str(row.digest)] = f"the referrer {descriptor.digest.short}"

    def _changed(self, row: PlanRow, now: _Now) -> str:
        """Return why a row is not as it was reviewed, or an empty text."""
        if moved := sorted(tag for tag in row.tags if now.tags.get(tag) not in {None, row.digest}):
            return f"tag_moved: {moved[0]} is another digest now"
        if row.action == DELETE_TAG:
            return ""
        if new := sorted(tag for tag, digest in now.tags.items() if digest == row.digest and tag not in row.tags):
            return f"new_alias: {new[0]} was set to it after the review"
        digest = Digest(str(row.digest))
        if newcomer := now.referenced.get(digest) or now.referenced.get(attached_tag(digest)):
            return f"now_referenced: {newcomer} came after the review and needs it"
        return ""

    def _check_kept(self, rows: list[PlanRow], now: _Now) -> None:
        """Look whether everything that was to stay is still there, and report what is not."""
        asked = [row for row in rows if row.key in self._asked]
        touched = {tag for row in rows if row.key in self._asked | self._gone for tag in row.tags}
        kept = {tag: digest for tag, digest in now.seen.items() if tag not in touched}
        try:
            after = self._digests(now.repository, kept) if asked else {}
            if None in after.values():
                self._registry.run(_still_a_registry(self._session, now.repository))
        except RegistryError as error:
            logger.warning("%s could not be read after the deletion: %s", clean(now.repository, 255), error)
            return
        for tag in sorted(tag for tag, digest in after.items() if digest is None):
            row = PlanRow(repository=now.repository, digest=kept[tag], tags=(tag,), action=DELETE_TAG)
            if f"{row.repository}:{tag}" not in self._asked:
                self._conclude(row, "lost", "the tag was to stay, and is gone: somebody deleted or pushed it meanwhile")


def _record_outcome(journal: Journal, run: str, outcome: Outcome) -> None:
    fields = {name: value for name, value in outcome.to_dict().items() if name not in {"key", "at"}}
    journal.record(run, "outcome", outcome.key, **fields)


def _noting(conversation: Conversation[Response], statuses: list[int]) -> Conversation[Response]:
    """Run a deletion and note the status of each answer: what was answered 503 may have been carried out."""
    try:
        step = next(conversation)
        while True:
            try:
                answer = yield step
            except RegistryError as error:
                step = conversation.throw(error)
                continue
            if isinstance(step, Request) and step.method == "DELETE":
                statuses.append(answer.status)
            step = conversation.send(answer)
    except StopIteration as end:
        response: Response = end.value
        return response


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
        except NotFound as error:
            return False if error.code else (yield from _gone_indeed(session, row.repository))
        except RegistryError:
            return None
        if row.action == DELETE_TAG and found.digest != row.digest:
            return False
        pause = next(pauses, _LOOK_EVERY[-1])
        if not patient or waited >= _VISIBLE_AFTER:
            return True
        yield Wait(pause)
        waited += pause


def _gone_indeed(session: Session, repository: str) -> Conversation[bool | None]:
    """Return what a 404 without a registry's error code means: gone, or unknown where no registry answers any more."""
    try:
        yield from _still_a_registry(session, repository)
    except RegistryError:
        return None
    return False


def _still_a_registry(session: Session, repository: str) -> Conversation[None]:
    """Raise unless tags are listed, or refused with a code that only a registry has."""
    listing = yield from v2.tags(session, repository)
    if listing.error is not None and listing.error.code is None:
        raise listing.error


def _may_take_effect(reply: Response | RegistryError) -> bool:
    """Return whether a deletion may yet happen: it was accepted, or nobody knows how far it came."""
    if isinstance(reply, RegistryError):
        return isinstance(reply, Unreachable)
    return reply.status in {200, 202, 204} or reply.status >= 500


def _classify(  # noqa: PLR0911 -- a table
    reply: Response | RegistryError, *, alive: bool | None, tag_only: bool, again: bool
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
            else ("deleted", "" if status == 202 else f"the answer was {status}")
        )
    if status == 404 and (code == "NAME_UNKNOWN" or (alive and code is None)):
        return "repository_missing", f"the answer was {_said(reply)}: no registry knows the repository there"
    if not alive:
        return (
            ("already_absent", "somebody else deleted it at the same time")
            if status == 404 and not again
            else ("deleted_unconfirmed", f"gone, although the answer was {_said(reply)}")
        )
    if status == 405 or code == "UNSUPPORTED" or (tag_only and status == 400):
        return (
            "refused_by_registry" if tag_only else "disabled"
        ), "the registry does not allow deletion: switch it on there"
    if status in {401, 403}:
        return "denied", "the credentials do not allow deletion"
    if status in {409, 412, 423} or any(word in _text(reply) for word in _HELD):
        return "refused_by_registry", f"it is referenced or locked: {_said(reply)}"
    if status in {429, 503}:
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
    if isinstance(error, RateLimited):
        return "rate_limited", str(error)
    return "failed", f"not read again, so not deleted: {error}"


def _text(reply: Response) -> str:
    error = error_of(reply, "")
    return f"{error.code} {error}".lower()


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
        self._missing: dict[tuple[str, str], str] = {}
        runs = _runs_of(journal, self._deleted.plan_hash)
        self._runs = runs[: runs.index(self._deleted.id) + 1] if self._deleted.id in runs else []
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
        with _ended(self._journal, self._run):
            # what went last comes back first: children before their index, referrers before their subject
            for deleted in reversed([o for o in self._deleted.outcomes if self._is_ours(o)]):
                if self._stop.is_set():
                    raise _Stop
                word, detail = self._restore(deleted)
                if word in {"blobs_gone", "failed"}:
                    self._missing[deleted.repository, str(deleted.digest)] = word
                outcome = replace(deleted, outcome=word, detail=redact(detail, 400), at=datetime.now(UTC))
                _record_outcome(self._journal, self._run, outcome)
                self._report(outcome)
        return recorded_run(self._journal, self._run)

    def _is_ours(self, outcome: Outcome) -> bool:
        """Return whether a row may be gone by our doing; a kept tag that somebody else took away is not."""
        return outcome.outcome in _UNDOABLE and (outcome.outcome != "lost" or self._intent(outcome.key) is not None)

    def _restore(self, deleted: Outcome) -> tuple[str, str]:
        saved = self._journal.manifest(str(deleted.digest))
        intent = self._intent(deleted.key)
        if saved is None or intent is None:
            return "failed", "the journal has no bytes for it: it was not this run that deleted it"
        raw, media_type = saved[1], str(intent.data["media_type"])
        try:
            document = parse_manifest(raw, media_type)  # never send what is not a manifest, whatever the file holds
            if lacking := self._lacking(deleted.repository, document):
                return lacking
            was_there = self._registry.run(_there(self._session, deleted.repository, str(deleted.digest)))
            if not was_there:
                self._put(deleted.repository, str(deleted.digest), raw, media_type)
            tags = [*intent.data["tags"], *(intent.data["aliases"] if deleted.outcome == "lost" else ())]
            return self._restore_tags(deleted, tags, raw, media_type, was_there=was_there)
        except Refused as error:
            gone = error.status in {400, 404} and error.code in _BLOBS_GONE
            return ("blobs_gone", f"its layers were collected: {error}") if gone else ("failed", str(error))
        except RegistryError as error:
            return "failed", str(error)

    def _intent(self, key: str) -> Entry | None:
        """Return where the bytes of a row were saved: in this run, or in an earlier one that never learned the outcome."""
        return next((entry for run in reversed(self._runs) if (entry := self._journal.last(run, key, "intent"))), None)

    def _lacking(self, repository: str, document: AnyManifest) -> tuple[str, str] | None:
        """Return why an index must stay away: a tag on an index without its children would be half a restoration."""
        for child in document.manifests if isinstance(document, Index) else ():
            if word := self._missing.get((repository, child.digest)):
                return word, f"its child {child.digest.short} could not be put back"
        return None

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
        self._registry.run(write.restore_manifest(self._session, repository, reference, raw, media_type))
        found = self._registry.run(_tag_digest(self._session, repository, reference))
        if found is None or not Digest(found).matches(raw):
            raise RegistryError(f"{repository}:{reference} was stored, and a read does not show it")


def _there(session: Session, repository: str, digest: str) -> Conversation[bool]:
    try:
        yield from v2.get_manifest(session, repository, digest)
    except NotFound:
        return False
    return True


__all__ = ["Cleaner", "Outcome", "Run"]
