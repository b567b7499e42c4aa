"""Tables and snapshots: dtypes, what is missing, what is refused, and that a saved snapshot is the one loaded."""

from __future__ import annotations

import csv
import dataclasses
import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from builders import Build
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from regaudit.errors import SnapshotError, UsageError
from regaudit.inventory.documents import Document, Documents
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.spreadsheet import write_csv
from regaudit.inventory.tables import (
    KINDS,
    TABLES,
    TIME_DTYPE,
    check,
    columns_of,
    conform,
    digest_columns,
    digest_dtype,
)
from regaudit.manifest import LARGEST_SIZE
from regaudit.reference import Digest
from regaudit.text import CSV_SUSPECT, clean, csv_guard

A, B, C = sorted(Digest.of(name) for name in (b"a", b"b", b"c"))
NOW = datetime(2026, 6, 1, tzinfo=UTC)
DTYPES = {"text": "string", "json": "string", "count": "Int64", "bytes": "Int64", "flag": "boolean", "time": TIME_DTYPE}
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def row(table, **fields):
    """Return one row as columns of plain values, missing where not given."""
    return {name: [fields.get(name)] for name in columns_of(table)}


def sample():
    build = Build("registry:5000")
    build.image("team/app", tags=["1.0", "latest"], created="2026-01-01", layers={"base": 100, "app": 20})
    build.index("team/app", tags=["multi"], platforms={"linux/amd64": {"base": 100}, "linux/arm64": {"arm": 7}})
    build.attach("team/app", "1.0", name="sbom").cosign("team/app", "1.0").dangling("team/app", "gone")
    return build.repository("team/empty").unread("team/web", "1.0").v1("old", "1").snapshot()


def same(left, right):
    """Assert that two snapshots are equal in every respect."""
    for table in TABLES:
        assert_frame_equal(left.tables[table], right.tables[table])
    for name in ("registry", "taken_at", "finished_at", "patterns", "repositories", "requests"):
        assert getattr(left, name) == getattr(right, name)
    assert dict(left.documents) == dict(right.documents)


# -- the tables as data -----------------------------------------------------------------------


def test_the_columns_are_those_of_the_design_in_its_order():
    assert {table: " ".join(columns_of(table)) for table in TABLES} == {
        "tags": "registry repository tag digest image_id media_type kind created created_source pushed pushed_source "
        "pulled content_bytes seen_at",
        "manifests": "registry repository digest media_type artifact_type kind platform created created_source "
        "manifest_bytes content_bytes layer_count tag_count config_digest subject_digest discovered_by labels "
        "annotations",
        "blobs": "registry repository manifest_digest position role digest media_type size_bytes",
        "children": "registry repository index_digest position digest platform size_bytes role",
        "problems": "registry repository identifier stage error code status message blocking",
    }


@pytest.mark.parametrize("table", TABLES)
def test_every_column_has_the_dtype_of_its_type_also_where_all_is_missing(table):
    digests = digest_dtype([A])
    for columns in (row(table), {name: [] for name in columns_of(table)}):
        frame = conform(table, columns, digests)
        check(table, frame)
        assert frame.isna().all(axis=None)
        for column in TABLES[table]:
            dtype = frame[column.name].dtype
            if column.type == "digest":
                assert list(dtype.categories) == [A]
            elif column.type == "word":
                assert tuple(dtype.categories) == column.words
            elif column.type != "name":
                assert dtype == DTYPES[column.type]


def test_the_largest_size_and_the_first_time_pass_unchanged():
    columns = row("tags", content_bytes=LARGEST_SIZE, created=NOW.replace(microsecond=123456))
    columns = {name: [*values, None] for name, values in columns.items()}
    frame = conform("tags", columns, digest_dtype([]))
    assert frame["content_bytes"].tolist()[0] == LARGEST_SIZE
    assert frame["created"][0] == NOW.replace(microsecond=123456)
    assert frame["content_bytes"][1] is pd.NA
    assert frame["created"][1] is pd.NaT


def test_the_dictionary_of_digests_is_distinct_sorted_and_without_missing_ones():
    assert list(digest_dtype([C, A, None, C, pd.NA, B, float("nan")]).categories) == [A, B, C]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"tag": ["x"]}, "digest"),
        ({**row("tags"), "size": [1]}, "size"),
        ({**row("tags"), "tag": ["x", "y"]}, "one length"),
        (row("tags", digest=B), B),
        (row("tags", kind="banana"), "banana"),
        (row("tags", created_source="rumour"), "rumour"),
    ],
)
def test_columns_that_are_not_of_the_table_are_refused_by_name(columns, named):
    with pytest.raises(UsageError, match=named):
        conform("tags", columns, digest_dtype([A]))


