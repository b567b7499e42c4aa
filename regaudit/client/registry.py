"""Registry: what a person holds in a notebook."""

from __future__ import annotations

import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from regaudit._version import __version__
from regaudit.client import v1, v2
from regaudit.client.blocking import BlockingDriver
from regaudit.client.bulk import Bulk, bulk_driver
from regaudit.client.credentials import find_credentials, find_part_credentials
from regaudit.client.exchange import READ_DEADLINE, STALL, Conversation, RetryPolicy, Session
from regaudit.client.login import Login, login
from regaudit.client.registry_v1 import RegistryV1
from regaudit.client.repository import Repository
from regaudit.client.throttle import Gate
from regaudit.client.transport import IN_FLIGHT, Transport
from regaudit.errors import AccessDenied, AuthenticationFailed, NotARegistry, Unsupported, UsageError
from regaudit.reference import RegistryName, check_repository, parse_registry
from regaudit.text import clean

T = TypeVar("T")


class Registry:
    """A container registry, spoken to with the credentials that docker has for it, or anonymously.

    Parameters
    ----------
    host : str
        ``host``, ``host:port``, or with ``https://`` or ``http://`` in front. Plain http is used only
        where it is typed or asked for, and for this machine.
    username, password, token : str, optional
        Instead of what the environment or docker's configuration holds. `token` is a bearer token.
    plain_http : bool
        Speak plain http; a password then only goes to this machine.
    insecure : bool
        Do not verify the registry's certificate. A warning says so.
    ca : path, optional
        File of certificate authorities to verify against.
    client_certificate : pair of paths, optional
        Certificate and key files.
    proxy : str, optional
        URL of a proxy for every request.
    use_env_proxy : bool
        Use the proxy of the environment variables; they are ignored otherwise.
    deadline : float
        Seconds for a whole exchange, blobs apart: those may take long, but must move.
    connect_timeout : float
        Seconds for a connection.
    stall_timeout : float
        Seconds for the next bytes of an answer or of a blob.
    tries : int
        Attempts of a read that gets no answer, and of a part of a blob.
    busy_tries : int
        Attempts of a request to which the registry says that it is busy (429, 503).
    in_flight : int
        The most requests at a time. How many the registry can use is found out, and never goes beyond.
    driver : str, optional
        What reads many things at once: ``libcurl`` or ``threads``; libcurl where pycurl is installed unless given.
    trusted_realms : sequence of str
        Hosts of token servers that may see the credentials, beside the registry's own and the known ones.
    trusted_endpoints : sequence of str
        Hosts that a registry of the v1 interface may send us on to, and that may see its tokens.

    Raises
    ------
    InvalidReference
        `host` is none.
    UsageError
        Options that contradict each other.

    Examples
    --------
    ``with Registry("registry.example.com") as registry: registry.catalog()``
    """

    def __init__(
        self,
        host: str,
        *,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        plain_http: bool = False,
        insecure: bool = False,
        ca: str | Path | None = None,
        client_certificate: tuple[str | Path, str | Path] | None = None,
        proxy: str | None = None,
        use_env_proxy: bool = False,
        deadline: float = READ_DEADLINE,
        connect_timeout: float = 10.0,
        stall_timeout: float = STALL,
        tries: int = 3,
        busy_tries: int = 6,
        in_flight: int = IN_FLIGHT,
        driver: str | None = None,
        trusted_realms: Sequence[str] = (),
        trusted_endpoints: Sequence[str] = (),
        user_agent: str = f"regaudit/{__version__}",
    ) -> None:
        if isinstance(trusted_realms, str):
            raise UsageError(
                f"trusted_realms is one text where several are expected: write [{clean(trusted_realms)!r}]"
            )
        name = parse_registry(host)
        scheme = _scheme(name, plain_http=plain_http)
        if insecure and ca is not None:
            raise UsageError("insecure=True and ca= contradict each other: give one of them")
        if any(character < " " for character in user_agent):
            raise UsageError("user_agent= has a line break or another control character: give it without one")
        if insecure:
            warnings.warn(f"the certificate of {clean(name.host, 120)} is not verified", UserWarning, stacklevel=2)
        self.session = Session(
            registry=name,
            base=f"{scheme}://{name.server}",
            credentials=find_credentials(name, username=username, password=password, token=token),
            retry=RetryPolicy(tries=tries, busy_tries=busy_tries),
            deadline=deadline,
            trusted_realms=tuple(trusted_realms),
        )
        if username is None and token is None:
            self.session.divide(find_part_credentials(name))
        certificate = client_certificate and (_file(client_certificate[0]), _file(client_certificate[1]))
        if in_flight < 1:
            raise UsageError("in_flight= is less than one request at a time: give 1 or more")
        transport = Transport(
            verify=_file(ca) if ca is not None else not insecure,
            client_certificate=certificate,
            proxies=_proxies(proxy, from_environment=use_env_proxy),
            bypasses=urllib.request.proxy_bypass if use_env_proxy and proxy is None else None,
            user_agent=user_agent,
            connect_seconds=connect_timeout,
            stall_seconds=stall_timeout,
            in_flight=in_flight,
        )
        self._gate = Gate(in_flight)
        self._driver = BlockingDriver(transport, self._gate)
        self._bulk = bulk_driver(driver, transport, self._gate, self._driver)
        self._version: str | None = None
        self.v1 = RegistryV1(self, trusted_endpoints)

    @property
    def host(self) -> str:
        """Normalised ``host[:port]``: the registry's identity in snapshots, plans and journals."""
        return self.session.host

    def run(self, conversation: Conversation[T]) -> T:
        """Run one conversation and return its result."""
        return self._driver.run(conversation)

    def bulk(self) -> Bulk:
        """Return what runs many conversations at once; to be used with ``with``, in one thread."""
        if self._driver.stopping.is_set():
            raise UsageError("the registry was closed: make a new Registry to speak to it again")
        return self._bulk.open()

    def ping(self) -> v2.Ping:
        """Ask whether this is a registry and lets us in: status (200 or 401), headers and body.

        Raises
        ------
        NotARegistry, Unreachable, AuthenticationFailed
            With what to do about it.
        """
        return self.run(v2.ping(self.session))

    @property
    def version(self) -> str:
        """Which interface the registry speaks, ``v2`` or ``v1`` (through `Registry.v1`); asked once and remembered.

        Raises
        ------
        NotARegistry
            It speaks neither: the message says what was tried.
        Unreachable, AuthenticationFailed
            It cannot be told.
        """
        return self._version or self.find_version()

    def find_version(self) -> str:
        """Ask which interface the registry speaks, and remember it as `version`."""
        self._version = self.run(v1.find_version(self.session))
        return self._version

    def supports_v2(self) -> bool:
        """Return whether this is a registry of the v2 interface, a login wanted or not.

        Raises
        ------
        RegistryError
            Nobody answers, or the answer leaves it open.
        """
        try:
            self.ping()
        except NotARegistry:
            return False
        except (AuthenticationFailed, AccessDenied):
            return True
        return True

    def login(self, scope: str | None = None) -> Login:
        """Log in, and say what that came to; without credentials, as nobody.

        Parameters
        ----------
        scope : str, optional
            Rights to ask for, such as ``repository:team/app:pull,push``. Fewer may be granted: see
            `Login.missing`.

        Raises
        ------
        AuthenticationFailed
            The credentials are wrong; the message says what to type.
        AccessDenied, NotARegistry, Unreachable
            With what to do about it.
        """
        return self.run(login(self.session, scope))

    def catalog(self) -> list[str]:
        """Return the names of all repositories; hosted registries often deny this."""
        self._needs_v2("search('')")
        return list(self.run(v2.catalog(self.session)).all())

    def repository(self, name: str) -> Repository:
        """Return a repository by its name; nothing is asked of the registry."""
        self._needs_v2(f"repository({name!r})")
        return Repository(self, check_repository(name))

    def _needs_v2(self, instead: str) -> None:
        """Raise where the registry is known to speak only v1, which would answer all of v2 with a 404."""
        if self._version == "v1":
            raise Unsupported(f"{self.host} speaks only the v1 interface: use registry.v1.{clean(instead, 300)}")

    def close(self) -> None:
        """End what is under way, and close all connections."""
        self._driver.close()
        self._bulk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Registry {clean(self.session.base, 120)}>"


def _scheme(name: RegistryName, *, plain_http: bool) -> str:
    if plain_http and name.scheme == "https":
        raise UsageError("plain_http and https:// contradict each other: give one of them")
    return name.scheme or ("http" if plain_http or name.loopback else "https")


def _file(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise UsageError(f"{clean(path)} is not a file: name the file with the certificate or key")
    return Path(path)


def _proxies(proxy: str | None, *, from_environment: bool) -> dict[str, str]:
    if proxy is not None:
        return dict.fromkeys(("http", "https"), _proxy_url(proxy, "proxy="))
    found = urllib.request.getproxies() if from_environment else {}
    return {scheme: _proxy_url(found[scheme], f"{scheme}_proxy") for scheme in ("http", "https") if scheme in found}


def _proxy_url(text: str, what: str) -> str:
    try:
        parts = urlsplit(text if "://" in text or what == "proxy=" else f"http://{text}")
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
    except ValueError:  # brackets without an address, a port out of range
        usable = False
    if not usable:
        raise UsageError(f"{what} is not the address of a proxy: write http://HOST:PORT")
    return parts.geturl()


__all__ = ["Registry"]
