"""Known values in the place of every secret, a whole day's work with them, and a search through everything that it left behind.

What the log says of logins is in test_log and test_real_login, which sources are asked in test_credentials.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import stat
import traceback
from contextlib import suppress

import pytest
from click.testing import CliRunner
from hostile import Cut, Decoy, Hostile, error, redirect, reply
from images import Pushed
from proxy import FaultProxy, Proxy

from regaudit.analysis.report import report
from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.cli import main
from regaudit.client.registry import Registry
from regaudit.errors import RegauditError, RegistryError, UsageError
from regaudit.inventory.collect import collect
from regaudit.log import show_log
from regaudit.notebook.form import review
from regaudit.sandbox.server import Sandbox

USER, PASSWORD = "alice", "canary-password-5b1e"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
REFRESH, HELPER, TOKEN = "canary-refresh-77aa", "canary-helper-90cd", "canary-bearer-12ef"
COOKIE, SIGNATURE, PROXY = "canary-cookie-34ab", "canary-signature-56cd", "canary-proxy-78ef"
SECRETS = (PASSWORD, BASIC, REFRESH, HELPER, TOKEN, COOKIE, SIGNATURE, PROXY)
APP = "team/app"


def leaks(text, *more):
    return [secret for secret in (*SECRETS, *more) if secret in text]


def leaks_in(folder, *more):
    """Return what of the secrets is in any file of a folder, or in its name."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        raw = path.read_bytes()
        found += [(path.name, secret) for secret in (*SECRETS, *more) if secret.encode() in raw or secret in str(path)]
    return found


@pytest.fixture
def logged():
    """Give everything that is logged at the most talkative level, as lines of JSON and of text."""
    stream = io.StringIO()
    show_log(2, as_json=True, stream=stream)
    yield stream
    show_log(0)


def work(registry, folder):
    """Do everything that leaves something behind, and return what would be shown of it."""
    shown = []
    snapshot = collect(registry, progress=False, cache=folder / "cache")
    snapshot.save(folder / "snapshot")
    snapshot.to_csv(folder / "csv")
    report(snapshot, folder / "report")
    made = plan(snapshot, [f"{APP}:old"]).approve("Ada")
    made.save(folder / "plan.json")
    with Cleaner(registry, journal=folder / "journal.sqlite") as cleaner:
        form = review(made, cleaner)
        shown += [repr(form), json.dumps(form.get_state(), default=str)]
        run = cleaner.execute(made)
        shown += [repr(cleaner), repr(run), run._repr_html_(), str(run)]
        cleaner.undo(run)
    for value in (registry, registry.session, snapshot, made, registry.session.credentials):
        shown += [repr(value), str(value), getattr(value, "_repr_html_", str)()]
    shown.append(repr(registry.ping()))
    return shown


@pytest.mark.parametrize(("kind", "driver"), [("basic", "threads"), ("bearer", "libcurl")])
def test_a_days_work_leaves_no_secret_anywhere(tmp_path, logged, capfd, caplog, kind, driver):
    out = tmp_path / "out"
    out.mkdir()
    with (
        Sandbox(users={USER: PASSWORD}, auth=kind) as server,
        Registry(server.host, username=USER, password=PASSWORD, driver=driver) as door,
    ):
        for name in ("old", "new"):
            Pushed(door, APP).image(name, name)
        shown = work(door, out)
        issued = [token.value for token in door.session.tokens.values()]
        assert issued or kind == "basic"
    printed = capfd.readouterr()
    assert len(logged.getvalue()) > 10_000, "and it was all logged"
    for text in (*shown, logged.getvalue(), printed.out, printed.err, caplog.text):
        assert leaks(text, *issued) == []
    assert leaks_in(out, *issued) == []
    assert {path.name for path in out.iterdir()} >= {
        "cache",
        "snapshot",
        "csv",
        "report",
        "plan.json",
        "journal.sqlite",
    }


# What a server says back of what it was shown, in every way that it might be put into words.
def echoes(seen):
    shown = seen.header("authorization") or ""
    _, _, value = shown.partition(" ")
    decoded = base64.b64decode(value + "==", validate=False).decode("latin-1") if shown.startswith("Basic") else value
    said = f"you sent {shown}, that is {value}, or {decoded}; http://{decoded}@h/x?access_token={value}"
    return said, {"WWW-Authenticate": f'Basic realm="{value}"', "Warning": f'299 - "{value}"', "X-Echo": shown}


