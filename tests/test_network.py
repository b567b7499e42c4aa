"""How a registry is reached: certificates, the wrong port, proxies, and what the other end gets to see."""

from __future__ import annotations

import base64
import logging
import ssl
import traceback
import warnings

import pytest
from certificates import Authority
from hostile import Cut, Hostile, reply
from proxy import Proxy

from regaudit._version import __version__
from regaudit.client.registry import Registry
from regaudit.errors import AccessDenied, NotARegistry, Unreachable, UsageError

PING = "GET /v2/"
CANARY = "pr0xy-canary"

pytestmark = pytest.mark.usefixtures("each_driver")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def plain():
    with Hostile() as server:
        server.on(PING, reply(json={}))
        yield server


def encrypted(certificate):
    server = Hostile(tls=certificate.server_context())
    server.on(PING, reply(json={}))
    return server


@pytest.fixture
def secure(authority):
    with encrypted(authority.issue("secure", "127.0.0.1", "localhost")) as server:
        yield server


def fails(registry, error=Unreachable):
    with registry, pytest.raises(error) as caught:
        registry.ping()
    return str(caught.value)


# -- TLS -------------------------------------------------------------------------------------


def test_the_right_authority_is_trusted_and_another_is_not(secure, authority, tmp_path):
    with Registry(secure.url, ca=authority.certificate) as registry:
        assert registry.ping().status == 200
    other = Authority(tmp_path / "other")
    for options in ({}, {"ca": other.certificate}):
        message = fails(Registry(secure.url, tries=1, **options))
        assert "give ca= for a certificate authority of your own" in message
    assert len(secure.requests) == 1


def test_a_certificate_of_another_host_is_refused_and_the_message_says_so(authority):
    with encrypted(authority.issue("other", "registry.example")) as server:
        message = fails(Registry(server.url, ca=authority.certificate, tries=1))
        assert "not valid for '127.0.0.1'" in message
        assert "write the name that the certificate is for" in message
        assert "ca=" not in message
        assert server.requests == []


def test_a_certificate_that_has_expired_is_refused_and_the_message_says_so(authority):
    with encrypted(authority.issue("old", "127.0.0.1", expired=True)) as server:
        message = fails(Registry(server.url, ca=authority.certificate, tries=1))
        assert "certificate has expired" in message
        assert "renew it" in message
        assert "ca=" not in message
        assert server.requests == []


def test_insecure_takes_any_certificate_and_warns_once(authority):
    for made in (authority.issue("x", "registry.example"), authority.issue("y", "127.0.0.1", expired=True)):
        with encrypted(made) as server:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                with Registry(server.url, insecure=True) as registry:
                    assert registry.ping().status == 200
                    assert registry.ping().status == 200
            [warning] = caught
            assert str(warning.message) == f"the certificate of {server.host} is not verified"
            assert warning.filename == __file__, "it points at the line that asked for it"


def test_a_client_certificate_is_shown_to_who_asks_for_one(authority):
    context = authority.issue("closed", "127.0.0.1").server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    # In 1.3 the refusal comes after the handshake, and the end of the connection may overtake it.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(authority.certificate)
    with Hostile(tls=context) as server:
        server.on(PING, reply(json={}))
        ada = authority.issue("ada")
        with Registry(server.url, ca=authority.certificate, client_certificate=ada.files) as registry:
            assert registry.ping().status == 200
        assert "client_certificate=" in fails(Registry(server.url, ca=authority.certificate, tries=1))
        assert len(server.requests) == 1


def test_a_key_that_does_not_belong_to_the_certificate_is_said_before_the_network(secure, authority):
    ada, eve = authority.issue("ada"), authority.issue("eve")
    message = fails(
        Registry(secure.url, ca=authority.certificate, client_certificate=(ada.certificate, eve.key), tries=1)
    )
    assert "client_certificate=" in message
    assert secure.requests == []


@pytest.mark.parametrize("name", ["ca", "client_certificate"])
def test_a_file_that_is_none_is_said_at_once(tmp_path, name):
    missing = tmp_path / "missing.pem"
    with pytest.raises(UsageError, match=r"missing\.pem is not a file"):
        Registry("127.0.0.1:9", **{name: missing if name == "ca" else (missing, missing)})


def test_an_authority_and_no_verification_contradict_each_other(authority):
    with pytest.raises(UsageError, match="insecure=True and ca="):
        Registry("127.0.0.1:9", insecure=True, ca=authority.certificate)


def test_a_file_of_authorities_that_holds_none_is_an_error_that_names_ca(secure, tmp_path):
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate\n")
    assert "ca=" in fails(Registry(secure.url, ca=empty, tries=1))


