"""Proving who asks: challenges, tokens, and the credentials that go to nobody else."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import time
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from hostile import PUBLIC, Talk, answer, error, reply, session, talk
from hypothesis import example, given
from hypothesis import strategies as st

from regaudit.client import v2
from regaudit.client.auth import ask, delete_scopes, refusal, repository_scope
from regaudit.client.challenges import parse_challenges
from regaudit.client.credentials import Credentials
from regaudit.client.exchange import Once, Request
from regaudit.client.registry import Registry
from regaudit.errors import (
    AccessDenied,
    AuthenticationFailed,
    BadResponse,
    NotFound,
    RegauditError,
    RegistryError,
    TooLarge,
    UnexpectedStatus,
    Unreachable,
)
from regaudit.sandbox.server import Sandbox

ALICE = {"alice": "secret"}
BASIC = "Basic " + base64.b64encode(b"alice:secret").decode()
PULL = repository_scope("team/app", "pull")
REALM = "https://registry.example/token"


def challenge(realm=REALM, **parameters):
    extra = "".join(f',{name}="{value}"' for name, value in {"service": "s", **parameters}.items())
    return answer(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"{extra}'})


def granted(token="t1", **fields):
    return answer(json={"token": token, **fields})


def read(ours, scopes=(PULL,), method="GET"):
    return ask(ours, Request(method, ours.url("/v2/team/app/tags/list"), "tags"), scopes)


def alice(**options):
    return session(credentials=Credentials("alice", "secret"), **options)


def shown(driver):
    return [request.headers.get("Authorization") for request in driver.requests]


def paths(sandbox, path="/token"):
    return [status for _, own, status in sandbox.requests if own == path]


# -- the parser ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (['Bearer realm="https://a/t",service="s",scope="x:y:z"'], [("bearer", "https://a/t")]),
        (["Basic realm=plain"], [("basic", "plain")]),
        (['Basic realm="a, b", Bearer realm="https://a/t"'], [("basic", "a, b"), ("bearer", "https://a/t")]),
        (["Negotiate, Basic realm=x", 'BEARER REALM = "y"'], [("negotiate", None), ("basic", "x"), ("bearer", "y")]),
        ([r'Basic realm="a \"quoted\" \\ name"'], [("basic", 'a "quoted" \\ name')]),
        (['Bearer realm="a",realm="b"'], [("bearer", "a")]),
        (['Bearer realm="a"', 'Bearer realm="b"'], [("bearer", "a"), ("bearer", "b")]),
        (["Bearer"], [("bearer", None)]),
        (['Basic   ,,, realm="x"'], [("basic", "x")]),
    ],
)
def test_challenges_are_parsed_as_rfc_9110_writes_them(values, expected):
    assert [(c.scheme, c.parameters.get("realm")) for c in parse_challenges(values)] == expected


@pytest.mark.parametrize("text", ['Bearer realm="unclosed', "=", "realm=x", '"', ",,,", "", "\x00\xff", "é=ü"])
def test_a_challenge_that_is_none_is_passed_over(text):
    assert not [c for c in parse_challenges([text]) if c.parameters]


_TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=12)
_VALUE = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=40)


@given(st.lists(st.tuples(_TOKEN, st.dictionaries(_TOKEN.map(str.lower), _VALUE, min_size=1, max_size=4)), max_size=4))
def test_what_was_written_as_challenges_is_read_as_them(challenges):
    def quoted(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} {', '.join(f'{name}={quoted(value)}' for name, value in fields.items())}"
        for scheme, fields in challenges
    )
    found = [(c.scheme, dict(c.parameters)) for c in parse_challenges([header])]
    assert found == [(scheme.lower(), fields) for scheme, fields in challenges]


@given(st.text(max_size=300) | st.text(' \t",=\\abBearer', max_size=300))
@example(" " * 100_000)
@example("a" + " " * 100_000)
@example('a="' + "\\" * 100_000)
@example("a= " * 50_000)
@example('Bearer realm="' * 10_000)
def test_no_challenge_takes_long_or_raises(text):
    started = time.monotonic()
    parse_challenges([text])
    assert time.monotonic() - started < 1


# -- against a registry that asks for a login ------------------------------------------------


@pytest.mark.parametrize("kind", ["basic", "bearer"])
class TestLogin:
    """The same from outside, whichever way the registry asks."""

    @pytest.fixture
    def guarded(self, kind, sample):
        with Sandbox(users=ALICE, auth=kind) as server:
            server.store.load(sample)
            yield server

    def test_the_right_password_opens_every_endpoint(self, guarded, sample):
        charts = sample.repository("charts/checkout")
        with Registry(guarded.host, username="alice", password="secret") as registry:
            assert registry.ping().status == 200
            assert "charts/checkout" in registry.catalog()
            repository = registry.repository("charts/checkout")
            assert sorted(repository.tags()) == sorted(charts.tags)
            manifest = repository.manifest("0.9.0")
            assert manifest.digest == repository.head("0.9.0").digest == charts.tags["0.9.0"]
            assert repository.blob_size(manifest.config.digest) == manifest.config.size
            assert repository.referrers(manifest.digest) == ()
            assert repository.delete_manifest(manifest.digest) == 202
            digest = repository.upload_blob(b"new")
            assert repository.blob_size(digest) == 3

    def test_a_wrong_password_fails_at_ping(self, guarded):
        with (
            Registry(guarded.host, username="alice", password="wrong") as registry,
            pytest.raises(AuthenticationFailed, match="check"),
        ):
            registry.ping()

    def test_a_wrong_password_never_looks_like_not_found(self, guarded):
        with Registry(guarded.host, username="alice", password="wrong") as registry:
            for question in (registry.catalog, registry.repository("charts/checkout").tags):
                with pytest.raises(AuthenticationFailed):
                    question()
            with pytest.raises(AuthenticationFailed):
                registry.repository("charts/checkout").head("0.9.0")

    def test_without_credentials_the_message_says_how_to_give_them(self, guarded):
        with Registry(guarded.host) as registry, pytest.raises(AccessDenied, match="username="):
            registry.repository("charts/checkout").tags()

    def test_no_secret_is_in_what_is_shown_or_logged(self, guarded, caplog):
        with caplog.at_level(logging.DEBUG), Registry(guarded.host, username="alice", password="wr0ng") as registry:
            with pytest.raises(AuthenticationFailed) as caught:
                registry.ping()
            everything = f"{registry!r} {registry.session!r} {caught.value!r} {caught.value.__dict__} {caplog.text}"
        assert "wr0ng" not in everything
        assert base64.b64encode(b"alice:wr0ng").decode() not in everything

    def test_the_environments_credentials_are_used(self, guarded, monkeypatch):
        monkeypatch.setenv("REGAUDIT_USERNAME", "alice")
        monkeypatch.setenv("REGAUDIT_PASSWORD", "secret")
        with Registry(guarded.host) as registry:
            assert registry.ping().status == 200


def test_basic_is_shown_with_each_request_after_one_challenge(sample):
    with Sandbox(users=ALICE, auth="basic") as server, Registry(server.host, username="alice", password="secret") as r:
        for _ in range(3):
            r.ping()
        assert [status for _, _, status in server.requests] == [401, 200, 200, 200]


def test_a_token_is_asked_for_once_for_each_scope():
    with Sandbox(users=ALICE, auth="bearer") as server, Registry(server.host, username="alice", password="secret") as r:
        server.store.put_blob("team/app", b"x")
        server.store.put_blob("team/other", b"x")
        for name in ("team/app", "team/app", "team/other", "team/app"):
            r.repository(name).tags()
        assert paths(server) == [200, 200]
        assert paths(server, "/v2/team/app/tags/list") == [401, 200, 200, 200]
        # the second scope is known to be needed: nothing is asked in vain
        assert paths(server, "/v2/team/other/tags/list") == [200]


def test_a_token_that_expires_in_the_middle_is_renewed_once_and_the_listing_is_whole():
    with (
        Sandbox(users=ALICE, auth="bearer", page=100) as server,
        Registry(server.host, username="alice", password="secret") as registry,
    ):
        for number in range(1000):
            server.store.set_tag("team/app", f"v{number:04}", "sha256:" + "0" * 64)

        def expire(found):
            if found == 500:
                server.revoke_tokens()

        listing = registry.run(v2.tags(registry.session, "team/app", progress=expire))
        assert listing.error is None
        assert list(listing.names) == [f"v{number:04}" for number in range(1000)]
        assert paths(server) == [200, 200]
        assert paths(server, "/v2/team/app/tags/list").count(401) == 2


# -- tokens ----------------------------------------------------------------------------------


def test_the_token_server_sees_service_scope_and_password_and_the_registry_only_the_token():
    response, driver = talk(read(alice()), challenge(service="reg istry"), granted("t1"), answer(200, b"x"))
    assert response.body == b"x"
    assert shown(driver) == [None, BASIC, "Bearer t1"]
    url = urlsplit(driver.requests[1].url)
    assert (url.scheme, url.netloc, url.path) == ("https", "registry.example", "/token")
    assert parse_qs(url.query) == {"service": ["reg istry"], "scope": [PULL]}


def test_a_realm_with_a_query_keeps_it():
    _, driver = talk(read(alice()), challenge(REALM + "?a=1"), granted(), answer(200))
    assert parse_qs(urlsplit(driver.requests[1].url).query)["a"] == ["1"]


def test_the_scope_that_the_registry_names_is_the_one_asked_for():
    _, driver = talk(read(alice()), challenge(scope="repository:team/app:metadata"), granted(), answer(200))
    assert parse_qs(urlsplit(driver.requests[1].url).query)["scope"] == ["repository:team/app:metadata"]


def test_access_token_comes_before_token():
    _, driver = talk(read(alice()), challenge(), granted("one", access_token="two"), answer(200))
    assert shown(driver)[-1] == "Bearer two"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html>",
        b'{"token":""}',
        b'{"token":5}',
        b'{"token":["x"]}',
        b'{"token":"a\\r\\nX: y"}',
        b'{"token":"a b"}',
        '{"token":"\u00fc"}'.encode(),
        b'{"token":"x","expires_in":' + b"9" * 5000 + b"}",
        b"[" * 60_000,
        b'\xef\xbb\xbf{"token":"x"}',
    ],
)
def test_a_token_that_cannot_be_sent_is_refused(body):
    driver = Talk([challenge(), answer(200, body)])
    with pytest.raises(BadResponse, match="no usable token"):
        driver.run(read(alice()))
    assert len(driver.requests) == 2


@pytest.mark.parametrize(
    ("expires_in", "life"),
    [
        ("absent", 60),
        (None, 60),
        (0, 60),
        (-5, 60),
        (1, 60),
        ("300", 60),
        (True, 60),
        ([], 60),
        (300, 300),
        (299.5, 299.5),
        (1e9, 86400),
        (10**18, 86400),
        (1e308, 86400),
    ],
)
def test_expires_in_is_held_between_a_minute_and_a_day_and_renewed_five_seconds_early(expires_in, life):
    ours = alice()
    fields = {} if expires_in == "absent" else {"expires_in": expires_in}
    talk(read(ours), challenge(), answer(json={"token": "t1", **fields}, at=1000.0), answer(200, at=1000.5))
    assert ours.tokens[PULL].renew_at == pytest.approx(1000 + life - 5)


def test_a_token_is_renewed_when_its_time_is_up_and_not_before():
    ours = alice()
    talk(read(ours), challenge(), answer(json={"token": "t1", "expires_in": 100}, at=10.0), answer(200, at=10.0))
    _, driver = talk(read(ours), answer(200, at=104.9))
    assert shown(driver) == ["Bearer t1"]
    ours.now = 105.1
    _, driver = talk(read(ours), answer(json={"token": "t2"}, at=105.5), answer(200, at=106.0))
    assert shown(driver) == [BASIC, "Bearer t2"]


def test_a_clock_that_stood_still_costs_one_401():
    """After an idle hour nobody has told the time; the stale token is refused once and renewed."""
    ours = alice()
    talk(read(ours), challenge(), answer(json={"token": "t1"}, at=0.0), answer(200, at=0.0))
    response, driver = talk(read(ours), challenge_at(3600.0), answer(json={"token": "t2"}, at=3600.5), answer(200))
    assert response.status == 200
    assert shown(driver) == ["Bearer t1", BASIC, "Bearer t2"]


def test_two_who_need_the_same_token_ask_for_it_together():
    ours = alice()
    driver = Talk([challenge(), granted(), answer(200)])
    driver.run(read(ours))
    assert [once.key for once in driver.onces] == [("token", PULL)]
    assert isinstance(driver.onces[0], Once)


def test_who_comes_second_uses_the_token_of_the_first():
    """Both were refused with t1; the first has put t2 into the session before the second asks."""
    ours = alice()
    talk(read(ours), challenge(), granted("t1"), answer(200))

    def meanwhile(request):
        talk(read(ours), challenge(), granted("t2"), answer(200))
        return challenge()

    _, driver = talk(read(ours), meanwhile, answer(200))
    assert shown(driver) == ["Bearer t1", "Bearer t2"]


def test_an_endless_401_costs_two_attempts_then_one_and_one_token():
    ours = alice()
    forever = Talk([lambda request: granted() if "/token" in request.url else challenge()])
    for _ in range(20):
        assert forever.run(read(ours)).status == 401
    urls = [request.url for request in forever.requests]
    assert sum("/token" in url for url in urls) == 1
    assert len(urls) == 22


def test_a_minute_after_an_endless_401_a_new_token_is_tried():
    ours = alice()
    for at, requests in ((0.0, 3), (30.0, 1), (100.0, 3)):
        new = answer(json={"token": f"t{at:.0f}"}, at=at)
        forever = Talk([lambda r, at=at, new=new: new if "/token" in r.url else challenge_at(at)])
        forever.run(read(ours))
        assert len(forever.requests) == requests, at


def challenge_at(at, **options):
    made = challenge(**options)
    return answer(401, headers=made.headers, at=at)


def test_a_401_after_a_token_was_given_is_a_lack_of_rights_and_not_a_wrong_password():
    ours = alice()
    response, _ = talk(read(ours), challenge(), granted(), challenge(error="insufficient_scope"))
    problem = refusal(ours, response, "deleting x")
    assert isinstance(problem, AccessDenied)
    assert "ask for the right" in str(problem)


def test_wrong_credentials_are_shown_to_a_token_server_once_and_not_for_every_repository():
    """A thousand repositories are a thousand scopes: a thousand wrong passwords would lock the account."""
    ours = alice()
    no = Talk([lambda request: answer(401) if "/token" in request.url else challenge()])
    for number in range(50):
        with pytest.raises(AuthenticationFailed, match=r"not accepted \(given\)"):
            no.run(read(ours, (repository_scope(f"team/app{number}", "pull"),)))
    assert sum("/token" in request.url for request in no.requests) == 1


def test_a_refusal_is_believed_for_a_minute_and_then_tried_again():
    """Also in a session in which nothing else tells the time."""
    ours = alice()
    for at, tokens in ((0.0, 1), (30.0, 0), (61.0, 1)):
        no = Talk([lambda r, at=at: answer(401, at=at) if "/token" in r.url else challenge_at(at)])
        with pytest.raises(AuthenticationFailed):
            no.run(read(ours))
        assert sum("/token" in request.url for request in no.requests) == tokens, at
    response, _ = talk(read(ours), challenge_at(200.0), answer(json={"token": "t1"}, at=200.0), answer(200))
    assert response.status == 200


@pytest.mark.parametrize(
    ("answered", "kind"),
    [
        (answer(500), UnexpectedStatus),
        (answer(302, headers={"Location": "https://evil.example/"}), UnexpectedStatus),
        (answer(404), NotFound),
        (Unreachable("down"), Unreachable),
        (TooLarge("big"), TooLarge),
    ],
)
def test_what_a_token_server_does_wrong_is_the_error_of_the_request(answered, kind):
    ours, driver = alice(), Talk([challenge(), answered])
    with pytest.raises(kind) as first:
        driver.run(read(ours))
    assert not any("evil" in request.url for request in driver.requests)
    again = Talk([challenge()])  # whose token server is not asked within a minute
    with pytest.raises(kind) as second:
        again.run(read(ours))
    assert second.value is first.value
    assert len(again.requests) == 1


def test_an_identity_token_does_not_follow_a_redirect():
    ours = session(credentials=Credentials(identity_token="refresh"))
    driver = Talk([challenge(), answer(307, headers={"Location": "https://registry.example/elsewhere"})])
    with pytest.raises(UnexpectedStatus):
        driver.run(read(ours))
    assert [request.url for request in driver.requests[1:]] == [REALM]


def test_a_token_of_a_megabyte_is_not_read_to_its_end(hostile):
    hostile.on("GET /v2/", reply(401, headers={"WWW-Authenticate": f'Bearer realm="{hostile.url}/token"'}))
    hostile.on("GET /token", reply(json={"token": "x" * (1 << 20)}))
    with Registry(hostile.host) as registry, pytest.raises(TooLarge, match="larger than 65,536 bytes"):
        registry.ping()
    assert len(hostile.requests) == 2


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(hours):
    """What counts is how long a token lives, from when it came: nobody's time of day is believed."""
    claims = {"exp": time.time() + hours * 3600, "iat": time.time() + hours * 3600 - 300}
    token = f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"
    ours = alice()
    talk(read(ours), challenge(), answer(json={"token": token, "expires_in": 300}, at=10.0), answer(200, at=10.0))
    assert ours.tokens[PULL].renew_at == 305
    _, driver = talk(read(ours), answer(200, at=300.0))
    assert shown(driver) == [f"Bearer {token}"]


