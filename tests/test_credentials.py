"""Where credentials come from: every source, their order, what does not match, and what never leaks."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regaudit.client import credentials
from regaudit.client.credentials import Credentials, find_credentials, find_part_credentials
from regaudit.errors import UsageError
from regaudit.reference import RegistryName, parse_registry

CANARY = "canary-b52d0f"
HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"


def auth(username: str = "ada", password: str = CANARY) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass
class Machine:
    """A user's home folder and environment, with helpers on its PATH."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        (self.root / "bin").mkdir()
        self.environ["PATH"] = f"{self.root / 'bin'}:/usr/bin:/bin"

    def write(self, path: str, content: object) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        file.write_bytes(raw)
        return file

    def docker(self, **config: object) -> Path:
        return self.write(".docker/config.json", config)

    def podman(self, **config: object) -> Path:
        return self.write(".config/containers/auth.json", config)

    def helper(self, name: str, script: str) -> Path:
        file = self.write(f"bin/docker-credential-{name}", f"#!/bin/sh\n{script}\n".encode())
        file.chmod(0o755)
        return file

    def answering(self, name: str, username: str = "ada", secret: str = CANARY) -> None:
        """Add a helper that notes what it was asked and answers."""
        reply = json.dumps({"ServerURL": "", "Username": username, "Secret": secret})
        note = f"printf '%s ' \"$1\" >> '{self.root}/asked'; cat >> '{self.root}/asked'"
        self.helper(name, f"{note}\ncat <<'END'\n{reply}\nEND")

    @property
    def asked(self) -> str:
        return (self.root / "asked").read_text()

    def find(self, host: str = "reg.io", **options) -> Credentials | None:
        return find_credentials(parse_registry(host), environ=self.environ, home=self.root, **options)

    def user(self, host: str = "reg.io", **options) -> str | None:
        found = self.find(host, **options)
        return None if found is None else found.username


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# -- the value --------------------------------------------------------------------------------


def test_the_value_shows_no_secret():
    shown = Credentials("ada", CANARY, CANARY, CANARY, "docker-credential-pass")
    assert CANARY not in f"{shown!r} {shown} {shown.to_dict()}"
    assert "docker-credential-pass" in repr(shown)


def test_basic_is_the_header_of_rfc_7617_in_utf_8():
    assert Credentials("Aladdin", "open sesame").basic() == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert Credentials("test", "123\u00a3").basic() == "Basic dGVzdDoxMjPCow=="


def test_a_password_may_have_a_colon():
    assert base64.b64decode(Credentials("ada", "a:b").basic().removeprefix("Basic ")) == b"ada:a:b"


@pytest.mark.parametrize("value", [Credentials("a:da", CANARY), Credentials("ada"), Credentials(registry_token=CANARY)])
def test_basic_is_refused_where_it_could_not_be_read_back(value):
    with pytest.raises(UsageError) as refusal:
        value.basic()
    assert CANARY not in str(refusal.value)


@pytest.mark.parametrize("control", ["\r", "\n", "\0", "\x1b", "\x7f", "\x85", "\udcff"])
@pytest.mark.parametrize("name", ["username", "password", "identity_token", "registry_token"])
def test_a_control_character_in_any_value_is_refused(name, control):
    with pytest.raises(UsageError) as refusal:
        Credentials(**{name: f"{CANARY}{control}X-Evil: 1"})
    assert CANARY not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize("token", ["", "two words", "naïve", "a=b"])
def test_a_bearer_token_that_is_none_is_refused(token):
    with pytest.raises(UsageError, match="bearer token"):
        Credentials(registry_token=token)


def test_credentials_survive_pickling_because_workers_may_get_them():
    value = Credentials("ada", CANARY)
    assert pickle.loads(pickle.dumps(value)) == value


# -- what is given, and the environment -------------------------------------------------------


