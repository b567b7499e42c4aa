"""Retention: what a policy lets go of a registry, what it holds back, and why, for any tag.

A tag may go if a rule under ``expire`` condemns it and no rule under ``keep``, no grace and no use saves
it. Beyond that, what a deletion would break is not proposed in the first place: a digest goes only if all
its tags may go and no index that stays lists it, so that the limits count what really goes. Where a limit is
exceeded nothing of its scope goes. Unknown is never old: no rule about age condemns what has no
believable time, and every rule that keeps the young or the newest keeps it.

Nothing here deletes, asks a registry or looks at a clock: age is measured at the time of the reading.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from regaudit.analysis.conditions import Condition, Scope, conditions, selectors
from regaudit.analysis.in_use import InUse
from regaudit.analysis.policy import Expire, Keep, Policy, Section, duration_text, duration_unit
from regaudit.analysis.tags import may_be_listed
from regaudit.errors import UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.reference import parse_registry
from regaudit.text import clean, count_of, displayed, escape, isoformat

HELD_BY = (
    *("unread", "alias", "index", "minimum_tags"),
    *("minimum_left", "maximum_deletions", "maximum_percent", "whole_registry"),
)

_DAY = np.timedelta64(1, "D")
_GRACE, _IN_USE = -2, -3  # beside the numbers of rules, which begin with 0; -1 is nobody
_COLUMNS = ["registry", "repository", "tag", "digest", "kind", "created", "created_source", "pushed", "pushed_source"]


def expired_tags(snapshot: Snapshot, policy: Policy, in_use: Iterable[InUse | str] = ()) -> pd.DataFrame:
    """Return the tags that a policy lets go: candidates for a plan.

    Signatures, and the tags that cosign and the referrers fallback attach to a digest, are neither
    counted nor returned: they go with their subject. A repository in which anything was not read has no
    candidates. What is held back, and why, is in `retention`.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    policy : Policy
    in_use : iterable of InUse or str
        Images that stay beside those that the policy names, as `references_in_use` returns them.

    Returns
    -------
    pandas.DataFrame
        A row for each tag, and for each manifest without one that a rule condemns, by repository and tag:
        registry, repository, tag, digest, kind, created, created_source, pushed, pushed_source,
        content_bytes, clock, age_days (Float64, by that clock; missing where it is not known), section,
        rule (the first that condemns it), reason. It goes straight into `plan`.

    Raises
    ------
    UsageError
        An image in `in_use` that cannot be read.

    Examples
    --------
    ``plan(snapshot, expired_tags(snapshot, Policy.load("policy.toml")))``
    """
    return retention(snapshot, policy, in_use).expired


def explain(snapshot: Snapshot, policy: Policy, reference: str, in_use: Iterable[InUse | str] = ()) -> Explanation:
    """Say what a policy means for one tag: which rule keeps or condemns it, and what would change that.

    Parameters
    ----------
    snapshot : Snapshot
    policy : Policy
    reference : str
        ``repository:tag``, or ``repository@digest`` for a manifest without a tag; the registry may stand in front.
    in_use : iterable of InUse or str
        As for `expired_tags`.

    Raises
    ------
    UsageError
        A tag that the snapshot does not have; the message names the one that is most like it.
    """
    return retention(snapshot, policy, in_use).explain(reference)


def retention(snapshot: Snapshot, policy: Policy, in_use: Iterable[InUse | str] = ()) -> Retention:
    """Return everything that a policy says about a snapshot, as one value.

    Parameters
    ----------
    snapshot, policy, in_use
        As for `expired_tags`.
    """
    used = (*policy.in_use, *(item if isinstance(item, InUse) else InUse.parse(item) for item in in_use))
    judged = _Judged(snapshot, policy, used)
    return Retention(
        expired=judged.frame(judged.going),
        held=judged.frame(judged.held > 0, held=True),
        notes=tuple(judged.notes),
        _judged=judged,
    )


@dataclass(frozen=True, eq=False)
class Retention:
    """What a policy says about a snapshot.

    Attributes
    ----------
    expired : pandas.DataFrame
        What may go, as `expired_tags` returns it.
    held : pandas.DataFrame
        What the rules alone would let go and something else holds back: the same columns, then held_by
        (``unread``, ``alias``, ``index``, ``minimum_tags``, ``minimum_left``, ``maximum_deletions``,
        ``maximum_percent``, ``whole_registry``) and detail, a sentence.
    notes : tuple of str
        What a person should know: repositories that were not read, limits that were exceeded, images in
        use that the registry as read does not have.
    """

    expired: pd.DataFrame
    held: pd.DataFrame
    notes: tuple[str, ...]
    _judged: _Judged = field(repr=False)

    def explain(self, reference: str) -> Explanation:
        """Say what the policy means for one tag; see `explain`."""
        return _Explaining(self._judged, reference).explanation()

    def headline(self) -> str:
        """Return in one line how much goes and how much is held back."""
        tags = int(self.expired["tag"].notna().sum())
        digests = int(self.expired.groupby("repository", observed=True)["digest"].nunique().sum())
        repositories = int(self.expired["repository"].nunique())
        return (
            f"{count_of(tags, 'tag')} may go, on {count_of(digests, 'digest')} "
            f"of {count_of(repositories, 'repository', 'repositories')}; "
            f"{count_of(len(self.held), 'is', 'are')} held back"
        )

    def __str__(self) -> str:
        return "\n".join([self.headline(), *(clean(note, 400) for note in self.notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes[:50])
        return displayed(f"<p>{escape(self.headline())}</p>" + (f"<ul>{notes}</ul>" if notes else ""))


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a policy means for one tag.

    Attributes
    ----------
    reference : str
        ``repository:tag``, or ``repository@digest``.
    verdict : str
        ``expired`` (it may go), ``kept``, or ``held`` (the rules would let it go, and something else holds it back).
    section, rule : str or None
        The section that decides on its repository, and the rule that decides on the tag.
    because : tuple of str
        Why: one sentence for each thing that condemns, keeps or holds it.
    changes : tuple of str
        What would make it otherwise.
    """

    reference: str
    verdict: str
    section: str | None
    rule: str | None
    because: tuple[str, ...]
    changes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain values."""
        texts = {"because": list(self.because), "changes": list(self.changes)}
        return {
            "reference": self.reference,
            "verdict": self.verdict,
            "section": self.section,
            "rule": self.rule,
            **texts,
        }

    def __str__(self) -> str:
        verdict = {"expired": "may go", "kept": "stays", "held": "is held back"}[self.verdict]
        lines = [f"{self.reference} {verdict}", *(f"  because {text}" for text in self.because)]
        return "\n".join(clean(line, 500) for line in [*lines, *(f"  would change if {text}" for text in self.changes)])

    def _repr_html_(self) -> str:
        return displayed("<br>".join(escape(line) for line in str(self).splitlines()))


# -- what is judged ----------------------------------------------------------------------------


class _Nodes:
    """The contents of a snapshot, numbered: a digest (or image id, on v1) in a repository is a node, from 0.

    Attributes
    ----------
    names : list of str
        The repositories; elsewhere they are places in it.
    of_tags, of_manifests, of_children, of_indexes : numpy.ndarray
        The node in each row of a table; -1 where it has none.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        tags, manifests, children = snapshot.tags, snapshot.manifests, snapshot.children
        self.names = sorted(
            {str(n) for frame in (tags, manifests, children) for n in frame["repository"].cat.categories}
        )
        self.digests = tags["digest"].cat.categories
        self._places = pd.Index(self.names, dtype=object)
        image_ids, known = pd.factorize(tags["image_id"])
        # One number for each digest, and after them one for each image id.
        self._width = len(self.digests) + len(known)
        by_id = np.where(image_ids < 0, -1, self.places(tags) * self._width + len(self.digests) + image_ids)
        by_digest = self._keys(tags, "digest")
        keys = [
            np.where(by_digest < 0, by_id, by_digest),
            self._keys(manifests, "digest"),
            self._keys(children, "digest"),
            self._keys(children, "index_digest"),
        ]
        codes, self._known = pd.factorize(np.concatenate([[-1], *keys]))  # what is missing comes first, as 0
        parts = np.split(codes[1:] - 1, np.cumsum([len(key) for key in keys])[:-1])
        self.of_tags, self.of_manifests, self.of_children, self.of_indexes = parts
        self.repository = self._known[1:] // max(self._width, 1)

    def __len__(self) -> int:
        return len(self._known) - 1

    def mark(self, nodes: Any) -> Any:
        """Return for every node whether it is among some."""
        marked = np.zeros(len(self) + 1, dtype=bool)  # the last is that of -1
        marked[nodes] = True
        marked[-1] = False
        return marked

    def places(self, frame: pd.DataFrame) -> Any:
        """Return the place in `names` of the repository in each row of a table; -1 where it is missing."""
        column = frame["repository"]
        return np.append(self._places.get_indexer(column.cat.categories), -1)[column.cat.codes.to_numpy()]

    def find(self, pairs: Iterable[tuple[str, str]]) -> Any:
        """Return the nodes of some repositories and digests; -1 where the snapshot has none."""
        repositories, digests = zip(*pairs, strict=True)
        place, code = self._places.get_indexer(list(repositories)), self.digests.get_indexer(list(digests))
        key = np.where((place < 0) | (code < 0), -1, place * self._width + code)
        return pd.Index(self._known).get_indexer(key) - 1

    def _keys(self, frame: pd.DataFrame, column: str) -> Any:
        """Return a number for the repository and the digest in each row; -1 where there is none."""
        digest = frame[column]
        code = np.append(self.digests.get_indexer(digest.cat.categories), -1)[digest.cat.codes.to_numpy()]
        return np.where(code < 0, -1, self.places(frame) * self._width + code)


