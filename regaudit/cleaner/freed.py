"""Freed: after a deletion and a garbage collection, which of the blobs that the plan promised are really gone.

Asked over the interface that every registry has, a HEAD for each blob. It is what the registry still serves that is
seen, not its disk: one that keeps a blob and no longer shows it counts as having let it go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from regaudit.cleaner.journal import Journal
from regaudit.cleaner.outcomes import recorded_run
from regaudit.cleaner.rows import DELETE_MANIFEST
from regaudit.client import v2
from regaudit.client.bulk import Result
from regaudit.client.exchange import Conversation
from regaudit.client.registry import Registry
from regaudit.errors import BadManifest, JournalError, NotFound
from regaudit.manifest import AnyManifest, Manifest, parse_manifest
from regaudit.reference import Digest
from regaudit.text import clean, count_of, displayed, escape, html_table, human_bytes, redact

STATES = ("gone", "there", "unknown")
_COLUMNS = ["repository", "digest", "size_bytes", "state", "key", "detail"]
_SHOWN = 20


@dataclass(frozen=True, eq=False, slots=True)
class Freed:
    """What became of the blobs that the plan of a run promised; made by `Cleaner.verify`.

    Attributes
    ----------
    run, registry : str
    blobs : pandas.DataFrame
        A row for each config and layer that was to come back: repository (where it was asked for), digest, size_bytes (as
        a manifest declared it; missing where the journal has none), state {gone, there, unknown}, key (of the plan's
        row that was the last to hold it), detail (why it is not known).
    back : tuple of str
        The keys of rows of which the manifest is there: it was not deleted, or somebody, `undo` too, has put it back. What
        these hold is not among the blobs.
    advice : str
        What to type for the bytes to come back.
    """

    run: str
    registry: str
    blobs: pd.DataFrame
    back: tuple[str, ...]
    advice: str

    @property
    def ok(self) -> bool:
        """Whether everything that was to come back is gone."""
        return bool((self.blobs["state"] == "gone").all())

    def counts(self) -> dict[str, int]:
        """Return how many blobs are in each state."""
        return {state: int((self.blobs["state"] == state).sum()) for state in STATES}

    def bytes(self, state: str) -> int:
        """Return the bytes of the blobs in a state, of those whose size is known."""
        return int(self.blobs.loc[self.blobs["state"] == state, "size_bytes"].sum())

    def frame(self) -> pd.DataFrame:
        """Return the blobs as a table of one's own."""
        return self.blobs.copy()

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values; the blobs are in the table."""
        sizes = {f"{state}_bytes": self.bytes(state) for state in STATES}
        return {
            "run": self.run,
            "registry": self.registry,
            "ok": self.ok,
            **self.counts(),
            **sizes,
            "back": len(self.back),
        }

    # -- for people ---------------------------------------------------------------------------

    def headline(self) -> str:
        """Return in one sentence how much of what was promised is gone."""
        counts = self.counts()
        if not len(self.blobs):
            return f"run {self.run}: no blob was to come back"
        parts = [f"{counts['gone']:,} of {len(self.blobs):,} blobs ({human_bytes(self.bytes('gone'))}) are gone"]
        if counts["there"]:
            parts.append(f"{counts['there']:,} ({human_bytes(self.bytes('there'))}) still there")
        if counts["unknown"]:
            parts.append(f"{counts['unknown']:,} could not be asked for")
        return f"run {self.run}: {', '.join(parts)}"

    def notes(self) -> list[str]:
        """Return what a person should know beside that."""
        notes = []
        if self.back:
            notes.append(
                f"{count_of(len(self.back), 'digest of the plan is', 'digests of the plan are')} in the registry; what is held there is not counted"
            )
        if self.counts()["there"]:
            notes.append("what is there waits for garbage collection, or something that no reading shows holds it")
            notes.append(self.advice)
        return [note for note in notes if note]

    def __str__(self) -> str:
        return "\n".join(clean(line, 600) for line in [self.headline(), *(f"  {note}" for note in self.notes())])

    def __repr__(self) -> str:
        return f"<Freed: {clean(self.headline(), 200)}>"

    def _repr_html_(self) -> str:
        above = "".join(f"<p>{escape(text)}</p>" for text in (self.headline(), *self.notes()))
        left = self.blobs[self.blobs["state"] != "gone"]
        if left.empty:
            return displayed(above)
        shown = left.head(_SHOWN)[["repository", "digest", "size_bytes", "state", "detail"]].to_dict("records")
        rows: list[list[object]] = [
            [row["repository"], Digest(row["digest"]).short, _size_text(row["size_bytes"]), row["state"], row["detail"]]
            for row in shown
        ]
        more = f"<p>and {len(left) - len(shown):,} more in <code>freed.blobs</code></p>" if len(left) > _SHOWN else ""
        return displayed(above + html_table(["repository", "digest", "bytes", "state", "detail"], rows) + more)


def _size_text(size: Any) -> str:
    return "" if pd.isna(size) else human_bytes(int(size))


# -- asking ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """One manifest that was to go, with the blobs of which it was the last holder."""

    key: str
    repository: str
    digest: str
    frees: tuple[str, ...]


def freed_by(registry: Registry, journal: Journal, name: str) -> Freed:
    """Ask which of the blobs that the plan of a run promised are gone: see `Cleaner.verify`."""
    run = recorded_run(journal, name)
    started = next(entry.data for entry in journal.entries(name) if entry.event == "started")
    if run.kind != "delete" or started.get("registry") != registry.host:
        raise JournalError(
            f"run {clean(name, 60)} is a {run.kind} at {clean(started.get('registry', '?'), 120)}: "
            f"only what a deletion at {clean(registry.host, 120)} frees can be asked for here"
        )
    rows = {row.key: row for row in _rows(started["rows"])}
    answers = _ask(registry, {r.key: v2.get_manifest(registry.session, r.repository, r.digest) for r in rows.values()})
    there = {key: result.value for key, result in answers.items() if result.error is None}
    unread = {key: r.error for key, r in answers.items() if r.error is not None and not isinstance(r.error, NotFound)}
    held = {str(blob.digest) for manifest in there.values() for blob in _blobs(manifest)}
    promised = {blob: row for row in rows.values() if row.key not in there for blob in row.frees if blob not in held}
    found = _ask(
        registry,
        {
            blob: v2.head_blob(registry.session, row.repository, Digest(blob))
            for blob, row in promised.items()
            if row.key not in unread
        },
    )
    sizes = _sizes(journal, {row.digest: row for row in promised.values()})
    records = []
    for blob, row in promised.items():
        state, detail = _state(found[blob].error) if blob in found else ("unknown", redact(unread[row.key], 300))
        values = (row.repository, blob, sizes.get(blob), state, row.key, detail)
        records.append(dict(zip(_COLUMNS, values, strict=True)))
    return Freed(name, registry.host, _frame(records), tuple(key for key in rows if key in there), run.advice)


def _rows(recorded: Iterable[dict[str, Any]]) -> Iterable[_Row]:
    for fields in recorded:
        if fields["action"] != DELETE_MANIFEST:
            continue
        if "frees" not in fields:
            raise JournalError("the run does not say which blobs were to come back: an earlier regaudit recorded it")
        key = f"{fields['repository']}@{fields['digest']}"
        yield _Row(key, fields["repository"], fields["digest"], tuple(fields["frees"]))


def _ask(registry: Registry, conversations: dict[str, Conversation[Any]]) -> dict[str, Result]:
    """Run conversations at once, and return how each ended."""
    with registry.bulk() as bulk:
        for key, conversation in conversations.items():
            bulk.submit(key, conversation)
        return {str(result.key): result for result in bulk.results()}


def _state(error: Exception | None) -> tuple[str, str]:
    if error is None:
        return "there", ""
    return ("gone", "") if isinstance(error, NotFound) else ("unknown", redact(error, 300))


def _blobs(manifest: AnyManifest) -> tuple[Any, ...]:
    return tuple(manifest.blobs) if isinstance(manifest, Manifest) else ()


def _sizes(journal: Journal, digests: Iterable[str]) -> dict[str, int]:
    """Return the smallest size that a saved manifest declares for each blob, as the plan counts."""
    sizes: dict[str, int] = {}
    for digest in digests:
        for blob in _blobs_of(journal.manifest(digest)):
            sizes[str(blob.digest)] = min(blob.size, sizes.get(str(blob.digest), blob.size))
    return sizes


def _blobs_of(saved: tuple[str, bytes] | None) -> tuple[Any, ...]:
    try:
        return () if saved is None else _blobs(parse_manifest(saved[1], saved[0]))
    except BadManifest:
        return ()


def _frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(records, columns=_COLUMNS)
    types = dict.fromkeys(_COLUMNS, "string") | {"size_bytes": "Int64", "state": pd.CategoricalDtype(list(STATES))}
    return frame.astype(types).sort_values(["repository", "digest"], ignore_index=True)


__all__ = ["STATES", "Freed", "freed_by"]
