"""A plan takes what can go without breaking what stays, says why the rest stays, and cannot be edited by hand."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from builders import Build, blob
from hypothesis import given, settings
from hypothesis import strategies as st

from regaudit.analysis.tags import duplicate_tags, stale_tags
from regaudit.cleaner.plan import Plan, plan
from regaudit.cleaner.rows import DELETE_MANIFEST, DELETE_TAG, PUT_INDEX, REFUSALS
from regaudit.errors import InvalidReference, PlanError, UsageError
from regaudit.reference import Digest, attached_tag

APP = "team/app"


def app(*tags):
    return [f"{APP}:{tag}" for tag in tags]


def gone(made):
    """Return the digests that a plan deletes."""
    return {row.digest for row in made.rows if row.action == DELETE_MANIFEST}


def refusals(made):
    return {(row.tags[0] if row.tags else row.digest): row.refusal for row in made.refused}


def roles(build, made, *names):
    return {name: next((r.role for r in made.rows if r.digest == build.digest(APP, name)), None) for name in names}


def keeper(build=None):
    """Return a repository with a tag that no plan here asks for, so that nothing is left empty by accident."""
    return (build or Build()).image(APP, tags=["keep"])


# -- what goes along -------------------------------------------------------------------------


def test_a_tag_goes_with_its_digest_and_the_row_says_so():
    build = keeper().image(APP, tags=["old"], created="2025-01-01", layers={"a": 500})
    made = plan(build.snapshot(), app("old"))
    (row,) = made.rows
    assert (row.key, row.tags, row.role) == (f"{APP}@{build.digest(APP, 'old')}", ("old",), "candidate")
    assert (made.digests, made.tags, made.refused) == (1, 1, ())
    assert made.reclaimable_bytes == 500 + 1000 + 1000


def test_an_index_takes_its_children_nested_ones_and_attestations_along_parents_first():
    build = keeper().image(APP, name="leaf").image(APP, name="proof")
    build.index(APP, name="inner", children=["leaf"], attestations=["proof"]).index(
        APP, tags=["old"], children=["inner"]
    )
    made = plan(build.snapshot(), app("old"))
    assert roles(build, made, "old", "inner", "leaf", "proof") == {
        "old": "candidate",
        "inner": "child",
        "leaf": "child",
        "proof": "child",
    }
    order = [row.digest for row in made.rows]
    assert order[0] == build.digest(APP, "old")
    assert order[1] == build.digest(APP, "inner")
    assert made.row(f"{APP}@{build.digest(APP, 'leaf')}").needs == (f"{APP}@{build.digest(APP, 'inner')}",)


def shared_child():
    build = keeper().image(APP, name="child", layers={"c": 100})
    return build.index(APP, tags=["a"], children=["child"]).index(
        APP, tags=["b"], children=["child"], annotations={"n": "b"}
    )


def test_a_child_of_two_indexes_stays_with_the_one_that_stays():
    build = shared_child()
    assert gone(plan(build.snapshot(), app("a"))) == {build.digest(APP, "a")}


def test_a_child_of_two_indexes_goes_when_both_go_and_after_both():
    build = shared_child()
    made = plan(build.snapshot(), app("a", "b"))
    child = made.rows[-1]
    assert child.digest == build.digest(APP, "child")
    assert set(child.needs) == {f"{APP}@{build.digest(APP, name)}" for name in "ab"}


def test_a_tagged_child_of_an_index_that_goes_stays_with_its_tag():
    build = keeper().image(APP, tags=["1.0-amd64"]).index(APP, tags=["1.0"], children=["1.0-amd64"])
    made = plan(build.snapshot(), app("1.0"))
    assert gone(made) == {build.digest(APP, "1.0")}
    assert made.refused == ()


def test_referrers_and_chains_of_them_go_after_their_subject():
    build = keeper().image(APP, tags=["old"]).attach(APP, "old", name="sbom").attach(APP, "sbom", name="sig")
    made = plan(build.snapshot(), app("old"))
    assert [row.digest for row in made.rows] == [build.digest(APP, n) for n in ("old", "sbom", "sig")]
    assert [row.role for row in made.rows] == ["candidate", "referrer", "referrer"]
    assert made.rows[2].because == made.rows[1].key


@pytest.mark.parametrize("suffix", ["sig", "att", "sbom"])
def test_a_cosign_tag_goes_with_its_subject(suffix):
    build = keeper().image(APP, tags=["old"]).cosign(APP, "old", suffix)
    made = plan(build.snapshot(), app("old"))
    assert made.tags == 2
    assert made.rows[1].role == "referrer"


def test_a_fallback_tag_and_what_it_lists_go_with_their_subject():
    build = keeper().image(APP, tags=["old"]).attach(APP, "old", name="sbom", fallback=True)
    made = plan(build.snapshot(), app("old"))
    fallback = attached_tag(build.digest(APP, "old"))
    assert [row.digest for row in made.rows] == [build.digest(APP, n) for n in ("old", fallback, "sbom")]


def test_a_referrer_with_a_kept_tag_or_a_protected_one_stays():
    build = keeper().image(APP, tags=["old"]).attach(APP, "old", name="sbom", tags=["sbom-1"])
    assert gone(plan(build.snapshot(), app("old"))) == {build.digest(APP, "old")}
    build = keeper().image(APP, tags=["old"]).cosign(APP, "old")
    assert gone(plan(build.snapshot(), app("old"), protect=["sha256-*"])) == {build.digest(APP, "old")}


def test_two_signatures_of_each_other_do_not_carry_one_another():
    build = keeper().image(APP, tags=["old", "alias"])
    build.image(APP, name="a", layers={"a": 1}).image(APP, name="b", layers={"b": 1})
    build.tag(APP, "a", f"{attached_tag(build.digest(APP, 'b'))}.sig", f"{attached_tag(build.digest(APP, 'old'))}.sig")
    build.tag(APP, "b", f"{attached_tag(build.digest(APP, 'a'))}.sig")
    made = plan(build.snapshot(), app("old"))
    assert made.rows == ()
    assert refusals(made) == {"old": "kept_alias"}


def test_what_hangs_on_a_protected_child_stays_with_it():
    build = keeper().image(APP, tags=["stable"]).attach(APP, "stable", name="sbom")
    build.index(APP, tags=["old"], children=["stable"])
    assert gone(plan(build.snapshot(), app("old"), protect=["stable"])) == {build.digest(APP, "old")}


# -- what is refused -------------------------------------------------------------------------


def test_a_kept_alias_refuses_the_digest_and_is_named():
    made = plan(keeper().image(APP, tags=["1.0", "latest"]).snapshot(), app("1.0"))
    (row,) = made.refused
    assert (row.refusal, row.tags) == ("kept_alias", ("1.0",))
    assert "latest" in row.detail


def test_an_included_digest_goes_with_all_its_tags():
    build = keeper().image(APP, tags=["1.0", "latest"])
    made = plan(build.snapshot(), app("1.0"), include=[build.digest(APP, "1.0")])
    assert made.rows[0].tags == ("1.0", "latest")


def test_an_included_digest_that_is_no_candidate_stays():
    build = keeper().image(APP, tags=["1.0", "latest"]).image(APP, tags=["2.0"])
    assert gone(plan(build.snapshot(), app("2.0"), include=[build.digest(APP, "1.0")])) == {build.digest(APP, "2.0")}


def test_a_protected_tag_shields_its_whole_digest_and_all_below():
    build = keeper().index(APP, tags=["1.0", "latest"], platforms={"linux/amd64": {"a": 1}})
    made = plan(build.snapshot(), app("1.0", "latest"), protect=["late*"])
    assert made.rows == ()
    assert set(refusals(made).values()) == {"protected"}


def test_a_child_of_a_kept_index_is_refused_by_name_nested_too():
    build = keeper().image(APP, tags=["leaf"]).index(APP, name="inner", children=["leaf"])
    build.index(APP, tags=["1.0"], children=["inner"])
    (row,) = plan(build.snapshot(), app("leaf")).refused
    assert row.refusal == "child_of_kept_index"


@pytest.mark.parametrize("stage", ["manifest", "tags", "referrers", "config"])
def test_anything_unread_in_a_repository_blocks_it_and_no_other(stage):
    build = (
        keeper()
        .image(APP, tags=["old"])
        .unread(APP, stage=stage)
        .image("team/web", tags=["old", "x"])
        .image("team/web", tags=["k"])
    )
    made = plan(build.snapshot(), [*app("old"), "team/web:old", "team/web:x"])
    assert refusals(made) == {"old": "repository_not_read"}
    assert {row.repository for row in made.rows} == {"team/web"}


def test_a_repository_is_not_left_without_tags_unless_asked():
    build = Build().image(APP, tags=["1"]).image(APP, tags=["2"])
    assert set(refusals(plan(build.snapshot(), app("1", "2"))).values()) == {"would_empty"}
    assert plan(build.snapshot(), app("1", "2"), allow_empty=True).digests == 2


def test_signature_fallback_and_dangling_tags_do_not_count_as_something_left():
    build = Build().image(APP, tags=["1"]).image(APP, tags=["2"]).cosign(APP, "2").dangling(APP, "broken")
    build.image(APP, tags=[f"{attached_tag(blob('nothing'))}.sig"])
    assert set(refusals(plan(build.snapshot(), app("1", "2"))).values()) == {"would_empty"}


def test_dangling_and_unknown_tags_and_old_digests_are_refused_for_what_they_are():
    build = keeper().image(APP, tags=["1.0"]).dangling(APP, "gone")
    rows = [(APP, "gone", None), (APP, "nobody", None), (APP, "1.0", blob("older")), ("no/such", "1.0", None)]
    made = plan(build.snapshot(), pd.DataFrame(rows, columns=["repository", "tag", "digest"]))
    assert [row.refusal for row in made.refused] == [
        "not_in_snapshot",
        "not_in_snapshot",
        "dangling",
        "not_in_snapshot",
    ]


def test_a_tag_that_was_not_read_and_a_digest_that_is_not_there_are_unread():
    build = keeper().unread(APP, "slow").image("team/web", tags=["1", "k"])
    frame = pd.DataFrame([(APP, "slow", None), ("team/web", None, blob("x"))], columns=["repository", "tag", "digest"])
    assert set(refusals(plan(build.snapshot(), frame)).values()) == {"unread"}


def test_schema_1_is_never_planned():
    build = keeper().legacy(APP, tags=["ancient"], layers=["a"])
    assert refusals(plan(build.snapshot(), app("ancient"))) == {"ancient": "legacy"}


@pytest.mark.parametrize("patterns", [(), ("**",), ("team/*",), ("!legacy/*",)])
def test_bytes_are_at_most_what_is_said_and_the_plan_says_why(patterns):
    build = keeper().image(APP, tags=["old"], layers={"own": 2000})
    made = plan(build.snapshot(patterns=patterns), app("old"))
    assert "; at most 3.9 KiB come back" in made.headline()
    assert made.upper_bound
    assert not made.lower_bound
    read_in_part = patterns in {("team/*",), ("!legacy/*",)}
    assert made.bounds == (("unread", "unlisted") if read_in_part else ("unlisted",))
    assert made.bounds_text().startswith("at most: not all" if read_in_part else "at most: what lost its last tag")
    for text in (str(made), made._repr_html_()):
        assert made.bounds_text() in text


def test_bytes_are_exact_only_where_none_come_back():
    made = plan(keeper().image(APP, tags=["1.0", "latest"]).snapshot(), app("1.0"), untag=True)
    assert (made.bounds, made.bounds_text(), made.bytes_text(0)) == ((), "", "0 B")
    assert "; 0 B come back" in made.headline()


def test_nothing_selected_brings_nothing_back_whatever_is_not_known():
    made = plan(keeper().image(APP, tags=["old"]).snapshot(patterns=["team/*"]), app("old"))
    assert made.bytes_text(made.selection().bytes) == "0 B"


def test_bytes_are_an_upper_bound_where_another_repository_was_not_read():
    build = keeper().image(APP, tags=["old"], layers={"own": 2000}).unread("team/other", "secret")
    assert "unread" in plan(build.snapshot(), app("old")).bounds


def test_an_unknown_age_is_refused_where_age_is_the_reason():
    build = keeper().image(APP, tags=["undated"])
    frame = pd.DataFrame({"repository": [APP], "tag": ["undated"], "age_days": pd.array([None], dtype="Float64")})
    assert refusals(plan(build.snapshot(), frame)) == {"undated": "unknown_age"}


def test_an_unknown_age_is_no_obstacle_where_another_question_found_the_tag():
    build = keeper().image(APP, tags=["undated"])
    frame = pd.DataFrame({"repository": [APP], "tag": ["undated"], "reason": ["same content as keep"]})
    frame["age_days"] = pd.array([None], dtype="Float64")
    assert refusals(plan(build.snapshot(), frame)) == {}


def test_an_alias_of_unknown_age_that_goes_with_an_included_digest_is_not_refused_as_well():
    build = keeper().image(APP, tags=["a", "b"])
    ages = pd.array([300.0, None], dtype="Float64")
    frame = pd.DataFrame({"repository": [APP, APP], "tag": ["a", "b"], "age_days": ages})
    made = plan(build.snapshot(), frame, include=[build.digest(APP, "a")])
    assert made.rows[0].tags == ("a", "b")
    assert made.refused == ()


def test_a_digest_of_an_unknown_algorithm_is_unverifiable():
    build = keeper().image(APP, tags=["odd"])
    snapshot, odd = build.snapshot(), "blake3:" + "a" * 64
    renamed = {
        name: frame.assign(**{c: frame[c].cat.rename_categories({str(build.digest(APP, "odd")): odd})})
        for name, c in (("tags", "digest"), ("manifests", "digest"))
        for frame in [getattr(snapshot, name)]
    }
    assert refusals(plan(replace(snapshot, **renamed), app("odd"))) == {"odd": "unverifiable"}


def test_nothing_of_the_v1_interface_can_be_planned_whatever_is_asked_for():
    build = keeper().v1(APP, "old").v1(APP, "older", image_id="1" * 64, created="2020-01-01T00:00:00Z")
    made = plan(build.snapshot(), app("old", "older"), allow_empty=True, untag=True, include=["sha256:" + "0" * 64])
    assert refusals(made) == {"old": "v1", "older": "v1"}
    assert made.rows == ()
    assert "registry.v1" in made.refused[0].detail


@pytest.mark.parametrize("asked", [("a", "old", "older"), ("older", "old", "a")])
def test_tags_of_the_v1_interface_are_told_from_others_in_the_same_plan(asked):
    build = keeper().image(APP, tags=["a"]).v1(APP, "old").v1(APP, "older", image_id="1" * 64)
    made = plan(build.snapshot(), app(*asked))
    assert refusals(made) == {"old": "v1", "older": "v1"}
    assert [row.tags for row in made.rows] == [("a",)]


def test_every_refusal_has_a_test_here():
    source = Path(__file__).read_text("utf-8")
    assert all(f'"{refusal}"' in source for refusal in REFUSALS)


# -- tags that go alone ----------------------------------------------------------------------


def test_with_untag_an_alias_goes_alone_and_nothing_comes_back():
    build = keeper().image(APP, tags=["1.0", "latest"])
    made = plan(build.snapshot(), app("1.0"), untag=True)
    (row,) = made.rows
    assert (row.action, row.tags, row.key, row.freed_bytes) == (DELETE_TAG, ("1.0",), f"{APP}:1.0", 0)
    assert (made.digests, made.tags, made.refused) == (0, 1, ())


def test_with_untag_the_tag_of_a_kept_indexs_child_goes_alone():
    build = keeper().image(APP, tags=["leaf"]).index(APP, tags=["1.0"], children=["leaf"])
    assert [row.action for row in plan(build.snapshot(), app("leaf"), untag=True).rows] == [DELETE_TAG]


def test_with_untag_an_alias_of_a_protected_tag_goes_alone_and_the_protected_one_never():
    build = keeper().image(APP, tags=["1.0", "latest"])
    made = plan(build.snapshot(), app("1.0", "latest"), untag=True, protect=["latest"])
    assert [row.tags for row in made.rows] == [("1.0",)]
    assert refusals(made) == {"latest": "protected"}


# -- what a person hands in ------------------------------------------------------------------


def test_candidates_are_tables_of_questions_digests_or_texts():
    build = keeper().image(APP, tags=["old"], created="2020-01-01").image(APP, tags=["new"], created="2026-05-01")
    snapshot, digest = build.snapshot(), build.digest(APP, "old")
    stale = stale_tags(snapshot, older_than="365D")
    frames = [stale, app("old"), snapshot.tags[snapshot.tags["tag"] == "old"]]
    assert [gone(plan(snapshot, frame)) for frame in frames] == [{digest}] * 3
    assert "older than 365" in plan(snapshot, stale).rows[0].reason


def test_an_untagged_digest_can_be_a_candidate():
    build = keeper().image(APP, name="orphan")
    frame = pd.DataFrame({"repository": [APP], "digest": [build.digest(APP, "orphan")]})
    (row,) = plan(build.snapshot(), frame).rows
    assert (row.tags, row.role) == ((), "candidate")


def test_a_tag_on_a_digest_that_alone_is_a_candidate_is_a_kept_alias():
    build = keeper().image(APP, tags=["old"])
    made = plan(build.snapshot(), pd.DataFrame({"repository": [APP], "digest": [build.digest(APP, "old")]}))
    assert refusals(made) == {build.digest(APP, "old"): "kept_alias"}


def test_a_tag_that_two_questions_found_is_one_row_with_both_reasons():
    build = keeper().image(APP, tags=["old"], created="2020-01-01").image(APP, tags=["copy", "x"], created="2026-01-01")
    rows = [(APP, "old", "stale"), (APP, "old", "duplicate"), (APP, "copy", "stale"), (APP, "copy", "duplicate")]
    made = plan(build.snapshot(), pd.DataFrame(rows, columns=["repository", "tag", "reason"]), untag=True)
    assert {row.key for row in made.rows} == {f"{APP}@{build.digest(APP, 'old')}", f"{APP}:copy"}
    assert {row.reason for row in made.rows} == {"duplicate; stale"}


def test_duplicates_of_one_digest_are_refused_with_the_name_of_what_stays():
    build = Build().image(APP, tags=["1.0", "1.0.0"], created="2026-01-01")
    made = plan(build.snapshot(), duplicate_tags(build.snapshot()))
    assert {row.refusal for row in made.refused} <= {"kept_alias", "would_empty"}
    assert made.rows == ()


@pytest.mark.parametrize(
    "candidates",
    [
        "team/app:1.0",
        ["team/app"],
        ["host:5000/app"],
        pd.DataFrame({"tag": ["1.0"]}),
        pd.DataFrame({"repository": [APP]}),
        pd.DataFrame({"repository": [APP], "tag": [None]}),
        pd.DataFrame({"registry": ["elsewhere"], "repository": [APP], "tag": ["keep"]}),
    ],
)
def test_candidates_that_name_nothing_or_another_registry_are_a_usage_error(candidates):
    with pytest.raises(UsageError):
        plan(keeper().snapshot(), candidates)


def test_a_digest_that_is_none_is_refused_before_anything_is_decided():
    with pytest.raises(InvalidReference):
        plan(keeper().snapshot(), pd.DataFrame({"repository": [APP], "digest": ["sha256:short"]}))


@pytest.mark.parametrize("option", ["protect", "include"])
def test_one_text_where_several_are_expected_is_said(option):
    with pytest.raises(UsageError, match="several"):
        plan(keeper().snapshot(), app("keep"), **{option: "latest"})


# -- bytes -----------------------------------------------------------------------------------


def test_bytes_shared_with_what_stays_or_with_another_repository_do_not_come_back():
    build = (
        keeper()
        .image(APP, tags=["old"], layers={"base": 700, "own": 30})
        .image("team/web", tags=["w"], layers={"base": 700})
    )
    made = plan(build.snapshot(), app("old"))
    assert made.reclaimable_bytes == 30 + 1000 + 1000
    assert sum(row.freed_bytes for row in made.rows) == made.reclaimable_bytes


def test_an_unknown_size_makes_the_sum_a_lower_bound_too():
    made = plan(keeper().image(APP, tags=["old"], layers={"x": None}).snapshot(), app("old"))
    assert (made.lower_bound, made.upper_bound) == (True, True)
    assert "; about 2.0 KiB come back" in made.headline()
    assert made.bytes_text(0) == "at least 0 B"
    assert "no manifest says the size" in made.bounds_text()


def test_a_row_names_the_blobs_that_come_back_with_it():
    build = keeper().image(APP, tags=["old"], layers={"base": 700, "own": 30})
    snapshot = build.image("team/web", tags=["w"], layers={"base": 700}).snapshot()
    (row,) = plan(snapshot, app("old")).rows
    configs = snapshot.manifests.set_index("digest")["config_digest"]
    assert set(row.frees) == {configs[row.digest], blob("own")}


# -- files -----------------------------------------------------------------------------------


def rich():
    build = keeper().image(APP, tags=["1.0", "latest"]).index(APP, tags=["old"], platforms={"linux/amd64": {"a": 1}})
    return build.cosign(APP, "old").image(APP, tags=["x"]).snapshot()


def test_what_a_person_reads_says_what_goes_along_what_goes_alone_and_who_approved():
    build = keeper().image(APP, tags=["1.0", "latest"]).index(APP, tags=["old"], platforms={"linux/amd64": {"a": 1}})
    made = plan(build.snapshot(), app("1.0", "old"), untag=True)
    assert "(+1 along)" in str(made)
    assert "1.0 (the tag alone)" in str(made)
    approved = made.approve("Ada <b>", reason="full disk")
    for text in (str(approved), approved._repr_html_()):
        assert "approved by Ada" in text
        assert made.hash[:12] in text
        assert "full disk" in text
    assert "<b>" not in approved._repr_html_()
    assert "<td>the tag alone</td>" in made._repr_html_()
    assert "approved" not in str(made)


def test_what_limits_count_is_what_goes_by_itself():
    build = keeper().index(APP, tags=["old"], platforms={"linux/amd64": {"a": 1}, "linux/arm64": {"b": 1}})
    made = plan(build.image(APP, tags=["1.0", "1", "latest"]).snapshot(), app("old", "1.0", "1"), untag=True)
    assert (made.chosen, made.digests, made.tags) == (2, 3, 3)


def test_a_plan_survives_its_file_with_hash_and_approval(tmp_path):
    made = plan(rich(), app("1.0", "old", "x"), protect=["v*"]).approve("Ada", reason="full")
    loaded = Plan.load(made.save(tmp_path / "plan.json"))
    assert loaded == replace(made, snapshot=None)
    assert loaded.hash == made.hash
    loaded.check()


def test_the_hash_does_not_depend_on_the_order_of_the_candidates():
    snapshot = rich()
    assert plan(snapshot, app("old", "x", "1.0")).hash == plan(snapshot, app("1.0", "old", "x")).hash


def leaves(value, path=()):
    """Every place in a document that holds a plain value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return [path]
    return [place for key, item in items for place in leaves(item, (*path, key))]