def test_a_403_of_the_token_server_without_a_scope_is_a_wrong_password():
    driver = Talk([challenge(), error_answer(403, "DENIED")])
    with pytest.raises(AuthenticationFailed):
        driver.run(read(alice(), ()))


def test_a_403_of_the_token_server_for_a_scope_is_a_lack_of_rights():
    driver = Talk([challenge(), error_answer(403, "DENIED")])
    with pytest.raises(AccessDenied):
        driver.run(read(alice()))


def error_answer(status, code):
    return answer(status, json={"errors": [{"code": code}]})


# -- scopes ----------------------------------------------------------------------------------


def scopes_asked(driver):
    return [
        parse_qs(urlsplit(request.url).query).get("scope", [""])[0]
        for request in driver.requests
        if "/token" in request.url
    ]


def test_a_deletion_tries_the_scopes_from_the_narrowest_on():
    ours = alice()
    scopes = delete_scopes("team/app")

    def server(request):
        if "/token" in request.url:
            return granted("star" if ":*" in request.url or "%2A" in request.url else "less")
        return answer(202) if request.headers.get("Authorization") == "Bearer star" else challenge()

    driver = Talk([server])
    assert driver.run(read(ours, scopes, "DELETE")).status == 202
    assert scopes_asked(driver) == [f"repository:team/app:{a}" for a in ("pull,delete", "pull,push,delete", "*")]


