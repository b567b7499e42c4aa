"""The distribution interface over a `Store`, as a plain ASGI application.

`Application.answer` is an ordinary function from a `Call` to a `Reply`; the ASGI part around it only
moves bytes. Where the OCI distribution specification 1.1 leaves a choice, the sandbox does what
docker-registry does, since that is what most people's registries are:

- a manifest is answered as it was pushed, whatever Accept says (docker-registry converts instead);
- an emptied repository stays in the catalog and lists ``"tags": null``;
- the index of a sparse set of children is accepted (here docker-registry refuses).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode

from regaudit.manifest import OCI_INDEX
from regaudit.sandbox.store import ApiError, Store, check_name, parse_digest

# "Registries MAY impose a limit; it SHOULD be at least 4 megabytes" (distribution spec, "Pushing Manifests").
MANIFEST_LIMIT = 4 * 1024 * 1024
# docker-registry lists 100 repositories where a client does not ask for a number.
_CATALOG_PAGE = 100
# Long enough for any audit page, short enough that a client's renewal is exercised in a long session.
_TOKEN_SECONDS = 300
SERVICE = "regaudit-sandbox"

_NOT_FOUND = b"404 page not found\n"
_JSON = "application/json; charset=utf-8"
_OCTETS = "application/octet-stream"

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


class Login:
    """Who may do what: Basic, or tokens that this server issues itself.

    Parameters
    ----------
    kind : str
        ``basic`` or ``bearer``.
    users : dict
        Password by user name. Every user may do everything; a token may do what it was asked for.
    realm : str
        The URL of the token endpoint.
    clock : callable, optional
        Seconds that never go backwards, for the expiry of tokens.
    """

    def __init__(
        self, kind: str, users: dict[str, str], realm: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.kind = kind
        self._users = users
        self._realm = realm
        self._clock = clock
        self._tokens: dict[str, tuple[float, frozenset[str]]] = {}

    def revoke_tokens(self) -> None:
        """Make every token that was issued invalid."""
        self._tokens.clear()

    def check(self, authorization: str, needed: Sequence[str]) -> None:
        """Raise `ApiError` 401, with the challenge, unless the header allows all the scopes needed."""
        if self.kind == "basic":
            if self._user(authorization) is None:
                raise self._refusal(f'Basic realm="{SERVICE}"', needed)
            return
        fault = self._token_fault(authorization, needed)
        if fault is not None:
            scope = f',scope="{" ".join(needed)}"' if needed else ""
            error = f',error="{fault}"' if fault else ""
            raise self._refusal(f'Bearer realm="{self._realm}",service="{SERVICE}"{scope}{error}', needed)

    def issue(self, call: Call) -> Reply:
        """Answer the token endpoint: a token for exactly the scopes asked for."""
        if self._user(call.header(b"authorization")) is None:
            raise self._refusal(f'Basic realm="{SERVICE}"', ())
        scopes = [scope for value in call.query.get("scope", []) for scope in value.split()]
        granted = frozenset(right for scope in scopes for right in _rights(scope))
        token = secrets.token_urlsafe(32)
        self._tokens[token] = (self._clock() + _TOKEN_SECONDS, granted)
        return _json_reply({"token": token, "access_token": token, "expires_in": _TOKEN_SECONDS})

    def _user(self, authorization: str) -> str | None:
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            return None
        name, _, password = text.partition(":")
        known = self._users.get(name)
        return name if known is not None and hmac.compare_digest(known.encode(), password.encode()) else None

    def _token_fault(self, authorization: str, needed: Sequence[str]) -> str | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return ""
        expiry, granted = self._tokens.get(token.strip(), (0.0, frozenset[str]()))
        if expiry <= self._clock():
            self._tokens.pop(token.strip(), None)
            return "invalid_token"
        return None if _covers(granted, needed) else "insufficient_scope"

    @staticmethod
    def _refusal(challenge: str, needed: Sequence[str]) -> ApiError:
        details = [
            {"Type": kind, "Name": name, "Action": action}
            for kind, name, action in (right.split("\n") for scope in needed for right in sorted(_rights(scope)))
        ]
        return ApiError(
            401, "UNAUTHORIZED", "authentication required", details or None, headers={"WWW-Authenticate": challenge}
        )


def _rights(scope: str) -> list[str]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return [f"{kind}\n{name}\n{action}" for action in actions.split(",") if name and action]


def _covers(granted: frozenset[str], needed: Sequence[str]) -> bool:
    rights = (right for scope in needed for right in _rights(scope))
    return all(right in granted or f"{right.rpartition(chr(10))[0]}\n*" in granted for right in rights)


class Application:
    """The ASGI application: ``Application(Store())`` can be served by any ASGI server.

    Parameters
    ----------
    store : Store
        What to serve.
    login : Login, optional
        Who may do what; without it everybody may do everything.
    referrers, tag_deletion, deletion : bool
        False makes the registry one that lacks the referrers interface, refuses to delete by tag, or
        refuses to delete at all.
    page : int
        The most names in one page of a listing.
    requests : deque, optional
        Where ``(method, path, status)`` of every request answered is added.
    """

    def __init__(
        self,
        store: Store,
        *,
        login: Login | None = None,
        referrers: bool = True,
        tag_deletion: bool = True,
        deletion: bool = True,
        page: int = 1000,
        requests: deque[tuple[str, str, int]] | None = None,
    ) -> None:
        self.store = store
        self.login = login
        self.requests: deque[tuple[str, str, int]] = deque(maxlen=0) if requests is None else requests
        self._referrers = referrers
        self._tag_deletion = tag_deletion
        self._deletion = deletion
        self._page = page
        self._endpoints = self._table()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks for it."""
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        route = parse_route(path)
        body: bytes | None = b""
        if method in {"PUT", "POST", "PATCH"}:
            body = await _read_body(receive, MANIFEST_LIMIT if route.kind == "manifests" else None)
            if body is None:
                return
        reply = self.answer(Call(method, route, scope["query_string"], dict(scope["headers"]), body or b""))
        self.requests.append((method, path, reply.status))
        await send({"type": "http.response.start", "status": reply.status, "headers": _wire_headers(reply)})
        await send({"type": "http.response.body", "body": reply.body})

    def answer(self, call: Call) -> Reply:
        """Return the reply to a request."""
        endpoints = self._endpoints.get(call.route.kind)
        if endpoints is None:
            return Reply(404, {"Content-Type": "text/plain; charset=utf-8"}, _NOT_FOUND)
        try:
            if self.login is not None and call.route.kind != "token":
                self.login.check(call.header(b"authorization"), _scopes(call))
            endpoint = endpoints.get(call.method)
            if endpoint is None:
                raise _not_allowed(", ".join(sorted(endpoints)))
            if call.route.name:
                check_name(call.route.name)
            return endpoint(call)
        except ApiError as error:
            return _error_reply(error)

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
        if self._referrers:
            table["referrers"] = _readable(self._get_referrers)
        if self.login is not None and self.login.kind == "bearer":
            table["token"] = {"GET": self.login.issue, "POST": _no_oauth2}
        return table

    # Listings

    def _catalog(self, call: Call) -> Reply:
        count = self._count(call, min(_CATALOG_PAGE, self._page))
        names, more = self.store.repository_page(call.parameter("last") or "", count)
        return _json_reply({"repositories": names}, _next_link("/v2/_catalog", names, count, more=more))

    def _tags(self, call: Call) -> Reply:
        name = call.route.name
        count = self._count(call, self._page)
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
        return min(int(text[:9]), self._page)

    def _get_referrers(self, call: Call) -> Reply:
        found = self.store.referrers(call.route.name, parse_digest(call.route.reference))
        wanted = call.parameter("artifactType")
        headers = {"Content-Type": OCI_INDEX}
        if wanted is not None:
            found = [descriptor for descriptor in found if descriptor.get("artifactType") == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        return Reply(200, headers, _dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}))

    # Manifests

    def _get_manifest(self, call: Call) -> Reply:
        digest, manifest = self.store.find_manifest(call.route.name, call.route.reference)
        headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
        return Reply(200, headers, manifest.raw)

    def _put_manifest(self, call: Call) -> Reply:
        if len(call.body) > MANIFEST_LIMIT:
            raise ApiError(413, "MANIFEST_INVALID", f"a manifest has at most {MANIFEST_LIMIT} bytes")
        name = call.route.name
        media_type = call.header(b"content-type")
        digest, subject = self.store.push_manifest(name, call.route.reference, media_type, call.body)
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        # Its absence tells the client to keep the list of referrers itself, under a fallback tag.
        if subject is not None and self._referrers:
            headers["OCI-Subject"] = subject
        return Reply(201, headers)

    def _delete_manifest(self, call: Call) -> Reply:
        self._allow_deletion()
        reference = call.route.reference
        if ":" in reference:
            parse_digest(reference)
        elif not self._tag_deletion:
            # What docker-registry 2.8.2 answers, word for word.
            raise ApiError(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.store.delete_manifest(call.route.name, reference)
        return Reply(202)

    def _allow_deletion(self) -> None:
        if not self._deletion:
            raise ApiError(405, "UNSUPPORTED", "The operation is unsupported.")

    # Blobs

    def _get_blob(self, call: Call) -> Reply:
        data = self.store.find_blob(call.route.name, call.route.reference)
        headers = {"Content-Type": _OCTETS, "Docker-Content-Digest": call.route.reference, "Accept-Ranges": "bytes"}
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
        if mount is not None and self.store.mount_blob(name, parse_digest(mount), call.parameter("from")):
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


def _no_oauth2(_: Call) -> Reply:
    # What a token server says that knows GET alone; clients then ask again that way.
    return Reply(404, {"Content-Type": "text/plain; charset=utf-8"}, _NOT_FOUND)


def _scopes(call: Call) -> list[str]:
    if call.route.kind == "catalog":
        return ["registry:catalog:*"]
    if not call.route.name:
        return []
    actions = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(call.method, "pull,push")
    needed = [f"repository:{call.route.name}:{actions}"]
    source = call.parameter("from")
    return [*needed, f"repository:{source}:pull"] if call.route.kind == "uploads" and source else needed


def _chunk_start(call: Call) -> int | None:
    text = call.header(b"content-range")
    if not text:
        return None
    match = _CHUNK.fullmatch(text)
    if match is None:
        raise ApiError(400, "BLOB_UPLOAD_INVALID", "the Content-Range is not START-END", {"range": text[:80]})
    first, last = int(match[1][:18]), int(match[2][:18])
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


def _error_reply(error: ApiError) -> Reply:
    entry: dict[str, object] = {"code": error.code, "message": error.message}
    entries = [{**entry, "detail": detail} for detail in error.details] or [entry]
    return Reply(error.status, {"Content-Type": _JSON, **error.headers}, _dump({"errors": entries}))


def _not_allowed(methods: str) -> ApiError:
    return ApiError(405, "UNSUPPORTED", "The operation is unsupported.", headers={"Allow": methods})


def _wire_headers(reply: Reply) -> list[tuple[bytes, bytes]]:
    headers = [(b"docker-distribution-api-version", b"registry/2.0")]
    headers += [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in reply.headers.items()]
    if reply.status != 204:  # RFC 9110 forbids it there
        headers.append((b"content-length", b"%d" % len(reply.body)))
    return headers


async def _read_body(receive: Receive, limit: int | None) -> bytes | None:
    """Return the body, one byte more than `limit` at most, or None where the client went away."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        # The rest of a body that is too large is read and dropped, so that the connection can go on.
        if limit is None or len(body) <= limit:
            body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
