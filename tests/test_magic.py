"""``%load_ext regaudit`` and ``%regaudit HOST``: what is typed in a cell, and what it leaves."""

from __future__ import annotations

import getpass

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from regaudit.sandbox.server import Sandbox

SECRET = "canary-c0ffee"


@pytest.fixture
def shell():
    made = InteractiveShell.instance()
    made.run_line_magic("load_ext", "regaudit")
    yield made
    if "registry" in made.user_ns:
        made.user_ns["registry"].close()
    made.history_manager.end_session()
    InteractiveShell.clear_instance()


@pytest.fixture(scope="module")
def served():
    with Sandbox(sample=True) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def locked():
    with Sandbox(sample=True, users={"ada": SECRET}, auth="basic") as sandbox:
        yield sandbox


def typed(shell, line):
    """Run the magic and return what it showed."""
    with capture_output() as shown:
        shell.run_line_magic("regaudit", line)
    return shown


def refusal(shell, line):
    with pytest.raises(UsageError) as raised:
        typed(shell, line)
    return str(raised.value)


def test_it_reads_what_is_named_shows_the_summary_and_leaves_registry_and_snapshot(shell, served):
    shown = typed(shell, f"-q --no-cache {served.host} 'shop/**'")
    snapshot = shell.user_ns["snapshot"]
    assert [output.data["text/plain"] for output in shown.outputs] == [repr(snapshot)]
    assert "repositories" in shown.outputs[0].data["text/html"]
    assert snapshot.patterns == ("shop/**",)
    assert shell.user_ns["registry"].host == served.host


def test_the_host_may_stand_before_each_pattern_as_on_the_command_line(shell, served):
    typed(shell, f"-q --no-cache --exclude 'web/**' {served.host}/shop/** {served.host}/charts/checkout")
    assert shell.user_ns["snapshot"].patterns == ("shop/**", "charts/checkout", "!web/**")


def test_a_dry_run_says_what_it_would_cost_and_leaves_no_snapshot(shell, served):
    shown = typed(shell, f"--dry-run -q --no-cache {served.host} 'shop/**'")
    assert "snapshot" not in shell.user_ns
    assert "requests" in str(shown.outputs[0].data)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "Missing argument 'HOST': write %regaudit HOST"),
        ("--odd x", "No such option"),
        ("host 'team/*", "No closing quotation: write %regaudit HOST"),
        (".bad.com", "host"),
        ("127.0.0.1:1 'Team/*!'", "is not a pattern"),
        ("127.0.0.1:1 --cache x --no-cache", "contradict each other"),
        (f"127.0.0.1:1 -u ada -p {SECRET}", "a password in a cell stays in the notebook: write -u USER alone"),
        (f"https://ada:{SECRET}@127.0.0.1:1", "user"),
    ],
)
def test_what_is_typed_wrong_is_one_sentence_that_says_how(shell, line, says):
    said = refusal(shell, line)
    assert says in said
    assert SECRET not in said
    assert "snapshot" not in shell.user_ns


def test_a_registry_that_does_not_answer_is_a_sentence_too(shell):
    assert "127.0.0.1:1" in refusal(shell, "-q --no-cache 127.0.0.1:1 team/app")


def test_help_lists_the_options(shell):
    shown = typed(shell, "-h")
    assert "--plain-http" in shown.stdout
    assert "--password" not in shown.stdout
    assert "snapshot" not in shell.user_ns


def test_a_registry_that_wants_a_login_says_how_to_log_in_from_a_cell(shell, locked):
    assert "%regaudit -u USER HOST" in refusal(shell, f"-q --no-cache {locked.host}")


def test_with_a_user_name_the_password_is_asked_for_and_is_in_no_name_and_no_history(shell, locked, monkeypatch):
    asked = []
    monkeypatch.setattr(getpass, "getpass", lambda prompt: asked.append(prompt) or SECRET)
    result = shell.run_cell(f"%regaudit -q --no-cache -u ada {locked.host} charts/checkout", store_history=True)
    result.raise_error()
    assert asked == [f"Password for ada at {locked.host}: "]
    assert len(shell.user_ns["snapshot"].tags)
    assert SECRET not in repr({name: value for name, value in shell.user_ns.items() if name != "sys"})
    assert SECRET not in str(list(shell.history_manager.get_range()))
