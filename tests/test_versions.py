"""Versions in tags compare as semantic versioning says, and a range means what it says."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from retention_oracle import RANGES, parse

from regaudit.analysis.versions import VersionRange, Versions
from regaudit.errors import UsageError

# Section 11 of the specification, its own example in its own order.
IN_ORDER = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
]


def chosen(text, *tags, doubt=False):
    found = VersionRange(text).selects(Versions.of(pa.array(tags, pa.string())), doubt=doubt)
    return [tag for tag, inside in zip(tags, found, strict=True) if inside]


@pytest.mark.parametrize("place", range(len(IN_ORDER)))
def test_prereleases_come_in_the_order_of_the_specification(place):
    assert chosen(f"<{IN_ORDER[place]}", *IN_ORDER) == IN_ORDER[:place]
    assert chosen(f">={IN_ORDER[place]}", *IN_ORDER) == IN_ORDER[place:]
    assert chosen(f"={IN_ORDER[place]}", *IN_ORDER) == [IN_ORDER[place]]


def test_numbers_are_compared_as_numbers_and_what_comes_after_a_plus_not_at_all():
    assert chosen(">1.9.0", "1.10.0", "v1.10.0", "1.9.0_build5", "1.9.0") == ["1.10.0", "v1.10.0"]


@pytest.mark.parametrize(
    "tag", ["latest", "1.02.3", "1.2.3.4", "v", "main-1.2.3", "2026-05-02", "20260502", "", "3-slim", "1.2.3-"]
)
def test_what_is_no_version_is_in_no_range(tag):
    assert chosen("*", tag, None, doubt=True) == []


def test_a_tag_for_a_line_is_taken_at_its_word_for_keeping_alone():
    assert chosen(">=1.4 <1.5", "1", "1.4", "1.4-alpine", "1.5", "2", doubt=True) == ["1", "1.4", "1.4-alpine"]
    assert chosen(">=1.4 <1.5", "1", "1.4", "1.4-alpine", "1.5", "2") == ["1.4"]
    assert chosen("*", "1", "1.4") == ["1.4"]


def test_the_order_is_dense_and_equal_versions_share_a_place():
    versions = Versions.of(pa.array(["1.2.0", "v1.2", "1.10.0", "1.2.0-rc1", "x", None, "0.1.0"]))
    assert versions.order().tolist() == [1, 1, 2, -1, -1, -1, 0]
    assert Versions.of(pa.array([], pa.string())).order().tolist() == []


@pytest.mark.parametrize(
    "text", ["", ">=", "1.x", "^1.4", "~1", ">=1.4 <", "1.4-rc1", ">=1.4 || ", "=>1", "01", "latest"]
)
def test_what_is_no_range_is_refused_with_how_to_write_one(text):
    with pytest.raises(UsageError, match=r"write '>=1|three numbers"):
        VersionRange(text)


parts = st.sampled_from(["", "0", "1", "2", "10"])
tags = st.builds(
    lambda v, major, minor, patch, rest: v + ".".join(filter(None, [major, minor, minor and patch])) + rest,
    st.sampled_from(["", "v"]), st.sampled_from(["0", "1", "2"]), parts, parts, st.sampled_from(["", "", "-rc.1", "-rc.10", "-rc.2", "-alpine", "_b1"]),
)  # fmt: skip


@given(tag=tags, text=st.sampled_from(sorted(RANGES)))
def test_a_range_has_what_trying_every_version_of_a_line_finds(tag, text):
    version = parse(tag)
    inside = [RANGES[text](v) for v in version.meanings()] if version else []
    assert bool(chosen(text, tag, doubt=True)) == any(inside)
    assert bool(chosen(text, tag)) == bool(version and version.certain and all(inside))


@given(st.lists(tags, max_size=6))
def test_sorting_by_order_is_sorting_by_version(listed):
    order = Versions.of(pa.array(listed, pa.string())).order()
    keyed = {tag: parse(tag).meanings()[0] for tag, place in zip(listed, order, strict=True) if place >= 0}
    ranked = sorted(zip(order, listed, strict=True))
    found = [keyed[tag] for place, tag in ranked if place >= 0]
    assert found == sorted(found)
