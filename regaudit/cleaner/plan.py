"""Plan: what would be deleted, what goes along, what is refused and why. Pure: no network, no deletion.

The unit of deletion is a digest with all its tags, because that is what a registry deletes. From
the candidates the plan finds the largest set of digests that can go without breaking anything
that stays, and says of every other candidate which rule keeps it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from regaudit.analysis.footprint import Holders
from regaudit.analysis.graph import Graph, RepositoryGraph
from regaudit.errors import BadManifest, PlanError, UsageError
from regaudit.inventory.snapshot import Snapshot, write_csv
from regaudit.manifest import load_json
from regaudit.reference import Digest, split_attached_tag
from regaudit.text import atomic_write, clean, escape, html_table, human_bytes, isoformat

FORMAT = "regaudit-plan/1"
_SHOWN = 20

DELETE_MANIFEST, DELETE_TAG, PUT_INDEX = "delete_manifest", "delete_tag", "put_index"

# Why a candidate stays. The sentences are what a person reads; {0} is the particular.
REFUSALS: Mapping[str, str] = {
    "kept_alias": "deleting the digest would also delete {0}, which stays",
    "protected": "the tag {0} is protected",
    "child_of_kept_index": "the index {0} stays and needs it",
    "repository_not_read": "something in the repository was not read, so that what needs it is not known",
    "would_empty": "nothing would be left in the repository; allow_empty opts in",
    "unknown_age": "age is the reason, and its age is not known",
    "dangling": "its manifest is gone already; a registry cannot delete such a tag by digest",
    "unread": "its manifest was not read and verified",
    "legacy": "schema 1 may be a conversion whose digest the registry does not have",
    "unverifiable": "its digest uses an algorithm that cannot be verified here",
    "not_in_snapshot": "the snapshot does not have it at this digest",
}


def _plain(value: Any) -> dict[str, Any]:
    """Return the fields of a value; `dataclasses.asdict` copies deeply and takes ten times as long."""
    return {name: getattr(value, name) for name in value.__slots__}


@dataclass(frozen=True, slots=True)
class Candidate:
    """What somebody would like to see gone: a tag, or a digest without tags, and why."""

    repository: str
    tag: str | None
    digest: str | None
    reason: str = ""
    unknown_age: bool = False


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What was asked of the plan beside the candidates.

    Attributes
    ----------
    protect : tuple of str
        Shell-style patterns of tag names that never go.
    include : tuple of str
        Digests that may go with all their tags, those that are no candidates included.
    allow_empty : bool
        Whether a repository may be left without tags.
    untag : bool
        Whether a tag may go alone where its digest stays (`DELETE` by tag).
    """

    protect: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    allow_empty: bool = False
    untag: bool = False

    def protects(self, tag: str) -> bool:
        """Return whether a tag never goes."""
        return any(fnmatch.fnmatchcase(tag, pattern) for pattern in self.protect)


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One thing that would go, or, in ``Plan.refused``, one that stays although it is a candidate.

    Attributes
    ----------
    action : str
        ``delete_manifest`` or ``delete_tag`` (``put_index`` is reserved for fallback indexes).
    role : str
        ``candidate``, or ``child``, ``referrer`` for what goes along.
    tags : tuple of str
        All tags on the digest (``delete_manifest``), or the one tag (``delete_tag``).
    freed_bytes : int
        What this row adds to the bytes that come back, in the order of the plan.
    because : str or None
        The key of the row that it goes along with.
    needs : tuple of str
        The keys of rows that must be gone before this one may go.
    refusal, detail : str
        Why it stays: a key of `REFUSALS`, and its sentence; empty for what goes.
    """

    repository: str
    digest: str | None
    tags: tuple[str, ...]
    action: str = DELETE_MANIFEST
    role: str = "candidate"
    kind: str = "unknown"
    media_type: str | None = None
    created: str | None = None
    content_bytes: int | None = None
    freed_bytes: int = 0
    reason: str = ""
    because: str | None = None
    needs: tuple[str, ...] = ()
    refusal: str = ""
    detail: str = ""

    @property
    def key(self) -> str:
        """The row's name: ``repository@digest``, or ``repository:tag`` where only a tag goes."""
        if self.action == DELETE_TAG or self.digest is None:
            return f"{self.repository}:{self.tags[0] if self.tags else ''}"
        return f"{self.repository}@{self.digest}"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return _plain(self) | {"tags": list(self.tags), "needs": list(self.needs)}


