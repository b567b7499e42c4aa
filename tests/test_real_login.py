"""Logging in to Debian's docker-registry 2.8.2: passwords over TLS, client certificates, tokens that it verifies."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from certificates import Authority
from docker_registry import PASSWORD, USERNAME, DockerRegistry, push_repository
from test_real_client import push_tiny
from token_server import REFRESH_TOKEN, TokenServer, deletion_by_star, only

from regaudit.cleaner.cleaner import Cleaner
from regaudit.cleaner.plan import plan
from regaudit.client import write
from regaudit.client.registry import Registry
from regaudit.errors import AccessDenied, AuthenticationFailed, Unreachable
from regaudit.inventory.collect import collect
from regaudit.log import BODIES

pytestmark = pytest.mark.real

SCOPE = "repository:team/app:pull,push"
READ, PUSH = "repository:team/app:pull", "repository:team/app:pull,push"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority):
    return authority.issue("server", "127.0.0.1", "localhost")


@pytest.fixture
def tokens(docker_registry_program, tmp_path):
    with TokenServer(tmp_path / "tokens") as server:
        yield server


@pytest.fixture
def guarded(tokens, tmp_path):
    """Give a real registry that accepts the tokens of `tokens`, with one image in it."""
    with DockerRegistry(tmp_path / "guarded", tokens=tokens) as server:
        with alice(server) as registry:
            push_tiny(registry.repository("team/app"), "v1")
        tokens.asked.clear()
        yield server


def alice(server, password="secret", **options):
    return Registry(server.url, username="alice", password=password, **options)


def scopes(tokens):
    return [" ".join(asked.scopes) for asked in tokens.asked]


def refuses(server, token):
    """Return whether the registry does not accept a token any more, asked as any program would."""
    connection = http.client.HTTPConnection(server.host, timeout=10)
    try:
        connection.request("GET", "/v2/", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status == 401
    finally:
        connection.close()


def until_refused(server, token):
    """Return when the registry's own clock says that a token is over; fails after five seconds."""
    give_up = time.monotonic() + 5
    while not refuses(server, token):
        assert time.monotonic() < give_up, "the token is accepted for ever"


# -- TLS -------------------------------------------------------------------------------------


def test_a_password_over_tls_reads_and_writes_and_login_says_how(
    docker_registry_program, authority, certificate, tmp_path
):
    with DockerRegistry(tmp_path / "server", login=True, tls=certificate) as server:
        with Registry(server.url, ca=authority.certificate, username=USERNAME, password=PASSWORD) as registry:
            login = registry.login()
            assert (login.status, login.scheme, login.username, login.granted) == (200, "basic", USERNAME, None)
            digest = push_tiny(registry.repository("team/app"), "v1")
            assert registry.repository("team/app").manifest("v1").digest == digest
        with (
            Registry(server.url, ca=authority.certificate, username=USERNAME, password="wr0ng") as registry,
            pytest.raises(AuthenticationFailed, match="check username= and password=") as caught,
        ):
            registry.login()
        assert "wr0ng" not in repr(caught.value)
        with Registry(server.url, tries=1) as registry, pytest.raises(Unreachable, match="give ca="):
            registry.login()


def test_a_client_certificate_opens_what_is_closed_without_one(
    docker_registry_program, authority, certificate, tmp_path
):
    ada = authority.issue("ada")
    stranger = Authority(tmp_path / "strangers", "strangers").issue("eve")
    with DockerRegistry(tmp_path / "server", tls=certificate, clients=authority) as server:
        options = {"ca": authority.certificate, "tries": 1}
        with Registry(server.url, client_certificate=ada.files, **options) as registry:
            assert registry.login().scheme == "none"
            push_tiny(registry.repository("team/app"), "v1")
            assert registry.repository("team/app").tags() == ["v1"]
        for other in ({}, {"client_certificate": stranger.files}):
            with Registry(server.url, **options, **other) as registry, pytest.raises(Unreachable):
                registry.ping()


def test_registry_and_token_server_both_behind_tls(docker_registry_program, authority, certificate, tmp_path):
    with (
        TokenServer(tmp_path / "tokens", tls=certificate.server_context()) as tokens,
        DockerRegistry(tmp_path / "server", tokens=tokens, tls=certificate) as server,
        alice(server, ca=authority.certificate) as registry,
    ):
        assert registry.login(SCOPE).missing == ()
        push_tiny(registry.repository("team/app"), "v1")
        assert registry.repository("team/app").tags() == ["v1"]