def test_a_table_of_series_conforms_to_itself_whatever_its_index():
    tags = sample().tags
    shuffled = tags.sort_values("tag", ascending=False)
    again = conform("tags", {name: shuffled[name] for name in columns_of("tags")}, tags["digest"].dtype)
    assert_frame_equal(again, shuffled.reset_index(drop=True))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda frame: frame.drop(columns="tag"), "columns"),
        (lambda frame: frame[frame.columns[::-1]], "in this order"),
        (lambda frame: frame.assign(content_bytes=1.5), "tags.content_bytes has the dtype float64; it must be Int64"),
        (lambda frame: frame.assign(digest=frame["digest"].astype("string")), "tags.digest .* must be category"),
        (lambda frame: frame.assign(created=frame["created"].dt.tz_localize(None)), "tags.created"),
    ],
)
def test_a_frame_that_is_not_the_table_is_refused_by_its_first_difference(change, named):
    with pytest.raises(UsageError, match=named):
        check("tags", change(sample().tags))


def test_the_kinds_are_the_closed_vocabulary_of_the_design():
    assert set(KINDS) == {"image", "index", "artifact", "signature", "legacy", "unknown"}


# -- a snapshot -------------------------------------------------------------------------------


def test_all_tables_of_a_snapshot_share_one_dictionary_of_digests():
    snapshot = sample()
    dictionaries = [snapshot.tables[table][name].cat.categories for table in TABLES for name in digest_columns(table)]
    assert len(dictionaries) == 8
    assert all(dictionary.equals(dictionaries[0]) for dictionary in dictionaries)


def test_what_was_not_read_makes_the_snapshot_incomplete_there_and_a_dangling_tag_does_not():
    snapshot = sample()
    assert not snapshot.complete
    assert snapshot.unread == {"team/web"}
    read = Build().image("a", tags=["1"]).dangling("a", "gone").snapshot()
    assert read.complete
    assert not read.unread


def test_a_problem_of_unknown_weight_blocks():
    snapshot = Build().image("a", tags=["1"]).dangling("a", "gone").snapshot()
    problems = snapshot.problems.assign(blocking=pd.array([pd.NA], dtype="boolean"))
    assert dataclasses.replace(snapshot, problems=problems).unread == {"a"}


def test_a_snapshot_shows_itself_as_text_and_as_escaped_html():
    build = Build("registry:5000").image("team/app", tags=["1"], created="2026-05-01", layers={"base": 5000})
    snapshot = build.unread("team/app", "<script>alert(1)</script>", error="<b>").snapshot()
    assert "repositories not fully read: 1" in str(snapshot)
    assert "incomplete" in repr(snapshot)
    shown = snapshot._repr_html_()
    assert "<script>" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;" in shown


def test_a_catalog_that_was_not_read_is_said_before_anything_else():
    snapshot = Build().image("a", tags=["1"]).unread(None, stage="catalog").snapshot()
    assert not snapshot.complete
    assert "the list of repositories is not complete" in str(snapshot)


def test_a_display_shows_the_first_problems_and_counts_the_rest():
    build = Build()
    for number in range(25):
        build.dangling("a", f"tag-{number}")
    shown = build.snapshot()._repr_html_()
    assert "tag-19" in shown
    assert "tag-20" not in shown
    assert "and 5 more" in shown


def test_an_empty_registry_has_a_snapshot_too():
    snapshot = Build().snapshot()
    assert snapshot.complete
    assert snapshot.stored_bytes() == 0
    assert "none: everything was read" in str(snapshot)


# -- save and load ----------------------------------------------------------------------------


def test_a_saved_snapshot_is_the_snapshot_loaded(tmp_path):
    snapshot = dataclasses.replace(sample(), patterns=("team/*",), requests={"tags": 3})
    assert snapshot.save(tmp_path / "deep" / "snapshot") == tmp_path / "deep" / "snapshot"
    loaded = Snapshot.load(tmp_path / "deep" / "snapshot")
    same(loaded, snapshot)
    assert loaded.unread == snapshot.unread
    loaded.save(tmp_path / "deep" / "snapshot")
    same(Snapshot.load(tmp_path / "deep" / "snapshot"), snapshot)


