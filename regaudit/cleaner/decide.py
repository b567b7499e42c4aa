"""Deciding: which candidates can go, what goes along, and why the others stay. Pure.

In each repository the largest set that can go is found by beginning with all that might, and taking
out what may not until nothing changes. `decide` does so for all candidates; a `Selection`, for what
a person has clicked, only where the click made a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import Any

import pandas as pd

from regaudit.analysis.footprint import Holders
from regaudit.analysis.graph import Graph, RepositoryGraph
from regaudit.cleaner.lists import list_rows, lists
from regaudit.cleaner.rows import DELETE_MANIFEST, DELETE_TAG, REFUSALS, Candidate, PlanOptions, PlanRow, no_collector
from regaudit.errors import UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.reference import Digest, is_verifiable, split_attached_tag
from regaudit.text import clean

# The fields of a `PlanRow` while what it frees is not known; and the ``row`` of the manifests table, by which that is found.
Draft = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided: the fields of a `Plan` of the same names."""

    rows: tuple[PlanRow, ...]
    refused: tuple[PlanRow, ...]
    state: Mapping[str, Mapping[str, str | None]]
    reclaimable_bytes: int
    bounds: tuple[str, ...]


def decide(snapshot: Snapshot, candidates: Iterable[Candidate], options: PlanOptions) -> Decided:
    """Decide on all candidates of a registry."""
    graph = Graph(snapshot)
    facts, unread = _Facts(snapshot, graph), snapshot.unread
    drafts: list[Draft] = []
    refused: list[PlanRow] = []
    by_repository: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_repository.setdefault(candidate.repository, []).append(candidate)
    for name in sorted(by_repository):
        going, staying = _decide_repository(
            graph.repository(name), by_repository[name], options, facts, unread=name in unread
        )
        drafts += going
        refused += staying
    state = {name: _in_order(graph.repository(name).tags) for name in sorted({d["repository"] for d in drafts})}
    rewritten = list_rows(graph, drafts)
    # Both are large, and so is what counting bytes takes.
    del graph, facts
    rows, unsized = _with_bytes(snapshot, drafts)
    rows += rewritten
    total = sum(row.freed_bytes for row in rows)
    return Decided(tuple(rows), tuple(refused), state, total, bounds_of(snapshot, total, unsized=unsized))


def bounds_of(snapshot: Snapshot, freed: int, *, unsized: bool) -> tuple[str, ...]:
    """Return why less or more may come back than is promised, as keys of `BOUNDS`.

    A registry lists tags, and nothing that lost its last one: whatever was read, a manifest may be there that nobody can see.
    """
    found = {"unsized": unsized, "unread": freed > 0 and not snapshot.whole, "unlisted": freed > 0}
    return tuple(name for name, applies in found.items() if applies)


def _in_order(tags: Mapping[str, str | None]) -> Mapping[str, str | None]:
    names = sorted(tags)
    return tags if names == list(tags) else {tag: tags[tag] for tag in names}