def test_a_token_server_without_tls_is_not_asked_by_a_registry_with_it(tokens, authority, certificate, tmp_path):
    with (
        DockerRegistry(tmp_path / "server", tokens=tokens, tls=certificate) as server,
        alice(server, ca=authority.certificate) as registry,
        pytest.raises(AccessDenied, match="not safe: nothing was sent there"),
    ):
        registry.login()
    assert tokens.asked == []


# -- logging in with tokens ------------------------------------------------------------------


@pytest.mark.parametrize("names_key", [False, True], ids=["with its certificate", "by the name of its key"])
def test_a_token_that_the_registry_verifies_reads_writes_and_deletes(docker_registry_program, tmp_path, names_key):
    with (
        TokenServer(tmp_path / "tokens", names_key=names_key) as tokens,
        DockerRegistry(tmp_path / "server", tokens=tokens) as server,
        alice(server) as registry,
    ):
        repository = registry.repository("team/app")
        digest = push_tiny(repository, "v1")
        assert (registry.catalog(), repository.tags()) == (["team/app"], ["v1"])
        assert repository.delete_manifest(digest) == 202
    assert scopes(tokens) == [PUSH, "registry:catalog:*", READ, "repository:team/app:pull,delete"]


def test_a_login_says_what_was_asked_for_and_what_was_granted(guarded, tokens):
    with alice(guarded) as registry:
        assert registry.login("repository:team/app:pull,push").to_dict() == {
            "status": 200,
            "scheme": "bearer",
            "username": "alice",
            "realm": tokens.realm,
            "service": "tests-registry",
            "scope": SCOPE,
            "granted": [SCOPE],
            "missing": [],
        }
        assert registry.login().granted == ()
        tokens.policy = only("pull")
        login = registry.login(f"{SCOPE} repository:team/other:push")
        assert login.granted == ("repository:team/app:pull",)
        assert login.missing == ("repository:team/app:push", "repository:team/other:push")
        assert "secret" not in f"{login!r} {login.to_dict()}"
        assert not any(token in f"{login!r} {registry.session!r}" for token in tokens.issued)


def test_a_wrong_password_fails_at_login_and_is_shown_once(guarded, tokens):
    with alice(guarded, "wr0ng") as registry:
        for question in (registry.login, registry.ping, registry.catalog, registry.repository("no/such").tags):
            with pytest.raises(AuthenticationFailed) as caught:
                question()
            assert str(caught.value) == (
                f"logging in to {guarded.host}: the user name or password was not accepted (given): "
                "check username= and password=, -u USER --password-stdin on the command line"
            )
    assert [asked.status for asked in tokens.asked] == [401]


def test_nobody_logs_in_as_nobody_and_is_told_to_log_in_where_that_does_not_suffice(guarded, tokens):
    with Registry(guarded.host) as registry:
        assert registry.login("repository:team/app:pull").to_dict()["missing"] == ["repository:team/app:pull"]
        with pytest.raises(AccessDenied, match="username="):
            registry.repository("team/app").tags()
        tokens.policy = lambda user, name, actions: ["pull"]
        assert registry.login("repository:team/app:pull").missing == ()
    assert {asked.user for asked in tokens.asked} == {None}


def test_an_open_registry_asks_for_no_login(docker_registry):
    for options in ({}, {"username": "alice", "password": "secret"}):
        with Registry(docker_registry.host, **options) as registry:
            login = registry.login("repository:team/app:pull")
            assert (login.status, login.scheme, login.username, login.missing) == (200, "none", None, None)


# -- tokens that end in the middle -----------------------------------------------------------


def tables(snapshot):
    """Return the rows of a snapshot without what two readings cannot have in common."""
    found = {}
    for name in ("tags", "manifests", "blobs", "children", "problems"):
        table = getattr(snapshot, name)
        table = table.drop(columns=[own for own in ("registry", "seen_at") if own in table])
        found[name] = table.astype("object").where(table.notna(), None).to_numpy().tolist()
    return found


AUDITED = ("charts/checkout", "legacy/billing")


@pytest.fixture
def audited(guarded, sample, tmp_path):
    """Give the guarded registry with some of the sample, and what is read of it without a login."""
    with alice(guarded) as registry:
        for name in AUDITED:
            push_repository(registry, sample.repository(name))
    with (
        DockerRegistry(tmp_path / "open", storage=guarded.storage) as twin,
        Registry(twin.host) as registry,
    ):
        return collect(registry, *AUDITED, progress=False)