def test_https_to_a_port_that_speaks_plain_http_says_how_to_ask_for_that():
    with Hostile(greeting=reply(400)) as server:
        message = fails(Registry(f"https://{server.host}", tries=1))
        assert "if it speaks plain http, ask for that (plain_http=True, --plain-http" in message
        assert server.requests == []


@pytest.mark.parametrize(
    "answered",
    [
        reply(400, b"Client sent an HTTP request to an HTTPS server.\n"),
        reply(400, b"<html>The plain HTTP request was sent to HTTPS port</html>"),
        Cut(b"\x15\x03\x01\x00\x02\x02\x46", 7),
    ],
    ids=["Go", "nginx", "alert"],
)
def test_plain_http_to_a_port_that_speaks_tls_says_what_to_write(answered):
    with Hostile() as server:
        server.on(PING, answered)
        assert "https://" in fails(Registry(server.host, tries=1), NotARegistry).partition("speaks https")[2]


# -- proxies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["forwarded", "by CONNECT"])
def test_a_proxy_sees_its_own_login_and_the_registry_never_does(plain, secure, authority, caplog, tls):
    origin = secure if tls else plain
    with (
        Proxy(login=f"ada:{CANARY}") as proxy,
        caplog.at_level(1),
        Registry(origin.url, proxy=f"http://ada:{CANARY}@{proxy.host}", ca=authority.certificate) as registry,
    ):
        assert registry.ping().status == 200
        everything = f"{caplog.text} {registry!r} {registry.session!r}"
    expected = "Basic " + base64.b64encode(f"ada:{CANARY}".encode()).decode()
    assert {seen.header("proxy-authorization") for seen in proxy.requests} == {expected}
    assert [seen.method for seen in proxy.requests] == (["CONNECT"] if tls else ["GET"])
    assert [seen.header("proxy-authorization") for seen in origin.requests] == [None]
    assert CANARY not in everything
    assert expected not in everything


@pytest.mark.parametrize("tls", [False, True], ids=["forwarded", "by CONNECT"])
def test_a_proxy_that_refuses_is_named_without_its_password(plain, secure, authority, tls):
    origin = secure if tls else plain
    with Proxy(login="ada:other") as proxy:
        registry = Registry(origin.url, proxy=f"http://ada:{CANARY}@{proxy.host}", ca=authority.certificate)
        with (
            registry,
            pytest.raises(AccessDenied, match="the proxy asks for a login of its own: give proxy=") as caught,
        ):
            registry.ping()
        assert len(proxy.requests) == 1, "a wrong password is not tried again"
    assert origin.requests == []
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("tls", [False, True], ids=["forwarded", "by CONNECT"])
def test_a_proxy_that_is_not_there_is_an_error_that_says_so(plain, secure, authority, caplog, tls):
    origin = secure if tls else plain
    with Proxy() as gone:
        pass
    with caplog.at_level(1):
        message = fails(
            Registry(origin.url, proxy=f"http://ada:{CANARY}@{gone.host}", ca=authority.certificate, tries=1)
        )
    assert "proxy" in message
    assert CANARY not in f"{message} {caplog.text}"
    assert origin.requests == []


def test_credentials_for_the_registry_pass_a_tunnel_unseen(secure, authority):
    secure.on(PING, reply(401, headers={"WWW-Authenticate": "Basic realm=x"}), reply(json={}))
    options = {"username": "alice", "password": CANARY, "ca": authority.certificate}
    with Proxy() as proxy, Registry(secure.url, proxy=proxy.url, **options) as registry:
        assert registry.login().scheme == "basic"
        assert [(seen.method, seen.target) for seen in proxy.requests] == [("CONNECT", secure.host)]
        assert proxy.requests[0].header("authorization") is None


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_is_ignored(plain, secure, authority, monkeypatch, decoy, name):
    monkeypatch.setenv(name, decoy.url)
    for server in (plain, secure):
        with Registry(server.url, ca=authority.certificate) as registry:
            assert registry.ping().status == 200
    assert decoy.heard == b""


def test_what_no_proxy_names_is_decided_for_each_host_and_not_for_the_registry_alone(plain, monkeypatch):
    """A token server of one's own may stand inside, and the registry outside."""
    with Hostile() as tokens, Proxy() as proxy:
        realm = f"http://localhost:{tokens.port}/token"
        plain.on(PING, reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'}), reply(json={}))
        tokens.on("GET /token", reply(json={"token": "t"}))
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "localhost")
        with Registry(plain.host, use_env_proxy=True) as registry:
            assert registry.login().scheme == "bearer"
        assert {seen.target for seen in proxy.requests} == {f"{plain.url}/v2/"}
        assert len(tokens.requests) == 1


