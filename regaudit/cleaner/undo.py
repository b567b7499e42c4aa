"""Undo: puts back what a run deleted, or a part of it, from the bytes in the journal, byte for byte."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

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
from regaudit.cleaner.rows import DELETE_MANIFEST, DELETE_TAG, PUT_INDEX
from regaudit.cleaner.surroundings import is_there, tag_digest
from regaudit.client import upload, v2, write
from regaudit.client.registry import Registry
from regaudit.client.transfer import Content
from regaudit.errors import BadManifest, InvalidReference, JournalError, NotFound, Refused, RegistryError, UsageError
from regaudit.manifest import AnyManifest, Index, LegacyManifest, Manifest, parse_manifest
from regaudit.reference import Digest, attached_tag, split_attached_tag
from regaudit.text import clean, redact

# How registries say that something a manifest needs is not there any more.
_BLOBS_GONE = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})
# After these a manifest is not there, and no index that needs it can be.
_STILL_GONE = frozenset({"blobs_gone", "failed"})
_NAMED = 3


@dataclass(slots=True)
class _Saved:
    """What a run deleted and the journal can put back.

    Attributes
    ----------
    document : AnyManifest or None
        None where the journal has no bytes, or bytes that are no manifest.
    tags : list of str
        Those to set again.
    """

    deleted: Outcome
    intent: Entry | None
    document: AnyManifest | None
    tags: list[str]

    @property
    def place(self) -> tuple[str, str]:
        return self.deleted.repository, str(self.deleted.digest)

    @property
    def is_lost(self) -> bool:
        """Whether it is a tag that was to stay and vanished while the run was going on, by whomever."""
        return self.intent is None and self.deleted.outcome == "lost"

    def below(self) -> list[str]:
        """Return the digests of an index's children."""
        return [str(c.digest) for c in self.document.manifests] if isinstance(self.document, Index) else []

    def needs(self) -> tuple[str, ...]:
        """Return the digests that must be there first: children, then the subject."""
        subject = _subject(self)
        return (*self.below(), *([] if subject is None else [subject]))