def edited(document, place):
    changed = json.loads(json.dumps(document))
    at = changed
    for key in place[:-1]:
        at = at[key]
    old = at[place[-1]]
    at[place[-1]] = {bool: not old, int: (old + 1 if isinstance(old, int) else 0)}.get(type(old), "edited")
    return changed


def test_every_edit_of_a_plan_file_by_hand_is_found(tmp_path):
    path = plan(rich(), app("1.0", "old", "x"), protect=["v*"]).approve("Ada").save(tmp_path / "plan.json")
    document = json.loads(path.read_text())
    places = leaves(document)
    assert ("approval", "by") in places
    for place in places:
        path.write_text(json.dumps(edited(document, place)))
        with pytest.raises(PlanError):
            Plan.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        '{"format": "regaudit-plan/1"}',
        '{"format": "regaudit-plan/2"}',
        "[" * 100_000,
        '"\ud800"',
        "\0",
    ],
)
def test_a_file_that_is_no_plan_of_this_format_is_a_plan_error(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(PlanError):
        Plan.load(path)


def test_a_removed_row_an_added_field_and_a_key_that_stands_twice_are_found(tmp_path):
    path = plan(rich(), app("old", "x")).approve("Ada").save(tmp_path / "plan.json")
    document = json.loads(path.read_text())
    fewer, more = document | {"rows": document["rows"][1:]}, document | {"note": "mine"}
    twice = path.read_text().replace('"registry"', '"registry": "shown", "registry"', 1)
    for text in (json.dumps(fewer), json.dumps(more), twice):
        path.write_text(text)
        with pytest.raises(PlanError):
            Plan.load(path)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(PlanError, match="regaudit plan"):
        Plan.load(tmp_path / "none.json")


@given(st.data())
@settings(max_examples=40)
def test_a_damaged_plan_file_is_only_ever_a_plan_error(tmp_path_factory, data):
    path = plan(rich(), app("old", "x")).save(tmp_path_factory.mktemp("plan") / "plan.json")
    raw = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(raw) - 1))
    raw[start : start + data.draw(st.integers(1, 40))] = data.draw(st.binary(max_size=40))
    path.write_bytes(raw)
    try:
        loaded = Plan.load(path)
    except PlanError:
        return
    assert loaded.hash == plan(rich(), app("old", "x")).hash


