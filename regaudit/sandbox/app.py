"""The distribution interface over a `Store`, as a plain ASGI application.

`Application.answer` is an ordinary function from a `Call` to a `Reply`; the ASGI part around it only
moves bytes. Where the OCI distribution specification 1.1 leaves a choice, the sandbox does what
docker-registry does, since that is what most people's registries are:

- a manifest is answered as it was pushed, whatever Accept says (docker-registry converts instead);
- an emptied repository stays in the catalog and lists ``"tags": null``;
- the index of a sparse set of children is accepted (here docker-registry refuses);
- of an upload that received one byte or none, ``Range`` says ``0-0``;
- an upload whose digest turns out wrong is over, one that was only sent out of order goes on.

Of what the specification drafts beyond 1.1, it knows the ``tag`` parameter of a push by digest.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode

from regaudit.errors import InvalidReference
from regaudit.manifest import OCI_INDEX
from regaudit.reference import Digest
from regaudit.sandbox.login import Authority, OAuthError
from regaudit.sandbox.store import ApiError, Store, check_name, parse_digest

# "Registries MAY impose a limit; it SHOULD be at least 4 megabytes" (distribution spec, "Pushing Manifests").
MANIFEST_LIMIT = 4 * 1024 * 1024
# docker-registry lists 100 repositories where a client does not ask for a number.
_CATALOG_PAGE = 100
# Small enough that a slow reader holds up its own blob only, large enough to cost no time.
_PIECE = 256 * 1024

_NOT_FOUND = b"404 page not found\n"
_JSON = "application/json; charset=utf-8"
_OCTETS = "application/octet-stream"
_NO_STORE = {"Cache-Control": "no-store"}

# The name is greedy: a repository may itself be called team/manifests/tags.
_ROUTE = re.compile(
    r"/v2/(?P<name>.+)/(?:(?P<kind>manifests|blobs|referrers)/(?P<reference>[^/]+)"
    r"|blobs/uploads/(?P<session>[^/]*)|tags/list)"
)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CHUNK = re.compile(r"(?:bytes[ =])?(\d+)-(\d+)(?:/(?:\d+|\*))?")


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(slots=True, frozen=True)
class Route:
    """Which endpoint a path names: its kind, the repository, and what follows."""

    kind: str
    name: str = ""
    reference: str = ""


@dataclass
class Call:
    """A request as the endpoints see it."""

    method: str
    route: Route
    query_string: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    @cached_property
    def query(self) -> dict[str, list[str]]:
        """All values of each query parameter."""
        return parse_qs(self.query_string.decode("latin-1"), keep_blank_values=True)

    def parameter(self, name: str) -> str | None:
        """Return the first value of a query parameter, or None."""
        values = self.query.get(name) if self.query_string else None
        return values[0] if values else None

    def header(self, name: bytes) -> str:
        """Return a header's value, empty where it was not sent."""
        return self.headers.get(name, b"").decode("latin-1")


class Reply(NamedTuple):
    """What an endpoint answers; the length is added on the way out."""

    status: int
    headers: dict[str, str] = {}  # noqa: RUF012 - never written to
    body: bytes = b""


