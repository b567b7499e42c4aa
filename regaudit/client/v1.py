"""Reading a registry of the v1 interface (Docker's own until 2015): one conversation per endpoint.

There an image is a chain of layers, each known by an id that says nothing of its bytes, and a tag is
the name of the topmost. The registry gives a *grant* for a repository, in answer to the list of its
images: a token or cookies, and the endpoint that has the images. All else is asked with that grant.

Secrets stay where they belong: a password goes to the registry itself, a token to the endpoint that it
was granted for, a cookie to the host that set it. An endpoint on another host is refused unless it was
named as trusted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from regaudit.client import v2
from regaudit.client.auth import _check_private, parse_challenges
from regaudit.client.exchange import (
    MANIFEST_CAP,
    PAGE_CAP,
    Conversation,
    Headers,
    Once,
    Request,
    Response,
    Session,
    error_of,
    follow,
    is_private,
    origin,
)
from regaudit.client.transfer import Writable
from regaudit.errors import (
    BadManifest,
    BadResponse,
    DigestMismatch,
    InvalidReference,
    NotARegistry,
    PaginationLoop,
    RedirectRefused,
    RegistryError,
    TruncatedResponse,
    UsageError,
)
from regaudit.manifest import LARGEST_SIZE, load_json
from regaudit.reference import check_repository, check_tag, is_repository, is_tag, parse_registry
from regaudit.text import clean, parse_time, safe_url

NAMESPACE = "library"
# What an index sends at most; a registry without pages ignores the number.
PAGE_SIZE = 100
_MOST_PAGES = 100_000
# Docker builds at most 127 layers on one another.
_MOST_ANCESTORS = 1024
_SMALL_CAP = 64 << 10

# 64 hexadecimal digits from docker; indexes abbreviate, and other builders made up ids of their own.
_IMAGE_ID = re.compile(r"[A-Za-z0-9]{1,128}")
# Some registries send several checksums in one field; a tarsum cannot be computed over a stream of bytes.
_CHECKSUM = re.compile(r"(?<![\w+])sha256:([0-9a-f]{64})(?![0-9a-f])")
_CHECKSUM_FIELDS = ("x-docker-checksum-payload", "x-docker-payload-checksum", "x-docker-checksum")
# What may go into a header: a token of visible characters and blanks, a cookie as RFC 6265 has it.
_TOKEN = re.compile(r"[\x20-\x7e]{1,8192}")
_COOKIE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e\"]{0,4096})")
_MOST_COOKIES = 32


@dataclass(frozen=True, slots=True)
class Login:
    """That a user name and password were accepted."""

    status: str = "Login Succeeded"

    def to_dict(self) -> dict[str, str]:
        """Return the status, in the words of docker."""
        return {"status": self.status}


@dataclass(frozen=True, slots=True)
class Hit:
    """A repository that a search found; `document` is all that the registry says of it."""

    name: str
    description: str = ""
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return what the registry says of the repository."""
        return dict(self.document)


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found.

    Attributes
    ----------
    query : str
    hits : tuple of Hit
        Each repository once, in the order of the registry.
    num_results : int
        As the registry counts them.
    pages : int
        How many pages were read.
    invalid : tuple of str
        Names outside the grammar: never asked for.
    error : RegistryError or None
        What ended the search before its end; None where it is complete.
    """

    query: str
    hits: tuple[Hit, ...]
    num_results: int = 0
    pages: int = 1
    invalid: tuple[str, ...] = ()
    error: RegistryError | None = None

    def all(self) -> Search:
        """Return a complete search, or raise what ended it."""
        if self.error is not None:
            raise self.error
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the search as plain values, in the field names of the interface."""
        results = [hit.to_dict() for hit in self.hits]
        return {
            "query": self.query,
            "num_results": self.num_results,
            "num_pages": self.pages,
            "page": 1,
            "page_size": len(results),
            "results": results,
        }


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image as a repository lists it; the checksum is missing where the registry does not tell."""

    id: str
    checksum: str | None = None

    def to_dict(self) -> dict[str, str]:
        """Return id and, where there is one, checksum."""
        return {"id": self.id} | ({"checksum": self.checksum} if self.checksum is not None else {})


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of a repository: image id by tag. `invalid` are those that cannot be asked for."""

    images: Mapping[str, str]
    invalid: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, str]:
        """Return the image id of each tag."""
        return dict(self.images)