class Restoration:
    """One undo of a run: what others need comes back first, each manifest before its tags.

    Raises
    ------
    JournalError
        The journal does not know the run, or it is not a deletion at this registry.
    UsageError
        `only` names nothing that the run deleted.
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
        only: Iterable[str] = (),
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
        self._only = tuple(only)
        ours = [self._saved(o) for o in self._deleted.outcomes if self._is_ours(o)]
        self._saved_rows = list(_needed_first(_part(ours, self._only) if self._only else ours))

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
            only=list(self._only),
            plan_hash="",
        )
        with ended(self._journal, self._run):
            for saved in self._saved_rows:
                if self._stop.is_set():
                    raise Stop
                self._conclude(saved, *self._restore(saved))
        return recorded_run(self._journal, self._run)

    # -- what there is to put back ------------------------------------------------------------

    def _is_ours(self, outcome: Outcome) -> bool:
        """Return whether a row may be gone by our doing, or is a tag that vanished meanwhile and where it led is known.

        What was there, was asked for and answered by a 404 may be: a proxy that sent the request twice tells of the second.
        """
        if outcome.outcome == "already_absent":
            return self._intent(outcome.key) is not None
        return outcome.outcome in UNDOABLE and (outcome.outcome != "lost" or outcome.digest is not None)

    def _saved(self, deleted: Outcome) -> _Saved:
        intent = self._intent(deleted.key)
        if intent is None:
            is_tag = deleted.outcome == "lost" and deleted.action == DELETE_TAG
            return _Saved(deleted, None, None, list(deleted.tags) if is_tag else [])
        tags = [*intent.data["tags"], *(intent.data["aliases"] if deleted.outcome == "lost" else ())]
        return _Saved(deleted, intent, self._document(str(intent.data["digest"]), str(intent.data["media_type"])), tags)

    def _document(self, digest: str, media_type: str) -> AnyManifest | None:
        saved = self._journal.manifest(digest)
        try:  # never send what is not a manifest, whatever the file holds
            return None if saved is None else parse_manifest(saved[1], media_type)
        except BadManifest:
            return None

    def _intent(self, key: str) -> Entry | None:
        """Return where the bytes of a row were saved: in this run, or in an earlier one that never learned the outcome."""
        return next((entry for run in reversed(self._runs) if (entry := self._journal.saved(run, key))), None)

    # -- putting it back ----------------------------------------------------------------------

    def _conclude(self, saved: _Saved, word: str, detail: str) -> None:
        if word in _STILL_GONE:
            self._missing[saved.place] = word
        outcome = replace(
            saved.deleted, outcome=word, tags=tuple(saved.tags), detail=redact(detail, 400), at=datetime.now(UTC)
        )
        record_outcome(self._journal, self._run, outcome)
        self._report(outcome)

    def _restore(self, saved: _Saved) -> tuple[str, str]:
        if saved.is_lost:
            return self._restore_lost(saved)
        if saved.document is None:
            return "failed", "the journal has no bytes for it: it was not this run that deleted it"
        repository, digest = saved.place
        try:
            if saved.deleted.action == PUT_INDEX:
                return self._restore_list(saved)
            was_there = self._registry.run(is_there(self._session, repository, digest))
            lacking = None if was_there else self._lacking(repository, saved.document)
            if not was_there and lacking is None:
                self._put(repository, digest, saved.document)
            return lacking or self._restore_tags(saved, was_there=was_there)
        except Refused as error:
            gone = self._what_is_gone(repository, saved.document, error) if _needs_blobs(error) else None
            return ("failed", str(error)) if gone is None else ("blobs_gone", gone)
        except RegistryError as error:
            return "failed", str(error)

    def _restore_lost(self, saved: _Saved) -> tuple[str, str]:
        """Set a tag that was to stay and vanished where the run saw it last, unless somebody has set it again.

        Who moved it onto what was just being deleted knows where it belongs; until then the former image is better than none.
        """
        (repository, digest), (tag,) = saved.place, saved.tags
        try:
            if self._registry.run(tag_digest(self._session, repository, tag)) is not None:
                return "already_there", "it leads somewhere again, and stays so"
            document = self._registry.run(v2.get_manifest(self._session, repository, digest))
            self._put(repository, tag, document)
        except NotFound:
            return "skipped", "its manifest is gone too, and it was not this run that deleted it"
        except RegistryError as error:
            return "failed", str(error)
        return "restored", "where it was seen last: if somebody moved it while the run went on, set it again"

    def _restore_list(self, saved: _Saved) -> tuple[str, str]:
        """List again what was taken off a list of referrers and is there now; what others have listed since stays."""
        old, intent, repository = saved.document, saved.intent, saved.deleted.repository
        assert isinstance(old, Index)  # noqa: S101 -- only an index was saved for such a row
        assert intent is not None  # noqa: S101 -- where the document comes from
        removed = set(intent.data["removed"])
        back = [
            entry
            for entry in old.to_dict()["manifests"]
            if entry["digest"] in removed and self._registry.run(is_there(self._session, repository, entry["digest"]))
        ]
        tag = saved.tags[0]
        try:
            current = self._registry.run(v2.get_manifest(self._session, repository, tag))
        except NotFound:
            current = parse_manifest(write.without_entries(old, removed), old.media_type)
        if not isinstance(current, Index):
            return "tag_moved", f"{tag} was set to something else since, and stays so"
        if {entry["digest"] for entry in back} <= {str(entry.digest) for entry in current.manifests}:
            return "already_there", ""
        merged = parse_manifest(write.with_entries(current, back), current.media_type)
        assert isinstance(merged, Index)  # noqa: S101 -- the media type says so
        same = {e.digest for e in merged.manifests} == {e.digest for e in old.manifests}
        self._put(repository, tag, old if same else merged)  # byte for byte where nobody has changed it since
        return "restored", "" if len(back) == len(removed) else f"with {len(back)} of the {len(removed)} that it lost"

    def _lacking(self, repository: str, document: AnyManifest) -> tuple[str, str] | None:
        """Return why an index must stay away: a tag on an index without its children would be half a restoration."""
        for child in document.manifests if isinstance(document, Index) else ():
            place = (repository, str(child.digest))
            if place not in self._missing and not self._registry.run(is_there(self._session, *place)):
                self._restore_of_others(repository, str(child.digest))
            if word := self._missing.get(place):
                return word, f"its child {child.digest.short} could not be put back"
        return None

    def _restore_of_others(self, repository: str, digest: str) -> None:
        """Put back, by its digest alone, what another run has deleted and an index of this one needs."""
        key = f"{repository}@{digest}"
        intents = [e for run in self._journal.runs() if (e := self._journal.saved(run.run, key))]
        if not intents:
            return  # it was not there when the index was deleted: a sparse index is a valid one
        document = self._document(digest, str(intents[-1].data["media_type"]))
        deleted = Outcome(key, repository, digest, (), DELETE_MANIFEST, "unknown")
        saved = _Saved(deleted, intents[-1], document, [])
        self._conclude(saved, *self._restore(saved))

    def _what_is_gone(self, repository: str, document: AnyManifest, error: Refused) -> str:
        """Name the blobs that the registry has no more."""
        gone = [blob.short for blob in _blobs(document) if not self._has_blob(repository, blob)]
        if not gone:
            return f"something that it needs was collected, or deleted by somebody: {error}"
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        return (
            f"collected as garbage, {len(gone)} of its {len(_blobs(document))} blobs: {', '.join(gone[:_NAMED])}{more}"
        )

    def _has_blob(self, repository: str, digest: Digest) -> bool:
        try:
            self._registry.run(v2.head_blob(self._session, repository, digest))
        except NotFound:
            return False
        except RegistryError:
            return True  # not known to be gone
        return True

    def _restore_tags(self, saved: _Saved, *, was_there: bool) -> tuple[str, str]:
        repository, digest = saved.place
        assert saved.document is not None  # noqa: S101 -- _restore said so
        put = partial(self._put, repository, document=saved.document)
        return restore_tags(
            self._registry, repository, digest, saved.tags, put, was_there=was_there, overwrite=self._overwrite
        )

    def _put(self, repository: str, reference: str, document: AnyManifest) -> None:
        raw = document.raw
        store = partial(write.restore_manifest, self._session, repository, reference, raw, document.media_type)
        try:
            self._registry.run(store())
        except Refused as error:
            if not _needs_blobs(error) or not self._put_config(repository, document):
                raise
            self._registry.run(store())
        found = self._registry.run(tag_digest(self._session, repository, reference))
        if found is None or not Digest(found).matches(raw):
            raise RegistryError(f"{repository}:{reference} was stored, and a read does not show it")

    def _put_config(self, repository: str, document: AnyManifest) -> bool:
        """Upload a config that is gone and that the journal has, where the layers are there, and return whether it was."""
        if not isinstance(document, Manifest):
            return False
        config, raw = document.config.digest, self._journal.config(document.config.digest)
        layers = [digest for digest in _blobs(document) if digest != config]
        if raw is None or not config.matches(raw) or not all(self._has_blob(repository, digest) for digest in layers):
            return False
        self._registry.run(upload.upload_blob(self._session, repository, config, Content(raw)))
        return True


def restore_tags(
    registry: Registry,
    repository: str,
    digest: str,
    tags: Iterable[str],
    put: Callable[[str], None],
    *,
    was_there: bool,
    overwrite: bool,
) -> tuple[str, str]:
    """Set tags on what was put back, but none that was set to something else since, and return outcome and detail.

    Parameters
    ----------
    put : callable
        Stores the manifest under a tag.
    was_there : bool
        Whether the manifest itself needed no putting back.
    overwrite : bool
        Whether to set also what was set to something else.
    """
    moved, restored = [], []
    for tag in tags:
        current = registry.run(tag_digest(registry.session, repository, tag))
        if current == digest:
            continue
        if current is not None and not overwrite:
            moved.append(tag)
            continue
        put(tag)
        restored.append(tag)
    if moved:
        named = f"{', '.join(moved[:5])} was set to something else since, and stays so"
        return "tag_moved", f"{named}; overwrite=True (--overwrite) sets it back"
    return ("already_there", "") if was_there and not restored else ("restored", "")


def _needs_blobs(error: Refused) -> bool:
    """Return whether a registry refuses a manifest for what it needs and is not there."""
    return error.status in {400, 404} and error.code in _BLOBS_GONE


# -- which part, and in which order ----------------------------------------------------------


def _blobs(document: AnyManifest) -> list[Digest]:
    if isinstance(document, LegacyManifest):
        return list(dict.fromkeys(document.layers))
    return [blob.digest for blob in document.blobs] if isinstance(document, Manifest) else []


def _needed_first(rows: Iterable[_Saved]) -> Iterator[_Saved]:
    """Yield rows so that children come before their index and a subject before what refers to it."""
    waiting: dict[tuple[str, str], list[_Saved]] = {}
    for row in rows:
        waiting.setdefault(row.place, []).append(row)
    seen: set[tuple[str, str]] = set()
    for start in list(waiting):
        stack = [(start, False)]
        while stack:
            place, is_entered = stack.pop()
            if is_entered:
                yield from waiting[place]
            elif place not in seen and place in waiting:
                seen.add(place)
                stack.append((place, True))
                stack += [((place[0], digest), False) for row in waiting[place] for digest in row.needs()]


def _part(rows: list[_Saved], names: tuple[str, ...]) -> list[_Saved]:
    """Return what the names mean, with what it needs and with the signatures that went along with it."""
    chosen: dict[tuple[str, str], set[str]] = {}
    for name in names:
        found = [(row, tags) for row in rows if (tags := _named_tags(row, name)) is not None]
        if not found:
            deleted = ", ".join(f"{row.place[0]}:{tag}" for row in rows for tag in row.tags[:1][:5]) or "nothing"
            raise UsageError(
                f"the run deleted nothing by the name {clean(name, 200)!r}: write REPOSITORY, REPOSITORY:TAG or DIGEST; "
                f"it deleted {clean(deleted, 300)}"
            )
        for row, tags in found:
            chosen.setdefault(row.place, set()).update(tags)
    by_place = {row.place: row for row in sorted(rows, key=lambda row: not row.is_lost)}  # what was deleted counts
    _take_along(by_place, chosen)
    _take_needed(by_place, chosen)
    return [
        row if row.deleted.action == PUT_INDEX else replace(row, tags=[t for t in row.tags if t in chosen[row.place]])
        for row in rows
        if row.place in chosen or _lists_any(row, chosen)
    ]


def _lists_any(row: _Saved, chosen: dict[tuple[str, str], set[str]]) -> bool:
    """Return whether a row is a list that lost something that is chosen to come back."""
    if row.deleted.action != PUT_INDEX or row.intent is None:
        return False
    return any((row.place[0], digest) in chosen for digest in row.intent.data["removed"])


def _named_tags(row: _Saved, name: str) -> set[str] | None:
    """Return which tags of a row a name asks for, None where it does not mean the row."""
    repository, digest = row.place
    if name in {repository, digest, f"{repository}@{digest}"}:
        return set(row.tags)
    place, colon, tag = name.rpartition(":")
    return {tag} if colon and place == repository and tag in row.tags else None


def _take_along(by_place: dict[tuple[str, str], _Saved], chosen: dict[tuple[str, str], set[str]]) -> None:
    """Add children, and what refers to a chosen digest: its signatures, and its list under the fallback tag."""
    about: dict[tuple[str, str], list[_Saved]] = {}
    for (repository, _), row in by_place.items():
        named = {_subject(row), *(parts[0] for tag in row.tags if (parts := split_attached_tag(tag)))}
        for name in named - {None}:
            about.setdefault((repository, str(name)), []).append(row)
    waiting = list(chosen)
    while waiting:
        repository, digest = place = waiting.pop()
        base = _fallback_tag(digest)
        below = [by_place[repository, d] for d in by_place[place].below() if (repository, d) in by_place]
        for row in (*below, *about.get((repository, digest), ()), *about.get((repository, base), ())):
            attached = {tag for tag in row.tags if (parts := split_attached_tag(tag)) and parts[0] == base}
            if row.place not in chosen:
                waiting.append(row.place)
            chosen.setdefault(row.place, set()).update(attached)


def _take_needed(by_place: dict[tuple[str, str], _Saved], chosen: dict[tuple[str, str], set[str]]) -> None:
    """Add what must be there first, by its digest alone."""
    waiting = list(chosen)
    while waiting:
        place = waiting.pop()
        for digest in by_place[place].needs():
            needed = (place[0], digest)
            if needed in by_place and needed not in chosen:
                chosen[needed] = set()
                waiting.append(needed)


def _subject(row: _Saved) -> str | None:
    subject = row.document.subject if row.document is not None else None
    return None if subject is None else str(subject.digest)


def _fallback_tag(digest: str) -> str:
    try:
        return attached_tag(Digest(digest))
    except InvalidReference:
        return ""