@dataclass(frozen=True, slots=True)
class Approval:
    """Who approved which plan, when and why."""

    by: str
    at: str
    reason: str
    plan_hash: str

    def to_dict(self) -> dict[str, str]:
        """Return the approval as plain values."""
        return _plain(self)


@dataclass(frozen=True)
class Plan:
    """What would be deleted from one registry, in order, and what is refused.

    Attributes
    ----------
    registry : str
        Normalised ``host[:port]``.
    taken_at : str
        When the snapshot behind the plan was taken.
    rows, refused : tuple of PlanRow
        What goes, in the order of execution; which candidates stay, and why.
    state : mapping
        For each repository that the plan touches, every tag with its digest, as read.
    reclaimable_bytes : int
        What comes back after garbage collection: manifests, configs and layers that nothing else
        in the registry as read holds.
    lower_bound : bool
        Whether more may come back, because a size is not known.
    approval : Approval or None
        Without one, nothing executes the plan.
    """

    registry: str
    taken_at: str
    rows: tuple[PlanRow, ...]
    refused: tuple[PlanRow, ...]
    state: Mapping[str, Mapping[str, str | None]]
    candidates: tuple[Candidate, ...]
    options: PlanOptions = field(default_factory=PlanOptions)
    reclaimable_bytes: int = 0
    lower_bound: bool = False
    approval: Approval | None = None
    snapshot: Snapshot | None = field(default=None, repr=False, compare=False)

    @cached_property
    def hash(self) -> str:
        """The sha256 of everything in the plan but the approval, in canonical JSON."""
        return _hash(self._content())

    @property
    def digests(self) -> int:
        """How many digests go."""
        return sum(row.action == DELETE_MANIFEST for row in self.rows)

    @property
    def tags(self) -> int:
        """How many tags go."""
        return sum(len(row.tags) for row in self.rows)

    def row(self, key: str) -> PlanRow:
        """Return the row of a key; raises `UsageError` where the plan has none."""
        for row in self.rows:
            if row.key == key:
                return row
        raise UsageError(f"the plan has no row {clean(key, 200)!r}: use a key of plan.frame()")

    def select(self, keys: Iterable[str]) -> Plan:
        """Return the plan of some of the candidates, with everything decided anew.

        Parameters
        ----------
        keys : iterable of str
            Keys of rows whose role is ``candidate``.

        Raises
        ------
        UsageError
            A key that is not such a row's.
        PlanError
            The plan was loaded without its snapshot.
        """
        chosen = set(keys)
        selectable = {row.key for row in self.rows if row.role == "candidate"}
        if odd := sorted(chosen - selectable):
            raise UsageError(f"{clean(odd[0], 200)!r} is not a row that can be selected: use keys of candidate rows")
        kept = tuple(c for c in self.candidates if _keys(c) & chosen)
        return _decide(self._snapshot(), kept, self.options)

    def selection(self) -> Selection:
        """Return an empty `Selection` that follows a person's clicks."""
        return Selection(self, self._snapshot())

    def approve(self, by: str, reason: str = "", at: datetime | None = None) -> Plan:
        """Return the plan with an approval: who, when, why, and the hash of what was approved."""
        if not by.strip():
            raise UsageError("an approval names who approves: give by='your name'")
        moment = isoformat(at or datetime.now(UTC))
        return replace(self, approval=Approval(clean(by, 200), moment, clean(reason, 2000), self.hash))

    def check(self) -> None:
        """Raise `PlanError` unless the plan is approved exactly as it stands."""
        if self.approval is None:
            raise PlanError("the plan is not approved: `regaudit approve PLAN --by NAME`, or plan.approve(by=NAME)")
        # Hashed anew: the plan's mappings could have been changed since `hash` was first asked for.
        if self.approval.plan_hash != _hash(self._content()):
            raise PlanError("the approval is for another plan: approve this one after reading it")

    def frame(self) -> pd.DataFrame:
        """Return all rows, refused ones last.

        Returns
        -------
        pandas.DataFrame
            key, repository, tags (joined by a space), digest, action, role, kind, created,
            content_bytes, freed_bytes, reason, because, refusal, detail.
        """
        names = ["repository", "digest", "action", "role", "kind", "created", "content_bytes", "freed_bytes"]
        names += ["reason", "because", "refusal", "detail"]
        records = [
            {"key": row.key, "tags": " ".join(row.tags)} | {name: getattr(row, name) for name in names}
            for row in (*self.rows, *self.refused)
        ]
        frame = pd.DataFrame(records, columns=["key", "repository", "tags", *names[1:]])
        frame["created"] = pd.to_datetime(frame["created"], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
        texts = {name: "string" for name in frame.columns if name not in ("created", "content_bytes", "freed_bytes")}
        return frame.astype(texts | {"content_bytes": "Int64", "freed_bytes": "Int64"})

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `frame` as CSV that is safe in a spreadsheet."""
        return write_csv(self.frame(), Path(path))

    # -- on disk ------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the plan, its hash and its approval as JSON and return the path."""
        document = self._content() | {
            "hash": self.hash,
            "approval": None if self.approval is None else self.approval.to_dict(),
        }
        with atomic_write(Path(path)) as file:
            file.write(_in_lines(document | {"seal": _hash(document)}))
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], snapshot: Snapshot | None = None) -> Plan:
        """Return the plan in a file.

        Parameters
        ----------
        snapshot : Snapshot, optional
            The snapshot that the plan was made of; `select` needs it.

        Raises
        ------
        PlanError
            The file is no plan, is of another format, or was edited.
        """
        document = _read(Path(path))
        try:
            # Over the whole file, so that not even the name in the approval can be edited.
            seal = document.pop("seal")
            loaded = cls(
                registry=document["registry"],
                taken_at=document["taken_at"],
                rows=tuple(_row(fields) for fields in document["rows"]),
                refused=tuple(_row(fields) for fields in document["refused"]),
                state=document["state"],
                candidates=tuple(Candidate(**fields) for fields in document["candidates"]),
                options=_options(document["options"]),
                reclaimable_bytes=document["reclaimable_bytes"],
                lower_bound=document["lower_bound"],
                approval=Approval(**document["approval"]) if document["approval"] else None,
                snapshot=snapshot,
            )
            same = loaded.hash == document["hash"] and _hash(document) == seal
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"{clean(path)} is damaged ({clean(error, 80)}): make the plan again") from None
        if not same:
            raise PlanError(
                f"{clean(path)} was changed after it was made: make the plan again; rows are chosen with select"
            )
        if snapshot is not None:
            loaded._snapshot()  # says at once where they do not belong together
        return loaded

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "registry": self.registry,
            "taken_at": self.taken_at,
            "options": {name: list(v) if isinstance(v, tuple) else v for name, v in _plain(self.options).items()},
            "state": {name: dict(tags) for name, tags in self.state.items()},
            "candidates": [_plain(candidate) for candidate in self.candidates],
            "rows": [row.to_dict() for row in self.rows],
            "refused": [row.to_dict() for row in self.refused],
            "reclaimable_bytes": self.reclaimable_bytes,
            "lower_bound": self.lower_bound,
        }

    def _snapshot(self) -> Snapshot:
        if self.snapshot is None:
            raise PlanError("the plan's snapshot is needed for this: Plan.load(path, snapshot=Snapshot.load(folder))")
        if self.snapshot.registry != self.registry or self.snapshot.taken_at.isoformat() != self.taken_at:
            raise PlanError("the plan was made of another snapshot: load the one that it was made of")
        return self.snapshot

    # -- for people ---------------------------------------------------------------------------

    def headline(self) -> str:
        """Return the consequences in one sentence."""
        atleast = "at least " if self.lower_bound else ""
        along = sum(row.role != "candidate" for row in self.rows)
        return (
            f"{self.digests:,} digests with {self.tags:,} tags would go ({along:,} of the digests along with others); "
            f"{atleast}{human_bytes(self.reclaimable_bytes)} come back after garbage collection; "
            f"{len(self.refused):,} candidates are refused"
        )

    def __str__(self) -> str:
        kinds = Counter(row.refusal for row in self.refused)
        along = Counter(row.because for row in self.rows)
        chosen = [row for row in self.rows if row.role == "candidate"]
        lines = [self.headline(), *(f"  refused, {kind}: {count}" for kind, count in kinds.most_common())]
        for row in chosen[:_SHOWN]:
            more = f"  (+{along[row.key]} along)" if along[row.key] else ""
            lines.append(f"  {row.repository} {_tag_text(row)}  {row.reason}{more}")
        lines += [f"  and {len(chosen) - _SHOWN:,} more"] if len(chosen) > _SHOWN else []
        return "\n".join(clean(line, 300) for line in lines)

    def _repr_html_(self) -> str:
        headings = ["repository", "tags", "digest", "role", "bytes back", "reason"]
        shown = [*self.rows[:50], *self.refused[:50]]
        rows: list[list[object]] = [
            [
                row.repository,
                " ".join(row.tags[:8]),
                Digest(row.digest).short if row.digest else "",
                "refused" if row.refusal else row.role,
                "" if row.refusal else human_bytes(row.freed_bytes),
                row.detail or row.reason,
            ]
            for row in shown
        ]
        more = len(self.rows) + len(self.refused) - len(shown)
        note = f"<p>and {more} more in <code>plan.frame()</code></p>" if more else ""
        return f"<p>{escape(self.headline())}</p>{html_table(headings, rows)}{note}"