@dataclass(frozen=True, slots=True)
class Image:
    """One layer of an image with what is known of it, the "image JSON".

    Attributes
    ----------
    size_bytes : int or None
        ``Size``: what the layer holds, unpacked.
    layer_bytes : int or None
        ``X-Docker-Size``: what the registry stores of it, packed.
    checksum : str or None
        The checksum of the payload, ``sha256:…``, where the registry has one.
    raw : bytes
        The image JSON, byte for byte: the checksum counts them.
    """

    id: str
    parent: str | None
    created: datetime | None
    size_bytes: int | None
    layer_bytes: int | None
    checksum: str | None
    raw: bytes = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the image JSON as the registry has it."""
        return dict(load_json(self.raw))


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that was downloaded.

    Attributes
    ----------
    verified_by : str
        ``checksum``; ``size`` where the registry tells no checksum that can be computed; ``transfer``
        where it does not even tell the size, so that only the exchange itself was whole.
    """

    image_id: str
    size_bytes: int
    verified_by: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"image_id": self.image_id, "size_bytes": self.size_bytes, "verified_by": self.verified_by}


@dataclass
class Grant:
    """What the registry gave for one repository.

    Attributes
    ----------
    endpoint : str
        ``https://host[:port]`` of whoever has the images.
    token : str or None
    cookies : dict
    images : tuple of ListedImage
        The list that came with it; empty for a grant to write.
    basic : bool
        Whether the endpoint asked for the user's own name and password instead; only the registry itself may.
    writes : bool
        Whether it was given for writing.
    """

    endpoint: str
    token: str | None = field(default=None, repr=False)
    cookies: dict[str, str] = field(default_factory=dict, repr=False)
    images: tuple[ListedImage, ...] = ()
    basic: bool = False
    writes: bool = False


@dataclass
class SessionV1:
    """What all v1 conversations with one registry share.

    Attributes
    ----------
    http : Session
        Where the registry is, and who we are.
    trusted_endpoints : sequence of str
        Hosts that the registry may send us on to, and that may see its tokens.
    grants : dict
        By repository.
    """

    http: Session
    trusted_endpoints: Sequence[str] = ()
    grants: dict[str, Grant] = field(default_factory=dict, repr=False)


# -- what can be asked -----------------------------------------------------------------------


def full_name(name: str) -> str:
    """Return the name of a repository with its namespace, which is ``library`` where none is given.

    Examples
    --------
    >>> full_name("busybox"), full_name("team/app")
    ('library/busybox', 'team/app')
    """
    checked = check_repository(name)
    return checked if "/" in checked else f"{NAMESPACE}/{checked}"


def check_image_id(image_id: str) -> str:
    """Return an image id, or raise `InvalidReference`."""
    if _IMAGE_ID.fullmatch(image_id) is None:
        raise InvalidReference(f"{clean(image_id, 140)!r} is not an image id: those are 64 hexadecimal digits")
    return image_id


def find_version(session: Session) -> Conversation[str]:
    """Return ``v2`` or ``v1``, whichever interface the registry speaks; v2 where it speaks both.

    Raises
    ------
    NotARegistry
        It speaks neither; the message names both attempts.
    AuthenticationFailed, Unreachable, …
        It cannot be told.
    """
    try:
        yield from v2.ping(session)
    except NotARegistry as second:
        if second.status == 400:  # it speaks https, and the message says so
            raise
        try:
            yield from ping(SessionV1(session))
        except NotARegistry as first:
            raise NotARegistry(
                f"{session.host} answers, but not as a container registry does: {_gave('/v2/', second)}, "
                f"and {_gave('/v1/_ping', first)}: check host and port",
                url=session.base,
                status=second.status,
            ) from None
        return "v1"
    return "v2"


