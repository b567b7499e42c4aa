"""`ra.login`: what docker knows first, then a person is asked; no secret is in a cell, a name, or a traceback."""

from __future__ import annotations

import base64
import builtins
import getpass
import json
import traceback
from pathlib import Path
from queue import Empty

import pytest
from IPython.core.error import StdinNotImplementedError

import regaudit as ra
from regaudit.errors import AccessDenied, AuthenticationFailed, UsageError
from regaudit.sandbox.login import Login
from regaudit.sandbox.server import Sandbox

SECRET, WRONG = "canary-c0ffee", "canary-decaf"


@pytest.fixture(scope="module", params=["basic", "bearer"])
def locked(request):
    with Sandbox(sample=True, users={"ada": SECRET}, auth=request.param) as sandbox:
        yield sandbox


@pytest.fixture
def typed(monkeypatch):
    """Give what a person will type, names and passwords in order; returns what was asked."""

    def person(*answers):
        waiting, asked = list(answers), []

        def answer(prompt):
            asked.append(prompt)
            return waiting.pop(0)

        monkeypatch.setattr(getpass, "getpass", answer)
        monkeypatch.setattr(builtins, "input", answer)
        return asked

    return person


def docker_knows(host, password):
    encoded = base64.b64encode(f"ada:{password}".encode()).decode()
    config = Path.home() / ".docker" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"auths": {host: {"auth": encoded}}}), "utf-8")


def frames(error):
    """Return what a traceback with values would show, as in IPython's verbose mode."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(shown.format())


def test_what_docker_knows_is_used_without_asking(locked, typed):
    docker_knows(locked.host, SECRET)
    asked = typed()
    with ra.login(locked.host) as registry:
        assert registry.catalog()
    assert asked == []


def test_without_credentials_name_and_password_are_asked_for(locked, typed):
    asked = typed("ada", SECRET)
    with ra.login(locked.host) as registry:
        assert registry.catalog()
        assert SECRET not in f"{registry!r} {registry.session!r} {vars(registry)!r}"
    assert asked == [f"User name for {locked.host}: ", f"Password for ada at {locked.host}: "]


def test_with_a_user_name_the_password_alone_is_asked_for_whatever_docker_knows(locked, typed):
    docker_knows(locked.host, WRONG)
    asked = typed(SECRET)
    ra.login(locked.host, "ada").close()
    assert asked == [f"Password for ada at {locked.host}: "]


def test_credentials_of_dockers_that_are_wrong_lead_to_the_question(locked, typed):
    docker_knows(locked.host, WRONG)
    asked = typed("ada", SECRET)
    ra.login(locked.host).close()
    assert len(asked) == 2


def test_a_wrong_password_is_asked_for_again_and_three_are_the_end(locked, typed):
    asked = typed(WRONG, SECRET)
    ra.login(locked.host, "ada").close()
    assert asked[1] == f"Not accepted. Password for ada at {locked.host}: "
    asked = typed(WRONG, WRONG, WRONG)
    with pytest.raises(AuthenticationFailed) as raised:
        ra.login(locked.host, "ada")
    assert len(asked) == 3
    assert WRONG not in frames(raised.value)


def test_a_registry_that_lets_anybody_in_asks_nothing(sandbox, typed):
    asked = typed()
    with ra.login(sandbox.host) as registry:
        assert registry.catalog()
    assert asked == []


def test_no_name_is_an_error_where_a_login_is_needed(locked, typed):
    typed("")
    with pytest.raises(UsageError, match="no user name was typed"):
        ra.login(locked.host)


def test_no_name_is_anonymous_where_that_is_let_in(typed):
    """As Docker Hub does: a token for nobody."""
    with Sandbox(users={"ada": SECRET}, auth=Login(anonymous="repository:*:pull")) as hub:
        asked = typed("")
        with ra.login(hub.host) as registry:
            assert registry.session.credentials is None
    assert len(asked) == 1


@pytest.mark.parametrize("option", ["password", "token"])
def test_a_secret_in_the_cell_is_refused(option):
    with pytest.raises(UsageError, match=f"a {option} in a cell stays in the notebook"):
        ra.login("127.0.0.1:1", **{option: SECRET})


def test_a_password_that_cannot_be_sent_is_in_no_traceback(typed):
    typed(f"{SECRET}\n")
    with pytest.raises(UsageError, match="line break") as raised:
        ra.login("127.0.0.1:1", "ada")
    assert SECRET not in frames(raised.value)


@pytest.mark.parametrize("error", [EOFError(), StdinNotImplementedError("no stdin")])
@pytest.mark.parametrize("username", [None, "ada"])
def test_where_nobody_can_be_asked_it_says_what_to_do_before(locked, monkeypatch, error, username):
    def nobody(_prompt):
        raise error

    monkeypatch.setattr(getpass, "getpass", nobody)
    monkeypatch.setattr(builtins, "input", nobody)
    with pytest.raises(UsageError, match="docker login HOST"):
        ra.login(locked.host, username)


def test_rights_that_a_working_login_lacks_are_no_reason_to_ask(typed, monkeypatch):
    asked = typed()
    monkeypatch.setattr(ra.Registry, "login", lambda *_: (_ for _ in ()).throw(AccessDenied("no rights")))
    monkeypatch.setenv("REGAUDIT_USERNAME", "ada")
    monkeypatch.setenv("REGAUDIT_PASSWORD", SECRET)
    with pytest.raises(AccessDenied, match="no rights") as raised:
        ra.login("127.0.0.1:1")
    assert asked == []
    assert SECRET not in frames(raised.value)


CELL = """
import regaudit as ra
registry = ra.login({host!r})
print(registry, len(registry.catalog()) > 0)
"""


@pytest.mark.notebook
@pytest.mark.timeout(120)
def test_in_a_kernel_the_secret_is_in_no_output_no_name_and_no_history(tmp_path, monkeypatch):
    """What a notebook would save is what the kernel sends."""
    from jupyter_client.manager import start_new_kernel

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    with Sandbox(sample=True, users={"ada": SECRET}) as sandbox:
        manager, client = start_new_kernel(kernel_name="python3")
        try:
            answers, asked, sent = ["ada", SECRET], [], []
            run(client, CELL.format(host=sandbox.host), answers, asked, sent)
            run(client, "%history\nprint(In, Out, vars(), vars(registry))", answers, asked, sent)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    assert asked == [False, True], "a name in view, then a password unseen"
    assert "True" in str(sent)
    assert SECRET not in str(sent)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def run(client, code, answers, asked, sent):
    def answer(message):
        asked.append(message["content"]["password"])
        client.input(answers.pop(0))

    try:
        reply = client.execute_interactive(code, timeout=60, stdin_hook=answer, output_hook=sent.append)
    except Empty as error:  # pragma: no cover -- says what the kernel said until then
        raise AssertionError(sent) from error
    assert reply["content"]["status"] == "ok", sent