# -- approval --------------------------------------------------------------------------------


def test_only_a_plan_approved_as_it_stands_passes_the_check():
    made = plan(rich(), app("old", "x"))
    with pytest.raises(PlanError, match="not approved"):
        made.check()
    approved = made.approve("Ada")
    approved.check()
    with pytest.raises(PlanError, match="another plan"):
        replace(approved, rows=approved.rows[:1]).check()
    approved.state[APP]["keep"] = "sha256:" + "0" * 64
    with pytest.raises(PlanError, match="another plan"):
        approved.check()
    with pytest.raises(UsageError):
        made.approve("  ")


# -- choosing rows ---------------------------------------------------------------------------


def test_select_decides_anew_what_goes_along_and_how_much_comes_back(tmp_path):
    build = shared_child()
    snapshot = build.snapshot()
    made = plan(snapshot, app("a", "b"))
    only = made.select([f"{APP}@{build.digest(APP, 'a')}"])
    assert gone(only) == {build.digest(APP, "a")}
    assert only.reclaimable_bytes < made.reclaimable_bytes
    assert only.hash == plan(snapshot, app("a")).hash
    assert only.approval is None
    loaded = Plan.load(made.save(tmp_path / "p.json"), snapshot=snapshot)
    assert loaded.select([f"{APP}@{build.digest(APP, 'a')}"]).hash == only.hash


