"""Deciding quickly is deciding the same: random registries, held against the plain way to decide."""

from __future__ import annotations

import random

import pandas as pd
import pytest
from builders import Build
from plain_decision import plain_candidates, plain_decision

from regaudit.cleaner.decide import decide
from regaudit.cleaner.plan import plan
from regaudit.cleaner.rows import PlanOptions, parse_candidates
from regaudit.errors import UsageError

PER_SEED = 6  # registries; each of a few milliseconds


def random_build(chance: random.Random) -> Build:
    """Return a registry in which everything that can be tied to something is, now and then."""
    build = Build()
    for repository in ("a/one", "b/two", "c")[: chance.randint(1, 3)]:
        fill(build, repository, chance)
    if chance.random() < 0.3:
        build.unread("b/two", "lost")
    if chance.random() < 0.2:
        build.unread(None, stage="catalog")
    return build


def fill(build: Build, repository: str, chance: random.Random) -> None:
    names = []
    for number in range(chance.randint(1, 6)):
        name = f"i{number}"
        layers = {f"layer{chance.randint(0, 5)}": chance.choice([10, 20, None]) for _ in range(3)}
        created = chance.choice([None, "2026-01-01", f"2025-0{number + 1}-01T00:00:00.5Z"])
        build.image(repository, name=name, tags=some_tags(chance, name), created=created, layers=layers)
        names.append(name)
    for number in range(chance.randint(0, 3)):
        name = f"x{number}"
        of = chance.sample(names, min(len(names), chance.randint(1, 3)))  # indexes of indexes too
        build.index(repository, name=name, tags=some_tags(chance, name), children=of)
        names.append(name)
    for number in range(chance.randint(0, 4)):
        subject = chance.choice(names)
        if chance.random() < 0.5:
            build.cosign(repository, subject, chance.choice(["sig", "att"]))
        else:
            name = f"r{number}"
            fallback = chance.random() < 0.3
            build.attach(repository, subject, name=name, tags=some_tags(chance, name)[:1], fallback=fallback)
            if not fallback:
                names.append(name)
    if chance.random() < 0.3:
        build.dangling(repository, "gone")
    if chance.random() < 0.3:
        build.legacy(repository, tags=["old"], layers=["layer0"])


def some_tags(chance: random.Random, name: str) -> list[str]:
    return [f"{name}-{alias}" for alias in range(chance.choice([0, 1, 1, 2, 3]))]


def random_candidates(snapshot, chance: random.Random) -> pd.DataFrame:
    tags = snapshot.tags[["repository", "tag", "digest"]].astype("object")
    chosen = tags[[chance.random() < chance.choice([0.5, 0.9]) for _ in range(len(tags))]].copy()
    chosen["reason"] = [chance.choice(["old", "older than 3 d", None]) for _ in range(len(chosen))]
    chosen["age_days"] = pd.array([chance.choice([5.0, None]) for _ in range(len(chosen))], dtype="Float64")
    if chance.random() < 0.3:
        chosen = chosen.drop(columns="digest")
    bare = snapshot.manifests[["repository", "digest"]].astype("object")
    bare = bare[[chance.random() < 0.15 for _ in range(len(bare))]]
    again = chosen.sample(frac=0.2, random_state=chance.randint(0, 99))
    return pd.concat([chosen, bare, again.assign(reason="twice")], ignore_index=True)


