"""Names: what a person types and what a registry answers, parsed once into frozen values.

The grammar is that of the OCI distribution specification 1.1 ("Pulling manifests") and of the
OCI image specification ("Digests"); the familiar forms (`mongo` for `docker.io/library/mongo`)
are Docker's.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from regaudit.errors import InvalidReference
from regaudit.text import clean

DOCKER_HUB = "docker.io"
# Docker Hub's registry interface is served from another name than its images carry.
_DOCKER_HUB_SERVER = "registry-1.docker.io"
# What `docker login` and docker's configuration call it.
_DOCKER_LOGIN = "https://index.docker.io/v1/"
_DOCKER_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", _DOCKER_HUB_SERVER})

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+")
# With "_", which no name in the public DNS has, and containers on a private network do.
_HOST_NAME = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_FAMILIAR = re.compile(r"[a-z0-9_/.-]+")
_PATTERN = re.compile(r"[a-z0-9._/*?-]+")
# "Many clients impose a limit of 255 characters on the length of the concatenation of the registry
# hostname, /, and the <name> value" (distribution spec); the name alone is held to it here.
_LONGEST_REPOSITORY = 255
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
# What nearly every digest is: looked at first, since an audit sees ten for each image.
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}").fullmatch


def is_verifiable(digest: str) -> bool:
    """Return what `Digest.verifiable` says, of a text whose grammar was checked when it was read."""
    return digest.partition(":")[0] in _HEX_LENGTH


class Digest(str):
    """A digest, ``algorithm:encoded``, checked against the grammar of the image specification.

    Examples
    --------
    >>> Digest.of(b"").short
    'sha256:e3b0c44298fc'
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:  # noqa: D102 -- the class says it
        if _SHA256(text) is None and not _is_digest(text):
            raise InvalidReference(f"{clean(text, 160)!r} is not a digest: write sha256: and 64 characters of 0-9a-f")
        return str.__new__(cls, text)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        """Return the digest of some bytes, by ``sha256`` or ``sha512``."""
        if algorithm == "sha256":
            return str.__new__(cls, f"sha256:{hashlib.sha256(data).hexdigest()}")
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        """The part before the colon."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The part after the colon."""
        return self.partition(":")[2]

    @property
    def verifiable(self) -> bool:
        """Whether the algorithm is one that can be computed here (sha256, sha512)."""
        return is_verifiable(self)

    @property
    def short(self) -> str:
        """The digest as people read it: twelve characters after the colon."""
        return f"{self.algorithm}:{self.encoded[:12]}"

    def hasher(self) -> Any:
        """Return a new `hashlib` object of this digest's algorithm."""
        if not self.verifiable:
            raise InvalidReference(
                f"{self.short} uses an algorithm that cannot be verified: sha256 or sha512 is needed"
            )
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        """Return whether the bytes hash to this digest."""
        if self.startswith("sha256:"):
            return self.endswith(hashlib.sha256(data).hexdigest())
        return self.verifiable and Digest.of(data, self.algorithm) == self


def _is_digest(text: str) -> bool:
    algorithm, _, encoded = text.partition(":")
    length = _HEX_LENGTH.get(algorithm)
    hex_is_right = length is None or re.fullmatch(rf"[0-9a-f]{{{length}}}", encoded) is not None
    return hex_is_right and _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on. Written ``os/architecture[/variant]``."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def to_dict(self) -> dict[str, str]:
        """Return the fields as the image specification names them."""
        fields = {"os": self.os, "architecture": self.architecture}
        return fields if self.variant is None else {**fields, "variant": self.variant}