def _gave(path: str, error: NotARegistry) -> str:
    return f"GET {path} gave {error.status}" + (" with something else" if error.status == 200 else "")


def ping(session: SessionV1) -> Conversation[v2.Ping]:
    """Ask whether this is a registry of the v1 interface.

    Raises
    ------
    NotARegistry
        The host answers, but not as such a registry does.
    AuthenticationFailed, AccessDenied
        It wants a login, or another one.
    """
    response = yield from _ask_registry(session, "/v1/_ping", "ping", cap=_SMALL_CAP)
    host = session.http.host
    if response.status in {401, 403, 429} or response.status >= 500:
        raise refusal(session, response, f"{host}/v1/_ping")
    if response.status != 200 or not _is_pong(response):
        raise NotARegistry(
            f"{host}/v1/_ping answers ({response.status}), but not as a registry of the v1 interface does: "
            "check host and port",
            url=session.http.base,
            status=response.status,
        )
    fields = {name: clean(value) for name, value in response.headers.items() if name not in _SECRET_FIELDS}
    return v2.Ping(response.status, fields, clean(response.body[:2048].decode("utf-8", "replace")))


_SECRET_FIELDS = frozenset({"set-cookie", "x-docker-token", "www-authenticate"})


def _is_pong(response: Response) -> bool:
    """Return whether an answer is a registry's: it says ``true`` or an object, or names itself in a header."""
    if any(name.startswith("x-docker-registry-") for name in response.headers):
        return not response.body.lstrip().startswith(b"<")
    try:
        said = load_json(response.body)
    except BadManifest:
        return False
    return said is True or isinstance(said, dict)


def login(session: SessionV1) -> Conversation[Login]:
    """Ask whether user name and password are accepted. No account is ever made.

    Raises
    ------
    UsageError
        There are none to show.
    AuthenticationFailed
        They are wrong.
    AccessDenied
        The account is not active.
    """
    if basic(session) is None:
        raise UsageError(
            f"{session.http.host}: the v1 interface knows user names and passwords: give username= and password="
        )
    response = yield from _ask_registry(session, "/v1/users/", "login", cap=_SMALL_CAP)
    if response.status != 200:
        raise refusal(session, response, f"logging in to {session.http.host}")
    return Login()


def search(session: SessionV1, term: str, page_size: int = PAGE_SIZE) -> Conversation[Search]:
    """Search the names and descriptions of repositories, over all pages; an empty term finds all.

    What was found before an error is returned together with it.
    """
    hits: dict[str, Hit] = {}
    invalid: dict[str, None] = {}
    said, page, pages = 0, 0, 1
    error = None
    try:
        while page < pages:
            page += 1
            found, said, pages = yield from _search_page(session, term, page, page_size)
            known = len(hits) + len(invalid)
            for hit in found:
                if is_repository(hit.name):
                    hits.setdefault(hit.name, hit)
                else:
                    invalid[hit.name] = None
            if page < pages and (len(hits) + len(invalid) == known or page >= _MOST_PAGES):
                raise PaginationLoop(
                    f"{session.http.host}/v1/search: the pages repeat themselves or never end: what came before is kept",
                    url=session.http.url("/v1/search"),
                )
    except RegistryError as caught:
        error = caught
    return Search(term, tuple(hits.values()), said, page, tuple(invalid), error)


def _search_page(session: SessionV1, term: str, page: int, page_size: int) -> Conversation[tuple[list[Hit], int, int]]:
    """Return the hits of a page, how many there are in all, and how many pages."""
    query = urlencode({"q": term, "page": page, "n": page_size}, quote_via=quote)
    response = yield from _ask_registry(session, f"/v1/search?{query}", "search")
    if response.status != 200:
        raise refusal(session, response, f"{session.http.host}/v1/search")
    document = _object(response)
    results = document.get("results")
    if not isinstance(results, list):
        raise BadResponse(f"{safe_url(response.url)}: the answer has no list of results", url=safe_url(response.url))
    hits = [_hit(response, result) for result in results]
    return hits, _count(document.get("num_results")) or len(hits), _count(document.get("num_pages")) or 1