def test_what_is_given_comes_before_everything(machine):
    machine.environ |= {"REGAUDIT_USERNAME": "env", "REGAUDIT_PASSWORD": "x"}
    machine.docker(auths={"reg.io": {"auth": auth("docker")}})
    assert machine.find(username="given", password=CANARY) == Credentials("given", CANARY, source="given")


def test_a_given_token_is_used_as_it_is(machine):
    assert machine.find(token=CANARY) == Credentials(registry_token=CANARY)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"username": "ada"}, "password="),
        ({"password": CANARY}, "username="),
        ({"username": "ada", "password": ""}, "--password-stdin"),
        ({"username": "", "password": CANARY}, "-u USER"),
        ({"username": "", "password": ""}, "username="),
        ({"token": CANARY, "username": "ada"}, "token="),
        ({"token": CANARY, "password": CANARY}, "token="),
        ({"token": ""}, "token"),
    ],
)
def test_half_of_what_is_needed_is_an_error_that_says_what_to_type(machine, options, advice):
    with pytest.raises(UsageError) as refusal:
        machine.find(**options)
    assert advice in str(refusal.value)
    assert CANARY not in str(refusal.value)


def test_the_environment_comes_before_the_files(machine):
    machine.environ |= {"REGAUDIT_USERNAME": "env", "REGAUDIT_PASSWORD": CANARY}
    machine.docker(auths={"reg.io": {"auth": auth("docker")}})
    assert machine.find() == Credentials("env", CANARY, source="REGAUDIT_USERNAME")


@pytest.mark.parametrize(
    "half",
    [
        {"REGAUDIT_USERNAME": "ada"},
        {"REGAUDIT_PASSWORD": CANARY},
        {"REGAUDIT_USERNAME": "ada", "REGAUDIT_PASSWORD": ""},
    ],
)
def test_half_an_environment_is_an_error_that_names_both_variables(machine, half):
    machine.environ |= half
    with pytest.raises(UsageError) as refusal:
        machine.find()
    assert "REGAUDIT_USERNAME" in str(refusal.value)
    assert "REGAUDIT_PASSWORD" in str(refusal.value)
    assert CANARY not in str(refusal.value)


def test_an_empty_environment_counts_as_unset(machine):
    machine.environ |= {"REGAUDIT_USERNAME": "", "REGAUDIT_PASSWORD": ""}
    assert machine.find() is None


def test_without_any_source_the_registry_is_asked_anonymously(machine, caplog):
    assert machine.find() is None
    assert not caplog.records


def test_the_process_environment_and_the_users_home_are_the_defaults(machine, monkeypatch):
    for name in ("DOCKER_CONFIG", "REGAUDIT_USERNAME", "REGAUDIT_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(machine.root))
    machine.docker(auths={"reg.io": {"auth": auth("home")}})
    assert find_credentials(RegistryName("reg.io")).username == "home"
    monkeypatch.setenv("REGAUDIT_USERNAME", "env")
    monkeypatch.setenv("REGAUDIT_PASSWORD", CANARY)
    assert find_credentials(RegistryName("reg.io")).username == "env"


def test_a_user_without_a_home_folder_is_asked_for_nothing(machine, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert find_credentials(RegistryName("reg.io"), environ={}) is None


# -- docker's config.json ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": auth()}, {"username": "ada", "password": CANARY}),
        ({"auth": auth(password="a:b")}, {"username": "ada", "password": "a:b"}),
        ({"auth": auth(password="pw\0\0")}, {"username": "ada", "password": "pw"}),
        ({"username": "ada", "password": CANARY}, {"username": "ada", "password": CANARY}),
        (
            {"auth": auth("auth"), "username": "field", "password": "other"},
            {"username": "auth", "password": CANARY},
        ),
        ({"identitytoken": CANARY}, {"identity_token": CANARY}),
        ({"auth": auth("ada", ""), "identitytoken": CANARY}, {"username": "ada", "identity_token": CANARY}),
        ({"registrytoken": CANARY}, {"registry_token": CANARY}),
    ],
)
def test_every_form_of_a_stored_login_is_read(machine, entry, expected):
    path = machine.docker(auths={"reg.io": entry})
    assert machine.find() == Credentials(**expected, source=f"docker config {path}")


