"""The report on disk: the claims of `regaudit.analysis.report`."""

from __future__ import annotations

import csv
from html.parser import HTMLParser

import pandas as pd
import pytest
from builders import Build, days_before

from regaudit.analysis.report import MOST_ROWS, report
from regaudit.analysis.tags import stale_tags
from regaudit.errors import UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.tables import TABLES

FINDINGS = (
    "broken_tags",
    "orphaned_signatures",
    "largest_layers",
    "largest_images",
    "missing_labels",
    "naming_streams",
)
FILES = {f"{name}.csv" for name in (*TABLES, "footprint", "stale", "duplicates", *FINDINGS)} | {"index.html", "plots"}
EVIL = "=1+1'\"><script>alert(1)</script><img src=x onerror=alert(2)>\x1b]0;\u202e{0}"


class Page(HTMLParser):
    """The page as a browser takes it apart: every element with its attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def written(snapshot, folder, **options):
    path = report(snapshot, folder, **options)
    return Page(path.read_text("utf-8"))


def sample():
    build = Build("registry.example.com")
    for number in range(8):
        build.image(
            "team/app",
            tags=[f"1.{number}"],
            created=days_before(1000 - number),
            layers={"base": 1 << 20, f"{number}": 5},
        )
    return build.tag("team/app", "1.7", "latest").unread("team/other", "slow")


def hostile():
    """Return a snapshot with a hostile text in every column that can hold one."""
    snapshot = (
        Build(EVIL)
        .image("a", tags=["1", "2"], created=days_before(900), layers={"x": 1})
        .dangling("a", "gone")
        .snapshot()
    )
    evil = {"name": EVIL, "text": EVIL, "json": EVIL}
    columns = {
        table: {c.name: [evil[c.type]] * len(frame) if c.type in evil else list(frame[c.name]) for c in TABLES[table]}
        for table, frame in snapshot.tables.items()
    }
    return Snapshot.from_columns(
        columns,
        registry=EVIL,
        taken_at=snapshot.taken_at,
        finished_at=snapshot.finished_at,
        patterns=(EVIL,),
        repositories=(EVIL, f"{EVIL}2"),
    )


def test_every_file_that_is_promised_is_there_and_nothing_else(tmp_path):
    assert report(sample().snapshot(), tmp_path / "out") == tmp_path / "out" / "index.html"
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert {path.name for path in (tmp_path / "out" / "plots").iterdir()} == {"storage.png", "ages.png", "sharing.png"}


def test_the_page_asks_for_nothing_and_runs_its_own_script_alone(tmp_path):
    page = written(sample().snapshot(), tmp_path)
    addresses = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in {"src", "href"}
    ]
    assert all(a.startswith(("data:image/png;base64,", "#")) or a.endswith(".csv") for a in addresses)
    policy = next(
        a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert sum(tag == "script" for tag, _ in page.elements) == 1


def test_hostile_text_in_every_field_stays_text(tmp_path):
    page = written(hostile(), tmp_path)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert sum(tag == "img" for tag, _ in page.elements) == 3
    assert not [
        name for _, attributes in page.elements for name in attributes if name.startswith("on") or name == "style"
    ]
    raw = (tmp_path / "index.html").read_text("utf-8")
    assert "\x1b" not in raw
    assert "\u202e" not in raw
    assert "<script>alert(1)</script>" in page.text


def test_no_cell_of_any_csv_begins_as_a_formula(tmp_path):
    report(hostile(), tmp_path)
    for path in tmp_path.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))], path.name
    assert "'=1+1" in (tmp_path / "tags.csv").read_text("utf-8")


def test_without_frames_the_page_names_the_rule_that_it_used(tmp_path):
    text = written(sample().snapshot(), tmp_path).text
    assert "older than 180D by the time of creation, and not among the 5 newest" in text
    assert "As given to the report" not in text
    assert len(pd.read_csv(tmp_path / "stale.csv")) == 3
    assert pd.read_csv(tmp_path / "duplicates.csv")["duplicate_of"].tolist() == ["team/app:1.7"]


def test_frames_that_are_given_are_shown_as_they_are(tmp_path):
    snapshot = sample().snapshot()
    stale = stale_tags(snapshot, keep_latest=6)
    text = written(snapshot, tmp_path, stale=stale, duplicates=stale.iloc[:0]).text
    assert "As given to the report" in text
    assert "not among the newest 6 (rank 8)" in text
    assert "No tag holds the same content" in text
    assert len(pd.read_csv(tmp_path / "stale.csv")) == 2


def test_sizes_and_times_are_as_people_read_them(tmp_path):
    text = written(sample().snapshot(), tmp_path).text
    assert "Read 2026-06-01 00:00 UTC" in text
    assert "2023-09-05 00:00 UTC" in text
    assert "1.0 MiB" in text


def test_what_was_not_read_is_said_at_the_top(tmp_path):
    assert "Not everything was read" in written(sample().snapshot(), tmp_path).text
    complete = Build().image("a", tags=["1"]).dangling("a", "gone").snapshot()
    assert "Not everything was read" not in written(complete, tmp_path).text


def test_a_long_table_is_cut_and_says_where_the_rest_is(tmp_path):
    tags = [f"t{number}" for number in range(MOST_ROWS + 1)]
    page = written(Build().image("a", tags=tags).snapshot(), tmp_path)
    assert "The first 2,000 of 2,001 rows; all of them are in" in page.text
    assert len(pd.read_csv(tmp_path / "tags.csv")) == MOST_ROWS + 1


def test_an_empty_snapshot_gives_a_page_that_says_so(tmp_path):
    text = written(Build().snapshot(), tmp_path).text
    assert "No tag was read." in text
    assert "No repository was to be read." in text


def test_the_same_snapshot_gives_the_same_page(tmp_path):
    one, two = (report(sample().snapshot(), tmp_path / name).read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("place", [".", "plots"])
def test_a_symbolic_link_in_place_of_a_folder_is_refused(tmp_path, place):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "out"
    if place == ".":
        target.symlink_to(tmp_path / "elsewhere")
    else:
        target.mkdir()
        (target / "plots").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"):
        report(sample().snapshot(), target)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine", "utf-8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tags.csv").symlink_to(precious)
    report(sample().snapshot(), tmp_path / "out")
    assert precious.read_text("utf-8") == "mine"
