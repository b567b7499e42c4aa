"""The examples run as a user runs them: as programs."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def run(name, *arguments, folder):
    script = next(path for path in EXAMPLES if path.stem == name)
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_explains_itself(script, tmp_path):
    done = run(script.stem, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert script.name in done.stdout


def test_the_csv_report_lists_every_tag(sample_sandbox, tmp_path):
    done = run("csv_report", sample_sandbox.host, "shop/**", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "contents" / "tags.csv").open(encoding="utf-8", newline="") as file:
        found = {(row["repository"], row["tag"]) for row in csv.DictReader(file)}
    names = [name for name in sample_sandbox.store.repositories() if name.startswith("shop/")]
    assert found == {(name, tag) for name in names for tag in sample_sandbox.store.tags(name)}


def test_a_host_that_does_not_answer_is_one_sentence_and_status_1(tmp_path):
    done = run("csv_report", "127.0.0.1:1", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("csv_report: ")
    assert "Traceback" not in done.stderr
