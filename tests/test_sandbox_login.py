"""Who may do what in the sandbox: Basic, bearer tokens, OAuth2, rights, anonymous pulls."""

import re

import pytest
from door import ABSENT, code

from regaudit.errors import UsageError
from regaudit.sandbox.login import Authority, Login
from regaudit.sandbox.server import Sandbox
from regaudit.sandbox.store import ApiError

ALICE = {"alice": "a"}


def test_basic_refuses_with_a_challenge_and_lets_a_user_in(built):
    door = built(users={"alice": "s3cret:with-colon", "bob": "b"}, auth="basic")
    refused = door("GET", "/v2/")
    assert (refused.status_code, code(refused)) == (401, "UNAUTHORIZED")
    assert re.fullmatch(r'Basic realm="[^"]+"', refused.headers["WWW-Authenticate"])
    assert door("GET", "/v2/", auth=("alice", "b")).status_code == 401
    assert door("GET", "/v2/", auth=("carol", "b")).status_code == 401
    assert door("GET", "/v2/", headers={"Authorization": "Basic !!!"}).status_code == 401
    assert door("GET", "/v2/", auth=("alice", "s3cret:with-colon")).status_code == 200


def test_users_alone_mean_basic(built):
    assert built(users={"alice": "a"})("GET", "/v2/").headers["WWW-Authenticate"].startswith("Basic ")


def test_a_login_that_makes_no_sense_is_a_usage_error():
    with pytest.raises(UsageError, match="users"):
        Sandbox(auth="bearer")
    with pytest.raises(UsageError, match="bearer"):
        Sandbox(users={"alice": "a"}, auth="digest")


def challenge(reply):
    scheme, _, rest = reply.headers["WWW-Authenticate"].partition(" ")
    assert scheme == "Bearer"
    return dict(re.findall(r'(\w+)="([^"]*)"', rest))


def token(door, *scopes, user=("alice", "a")):
    reply = door("GET", "/token", params=[("service", "x"), *(("scope", scope) for scope in scopes)], auth=user)
    assert reply.status_code == 200
    return {"Authorization": f"Bearer {reply.json()['token']}"}


def test_bearer_names_where_to_get_a_token_and_for_what(built):
    door = built(users={"alice": "a"}, auth="bearer")
    named = challenge(door("GET", "tags/list"))
    assert named["realm"] == f"{door.sandbox.url}/token"
    assert named["scope"] == "repository:team/app:pull"
    assert named["service"]
    assert "scope" not in challenge(door("GET", "/v2/"))
    assert challenge(door("GET", "/v2/_catalog"))["scope"] == "registry:catalog:*"
    assert challenge(door("PUT", "manifests/x"))["scope"] == "repository:team/app:pull,push"
    assert challenge(door("DELETE", f"manifests/{ABSENT}"))["scope"] == "repository:team/app:delete"
    mount = challenge(door("POST", f"blobs/uploads/?mount={ABSENT}&from=team/base"))["scope"]
    assert mount == "repository:team/app:pull,push repository:team/base:pull"


def test_a_token_is_given_to_users_only(built):
    door = built(users={"alice": "a"}, auth="bearer")
    for user in (None, ("alice", "wrong")):
        refused = door("GET", "/token", auth=user)
        assert (refused.status_code, refused.headers["WWW-Authenticate"][:6]) == (401, "Basic ")
    reply = door("GET", "/token", auth=("alice", "a")).json()
    assert reply["token"] == reply["access_token"]
    assert reply["expires_in"] >= 60


def test_a_token_is_good_for_its_scopes_and_no_others(built):
    door = built(users={"alice": "a"}, auth="bearer")
    door.sandbox.store.create("team/app")
    pull = token(door, "repository:team/app:pull")
    assert door("GET", "/v2/", headers=pull).status_code == 200
    assert door("GET", "tags/list", headers=pull).status_code == 200
    assert challenge(door("GET", "/v2/team/other/tags/list", headers=pull))["error"] == "insufficient_scope"
    assert challenge(door("POST", "blobs/uploads/", headers=pull))["error"] == "insufficient_scope"
    assert challenge(door("GET", "/v2/_catalog", headers=pull))["error"] == "insufficient_scope"
    assert challenge(door("GET", "tags/list", headers={"Authorization": "Bearer made-up"}))["error"] == "invalid_token"


def test_several_scopes_and_the_star_are_granted_together(built):
    door = built(users={"alice": "a"}, auth="bearer")
    wide = token(door, "repository:team/app:pull,push", "repository:team/base:* registry:catalog:*")
    assert door("POST", "blobs/uploads/", headers=wide).status_code == 202
    assert door("DELETE", f"/v2/team/base/manifests/{ABSENT}", headers=wide).status_code == 404
    assert door("GET", "/v2/_catalog", headers=wide).status_code == 200