@pytest.mark.parametrize("says_expiry", [True, False])
def test_an_audit_whose_tokens_end_in_the_middle_reads_what_one_without_a_login_reads(
    guarded, tokens, audited, says_expiry, every_result
):
    tokens.life, tokens.says_expiry = 1.2, says_expiry
    tokens.asked.clear()
    ended = []

    def wait_for_the_end(progress):
        if progress.requests > 20 and not ended:
            ended.append(tokens.issued[-1])
            until_refused(guarded, ended[0])

    with alice(guarded) as registry:
        read = collect(registry, *AUDITED, progress=wait_for_the_end, cache=None)
    assert ended
    assert read.complete
    assert tables(read) == tables(audited)
    times = Counter(scopes(tokens))
    assert set(times) == {""} | {f"repository:{name}:pull" for name in AUDITED}
    assert max(times.values()) > 1, "something was renewed"
    assert max(times.values()) <= 4, "and not with every request"


def test_a_token_that_has_ended_leads_to_one_401_one_renewal_and_the_answer(guarded, tokens):
    tokens.life = 1.0
    with alice(guarded) as registry:
        repository = registry.repository("team/app")
        assert repository.tags() == ["v1"]
        until_refused(guarded, tokens.issued[-1])
        registry.session.counts.clear()
        assert repository.tags() == ["v1"]
        assert registry.session.counts == {"tags": 2, "token": 1}
    assert scopes(tokens) == [READ, READ]


@contextmanager
def planned(server, folder, count=4):
    """Give a cleaner, and an approved plan to delete some images of their own repositories."""
    names = [f"old/app{number}" for number in range(count)]
    with alice(server) as registry:
        for name in names:
            push_tiny(registry.repository(name), "v1", text=name)
        snapshot = collect(registry, *names, progress=False)
    made = plan(snapshot, snapshot.tags[["repository", "tag"]], allow_empty=True).approve("Ada")
    assert made.digests == count
    with alice(server) as registry, Cleaner(registry, journal=folder / "journal.sqlite") as cleaner:
        yield registry, cleaner, made


def test_an_apply_whose_tokens_end_in_the_middle_deletes_what_was_approved_and_can_undo_it(guarded, tokens, tmp_path):
    tokens.life = 1.2
    done = []

    def wait_for_the_end(outcome):
        done.append(outcome.outcome)
        if len(done) == 2:
            until_refused(guarded, tokens.issued[-1])

    with planned(guarded, tmp_path) as (registry, cleaner, made):
        run = cleaner.execute(made, progress=wait_for_the_end)
        assert run.counts() == {"deleted": 4}
        assert registry.session.counts["delete"] <= 8
        assert cleaner.undo(run).counts() == {"restored": 4}


# -- rights ----------------------------------------------------------------------------------


def test_a_token_server_that_deletes_only_by_star_is_climbed_to_once(guarded, tokens):
    """The registry's own 401 names the first scope; what worked is asked for at once the next time."""
    tokens.policy = deletion_by_star
    with alice(guarded) as registry:
        repository = registry.repository("team/app")
        for text in ("one", "two"):
            digest = push_tiny(repository, text, text=text)
            assert repository.delete_manifest(digest) == 202
    assert [scope for scope in scopes(tokens) if scope not in {READ, PUSH}] == [
        "repository:team/app:pull,delete",
        "repository:team/app:delete",
        "repository:team/app:pull,push,delete",
        "repository:team/app:*",
    ]
    assert registry.session.counts["delete"] == 5, "four to find the scope, and one"


def test_who_comes_fresh_asks_first_for_the_scope_that_the_401_names(guarded, tokens):
    with alice(guarded) as registry:
        digest = push_tiny(registry.repository("team/app"), "v2", text="two")
    tokens.asked.clear()
    with alice(guarded) as registry:
        assert registry.run(write.delete_manifest(registry.session, "team/app", digest)).status == 202
    assert scopes(tokens) == ["repository:team/app:delete"]


