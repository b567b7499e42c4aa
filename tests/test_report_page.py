"""The page of a report in Chromium: it is searched and sorted there, and asks for nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import Build, days_before
from lab import browser_page, missing

from regaudit.analysis.report import report

_UNABLE = missing()
# Where what is to be looked at is kept; read here, because each test runs in an environment that is cleared of it.
_ARTIFACTS = os.environ.get("REGAUDIT_TEST_ARTIFACTS")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(_UNABLE) and not os.environ.get("CI"), reason=f"the browser tests need {_UNABLE}"),
]


def sample() -> Any:
    build = Build("registry.example.com")
    for number, size in enumerate((300, 20, 1000), start=1):
        age = days_before(400 + number)
        build.image(
            f"team/app{number}", tags=["1.9", "1.10"], created=age, layers={"base": 50, f"{number}": size << 20}
        )
        build.image(f"team/app{number}", tags=["<img src=x onerror=alert(1)>"], layers={"base": 50})
    return build.unread("team/other", "slow").snapshot()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Any]:
    assert not _UNABLE, f"the browser tests need {_UNABLE}"
    written = report(sample(), tmp_path_factory.mktemp("report"), older_than="1D", keep_latest=0)
    with browser_page(tmp_path_factory.mktemp("chromium")) as opened:
        said: list[str] = []
        asked: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto("about:blank")
        opened.set_content(written.read_text("utf-8"))
        yield opened
    assert said == []
    assert {url.partition(":")[0] for url in asked} <= {"data", "about"}


def column(page: Any, heading: str) -> list[str]:
    """Return what a column of the repositories shows, from the top."""
    place = page.locator("#footprint th").all_inner_texts().index(heading) + 1
    return page.locator(f"#footprint tbody tr:visible td:nth-child({place})").all_inner_texts()


def heading(page: Any, name: str) -> Any:
    return page.locator("#footprint th").filter(has_text=name)


def test_sizes_are_sorted_by_their_bytes_from_the_largest_and_then_the_other_way(page):
    head = heading(page, "content")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, "content")[0] == "1000.0 MiB"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, "content")[-2:] == ["300.0 MiB", "1000.0 MiB"]


def test_names_are_sorted_from_a_by_the_keyboard_too(page):
    head = heading(page, "repository")
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert heading(page, "content").get_attribute("aria-sort") is None
    assert column(page, "repository") == ["team/app1", "team/app2", "team/app3", "team/other"]


def test_a_search_shows_the_rows_that_have_every_word(page):
    box = page.get_by_label("Search Repositories")
    box.fill("TEAM app2")
    assert column(page, "repository") == ["team/app2"]
    assert page.locator("#footprint output").inner_text() == "1 of 4 rows"
    box.fill("")
    assert len(column(page, "repository")) == 4


def test_a_hostile_tag_is_text(page):
    assert page.locator("#tags td").filter(has_text="onerror=alert(1)").count() == 3
    assert page.locator("#tags img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_and_its_pictures_follow_the_readers_theme(page, scheme, tmp_path):
    page.emulate_media(color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(252, 252, 253)", "dark": "rgb(17, 19, 21)"}[scheme]
    shown = page.evaluate("[...document.images].map((image) => image.currentSrc)")
    dark = page.evaluate("[...document.querySelectorAll('source')].map((source) => source.srcset)")
    assert shown
    assert (shown == dark) == (scheme == "dark")
    folder = Path(_ARTIFACTS or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"report-{scheme}.png", full_page=True)