class Selection:
    """Some of a plan's candidates, with totals that follow each click.

    A click costs what is tied to its digest, not the size of the plan: only that component of the
    repository's graph is decided anew, and bytes come from holder counts.

    Attributes
    ----------
    keys : set of str
        The selected candidate rows.
    """

    def __init__(self, plan: Plan, snapshot: Snapshot) -> None:
        self.keys: set[str] = set()
        self._options = plan.options
        self._graph = Graph(snapshot)
        self._bytes = Holders(snapshot).selection()
        self._rows = {row.key: row for row in plan.rows if row.role == "candidate"}
        refused = {(row.repository, tag) for row in plan.refused for tag in row.tags}
        self._condemned: dict[tuple[str, str], list[Candidate]] = {}
        for candidate in plan.candidates:
            if (candidate.repository, candidate.tag) not in refused:
                self._condemned.setdefault((candidate.repository, str(candidate.digest)), []).append(candidate)
        self._going: dict[tuple[str, str], frozenset[str]] = {}
        self._alone: dict[tuple[str, str], int] = {}

    def set(self, key: str, *, selected: bool) -> None:
        """Select or deselect a candidate row; raises `UsageError` for a key that is none."""
        if key not in self._rows:
            raise UsageError(f"{clean(key, 200)!r} is not a row that can be selected")
        if (key in self.keys) == selected:
            return
        (self.keys.add if selected else self.keys.discard)(key)
        if self._rows[key].action == DELETE_MANIFEST:
            self._redecide(self._rows[key])

    @property
    def digests(self) -> int:
        """How many digests go with this selection, those that go along included."""
        return sum(len(going) for going in self._going.values())

    @property
    def tags(self) -> int:
        """How many tags go with this selection."""
        whole = sum(
            len(self._graph.repository(repository).tags_of.get(digest, ()))
            for (repository, _), going in self._going.items()
            for digest in going
        )
        return whole + sum(self._alone.values()) + sum(self._rows[key].action == DELETE_TAG for key in self.keys)

    @property
    def bytes(self) -> int:
        """How many bytes come back after garbage collection."""
        return int(self._bytes.bytes)

    def _redecide(self, row: PlanRow) -> None:
        graph, digest = self._graph.repository(row.repository), str(row.digest)
        component = graph.component(digest)
        name = (row.repository, min(component))
        chosen = {d for d in component if f"{row.repository}@{d}" in self.keys}
        condemned = [c for d in chosen for c in self._condemned.get((row.repository, d), ())]
        decision = _settle(graph, chosen, {c.tag for c in condemned if c.tag is not None}, self._options)
        before, after = self._going.get(name, frozenset()), frozenset(decision.going)
        for gone in after - before:
            self._bytes.add(row.repository, gone)
        for back in before - after:
            self._bytes.discard(row.repository, back)
        self._going[name] = after
        # Without its index or its subject, a digest may have to stay, and then its tags go alone.
        self._alone[name] = sum(_may_go_alone(c, decision.refused.get(str(c.digest)), self._options) for c in condemned)