def test_select_needs_the_snapshot_of_the_plan_and_keys_of_candidate_rows(tmp_path):
    build = shared_child()
    made = plan(build.snapshot(), app("a", "b"))
    path = made.save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="snapshot is needed"):
        Plan.load(path).select([])
    with pytest.raises(PlanError, match="another snapshot"):
        Plan.load(path, snapshot=build.snapshot(taken_at="2026-07-01"))
    with pytest.raises(UsageError):
        made.select([f"{APP}@{build.digest(APP, 'child')}"])
    with pytest.raises(UsageError):
        made.selection().set("nothing", selected=True)
    with pytest.raises(UsageError):
        made.row("nothing")


def test_the_frame_has_every_row_and_the_refused_ones_last():
    made = plan(rich(), app("1.0", "old", "x"))
    frame = made.frame()
    assert list(frame["key"]) == [row.key for row in (*made.rows, *made.refused)]
    assert frame["refusal"].iloc[-1] == "kept_alias"
    assert frame.loc[: len(made.rows) - 1, ["refusal", "detail"]].isna().all(axis=None), (
        "missing, and not an empty text"
    )
    assert str(frame["created"].dtype) == "datetime64[us, UTC]"


def test_a_plan_as_csv_has_every_row_and_nothing_that_a_spreadsheet_runs(tmp_path):
    frame = pd.DataFrame({"repository": [APP], "tag": ["x"], "reason": ["=1+1"]})
    made = plan(rich(), frame)
    read = pd.read_csv(made.to_csv(tmp_path / "plan.csv"), keep_default_na=False)
    assert list(read["key"]) == [row.key for row in (*made.rows, *made.refused)]
    assert list(read["reason"]) == ["'=1+1"]


