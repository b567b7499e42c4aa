"""The page and the examples for unattended runs: every command on them can be typed, every status is the program's."""

import configparser
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from regaudit.analysis.policy import Policy
from regaudit.cli import main
from regaudit.unattended.record import STATUSES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "unattended.md").read_text("utf-8")
FOLDER = ROOT / "examples" / "unattended"
UNIT, DOCKERFILE = FOLDER / "regaudit-clean.service", FOLDER / "Dockerfile"


def typed():
    """Return every command of regaudit's on the page, in the unit and in the Dockerfile, as words."""
    found = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
    blocks = "\n".join(block for language, block in found if not language).replace("\\\n", " ")
    lines = [*blocks.splitlines(), unit()["Service"]["ExecStart"], "docker run regaudit clean --help"]
    lines += re.findall(r"`(regaudit (?:undo|approve) [^`]*)`", PAGE)
    for line in lines:
        for part in line.split("&&"):
            words = shlex.split(part)
            if words[:2] == ["docker", "run"]:
                words = words[words.index("regaudit") :]
            if words and Path(words[0]).name == "regaudit":
                yield words[1:]


def unit():
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str
    parsed.read(UNIT)
    return parsed


@pytest.mark.parametrize("words", list(typed()), ids=" ".join)
def test_every_command_can_be_typed(words):
    command = main.commands[words[0]]
    if "--help" not in words:
        assert isinstance(command.make_context(words[0], words[1:], parent=click.Context(main)), click.Context)


def test_there_are_commands_to_try():
    assert {words[0] for words in typed()} == {
        "audit",
        "expired",
        "explain",
        "plan",
        "clean",
        "undo",
        "approve",
        "apply",
    }


def test_the_table_of_endings_is_that_of_the_program():
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert {word: int(status) for status, word in rows} == STATUSES


def test_the_policy_on_the_page_is_one_with_an_approval():
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert Policy.from_dict(tomllib.loads(block)).approval.maximum_deletions == 200


@pytest.mark.parametrize("page", ["unattended.md", "coming-from-node.md"])
def test_every_link_leads_somewhere(page):
    text = (ROOT / "docs" / page).read_text("utf-8")
    for target in re.findall(r"\]\((?!https://)([^)#]+)\)", text):
        assert (ROOT / "docs" / target).exists()


def test_the_service_calls_a_second_run_no_failure_and_runs_without_rights():
    service = unit()["Service"]
    assert int(service["SuccessExitStatus"]) == STATUSES["busy"]
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    timer = configparser.ConfigParser()
    timer.read(UNIT.with_suffix(".timer"))
    assert timer["Timer"]["OnCalendar"] == "*-*-* 03:00:00"


def test_the_image_is_of_a_named_version_takes_what_is_there_and_runs_without_rights():
    text = DOCKERFILE.read_text("utf-8").replace("\\\n", " ")
    steps = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "USER", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in steps} == known
    assert all(re.match(r"python:3\.\d+-slim-\w+( AS build)?$", rest) for word, rest in steps if word == "FROM")
    for word, rest in steps:
        if word == "COPY" and "--from" not in rest:
            assert all((ROOT / source).exists() for source in rest.split()[:-1])
    assert [rest for word, rest in steps if word == "USER"] == ["10001"]
    assert steps[-2] == ["ENTRYPOINT", '["regaudit"]']