def test_docker_config_names_the_folder_of_the_file_instead_of_the_home(machine):
    machine.docker(auths={"reg.io": {"auth": auth("home")}})
    machine.write("elsewhere/config.json", {"auths": {"reg.io": {"auth": auth("elsewhere")}}})
    machine.environ["DOCKER_CONFIG"] = str(machine.root / "elsewhere")
    assert machine.user() == "elsewhere"


def test_a_config_behind_a_symbolic_link_is_read_as_kubernetes_mounts_it(machine):
    target = machine.write("mounted/secret", {"auths": {"reg.io": {"auth": auth("linked")}}})
    (machine.root / ".docker").mkdir()
    (machine.root / ".docker/config.json").symlink_to(target)
    assert machine.user() == "linked"


MATCHES = [
    ("reg.io", "reg.io"),
    ("reg.io", "REG.io"),
    ("REG.IO", "reg.io"),
    ("reg.io", "https://reg.io"),
    ("reg.io", "http://reg.io"),
    ("reg.io", "reg.io/"),
    ("reg.io", "https://reg.io/v1/"),
    ("reg.io", "https://reg.io/v2/"),
    ("reg.io", "https://reg.io/v2"),
    ("https://reg.io", "reg.io"),
    ("reg.io:5000", "reg.io:5000"),
    ("reg.io:5000", "http://reg.io:5000/v1/"),
    ("localhost:5000", "localhost:5000"),
    ("[::1]:5000", "[::1]:5000"),
    (HUB, HUB_KEY),
    (HUB, HUB),
    (HUB, "index.docker.io"),
    (HUB, "registry-1.docker.io"),
    (HUB, "https://index.docker.io"),
    ("index.docker.io", HUB_KEY),
]


@pytest.mark.parametrize(("host", "key"), MATCHES)
def test_a_key_matches_its_host_in_every_spelling_that_docker_has_written(machine, host, key):
    machine.docker(auths={key: {"auth": auth()}})
    assert machine.user(host) == "ada"


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("reg.io.evil.com", "reg.io"),
        ("reg.io", "reg.io.evil.com"),
        ("reg.io", "evil.com/reg.io"),
        ("reg.io", "xreg.io"),
        ("xreg.io", "reg.io"),
        ("reg.io", "*.io"),
        ("reg.io", ""),
        ("reg.io", "https://"),
        ("reg.io", "ftp://reg.io"),
        ("reg.io", "reg.io@evil.com"),
        ("evil.com", "reg.io@evil.com"),
        ("evil.com", "https://ada:pw@evil.com"),
        ("reg.io", "reg.io:5000"),
        ("reg.io:5000", "reg.io"),
        ("reg.io:5000", "reg.io:5001"),
        ("reg.io:443", "reg.io"),
        ("sub.reg.io", "reg.io"),
        ("reg.io", "reg.io/team"),
        ("reg.io", "https://reg.io/team/v1/"),
        ("localhost", "127.0.0.1"),
        ("docker.io.evil.com", HUB_KEY),
        ("hub.docker.io", HUB_KEY),
        (HUB, "http://index.docker.io/v1/"),
    ],
)
def test_a_key_of_another_host_or_port_never_matches(machine, host, key, caplog):
    machine.docker(auths={key: {"auth": auth()}}, credHelpers={key: "no-such-helper"})
    assert machine.find(host) is None
    assert not caplog.records


def test_the_plainest_spelling_of_a_host_wins_and_an_empty_entry_gives_way(machine):
    machine.docker(auths={"https://reg.io/v1/": {"auth": auth("old")}, "reg.io": {"auth": auth("new")}})
    assert machine.user() == "new"
    machine.docker(auths={"https://reg.io/v1/": {"auth": auth("old")}, "reg.io": {}})
    assert machine.user() == "old"