@dataclass(frozen=True, slots=True)
class RegistryName:
    """A registry as people write it: a host, perhaps a port, perhaps a scheme.

    Attributes
    ----------
    host : str
        ``host`` or ``host:port``; Docker Hub is ``docker.io``. In lower case, unless `parse_index` kept
        it as typed.
    scheme : str or None
        ``http`` or ``https`` where it was typed.
    """

    host: str
    scheme: str | None = None

    @property
    def official(self) -> bool:
        """Whether this is Docker Hub."""
        return self.host == DOCKER_HUB

    @property
    def server(self) -> str:
        """The ``host[:port]`` that answers for this registry."""
        return _DOCKER_HUB_SERVER if self.official else self.host

    @property
    def address(self) -> str:
        """The host with the scheme in front, where one was typed: what `Registry` takes."""
        return f"{self.scheme}://{self.host}" if self.scheme else self.host

    @property
    def loopback(self) -> bool:
        """Whether the name can only mean this machine."""
        name = _without_port(self.host).rstrip(".")
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")

    def __str__(self) -> str:
        return self.host

    def to_dict(self) -> dict[str, Any]:
        """Return ``name``, ``official`` and, where it was typed, ``scheme``."""
        fields: dict[str, Any] = {"name": self.host, "official": self.official}
        return fields if self.scheme is None else {**fields, "scheme": self.scheme}


@dataclass(frozen=True, slots=True)
class Reference:
    """A name of an image: a registry, a repository, and a tag, a digest, both or neither."""

    registry: RegistryName
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def local_name(self) -> str:
        """The shortest name that means the same: ``mongo``, ``quay.io/team/app``."""
        if not self.registry.official:
            return f"{self.registry.host}/{self.repository}"
        return self.repository.removeprefix("library/")

    @property
    def canonical_name(self) -> str:
        """The local name with its registry in front: ``docker.io/mongo``, ``quay.io/team/app``."""
        return f"{DOCKER_HUB}/{self.local_name}" if self.registry.official else self.local_name

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"{self.registry.host}/{self.repository}{tag}{digest}"

    def to_dict(self) -> dict[str, Any]:
        """Return index, official, remoteName, localName, canonicalName, and tag and digest where there are.

        These are the field names of the node client docker-registry-client, for scripts that come from it.
        """
        fields: dict[str, Any] = {
            "index": self.registry.to_dict(),
            "official": self.registry.official and self.repository.startswith("library/"),
            "remoteName": self.repository,
            "localName": self.local_name,
            "canonicalName": self.canonical_name,
        }
        if self.tag is not None:
            fields["tag"] = self.tag
        return fields if self.digest is None else {**fields, "digest": str(self.digest)}


def is_repository(name: object) -> bool:
    """Return whether a name is one that the distribution specification allows for a repository."""
    return isinstance(name, str) and len(name) <= _LONGEST_REPOSITORY and _REPOSITORY.fullmatch(name) is not None


def is_tag(name: object) -> bool:
    """Return whether a name is one that the distribution specification allows for a tag."""
    return isinstance(name, str) and _TAG.fullmatch(name) is not None


def check_repository(name: str) -> str:
    """Return the name, or raise `InvalidReference` with what is wrong."""
    if not is_repository(name):
        raise InvalidReference(
            f"{clean(name, 160)!r} is not a repository name: write lower-case letters, digits and single . _ - "
            f"between them, parts separated by /, at most {_LONGEST_REPOSITORY} characters"
        )
    return name


def check_tag(name: str) -> str:
    """Return the tag, or raise `InvalidReference` with what is wrong."""
    if not is_tag(name):
        raise InvalidReference(
            f"{clean(name, 160)!r} is not a tag: write letters, digits and . _ -, "
            "not beginning with . or -, at most 128 characters"
        )
    return name


def parse_registry(text: str) -> RegistryName:
    """Return the registry that a person typed: ``host``, ``host:port`` or ``https://host``.

    Raises
    ------
    InvalidReference
        An empty host, one that does not look like a host, another scheme than http and https,
        user information, or anything after the host but one ``/``.

    Examples
    --------
    >>> parse_registry("index.docker.io").host
    'docker.io'
    """
    scheme, rest = _split_scheme(text)
    if "@" in rest:
        raise _user_typed()
    if rest.rstrip("/") in {"index.docker.io/v1", "docker.io/v1"}:  # as docker's configuration writes Docker Hub
        rest = DOCKER_HUB
    rest = rest.removesuffix("/")
    if "/" in rest:
        raise _more_than_a_host(rest, text)
    host = _check_host(rest, text)
    if host in _DOCKER_HUB_NAMES:
        host = DOCKER_HUB
        if scheme == "http":
            raise _hub_over_http(text)
    return RegistryName(host, scheme)