def _hit(response: Response, result: Any) -> Hit:
    if not isinstance(result, dict) or not isinstance(result.get("name"), str):
        raise BadResponse(f"{safe_url(response.url)}: a result has no name", url=safe_url(response.url))
    description = result.get("description")
    return Hit(result["name"], description if isinstance(description, str) else "", result)


def images(session: SessionV1, repository: str) -> Conversation[tuple[ListedImage, ...]]:
    """List the images of a repository. The grant that comes with the list serves for what follows."""
    yield Once(("v1", repository), _open(session, repository, session.grants.get(repository)))
    return session.grants[repository].images


def tags(session: SessionV1, repository: str) -> Conversation[Tags]:
    """List the tags of a repository with their image ids; an emptied one has none, a missing one is `NotFound`."""
    response = yield from _asked(session, repository, f"/v1/repositories/{repository}/tags", "tags")
    document = _document(response)
    if isinstance(document, list):  # Docker Hub's index
        document = _of_pairs(response, document)
    if not isinstance(document, dict):
        raise BadResponse(f"{safe_url(response.url)}: the tags are not an object", url=safe_url(response.url))
    named = {tag: image_id for tag, image_id in document.items() if is_tag(tag) and _is_image_id(image_id)}
    return Tags(named, tuple(tag for tag in document if tag not in named))


def tagged_image(session: SessionV1, repository: str, tag: str) -> Conversation[str]:
    """Return the image id of a tag."""
    path = f"/v1/repositories/{repository}/tags/{quote(check_tag(tag))}"
    response = yield from _asked(session, repository, path, "tag", cap=_SMALL_CAP)
    found = _document(response)
    if not _is_image_id(found):
        raise BadResponse(f"{safe_url(response.url)}: the answer is not an image id", url=safe_url(response.url))
    return str(found)


def ancestry(session: SessionV1, repository: str, image_id: str) -> Conversation[tuple[str, ...]]:
    """Return the ids of an image and of all that it is built on, the topmost first."""
    path = f"/v1/images/{check_image_id(image_id)}/ancestry"
    response = yield from _asked(session, repository, path, "ancestry", cap=MANIFEST_CAP)
    ids = _document(response)
    where = safe_url(response.url)
    if not isinstance(ids, list) or not all(map(_is_image_id, ids)):
        raise BadResponse(f"{where}: the ancestry is not a list of image ids", url=where)
    if not ids or ids[0] != image_id or len(set(ids)) != len(ids) or len(ids) > _MOST_ANCESTORS:
        raise BadResponse(f"{where}: the ancestry is another image's, repeats itself or never ends", url=where)
    return tuple(ids)


def get_image(session: SessionV1, repository: str, image_id: str) -> Conversation[Image]:
    """Return the image JSON, and what the registry says of the layer's size and checksum beside it."""
    path = f"/v1/images/{check_image_id(image_id)}/json"
    response = yield from _asked(session, repository, path, "image", cap=MANIFEST_CAP)
    document = _object(response)
    parent = document.get("parent") or None
    if document.get("id") != image_id or not (parent is None or _is_image_id(parent)):
        where = safe_url(response.url)
        raise BadResponse(f"{where}: the image JSON is another image's, or names a parent that is none", url=where)
    return Image(
        id=image_id,
        parent=parent,
        created=parse_time(document.get("created")),
        size_bytes=_count(document.get("Size")),
        layer_bytes=_field_count(response.headers, "x-docker-size"),
        checksum=_checksum(response.headers),
        raw=response.body,
    )