def test_a_token_server_that_refuses_an_unknown_scope_is_asked_for_the_next():
    def server(request):
        if "/token" in request.url:
            return granted("star") if request.url.endswith("%3A%2A") else error_answer(403, "DENIED")
        return answer(202) if request.headers.get("Authorization") == "Bearer star" else challenge()

    assert Talk([server]).run(read(alice(), delete_scopes("team/app"), "DELETE")).status == 202


def test_fewer_rights_than_asked_for_are_a_denial_in_the_end():
    def server(request):
        return granted("pull-only") if "/token" in request.url else challenge(error="insufficient_scope")

    ours = alice()
    driver = Talk([server])
    response = driver.run(read(ours, delete_scopes("team/app"), "DELETE"))
    assert response.status == 401
    assert isinstance(refusal(ours, response, "x"), AccessDenied)
    assert len(driver.requests) <= 3 * 3, "at most two attempts and a token for each scope"


def test_a_registry_without_a_login_is_asked_once_for_a_deletion_that_it_denies():
    driver = Talk([answer(403)])
    assert driver.run(read(session(), delete_scopes("team/app"), "DELETE")).status == 403
    assert len(driver.requests) == 1


def star_only(request):
    """Answer as a registry whose token server gives the right to delete only to who asks for everything."""
    if "/token" in request.url:
        return granted("star" if request.url.endswith("%2A") else request.url.rpartition("%3A")[2])
    allowed = request.headers.get("Authorization") == "Bearer star"
    return answer(202) if allowed else challenge(scope="repository:team/app:delete")


