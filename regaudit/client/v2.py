"""Reading a registry: one conversation per endpoint of the OCI distribution specification 1.1.

Each returns a parsed value or raises a `RegistryError`; a listing returns what it got so far together
with the error that ended it, because half a listing must neither be lost nor be taken for the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from regaudit.client.auth import ask, refusal, repository_scope
from regaudit.client.exchange import (
    MANIFEST_CAP,
    MOST_HOPS,
    PAGE_CAP,
    Conversation,
    Headers,
    Once,
    Request,
    Response,
    Session,
    Sink,
    origin,
    resolve,
)
from regaudit.client.traffic import shown_header
from regaudit.client.transfer import Download
from regaudit.errors import (
    AccessDenied,
    BadManifest,
    BadResponse,
    BadSignature,
    DigestMismatch,
    InvalidReference,
    NotARegistry,
    NotFound,
    PaginationLoop,
    RegistryError,
    TruncatedResponse,
    Unsupported,
)
from regaudit.manifest import (
    ACCEPT_MANIFESTS,
    OCI_INDEX,
    SCHEMA1_TYPES,
    AnyManifest,
    Descriptor,
    Index,
    LegacyManifest,
    Manifest,
    accept_manifests,
    load_json,
    parse_manifest,
)
from regaudit.reference import Digest, attached_tag, check_repository, check_tag, is_repository, is_tag
from regaudit.schema1 import with_signers
from regaudit.text import clean, log_url, safe_url

# distribution 3.x answers 400 to more, and hosted registries clamp to it.
PAGE_SIZE = 1000
# A registry of a billion names at 1,000 a page; a listing beyond it never ends.
_MOST_PAGES = 1_000_000
_FRUITLESS_PAGES = 2
_PING_CAP = 64 << 10
# What Go's and nginx's servers say, in the clear, to who speaks plain http to a port for TLS.
_WANTS_TLS = (b"HTTP request to an HTTPS server", b"plain HTTP request was sent to HTTPS port")


@dataclass(frozen=True, slots=True)
class Ping:
    """What ``GET /v2/`` answered."""

    status: int
    headers: dict[str, str]
    body: str

    def to_dict(self) -> dict[str, Any]:
        """Return status, headers and body as plain values."""
        return {"status": self.status, "headers": self.headers, "body": self.body}


@dataclass(frozen=True, slots=True)
class Listing:
    """Names that a registry listed.

    Attributes
    ----------
    names : tuple of str
        Each once, in the order of the registry.
    invalid : tuple of str
        Names outside the grammar: never asked for, never deleted.
    error : RegistryError or None
        What ended the listing before its end; None where it is complete.
    """

    names: tuple[str, ...]
    invalid: tuple[str, ...] = ()
    error: RegistryError | None = None

    def all(self) -> tuple[str, ...]:
        """Return the names of a complete listing, or raise what ended it."""
        if self.error is not None:
            raise self.error
        return self.names


@dataclass(frozen=True, slots=True)
class Head:
    """What HEAD says of a manifest; `digest` is None where the registry does not tell."""

    digest: Digest | None
    media_type: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Hop:
    """One response on the way to a blob: a redirect, or the last one."""

    status: int
    url: str
    headers: dict[str, str] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return status, headers and URL, without what may be the signature of a storage service."""
        headers = {name: shown_header(name, value) for name, value in self.headers.items()}
        return {"status": self.status, "url": log_url(self.url), "headers": headers}