def test_a_right_to_read_is_no_right_to_delete_and_the_run_stops_before_the_second(guarded, tokens, tmp_path):
    with planned(guarded, tmp_path) as (registry, cleaner, made):
        tokens.policy = only("pull")
        tokens.asked.clear()
        run = cleaner.execute(made)
        assert run.stopped
        assert run.counts() == {"denied": 1}
        deletions = [scope for scope in scopes(tokens) if not scope.endswith(":pull")]
        assert len(deletions) == len(set(deletions)) <= 4, "each scope was asked for once"
        assert registry.session.counts["delete"] <= 6, "five by the probe, which climbs, and one by the deletion"
        with pytest.raises(AccessDenied, match="ask for the right"):
            registry.repository("old/app3").delete_manifest(made.rows[-1].digest)
        assert registry.repository("old/app3").tags() == ["v1"], "reading goes on"


# -- whom to trust ---------------------------------------------------------------------------


@pytest.fixture
def elsewhere(docker_registry_program, tmp_path):
    """Give a real registry whose token server is on a host of another name."""
    with (
        TokenServer(tmp_path / "tokens", host="localhost") as tokens,
        DockerRegistry(tmp_path / "guarded", tokens=tokens) as server,
    ):
        yield server, tokens


def test_a_token_server_elsewhere_sees_no_credentials_and_the_message_says_how_to_trust_it(elsewhere):
    server, tokens = elsewhere
    with alice(server) as registry:
        for question in (registry.login, registry.repository("team/app").tags):
            with pytest.raises(AccessDenied, match=r"trusted_realms=\['localhost'\]"):
                question()
    assert {asked.authorization for asked in tokens.asked} == {None}


def test_a_token_server_elsewhere_that_is_listed_sees_them(elsewhere):
    server, tokens = elsewhere
    with alice(server, trusted_realms=["localhost"]) as registry:
        assert registry.login(SCOPE).missing == ()
        push_tiny(registry.repository("team/app"), "v1")
    assert {asked.user for asked in tokens.asked} == {"alice"}


# -- where credentials come from -------------------------------------------------------------


def docker_config(tmp_path, **config):
    folder = tmp_path / "home" / ".docker"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def basic(user="alice", password="secret"):
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("oauth2", [True, False])
def test_an_identity_token_is_exchanged_by_post_and_else_the_password_serves(guarded, tokens, tmp_path, oauth2):
    tokens.oauth2 = oauth2
    docker_config(tmp_path, auths={guarded.host: {"auth": basic(), "identitytoken": REFRESH_TOKEN}})
    with Registry(guarded.host) as registry:
        assert registry.login(SCOPE).missing == ()
        assert registry.repository("team/app").tags() == ["v1"]
    assert [(asked.method, asked.status) for asked in tokens.asked] == (
        [("POST", 200), ("POST", 200)] if oauth2 else [("POST", 404), ("GET", 200), ("GET", 200)]
    )


@pytest.mark.parametrize("oauth2", [True, False])
def test_no_secret_is_in_the_log_at_its_most_talkative(guarded, tokens, tmp_path, caplog, oauth2):
    """Requests, responses and bodies are logged: passwords, identity tokens and bearer tokens are not in them."""
    tokens.oauth2 = oauth2
    tokens.users["alice"] = "p4ssw0rd-canary"
    login = {"auth": basic(password="p4ssw0rd-canary"), "identitytoken": REFRESH_TOKEN}
    docker_config(tmp_path, auths={guarded.host: login})
    with caplog.at_level(BODIES, logger="regaudit.client"), Registry(guarded.host) as registry:
        registry.login(SCOPE)
        push_tiny(registry.repository("team/app"), "v2")
        registry.catalog()
    logged = caplog.text + " ".join(str(record.__dict__) for record in caplog.records)
    assert "/token" in logged
    assert tokens.issued
    for secret in ("p4ssw0rd-canary", login["auth"], REFRESH_TOKEN, *tokens.issued):
        assert secret not in logged
        assert secret.rpartition(".")[2] not in logged, "nor a part of it"


def test_a_token_of_ones_own_serves_as_long_as_it_lasts(guarded, tokens):
    with alice(guarded) as registry:
        registry.login("repository:team/app:pull")
    mine = tokens.issued[-1]
    with Registry(guarded.host, token=mine) as registry:
        assert registry.login().granted == ("repository:team/app:pull",)
        assert registry.repository("team/app").tags() == ["v1"]
    with (
        Registry(guarded.host, token=f"{mine[:-8]}AAAAAAAA") as registry,
        pytest.raises(AuthenticationFailed, match=r"the token was not accepted \(given\): check token="),
    ):
        registry.login()
    assert len(tokens.asked) == 1