def test_the_scope_that_the_registry_names_comes_first_and_each_is_asked_for_once():
    driver = Talk([star_only])
    assert driver.run(read(alice(), delete_scopes("team/app"), "DELETE")).status == 202
    assert scopes_asked(driver) == ["repository:team/app:delete", *delete_scopes("team/app")]


def test_a_named_scope_that_is_one_of_our_own_is_asked_for_first_and_not_once_more_at_its_turn():
    def stubborn(request):
        return granted(request.url) if "/token" in request.url else challenge(scope=widest)

    *narrower, widest = delete_scopes("team/app")
    driver = Talk([stubborn])
    assert driver.run(read(alice(), delete_scopes("team/app"), "DELETE")).status == 401
    assert scopes_asked(driver) == [widest, *narrower]


def test_the_scope_that_worked_is_the_one_asked_for_the_next_time():
    """And when its token has ended."""
    ours = alice()
    Talk([star_only]).run(read(ours, delete_scopes("team/app"), "DELETE"))
    again = Talk([star_only])
    again.run(read(ours, delete_scopes("team/app"), "DELETE"))
    assert shown(again) == ["Bearer star"]
    ours.now = 100.0
    later = Talk([lambda request: replace(star_only(request), at=100.0)])
    later.run(read(ours, delete_scopes("team/app"), "DELETE"))
    assert (shown(later), scopes_asked(later)) == ([BASIC, "Bearer star"], [delete_scopes("team/app")[-1]])