def test_an_empty_snapshot_is_saved_and_loaded(tmp_path):
    snapshot = Build().snapshot()
    same(Snapshot.load(snapshot.save(tmp_path / "s")), snapshot)


def test_documents_are_read_when_first_asked_for(tmp_path):
    snapshot = sample()
    loaded = Snapshot.load(snapshot.save(tmp_path / "s"))
    digest = snapshot.tags["digest"].dropna().iloc[0]
    assert loaded.documents[digest] == snapshot.documents[digest]
    (tmp_path / "s" / "documents.parquet").unlink()
    assert len(loaded.documents) == len(snapshot.documents)
    assert len(Snapshot.load(tmp_path / "s").documents) == 0


TEXT = st.text(max_size=12)
MAYBE_DIGEST = st.sampled_from([A, B, C, None])
TIMES = st.none() | st.datetimes(datetime(2013, 3, 20), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 -- hypothesis wants it naive


def values_of(column):
    return {
        "digest": MAYBE_DIGEST,
        "word": st.sampled_from([*column.words, None]),
        "name": st.none() | TEXT,
        "text": st.none() | TEXT,
        "json": st.none() | st.dictionaries(TEXT, TEXT, max_size=2).map(json.dumps),
        "count": st.none() | st.integers(0, 1000),
        "bytes": st.none() | st.integers(0, LARGEST_SIZE),
        "flag": st.none() | st.booleans(),
        "time": TIMES,
    }[column.type]


def rows_of(table):
    one = st.tuples(*[values_of(column) for column in TABLES[table]])
    names = columns_of(table)
    return st.lists(one, max_size=4).map(lambda rows: {n: [r[i] for r in rows] for i, n in enumerate(names)})


SNAPSHOTS = st.builds(
    Snapshot.from_columns,
    st.fixed_dictionaries({table: rows_of(table) for table in TABLES}),
    registry=st.just("registry:5000"),
    taken_at=st.just(NOW),
    finished_at=st.just(NOW + timedelta(microseconds=1)),
    patterns=st.lists(TEXT, max_size=2).map(tuple),
    repositories=st.lists(TEXT, max_size=2).map(tuple),
    documents=st.dictionaries(st.sampled_from([A, B]), st.builds(Document, TEXT, st.binary(max_size=9))).map(Documents),
    requests=st.dictionaries(TEXT, st.integers(0, 9), max_size=2),
)


@given(SNAPSHOTS)
@settings(max_examples=25)
def test_any_snapshot_is_loaded_as_it_was_saved(snapshot):
    with tempfile.TemporaryDirectory() as folder:
        loaded = Snapshot.load(snapshot.save(Path(folder, "s")))
        same(loaded, snapshot)


def test_a_snapshot_of_many_slices_is_loaded_as_it_was_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("regaudit.inventory.parquet._GROUP_ROWS", 2)
    snapshot = sample()
    assert len(snapshot.tags) > 2
    saved = snapshot.save(tmp_path / "s")
    same(Snapshot.load(saved), snapshot)
    assert pq.ParquetFile(saved / "tags.parquet").num_row_groups == -(-len(snapshot.tags) // 2)


def test_a_digest_is_stored_once_and_elsewhere_as_a_small_number(tmp_path):
    saved = sample().save(tmp_path / "s")
    for table in TABLES:
        schema = pq.read_schema(saved / f"{table}.parquet")
        assert all(schema.field(name).type == "int32" for name in digest_columns(table))
    assert all(b"sha256:" not in (saved / f"{table}.parquet").read_bytes() for table in ("blobs", "children"))


def test_tables_of_differing_dictionaries_are_not_saved_as_if_they_were_one(tmp_path):
    snapshot = sample()
    saved = snapshot.save(tmp_path / "s")
    digests = snapshot.tags["digest"]
    backwards = digests.cat.reorder_categories(digests.cat.categories[::-1])
    assert backwards.dtype == digests.dtype  # so that a comparison of dtypes would see nothing
    mixed = dataclasses.replace(snapshot, tags=snapshot.tags.assign(digest=backwards))
    with pytest.raises(UsageError, match="from_columns"):
        mixed.save(saved)
    same(Snapshot.load(saved), snapshot)


def test_a_dictionary_in_another_order_names_the_same_digests_after_loading(tmp_path):
    digests = pd.CategoricalDtype([C, A, B])
    tables = {table: conform(table, row(table, digest=A), digests) for table in TABLES if table != "problems"}
    tables["problems"] = conform("problems", row("problems"), digests)
    about = {"registry": "r", "taken_at": NOW, "finished_at": NOW, "patterns": (), "repositories": ()}
    loaded = Snapshot.load(Snapshot(**about, **tables).save(tmp_path / "s"))
    assert [loaded.tables[table]["digest"].tolist() for table in ("tags", "manifests", "blobs", "children")] == [
        [A]
    ] * 4


# -- damaged, missing, hostile folders --------------------------------------------------------


def test_a_folder_that_is_no_snapshot_says_which_one_to_name(tmp_path):
    with pytest.raises(SnapshotError, match="name the folder"):
        Snapshot.load(tmp_path)
    with pytest.raises(SnapshotError, match="name the folder"):
        Snapshot.load(tmp_path / "absent")


def test_a_snapshot_of_another_format_is_refused_with_both_named(tmp_path):
    saved = sample().save(tmp_path / "s")
    (saved / "snapshot.json").write_text(json.dumps({"format": "regaudit-snapshot/99"}))
    with pytest.raises(SnapshotError, match=r"regaudit-snapshot/99.*regaudit-snapshot/2"):
        Snapshot.load(saved)


FILES = ["digests.parquet", *[f"{table}.parquet" for table in TABLES]]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "junk"])
def test_a_damaged_snapshot_is_refused_whole(tmp_path, name, damage):
    file = sample().save(tmp_path / "s") / name
    raw = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes({"empty": b"", "cut": raw[: len(raw) // 2], "junk": b"PAR1" + raw[::-1]}[damage])
    with pytest.raises(SnapshotError, match="audit the registry again"):
        Snapshot.load(tmp_path / "s")


def test_damaged_documents_are_a_snapshot_error_when_they_are_asked_for(tmp_path):
    saved = sample().save(tmp_path / "s")
    (saved / "documents.parquet").write_bytes(b"PAR1 no more")
    documents = Snapshot.load(saved).documents
    with pytest.raises(SnapshotError, match="damaged"):
        len(documents)


@pytest.mark.parametrize("name", ["digest", "kind"])
def test_a_table_with_values_outside_its_vocabulary_is_not_loaded(tmp_path, name):
    saved = sample().save(tmp_path / "s")
    frame = pd.read_parquet(saved / "tags.parquet")
    frame[name] = pd.Series([10**6] * len(frame), dtype="Int32") if name == "digest" else "banana"
    frame.to_parquet(saved / "tags.parquet")
    with pytest.raises(SnapshotError):
        Snapshot.load(saved)


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"7", b"\xff", b"{}", b'{"format": 7}', b'{"format": "regaudit-snapshot/2"}']
)
def test_a_header_that_is_none_is_a_snapshot_error(tmp_path, header):
    saved = sample().save(tmp_path / "s")
    (saved / "snapshot.json").write_bytes(header)
    with pytest.raises(SnapshotError):
        Snapshot.load(saved)


def test_a_save_that_dies_leaves_no_snapshot_that_could_be_taken_for_whole(tmp_path, monkeypatch):
    saved = sample().save(tmp_path / "s")

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_batch", full)
    with pytest.raises(OSError, match="No space"):
        sample().save(saved)
    with pytest.raises(SnapshotError):
        Snapshot.load(saved)


def test_nothing_is_saved_through_a_symbolic_link(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "s").mkdir()
    for name in ("tags.parquet", "tags.csv", "snapshot.json"):
        (tmp_path / "s" / name).symlink_to(precious)
    snapshot = sample()
    snapshot.save(tmp_path / "s")
    snapshot.to_csv(tmp_path / "s")
    assert precious.read_text() == "kept"
    same(Snapshot.load(tmp_path / "s"), snapshot)
    (tmp_path / "link").symlink_to(tmp_path / "s")
    for write in (snapshot.save, snapshot.to_csv):
        with pytest.raises(UsageError, match="symbolic link"):
            write(tmp_path / "link")


# -- CSV --------------------------------------------------------------------------------------


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def shown(value):
    """Return a value as its CSV cell is declared to be."""
    if pd.isna(value):
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str):
        return str(value)
    return ("'" if value.startswith(FORMULA_STARTS) else "") + clean(value, 1 << 20)


