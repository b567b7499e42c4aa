"""What makes data safe to show: one test for each sink and each way to abuse it."""

from __future__ import annotations

import csv
import html
import html.parser
import io
import os
import signal
import stat
import subprocess
import sys
import unicodedata
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from payloads import PAYLOADS

from regaudit.errors import UsageError
from regaudit.text import (
    LONGEST_DURATION,
    atomic_write,
    clean,
    conceal,
    csv_guard,
    escape,
    html_table,
    human_age,
    human_bytes,
    isoformat,
    owned_folder,
    parse_duration,
    parse_time,
    redact,
    safe_url,
    slug,
)

CANARY = "canary-b52d0f"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
ANY_TEXT = st.text(st.characters(), max_size=200)  # lone surrogates included


def is_plain(text):
    return not any(unicodedata.category(c) in {"Cc", "Cs"} or c in "\u061c\u200e\u200f\u202e\u2066\u2069" for c in text)


# -- clean, redact, safe_url ------------------------------------------------------------------


@given(ANY_TEXT, st.integers(1, 300))
def test_clean_leaves_neither_controls_nor_bidi_marks_nor_more_than_the_limit(text, limit):
    shown = clean(text, limit)
    assert is_plain(shown)
    assert len(shown) <= limit
    shown.encode("utf-8")


@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=100))
def test_clean_leaves_ordinary_text_alone(text):
    assert clean(text) == text


def test_clean_shows_that_something_was_cut():
    assert clean("abcdef", 4) == "abc…"
    assert clean("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}",
        f"authorization: basic {CANARY}",
        f"BEARER  {CANARY}==",
        f'{{"token": "{CANARY}"}}',
        f'{{"access_token":"{CANARY}","expires_in":60}}',
        f'{{"refresh_token" : "{CANARY}"}}',
        f'{{"password": "a\\"{CANARY}"}}',
        f'{{"password": "a,b;c&d }}{CANARY}"}}',
        f'{{"password": "two words {CANARY}"}}',
        f"{{'password': 'it\"s {CANARY}'}}",
        f'"password": "never closed {CANARY}',
        f"password={CANARY}&service=x",
        f"grant_type=password&client_secret={CANARY}",
        f"REGAUDIT_PASSWORD={CANARY}",
        f'"Env": ["AWS_SECRET_ACCESS_KEY={CANARY}", "PATH=/bin"]',
        f'{{"api_key": "{CANARY}"}}',
        f"GITHUB_TOKEN: {CANARY}",
        f"identitytoken={CANARY} registrytoken={CANARY}",
        f"https://user:{CANARY}@reg.io/v2/",
        f"see HTTPS://{CANARY}@reg.io",
        f"https://cdn.io/blob?X-Amz-Signature={CANARY}&X-Amz-Credential={CANARY}",
        f"https://cdn.io/blob?sig={CANARY}",
        f"passwd: {CANARY}",
    ],
)
def test_redact_hides_secrets_in_every_form_that_a_message_has(text):
    assert CANARY not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "the bytes do not hash to sha256:e3b0c44298fc",
        "reg.io/team/app@sha256:e3b0 is not there",
        "write to ada@example.com",
        "design: x, config: y",
        "2026-01-31T09:30:00Z",
        'Basic realm="registry"',
        "give username= and password=, -u on the command line",
    ],
)
def test_redact_leaves_messages_without_secrets_readable(text):
    assert redact(text) == text


@given(ANY_TEXT)
@example("a." * 50_000)
@example("token" + " " * 50_000)
@example("token='" * 20_000)
@example("a://" * 30_000)
def test_redact_ends_soon_and_is_clean_for_any_text(text):
    assert is_plain(redact(text))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://reg.io/v2/a/tags/list?n=100&last=x#y", "https://reg.io/v2/a/tags/list"),
        (f"https://user:{CANARY}@reg.io:5000/v2/", "https://reg.io:5000/v2/"),
        (f"https://a@b:{CANARY}@reg.io/", "https://reg.io/"),
        (f"https://cdn.io/blob?sig={CANARY}", "https://cdn.io/blob"),
        ("http://[::1]:5000/v2/", "http://[::1]:5000/v2/"),
        ("/v2/", "/v2/"),
        ("", ""),
        ("http://[", "(not a URL)"),
        ("http://[evil]/", "(not a URL)"),
        ("http://\u2100.com/", "(not a URL)"),
    ],
)
def test_safe_url_keeps_scheme_host_and_path(url, shown):
    assert safe_url(url) == shown