def test_a_revoked_token_of_the_widest_scope_is_renewed_without_climbing_again():
    ours = alice()
    Talk([star_only]).run(read(ours, delete_scopes("team/app"), "DELETE"))

    def revoked(request):
        if "/token" in request.url:
            return granted("new")
        allowed = request.headers.get("Authorization") == "Bearer new"
        return answer(202) if allowed else challenge(scope="repository:team/app:delete")

    driver = Talk([revoked])
    assert driver.run(read(ours, delete_scopes("team/app"), "DELETE")).status == 202
    assert scopes_asked(driver) == [delete_scopes("team/app")[-1]]
    assert len(driver.requests) == 3


def test_a_403_to_a_token_is_answered_with_a_wider_one_and_never_with_the_same_again():
    ours = alice()
    _, driver = talk(read(ours), challenge(), granted(), answer(403))
    assert len(driver.requests) == 3
    driver = Talk([lambda request: granted(request.url) if "/token" in request.url else answer(403)])
    assert driver.run(read(ours, delete_scopes("team/app"), "DELETE")).status == 403
    assert scopes_asked(driver) == list(delete_scopes("team/app"))


@pytest.mark.parametrize("scopes", [(PULL,), delete_scopes("team/app")])
def test_a_registry_that_names_another_scope_each_time_is_listened_to_once(scopes):
    number = itertools.count()

    def never(request):
        if "/token" in request.url:
            return granted(f"t{next(number)}")
        return challenge(scope=f"repository:team/app:x{next(number)}")

    driver = Talk([never])
    assert driver.run(read(alice(), scopes)).status == 401
    assert len(scopes_asked(driver)) == len(scopes) + 1


def test_an_upload_that_begins_with_a_look_asks_at_once_for_what_the_push_needs():
    push = repository_scope("team/app", "pull,push")
    _, driver = talk(read(alice(), (push,)), challenge(scope=PULL), granted(), answer(404))
    assert scopes_asked(driver) == [push]


