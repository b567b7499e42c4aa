"""Proving who asks: what a registry is shown with each request, and what a 401 leads to.

A request is sent with what is known to serve it. A no is answered with something better, as long as
there is something better: Basic, a token instead of an expired one, a token of a wider scope. Nothing is
asked twice within a minute: an audit of a thousand repositories must not lock an account out.
Credentials go to the registry itself and to a token server that is trusted, and to nobody else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from regaudit.client.challenges import Challenge, parse_challenges
from regaudit.client.exchange import (
    Conversation,
    Once,
    Refusal,
    Request,
    Response,
    Session,
    Token,
    TokenServer,
    error_of,
    follow,
    origin,
    resolve,
)
from regaudit.client.tokens import check_private, is_trusted, request_token, unsafe_realm
from regaudit.errors import AccessDenied, AuthenticationFailed, BadResponse, RegistryError
from regaudit.text import clean, safe_url

logger = logging.getLogger("regaudit.client")

# What an endpoint is about (distribution spec, "Endpoints").
_REPOSITORY = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/")
# How long a no is believed.
_REFUSAL_STANDS = 60.0
_NOES = frozenset({401, 403})


def repository_scope(repository: str, actions: str) -> str:
    """Return the scope of some actions on a repository: ``repository:NAME:pull``."""
    return f"repository:{repository}:{actions}"


def repository_of(scope: str) -> str:
    """Return the repository that a scope is about, or nothing.

    Examples
    --------
    >>> repository_of("repository:team/app:pull,push"), repository_of("registry:catalog:*")
    ('team/app', '')
    """
    kind, _, rest = scope.partition(":")
    return rest.rpartition(":")[0] if kind == "repository" else ""


def delete_scopes(repository: str) -> tuple[str, ...]:
    """Return the scopes to try for a deletion, narrowest first: some token servers know only ``*``."""
    return tuple(repository_scope(repository, actions) for actions in ("pull,delete", "pull,push,delete", "*"))


def ask(session: Session, request: Request, scopes: Sequence[str], *, listen: bool = True) -> Conversation[Response]:
    """Send a request with what the registry wants to see of us, and return its response.

    Parameters
    ----------
    scopes : sequence of str
        The rights needed, narrowest first; the next is tried where one does not suffice. Empty where a
        login is all that is needed.
    listen : bool
        Whether a scope that the registry itself names comes before these. Where no right is needed, it
        does not: some registries name an example there.

    Returns
    -------
    Response
        A 401 or 403 among others: what it means, only the caller knows.

    Raises
    ------
    AuthenticationFailed, AccessDenied
        The token server says no.
    """
    need = scopes[0] if scopes else ""
    if session.parts:
        session = session.part(repository_of(need))
    ladder: _Ladder | None = None
    shown = _proof(session, need)
    if shown is None and (server := _known_server(session, need)) is not None:
        ladder = _Ladder(session, need, scopes, listen=listen)
        shown = yield from _climb(session, server, ladder, None)
    while True:
        asked = request if shown is None else request.with_header("Authorization", shown)
        response: Response = yield from follow(session, asked)
        if response.status not in _NOES or not session.ours(response.url):
            if shown is not None:
                _note_success(session, need, shown)
            return response
        ladder = ladder or _Ladder(session, need, scopes, listen=listen)
        better = yield from _better_proof(session, ladder, response, shown)
        if better is None:
            return response
        shown = better


def refusal(session: Session, response: Response, what: str) -> RegistryError:
    """Return the error for a response that is a no, knowing what we had shown."""
    place = _REPOSITORY.match(urlsplit(response.url).path)
    session = session.part(place[1]) if place else session
    credentials = session.credentials
    if credentials is None:
        return error_of(response, what)
    if response.status == 401 and (credentials.registry_token or (session.basic and not session.proven)):
        return credentials.not_accepted(what, url=safe_url(response.url), status=401)
    if response.status == 401 and (unseen := not_shown(session, what)) is not None:
        return unseen
    nothing = session.token_server is None and not session.basic
    return error_of(response, what, shown="nothing" if nothing else "rights")


def not_shown(session: Session, what: str) -> AccessDenied | None:
    """Return the error for credentials that the token server has not seen, because nobody trusts it; else None."""
    server = session.token_server
    if server is None or session.credentials is None or is_trusted(session, server.realm):
        return None
    return AccessDenied(
        f"{what}: the registry asks for a login at {_host_of(server.realm)}, which was not shown the credentials: "
        f"if you trust it, give trusted_realms=[{_host_of(server.realm)!r}]",
        url=session.base,
        status=401,
    )


# -- what is shown ---------------------------------------------------------------------------


class _Ladder:
    """The scopes that may serve one need, each to be asked for once: what worked before, then from the narrowest on."""

    def __init__(self, session: Session, need: str, scopes: Sequence[str], *, listen: bool) -> None:
        self.need = need
        known = session.tokens.get(need)
        before = [known.scope] if known is not None and known.worked else []
        self._left = list(dict.fromkeys([*before, *(scopes or (need,))]))
        self._done: set[str] = set()
        # An upload begins with a look, for which its one scope does as well as the one that is named.
        self._enough = need if len(scopes) == 1 else ""
        self._listen = listen and bool(scopes)

    def prefer(self, named: str) -> None:
        """Ask next for what the registry itself names, unless that was tried or is a part of the one scope."""
        if self._listen and named and named not in self._done and not _is_part(named, self._enough):
            self._left.insert(0, named)
            self._listen = False  # once: it may name another one each time, for ever

    def drop(self, scope: str) -> None:
        """Leave out a scope whose token did not suffice."""
        self._done.add(scope)

    def __iter__(self) -> Iterator[str]:
        while self._left:
            scope = self._left.pop(0)
            if scope not in self._done:
                self._done.add(scope)
                yield scope


def _is_part(scope: str, whole: str) -> bool:
    resource, _, actions = scope.rpartition(":")
    of, _, more = whole.rpartition(":")
    return resource == of and set(actions.split(",")) <= set(more.split(","))


def _known_server(session: Session, need: str) -> TokenServer | None:
    """Return the token server to ask before the registry sends us there; None where the registry is to be asked first.

    So it is after a refusal: the registry's answer tells how long ago that was.
    """
    return None if session.rejected or need in session.refused else session.token_server


def _better_proof(session: Session, ladder: _Ladder, response: Response, shown: str | None) -> Conversation[str | None]:
    """Return what to show after a no, or None where there is nothing better."""
    named = ""
    if response.status == 401:
        challenges = parse_challenges(response.headers.all("www-authenticate"))
        bearer = next((c for c in challenges if c.scheme == "bearer" and c.parameters.get("realm")), None)
        if bearer is None:
            return _basic_proof(session, challenges, shown)
        _meet(session, bearer, response)
        named = bearer.parameters.get("scope", "")
    server = session.token_server
    if server is None or (session.credentials is not None and session.credentials.registry_token):
        return None
    if response.status == 401 and _still_refused(session, ladder.need):
        return None
    known = session.tokens.get(ladder.need)
    if known is not None and shown == _header(known):
        if response.status == 403:
            ladder.drop(known.scope)
        elif known.worked:
            named = ""  # it has expired, or was revoked: the same again will do
    ladder.prefer(named)
    proof = yield from _climb(session, server, ladder, shown)
    if proof is None and response.status == 401 and not _stands(session, session.refused.get(ladder.need)):
        session.refused[ladder.need] = Refusal(session.now)
    return proof


def _proof(session: Session, need: str) -> str | None:
    credentials = session.credentials
    if credentials is not None and credentials.registry_token:
        check_private(session, session.base)
        return f"Bearer {credentials.registry_token}"
    if session.basic and credentials is not None:
        return None if _stands(session, session.rejected) else credentials.basic()
    token = _live(session, need)
    return None if token is None else _header(token)


def _basic_proof(session: Session, challenges: Sequence[Challenge], shown: str | None) -> str | None:
    credentials = session.credentials
    if credentials is None or credentials.registry_token or not any(c.scheme == "basic" for c in challenges):
        return None
    if session.basic and shown is not None:
        # Once they were accepted, a no is about rights.
        session.rejected = None if session.proven else Refusal(session.now)
        return None
    if _stands(session, session.rejected):
        return None
    check_private(session, session.base)
    session.basic = True
    return credentials.basic()


def _note_success(session: Session, need: str, shown: str) -> None:
    session.refused.pop(need, None)
    session.proven, session.rejected = True, None
    token = session.tokens.get(need)
    if token is not None and not token.worked and shown == _header(token):
        session.tokens[need] = replace(token, worked=True)


# -- tokens ----------------------------------------------------------------------------------


def _meet(session: Session, challenge: Challenge, response: Response) -> None:
    """Remember the token server that the registry names, and say once where it will not see the credentials."""
    realm = challenge.parameters["realm"]
    if resolve(realm, "") is None:
        raise unsafe_realm(session, realm)
    known = session.token_server
    if known is not None and origin(known.realm) != origin(realm):
        raise BadResponse(
            f"{session.host} first named the token server {safe_url(known.realm)} and now {safe_url(realm)}: "
            "stopped, because one of them is not to be trusted"
        )
    if known is None and session.credentials is not None and not is_trusted(session, realm):
        logger.warning(
            "%s sends us to log in at %s, which is not known to belong to it: asking without credentials; "
            "if you trust it, give trusted_realms=[%r]",
            clean(session.host, 120),
            _host_of(realm),
            _host_of(realm),
        )
    session.token_server = TokenServer(realm, challenge.parameters.get("service", ""), response.peer)


def _climb(session: Session, server: TokenServer, ladder: _Ladder, shown: str | None) -> Conversation[str | None]:
    """Return a token other than the one shown, of the next scope that gives one; None where none is left."""
    denied: AccessDenied | None = None
    for scope in ladder:
        try:
            yield Once(("token", ladder.need), _renew(session, server, ladder.need, scope, shown))
        except AccessDenied as error:
            denied = error
            continue
        proof = _proof(session, ladder.need)
        if proof != shown:
            return proof
    if denied is None:
        return None
    if session.credentials is None and denied.status is not None:
        return None  # nobody without a login gets a token: the registry's own answer says what it wants
    session.refused[ladder.need] = Refusal(session.now, denied)
    raise denied


def _renew(session: Session, server: TokenServer, need: str, scope: str, shown: str | None) -> Conversation[None]:
    """Put a token for a need into the session, unless somebody else did so meanwhile."""
    current = _live(session, need)
    if current is not None and _header(current) != shown:
        return
    _still_refused(session, need)
    try:
        session.tokens[need] = yield from request_token(session, server, scope)
    except AccessDenied:
        raise
    except AuthenticationFailed as error:
        # Wrong credentials are wrong for every scope.
        session.rejected = Refusal(session.now, error)
        raise
    except RegistryError as error:
        session.refused[need] = Refusal(session.now, error)
        raise
    session.rejected = None


def _still_refused(session: Session, need: str) -> bool:
    """Return whether there was nothing to show for a need just now; raises what the token server said."""
    for refused in (session.rejected, session.refused.get(need)):
        if refused is not None and _stands(session, refused):
            if refused.error is not None:
                raise refused.error.with_traceback(None)
            return True
    return False


def _stands(session: Session, refused: Refusal | None) -> bool:
    return refused is not None and session.now < refused.at + _REFUSAL_STANDS


def _live(session: Session, need: str) -> Token | None:
    token = session.tokens.get(need)
    return token if token is not None and session.now < token.renew_at else None


def _header(token: Token) -> str:
    return f"Bearer {token.value}"


def _host_of(realm: str) -> str:
    return clean(urlsplit(realm).hostname, 120)