class Selection:
    """Some of a plan's candidates, with totals that follow each click.

    A click costs what is tied to its digest, not the size of the plan: only that component of the
    repository's graph is decided anew, and bytes come from holder counts. All candidates of a repository
    cost no decision: it is the plan's.

    Attributes
    ----------
    keys : set of str
        The selected candidate rows.
    """

    def __init__(
        self, snapshot: Snapshot, decided: Decided, candidates: Sequence[Candidate], options: PlanOptions
    ) -> None:
        self.keys: set[str] = set()
        self._options = options
        self._graph = Graph(snapshot)
        self._bytes = Holders(snapshot).tally()
        self._refused = {(row.repository, tag, row.digest) for row in decided.refused for tag in row.tags}
        self._given = candidates
        self._rows: dict[str, PlanRow] = {}
        # By repository: what goes with all of its candidates and how many tags each has; how many candidates; and how
        # many of these are selected, and what goes with them.
        self._whole: dict[str, dict[str, int]] = {}
        self._candidates, self._ticked = Counter[str](), Counter[str]()
        self._going: dict[str, set[str]] = {}
        for row in decided.rows:
            if row.role == "candidate":
                self._rows[row.key] = row
            if row.action == DELETE_MANIFEST:
                self._whole.setdefault(row.repository, {})[str(row.digest)] = len(row.tags)
                self._candidates[row.repository] += row.role == "candidate"
        # Of what has to stay, how many tags go alone.
        self._alone: dict[tuple[str, str], int] = {}
        self._digests = self._tags = 0

    @cached_property
    def _condemned(self) -> dict[tuple[str, str], list[Candidate]]:
        """Return the candidates of each digest, but for those whose tag was refused."""
        condemned: dict[tuple[str, str], list[Candidate]] = {}
        for candidate in self._given:
            if (candidate.repository, candidate.tag, candidate.digest) not in self._refused:
                condemned.setdefault((candidate.repository, str(candidate.digest)), []).append(candidate)
        return condemned

    def selectable(self, key: str) -> bool:
        """Return whether a key is that of a candidate row."""
        return key in self._rows

    @no_collector()
    def prepare(self) -> None:
        """Build what the first click would have to wait for; may run beside everything else."""
        _ = self._condemned
        for repository in {row.repository for row in tuple(self._rows.values())}:
            self._graph.repository(repository)

    def set(self, key: str, *, selected: bool) -> None:
        """Select or deselect a candidate row; raises `UsageError` for a key that is none."""
        self.set_many((key,), selected=selected)

    @no_collector()
    def set_many(self, keys: Iterable[str], *, selected: bool) -> None:
        """Select or deselect candidate rows, each part of a graph once, however many of its rows are among them.

        Raises
        ------
        UsageError
            For a key that is none of a candidate row; nothing is changed then.
        """
        given = dict.fromkeys(keys)
        if odd := next((key for key in given if key not in self._rows), None):
            raise UsageError(f"{clean(odd, 200)!r} is not a row that can be selected")
        turned = [key for key in given if (key in self.keys) != selected]
        self.keys.symmetric_difference_update(turned)
        turned_in: dict[str, list[str]] = {}
        for row in map(self._rows.__getitem__, turned):
            if row.action == DELETE_MANIFEST:
                turned_in.setdefault(row.repository, []).append(str(row.digest))
            else:
                self._tags += 1 if selected else -1
        added: list[tuple[str, str]] = []
        discarded: list[tuple[str, str]] = []
        for repository, digests in turned_in.items():
            self._ticked[repository] += len(digests) if selected else -len(digests)
            (gone, back), tags_of = self._follow(repository, digests), self._whole[repository]
            self._tags += sum(map(tags_of.__getitem__, gone)) - sum(map(tags_of.__getitem__, back))
            added += [(repository, digest) for digest in gone]
            discarded += [(repository, digest) for digest in back]
        self._digests += len(added) - len(discarded)
        self._bytes.change(added, discarded)

    @property
    def digests(self) -> int:
        """How many digests go with this selection, those that go along included."""
        return self._digests

    @property
    def tags(self) -> int:
        """How many tags go with this selection."""
        return self._tags

    @property
    def bytes(self) -> int:
        """How many bytes come back after garbage collection."""
        return int(self._bytes.bytes)

    def _follow(self, repository: str, turned: Iterable[str]) -> tuple[AbstractSet[str], AbstractSet[str]]:
        """Return which digests of a repository now go, and which no longer, that some were selected or deselected."""
        going, ticked = self._going.setdefault(repository, set()), self._ticked[repository]
        gone, back = set[str](), set[str]()
        if ticked in (0, self._candidates[repository]):
            # Fewer candidates let nothing more go: without those that the plan refuses, the others let go what it says.
            whole = self._whole[repository]
            self._tags -= sum(self._alone.pop((repository, digest), 0) for digest in whole)
            gone, back = (whole.keys() - going, set()) if ticked else (set(), set(going))
        else:
            done: set[str] = set()
            for digest in (d for d in turned if d not in done):
                part, goes = self._decide(repository, digest)
                done |= part
                gone |= goes - going
                back |= (part & going) - goes
        going |= gone
        going -= back
        return gone, back

    def _decide(self, repository: str, digest: str) -> tuple[AbstractSet[str], AbstractSet[str]]:
        """Return what is tied to a digest, and what goes of it with this selection; count the tags that go alone in it."""
        graph = self._graph.repository(repository)
        if not graph.is_tied(digest):
            # Nothing goes along and nothing holds it: that it may go was decided when the plan was made.
            part = frozenset({digest})
            return part, part if f"{repository}@{digest}" in self.keys else frozenset()
        part = graph.component(digest)
        chosen = {d for d in part if f"{repository}@{d}" in self.keys}
        condemned = [c for d in chosen for c in self._condemned.get((repository, d), ())]
        decision = _settle(graph, chosen, {c.tag for c in condemned if c.tag is not None}, self._options)
        # Without its index or its subject, a digest may have to stay, and then its tags go alone.
        refused = decision.refused
        alone = Counter(str(c.digest) for c in condemned if _may_go_alone(c, refused.get(str(c.digest)), self._options))
        for d in part:
            self._tags += alone[d] - self._alone.pop((repository, d), 0)
            if alone[d]:
                self._alone[repository, d] = alone[d]
        return part, decision.going.keys()


