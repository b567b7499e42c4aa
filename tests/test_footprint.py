"""Bytes held, shared and freed: the claims of `regaudit.analysis.footprint`."""

from __future__ import annotations

import pandas as pd
import pytest
from builders import Build, blob
from hypothesis import given, settings
from hypothesis import strategies as st

from regaudit.analysis.footprint import Holders, footprint, reclaimable_bytes, shared_layers
from regaudit.errors import UsageError

BIG = 2**63 - 1


def two():
    """Return two repositories that share the layer `base` of 500 bytes."""
    build = Build().image("big", tags=["1"], layers={"base": 500, "b": 70})
    return build.image("small", tags=["1", "latest"], layers={"base": 500, "s": 3})


def by_repository(snapshot):
    return footprint(snapshot).set_index("repository")


class TestFootprint:
    def test_bytes_are_split_into_own_and_shared(self):
        table = by_repository(two().snapshot())
        assert table.index.tolist() == ["big", "small"]
        columns = ["content_bytes", "unique_bytes", "shared_bytes", "manifest_bytes", "blob_count", "tag_count"]
        assert table.loc["big", columns].tolist() == [1570, 1070, 500, 1000, 3, 1]
        assert table.loc["small", columns].tolist() == [1503, 1003, 500, 1000, 3, 2]

    def test_a_blob_counts_once_in_a_repository_however_many_images_hold_it(self):
        build = two().image("big", tags=["2"], layers={"base": 500, "b": 70})
        assert by_repository(build.snapshot()).loc["big", ["content_bytes", "unique_bytes"]].tolist() == [2570, 2070]

    def test_an_empty_repository_has_zeros_and_is_complete(self):
        row = by_repository(Build().repository("empty").snapshot()).loc["empty"]
        assert row[["tag_count", "manifest_count", "blob_count", "content_bytes", "manifest_bytes"]].tolist() == [0] * 5
        assert row["complete"]

    def test_a_repository_with_something_unread_says_so(self):
        table = by_repository(
            two().unread("big", "slow").dangling("small", "gone").unread("none", stage="tags").snapshot()
        )
        assert table["complete"].to_dict() == {"big": False, "small": True, "none": False}

    def test_an_unknown_size_counts_nothing_and_is_counted(self):
        table = by_repository(Build().legacy("old", tags=["1"], layers=["x", "y"]).snapshot())
        assert table.loc["old", ["blob_count", "content_bytes", "unsized_count"]].tolist() == [2, 0, 2]

    def test_a_size_that_one_manifest_knows_is_known(self):
        table = by_repository(
            Build().legacy("old", tags=["1"], layers=["base"]).image("new", tags=["1"], layers={"base": 9}).snapshot()
        )
        assert table.loc["old", ["content_bytes", "unsized_count"]].tolist() == [9, 0]

    def test_hostile_sizes_do_not_wrap_round(self):
        table = footprint(Build().image("a", tags=["1"], layers={"x": BIG, "y": BIG}).snapshot())
        assert table["content_bytes"][0] == 2**63 - 1024

    def test_no_repository_at_all_gives_the_same_dtypes(self):
        empty, full = footprint(Build().snapshot()), footprint(two().snapshot())
        assert empty.dtypes.astype(str).to_dict() == full.dtypes.astype(str).to_dict()

    def test_layers_of_pairs_leave_configs_out(self):
        assert shared_layers(two().snapshot(), ["small", "big"]).tolist() == [[503, 500], [500, 570]]


class TestReclaimable:
    def test_a_shared_layer_stays_until_its_last_holder_goes(self):
        build = two()
        snapshot = build.snapshot()
        big, small = build.pair("big", "1"), build.pair("small", "1")
        assert reclaimable_bytes(snapshot, [big]) == 1000 + 1000 + 70
        assert reclaimable_bytes(snapshot, [small]) == 1000 + 1000 + 3
        assert reclaimable_bytes(snapshot, [big, small]) == 4000 + 70 + 3 + 500 == snapshot.stored_bytes()

    def test_a_manifest_of_two_repositories_is_stored_once(self):
        build = two().copy("big", "1", to="mirror", tags=["1"])
        snapshot = build.snapshot()
        assert reclaimable_bytes(snapshot, [build.pair("big", "1")]) == 0
        assert reclaimable_bytes(snapshot, [build.pair("big", "1"), build.pair("mirror", "1")]) == 2070

    def test_a_layer_that_a_manifest_lists_twice_is_held_once(self):
        build = Build().image("a", tags=["1"], layers={"x": 5})
        snapshot = build.snapshot()
        twice = pd.concat([snapshot.blobs, snapshot.blobs.assign(position=7)], ignore_index=True)
        object.__setattr__(snapshot, "blobs", twice)
        assert reclaimable_bytes(snapshot, [build.pair("a", "1")]) == 2005

    def test_an_index_frees_itself_and_not_its_children(self):
        build = Build().index("a", tags=["multi"], platforms={"linux/amd64": {"x": 5}, "linux/arm64": {"y": 6}})
        assert reclaimable_bytes(build.snapshot(), [build.pair("a", "multi")]) == 1000

    def test_a_frame_of_tags_counts_each_manifest_once_and_passes_over_tags_without_a_digest(self):
        build = two().dangling("big", "gone")
        assert reclaimable_bytes(build.snapshot(), build.snapshot().tags) == 4573

    def test_a_frame_of_plain_texts_is_as_good_as_one_of_categories(self):
        frame = two().snapshot().tags[["repository", "digest"]].astype("string")
        assert reclaimable_bytes(two().snapshot(), frame) == 4573

    def test_a_frame_without_digests_is_refused(self):
        with pytest.raises(UsageError, match="repository and digest"):
            reclaimable_bytes(two().snapshot(), pd.DataFrame({"tag": ["1"]}))

    def test_what_is_not_there_frees_nothing(self):
        build = two()
        nothing = [("big", blob("x")), ("nowhere", build.digest("big", "1")), ("small", build.digest("big", "1"))]
        assert reclaimable_bytes(build.snapshot(), nothing) == 0
        assert reclaimable_bytes(Build().snapshot(), nothing) == 0

    def test_hostile_sizes_are_added_up_exactly(self):
        build = Build().image("a", tags=["1"], layers={"x": BIG, "y": BIG})
        assert reclaimable_bytes(build.snapshot(), [build.pair("a", "1")]) == 2 * BIG + 2000


