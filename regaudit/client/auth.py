"""Proving who asks: challenges, scopes and tokens.

The flow is that of the distribution project ("Token Authentication Specification") with what
registries in the field need beside it. Credentials go to the registry itself and to a token
server that is trusted, and to nobody else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from regaudit.client.exchange import (
    TOKEN_CAP,
    Conversation,
    Once,
    Request,
    Response,
    Session,
    Token,
    error_of,
    follow,
    is_private,
    origin,
    resolve,
    send,
)
from regaudit.errors import AccessDenied, AuthenticationFailed, BadManifest, BadResponse, RegistryError
from regaudit.manifest import load_json
from regaudit.reference import RegistryName
from regaudit.text import clean, safe_url

logger = logging.getLogger("regaudit.client")

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
# How long a refusal by a token server is believed, so that an audit does not lock an account out.
_REFUSAL_STANDS = 60.0
_TOKEN_TEXT = re.compile(r"[\x21-\x7e]+")
# White space is bounded: a pattern that may begin and end with any amount of it takes quadratic time.
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s{0,8}=\s{0,8}(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))', re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)(?=\s|$|,)")
_LONGEST_CHALLENGE = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """One demand in a WWW-Authenticate header: a scheme in lower case and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Return the challenges in all WWW-Authenticate headers of a response, in order.

    Several may share one header, and commas may stand inside quotes (RFC 9110, section 11.6.1).
    What cannot be parsed is passed over.

    Examples
    --------
    >>> [c.scheme for c in parse_challenges(['Basic realm="a, b", Bearer realm="https://t/x",service="s"'])]
    ['basic', 'bearer']
    """
    return [challenge for value in values for challenge in _challenges(value[:_LONGEST_CHALLENGE])]


def _challenges(value: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        if parameter and found:
            quoted = parameter[2]
            found[-1][1].setdefault(
                parameter[1].lower(),
                parameter[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL),
            )
            position = parameter.end()
        elif scheme := _SCHEME.match(value, position):
            found.append((scheme[1].lower(), {}))
            position = scheme.end()
        else:
            position += 1
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def repository_scope(repository: str, actions: str) -> str:
    """Return the scope of some actions on a repository: ``repository:NAME:pull``."""
    return f"repository:{repository}:{actions}"


def delete_scopes(repository: str) -> tuple[str, ...]:
    """Return the scopes to try for a deletion, narrowest first: some token servers know only ``*``."""
    return tuple(repository_scope(repository, actions) for actions in ("pull,delete", "pull,push,delete", "*"))


def ask(session: Session, request: Request, scopes: Sequence[str]) -> Conversation[Response]:
    """Send a request with what the registry wants to see of us, and return its response.

    Parameters
    ----------
    scopes : sequence of str
        The rights needed, narrowest first; the next is tried where one does not suffice.

    Returns
    -------
    Response
        A 401 or 403 among others: what it means, only the caller knows.

    Raises
    ------
    AuthenticationFailed, AccessDenied
        The token server says no.
    """
    *narrower, last = scopes or ("",)
    named = True  # a scope that the registry itself names is tried once, before the others
    for scope in narrower:
        try:
            response = yield from _attempt(session, request, scope, named=named)
        except AccessDenied:
            if session.bearer is None:
                raise
        else:
            if session.bearer is None or response.status not in {401, 403}:
                return response
        named = False
    return (yield from _attempt(session, request, last, named=named))


def refusal(session: Session, response: Response, what: str) -> RegistryError:
    """Return the error for a response that is a no, knowing what we had shown."""
    if session.credentials is None:
        return error_of(response, what)
    if session.credentials.registry_token or session.basic:
        return error_of(response, what, shown="credentials")
    trusted = session.bearer is not None and _trusted(session, session.bearer[0])
    return error_of(response, what, shown="rights" if trusted else "nothing")


def _attempt(session: Session, request: Request, scope: str, *, named: bool) -> Conversation[Response]:
    # After a failure the registry is asked first: its answer tells how long ago that was.
    fresh = _live(session, scope) is None and not _failures(session, scope)
    if session.bearer is not None and fresh:
        yield Once(("token", scope), _fetch(session, *session.bearer, scope, rejected=None))
    shown = _header(session, scope)
    response: Response = yield from follow(session, request.with_header("Authorization", shown))
    if response.status != 401 or not session.ours(response.url):
        return response
    fresh = fresh and shown is not None
    try:
        more = yield from _answer(session, response, scope, shown, named=named, fresh=fresh)
    except AccessDenied as error:
        if session.credentials is not None or error.status is None:
            raise
        more = False  # nobody without a login gets a token: the registry's own answer says what it wants
    if not more:
        return response
    again = _header(session, scope)
    if again == shown:
        return response
    response = yield from follow(session, request.with_header("Authorization", again))
    if response.status == 401 and session.ours(response.url):
        session.spurned[scope] = session.now
    return response


def _answer(
    session: Session, response: Response, scope: str, shown: str | None, *, named: bool, fresh: bool
) -> Conversation[bool]:
    """Prepare what a 401 asks for; return whether there is something new to show."""
    challenges = parse_challenges(response.headers.all("www-authenticate"))
    bearer = next((c for c in challenges if c.scheme == "bearer" and c.parameters.get("realm")), None)
    if bearer is not None:
        realm, service = bearer.parameters["realm"], bearer.parameters.get("service", "")
        if resolve(realm, "") is None:
            raise _unsafe(session, realm)
        if session.bearer is not None and origin(session.bearer[0]) != origin(realm):
            raise BadResponse(
                f"{session.host} first named the token server {safe_url(session.bearer[0])} and now {safe_url(realm)}: "
                "stopped, because one of them is not to be trusted"
            )
        if session.credentials is not None and session.credentials.registry_token:
            return False
        wanted = (named and bearer.parameters.get("scope")) or scope
        if fresh and wanted == scope:
            session.spurned[scope] = session.now  # the token was issued for this very request
        if scope in session.spurned and session.now < session.spurned[scope] + _REFUSAL_STANDS:
            return False
        _note_realm(session, realm, service, response.peer)
        rejected = shown.removeprefix("Bearer ") if shown else None
        yield Once(("token", scope), _fetch(session, realm, service, scope, rejected=rejected, wanted=wanted))
        return True
    if any(c.scheme == "basic" for c in challenges) and session.credentials is not None and not session.basic:
        _check_private(session, session.base)
        session.basic = True
        return True
    return False


def _check_private(session: Session, url: str) -> None:
    """Raise where a secret of the user's would go over plain http to another machine."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not RegistryName(parts.netloc.lower()).loopback:
        raise AccessDenied(
            f"{session.host}: a password or token is not sent over plain http, where anybody can read it: use https",
            url=session.base,
        )


