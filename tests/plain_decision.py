"""Deciding, written plainly: a repository at a time, a row at a time. What `regaudit.cleaner.decide` must agree with.

Slow and short on purpose: a frame for each repository, every digest by the one general rule, bytes by a
tally that takes a manifest at a time, a set of tuples for each fact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from regaudit.analysis.footprint import Holders
from regaudit.analysis.graph import Edges, RepositoryGraph
from regaudit.cleaner.decide import Decided
from regaudit.cleaner.lists import list_rows, lists
from regaudit.cleaner.rows import DELETE_MANIFEST, DELETE_TAG, REFUSALS, Candidate, PlanOptions, PlanRow
from regaudit.inventory.snapshot import Snapshot
from regaudit.reference import Digest, attached_tag, split_attached_tag


def plain_decision(snapshot, candidates, options) -> Decided:
    """Return what `decide` is to return."""
    graph, facts, unread = _Graph(snapshot), _Facts(snapshot), snapshot.unread
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
    rows, total, unsized = _with_bytes(snapshot, rows)
    rows += list_rows(graph, [row.to_dict() for row in rows])
    touched = sorted({row.repository for row in rows})
    state = {name: dict(sorted(graph.repository(name).tags.items())) for name in touched}
    bounds = ["unsized"] * unsized + ["unread"] * (total > 0 and not snapshot.whole) + ["unlisted"] * (total > 0)
    return Decided(tuple(rows), tuple(refused), state, total, tuple(bounds))


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
    parents = (p for p in graph.parents.get(digest, ()) if p not in going)
    if parent := next((p for p in parents if not lists(graph, p, digest, options)), None):
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
    if (graph.repository, candidate.tag) in facts.of_v1:
        return "v1", ""
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
    needs = _needs(graph, decision.going)
    ordered = sorted(decision.going, key=lambda d: (graph.tags_of.get(d, ("~",)), d))
    first: list[str] = []

    def behind(digest):
        if digest not in first:
            first.append(digest)
            for other in ordered:
                if decision.going[other][1] == digest:
                    behind(other)

    for digest in ordered:
        if decision.going[digest][1] is None:
            behind(digest)
    for digest in ordered:
        if decision.going[digest][1] is not None and digest not in first:
            first.append(digest)
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


def _needs(graph: RepositoryGraph, going: Collection[str]) -> dict[str, list[str]]:
    """Return what must go before each digest; what a digest is about only where that closes no circle."""
    needs = {d: [p for p in graph.parents.get(d, ()) if p in going] for d in going}

    def before(digest):
        return {digest}.union(*(before(other) for other in needs[digest]))

    for digest in sorted(going):
        for subject in graph.subjects.get(digest, ()):
            if subject in going and subject not in needs[digest] and digest not in before(subject):
                needs[digest].append(subject)
    return needs


def _topological(digests: list[str], needs: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield the digests, each after what it needs."""
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
    tally, sized = Holders(snapshot).tally(), []
    held: dict[str, set[tuple[str, str]]] = {}
    edges = snapshot.blobs[["repository", "manifest_digest", "digest"]].astype("object")
    for repository, manifest, blob in edges.itertuples(index=False, name=None):
        held.setdefault(blob, set()).add((repository, manifest))
    children = snapshot.children[["repository", "index_digest", "digest"]].astype("object")
    for repository, index, child in children.itertuples(index=False, name=None):
        if child in held:
            held[child].add((repository, index))
    for row in rows:
        before, frees = tally.bytes, []
        if row.action == DELETE_MANIFEST:
            tally.add(row.repository, str(row.digest))
            for blob, holders in held.items():
                if (row.repository, row.digest) in holders:
                    holders.discard((row.repository, row.digest))
                    frees += [blob] if not holders else []
        sized.append(replace(row, freed_bytes=tally.bytes - before, frees=tuple(sorted(frees))))
    return sized, tally.bytes, tally.lower_bound


class _Facts:
    """What the tables say of a manifest, by repository and digest."""

    def __init__(self, snapshot: Snapshot) -> None:
        known = snapshot.manifests[["repository", "digest", "kind", "media_type", "created", "content_bytes"]].astype(
            "object"
        )
        self._rows = {(row[0], row[1]): row[2:] for row in known.itertuples(index=False, name=None)}
        of_v1 = snapshot.tags[snapshot.tags["image_id"].notna()]
        self.of_v1 = set(zip(of_v1["repository"].astype("object"), of_v1["tag"].astype("object"), strict=True))
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


# -- the graph --


