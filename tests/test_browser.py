"""What a person does: the real form, in a real JupyterLab, in a real Chromium.

One server, one page, and one notebook whose kernel serves most tests: another form is another run of its cell.
Screenshots go to the folder named by REGAUDIT_TEST_ARTIFACTS, or to the test's temporary folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, Notebook, browser_page, missing, wait_until

BUILDERS = Path(__file__).parent / "builders.py"
# Read here, because each test runs in an environment that is cleared of it.
_ARTIFACTS = os.environ.get("REGAUDIT_TEST_ARTIFACTS")
# A CI without a browser would pass without having looked.
_UNABLE = missing()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(_UNABLE) and not os.environ.get("CI"), reason=f"the browser tests need {_UNABLE}"),
]

SELECTED = "document.querySelector('.ra-totals').textContent.includes('selected:')"
HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    assert not _UNABLE, f"the browser tests need {_UNABLE}"
    server = Lab(tmp_path_factory.mktemp("lab"))
    shutil.copy(BUILDERS, server.folder)
    yield server
    server.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory, lab) -> Iterator[Any]:
    with browser_page(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def book(page, lab) -> Notebook:
    """Give the notebook that most forms are shown in."""
    return Notebook(page, lab, write_notebook(lab, "forms.ipynb", "", "'another cell'"))


@pytest.fixture
def shown(page, lab, book) -> Callable[[str], Any]:
    """Return a function from a cell's source to the form that it shows, in the notebook of most tests."""

    def show(source: str) -> Any:
        if book.name not in page.url:  # a test has left it for a notebook of its own
            book.open(lab)
        return book.form(source)

    return show