def test_where_no_right_is_needed_a_named_scope_is_an_example():
    _, driver = talk(read(alice(), ()), challenge(scope="repository:user/image:pull"), granted(), answer(200))
    assert scopes_asked(driver) == [""]


def test_basic_that_was_accepted_and_is_refused_later_is_a_matter_of_rights():
    """One repository that is closed to this user does not shut the others."""
    basic = answer(401, headers={"WWW-Authenticate": "Basic realm=x"})
    ours = alice()
    talk(read(ours), basic, answer(200))
    response, _ = talk(read(ours), basic)
    problem = refusal(ours, response, "reading x")
    assert isinstance(problem, AccessDenied)
    assert "ask for the right" in str(problem)
    _, driver = talk(read(ours), answer(200))
    assert shown(driver) == [BASIC]


def test_a_registry_that_turns_from_tokens_to_basic_is_shown_the_password_from_then_on():
    """Somebody has put it behind another door while an audit runs."""
    basic = answer(401, headers={"WWW-Authenticate": "Basic realm=x"})
    ours = alice()
    talk(read(ours), challenge(), granted("t1"), answer(200))
    response, driver = talk(read(ours), basic, answer(200))
    assert response.status == 200
    assert shown(driver) == ["Bearer t1", BASIC]
    _, driver = talk(read(ours), answer(200))
    assert shown(driver) == [BASIC]


def test_wrong_basic_credentials_are_shown_once_and_not_for_every_repository():
    driver = Talk([answer(401, headers={"WWW-Authenticate": "Basic realm=x"})])
    ours = alice()
    for number in range(50):
        response = driver.run(read(ours, (repository_scope(f"team/app{number}", "pull"),)))
        assert isinstance(refusal(ours, response, "x"), AuthenticationFailed)
    assert shown(driver).count(BASIC) == 1


def test_who_is_nobody_and_gets_no_token_is_told_so_once_in_a_minute():
    ours = session()
    driver = Talk([lambda request: answer(401) if "/token" in request.url else challenge()])
    for _ in range(20):
        assert driver.run(read(ours)).status == 401
    assert sum("/token" in request.url for request in driver.requests) == 1


def test_a_token_server_without_oauth2_is_tried_once():
    ours = session(credentials=Credentials("alice", "secret", identity_token="refresh"))
    talk(read(ours), challenge(), answer(404), granted(), answer(200))
    _, driver = talk(read(ours, ("other",)), granted(), answer(200))
    assert [request.method for request in driver.requests] == ["GET", "GET"]


# -- whom to trust ---------------------------------------------------------------------------


def test_a_foreign_token_server_is_asked_without_credentials_and_the_user_is_told_once(caplog):
    ours = alice()
    foreign = "https://auth.evil.example/token"
    _, driver = talk(read(ours), challenge(foreign), granted("anonymous"), answer(200))
    assert shown(driver) == [None, None, "Bearer anonymous"]
    talk(read(ours, ("other",)), granted("anonymous"), answer(200))
    assert caplog.text.count("trusted_realms=['auth.evil.example']") == 1


@pytest.mark.parametrize(
    ("host", "realm", "trusted"),
    [
        ("registry.example", "https://registry.example/t", True),
        ("registry.example", "https://registry.example:8443/t", True),
        ("registry.example", "https://REGISTRY.example/t", True),
        ("docker.io", "https://auth.docker.io/token", True),
        ("registry.gitlab.com", "https://gitlab.com/jwt/auth", True),
        ("registry.example", "https://auth.corp/t", True),  # listed
        ("registry.example", "https://tokens.corp:8443/t", True),  # listed with its port
        ("registry.example", "https://tokens.corp/t", False),
        ("registry.example", "https://auth.docker.io/token", False),
        ("registry.example", "https://sub.registry.example/t", False),
        ("registry.example", "https://registry.example.evil.example/t", False),
        ("registry.example", "https://evilregistry.example/t", False),
        ("docker.io", "https://xauth.docker.io/token", False),
        ("docker.io", "https://auth.docker.io.evil.example/token", False),
    ],
)
def test_credentials_go_to_the_own_host_to_known_ones_and_to_listed_ones(host, realm, trusted):
    ours = session(host, credentials=Credentials("alice", "secret"), trusted_realms=["auth.corp", "Tokens.corp:8443"])
    _, driver = talk(read(ours), challenge(realm), granted(), answer(200))
    assert (shown(driver)[1] == BASIC) is trusted


