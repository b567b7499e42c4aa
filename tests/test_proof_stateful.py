"""Whatever people, faults and crashes do, in any order: only reviewed things go, nothing kept breaks, the journal tells the truth.

A Hypothesis state machine against the sandbox and against docker-registry; `grounds` knows what is there, and notes each deletion that
arrives over the wire. With ``HYPOTHESIS_PROFILE=long`` a thousand lives, and two hundred real ones.
"""

import itertools
import json
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import cases
from grounds import on_docker_registry, on_sandbox
from hypothesis import HealthCheck, Phase, event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from regaudit.cleaner import execution, surroundings
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.journal import Journal
from regaudit.cleaner.plan import plan
from regaudit.cleaner.rows import DELETE_TAG, PUT_INDEX
from regaudit.errors import PlanError
from regaudit.inventory.collect import collect
from regaudit.manifest import OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from regaudit.reference import Digest, attached_tag

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MAY_BE_GONE = frozenset({"deleted", "deleted_unconfirmed", "unknown", "not_deleted", "lost"})
NOT_ASKED = frozenset({"skipped", "failed", "repository_missing", "already_absent"})
NUMBER = itertools.count()
TALLY = Counter()


class Crash(BaseException):
    """The process dies here, as far as the cleaner can tell."""


FAULTS = st.sampled_from(
    [
        None,
        None,
        None,
        {"method": "DELETE", "status": 500},
        {"method": "DELETE", "status": 429, "retry_after": 0},
        {"method": "DELETE", "status": 503, "retry_after": 0},
        {"method": "DELETE", "drop": "after"},
        {"method": "DELETE", "drop": "before"},
        {"method": "DELETE", "status": 403},
        {"method": "GET", "status": 500},
        {"method": "HEAD", "status": 500},
        {"path": "/v2/*/tags/list", "status": 500},
        {"path": "/v2/*/referrers/*", "status": 500},
        "late",
    ]
)
FEW = st.integers(0, 6)
CRASHES = st.one_of(
    st.none(), st.none(), st.tuples(st.sampled_from(["journal", "wire"]), st.booleans(), st.integers(0, 25))
)
DEEDS = st.sampled_from(
    ["push", "push", "index", "index", "sig", "subject", "fallback", "new tag", "retag", "copy", "delete", "untag"]
)
MEDDLING = st.lists(st.tuples(DEEDS, FEW, FEW), max_size=3)

WEATHER = {
    "fault": FAULTS,
    "times": st.integers(1, 3),
    "skip": st.integers(0, 5),  # the probe takes two deletions
    "crash": CRASHES,
    "meddling": MEDDLING,
    "race": st.sampled_from([None, None, None, "retag", "new tag", "index"]),
}