def parse_reference(text: str) -> Reference:
    """Return the reference that a person typed, in Docker's familiar forms or in full.

    The part before the first ``/`` is a registry if it has a ``.`` or a ``:`` or is ``localhost``;
    otherwise the registry is Docker Hub, and a name without ``/`` is in its ``library``.

    Returns
    -------
    Reference
        With ``tag`` and ``digest`` as typed; neither is made up.

    Raises
    ------
    InvalidReference
        With the part that the grammar does not allow.

    Examples
    --------
    >>> str(parse_reference("mongo:7"))
    'docker.io/library/mongo:7'
    """
    scheme, rest = _split_scheme(text)
    name, at, digest_text = rest.partition("@")
    if scheme and "/" in digest_text:
        raise _user_typed()
    digest = Digest(digest_text) if at else None
    head, slash, tail = name.partition("/")
    if scheme or (slash and ("." in head or ":" in head or head == "localhost")):
        registry, path = parse_registry(f"{scheme}://{head}" if scheme else head), tail
    else:
        registry, path = RegistryName(DOCKER_HUB), name
    repository, colon, tag = path.partition(":")
    if not repository:
        raise InvalidReference(f"{_quoted(text)} names no repository: write {registry.host}/REPOSITORY")
    if registry.official and "/" not in repository:
        repository = f"library/{repository}"
    if registry.official:
        _check_namespace(repository.partition("/")[0], hub=True)
    return Reference(registry, check_repository(repository), check_tag(tag) if colon else None, digest)


def parse_index(text: str | None = None) -> RegistryName:
    """Return the registry that a person typed, by the rules of the node client docker-registry-client.

    Stricter than `parse_registry`: the host has a ``.`` or a ``:`` or is ``localhost``, and the scheme is
    lower case. It is kept as typed; ``index.docker.io`` alone is another spelling of ``docker.io``.

    Parameters
    ----------
    text : str, optional
        ``quay.io``, ``localhost:5000``, ``https://quay.io/``; Docker Hub where nothing was typed.

    Raises
    ------
    InvalidReference
        A scheme other than http and https, an empty host, one that does not look like a host, anything
        after it but one ``/``, or http to Docker Hub.

    Examples
    --------
    >>> parse_index("https://quay.io").to_dict()
    {'name': 'quay.io', 'official': False, 'scheme': 'https'}
    """
    if not text or text == _DOCKER_LOGIN:
        return RegistryName(DOCKER_HUB)
    if "@" in text:
        raise _user_typed()
    before, separator, after = text.partition("://")
    scheme, host = (before, after.removesuffix("/")) if separator else (None, before.removesuffix("/"))
    if separator and scheme not in {"http", "https"}:
        raise InvalidReference(f"{_quoted(text)}: the scheme {clean(scheme, 40)!r} is not http or https")
    if not host:
        raise InvalidReference(f"{_quoted(text)} has an empty host: write HOST or HOST:PORT")
    if "/" in host:
        raise _more_than_a_host(host, text)
    if not set(host) & {".", ":"} and host != "localhost":
        within = "" if host == text else f"{_quoted(text)}: "
        raise InvalidReference(f"{within}{clean(host, 300)!r} does not look like a host: those have a . or a :PORT")
    _check_host(host, text)
    if host == "index.docker.io":
        host = DOCKER_HUB
    if host == DOCKER_HUB and scheme == "http":
        raise _hub_over_http(text)
    return RegistryName(host, scheme)