@pytest.mark.parametrize(
    "realm",
    [
        "http://registry.example/token",
        "http://127.0.0.1:9/token",
        "file:///etc/passwd",
        "ftp://registry.example/",
        "/token",
        "token",
        "https://alice:pw@registry.example/token",
        "https://@registry.example/token",
        "https://registry.example:99999/token",
        "https://[::1/token",
        "https://",
    ],
)
def test_an_unsafe_realm_is_not_even_asked(realm):
    driver = Talk([challenge(realm), granted(), answer(200)])
    with pytest.raises(AccessDenied, match="not safe: nothing was sent there"):
        driver.run(read(alice()))
    assert len(driver.requests) == 1


@pytest.mark.parametrize(
    "second", ["https://other.example/token", "https://registry.example:8443/token", "https://[::1"]
)
def test_a_realm_that_changes_in_the_middle_stops_everything(second):
    ours = alice()
    talk(read(ours), challenge(), granted(), answer(200))
    driver = Talk([challenge(second), granted()])
    with pytest.raises((BadResponse, AccessDenied)):
        driver.run(read(ours))
    assert len(driver.requests) == 1


@pytest.mark.parametrize(
    ("peer", "realm", "public_only"),
    [
        (PUBLIC, "https://auth.example/t", True),
        (PUBLIC, REALM, False),
        ("10.0.0.1", "https://auth.corp/t", False),
        (None, "https://auth.example/t", True),
    ],
)
def test_a_public_registry_may_not_name_a_token_server_in_our_own_network(peer, realm, public_only):
    ours = session()
    first = answer(401, headers=challenge(realm).headers, peer=peer)
    _, driver = talk(read(ours), first, granted(), answer(200))
    assert driver.requests[1].public_only is public_only
    _, driver = talk(read(ours, ("another",)), granted(), answer(200))
    assert driver.requests[0].public_only is public_only, "nor when a token is renewed"


@pytest.mark.parametrize("realm", [None, "http://registry.example/token"])
def test_a_password_is_not_sent_over_plain_http_to_another_machine(realm):
    """Whether the registry itself asks for it, or its token server."""
    ours = session(scheme="http", credentials=Credentials("alice", "secret"))
    asked = answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'}) if realm is None else challenge(realm)
    driver = Talk([asked, granted(), answer(200)])
    with pytest.raises(AccessDenied, match="plain http, where anybody can read it: use https"):
        driver.run(read(ours))
    assert shown(driver) == [None]


def test_a_token_of_the_users_own_is_not_sent_over_plain_http_to_another_machine():
    ours = session(scheme="http", credentials=Credentials(registry_token="mine"))
    driver = Talk([answer(200)])
    with pytest.raises(AccessDenied, match=r"registry\.example: .* plain http"):
        driver.run(read(ours))
    assert driver.requests == []


def test_an_anonymous_token_may_come_over_plain_http():
    ours = session(scheme="http")
    response, driver = talk(read(ours), challenge("http://registry.example/token"), granted(), answer(200))
    assert (response.status, shown(driver)) == (200, [None, None, "Bearer t1"])


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "localhost:5000", "[::1]:5000", "reg.localhost"])
def test_a_password_may_be_sent_over_plain_http_within_this_machine(host):
    ours = session(host, scheme="http", credentials=Credentials("alice", "secret"))
    asked = answer(401, headers={"WWW-Authenticate": "Basic"}, peer="127.0.0.1")
    _, driver = talk(read(ours), asked, answer(200))
    assert shown(driver) == [None, BASIC]


def test_bearer_is_preferred_where_both_are_offered():
    headers = [("WWW-Authenticate", "Basic realm=x"), ("WWW-Authenticate", f'Bearer realm="{REALM}"')]
    _, driver = talk(read(alice()), answer(401, headers=headers), granted(), answer(200))
    assert shown(driver)[-1] == "Bearer t1"


def test_basic_serves_where_bearer_names_no_token_server():
    headers = {"WWW-Authenticate": "Bearer, Basic realm=x"}
    _, driver = talk(read(alice()), answer(401, headers=headers), answer(200))
    assert shown(driver) == [None, BASIC]


def test_the_challenge_of_a_redirects_target_is_not_answered():
    elsewhere = answer(401, headers={"WWW-Authenticate": "Basic realm=x"})
    ours = alice()
    ours.basic = True
    response, driver = talk(read(ours), answer(307, headers={"Location": "https://cdn.example/x"}), elsewhere)
    assert response.status == 401
    assert shown(driver) == [BASIC, None]


