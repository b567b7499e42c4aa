"""What a login comes to, against the sandbox and against registries that answer by script."""

from __future__ import annotations

import base64
import json
import pickle
from dataclasses import replace

import pytest
from hostile import Talk, answer, session, talk
from hypothesis import given
from hypothesis import strategies as st
from test_auth import BASIC, REALM, alice, challenge, challenge_at, granted, shown

from regaudit.client.credentials import Credentials
from regaudit.client.login import Login, login
from regaudit.client.registry import Registry
from regaudit.client.tokens import granted_scopes
from regaudit.errors import AccessDenied, AuthenticationFailed, NotARegistry, RegauditError, UsageError
from regaudit.sandbox.server import Sandbox

SCOPE = "repository:team/app:pull,push"
WRONG = "the user name or password was not accepted (given): check username= and password=, -u USER"


def jwt(claims):
    """Return a token with some claims that nobody has signed."""
    raw = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return f"e30.{base64.urlsafe_b64encode(raw).decode().rstrip('=')}.c2ln"


def access(*entries):
    return {"access": [{"type": kind, "name": name, "actions": list(actions)} for kind, name, actions in entries]}


def basic_challenge(status=401):
    return answer(status, headers={"WWW-Authenticate": 'Basic realm="x"'})


# -- every kind of registry ------------------------------------------------------------------


def test_basic_credentials_are_accepted_or_not():
    with Sandbox(users={"alice": "secret"}, auth="basic") as server:
        with Registry(server.host, username="alice", password="secret") as registry:
            assert registry.login() == Login(200, "basic", "alice")
            assert registry.login(SCOPE) == Login(200, "basic", "alice", scope=SCOPE)
        with Registry(server.host, username="alice", password="wr0ng") as registry:
            with pytest.raises(AuthenticationFailed) as caught:
                registry.login()
            assert WRONG in str(caught.value)
            assert "wr0ng" not in f"{caught.value!r} {caught.value.__dict__}"
        with Registry(server.host) as registry, pytest.raises(AccessDenied, match="username="):
            registry.login()


def test_a_token_server_accepts_the_credentials_and_the_registry_the_token():
    with Sandbox(users={"alice": "secret"}, auth="bearer") as server:
        with Registry(server.host, username="alice", password="secret") as registry:
            found = registry.login(SCOPE)
            assert (found.status, found.scheme, found.username, found.scope) == (200, "bearer", "alice", SCOPE)
            assert found.realm == f"http://{server.host}/token"
            assert (found.granted, found.missing) == (None, None), "the token is not one that can be read"
        with (
            Registry(server.host, username="alice", password="wr0ng") as registry,
            pytest.raises(AuthenticationFailed, match="check username="),
        ):
            registry.login()


def test_an_open_registry_needs_no_login(sandbox):
    with Registry(sandbox.host) as registry:
        assert registry.login() == Login(200, "none")


def test_a_registry_that_lets_anybody_read_is_shown_the_password_all_the_same():
    """A wrong one shall not wait for the first push."""
    found, driver = talk(login(alice()), answer(200), answer(200))
    assert (found, shown(driver)) == (Login(200, "none"), [None, BASIC])
    with pytest.raises(AuthenticationFailed, match="check username="):
        talk(login(alice()), answer(200), basic_challenge())
    found, _ = talk(login(alice()), answer(200), challenge())
    assert found.scheme == "none", "it wants a token, and has not looked at the password"


def test_an_unasked_password_does_not_travel_in_the_clear():
    found, driver = talk(login(alice(scheme="http")), answer(200))
    assert (found.scheme, shown(driver)) == ("none", [None])


def test_what_is_no_registry_is_no_login():
    with pytest.raises(NotARegistry):
        talk(login(alice()), answer(200, b"<html>", headers={"Content-Type": "text/html"}))
    with pytest.raises(RegauditError):
        talk(login(alice()), answer(404))


def test_a_token_that_the_registry_does_not_accept_is_no_login():
    with pytest.raises(AccessDenied):
        talk(login(alice()), challenge(), granted(), challenge())


def test_credentials_that_the_token_server_has_not_seen_are_no_login():
    elsewhere = "https://tokens.example/t"
    with pytest.raises(AccessDenied, match=r"not shown the credentials: .*trusted_realms=\['tokens\.example'\]"):
        talk(login(alice()), challenge(elsewhere), granted(), answer(200))
    found, _ = talk(login(alice(trusted_realms=["tokens.example"])), challenge(elsewhere), granted(), answer(200))
    assert found.username == "alice"


def test_an_identity_token_that_cannot_be_used_is_no_login():
    ours = session(credentials=Credentials(identity_token="refresh-canary", source="docker-credential-x"))
    with pytest.raises(AuthenticationFailed, match=r"takes no identity token \(docker-credential-x\): give") as caught:
        talk(login(ours), challenge(), answer(404))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        (
            Credentials("a", "b", source="REGAUDIT_USERNAME", remedy="check X"),
            r"password was not .*\(REGAUDIT_.*: check X",
        ),
        (Credentials(identity_token="b"), "identity token was not accepted"),
    ],
)
def test_a_refused_login_names_the_source_and_the_remedy(credentials, message):
    with pytest.raises(AuthenticationFailed, match=message):
        talk(login(session(credentials=credentials)), challenge(), answer(401))


