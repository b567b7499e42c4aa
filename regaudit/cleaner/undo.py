"""Undo: puts back what a run deleted, from the bytes in the journal, byte for byte."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime

from regaudit.cleaner.execution import is_there, tag_digest
from regaudit.cleaner.journal import Entry, Journal
from regaudit.cleaner.outcomes import (
    UNDOABLE,
    Outcome,
    Report,
    Run,
    Stop,
    ended,
    new_run,
    record_outcome,
    recorded_run,
    runs_of,
)
from regaudit.client import write
from regaudit.client.registry import Registry
from regaudit.errors import JournalError, Refused, RegistryError
from regaudit.manifest import AnyManifest, Index, parse_manifest
from regaudit.reference import Digest
from regaudit.text import clean, redact

# How registries say that something a manifest needs is not there any more.
_BLOBS_GONE = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})
# After these a manifest is not there, and no index that needs it can be.
_STILL_GONE = frozenset({"blobs_gone", "failed"})


class Restoration:
    """One undo of a run: what went last comes back first, each manifest before its tags.

    Raises
    ------
    JournalError
        The journal does not know the run, or it is not a deletion at this registry.
    """

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
        self._check()
        self._report = progress or (lambda _: None)
        self._stop = stop or threading.Event()
        self._overwrite = overwrite
        self._run = new_run()
        self._missing: dict[tuple[str, str], str] = {}
        runs = runs_of(journal, self._deleted.plan_hash)
        self._runs = runs[: runs.index(self._deleted.id) + 1] if self._deleted.id in runs else []

    def _check(self) -> None:
        deleted, host = self._deleted, self._registry.host
        started = next(entry for entry in self._journal.entries(deleted.id) if entry.event == "started")
        if started.data.get("registry") != host or deleted.kind != "delete":
            raise JournalError(
                f"run {clean(deleted.id, 60)} is a {deleted.kind} at {clean(started.data.get('registry', '?'), 120)}: "
                f"only a deletion at {clean(host, 120)} can be undone here"
            )

    def run(self) -> Run:
        """Put back every row that may be gone by the run's doing, and return what became of each."""
        self._journal.record(
            self._run,
            "started",
            kind="undo",
            registry=self._registry.host,
            undoes=self._deleted.id,
            plan_hash="",
        )
        with ended(self._journal, self._run):
            # what went last comes back first: children before their index, referrers before their subject
            for deleted in reversed([o for o in self._deleted.outcomes if self._is_ours(o)]):
                if self._stop.is_set():
                    raise Stop
                self._conclude(deleted, *self._restore(deleted))
        return recorded_run(self._journal, self._run)

    def _is_ours(self, outcome: Outcome) -> bool:
        """Return whether a row may be gone by our doing; a kept tag that somebody else took away is not."""
        return outcome.outcome in UNDOABLE and (outcome.outcome != "lost" or self._intent(outcome.key) is not None)

    def _conclude(self, deleted: Outcome, word: str, detail: str) -> None:
        if word in _STILL_GONE:
            self._missing[deleted.repository, str(deleted.digest)] = word
        outcome = replace(deleted, outcome=word, detail=redact(detail, 400), at=datetime.now(UTC))
        record_outcome(self._journal, self._run, outcome)
        self._report(outcome)

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
            was_there = self._registry.run(is_there(self._session, deleted.repository, str(deleted.digest)))
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
            current = self._registry.run(tag_digest(self._session, deleted.repository, tag))
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
        found = self._registry.run(tag_digest(self._session, repository, reference))
        if found is None or not Digest(found).matches(raw):
            raise RegistryError(f"{repository}:{reference} was stored, and a read does not show it")