def test_a_login_for_a_part_of_a_registry_counts_only_there_and_the_most_specific_wins(machine):
    machine.podman(
        auths={
            "reg.io": {"auth": auth("all")},
            "reg.io/team": {"auth": auth("team")},
            "reg.io/team/app": {"auth": auth("app")},
        }
    )
    repositories = [None, "other", "team2/app", "team/other", "team/app", "team/app/deep", "team/apple"]
    found = [machine.user(repository=repository) for repository in repositories]
    assert found == ["all", "all", "all", "team", "app", "app", "team"]


def test_the_parts_that_have_a_login_of_their_own_are_found_in_every_file(machine, caplog):
    machine.docker(auths={"reg.io": {"auth": auth("all")}, "other.io/x": {"auth": auth("x")}})
    machine.podman(auths={"reg.io/team": {"auth": auth("team")}, "reg.io/team/app/": {"auth": auth("app")}})
    found = find_part_credentials(parse_registry("reg.io"), environ=machine.environ, home=machine.root)
    assert {path: login.username for path, login in found.items()} == {"team": "all", "team/app": "all"}
    machine.docker(auths={})
    found = find_part_credentials(parse_registry("reg.io"), environ=machine.environ, home=machine.root)
    assert {path: login.username for path, login in found.items()} == {"team": "team", "team/app": "app"}
    machine.environ |= {"REGAUDIT_USERNAME": "env", "REGAUDIT_PASSWORD": "x"}
    assert find_part_credentials(parse_registry("reg.io"), environ=machine.environ, home=machine.root) == {}
    assert not caplog.records


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"auths": ["reg.io/team"]}', b'{"auths": null}'])
def test_a_file_that_cannot_be_used_has_no_parts_and_is_not_complained_about_twice(machine, caplog, content):
    machine.write(".config/containers/auth.json", content)
    assert find_part_credentials(parse_registry("reg.io"), environ=machine.environ, home=machine.root) == {}
    assert not caplog.records


# -- podman's auth.json -----------------------------------------------------------------------


def test_podmans_files_follow_dockers_in_the_order_of_the_manual(machine):
    logins = {"auths": {"reg.io": {"auth": auth("runtime")}}}
    machine.podman(auths={"reg.io": {"auth": auth("home")}})
    assert machine.user() == "home"
    machine.write("run/containers/auth.json", logins)
    machine.environ["XDG_RUNTIME_DIR"] = str(machine.root / "run")
    assert machine.user() == "runtime"
    machine.environ["REGISTRY_AUTH_FILE"] = str(
        machine.write("named.json", {"auths": {"reg.io": {"auth": auth("named")}}})
    )
    assert machine.user() == "named"
    machine.docker(auths={"reg.io": {"auth": auth("docker")}})
    assert machine.user() == "docker"


def test_the_file_that_registry_auth_file_names_stands_alone(machine):
    machine.podman(auths={"reg.io": {"auth": auth("home")}})
    machine.environ["REGISTRY_AUTH_FILE"] = str(machine.write("named.json", {"auths": {}}))
    assert machine.find() is None


def test_the_configuration_folder_of_the_desktop_is_respected(machine):
    machine.environ["XDG_CONFIG_HOME"] = str(machine.root / "settings")
    machine.write("settings/containers/auth.json", {"auths": {"reg.io": {"auth": auth("settings")}}})
    assert machine.user() == "settings"


# -- helpers ----------------------------------------------------------------------------------


def test_the_helper_of_a_host_comes_before_the_store_and_the_store_before_the_file(machine):
    for name in ("own", "store"):
        machine.answering(name, username=name)
    config = {"auths": {"reg.io": {"auth": auth("file")}}}
    machine.docker(**config)
    assert machine.user() == "file"
    machine.docker(**config, credsStore="store")
    assert machine.user() == "store"
    machine.docker(**config, credsStore="store", credHelpers={"reg.io": "own", "other.io": "store"})
    assert machine.find() == Credentials("own", CANARY, source="docker-credential-own")