Endpoint = Callable[[Call], Reply]


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a registry can and cannot do; `regaudit.sandbox.server.Sandbox` says what each of these means."""

    referrers: bool = True
    tag_deletion: bool = True
    deletion: bool = True
    ranges: bool = True
    sparse: bool = False
    keep_partial: bool = False
    page: int = 1000


class Application:
    """The ASGI application: ``Application(Store())`` can be served by any ASGI server.

    Parameters
    ----------
    store : Store
        What to serve.
    features : Features, optional
        What the registry can do.
    authority : Authority, optional
        Who may do what; without it everybody may do everything.
    requests : deque, optional
        Where ``(method, path, status)`` of every request answered is added.
    """

    def __init__(
        self,
        store: Store,
        features: Features | None = None,
        *,
        authority: Authority | None = None,
        requests: deque[tuple[str, str, int]] | None = None,
    ) -> None:
        self.store = store
        self.authority = authority
        self.requests: deque[tuple[str, str, int]] = deque(maxlen=0) if requests is None else requests
        self._features = features or Features()
        self._endpoints = self._table()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks for it."""
        if scope["type"] != "http":
            return
        route = parse_route(scope["path"])
        call = Call(scope["method"], route, scope["query_string"], dict(scope["headers"]))
        if call.method in {"PUT", "POST", "PATCH"}:
            call.body, complete = await _read_body(receive, MANIFEST_LIMIT if route.kind == "manifests" else None)
            if not complete:
                self._keep_partial(call)
                return
        reply = self.answer(call)
        self.requests.append((call.method, scope["path"], reply.status))
        await send_reply(reply, send)

    def answer(self, call: Call) -> Reply:
        """Return the reply to a request."""
        endpoints = self._endpoints.get(call.route.kind)
        if endpoints is None:
            return Reply(404, {"Content-Type": "text/plain; charset=utf-8"}, _NOT_FOUND)
        try:
            self._admit(call)
            endpoint = endpoints.get(call.method)
            if endpoint is None:
                raise _not_allowed(", ".join(sorted(endpoints)))
            if call.route.name:
                check_name(call.route.name)
            return endpoint(call)
        except ApiError as error:
            return error_reply(error)

    def _admit(self, call: Call) -> None:
        if self.authority is not None and call.route.kind != "token":
            self.authority.check(call.header(b"authorization"), _scopes(call))

    def _keep_partial(self, call: Call) -> None:
        """Add what arrived of a chunk to its session, where this is a registry that does."""
        if not self._features.keep_partial or call.route.kind != "session":
            return
        with contextlib.suppress(ApiError):  # nobody is there to be told
            self._admit(call)
            chunk = _content_range(call)
            self.store.extend_upload(call.route.name, call.route.reference, call.body, chunk and chunk[0])

    def _table(self) -> dict[str, dict[str, Endpoint]]:
        manifests = {"PUT": self._put_manifest, "DELETE": self._delete_manifest}
        session = {"GET": self._upload_status, "PATCH": self._patch_upload, "PUT": self._finish_upload}
        table: dict[str, dict[str, Endpoint]] = {
            "base": _readable(lambda _: _json_reply({})),
            "catalog": _readable(self._catalog),
            "tags": _readable(self._tags),
            "manifests": {**_readable(self._get_manifest), **manifests},
            "blobs": {**_readable(self._get_blob), "DELETE": self._delete_blob},
            "uploads": {"POST": self._begin_upload},
            "session": {**session, "DELETE": self._cancel_upload},
        }
        if self._features.referrers:
            table["referrers"] = _readable(self._get_referrers)
        if self.authority is not None and self.authority.login.kind == "bearer":
            table["token"] = _token_endpoints(self.authority)
        return table

    # Listings

    def _catalog(self, call: Call) -> Reply:
        count = self._count(call, min(_CATALOG_PAGE, self._features.page))
        names, more = self.store.repository_page(call.parameter("last") or "", count)
        return _json_reply({"repositories": names}, _next_link("/v2/_catalog", names, count, more=more))

    def _tags(self, call: Call) -> Reply:
        name = call.route.name
        count = self._count(call, self._features.page)
        tags, more = self.store.tag_page(name, call.parameter("last") or "", count)
        # docker-registry answers null where the last tag of a repository was deleted.
        emptied = not tags and not self.store.tags(name)
        document = {"name": name, "tags": None if emptied else tags}
        return _json_reply(document, _next_link(f"/v2/{name}/tags/list", tags, count, more=more))

    def _count(self, call: Call, default: int) -> int:
        text = call.parameter("n")
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal()):
            raise ApiError(400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested", {"n": text})
        return min(int(text[:9]), self._features.page)

    def _get_referrers(self, call: Call) -> Reply:
        name, subject = call.route.name, parse_digest(call.route.reference)
        wanted, last = call.parameter("artifactType"), call.parameter("last") or ""
        found, more = self.store.referrer_page(name, subject, wanted, last, self._features.page)
        applied = {} if wanted is None else {"artifactType": wanted}
        link = {}
        if more:
            query = urlencode({**applied, "last": found[-1]["digest"]})
            link = {"Link": f'</v2/{name}/referrers/{subject}?{query}>; rel="next"'}
        filters = {"OCI-Filters-Applied": "artifactType"} if applied else {}
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
        return Reply(200, {"Content-Type": OCI_INDEX, **filters, **link}, _dump(document))

    # Manifests

    def _get_manifest(self, call: Call) -> Reply:
        digest, manifest = self.store.find_manifest(call.route.name, call.route.reference)
        headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
        return Reply(200, headers, manifest.raw)

    def _put_manifest(self, call: Call) -> Reply:
        if len(call.body) > MANIFEST_LIMIT:
            raise ApiError(413, "MANIFEST_INVALID", f"a manifest has at most {MANIFEST_LIMIT} bytes")
        name, reference, media_type = call.route.name, call.route.reference, call.header(b"content-type")
        tags = call.query.get("tag", []) if ":" in reference else []
        digest, subject = self.store.push_manifest(
            name, reference, media_type, call.body, tags=tags, sparse=self._features.sparse
        )
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        # Its absence tells the client to keep the list of referrers itself, under a fallback tag.
        if subject is not None and self._features.referrers:
            headers["OCI-Subject"] = subject
        if tags:
            headers["OCI-Tag"] = ", ".join(tags)
        return Reply(201, headers)

    def _delete_manifest(self, call: Call) -> Reply:
        self._allow_deletion()
        reference = call.route.reference
        if ":" in reference:
            parse_digest(reference)
        elif not self._features.tag_deletion:
            # What docker-registry 2.8.2 answers, word for word.
            raise ApiError(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.store.delete_manifest(call.route.name, reference)
        return Reply(202)

    def _allow_deletion(self) -> None:
        if not self._features.deletion:
            raise ApiError(405, "UNSUPPORTED", "The operation is unsupported.")

    # Blobs

    def _get_blob(self, call: Call) -> Reply:
        data = self.store.find_blob(call.route.name, call.route.reference)
        headers = {"Content-Type": _OCTETS, "Docker-Content-Digest": call.route.reference}
        if not self._features.ranges:
            return Reply(200, headers, data)
        headers["Accept-Ranges"] = "bytes"
        match = _RANGE.fullmatch(call.header(b"range")) if b"range" in call.headers else None
        if match is None or match[0] == "bytes=-":  # RFC 9110: a range that is not understood is ignored
            return Reply(200, headers, data)
        first, last = _bounds(match[1], match[2], len(data))
        if not first <= last:
            return Reply(416, {**headers, "Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Reply(206, headers, data[first : last + 1])

    def _delete_blob(self, call: Call) -> Reply:
        self._allow_deletion()
        self.store.delete_blob(call.route.name, call.route.reference)
        return Reply(202)

    def _begin_upload(self, call: Call) -> Reply:
        name, mount, digest = call.route.name, call.parameter("mount"), call.parameter("digest")
        if mount is not None and _is_digest(mount) and self.store.mount_blob(name, mount, call.parameter("from")):
            return _blob_created(name, mount)
        if digest is not None:
            return _blob_created(name, self.store.push_blob(name, call.body, digest))
        return self._upload_reply(call, self.store.begin_upload(name), 202)

    def _upload_status(self, call: Call) -> Reply:
        return self._upload_reply(call, call.route.reference, 204)

    def _patch_upload(self, call: Call) -> Reply:
        self._extend(call)
        return self._upload_reply(call, call.route.reference, 202)

    def _finish_upload(self, call: Call) -> Reply:
        name, session = call.route.name, call.route.reference
        self.store.uploaded_bytes(name, session)
        digest = parse_digest(call.parameter("digest") or "")
        if call.body:
            self._extend(call)
        return _blob_created(name, self.store.finish_upload(name, session, digest))

    def _cancel_upload(self, call: Call) -> Reply:
        self.store.cancel_upload(call.route.name, call.route.reference)
        return Reply(204)

    def _extend(self, call: Call) -> None:
        name, session = call.route.name, call.route.reference
        try:
            self.store.extend_upload(name, session, call.body, _chunk_start(call))
        except ApiError as error:
            if error.status == 416:  # the client learns from these where to go on
                error.headers.update(self._upload_reply(call, session, 202).headers)
            raise

    def _upload_reply(self, call: Call, session: str, status: int) -> Reply:
        received = self.store.uploaded_bytes(call.route.name, session)
        headers = {
            "Location": f"/v2/{call.route.name}/blobs/uploads/{session}",
            # As docker-registry: one byte and none look the same.
            "Range": f"0-{max(received - 1, 0)}",
            "Docker-Upload-UUID": session,
        }
        return Reply(status, headers)


def parse_route(path: str) -> Route:
    """Return the endpoint that a path names; its kind is empty where there is none."""
    match = _ROUTE.fullmatch(path)
    if match is None:
        kinds = {"/v2/": "base", "/v2": "base", "/v2/_catalog": "catalog", "/token": "token"}
        return Route(kinds.get(path, ""))
    name, kind, reference, session = match.group("name", "kind", "reference", "session")
    if kind:
        return Route(kind, name, reference)
    if session is None:
        return Route("tags", name)
    return Route("session", name, session) if session else Route("uploads", name)


def _readable(endpoint: Endpoint) -> dict[str, Endpoint]:
    # HTTP: an answer to HEAD is that to GET without its body; the server leaves the body out.
    return {"GET": endpoint, "HEAD": endpoint}


def _token_endpoints(authority: Authority) -> dict[str, Endpoint]:
    def issue(call: Call) -> Reply:
        return _json_reply(authority.issue(call.header(b"authorization"), call.query), _NO_STORE)

    def exchange(call: Call) -> Reply:
        if not authority.login.oauth2:
            # What a token server says that knows GET alone; clients then ask again that way.
            return Reply(404, {"Content-Type": "text/plain; charset=utf-8"}, _NOT_FOUND)
        try:
            return _json_reply(authority.exchange(call.body), _NO_STORE)
        except OAuthError as error:
            return Reply(400, {"Content-Type": _JSON, **_NO_STORE}, _dump(error.document))

    return {"GET": issue, "POST": exchange}


def _is_digest(text: str) -> bool:
    try:
        return bool(Digest(text))
    except InvalidReference:
        return False


def _scopes(call: Call) -> list[str]:
    if call.route.kind == "catalog":
        return ["registry:catalog:*"]
    if not call.route.name:
        return []
    actions = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(call.method, "pull,push")
    needed = [f"repository:{call.route.name}:{actions}"]
    source = call.parameter("from")
    return [*needed, f"repository:{source}:pull"] if call.route.kind == "uploads" and source else needed


def _content_range(call: Call) -> tuple[int, int] | None:
    text = call.header(b"content-range")
    if not text:
        return None
    match = _CHUNK.fullmatch(text)
    if match is None:
        raise ApiError(400, "BLOB_UPLOAD_INVALID", "the Content-Range is not START-END", {"range": text[:80]})
    return int(match[1][:18]), int(match[2][:18])


def _chunk_start(call: Call) -> int | None:
    chunk = _content_range(call)
    if chunk is None:
        return None
    first, last = chunk
    if last - first + 1 != len(call.body):
        raise ApiError(400, "SIZE_INVALID", "the Content-Range does not fit the body", {"received": len(call.body)})
    return first


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:  # the last so many bytes
        return max(size - int(last), 0), size - 1 if int(last) else -1
    return int(first), min(int(last), size - 1) if last else size - 1


def _blob_created(name: str, digest: str) -> Reply:
    return Reply(201, {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})


def _next_link(path: str, names: list[str], count: int, *, more: bool) -> dict[str, str]:
    if not more or not names:
        return {}
    return {"Link": f'<{path}?{urlencode({"last": names[-1], "n": count})}>; rel="next"'}


def _dump(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _json_reply(document: object, headers: dict[str, str] | None = None) -> Reply:
    return Reply(200, {"Content-Type": _JSON, **(headers or {})}, _dump(document))


def error_reply(error: ApiError) -> Reply:
    """Return the reply that an error is: the specification's JSON body."""
    entry: dict[str, object] = {"code": error.code, "message": error.message}
    entries = [{**entry, "detail": detail} for detail in error.details] or [entry]
    return Reply(error.status, {"Content-Type": _JSON, **error.headers}, _dump({"errors": entries}))


def _not_allowed(methods: str) -> ApiError:
    return ApiError(405, "UNSUPPORTED", "The operation is unsupported.", headers={"Allow": methods})


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a reply as ASGI messages."""
    headers = {"Docker-Distribution-API-Version": "registry/2.0", **reply.headers}
    wire = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    if reply.status != 204:  # RFC 9110 forbids it there
        wire.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": wire})
    size = len(reply.body)
    for first in range(0, max(size, 1), _PIECE):
        piece = reply.body[first : first + _PIECE]
        await send({"type": "http.response.body", "body": piece, "more_body": first + _PIECE < size})


async def _read_body(receive: Receive, limit: int | None) -> tuple[bytes, bool]:
    """Return the body, one byte more than `limit` at least where it is longer, and whether all of it came."""
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(pieces), False
        # The rest of a body that is too large is read and dropped, so that the connection can go on.
        if limit is None or size <= limit:
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
        more = message.get("more_body", False)
    return b"".join(pieces), True