def download_layer(session: SessionV1, repository: str, image_id: str, target: Writable) -> Conversation[Layer]:
    """Stream a layer to a place, and verify it by whatever the registry tells.

    Raises
    ------
    DigestMismatch
        What arrived has another checksum; the target holds it all the same.
    BadResponse
        It has another size.
    """
    about = yield from get_image(session, repository, image_id)
    summing = _SummingSink(target, about.raw)
    path = f"/v1/images/{image_id}/layer"
    request = Request("GET", "", "layer", into=summing, deadline=None)
    response = yield from ask(session, repository, path, request)
    if response.status != 200:
        raise refusal(session, response, f"{session.http.host}{path}", granted=True)
    checksum = _checksum(response.headers) or about.checksum
    if checksum is not None:
        if checksum not in summing.checksums:
            raise DigestMismatch(
                f"{session.http.host}{path}: the bytes do not have the checksum {checksum[:19]}…",
                url=safe_url(response.url),
            )
        return Layer(image_id, summing.size, "checksum")
    if not summing.whole or about.layer_bytes not in {None, summing.size}:
        raise BadResponse(
            f"{session.http.host}{path}: {summing.size:,} bytes arrived, and the registry announces {about.layer_bytes}",
            url=safe_url(response.url),
        )
    return Layer(image_id, summing.size, "transfer" if about.layer_bytes is None else "size")


class _SummingSink:
    """A sink that computes the checksums of a layer on its way, and writes each byte once and in order.

    Docker's checksum of a payload is over the image JSON, a line feed and the layer; some registries
    sum the layer alone. Either binds the bytes.
    """

    position = 0  # what broke off is asked for anew: not all servers of v1 answer a Range as HTTP has it

    def __init__(self, target: Writable, about: bytes) -> None:
        self._target = target
        self._sums = (hashlib.sha256(about + b"\n"), hashlib.sha256())
        self._passed = self.size = 0

    def begin(self, _status: int, _headers: Headers) -> None:
        self._passed = 0

    def write(self, data: bytes, /) -> None:
        new = data[max(0, self.size - self._passed) :]  # the target has had what comes before
        self._passed += len(data)
        if not new:
            return
        self._target.write(new)
        self.size += len(new)
        for total in self._sums:
            total.update(new)

    @property
    def whole(self) -> bool:
        """Whether the last attempt brought as much as the longest before it."""
        return self._passed == self.size

    @property
    def checksums(self) -> set[str]:
        return {f"sha256:{total.hexdigest()}" for total in self._sums}


def payload_checksum(about: bytes, layer: Any) -> str:
    """Return docker's checksum of a layer, read from a file: sha256 over its image JSON, a line feed and the layer."""
    total = hashlib.sha256(about + b"\n")
    while piece := layer.read(1 << 20):
        total.update(piece)
    return f"sha256:{total.hexdigest()}"


# -- grants ----------------------------------------------------------------------------------


def ask(session: SessionV1, repository: str, path: str, request: Request) -> Conversation[Response]:
    """Send a request to the endpoint of a repository, with what was granted for it.

    A grant that is not accepted any more is renewed once.

    Parameters
    ----------
    path : str
        What is asked for; the URL of `request` is made of it and of the endpoint.
    """
    known = session.grants.get(repository)
    if known is None:
        yield Once(("v1", repository), _open(session, repository, None))
    grant = session.grants[repository]
    response = yield from _show(session, grant, path, request)
    if response.status != 401 or origin(response.url) != origin(grant.endpoint):
        return response
    if _wants_password(session, grant, response):
        grant.basic = True
    elif known is not None:
        yield Once(("v1", repository), _open(session, repository, grant))
    else:
        return response
    return (yield from _show(session, session.grants[repository], path, request))


def _asked(session: SessionV1, repository: str, path: str, purpose: str, cap: int = PAGE_CAP) -> Conversation[Response]:
    request = Request("GET", "", purpose, _JSON, cap=cap, deadline=session.http.deadline)
    response: Response = yield from ask(session, repository, path, request)
    if response.status != 200:
        raise refusal(session, response, f"{session.http.host}{path}", granted=True)
    return response