class Life(RuleBasedStateMachine):
    """A registry's life, with a cleaner in it."""

    ground = None  # where all of them live, each in repositories of its own
    whole = 0  # of how many steps a whole life is

    def __init__(self):
        super().__init__()
        self.steps = -1  # to begin is none

    @invariant()
    def a_step_more(self):
        self.steps += 1

    @initialize()
    def begin(self):
        number = next(NUMBER)
        self.names = [f"life{number}/app", f"life{number}/web"]
        self.pattern = f"life{number}/*"
        self.store, self.wire, self.door = self.ground.store, self.ground.wire, self.ground.door
        self.folder = tempfile.TemporaryDirectory()
        self.journal = Journal(Path(self.folder.name) / "journal.sqlite")
        self.cleaner = Cleaner(self.door, journal=self.journal)
        self.count = itertools.count()
        self.plans, self.runs, self.collected, self.raced = [], [], False, set()
        self.applied = set()  # which plans were, at least once
        self.ours = set()  # what a DELETE of ours took
        self.bytes = {}
        for name in self.names:
            for _ in range(2):
                self.image(name, self.new_tag())
        self.ground.requests.clear()

    def teardown(self):
        if not hasattr(self, "journal"):
            return
        self.journal.close()
        self.folder.cleanup()
        self.wire.settle()
        for name in self.names:
            self.store.drop_repository(name)
        TALLY["lives"] += 1
        TALLY["lives of all steps"] += self.steps == self.whole
        TALLY["steps"] += self.steps
        if TALLY["lives"] % 50 == 0:
            say(f"so far {dict(TALLY)}")

    # -- what people do -------------------------------------------------------------------

    @rule(deeds=st.lists(st.tuples(DEEDS, FEW, FEW, FEW), min_size=1, max_size=5))
    def people_work(self, deeds):
        for what, where, one, two in deeds:
            self.do(self.name(where), what, one, two)

    def do(self, name, what, one, two):
        digest, tag = self.digest(name, one), self.tag(name, two)
        if what == "push":
            self.image(name, *(self.new_tag() for _ in range(one % 3)))
        elif digest is None:
            return
        elif what == "index":
            self.index(name, [one, two], *(self.new_tag() for _ in range((one + two) % 3)))
        elif what in {"sig", "subject", "fallback"}:
            self.sign(name, one, what)
        elif what == "new tag":
            self.store.set_tag(name, self.new_tag(), digest)
        elif what == "retag" and tag:
            self.store.set_tag(name, tag, digest)
        elif what == "copy":
            self.copy(name, digest, next(n for n in self.names if n != name))
        elif what == "delete":
            self.wire.theirs(name, digest)
        elif what == "untag" and tag:
            self.wire.theirs(name, tag)

    @rule()
    def collect_garbage(self):
        self.wire.settle()
        self.store.collect_garbage()
        self.collected = True
        for known in self.runs:
            known["collected"] = True

    # -- what the cleaner does ------------------------------------------------------------

    # Reading takes longest: a pile of plans that nobody applies would be most of a life.
    @precondition(lambda self: len(self.plans) - len(self.applied) < 3)
    @rule(
        bits=st.integers(1, 2**12 - 1),
        protect=st.sampled_from([(), (), ("t1*",)]),
        untag=st.booleans(),
        empty=st.booleans(),
        include=st.booleans(),
        part=st.booleans(),
    )
    def make_plan(self, bits, protect, untag, empty, include, part):
        snapshot = collect(self.door, self.pattern, progress=False, cache=None)
        named = [(n, t) for n in self.names for t in sorted(self.store.tags(n))]
        chosen = [f"{n}:{t}" for number, (n, t) in enumerate(named) if bits >> (number % 12) & 1]
        digests = [self.store.tags(n)[t] for n, t in named[:1]] if include else []
        made = plan(snapshot, chosen, protect=protect, include=digests, untag=untag, allow_empty=empty)
        if part:
            made = made.select([row.key for row in made.rows if row.role == "candidate"][::2])
        if made.rows:
            self.plans.append(made.approve("Ada"))
            TALLY["plans"] += 1

    @precondition(lambda self: self.plans)
    @rule(**WEATHER)
    def apply_the_newest(self, **weather):
        self.apply(len(self.plans) - 1, **weather)

    @precondition(lambda self: self.plans)
    @rule(**WEATHER)
    def apply_the_newest_too(self, **weather):  # twice, so that it happens as often as everything else together
        self.apply(len(self.plans) - 1, **weather)

    @precondition(lambda self: self.plans)
    @rule(which=FEW, **WEATHER)
    def apply_again(self, which, **weather):
        self.apply(which, **weather)

    def apply(self, which, fault, times, skip, crash, meddling, race):
        made = self.plans[which % len(self.plans)]
        self.applied.add(which % len(self.plans))
        self.see()
        self.wire.asked.clear()
        self.wire.arrived.clear()
        self.wire.held.clear()
        seen_runs = {entry.run for entry in self.journal.runs()}
        left = list(meddling)

        def meanwhile(_):
            if left:
                what, one, two = left.pop(0)
                TALLY[f"meanwhile: {what}"] += 1
                self.do(made.rows[0].repository, what, one, two)
                self.see()

        with self.faulty(fault, times, skip), self.racing(race), self.dying(crash):
            try:
                self.cleaner.execute(made, progress=meanwhile)
            except Crash:
                TALLY["crashes"] += 1
        arrived = list(self.wire.arrived)
        visible = self.visible()  # what a read shows now, before late deletions are carried out
        self.wire.settle()
        (name,) = {entry.run for entry in self.journal.runs()} - seen_runs or {None}
        event(f"fault {fault if isinstance(fault, str) else bool(fault)}, crash {bool(crash)}, race {race}")
        TALLY["executions"] += 1
        TALLY["deletions that arrived"] += len(arrived)
        self.only_the_plan(made, self.wire.asked)
        if name is not None:
            run = self.cleaner.run(name)
            TALLY.update(f"outcome {word}" for word, count in run.counts().items() for _ in range(count))
            self.truth(run, arrived, visible, fault=fault)
            self.runs.append({"run": name, "collected": False, "arrived": arrived, "undone": False})
        self.nothing_kept_breaks(made)
        self.journal.verify()

    @precondition(lambda self: self.runs)
    @rule(which=FEW)
    def undo(self, which):
        known = self.runs[which % len(self.runs)]
        before = {name: self.store.tags(name) for name in self.names}
        undone = self.cleaner.undo(known["run"])
        TALLY["undos"] += 1
        TALLY.update(f"undo {word}" for word, count in undone.counts().items() for _ in range(count))
        self.journal.verify()
        words = {outcome.key: outcome for outcome in undone.outcomes}
        self.nothing_taken_away(before, undone)
        vanished = {
            o.key for o in self.cleaner.run(known["run"]).outcomes if (o.outcome, o.action) == ("lost", DELETE_TAG)
        }
        for outcome in undone.outcomes:
            there = self.store.manifest(outcome.repository, str(outcome.digest))
            if outcome.action == PUT_INDEX and outcome.outcome in {"restored", "already_there"}:
                self.lists_again(known["run"], outcome)
            elif outcome.outcome == "already_there" and outcome.key in vanished:  # somebody has set the tag again
                assert outcome.tags[0] in self.store.tags(outcome.repository), outcome
            elif outcome.outcome in {"restored", "already_there", "tag_moved"}:
                assert there == self.bytes[outcome.digest], outcome
            elif outcome.outcome != "skipped":  # a kept tag that somebody took away together with its manifest
                assert known["collected"] or self.collected or self.lacks_a_child(outcome), outcome
        for name, reference in known["arrived"]:
            key = f"{name}@{reference}" if ":" in reference else f"{name}:{reference}"
            assert key in words, f"{key} was taken by this run, and undo says nothing of it"
        for outcome in undone.outcomes:
            if outcome.outcome in {"restored", "already_there"} and outcome.action != PUT_INDEX:
                intent = self.journal.last(known["run"], outcome.key, "intent")
                tags = self.store.tags(outcome.repository)
                for tag in intent.data["tags"] if intent else ():
                    assert tags.get(tag) == outcome.digest

    @precondition(lambda self: self.plans)
    @rule(which=FEW)
    def a_plan_without_approval_does_nothing(self, which):
        made = self.plans[which % len(self.plans)]
        self.ground.requests.clear()
        with pytest.raises(PlanError):
            self.cleaner.execute(
                type(made)(**{n: getattr(made, n) for n in made.__dataclass_fields__} | {"approval": None})
            )
        assert not self.ground.requests

    # -- what must hold -------------------------------------------------------------------

    def only_the_plan(self, made, asked):
        """Nothing that was not in the approved plan was ever asked for."""
        planned = {(r.repository, r.tags[0] if r.action == DELETE_TAG else r.digest) for r in made.rows}
        assert set(asked) <= planned

    def nothing_taken_away(self, before, undone):
        """Undo moves no tag, but those of the lists of referrers that it has written again, and these lose nothing."""
        lists = {
            (outcome.repository, tag)
            for outcome in undone.outcomes
            if outcome.action == PUT_INDEX
            for tag in outcome.tags
        }
        for name, tags in before.items():
            after = self.store.tags(name)
            for tag, digest in tags.items():
                longer = (name, tag) in lists and self.listed(name, digest) <= self.listed(name, after[tag])
                assert after.get(tag) == digest or longer, f"{name}:{tag}"

    def lacks_a_child(self, outcome):
        """Return whether an index cannot be put back for want of what somebody had deleted: docker-registry takes it only whole."""
        listed = {child["digest"] for child in json.loads(self.bytes[outcome.digest]).get("manifests", ())}
        lacking = listed - set(self.store.digests(outcome.repository))
        ours = {reference for run in self.runs for name, reference in run["arrived"] if name == outcome.repository}
        return outcome.outcome == "blobs_gone" and bool(lacking) and lacking.isdisjoint(ours)

    def lists_again(self, run, outcome):
        """See that a list of referrers has back what it lost and is there, beside what others have listed since."""
        name, (tag,) = outcome.repository, outcome.tags
        removed = set(self.journal.last(run, outcome.key, "intent").data["removed"])
        back = removed & set(self.store.digests(name))
        assert back <= self.listed(name, self.store.tags(name)[tag]), outcome

    def listed(self, name, digest):
        held = self.store.manifest(name, digest)
        return set() if held is None else {entry["digest"] for entry in json.loads(held[1]).get("manifests", ())}

    def truth(self, run, arrived, visible, *, fault):
        """Each outcome is what happened, and each thing that happened has an outcome."""
        words = {outcome.key: outcome for outcome in run.outcomes}
        for name, reference in arrived:
            key = f"{name}@{reference}" if ":" in reference else f"{name}:{reference}"
            assert words[key].outcome in MAY_BE_GONE, (key, words[key])
        sent = set(arrived)
        for outcome in run.outcomes:
            reference = outcome.tags[0] if outcome.action == DELETE_TAG else outcome.digest
            here = (outcome.repository, reference) in visible
            note(f"{outcome.outcome} {outcome.key} there={here}")
            if outcome.outcome == "deleted":
                assert (outcome.repository, reference) in sent
            if outcome.outcome in NOT_ASKED:
                assert (outcome.repository, reference) not in sent, outcome

    def nothing_kept_breaks(self, made):
        """When a digest went, no tag led to it but those that go by the plan, and no index that was still there.

        A tagged artifact may stay when its subject goes: it has a name of its own, and was there to be reviewed. A list of
        referrers under a fallback tag is written again without what went.
        """
        lists = {(row.repository, tag) for row in made.rows if row.action == PUT_INDEX for tag in row.tags}
        going = {(row.repository, tag) for row in made.rows if row.action != DELETE_TAG for tag in row.tags}
        for name, digest, tag, points_to, way in self.wire.held:
            if (name, tag) in self.raced:  # set in the window that no client can close: the README says so
                continue
            reviewed = way == "subject" and made.state[name].get(tag) == points_to
            assert reviewed or (name, tag) in going, f"{name}:{tag} stays, and led to {digest} by {way}"
            assert way != "index" or (name, tag) in lists, f"{name}:{tag} lost the child {digest}"

    # -- how it is done -------------------------------------------------------------------

    def visible(self):
        found = set()
        for name in self.names:
            found |= {(name, d) for d in self.store.digests(name)}
            found |= {(name, t) for t in self.store.tags(name)}
        return found

    def see(self):
        for name in self.names:
            self.bytes |= {d: self.store.manifest(name, d) for d in self.store.digests(name)}

    @contextmanager
    def faulty(self, fault, times, skip):
        if fault == "late":
            self.wire.late = True
        elif fault is not None:
            self.ground.faults.add(**fault, times=times, skip=skip)
        try:
            yield
        finally:
            self.wire.late = False
            self.ground.faults.clear()

    @contextmanager
    def racing(self, race):
        """Let somebody push between the last look and the deletion: what no client can see coming."""

        def just_before(repository, reference):
            if ":" not in reference or reference not in self.store.digests(repository):
                return  # the probe asks for what cannot be there
            self.wire.before = None
            TALLY[f"raced: {race}"] += 1
            if race == "index":
                tag = self.new_tag()
                entry = self.entry(repository, reference)
                self.put(
                    repository, OCI_INDEX, dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}), tag
                )
            elif race == "retag" and (others := self.store.tags(repository)):
                tag = min(others)
                self.store.set_tag(repository, tag, reference)
            else:
                tag = self.new_tag()
                self.store.set_tag(repository, tag, reference)
            self.raced.add((repository, tag))

        self.wire.before = just_before if race else None
        try:
            yield
        finally:
            self.wire.before = None

    @contextmanager
    def dying(self, crash):
        if crash is None:
            yield
            return
        where, late, count = crash
        owner, names = (self.journal, ("record", "record_intent")) if where == "journal" else (self.door, ("run",))
        left = [count]

        def dying(original):
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] < 0 and not late:
                    raise Crash
                result = original(*args, **kwargs)
                if left[0] < 0:
                    raise Crash
                return result

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in names:
                patch.setattr(owner, name, dying(getattr(owner, name)))
            yield

    def name(self, number):
        return self.names[number % len(self.names)]

    def new_tag(self):
        return f"t{next(self.count)}"

    def digest(self, name, number):
        there = self.store.digests(name)
        return there[number % len(there)] if there else None

    def tag(self, name, number):
        there = sorted(self.store.tags(name))
        return there[number % len(there)] if there else None

    def entry(self, name, digest):
        media_type, raw = self.store.manifest(name, digest)
        return {"mediaType": media_type, "digest": digest, "size": len(raw)}

    def put(self, name, media_type, raw, *tags):
        digest = self.store.put_manifest(name, str(Digest.of(raw)), media_type, raw)
        for tag in tags if digest is not None else ():
            self.store.set_tag(name, tag, digest)
        return digest

    def copy(self, name, digest, other):
        media_type, raw = self.store.manifest(name, digest)
        fields = json.loads(raw)
        for blob in (fields.get("config"), *fields.get("layers", ())):
            if blob is not None:
                self.store.mount_blob(other, blob["digest"], None)
        self.put(other, media_type, raw, self.new_tag())

    def image(self, name, *tags, subject=None):
        number = next(self.count)
        config, layer = dump({"os": "linux", "architecture": "amd64", "number": number}), f"layer {number}".encode()
        fields = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described(OCI_EMPTY if subject else OCI_CONFIG, config),
            "layers": [described(LAYER, layer), described(LAYER, b"a base that all share")],
        }
        if subject:
            fields["subject"] = self.entry(name, subject)
        for blob in (config, layer, b"a base that all share"):
            self.store.put_blob(name, blob)
        return self.put(name, OCI_MANIFEST, dump(fields), *tags)

    def index(self, name, targets, *tags):
        children = dict.fromkeys(d for number in targets if (d := self.digest(name, number)))
        fields = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [self.entry(name, d) for d in children]}
        if children:
            self.put(name, OCI_INDEX, dump(fields | {"annotations": {"number": str(next(self.count))}}), *tags)

    def sign(self, name, target, how):
        if not (subject := self.digest(name, target)):
            return
        if how == "sig":
            self.image(name, f"{attached_tag(Digest(subject))}.sig")
            return
        referrer = self.image(name, subject=subject)
        if how == "fallback":
            fields = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [self.entry(name, referrer)]}
            self.put(name, OCI_INDEX, dump(fields), attached_tag(Digest(subject)))