class TestTally:
    def test_it_grows_and_shrinks(self):
        build = two()
        tally = Holders(build.snapshot()).tally()
        tally.add(*build.pair("big", "1"))
        assert (tally.bytes, len(tally), build.pair("big", "1") in tally) == (2070, 1, True)
        tally.add(*build.pair("small", "1"))
        assert tally.bytes == 4573
        tally.discard(*build.pair("big", "1"))
        assert tally.bytes == 2003

    def test_adding_twice_and_discarding_what_is_absent_change_nothing(self):
        build = two()
        tally = Holders(build.snapshot()).tally()
        tally.discard(*build.pair("big", "1"))
        tally.add(*build.pair("big", "1"))
        tally.add(*build.pair("big", "1"))
        assert tally.bytes == 2070
        tally.discard(*build.pair("big", "1"))
        assert (tally.bytes, len(tally)) == (0, 0)

    def test_an_unknown_size_makes_it_a_lower_bound_only_while_it_comes_back(self):
        build = Build().image("a", tags=["1"], layers={"x": None}).image("b", tags=["1"], layers={"x": None})
        tally = Holders(build.snapshot()).tally()
        tally.add(*build.pair("a", "1"))
        assert not tally.lower_bound
        tally.add(*build.pair("b", "1"))
        assert (tally.lower_bound, tally.bytes) == (True, 4000)
        tally.discard(*build.pair("a", "1"))
        assert not tally.lower_bound

    def test_a_manifest_that_was_not_read_counts_nothing_and_makes_it_a_lower_bound(self):
        tally = Holders(two().snapshot()).tally()
        tally.add("big", blob("unread"))
        assert (tally.bytes, tally.lower_bound) == (0, True)
        tally.discard("big", blob("unread"))
        assert not tally.lower_bound

    @settings(deadline=None, max_examples=60)
    @given(
        images=st.lists(
            st.tuples(st.sampled_from("abc"), st.sampled_from("pq"), st.sets(st.sampled_from("vwxyz"))), max_size=8
        ),
        steps=st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=20),
    )
    def test_after_every_step_it_is_what_counting_afresh_gives(self, images, steps):
        build = Build()
        for number, (repository, config, layers) in enumerate(images):
            build.image(
                repository, name=f"i{number}", config=config, layers={name: ord(name) for name in sorted(layers)}
            )
        snapshot = build.snapshot()
        holders = Holders(snapshot)
        tally, chosen = holders.tally(), set()
        for add, number in steps:
            pair = build.pair(images[number][0], f"i{number}") if number < len(images) else ("a", blob("absent"))
            (tally.add if add else tally.discard)(*pair)
            (chosen.add if add else chosen.discard)(pair)
            assert tally.bytes == holders.reclaimable(chosen) == counted_afresh(snapshot, chosen)


def counted_afresh(snapshot, gone):
    """Return the bytes of everything held now that nothing holds without these manifests, the slow way."""
    sizes = dict(zip(snapshot.manifests["digest"], snapshot.manifests["manifest_bytes"], strict=True))
    sizes |= dict(zip(snapshot.blobs["digest"], snapshot.blobs["size_bytes"], strict=True))
    held, left = set(), set()
    for row in snapshot.manifests.itertuples():
        blobs = snapshot.blobs
        own = blobs[(blobs["repository"] == row.repository) & (blobs["manifest_digest"] == row.digest)]
        things = {row.digest, *own["digest"]}
        held |= things
        if (row.repository, row.digest) not in gone:
            left |= things
    return sum(int(sizes[thing]) for thing in held - left)
