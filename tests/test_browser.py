"""What a person does: the real form, in a real JupyterLab, in a real Chromium.

Screenshots go to the folder named by REGAUDIT_TEST_ARTIFACTS, or to the test's temporary folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, Notebook, browser_page, missing, wait_until

TUTORIAL = Path(__file__).parent.parent / "notebooks" / "01_audit.ipynb"
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


def form_over(count: int, after: str = "", reason: str = "") -> str:
    """Return a cell that shows a form over so many made-up tags, with a cleaner that only says that it deleted."""
    return f"""
import time
from types import SimpleNamespace
from builders import Build, days_before
from regaudit.cleaner.outcomes import Outcome, Run
from regaudit.cleaner.plan import plan
from regaudit.notebook.form import review

class Pretender:
    registry, journal = SimpleNamespace(host="registry:5000"), SimpleNamespace(path="journal.sqlite")
    busy = False
    def last_run(self, plan):
        return None
    def interrupted_run(self):
        return None
    def execute(self, plan, *, progress=None, stop=None):
        outcomes = []
        for row in plan.rows:
            if stop.wait(0.2):
                break
            outcomes.append(Outcome(row.key, row.repository, row.digest, row.tags, row.action, "deleted"))
            progress(outcomes[-1])
        return Run("run-1", plan.hash, "delete", tuple(outcomes), len(outcomes) < len(plan.rows))

build = Build("registry:5000").image("team/app", tags=["kept"])
for number in range({count}):
    build.image("team/app", tags=[f"v{{number:03}}"], created=days_before(number + 1), layers={{f"l{{number}}": 1000}})