def test_a_login_asks_anew_and_not_for_an_example():
    """A token from before proves nothing, and no right is needed at /v2/, whatever scope is named there."""
    ours = alice()
    example = challenge(scope="repository:user/image:pull")
    for _ in range(2):
        ours.token_server = None
        _, driver = talk(login(ours, SCOPE), example, granted(), answer(200))
        assert [request.url.partition("scope=")[2] for request in driver.requests] == [
            "",
            "repository%3Ateam%2Fapp%3Apull%2Cpush",
            "",
        ]


# -- what was granted ------------------------------------------------------------------------


def test_a_tokens_own_claims_say_what_is_granted_and_else_the_reply():
    claims = access(("repository", "team/app", ["pull"]), ("repository", "other", []))
    for reply, expected in (
        ({"token": jwt(claims)}, ("repository:team/app:pull",)),
        ({"token": jwt(claims), "scope": SCOPE}, ("repository:team/app:pull",)),
        ({"token": jwt({"access": None})}, ()),
        ({"token": "opaque", "scope": f"{SCOPE} registry:catalog:*"}, (SCOPE, "registry:catalog:*")),
        ({"token": jwt({"sub": "x"}), "scope": SCOPE}, (SCOPE,)),
        ({"token": "opaque"}, None),
    ):
        found, _ = talk(login(alice(), SCOPE), challenge(), answer(json=reply), answer(200))
        assert found.granted == expected, reply


@pytest.mark.parametrize(
    ("asked", "given", "missing"),
    [
        (SCOPE, (SCOPE,), ()),
        (SCOPE, ("repository:team/app:push,pull",), ()),
        (SCOPE, ("repository:team/app:pull", "repository:team/app:push"), ()),
        (SCOPE, ("repository:team/app:pull",), ("repository:team/app:push",)),
        (SCOPE, ("repository:team/app:*",), ()),
        (SCOPE, ("repository:team/application:pull,push",), (SCOPE,)),
        ("repository:a:*", ("repository:a:pull",), ("repository:a:*",)),
        ("repository:h:5000/a:pull registry:catalog:*", (), ("repository:h:5000/a:pull", "registry:catalog:*")),
        (None, (), ()),
        (SCOPE, None, None),
    ],
)
def test_what_is_missing_is_what_was_asked_for_and_not_granted(asked, given, missing):
    assert Login(200, "bearer", scope=asked, granted=given).missing == missing


ENTRIES = st.dictionaries(
    st.sampled_from(["type", "name", "actions"]), st.none() | st.integers() | st.text() | st.lists(st.text())
)


@given(
    st.binary(max_size=200) | st.lists(ENTRIES | st.none()).map(lambda value: json.dumps({"access": value}).encode())
)
def test_any_token_has_scopes_or_none(raw):
    found = granted_scopes(jwt(raw))
    assert found is None or all(isinstance(scope, str) and "\n" not in scope for scope in found)


@pytest.mark.parametrize(
    "scope", ["", " ", "pull", "repository:team/app", "repository:a b:pull", "x:y:z\r\nX: 1", "a:b:PULL"]
)
def test_a_scope_that_is_none_is_refused_before_anything_is_sent(scope):
    with pytest.raises(UsageError, match="write for example repository:team/app:pull,push"):
        talk(login(alice(), scope), answer(500))


@pytest.mark.parametrize(
    "scope", ["registry:catalog:*", "repository:h:5000/a:pull", "repository(plugin):a/b:pull,push", "a:b:pull c:d:*"]
)
def test_every_kind_of_scope_can_be_asked_for(scope):
    found, driver = talk(login(alice(), scope), challenge(), granted(), answer(200))
    assert found.scope == scope
    assert driver.requests[1].url.startswith(f"{REALM}?service=s&scope=")
    assert driver.requests[1].url.count("scope=") == len(scope.split())


def test_a_login_holds_no_secret_and_can_be_kept():
    token = jwt(access(("repository", "team/app", ["pull", "push"])))
    found, _ = talk(login(alice(), SCOPE), challenge(), granted(token), answer(200))
    assert pickle.loads(pickle.dumps(found)) == found
    everything = f"{found!r} {found} {json.dumps(found.to_dict())}"
    assert token not in everything
    assert "secret" not in everything
    assert found.to_dict()["granted"] == [SCOPE]


# -- the lock-out ----------------------------------------------------------------------------


@pytest.mark.parametrize("asks", ["token", "basic"])
def test_wrong_credentials_are_shown_once_in_a_minute(asks):
    """Whoever asks a thousand times must not lock the account out."""
    ours = alice()
    for at, times in ((0.0, 1), (30.0, 0), (61.0, 1)):
        no = challenge_at(at) if asks == "token" else replace(basic_challenge(), at=at)
        driver = Talk([lambda request, at=at, no=no: answer(401, at=at) if "/token" in request.url else no])
        with pytest.raises(AuthenticationFailed):
            driver.run(login(ours))
        assert shown(driver).count(BASIC) == times, at
