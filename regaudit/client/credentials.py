"""Where a user's credentials come from: what was typed, the environment, and the files of docker and podman.

The files and the helper protocol are docker's (docs.docker.com, "docker login", "Credential helper
protocol") and podman's (containers-auth.json(5)). A source that cannot be used is passed over with
one warning; a source that names a secret which cannot be sent is an error, because to go on without
it would look like a registry that refuses.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
import selectors
import shutil
import signal
import stat
import subprocess
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from regaudit.errors import AuthenticationFailed, BadManifest, InvalidReference, UsageError
from regaudit.manifest import load_json
from regaudit.reference import RegistryName, parse_registry
from regaudit.text import clean, conceal, redact

__all__ = ["Credentials", "find_credentials", "find_part_credentials"]

_log = logging.getLogger("regaudit.client")

# The key under which docker stores Docker Hub, and the address that it gives to helpers for it.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
# What to do about credentials that were typed and are wrong.
_TYPE_AGAIN = "check username= and password=, -u USER --password-stdin on the command line"
# The user name by which a helper says that its secret is an OAuth2 refresh token.
_IDENTITY_TOKEN_USER = "<token>"  # noqa: S105 -- a marker of the protocol
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")
# A bearer token goes into a header as it is (RFC 6750, "b64token").
_BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")

# A helper may ask its user to unlock a keychain, which takes seconds; one that waits for a prompt
# nobody sees (a notebook has no terminal) must not hang an audit.
HELPER_SECONDS = 15.0
# A reply is an address, a user name and a token of a few KiB.
HELPER_BYTES = 64 * 1024
# A configuration of a hundred logins is some 20 KiB.
CONFIG_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """What to show a registry to be let in.

    Neither ``repr`` nor ``str`` shows a secret, and a secret that could not be sent safely is refused.

    Attributes
    ----------
    username, password : str or None
        For Basic authentication and for a token server.
    identity_token : str or None
        An OAuth2 refresh token, exchanged for bearer tokens.
    registry_token : str or None
        A bearer token to use as it is.
    source : str
        Where they were found, in words for a message.
    remedy : str
        What to do where they are not accepted, in words for a message.

    Raises
    ------
    UsageError
        Where a value has a line break or another control character, or a bearer token is none.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    identity_token: str | None = field(default=None, repr=False)
    registry_token: str | None = field(default=None, repr=False)
    source: str = "given"
    remedy: str = field(default=_TYPE_AGAIN, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = {"user name": self.username, "password": self.password, "identity token": self.identity_token}
        for what, value in values.items():
            if value is not None and any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
                raise UsageError(
                    f"the {what} ({self.source}) has a line break or another control character: "
                    "give it without one, perhaps it was read with the line end of a file"
                )
        if self.registry_token is not None and _BEARER_TOKEN.fullmatch(self.registry_token) is None:
            raise UsageError(f"the token ({self.source}) is not a bearer token: give it without blanks or line breaks")
        conceal(self.password, self.identity_token, self.registry_token)

    def basic(self) -> str:
        """Return the value of an Authorization header for Basic authentication.

        Raises
        ------
        UsageError
            Where there is no user name or password, or the user name has a ``:``, which Basic
            (RFC 7617) would read as the end of the name.

        Examples
        --------
        >>> Credentials("ada", "pw").basic()
        'Basic YWRhOnB3'
        """
        if self.username is None or self.password is None:
            raise UsageError(f"the credentials ({self.source}) are no user name and password: give both")
        if ":" in self.username:
            raise UsageError(f"the user name ({self.source}) has a ':': Basic authentication cannot send it")
        encoded = base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")
        conceal(encoded)
        return f"Basic {encoded}"

    def not_accepted(self, what: str, *, url: str = "", status: int | None = None) -> AuthenticationFailed:
        """Return the error for a server that does not accept them: what was tried, and what to do next."""
        shown = "user name or password"
        if self.registry_token or self.identity_token:
            shown = "token" if self.registry_token else "identity token"
        return AuthenticationFailed(
            f"{what}: the {shown} was not accepted ({self.source}): {self.remedy}", url=url, status=status
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the user name and the source; the secrets stay behind."""
        return {"username": self.username, "source": self.source}


def find_credentials(
    registry: RegistryName,
    *,
    username: str | None = None,
    password: str | None = None,
    token: str | None = None,
    repository: str | None = None,
    environ: Mapping[str, str] | None = None,
    home: Path | None = None,
) -> Credentials | None:
    """Return the credentials for a registry, from the first source that has them.

    The sources, in this order: what is given here; ``REGAUDIT_USERNAME`` and ``REGAUDIT_PASSWORD``;
    docker's ``config.json`` (a helper for this host, the credential store, then the stored logins);
    podman's ``auth.json``. Hosts match exactly, port included. A file or helper that cannot be used
    is passed over, with a warning on the logger ``regaudit.client``.

    Parameters
    ----------
    registry : RegistryName
        The registry to log in to.
    username, password : str, optional
        Given together.
    token : str, optional
        A bearer token to use as it is, instead of a user name and password.
    repository : str, optional
        Lets logins stored for a part of a registry match (``host/team``); the most specific wins.
    environ : mapping, optional
        The environment; by default that of the process.
    home : Path, optional
        The home folder; by default the user's.

    Returns
    -------
    Credentials or None
        None where no source has any: the registry is asked anonymously.

    Raises
    ------
    UsageError
        Where half of a pair is given or set, or a secret has control characters.

    Examples
    --------
    >>> find_credentials(parse_registry("reg.example"), username="ada", password="pw")
    Credentials(username='ada', source='given')
    """
    environ = os.environ if environ is None else environ
    direct = _given(username, password, token) or _from_environment(environ)
    if direct is not None:
        return direct
    for file in _auth_files(environ, _home() if home is None else home):
        found = _from_file(file, registry, repository, environ)
        if found is not None:
            return found
    return None


def find_part_credentials(
    registry: RegistryName, *, environ: Mapping[str, str] | None = None, home: Path | None = None
) -> dict[str, Credentials]:
    """Return the logins that are stored for parts of a registry, by the beginning of a repository's name.

    These are podman's (``podman login registry.example/team``). Where the environment has credentials, they
    count everywhere.
    """
    environ = os.environ if environ is None else environ
    home = _home() if home is None else home
    if _from_environment(environ) is not None:
        return {}
    found = {}
    for path in {path for file in _auth_files(environ, home) for path in _paths(file, registry)}:
        credentials = find_credentials(registry, repository=path, environ=environ, home=home)
        if credentials is not None:
            found[path] = credentials
    return found


def _paths(file: _AuthFile, registry: RegistryName) -> set[str]:
    """Return the parts of a registry that a file has logins for; whoever asks for a login hears what is wrong with it."""
    try:
        logins = _read_config(file.path).get("auths")
    except _Unusable:
        return set()
    keys = [_split_key(key) for key in logins] if isinstance(logins, dict) else []
    return {path for host, path in keys if host == registry.host and path}


def _given(username: str | None, password: str | None, token: str | None) -> Credentials | None:
    if token is not None:
        if username is not None or password is not None:
            raise UsageError("a token was given with a user name or password: give token= or username= and password=")
        return Credentials(registry_token=token, remedy="check token=")
    if username is None and password is None:
        return None
    if not username:
        raise UsageError("a password was given without a user name: give username= too (command line: -u USER)")
    if not password:
        raise UsageError(
            "a user name was given without a password: give password= too (command line: -u USER --password-stdin)"
        )
    return Credentials(username, password)


def _from_environment(environ: Mapping[str, str]) -> Credentials | None:
    # Empty counts as unset: that is how a CI system passes on a secret that it does not have.
    username, password = environ.get("REGAUDIT_USERNAME"), environ.get("REGAUDIT_PASSWORD")
    if not username and not password:
        return None
    if not username:
        raise UsageError("REGAUDIT_PASSWORD is set and REGAUDIT_USERNAME is not: set both, or unset REGAUDIT_PASSWORD")
    if not password:
        raise UsageError("REGAUDIT_USERNAME is set and REGAUDIT_PASSWORD is not: set both, or unset REGAUDIT_USERNAME")
    remedy = "check REGAUDIT_USERNAME and REGAUDIT_PASSWORD"
    return Credentials(username, password, source="REGAUDIT_USERNAME", remedy=remedy)


# -- the files of docker and podman -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _AuthFile:
    tool: str
    path: Path

    @property
    def source(self) -> str:
        return f"{self.tool} config {clean(self.path, 300)}"

    def remedy(self, registry: RegistryName, path: str = "") -> str:
        return f"log in again with `{self.tool} login {'/'.join(filter(None, [registry.host, clean(path, 255)]))}`"


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # a container's user without a name or HOME
        return None


def _auth_files(environ: Mapping[str, str], home: Path | None) -> Iterator[_AuthFile]:
    docker, podman = environ.get("DOCKER_CONFIG"), environ.get("REGISTRY_AUTH_FILE")
    if docker:
        yield _AuthFile("docker", Path(docker, "config.json"))
    elif home:
        yield _AuthFile("docker", home / ".docker" / "config.json")
    if podman:
        yield _AuthFile("podman", Path(podman))
        return
    runtime, settings = environ.get("XDG_RUNTIME_DIR"), environ.get("XDG_CONFIG_HOME")
    folders = (Path(runtime) if runtime else None, Path(settings) if settings else home and home / ".config")
    yield from (_AuthFile("podman", folder / "containers" / "auth.json") for folder in folders if folder)


def _from_file(
    file: _AuthFile, registry: RegistryName, repository: str | None, environ: Mapping[str, str]
) -> Credentials | None:
    try:
        config = _read_config(file.path)
        for name in _helpers(config, registry, repository):
            found = _ask_helper(name, file, registry, environ)
            if found is not None:
                return found
        entries = _matching(config.get("auths"), registry, repository)
        read = (_stored(entry, file.source, file.remedy(registry, path)) for path, entry in entries)
        return next((found for found in read if found is not None), None)
    except _Unusable as reason:
        _log.warning(
            "%s is passed over, for it %s: repair it, or remove it and %s",
            file.source,
            reason,
            file.remedy(registry),
        )
        return None


class _Unusable(Exception):
    """A source that cannot be used; the text says why and holds nothing that was read."""


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _Unusable("is not a file")
        with path.open("rb") as file:
            raw = file.read(CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise _Unusable(f"cannot be read ({type(error).__name__})") from None
    if len(raw) > CONFIG_BYTES:
        raise _Unusable(f"is larger than {CONFIG_BYTES} bytes")
    try:
        config = load_json(raw)
    except BadManifest:
        raise _Unusable("is not JSON, or names a key twice") from None
    if not isinstance(config, dict):
        raise _Unusable("is not a JSON object")
    return config


def _helpers(config: dict[str, Any], registry: RegistryName, repository: str | None) -> list[str]:
    """Return the names of the helpers to ask, the one for this host first."""
    names = [name for _, name in _matching(config.get("credHelpers"), registry, repository)][:1]
    if names == [""]:  # docker's way to say: for this host not the store, but the file
        return []
    store = config.get("credsStore")
    names += [store] if store else []
    if not all(isinstance(name, str) for name in names):
        raise _Unusable("has a helper whose name is not text")
    return list(dict.fromkeys(names))


def _matching(section: Any, registry: RegistryName, repository: str | None) -> list[tuple[str, Any]]:
    """Return path and value where a key means this registry, the most specific and then the plainest spelling first."""
    if section is None:
        return []
    if not isinstance(section, dict):
        raise _Unusable("has a list of hosts that is not a JSON object")
    plain = (registry.host, _DOCKER_HUB_KEY) if registry.official else (registry.host,)
    found = []
    for key, value in section.items():
        host, path = _split_key(key)
        if host == registry.host and (not path or f"{repository or ''}/".startswith(f"{path}/")):
            found.append((-len(path), key not in plain, path, value))
    return [match[2:] for match in sorted(found, key=lambda match: match[:2])]


def _split_key(key: str) -> tuple[str | None, str]:
    scheme, separator, rest = key.rpartition("://")
    host, _, path = rest.partition("/")
    try:
        registry = parse_registry(f"{scheme}{separator}{host}")
    except InvalidReference:
        return None, ""
    path = path.strip("/")
    # Docker has written the address of the interface behind the host; podman a part of a registry.
    return registry.host, "" if path in {"v1", "v2"} else path


def _stored(entry: Any, source: str, remedy: str) -> Credentials | None:
    """Return the credentials of one entry; an empty one marks a login that a helper holds."""
    if not isinstance(entry, dict):
        raise _Unusable("has a login that is not a JSON object")
    names = ("username", "password", "auth", "identitytoken", "registrytoken")
    texts = {name: entry.get(name) or None for name in names}
    if not all(value is None or isinstance(value, str) for value in texts.values()):
        raise _Unusable("has a login whose fields are not text")
    username, password, auth, identity, bearer = texts.values()
    if auth is not None:
        username, password = _decoded(auth)
    if identity is None and bearer is None:
        if username is None and password is None:
            return None
        if username is None or password is None:
            raise _Unusable("has a login without a user name or password")
    return Credentials(username, password, identity, bearer, source, remedy)


def _decoded(auth: str) -> tuple[str | None, str | None]:
    try:
        username, colon, password = base64.b64decode(auth, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        raise _Unusable("has a login whose auth is not base64") from None
    if not colon:
        raise _Unusable("has a login whose auth is not USER:PASSWORD")
    # Docker's own reader drops the NULs around a password, so that such an entry works there.
    return username or None, password.strip("\0") or None


# -- credential helpers -----------------------------------------------------------------------


def _ask_helper(name: str, file: _AuthFile, registry: RegistryName, environ: Mapping[str, str]) -> Credentials | None:
    address = _DOCKER_HUB_KEY if registry.official and file.tool == "docker" else registry.host
    source = f"docker-credential-{clean(name, 60)}"
    try:
        reply = _run_helper(name, address, environ)
        return None if reply is None else _answer(reply, registry, source, file.remedy(registry))
    except _Unusable as reason:
        _log.warning(
            "%s (named in %s) is passed over for %s, for it %s: %s",
            source,
            clean(file.path, 300),
            registry.host,
            reason,
            file.remedy(registry),
        )
        return None


def _run_helper(name: str, address: str, environ: Mapping[str, str]) -> bytes | None:
    """Return what a helper writes, or None where it knows no credentials for the address."""
    if _HELPER_NAME.fullmatch(name) is None:
        raise _Unusable("has a name with other characters than letters, digits and . _ -")
    # A folder relative to where a notebook happens to run is no place to start programs from.
    folders = [folder for folder in environ.get("PATH", "").split(os.pathsep) if Path(folder).is_absolute()]
    program = shutil.which(f"docker-credential-{name}", path=os.pathsep.join(folders))
    if program is None:
        raise _Unusable("is not on the PATH")
    status, output, errors = _converse([program, "get"], address, environ)
    if status == 0:
        return output
    if b"credentials not found" in (output + errors).lower():
        return None
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    said = f", saying {redact(lines[0], 200)!r}" if lines else ""
    raise _Unusable(f"ended with status {status}{said}")


def _converse(command: list[str], text: str, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Return the exit status, output and error output of a command that was given a text."""
    deadline = time.monotonic() + HELPER_SECONDS
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environ), start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise _Unusable(f"cannot be started ({type(error).__name__})") from None
    with process:
        try:
            stdin, *streams = (cast("IO[bytes]", stream) for stream in (process.stdin, process.stdout, process.stderr))
            with suppress(BrokenPipeError), stdin:
                stdin.write(text.encode())
            output, errors = _read_all(streams, deadline)
            return process.wait(max(0.0, deadline - time.monotonic())), output, errors
        except subprocess.TimeoutExpired:
            raise _Unusable(f"did not answer within {HELPER_SECONDS:g} s") from None
        finally:
            _end(process)


def _read_all(streams: list[IO[bytes]], deadline: float) -> list[bytes]:
    """Return what the streams hold up to their ends, reached by the deadline and within `HELPER_BYTES` each."""
    read = {stream.fileno(): bytearray() for stream in streams}
    with selectors.DefaultSelector() as waiting:
        for number in read:
            waiting.register(number, selectors.EVENT_READ)
        while waiting.get_map():
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _Unusable(f"did not answer within {HELPER_SECONDS:g} s")
            for key, _ in ready:
                chunk = os.read(key.fd, HELPER_BYTES)
                read[key.fd] += chunk
                if len(read[key.fd]) > HELPER_BYTES:
                    raise _Unusable(f"wrote more than {HELPER_BYTES} bytes")
                if not chunk:
                    waiting.unregister(key.fd)
    return [bytes(content) for content in read.values()]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a helper that was not waited for, and what it started: a script's child would keep the pipes open."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _answer(reply: bytes, registry: RegistryName, source: str, remedy: str) -> Credentials:
    try:
        fields = load_json(reply)
    except BadManifest:
        fields = None
    if not isinstance(fields, dict):
        raise _Unusable("answered something that is not a JSON object")
    address, username, secret = (fields.get(name) or "" for name in ("ServerURL", "Username", "Secret"))
    if not (isinstance(address, str) and isinstance(username, str) and isinstance(secret, str)):
        raise _Unusable("answered fields that are not text")
    if address and _split_key(address)[0] != registry.host:
        raise _Unusable("answered for another host")
    if not username or not secret:
        raise _Unusable("answered without a user name or secret")
    if username == _IDENTITY_TOKEN_USER:
        return Credentials(identity_token=secret, source=source, remedy=remedy)
    return Credentials(username, secret, source=source, remedy=remedy)
