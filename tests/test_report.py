"""The report on disk: the claims of `regaudit.analysis.report`."""

from __future__ import annotations

import csv
import re
import zipfile
from html.parser import HTMLParser

import pandas as pd
import pytest
from builders import Build, days_before

from regaudit.analysis import report as door
from regaudit.analysis.report import report
from regaudit.analysis.report_page import MOST_ROWS
from regaudit.analysis.report_summary import code
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
FRAMES = (*TABLES, "footprint", "stale", "duplicates", *FINDINGS)
PLOTS = ("storage", "layers", "treemap", "sharing", "ages", "growth")
FILES = {f"{name}.csv" for name in FRAMES} | {"index.html", "summary.md", "report.xlsx", "plots", "parquet"}
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a report of the sample; to be read only."""
    return report(sample().snapshot(), tmp_path_factory.mktemp("sample")).parent


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "index.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    return report(hostile(), tmp_path_factory.mktemp("evil")).parent


@pytest.fixture
def without_plots(monkeypatch):
    """Leave the pictures out, which take most of the time and are told of elsewhere."""
    monkeypatch.setattr(door, "_plots", lambda _older_than: {})


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_every_file_that_is_promised_is_there_and_nothing_else(folder):
    assert names(folder) == FILES
    assert names(folder / "plots") == {f"{name}{suffix}.png" for name in PLOTS for suffix in ("", "-dark")}
    assert names(folder / "parquet") == {f"{name}.parquet" for name in FRAMES}


def test_the_page_asks_for_nothing_and_runs_its_own_script_alone(page):
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in {"src", "srcset", "href"}
    ]
    assert all(a.startswith(("data:image/png;base64,", "#")) or a.endswith(".csv") for a in addresses)
    policy = next(
        a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert sum(tag == "script" for tag, _ in page.elements) == 1


def test_a_reader_with_a_dark_page_gets_dark_pictures(page):
    sources = [attributes for tag, attributes in page.elements if tag == "source"]
    assert {source["media"] for source in sources} == {"(prefers-color-scheme: dark)"}
    images = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert len(images) == len(sources) == len(PLOTS)
    assert not {source["srcset"] for source in sources} & set(images)


def test_hostile_text_in_every_field_stays_text(evil):
    raw = (evil / "index.html").read_text("utf-8")
    page = Page(raw)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert sum(tag == "img" for tag, _ in page.elements) == len(PLOTS)
    assert not [
        name for _, attributes in page.elements for name in attributes if name.startswith("on") or name == "style"
    ]
    assert "\x1b" not in raw
    assert "\u202e" not in raw
    assert "<script>alert(1)</script>" in page.text


def test_no_cell_of_any_csv_begins_as_a_formula(evil):
    for path in evil.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))], path.name
    assert "'=1+1" in (evil / "tags.csv").read_text("utf-8")


def test_no_cell_of_the_workbook_is_a_formula_or_a_link(evil):
    with zipfile.ZipFile(evil / "report.xlsx") as book:
        sheets = {name: book.read(name).decode() for name in book.namelist()}
    assert not [name for name, text in sheets.items() if "<f>" in text or "<f " in text or "hyperlink" in text]
    assert any("=1+1" in text for text in sheets.values())


def test_parquet_has_everything_as_it_was(evil, folder):
    assert set(pd.read_parquet(evil / "parquet" / "tags.parquet")["tag"]) == {EVIL}
    frame = pd.read_parquet(folder / "parquet" / "tags.parquet")
    pd.testing.assert_frame_equal(frame.astype("object"), sample().snapshot().tags.astype("object"))


def test_the_summary_says_in_markdown_what_there_is_and_what_was_found(folder):
    text = (folder / "summary.md").read_text("utf-8")
    assert text.startswith("## Audit of `registry.example.com`\n\nRead 2026-06-01 00:00 UTC.")
    assert "| stale tags | 3 |" in text
    assert "| `team/app` | `1.0` | `sha256:" in text
    assert "**Not everything was read" in text


def test_nothing_hostile_in_the_summary_is_a_link_a_mention_or_html(evil):
    for line in (evil / "summary.md").read_text("utf-8").splitlines():
        outside = re.sub(r"`[^`]*`", "", line).removeprefix("<details><summary>").removesuffix("</summary>")
        assert not re.search(r"(?<!\\)[<@]|https?:|\]\(", outside.replace("</details>", "")), line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "`a¦b`"),
        ("`@ada` <b>", "`'@ada' <b>`"),
        ("", ""),
        ("a\nb", "`a\ufffdb`"),
        ("x" * 200, f"`{'x' * 119}…`"),
    ],
)
def test_a_name_in_the_summary_stays_in_its_cell(text, shown):
    assert code(text) == shown


def test_without_frames_the_page_names_the_rule_that_it_used(folder, page):
    assert "older than 180D by the time of creation, and not among the 5 newest" in page.text
    assert "As given to the report" not in page.text
    assert len(pd.read_csv(folder / "stale.csv")) == 3
    assert pd.read_csv(folder / "duplicates.csv")["duplicate_of"].tolist() == ["team/app:1.7"]


@pytest.mark.usefixtures("without_plots")
def test_a_rule_that_is_given_is_the_one_that_is_named(tmp_path):
    text = written(sample().snapshot(), tmp_path, older_than=None, keep_latest=6, labels=["org.team"]).text
    assert "Rule: not among the 6 newest images of its repository; a tag" in text
    assert "should have: org.team." in text
    assert len(pd.read_csv(tmp_path / "stale.csv")) == 2


@pytest.mark.usefixtures("without_plots")
def test_frames_that_are_given_are_shown_as_they_are(tmp_path):
    snapshot = sample().snapshot()
    stale = stale_tags(snapshot, keep_latest=6)
    text = written(snapshot, tmp_path, stale=stale, duplicates=stale.iloc[:0]).text
    assert "As given to the report" in text
    assert "not among the newest 6 (rank 8)" in text
    assert "No tag holds the same content" in text
    assert len(pd.read_csv(tmp_path / "stale.csv")) == 2


def test_sizes_and_times_are_as_people_read_them(folder, page):
    assert "Read 2026-06-01 00:00 UTC" in page.text
    assert "2023-09-05 00:00 UTC" in page.text
    assert "1.0 MiB" in page.text
    tags = pd.read_csv(folder / "tags.csv")
    assert set(tags["content_human"].dropna()) == {"1.0 MiB"}
    assert tags["created"].dropna().str.endswith("+00:00").all()


def test_a_cell_that_is_no_text_says_what_it_is_sorted_by(page):
    cells = [attributes for tag, attributes in page.elements if tag == "td" and attributes.get("class") == "number"]
    assert sum("data-by" in cell for cell in cells) > 50
    assert any(cell.get("title") == "1,049,581 bytes" for cell in cells)


def test_what_was_not_read_is_said_at_the_top(page, tmp_path, without_plots):
    assert "Not everything was read" in page.text
    complete = Build().image("a", tags=["1"]).dangling("a", "gone").snapshot()
    assert "Not everything was read" not in written(complete, tmp_path).text


@pytest.mark.usefixtures("without_plots")
def test_a_long_table_is_cut_and_says_where_the_rest_is(tmp_path):
    tags = [f"t{number}" for number in range(MOST_ROWS + 1)]
    page = written(Build().image("a", tags=tags).snapshot(), tmp_path)
    assert "The first 2,000 of 2,001 rows; all of them are in" in page.text
    assert len(pd.read_csv(tmp_path / "tags.csv")) == MOST_ROWS + 1


@pytest.mark.usefixtures("without_plots")
def test_a_workbook_that_would_take_minutes_is_left_out_and_said_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "MOST_CELLS", 100)
    snapshot = sample().snapshot()
    report(snapshot, tmp_path, xlsx=True)
    assert "report.xlsx" in names(tmp_path)
    assert "no workbook, for" in written(snapshot, tmp_path).text
    assert "report.xlsx" not in names(tmp_path), "one of an earlier report would not belong to this page"
    assert "report.xlsx (a sheet each)" in written(snapshot, tmp_path, xlsx=True).text


def test_an_empty_snapshot_gives_a_page_that_says_so(tmp_path):
    text = written(Build().snapshot(), tmp_path).text
    assert "No tag was read." in text
    assert "No repository was to be read." in text


def test_the_same_snapshot_gives_the_same_files(folder, tmp_path):
    report(sample().snapshot(), tmp_path)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path.name


@pytest.mark.usefixtures("without_plots")
def test_where_writing_fails_an_older_report_stays_as_it_was(tmp_path, monkeypatch):
    report(sample().snapshot(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(door, "summary", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report(Build("other.example.com").image("a", tags=["1"]).snapshot(), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("without_plots")
def test_what_a_killed_writer_left_is_taken_away_and_other_files_stay(tmp_path):
    target = tmp_path / "out"
    (target / ".unfinished" / "plots").mkdir(parents=True)
    (target / ".unfinished" / "plots" / "old.png").write_text("half", "utf-8")
    (target / "notes.txt").write_text("mine", "utf-8")
    report(sample().snapshot(), target)
    assert names(target) == FILES | {"notes.txt"}


@pytest.mark.parametrize("place", [".", "plots", "parquet"])
def test_a_symbolic_link_in_place_of_a_folder_is_refused(tmp_path, place):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "out"
    if place == ".":
        target.symlink_to(tmp_path / "elsewhere")
    else:
        target.mkdir()
        (target / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"):
        report(sample().snapshot(), target)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.usefixtures("without_plots")
def test_a_link_in_the_folder_is_replaced_and_not_followed(tmp_path):
    precious, elsewhere = tmp_path / "precious", tmp_path / "elsewhere"
    precious.write_text("mine", "utf-8")
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine too", "utf-8")
    (tmp_path / "out").mkdir()
    for name, target in (("tags.csv", precious), ("report.xlsx", precious), (".unfinished", elsewhere)):
        (tmp_path / "out" / name).symlink_to(target)
    report(sample().snapshot(), tmp_path / "out")
    assert precious.read_text("utf-8") == "mine"
    assert names(elsewhere) == {"file"}
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_symlink()]