# -- one repository --------------------------------------------------------------------------


@dataclass(slots=True)
class _Decision:
    """What goes in one part of a repository: digest → (role, the digest it goes along with)."""

    going: dict[str, tuple[str, str | None]]
    refused: dict[str, tuple[str, str]]


def _settle(graph: RepositoryGraph, chosen: set[str], tags: set[str], options: PlanOptions) -> _Decision:
    """Find the largest set that can go. What nothing is tied to, which is most, is a matter of its own tags."""
    tied = {digest for digest in chosen if graph.is_tied(digest)}
    decision = _settle_tied(graph, tied, tags, options)
    for digest in chosen - tied:
        if why := _never(graph, digest, options) or _held(graph, digest, {digest}, chosen, tags, options):
            decision.refused[digest] = why
        else:
            decision.going[digest] = ("candidate", None)
    return decision


def _settle_tied(graph: RepositoryGraph, chosen: set[str], tags: set[str], options: PlanOptions) -> _Decision:
    """Begin with all that might go, and take out what may not until nothing changes."""
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
    if not is_verifiable(digest):
        return "unverifiable", ""
    if not options.protect:
        return None
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
) -> tuple[list[Draft], list[PlanRow]]:
    # Once in order, and not by the candidate: to hash one takes as long as to judge it.
    judged = [(c, _not_plannable(c, graph, facts, unread=unread)) for c in candidates]
    obstacles = {c: why for c, why in judged if why}
    usable = [c for c, why in judged if not why]
    chosen = {str(c.digest) for c in usable}
    tags = {c.tag for c in usable if c.tag is not None}
    decision = _settle(graph, chosen, tags, options)
    refused = [c for c in usable if c.digest in decision.refused]
    alone = {c for c in refused if _may_go_alone(c, decision.refused[str(c.digest)], options)}
    if not options.allow_empty and _emptied(graph, decision, {str(c.tag) for c in alone}):
        staying = obstacles | dict.fromkeys(usable, ("would_empty", ""))
        return [], [_refused(c, facts, *why) for c, why in staying.items()]
    rows = _ordered(graph, decision, _reasons(usable), facts)
    rows += [_draft_for_tag(c, facts) for c in refused if c in alone]
    # An included digest goes with all its tags, those of unknown age too: none of them stays.
    staying = {c: why for c, why in obstacles.items() if why[0] != "unknown_age" or c.digest not in decision.going}
    staying |= {c: decision.refused[str(c.digest)] for c in refused}
    return rows, [_refused(c, facts, *why) for c, why in staying.items() if c not in alone]


