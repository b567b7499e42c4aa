"""The front of small commands: options, the password, the log, the result, and how they end."""

import errno
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from regaudit import cli
from regaudit.errors import NotFound
from regaudit.reference import parse_registry
from regaudit.sandbox.server import Sandbox
from regaudit.script import script, script_without_registry

USER = ["-u", "ada"]


@script
@click.argument("host")
def tags(host, connect):
    """List the tags of a repository."""
    with connect(host) as registry:
        return {"tags": registry.repository("web/frontend").tags()}


@script_without_registry
@click.argument("word")
def say(word):
    """Say a word, or fail as it says."""
    failures = {
        "missing": NotFound("there is no such thing\x1b[2J"),
        "key": KeyboardInterrupt(),
        "pipe": BrokenPipeError(),
    }
    if word in failures:
        raise failures[word]
    if word == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if word == "file":
        Path("/no/such\nfile").read_bytes()
    return word


def run(command, *arguments, stdin=None):
    return CliRunner().invoke(command, list(arguments), input=stdin)


@pytest.fixture(scope="module")
def locked():
    """Give a registry that only Ada may read, by Basic authentication."""
    with Sandbox(sample=True, users={"ada": "right"}, auth="basic") as sandbox:
        yield sandbox


# -- the result and the end -------------------------------------------------------------------


def test_the_result_is_json_on_stdout_and_nothing_else_is(sample_sandbox):
    done = run(tags, sample_sandbox.host)
    assert (done.exit_code, done.stderr) == (0, "")
    assert set(json.loads(done.stdout)["tags"]) == set(sample_sandbox.store.tags("web/frontend"))


def test_what_a_terminal_would_obey_is_escaped_in_the_result():
    assert run(say, "a\x1b[2J\u202e").stdout == '"a\\u001b[2J\\u202e"\n'


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("missing", "say: there is no such thing\ufffd[2J\n"),
        ("key", "say: interrupted\n"),
        ("file", "say: /no/such\ufffdfile: "),
        ("full", "say: No space left on device"),
    ],
)
def test_what_fails_ends_in_one_sentence_and_status_1(word, says):
    done = run(say, word)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--no-such", "a"]])
def test_what_was_not_typed_right_ends_with_status_2(arguments):
    done = run(say, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(" Write say [OPTIONS] WORD, or -h for help\n")


def test_what_cannot_be_parsed_ends_with_status_2_too():
    done = run(tags, "ftp://example.com")
    assert done.exit_code == 2
    assert done.stderr == "tags: 'ftp://example.com': the scheme 'ftp' is not http or https\n"


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", [tags, say, cli.main])
def test_help_has_a_short_and_a_long_name(command, option):
    assert run(command, option).output.startswith("Usage: ")


# -- the password -----------------------------------------------------------------------------


@pytest.mark.parametrize("given", [["-p", "right"], ["-p", "-"], ["--password-stdin"], ["--password=-"]])
def test_a_password_comes_from_the_command_line_or_from_stdin(locked, given):
    assert run(tags, *USER, *given, locked.host, stdin="right\r\nrest\n").exit_code == 0


@pytest.mark.parametrize("given", [["-p", "canary"], ["-p", "-"], ["--password-stdin"]])
def test_a_wrong_password_is_status_1_and_never_shown(locked, given):
    done = run(tags, *USER, *given, "-vv", locked.host, stdin="canary\n")
    assert done.exit_code == 1
    assert "not accepted" in done.stderr.splitlines()[-1]
    assert "canary" not in done.output


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["-p", "x"], "write -u USER"),
        (["--password-stdin"], "write -u USER"),
        (["-u", "ada", "-p", "x", "--password-stdin"], "give one of them"),
    ],
)
def test_half_a_login_or_two_is_status_2(given, says):
    for command, arguments in ((tags, ["127.0.0.1:1"]), (cli.main, ["audit", "127.0.0.1:1", "--out", "o"])):
        place = 0 if command is tags else 1
        done = run(command, *arguments[:place], *given, *arguments[place:], stdin="x\n")
        assert done.exit_code == 2
        assert says in done.stderr