class _Items:
    """What a policy judges, as columns: the tags that stand for themselves, and manifests that nothing holds.

    Attributes
    ----------
    repository : numpy.ndarray
        The place of the repository in ``nodes.names``.
    node : numpy.ndarray
        The content; equal for the tags on one digest.
    source : numpy.ndarray
        The row in the table of tags or, where `tagged` is false, of manifests.
    """

    def __init__(self, snapshot: Snapshot, scope: Callable[[str], tuple[int, bool]]) -> None:
        tags, manifests = snapshot.tags, snapshot.manifests
        self.nodes = _Nodes(snapshot)
        scopes = [scope(name) for name in self.nodes.names]
        # The last stands for a repository that is missing.
        self.section_of = np.array([section for section, _ in scopes] + [-1], dtype="int64")
        wants_untagged = np.array([wants for _, wants in scopes] + [False], dtype=bool)
        self.roots = self._roots(manifests)
        place = self.nodes.places(tags)
        listed = may_be_listed(tags).to_numpy() & (self.nodes.of_tags >= 0) & (self.section_of[place] >= 0)
        rows, others = np.flatnonzero(listed), self.roots[wants_untagged[self.nodes.places(manifests)[self.roots]]]
        self.source = np.concatenate([rows, others])
        self.tagged = np.arange(len(self.source)) < len(rows)
        self.node = np.concatenate([self.nodes.of_tags[rows], self.nodes.of_manifests[others]])
        self.repository = np.concatenate([place[rows], self.nodes.places(manifests)[others]])
        self.section = self.section_of[self.repository]
        named = pa.array(tags["tag"].iloc[rows], type=pa.string(), from_pandas=True)
        self.tag = pa.concat_arrays([named, pa.nulls(len(others), pa.string())])
        self.artifact = _both(tags["kind"] == "artifact", rows, manifests["kind"] == "artifact", others)
        self._created = np.concatenate([_moments(tags["created"])[rows], _moments(manifests["created"])[others]])
        never = np.full(len(others), "NaT", dtype="datetime64[us]")
        self._pushed = np.concatenate([_moments(tags["pushed"])[rows], never])

    def __len__(self) -> int:
        return len(self.source)

    def time(self, clock: str) -> Any:
        """Return the time of each item by a clock."""
        return self._created if clock == "created" else self._pushed

    def _roots(self, manifests: pd.DataFrame) -> Any:
        """Return the rows of manifests without a tag that no index lists and that refer to nothing."""
        held = self.nodes.mark(self.nodes.of_tags) | self.nodes.mark(self.nodes.of_children)
        return np.flatnonzero(manifests["subject_digest"].isna().to_numpy() & ~held[self.nodes.of_manifests])