def _show(session: SessionV1, grant: Grant, path: str, request: Request) -> Conversation[Response]:
    fields = dict(request.headers)
    ours = session.http.ours(grant.endpoint)
    password = basic(session) if ours and (grant.basic or not (grant.token or grant.cookies)) else None
    if password is not None:
        fields["Authorization"] = password
    elif grant.token is not None:
        fields["Authorization"] = f"Token {grant.token}"
    if grant.cookies:
        fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in grant.cookies.items())
    sent = Request(
        request.method,
        grant.endpoint + path,
        request.purpose,
        fields,
        body=request.body,
        into=request.into,
        cap=request.cap,
        deadline=request.deadline,
        public_only=not ours and not is_private(session.http.peer),
    )
    response: Response = yield from follow(session.http, sent)
    if origin(response.url) == origin(grant.endpoint):
        _keep_cookies(grant.cookies, response.headers)
    return response


def _open(session: SessionV1, repository: str, stale: Grant | None) -> Conversation[None]:
    """Put a grant to read a repository in place of a stale one, unless somebody did so meanwhile."""
    if session.grants.get(repository) is not stale:
        return
    path = f"/v1/repositories/{repository}/images"
    response = yield from _ask_registry(session, path, "images", {"X-Docker-Token": "true"})
    if response.status != 200:
        raise refusal(session, response, f"{session.http.host}/{repository}")
    listed = _document(response)
    if not isinstance(listed, list):
        where = safe_url(response.url)
        raise BadResponse(f"{where}: the images are not a list", url=where)
    grant = grant_of(session, repository, response)
    grant.images = tuple(_listed_image(response, entry) for entry in listed)
    session.grants[repository] = grant


def grant_of(session: SessionV1, repository: str, response: Response) -> Grant:
    """Return what the registry grants in the headers of a response.

    Raises
    ------
    RedirectRefused
        It sends us on to a host that was not named as trusted.
    """
    grant = Grant(_endpoint(session, repository, response))
    session.http.peer = session.http.peer or response.peer
    if not (session.http.ours(response.url) or _trusted(session, response.url)):
        return grant  # whoever the list came from in the end speaks for himself alone
    token = ",".join(value.removeprefix("Token ").strip() for value in response.headers.all("x-docker-token"))
    if token and _TOKEN.fullmatch(token) is None:
        raise BadResponse(f"{session.http.host}/{repository}: the registry sent no usable token", url=session.http.base)
    grant.token = token or None
    if origin(response.url) == origin(grant.endpoint):
        _keep_cookies(grant.cookies, response.headers)
    return grant


def _endpoint(session: SessionV1, repository: str, response: Response) -> str:
    """Return the first endpoint that is the registry itself or trusted; the registry itself where none is named."""
    named = [name.strip() for value in response.headers.all("x-docker-endpoints") for name in value[:4096].split(",")]
    foreign = ""
    for name in filter(None, named):
        endpoint = _endpoint_url(session, name)
        if endpoint is None:
            raise BadResponse(
                f"{session.http.host}/{repository}: the registry names the endpoint {clean(name, 100)!r}, which is none",
                url=session.http.base,
            )
        if session.http.ours(endpoint) or _trusted(session, endpoint):
            return endpoint
        foreign = foreign or clean(name, 120)
    if not foreign:
        return session.http.base
    raise RedirectRefused(
        f"{session.http.host}/{repository}: the registry sends us on to {foreign}, which is not known to belong to it: "
        f"nothing was sent there; if you trust it, give trusted_endpoints=[{foreign!r}]",
        url=session.http.base,
        status=response.status,
    )


def _endpoint_url(session: SessionV1, name: str) -> str | None:
    """Return the URL of an endpoint, which is spoken to as the registry is; None where the name is none."""
    try:
        endpoint = parse_registry(name)
    except InvalidReference:
        return None
    return None if endpoint.scheme else f"{urlsplit(session.http.base).scheme}://{endpoint.server}"


def _trusted(session: SessionV1, url: str) -> bool:
    parts = urlsplit(url)
    listed = {name.lower() for name in session.trusted_endpoints}
    return (parts.hostname or "").lower() in listed or parts.netloc.lower() in listed