def random_options(snapshot, chance: random.Random) -> PlanOptions:
    digests = snapshot.manifests["digest"].astype("object").tolist()
    return PlanOptions(
        protect=tuple(chance.sample(["i0-*", "x?-0", "r1-0", "nothing"], chance.randint(0, 2))),
        include=tuple(chance.sample(digests, min(len(digests), chance.randint(0, 3)))),
        allow_empty=chance.random() < 0.7,
        untag=chance.random() < 0.4,
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_decision_is_the_plain_one(seed):
    chance = random.Random(seed)
    for _ in range(PER_SEED):
        snapshot = random_build(chance).snapshot()
        given, options = random_candidates(snapshot, chance), random_options(snapshot, chance)
        candidates = parse_candidates(snapshot, given)
        assert candidates == plain_candidates(snapshot, given)
        assert decide(snapshot, candidates, options) == plain_decision(snapshot, candidates, options)


@pytest.mark.parametrize("seed", range(20))
def test_selecting_many_at_once_is_selecting_one_after_the_other(seed):
    chance = random.Random(seed)
    for _ in range(PER_SEED // 2):
        snapshot = random_build(chance).snapshot()
        given, options = random_candidates(snapshot, chance), random_options(snapshot, chance)
        made = plan(snapshot, given, protect=options.protect, allow_empty=True, untag=options.untag)
        keys = [row.key for row in made.rows if row.role == "candidate"]
        singly, at_once = made.selection(), made.selection()
        for selected in (True, True, False, True):
            # All of them now and then: a repository of which everything is selected is not decided anew.
            share = chance.choice([0.6, 0.9, 1])
            turned = [key for key in keys if chance.random() < share]
            at_once.set_many(turned, selected=selected)
            for key in chance.sample(turned, len(turned)):
                singly.set(key, selected=selected)
            assert totals(at_once) == totals(singly)
        selected = made.select(at_once.keys)
        assert totals(at_once)[1:] == (selected.digests, selected.tags, selected.reclaimable_bytes)


def totals(selection) -> tuple:
    return frozenset(selection.keys), selection.digests, selection.tags, selection.bytes


def test_a_key_that_is_none_changes_nothing():
    snapshot = Build().image("app", tags=["1"]).image("app", tags=["2"]).snapshot()
    made = plan(snapshot, ["app:1"])
    selection = made.selection()
    with pytest.raises(UsageError, match="selected"):
        selection.set_many([made.rows[0].key, "app:9"], selected=True)
    assert totals(selection) == (frozenset(), 0, 0, 0)


def test_what_goes_along_is_in_the_plan_and_cannot_be_selected():
    build = Build().image("app", tags=["keep"]).image("app", name="child").index("app", tags=["1"], children=["child"])
    made = plan(build.snapshot(), ["app:1"])
    index, child = (f"app@{build.digest('app', name)}" for name in ("1", "child"))
    selection = made.selection()
    assert [row.key for row in made.rows] == [index, child]
    assert selection.selectable(index)
    assert not selection.selectable(child)
    with pytest.raises(UsageError, match="selected"):
        selection.set(child, selected=True)
    assert totals(selection) == (frozenset(), 0, 0, 0)


def test_a_tag_that_was_refused_stays_with_its_digest_when_another_row_is_selected():
    build = Build().image("app", tags=["keep"]).image("app", tags=["1-amd64"])
    build.index("app", tags=["1"], children=["1-amd64"])
    index = str(build.digest("app", "1"))
    # The second row is of an older day: the tag led to the index then, and leads to the child now.
    asked = pd.DataFrame({"repository": "app", "tag": ["1", "1-amd64"], "digest": index})
    made = plan(build.snapshot(), asked)
    assert [row.refusal for row in made.refused] == ["not_in_snapshot"]
    selection = made.selection()
    selection.set(f"app@{index}", selected=True)
    assert (selection.digests, selection.tags, selection.bytes) == (made.digests, made.tags, made.reclaimable_bytes)
    assert selection.digests == 1


def test_five_tags_that_hold_a_digest_are_named_and_the_others_counted():
    build = Build().image("app", tags=["old", *(f"alias{n}" for n in range(7))])
    (row,) = plan(build.snapshot(), ["app:old"]).refused
    assert "alias0, alias1, alias2, alias3, alias4 and 2 more" in row.detail
    build = Build().image("app", tags=["old", *(f"alias{n}" for n in range(5))])
    (row,) = plan(build.snapshot(), ["app:old"]).refused
    assert "alias4" in row.detail
    assert "more" not in row.detail