def test_the_command_line_never_asks_for_a_password():
    done = run(cli.main, "audit", *USER, "127.0.0.1:1", "--out", "o", stdin="x\n")
    assert done.exit_code == 2
    assert "write -u USER --password-stdin" in done.stderr


PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from test_script import tags
tags()
"""


def program(*arguments):
    return [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), *arguments]


def test_without_a_terminal_it_says_what_to_write_instead_of_asking():
    done = subprocess.run(
        program(*USER, "127.0.0.1:1"), input="x\n", capture_output=True, text=True, check=False, start_new_session=True
    )
    assert done.returncode == 2
    assert done.stderr == "tags: there is no terminal to ask for the password at: write -u USER --password-stdin\n"


def test_at_a_terminal_the_password_is_asked_for_and_typed_unseen(locked):
    terminal, theirs = os.openpty()
    # A new session takes the first terminal that it opens for its own.
    take = f"import os, sys; os.open({os.ttyname(theirs)!r}, os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", take, *program(*USER, locked.host)]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        os.close(theirs)
        seen = until(terminal, b"Password for ada: ")
        os.write(terminal, b"right\n")
        out, _ = process.communicate(timeout=60)
        seen += rest(terminal)
    os.close(terminal)
    assert process.returncode == 0
    assert json.loads(out)["tags"]
    assert b"right" not in seen


def until(terminal, text, seconds=60):
    seen, end = b"", time.monotonic() + seconds
    while text not in seen:
        assert select.select([terminal], [], [], end - time.monotonic())[0], seen
        seen += os.read(terminal, 1024)
    return seen


def rest(terminal):
    seen = b""
    while select.select([terminal], [], [], 0)[0]:
        try:
            seen += os.read(terminal, 1024)
        except OSError:  # the other end is closed
            break
    return seen


# -- the log and the connection ---------------------------------------------------------------


def lines_of(*options, host):
    done = run(tags, *options, host)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)
    return done.stderr.splitlines()


def test_v_logs_a_line_for_each_request_and_response_to_stderr(sample_sandbox):
    lines = lines_of("-v", host=sample_sandbox.host)
    assert len(lines) == 2
    assert all("/v2/web/frontend/tags/list" in line for line in lines)


def test_vv_logs_bodies_too(sample_sandbox):
    assert any('"tags"' in line for line in lines_of("-vv", host=sample_sandbox.host))


def test_the_log_can_be_lines_of_json(sample_sandbox):
    asked, answered = map(json.loads, lines_of("-v", "--log-json", host=sample_sandbox.host))
    assert (asked["method"], answered["status"]) == ("GET", 200)


@pytest.mark.parametrize("place", [0, 1])
def test_the_command_line_logs_as_the_scripts_do(sample_sandbox, tmp_path, place):
    arguments = ["audit", f"{sample_sandbox.host}/web/frontend", "--out", str(tmp_path / "audit"), "-q"]
    done = run(cli.main, *arguments[:place], "-v", "--log-json", *arguments[place:])
    assert done.exit_code == 0, done.output
    assert {json.loads(line)["event"] for line in done.stderr.splitlines()} == {"request", "response"}


@pytest.mark.parametrize("option", ["-k", "--insecure"])
def test_an_unverified_certificate_is_warned_of_in_one_line(sample_sandbox, option):
    assert lines_of(option, host=sample_sandbox.host) == [
        f"tags: the certificate of {sample_sandbox.host} is not verified"
    ]


def test_a_file_of_authorities_that_is_none_is_status_2():
    done = run(tags, "--ca", "no/such/file", "example.com")
    assert done.exit_code == 2
    assert "is not a file" in done.stderr


def test_plain_http_and_https_contradict_each_other():
    assert run(tags, "--plain-http", "https://example.com").exit_code == 2


@pytest.mark.parametrize("text", ["https://quay.io", "http://reg.example:5000", "quay.io"])
def test_the_address_of_a_registry_is_what_was_typed(text):
    assert parse_registry(text).address == text