def parse_repo(text: str, default_index: str | RegistryName | Mapping[str, Any] | None = None) -> Reference:
    """Return the repository that a person typed, by the rules of the node client docker-registry-client.

    The grammar is wider than that of the distribution specification: `Registry.repository` takes the
    names that a registry can have.

    Parameters
    ----------
    text : str
        ``mongo``, ``team/app``, ``quay.io/team/app``, ``https://quay.io/team/app``, without tag or digest.
    default_index : str, RegistryName or mapping, optional
        The registry of a name that has none in front, as typed, parsed, or as `RegistryName.to_dict`
        gives it; Docker Hub unless given.

    Raises
    ------
    InvalidReference
        No repository, a tag or digest, characters other than ``a-z0-9_/.-``, empty parts, ``..`` or parts
        that begin with a dot; on Docker Hub also a namespace of one letter, with two hyphens together
        or between hyphens.

    Examples
    --------
    >>> parse_repo("mongo").canonical_name, parse_repo("team/app", "quay.io").local_name
    ('docker.io/mongo', 'quay.io/team/app')
    """
    _refuse_user(text)
    registry, repository = _split_index(text, default_index)
    if not repository:
        raise InvalidReference(f"{_quoted(text)} has no repository after the host: write {registry.host}/REPOSITORY")
    _check_familiar(repository, hub=registry.official)
    if registry.official and "/" not in repository:
        repository = f"library/{repository}"
    return Reference(registry, repository)


def parse_repo_and_ref(text: str, default_index: str | RegistryName | Mapping[str, Any] | None = None) -> Reference:
    """Return the repository that a person typed, with its tag and digest; see `parse_repo`.

    Without either, the tag is ``latest``. `parse_repo_and_tag` is the same.

    Raises
    ------
    InvalidReference
        As `parse_repo`, or for a tag or digest outside the grammar.

    Examples
    --------
    >>> parse_repo_and_ref("mongo").tag
    'latest'
    """
    _refuse_user(text)
    named, at, digest = text.partition("@")
    name, colon, tag = named.rpartition(":")
    if not colon or "/" in tag:
        name, colon, tag = named, "", "" if at else "latest"
    if (colon and not tag) or (at and not digest):
        raise InvalidReference(f"{clean(text, 300)!r} has an empty tag or digest: write NAME:TAG or NAME@DIGEST")
    reference = parse_repo(name, default_index)
    return replace(reference, tag=check_tag(tag) if tag else None, digest=Digest(digest) if at else None)


parse_repo_and_tag = parse_repo_and_ref


def _split_index(text: str, default: str | RegistryName | Mapping[str, Any] | None) -> tuple[RegistryName, str]:
    scheme, separator, rest = text.partition("://")
    head, slash, tail = (rest if separator else text).partition("/")
    if separator:
        return parse_index(f"{scheme}://{head}"), tail
    if slash and (set(head) & {".", ":"} or head == "localhost"):
        return parse_index(head), tail
    if isinstance(default, Mapping):
        typed = f"{default['scheme']}://" if default.get("scheme") else ""
        return parse_index(typed + str(default.get("name", ""))), text
    return default if isinstance(default, RegistryName) else parse_index(default), text


def _check_familiar(repository: str, *, hub: bool) -> None:
    if ":" in repository or "@" in repository:
        raise InvalidReference(
            f"{clean(repository, 300)!r} has a tag or a digest, where a repository name alone is expected; "
            "a registry is written with a repository: HOST:PORT/REPOSITORY"
        )
    parts = repository.split("/")
    if _FAMILIAR.fullmatch(repository) is None or not all(parts):
        raise InvalidReference(
            f"{clean(repository, 300)!r} is not a repository name: write characters of a-z0-9_.- in parts separated by /"
        )
    if ".." in repository or any(part.startswith(".") for part in parts):
        raise InvalidReference(
            f"{clean(repository, 300)!r} is not a repository name: no part begins with a dot or has two together"
        )
    if len(parts) > 1:
        _check_namespace(parts[0], hub=hub)


