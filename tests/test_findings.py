"""What is broken, orphaned, largest, unlabelled or has moved, and what tags are called: `regaudit.analysis.findings`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pandas as pd
import pytest
from builders import Build, blob, days_before

from regaudit.analysis.candidates import COLUMNS
from regaudit.analysis.findings import broken_tags, findings, moved_tags, orphaned_signatures
from regaudit.analysis.footprint import reclaimable_bytes
from regaudit.analysis.labels import missing_labels
from regaudit.analysis.largest import largest_images, largest_layers
from regaudit.analysis.streams import naming_streams, stream_of
from regaudit.cleaner.plan import plan
from regaudit.errors import UsageError
from regaudit.inventory.blob_check import missing_blobs
from regaudit.inventory.collect import collect
from regaudit.inventory.snapshot import Snapshot
from regaudit.reference import Digest, attached_tag

EARLIER = datetime(2026, 5, 1, tzinfo=UTC)
SOURCE = "org.opencontainers.image.source"


def names(frame):
    return frame["tag"].tolist()


def without(build, repository, name):
    """Return the build without one manifest and its tags, as after a deletion; what refers to it stays."""
    digest = build.digest(repository, name)
    place = build._repositories[repository]
    del place.stored[digest]
    place.tags = {tag: tagged for tag, tagged in place.tags.items() if tagged != digest}
    return build


@pytest.mark.parametrize("question", [broken_tags, orphaned_signatures, largest_images, missing_labels])
@pytest.mark.parametrize(
    "build", [Build(), Build().image("a", tags=["1"]), Build().v1("a", "1"), Build().unread("a", "1")]
)
def test_a_finding_about_tags_has_the_columns_of_a_candidate_whatever_there_is(question, build):
    snapshot = build.snapshot()
    frame = question(snapshot)
    assert tuple(frame.columns[: len(COLUMNS)]) == COLUMNS
    assert plan(snapshot, frame).registry == snapshot.registry


class TestBrokenTags:
    def test_a_dangling_tag_is_broken_and_one_that_was_not_read_is_not_known_to_be(self):
        frame = broken_tags(Build().dangling("a", "gone").unread("a", "slow").image("a", tags=["1"]).snapshot())
        assert names(frame) == ["gone"]
        assert frame["basis"].tolist() == ["dangling"]
        assert frame["reason"].tolist() == ["its manifest is gone"]

    def test_an_index_that_lacks_a_child_is_broken_and_so_is_the_index_above_it(self):
        build = Build().index("a", tags=["inner"], platforms={"linux/amd64": {"x": 1}}, missing=["linux/arm64"])
        build.index("a", tags=["outer"], children=["inner"]).index("a", tags=["whole"], platforms={"linux/amd64": {}})
        frame = broken_tags(build.snapshot())
        assert frame.set_index("tag")["reason"].to_dict() == {
            "inner": "its index lacks 1 of 2 children",
            "outer": "an index within its index lacks children",
        }
        assert set(frame["basis"]) == {"missing_child"}

    def test_a_child_that_was_not_read_is_not_missing(self):
        build = Build().index("a", tags=["m"], platforms={"linux/amd64": {"x": 1}})
        child = build.digest("a", "m/linux/amd64")
        del build._repositories["a"].stored[child]
        build._problem("a", child, error="timeout", blocking=True)
        assert broken_tags(build.snapshot()).empty

    def test_blobs_that_are_missing_break_their_image_and_its_index_in_that_repository_alone(self):
        build = Build().index("a", tags=["m"], platforms={"linux/amd64": {"x": 1}}).copy("a", "m", to="b", tags=["m"])
        missing = pd.DataFrame({"repository": ["a"], "digest": [str(blob("x"))], "error": ["not_found"]})
        frame = broken_tags(build.snapshot(), missing_blobs=missing)
        assert frame[["repository", "tag", "basis"]].to_numpy().tolist() == [["a", "m", "missing_blob"]]
        assert frame["reason"].tolist() == ["a config or layer that it needs is gone"]

    @pytest.mark.parametrize("error", ["timeout", "wrong_size", "denied"])
    def test_only_a_definite_no_makes_a_blob_missing(self, error):
        missing = pd.DataFrame({"repository": ["a"], "digest": [str(blob("x"))], "error": [error]})
        snapshot = Build().image("a", tags=["1"], layers={"x": 1}).snapshot()
        assert broken_tags(snapshot, missing_blobs=missing).empty

    def test_a_config_that_the_audit_found_gone_breaks_its_image(self):
        build = Build().image("a", tags=["1", "2"])
        config = build.snapshot().manifests["config_digest"].iloc[0]
        build._problem("a", config, error="not_found", stage="config", blocking=False)
        build._problems[-1]["stage"] = "config"
        assert names(broken_tags(build.snapshot())) == ["1", "2"]

    def test_a_frame_of_something_else_is_refused(self):
        with pytest.raises(UsageError, match="repository, digest and error"):
            broken_tags(Build().snapshot(), missing_blobs=pd.DataFrame({"digest": []}))

    def test_a_plan_refuses_what_dangles_and_takes_the_index(self):
        build = Build().image("a", tags=["1"]).dangling("a", "gone")
        snapshot = build.index("a", tags=["m"], platforms={"linux/amd64": {"x": 1}}, missing=["linux/arm64"]).snapshot()
        made = plan(snapshot, broken_tags(snapshot))
        assert [row.refusal for row in made.refused] == ["dangling"]
        assert ("m",) in [row.tags for row in made.rows]


class TestOrphanedSignatures:
    def signed(self):
        build = Build().image("a", tags=["1"]).image("a", tags=["2"], layers={"y": 1})
        return build.cosign("a", "1").cosign("a", "1", "att").attach("a", "1", name="sbom", fallback=True)

    def test_what_has_its_subject_is_no_orphan(self):
        assert orphaned_signatures(self.signed().snapshot()).empty

    def test_all_that_hung_on_a_manifest_that_is_gone_is_an_orphan(self):
        build = self.signed()
        subject = build.digest("a", "1")
        frame = orphaned_signatures(without(build, "a", "1").snapshot())
        base = attached_tag(subject)
        assert [None if pd.isna(tag) else tag for tag in frame["tag"]] == [base, f"{base}.att", f"{base}.sig", None]
        assert set(frame["subject"]) == {str(subject)}
        assert frame["basis"].tolist() == ["tag", "tag", "tag", "subject"]
        assert [reason.partition(" of sha256:")[0] for reason in frame["reason"]] == [
            "list of referrers",
            "attestation",
            "signature",
            "application/spdx+json",
        ]

    def test_the_orphans_can_go_straight_into_a_plan(self):
        snapshot = without(self.signed(), "a", "1").snapshot()
        made = plan(snapshot, orphaned_signatures(snapshot))
        assert not made.refused
        assert len(made.rows) == 4

    def test_a_subject_in_another_repository_does_not_count(self):
        build = without(Build().image("a", tags=["1"]).cosign("a", "1").copy("a", "1", to="b", tags=["1"]), "a", "1")
        assert len(orphaned_signatures(build.snapshot())) == 1

    def test_where_something_was_not_read_nothing_is_called_an_orphan(self):
        assert orphaned_signatures(without(self.signed(), "a", "1").unread("a", "slow").snapshot()).empty

    def test_an_untagged_child_of_an_index_is_a_subject_that_is_there(self):
        build = Build().index("a", tags=["m"], platforms={"linux/amd64": {"x": 1}})
        assert orphaned_signatures(build.cosign("a", "m/linux/amd64").snapshot()).empty

    def test_a_referrer_with_a_tag_of_its_own_is_returned_under_it(self):
        build = (
            Build()
            .image("a", tags=["1"])
            .image("a", tags=["2"], layers={"y": 1})
            .attach("a", "1", name="s", tags=["mine"])
        )
        frame = orphaned_signatures(without(build, "a", "1").snapshot())
        assert names(frame) == ["mine"]

    def test_a_tag_that_only_looks_like_one_is_left_alone(self):
        assert orphaned_signatures(Build().image("a", tags=["sha256-abc.sig", "sha256-" + "0" * 63]).snapshot()).empty


class TestLargest:
    def test_layers_come_largest_first_with_all_who_hold_them(self):
        build = (
            Build().image("a", tags=["1"], layers={"base": 500, "x": 7}).image("b", tags=["1"], layers={"base": 500})
        )
        frame = largest_layers(build.index("c", tags=["m"], platforms={"linux/amd64": {"base": 500}}).snapshot())
        assert frame["digest"].tolist() == [blob("base"), blob("x")]
        assert frame["size_bytes"].tolist() == [500, 7]
        assert frame["manifest_count"].tolist() == [3, 1]
        assert frame["repository_count"].tolist() == [3, 1]
        assert frame["repositories"].tolist() == ["a, b, c", "a"]

    def test_a_layer_of_unknown_size_is_not_called_small_or_large(self):
        assert largest_layers(Build().image("a", tags=["1"], layers={"x": None}).snapshot()).empty

    def test_a_layer_that_a_manifest_lists_twice_is_held_once_by_it(self):
        edges = Build().image("a", tags=["1"], layers={"x": 5}).snapshot()
        doubled = pd.concat([edges.blobs, edges.blobs], ignore_index=True)
        twice = Snapshot(**{**{f: getattr(edges, f) for f in edges.__dataclass_fields__}, "blobs": doubled})
        assert largest_layers(twice)["manifest_count"].tolist() == [1]

    def test_images_are_ranked_by_content_with_all_their_tags(self):
        build = Build().image("a", tags=["big", "also"], layers={"x": 9000}).image("a", tags=["small"], layers={"y": 1})
        frame = largest_images(build.snapshot(), limit=1)
        assert names(frame) == ["also", "big"]
        assert frame["rank"].tolist() == [1, 1]
        assert frame["tag_count"].tolist() == [2, 2]

    def test_what_an_image_alone_holds_is_what_would_come_back(self):
        build = Build().index(
            "a", tags=["m"], platforms={"linux/amd64": {"base": 500, "x": 70}, "linux/arm64": {"y": 9}}
        )
        snapshot = build.image("b", tags=["1"], layers={"base": 500}).snapshot()
        frame = largest_images(snapshot).set_index("tag")
        whole = [build.pair("a", name) for name in ("m", "m/linux/amd64", "m/linux/arm64")]
        assert frame.loc["m", "unique_bytes"] == reclaimable_bytes(snapshot, whole) > 79
        assert frame.loc["1", "unique_bytes"] == reclaimable_bytes(snapshot, [build.pair("b", "1")])

    def test_signatures_and_artifacts_are_no_images(self):
        build = (
            Build()
            .image("a", tags=["1"])
            .cosign("a", "1", size=1 << 30)
            .attach("a", "1", name="s", tags=["s"], size=1 << 30)
        )
        assert names(largest_images(build.snapshot())) == ["1"]

    @pytest.mark.parametrize("question", [largest_images, largest_layers])
    @pytest.mark.parametrize("limit", [0, -1, True, "5"])
    def test_a_limit_that_is_no_count_is_refused(self, question, limit):
        with pytest.raises(UsageError, match="is not a count"):
            question(Build().snapshot(), limit=limit)


class TestMissingLabels:
    def test_an_image_lacks_what_is_absent_or_empty(self):
        build = Build().image("a", tags=["has"], labels={SOURCE: "x", "team": "y"})
        build.image("a", tags=["empty"], labels={SOURCE: " ", "team": "y"}).image("a", tags=["none"])
        frame = missing_labels(build.snapshot(), [SOURCE, "team"])
        assert frame.set_index("tag")["missing"].to_dict() == {"empty": SOURCE, "none": f"{SOURCE}, team"}
        assert frame["reason"].iloc[0] == f"without {SOURCE}"

    def test_an_annotation_of_the_manifest_counts_as_a_label(self):
        assert missing_labels(Build().image("a", tags=["1"], annotations={SOURCE: "x"}).snapshot(), [SOURCE]).empty

    def test_an_index_has_what_all_its_images_have_or_what_it_is_annotated_with(self):
        build = Build().image("a", name="with", labels={SOURCE: "x"}).image("a", name="out", layers={"y": 1})
        build.index("a", tags=["both"], children=["with", "out"]).index("a", tags=["one"], children=["with"])
        build.index("a", tags=["noted"], children=["out"], annotations={SOURCE: "x"})
        build.index("a", tags=["outer"], children=["both"]).index("a", tags=["above"], children=["one"])
        assert names(missing_labels(build.snapshot(), [SOURCE])) == ["both", "outer"]

    def test_attestations_of_an_index_need_no_labels(self):
        build = Build().image("a", name="i", labels={SOURCE: "x"}).image("a", name="att", layers={"y": 1})
        assert missing_labels(
            build.index("a", tags=["m"], children=["i"], attestations=["att"]).snapshot(), [SOURCE]
        ).empty

    def test_an_image_whose_config_was_not_read_is_not_accused(self):
        build = Build().image("a", tags=["1"])
        config = build.snapshot().manifests["config_digest"].iloc[0]
        build._problem("a", config, error="timeout", blocking=True)
        build._problems[-1]["stage"] = "config"
        assert missing_labels(build.snapshot(), [SOURCE]).empty

    def test_a_name_within_a_value_or_another_name_is_not_the_label(self):
        labels = {"note": f'{{"{SOURCE}": "x"}}', f"{SOURCE}.old": "x", f"x{SOURCE}": "y"}
        assert names(missing_labels(Build().image("a", tags=["1"], labels=labels).snapshot(), [SOURCE])) == ["1"]

    def test_names_with_quotes_newlines_and_letters_of_all_kinds_are_read_as_they_are(self):
        odd = 'a"b\n\\ü\u2028😀'
        snapshot = (
            Build().image("a", tags=["1"], labels={odd: "x"}).image("a", tags=["2"], labels={"z": odd}).snapshot()
        )
        assert names(missing_labels(snapshot, [odd])) == ["2"]

    def test_a_text_that_is_no_json_spoils_its_own_row_only(self):
        build = Build().image("a", tags=["1"]).image("a", tags=["2"], layers={"y": 1}, labels={"b": "x"})
        snapshot = build.image("a", tags=["3"], layers={"z": 1}, labels={SOURCE: "x"}).snapshot()
        texts = snapshot.manifests["labels"].copy()
        texts[snapshot.manifests["digest"] == build.digest("a", "2")] = "{not json"
        broken = snapshot.manifests.assign(labels=texts)
        spoiled = Snapshot(**{**{f: getattr(snapshot, f) for f in snapshot.__dataclass_fields__}, "manifests": broken})
        assert names(missing_labels(spoiled, [SOURCE])) == ["1"]

    @pytest.mark.parametrize("labels", [[], [""], [1]])
    def test_a_list_that_names_nothing_is_refused(self, labels):
        with pytest.raises(UsageError, match="name the labels"):
            missing_labels(Build().snapshot(), labels)


class TestMovedTags:
    def test_a_moved_tag_says_from_where_to_where_and_of_which_stream_it_is(self):
        before = Build().image("a", tags=["stays"]).cosign("a", "stays").image("a", tags=["1.0.0", "latest"])
        after = Build().image("a", tags=["stays"]).image("a", tags=["1.0.0", "latest"], layers={"x": 1})
        frame = moved_tags(before.snapshot(EARLIER), after.snapshot())
        assert frame[["tag", "stream"]].to_numpy().tolist() == [["1.0.0", "version"], ["latest", "latest"]]
        assert frame["digest"].tolist() == [after.digest("a", "latest")] * 2
        assert frame["reason"].iloc[0].startswith(f"moved from {before.digest('a', 'latest')[:19]} to ")
        assert tuple(frame.columns[: len(COLUMNS)]) == COLUMNS

    def test_nothing_moved_is_an_empty_frame_of_the_same_shape(self):
        build = Build().image("a", tags=["1"])
        assert list(moved_tags(build.snapshot(EARLIER), build.snapshot()).columns)[: len(COLUMNS)] == list(COLUMNS)


class TestNamingStreams:
    @pytest.mark.parametrize(
        ("stream", "examples"),
        [
            (
                "version",
                "1.2.3 v2 1 1.4-alpine 3.12-2026-04-14 1.2.3-rc.1 v1.2.3-5-gabc1234 app-1.2.3 0.3-import 1234567",
            ),
            (
                "date",
                "2026-05-31 20260531 nightly-2026-05-31 2026-05-31-rebuild 20260531T120000Z 2026.1 2026.05 2024-11",
            ),
            ("commit", "3f2a91c main-3f2a91c sha-0123abc git-0a1b2c3d4e5f " + "ab" * 20),
            ("pull_request", "pr-12 PR12 mr-7 pull-9 pr-12-3f2a91c merge-request-4"),
            ("latest", "latest stable edge LATEST production latest-alpine qa"),
            ("branch", "main master develop feature-login fix_bug release-next dependabot-npm"),
            ("other", "xyz jammy alpine v printer"),
        ],
    )
    def test_names_fall_into_the_stream_that_a_person_would_say(self, stream, examples):
        tags = examples.split()
        assert dict(zip(tags, stream_of(pd.Series(tags, dtype="string")), strict=True)) == dict.fromkeys(tags, stream)

    def test_tags_digests_and_shared_bytes_are_counted_for_each_stream(self):
        build = Build().image("a", tags=["1.0.0", "1"], layers={"base": 500}, created=days_before(10))
        build.image("a", tags=["1.1.0", "latest"], layers={"base": 500, "x": 7}, created=days_before(5))
        frame = naming_streams(build.snapshot()).set_index("stream")
        assert frame.loc["version", ["tag_count", "digest_count", "content_bytes"]].tolist() == [3, 2, 2507]
        assert frame.loc["latest", ["tag_count", "digest_count", "content_bytes"]].tolist() == [1, 1, 1507]
        assert frame.loc["version", "example"] == "1.1.0"
        assert frame.loc["version", "oldest"] < frame.loc["version", "newest"]

    def test_an_index_counts_with_its_children_and_a_signature_not_at_all(self):
        build = Build().index("a", tags=["main"], platforms={"linux/amd64": {"x": 3}}).cosign("a", "main", size=99)
        frame = naming_streams(build.snapshot())
        assert frame[["stream", "tag_count", "content_bytes"]].to_numpy().tolist() == [["branch", 1, 1003]]

    def test_of_the_v1_interface_the_bytes_are_missing_and_the_names_are_not(self):
        frame = naming_streams(Build().v1("a", "latest").snapshot())
        assert frame["tag_count"].tolist() == [1]
        assert frame["content_bytes"].isna().all()


class TestOnARegistry:
    def test_the_sample_has_the_one_broken_tag_and_no_orphan(self, sample_registry):
        snapshot = collect(sample_registry, progress=False)
        found = findings(snapshot, labels=[SOURCE])
        assert names(found["broken_tags"]) == ["0.8.0-rc1"]
        assert found["orphaned_signatures"].empty
        assert found["missing_labels"].empty
        assert found["largest_layers"]["size_bytes"].is_monotonic_decreasing
        assert set(found["naming_streams"]["stream"]) == {
            "version",
            "date",
            "commit",
            "pull_request",
            "latest",
            "branch",
        }

    def test_a_signature_whose_image_was_deleted_is_found_and_can_be_planned(self, registry):
        worker = registry.repository("shop/checkout/worker")
        signed = worker.manifest("1.2.1")
        worker.delete_manifest(signed.digest)
        snapshot = collect(registry, "shop/checkout/worker", progress=False)
        frame = orphaned_signatures(snapshot)
        assert names(frame) == [f"{attached_tag(signed.digest)}.sig"]
        assert not plan(snapshot, frame).refused

    def test_every_blob_is_asked_for_once_and_a_missing_one_breaks_its_tags(self, sandbox, registry):
        snapshot = collect(registry, "charts/*", progress=False)
        victim = Digest(snapshot.blobs.loc[snapshot.blobs["role"] == "layer", "digest"].iloc[0])
        registry.repository("charts/checkout").delete_blob(victim, force=True)
        asked = len(sandbox.requests)
        missing = missing_blobs(registry, snapshot)
        heads = [path for method, path, _ in list(sandbox.requests)[asked:] if method == "HEAD"]
        assert len(heads) == len(set(heads)) == snapshot.blobs["digest"].nunique()
        assert missing[["repository", "digest", "role", "error"]].to_numpy().tolist() == [
            ["charts/checkout", victim, "layer", "not_found"]
        ]
        held = snapshot.blobs.loc[snapshot.blobs["digest"] == victim, "manifest_digest"]
        expected = snapshot.tags.loc[snapshot.tags["digest"].isin(held), "tag"].tolist()
        assert names(broken_tags(snapshot, missing_blobs=missing)) == expected

    def test_where_every_blob_is_there_nothing_is_missing(self, sample_registry):
        assert missing_blobs(sample_registry, collect(sample_registry, "charts/*", progress=False)).empty

    def test_a_snapshot_of_another_registry_is_not_checked(self, sample_registry):
        with pytest.raises(UsageError, match="name the registry that was audited"):
            missing_blobs(sample_registry, Build("other:5000").snapshot())


def test_the_findings_of_labels_are_json_that_a_page_can_show():
    evil = "<img src=x onerror=alert(1)>"
    frame = missing_labels(Build().image("a", tags=["1"]).snapshot(), [evil])
    assert "<img" not in frame.to_html()
    assert json.loads(frame[["tag", "missing"]].to_json(orient="records"))[0]["missing"] == evil


def test_of_an_empty_snapshot_that_was_loaded_every_finding_is_empty(tmp_path):
    Build().repository("team/app").snapshot().save(tmp_path / "snapshot")
    loaded = Snapshot.load(tmp_path / "snapshot")
    assert all(frame.empty for frame in findings(loaded).values())