def _header(session: Session, scope: str) -> str | None:
    credentials = session.credentials
    if credentials is not None and credentials.registry_token:
        _check_private(session, session.base)
        return f"Bearer {credentials.registry_token}"
    if session.basic and credentials is not None:
        return credentials.basic()
    token = _live(session, scope)
    return None if token is None else f"Bearer {token.value}"


def _live(session: Session, scope: str) -> Token | None:
    token = session.tokens.get(scope)
    return token if token is not None and session.now < token.renew_at else None


def _fetch(
    session: Session,
    realm: str,
    service: str,
    scope: str,
    *,
    rejected: str | None,
    wanted: str = "",
) -> Conversation[None]:
    """Put a token for a scope into the session, unless somebody else did so meanwhile."""
    current = _live(session, scope)
    if current is not None and current.value != rejected:
        return
    for at, error in _failures(session, scope):
        if session.now < at + _REFUSAL_STANDS:
            raise error.with_traceback(None)
    try:
        session.tokens[scope] = yield from _request_token(session, realm, service, wanted or scope)
    except RegistryError as error:
        # Wrong credentials are wrong for every scope: asking for each in turn would lock the account out.
        session.failures["" if isinstance(error, AuthenticationFailed) else scope] = (session.now, error)
        raise
    session.failures.pop(scope, None)


def _failures(session: Session, scope: str) -> list[tuple[float, RegistryError]]:
    """Return what a token server said no to lately: this scope, or the credentials."""
    noted = [(key, session.failures[key]) for key in dict.fromkeys((scope, "")) if key in session.failures]
    return [failure for key, failure in noted if key == scope or isinstance(failure[1], AuthenticationFailed)]