snapshot = build.snapshot()
stale = snapshot.tags[snapshot.tags["tag"] != "kept"][["repository", "tag"]].assign(reason={reason!r})
form = review(plan(snapshot, stale), Pretender())
{after}
form
"""


def tags_at(host: str, repository: str) -> set[str]:
    with urllib.request.urlopen(f"http://{host}/v2/{repository}/tags/list") as reply:
        return set(json.load(reply)["tags"])


def opened(page: Any, lab: Lab, name: str) -> tuple[Notebook, Any]:
    """Open a notebook, run it, and wait for its form."""
    notebook = Notebook(page, lab, name)
    notebook.run_all()
    form = page.locator(".regaudit")
    form.locator("tbody tr").first.wait_for()
    return notebook, form


def filtered(page: Any, form: Any, text: str) -> None:
    form.locator(".ra-filter").fill(text)
    page.wait_for_function("document.querySelector('.ra-select-all').textContent.includes('filtered')")


def confirmed(form: Any) -> None:
    form.locator(".ra-review").click()
    form.locator(".ra-typed").wait_for()
    form.locator(".ra-typed").fill(form.locator(".ra-confirm code").text_content())
    form.locator(".ra-why").fill("a test")
    form.locator(".ra-delete").click()


def test_a_person_filters_confirms_deletes_and_puts_back(page, lab, artifacts):
    shutil.copy(TUTORIAL, lab.folder / "audit.ipynb")
    notebook, form = opened(page, lab, "audit.ipynb")
    host = re.search(r"127\.0\.0\.1:\d+", form.locator(".ra-title").text_content())[0]
    repositories = ("shop/checkout/api", "shop/checkout/worker")
    before = {name: tags_at(host, name) for name in (*repositories, "web/frontend")}

    filtered(page, form, "checkout")
    form.locator(".ra-select-all").click()
    page.wait_for_function(SELECTED)
    doomed = {
        (row.locator(".ra-repository").text_content(), tag)
        for row in form.locator("tbody tr:visible").all()
        for tag in row.locator(".ra-tag").all_text_contents()
    }
    for theme in ("Light", "Dark"):
        notebook.theme(f"JupyterLab {theme}")
        page.screenshot(path=artifacts / f"choose-{theme.lower()}.png")

    form.locator(".ra-review").click()
    form.locator(".ra-typed").wait_for()
    number = int(form.locator(".ra-confirm code").text_content().removeprefix("delete "))
    form.locator(".ra-typed").fill(f"delete {number + 1}")
    assert form.locator(".ra-delete").get_attribute("aria-disabled") == "true"
    for theme in ("Dark", "Light"):
        notebook.theme(f"JupyterLab {theme}")
        page.screenshot(path=artifacts / f"review-{theme.lower()}.png")
    form.locator(".ra-typed").fill(f"delete {number}")
    form.locator(".ra-delete").click()
    form.locator(".ra-undo").wait_for()
    assert f"Deletion: {number} deleted." in form.locator(".ra-progress").text_content()
    page.screenshot(path=artifacts / "done-light.png")
    for name in repositories:
        assert before[name] - tags_at(host, name) == {tag for repository, tag in doomed if repository == name}
    assert tags_at(host, "web/frontend") == before["web/frontend"], "what was filtered out stays"

    form.locator(".ra-undo").click()
    form.locator(".ra-undo-sure").wait_for()
    assert before["shop/checkout/api"] != tags_at(host, "shop/checkout/api"), "one click undoes nothing"
    form.locator(".ra-undo-sure").click()
    page.wait_for_function("document.querySelector('.ra-progress').textContent.includes('Undo:')")
    page.screenshot(path=artifacts / "undone-light.png")
    assert {name: tags_at(host, name) for name in before} == before

    notebook.save()
    saved = (lab.folder / "audit.ipynb").read_text()
    (output,) = [o for cell in json.loads(saved)["cells"] for o in cell.get("outputs", []) if "ReviewForm" in str(o)]
    assert len(str(output)) < 2_000
    assert "sha256:" not in str(output)


def test_keys_typed_in_the_form_do_nothing_to_the_notebook(page, lab):
    notebook, form = opened(page, lab, write_notebook(lab, "keys.ipynb", form_over(40), "'another cell'"))
    cells = notebook.cells
    focusable = form.locator("button:visible, input:visible, summary:visible")
    assert focusable.count() > 30
    for place in range(focusable.count()):
        focusable.nth(place).focus()
        page.keyboard.press("d")
        page.keyboard.press("d")
        page.keyboard.press("x")
        form.locator(".ra-filter").fill("")
    assert notebook.cells == cells
    form.locator("tbody th").first.click()
    page.keyboard.press("d")
    page.keyboard.press("d")
    assert notebook.cells == cells, "a click on plain text of the form, too"


def test_the_keyboard_focus_stays_in_the_form_from_choosing_to_the_end(page, lab):
    _, form = opened(page, lab, write_notebook(lab, "focus.ipynb", form_over(4)))
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
    form.locator(".ra-stop").wait_for()
    assert page.evaluate(inside)
    form.locator(".ra-undo").wait_for()
    assert page.evaluate(inside)


def test_ticks_with_the_keyboard_sorting_and_paging_reach_the_right_row(page, lab):
    _, form = opened(page, lab, write_notebook(lab, "sort.ipynb", form_over(60), "[key for key in form.selected]"))
    ages = form.locator("th.ra-age")
    ages.locator("button").click()
    page.wait_for_function("document.querySelector('thead th.ra-age').getAttribute('aria-sort') === 'ascending'")
    form.locator(".ra-next").click()
    page.wait_for_function("document.querySelector('.ra-where').textContent.startsWith('26')")
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


def test_select_all_never_acts_on_another_filter_than_the_one_on_the_screen(page, lab):
    _, form = opened(page, lab, write_notebook(lab, "quick.ipynb", form_over(60)))
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


def test_stop_ends_a_deletion_in_the_middle(page, lab):
    _, form = opened(page, lab, write_notebook(lab, "stop.ipynb", form_over(60)))
    form.locator(".ra-select-all").click()
    page.wait_for_function(SELECTED)
    confirmed(form)
    page.wait_for_function("document.querySelector('.ra-progress').textContent.match(/^[1-9]\\d* of 60/)")
    form.locator(".ra-stop").click()
    page.wait_for_function("document.querySelector('.ra-progress').textContent.includes('stopped before the end')")
    assert form.locator("td.ra-outcome", has_text="deleted").first.is_visible()


def test_hostile_text_stays_text(page, lab):
    _, form = opened(page, lab, write_notebook(lab, "hostile.ipynb", form_over(3, reason=HOSTILE)))
    assert form.locator("tbody .ra-reason").first.text_content() == HOSTILE
    form.locator(".ra-filter").fill(HOSTILE)
    page.wait_for_function("document.querySelector('.ra-select-all').textContent.includes('filtered')")
    assert form.locator("img, script").count() == 0
    assert page.title() != "pwned"


def test_a_kernel_that_is_silent_is_noticed_and_what_was_ticked_counts_when_it_answers(page, lab):
    tell = "import os, pathlib; pathlib.Path('kernel.pid').write_text(str(os.getpid()))"
    _, form = opened(page, lab, write_notebook(lab, "silent.ipynb", form_over(3, tell)))
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


def test_a_kernel_that_has_gone_is_noticed_at_once(page, lab):
    _, form = opened(page, lab, write_notebook(lab, "gone.ipynb", form_over(3)))
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.shutdown()")
    form.locator("tbody input").first.click()
    form.get_by_text("No answer from the kernel").wait_for()
    assert form.locator(".ra-totals").text_content() == "Nothing is selected."


def test_widget_state_saved_with_a_notebook_is_small_and_holds_no_row(page, lab):
    notebook, form = opened(page, lab, write_notebook(lab, "saved.ipynb", form_over(200)))
    form.locator(".ra-select-all").click()
    page.wait_for_function(SELECTED)
    notebook.command("@jupyter-widgets/jupyterlab-manager:saveWidgetState")
    notebook.save()
    path = lab.folder / "saved.ipynb"
    wait_until(lambda: "widget-state" in path.read_text(), 20, "the widget state was not saved")
    saved = path.read_text()
    assert len(saved) < 60_000, len(saved)
    assert "sha256:" not in saved
    assert "v007" not in saved
