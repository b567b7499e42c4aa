"""The rules of a policy again, one tag at a time and without any cleverness: what `regaudit.analysis.retention` must equal."""

from __future__ import annotations

import fnmatch
import itertools
import re
from dataclasses import dataclass

import pandas as pd

from regaudit.reference import split_attached_tag

# Each range as a person would put it, on keys of `version_key`.
RANGES = {
    "*": lambda v: True,
    ">=1.1": lambda v: v[:3] >= (1, 1, 0),
    "<2": lambda v: v[:3] < (2, 0, 0),
    ">1.0": lambda v: v[:3] >= (1, 1, 0),
    "<=1.1": lambda v: v[:3] < (1, 2, 0),
    "1.1": lambda v: v[:2] == (1, 1),
    "=1.1.0": lambda v: v == version_key(1, 1, 0),
    ">=1.0.1 <1.2.0": lambda v: version_key(1, 0, 1) <= v < version_key(1, 2, 0),
    "<1.2.0-rc.2 || 2": lambda v: v < version_key(1, 2, 0, "rc.2") or v[0] == 2,
    ">1.2.0-rc.1, <3": lambda v: v > version_key(1, 2, 0, "rc.1") and v[0] < 3,
}


def version_key(major, minor, patch, prerelease=""):
    parts = [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in prerelease.split(".")] if prerelease else []
    return (major, minor, patch, (0, *parts) if parts else (1,))


@dataclass(frozen=True)
class Version:
    """What a tag says: its numbers (None: not said), what is behind the hyphen, and the versions that it may mean."""

    numbers: tuple
    suffix: str

    @property
    def certain(self):
        _, minor, patch = self.numbers
        return patch is not None or (minor is not None and not self.suffix)

    def meanings(self):
        if self.numbers[2] is not None:
            return [version_key(*self.numbers, self.suffix)]
        choices = [[n] if n is not None else [*range(6), 10**9] for n in self.numbers]
        return [version_key(*numbers) for numbers in itertools.product(*choices)]


def parse(tag):
    found = re.fullmatch(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:_[0-9A-Za-z.-]+)?", tag or "")
    if found is None or any(len(n) > 1 and n[0] == "0" for n in found.groups()[:3] if n):
        return None
    numbers = tuple(None if n is None else int(n) for n in found.groups()[:3])
    bare = numbers[1] is None
    if bare and (found[4] or numbers[0] > 9999):
        return None
    return Version(numbers, found[4] or "")


@dataclass(eq=False)
class Item:
    repository: str
    tag: str | None
    content: str
    created: object
    pushed: object
    artifact: bool

    @property
    def name(self):
        return (self.repository, self.tag or self.content)

    def time(self, clock):
        moment = self.created if clock == "created" else self.pushed
        return None if pd.isna(moment) else moment


def items_of(snapshot, policy):
    listed = {(row.repository, row.digest) for row in snapshot.children.itertuples()}
    tagged = {(row.repository, row.digest) for row in snapshot.tags.itertuples()}
    found = []
    for row in snapshot.tags.itertuples():
        content = row.digest if isinstance(row.digest, str) else row.image_id
        if policy.section(row.repository) is None or not isinstance(content, str):
            continue
        if row.kind != "signature" and split_attached_tag(row.tag) is None:
            found.append(Item(row.repository, row.tag, content, row.created, row.pushed, row.kind == "artifact"))
    roots = []
    for row in snapshot.manifests.itertuples():
        own = (row.repository, row.digest)
        if own not in listed | tagged and not isinstance(row.subject_digest, str):
            roots.append(own)
            section = policy.section(row.repository)
            if section and any(rule.untagged for rule in section.expire):
                found.append(Item(row.repository, None, row.digest, row.created, pd.NaT, row.kind == "artifact"))
    return found, roots


def selected(rule, item, *, keeps):
    if item.tag is None:
        return False
    version = parse(item.tag)
    answers = []
    if rule.tags:
        answers.append(any(fnmatch.fnmatchcase(item.tag, pattern) for pattern in rule.tags))
    if rule.match:
        answers.append(re.fullmatch(rule.match, item.tag) is not None)
    if rule.semver:
        inside = [any(RANGES[rule.semver.text](v) for _ in "x") for v in version.meanings()] if version else []
        answers.append(any(inside) if keeps else bool(version and version.certain and all(inside)))
    if rule.prereleases is not None:
        sure = version is not None and (keeps or version.certain)
        answers.append(sure and bool(version.suffix) == rule.prereleases)
    return all(answers)


def condemns(rule, item, now):
    if rule.untagged != (item.tag is None) or not (rule.untagged or selected(rule, item, keeps=False)):
        return False
    if rule.older_than is None:
        return True
    moment = item.time(rule.clock)
    return moment is not None and now - moment > rule.older_than


def stream(rule, item):
    version = parse(item.tag)
    if rule.per == "repository":
        return ()
    if rule.per in {"major", "minor"}:
        numbers = version.numbers[: 1 if rule.per == "major" else 2] if version else (None,)
        return None if None in numbers else numbers
    if rule.per == "branch":
        return (re.sub(r"(?<=.)[-_.]g?[0-9a-f]{7,40}$", "", item.tag),)
    found = re.fullmatch(rule.per, item.tag)
    return found and found.groups()