def test_an_empty_helper_name_means_the_file_as_it_does_to_docker(machine):
    machine.answering("store", username="store")
    machine.docker(auths={"reg.io": {"auth": auth("file")}}, credsStore="store", credHelpers={"reg.io": ""})
    assert machine.user() == "file"


@pytest.mark.parametrize(
    ("host", "address"),
    [("reg.io", "reg.io"), ("https://reg.io:5000", "reg.io:5000"), (HUB, HUB_KEY), ("index.docker.io", HUB_KEY)],
)
def test_a_helper_is_asked_get_with_the_address_that_docker_would_give(machine, host, address):
    machine.answering("store")
    machine.docker(credsStore="store")
    assert machine.find(host) == Credentials("ada", CANARY, source="docker-credential-store")
    assert machine.asked == f"get {address}"


def test_podman_asks_its_helpers_for_docker_hub_by_its_plain_name(machine):
    machine.answering("store")
    machine.podman(credHelpers={HUB: "store"})
    assert machine.user(HUB) == "ada"
    assert machine.asked == f"get {HUB}"


def test_the_user_name_token_marks_an_identity_token(machine):
    machine.answering("store", username="<token>")
    machine.docker(credsStore="store")
    assert machine.find() == Credentials(identity_token=CANARY, source="docker-credential-store")


def test_a_helper_that_reads_nothing_may_still_answer(machine):
    machine.helper("store", f"""exec 0<&-; echo '{{"Username": "ada", "Secret": "{CANARY}"}}'""")
    machine.docker(credsStore="store")
    assert machine.user() == "ada"


@pytest.mark.parametrize("stream", ["1", "2"])
def test_credentials_not_found_is_a_normal_no_without_a_warning(machine, caplog, stream):
    machine.helper("store", f"echo 'credentials not found in native keychain' >&{stream}; exit 1")
    machine.docker(credsStore="store", auths={"reg.io": {"auth": auth("file")}})
    assert machine.user() == "file"
    assert not caplog.records


