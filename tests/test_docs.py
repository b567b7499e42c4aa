"""Every block of code in the README and in docs/ runs, as it stands, and every public name is in the reference."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import regaudit as ra
from regaudit.cli import main
from regaudit.sandbox.server import Sandbox

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# What a page speaks of as if the reader had it.
GIVEN = """
import regaudit as ra
registry = ra.Registry("registry.example.com")
snapshot = earlier = ra.collect(registry, progress=False)
plan = ra.plan(snapshot, ra.stale_tags(snapshot, older_than="180D"))
"""


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a page that are in a language, the indentation of a list taken off."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, name, code in found if name == language]


def commands(page: Path) -> list[str]:
    """Return what a page has a reader type into a shell, a command to an item."""
    lines = "\n".join(block for block in blocks(page, "") if block.startswith("regaudit ")).replace("\\\n", " ")
    return [command.strip() for line in lines.splitlines() for command in line.split("&&") if command.strip()]


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_COMMANDS = [page for page in PAGES if commands(page)]
WITH_TOML = [page for page in PAGES if blocks(page, "toml")]


def name(page: Path) -> str:
    return page.stem


@pytest.fixture
def host():
    """Serve the sample, and the repositories that the pages speak of."""
    with Sandbox(sample=True) as sandbox:
        with ra.Registry(sandbox.url) as registry:
            nightly = registry.repository("data/etl/nightly")
            for app in ("team/app", "team/web"):
                for number, tag in enumerate(("1.0", "1.4")):
                    document = nightly.manifest(nightly.tags()[number])
                    for blob in (document.config, *document.layers):
                        registry.repository(app).mount_blob(blob.digest, "data/etl/nightly")
                    registry.repository(app).put_manifest(tag, document.raw, document.media_type)
        yield sandbox.host


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder with the files that the pages speak of."""
    for file in (ROOT / "examples" / "policies").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "policy.toml").write_bytes((tmp_path / "first.toml").read_bytes())
    (tmp_path / "list.txt").write_text("team/*\n")
    (tmp_path / "pods.json").write_text(
        '{"items": [{"spec": {"containers": [{"image": "registry.example.com/team/app:1.4"}]}}]}'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, host, folder):
    program = "\n".join([GIVEN, *blocks(page, "python")])
    program = program.replace("registry.example.com", host).replace("https://quay.io", f"http://{host}")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", WITH_TOML, ids=name)
def test_the_policies_on_a_page_are_policies(page, folder):
    for number, text in enumerate(blocks(page, "toml")):
        (folder / f"{number}.toml").write_text(text, encoding="utf-8")
        assert ra.Policy.load(folder / f"{number}.toml") != ra.Policy(), "it sets something"


class Shell:
    """What the commands of one page leave for those after them."""

    def __init__(self, host: str) -> None:
        self.words = {"registry.example.com": host, "HOST": host, "DIR": "kept"}

    def type(self, command: str) -> None:
        """Type a command without its optional parts and without a schedule, which has no end; and each alternative."""
        command, _, _ = re.sub(r"\[[^\]]*\]|--cron '[^']*'", "", command).partition(" < ")
        for word, meant in self.words.items():
            command = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", meant, command)
        arguments = shlex.split(command, comments=True)
        choices = next((argument for argument in arguments if "|" in argument), "")
        for choice in choices.split("|"):
            self.run([choice if argument == choices else argument for argument in arguments[1:]])

    def run(self, arguments: list[str]) -> None:
        done = CliRunner().invoke(main, arguments, input="secret\n")
        assert done.exit_code == 0, f"{' '.join(arguments)}: {done.output}{done.exception}"
        if arguments[0] == "apply":
            self.words["RUN"] = re.findall(r"\b\d{8}T\d{6}-\w+", done.output)[-1]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_the_commands_of_a_page_can_be_typed_one_after_the_other(page, host, folder):
    shell = Shell(host)
    shell.run(["audit", host, "--out", "last-week", "--quiet"])
    for command in commands(page):
        shell.type(command)


@pytest.mark.parametrize("public", [name for name in ra.__all__ if not name.startswith("_")])
def test_every_public_name_is_in_the_reference(public):
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert re.search(rf"^\.\. \S+:: regaudit\.{public}\b", reference, re.MULTILINE)


def test_every_page_and_notebook_is_in_the_contents():
    contents = (ROOT / "docs" / "contents.md").read_text(encoding="utf-8")
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"contents"}
    notebooks = {f"../notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {*pages, *notebooks} <= set(contents.split())