@given(SNAPSHOTS)
@settings(max_examples=25)
def test_a_csv_reads_back_as_the_tables_less_the_declared_prefix(snapshot):
    with tempfile.TemporaryDirectory() as folder:
        paths = snapshot.to_csv(Path(folder, "csv"))
        assert [path.name for path in paths] == [f"{table}.csv" for table in TABLES]
        for path, (table, frame) in zip(paths, snapshot.tables.items(), strict=True):
            header, *rows = read_csv(path)
            assert header == columns_of(table)
            assert rows == [[shown(value) for value in row] for row in frame.astype("object").to_numpy().tolist()]


@pytest.mark.parametrize(
    "payload", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "\0=1", "\uff1d1", "=cmd|' /C calc'!A0"]
)
@pytest.mark.parametrize("table", TABLES)
def test_no_text_in_any_column_begins_as_a_formula(tmp_path, table, payload):
    hostile = {column.name: payload for column in TABLES[table] if column.type in {"name", "text", "json", "digest"}}
    frame = conform(table, row(table, **hostile), digest_dtype([payload]))
    [_, cells] = read_csv(write_csv(frame, tmp_path / "t.csv"))
    written = dict(zip(columns_of(table), cells, strict=True))
    assert all(written[name].startswith("'") for name in hostile)
    assert not any(cell.startswith(FORMULA_STARTS) for cell in cells)


