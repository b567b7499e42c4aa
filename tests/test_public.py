"""The public names: what a user types after ``import regaudit as ra``."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import regaudit


@pytest.mark.parametrize("name", regaudit.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(regaudit, name)
    assert name == "__version__" or value.__doc__


def test_type_checkers_see_exactly_the_names_that_are_loaded_lazily():
    tree = ast.parse(Path(regaudit.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {(node.module, alias.name) for node in block.body for alias in node.names}
    assert seen == {(home, name) for name, home in regaudit._HOME_OF.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'colect'"):
        regaudit.colect  # noqa: B018 -- the look-up is what is tested


def test_importing_regaudit_loads_nothing_heavy():
    heavy = {"pandas", "numpy", "pyarrow", "matplotlib", "requests", "ipywidgets", "anywidget", "pycurl", "click"}
    code = f"import sys, regaudit; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_reading_a_registry_loads_neither_widgets_nor_plots():
    heavy = {"matplotlib", "ipywidgets", "anywidget", "uvicorn"}
    code = f"import sys, regaudit as ra; ra.Registry, ra.collect, ra.plan, ra.Cleaner; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