ECHOES = {
    "in the error of a list": lambda said, headers: reply(
        500, json={"errors": [{"code": "X", "message": said, "detail": said}]}, headers=headers
    ),
    "in a page of text": lambda said, headers: reply(403, said.encode(), headers=headers),
    "in a list that is none": lambda said, headers: reply(200, json={"name": said, "tags": [said]}, headers=headers),
    "in the place of a redirect": lambda said, headers: reply(
        307, headers={"Location": f"http://[{said.replace(' ', '')}"}
    ),
    "in a second challenge": lambda said, headers: reply(
        401, json={"errors": [{"code": "X", "message": said}]}, headers=headers
    ),
}


@pytest.mark.usefixtures("each_bulk")
@pytest.mark.parametrize("where", ECHOES)
@pytest.mark.parametrize(
    "login", [{"username": USER, "password": PASSWORD}, {"token": TOKEN}], ids=["password", "token"]
)
def test_a_server_that_says_back_what_it_was_shown_has_it_said_to_nobody(tmp_path, logged, where, login):
    """In a log, in the problems of an audit, in its files, and in the text of an error."""
    with Hostile() as server:
        asked = reply(401, headers={"WWW-Authenticate": "Basic realm=x"})
        server.on("GET /v2/", lambda seen: reply(json={}) if seen.header("authorization") else asked)
        server.on("*", lambda seen: ECHOES[where](*echoes(seen)))
        with Registry(server.host, tries=1, **login) as door:
            door.ping()
            found = collect(door, APP, progress=False, cache=None)
            assert found.unread == {APP}
            found.to_csv(tmp_path / "csv")
            found.save(tmp_path / "snapshot")
            with pytest.raises(RegauditError) as refused:
                door.repository(APP).manifest("v1")
    assert any(seen.header("authorization") for seen in server.requests)
    trace = "".join(traceback.format_exception(refused.value))
    for text in (found.problems.to_csv(), found._repr_html_(), logged.getvalue(), trace, repr(refused.value)):
        assert leaks(text) == []
    assert leaks_in(tmp_path) == []


@pytest.mark.usefixtures("each_bulk")
def test_two_decoys_hear_no_secret_wherever_a_registry_sends_us(logged):
    """A redirect of a read, a page, a token server, a blob, an upload, a deletion; with a cookie and a signature besides."""
    with Hostile() as server, Decoy() as first, Decoy() as second:
        # another host to us than 127.0.0.1, which is the registry's own and may have its token server on any port
        there, elsewhere = (f"http://localhost:{decoy.port}" for decoy in (first, second))
        cookie = {"Set-Cookie": f"session={COOKIE}"}
        server.on(
            "GET /v2/",
            reply(401, headers={"WWW-Authenticate": "Basic realm=x", **cookie}),
            reply(json={}, headers=cookie),
        )
        server.on(
            f"GET /v2/{APP}/tags/list",
            reply(
                json={"name": APP, "tags": ["a"]},
                headers={"Link": f"<{second.url}/v2/{APP}/tags/list>; rel=next", **cookie},
            ),
        )
        server.on(f"GET /v2/{APP}/manifests/a", redirect(f"{there}/x?X-Amz-Signature={SIGNATURE}", 307))
        server.on(
            f"GET /v2/{APP}/manifests/b",
            reply(401, headers={"WWW-Authenticate": f'Bearer realm="{elsewhere}/token",service="s"'}),
        )
        server.on(f"DELETE /v2/{APP}/manifests/a", redirect(f"{there}/x", 308))
        server.on("POST /v2/team/app/blobs/uploads/", reply(202, headers={"Location": f"{second.url}/upload"}))
        server.on("*", error(404, "BLOB_UNKNOWN"))
        with Registry(server.host, username=USER, password=PASSWORD, tries=1) as door:
            door.ping()
            collect(door, APP, progress=False, cache=None)
            app = door.repository(APP)
            for attempt in (lambda: app.manifest("b"), lambda: app.delete_tag("a"), lambda: app.upload_blob(b"x")):
                with pytest.raises(RegauditError):
                    attempt()
        for decoy in (first, second):
            heard = decoy.heard.decode("latin-1")
            assert leaks(heard.replace(SIGNATURE, "")) == []
            assert "authorization" not in heard.lower()
            assert "cookie" not in heard.lower()
    assert not any(seen.header("cookie") for seen in server.requests)
    assert leaks(logged.getvalue()) == []