def test_revoked_tokens_are_refused_and_a_new_one_works(built):
    door = built(users={"alice": "a"}, auth="bearer")
    old = token(door)
    door.sandbox.revoke_tokens()
    assert challenge(door("GET", "/v2/", headers=old))["error"] == "invalid_token"
    assert door("GET", "/v2/", headers=token(door)).status_code == 200


def test_a_token_ends_with_its_time():
    moment = [0.0]
    authority = Authority(Login(), {"alice": "a"}, "http://x/token", lambda: moment[0])
    reply = authority.issue("Basic YWxpY2U6YQ==", {})
    authority.check(f"Bearer {reply['token']}", ())
    moment[0] = reply["expires_in"]
    with pytest.raises(ApiError, match="authentication"):
        authority.check(f"Bearer {reply['token']}", ())


# What a user may do


def test_a_token_server_grants_what_a_user_has_of_what_was_asked(built):
    rights = {"bob": "repository:team/*:pull registry:catalog:*"}
    door = built(users={**ALICE, "bob": "b"}, auth=Login(rights=rights))
    alice = token(door, "repository:team/app:pull,push", user=("alice", "a"))
    bob = token(door, "repository:team/app:pull,push,delete", "registry:catalog:*", user=("bob", "b"))
    assert door("POST", "blobs/uploads/", headers=alice).status_code == 202
    door.sandbox.store.create("team/app")
    assert door("GET", "tags/list", headers=bob).status_code == 200
    assert door("GET", "/v2/_catalog", headers=bob).status_code == 200
    assert challenge(door("POST", "blobs/uploads/", headers=bob))["error"] == "insufficient_scope"
    elsewhere = token(door, "repository:other/app:pull", user=("bob", "b"))
    assert challenge(door("GET", "/v2/other/app/tags/list", headers=elsewhere))["error"] == "insufficient_scope"


def test_who_asks_for_everything_is_granted_what_there_is(built):
    door = built(users=ALICE, auth=Login(rights={"alice": "repository:team/app:pull,push"}))
    wide = token(door, "repository:team/app:*")
    assert door("POST", "blobs/uploads/", headers=wide).status_code == 202
    assert challenge(door("DELETE", f"manifests/{ABSENT}", headers=wide))["error"] == "insufficient_scope"


def test_a_star_in_the_scope_that_a_client_asks_for_is_no_pattern(built):
    door = built(users=ALICE, auth="bearer")
    odd = token(door, "repository:*:pull")
    assert challenge(door("GET", "tags/list", headers=odd))["error"] == "insufficient_scope"


def test_with_basic_what_a_user_may_not_do_is_denied(built):
    door = built(users={"bob": "b"}, auth=Login(kind="basic", rights={"bob": "repository:*:pull"}))
    door.sandbox.store.create("team/app")
    assert door("GET", "tags/list", auth=("bob", "b")).status_code == 200
    assert door("GET", "/v2/", auth=("bob", "b")).status_code == 200
    for method, path in (("POST", "blobs/uploads/"), ("DELETE", f"manifests/{ABSENT}"), ("GET", "/v2/_catalog")):
        reply = door(method, path, auth=("bob", "b"))
        assert (reply.status_code, code(reply)) == (403, "DENIED")


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_strangers_may_do_what_is_granted_to_everybody_and_are_challenged_for_the_rest(built, kind):
    door = built(users=ALICE, auth=Login(kind=kind, anonymous="repository:*:pull"))
    door.sandbox.store.create("team/app")
    anybody = token(door, "repository:team/app:pull,push", user=None) if kind == "bearer" else {}
    assert door("GET", "tags/list", headers=anybody).status_code == 200
    assert door("POST", "blobs/uploads/", headers=anybody).status_code == 401
    assert door("GET", "/token" if kind == "bearer" else "/v2/", auth=("alice", "wrong")).status_code == 401


def test_everybody_may_be_granted_something_without_any_user(built):
    door = built(auth=Login(anonymous="repository:*:pull"))
    assert door("GET", "/v2/").status_code == 401
    assert door("GET", "/v2/", headers=token(door, user=None)).status_code == 200


def test_where_only_the_star_deletes_the_action_delete_is_never_granted(built):
    door = built(users=ALICE, auth=Login(star_only=True))
    narrow = token(door, "repository:team/app:pull,push,delete")
    refused = challenge(door("DELETE", f"manifests/{ABSENT}", headers=narrow))
    assert (refused["error"], refused["scope"]) == ("insufficient_scope", "repository:team/app:delete")
    assert door("POST", "blobs/uploads/", headers=narrow).status_code == 202
    star = token(door, "repository:team/app:*")
    assert door("DELETE", f"manifests/{ABSENT}", headers=star).status_code == 404