def plan(
    snapshot: Snapshot,
    candidates: pd.DataFrame | Iterable[str],
    *,
    protect: Iterable[str] = (),
    include: Iterable[str] = (),
    allow_empty: bool = False,
    untag: bool = False,
) -> Plan:
    """Return what deleting some candidates means, without deleting anything.

    Parameters
    ----------
    snapshot : Snapshot
        What is known of the registry.
    candidates : pandas.DataFrame or iterable of str
        Rows with ``repository`` and ``tag`` (a row without a tag names a ``digest``), and
        optionally ``digest`` and ``reason``, as `stale_tags` returns them; or texts ``repository:tag``.
    protect : iterable of str
        Shell-style patterns of tag names that never go.
    include : iterable of str
        Digests that may go although tags that are no candidates point to them.
    allow_empty : bool
        Whether a repository may be left without tags.
    untag : bool
        Where a digest must stay for other tags' sake, let the candidate tag go alone. Registries
        that follow the distribution specification 1.1 offer this; docker-registry 2.8 does not.

    Returns
    -------
    Plan
        With every candidate either in ``rows`` or in ``refused``.

    Raises
    ------
    UsageError
        Candidates of another registry, or without the columns that name a tag.
    """
    for pattern in (protect, include):
        if isinstance(pattern, str):
            raise UsageError(
                f"{clean(pattern, 80)!r} is one text where several are expected: write [{clean(pattern, 80)!r}]"
            )
    options = PlanOptions(tuple(protect), tuple(include), allow_empty, untag)
    return _decide(snapshot, _candidates(snapshot, candidates), options)


