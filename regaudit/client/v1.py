"""Reading a registry of the v1 interface (Docker's own until 2015): one conversation per endpoint.

There an image is a chain of layers, each known by an id that says nothing of its bytes, and a tag is
the name of the topmost. Who may see what is decided in `grants`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from regaudit.client import v2
from regaudit.client.exchange import (
    MANIFEST_CAP,
    PAGE_CAP,
    Conversation,
    Headers,
    Once,
    Request,
    Response,
    Session,
)
from regaudit.client.grants import (
    ACCEPT_JSON,
    ListedImage,
    SessionV1,
    ask,
    ask_registry,
    basic,
    document_of,
    is_image_id,
    open_grant,
    refusal,
)
from regaudit.client.transfer import Writable
from regaudit.errors import (
    BadManifest,
    BadResponse,
    DigestMismatch,
    InvalidReference,
    NotARegistry,
    NotFound,
    PaginationLoop,
    RegistryError,
    UsageError,
)
from regaudit.manifest import LARGEST_SIZE, load_json
from regaudit.reference import check_repository, check_tag, is_repository, is_tag
from regaudit.text import clean, parse_time, safe_url

NAMESPACE = "library"
# What an index sends at most; a registry without pages ignores the number.
PAGE_SIZE = 100
_MOST_PAGES = 100_000
# Docker builds at most 127 layers on one another.
_MOST_ANCESTORS = 1024
_SMALL_CAP = 64 << 10

# Some registries send several checksums in one field; a tarsum cannot be computed over a stream of bytes.
_CHECKSUM = re.compile(r"(?<![\w+])sha256:([0-9a-f]{64})(?![0-9a-f])")
_CHECKSUM_FIELDS = ("x-docker-checksum-payload", "x-docker-payload-checksum", "x-docker-checksum")


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
    if not is_image_id(image_id):
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
    response = yield from ask_registry(session, "/v1/_ping", "ping", cap=_SMALL_CAP)
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
    return v2.Ping(response.status, fields, clean(response.body[:2048].decode("utf-8", "replace").strip()))


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
            f"{session.http.host}: the v1 interface knows user names and passwords: "
            "give username= and password=, -u USER --password-stdin on the command line"
        )
    response = yield from ask_registry(session, "/v1/users/", "login", cap=_SMALL_CAP)
    if response.status == 404:
        raise NotFound(
            f"logging in to {session.http.host}: it has no login of the v1 interface; a registry of v2 has one of its own",
            url=session.http.url("/v1/users/"),
            status=404,
        )
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
    response = yield from ask_registry(session, f"/v1/search?{query}", "search")
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
    yield Once(("v1", repository), open_grant(session, repository, session.grants.get(repository)))
    return session.grants[repository].images


def tags(session: SessionV1, repository: str) -> Conversation[Tags]:
    """List the tags of a repository with their image ids; an emptied one has none, a missing one is `NotFound`."""
    response = yield from _asked(session, repository, f"/v1/repositories/{repository}/tags", "tags")
    document = document_of(response)
    if isinstance(document, list):  # Docker Hub's index
        document = _of_pairs(response, document)
    if not isinstance(document, dict):
        raise BadResponse(f"{safe_url(response.url)}: the tags are not an object", url=safe_url(response.url))
    named = {tag: image_id for tag, image_id in document.items() if is_tag(tag) and is_image_id(image_id)}
    return Tags(named, tuple(tag for tag in document if tag not in named))


def tagged_image(session: SessionV1, repository: str, tag: str) -> Conversation[str]:
    """Return the image id of a tag."""
    path = f"/v1/repositories/{repository}/tags/{quote(check_tag(tag))}"
    response = yield from _asked(session, repository, path, "tag", cap=_SMALL_CAP)
    found = document_of(response)
    if not is_image_id(found):
        raise BadResponse(f"{safe_url(response.url)}: the answer is not an image id", url=safe_url(response.url))
    return str(found)


def ancestry(session: SessionV1, repository: str, image_id: str) -> Conversation[tuple[str, ...]]:
    """Return the ids of an image and of all that it is built on, the topmost first."""
    path = f"/v1/images/{check_image_id(image_id)}/ancestry"
    response = yield from _asked(session, repository, path, "ancestry", cap=MANIFEST_CAP)
    ids = document_of(response)
    where = safe_url(response.url)
    if not isinstance(ids, list) or not all(map(is_image_id, ids)):
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
    if document.get("id") != image_id or not (parent is None or is_image_id(parent)):
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


def _asked(session: SessionV1, repository: str, path: str, purpose: str, cap: int = PAGE_CAP) -> Conversation[Response]:
    request = Request("GET", "", purpose, ACCEPT_JSON, cap=cap, deadline=session.http.deadline)
    response: Response = yield from ask(session, repository, path, request)
    if response.status != 200:
        raise refusal(session, response, f"{session.http.host}{path}", granted=True)
    return response


# -- parsing ---------------------------------------------------------------------------------


def _object(response: Response) -> dict[str, Any]:
    document = document_of(response)
    if not isinstance(document, dict):
        raise BadResponse(f"{safe_url(response.url)}: the answer is not an object", url=safe_url(response.url))
    return document


def _of_pairs(response: Response, entries: list[Any]) -> dict[str, Any]:
    if not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries):
        raise BadResponse(f"{safe_url(response.url)}: a tag has no name", url=safe_url(response.url))
    return {entry["name"]: entry.get("layer") for entry in entries}


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