@pytest.mark.parametrize("scope", ["pull", "repository:team/app", "repository::pull", "repository:team/app:"])
def test_a_right_that_is_no_scope_is_a_usage_error(scope):
    with pytest.raises(UsageError, match="no scope"):
        Login(rights={"bob": scope})
    with pytest.raises(UsageError, match="no scope"):
        Login(anonymous=scope)


# How long a token lives


def test_tokens_may_be_short_and_say_so_or_not(built):
    door = built(users=ALICE, auth=Login(token_seconds=2))
    assert door("GET", "/token", auth=("alice", "a")).json()["expires_in"] == 2
    silent = built(users=ALICE, auth=Login(states_expiry=False))
    assert "expires_in" not in silent("GET", "/token", auth=("alice", "a")).json()


def test_a_token_of_no_seconds_is_never_good(built):
    door = built(users=ALICE, auth=Login(token_seconds=0))
    assert challenge(door("GET", "/v2/", headers=token(door)))["error"] == "invalid_token"


def test_what_the_token_endpoint_says_is_not_to_be_kept(built):
    door = built(users=ALICE, auth="bearer")
    assert door("GET", "/token", auth=("alice", "a")).headers["Cache-Control"] == "no-store"


# OAuth2


def post(door, **fields):
    return door("POST", "/token", data={"service": "x", "client_id": "tests", **fields})


def test_a_password_buys_a_token_by_post(built):
    door = built(users=ALICE, auth=Login(rights={"alice": "repository:*:pull,push"}))
    scope = "repository:team/app:pull,push,delete repository:team/base:pull"
    reply = post(door, grant_type="password", username="alice", password="a", scope=scope)
    assert reply.status_code == 200
    assert reply.json()["scope"] == "repository:team/app:pull,push repository:team/base:pull"
    assert set(reply.json()) == {"access_token", "scope", "expires_in"}
    bearer = {"Authorization": f"Bearer {reply.json()['access_token']}"}
    assert door("POST", "blobs/uploads/", headers=bearer).status_code == 202


def test_a_refresh_token_is_given_to_who_asks_and_buys_tokens_until_it_is_revoked(built):
    door = built(users=ALICE, auth="bearer")
    by_post = post(door, grant_type="password", username="alice", password="a", access_type="offline")
    by_get = door("GET", "/token", params={"offline_token": "true"}, auth=("alice", "a"))
    assert "refresh_token" not in door("GET", "/token", auth=("alice", "a")).json()
    for given in (by_post, by_get):
        identity = given.json()["refresh_token"]
        door.sandbox.revoke_tokens()
        reply = post(door, grant_type="refresh_token", refresh_token=identity, scope="registry:catalog:*")
        bearer = {"Authorization": f"Bearer {reply.json()['access_token']}"}
        assert door("GET", "/v2/_catalog", headers=bearer).status_code == 200
    door.sandbox.revoke_tokens(refresh=True)
    reply = post(door, grant_type="refresh_token", refresh_token=identity)
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_grant")


def test_an_identity_token_may_be_good_from_the_start(built):
    door = built(users=ALICE, auth=Login(identity_tokens={"alice": "idt"}))
    assert post(door, grant_type="refresh_token", refresh_token="idt").status_code == 200


def test_strangers_get_no_refresh_token(built):
    door = built(auth=Login(anonymous="repository:*:pull"))
    reply = door("GET", "/token", params={"offline_token": "true"})
    assert (reply.status_code, "refresh_token" in reply.json()) == (200, False)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"grant_type": "password", "username": "alice", "password": "wrong"}, "invalid_grant"),
        ({"grant_type": "refresh_token"}, "invalid_grant"),
        ({"grant_type": "implicit"}, "unsupported_grant_type"),
        ({"grant_type": "password", "service": ""}, "invalid_request"),
        ({}, "invalid_request"),
    ],
)
def test_what_oauth2_refuses_is_400_with_its_word_for_it(built, fields, error):
    reply = post(built(users=ALICE, auth="bearer"), **fields)
    assert (reply.status_code, reply.json()["error"]) == (400, error)


def test_a_token_server_may_know_get_alone(built):
    door = built(users=ALICE, auth=Login(oauth2=False))
    assert post(door, grant_type="password", username="alice", password="a").status_code == 404
    assert door("GET", "/v2/", headers=token(door)).status_code == 200
