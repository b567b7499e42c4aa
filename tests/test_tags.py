"""Which tags are stale, which are duplicates: the claims of `regaudit.analysis.tags`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from builders import TAKEN_AT, Build, blob, days_before, moment_of
from hypothesis import given, settings
from hypothesis import strategies as st

from regaudit.analysis.tags import duplicate_tags, stale_tags, tag_matches
from regaudit.errors import UsageError
from regaudit.reference import attached_tag

NOW = moment_of(TAKEN_AT)


def aged(*ages, repository="team/app"):
    """Return a registry with an image of each age in days, tagged `a0`, `a1`, …; None is unknown."""
    build = Build()
    for place, age in enumerate(ages):
        build.image(repository, tags=[f"a{place}"], created=None if age is None else days_before(age))
    return build


def names(frame):
    return frame["tag"].tolist()


class TestStaleTags:
    def test_older_than_is_strict_so_a_tag_of_exactly_that_age_stays(self):
        snapshot = aged(179, 180, 180 + 1 / 86400, 181).snapshot()
        assert names(stale_tags(snapshot, older_than="180D")) == ["a3", "a2"]

    def test_older_than_nothing_takes_every_tag_with_a_past(self):
        assert names(stale_tags(aged(0, 1).snapshot(), older_than="0d")) == ["a1"]

    def test_keep_latest_keeps_the_newest_and_names_the_rank_of_the_rest(self):
        stale = stale_tags(aged(1, 2, 3, 4).snapshot(), keep_latest=2)
        assert names(stale) == ["a3", "a2"]
        assert stale["rank"].tolist() == [4, 3]
        assert stale["reason"].tolist() == ["not among the newest 2 (rank 4)", "not among the newest 2 (rank 3)"]

    def test_every_given_condition_must_hold(self):
        snapshot = aged(1, 200, 300).snapshot()
        assert names(stale_tags(snapshot, older_than="180D", keep_latest=2)) == ["a2"]
        assert stale_tags(snapshot, older_than="180D", keep_latest=3).empty

    def test_both_reasons_are_said(self):
        stale = stale_tags(aged(1, 412.5).snapshot(), older_than="180D", keep_latest=1)
        assert stale["reason"].tolist() == ["older than 180 d (412 d); not among the newest 1 (rank 2)"]
        assert stale["age_days"].tolist() == [412.5]

    def test_a_limit_in_hours_is_said_in_hours(self):
        reasons = stale_tags(aged(2).snapshot(), older_than="36h")["reason"].tolist()
        assert reasons == ["older than 36 h (48 h)"]

    def test_two_tags_on_one_digest_take_one_slot(self):
        snapshot = aged(1, 2, 3).tag("team/app", "a0", "latest", "stable").snapshot()
        assert names(stale_tags(snapshot, keep_latest=2)) == ["a2"]

    def test_all_tags_of_a_stale_digest_are_returned(self):
        snapshot = aged(1, 2).tag("team/app", "a1", "old").snapshot()
        assert names(stale_tags(snapshot, keep_latest=1)) == ["a1", "old"]

    def test_a_tie_across_the_limit_is_kept_whole(self):
        snapshot = aged(1, 2, 2, 3).snapshot()
        assert names(stale_tags(snapshot, keep_latest=2)) == ["a3"]
        assert stale_tags(snapshot, keep_latest=1)["rank"].tolist() == [4, 2, 2]

    def test_repositories_are_counted_apart(self):
        build = aged(1, 2)
        build.image("other", tags=["x"], created=days_before(900))
        assert names(stale_tags(build.snapshot(), keep_latest=1)) == ["a1"]

    def test_the_same_digest_takes_a_slot_in_each_repository(self):
        build = aged(1, 2).copy("team/app", "a1", to="other", tags=["x"])
        assert names(stale_tags(build.snapshot(), keep_latest=1)) == ["a1"]

    def test_an_unknown_age_is_never_stale_and_takes_no_slot(self):
        snapshot = aged(None, None, 1, 2).snapshot()
        assert names(stale_tags(snapshot, keep_latest=1)) == ["a3"]
        assert names(stale_tags(snapshot, keep_latest=0, older_than="0s")) == ["a3", "a2"]

    def test_a_build_tools_constant_is_no_age(self):
        build = (
            Build().image("a", tags=["epoch"], created="1970-01-01").image("a", tags=["future"], created="2030-01-01")
        )
        assert stale_tags(build.snapshot(), older_than="0s").empty

    def test_keeping_none_leaves_only_the_unknown(self):
        assert names(stale_tags(aged(5, None).snapshot(), keep_latest=0)) == ["a0"]

    def test_signatures_and_attached_tags_neither_count_nor_come_back(self):
        build = aged(100, 200)
        for suffix in ("sig", "att", "sbom"):
            build.cosign("team/app", "a0", suffix)
        build.attach("team/app", "a0", name="sbom", fallback=True)
        # Dated, so that only what they are keeps them out.
        fallback = attached_tag(build.digest("team/app", "a1"))
        build.index("team/app", tags=[fallback], created=days_before(1), platforms={"linux/amd64": {"x": 1}})
        build.image("team/app", tags=[f"{fallback}.att"], created=days_before(2))
        signature = "application/vnd.dev.cosign.simplesigning.v1+json"
        build.image("team/app", tags=["signed"], created=days_before(300), layer_type=signature)
        snapshot = build.snapshot()
        assert names(stale_tags(snapshot, keep_latest=1)) == ["a1"]
        assert names(stale_tags(snapshot, older_than="0s")) == ["a1", "a0"]

    def test_a_tag_that_only_looks_attached_counts(self):
        snapshot = aged(2).tag("team/app", "a0", "sha256-short").snapshot()
        assert names(stale_tags(snapshot, keep_latest=0)) == ["a0", "sha256-short"]

    def test_other_kinds_are_stale_by_age_alone_and_never_ranked(self):
        build = aged(1).legacy("team/app", tags=["schema1"], created="2020-01-01T00:00:00Z")
        build.v1("team/app", "v1", created="2019-01-01")
        snapshot = build.snapshot()
        stale = stale_tags(snapshot, older_than="1d")
        assert names(stale) == ["v1", "schema1"]
        assert stale["rank"].isna().all()
        assert names(stale_tags(snapshot, keep_latest=0)) == ["a0"]

    def test_an_index_takes_a_slot_and_is_as_new_as_its_newest_child(self):
        build = aged(5, 6).index(
            "team/app", tags=["multi"], created=days_before(1), platforms={"linux/amd64": {"x": 1}}
        )
        assert names(stale_tags(build.snapshot(), keep_latest=1)) == ["a1", "a0"]

    def test_tags_that_were_not_read_are_not_stale(self):
        snapshot = Build().dangling("a", "gone").unread("a", "slow").snapshot()
        assert stale_tags(snapshot, older_than="0s").empty

    def test_match_limits_what_may_be_stale_and_not_what_counts(self):
        snapshot = aged(1, 2, 3, 4).snapshot()
        assert names(stale_tags(snapshot, keep_latest=2, match=["a[01]", "*3"])) == ["a3"]

    def test_protected_tags_stay_and_take_their_slots(self):
        snapshot = aged(1, 2, 3).snapshot()
        assert names(stale_tags(snapshot, keep_latest=1, protect="a?")) == []
        assert names(stale_tags(snapshot, keep_latest=1, protect=["a0", "a2"])) == ["a1"]

    def test_the_clock_pushed_measures_and_shows_the_push(self):
        build = Build().image("a", tags=["old-build"], created=days_before(900), pushed=days_before(1))
        build.image("a", tags=["old-push"], created=days_before(1), pushed=days_before(800)).image(
            "a", tags=["never-said"]
        )
        stale = stale_tags(build.snapshot(), older_than="180D", clock="pushed")
        assert names(stale) == ["old-push"]
        assert stale["pushed_source"].tolist() == ["vendor"]

    def test_age_is_measured_at_now_where_given(self):
        snapshot = aged(10).snapshot()
        assert stale_tags(snapshot, older_than="11d").empty
        assert names(stale_tags(snapshot, older_than="11d", now=NOW + timedelta(days=2))) == ["a0"]

    def test_rows_come_by_repository_and_then_oldest_first_with_a_plain_index(self):
        build = aged(3, 9, 6).image("a/first", tags=["x"], created=days_before(4))
        stale = stale_tags(build.snapshot(), older_than="1d")
        assert names(stale) == ["x", "a1", "a2", "a0"]
        assert stale.index.equals(pd.RangeIndex(4))

    def test_an_empty_answer_has_the_same_columns_and_dtypes(self):
        empty, full = (stale_tags(b.snapshot(), older_than="0s", keep_latest=0) for b in (Build(), aged(1)))
        assert empty.dtypes.astype(str).to_dict() == full.dtypes.astype(str).to_dict()
        assert (str(full["age_days"].dtype), str(full["rank"].dtype), str(full["reason"].dtype)) == (
            "Float64",
            "Int64",
            "string",
        )

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"older_than": "6 months"},
            {"older_than": True},
            {"older_than": "-1d"},
            {"keep_latest": -1},
            {"keep_latest": True},
            {"keep_latest": 1.5},
            {"keep_latest": "5"},
            {"keep_latest": 1, "clock": "pulled"},
            {"keep_latest": 1, "match": []},
            {"keep_latest": 1, "match": ""},
            {"keep_latest": 1, "protect": [None]},
            {"keep_latest": 1, "match": "[z-a]"},
            {"keep_latest": 1, "now": datetime(2026, 1, 1)},  # noqa: DTZ001 -- the claim
            {"keep_latest": 1, "now": "2026-01-01"},
        ],
    )
    def test_what_cannot_be_understood_is_refused(self, options):
        with pytest.raises(UsageError):
            stale_tags(aged(1).snapshot(), **options)

    def test_without_a_condition_the_message_says_what_to_type(self):
        with pytest.raises(UsageError, match="older_than='180D'"):
            stale_tags(aged(1).snapshot())

    @settings(deadline=None, max_examples=60)
    @given(
        ages=st.lists(st.none() | st.integers(0, 4), max_size=7),
        aliases=st.lists(st.integers(0, 6), max_size=3),
        limit=st.none() | st.integers(0, 4),
        kept=st.integers(0, 4),
    )
    def test_exactly_the_tags_that_meet_every_condition_are_stale(self, ages, aliases, limit, kept):
        build = aged(*ages)
        age_of = {f"a{place}": age for place, age in enumerate(ages)}
        for number, place in enumerate(a for a in aliases if a < len(ages)):
            build.tag("team/app", f"a{place}", f"alias{number}")
            age_of[f"alias{number}"] = ages[place]
        stale = stale_tags(build.snapshot(), keep_latest=kept, older_than=None if limit is None else f"{limit}d")
        # The images differ, so the known ages, one for each image, are the slots.
        known = [age for age in ages if age is not None]
        expected = {
            tag
            for tag, age in age_of.items()
            if age is not None and sum(other < age for other in known) >= kept and (limit is None or age > limit)
        }
        assert set(names(stale)) == expected


class TestTagMatches:
    @pytest.mark.parametrize(
        ("pattern", "hits"),
        [
            ("v1.*", ["v1.0"]),
            ("v1?0", ["v1.0"]),
            ("[!v]*", ["V1.0", "a\nb", "a"]),
            ("[a-c]", ["a"]),
            ("a", ["a"]),
            ("a*", ["a\nb", "a"]),
            ("(a|b)", []),
            ("[", []),
        ],
    )
    def test_patterns_are_those_of_a_shell_and_match_the_whole_tag(self, pattern, hits):
        tags = pd.Series(["v1.0", "V1.0", "a\nb", "a", None], dtype="string")
        assert tags[tag_matches(tags, pattern)].tolist() == hits


def pairs(frame):
    return dict(zip(frame["tag"], frame["duplicate_of"], strict=True))


class TestDuplicateTags:
    def test_tags_on_one_digest_are_duplicates_of_the_most_exact_version(self):
        build = aged(1).tag("team/app", "a0", "1", "1.2", "1.2.3", "1.2.3-rc1", "latest")
        found = duplicate_tags(build.snapshot())
        assert pairs(found) == dict.fromkeys(["1", "1.2", "1.2.3-rc1", "a0", "latest"], "team/app:1.2.3")
        assert set(found["basis"]) == {"digest"}
        assert found["reason"][0] == "same digest as team/app:1.2.3"

    def test_lower_versions_come_first_as_numbers(self):
        build = aged(1).tag("team/app", "a0", "1.10.0", "1.9.0")
        assert pairs(duplicate_tags(build.snapshot()))["1.10.0"] == "team/app:1.9.0"

    def test_one_config_under_two_manifests_is_a_duplicate(self):
        build = Build()
        for tag, packing in (("gzip", {"l.gz": 5}), ("zstd", {"l.zst": 4})):
            build.image("a", tags=[tag], config="same", created="2026-01-01", layers=packing)
        found = duplicate_tags(build.snapshot())
        assert pairs(found) == {"zstd": "a:gzip"}
        assert found["basis"].tolist() == ["config"]

    def test_the_same_layers_in_the_same_order_are_a_duplicate_of_the_oldest(self):
        build = Build()
        build.image("a", tags=["new"], created="2026-02-01", layers={"x": 1, "y": 2})
        build.image("a", tags=["old"], created="2026-01-01", layers={"x": 1, "y": 2})
        build.image("a", tags=["unknown"], layers={"x": 1, "y": 2})
        build.image("a", tags=["swapped"], created="2025-01-01", layers={"y": 2, "x": 1})
        build.image("a", tags=["prefix"], created="2025-01-01", layers={"x": 1})
        found = duplicate_tags(build.snapshot())
        assert pairs(found) == {"new": "a:old", "unknown": "a:old"}
        assert set(found["basis"]) == {"layers"}

    def test_images_without_layers_are_not_alike(self):
        build = Build().image("a", tags=["one"], layers={}).image("a", tags=["two"], layers={})
        assert duplicate_tags(build.snapshot()).empty

    def test_artifacts_are_not_alike_for_their_empty_or_equal_config(self):
        build = aged(1)
        for name in ("chart", "policy"):
            build.attach("team/app", "a0", name=name, tags=[name])
            build.image(
                "team/app",
                tags=[f"x-{name}"],
                config="same",
                artifact_type="a/b",
                layers={"x": 1},
                annotations={"n": name},
            )
        assert duplicate_tags(build.snapshot()).empty

    def test_signatures_attached_tags_and_tags_without_a_digest_are_left_out(self):
        build = aged(1).cosign("team/app", "a0").dangling("team/app", "gone").v1("team/app", "v1").v1("team/app", "v2")
        build.tag("team/app", "a0", attached_tag(blob("x")))
        assert duplicate_tags(build.snapshot()).empty

    def test_repositories_are_looked_at_apart_unless_asked(self):
        build = aged(1).copy("team/app", "a0", to="mirror/app", tags=["a0"])
        assert duplicate_tags(build.snapshot()).empty
        found = duplicate_tags(build.snapshot(), across_repositories=True)
        assert found[["repository", "duplicate_of"]].to_numpy().tolist() == [["team/app", "mirror/app:a0"]]

    def test_only_the_bases_asked_for_count(self):
        build = Build().image("a", tags=["1", "alias"], config="same", created="2026-01-01", layers={"x": 1})
        build.image("a", tags=["2"], config="same", created="2026-01-01", layers={"x": 1}, annotations={"n": "2"})
        build.image("a", tags=["3"], created="2026-02-01", layers={"x": 1})
        snapshot = build.snapshot()
        assert pairs(duplicate_tags(snapshot, by="digest")) == {"alias": "a:1"}
        assert pairs(duplicate_tags(snapshot, by="config")) == {"2": "a:1"}
        assert pairs(duplicate_tags(snapshot, by=["layers"])) == {"3": "a:1"}
        assert pairs(duplicate_tags(snapshot)) == dict.fromkeys(["2", "3", "alias"], "a:1")

    def test_a_chain_of_likenesses_keeps_a_copy_of_each_content(self):
        """B has A's config and C's layers, and is the newest: A and C have nothing in common."""
        build = Build()
        build.image("a", tags=["A"], config="same", created="2026-02-01", layers={"x": 1})
        build.image("a", tags=["B"], config="same", created="2026-02-01", layers={"y": 1})
        build.image("a", tags=["C"], created="2026-01-01", layers={"y": 1})
        assert pairs(duplicate_tags(build.snapshot())) == {"B": "a:A"}

    def test_what_stands_for_another_by_config_also_stands_for_its_layers(self):
        build = Build()
        build.image("a", tags=["A"], config="same", created="2026-02-01", layers={"x": 1})
        build.image("a", tags=["B"], config="same", created="2026-02-01", layers={"y": 1})
        build.image("a", tags=["older"], created="2026-01-01", layers={"x": 1})
        assert pairs(duplicate_tags(build.snapshot())) == {"B": "a:A", "older": "a:A"}

    def test_a_representative_that_goes_hands_its_duplicates_on(self):
        build = Build()
        for note in ("A", "B"):
            build.image("a", tags=[note], config="same", created="2026-02-01", layers={"x": 1}, annotations={"n": note})
        build.image("a", tags=["older"], created="2026-01-01", layers={"x": 1})
        assert pairs(duplicate_tags(build.snapshot())) == {"A": "a:older", "B": "a:older"}

    def test_images_with_the_empty_config_are_not_alike_for_it(self):
        build = (
            Build()
            .image("a", tags=["1"], config="{}", layers={"x": 1})
            .image("a", tags=["2"], config="{}", layers={"y": 1})
        )
        assert duplicate_tags(build.snapshot()).empty

    def test_an_empty_answer_has_the_same_columns_and_dtypes(self):
        empty, full = (duplicate_tags(b.snapshot()) for b in (Build(), aged(1).tag("team/app", "a0", "x")))
        assert empty.dtypes.astype(str).to_dict() == full.dtypes.astype(str).to_dict()

    @pytest.mark.parametrize("by", [(), "size", ["digest", "size"]])
    def test_an_unknown_basis_is_refused(self, by):
        with pytest.raises(UsageError, match="digest"):
            duplicate_tags(aged(1).snapshot(), by=by)

    @settings(deadline=None, max_examples=80)
    @given(
        images=st.lists(
            st.tuples(st.sampled_from("pq"), st.sampled_from("xyz"), st.sampled_from("mn"), st.integers(1, 3)),
            max_size=7,
        ),
        across=st.booleans(),
        by=st.sets(st.sampled_from(["digest", "config", "layers"]), min_size=1),
    )
    def test_each_duplicate_is_directly_equal_to_a_tag_that_stays(self, images, across, by):
        build = Build()
        for number, (config, layer, note, age) in enumerate(images):
            repository = f"r{number // 4}"
            build.image(
                repository,
                tags=[f"t{number}"],
                config=config,
                created=days_before(age) if age < 3 else None,
                layers={layer: 1},
                annotations={"n": note},
            )
        snapshot = build.snapshot()
        found = duplicate_tags(snapshot, by=by, across_repositories=across)
        rows = snapshot.tags.merge(
            snapshot.manifests[["repository", "digest", "config_digest"]], on=["repository", "digest"]
        )
        facts = {f"{row.repository}:{row.tag}": (row.digest, row.config_digest) for row in rows.itertuples()}
        layers = dict(
            zip(snapshot.blobs["manifest_digest"], snapshot.blobs["digest"], strict=True)
        )  # the last one: the layer
        gone = set(found["repository"].astype(str) + ":" + found["tag"])
        assert len(gone) == len(found)
        for row in found.itertuples():
            own, stays = facts[f"{row.repository}:{row.tag}"], facts[row.duplicate_of]
            assert row.duplicate_of not in gone
            assert across or row.duplicate_of.startswith(f"{row.repository}:")
            alike = {
                "digest": own[0] == stays[0],
                "config": own[1] == stays[1],
                "layers": layers[own[0]] == layers[stays[0]],
            }
            assert row.basis == next(basis for basis, equal in alike.items() if equal)
            assert row.basis in by


def test_a_time_of_another_zone_is_the_same_moment():
    """`now` may carry any zone."""
    east = NOW.astimezone(tz=None)
    assert names(stale_tags(aged(10).snapshot(), older_than="9d", now=east)) == ["a0"]
    assert east.astimezone(UTC) == NOW