def _request_token(session: Session, realm: str, service: str, scope: str) -> Conversation[Token]:
    _check_realm(session, realm)
    credentials = session.credentials if _trusted(session, realm) else None
    if credentials is not None:
        _check_private(session, realm)
    public_only = not session.ours(realm) and not is_private(session.peer)
    query = [("service", service)] if service else []
    query += [("scope", scope)] if scope else []
    if credentials is not None and credentials.identity_token:
        response = yield from _exchange_identity(session, realm, service, scope, public_only=public_only)
        if response.status not in {404, 405}:
            return _token(session, response, scope, used=True)
    url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(query, quote_via=quote)
    headers = {"Accept": "application/json"}
    if credentials is not None and credentials.username:
        headers["Authorization"] = credentials.basic()
    response = yield from send(
        session,
        Request("GET", url, "token", headers, cap=TOKEN_CAP, deadline=session.deadline, public_only=public_only),
    )
    return _token(session, response, scope, used="Authorization" in headers)


def _exchange_identity(
    session: Session, realm: str, service: str, scope: str, *, public_only: bool
) -> Conversation[Response]:
    """Ask for a token with an identity token, as OAuth2 does (distribution, "OAuth2 Token Authentication")."""
    assert session.credentials is not None  # noqa: S101 -- the caller has looked
    form = {
        "grant_type": "refresh_token",
        "refresh_token": session.credentials.identity_token or "",
        "client_id": "regaudit",
        "service": service,
        "scope": scope,
    }
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    body = urlencode(form).encode("ascii")
    request = Request(
        "POST", realm, "token", headers, body=body, cap=TOKEN_CAP, deadline=session.deadline, public_only=public_only
    )
    return (yield from send(session, request))


def _token(session: Session, response: Response, scope: str, *, used: bool) -> Token:
    where = f"logging in to {session.host}"
    # 403 with a scope refuses the scope (GitLab); without one it can only mean the user (GHCR).
    wrong = response.status in {400, 401} or (response.status == 403 and not scope)
    if wrong and used and session.credentials is not None:
        raise AuthenticationFailed(
            f"{where}: the user name or password was not accepted ({session.credentials.source}): check them",
            url=safe_url(response.url),
            status=response.status,
        )
    if response.status != 200:
        raise error_of(response, where, shown="rights" if used else "nothing")
    try:
        reply = load_json(response.body)
        value = reply.get("access_token") or reply.get("token")
    except (BadManifest, AttributeError):
        value = None
    if not isinstance(value, str) or _TOKEN_TEXT.fullmatch(value) is None:
        raise BadResponse(
            f"{where}: the token server {safe_url(response.url)} sent no usable token", url=safe_url(response.url)
        )
    return Token(value, response.at + _life(reply.get("expires_in")) - _RENEW_EARLY)


def _life(seconds: Any) -> float:
    number = seconds if isinstance(seconds, int | float) and not isinstance(seconds, bool) else _SHORTEST_LIFE
    return min(max(_SHORTEST_LIFE, float(number)), _LONGEST_LIFE)


def _note_realm(session: Session, realm: str, service: str, peer: str | None) -> None:
    """Remember the token server that the registry names, and say once where it will not see the credentials."""
    if session.bearer is None and session.credentials is not None and not _trusted(session, realm):
        host = clean(urlsplit(realm).hostname, 120)
        logger.warning(
            "%s sends us to log in at %s, which is not known to belong to it: asking without credentials; "
            "if you trust it, give trusted_realms=[%r]",
            clean(session.host, 120),
            host,
            host,
        )
    session.bearer, session.peer = (realm, service), peer


def _check_realm(session: Session, realm: str) -> None:
    """Raise where a token server must not even be asked."""
    encrypted = urlsplit(realm).scheme == "https"
    if resolve(realm, "") is None or not (encrypted or session.base.startswith("http://")):
        raise _unsafe(session, realm)


def _unsafe(session: Session, realm: str) -> AccessDenied:
    return AccessDenied(
        f"{session.host} sends us to log in at {safe_url(realm)}, which is not safe: nothing was sent there",
        url=session.base,
    )


def _trusted(session: Session, realm: str) -> bool:
    """Return whether a token server may see credentials: the registry's own host, a known one, or a listed one."""
    parts = urlsplit(realm)
    host, own = (parts.hostname or "").lower(), (urlsplit(session.base).hostname or "").lower()
    listed = {name.lower() for name in session.trusted_realms}
    known = host in _REALM_HOSTS.get(session.host, ())
    return host == own or known or host in listed or parts.netloc.lower() in listed