def dump(document):
    return json.dumps(document).encode()


def described(media_type, raw):
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)}


def lives(ground, monkeypatch, *, count, steps):
    """Live so many lives on a ground, say what happened in them, and return it."""
    monkeypatch.setattr(execution, "_VISIBLE_AFTER", 0.0)
    monkeypatch.setattr(execution, "_LOOK_EVERY", (0.001,))
    monkeypatch.setattr(surroundings, "_LOOK_AT_ALL_AFTER", 0.0)
    monkeypatch.setattr(Life, "ground", ground)
    monkeypatch.setattr(Life, "whole", steps)
    TALLY.clear()
    limits = settings(
        max_examples=count,
        stateful_step_count=steps + 1,  # to begin is one
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, *cases([], [Phase.shrink])],
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(Life, settings=limits)
    finally:
        say("\n".join(f"{name}: {count:,}" for name, count in sorted(TALLY.items())))


def say(text):
    print(text, flush=True)  # noqa: T201 -- for who asks with -s


# Of a hundred lives a third are cut short: Hypothesis tries what it cannot complete, and looks for short ones first.
@pytest.mark.timeout(24 * 3600)
def test_in_any_life_only_reviewed_things_go_nothing_kept_breaks_and_the_journal_tells_the_truth(monkeypatch):
    with on_sandbox() as ground:
        lives(ground, monkeypatch, count=cases(40, 1400), steps=cases(30, 50))


@pytest.mark.real
@pytest.mark.timeout(24 * 3600)
def test_so_it_is_in_any_life_on_a_real_registry(docker_registry_program, monkeypatch, tmp_path):
    with on_docker_registry(tmp_path) as ground:
        lives(ground, monkeypatch, count=cases(4, 290), steps=cases(20, 50))