@given(st.one_of(ANY_TEXT, ANY_TEXT.map("http://".__add__), ANY_TEXT.map("http://[".__add__)))
def test_safe_url_never_fails_since_it_stands_in_error_messages(url):
    assert is_plain(safe_url(url))


# -- HTML -------------------------------------------------------------------------------------


class Elements(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_escaped_text_opens_no_element_and_closes_no_attribute(payload):
    page = Elements()
    page.feed(f"<p title=\"{escape(payload)}\" data-x='{escape(payload)}'>{escape(payload)}</p>")
    page.close()
    assert [(tag, set(attrs)) for tag, attrs in page.found] == [("p", {"title", "data-x"})]


@given(ANY_TEXT)
def test_escaped_text_reads_as_the_cleaned_text(text):
    assert html.unescape(escape(text)) == clean(text)


def test_a_table_escapes_its_headings_and_cells():
    shown = html_table(["<h>"], [["<script>"], [None], [3]])
    assert "<script>" not in shown
    assert "&lt;h&gt;" in shown
    assert shown.count("<tr>") == 4


# -- CSV --------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_csv_cell_never_begins_as_a_formula(payload):
    guarded = csv_guard(payload)
    assert is_plain(guarded)
    assert not guarded.startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"))


@given(ANY_TEXT)
def test_a_csv_cell_reads_back_as_the_text_less_the_declared_prefix(text):
    sheet = io.StringIO(newline="")
    csv.writer(sheet).writerow([csv_guard(text), "next"])
    sheet.seek(0)
    [[cell, following]] = csv.reader(sheet)
    dangerous = text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\0", "\uff1d", "\uff0b", "\uff0d", "\uff20"))
    assert cell == ("'" if dangerous else "") + clean(text)
    assert following == "next"


@pytest.mark.parametrize("value", [None, 0, -5, 1.5, True, NOW])
def test_csv_guard_leaves_what_is_no_text_alone(value):
    assert csv_guard(value) is value


# -- sizes and ages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 1024**3, "5.0 GiB"),
        (2**63 - 1, "8192.0 PiB"),
        (-2048, "-2.0 KiB"),
        (None, "?"),
        (pd.NA, "?"),
        (float("nan"), "?"),
        ("many", "?"),
    ],
)
def test_a_size_is_shown_in_binary_units_and_unknown_as_a_question_mark(count, shown):
    assert human_bytes(count) == shown


@pytest.mark.parametrize(
    ("days", "shown"),
    [(0, "now"), (-3, "now"), (0.01, "14 min"), (0.5, "12 h"), (3, "3 d"), (90, "3 mo"), (730.5, "2 y")],
)
def test_an_age_is_shown_in_the_one_unit_that_people_would_use(days, shown):
    assert human_age(NOW - timedelta(days=days), NOW) == shown


@pytest.mark.parametrize("unknown", [None, pd.NaT])
def test_an_unknown_age_is_a_question_mark(unknown):
    assert human_age(unknown, NOW) == "?"


# -- durations and times ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("180D", 180 * 86400),
        ("1d", 86400),
        (" 2 days ", 2 * 86400),
        ("12h", 12 * 3600),
        ("2w", 14 * 86400),
        ("30min", 1800),
        ("90s", 90),
        ("0d", 0),
        (timedelta(hours=1), 3600),
        (pd.Timedelta("3h"), 3 * 3600),
        (LONGEST_DURATION, 36525 * 86400),
    ],
)
def test_a_duration_is_read_as_typed(text, seconds):
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "D",
        "180",
        "-1D",
        "1.5D",
        "6M",
        "6 months",
        "1y",
        "1d 2h",
        "999999d",
        "9999999999s",
        None,
        pd.NaT,
        timedelta(days=-1),
        LONGEST_DURATION + timedelta(seconds=1),
    ],
)
def test_a_duration_that_is_none_or_beyond_a_century_is_refused_with_one_that_is(text):
    with pytest.raises(UsageError, match=r"write .*'\d+D'"):
        parse_duration(text)