@dataclass(frozen=True, slots=True)
class BlobHead:
    """What HEAD says of a blob; `size` in bytes is None where the registry does not tell."""

    digest: Digest
    size: int | None
    responses: tuple[Hop, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return digest, size, and every response on the way."""
        responses = [hop.to_dict() for hop in self.responses]
        return {"digest": str(self.digest), "size": self.size, "responses": responses}


@dataclass(slots=True)
class _Pages:
    """Names gathered over the pages of a listing."""

    valid: Callable[[object], bool]
    names: dict[str, None] = field(default_factory=dict)
    invalid: dict[str, None] = field(default_factory=dict)
    fruitless: int = 0

    def add(self, found: list[Any]) -> None:
        before = len(self.names) + len(self.invalid)
        for name in found:
            (self.names if self.valid(name) else self.invalid)[str(name)] = None
        self.fruitless = 0 if len(self.names) + len(self.invalid) > before else self.fruitless + 1

    def listing(self, error: RegistryError | None = None) -> Listing:
        return Listing(tuple(self.names), tuple(self.invalid), error)


def ping(session: Session) -> Conversation[Ping]:
    """Ask whether this is a registry, and whether it lets us in.

    Raises
    ------
    NotARegistry
        The host answers, but not as a registry does.
    AuthenticationFailed
        The credentials are wrong.
    """
    response = yield from base(session)
    if response.status == 401 and session.credentials is not None:
        raise refusal(session, response, f"logging in to {session.host}")
    body = response.body[:2048].decode("utf-8", "replace").strip()
    return Ping(response.status, {name: clean(value) for name, value in response.headers.items()}, clean(body))


def base(session: Session, scopes: tuple[str, ...] = ()) -> Conversation[Response]:
    """Return what ``GET /v2/`` answers, 200 or 401; anything else is an error, for no registry says it."""
    request = Request("GET", session.url("/v2/"), "ping", cap=_PING_CAP, deadline=session.deadline)
    response = yield from ask(session, request, scopes, listen=False)
    asks_for_login = response.status == 401 and response.headers.get("www-authenticate")
    if not asks_for_login and (response.status != 200 or _looks_like_a_page(response)):
        raise _no_registry(session, response)
    return response


def catalog(session: Session, progress: Callable[[int], None] | None = None) -> Conversation[Listing]:
    """List the repositories of the registry. Many hosted registries deny this: name the repositories then."""
    pages = _Pages(is_repository)
    listing = yield from _list(
        session, "/v2/_catalog", "catalog", "repositories", ("registry:catalog:*",), pages, progress
    )
    if isinstance(listing.error, AccessDenied | NotFound | Unsupported):
        return _advised(listing, "many registries do not list their repositories: name those that you mean")
    return listing


def tags(session: Session, repository: str, progress: Callable[[int], None] | None = None) -> Conversation[Listing]:
    """List the tags of a repository; an emptied one has none, a missing one is `NotFound`."""
    path = f"/v2/{check_repository(repository)}/tags/list"
    scopes = (repository_scope(repository, "pull"),)
    listing = yield from _list(session, path, "tags", "tags", scopes, _Pages(is_tag), progress)
    if isinstance(listing.error, NotFound):
        return _advised(listing, "check the name of the repository")
    return listing


def _advised(listing: Listing, advice: str) -> Listing:
    """Return a listing whose error says what to do next as well."""
    error = listing.error
    assert error is not None  # noqa: S101 -- the caller has looked
    return replace(
        listing, error=type(error)(f"{error}; {advice}", url=error.url, status=error.status, code=error.code)
    )


def head_manifest(session: Session, repository: str, reference: str) -> Conversation[Head]:
    """Return digest, media type and size of a manifest without reading it (or counting as a pull).

    Raises
    ------
    NotFound
        Definitely not there, as far as HEAD tells: some registries answer 404 to every HEAD.
    """
    request = Request(
        "HEAD",
        manifest_url(session, repository, reference),
        "head",
        {"Accept": ACCEPT_MANIFESTS},
        deadline=session.deadline,
    )
    response = yield from ask(session, request, (repository_scope(repository, "pull"),))
    if response.status != 200:
        raise refusal(session, response, _what(session, repository, reference))
    return Head(_announced(response, repository, reference), _content_type(response), _size(response))


def get_manifest(
    session: Session,
    repository: str,
    reference: str,
    *,
    max_schema_version: int = 2,
    accept_indexes: bool = True,
    follow_redirects: bool = True,
) -> Conversation[AnyManifest]:
    """Return a manifest by tag or digest, its bytes verified.

    Parameters
    ----------
    max_schema_version : int
        1 asks for Docker's schema 1 alone, which some registries convert to; its digest may then not exist there.
    accept_indexes : bool
        False lets the registry choose an image of an index.
    follow_redirects : bool
        False makes a redirect an error.

    Raises
    ------
    DigestMismatch
        The bytes do not hash to the digest asked for, or to the one that the registry announces.
    BadManifest
        The bytes are no manifest, or contradict the Content-Type.
    """
    accept = accept_manifests(max_schema_version=max_schema_version, indexes=accept_indexes)
    request = Request(
        "GET",
        manifest_url(session, repository, reference),
        "manifest",
        {"Accept": accept},
        cap=MANIFEST_CAP,
        deadline=session.deadline,
        hops=MOST_HOPS if follow_redirects else 0,
    )
    response = yield from ask(session, request, (repository_scope(repository, "pull"),))
    if response.status != 200:
        raise refusal(session, response, _what(session, repository, reference))
    return _verified(response, repository, reference)


def get_blob(session: Session, repository: str, digest: Digest, cap: int = MANIFEST_CAP) -> Conversation[bytes]:
    """Return a small blob (an image config) as bytes, verified against its digest."""
    response = yield from _ask_blob(session, "GET", repository, digest, cap=cap)
    if response.status != 200:
        raise refusal(session, response, _what(session, repository, digest))
    if not digest.matches(response.body):
        raise DigestMismatch(
            f"{_what(session, repository, digest)}: the bytes do not hash to the digest", url=safe_url(response.url)
        )
    return response.body


def download_blob(session: Session, repository: str, digest: Digest, sink: Download) -> Conversation[int]:
    """Stream a blob into a sink and return its size in bytes.

    What breaks off is gone on with where it stopped, as often as it moves.

    Raises
    ------
    DigestMismatch
        What arrived does not hash to the digest; the sink holds it all the same.
    """
    where = _what(session, repository, digest)
    url = safe_url(session.url(f"/v2/{repository}/blobs/{digest}"))
    while not (sink.position and sink.position == sink.total):  # an earlier attempt may have got all of it
        before = sink.position
        response = yield from _ask_blob(session, "GET", repository, digest, into=sink)
        moved = sink.position > before
        if response.status == 416 and before and response.headers.get("content-range") == f"bytes */{before}":
            break  # an earlier attempt got all of it
        # The address of a storage service that a registry redirects to is good for minutes; then it gives a new one.
        if response.status not in {200, 206} and not (moved and not session.ours(response.url)):
            raise refusal(session, response, where)
        if response.status in {200, 206} and sink.whole:
            break
        if not moved:
            raise TruncatedResponse(f"{where}: the registry does not send the rest of it", url=safe_url(response.url))
    if not sink.matches:
        raise DigestMismatch(f"{where}: the bytes do not hash to the digest", url=url)
    return sink.position


def head_blob(session: Session, repository: str, digest: Digest) -> Conversation[BlobHead]:
    """Return what HEAD says of a blob; raises `NotFound` where it is not there."""
    response = yield from _ask_blob(session, "HEAD", repository, digest)
    if response.status != 200:
        raise refusal(session, response, _what(session, repository, digest))
    hops = (Hop(r.status, r.url, dict(r.headers)) for r in (*response.history, response))
    return BlobHead(digest, _size(response), tuple(hops))


def blob_holders(session: Session, repository: str, digest: Digest) -> Conversation[tuple[str, ...]]:
    """Return what in a repository uses a blob: tags, and digests that tags lead to.

    A manifest that nothing in the repository leads to is not seen.

    Raises
    ------
    RegistryError
        Anything that could not be read: it may use the blob.
    """
    found = yield from tags(session, repository)
    waiting: list[tuple[str, str]] = [(f":{tag}", tag) for tag in found.all()]
    seen: set[str] = set()
    holders: dict[str, None] = {}
    while waiting:
        name, reference = waiting.pop()
        if reference in seen:
            continue
        seen.add(reference)
        try:
            manifest = yield from get_manifest(session, repository, reference)
        except NotFound:
            continue  # a dangling tag and a missing child hold nothing
        if digest in _blobs_of(manifest):
            holders[name] = None
        if manifest.digest not in seen:
            seen.add(manifest.digest)
            children = manifest.manifests if isinstance(manifest, Index) else ()
            attached = yield from referrers(session, repository, manifest.digest)
            waiting += [(f"@{d.digest.short}", d.digest) for d in (*children, *attached)]
    return tuple(holders)


def _blobs_of(manifest: AnyManifest) -> set[Digest]:
    if isinstance(manifest, Manifest):
        return {blob.digest for blob in manifest.blobs}
    return set(manifest.layers) if isinstance(manifest, LegacyManifest) else set()


def referrers(
    session: Session, repository: str, digest: Digest, artifact_type: str | None = None
) -> Conversation[tuple[Descriptor, ...]]:
    """List what refers to a digest, by the referrers interface or else by the fallback tag.

    Parameters
    ----------
    artifact_type : str, optional
        Only what is of this type. A registry that cannot filter sends all, and the rest is dropped here.
    """
    listed = yield from listed_referrers(session, repository, digest, artifact_type)
    if listed is None:
        index = yield from fallback_index(session, repository, digest)
        listed = () if index is None else index.manifests
    return tuple(d for d in listed if artifact_type is None or d.artifact_type == artifact_type)


def fallback_index(session: Session, repository: str, digest: Digest) -> Conversation[Index | None]:
    """Return the index under the fallback tag of a digest, None where there is none."""
    try:
        index = yield from get_manifest(session, repository, attached_tag(digest))
    except NotFound:
        return None
    return index if isinstance(index, Index) else None


def listed_referrers(
    session: Session, repository: str, digest: Digest, artifact_type: str | None = None
) -> Conversation[tuple[Descriptor, ...] | None]:
    """List what refers to a digest by the referrers interface; None where the registry has none.

    Whether it has is found out once for a registry: without the interface it answers 404, with
    it a digest without referrers has an empty index.
    """
    if "referrers" not in session.capabilities:
        yield Once(("referrers",), _probe_referrers(session, repository, digest))
    if not session.capabilities.get("referrers"):
        return None
    return (yield from _referrer_pages(session, repository, digest, artifact_type))


def _referrer_pages(
    session: Session, repository: str, digest: Digest, artifact_type: str | None
) -> Conversation[tuple[Descriptor, ...]]:
    found: dict[Digest, Descriptor] = {}
    query = "" if artifact_type is None else f"?{urlencode({'artifactType': artifact_type})}"
    url: str | None = session.url(f"/v2/{check_repository(repository)}/referrers/{digest}{query}")
    seen: set[str] = set()
    while url is not None:
        seen.add(url)
        before = len(found)
        response = yield from _ask_referrers(session, url, repository)
        if response.status != 200:
            raise refusal(session, response, f"{_what(session, repository, digest)}: its referrers")
        index = parse_manifest(response.body, OCI_INDEX)
        assert isinstance(index, Index)  # noqa: S101 -- the media type says so
        found.update({descriptor.digest: descriptor for descriptor in index.manifests})
        url = _next_page(response)
        if url in seen or (url is not None and len(found) == before):
            raise PaginationLoop(
                f"{safe_url(url or '')}: the list of referrers repeats itself or never ends", url=safe_url(url or "")
            )
    return tuple(found.values())


def _probe_referrers(session: Session, repository: str, digest: Digest) -> Conversation[None]:
    if "referrers" in session.capabilities:
        return
    response = yield from _ask_referrers(
        session, session.url(f"/v2/{check_repository(repository)}/referrers/{digest}"), repository
    )
    what = f"{_what(session, repository, digest)}: its referrers"
    if response.status in {404, 405, 400, 501}:
        # NAME_UNKNOWN is of this repository, not of the registry: nothing is learnt
        if refusal(session, response, what).code != "NAME_UNKNOWN":
            session.capabilities["referrers"] = False
    elif response.status == 200:
        session.capabilities["referrers"] = _content_type(response) == OCI_INDEX
    else:
        raise refusal(session, response, what)


def _ask_referrers(session: Session, url: str, repository: str) -> Conversation[Response]:
    request = Request("GET", url, "referrers", {"Accept": OCI_INDEX}, cap=PAGE_CAP, deadline=session.deadline)
    return (yield from ask(session, request, (repository_scope(repository, "pull"),)))


def _ask_blob(
    session: Session, method: str, repository: str, digest: Digest, *, cap: int = MANIFEST_CAP, into: Sink | None = None
) -> Conversation[Response]:
    url = session.url(f"/v2/{check_repository(repository)}/blobs/{digest}")
    request = Request(method, url, "blob", cap=cap, into=into, deadline=None if into else session.deadline)
    return (yield from ask(session, request, (repository_scope(repository, "pull"),)))


# -- listings --------------------------------------------------------------------------------


def _list(
    session: Session,
    path: str,
    purpose: str,
    key: str,
    scopes: tuple[str, ...],
    pages: _Pages,
    progress: Callable[[int], None] | None,
) -> Conversation[Listing]:
    url: str | None = session.url(f"{path}?n={PAGE_SIZE}")
    seen: set[str] = set()
    try:
        while url is not None:
            seen.add(url)
            response = yield from ask(session, Request("GET", url, purpose, deadline=session.deadline), scopes)
            if response.status == 400 and len(seen) == 1 and "?" in url:
                url = session.url(path)  # some registries refuse any n above their own
                continue
            if response.status != 200:
                raise refusal(session, response, f"{session.host}{path.removeprefix('/v2')}")
            pages.add(_names(response, key, path))
            if progress is not None:
                progress(len(pages.names))
            url = _next_page(response)
            _check_progress(url, seen, pages)
    except RegistryError as error:
        return pages.listing(error)
    return pages.listing()


def _check_progress(url: str | None, seen: set[str], pages: _Pages) -> None:
    if url is None:
        return
    if url in seen or pages.fruitless >= _FRUITLESS_PAGES or len(seen) >= _MOST_PAGES:
        raise PaginationLoop(
            f"{safe_url(url)}: the listing repeats itself or never ends: what came before is kept", url=safe_url(url)
        )


def _names(response: Response, key: str, path: str) -> list[Any]:
    where = f"{safe_url(response.url)}: "
    if not response.body:
        raise TruncatedResponse(
            f"{where}the answer is empty, which is not a list without names", url=safe_url(response.url)
        )
    try:
        page = load_json(response.body)
    except BadManifest as error:
        raise BadResponse(f"{where}{error}", url=safe_url(response.url)) from None
    if not isinstance(page, dict) or key not in page:
        raise NotARegistry(f"{where}the answer has no list of {key}: is this a registry?", url=safe_url(response.url))
    names = page[key]
    own = page.get("name")
    if (
        own is not None
        and path.startswith("/v2/")
        and key == "tags"
        and own != path.removeprefix("/v2/").removesuffix("/tags/list")
    ):
        raise BadResponse(
            f"{where}the answer is of another repository, {clean(own, 120)!r}", url=safe_url(response.url)
        )
    if names is None:
        return []
    if not isinstance(names, list):
        raise BadResponse(f"{where}the {key} are not a list", url=safe_url(response.url))
    return names


_LINK = re.compile(r'<([^<>]*)>((?:\s*;\s*[A-Za-z0-9_*-]+\s*(?:=\s*(?:"(?:[^"\\]|\\.)*"|[^\s",;]*))?)*)')
_RELATION = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s",;]+))', re.IGNORECASE)


def next_link(headers: Headers) -> str | None:
    """Return the target of ``rel="next"`` in the Link headers (RFC 8288), None where there is none."""
    for value in headers.all("link"):
        for target, parameters in _LINK.findall(value[:16384]):
            relation = _RELATION.search(parameters)
            # distribution always sends rel; a lone Link without one can only mean the same
            if relation is None or "next" in (relation[1] or relation[2] or "").lower().split():
                return str(target)
    return None


def _next_page(response: Response) -> str | None:
    """Return the URL of the next page on the same host; a registry behind a TLS proxy may say http, and gets https."""
    target = next_link(response.headers)
    if target is None:
        return None
    url = resolve(response.url, target)
    if url is None or not _same_place(response.url, url):
        raise PaginationLoop(
            f"{safe_url(response.url)}: the next page is on another host, {safe_url(target)}: not followed",
            url=safe_url(response.url),
        )
    ours, theirs = urlsplit(response.url), urlsplit(url)
    return theirs._replace(scheme=ours.scheme, netloc=ours.netloc, fragment="").geturl()


def _same_place(ours: str, theirs: str) -> bool:
    own, other = origin(ours), origin(theirs)
    if own[1] != other[1]:
        return False
    return own[2] == other[2] or (own[0] == "https" and other[0] == "http" and urlsplit(theirs).port is None)


# -- manifests -------------------------------------------------------------------------------


def _verified(response: Response, repository: str, reference: str) -> AnyManifest:
    if not response.body:
        raise TruncatedResponse(f"{safe_url(response.url)}: the answer is empty", url=safe_url(response.url))
    try:
        manifest = with_signers(parse_manifest(response.body, _content_type(response)))
    except (BadManifest, BadSignature) as error:
        url = safe_url(response.url)
        raise type(error)(f"{url}: {error}", url=url, status=200) from None
    announced = _announced(response, repository, reference, manifest.digest)
    asked = Digest(reference) if ":" in reference else None
    for digest in (asked, announced):
        if digest is None or manifest.digest == digest:
            continue
        if digest.matches(response.body):
            # the same bytes under another algorithm: known by the digest that it was asked for
            return replace(manifest, digest=digest)
        if manifest.media_type not in SCHEMA1_TYPES or digest is asked:
            url = safe_url(response.url)
            raise DigestMismatch(f"{url}: the bytes hash to {manifest.digest.short}, not to {digest.short}", url=url)
    return manifest


def _announced(response: Response, repository: str, reference: str, known: Digest | None = None) -> Digest | None:
    text = response.headers.get("docker-content-digest")
    if text is None:
        return None
    if known is not None and text == known:
        return known
    try:
        return Digest(text.strip())
    except InvalidReference:
        raise BadResponse(
            f"{repository}:{reference}: the registry announces the digest {clean(text, 100)!r}, which is none",
            url=safe_url(response.url),
        ) from None


def _content_type(response: Response) -> str:
    text: str = response.headers.get("content-type", "")
    return text.partition(";")[0].strip().lower()


def manifest_url(session: Session, repository: str, reference: str) -> str:
    """Return the URL of a manifest, with its repository, tag or digest checked against the grammar."""
    # of all that the grammars allow, only the digests of odd algorithms have characters to quote
    checked = quote(Digest(reference), safe=":") if ":" in reference else check_tag(reference)
    return session.url(f"/v2/{check_repository(repository)}/manifests/{checked}")


def _what(session: Session, repository: str, reference: str) -> str:
    return f"{session.host}/{repository}{'@' if ':' in reference else ':'}{reference}"


def _size(response: Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _looks_like_a_page(response: Response) -> bool:
    return _content_type(response) == "text/html" or response.body.lstrip()[:1] == b"<"


def _no_registry(session: Session, response: Response) -> RegistryError:
    if response.status == 400 and any(words in response.body for words in _WANTS_TLS):
        return NotARegistry(f"{session.host} speaks https: write https://{session.host}", url=session.base, status=400)
    if response.status in {401, 403, 429} or response.status >= 500:
        return refusal(session, response, f"{session.host}/v2/")
    return NotARegistry(
        f"{session.host} answers ({response.status}), but not as a container registry does: check host and port",
        url=session.base,
        status=response.status,
    )
