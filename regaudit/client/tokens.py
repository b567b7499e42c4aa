"""The conversation with a token server, and whether it may see the user's credentials at all.

The flow is that of the distribution project ("Token Authentication Specification", "OAuth2 Token
Authentication"). A token server is trusted with credentials where it belongs to the registry as far
as anybody can know, and asked anonymously otherwise.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from regaudit.client.credentials import Credentials
from regaudit.client.exchange import (
    TOKEN_CAP,
    Conversation,
    Request,
    Response,
    Session,
    Token,
    TokenServer,
    error_of,
    is_private,
    resolve,
    send,
)
from regaudit.errors import AccessDenied, AuthenticationFailed, BadManifest, BadResponse
from regaudit.manifest import load_json
from regaudit.reference import RegistryName
from regaudit.text import clean, conceal, safe_url

# Token servers that live on another host than their registry, by registry host. Sources: each
# vendor's own challenge.
_REALM_HOSTS: Mapping[str, tuple[str, ...]] = {
    "docker.io": ("auth.docker.io",),
    "registry.gitlab.com": ("gitlab.com",),
    "registry.access.redhat.com": ("sso.redhat.com",),
    "registry.redhat.io": ("sso.redhat.com",),
    "icr.io": ("iam.cloud.ibm.com",),
    "registry.digitalocean.com": ("api.digitalocean.com",),
}

# "If the token does not specify an expiration, it is valid for 60 seconds" (token specification);
# the upper bound keeps a nonsense value from meaning for ever.
_SHORTEST_LIFE, _LONGEST_LIFE = 60.0, 86400.0
_RENEW_EARLY = 5.0
_TOKEN_TEXT = re.compile(r"[\x21-\x7e]+")
# What a token server without OAuth2 answers to a POST.
_NO_OAUTH2 = frozenset({404, 405})


def request_token(session: Session, server: TokenServer, scope: str) -> Conversation[Token]:
    """Ask a token server for a token, with the user's credentials where it may see them.

    Parameters
    ----------
    scope : str
        One or more scopes with blanks between them, or nothing.

    Raises
    ------
    AuthenticationFailed
        It does not accept the credentials.
    AccessDenied
        It does not give anybody, or this user, a token for the scope; or it is no place to ask.
    BadResponse
        Its answer is no usable token.
    """
    _check_realm(session, server.realm)
    credentials = session.credentials if is_trusted(session, server.realm) else None
    if credentials is None:
        return (yield from _by_get(session, server, scope, None))
    check_private(session, server.realm)
    if credentials.identity_token and session.capabilities.get("oauth2", True):
        response = yield from send(session, _oauth2_request(session, server, scope, credentials.identity_token))
        if response.status not in _NO_OAUTH2:
            return _token(session, response, scope, credentials)
        session.capabilities["oauth2"] = False
    if credentials.username is None or credentials.password is None:
        raise _no_use_for_identity_token(session, server, credentials)
    return (yield from _by_get(session, server, scope, credentials))


def is_trusted(session: Session, realm: str) -> bool:
    """Return whether a token server may see credentials: the registry's own host, a known one, or a listed one."""
    parts = urlsplit(realm)
    host, own = (parts.hostname or "").lower(), (urlsplit(session.base).hostname or "").lower()
    listed = {name.lower() for name in session.trusted_realms}
    known = host in _REALM_HOSTS.get(session.host, ())
    return host == own or known or host in listed or parts.netloc.lower() in listed


def travels_safely(url: str) -> bool:
    """Return whether a secret may go to a URL: encrypted, or within this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or RegistryName(parts.netloc.lower()).loopback


def check_private(session: Session, url: str) -> None:
    """Raise where a secret of the user's would go over plain http to another machine."""
    if not travels_safely(url):
        raise AccessDenied(
            f"{session.host}: a password or token is not sent over plain http, where anybody can read it: use https",
            url=session.base,
        )


def unsafe_realm(session: Session, realm: str) -> AccessDenied:
    """Return the error for a token server that must not even be asked."""
    return AccessDenied(
        f"{session.host} sends us to log in at {safe_url(realm)}, which is not safe: nothing was sent there",
        url=session.base,
    )


# -- asking ----------------------------------------------------------------------------------