def _not_plannable(
    candidate: Candidate, graph: RepositoryGraph, facts: _Facts, *, unread: bool
) -> tuple[str, str] | None:
    """Return why a candidate cannot even be considered: nothing is known of it, or not enough."""
    if candidate.tag is not None and graph.tags.get(candidate.tag, "") != candidate.digest:
        return "not_in_snapshot", ""
    if facts.of_v1 and (graph.repository, candidate.tag) in facts.of_v1:
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


def _ordered(graph: RepositoryGraph, decision: _Decision, reasons: Mapping[str, str], facts: _Facts) -> list[Draft]:
    """Draft the rows, with every index before its children and every subject before what refers to it, group by group."""
    needs = _needs(graph, decision.going)
    rows, done = [], set[str]()
    for digest in _topological(_in_groups(graph, decision), needs):
        role, along = decision.going[digest]
        rows.append(
            {
                "repository": graph.repository,
                "digest": digest,
                "tags": tuple(sorted(graph.tags_of.get(digest, ()))),
                "action": DELETE_MANIFEST,
                "role": role,
                "reason": reasons.get(digest, ""),
                "because": None if along is None else f"{graph.repository}@{along}",
                "needs": tuple(f"{graph.repository}@{d}" for d in needs[digest] if d in done),
                "row": facts.row(graph.repository, digest),
                **facts.fields(graph.repository, digest),
            }
        )
        done.add(digest)
    return rows


def _needs(graph: RepositoryGraph, going: Collection[str]) -> dict[str, list[str]]:
    """Return what must go before each digest: the indexes that list it, and what it is about, unless that comes after it.

    Hashes allow no circle, and tags do: that of a signature may be set to an index that lists what it signs. Then the
    index goes first all the same, for a run may end behind any row.
    """
    needs = {digest: [p for p in dict.fromkeys(graph.parents.get(digest, ())) if p in going] for digest in going}
    for digest in sorted(digest for digest in going if digest in graph.subjects):
        for subject in graph.subjects[digest]:
            if subject in going and subject not in needs[digest] and not _comes_after(subject, digest, needs):
                needs[digest].append(subject)
    return needs


def _comes_after(digest: str, other: str, needs: Mapping[str, list[str]]) -> bool:
    """Return whether a digest is another one, or must go after it."""
    waiting, seen = [digest], {digest}
    while waiting:
        if (one := waiting.pop()) == other:
            return True
        waiting += [before for before in needs[one] if before not in seen]
        seen.update(needs[one])
    return False


def _in_groups(graph: RepositoryGraph, decision: _Decision) -> list[str]:
    """Return what goes by its tags, and behind each what goes along with it.

    A run that ends early leaves few children without their index: where nothing has a tag, no later audit finds them.
    """
    by_name = sorted(decision.going, key=lambda d: (graph.tags_of.get(d, ("~",)), d))
    first: list[str] = []
    below: dict[str, list[str]] = {}
    for digest in by_name:
        _, along = decision.going[digest]
        (first if along is None else below.setdefault(along, [])).append(digest)
    ordered: dict[str, None] = {}
    stack = first[::-1]
    while stack:
        digest = stack.pop()
        if digest not in ordered:
            ordered[digest] = None
            stack += below.get(digest, ())[::-1]
    # At the end what goes along in a circle, each with the next.
    return [*ordered, *(digest for digest in by_name if digest not in ordered)]


