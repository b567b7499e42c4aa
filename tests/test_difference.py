"""What changed between two readings: the claims of `regaudit.inventory.difference`."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime

import pandas as pd
import pytest
from builders import Build

from regaudit.errors import UsageError
from regaudit.inventory.collect import collect
from regaudit.inventory.difference import FILES

EARLIER = datetime(2026, 5, 1, tzinfo=UTC)
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b]0;\u202e"


def compared(before, after, *, patterns=((), ())):
    return before.snapshot(EARLIER, patterns=patterns[0]).diff(after.snapshot(patterns=patterns[1]))


def changes(difference):
    tags = difference.tags
    return dict(zip(tags["repository"].astype(str) + ":" + tags["tag"], tags["change"], strict=True))


def row(difference, tag):
    return difference.tags.set_index("tag").loc[tag]


class TestTags:
    def test_a_tag_is_new_gone_or_moved_and_one_that_stayed_is_not_listed(self):
        before = Build().image("a", tags=["stays", "moves", "goes"])
        after = Build().image("a", tags=["stays"]).image("a", tags=["comes", "moves"], layers={"x": 1})
        assert changes(compared(before, after)) == {"a:comes": "new", "a:goes": "gone", "a:moves": "moved"}

    def test_a_moved_tag_has_both_digests_and_both_sizes(self):
        before = Build().image("a", tags=["1"], layers={"x": 100}, created="2026-01-01")
        after = Build().image("a", tags=["1"], layers={"x": 100, "y": 5}, created="2026-02-01")
        moved = row(compared(before, after), "1")
        assert moved["digest_before"] == before.digest("a", "1")
        assert moved["digest_after"] == after.digest("a", "1")
        assert (moved["content_bytes_before"], moved["content_bytes_after"]) == (1100, 1105)
        assert moved["created_before"].month == 1
        assert moved["created_after"].month == 2

    def test_a_tag_beyond_a_list_that_broke_off_is_unknown_in_either_direction(self):
        whole = Build().image("a", tags=["1", "2"])
        cut = Build().image("a", tags=["1"], name="1").unread("a", stage="tags")
        cut.tag("a", "1", "3")
        assert changes(compared(whole, cut))["a:2"] == "unknown"
        assert changes(compared(cut, whole))["a:2"] == "unknown"
        assert changes(compared(whole, cut))["a:3"] == "new"

    def test_a_tag_whose_manifest_was_not_read_is_unknown_and_its_neighbours_are_not(self):
        before = Build().image("a", tags=["1"]).unread("a", "slow")
        after = Build().image("a", tags=["slow"]).image("a", tags=["2"])
        assert changes(compared(before, after)) == {"a:1": "gone", "a:2": "new", "a:slow": "unknown"}

    def test_a_repository_that_was_not_asked_for_is_unknown(self):
        before = Build().image("team/a", tags=["1"])
        after = Build().image("team/a", tags=["1"]).image("other/b", tags=["1"])
        difference = compared(before, after, patterns=(("team/*",), ()))
        assert changes(difference) == {"other/b:1": "unknown"}
        assert difference.unread[["reading", "repository", "error"]].to_numpy().tolist() == [
            ["before", "other/b", "not_asked"]
        ]
        assert not difference.complete

    def test_a_repository_that_the_catalog_would_have_listed_is_new(self):
        before = Build().image("team/a", tags=["1"])
        after = Build().image("team/a", tags=["1"]).image("team/b", tags=["1"])
        asked = ("team/*", "!team/x")
        assert changes(compared(before, after, patterns=(asked, asked))) == {"team/b:1": "new"}

    def test_one_that_was_left_out_is_not_gone(self):
        before = Build().image("team/b", tags=["1"])
        after = Build().repository("team/a")
        assert changes(compared(before, after, patterns=((), ("!team/b",)))) == {"team/b:1": "unknown"}

    def test_where_the_catalog_broke_off_a_repository_that_it_lacks_is_unknown(self):
        before = Build().image("a", tags=["1"]).image("b", tags=["1"])
        after = Build().image("a", tags=["1"]).unread(None, stage="catalog")
        assert changes(compared(before, after)) == {"b:1": "unknown"}

    def test_a_manifest_that_went_from_under_its_tag_is_a_move_and_one_that_stays_away_is_none(self):
        before = Build().image("a", tags=["1"]).dangling("a", "2")
        after = Build().dangling("a", "1").dangling("a", "2")
        difference = compared(before, after)
        assert changes(difference) == {"a:1": "moved"}
        assert pd.isna(row(difference, "1")["digest_after"])

    def test_tags_of_the_v1_interface_are_compared_by_image_id(self):
        before = Build().v1("a", "same", image_id="a" * 64).v1("a", "moves", image_id="b" * 64)
        after = Build().v1("a", "same", image_id="a" * 64).v1("a", "moves", image_id="c" * 64)
        difference = compared(before, after)
        assert changes(difference) == {"a:moves": "moved"}
        assert row(difference, "moves")["image_id_before"] == "b" * 64

    def test_an_image_id_and_a_digest_cannot_be_compared(self):
        assert changes(compared(Build().v1("a", "1"), Build().image("a", tags=["1"]))) == {"a:1": "unknown"}

    def test_schema_1_is_compared_by_digest_as_the_others_are(self):
        before = Build().legacy("a", tags=["1", "2"], layers=["x"])
        after = Build().legacy("a", tags=["1"], layers=["x"]).legacy("a", tags=["2"], layers=["y"])
        assert changes(compared(before, after)) == {"a:2": "moved"}

    def test_the_same_reading_twice_differs_in_nothing(self):
        build = Build().image("a", tags=["1"]).dangling("a", "2").index("b", tags=["m"], platforms={"linux/amd64": {}})
        difference = compared(build, build)
        assert difference.tags.empty
        assert difference.manifests.empty
        assert difference.complete
        assert "no change" in str(difference)

    def test_empty_snapshots_can_be_compared(self):
        assert compared(Build(), Build()).repositories.empty
        assert changes(compared(Build(), Build().image("a", tags=["1"]))) == {"a:1": "new"}
        assert changes(compared(Build().image("a", tags=["1"]), Build())) == {"a:1": "gone"}


class TestManifestsAndGrowth:
    def test_children_and_referrers_come_and_go_as_their_index_does(self):
        before = Build().image("a", tags=["1"])
        after = Build().image("a", tags=["1"]).index("a", tags=["m"], platforms={"linux/amd64": {"x": 1}})
        manifests = compared(before, after).manifests
        assert sorted(manifests["kind"]) == ["image", "index"]
        assert set(manifests["change"]) == {"new"}

    def test_a_manifest_of_a_repository_in_which_something_was_not_read_is_unknown(self):
        before = Build().image("a", tags=["1"])
        after = Build().repository("a").unread("a", "1")
        assert compared(before, after).manifests["change"].tolist() == ["unknown"]

    def test_growth_counts_what_is_stored_in_all_and_alone(self):
        before = Build().image("a", tags=["1"], layers={"base": 500})
        after = (
            Build().image("a", tags=["1"], layers={"base": 500}).image("b", tags=["1"], layers={"base": 500, "x": 7})
        )
        growth = compared(before, after).repositories.set_index("repository")
        assert growth.loc["b", "change"] == "new"
        assert pd.isna(growth.loc["a", "change"])
        assert growth.loc["b", "content_bytes_change"] == 1507
        assert growth.loc["b", "unique_bytes_after"] == 1007
        assert growth.loc["a", ["content_bytes_change", "unique_bytes_change"]].tolist() == [0, -500]
        assert growth.loc["b", ["tag_count_before", "tag_count_after", "manifest_count_change"]].tolist() == [0, 1, 1]

    def test_figures_of_a_repository_that_was_not_asked_for_are_missing(self):
        difference = compared(Build().image("a", tags=["1"]), Build().image("b", tags=["1"]), patterns=(("a",), ("b",)))
        growth = difference.repositories.set_index("repository")
        assert growth["change"].tolist() == ["unknown", "unknown"]
        assert growth["content_bytes_change"].isna().all()
        assert not growth["complete"].any()

    def test_what_is_stored_is_told_of_both(self):
        difference = compared(Build().image("a", tags=["1"]), Build().image("a", tags=["1"], layers={"x": 2 << 30}))
        assert difference.stored_after - difference.stored_before == (2 << 30) - 10
        assert "+2.0 GiB" in difference.summary()["storage"]


class TestWhatIsRefused:
    def test_two_registries_are_refused_unless_told(self):
        one = Build("one:5000").image("a", tags=["1"]).snapshot(EARLIER)
        two = Build("two:5000").image("a", tags=["1"]).snapshot()
        with pytest.raises(UsageError, match="across_registries=True"):
            one.diff(two)
        assert one.diff(two, across_registries=True).tags.empty

    def test_the_later_one_first_is_refused(self):
        build = Build().image("a", tags=["1"])
        with pytest.raises(UsageError, match="the earlier one first"):
            build.snapshot().diff(build.snapshot(EARLIER))


class TestDisplay:
    def evil(self):
        before, after = Build(EVIL).image("a", tags=["1"]), Build(EVIL).unread("b", stage="tags")
        after.image("a", tags=[EVIL], layers={"x": 1})
        return compared(before, after)

    def test_hostile_names_stay_text(self):
        page = self.evil()._repr_html_()
        assert "<script" not in page
        assert "<img" not in page
        for text in (page, str(self.evil()), repr(self.evil())):
            assert "\x1b" not in text
            assert "\u202e" not in text

    def test_the_csv_files_have_every_row_and_no_formula(self, tmp_path):
        build = Build().image("a", tags=["=1+1"])
        paths = compared(Build().repository("a"), build).to_csv(tmp_path)
        assert {path.name for path in paths} == set(FILES.values())
        with (tmp_path / "changed_tags.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(r["tag"], r["change"]) for r in rows] == [("'=1+1", "new")]

    def test_the_figures_are_plain_values(self):
        difference = compared(Build().image("a", tags=["1"]), Build().image("a", tags=["2"]))
        plain = json.loads(json.dumps(difference.to_dict()))
        assert plain["tags"] == {"new": 1, "gone": 1, "moved": 0, "unknown": 0}
        assert difference.frame().equals(difference.tags)

    def test_a_long_list_is_cut_and_says_so(self):
        many = Build().image("a", tags=[f"t{n}" for n in range(30)])
        assert "and 10 more" in compared(Build().repository("a"), many)._repr_html_()


def test_a_loaded_snapshot_compares_as_the_one_that_was_saved(tmp_path):
    before = Build().image("a", tags=["1"]).snapshot(EARLIER)
    after = Build().image("a", tags=["2"]).snapshot()
    loaded = type(before).load(before.save(tmp_path / "before"))
    assert loaded.diff(after).tags.equals(before.diff(after).tags)


def test_a_registry_before_and_after_a_push_and_a_deletion(registry):
    before = collect(registry, progress=False)
    charts = registry.repository("charts/checkout")
    newest, oldest = (charts.manifest(tag) for tag in ("0.9.1", "0.8.0"))
    charts.put_manifest("latest", newest.raw, newest.media_type)
    charts.delete_manifest(oldest.digest)
    difference = before.diff(collect(registry, progress=False))
    assert changes(difference) == {"charts/checkout:0.8.0": "gone", "charts/checkout:latest": "new"}
    assert difference.manifests["digest"].tolist() == [oldest.digest]
    assert difference.complete