def test_a_proxy_of_the_environment_may_lack_its_scheme_and_must_be_one_that_is_known(plain, monkeypatch):
    with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.host)
        with Registry(plain.host, use_env_proxy=True) as registry:
            assert registry.ping().status == 200
        assert len(proxy.requests) == 1
    monkeypatch.setenv("http_proxy", f"socks5://ada:{CANARY}@127.0.0.1:9")
    with pytest.raises(UsageError, match="http_proxy is not the address of a proxy: write http://HOST:PORT") as caught:
        Registry(plain.host, use_env_proxy=True)
    assert CANARY not in str(caught.value)


def test_a_proxy_of_the_environment_is_used_where_that_is_asked_for(plain, secure, authority, monkeypatch):
    with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        for server in (plain, secure):
            with Registry(server.url, ca=authority.certificate, use_env_proxy=True) as registry:
                assert registry.ping().status == 200
        assert [seen.method for seen in proxy.requests] == ["GET", "CONNECT"]


@pytest.mark.parametrize("without", ["127.0.0.1", "*", "example.com,127.0.0.1", "HOST"])
def test_no_proxy_is_honoured(plain, monkeypatch, decoy, without):
    monkeypatch.setenv("http_proxy", decoy.url)
    monkeypatch.setenv("no_proxy", without.replace("HOST", plain.host))
    with Registry(plain.host, use_env_proxy=True) as registry:
        assert registry.ping().status == 200
    assert decoy.heard == b""


def test_no_proxy_of_another_host_changes_nothing(plain, monkeypatch):
    with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "example.com")
        with Registry(plain.host, use_env_proxy=True) as registry:
            assert registry.ping().status == 200
        assert len(proxy.requests) == 1


def test_an_explicit_proxy_comes_before_the_environments(plain, monkeypatch, decoy):
    monkeypatch.setenv("http_proxy", decoy.url)
    monkeypatch.setenv("no_proxy", "*")
    with Proxy() as proxy, Registry(plain.host, proxy=proxy.url, use_env_proxy=True) as registry:
        assert registry.ping().status == 200
        assert len(proxy.requests) == 1
    assert decoy.heard == b""


@pytest.mark.parametrize(
    "address", ["", "nonsense", "ftp://127.0.0.1:1", "http://", f"ada:{CANARY}@127.0.0.1:9", "http://[::1"]
)
def test_a_proxy_that_is_no_address_is_said_at_once_without_its_password(address):
    with pytest.raises(UsageError, match="proxy=") as caught:
        Registry("127.0.0.1:9", proxy=address)
    assert CANARY not in str(caught.value)


def test_a_proxys_password_is_in_nothing_that_is_shown():
    with Registry("127.0.0.1:9", proxy=f"http://ada:{CANARY}@127.0.0.1:9") as registry:
        assert CANARY not in f"{registry!r} {registry.session!r} {registry._driver._transport!r}"


# -- who we say we are -----------------------------------------------------------------------


def test_the_user_agent_is_the_one_given_and_else_our_own(plain):
    for options in ({}, {"user_agent": "audit-bot/7 (ops@example.com)"}):
        with Registry(plain.host, **options) as registry:
            registry.ping()
    agents = [seen.header("user-agent") for seen in plain.requests]
    assert agents == [f"regaudit/{__version__}", "audit-bot/7 (ops@example.com)"]


def test_the_token_server_and_a_tunnel_get_the_same_user_agent_or_none(secure, authority, caplog):
    realm = f"{secure.url}/token"
    secure.on(PING, reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'}), reply(json={}))
    secure.on("GET /token", reply(json={"token": "t"}))
    with Registry(secure.url, ca=authority.certificate, user_agent="x/1") as registry, caplog.at_level(logging.DEBUG):
        registry.login()
    assert {seen.header("user-agent") for seen in secure.requests} == {"x/1"}


@pytest.mark.parametrize("agent", ["x\r\nX-Evil: 1", "x\n", "\x00"])
def test_a_user_agent_with_a_line_break_is_refused(plain, agent):
    with pytest.raises(UsageError, match="user_agent="):
        Registry(plain.host, user_agent=agent)


def test_a_number_in_an_address_is_not_taken_for_a_proxys_answer(secure, authority):
    """Nobody listens at port 407."""
    registry = Registry(secure.url, proxy="http://127.0.0.1:407", ca=authority.certificate, tries=1)
    assert "cannot be reached through the proxy" in fails(registry)
