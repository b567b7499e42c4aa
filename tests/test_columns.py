"""The tables of a reading are built as columns, and are those that plain rows would make."""

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_rows import PlainRows

from regaudit.inventory import derived
from regaudit.inventory.columns import NAT, Coded, Rows, frame, microseconds
from regaudit.inventory.found import Found
from regaudit.inventory.tables import TABLES, columns_of, conform, digest_columns, digest_dtype
from regaudit.manifest import (
    DOCKER_CONFIG,
    LARGEST_SIZE,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_SIGNED,
    parse_image_config,
    parse_manifest,
)
from regaudit.reference import Digest

NOW = datetime(2026, 6, 1, tzinfo=UTC)
REPOSITORIES = ["a", "team/app", "team/app-2"]
TIMES = st.sampled_from([None, "1970-01-01T00:00:00Z", "2024-01-01T00:00:00Z", "2025-05-05T05:05:05.000001Z", "soon"])
# Few layers, so that images share some, and one twice with two sizes; a sum beyond 2^63-1 is no size.
LAYERS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 7, 1 << 40, LARGEST_SIZE])), max_size=4)
PLATFORMS = st.sampled_from([None, {"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64"}])
ATTESTATION = {"vnd.docker.reference.type": "attestation-manifest"}


def dump(document):
    return json.dumps(document).encode()


def blob(number):
    return str(Digest.of(b"blob %d" % number))


def annotations_of(draw):
    created = draw(TIMES)
    return {"org.opencontainers.image.created": created} if created else draw(st.sampled_from([{}, {"é": "ü"}]))


def draw_image(draw):
    config = draw(st.integers(0, 3))
    document = {
        "schemaVersion": 2,
        "config": {
            "mediaType": draw(st.sampled_from([OCI_CONFIG, DOCKER_CONFIG, "application/vnd.x+json"])),
            "digest": blob(100 + config),
            "size": 5,
        },
        "layers": [{"mediaType": f"x/{n % 2}", "digest": blob(n), "size": size} for n, size in draw(LAYERS)],
        "annotations": annotations_of(draw),
    }
    if draw(st.booleans()):
        document["subject"] = {"mediaType": OCI_MANIFEST, "digest": blob(200), "size": 1}
    return parse_manifest(dump(document), OCI_MANIFEST)


def draw_legacy(draw):
    told = json.dumps({"created": draw(TIMES)})
    layers = [{"blobSum": blob(n)} for n, _ in draw(LAYERS)]
    document = {"schemaVersion": 1, "name": "a", "fsLayers": layers, "history": [{"v1Compatibility": told}]}
    return parse_manifest(dump(document), SCHEMA1_SIGNED)


def draw_index(draw, known):
    listed = draw(st.lists(st.sampled_from([*known, Digest(blob(300)), Digest(blob(301))]), max_size=4))
    children = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": digest,
            "size": draw(st.integers(0, 9)),
            "platform": draw(PLATFORMS),
            "annotations": draw(st.sampled_from([{}, {}, ATTESTATION])),
        }
        for digest in listed
    ]
    document = {"schemaVersion": 2, "manifests": children, "annotations": annotations_of(draw)}
    return parse_manifest(dump(document), OCI_INDEX)


@st.composite
def registries(draw):
    """Fill both a `Found` and `PlainRows` with the same random registry."""
    found, plain = Found("registry:5000", NOW), PlainRows("registry:5000", NOW)
    for repository in draw(st.lists(st.sampled_from(REPOSITORIES), max_size=3, unique=True)):
        fill(draw, found, plain, repository)
    for number in draw(st.sets(st.integers(0, 3))):
        about = {"created": draw(TIMES), "config": {"Labels": draw(st.sampled_from([None, {"a": "b"}]))}}
        config = parse_image_config(dump({**about, **(draw(PLATFORMS) or {})}))
        found.add_config(blob(100 + number), config)
        plain.configs[blob(100 + number)] = config
    return found, plain