# -- what else a plan promises ---------------------------------------------------------------


def canonical(document):
    """Return the sha256 of canonical JSON, as anybody can compute it."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(path, **changes):
    """Write a plan file as somebody who edits it and knows how its hash and its seal are made."""
    document = json.loads(path.read_text())
    document |= changes
    del document["seal"]
    content = {name: value for name, value in document.items() if name not in {"hash", "approval"}}
    document["hash"] = canonical(content)
    path.write_text(json.dumps(document | {"seal": canonical(document)}))
    return path


def test_the_hash_is_the_sha256_of_the_files_canonical_json_without_the_approval(tmp_path):
    made = plan(rich(), app("1.0", "old", "x"), protect=["\u00e4*"])
    path = made.approve("Ada").save(tmp_path / "plan.json")
    assert sealed(path) == path
    assert json.loads(path.read_text())["hash"] == made.hash
    assert Plan.load(path).hash == made.hash


@pytest.mark.parametrize(
    "changes",
    [
        {"registry": 5},
        {"reclaimable_bytes": "10"},
        {"reclaimable_bytes": True},
        {"bounds": ["perhaps"]},
        {"state": {APP: {"old": 5}}},
        {"taken_at": "yesterday"},
    ],
    ids=str,
)
def test_a_field_of_another_kind_is_refused_however_well_the_file_is_sealed(tmp_path, changes):
    path = plan(rich(), app("old")).save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="damaged"):
        Plan.load(sealed(path, **changes))


@pytest.mark.parametrize("changes", [{"created": "yesterday"}, {"action": "push"}, {"digest": "sha256:12"}], ids=str)
def test_a_row_of_another_kind_is_refused_however_well_the_file_is_sealed(tmp_path, changes):
    path = plan(rich(), app("old")).save(tmp_path / "plan.json")
    rows = json.loads(path.read_text())["rows"]
    with pytest.raises(PlanError, match="damaged"):
        Plan.load(sealed(path, rows=[rows[0] | changes, *rows[1:]]))


def test_the_frame_has_the_columns_that_its_documentation_names():
    said = "key repository tags digest action role kind created content_bytes freed_bytes reason because refusal detail"
    assert list(plan(rich(), app("old")).frame()) == said.split()


def test_limits_count_what_goes_by_itself_and_not_what_goes_along():
    made = plan(rich(), app("old"))
    assert (made.digests, made.chosen) == (3, 1)


def test_two_images_that_are_each_others_signature_go_one_after_the_other():
    build = keeper().image(APP, tags=["a"]).image(APP, tags=["b"])
    for name, other in (("a", "b"), ("b", "a")):
        build.tag(APP, name, f"{attached_tag(build.digest(APP, other))}.sig")
    first, second = plan(build.snapshot(), app("a", "b")).rows
    assert {first.digest, second.digest} == {build.digest(APP, name) for name in "ab"}
    assert (first.needs, second.needs) == ((), (first.key,))


def test_an_approval_keeps_nothing_that_acts_on_a_terminal():
    approval = plan(rich(), app("old")).approve("Ada\x1b[2J", reason="disk\x1b[2J").approval
    assert "\x1b" not in approval.by + approval.reason


def test_twenty_candidates_are_listed_and_the_others_counted():
    build = keeper()
    for number in range(60):
        build.image(APP, tags=[f"t{number}"])
    few, many = (plan(build.snapshot(), app(*(f"t{n}" for n in range(count)))) for count in (20, 60))
    assert "  and 40 more" in str(many)
    assert "more" not in str(few)
    assert "<p>and 10 more in" in many._repr_html_()
    assert "more in" not in few._repr_html_()


def test_four_tags_of_a_digest_are_shown_and_the_others_counted():
    tags = [f"t{number}" for number in range(7)]
    assert "t0 t1 t2 t3 and 3 more" in str(plan(keeper().image(APP, tags=tags).snapshot(), app(*tags)))


def test_a_page_says_of_each_row_whether_it_goes_goes_along_alone_or_stays():
    build = keeper().image(APP, tags=["1.0", "latest"]).index(APP, tags=["old"], platforms={"linux/amd64": {"a": 1}})
    page = plan(build.image(APP, tags=["v1"]).snapshot(), app("1.0", "old", "v1"), untag=True, protect=["v*"])
    cells = [
        re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page._repr_html_(), re.DOTALL)
    ]
    found = {(row[1], row[3], row[4], bool(row[5])) for row in cells if row}
    assert found == {
        ("old", "candidate", "1", True),
        ("", "child", "", True),
        ("1.0", "the tag alone", "", True),
        ("v1", "refused", "", False),
    }


# -- for any repository ----------------------------------------------------------------------


@st.composite
def repositories(draw):
    """Draw a snapshot of two random repositories."""
    build = Build()
    for repository in (APP, "team/web"):
        names = []
        for number in range(draw(st.integers(1, 7))):
            name = f"m{number}"
            kind = draw(st.sampled_from(["image", "image", "index", "attach", "cosign"])) if names else "image"
            other = draw(st.sampled_from(names)) if names else ""
            if kind == "image":
                shared = draw(st.sampled_from(["base", "extra", f"{repository}/{name}"]))
                build.image(repository, name=name, layers={shared: len(shared), f"{repository}{name}": 7})
            elif kind == "index":
                children = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
                build.index(repository, name=name, children=children, annotations={"n": name})
            elif kind == "attach":
                build.attach(repository, other, name=name, fallback=draw(st.booleans()))
            else:
                suffix = draw(st.sampled_from(["sig", "att", "sbom"]))
                build.image(repository, name=name, tags=[f"{attached_tag(build.digest(repository, other))}.{suffix}"])
            names.append(name)
            for tag in range(draw(st.integers(0, 2))):
                build.tag(repository, name, f"{name}-t{tag}")
    return build.snapshot()


def pairs(frame, *columns):
    return [tuple(row) for row in frame[list(columns)].astype("object").to_numpy().tolist()]


@st.composite
def wishes(draw):
    snapshot = draw(repositories())
    tagged = pairs(snapshot.tags, "repository", "tag")
    chosen = draw(st.lists(st.sampled_from(tagged), unique=True)) if tagged else []
    rows = [(repository, tag, None) for repository, tag in chosen]
    digests = pairs(snapshot.manifests, "repository", "digest")
    rows += [(r, None, d) for r, d in draw(st.lists(st.sampled_from(digests), max_size=3, unique=True))]
    options = {
        "protect": draw(st.lists(st.sampled_from(["m0*", "*-t1", "sha256-*"]), max_size=1)),
        "include": [d for _, d in draw(st.lists(st.sampled_from(digests), max_size=2))],
        "allow_empty": draw(st.booleans()),
        "untag": draw(st.booleans()),
    }
    frame = pd.DataFrame(rows, columns=["repository", "tag", "digest"]).astype("object")
    return snapshot, frame, options


@given(wishes())
@settings(max_examples=60)
def test_nothing_that_goes_is_held_by_what_stays(wish):
    snapshot, frame, options = wish
    made = plan(snapshot, frame, **options)
    going = {(row.repository, row.digest) for row in made.rows if row.action == DELETE_MANIFEST}
    asked = set(pairs(frame, "repository", "tag"))
    included = set(options["include"])
    going_or_rewritten = going | {(row.repository, row.digest) for row in made.rows if row.action == PUT_INDEX}
    for repository, index, child in pairs(snapshot.children, "repository", "index_digest", "digest"):
        assert (repository, child) not in going or (repository, index) in going_or_rewritten
    subject = {attached_tag(Digest(d)): d for _, d in pairs(snapshot.manifests, "repository", "digest")}
    for repository, tag, digest in pairs(snapshot.tags, "repository", "tag", "digest"):
        attached = (repository, subject.get(tag.partition(".")[0])) in going
        assert (repository, digest) not in going or (repository, tag) in asked or attached or digest in included


@given(wishes())
@settings(max_examples=60)
def test_every_candidate_goes_or_is_refused_and_never_both(wish):
    snapshot, frame, options = wish
    made = plan(snapshot, frame, **options)
    going = [(row.repository, tag) for row in made.rows if row.action != PUT_INDEX for tag in row.tags]
    staying = [(row.repository, tag) for row in made.refused for tag in row.tags]
    assert len(going) == len(set(going))
    assert sorted(set(going + staying) & set(pairs(frame[frame.tag.notna()], "repository", "tag"))) == sorted(
        set(pairs(frame[frame.tag.notna()], "repository", "tag"))
    )
    assert not set(going) & set(staying)
    keys = [row.key for row in made.rows]
    assert len(keys) == len(set(keys))


@given(wishes())
@settings(max_examples=40)
def test_parents_come_before_children_and_every_row_that_goes_along_needs_one_before_it(wish):
    snapshot, frame, options = wish
    made = plan(snapshot, frame, **options)
    place = {row.key: number for number, row in enumerate(made.rows)}
    for row in made.rows:
        assert all(place[key] < place[row.key] for key in row.needs)
        assert (row.role == "candidate") == (row.because is None)
        assert row.because is None or row.because in row.needs
    for repository, index, child in pairs(snapshot.children, "repository", "index_digest", "digest"):
        rewritten = any((row.repository, row.digest, row.action) == (repository, index, PUT_INDEX) for row in made.rows)
        if f"{repository}@{child}" in place and not rewritten:
            assert place[f"{repository}@{index}"] < place[f"{repository}@{child}"]


@given(wishes(), st.sampled_from(["m1*", "*", "*-t0"]))
@settings(max_examples=40)
def test_protecting_more_never_deletes_more(wish, pattern):
    snapshot, frame, options = wish
    options = options | {"allow_empty": True}
    before = gone(plan(snapshot, frame, **options))
    after = gone(plan(snapshot, frame, **options | {"protect": [*options["protect"], pattern]}))
    assert after <= before


@given(wishes())
@settings(max_examples=40)
def test_the_bytes_that_come_back_are_those_that_nothing_left_holds(wish):
    snapshot, frame, options = wish
    made = plan(snapshot, frame, **options)
    going = {(row.repository, row.digest) for row in made.rows if row.action == DELETE_MANIFEST}
    held, sizes = {}, {}
    for repository, digest, size in pairs(snapshot.manifests, "repository", "digest", "manifest_bytes"):
        held.setdefault(digest, set()).add((repository, digest))
        sizes[digest] = size
    for repository, manifest, digest, size in pairs(
        snapshot.blobs, "repository", "manifest_digest", "digest", "size_bytes"
    ):
        held.setdefault(digest, set()).add((repository, manifest))
        sizes[digest] = size
    there = set(snapshot.manifests["digest"])
    for repository, index, child in pairs(snapshot.children, "repository", "index_digest", "digest"):
        if child in there:  # in whichever repository: an index keeps the bytes of a child that was deleted
            held[child].add((repository, index))
    assert made.reclaimable_bytes == sum(sizes[d] for d, holders in held.items() if holders <= going)
    assert made.reclaimable_bytes == sum(row.freed_bytes for row in made.rows)


@given(wishes(), st.data())
@settings(max_examples=80)
def test_the_totals_of_a_selection_are_those_of_the_plan_that_select_returns(wish, data):
    snapshot, frame, options = wish
    made = plan(snapshot, frame, **options)
    keys = [row.key for row in made.rows if row.role == "candidate"]
    following = made.selection()
    clicks = data.draw(st.lists(st.sampled_from(keys), max_size=8)) if keys else []
    for key in clicks:
        following.set(key, selected=key not in following.keys)
        chosen = made.select(following.keys)
        assert (following.digests, following.tags) == (chosen.digests, chosen.tags)
        assert following.bytes == chosen.reclaimable_bytes
        assert all(row.refusal != "would_empty" for row in chosen.refused), "what the form shows must not vanish later"


@given(wishes(), st.randoms())
@settings(max_examples=50)
def test_a_plan_is_the_same_whatever_the_order_of_its_candidates(wish, random):
    snapshot, frame, options = wish
    order = list(range(len(frame)))
    random.shuffle(order)
    assert plan(snapshot, frame, **options).hash == plan(snapshot, frame.iloc[order], **options).hash