def _both(first: pd.Series[Any], rows: Any, second: pd.Series[Any], others: Any) -> Any:
    return np.concatenate([first.to_numpy(dtype=bool)[rows], second.to_numpy(dtype=bool)[others]])


def _moments(column: pd.Series[Any]) -> Any:
    return column.dt.tz_convert(None).to_numpy(dtype="datetime64[us]")


class _Judged:
    """A policy applied to a snapshot: for each item who condemns it, who saves it, and what holds it back.

    Attributes
    ----------
    rules : list
        All rules; `condemned` and `saved` have places in it, the first that applies; -1 is none.
    going : numpy.ndarray of bool
        What may go.
    held : numpy.ndarray
        1 + the place in `HELD_BY` of what holds an item back; 0 for nothing.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy, used: tuple[InUse, ...]) -> None:
        self.snapshot, self.policy, self.used = snapshot, policy, used
        self.now = np.datetime64(snapshot.taken_at.astimezone(UTC).replace(tzinfo=None), "us")
        self.items = _Items(snapshot, self._scope)
        size = len(self.items)
        self.rules: list[tuple[Section, Keep | Expire]] = []
        self.condemned, self.saved = np.full(size, -1, dtype="int64"), np.full(size, -1, dtype="int64")
        self.user = np.full(size, -1, dtype="int64")
        self.held = np.zeros(size, dtype="int8")
        self.details: dict[tuple[int, int], str] = {}  # by what holds, and the repository
        self.notes: list[str] = []
        self._protect_used()
        for place, section in enumerate(policy.sections):
            self._judge(section, np.flatnonzero(self.items.section == place))
        self.going = (self.condemned >= 0) & (self.saved == -1)
        self._hold_unread()
        if not policy.untag:
            self._hold_aliases()
            self._hold_children()
        self._hold_small()
        self._limit_repositories()
        self._limit_registry()

    def _scope(self, repository: str) -> tuple[int, bool]:
        """Return the place of the section that decides on a repository (-1: none), and whether it asks for untagged manifests."""
        for place, section in enumerate(self.policy.sections):
            if section.matches(repository):
                return place, any(rule.untagged for rule in section.expire)
        return -1, False

    def _judge(self, section: Section, at: Any) -> None:
        scope = Scope(self.items, at, self.now)
        for rule in section.expire:
            self._apply(section, rule, scope, self.condemned)
        for keep in (*self.policy.keep, *section.keep):
            self._apply(section, keep, scope, self.saved)
        if section.grace is not None:
            free = self.saved[at] == -1
            self.saved[at[free & scope.in_grace(section.grace)]] = _GRACE

    def _apply(self, section: Section, rule: Keep | Expire, scope: Scope, who: Any) -> None:
        hit = np.ones(len(scope.places), dtype=bool)
        for condition in conditions(rule, scope):
            hit &= condition.holds
        hit &= who[scope.places] == -1
        who[scope.places[hit]] = len(self.rules)
        self.rules.append((section, rule))

    # -- what is in use -----------------------------------------------------------------------

    def _protect_used(self) -> None:
        hosts = {
            _without_default_port(h) for h in (parse_registry(self.snapshot.registry).host, *self.policy.also_known_as)
        }
        ours = [
            (place, used)
            for place, used in enumerate(self.used)
            if used.reference is None or _without_default_port(used.reference.registry.host) in hosts
        ]
        if not ours:
            return
        nodes = self._used_nodes(ours)
        user = np.full(len(self.items.nodes) + 1, -1, dtype="int64")
        user[list(nodes)] = list(nodes.values())
        self.user = user[self.items.node]
        names = self._used_tags(ours)
        rows = np.full(len(self.snapshot.tags), -1, dtype="int64")
        rows[list(names)] = list(names.values())
        tagged = np.flatnonzero(self.items.tagged)
        by_name = rows[self.items.source[tagged]]
        self.user[tagged] = np.where(by_name >= 0, by_name, self.user[tagged])
        self.saved[self.user >= 0] = _IN_USE
        self._say_what_is_lost(ours, {*nodes.values(), *names.values()})

    def _used_tags(self, ours: list[tuple[int, InUse]]) -> dict[int, int]:
        """Return the tags that are in use: by their rows, the place of who uses it."""
        wanted = {(u.reference.repository, u.reference.tag): p for p, u in ours if u.reference and u.reference.tag}
        tags = self.snapshot.tags
        named = tags["tag"].isin({tag for _, tag in wanted}).to_numpy()
        rows = np.flatnonzero(named & tags["repository"].isin({repository for repository, _ in wanted}).to_numpy())
        pairs = zip(tags["repository"].iloc[rows], tags["tag"].iloc[rows], strict=True)
        return {int(row): wanted[pair] for row, pair in zip(rows, pairs, strict=True) if pair in wanted}

    def _used_nodes(self, ours: list[tuple[int, InUse]]) -> dict[int, int]:
        """Return the digests that are in use, and every index that holds one: by node, the place of who uses it."""
        found: dict[int, int] = {}
        manifests = self.snapshot.manifests
        bare = {str(used.digest): place for place, used in ours if used.digest}
        for column in ("digest", "config_digest") if bare else ():
            hit = np.flatnonzero(manifests[column].isin(list(bare)).to_numpy())
            users = (bare[str(digest)] for digest in manifests[column].iloc[hit])
            found |= dict(zip(self.items.nodes.of_manifests[hit].tolist(), users, strict=True))
        exact = {
            (u.reference.repository, str(u.reference.digest)): p for p, u in ours if u.reference and u.reference.digest
        }
        if exact:
            found |= dict(zip(self.items.nodes.find(exact).tolist(), exact.values(), strict=True))
        found.pop(-1, None)
        self._ascend(found)
        return found

    def _ascend(self, found: dict[int, int]) -> None:
        """Add every index above what is found, for the same user."""
        below, above = self.items.nodes.of_children, self.items.nodes.of_indexes
        frontier = list(found)
        while frontier:
            rows = np.flatnonzero(self.items.nodes.mark(frontier)[below])
            pairs = zip(above[rows].tolist(), below[rows].tolist(), strict=True)
            reached = {index: found[child] for index, child in pairs if index not in found}
            found |= reached
            frontier = list(reached)

    def _say_what_is_lost(self, ours: list[tuple[int, InUse]], reached: set[int]) -> None:
        lost = [used.text for place, used in ours if used.reference and place not in reached]
        if lost:
            shown = ", ".join(lost[:3]) + (" …" if len(lost) > 3 else "")
            self.notes.append(
                f"{count_of(len(lost), 'image in use is', 'images in use are')} not in the registry as read: {shown}"
            )

    # -- what holds back ----------------------------------------------------------------------

    def _hold(self, which: Any, word: str) -> None:
        self.held[which & self.going] = 1 + HELD_BY.index(word)
        self.going &= ~which

    def _hold_unread(self) -> None:
        unread = self.snapshot.unread
        places = [place for place, name in enumerate(self.items.nodes.names) if name in unread]
        for place in places:
            self.details[HELD_BY.index("unread"), place] = "something in the repository was not read: audit it again"
        self._hold(np.isin(self.items.repository, places), "unread")
        covered = sorted(name for name in unread if self.policy.section(name) is not None)
        if covered:
            shown = ", ".join(covered[:3]) + (" …" if len(covered) > 3 else "")
            self.notes.append(
                f"nothing goes in {count_of(len(covered), 'repository', 'repositories')} where something was not read: {shown}"
            )

    def _hold_aliases(self) -> None:
        self._hold(self.items.nodes.mark(self.items.node[~self.going])[self.items.node], "alias")

    def _hold_children(self) -> None:
        nodes = self.items.nodes
        going = nodes.mark(self.items.node[self.going])
        if not going[nodes.of_children].any():
            return
        # What stands by itself, with a tag or without, and does not go; of that the children stay, and theirs.
        roots = nodes.of_manifests[self.items.roots]
        stays = (nodes.mark(nodes.of_tags) | nodes.mark(roots)) & ~going
        while (reached := stays[nodes.of_indexes] & ~stays[nodes.of_children]).any():
            stays[nodes.of_children[reached]] = True
        self._hold(stays[self.items.node], "index")

    def _hold_small(self) -> None:
        """Hold back what goes in a repository that has too few tags to be looked at; so it is day after day, and no news."""
        tags = np.bincount(self.items.repository[self.items.tagged], minlength=len(self.items.nodes.names))
        for place in np.unique(self.items.repository[self.going]).tolist():
            least = self.policy.sections[self.items.section_of[place]].minimum_tags
            if least is not None and tags[place] < least:
                why = f"the repository has {count_of(tags[place], 'tag')}, and minimum_tags = {least:,}"
                self.details[HELD_BY.index("minimum_tags"), place] = why
                self._hold(self.items.repository == place, "minimum_tags")

    def _per_repository(self) -> dict[str, Any]:
        """Return for each repository how many digests it has, how many go, and how many keep a tag."""
        nodes, node = self.items.nodes, self.items.node
        parts = {"all": node, "going": node[self.going], "left": node[self.items.tagged & ~self.going]}
        size = len(nodes.names)
        return {n: np.bincount(nodes.repository[nodes.mark(part)[:-1]], minlength=size) for n, part in parts.items()}

    def _limit_repositories(self) -> None:
        counts = self._per_repository()
        columns = [counts[name].tolist() for name in ("all", "going", "left")]
        held: dict[str, list[int]] = {}
        for place, (every, going, left) in enumerate(zip(*columns, strict=True)):
            if not going:
                continue
            section = self.policy.sections[self.items.section_of[place]]
            found = _limited(section, every, going, left, untag=self.policy.untag)
            if found is None:
                continue
            word, why = found
            held.setdefault(word, []).append(place)
            self.details[HELD_BY.index(word), place] = why
            self.notes.append(f"nothing goes in {self.items.nodes.names[place]}: {why}")
        for word, places in held.items():
            self._hold(np.isin(self.items.repository, places), word)

    def _limit_registry(self) -> None:
        counts = self._per_repository()
        going, every = int(counts["going"].sum()), int(counts["all"].sum())
        if going and (found := _exceeded(self.policy, going, every, untag=self.policy.untag)):
            why = f"in all repositories together, {found[1]}"
            self.details[HELD_BY.index("whole_registry"), -1] = why
            self.notes.append(f"nothing goes: {why}")
            self._hold(np.ones(len(self.items), dtype=bool), "whole_registry")

    def detail(self, item: int) -> str:
        """Return the sentence that says what holds an item back."""
        word = int(self.held[item]) - 1
        found = self.details.get((word, int(self.items.repository[item])), self.details.get((word, -1)))
        if found is not None:
            return found
        if HELD_BY[word] == "index":
            return "an index that stays lists it"
        return "its digest also carries a tag that stays"

    # -- the tables ---------------------------------------------------------------------------

    def frame(self, which: Any, *, held: bool = False) -> pd.DataFrame:
        """Return some items as a table."""
        at = np.flatnonzero(which)
        table = self._rows(at).assign(**self._verdicts(at))
        if held:
            words = pd.Categorical.from_codes(self.held[at].astype("int64") - 1, categories=list(HELD_BY))
            table = table.assign(held_by=words, detail=pd.Series(self._details(at), index=table.index, dtype="string"))
        return table.sort_values(["repository", "tag", "digest"], ignore_index=True)

    def _rows(self, at: Any) -> pd.DataFrame:
        tags, manifests = self.snapshot.tags, self.snapshot.manifests
        tagged = self.items.tagged[at]
        named = tags.iloc[self.items.source[at[tagged]]][[*_COLUMNS, "content_bytes"]]
        bare = manifests.iloc[self.items.source[at[~tagged]]]
        if bare.empty:
            return named.reset_index(drop=True)
        missing = {
            name: pd.Series(pd.NA if name != "pushed" else pd.NaT, index=bare.index, dtype=tags[name].dtype)
            for name in ("tag", "pushed", "pushed_source")
        }
        rows = pd.concat([named, bare.assign(**missing)[list(named.columns)]], ignore_index=True)
        categories = [name for name in named if isinstance(tags[name].dtype, pd.CategoricalDtype)]
        for name in (name for name in categories if name not in {"registry", "repository"}):
            rows[name] = rows[name].astype(tags[name].dtype)
        return rows.astype(dict.fromkeys(("registry", "repository"), "category"))

    def _verdicts(self, at: Any) -> dict[str, Any]:
        rule = self.condemned[at]
        named = [(section.name, rule.name, rule.clock) for section, rule in self.rules]
        columns = {
            name: pd.Categorical.from_codes(*_codes([each[place] for each in named], rule))
            for place, name in enumerate(("section", "rule", "clock"))
        }
        age = np.full(len(at), np.timedelta64("NaT", "us"))
        for clock in ("created", "pushed"):
            by = np.asarray(columns["clock"] == clock)
            age[by] = self.now - self.items.time(clock)[at[by]]
        days = pd.array(age / _DAY, dtype="Float64")
        days[np.isnat(age)] = pd.NA
        reasons = pd.Series(self._reasons(at, rule, age), dtype="string")
        return {
            "clock": columns["clock"],
            "age_days": days,
            "section": columns["section"],
            "rule": columns["rule"],
            "reason": reasons,
        }

    def _reasons(self, at: Any, condemned: Any, age: Any) -> Any:
        reasons = np.full(len(at), "", dtype=object)
        for number in np.unique(condemned):
            rule = self.rules[number][1]
            here = np.flatnonzero(condemned == number)
            asks = "; ".join(selectors(rule).values())
            if not isinstance(rule, Expire) or rule.older_than is None:
                reasons[here] = asks
                continue
            seconds, unit = duration_unit(rule.older_than)
            ages = pc.cast(pa.array((age[here] // np.timedelta64(seconds, "s")).astype("int64")), pa.string())
            start = f"{asks}; " if asks else ""
            start += f"older than {duration_text(rule.older_than)} by {rule.clock} ("
            reasons[here] = pc.binary_join_element_wise(start, ages, f" {unit})", "").to_numpy(zero_copy_only=False)
        return reasons

    def _details(self, at: Any) -> list[str]:
        pairs = pd.Series(
            list(zip(self.held[at].tolist(), self.items.repository[at].tolist(), strict=True)), dtype=object
        )
        first = {pair: self.detail(int(at[place])) for place, pair in pairs.drop_duplicates().items()}
        return [first[pair] for pair in pairs]


def _codes(words: list[str], places: Any) -> tuple[Any, list[str]]:
    distinct = list(dict.fromkeys(words))
    to = np.array([distinct.index(word) for word in words], dtype="int64")
    return to[places] if len(to) else np.array([], dtype="int64"), distinct


def _limited(section: Section, every: int, going: int, left: int, *, untag: bool) -> tuple[str, str] | None:
    """Return which limit of a section is exceeded in a repository, and the sentence that says so."""
    if section.minimum_left is not None and left < section.minimum_left:
        return (
            "minimum_left",
            f"{count_of(left, 'digest')} with a tag would be left, and minimum_left = {section.minimum_left:,}",
        )
    return _exceeded(section, going, every, untag=untag)


def _exceeded(limits: Section | Policy, going: int, every: int, *, untag: bool) -> tuple[str, str] | None:
    """Return which limit is exceeded, and the sentence that says so, in the unit that it counts: see docs/policies.md."""
    most, percent = limits.maximum_deletions, limits.maximum_percent
    what = "digests would go or lose a tag" if untag else "digests would go"
    beside = "what goes along with them is not counted"
    if most is not None and going > most:
        return "maximum_deletions", f"{going:,} {what} ({beside}), and maximum_deletions = {most:,}"
    if percent is not None and going * 100 > percent * every:
        share = f"{going:,} of {every:,} {what} ({going * 100 / every:.1f} %; {beside})"
        return "maximum_percent", f"{share}, and maximum_percent = {percent:g}"
    return None


def _without_default_port(host: str) -> str:
    return host.removesuffix(":443").removesuffix(":80")


# -- explaining --------------------------------------------------------------------------------


class _Explaining:
    """Finds the words for one tag."""

    def __init__(self, judged: _Judged, reference: str) -> None:
        self.judged, self.items = judged, judged.items
        self.repository, self.tag, self.digest = _parse(judged.snapshot, reference)
        self.name = f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.digest}"
        self.section = judged.policy.section(self.repository)

    def explanation(self) -> Explanation:
        """Return the explanation."""
        item = self._item()
        if self.section is None:
            return self._made(
                "kept", None, ["no section matches its repository"], ["a section of the policy matches it"]
            )
        if item is None:
            return self._made("kept", None, [self._why_not_judged()], [])
        condemning, missing = self._rules(item, self.section.expire)
        saving, _ = self._rules(item, (*self.judged.policy.keep, *self.section.keep))
        saving = [*self._uses(item), *self._grace(item, self.section), *saving]
        if saving:
            ends = "what keeps it ends: " + ", and ".join(end for _, _, end in saving)
            changes = [ends, *([] if condemning else [f"besides {text}" for text in missing])]
            return self._made("kept", saving[0][0], [text for _, text, _ in saving], changes)
        if not condemning:
            return self._made("kept", None, ["no rule under expire condemns it"], missing)
        why = [text for _, text, _ in condemning]
        rule = condemning[0][0]
        if self.judged.held[item]:
            return self._made("held", rule, [*why, f"but {self._detail(item)}"], [self._release(item)])
        selector = f"tags = ['{self.tag}']" if self.tag else "tags, on one that is put on it"
        return self._made("expired", rule, why, [f"a rule under keep saves it, as with {selector}"])

    def _made(self, verdict: str, rule: str | None, because: list[str], changes: list[str]) -> Explanation:
        section = None if self.section is None else self.section.name
        return Explanation(self.name, verdict, section, rule, tuple(because), tuple(changes))

    def _item(self) -> int | None:
        """Return the place of the tag among what is judged; None where it is not judged."""
        tags, manifests = self.judged.snapshot.tags, self.judged.snapshot.manifests
        table = tags if self.tag else manifests
        column, value = ("tag", self.tag) if self.tag else ("digest", self.digest)
        rows = np.flatnonzero((table["repository"] == self.repository).to_numpy() & (table[column] == value).to_numpy())
        if not len(rows):
            raise UsageError(f"{clean(self.name, 300)!r} is not in the snapshot{self._nearest()}")
        found = np.flatnonzero((self.items.source == rows[0]) & (self.items.tagged == bool(self.tag)))
        return int(found[0]) if len(found) else None

    def _nearest(self) -> str:
        tags = self.judged.snapshot.tags
        known = tags.loc[tags["repository"] == self.repository, "tag"].tolist()
        near = difflib.get_close_matches(self.tag or "", known, n=1)
        if near:
            return f": did you mean {clean(near[0], 130)!r}?"
        if known:
            return f", where {clean(self.repository, 200)} has {', '.join(known[:5])}{' …' if len(known) > 5 else ''}"
        repositories = self.judged.snapshot.repositories
        near = difflib.get_close_matches(self.repository, repositories, n=1)
        like = f", such as {near[0]}" if near else ""
        return f": write REPOSITORY:TAG with a repository that was read{like}"

    def _why_not_judged(self) -> str:
        if self.tag is None:
            return "it has a tag, an index lists it, it refers to another manifest, or no rule is about manifests without a tag"
        tags = self.judged.snapshot.tags
        row = tags[(tags["repository"] == self.repository) & (tags["tag"] == self.tag)]
        if not may_be_listed(row).all():
            return "it is a signature or attached to a digest, and goes with that"
        return "its manifest is gone or was not read, so that nothing can be said of it"

    def _rules(self, item: int, rules: Iterable[Keep | Expire]) -> tuple[list[tuple[str, str, str]], list[str]]:
        """Return the rules that apply as (name, sentence, what would end it), and what the others lack."""
        applying, missing = [], []
        for rule in rules:
            asked = list(conditions(rule, self._scope))
            lacking = [condition for condition in asked if not condition.holds[self._place(item)]]
            if not lacking:
                applying.append(self._applying(rule, asked, item))
            elif asked[0] is not lacking[0]:  # a rule about manifests without a tag has nothing to say of a tag
                lacks = " and ".join(self._state(condition, item) for condition in lacking)
                missing.append(f"the rule {rule.name!r} holds, which also asks: {lacks}")
        return applying, missing

    def _applying(self, rule: Keep | Expire, asked: list[Condition], item: int) -> tuple[str, str, str]:
        word = "expire" if isinstance(rule, Expire) else "keep"
        states = " and ".join(self._state(condition, item) for condition in asked[1:] or asked)
        movable = [text for condition in asked if (text := condition.ends(self._place(item)))]
        how = f"ends ({'; or '.join(movable)})" if movable else "is changed"
        end = f"the rule {rule.name!r} {how}"
        return rule.name, f"the rule {rule.name!r} under {word} holds: {states}", end

    def _state(self, condition: Condition, item: int) -> str:
        says = condition.says(self._place(item))
        return f"{condition.asks} ({says})" if says else condition.asks

    def _place(self, item: int) -> int:
        return int(np.searchsorted(self._scope.places, item))

    @cached_property
    def _scope(self) -> Scope:
        # Whatever a rule counts, it counts within a repository.
        place = self.items.nodes.names.index(self.repository)
        return Scope(self.items, np.flatnonzero(self.items.repository == place), self.judged.now)

    def _uses(self, item: int) -> list[tuple[str, str, str]]:
        place = int(self.judged.user[item])
        if place < 0:
            return []
        used = self.judged.used[place]
        where = f" ({used.where})" if used.where else ""
        return [("in use", f"it is in use, or holds what is: {used.text}{where}", f"{used.text} is no longer in use")]

    def _grace(self, item: int, section: Section) -> list[tuple[str, str, str]]:
        if section.grace is None or not self._scope.in_grace(section.grace)[self._place(item)]:
            return []
        latest = np.fmax(self.items.time("created")[item], self.items.time("pushed")[item])
        if np.isnat(latest):
            return [("grace", "there is a grace, and its age is not known by either clock", "grace is left out")]
        end = isoformat(latest.item().replace(tzinfo=UTC) + section.grace)
        return [("grace", f"it is within the grace of {duration_text(section.grace)}", f"its grace ends (at {end})")]

    def _detail(self, item: int) -> str:
        word = HELD_BY[self.judged.held[item] - 1]
        if word == "alias":
            same = np.flatnonzero((self.items.node == self.items.node[item]) & ~self.judged.going)
            names = [str(self.items.tag[int(p)]) for p in same if self.judged.held[p] != self.judged.held[item]]
            return f"its digest also carries {', '.join(names[:5])}, which stays"
        return self.judged.detail(item)

    def _release(self, item: int) -> str:
        return {
            "unread": "the repository is read without a problem",
            "alias": "the other tag goes too; or, with untag = true, it may go alone",
            "index": "the index goes too",
            "minimum_tags": "it has more tags, or minimum_tags is lower",
            "minimum_left": "fewer go at once, or minimum_left is lower",
            "maximum_deletions": "fewer go at once, or maximum_deletions is higher",
            "maximum_percent": "fewer go at once, or maximum_percent is higher",
            "whole_registry": "fewer go at once, or the limits of the whole policy are higher",
        }[HELD_BY[self.judged.held[item] - 1]]


def _parse(snapshot: Snapshot, reference: str) -> tuple[str, str | None, str | None]:
    name = str(reference).removeprefix(f"{snapshot.registry}/")
    repository, at, digest = name.partition("@")
    if at:
        return repository.rpartition(":")[0] or repository, None, digest
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag or not tag:
        raise UsageError(f"{clean(reference, 200)!r} names no tag: write repository:tag, or repository@digest")
    return repository, tag, None


__all__ = ["Explanation", "Retention", "expired_tags", "explain", "retention"]