@dataclass(slots=True)
class _Graph:
    """The graphs of a snapshot's repositories, each built when it is first asked for.

    Examples
    --------
    ``Graph(snapshot).repository("team/app").tags_of[digest]``
    """

    snapshot: Snapshot
    _rows: dict[str, dict[str, pd.Index]] = field(init=False, repr=False)
    _built: dict[str, RepositoryGraph] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        tables = {"tags": self.snapshot.tags, "manifests": self.snapshot.manifests, "children": self.snapshot.children}
        self._rows = {name: dict(frame.groupby("repository", observed=True).indices) for name, frame in tables.items()}

    def repository(self, name: str) -> RepositoryGraph:
        """Return the graph of one repository; of one that was not read, an empty graph."""
        if name not in self._built:
            self._built[name] = _build(name, *(self._slice(table, name) for table in ("tags", "manifests", "children")))
        return self._built[name]

    def _slice(self, table: str, repository: str) -> pd.DataFrame:
        return getattr(self.snapshot, table).iloc[self._rows[table].get(repository, [])]


def _build(repository: str, tags: pd.DataFrame, manifests: pd.DataFrame, children: pd.DataFrame) -> RepositoryGraph:
    digest_of = dict(zip(tags["tag"].tolist(), _texts(tags["digest"]), strict=True))
    read = frozenset(str(d) for d in _texts(manifests["digest"]))
    attached = _attachments(digest_of, read)
    on_tag = [(digest, tag) for tag, digest in digest_of.items() if digest is not None]
    below = list(zip(_texts(children["index_digest"]), _texts(children["digest"]), strict=True))
    refers = [
        (s, r) for s, r in zip(_texts(manifests["subject_digest"]), _texts(manifests["digest"]), strict=True) if s and r
    ]
    refers += [(subject, str(digest_of[tag])) for tag, subject in attached.items()]
    return RepositoryGraph(
        repository=repository,
        tags=digest_of,
        manifests=read,
        tags_of=_edges(on_tag),
        children=_edges(below),
        parents=_edges([(child, index) for index, child in below]),
        referrers=_edges(refers),
        subjects=_edges([(referrer, subject) for subject, referrer in refers]),
        attached=attached,
    )


def _attachments(digest_of: Mapping[str, str | None], read: frozenset[str]) -> dict[str, str]:
    named = {tag: parts[0] for tag in digest_of if (parts := split_attached_tag(tag)) and digest_of[tag] is not None}
    if not named:
        return {}
    subject_of = {attached_tag(Digest(digest)): digest for digest in read}
    return {tag: subject_of[base] for tag, base in named.items() if base in subject_of}


def _edges(pairs: Iterable[tuple[str | None, str | None]]) -> Edges:
    edges: dict[str, dict[str, None]] = defaultdict(dict)
    for source, target in pairs:
        if source is not None and target is not None and source != target:
            edges[source][target] = None
    return {source: tuple(targets) for source, targets in edges.items()}


def _texts(column: pd.Series) -> list[str | None]:
    return [value if isinstance(value, str) else None for value in column.astype("object").tolist()]


# -- candidates --


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


def _candidate(record: dict[str, Any], digests: Mapping[tuple[str, str], str | None], *, aged: bool) -> Candidate:
    repository, tag = str(record.get("repository", "")), record.get("tag")
    if not repository or (tag is None and "digest" not in record):
        raise AssertionError(record)
    digest = record.get("digest", digests.get((repository, tag)) if tag is not None else None)
    reason = str(record.get("reason", ""))
    return Candidate(
        repository=repository,
        tag=None if tag is None else str(tag),
        digest=None if digest is None else str(Digest(str(digest))),
        reason=reason,
        # as stale_tags words it; rows of other questions have no age, and need none
        unknown_age=aged and "age_days" not in record and (not reason or "older than" in reason),
    )


def _digests_by_tag(snapshot: Snapshot, repositories: set[str]) -> dict[tuple[str, str], str | None]:
    mine = snapshot.tags[snapshot.tags["repository"].isin(repositories)]
    columns = mine[["repository", "tag", "digest"]].astype("object").itertuples(index=False, name=None)
    return {(repository, tag): digest if isinstance(digest, str) else None for repository, tag, digest in columns}


def plain_candidates(snapshot, frame):
    digests = _digests_by_tag(snapshot, set(frame["repository"].astype(str)))
    columns = [name for name in ("repository", "tag", "digest", "reason", "age_days") if name in frame.columns]
    records = frame[columns].astype("object").to_dict("records")
    return _each_once(
        [
            _candidate({k: v for k, v in record.items() if not pd.isna(v)}, digests, aged="age_days" in columns)
            for record in records
        ]
    )
