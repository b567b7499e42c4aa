"""The v1 interface of the sandbox: a small store of its own, and an ASGI application in front of another.

v1 knows neither manifests nor digests, so that the two interfaces cannot share one store; `StoreV1.load`
makes v1 images of what a `Store` holds, always with the same ids. Sessions are strict where real registries
are lax: without the token or cookie that came with the list of images, nothing of a repository is shown.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from regaudit.manifest import IMAGE_CONFIG_TYPES, INDEX_TYPES
from regaudit.sandbox.app import Reply
from regaudit.sandbox.store import Store

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON = "application/json"
_ROUTE = re.compile(
    r"/v1/(?:(?P<ping>_ping)|(?P<search>search)|(?P<users>users/?)"
    r"|repositories/(?P<name>.+?)(?:/(?P<part>images|tags)(?:/(?P<tag>[^/]+))?|/)"
    r"|images/(?P<image>[^/]+)/(?P<piece>json|layer|ancestry|checksum))"
)


class _Refusal(Exception):
    """A request that is answered with an error of the v1 interface."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


@dataclass
class StoredImage:
    """One layer: its image JSON byte for byte, the layer, and whether its push was completed."""

    about: bytes
    layer: bytes | None = None
    complete: bool = True

    @property
    def parent(self) -> str | None:
        """The id of what it is built on."""
        return json.loads(self.about).get("parent") or None

    @property
    def checksum(self) -> str:
        """Docker's checksum of the payload."""
        payload = b"\n".join((self.about, self.layer or b""))
        return f"sha256:{hashlib.sha256(payload).hexdigest()}"