# -- from candidates to rows -----------------------------------------------------------------


@dataclass(slots=True)
class _Decision:
    """What goes in one part of a repository: digest → (role, the digest it goes along with)."""

    going: dict[str, tuple[str, str | None]]
    refused: dict[str, tuple[str, str]]


def _settle(graph: RepositoryGraph, chosen: set[str], tags: set[str], options: PlanOptions) -> _Decision:
    """Find the largest set that can go: begin with all that might, and take out what may not until nothing changes."""
    refused = {digest: reason for digest in chosen if (reason := _never(graph, digest, options))}
    might = graph.closure(chosen - refused.keys())
    going = frozenset(digest for digest in might if digest in chosen or not _never(graph, digest, options))
    going = graph.closure(chosen - refused.keys(), within=going - refused.keys())
    while leaving := {digest: why for digest in going if (why := _held(graph, digest, going, chosen, tags, options))}:
        refused.update({digest: why for digest, why in leaving.items() if digest in chosen})
        going -= leaving.keys()
        # What goes along needs a candidate behind it: two signatures of each other must not carry one another.
        going = graph.closure(chosen & going, within=going)
    roles = {digest: ("candidate", None) if digest in chosen else _role(graph, digest, going) for digest in going}
    return _Decision(roles, refused)


def _never(graph: RepositoryGraph, digest: str, options: PlanOptions) -> tuple[str, str] | None:
    """Return why a digest cannot go whatever else goes."""
    if digest not in graph.manifests:
        return "unread", ""
    if not Digest(digest).verifiable:
        return "unverifiable", ""
    shielded = next((tag for tag in graph.tags_of.get(digest, ()) if options.protects(tag)), None)
    return ("protected", shielded) if shielded is not None else None