def test_nothing_reaches_a_decoy_that_a_registry_names(hostile, decoy):
    """Neither a redirect of a read nor a token server nor a page nor an upload carries credentials elsewhere."""
    there = f"http://localhost:{decoy.port}"
    hostile.on("GET /v2/", reply(401, headers={"WWW-Authenticate": "Basic realm=x"}), reply(json={}))
    hostile.on("GET /v2/team/app/tags/list", reply(302, headers={"Location": f"{there}/stolen"}))
    hostile.on("DELETE /v2/team/app/manifests/v1", reply(307, headers={"Location": f"{there}/stolen"}))
    hostile.on("HEAD /v2/team/app/blobs/sha256:" + "0" * 64, error(404, "BLOB_UNKNOWN"))
    hostile.on("POST /v2/team/app/blobs/uploads/", reply(202, headers={"Location": f"{there}/stolen"}))
    with Registry(hostile.host, username="alice", password="secret", tries=1) as registry:
        registry.ping()
        repository = registry.repository("team/app")
        for attempt in (repository.tags, lambda: repository.delete_tag("v1"), lambda: repository.upload_blob(b"x")):
            with pytest.raises(RegistryError):
                attempt()
    assert all(seen.header("authorization") == BASIC for seen in hostile.requests[1:])
    assert b"authorization" not in decoy.heard.lower()
    assert decoy.heard.count(b"HTTP/1.1") <= 1, "the read, which may be redirected"
    assert b"DELETE" not in decoy.heard
    assert b"POST" not in decoy.heard
    assert b"PUT" not in decoy.heard


def test_a_decoy_that_is_named_as_token_server_gets_no_credentials(hostile, decoy):
    realm = f"http://localhost:{decoy.port}/token"
    hostile.on("*", reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}))
    with (
        Registry(hostile.host, username="alice", password="secret", tries=1) as registry,
        pytest.raises(RegauditError),
    ):
        registry.ping()
    assert b"authorization" not in decoy.heard.lower()
    assert b"alice" not in decoy.heard


# -- other kinds of secret -------------------------------------------------------------------


def test_an_identity_token_is_exchanged_by_post_and_never_stands_in_a_url():
    ours = session(credentials=Credentials(identity_token="refresh"))
    _, driver = talk(read(ours), challenge(), answer(json={"access_token": "t1"}), answer(200))
    request = driver.requests[1]
    assert (request.method, request.url) == ("POST", REALM)
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["refresh"],
        "client_id": ["regaudit"],
        "service": ["s"],
        "scope": [PULL],
    }
    assert shown(driver) == [None, None, "Bearer t1"]


@pytest.mark.parametrize("status", [404, 405])
def test_a_token_server_without_oauth2_is_asked_by_get(status):
    ours = session(credentials=Credentials("alice", "secret", identity_token="refresh"))
    _, driver = talk(read(ours), challenge(), answer(status), granted(), answer(200))
    assert [request.method for request in driver.requests] == ["GET", "POST", "GET", "GET"]
    assert shown(driver)[2] == BASIC


def test_an_identity_token_that_is_not_accepted_is_a_failed_login():
    driver = Talk([challenge(), answer(400, json={"error": "invalid_grant"})])
    with pytest.raises(AuthenticationFailed):
        driver.run(read(session(credentials=Credentials(identity_token="refresh"))))


def test_a_token_of_the_users_own_is_shown_as_it_is_and_never_exchanged():
    ours = session(credentials=Credentials(registry_token="mine"))
    response, driver = talk(read(ours), challenge())
    assert (response.status, shown(driver)) == (401, ["Bearer mine"])
    problem = refusal(ours, response, "reading x")
    assert isinstance(problem, AuthenticationFailed)
    assert "reading x" in str(problem)


def test_who_is_nobody_reads_what_was_asked_for():
    response, _ = talk(read(session()), answer(403))
    assert "reading x" in str(refusal(session(), response, "reading x"))


def test_credentials_that_a_foreign_token_server_was_not_shown_are_no_wrong_password():
    ours = alice()
    response, _ = talk(read(ours), challenge("https://login.example.org/token"), granted(), answer(401))
    problem = refusal(ours, response, "reading x")
    assert isinstance(problem, AccessDenied)
    assert problem.status == 401
    assert str(problem).count("give trusted_realms=['login.example.org']") == 1


def test_the_name_of_a_token_server_cannot_write_to_a_terminal(caplog):
    ours = alice()
    response, _ = talk(read(ours), challenge("https://login.\x9b2Jexample.org/token"), granted(), answer(401))
    told = f"{caplog.messages} {refusal(ours, response, 'reading x')}"
    assert told.count("trusted_realms=['login.\ufffd2jexample.org']") == 2
    assert "\x9b" not in caplog.text + told


def test_netrc_is_not_read(tmp_path, hostile, monkeypatch):
    (tmp_path / "home" / ".netrc").write_text("machine 127.0.0.1 login bob password netrc-secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    hostile.on("GET /v2/", reply(401, headers={"WWW-Authenticate": "Basic realm=x"}), reply(json={}))
    with Registry(hostile.host) as registry:
        assert registry.ping().status == 401
    with Registry(hostile.host, username="alice", password="secret") as registry:
        hostile.on("GET /v2/", reply(401, headers={"WWW-Authenticate": "Basic realm=x"}), reply(json={}))
        registry.ping()
    assert [seen.header("authorization") for seen in hostile.requests] == [None, None, BASIC]