@dataclass
class StoreV1:
    """Images by id, and for each repository its image ids and its tags."""

    images: dict[str, StoredImage] = field(default_factory=dict)
    listed: dict[str, dict[str, None]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def put_image(
        self, repository: str, layer: bytes, *, parent: str | None = None, image_id: str | None = None, **about: Any
    ) -> str:
        """Store an image of one layer and return its id, which is made of parent, layer and `about` unless given.

        Parameters
        ----------
        **about : object
            Fields of the image JSON: ``created``, ``Size`` (the layer's own unless given; None leaves it out).
        """
        fields = {"Size": len(layer), **about} | ({"parent": parent} if parent else {})
        fields = {key: value for key, value in fields.items() if value is not None}
        text = json.dumps(fields, sort_keys=True).encode()
        name = image_id or hashlib.sha256(text + b"\n" + layer).hexdigest()
        self.images[name] = StoredImage(json.dumps({"id": name, **fields}, sort_keys=True).encode(), layer)
        self.listed.setdefault(repository, {})[name] = None
        self.tags.setdefault(repository, {})
        return name

    def set_tag(self, repository: str, tag: str, image_id: str) -> None:
        """Point a tag at an image, whether or not there is one."""
        self.listed.setdefault(repository, {})
        self.tags.setdefault(repository, {})[tag] = image_id

    def ancestry(self, image_id: str) -> list[str]:
        """Return an image and all that it is built on, the topmost first."""
        found: list[str] = []
        current: str | None = image_id
        while current is not None and current in self.images and current not in found:
            found.append(current)
            current = self.images[current].parent
        return found

    def load(self, store: Store) -> None:
        """Make v1 images of all tagged images of a store; of an index, of its first child. The rest has no place in v1."""
        for repository in store.repositories():
            name = repository if "/" in repository else f"library/{repository}"
            self.listed.setdefault(name, {})
            self.tags.setdefault(name, {})
            for tag in store.tags(repository):
                image_id = self._import(store, repository, name, tag)
                if image_id is not None:
                    self.set_tag(name, tag, image_id)

    def _import(self, store: Store, repository: str, name: str, reference: str) -> str | None:
        found = store.manifest(repository, reference)
        if found is None:
            return None
        media_type, raw = found
        document = json.loads(raw)
        if media_type in INDEX_TYPES:
            child = next((entry["digest"] for entry in document["manifests"]), None)
            return None if child is None else self._import(store, repository, name, child)
        about = document.get("config", {})
        layers = [store.blob(repository, entry["digest"]) for entry in document.get("layers", ())]
        if about.get("mediaType") not in IMAGE_CONFIG_TYPES or not layers or None in layers:
            return None
        config = json.loads(store.blob(repository, about["digest"]) or b"{}")
        parent = None
        for position, layer in enumerate(layers, start=1):
            top = config if position == len(layers) else {}
            fields = {key: top[key] for key in ("created", "os", "architecture", "author") if top.get(key)}
            parent = self.put_image(name, layer or b"", parent=parent, **fields)
        return parent


@dataclass(frozen=True)
class OptionsV1:
    """How the v1 interface of a sandbox behaves.

    Attributes
    ----------
    only : bool
        Whether ``/v2/`` is a 404, as on a registry of before 2015.
    session : str
        What a grant is: ``token``, ``cookie``, or ``none`` where none is needed.
    endpoints : tuple of str
        What ``X-Docker-Endpoints`` names; empty leaves the header out.
    searchable : bool
        Whether there is a search.
    page : int
        The most results of a page.
    sized, summed : bool
        Whether ``X-Docker-Size`` and ``X-Docker-Payload-Checksum`` are sent.
    """

    only: bool = False
    session: str = "token"
    endpoints: tuple[str, ...] = ()
    searchable: bool = True
    page: int = 100
    sized: bool = True
    summed: bool = True


@dataclass
class _Call:
    method: str
    query: dict[str, list[str]]
    headers: dict[bytes, bytes]
    body: bytes

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")


class ApplicationV1:
    """Answers ``/v1/``, and leaves the rest to another application.

    Parameters
    ----------
    store : StoreV1
    behind : callable
        The ASGI application of the v2 interface.
    users : dict, optional
        Password by user name; without it everybody may do everything.
    requests : deque, optional
        Where ``(method, path, status)`` of every request answered is added.
    """

    def __init__(
        self,
        store: StoreV1,
        behind: Callable[[Message, Receive, Send], Any],
        *,
        options: OptionsV1 | None = None,
        users: Mapping[str, str] | None = None,
        requests: deque[tuple[str, str, int]] | None = None,
    ) -> None:
        self.store = store
        self._behind = behind
        self._options = options or OptionsV1()
        self._users = dict(users or {})
        self._requests: deque[tuple[str, str, int]] = deque(maxlen=0) if requests is None else requests
        self._grants: dict[str, tuple[str, bool]] = {}
        self._lock = threading.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks for it."""
        path = scope.get("path", "")
        hidden = self._options.only and path.startswith("/v2")
        if scope["type"] != "http" or not (path.startswith("/v1/") or hidden):
            await self._behind(scope, receive, send)
            return
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        call = _Call(scope["method"], query, dict(scope["headers"]), await _read(receive))
        reply = _not_there() if hidden else self.answer(path, call)
        self._requests.append((call.method, path, reply.status))
        headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in reply.headers.items()]
        headers += [(b"x-docker-registry-version", b"0.9.1")] if not hidden else []
        headers += [(b"content-length", b"%d" % len(reply.body))] if reply.status != 204 else []
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def answer(self, path: str, call: _Call) -> Reply:
        """Return the reply to a request."""
        match = _ROUTE.fullmatch(path)
        if match is None:
            return _not_there()
        try:
            with self._lock:
                return self._answer(match.groupdict(), call)
        except _Refusal as refusal:
            return _json({"error": refusal.message}, refusal.status, refusal.headers)

    def revoke(self) -> None:
        """Make every token and cookie invalid, as after their expiry."""
        self._grants.clear()

    def _answer(self, route: dict[str, str | None], call: _Call) -> Reply:
        if route["ping"]:
            return _json(True)
        if route["search"]:
            return self._search(call)
        if route["users"]:
            self._log_in(call)
            return _json("OK")
        if route["image"]:
            return self._image(route["image"], route["piece"] or "", call)
        name = route["name"] or ""
        return self._repository(name if "/" in name else f"library/{name}", route["part"], route["tag"], call)

    # Who may do what

    def _log_in(self, call: _Call) -> None:
        if self._users and not self._knows(call.header(b"authorization")):
            raise _Refusal(401, "Requires authorization", {"WWW-Authenticate": 'Basic realm="regaudit-sandbox"'})

    def _knows(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return False
        known = self._users.get(name, "")
        return scheme.lower() == "basic" and bool(known) and hmac.compare_digest(known.encode(), password.encode())

    def _grant(self, repository: str, *, writes: bool) -> dict[str, str]:
        key = secrets.token_hex(16)
        self._grants[key] = (repository, writes)
        headers = {"X-Docker-Endpoints": ", ".join(self._options.endpoints)} if self._options.endpoints else {}
        if self._options.session == "cookie":
            return {**headers, "Set-Cookie": f"session={key}; Path=/; HttpOnly"}
        access = "write" if writes else "read"
        return {**headers, "X-Docker-Token": f'signature={key},repository="{repository}",access={access}'}

    def _granted(self, call: _Call, *, writes: bool) -> str:
        """Return the repository that a request has a grant for, empty where none is needed."""
        if self._options.session == "none":
            return ""
        shown = call.header(b"cookie" if self._options.session == "cookie" else b"authorization")
        key = re.search(r"(?:signature|session)=([0-9a-f]{32})", shown)
        repository, may_write = self._grants.get(key[1] if key else "", ("", False))
        if not repository or (writes and self._users and not may_write):
            raise _Refusal(401, "Requires authorization", {"WWW-Authenticate": "Token"})
        return repository

    # The index

    def _search(self, call: _Call) -> Reply:
        if not self._options.searchable:
            return _not_there()
        self._log_in(call)
        term = call.query.get("q", [""])[0]
        count = min(int(call.query.get("n", ["25"])[0]), self._options.page)
        page = int(call.query.get("page", ["1"])[0])
        names = sorted(name for name in self.store.listed if term in name)
        shown = names[(page - 1) * count : page * count]
        document = {"query": term, "num_results": len(names), "num_pages": max(1, -(-len(names) // count))}
        results = [{"name": name, "description": ""} for name in shown]
        return _json({**document, "page": page, "page_size": count, "results": results})

    def _repository(self, name: str, part: str | None, tag: str | None, call: _Call) -> Reply:
        if part == "tags":
            self._check_grant(name, call)
            return self._tag(name, tag, call) if tag else self._tags(name, call)
        if call.method == "DELETE":
            self._check_grant(name, call)
            self.store.listed.pop(name, None)
            self.store.tags.pop(name, None)
            return _json("")
        self._log_in(call)
        if call.method == "PUT":
            self.store.listed.setdefault(name, {}).update(dict.fromkeys(e["id"] for e in json.loads(call.body)))
            self.store.tags.setdefault(name, {})
            return _json("", 200, self._grant(name, writes=True))
        if name not in self.store.listed:
            raise _Refusal(404, "images not found")
        return _json([{"id": i} for i in self.store.listed[name]], 200, self._grant(name, writes=False))

    def _check_grant(self, name: str, call: _Call) -> None:
        if self._granted(call, writes=call.method != "GET") not in {"", name}:
            raise _Refusal(401, "Requires authorization", {"WWW-Authenticate": "Token"})
        if name not in self.store.tags:
            raise _Refusal(404, "Repository not found")

    # The registry

    def _tags(self, name: str, call: _Call) -> Reply:
        if call.method != "GET":
            raise _Refusal(405, "Method not allowed")
        return _json(self.store.tags[name])

    def _tag(self, name: str, tag: str, call: _Call) -> Reply:
        tags = self.store.tags[name]
        if call.method == "PUT":
            image_id = json.loads(call.body)
            if image_id not in self.store.images:
                raise _Refusal(404, "Image not found")
            tags[tag] = image_id
            return _json("")
        if tag not in tags:
            raise _Refusal(404, "Tag not found")
        if call.method == "DELETE":
            del tags[tag]
            return _json(True)
        return _json(tags[tag])

    def _image(self, image_id: str, piece: str, call: _Call) -> Reply:
        repository = self._granted(call, writes=call.method != "GET")
        if call.method == "PUT":
            return self._put(image_id, piece, call)
        image = self.store.images.get(image_id)
        own = not repository or image_id in self.store.listed.get(repository, {})
        if image is None or not own or not image.complete:
            raise _Refusal(404, "Image not found")
        if piece == "ancestry":
            return _json(self.store.ancestry(image_id))
        if piece == "layer":
            return Reply(200, {"Content-Type": "application/octet-stream"}, image.layer or b"")
        headers = {"Content-Type": _JSON}
        headers |= {"X-Docker-Size": str(len(image.layer or b""))} if self._options.sized else {}
        headers |= {"X-Docker-Payload-Checksum": image.checksum} if self._options.summed else {}
        return Reply(200, headers, image.about)

    def _put(self, image_id: str, piece: str, call: _Call) -> Reply:
        image = self.store.images.get(image_id)
        if piece == "json":
            self._put_json(image_id, image, call.body)
        elif image is None:
            raise _Refusal(404, "Image not found")
        elif image.complete:
            raise _Refusal(409, "Image already exists")
        elif piece == "layer":
            image.layer = call.body
        elif call.header(b"x-docker-checksum-payload") == image.checksum:
            image.complete = True
        else:
            raise _Refusal(400, "Checksum mismatch")
        return _json("")

    def _put_json(self, image_id: str, image: StoredImage | None, about: bytes) -> None:
        document = json.loads(about)
        if document.get("id") != image_id:
            raise _Refusal(400, "JSON data contains invalid id")
        if document.get("parent") and document["parent"] not in self.store.images:
            raise _Refusal(400, "Image depends on a non existing parent")
        if image is not None and image.complete:
            raise _Refusal(409, "Image already exists")
        self.store.images[image_id] = StoredImage(about, complete=False)


def _json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, {"Content-Type": _JSON, **(headers or {})}, json.dumps(document).encode())


def _not_there() -> Reply:
    # what these servers say of a path that they do not know
    page = b"<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>"
    return Reply(404, {"Content-Type": "text/html"}, page)


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message: Message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def options_v1(given: bool | str | OptionsV1) -> OptionsV1 | None:  # noqa: FBT001 -- as `Sandbox` is given it
    """Return the options that ``Sandbox(v1=…)`` means: True, ``"only"`` or options of one's own."""
    if isinstance(given, OptionsV1):
        return given
    if not given:
        return None
    return OptionsV1(only=given == "only")


__all__: Sequence[str] = ["ApplicationV1", "OptionsV1", "StoreV1", "StoredImage"]
