"""A policy lets go exactly what its rules condemn and nothing saves, and says why of any tag."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pandas as pd
import pytest
from builders import TAKEN_AT, Build, days_before, moment_of
from hypothesis import given, settings
from hypothesis import strategies as st
from retention_oracle import RANGES, verdicts

from regaudit.analysis.policy import Expire, Keep, Policy, Section
from regaudit.analysis.retention import HELD_BY, expired_tags, explain, retention
from regaudit.cleaner.plan import plan
from regaudit.errors import InvalidReference, UsageError
from regaudit.reference import attached_tag

NOW = moment_of(TAKEN_AT)
APP = "team/app"
ALL = Expire(tags=("*",))


def policy(*rules, **options):
    """Return a policy of one section for every repository, with these rules."""
    keep = tuple(rule for rule in rules if isinstance(rule, Keep))
    expire = tuple(rule for rule in rules if isinstance(rule, Expire))
    whole = {name: options.pop(name) for name in ("untag", "in_use", "also_known_as") if name in options}
    return Policy(sections=(Section(repositories=("**",), keep=keep, expire=expire, **options),), **whole)


def aged(*ages, repository=APP, build=None):
    """Return a registry with an image of each age in days, tagged `a0`, `a1`, …; None is unknown."""
    build = build or Build()
    for place, age in enumerate(ages):
        build.image(repository, tags=[f"a{place}"], created=None if age is None else days_before(age))
    return build


def tagged(*tags, repository=APP):
    """Return a registry with an image of its own behind each tag, the first the newest."""
    build = Build()
    for place, tag in enumerate(tags):
        build.image(repository, tags=[tag], created=days_before(10 + place))
    return build


def gone(build, made, **options):
    return sorted(expired_tags(build.snapshot(), made, **options)["tag"].dropna())


def held(build, made, **options):
    frame = retention(build.snapshot(), made, **options).held
    return dict(zip(frame["tag"], frame["held_by"], strict=True))


# -- who decides -----------------------------------------------------------------------------


def test_without_rules_nothing_goes():
    assert gone(aged(900), Policy()) == gone(aged(900), policy()) == []


def test_what_no_rule_condemns_stays_and_what_one_saves_stays():
    assert gone(tagged("x", "y", "z"), policy(Expire(tags=("x", "y")), Keep(tags=("y",)))) == ["x"]


def test_every_condition_of_a_rule_must_hold():
    build = Build().image(APP, tags=["pr-1"], created=days_before(20)).image(APP, tags=["pr-2"], created=days_before(2))
    build.image(APP, tags=["main"], created=days_before(20))
    assert gone(build, policy(Expire(match=r"pr-\d+", older_than="14D"))) == ["pr-1"]


def test_the_first_section_that_matches_decides_and_a_repository_without_one_is_left_alone():
    build = Build()
    for name in ("team/app", "team/keep/app", "other", "team/not"):
        build.image(name, tags=["x"])
    sections = (
        Section(repositories=("team/keep/*",), name="never"),
        Section(repositories=("team/**",), exclude=("team/not",), expire=(ALL,)),
    )
    frame = expired_tags(build.snapshot(), Policy(sections=sections))
    assert frame["repository"].tolist() == ["team/app"]
    assert frame["section"].tolist() == ["team/**"]


def test_a_rule_to_keep_beside_the_sections_holds_in_all_of_them():
    build = Build().image("a", tags=["latest", "x"], name="1").image("b", tags=["latest"])
    made = Policy(
        keep=(Keep(tags=("latest",)),),
        untag=True,
        sections=tuple(Section(repositories=(name,), expire=(ALL,)) for name in "ab"),
    )
    assert gone(build, made) == ["x"]


# -- age -------------------------------------------------------------------------------------


def test_older_than_is_strict_and_younger_than_is_too():
    build = aged(29, 30, 30 + 1 / 86400, 31, None)
    assert gone(build, policy(Expire(older_than="30D"))) == ["a2", "a3"]
    assert gone(build, policy(ALL, Keep(younger_than="30D"))) == ["a1", "a2", "a3"]


def test_the_clock_named_is_the_one_that_counts():
    build = Build().image(APP, tags=["built-long-ago"], created=days_before(900), pushed=days_before(1))
    build.image(APP, tags=["pushed-long-ago"], created=days_before(1), pushed=days_before(900)).image(
        APP, tags=["none"]
    )
    assert gone(build, policy(Expire(older_than="30D"))) == ["built-long-ago"]
    frame = expired_tags(build.snapshot(), policy(Expire(older_than="30D", clock="pushed")))
    assert frame["tag"].tolist() == ["pushed-long-ago"]
    assert (frame["clock"].tolist(), frame["age_days"].tolist()) == (["pushed"], [900.0])
    assert gone(build, policy(ALL, Keep(younger_than="30D", clock="pushed"))) == ["pushed-long-ago"]


def test_a_build_tools_constant_is_no_age():
    build = Build().image(APP, tags=["epoch"], created="1970-01-01").image(APP, tags=["future"], created="2030-01-01")
    assert gone(build, policy(Expire(older_than="0s"))) == []
    assert gone(build, policy(ALL)) == ["epoch", "future"]  # asked for by name, not by age
    assert gone(build, policy(ALL, grace="1s")) == gone(build, policy(ALL, Keep(newest=0))) == []


def test_grace_goes_by_the_later_of_both_clocks_and_ends_to_the_second():
    build = Build().image(APP, tags=["retagged"], created=days_before(90), pushed=days_before(0.5))
    build.image(APP, tags=["old"], created=days_before(1)).image(
        APP, tags=["young"], created=days_before(1 - 1 / 86400)
    )
    assert gone(build, policy(ALL, grace="24h")) == ["old"]
    assert gone(build, policy(ALL, grace="0h")) == ["old", "retagged", "young"]


# -- newest and highest ----------------------------------------------------------------------


def test_the_newest_stay_and_more_than_there_are_keeps_all():
    build = aged(3, 1, 2, None)
    assert gone(build, policy(ALL, Keep(newest=1))) == ["a0", "a2"]
    assert gone(build, policy(ALL, Keep(newest=0))) == ["a0", "a1", "a2"]
    assert gone(build, policy(ALL, Keep(newest=9))) == []


def test_a_tie_is_kept_whole_and_a_digest_counts_once():
    assert gone(aged(1, 2, 2, 3), policy(ALL, Keep(newest=2))) == ["a3"]
    assert gone(aged(1, 2, 3).tag(APP, "a0", "b", "c"), policy(ALL, Keep(newest=2))) == ["a2"]


def test_the_newest_are_counted_among_those_that_the_rule_selects():
    build = tagged("v3", "x", "v2", "v1")
    assert gone(build, policy(ALL, Keep(tags=("v*",), newest=2))) == ["v1", "x"]


def test_artifacts_take_no_place_of_images():
    build = aged(2, 3)
    build.image(APP, tags=["chart"], created=days_before(1), artifact_type="a/b")
    assert gone(build, policy(ALL, Keep(newest=1))) == ["a1"]


@pytest.mark.parametrize(
    ("per", "expected"),
    [
        ("repository", ["1.3.0", "1.4.0", "1.4.1", "2.0.0", "main-1111111", "main-2222222", "x"]),
        ("major", ["1.3.0", "1.4.0", "1.4.1", "main-1111111", "main-2222222", "x"]),
        ("minor", ["1.4.0", "1.4.1", "main-1111111", "main-2222222", "x"]),
        ("branch", ["main-1111111"]),
        (r"(?P<branch>[a-z]+)-[0-9a-f]+", ["1.3.0", "1.4.0", "1.4.1", "1.4.2", "2.0.0", "main-1111111", "x"]),
    ],
)
def test_a_stream_is_what_the_rule_says(per, expected):
    build = tagged("1.4.2", "1.4.1", "1.4.0", "1.3.0", "2.0.0", "main-2222222", "main-1111111", "x")
    assert gone(build, policy(ALL, Keep(newest=1, per=per))) == expected


def test_the_highest_are_stable_versions_whatever_their_age():
    build = tagged("1.9.0", "1.10.0", "2.0.0-rc.1", "v0.9.0", "20260101", "latest")
    assert gone(build, policy(ALL, Keep(highest=1))) == ["1.9.0", "2.0.0-rc.1", "20260101", "latest", "v0.9.0"]
    assert gone(build, policy(Expire(semver="*"), Keep(highest=2))) == ["2.0.0-rc.1", "v0.9.0"]
    assert gone(build, policy(Expire(semver="*"), Keep(highest=0))) == ["1.10.0", "1.9.0", "2.0.0-rc.1", "v0.9.0"]


def test_a_range_keeps_what_may_be_in_it_and_condemns_only_what_is():
    build = tagged("1.3.9", "1.4.0-rc.1", "1.4.0", "v1.5", "1", "1.5-alpine", "latest")
    assert gone(build, policy(ALL, Keep(semver=">=1.4"))) == ["1.3.9", "latest"]
    assert gone(build, policy(Expire(semver=">=1.4"))) == ["1.4.0", "1.4.0-rc.1", "v1.5"]
    assert gone(build, policy(Expire(semver="<1.4"))) == ["1.3.9"]
    assert gone(build, policy(Expire(semver="*", prereleases=True))) == ["1.4.0-rc.1"]


# -- what holds back -------------------------------------------------------------------------


def test_a_digest_goes_only_with_all_its_tags_unless_tags_may_go_alone():
    build = tagged("1.0", "old").tag(APP, "1.0", "latest")
    made = policy(ALL, Keep(tags=("latest",)))
    assert gone(build, made) == ["old"]
    assert held(build, made) == {"1.0": "alias"}
    assert gone(build, replace(made, untag=True)) == ["1.0", "old"]


def test_a_child_of_an_index_that_stays_is_held_and_goes_with_it_otherwise():
    build = tagged("amd64", "other").index(APP, tags=["multi"], children=["amd64"])
    build.index(APP, name="untagged", children=["other"])
    assert held(build, policy(ALL, Keep(tags=("multi",)))) == {"amd64": "index", "other": "index"}
    assert gone(build, policy(ALL)) == ["amd64", "multi"]


def test_what_an_index_holds_through_another_is_held_too():
    build = tagged("leaf").index(APP, name="inner", children=["leaf"]).index(APP, tags=["outer"], children=["inner"])
    assert held(build, policy(ALL, Keep(tags=("outer",)))) == {"leaf": "index"}
    assert gone(build, policy(ALL)) == ["leaf", "outer"]


def test_a_manifest_without_a_tag_is_none_of_those_that_must_be_left():
    build = tagged("x").image(APP, name="young", created=days_before(1))
    rules = (ALL, Expire(untagged=True, older_than="3D"))
    assert held(build, policy(*rules, minimum_left=1)) == {"x": "minimum_left"}
    assert gone(build, policy(*rules, maximum_percent=50)) == ["x"]


def test_signatures_and_attached_tags_are_neither_counted_nor_returned():
    build = aged(1, 2).cosign(APP, "a0").attach(APP, "a1", name="sbom", fallback=True)
    build.tag(APP, "a0", attached_tag(build.digest(APP, "a1")) + ".att")
    assert gone(build, policy(ALL)) == ["a0", "a1"]
    assert gone(build, policy(ALL, Keep(newest=1))) == ["a1"]


def test_manifests_without_a_tag_go_where_a_rule_says_so_and_nothing_holds_them():
    build = (
        tagged("keep").image(APP, name="loose", created=days_before(9)).image(APP, name="young", created=days_before(1))
    )
    build.index(APP, tags=["multi"], platforms={"linux/amd64": {"x": 1}}).attach(APP, "keep", name="sbom")
    assert expired_tags(build.snapshot(), policy(ALL, Keep(tags=("*",)))).empty
    frame = expired_tags(build.snapshot(), policy(Expire(untagged=True, older_than="3D")))
    assert frame["digest"].tolist() == [build.digest(APP, "loose")]
    assert frame["tag"].isna().all()
    assert [row.digest for row in plan(build.snapshot(), frame).rows] == [build.digest(APP, "loose")]


def test_nothing_goes_where_something_was_not_read_and_the_note_says_so():
    build = tagged("x").unread(APP, "y").image("other", tags=["z"]).dangling("other", "dangling")
    made = retention(build.snapshot(), policy(ALL))
    assert made.expired["tag"].tolist() == ["z"]
    assert held(build, policy(ALL)) == {"x": "unread"}
    assert any("team/app" in note and "not read" in note for note in made.notes)


def test_a_repository_with_few_tags_is_left_alone_and_that_is_no_news():
    build = aged(1, 2, 30).cosign(APP, "a0").dangling(APP, "nowhere")
    assert gone(build, policy(Expire(older_than="9D"), minimum_tags=3)) == ["a2"]
    assert held(build, policy(Expire(older_than="9D"), minimum_tags=4)) == {"a2": "minimum_tags"}
    assert retention(build.snapshot(), policy(Expire(older_than="9D"), minimum_tags=4)).notes == ()


@pytest.mark.parametrize(
    ("limit", "ages", "goes"),
    [
        ({"minimum_left": 2}, (1, 2, 30), True),
        ({"minimum_left": 3}, (1, 2, 30), False),
        ({"minimum_left": 0}, (30,), True),
        ({"maximum_deletions": 2}, (1, 30, 31), True),
        ({"maximum_deletions": 1}, (1, 30, 31), False),
        ({"maximum_deletions": 0}, (1, 30), False),
        ({"maximum_percent": 25}, (1, 2, 3, 30), True),
        ({"maximum_percent": 24.9}, (1, 2, 3, 30), False),
        ({"maximum_percent": 0}, (1, 2, 30), False),
        ({"maximum_percent": 100}, (30, 31), True),
    ],
)
def test_a_limit_that_is_exceeded_lets_nothing_of_the_repository_go(limit, ages, goes):
    build = aged(5, 40, repository="other", build=aged(*ages))
    sections = (Section(repositories=(APP,), expire=(Expire(older_than="9D"),), **limit),)
    sections += (Section(repositories=("other",), expire=(Expire(older_than="9D"),)),)
    made = retention(build.snapshot(), Policy(sections=sections))
    assert (made.expired["repository"] == APP).any() == goes
    assert (made.expired["repository"] == "other").sum() == 1
    assert set(made.held["held_by"]) == (set() if goes else set(limit))
    assert bool(made.notes) is not goes


@pytest.mark.parametrize(
    ("limit", "goes"),
    [
        ({"maximum_deletions": 2}, True),
        ({"maximum_deletions": 1}, False),
        ({"maximum_percent": 50}, True),
        ({"maximum_percent": 49}, False),
    ],
)
def test_a_limit_of_the_whole_policy_lets_nothing_go_at_all(limit, goes):
    build = aged(1, 40, repository="other", build=aged(1, 40))
    made = replace(policy(Expire(older_than="9D")), **limit)
    result = retention(build.snapshot(), made)
    assert len(result.expired) == (2 if goes else 0)
    assert set(result.held["held_by"]) == (set() if goes else {"whole_registry"})


def test_what_goes_along_counts_for_no_limit_neither_among_those_that_go_nor_among_all():
    build = aged(1, 2, 3)
    for name in ("i", "j"):
        platforms = {f"linux/{arch}": {f"{name}{arch}": 1} for arch in ("amd64", "arm64", "s390x")}
        build.index(APP, tags=[name], created=days_before(40), platforms=platforms).cosign(APP, name)
    snapshot, rule = build.snapshot(), Expire(older_than="9D")
    assert retention(snapshot, policy(rule, maximum_percent=40, maximum_deletions=2)).held.empty
    made = plan(snapshot, expired_tags(snapshot, policy(rule)))
    assert (made.chosen, made.digests) == (2, 10)
    result = retention(snapshot, policy(rule, maximum_percent=39))
    why = "2 of 5 digests would go (40.0 %; what goes along with them is not counted), and maximum_percent = 39"
    assert set(result.held["detail"]) == {why}
    assert f"nothing goes in {APP}: {why}" in result.notes
    (detail,) = set(retention(snapshot, policy(rule, maximum_deletions=1)).held["detail"])
    assert detail.startswith("2 digests would go")


def test_a_child_with_a_tag_of_its_own_counts():
    build = aged(1).image(APP, tags=["c"], created=days_before(40))
    build.index(APP, tags=["i"], created=days_before(40), children=["c"])
    assert held(build, policy(Expire(older_than="9D"), maximum_deletions=1)) == dict.fromkeys("ci", "maximum_deletions")


def test_with_untag_a_digest_that_only_loses_a_tag_counts_and_the_message_says_so():
    build = aged(1).image(APP, tags=["1.0", "x", "y"], created=days_before(40))
    made = replace(policy(Expire(tags=("x", "y")), maximum_percent=40), untag=True)
    (detail,) = set(retention(build.snapshot(), made).held["detail"])
    assert detail.startswith("1 of 2 digests would go or lose a tag (50.0 %")


def test_aliases_count_once_for_a_limit():
    build = aged(1, 30).tag(APP, "a1", "x", "y", "z")
    assert gone(build, policy(Expire(older_than="9D"), maximum_deletions=1, maximum_percent=50)) == [
        "a1",
        "x",
        "y",
        "z",
    ]


# -- what is in use --------------------------------------------------------------------------


def test_what_is_in_use_stays_by_tag_and_by_digest_and_with_its_index():
    build = tagged("1", "2", "3", "child").tag(APP, "2", "alias").index(APP, tags=["multi"], children=["child"])
    used = [
        "registry:5000/team/app:1",
        f"registry:5000/team/app:gone@{build.digest(APP, '2')}",
        f"registry:5000/team/app@{build.digest(APP, 'child')}",
        "docker.io/team/app:3",
    ]
    assert gone(build, policy(ALL), in_use=used) == ["3"]


def test_an_image_that_is_known_by_its_config_alone_stays():
    build = tagged("1", "2")
    config = build.snapshot().manifests.set_index("digest").loc[str(build.digest(APP, "1")), "config_digest"]
    assert gone(build, policy(ALL), in_use=[config]) == ["2"]


def test_other_names_of_the_registry_count_where_the_policy_has_them():
    build = tagged("1", "latest")
    used = ["mirror.example.com/team/app:1", "mirror.example.com:443/team/app"]
    assert gone(build, policy(ALL), in_use=used) == ["1", "latest"]
    assert gone(build, policy(ALL, also_known_as=("mirror.example.com",)), in_use=used) == []


def test_what_is_in_use_and_not_there_is_said():
    result = retention(
        tagged("1").snapshot(), policy(ALL), in_use=["registry:5000/team/app:9", "registry:5000/team/app:1"]
    )
    assert [note for note in result.notes if "team/app:9" in note and "team/app:1" not in note.replace("app:9", "")]


def test_a_name_that_cannot_be_read_is_an_error():
    with pytest.raises(InvalidReference, match="UPPER"):
        expired_tags(tagged("1").snapshot(), policy(ALL), in_use=["UPPER/case"])


# -- the tables ------------------------------------------------------------------------------


def test_the_first_rule_that_condemns_is_named_with_its_reason():
    build = tagged("pr-1", "x")
    frame = expired_tags(build.snapshot(), policy(Expire(name="pulls", match=r"pr-\d+", older_than="48h"), ALL))
    assert frame["rule"].tolist() == ["pulls", "expire 2"]
    assert frame["reason"].tolist() == [r"tag matches pr-\d+; older than 2D by created (10 D)", "tag is like *"]


def test_an_empty_answer_has_the_same_columns_and_dtypes():
    made = policy(ALL, Keep(newest=1))
    for table in ("expired", "held"):
        empty, full = (
            getattr(retention(b.snapshot(), made), table)
            for b in (Build(), tagged("x", "y", "z").unread("b", "u").tag(APP, "x", "y"))
        )
        assert empty.dtypes.astype(str).to_dict() == full.dtypes.astype(str).to_dict()


def test_tags_of_the_v1_interface_are_judged_by_their_image_ids():
    build = (
        Build()
        .v1("old", "a", image_id="1" * 64, created="2020-01-01")
        .v1("old", "b", image_id="1" * 64, created="2020-01-01")
    )
    build.v1("old", "c", image_id="2" * 64, created="2021-01-01")
    assert gone(build, policy(ALL, Keep(newest=1))) == ["a", "b"]
    assert held(build, policy(ALL, Keep(tags=("b", "c")))) == {"a": "alias"}


# -- explaining ------------------------------------------------------------------------------


def explained(build, made, tag, **options):
    return explain(build.snapshot(), made, f"{APP}:{tag}", **options)


def test_a_tag_that_may_go_names_its_rule_and_when_it_was_condemned():
    found = explained(aged(20), policy(Expire(name="old", older_than="14D")), "a0")
    assert (found.verdict, found.rule) == ("expired", "old")
    assert "14D old at 2026-05-26T00:00:00Z" in found.because[0]


def test_a_tag_that_no_rule_condemns_says_when_one_will():
    found = explained(aged(4), policy(Expire(name="old", older_than="14D")), "a0")
    assert (found.verdict, found.rule) == ("kept", None)
    assert "14D old at 2026-06-11T00:00:00Z" in found.changes[0]


def test_every_thing_that_keeps_a_tag_is_named_with_its_end():
    made = policy(ALL, Keep(name="new", newest=3), Keep(name="names", tags=("a*",)), grace="7D")
    found = explained(aged(4, 5), made, "a1", in_use=["registry:5000/team/app:a1"])
    text = str(found)
    assert found.verdict == "kept"
    for part in (
        "in use",
        "grace of 7D",
        "2026-06-03T00:00:00Z",
        "'new'",
        "1 digest is newer",
        "2 more that are newer",
        "'names'",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("word", "made"),
    [
        ("alias", policy(ALL, Keep(tags=("latest",)))),
        ("minimum_tags", policy(ALL, minimum_tags=3)),
        ("minimum_left", policy(ALL, minimum_left=1)),
        ("maximum_deletions", policy(ALL, maximum_deletions=0)),
        ("maximum_percent", policy(ALL, maximum_percent=50)),
        ("whole_registry", replace(policy(ALL), maximum_deletions=0)),
    ],
)
def test_a_tag_that_is_held_back_says_by_what(word, made):
    build = tagged("x").tag(APP, "x", "latest")
    found = explained(build, made, "x")
    assert (found.verdict, len(found.changes)) == ("held", 1)
    said = {"alias": "also carries latest", "whole_registry": "in all repositories together"}.get(word, word)
    assert said in found.because[-1]


def test_what_is_not_judged_says_why():
    build = tagged("x").cosign(APP, "x").dangling(APP, "broken")
    build.image("other", tags=["y"])
    made = Policy(sections=(Section(repositories=(APP,), expire=(ALL,)),))
    signature = attached_tag(build.digest(APP, "x")) + ".sig"
    assert "goes with that" in explained(build, made, signature).because[0]
    assert "was not read" in explained(build, made, "broken").because[0]
    assert "no section" in explain(build.snapshot(), made, "registry:5000/other:y").because[0]


def test_a_manifest_without_a_tag_is_explained_by_its_digest():
    build = tagged("x").image(APP, name="loose", created=days_before(9))
    digest = build.digest(APP, "loose")
    assert explain(build.snapshot(), policy(Expire(untagged=True)), f"{APP}@{digest}").verdict == "expired"
    assert explain(build.snapshot(), policy(ALL), f"{APP}@{digest}").verdict == "kept"


def test_a_tag_that_is_not_there_is_an_error_with_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean '1\.4\.2'"):
        explained(tagged("1.4.2"), policy(ALL), "1.4.3")
    with pytest.raises(UsageError, match="repository:tag"):
        explain(tagged("x").snapshot(), policy(ALL), APP)


def test_an_explanation_is_safe_to_show():
    found = explained(tagged("x"), policy(Expire(name="<b>\x1b[31m", tags=("*",))), "x")
    assert "<b>" not in found._repr_html_()
    assert "\x1b" not in str(found)
    assert (
        "<p>1 tag may go, on 1 digest of 1 repository; 0 are held back"
        in retention(tagged("x").snapshot(), policy(ALL))._repr_html_()
    )


# -- the whole of it, against an oracle ------------------------------------------------------

TAGS = ["1.0.0", "1.0.1", "v1.1.0", "1.1.2", "1.2.0-rc.1", "1.2.0-rc.10", "1.1", "1", "2.0.0", "1.5-alpine", "20260101"]
TAGS += ["main", "main-abcdef0", "main-1234567", "pr-1", "pr-22", "latest", "x"]
REPOSITORIES = ["a/x", "a/y", "b"]
AGES = st.none() | st.sampled_from([0, 1, 2, 2.5, 5, 10])
DURATIONS = st.sampled_from(["0D", "1D", "48h", "3D", "10D"])


@st.composite
def builds(draw):
    build = Build()
    for number in range(draw(st.integers(0, 9))):
        repository = draw(st.sampled_from(REPOSITORIES))
        tags = draw(st.lists(st.sampled_from(TAGS), max_size=3, unique=True))
        name = f"n{number}"
        times = {
            clock: None if age is None else days_before(age)
            for clock, age in (("created", draw(AGES)), ("pushed", draw(AGES)))
        }
        shape = draw(st.sampled_from(["image", "image", "image", "artifact", "index"]))
        known = sorted(build._repositories[repository].names) if repository in build._repositories else []
        if shape == "index" and known:
            children = draw(st.lists(st.sampled_from(known), min_size=1, max_size=2, unique=True))
            build.index(
                repository, name=name, tags=tags, children=children, pushed=times["pushed"], annotations={"n": name}
            )
        else:
            build.image(repository, name=name, tags=tags, artifact_type="a/b" if shape == "artifact" else None, **times)
    for repository in list(build._repositories):
        extra = draw(st.sampled_from(["", "", "", "unread", "dangling", "cosign", "sbom"]))
        first = min(build._repositories[repository].names)
        if extra == "unread":
            build.unread(repository, "slow")
        elif extra == "dangling":
            build.dangling(repository, "latest")
        elif extra == "cosign":
            build.cosign(repository, first)
        elif extra == "sbom":
            build.attach(
                repository,
                first,
                name="sbom",
                tags=draw(st.sampled_from([(), ("sbom",)])),
                fallback=draw(st.booleans()),
            )
    return build


@st.composite
def selecting(draw):
    """Draw conditions on tags: none, one or two."""
    options = {
        "tags": st.lists(st.sampled_from(["*", "pr-*", "1.?.*", "latest", "main-[0-9]*"]), min_size=1, max_size=2).map(
            tuple
        ),
        "match": st.sampled_from([r"pr-\d+", r"v?1\..*", "main|x"]),
        "semver": st.sampled_from(sorted(RANGES)),
        "prereleases": st.booleans(),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(options)), max_size=2, unique=True))
    return {name: draw(options[name]) for name in chosen}


@st.composite
def expires(draw):
    conditions = {} if (untagged := draw(st.sampled_from([False, False, True]))) else draw(selecting())
    if draw(st.booleans()):
        conditions["older_than"] = draw(DURATIONS)
    if not conditions and not untagged:
        conditions["tags"] = ("*",)
    return Expire(untagged=untagged, clock=draw(st.sampled_from(["created", "created", "pushed"])), **conditions)


@st.composite
def keeps(draw):
    conditions = draw(selecting())
    if draw(st.booleans()):
        conditions["younger_than"] = draw(DURATIONS)
    for name in ("newest", "highest"):
        if draw(st.integers(0, 2)) == 0:
            conditions[name] = draw(st.integers(0, 3))
    if {"newest", "highest"} & conditions.keys():
        conditions["per"] = draw(
            st.sampled_from(["repository", "major", "minor", "branch", r"(?P<name>[a-z]+)-(?P<first>[0-9a-f]).*"])
        )
    if not conditions:
        conditions["tags"] = ("latest",)
    return Keep(clock=draw(st.sampled_from(["created", "created", "pushed"])), **conditions)


def optional(strategy):
    return st.none() | st.none() | strategy


@st.composite
def policies(draw):
    sections = tuple(
        Section(
            repositories=patterns,
            name=name,
            expire=tuple(draw(st.lists(expires(), min_size=1, max_size=2))),
            keep=tuple(draw(st.lists(keeps(), max_size=2))),
            grace=draw(optional(DURATIONS)),
            minimum_tags=draw(optional(st.integers(0, 4))),
            minimum_left=draw(optional(st.integers(0, 3))),
            maximum_deletions=draw(optional(st.integers(0, 3))),
            maximum_percent=draw(optional(st.sampled_from([0, 25, 50, 100]))),
        )
        for name, patterns in (("first", ("a/x",)), ("second", draw(st.sampled_from([("**",), ("a/*",), ("b",)]))))
    )
    return Policy(
        sections=sections,
        keep=tuple(draw(st.lists(keeps().map(lambda rule: replace(rule, name="everywhere")), max_size=1))),
        untag=draw(st.booleans()),
        maximum_deletions=draw(optional(st.integers(0, 5))),
        maximum_percent=draw(optional(st.sampled_from([10, 60]))),
    )


@st.composite
def users(draw, build):
    names = [f"registry:5000/{r}:{t}" for r, place in build._repositories.items() for t in place.tags]
    names += [f"registry:5000/{r}@{d}" for r, place in build._repositories.items() for d in place.stored]
    return draw(st.lists(st.sampled_from(sorted(names)), max_size=2)) if names else []


def names_of(frame):
    keys = frame["tag"].astype("object").where(frame["tag"].notna(), frame["digest"].astype("object"))
    return list(zip(frame["repository"].astype(str), keys, strict=True))


@settings(max_examples=120)
@given(data=st.data(), build=builds(), made=policies())
def test_the_answer_is_that_of_judging_every_tag_by_itself(data, build, made):
    used = data.draw(users(build))
    snapshot = build.snapshot()
    result = retention(snapshot, made, in_use=used)
    going, kept_back = verdicts(snapshot, made, used)
    assert len(result.expired) == len(going)
    assert set(names_of(result.expired)) == going
    assert dict(zip(names_of(result.held), result.held["held_by"], strict=True)) == kept_back
    assert set(result.held["held_by"].cat.categories) == set(HELD_BY)


@settings(max_examples=40)
@given(build=builds(), made=policies())
def test_every_explanation_agrees_with_the_tables(build, made):
    snapshot = build.snapshot()
    result = retention(snapshot, made)
    verdict = dict.fromkeys(names_of(result.expired), "expired") | dict.fromkeys(names_of(result.held), "held")
    rules = dict(zip(names_of(result.expired), result.expired["rule"], strict=True))
    for row in snapshot.tags.itertuples():
        found = result.explain(f"{row.repository}:{row.tag}")
        assert found.verdict == verdict.get((row.repository, row.tag), "kept")
        assert found.rule == rules.get((row.repository, row.tag), found.rule)
        assert found.because
        assert re.search(r"\b(may go|stays|is held back)\b", str(found))


@settings(max_examples=40)
@given(build=builds(), made=policies())
def test_a_plan_refuses_no_candidate_unless_it_would_leave_a_repository_empty(build, made):
    snapshot = build.snapshot()
    candidates = expired_tags(snapshot, made)
    planned = plan(snapshot, candidates, untag=made.untag, allow_empty=True)
    assert planned.refused == ()
    # what the limits have counted
    assert planned.chosen == len(candidates[["repository", "digest"]].drop_duplicates())


@settings(max_examples=40)
@given(build=builds(), made=policies(), extra=keeps())
def test_one_more_rule_to_keep_never_condemns_by_itself(build, made, extra):
    """Limits aside, which may let more go where fewer would."""
    free = replace(
        made,
        maximum_deletions=None,
        maximum_percent=None,
        sections=tuple(
            replace(s, minimum_tags=None, minimum_left=None, maximum_deletions=None, maximum_percent=None)
            for s in made.sections
        ),
    )
    more = replace(free, keep=(*free.keep, replace(extra, name="one more")))
    snapshot = build.snapshot()
    assert set(names_of(expired_tags(snapshot, more))) <= set(names_of(expired_tags(snapshot, free)))


def test_the_age_is_measured_when_the_reading_began():
    build = aged(10)
    later = build.snapshot(taken_at=NOW + timedelta(days=5))
    assert expired_tags(build.snapshot(), policy(Expire(older_than="12D"))).empty
    assert expired_tags(later, policy(Expire(older_than="12D")))["age_days"].tolist() == [15.0]
    assert isinstance(later.tags, pd.DataFrame)