@given(ANY_TEXT)
def test_any_text_is_a_bounded_duration_or_a_usage_error(text):
    try:
        duration = parse_duration(text)
    except UsageError:
        return
    assert timedelta(0) <= duration <= LONGEST_DURATION


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T09:30:00Z", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("2026-01-31T09:30:00.123456789Z", datetime(2026, 1, 31, 9, 30, 0, 123456, tzinfo=UTC)),
        ("2026-01-31T09:30:00.1+02:00", datetime(2026, 1, 31, 7, 30, 0, 100000, tzinfo=UTC)),
        ("2026-01-31T09:30:00", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+05:00", None),
        ("9999-12-31T23:59:59-05:00", None),
        ("2026-02-30T00:00:00Z", None),
        ("2026-01-31T23:59:60Z", None),
        ("yesterday", None),
        ("", None),
        ("2" * 100, None),
        (None, None),
        (1767225600, None),
    ],
)
def test_a_time_is_utc_or_none(text, moment):
    assert parse_time(text) == moment


@given(st.one_of(ANY_TEXT, st.from_regex(r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,12})?(Z|[+-]\d\d:\d\d)?\Z")))
def test_any_text_is_a_time_in_utc_or_none(text):
    moment = parse_time(text)
    assert moment is None or moment.tzinfo is UTC


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1000, 1, 1)))  # noqa: DTZ001 -- hypothesis wants it naive
def test_a_time_written_is_the_time_read_to_the_second(moment):
    assert parse_time(isoformat(moment)) == moment.replace(microsecond=0)


# -- files ------------------------------------------------------------------------------------


@given(ANY_TEXT)
def test_a_slug_is_a_file_name_that_stays_in_its_folder(name):
    text = slug(name)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert text[0] != "-"
    assert len(text) <= 80


@given(st.text("aA.-_/", max_size=8), st.text("aA.-_/", max_size=8))
def test_distinct_names_have_distinct_slugs(first, second):
    assert (slug(first) == slug(second)) == (first == second)


def test_a_slug_has_a_hash_too_long_to_make_two_names_collide():
    assert len(slug("team/app").rpartition("-")[2]) * 4 >= 128


def test_a_folder_is_made_with_its_parents_and_may_be_there_already(tmp_path):
    for _ in range(2):
        assert owned_folder(tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("place", ["link", "file", "file/below"])
def test_a_folder_in_place_of_a_link_or_file_is_refused(tmp_path, place):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UsageError, match="name "):
        owned_folder(tmp_path / place)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.fixture
def folder(tmp_path):
    return owned_folder(tmp_path / "report")


@pytest.mark.parametrize(("mode", "content"), [("w", "new \u00fc\r\n"), ("wb", b"new\0")])
def test_a_file_appears_only_when_it_was_written_whole(folder, mode, content):
    target = folder / "report.csv"
    with atomic_write(target, mode) as file:
        file.write(content)
        assert not target.exists()
    assert target.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert list(folder.iterdir()) == [target]


def write_half(target, failure):
    with atomic_write(target) as file:
        file.write("half of the new")
        raise failure


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_the_old_file_stays_when_the_writer_fails(folder, failure):
    target = folder / "report.csv"
    target.write_text("old")
    with pytest.raises(type(failure)):
        write_half(target, failure)
    assert target.read_text() == "old"
    assert list(folder.iterdir()) == [target]


def test_the_old_file_stays_when_the_writer_is_killed(tmp_path):
    target = tmp_path / "report.csv"
    target.write_text("old")
    script = (
        "import os, pathlib, sys; from regaudit.text import atomic_write\n"
        "with atomic_write(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write('half of the new'); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_a_link_at_the_place_of_a_file_is_replaced_and_never_followed(tmp_path):
    precious = tmp_path / "id_rsa"
    precious.write_text("precious")
    target = tmp_path / "report.csv"
    target.symlink_to(precious)
    with atomic_write(target) as file:
        file.write("report")
    assert precious.read_text() == "precious"
    assert not target.is_symlink()
    assert target.read_text() == "report"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_gets_the_rights_that_its_user_gives_new_files(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "report.csv") as file:
            file.write("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "report.csv").stat().st_mode) == mode


def test_a_secret_of_this_process_is_taken_out_unless_it_is_a_word_of_our_own_messages():
    conceal("delete", "registry", "hunter2-hunter2", None, "short")
    assert redact("delete from the registry: hunter2-hunter2, short") == "delete from the registry: ***, short"