def fill(draw, found, plain, repository):
    met = []
    for kind in draw(st.lists(st.sampled_from(["image", "image", "index", "legacy"]), max_size=7)):
        manifest = draw_index(draw, met) if kind == "index" else (draw_image if kind == "image" else draw_legacy)(draw)
        way, key = draw(st.sampled_from(["tag", "index", "referrer"])), found.key(repository, manifest.digest)
        plain.add(repository, manifest, way)
        found.find_again(key, way) if found.knows(key) else found.add(key, manifest, way)
        met.append(manifest.digest)
    for digest in draw(st.sets(st.sampled_from([blob(300), blob(301)]))):
        found.missing.add(found.key(repository, digest))
        plain.missing.add((repository, digest))
    for tag, digest in draw(st.dictionaries(st.sampled_from("aAb0_"), st.sampled_from([None, *met]))).items():
        found.add_tag(repository, tag, digest)
        plain.tags[repository, tag] = digest


def assert_same(one, other, without=("seen_at",)):
    for name, frame_ in other.items():
        left = one[name].drop(columns=[c for c in without if c in one[name]])
        pd.testing.assert_frame_equal(left, frame_.drop(columns=[c for c in without if c in frame_]))


@given(registries())
def test_the_tables_are_those_that_plain_rows_would_make(both):
    found, plain = both
    tables = found.tables()
    assert_same(tables, plain.tables())
    dictionaries = [tables[t][c].cat.categories for t in tables for c in digest_columns(t)]
    assert all(dictionary.equals(dictionaries[0]) for dictionary in dictionaries)


@given(registries())
def test_indexes_that_are_too_many_to_weigh_at_once_are_weighed_in_parts(both):
    found, plain = both
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(derived, "_MOST_PAIRS", 1)
        assert_same(found.tables(), plain.tables())


def test_what_an_interrupt_cuts_off_leaves_no_half_of_a_manifest(monkeypatch):
    found = Found("registry:5000", NOW)
    whole, cut = (image_with([(n, n), (n + 1, 5)]) for n in (1, 3))
    found.add(found.key("a", whole.digest), whole, "tag")
    found.add_tag("a", "1", whole.digest)
    monkeypatch.setattr(Rows, "add", interrupting(Rows.add, after=1))
    with pytest.raises(KeyboardInterrupt):
        found.add(found.key("a", cut.digest), cut, "tag")
    tables = found.tables()
    assert tables["manifests"]["digest"].tolist() == [whole.digest]
    assert tables["blobs"]["manifest_digest"].unique().tolist() == [whole.digest]
    assert tables["tags"]["content_bytes"].tolist() == [5 + 1 + 5]


def interrupting(original, after):
    calls = []

    def add(self, *values):
        calls.append(values)
        if len(calls) > after:
            raise KeyboardInterrupt
        original(self, *values)

    return add


def image_with(layers):
    config = {"mediaType": OCI_CONFIG, "digest": blob(99), "size": 5}
    listed = [{"mediaType": "x/y", "digest": blob(number), "size": size} for number, size in layers]
    return parse_manifest(dump({"schemaVersion": 2, "config": config, "layers": listed}), OCI_MANIFEST)


def test_a_time_is_the_number_that_pandas_has_for_it():
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    made = frame("tags", 2, {"created": np.array([microseconds(moment), NAT])}, digest_dtype(()))
    assert made["created"].tolist() == [moment, pd.NaT]
    assert microseconds(None) == NAT


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("rows", [0, 2])
def test_a_column_that_is_not_given_is_missing_in_every_row(table, rows):
    plain = conform(table, {name: [None] * rows for name in columns_of(table)}, digest_dtype(()))
    pd.testing.assert_frame_equal(frame(table, rows, {}, digest_dtype(())), plain)


def test_names_that_no_row_has_are_no_categories():
    names = Coded(np.array([2, -1, 0]), ["b", "unused", "a"])
    made = frame("problems", 3, {"repository": names, "message": names}, digest_dtype(()))
    assert list(made["repository"].cat.categories) == ["a", "b"]
    assert made["repository"].isna().tolist() == [False, True, False]
    assert made["message"].isna().tolist() == [False, True, False]