FAILURES = {
    "missing": ("", "not on the PATH"),
    "fails": (f"echo {CANARY}; exit 3", "status 3"),
    "killed": ("kill -9 $$", "status -9"),
    "silent": ("exit 0", "not a JSON object"),
    "junk": (f"echo '{CANARY} {{'", "not a JSON object"),
    "list": (f"""echo '["{CANARY}"]'""", "not a JSON object"),
    "deep": ("head -c 60000 /dev/zero | tr '\\0' '['", "not a JSON object"),
    "not-text": (f"""echo '{{"Username": ["{CANARY}"], "Secret": 7}}'""", "not text"),
    "no-secret": ("""echo '{"Username": "ada", "Secret": ""}'""", "without a user name or secret"),
    "no-user": (f"""echo '{{"Secret": "{CANARY}"}}'""", "without a user name or secret"),
    "other-host": (
        f"""echo '{{"ServerURL": "reg.io.evil.com", "Username": "ada", "Secret": "{CANARY}"}}'""",
        "another host",
    ),
    "huge": (f"echo {CANARY}; head -c 10000000 /dev/zero", "more than 65536 bytes"),
    "huge-errors": ("head -c 10000000 /dev/zero >&2", "more than 65536 bytes"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_helper_that_gives_nothing_usable_is_passed_over_with_one_warning(machine, caplog, name):
    script, reason = FAILURES[name]
    if script:
        machine.helper(name, script)
    machine.docker(credHelpers={"reg.io": name}, auths={"reg.io": {"auth": auth("file")}})
    assert machine.user() == "file"
    [record] = caplog.records
    assert (record.name, record.levelno) == ("regaudit.client", logging.WARNING)
    assert reason in record.getMessage()
    assert f"docker-credential-{name}" in record.getMessage()
    assert "docker login reg.io" in record.getMessage()
    assert CANARY not in caplog.text


def test_a_helper_that_cannot_be_started_is_passed_over(machine, caplog):
    machine.write("bin/docker-credential-broken", b"\x7fELF no program").chmod(0o755)
    machine.docker(credsStore="broken")
    assert machine.find() is None
    assert "cannot be started (OSError)" in caplog.text


def test_a_helper_in_a_folder_relative_to_the_notebook_is_never_started(machine, monkeypatch, caplog):
    machine.answering("store")
    monkeypatch.chdir(machine.root / "bin")
    machine.environ["PATH"] = f".:{os.pathsep}:bin"
    machine.docker(credsStore="store")
    assert machine.find() is None
    assert "not on the PATH" in caplog.text


@pytest.mark.parametrize("name", ["../store", "a b", "x;id", "$(id)", "a\nb", "é", "x" * 5000])
def test_a_helper_name_that_could_be_more_than_a_name_is_not_run(machine, caplog, name):
    machine.docker(credsStore=name)
    assert machine.find() is None
    [record] = caplog.records
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 1500


def test_only_the_first_line_of_a_helpers_errors_is_logged_and_it_is_redacted(machine, caplog):
    machine.helper("store", f"printf 'locked \\033[31m password={CANARY}\\nsecond {CANARY}\\n' >&2; exit 1")
    machine.docker(credsStore="store")
    assert machine.find() is None
    assert "locked" in caplog.text
    assert "second" not in caplog.text
    assert "\x1b" not in caplog.text
    assert CANARY not in caplog.text


def test_a_helper_that_hangs_is_ended_in_time_with_everything_it_started(machine, caplog, monkeypatch):
    monkeypatch.setattr(credentials, "HELPER_SECONDS", 0.3)
    os.mkfifo(machine.root / "alive")
    alive = os.open(machine.root / "alive", os.O_RDONLY | os.O_NONBLOCK)
    # Whoever holds descriptor 3 is alive; the shell's child inherits it.
    machine.helper("store", f"exec 3>'{machine.root}/alive'; echo started >&3; tail -f /dev/null; true")
    machine.docker(credsStore="store")
    began = time.monotonic()
    assert machine.find() is None
    assert time.monotonic() - began < 5
    assert "did not answer within 0.3 s" in caplog.text
    os.set_blocking(alive, True)
    with os.fdopen(alive, "rb") as file:
        assert file.read() in {b"started\n", b""}  # returns only when no writer is left


def test_a_helper_that_closes_its_output_and_lingers_is_ended_in_time(machine, caplog, monkeypatch):
    monkeypatch.setattr(credentials, "HELPER_SECONDS", 0.3)
    machine.helper("store", "exec tail -f /dev/null >/dev/null 2>&1")
    machine.docker(credsStore="store")
    assert machine.find() is None
    assert "did not answer within 0.3 s" in caplog.text


def test_one_helper_named_twice_is_asked_once(machine, caplog):
    machine.helper("store", "exit 1")
    machine.docker(credsStore="store", credHelpers={"reg.io": "store"})
    assert machine.find() is None
    assert len(caplog.records) == 1


# -- files that cannot be used ----------------------------------------------------------------

BROKEN = {
    "empty": b"",
    "cut": f'{{"auths": {{"reg.io": {{"auth": "{CANARY}'.encode(),
    "not-utf-8": b'\xff{"auths": {}}',
    "list": b"[]",
    "deep": b"[" * 100_000,
    "twice": b'{"auths": {}, "auths": {}}',
    "auths-list": {"auths": [CANARY]},
    "entry-text": {"auths": {"reg.io": CANARY}},
    "not-base64": {"auths": {"reg.io": {"auth": f"{CANARY}!"}}},
    "no-colon": {"auths": {"reg.io": {"auth": base64.b64encode(CANARY.encode()).decode()}}},
    "not-utf-8-auth": {"auths": {"reg.io": {"auth": base64.b64encode(b"ada:\xff" + CANARY.encode()).decode()}}},
    "number": {"auths": {"reg.io": {"username": "ada", "password": 7}}},
    "no-password": {"auths": {"reg.io": {"username": "ada"}}},
    "no-user": {"auths": {"reg.io": {"auth": auth("", CANARY)}}},
    "helpers-list": {"credHelpers": ["x"]},
    "helper-number": {"credHelpers": {"reg.io": 7}},
    "store-list": {"credsStore": ["x"]},
    "large": b'{"auths": {}, "x": "' + b"y" * (1 << 20) + b'"}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_is_passed_over_with_a_warning_that_names_it_and_what_to_do(machine, caplog, name):
    path = machine.write(".docker/config.json", BROKEN[name])
    machine.podman(auths={"reg.io": {"auth": auth("podman")}})
    assert machine.user() == "podman"
    [record] = caplog.records
    assert (record.name, record.levelno) == ("regaudit.client", logging.WARNING)
    assert str(path) in record.getMessage()
    assert "docker login reg.io" in record.getMessage()
    assert CANARY not in caplog.text


def test_a_config_that_is_no_file_is_passed_over_without_waiting_on_it(machine, caplog):
    (machine.root / ".docker").mkdir()
    os.mkfifo(machine.root / ".docker/config.json")
    machine.podman(auths={"reg.io": {"auth": auth("podman")}})
    assert machine.user() == "podman"
    assert "is not a file" in caplog.text


def test_a_config_that_may_not_be_read_is_passed_over(machine, caplog, monkeypatch):
    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    machine.docker(auths={"reg.io": {"auth": auth()}})
    monkeypatch.setattr(Path, "open", denied)
    assert machine.find() is None
    assert "cannot be read (PermissionError)" in caplog.text


def test_a_file_where_the_folder_should_be_counts_as_no_config(machine, caplog):
    machine.write(".docker", b"")
    assert machine.find() is None
    assert not caplog.records


# -- nothing leaks ----------------------------------------------------------------------------

UNSENDABLE = [
    {"auths": {"reg.io": {"auth": auth(password=f"{CANARY}\n")}}},
    {"auths": {"reg.io": {"username": "ada", "password": f"{CANARY}\r\nX: y"}}},
    {"auths": {"reg.io": {"identitytoken": f"{CANARY}\x1b"}}},
    {"auths": {"reg.io": {"registrytoken": f"{CANARY} {CANARY}"}}},
]


@pytest.mark.parametrize("config", UNSENDABLE)
def test_a_stored_secret_that_cannot_be_sent_is_an_error_that_shows_its_source_alone(machine, caplog, config):
    path = machine.docker(**config)
    with pytest.raises(UsageError) as refusal:
        machine.find()
    assert str(path) in str(refusal.value)
    assert CANARY not in "".join(traceback.format_exception(refusal.value)) + caplog.text


def test_a_helpers_secret_that_cannot_be_sent_is_an_error_too(machine):
    machine.answering("store", secret=f"{CANARY}\r\nX-Evil: 1")
    machine.docker(credsStore="store")
    with pytest.raises(UsageError, match="docker-credential-store") as refusal:
        machine.find()
    assert CANARY not in "".join(traceback.format_exception(refusal.value))


# -- any file at all --------------------------------------------------------------------------

TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["reg.io", "https://reg.io/v1/", auth(), "", "\0"]))
ENTRIES = st.dictionaries(st.sampled_from(["auth", "username", "password", "identitytoken", "registrytoken"]), TEXTS)
VALUES = st.one_of(st.none(), st.integers(), TEXTS, st.lists(TEXTS), st.dictionaries(TEXTS, st.one_of(ENTRIES, TEXTS)))
CONFIGS = st.dictionaries(st.sampled_from(["auths", "credHelpers"]), VALUES)


@given(st.one_of(CONFIGS.map(lambda config: json.dumps(config).encode()), st.binary(max_size=200)))
@settings(deadline=1000)
def test_any_config_gives_credentials_or_none_or_a_usage_error(raw):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_bytes(raw)
        try:
            found = find_credentials(RegistryName("reg.io"), environ={"DOCKER_CONFIG": folder}, home=Path(folder))
        except UsageError:
            return
    assert found is None or found.source.startswith("docker config ")
