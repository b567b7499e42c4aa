"""Registry and Repository: what a person holds in a notebook."""

from __future__ import annotations

import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from regaudit._version import __version__
from regaudit.client import v2, write
from regaudit.client.auth import refusal
from regaudit.client.blocking import BlockingDriver, Transport
from regaudit.client.bulk import Bulk
from regaudit.client.credentials import find_credentials
from regaudit.client.exchange import READ_DEADLINE, Conversation, Response, RetryPolicy, Session, Sink, Source
from regaudit.client.login import Login, login
from regaudit.errors import UsageError
from regaudit.manifest import AnyManifest, Descriptor, ImageConfig, Manifest, parse_image_config
from regaudit.reference import Digest, RegistryName, check_repository, parse_registry
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
        Seconds for a whole exchange, blobs apart.
    tries : int
        Attempts of a read that gets no answer.
    in_flight : int
        The most requests at a time.
    trusted_realms : sequence of str
        Hosts of token servers that may see the credentials, beside the registry's own and the known ones.

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
        tries: int = 3,
        in_flight: int = 8,
        trusted_realms: Sequence[str] = (),
        user_agent: str = f"regaudit/{__version__}",
    ) -> None:
        if isinstance(trusted_realms, str):
            raise UsageError(
                f"trusted_realms is one text where several are expected: write [{clean(trusted_realms)!r}]"
            )
        name = parse_registry(host)
        scheme = _scheme(name, plain_http=plain_http)
        if insecure:
            warnings.warn(f"the certificate of {clean(name.host, 120)} is not verified", UserWarning, stacklevel=2)
        self.session = Session(
            registry=name,
            base=f"{scheme}://{name.server}",
            credentials=find_credentials(name, username=username, password=password, token=token),
            retry=RetryPolicy(tries=tries),
            deadline=deadline,
            trusted_realms=tuple(trusted_realms),
        )
        certificate = client_certificate and (_file(client_certificate[0]), _file(client_certificate[1]))
        self._driver = BlockingDriver(
            Transport(
                verify=_file(ca) if ca is not None else not insecure,
                client_certificate=certificate,
                proxies=_proxies(name.server, proxy, from_environment=use_env_proxy),
                user_agent=user_agent,
                in_flight=in_flight,
            )
        )
        self._in_flight = in_flight

    @property
    def host(self) -> str:
        """Normalised ``host[:port]``: the registry's identity in snapshots, plans and journals."""
        return self.session.host

    def run(self, conversation: Conversation[T]) -> T:
        """Run one conversation and return its result."""
        return self._driver.run(conversation)

    def bulk(self) -> Bulk:
        """Return a pool that runs many conversations at once."""
        return Bulk(self._driver, self._in_flight)

    def ping(self) -> v2.Ping:
        """Ask whether this is a registry and lets us in: status (200 or 401), headers and body.

        Raises
        ------
        NotARegistry, Unreachable, AuthenticationFailed
            With what to do about it.
        """
        return self.run(v2.ping(self.session))

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
        return list(self.run(v2.catalog(self.session)).all())

    def repository(self, name: str) -> Repository:
        """Return a repository by its name; nothing is asked of the registry."""
        return Repository(self, check_repository(name))

    def close(self) -> None:
        """Close all connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Registry {clean(self.session.base, 120)}>"


class Repository:
    """One repository of a registry. Every method is one or a few requests."""

    def __init__(self, registry: Registry, name: str) -> None:
        self.registry, self.name = registry, name

    def __repr__(self) -> str:
        return f"<Repository {clean(self.registry.host, 120)}/{clean(self.name, 255)}>"

    def tags(self) -> list[str]:
        """Return all tags, over all pages; raises `NotFound` where there is no such repository."""
        return list(self._run(v2.tags(self._session, self.name)).all())

    def head(self, reference: str) -> v2.Head:
        """Return digest, media type and size of a manifest by tag or digest, without reading it."""
        return self._run(v2.head_manifest(self._session, self.name, reference))

    def manifest(self, reference: str) -> AnyManifest:
        """Return a manifest or index by tag or digest, its bytes verified."""
        return self._run(v2.get_manifest(self._session, self.name, reference))

    def config(self, manifest: Manifest) -> ImageConfig:
        """Return the config of an image."""
        return parse_image_config(self._run(v2.get_blob(self._session, self.name, manifest.config.digest)))

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Return descriptors of what refers to a digest: signatures, attestations, SBOMs."""
        return self._run(v2.referrers(self._session, self.name, Digest(digest)))

    def blob_size(self, digest: str) -> int | None:
        """Return a blob's size in bytes; raises `NotFound` where it is not there."""
        return self._run(v2.head_blob(self._session, self.name, Digest(digest)))

    def download_blob(self, digest: str, path: str | Path) -> int:
        """Stream a blob into a file, verify it, and return its size in bytes.

        The file appears only when it is whole and its digest is right.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.part")
        try:
            with partial.open("wb") as file:
                size = self._run(v2.download_blob(self._session, self.name, Digest(digest), _FileSink(file)))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return size

    def upload_blob(self, data: bytes | Path) -> Digest:
        """Upload a blob from memory or from a file, unless it is there, and return its digest."""
        body: bytes | Source = _FileSource(data) if isinstance(data, Path) else data
        digest = _digest_of_file(data) if isinstance(data, Path) else Digest.of(data)
        self._run(write.upload_blob(self._session, self.name, digest, body))
        return digest

    def put_manifest(self, reference: str, raw: bytes, media_type: str) -> Digest:
        """Store a manifest byte for byte under a tag or its digest, and return its digest."""
        return self._run(write.put_manifest(self._session, self.name, reference, raw, media_type))

    def delete_manifest(self, digest: str) -> int:
        """Delete a manifest **and every tag on it**, and return the status; prefer a plan and a `Cleaner`.

        Raises
        ------
        Refused
            The registry did not accept it.
        """
        return self._accepted(self._run(write.delete_manifest(self._session, self.name, Digest(digest))), digest)

    def delete_tag(self, tag: str) -> int:
        """Delete a tag alone, and return the status; not every registry offers this."""
        return self._accepted(self._run(write.delete_tag(self._session, self.name, tag)), tag)

    @property
    def _session(self) -> Session:
        return self.registry.session

    def _run(self, conversation: Conversation[T]) -> T:
        return self.registry.run(conversation)

    def _accepted(self, response: Response, what: str) -> int:
        if response.status in {200, 202, 204}:
            return response.status
        raise refusal(self._session, response, f"deleting {self.registry.host}/{self.name} {clean(what, 140)}")


class _FileSink(Sink):
    """A file that a blob is streamed into."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes, /) -> None:
        self._file.write(data)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()


class _FileSource(Source):
    """A file that is uploaded, from its beginning at each attempt."""

    def __init__(self, path: Path) -> None:
        self._path, self.size = path, path.stat().st_size

    def open(self) -> Any:
        return self._path.open("rb")


def _digest_of_file(path: Path) -> Digest:
    import hashlib

    with path.open("rb") as file:
        return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


def _scheme(name: RegistryName, *, plain_http: bool) -> str:
    if plain_http and name.scheme == "https":
        raise UsageError("plain_http and https:// contradict each other: give one of them")
    return name.scheme or ("http" if plain_http or name.loopback else "https")


def _file(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise UsageError(f"{clean(path)} is not a file: name the file with the certificate or key")
    return Path(path)


def _proxies(server: str, proxy: str | None, *, from_environment: bool) -> dict[str, str]:
    if proxy is not None:
        return {"http": proxy, "https": proxy}
    if not from_environment or urllib.request.proxy_bypass(server):
        return {}
    return {k: v for k, v in urllib.request.getproxies().items() if k in {"http", "https"}}


__all__ = ["Registry", "Repository"]
