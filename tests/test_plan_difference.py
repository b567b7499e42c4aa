"""Two plans of a registry compared: what one deletes and the other does not, and of what they judge otherwise."""

import json

import pandas as pd
import pytest
from builders import Build
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import APP, app, keeper, wishes

from regaudit.cleaner.plan import Plan, plan
from regaudit.cli import main
from regaudit.errors import UsageError


def rows(change):
    return {row["key"]: row for row in change.rows.to_dict("records")}


def test_a_plan_is_the_same_as_itself_also_from_its_file(tmp_path):
    made = plan(keeper().image(APP, tags=["1.0", "latest"]).image(APP, tags=["x"]).snapshot(), app("1.0", "x"))
    change = made.diff(Plan.load(made.save(tmp_path / "plan.json")).approve("Ada"))
    assert change.same
    assert change.rows.empty
    assert "the same in both" in str(change)
    assert change.before_hash == change.after_hash


def test_what_goes_now_stays_now_and_its_bytes():
    build = keeper().image(APP, tags=["a"], layers={"a": 100}).image(APP, tags=["b"], layers={"b": 30})
    snapshot = build.snapshot()
    change = plan(snapshot, app("a")).diff(plan(snapshot, app("b")))
    found = rows(change)
    assert found[f"{APP}@{build.digest(APP, 'a')}"]["change"] == "stays"
    assert found[f"{APP}@{build.digest(APP, 'b')}"]["change"] == "goes"
    assert change.counts() == {"goes": 1, "stays": 1, "changed": 0}
    assert change.bytes_before - change.bytes_after == 70
    assert change.to_dict()["same"] is False
    json.dumps(change.to_dict())


def test_a_refusal_that_ends_begins_or_has_another_reason_is_a_row_with_both():
    build = keeper().image(APP, tags=["1.0", "latest"])
    snapshot, key = build.snapshot(), f"{APP}@{build.digest(APP, '1.0')}"
    refused = plan(snapshot, app("1.0"))
    row = rows(refused.diff(plan(snapshot, app("1.0", "latest"))))[key]
    assert (row["change"], row["refusal_before"], row["action_after"]) == ("goes", "kept_alias", "delete_manifest")
    row = rows(refused.diff(plan(snapshot, app("1.0"), protect=["1.*"])))[key]
    assert (row["change"], row["refusal_before"], row["refusal_after"]) == ("changed", "kept_alias", "protected")
    row = rows(plan(snapshot, app("1.0", "latest")).diff(refused))[key]
    assert row["change"] == "stays"


def test_the_same_digest_with_other_tags_or_more_along_is_changed():
    def made(*attached):
        build = keeper().image(APP, tags=["old"])
        for name in attached:
            build.attach(APP, "old", name=name)
        return plan(build.snapshot(), app("old"))

    change = made("sbom").diff(made("sbom", "provenance"))
    (top,) = [row for row in rows(change).values() if row["change"] == "changed"]
    assert (top["along_before"], top["along_after"]) == (1, 2)
    assert change.counts() == {"goes": 1, "stays": 0, "changed": 1}


def test_a_tag_that_goes_alone_is_another_row_than_its_digest():
    snapshot = keeper().image(APP, tags=["1.0", "latest"]).snapshot()
    change = plan(snapshot, app("1.0")).diff(plan(snapshot, app("1.0"), untag=True))
    assert rows(change)[f"{APP}:1.0"]["action_after"] == "delete_tag"


def test_plans_of_two_registries_are_not_compared():
    made = plan(keeper().snapshot(), [])
    with pytest.raises(UsageError, match="one registry"):
        made.diff(plan(keeper(Build("other:5000")).snapshot(), []))


def test_what_a_person_reads_is_escaped_and_says_both_sides():
    snapshot = keeper().image(APP, tags=["a"]).image(APP, tags=["b"]).snapshot()
    change = plan(snapshot, app("a")).diff(plan(snapshot, app("b")))
    html = change._repr_html_()
    assert "not in the plan" in html
    assert "delete_manifest (candidate)" in html
    assert "1 go now, 1 stay now" in repr(change)


@given(wishes(), st.data())
@settings(max_examples=40)
def test_for_any_two_plans_the_rows_are_what_only_one_of_them_deletes(wish, data):
    snapshot, frame, options = wish
    kept = [data.draw(st.booleans()) for _ in range(len(frame))]
    one, other = plan(snapshot, frame, **options), plan(snapshot, frame[pd.Series(kept, dtype=bool)], **options)
    change, back = one.diff(other), other.diff(one)
    going = [{row.key for row in made.rows} for made in (one, other)]
    by = change.rows.set_index("key")["change"]
    assert set(by.index[by == "goes"]) == going[1] - going[0]
    assert set(by.index[by == "stays"]) == going[0] - going[1]
    assert change.counts() == {
        "goes": back.counts()["stays"],
        "stays": back.counts()["goes"],
        "changed": back.counts()["changed"],
    }
    if change.same:
        assert going[0] == going[1]
        assert one.reclaimable_bytes == other.reclaimable_bytes


def test_regaudit_diff_takes_two_plan_files(tmp_path):
    snapshot = keeper().image(APP, tags=["a"]).image(APP, tags=["b"]).snapshot()
    files = [str(plan(snapshot, app(tag)).save(tmp_path / f"{tag}.json")) for tag in ("a", "b")]
    done = CliRunner().invoke(main, ["diff", *files])
    assert done.exit_code == 0, done.output
    assert "1 go now, 1 stay now" in done.output
    done = CliRunner().invoke(main, ["diff", *files, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert len(pd.read_csv(tmp_path / "out" / "changed_plan.csv")) == 2