def _check_namespace(namespace: str, *, hub: bool) -> None:
    fault = None
    if len(namespace) > _LONGEST_REPOSITORY:
        fault = f"it has more than {_LONGEST_REPOSITORY} characters"
    elif hub and len(namespace) < 2:
        fault = "on Docker Hub it has two characters or more"
    elif hub and "--" in namespace:
        fault = "on Docker Hub it has no two hyphens together"
    elif hub and namespace.startswith("-") and namespace.endswith("-"):
        fault = "on Docker Hub it does not stand between hyphens"
    if fault is not None:
        raise InvalidReference(
            f"{clean(namespace, 300)!r} is not a namespace: {fault}; write HOST/REPOSITORY for another registry"
        )


def parse_target(text: str) -> tuple[RegistryName, str | None]:
    """Return the registry and the pattern of ``HOST[/PATTERN]``, as a command line takes it."""
    scheme, rest = _split_scheme(text)
    if "@" in rest:
        raise _user_typed()
    host, _, pattern = rest.partition("/")
    registry = parse_registry(f"{scheme}://{host}" if scheme else host)
    return registry, check_pattern(pattern) if pattern else None


def check_pattern(pattern: str) -> str:
    """Return the pattern of repository names, or raise `InvalidReference`.

    A literal one goes into a URL and is therefore held to the grammar of a repository.
    """
    if _PATTERN.fullmatch(pattern) is None or (is_literal(pattern) and not is_repository(pattern)):
        raise InvalidReference(
            f"{clean(pattern, 160)!r} is not a pattern: write a repository name, with * for a part of a name "
            "and ** for any number of parts"
        )
    return pattern