def _held(
    graph: RepositoryGraph, digest: str, going: AbstractSet[str], chosen: set[str], tags: set[str], options: PlanOptions
) -> tuple[str, str] | None:
    """Return who holds a digest, given what else goes: an index that stays, or a tag that stays."""
    if parent := next((p for p in graph.parents.get(digest, ()) if p not in going), None):
        return "child_of_kept_index", _name(graph, parent)
    if digest not in options.include or digest not in chosen:
        kept = [
            tag for tag in graph.tags_of.get(digest, ()) if tag not in tags and graph.attached.get(tag) not in going
        ]
        if kept:
            return "kept_alias", ", ".join(kept[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
    return None


def _role(graph: RepositoryGraph, digest: str, going: AbstractSet[str]) -> tuple[str, str | None]:
    parent = next((p for p in graph.parents.get(digest, ()) if p in going), None)
    if parent is not None:
        return "child", parent
    return "referrer", next((s for s in graph.subjects.get(digest, ()) if s in going), None)


def _name(graph: RepositoryGraph, digest: str) -> str:
    tags = graph.tags_of.get(digest, ())
    return f"{tags[0]} ({Digest(digest).short})" if tags else Digest(digest).short


def _decide(snapshot: Snapshot, candidates: tuple[Candidate, ...], options: PlanOptions) -> Plan:
    graph, facts, unread = Graph(snapshot), _Facts(snapshot), snapshot.unread
    rows: list[PlanRow] = []
    refused: list[PlanRow] = []
    by_repository: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_repository.setdefault(candidate.repository, []).append(candidate)
    for name in sorted(by_repository):
        going, staying = _decide_repository(
            graph.repository(name), by_repository[name], options, facts, unread=name in unread
        )
        rows += going
        refused += staying
    rows, total, lower_bound = _with_bytes(snapshot, rows)
    touched = {row.repository for row in rows}
    return Plan(
        registry=snapshot.registry,
        taken_at=snapshot.taken_at.isoformat(),
        rows=tuple(rows),
        refused=tuple(refused),
        state={name: dict(sorted(graph.repository(name).tags.items())) for name in sorted(touched)},
        candidates=candidates,
        options=options,
        reclaimable_bytes=total,
        lower_bound=lower_bound,
        snapshot=snapshot,
    )


def _decide_repository(
    graph: RepositoryGraph, candidates: list[Candidate], options: PlanOptions, facts: _Facts, *, unread: bool
) -> tuple[list[PlanRow], list[PlanRow]]:
    obstacles = {c: why for c in candidates if (why := _not_plannable(c, graph, facts, unread=unread))}
    usable = [c for c in candidates if c not in obstacles]
    chosen = {str(c.digest) for c in usable}
    tags = {c.tag for c in usable if c.tag is not None}
    decision = _settle(graph, chosen, tags, options)
    alone = {c for c in usable if _may_go_alone(c, decision.refused.get(str(c.digest)), options)}
    if not options.allow_empty and _emptied(graph, decision, {str(c.tag) for c in alone}):
        staying = obstacles | dict.fromkeys(usable, ("would_empty", ""))
        return [], [_refused(c, graph, facts, *why) for c, why in staying.items()]
    rows = _ordered(graph, decision, _reasons(usable), facts)
    rows += [_row_for_tag(c, facts, graph) for c in usable if c in alone]
    # An included digest goes with all its tags, those of unknown age too: none of them stays.
    staying = {c: why for c, why in obstacles.items() if why[0] != "unknown_age" or c.digest not in decision.going}
    staying |= {c: decision.refused[str(c.digest)] for c in usable if str(c.digest) in decision.refused}
    return rows, [_refused(c, graph, facts, *why) for c, why in staying.items() if c not in alone]


def _not_plannable(
    candidate: Candidate, graph: RepositoryGraph, facts: _Facts, *, unread: bool
) -> tuple[str, str] | None:
    """Return why a candidate cannot even be considered: nothing is known of it, or not enough."""
    if candidate.tag is not None and graph.tags.get(candidate.tag, "") != candidate.digest:
        return "not_in_snapshot", ""
    if candidate.digest is None:
        return ("dangling" if (graph.repository, candidate.tag) in facts.dangling else "unread"), ""
    if unread:
        return "repository_not_read", ""
    if facts.kind(graph.repository, candidate.digest) == "legacy":
        return "legacy", ""
    return ("unknown_age", "") if candidate.unknown_age else None


def _may_go_alone(candidate: Candidate, refusal: tuple[str, str] | None, options: PlanOptions) -> bool:
    """Return whether only the tag goes: its digest must stay, for reasons that do not concern the tag."""
    if not options.untag or refusal is None or candidate.tag is None or options.protects(candidate.tag):
        return False
    return refusal[0] in {"kept_alias", "child_of_kept_index", "protected"}


def _emptied(graph: RepositoryGraph, decision: _Decision, alone: set[str]) -> bool:
    """Return whether no tag of a person's making would be left, of those that name something."""
    left = any(
        digest is not None and digest not in decision.going and tag not in alone and split_attached_tag(tag) is None
        for tag, digest in graph.tags.items()
    )
    return bool(decision.going or alone) and not left


def _ordered(graph: RepositoryGraph, decision: _Decision, reasons: Mapping[str, str], facts: _Facts) -> list[PlanRow]:
    """Return the rows with every index before its children and every subject before what refers to it."""
    needs = {
        digest: tuple(
            d
            for d in dict.fromkeys((*graph.parents.get(digest, ()), *graph.subjects.get(digest, ())))
            if d in decision.going
        )
        for digest in decision.going
    }
    first = sorted(decision.going, key=lambda d: (reasons.get(d) is None, graph.tags_of.get(d, ("~",)), d))
    rows, done = [], set[str]()
    for digest in _topological(first, needs):
        role, along = decision.going[digest]
        fields = facts.fields(graph.repository, digest)
        rows.append(
            PlanRow(
                repository=graph.repository,
                digest=digest,
                tags=tuple(sorted(graph.tags_of.get(digest, ()))),
                role=role,
                reason=reasons.get(digest, ""),
                because=None if along is None else f"{graph.repository}@{along}",
                needs=tuple(f"{graph.repository}@{d}" for d in needs[digest] if d in done),
                **fields,
            )
        )
        done.add(digest)
    return rows


def _topological(digests: list[str], needs: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the digests, each after what it needs; a cycle, which hashes make all but impossible, is cut."""
    done: set[str] = set()
    for start in digests:
        stack = [start]
        waiting: set[str] = set()
        while stack:
            digest = stack[-1]
            missing = [d for d in needs[digest] if d not in done and d not in waiting]
            if missing and digest not in done:
                waiting.add(digest)
                stack.extend(missing)
                continue
            stack.pop()
            if digest not in done:
                done.add(digest)
                yield digest


def _reasons(candidates: Iterable[Candidate]) -> dict[str, str]:
    reasons: dict[str, dict[str, None]] = {}
    for candidate in candidates:
        reasons.setdefault(str(candidate.digest), {})[candidate.reason] = None
    return {digest: "; ".join(text for text in texts if text) for digest, texts in reasons.items()}


def _row_for_tag(candidate: Candidate, facts: _Facts, graph: RepositoryGraph) -> PlanRow:
    return PlanRow(
        repository=candidate.repository,
        digest=candidate.digest,
        tags=(str(candidate.tag),),
        action=DELETE_TAG,
        reason=candidate.reason,
        **facts.fields(graph.repository, str(candidate.digest)),
    )


def _refused(candidate: Candidate, graph: RepositoryGraph, facts: _Facts, refusal: str, particular: str) -> PlanRow:
    detail = REFUSALS[refusal].format(particular or "another manifest")
    tags = (candidate.tag,) if candidate.tag is not None else ()
    fields = facts.fields(graph.repository, candidate.digest) if candidate.digest else {}
    return PlanRow(
        repository=candidate.repository,
        digest=candidate.digest,
        tags=tags,
        reason=candidate.reason,
        refusal=refusal,
        detail=detail,
        **fields,
    )


def _with_bytes(snapshot: Snapshot, rows: list[PlanRow]) -> tuple[list[PlanRow], int, bool]:
    selection = Holders(snapshot).selection()
    sized = []
    for row in rows:
        before = selection.bytes
        if row.action == DELETE_MANIFEST:
            selection.add(row.repository, str(row.digest))
        sized.append(replace(row, freed_bytes=selection.bytes - before))
    return sized, selection.bytes, selection.lower_bound


class _Facts:
    """What the tables say of a manifest, by repository and digest."""

    def __init__(self, snapshot: Snapshot) -> None:
        known = snapshot.manifests[["repository", "digest", "kind", "media_type", "created", "content_bytes"]].astype(
            "object"
        )
        self._rows = {(row[0], row[1]): row[2:] for row in known.itertuples(index=False, name=None)}
        gone = snapshot.problems[(snapshot.problems["error"] == "dangling").fillna(value=False)]
        self.dangling = set(zip(gone["repository"].astype("object"), gone["identifier"].astype("object"), strict=True))

    def kind(self, repository: str, digest: str) -> str:
        """Return the kind of a manifest, ``unknown`` where it was not read."""
        return str(self._rows.get((repository, digest), ("unknown",))[0])

    def fields(self, repository: str, digest: str) -> dict[str, Any]:
        """Return the fields of a `PlanRow` that describe its manifest."""
        row = self._rows.get((repository, digest))
        if row is None:
            return {}
        kind, media_type, created, size = row
        return {
            "kind": str(kind),
            "media_type": None if pd.isna(media_type) else str(media_type),
            "created": None if pd.isna(created) else created.isoformat(),
            "content_bytes": None if pd.isna(size) else int(size),
        }


# -- what a person hands in ------------------------------------------------------------------


def _candidates(snapshot: Snapshot, given: pd.DataFrame | Iterable[str]) -> tuple[Candidate, ...]:
    if isinstance(given, str):
        raise UsageError(f"{clean(given, 80)!r} is one text where several are expected: write [{clean(given, 80)!r}]")
    frame = given if isinstance(given, pd.DataFrame) else _frame_of_names(given)
    if "repository" not in frame.columns or not {"tag", "digest"} & set(frame.columns):
        raise UsageError("candidates need the columns repository and tag, as stale_tags() returns them")
    if "registry" in frame.columns and (odd := set(frame["registry"].dropna().astype(str)) - {snapshot.registry}):
        raise UsageError(
            f"the candidates are of {clean(min(odd), 80)}, the snapshot is of {clean(snapshot.registry, 80)}"
        )
    digests = _digests_by_tag(snapshot, set(frame["repository"].astype(str)))
    columns = [name for name in ("repository", "tag", "digest", "reason", "age_days") if name in frame.columns]
    records = frame[columns].astype("object").to_dict("records")
    found = [
        _candidate({k: v for k, v in record.items() if not pd.isna(v)}, digests, "age_days" in columns)
        for record in records
    ]
    return _each_once(found)


def _each_once(found: list[Candidate]) -> tuple[Candidate, ...]:
    """Return each candidate once, with all its reasons, in an order that does not depend on how they came."""
    same: dict[tuple[str, str, str], list[Candidate]] = {}
    for candidate in found:
        same.setdefault((candidate.repository, candidate.tag or "", candidate.digest or ""), []).append(candidate)
    return tuple(_joined(same[key]) for key in sorted(same))


def _joined(same: list[Candidate]) -> Candidate:
    if len(same) == 1:
        return same[0]
    reasons = sorted({candidate.reason for candidate in same if candidate.reason})
    return replace(same[0], reason="; ".join(reasons), unknown_age=all(candidate.unknown_age for candidate in same))


def _candidate(record: dict[str, Any], digests: Mapping[tuple[str, str], str | None], aged: bool) -> Candidate:  # noqa: FBT001
    repository, tag = str(record.get("repository", "")), record.get("tag")
    if not repository or (tag is None and "digest" not in record):
        raise UsageError("a candidate names a repository and a tag, or a repository and a digest")
    digest = record.get("digest", digests.get((repository, tag)) if tag is not None else None)
    return Candidate(
        repository=repository,
        tag=None if tag is None else str(tag),
        digest=None if digest is None else str(Digest(str(digest))),
        reason=str(record.get("reason", "")),
        unknown_age=aged and "age_days" not in record,
    )


def _digests_by_tag(snapshot: Snapshot, repositories: set[str]) -> dict[tuple[str, str], str | None]:
    mine = snapshot.tags[snapshot.tags["repository"].isin(repositories)]
    columns = mine[["repository", "tag", "digest"]].astype("object").itertuples(index=False, name=None)
    return {(repository, tag): digest if isinstance(digest, str) else None for repository, tag, digest in columns}


def _frame_of_names(names: Iterable[str]) -> pd.DataFrame:
    pairs = []
    for name in names:
        repository, colon, tag = str(name).rpartition(":")
        if not colon or "/" in tag:
            raise UsageError(f"{clean(name, 120)!r} names no tag: write repository:tag")
        pairs.append((repository, tag))
    return pd.DataFrame(pairs, columns=["repository", "tag"])


def _keys(candidate: Candidate) -> set[str]:
    """Return the keys of the rows that a candidate may have become: its digest, or its tag alone."""
    keys = {f"{candidate.repository}@{candidate.digest}"}
    return keys if candidate.tag is None else keys | {f"{candidate.repository}:{candidate.tag}"}


def _tag_text(row: PlanRow) -> str:
    shown = " ".join(row.tags[:4]) or (Digest(row.digest).short if row.digest else "")
    return f"{shown} and {len(row.tags) - 4} more" if len(row.tags) > 4 else shown


def _read(path: Path) -> dict[str, Any]:
    try:
        document = load_json(path.read_bytes())  # a key that stands twice would show one plan and mean another
    except (OSError, BadManifest):
        raise PlanError(
            f"{clean(path)} is not a plan: make one with `regaudit plan SNAPSHOT … -o {clean(path.name)}`"
        ) from None
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise PlanError(
            f"{clean(path)} is of the format {clean(found, 60)!r}, and this regaudit reads {FORMAT!r}: make it again"
        )
    return dict(document)


def _in_lines(document: dict[str, Any]) -> str:
    """Return JSON with a line for each field and for each row: quick to write, and a diff shows what changed."""
    fields = []
    for name, value in sorted(document.items()):
        text = json.dumps(value, sort_keys=True)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(json.dumps(item, sort_keys=True) for item in value) + "\n]"
        fields.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _hash(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _row(fields: dict[str, Any]) -> PlanRow:
    return PlanRow(**fields | {"tags": tuple(fields["tags"]), "needs": tuple(fields["needs"])})


def _options(fields: dict[str, Any]) -> PlanOptions:
    return PlanOptions(tuple(fields["protect"]), tuple(fields["include"]), fields["allow_empty"], fields["untag"])


__all__ = ["Approval", "Candidate", "Plan", "PlanOptions", "PlanRow", "Selection", "plan"]