@pytest.mark.parametrize("dtype", ["str", "string", "object", "category"])
def test_a_table_of_ones_own_is_guarded_whatever_its_text_is_made_of(tmp_path, dtype):
    frame = pd.DataFrame({"text": pd.Series(["=1+1", None, "\u202eplain"], dtype=dtype), "count": [1, 2, 3]})
    frame.index = [5, 5, 7]
    assert read_csv(write_csv(frame, tmp_path / "t.csv")) == [
        ["text", "count"],
        ["'=1+1", "1"],
        ["", "2"],
        ["\ufffdplain", "3"],
    ]


def test_times_and_sizes_are_written_so_that_a_machine_reads_them(tmp_path):
    columns = row("tags", tag="1", created=NOW, content_bytes=LARGEST_SIZE, digest=A)
    [header, cells] = read_csv(write_csv(conform("tags", columns, digest_dtype([A])), tmp_path / "t.csv"))
    written = dict(zip(header, cells, strict=True))
    assert written["created"] == "2026-06-01T00:00:00+00:00"
    assert written["content_bytes"] == "9223372036854775807"
    assert written["digest"] == A
    assert written["pulled"] == ""


def test_a_csv_of_many_slices_is_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr("regaudit.inventory.spreadsheet._SLICE_ROWS", 2)
    texts = ["plain", 'a "quoted", one', "=1+1", None, "\u202e\u0000", "", "\ud800 half"]
    frame = pd.DataFrame(
        {
            "text": pd.Series(texts, dtype="object"),
            "name": pd.Categorical(["b,c", "-a", "b,c", None, "x", "x", "-a"]),
            "flag": pd.Series([True, None] * 3 + [False], dtype="boolean"),
            "at": pd.to_datetime(pd.Series([NOW, NOW + timedelta(microseconds=5), None] * 2 + [NOW])).astype(
                TIME_DTYPE
            ),
            "days": pd.Series([1.5, None, 2.0, 0.1, 1e300, 3.0, 4.0], dtype="Float64"),
        }
    )
    [header, *rows] = read_csv(write_csv(frame, tmp_path / "t.csv"))
    assert header == list(frame.columns)
    assert rows == [[shown(value) for value in row] for row in frame.astype("object").to_numpy().tolist()]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6))
def test_what_the_guard_changes_is_what_is_suspected(text):
    suspected = pc.match_substring_regex(pa.array([text]), CSV_SUSPECT)[0].as_py()
    assert suspected == (csv_guard(text) != text)


def test_every_character_is_suspected_or_left_alone():
    texts = [chr(number) + rest for number in (*range(0xD800), *range(0xE000, 0x10000)) for rest in ("", "a")]
    suspected = pc.match_substring_regex(pa.array(texts), CSV_SUSPECT).to_pylist()
    assert suspected == [csv_guard(text) != text for text in texts]