def broken(front, kind):
    fault = {
        "cut": lambda seen, pass_on: Cut(pass_on(), 40),
        "reset": lambda seen, pass_on: Cut(b"", 0, reset=True),
        "busy": lambda seen, pass_on: error(503, "X", Retry_After="99999999"),
        "not http": lambda seen, pass_on: b"SSH-2.0-x\r\n",
        "denied": lambda seen, pass_on: error(403, "DENIED"),
        "too many headers": lambda seen, pass_on: reply(200, headers=[(f"X-{n}", "x") for n in range(150)]),
    }[kind]
    front.rule = lambda seen, pass_on: pass_on() if seen.path == "/v2/" else fault(seen, pass_on)


@pytest.mark.parametrize("driver", ["libcurl", "threads"])
@pytest.mark.parametrize("kind", ["cut", "reset", "busy", "not http", "denied", "too many headers"])
def test_no_fault_carries_a_secret_in_its_text_its_chain_or_its_pickle(logged, driver, kind):
    with (
        Sandbox(users={USER: PASSWORD}, auth="bearer") as server,
        FaultProxy(server.host) as front,
        Registry(front.host, username=USER, password=PASSWORD, tries=1, driver=driver) as door,
    ):
        Pushed(door, APP).image("a", "a")
        issued = [token.value for token in door.session.tokens.values()]
        broken(front, kind)
        found = collect(door, APP, progress=False, cache=None)
        with pytest.raises(RegistryError) as caught:
            door.repository(APP).manifest("a")
    trace = "".join(traceback.TracebackException.from_exception(caught.value, compact=True).format())
    shown = (trace, repr(caught.value), str(vars(caught.value)), found.problems.to_csv(), logged.getvalue())
    for text in shown:
        assert leaks(text, *issued) == []
    assert leaks(pickle.dumps(caught.value).decode("latin-1"), *issued) == []


def test_no_secret_of_a_file_or_a_helper_is_shown_where_it_is_wrong(tmp_path, logged, monkeypatch, capfd):
    """A password in config.json, an identity token, one of a helper, one in a typed address, one for a proxy."""
    folder = tmp_path / "tools"
    folder.mkdir()
    helper = folder / "docker-credential-canary"
    helper.write_text(f'#!/bin/sh\necho \'{{"Username":"alice","Secret":"{HELPER}"}}\'\n')
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    texts = []
    with Sandbox(users={USER: "right"}, auth="bearer") as server, Proxy("who:else") as proxy:
        stored = {
            "password": {"auths": {server.host: {"auth": BASIC}}},
            "identity token": {"auths": {server.host: {"auth": BASIC, "identitytoken": REFRESH}}},
            "helper": {"credHelpers": {server.host: "canary"}},
        }
        for login in stored.values():
            (tmp_path / "docker" / "config.json").write_text(json.dumps(login))
            with Registry(server.host, tries=1) as door:
                texts.append(repr(door.session))
                for question in (door.login, lambda door=door: door.repository(APP).tags()):
                    with pytest.raises(RegauditError) as refused:
                        question()
                    texts.append("".join(traceback.format_exception(refused.value)))
            shown = CliRunner().invoke(main, ["-vv", "audit", f"{server.host}/{APP}", "--out", str(tmp_path / "out")])
            texts.append(shown.output)
        for typed in (f"http://{USER}:{PASSWORD}@{server.host}", f"{USER}:{PASSWORD}@{server.host}/{APP}"):
            with pytest.raises(UsageError) as wrong:
                Registry(typed)
            texts += [
                "".join(traceback.format_exception(wrong.value)),
                CliRunner().invoke(main, ["audit", typed]).output,
            ]
        with Registry(server.host, proxy=f"http://who:{PROXY}@{proxy.host}", tries=1) as door:
            texts += [repr(door), repr(vars(door)), repr(door.session)]
            with suppress(RegauditError):
                door.ping()
    printed = capfd.readouterr()
    for text in (*texts, logged.getvalue(), printed.out, printed.err):
        assert leaks(text) == []


def test_the_search_finds_what_it_is_for(tmp_path):
    (tmp_path / "a").write_bytes(b"\0" + PASSWORD.encode())
    assert leaks_in(tmp_path) == [("a", PASSWORD)]
    assert leaks(f"x{BASIC}y") == [BASIC]