@pytest.fixture
def artifacts(tmp_path) -> Path:
    folder = Path(_ARTIFACTS or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_notebook(lab: Lab, name: str, *sources: str) -> str:
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    (lab.folder / name).write_text(nbformat.writes(notebook))
    return name


def form_over(
    count: int, after: str = "", reason: str = "", repository: str = "team/app", tag: str = "v{number:03}"
) -> str:
    """Return a cell that shows a form over so many made-up tags, with a cleaner that only says that it deleted."""
    return f"""
import itertools
from types import SimpleNamespace
import builders
from builders import Build, days_before
from regaudit.cleaner.outcomes import Outcome, Run
from regaudit.cleaner.plan import plan
from regaudit.notebook.form import review

class Pretender:
    registry, busy, last = SimpleNamespace(host="registry:5000"), False, None
    journal = SimpleNamespace(path="journal.sqlite")
    def last_run(self, plan):
        return self.last
    def interrupted_run(self):
        return None
    def planned(self, run):
        return builders.planned  # as a journal would, whichever cleaner asks
    def execute(self, plan, *, progress=None, stop=None):
        builders.planned, outcomes = plan, []
        for row in plan.rows:
            if stop.wait(0.05):
                break
            outcomes.append(Outcome(row.key, row.repository, row.digest, row.tags, row.action, "deleted"))
            progress(outcomes[-1])
        stopped, keys = len(outcomes) < len(plan.rows), tuple(row.key for row in plan.rows)
        self.last = Run("run-1", plan.hash, "delete", tuple(outcomes), stopped, planned=keys, by="Ada", taken_at=plan.taken_at)
        return self.last

hostile = {HOSTILE!r}
build = Build("registry:5000").image({repository!r}, tags=["kept"])
for number in range({count}):
    build.image({repository!r}, tags=[f{tag!r}], created=days_before(number + 1), layers={{f"l{{number}}": 1000, "base": 5}},
                labels={{hostile: hostile}}, annotations={{hostile: hostile}})
snapshot = build.snapshot()
stale = snapshot.tags[snapshot.tags["tag"] != "kept"][["repository", "tag"]].assign(reason={reason!r})
form = review(plan(snapshot, stale), Pretender())
{after}
form
"""


def tags_at(host: str, repository: str) -> set[str]:
    with urllib.request.urlopen(f"http://{host}/v2/{repository}/tags/list") as reply:
        return set(json.load(reply)["tags"])


def filtered(page: Any, form: Any, text: str) -> None:
    form.locator(".ra-filter").fill(text)
    page.wait_for_function("document.querySelector('.ra-select-all').textContent.includes('filtered')")


def confirmed(form: Any) -> None:
    form.locator(".ra-review").click()
    confirmed_again(form)


def confirmed_again(form: Any) -> None:
    form.locator(".ra-typed").wait_for()
    form.locator(".ra-typed").fill(form.locator(".ra-confirm code").text_content())
    form.locator(".ra-why").fill("a test")
    form.locator(".ra-delete").click()


def pictures(book: Notebook, form: Any, artifacts: Path, name: str) -> None:
    """Keep a picture of the form in each theme; they are for people to look at."""
    for theme in ("Dark", "Light"):
        book.theme(f"JupyterLab {theme}")
        form.screenshot(path=artifacts / f"{name}-{theme.lower()}.png")


AUDIT = """
import regaudit as ra
registry = ra.Registry("{host}")
snapshot = ra.collect(registry, progress=False)
plan = ra.plan(snapshot, ra.stale_tags(snapshot, older_than="180D", keep_latest=5))
form = ra.review(plan, ra.Cleaner(registry, journal="journal.sqlite"), page_size=6)
form
"""


def test_a_person_filters_confirms_deletes_on_a_real_registry_and_puts_back(
    page, lab, book, shown, artifacts, full_docker_registry
):
    host = full_docker_registry.host
    form = shown(AUDIT.format(host=host))
    repositories = ("shop/checkout/api", "shop/checkout/worker")
    before = {name: tags_at(host, name) for name in (*repositories, "web/frontend")}

    form.locator(".ra-more-filters").click()
    form.locator(".ra-field-repository").fill("shop/checkout/*")
    page.wait_for_function("document.querySelector('.ra-select-all').textContent.includes('filtered')")
    form.locator(".ra-more-filters").click()
    form.locator(".ra-select-all").click()
    page.wait_for_function(SELECTED)
    doomed = set()
    while True:
        doomed |= {
            (row.locator(".ra-repository").text_content(), tag)
            for row in form.locator("tbody tr[data-depth='0']:visible").all()
            for tag in row.locator(".ra-tag").all_text_contents()
        }
        if form.locator(".ra-next").get_attribute("aria-disabled") == "true":
            break
        where = form.locator(".ra-where").text_content()
        form.locator(".ra-next").click()
        page.wait_for_function("where => document.querySelector('.ra-where').textContent !== where", arg=where)
    pictures(book, form, artifacts, "choose")

    form.locator("tbody .ra-info button:visible").first.click()
    form.locator(".ra-details dl").wait_for()
    assert "sha256:" in form.locator(".ra-details dl").text_content()
    form.locator(".ra-details .ra-link").first.click()
    form.locator(".ra-details summary", has_text="layers").wait_for()
    assert form.locator(".ra-details td", has_text="COPY . /srv").first.is_visible(), (
        "a child's layers, by its line of history"
    )
    pictures(book, form, artifacts, "details")
    page.keyboard.press("Escape")

    form.locator(".ra-review").click()
    form.locator(".ra-typed").wait_for()
    number = int(form.locator(".ra-confirm code").text_content().removeprefix("delete "))
    form.locator(".ra-typed").fill(f"delete {number + 1}")
    assert form.locator(".ra-delete").get_attribute("aria-disabled") == "true"
    pictures(book, form, artifacts, "review")
    form.locator(".ra-why").fill("the disk is full")
    form.locator(".ra-typed").fill(f"delete {number}")
    form.locator(".ra-delete").click()
    form.locator(".ra-undo").wait_for()
    assert f"Deletion: {number} deleted." in form.locator(".ra-progress").text_content()
    pictures(book, form, artifacts, "done")
    for name in repositories:
        assert {tag for tag in before[name] - tags_at(host, name) if not tag.startswith("sha256-")} == {
            tag for repository, tag in doomed if repository == name
        }, name
    assert tags_at(host, "web/frontend") == before["web/frontend"], "what was filtered out stays"
    with page.expect_download() as download:
        form.locator(".ra-file").click()
    saved = download.value.path().read_text()
    assert saved.count("deleted") == number
    assert download.value.suggested_filename.startswith("regaudit-outcomes-")

    form.locator(".ra-undo").click()
    form.locator(".ra-undo-sure").wait_for()
    assert before["shop/checkout/api"] != tags_at(host, "shop/checkout/api"), "one click undoes nothing"
    form.locator(".ra-undo-sure").click()
    page.wait_for_function("document.querySelector('.ra-progress').textContent.includes('Undo:')")
    form.screenshot(path=artifacts / "undone-light.png")
    assert {name: tags_at(host, name) for name in before} == before

    book.save()
    (output,) = [o for cell in lab.read(book.name)["cells"] for o in cell.get("outputs", []) if "ReviewForm" in str(o)]
    assert len(str(output)) < 2_000
    assert "sha256:" not in str(output)


def test_keys_typed_in_the_form_do_nothing_to_the_notebook(page, book, shown):
    form = shown(form_over(40))
    cells = book.cells
    # One of each kind: what protects it was given to it by its kind.
    kinds = form.evaluate(
        """form => [...form.querySelectorAll('button, input, summary')].filter(one => one.checkVisibility())
            .map(one => one.localName + '.' + (one.className.split(' ').at(-1) || one.type))"""
    )
    for kind in dict.fromkeys(kinds):
        one = form.locator(f"{kind}:visible" if not kind.startswith("input.checkbox") else "tbody input:visible").first
        one.focus()
        page.keyboard.press("d")
        page.keyboard.press("d")
        page.keyboard.press("x")
        form.locator(".ra-filter").fill("")
    assert len(dict.fromkeys(kinds)) > 10
    assert book.cells == cells
    form.locator("tbody th").first.click()
    page.keyboard.press("d")
    page.keyboard.press("d")
    assert book.cells == cells, "a click on plain text of the form, too"


def test_the_keyboard_focus_stays_in_the_form_from_choosing_to_the_end(page, shown):
    form = shown(form_over(4))
    inside = "document.querySelector('.regaudit').contains(document.activeElement)"
    form.locator(".ra-select-all").press("Enter")
    page.wait_for_function(SELECTED)
    assert page.evaluate(inside)
    form.locator(".ra-review").press("Enter")
    form.locator(".ra-typed").wait_for()
    assert page.evaluate(inside)
    form.locator(".ra-typed").fill("delete 4")
    form.locator(".ra-typed").press("Enter")
    form.locator(".ra-typed").press("Tab")
    assert form.locator(".ra-stop").is_hidden(), "Enter in a field deletes nothing"
    page.keyboard.press("Enter")
    form.locator(".ra-undo").wait_for()
    assert page.evaluate(inside)


def test_arrows_go_from_row_to_row_and_pages_and_with_shift_select_on_the_way(page, shown):
    form = shown(form_over(60))
    label = "document.activeElement.getAttribute('aria-label')"
    form.locator("tbody input").first.focus()
    page.keyboard.press("Space")
    page.wait_for_function(SELECTED)
    for _ in range(3):
        page.keyboard.press("Shift+ArrowDown")
    page.wait_for_function("document.querySelector('.ra-totals').textContent.startsWith('4 rows selected')")
    assert page.evaluate(label) == "Select team/app v003"
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    page.wait_for_function(f"{label} === 'Select team/app v025'")
    page.keyboard.press("Shift+Space")
    page.wait_for_function("document.querySelector('.ra-totals').textContent.startsWith('26 rows selected')")
    page.keyboard.press("PageUp")
    page.wait_for_function(f"{label} === 'Select team/app v000'")
    page.keyboard.press("Enter")
    form.locator(".ra-details").wait_for()
    page.keyboard.press("Escape")
    assert form.locator(".ra-details").is_hidden()
    assert page.evaluate(label) == "Select team/app v000", "the pane gives the focus back"
    page.keyboard.press("Control+a")
    page.wait_for_function("document.querySelector('.ra-totals').textContent.startsWith('60 rows selected')")


def test_ticks_sorting_paging_and_chosen_columns_reach_the_right_row(page, shown):
    form = shown(form_over(60))
    ages = form.locator("th.ra-age")
    ages.locator("button").click()
    page.wait_for_function("document.querySelector('thead th.ra-age').getAttribute('aria-sort') === 'ascending'")
    form.locator(".ra-next").click()
    page.wait_for_function("document.querySelector('.ra-where').textContent.startsWith('26')")
    form.locator(".ra-columns summary").click()
    form.get_by_label("Created").check()
    form.locator("td.ra-created").first.wait_for()
    form.locator(".ra-columns summary").click()
    row = form.locator("tbody tr:visible").nth(3)
    tag = row.locator(".ra-tag").first.text_content()
    box = row.get_by_role("checkbox", name=f"Select team/app {tag}")
    box.focus()
    page.keyboard.press("Space")
    page.wait_for_function(SELECTED)
    assert box.is_checked()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Select team/app {tag}"
    form.locator(".ra-review").click()
    form.locator(".ra-typed").wait_for()
    assert form.locator("tbody tr:visible .ra-tag").all_text_contents() == [tag]


def test_select_all_never_acts_on_another_filter_than_the_one_on_the_screen(page, shown):
    form = shown(form_over(60))
    page.evaluate(
        """() => {
            const filter = document.querySelector('.ra-filter');
            filter.value = 'v007';
            filter.dispatchEvent(new Event('input'));
            document.querySelector('.ra-select-all').click();
        }"""
    )
    form.get_by_text("the view had changed").wait_for()
    assert form.locator(".ra-totals").text_content() == "Nothing is selected."
    assert form.locator("tbody tr:visible").count() == 1


def test_a_bad_regular_expression_says_so_and_matches_nothing(page, shown):
    form = shown(form_over(3))
    form.locator(".ra-regex").click()
    form.locator(".ra-filter").fill("v(")
    form.get_by_text("no regular expression").wait_for()
    assert form.locator(".ra-select-all").get_attribute("aria-disabled") == "true"
    form.locator(".ra-filter").fill("v00[12]$")
    page.wait_for_function("document.querySelector('.ra-select-all').textContent === 'Select all 2 filtered'")
    assert form.locator(".ra-filter-error").is_hidden()


def test_a_deletion_is_paused_seen_again_by_another_run_of_the_cell_stopped_and_gone_on_with(page, book, shown):
    form = shown(form_over(60))
    form.locator(".ra-select-all").click()
    page.wait_for_function(SELECTED)
    confirmed(form)
    page.wait_for_function("document.querySelector('.ra-progress').textContent.match(/^[1-9]\\d* of 60/)")
    form.locator(".ra-pause").click()
    form.get_by_text("paused").wait_for()
    form = book.form()
    form.get_by_text("paused").wait_for()
    assert form.locator("td.ra-outcome", has_text="deleted").first.is_visible()
    form.locator(".ra-pause").click()
    form.locator(".ra-stop").click()
    page.wait_for_function("document.querySelector('.ra-progress').textContent.includes('stopped before the end')")
    form.locator(".ra-panel-run .ra-continue").click()
    form.get_by_text("goes on with it").wait_for()
    assert form.locator(".ra-delete").get_attribute("aria-disabled") == "true", "and it is confirmed again"


def test_hostile_text_stays_text_in_every_place(page, shown, artifacts):
    form = shown(form_over(3, reason=HOSTILE))
    assert form.locator("tbody .ra-reason span").first.text_content() == HOSTILE
    form.locator("tbody .ra-info button").first.click()
    form.locator(".ra-details dl").wait_for()
    assert form.locator(".ra-details td", has_text=HOSTILE).count() == 4, "key and value of a label and an annotation"
    form.locator(".ra-filter").fill(HOSTILE)
    page.wait_for_function("document.querySelector('.ra-select-all').textContent.includes('filtered')")
    form.locator(".ra-select-all").click()
    page.wait_for_function(SELECTED)
    form.locator(".ra-review").click()
    form.locator(".ra-typed").wait_for()
    form.locator(".ra-by").fill(HOSTILE)
    form.locator(".ra-typed").fill("delete 3")
    form.locator(".ra-delete").click()
    form.locator(".ra-undo").wait_for()
    assert form.locator("img, script").count() == 0
    assert page.title() != "pwned"


def test_long_names_break_no_layout(page, book, shown, artifacts):
    name = "a-department-with-a-long-name/" * 6 + "x" * 60
    form = shown(form_over(3, reason="why " * 70, repository=name, tag="release-" + "9" * 110 + "-{number}"))
    pictures(book, form, artifacts, "long")
    widths = form.evaluate("form => [form.scrollWidth, form.clientWidth]")
    assert widths[0] <= widths[1], "only the table scrolls"
    assert form.locator("tbody tr").first.bounding_box()["height"] < 120
    assert form.locator("td.ra-repository div").first.get_attribute("title") == name


def test_it_works_in_notebook_7(page, lab, artifacts):
    book = Notebook(page, lab, write_notebook(lab, "seven.ipynb", form_over(60), "'another cell'"), classic=True)
    form = book.form()
    filtered(page, form, "v00")
    form.locator("tbody input").first.focus()
    page.keyboard.press("Space")
    page.wait_for_function(SELECTED)
    page.keyboard.press("d")
    page.keyboard.press("d")
    assert book.cells == 2
    confirmed(form)
    form.locator(".ra-undo").wait_for()
    assert "Deletion: 1 deleted." in form.locator(".ra-progress").text_content()
    page.screenshot(path=artifacts / "notebook-7.png")


def test_a_kernel_that_is_silent_is_noticed_and_what_was_ticked_counts_when_it_answers(page, lab, shown):
    form = shown(form_over(3, "import os, pathlib; pathlib.Path('kernel.pid').write_text(str(os.getpid()))"))
    kernel = int((lab.folder / "kernel.pid").read_text())
    os.kill(kernel, signal.SIGSTOP)
    try:
        form.locator("tbody input").first.click()
        form.locator(".ra-pending").wait_for()
        assert form.locator("tr.ra-waiting").count() == 1, "the box is ticked in the page only, and looks like it"
        form.get_by_text("No answer from the kernel for 10 s").wait_for()
        assert form.locator(".ra-totals").text_content() == "Nothing is selected."
    finally:
        os.kill(kernel, signal.SIGCONT)
    page.wait_for_function(SELECTED)
    assert form.locator("tr.ra-waiting").count() == 0
    assert form.locator(".ra-silence").is_hidden()


def test_widget_state_saved_with_a_notebook_is_small_and_holds_no_row(page, lab, book, shown):
    form = shown(form_over(200))
    form.locator(".ra-select-all").click()
    page.wait_for_function(SELECTED)
    book.command("@jupyter-widgets/jupyterlab-manager:saveWidgetState")
    book.save()
    path = lab.folder / book.name
    wait_until(lambda: "widget-state" in path.read_text(), 20, "the widget state was not saved")
    saved = path.read_text()
    assert len(saved) < 100_000, len(saved)
    assert "sha256:" not in saved
    assert "v007" not in saved


DYING = """
import os, pathlib, signal
plan = plan.select([row.key for row in plan.rows if row.role == "candidate" and row.repository == "shop/checkout/worker"])
cleaner, died = ra.Cleaner(registry, journal="dying.sqlite"), pathlib.Path("died")
execute = cleaner.execute
def dying(plan, *, progress, stop):
    def then_die(outcome):
        progress(outcome)
        if len(form.outcomes) == 3:
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return execute(plan, progress=progress if died.exists() else then_die, stop=stop)
cleaner.execute = dying
form = ra.review(plan, cleaner)
form
"""


def test_a_kernel_that_is_killed_in_the_middle_of_a_deletion_is_gone_on_with_by_its_journal(
    page, lab, book, shown, artifacts, full_docker_registry
):
    host = full_docker_registry.host
    source = AUDIT.format(host=host).partition("form =")[0] + DYING
    form = shown(source)
    form.locator(".ra-select-all").click()
    page.wait_for_function(SELECTED)
    confirmed(form)
    wait_until((lab.folder / "died").exists, 60, "the kernel was not killed")
    form.get_by_text("No answer from the kernel").wait_for()
    form.screenshot(path=artifacts / "killed.png")
    left = tags_at(host, "shop/checkout/worker")

    book.open(lab)  # JupyterLab has started another kernel
    form = book.form(source)
    form.get_by_text("did not come to its end").wait_for()
    assert tags_at(host, "shop/checkout/worker") == left, "running the cell deletes nothing"
    form.screenshot(path=artifacts / "killed-again.png")
    goes_on = form.locator(".ra-continue:visible")
    (number,) = re.findall(r"the (\d+) rows that are left", goes_on.text_content())
    goes_on.click()
    confirmed_again(form)
    form.get_by_text(f"Deletion: {number} deleted, 3 deleted before.").wait_for()  # children without their index too


def test_a_kernel_that_has_gone_is_noticed_at_once(page, shown):
    form = shown(form_over(3))
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.shutdown()")
    form.locator("tbody input").first.click()
    form.get_by_text("No answer from the kernel").wait_for()
    assert form.locator(".ra-totals").text_content() == "Nothing is selected."
