"""docs/adverse-cases.md names tests: each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "adverse-cases.md").read_text("utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+) \| (.+?) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)))


def test_every_case_has_its_row():
    assert [int(number) for number, *_ in ROWS] == list(range(1, 79))
    assert all(shown.count("::test_") for *_, shown in ROWS)


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_is_named_exists(file):
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {name for of, name in NAMED if of == file} <= defined