def _by_get(session: Session, server: TokenServer, scope: str, credentials: Credentials | None) -> Conversation[Token]:
    # One parameter for each scope, as docker sends them: not every server splits a list.
    query = [("service", server.service)] if server.service else []
    query += [("scope", part) for part in scope.split()]
    url = server.realm + ("&" if urlsplit(server.realm).query else "?") + urlencode(query, quote_via=quote)
    headers = {"Accept": "application/json"}
    if credentials is not None:
        headers["Authorization"] = credentials.basic()
    request = _token_request(session, server, "GET", url, headers)
    response = yield from send(session, request)
    return _token(session, response, scope, credentials)


def _oauth2_request(session: Session, server: TokenServer, scope: str, identity_token: str) -> Request:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": identity_token,
        "client_id": "regaudit",
        "service": server.service,
        "scope": scope,
    }
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    return _token_request(session, server, "POST", server.realm, headers, urlencode(form).encode("ascii"))


def _token_request(
    session: Session, server: TokenServer, method: str, url: str, headers: dict[str, str], body: bytes | None = None
) -> Request:
    # A public registry has no business sending us to a machine of our own network.
    public_only = not session.ours(server.realm) and not is_private(server.peer)
    return Request(
        method, url, "token", headers, body=body, cap=TOKEN_CAP, deadline=session.deadline, public_only=public_only
    )


def _check_realm(session: Session, realm: str) -> None:
    encrypted = urlsplit(realm).scheme == "https"
    if resolve(realm, "") is None or not (encrypted or session.base.startswith("http://")):
        raise unsafe_realm(session, realm)


# -- the answer ------------------------------------------------------------------------------


def _token(session: Session, response: Response, scope: str, credentials: Credentials | None) -> Token:
    what = f"logging in to {session.host}"
    # 403 with a scope refuses the scope (GitLab); without one it can only mean the user (GHCR).
    wrong = response.status in {400, 401} or (response.status == 403 and not scope)
    if wrong and credentials is not None:
        raise credentials.not_accepted(what, url=safe_url(response.url), status=response.status)
    if response.status != 200:
        raise error_of(response, what, shown="rights" if credentials is not None else "nothing")
    try:
        reply = load_json(response.body)
        value = reply.get("access_token") or reply.get("token")
    except (BadManifest, AttributeError):
        value = None
    if not isinstance(value, str) or _TOKEN_TEXT.fullmatch(value) is None:
        url = safe_url(response.url)
        raise BadResponse(f"{what}: the token server {url} sent no usable token", url=url)
    conceal(value)
    renew_at = response.at + _life(reply.get("expires_in")) - _RENEW_EARLY
    return Token(value, renew_at, scope, granted_scopes(value, reply.get("scope")))


def _life(seconds: Any) -> float:
    number = seconds if isinstance(seconds, int | float) and not isinstance(seconds, bool) else _SHORTEST_LIFE
    return min(max(_SHORTEST_LIFE, float(number)), _LONGEST_LIFE)


def granted_scopes(token: str, said: Any = None) -> tuple[str, ...] | None:
    """Return what a token gives a right to, by its own claims or else by the reply that brought it.

    Nothing is verified: that is the registry's business. None where neither tells, as with a token
    that is not a JWT.

    Parameters
    ----------
    said : object
        The ``scope`` of the token server's reply (RFC 6749, section 5.1).
    """
    claims = _claims(token)
    if claims is not None and "access" in claims:
        return tuple(scope for entry in claims["access"] or () if (scope := _scope_of(entry)) is not None)
    if isinstance(said, str) and said:
        return tuple(clean(scope, 300) for scope in said.split())
    return None


def _claims(token: str) -> dict[str, Any] | None:
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = load_json(payload)
    except (BadManifest, binascii.Error, ValueError):
        return None
    usable = isinstance(claims, dict) and isinstance(claims.get("access"), list | None)
    return claims if usable else None


def _scope_of(entry: Any) -> str | None:
    """Return one entry of a token's access list as a scope, None where it gives no right."""
    if not isinstance(entry, dict) or not isinstance(entry.get("actions"), list) or not entry["actions"]:
        return None
    return clean(f"{entry.get('type')}:{entry.get('name')}:{','.join(map(str, entry['actions']))}", 300)


def _no_use_for_identity_token(session: Session, server: TokenServer, credentials: Credentials) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"logging in to {session.host}: its token server {safe_url(server.realm)} takes no identity token "
        f"({credentials.source}): give username= and password=, -u USER --password-stdin on the command line",
        url=safe_url(server.realm),
    )
