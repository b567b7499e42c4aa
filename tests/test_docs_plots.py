"""docs/plots.md: every plot is in it with its picture, and what it says to type works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders import Build, days_before
from matplotlib import pyplot as plt

import regaudit as ra

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "plots.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
MOST_BYTES = 100_000


@pytest.mark.parametrize("name", [name for name in ra.__all__ if name.startswith("plot_")])
def test_every_plot_is_shown(name):
    assert any(f"ra.{name}(" in block for block in BLOCKS)


@pytest.mark.parametrize("picture", re.findall(r'(?:src|srcset)="([^"]+)"', PAGE))
def test_every_picture_is_there_and_small(picture):
    assert (DOCS / picture).read_bytes()[:4] == b"\x89PNG"
    assert (DOCS / picture).stat().st_size <= MOST_BYTES


def test_what_the_page_says_to_type_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build = Build().image("shop/checkout/api", tags=["1"], created=days_before(300), layers={"a": 1 << 20})
    build.image("shop/checkout/api", tags=["2"], created=days_before(3), layers={"a": 1 << 20, "b": 5 << 20})
    names = {"ra": ra, "snapshot": build.snapshot(), "earlier": build.snapshot()}
    with plt.rc_context():
        for block in BLOCKS:
            exec(block, names)
    assert (tmp_path / "storage.png").is_file()
