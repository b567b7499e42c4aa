"""Execution: one approved plan, row by row, each looked at just before and just after.

A registry offers no "delete if unchanged". What can be done about that is done here: everything is
read again just before, the intent and the bytes are on the disk before the request leaves, and the
outcome is what a read afterwards shows, not what the status code said.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from regaudit.cleaner.capabilities import probe
from regaudit.cleaner.garbage import ENABLE_DELETION
from regaudit.cleaner.history import history_of
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.outcomes import (
    BUSY,
    GONE,
    NO_TAG_DELETION,
    STOPS_REGISTRY,
    STOPS_REPOSITORY,
    Outcome,
    Report,
    Run,
    Stop,
    classify,
    classify_unread,
    ended,
    keeps_for_its_tags,
    may_take_effect,
    new_run,
    record_outcome,
    record_outcomes,
    recorded_run,
)
from regaudit.cleaner.plan import Plan
from regaudit.cleaner.rows import DELETE_MANIFEST, DELETE_TAG, PUT_INDEX, PlanRow
from regaudit.cleaner.surroundings import Surroundings, is_there, still_a_registry, tag_digest
from regaudit.client import v2, write
from regaudit.client.exchange import Conversation, Request, Response, Session, Wait
from regaudit.client.registry import Registry
from regaudit.errors import NotFound, RegistryError
from regaudit.manifest import AnyManifest, Index, Manifest
from regaudit.reference import Digest
from regaudit.text import clean, redact

logger = logging.getLogger("regaudit.cleaner")

# How long a registry may take to show that a manifest is gone, and how often to look (seconds).
_VISIBLE_AFTER = 30.0
_LOOK_EVERY = (0.2, 0.5, 1.0, 2.0)
# A config lists the layers' history: some kilobytes. Larger ones are artifacts' own, which the journal is no place for.
_LARGEST_CONFIG = 1 << 20


class Execution:
    """One execution of an approved plan, repository by repository, each row looked at before and after."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        plan: Plan,
        progress: Report | None,
        stop: threading.Event | None,
        *,
        backup: str = "",
        withheld: Mapping[str, str] | None = None,
    ) -> None:
        self._backup, self._withheld = backup, withheld or {}
        self._registry, self._journal, self._plan = registry, journal, plan
        self._session = registry.session
        self._report = progress or (lambda _: None)
        self._stop = stop or threading.Event()
        self._run = new_run()
        self._rows: dict[str, list[PlanRow]] = {}
        self._after: dict[str, list[PlanRow]] = {}
        for row in plan.rows:
            self._rows.setdefault(row.repository, []).append(row)
            for key in row.needs:
                self._after.setdefault(key, []).append(row)
        self._kept: dict[str, AnyManifest] = {}
        self._asked: set[str] = set()
        self._gone: set[str] = set()
        self._untags = True
        self._past = history_of(journal, plan.hash)
        self._done: set[str] = set()

    def run(self) -> Run:
        """Delete every row that still is as it was reviewed, and return what became of each."""
        plan = self._plan
        assert plan.approval is not None  # noqa: S101 -- Plan.check said so
        content: dict[str, Any] = {
            name: list(value) if isinstance(value, map) else value for name, value in plan.content().items()
        }
        # What only going on with it needs stands apart, for it may be large, and the beginnings of runs are read often.
        apart = {name: content.pop(name) for name in ("state", "candidates", "refused")}
        if not any(self._journal.last(run, "", "planned") for run in self._past.runs):
            self._journal.record(self._run, "planned", **apart)
        self._journal.record(
            self._run,
            "started",
            **content,
            kind="delete",
            plan_hash=plan.hash,
            approval=plan.approval.to_dict(),
            resumes=list(self._past.runs),
            backup=self._backup,
        )
        with ended(self._journal, self._run):
            self._look_at_open()
            self._probe()
            for repository, rows in self._rows.items():
                self._clean(repository, rows)
        return recorded_run(self._journal, self._run)

    def _probe(self) -> None:
        """Find out what the registry can do before anything is asked of it; without deletion the run ends here."""
        row = next((r for r in self._plan.rows if r.key not in self._done and not self._past.settled(r.key)), None)
        if row is None or self._stop.is_set():
            return
        found = probe(self._registry, row.repository, None if row.digest is None else Digest(row.digest))
        self._journal.record(self._run, "probed", **found.to_dict())
        if found.deletion is False:
            self._conclude(row, "disabled", ENABLE_DELETION)
            raise Stop
        self._untags = found.tag_deletion is not False

    # -- going on where an earlier run was ----------------------------------------------------

    def _look_at_open(self) -> None:
        """Look first at what an earlier run asked for without learning the outcome: it may be gone by our doing."""
        for row in self._plan.rows:
            past = self._past.open(row.key)
            if past is None or row.action == PUT_INDEX or self._stop.is_set():
                continue  # a list is read when its turn comes
            try:
                self._registry.run(v2.get_manifest(self._session, row.repository, _reference(row)))
            except NotFound as error:
                if error.code not in {None, "NAME_UNKNOWN"}:
                    self._done.add(row.key)
                    self._conclude(row, "deleted_unconfirmed", f"run {past.run} had asked for it, and it is gone")
            except RegistryError:
                continue  # its turn will come, and say so

    def _take_over(self, rows: list[PlanRow], now: Surroundings) -> None:
        """Take what earlier runs saw gone as done; what has come back since is somebody's, and stays."""
        taken: list[Outcome] = []
        for row in rows:
            past = self._past.settled(row.key)
            if past is None or row.key in self._done:
                continue
            self._done.add(row.key)
            back = sorted(tag for tag in row.tags if row.digest is not None and now.tags.get(tag) == row.digest)
            if back:
                detail = f"came_back: {back[0]} was set to it again after run {past.run} had seen it gone: plan it anew"
                self._conclude(row, "skipped", detail)
                continue
            self._gone.add(row.key)
            word = past.outcome if past.outcome in {"already_absent", "rewritten"} else "deleted_before"
            detail = f"run {past.run}: {past.outcome}"
            taken.append(Outcome(row.key, row.repository, row.digest, row.tags, row.action, word, detail))
        record_outcomes(self._journal, self._run, taken)
        for outcome in taken:
            self._report(outcome)

    def _clean(self, repository: str, rows: list[PlanRow]) -> None:
        now = Surroundings(self._registry, self._plan, repository, rows)
        if all(row.key in self._done or self._past.settled(row.key) for row in rows):
            self._take_over(rows, now)
            return
        try:
            now.look()
        except RegistryError as error:
            self._take_over(rows, now)
            word, detail = classify_unread(error)
            for row in rows:
                if row.key not in self._done:
                    self._conclude(row, word, detail)
            if word in STOPS_REGISTRY:
                raise Stop from None
            return
        self._take_over(rows, now)
        stopped = self._work(rows, now)
        self._check_kept(rows, now)
        if stopped:
            raise Stop

    def _work(self, rows: list[PlanRow], now: Surroundings) -> bool:
        """Delete rows one by one, and return whether nothing more may be sent to the registry."""
        for row in rows:
            if row.key in self._done:
                continue
            if self._stop.is_set():
                return True
            word = self._one(row, now)
            self._kept.pop(row.key, None)
            if word in STOPS_REGISTRY:
                return True
            if word in STOPS_REPOSITORY:
                return False
        return False

    def _one(self, row: PlanRow, now: Surroundings) -> str:
        """Delete one row, if everything still is as it was reviewed, and return its outcome."""
        if row.action == PUT_INDEX:
            return self._rewrite(row, now)
        try:
            if obstacle := self._obstacle(row, now):
                return self._conclude(row, *obstacle)
        except RegistryError as error:
            return self._conclude(row, *classify_unread(error))
        try:
            manifest = self._read_again(row)
        except NotFound:
            return self._conclude(row, *self._absent(row))
        except RegistryError as error:
            return self._conclude(row, *classify_unread(error))
        return self._delete(row, manifest, now)

    def _obstacle(self, row: PlanRow, now: Surroundings) -> tuple[str, str] | None:
        """Look again, and return the outcome of a row that is not to be asked for."""
        if missing := [key for key in row.needs if key not in self._gone]:
            return "skipped", f"{missing[0]} stays, and this may go only after it"
        if why := self._withheld.get(row.key):
            return "skipped", f"not_backed_up: {why}"
        if row.action == DELETE_TAG and not self._untags:
            return "refused_by_registry", NO_TAG_DELETION
        now.look(row)
        if reason := now.changed(row):
            return "skipped", reason
        if row.action == DELETE_TAG and now.tags.get(row.tags[0]) is None:
            return self._absent(row)
        return None

    def _read_again(self, row: PlanRow) -> AnyManifest:
        """Return the manifest of a row, if it is there; one that was read before what held it went is looked for alone."""
        kept = self._kept.get(row.key)
        if kept is None:
            return self._registry.run(v2.get_manifest(self._session, row.repository, str(row.digest)))
        if self._registry.run(tag_digest(self._session, row.repository, str(row.digest))) is None:
            raise NotFound(f"{row.key} went together with what held it")
        return kept

    def _absent(self, row: PlanRow) -> tuple[str, str]:
        if row.key in self._kept:
            return (
                "deleted_unconfirmed",
                "the registry took it along with what it belonged to, or somebody deleted it just then",
            )
        if past := self._past.open(row.key):
            return "deleted_unconfirmed", f"run {past.run} had asked for it"
        return "already_absent", "it was not there any more"

    def _delete(self, row: PlanRow, manifest: AnyManifest, now: Surroundings) -> str:
        self._keep_what_follows(row, now)
        self._journal.record_intent(self._run, row.key, **self._saved(row, manifest, now))
        try:
            if newcomer := now.last_look(row):
                return self._conclude(row, "skipped", newcomer)
        except RegistryError as error:
            return self._conclude(row, *classify_unread(error))
        self._asked.add(row.key)
        reply, word, detail = self._ask(row)
        if row.action == DELETE_TAG:
            word, detail = self._check_untagged(row, word, detail)
        elif self._untags and word not in GONE and keeps_for_its_tags(reply):
            word, detail = self._ask_tags_first(row)
        if word in GONE:
            now.forget(row.tags)
        return self._conclude(row, word, detail)

    def _ask(self, row: PlanRow, *, again: bool = False) -> tuple[Response | RegistryError, str, str]:
        """Ask for a row to go; return what was answered, the outcome that a read afterwards shows, and a sentence."""
        statuses: list[int] = []
        try:
            reply: Response | RegistryError = self._registry.run(_noting(self._request(row), statuses))
        except RegistryError as error:
            reply = error
        alive = self._registry.run(_alive(self._session, row, patient=may_take_effect(reply)))
        again = again or not BUSY.isdisjoint(statuses) or self._past.open(row.key) is not None
        tag_only = row.action == DELETE_TAG
        return reply, *classify(reply, alive=alive, tag_only=tag_only, again=again, patience=_VISIBLE_AFTER)

    def _ask_tags_first(self, row: PlanRow) -> tuple[str, str]:
        """Delete the tags of a row one by one, and then its manifest, where a registry keeps what has a tag.

        All of them were reviewed and are to go with the manifest. Each is looked at once more: who moves a tag now
        keeps it, and the manifest stays with what is left.
        """
        went: list[str] = []
        for tag in row.tags:
            alone = replace(row, tags=(tag,), action=DELETE_TAG)
            try:
                current = self._registry.run(tag_digest(self._session, row.repository, tag))
            except RegistryError as error:
                return self._left_over(went, *classify_unread(error))
            if current is None:
                continue
            if current != row.digest:
                return self._left_over(went, "skipped", f"tag_moved: {tag} is another digest now")
            _, word, detail = self._ask(alone)
            if word not in GONE:
                return self._left_over(went, word, f"its tag {tag}: {detail}")
            went.append(tag)
        _, word, detail = self._ask(row, again=True)
        return (word, detail) if word in GONE else self._left_over(went, word, detail)

    @staticmethod
    def _left_over(went: list[str], word: str, detail: str) -> tuple[str, str]:
        """Return the outcome of a manifest that stays, although some of its tags went for it."""
        if not went or word == "unknown":
            return word, detail
        named = f"{', '.join(went[:5])}{' …' if len(went) > 5 else ''}"
        return "not_deleted", f"without its tags ({named}), which undo sets again: {detail}"

    def _keep_what_follows(self, row: PlanRow, now: Surroundings) -> None:
        """Save what the plan deletes after a row before that row goes.

        There are registries that take the children along with their index, and signatures with their image (Harbor, zot):
        later there would be nothing left to save. What cannot be read is said when its turn comes.
        """
        waiting, found = [row.key], dict[str, dict[str, Any]]()
        while waiting:
            for other in self._after.get(waiting.pop(), ()):
                if other.key in self._kept or other.key in self._done or other.action != DELETE_MANIFEST:
                    continue
                try:
                    digest = str(other.digest)
                    manifest = self._registry.run(v2.get_manifest(self._session, other.repository, digest))
                except RegistryError:
                    continue
                self._kept[other.key] = manifest
                found[other.key] = self._saved(other, manifest, now)
                waiting.append(other.key)
        if found:
            self._journal.record_kept(self._run, found.items())

    def _saved(self, row: PlanRow, manifest: AnyManifest, now: Surroundings) -> dict[str, Any]:
        """Return what the journal needs to put a manifest back."""
        on_digest = now.tags_on(row.digest)
        config, note = self._config(row.repository, manifest)
        return {
            "digest": str(row.digest),
            "media_type": manifest.media_type,
            "raw": manifest.raw,
            "config": config,
            "config_note": note,
            "repository": row.repository,
            "tags": [tag for tag in on_digest if tag in row.tags],
            "aliases": [tag for tag in on_digest if tag not in row.tags],
            "action": row.action,
        }

    # -- lists of referrers -------------------------------------------------------------------

    def _rewrite(self, row: PlanRow, now: Surroundings) -> str:
        """Take what is gone off a list of referrers, as it stands now, and return the outcome."""
        gone = {key.rpartition("@")[2] for key in row.needs if key in self._gone}
        if not gone:
            return self._conclude(row, "skipped", "nothing that it lists has gone")
        try:
            found = self._registry.run(v2.get_manifest(self._session, row.repository, row.tags[0]))
        except NotFound:
            return self._conclude(row, "already_absent", "the list was not there any more")
        except RegistryError as error:
            return self._conclude(row, *classify_unread(error))
        if not isinstance(found, Index):
            return self._conclude(row, "skipped", "tag_moved: it is no list of referrers now")
        listed = {str(entry.digest) for entry in found.manifests}
        if listed.isdisjoint(gone):
            past = self._past.open(row.key)
            detail = "it does not list them any more" if past is None else f"run {past.run} had asked for it"
            return self._conclude(row, "already_absent" if past is None else "rewritten", detail)
        return self._put_list(row, now, found, gone & listed)

    def _put_list(self, row: PlanRow, now: Surroundings, index: Index, gone: set[str]) -> str:
        """Write a list without some entries: intent and bytes first, and then what a read shows."""
        raw, tag = write.without_entries(index, gone), row.tags[0]
        written = str(Digest.of(raw))
        self._journal.record_intent(
            self._run,
            row.key,
            digest=str(index.digest),
            media_type=index.media_type,
            raw=index.raw,
            repository=row.repository,
            tags=list(row.tags),
            aliases=[],
            action=row.action,
            removed=sorted(gone),
            written=written,
        )
        self._asked.add(row.key)
        said = ""
        try:
            store = write.restore_manifest(self._session, row.repository, tag, raw, index.media_type)
            self._registry.run(store)
        except RegistryError as error:
            said = f": {error}"
        try:
            current = self._registry.run(tag_digest(self._session, row.repository, tag))
        except RegistryError as error:
            return self._conclude(row, "unknown", f"whether the list was written could not be read: {error}", index)
        now.tags[tag] = current
        if current != written:
            return self._conclude(row, "not_rewritten", f"a read shows another list: apply the plan again{said}", index)
        now.knows(written)
        return self._conclude(row, "rewritten", "", index)

    def _config(self, repository: str, manifest: AnyManifest) -> tuple[tuple[str, bytes] | None, str]:
        """Return an image's config to keep with it, or why there is none: that is noted, and never an obstacle."""
        if not isinstance(manifest, Manifest):
            return None, ""
        digest = manifest.config.digest
        if manifest.config.size > _LARGEST_CONFIG:
            return None, f"the config has {manifest.config.size:,} bytes: it is not kept"
        known = self._journal.config(digest)
        if known is not None:
            return (str(digest), known), ""
        try:
            return (
                str(digest),
                self._registry.run(v2.get_blob(self._session, repository, digest, _LARGEST_CONFIG)),
            ), ""
        except RegistryError as error:
            return None, redact(f"the config could not be read: {error}", 400)

    def _request(self, row: PlanRow) -> Conversation[Response]:
        if row.action == DELETE_TAG:
            return write.delete_tag(self._session, row.repository, row.tags[0])
        return write.delete_manifest(self._session, row.repository, Digest(str(row.digest)))

    def _check_untagged(self, row: PlanRow, word: str, detail: str) -> tuple[str, str]:
        """Look whether only the tag went: there are registries that delete its manifest with every other tag."""
        self._untags = self._untags and detail != NO_TAG_DELETION
        if word not in GONE:
            return word, detail
        try:
            kept = self._registry.run(is_there(self._session, row.repository, str(row.digest)))
        except RegistryError as error:
            return "unknown", f"whether only the tag went could not be read: {error}"
        return (word, detail) if kept else ("lost", "the registry deleted the manifest with its tag: undo puts it back")

    def _conclude(self, row: PlanRow, word: str, detail: str = "", found: Index | None = None) -> str:
        """Record what became of a row; of a list, with the digest that was found and is saved."""
        digest = row.digest if found is None else str(found.digest)
        outcome = Outcome(row.key, row.repository, digest, row.tags, row.action, word, redact(detail, 400))
        record_outcome(self._journal, self._run, outcome)
        if word in GONE:
            self._gone.add(row.key)
        self._report(outcome)
        return word

    def _check_kept(self, rows: list[PlanRow], now: Surroundings) -> None:
        """Look whether everything that was to stay is still there, and report what is not."""
        if not any(row.key in self._asked for row in rows):
            return
        tried = self._asked | self._gone
        touched = {tag for row in rows if row.key in tried for tag in row.tags}
        try:
            lost = now.lost(touched, {key.partition("@")[2] for key in self._gone & self._asked})
        except RegistryError as error:
            logger.warning("%s could not be read after the deletion: %s", clean(now.repository, 255), error)
            return
        for tag, (digest, detail) in sorted(lost.items()):
            row = PlanRow(repository=now.repository, digest=digest, tags=(tag,), action=DELETE_TAG)
            self._conclude(row, "lost", detail)


# -- asking, and looking just after ----------------------------------------------------------


def _reference(row: PlanRow) -> str:
    """Return by what a row is known to a registry: its tag where only that goes, else its digest."""
    return row.tags[0] if row.action == DELETE_TAG else str(row.digest)


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


def _alive(session: Session, row: PlanRow, *, patient: bool) -> Conversation[bool | None]:
    """Return whether the digest (or the tag, where only that goes) is still there; None where no read tells.

    After an accepted deletion a registry may need a while to show it: it is looked at for half a minute.
    """
    reference = _reference(row)
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
        yield from still_a_registry(session, repository)
    except RegistryError:
        return None
    return False