def test_a_part_of_a_registry_may_have_a_login_of_its_own(guarded, tokens, tmp_path, docker_registry):
    """As `podman login registry/team` stores it: the longest part counts, and each has its own tokens."""
    tokens.users["bob"] = "b0b"
    folder = tmp_path / "home" / ".config" / "containers"
    folder.mkdir(parents=True)
    logins = {guarded.host: basic("bob", "b0b"), f"{guarded.host}/team": basic(), f"{docker_registry.host}/x": basic()}
    (folder / "auth.json").write_text(json.dumps({"auths": {key: {"auth": auth} for key, auth in logins.items()}}))
    with Registry(guarded.host) as registry:
        assert registry.login().username == "bob"
        assert registry.login("repository:team/app:pull").username == "alice"
        assert registry.login("repository:teamwork/app:pull").username == "bob"
        read = collect(registry, "team/app", progress=False)
        assert (read.complete, len(read.tags)) == (True, 1)
        push_tiny(registry.repository("other/app"), "v1")
        registry.catalog()
    assert {(" ".join(asked.scopes), asked.user) for asked in tokens.asked} == {
        ("", "bob"),
        (READ, "alice"),
        ("repository:teamwork/app:pull", "bob"),
        ("repository:other/app:pull,push", "bob"),
        ("registry:catalog:*", "bob"),
    }


def test_a_wrong_login_of_a_part_names_where_it_is_stored_and_leaves_the_rest_alone(guarded, tmp_path):
    folder = tmp_path / "home" / ".config" / "containers"
    folder.mkdir(parents=True)
    logins = {guarded.host: basic(), f"{guarded.host}/team": basic("bob", "wr0ng")}
    (folder / "auth.json").write_text(json.dumps({"auths": {key: {"auth": auth} for key, auth in logins.items()}}))
    with Registry(guarded.host) as registry:
        with pytest.raises(AuthenticationFailed, match=f"log in again with `podman login {guarded.host}/team`"):
            registry.repository("team/app").tags()
        assert registry.catalog() == ["team/app"]


HELPERS = {
    "a password": ('{"Username": "alice", "Secret": "secret"}', "alice"),
    "an identity token": (f'{{"Username": "<token>", "Secret": "{REFRESH_TOKEN}"}}', None),
}


@pytest.mark.parametrize("kind", HELPERS)
def test_a_credential_helper_is_asked_for_the_registry_and_its_answer_logs_in(
    guarded, tokens, tmp_path, monkeypatch, kind
):
    answer, username = HELPERS[kind]
    helper(tmp_path, monkeypatch, f"cat > '{tmp_path}/asked'; echo '{answer}'")
    docker_config(tmp_path, credHelpers={guarded.host: "test"})
    with Registry(guarded.host) as registry:
        login = registry.login(SCOPE)
        assert (login.scheme, login.username, login.missing) == ("bearer", username, ())
        assert registry.repository("team/app").tags() == ["v1"]
    assert (tmp_path / "asked").read_text() == guarded.host
    assert {asked.user for asked in tokens.asked} == {"alice"}


def helper(tmp_path, monkeypatch, script):
    """Put a credential helper into a folder of the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'credentials not found in native keychain'; exit 1", ""),
        ("exec tail -f /dev/null", "did not answer within"),
        ("echo junk", "not a JSON object"),
        ("echo 'keychain is locked' >&2; exit 3", "keychain is locked"),
    ],
    ids=["knows none", "hangs", "junk", "fails"],
)
def test_a_helper_that_gives_nothing_leaves_the_login_that_the_file_has(
    guarded, tmp_path, monkeypatch, caplog, script, said
):
    monkeypatch.setattr("regaudit.client.credentials.HELPER_SECONDS", 0.3)
    helper(tmp_path, monkeypatch, script)
    docker_config(tmp_path, credsStore="test", auths={guarded.host: {"auth": basic()}})
    with Registry(guarded.host) as registry:
        assert registry.login().username == "alice"
    assert said in caplog.text
    assert bool(caplog.records) is bool(said)


def test_a_wrong_password_of_a_helper_says_to_log_in_again(guarded, tmp_path, monkeypatch):
    helper(tmp_path, monkeypatch, """echo '{"Username": "alice", "Secret": "wr0ng"}'""")
    docker_config(tmp_path, credsStore="test")
    with Registry(guarded.host) as registry, pytest.raises(AuthenticationFailed) as caught:
        registry.login()
    assert f"(docker-credential-test): log in again with `docker login {guarded.host}`" in str(caught.value)
    assert "wr0ng" not in str(caught.value)