def _topological(digests: list[str], needs: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield the digests, each after what it needs; a circle is cut, which takes indexes that lie about their children."""
    done: set[str] = set()
    for start in digests:
        if not needs[start]:
            if start not in done:
                done.add(start)
                yield start
            continue
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


def _draft_for_tag(candidate: Candidate, facts: _Facts) -> Draft:
    return {
        "repository": candidate.repository,
        "digest": candidate.digest,
        "tags": (str(candidate.tag),),
        "action": DELETE_TAG,
        "reason": candidate.reason,
        **facts.fields(candidate.repository, str(candidate.digest)),
    }


def _refused(candidate: Candidate, facts: _Facts, refusal: str, particular: str) -> PlanRow:
    detail = REFUSALS[refusal].format(particular or "another manifest")
    tags = (candidate.tag,) if candidate.tag is not None else ()
    fields = facts.fields(candidate.repository, candidate.digest) if candidate.digest else {}
    return PlanRow(
        repository=candidate.repository,
        digest=candidate.digest,
        tags=tags,
        reason=candidate.reason,
        refusal=refusal,
        detail=detail,
        **fields,
    )


def _with_bytes(snapshot: Snapshot, drafts: list[Draft]) -> tuple[list[PlanRow], bool]:
    """Return the rows with what each frees, and whether something of unknown size comes back too."""
    whole = [place for place, draft in enumerate(drafts) if draft["action"] == DELETE_MANIFEST]
    manifests = snapshot.manifests[["repository", "digest"]].iloc[[drafts[place].pop("row") for place in whole]]
    freed, blobs, unsized = Holders(snapshot).freed_in_order(manifests)
    of = dict(zip(whole, zip(freed, blobs, strict=True), strict=True))
    rows = []
    for place, draft in enumerate(drafts):
        count, frees = of.get(place, (0, ()))
        rows.append(PlanRow(**draft, freed_bytes=count, frees=frees))
    return rows, unsized


class _Facts:
    """What the tables say of a manifest, by repository and digest."""

    def __init__(self, snapshot: Snapshot, graph: Graph) -> None:
        manifests = snapshot.manifests
        self._graph, self._repository = graph, ""
        self._rows: dict[str, int] = {}
        self._kind, self._media_type = _words(manifests["kind"]), _words(manifests["media_type"])
        self._created = manifests["created"].to_numpy("datetime64[us]")
        # What is missing is -1, as no size is.
        self._content = manifests["content_bytes"].to_numpy("int64", na_value=-1)
        of_v1 = snapshot.tags[snapshot.tags["image_id"].notna()]
        self.of_v1 = set(zip(of_v1["repository"].astype("object"), of_v1["tag"].astype("object"), strict=True))
        gone = snapshot.problems[(snapshot.problems["error"] == "dangling").fillna(value=False)]
        self.dangling = set(zip(gone["repository"].astype("object"), gone["identifier"].astype("object"), strict=True))

    def kind(self, repository: str, digest: str) -> str:
        """Return the kind of a manifest, ``unknown`` where it was not read."""
        row = self.row(repository, digest)
        return "unknown" if row is None else str(self._kind(row))

    def fields(self, repository: str, digest: str) -> dict[str, Any]:
        """Return the fields of a `PlanRow` that describe its manifest."""
        row = self.row(repository, digest)
        if row is None:
            return {}
        media_type, size = self._media_type(row), int(self._content[row])
        # a plain time, or None: to pandas' own a tenth of a plan's time went
        created = self._created[row].item()
        return {
            "kind": str(self._kind(row)),
            "media_type": None if pd.isna(media_type) else str(media_type),
            "created": None if created is None else created.replace(tzinfo=UTC).isoformat(),
            "content_bytes": None if size < 0 else size,
        }

    def row(self, repository: str, digest: str) -> int | None:
        """Return the number of a manifest's row in the table, or None where it was not read."""
        # One repository after the other is decided: only the rows of the last one are kept by digest.
        if repository != self._repository:
            self._repository, self._rows = repository, self._graph.manifest_rows(repository)
        return self._rows.get(digest)


def _words(column: pd.Series[Any]) -> Callable[[int], Any]:
    """Return a function that returns the value in a row of a category."""
    codes, words = column.array.codes, [*column.cat.categories, float("nan")]
    return lambda row: words[codes[row]]
