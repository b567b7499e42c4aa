"""Notebooks run from top to bottom, and nothing is deleted where nobody clicks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"


def read(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert not [cell.id for cell in cells if cell.outputs or cell.execution_count]
    assert read(path).metadata.kernelspec.name == "python3"


def links(path: Path) -> list[str]:
    return re.findall(
        r"\]\(([^)]+)\)", "".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_links_to_is_there(path):
    assert not [link for link in links(path) if not (path.parent / link).exists()]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request, tmp_path_factory) -> Any:
    """Run a notebook in a kernel of its own, in a folder of its own; the first error ends it."""
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("kernel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("TMPDIR", str(folder))
        client = NotebookClient(read(request.param), timeout=240, resources={"metadata": {"path": str(folder)}})
        return client.execute()


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.notebook
@pytest.mark.timeout(300)
def test_a_notebook_runs_from_top_to_bottom(executed):
    assert outputs_of(executed)
    assert not [output for output in outputs_of(executed) if output.output_type == "error"]


@pytest.mark.notebook
@pytest.mark.timeout(300)
def test_a_form_in_a_notebook_that_nobody_clicks_in_shows_its_headline_and_has_no_run(executed):
    data = [output.data for output in outputs_of(executed) if "data" in output]
    forms = [shown for shown in data if WIDGET in shown and "ReviewForm" in shown["text/plain"]]
    source = "".join(cell.source for cell in executed.cells)
    assert len(forms) == source.count("ra.review(")
    assert all("digests with" in form["text/html"] for form in forms), "a page without a kernel shows the headline"
    said = [shown["text/plain"] for shown in data]
    assert said.count("'nothing was deleted'") == source.count("form.outcomes if form.run")


@pytest.mark.notebook
@pytest.mark.timeout(300)
def test_the_saved_state_of_a_form_is_small_and_holds_no_row(executed):
    widgets = executed.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {"state": {}})
    for widget in widgets["state"].values():
        saved = str(widget["state"])
        assert "sha256:" not in saved
        assert "shop/checkout" not in saved
        assert len(saved) < 60_000