def rank(rule, item, items, value):
    """Return how many digests of the same stream have a greater value, or None where the item has none."""
    own_stream = stream(rule, item)
    if own_stream is None or not selected(rule, item, keeps=True):
        return None
    best = {}
    for other in items:
        alike = other.repository == item.repository and other.artifact == item.artifact
        if (
            alike
            and selected(rule, other, keeps=True)
            and stream(rule, other) == own_stream
            and value(other) is not None
        ):
            best[other.content] = max(best.get(other.content, value(other)), value(other))
    return sum(v > best[item.content] for v in best.values()) if item.content in best else -1


def stable_version(item):
    version = parse(item.tag)
    if version is None or not version.certain or version.suffix:
        return None
    return tuple(n or 0 for n in version.numbers)


def saves(rule, item, items, now):
    if not selected(rule, item, keeps=True):
        return False
    moment, answers = item.time(rule.clock), []
    if rule.younger_than is not None:
        answers.append(moment is None or now - moment < rule.younger_than)
    if rule.newest is not None:
        place = rank(rule, item, items, lambda i: i.time(rule.clock))
        answers.append(place is not None and (moment is None or place < rule.newest))
    if rule.highest is not None:
        place = rank(rule, item, items, stable_version) if stable_version(item) else None
        answers.append(place is not None and place < rule.highest)
    return all(answers)


def in_grace(section, item, now):
    if section.grace is None:
        return False
    known = [t for t in (item.time("created"), item.time("pushed")) if t is not None]
    return not known or now - max(known) < section.grace


def used_contents(snapshot, used):
    """Return (repository, digest) of what is in use by digest, with every index above it, and (repository, tag)."""
    wanted, names = set(), set()
    for reference in used:
        repository, at, digest = reference.partition("/")[2].partition("@")
        if at:
            wanted.add((repository, digest))
        else:
            names.add(tuple(repository.rsplit(":", 1)))
    while (
        above := {
            (row.repository, row.index_digest)
            for row in snapshot.children.itertuples()
            if (row.repository, row.digest) in wanted
        }
        - wanted
    ):
        wanted |= above
    return wanted, names


class Verdicts:
    """What goes, as items, and what is held back, by name the word for why."""

    def __init__(self, snapshot, policy, used):
        self.snapshot, self.policy, self.used = snapshot, policy, used
        self.items, self.roots = items_of(snapshot, policy)
        self.going = [item for item in self.items if self.may_go(item)]
        self.held = {}

    def may_go(self, item):
        now, section = self.snapshot.taken_at, self.policy.section(item.repository)
        wanted, names = used_contents(self.snapshot, self.used)
        return (
            any(condemns(rule, item, now) for rule in section.expire)
            and not in_grace(section, item, now)
            and (item.repository, item.content) not in wanted
            and (item.repository, item.tag) not in names
            and not any(saves(rule, item, self.items, now) for rule in (*self.policy.keep, *section.keep))
        )

    def hold(self, word, which):
        self.held |= {item.name: word for item in self.going if which(item)}
        self.going = [item for item in self.going if item.name not in self.held]

    def hold_what_others_need(self):
        stays = {(i.repository, i.content) for i in self.items if i not in self.going}
        self.hold("alias", lambda item: (item.repository, item.content) in stays)
        gone = {(i.repository, i.content) for i in self.going}
        needed = {(row.repository, row.digest) for row in self.snapshot.tags.itertuples()} | set(self.roots)
        needed -= gone
        edges = [
            ((r.repository, r.index_digest), (r.repository, r.digest)) for r in self.snapshot.children.itertuples()
        ]
        while below := {child for index, child in edges if index in needed} - needed:
            needed |= below
        self.hold("index", lambda item: (item.repository, item.content) in needed)

    def limit(self, repository):
        section = self.policy.section(repository)
        mine = [item for item in self.items if item.repository == repository]
        goes = {item.content for item in self.going if item.repository == repository}
        left = {item.content for item in mine if item.tag is not None and item not in self.going}
        word = exceeded(section, len(goes), len({item.content for item in mine}))
        if section.minimum_left is not None and len(left) < section.minimum_left:
            word = "minimum_left"
        if goes and word:
            self.hold(word, lambda item: item.repository == repository)


def exceeded(limits, goes, everything):
    if limits.maximum_deletions is not None and goes > limits.maximum_deletions:
        return "maximum_deletions"
    if limits.maximum_percent is not None and goes * 100 > limits.maximum_percent * everything:
        return "maximum_percent"
    return None


def verdicts(snapshot, policy, used=()):
    """Return the names of what goes, and what is held back, by name the word for why."""
    found = Verdicts(snapshot, policy, used)
    found.hold("unread", lambda item: item.repository in snapshot.unread)
    if not policy.untag:
        found.hold_what_others_need()
    for repository in {item.repository for item in found.items}:
        least = policy.section(repository).minimum_tags
        if least is not None and sum(i.repository == repository and i.tag is not None for i in found.items) < least:
            found.hold("minimum_tags", lambda item, named=repository: item.repository == named)
        found.limit(repository)
    goes = {(item.repository, item.content) for item in found.going}
    if goes and exceeded(policy, len(goes), len({(item.repository, item.content) for item in found.items})):
        found.hold("whole_registry", lambda item: True)
    return {item.name for item in found.going}, found.held