def _keep_cookies(cookies: dict[str, str], headers: Headers) -> None:
    """Keep the cookies of a response, which then go to that one host; their other attributes do not matter to us."""
    for value in headers.all("set-cookie"):
        match = _COOKIE.fullmatch(value.partition(";")[0].strip())
        if match is not None and len(cookies) < _MOST_COOKIES:
            cookies[match[1]] = match[2]


def _wants_password(session: SessionV1, grant: Grant, response: Response) -> bool:
    """Return whether the registry itself, behind a gate of its own, asks for the password and not for the token."""
    asked = any(c.scheme == "basic" for c in parse_challenges(response.headers.all("www-authenticate")))
    return asked and not grant.basic and session.http.ours(grant.endpoint) and basic(session) is not None


# -- the registry itself ---------------------------------------------------------------------

_JSON = {"Accept": "application/json"}


def _ask_registry(
    session: SessionV1, path: str, purpose: str, headers: Mapping[str, str] | None = None, cap: int = PAGE_CAP
) -> Conversation[Response]:
    """Ask the registry itself, with user name and password from the start: v1 hides what it would let a user see."""
    fields = {**_JSON, **(headers or {})}
    password = basic(session)
    if password is not None:
        fields["Authorization"] = password
    request = Request("GET", session.http.url(path), purpose, fields, cap=cap, deadline=session.http.deadline)
    return (yield from follow(session.http, request))


def basic(session: SessionV1) -> str | None:
    """Return the Authorization header with user name and password, None where there are none.

    Raises
    ------
    AccessDenied
        They would go over plain http to another machine.
    """
    credentials = session.http.credentials
    if credentials is None or credentials.username is None or credentials.password is None:
        return None
    _check_private(session.http, session.http.base)
    return credentials.basic()


def refusal(session: SessionV1, response: Response, what: str, *, granted: bool = False) -> RegistryError:
    """Return the error for a response that is a no; `granted` where a grant was shown, not a password."""
    if basic(session) is None:
        return error_of(response, what)
    return error_of(response, what, shown="rights" if granted else "credentials")


# -- parsing ---------------------------------------------------------------------------------


def _document(response: Response) -> Any:
    where = safe_url(response.url)
    if not response.body:
        raise TruncatedResponse(f"{where}: the answer is empty", url=where)
    try:
        return load_json(response.body)
    except BadManifest as error:
        raise BadResponse(f"{where}: {error}", url=where) from None


def _object(response: Response) -> dict[str, Any]:
    document = _document(response)
    if not isinstance(document, dict):
        raise BadResponse(f"{safe_url(response.url)}: the answer is not an object", url=safe_url(response.url))
    return document


def _of_pairs(response: Response, entries: list[Any]) -> dict[str, Any]:
    if not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries):
        raise BadResponse(f"{safe_url(response.url)}: a tag has no name", url=safe_url(response.url))
    return {entry["name"]: entry.get("layer") for entry in entries}


def _listed_image(response: Response, entry: Any) -> ListedImage:
    if not isinstance(entry, dict) or not _is_image_id(entry.get("id")):
        raise BadResponse(f"{safe_url(response.url)}: a listed image has no id", url=safe_url(response.url))
    checksum = entry.get("checksum")
    return ListedImage(entry["id"], checksum if isinstance(checksum, str) and checksum else None)


def _is_image_id(value: Any) -> bool:
    return isinstance(value, str) and _IMAGE_ID.fullmatch(value) is not None


def _count(value: Any) -> int | None:
    """Return a size or a count, None where it is none that can be believed."""
    right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_SIZE
    return value if right else None


def _field_count(headers: Headers, name: str) -> int | None:
    text = headers.get(name, "").strip()
    return _count(int(text)) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _checksum(headers: Headers) -> str | None:
    for name in _CHECKSUM_FIELDS:
        match = _CHECKSUM.search(headers.get(name, "")[:4096])
        if match is not None:
            return match[0]
    return None