def is_literal(pattern: str) -> bool:
    """Return whether a pattern names one repository, so that no catalog is needed to find it."""
    return not set(pattern) & {"*", "?"}


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern: ``*`` and ``?`` stay within ``/``, ``**`` does not.

    Examples
    --------
    >>> bool(compile_pattern("team/*").fullmatch("team/app")), bool(compile_pattern("team/*").fullmatch("team/a/b"))
    (True, False)
    """
    first, *rest = re.split(r"(\*+)", check_pattern(pattern))
    stars = ["**" if star != "*" else star for star in rest[::2]]
    expression = _literal(first)
    for star, following, text in zip(stars, [*stars, None][1:], rest[1::2], strict=True):
        piece = ("[^/]*?" if star == "*" else ".*?") + _literal(text)
        # Where the next star can take up whatever a later match would skip, the first match is as good as
        # any: without going back, no name from a registry makes a pattern with many stars take long.
        expression += f"(?>{piece})" if following == "**" or (following and star == "*") else piece
    return re.compile(expression)


def _literal(text: str) -> str:
    return re.escape(text).replace(r"\?", "[^/]")


# The tag under which a registry without the referrers interface keeps the referrers of a digest
# (distribution spec, "Referrers Tag Schema"), and cosign's tags, which add .sig, .att or .sbom.
# Public, in the syntax that Arrow's engine shares with Python's, for who asks about a million tags at once.
ATTACHED_TAG = r"((?:sha256|sha512)-[0-9a-f]{64})(?:\.([a-z]{1,16}))?"
_ATTACHED_TAG = re.compile(ATTACHED_TAG)
# Nearly no tag begins so, which is seen in a tenth of the time that the grammar takes.
ATTACHED_PREFIXES = ("sha256-", "sha512-")


def attached_tag(subject: Digest) -> str:
    """Return the fallback tag under which the referrers of a digest are listed.

    Both halves are cut as the specification says, 32 characters of the algorithm and 64 of the
    rest, and what the grammar of a tag does not allow becomes ``-``.
    """
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{subject.algorithm[:32]}-{subject.encoded[:64]}")


def split_attached_tag(tag: str) -> tuple[str, str] | None:
    """Return the fallback tag and the suffix in a tag that is attached to a digest, else None.

    The suffix is ``""`` for the fallback tag itself, ``"sig"``, ``"att"`` or ``"sbom"`` for cosign's.

    Examples
    --------
    >>> split_attached_tag("v1.2.3") is None
    True
    >>> split_attached_tag("sha256-" + "0" * 64 + ".sig")[1]
    'sig'
    """
    if not tag.startswith(ATTACHED_PREFIXES):
        return None
    match = _ATTACHED_TAG.fullmatch(tag)
    return None if match is None else (match[1], match[2] or "")


def subject_of_tag(tag: str) -> Digest | None:
    """Return the digest that a tag is attached to, None where it is attached to none, or holds only half of its digest.

    Examples
    --------
    >>> subject_of_tag("sha256-" + "0" * 64 + ".sig") == "sha256:" + "0" * 64
    True
    """
    parts = split_attached_tag(tag)
    try:
        return None if parts is None else Digest(parts[0].replace("-", ":", 1))
    except InvalidReference:
        return None


def _split_scheme(text: str) -> tuple[str | None, str]:
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        return None, text.strip()
    if "@" in rest.partition("/")[0]:
        raise _user_typed()
    if scheme.lower() not in {"http", "https"}:
        raise InvalidReference(f"{_quoted(text)}: the scheme {clean(scheme, 40)!r} is not http or https")
    return scheme.lower(), rest


def _quoted(text: str) -> str:
    # What stands before an @ in a URL may be a password, and messages end up in notebooks.
    scheme, separator, rest = text.partition("://")
    _, at, host = rest.rpartition("@")
    return repr(clean(f"{scheme}{separator}***@{host}" if at else text, 160))


def _more_than_a_host(rest: str, text: str) -> InvalidReference:
    host, _, path = rest.partition("/")
    return InvalidReference(
        f"{_quoted(text)} has {clean(path, 80)!r} after the registry: write {clean(host, 80)!r} alone"
    )


def _hub_over_http(text: str) -> InvalidReference:
    return InvalidReference(f"{_quoted(text)}: Docker Hub is not served over http: write https or no scheme")


def _refuse_user(text: str) -> None:
    _, _, rest = text.partition("://")
    before, at, after = rest.rpartition("@")
    if at and ("/" not in before or "/" in after):  # an @ of a digest stands after the host and before no path
        raise _user_typed()


def _user_typed() -> InvalidReference:
    return InvalidReference("a registry is typed without a user name or password: give them as username= and password=")


def _without_port(host: str) -> str:
    if host.startswith("["):
        address, bracket, _ = host.partition("]")
        return address + bracket
    return host.partition(":")[0]


def _check_host(host: str, text: str) -> str:
    if not host:
        raise InvalidReference(f"{_quoted(text)} names no host: write HOST or HOST:PORT")
    name = _without_port(host)
    port = host[len(name) :]
    if port and not (re.fullmatch(r":[1-9][0-9]{0,4}", port) and int(port[1:]) < 65536):
        raise InvalidReference(f"{_quoted(text)}: {clean(port, 20)!r} is not a port: write :1 to :65535")
    if name.startswith("["):
        return _check_ipv6(name, text) + port
    if _HOST_NAME.fullmatch(name) is None or len(name) > 253:
        within = "" if name == text else f"{_quoted(text)}: "
        raise InvalidReference(f"{within}{clean(name, 80)!r} does not look like a host: write HOST or HOST:PORT")
    return host.lower()


def _check_ipv6(name: str, text: str) -> str:
    # A zone (%eth0) means something on one machine only, and may hold any character.
    if re.fullmatch(r"\[[0-9A-Fa-f:.]+\]", name):
        with suppress(ValueError):
            return f"[{ipaddress.IPv6Address(name[1:-1]).compressed}]"
    raise InvalidReference(f"{_quoted(text)}: {clean(name, 60)} is not an IPv6 address: write [ADDRESS]:PORT")
