"""A token server for tests: signs JWTs that a real docker-registry verifies.

Used so::

    with TokenServer(tmp_path) as tokens, DockerRegistry(tmp_path / "registry", tokens=tokens) as server:
        Registry(server.host, username="alice", password="secret").login()
        [asked.scopes for asked in tokens.asked]
        # [()]
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import parse_qs, urlsplit

import jwt
from certificates import Authority
from cryptography.hazmat.primitives import serialization

# docker-registry accepts a token for so many seconds after its end, for clocks that differ.
LEEWAY = 60.0
SERVICE, ISSUER = "tests-registry", "tests-issuer"
REFRESH_TOKEN = "refresh-5b1e"

# From user, name of the resource, and actions asked for to the actions granted.
Policy: TypeAlias = Callable[["str | None", str, Sequence[str]], Sequence[str]]


def everything(user: str | None, name: str, actions: Sequence[str]) -> Sequence[str]:
    """Grant a user what is asked for, and nobody nothing."""
    return actions if user else ()


def only(*allowed: str) -> Policy:
    """Grant of what is asked for some actions alone."""
    return lambda user, name, actions: [action for action in actions if action in allowed]


def deletion_by_star(user: str | None, name: str, actions: Sequence[str]) -> Sequence[str]:
    """Grant deletion only to who asks for everything, as some token servers do."""
    return ["*"] if "*" in actions else [action for action in actions if action != "delete"]


@dataclass(frozen=True)
class Asked:
    """A request for a token."""

    method: str
    scopes: tuple[str, ...]
    user: str | None
    authorization: str | None
    status: int


class TokenServer:
    """A token server on this machine, from its making to its `close`.

    Parameters
    ----------
    folder : Path
        Where the certificate that the registry trusts goes.
    host : str
        What the realm calls this machine: ``127.0.0.1`` or ``localhost``.
    tls : ssl.SSLContext, optional
        Speak TLS.
    names_key : bool
        Whether a token names its key, instead of bringing the certificate.

    Attributes
    ----------
    users : dict
        Password by user name. Nobody gets a token without a right in it.
    policy : Policy
        What is granted.
    life : float
        Seconds for which the registry accepts a token.
    oauth2 : bool
        Whether a POST is known; 404 otherwise.
    says_expiry : bool
        Whether a reply says ``expires_in``.
    asked : list of Asked
        Every request, in order.
    issued : list of str
        Every token, in order.
    """

    def __init__(
        self, folder: Path, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, names_key: bool = False
    ) -> None:
        self.users = {"alice": "secret"}
        self.policy: Policy = everything
        self.life, self.oauth2, self.says_expiry = 300.0, True, True
        self.asked: list[Asked] = []
        self.issued: list[str] = []
        self._signer = Authority(folder, "token-authority").issue("token-signer")
        self._names_key = names_key
        # The signer's own certificate is in the bundle: it is looked up by its key, and stands at the end of a chain.
        self.bundle = self._signer.certificate
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.tokens = self
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        port = self._server.server_address[1]
        self.realm = f"{'http' if tls is None else 'https'}://{host}:{port}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def answer(self, method: str, query: str, body: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        """Return status and body for a request."""
        fields = parse_qs(query if method == "GET" else body)
        scopes = tuple(part for text in fields.get("scope", []) for part in text.split())
        user, status = self._who(method, fields, authorization)
        self.asked.append(Asked(method, scopes, user, authorization, status))
        if status != 200:
            return status, {"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}
        token = self._token(user, scopes)
        self.issued.append(token)
        # An OAuth2 reply has access_token, the older one token.
        reply: dict[str, Any] = {"access_token" if method == "POST" else "token": token}
        return 200, reply | ({"expires_in": int(self.life)} if self.says_expiry else {})

    def _who(self, method: str, fields: dict[str, list[str]], authorization: str | None) -> tuple[str | None, int]:
        if fields.get("service") != [SERVICE]:
            return None, 400
        if method == "POST":
            if not self.oauth2:
                return None, 404
            right = fields.get("refresh_token") == [REFRESH_TOKEN] and fields.get("grant_type") == ["refresh_token"]
            return ("alice", 200) if right else (None, 401)
        if authorization is None:
            return None, 200
        user, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        return (user, 200) if self.users.get(user) == password else (None, 401)

    def _token(self, user: str | None, scopes: Sequence[str]) -> str:
        now = time.time()
        claims = {
            "iss": ISSUER,
            "sub": user or "",
            "aud": SERVICE,
            "iat": int(now),
            "nbf": int(now - 600),
            "exp": int(now + self.life - LEEWAY),
            "jti": secrets.token_hex(8),
            "access": [entry for scope in scopes if (entry := self._access(user, scope))["actions"]],
        }
        return jwt.encode(claims, self._signer.private_key, "ES256", headers=self._header())

    def _access(self, user: str | None, scope: str) -> dict[str, Any]:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        return {"type": kind, "name": name, "actions": list(self.policy(user, name, actions.split(",")))}

    def _header(self) -> dict[str, Any]:
        if self._names_key:
            return {"kid": _libtrust_key_id(self._signer.private_key.public_key())}
        return {"x5c": [base64.b64encode(self._signer.der).decode()]}


def _libtrust_key_id(public_key: Any) -> str:
    """Return the name that docker's libtrust gives a key: 240 bits of its hash, in groups of four letters."""
    der = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    letters = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(letters[at : at + 4] for at in range(0, len(letters), 4))


class _Server(http.server.ThreadingHTTPServer):
    tokens: TokenServer
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that go away, as some are meant to."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer("")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def log_message(self, *_: Any) -> None:
        """Write no log."""

    def _answer(self, body: str) -> None:
        query = urlsplit(self.path).query
        status, reply = self.server.tokens.answer(self.command, query, body, self.headers.get("Authorization"))
        raw = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
