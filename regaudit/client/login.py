"""Logging in: whether the credentials work, found out by using them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from regaudit.client.auth import not_shown, refusal, repository_of
from regaudit.client.challenges import parse_challenges
from regaudit.client.credentials import Credentials
from regaudit.client.exchange import Conversation, Request, Session, send
from regaudit.client.tokens import granted_scopes, travels_safely
from regaudit.client.v2 import base
from regaudit.errors import UsageError
from regaudit.text import clean, safe_url

# type:name:actions (token specification, "Resource Scope Grammar"); a name may carry a host and its port.
_SCOPE = re.compile(r"[a-z0-9]+(?:\([a-z0-9]+\))?:[!-9;-~]+(?::[!-9;-~]+)*:(?:\*|[a-z]+(?:,[a-z]+)*)")


@dataclass(frozen=True, slots=True)
class Login:
    """What a login came to. Holds no secret.

    Attributes
    ----------
    status : int
        What ``GET /v2/`` answered to who has logged in.
    scheme : str
        ``none`` where the registry asks for no login, ``basic`` or ``bearer``.
    username : str or None
        Who logged in; None is nobody, or whoever a token stands for.
    realm, service : str or None
        The token server, and what the registry is called there.
    scope : str or None
        What was asked for: scopes with blanks between them.
    granted : tuple of str or None
        The scopes that the token gives, which may be fewer; None where that cannot be known.
    """

    status: int
    scheme: str
    username: str | None = None
    realm: str | None = None
    service: str | None = None
    scope: str | None = None
    granted: tuple[str, ...] | None = None

    @property
    def missing(self) -> tuple[str, ...] | None:
        """What was asked for and not granted, as scopes; None where that cannot be known.

        Examples
        --------
        >>> Login(200, "bearer", scope="repository:a:pull,push", granted=("repository:a:pull",)).missing
        ('repository:a:push',)
        """
        if self.granted is None:
            return None
        given: dict[str, set[str]] = {}
        for scope in self.granted:
            resource, _, actions = scope.rpartition(":")
            given.setdefault(resource, set()).update(actions.split(","))
        return tuple(left for scope in (self.scope or "").split() if (left := _less(scope, given)))

    def to_dict(self) -> dict[str, Any]:
        """Return the login as plain values, `missing` included."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name in ("granted", "missing"):
            value = getattr(self, name)
            plain[name] = None if value is None else list(value)
        return plain


def login(session: Session, scope: str | None = None) -> Conversation[Login]:
    """Log in, and find out whether the credentials work.

    Basic credentials are shown to the registry, others to its token server and the token to the
    registry. A registry that lets anybody in is shown a password all the same, if there is one:
    a wrong one shall fail here and not at the first push.

    Parameters
    ----------
    scope : str, optional
        Rights to ask the token server for, such as ``repository:team/app:pull,push``. Fewer may be granted:
        that is reported, and no error.

    Raises
    ------
    AuthenticationFailed
        The credentials are wrong; the message says what to type.
    AccessDenied
        The registry asks for a login, and there are no credentials, or none that it may see.
    NotARegistry
        The host answers, but not as a registry does.
    UsageError
        `scope` is none.
    """
    needed = _check_scope(scope)
    session = session.part(repository_of(needed.partition(" ")[0]))
    # A token from before proves nothing now, nor does a lack of rights.
    session.tokens.pop(needed, None)
    session.refused.pop(needed, None)
    response = yield from base(session, (needed,))
    what = f"logging in to {session.host}"
    if response.status != 200:
        raise refusal(session, response, what)
    if (unseen := not_shown(session, what)) is not None:
        raise unseen
    credentials, server, token = session.credentials, session.token_server, session.tokens.get(needed)
    username = None if credentials is None else credentials.username
    if credentials is not None and credentials.registry_token:
        return Login(200, "bearer", scope=scope, granted=granted_scopes(credentials.registry_token))
    if session.basic:
        return Login(200, "basic", username, scope=scope)
    if server is not None and token is not None:
        return Login(200, "bearer", username, safe_url(server.realm), clean(server.service), scope, token.granted)
    if credentials is not None:
        yield from _try_unasked(session, credentials, what)
    return Login(200, "none", scope=scope)


def _check_scope(scope: str | None) -> str:
    if scope is None:
        return ""
    parts = scope.split()
    if not parts or not all(_SCOPE.fullmatch(part) for part in parts):
        raise UsageError(f"{clean(scope, 200)!r} is not a scope: write for example repository:team/app:pull,push")
    return " ".join(parts)


def _try_unasked(session: Session, credentials: Credentials, what: str) -> Conversation[None]:
    """Show a password to a registry that did not ask for it, and raise where it is not accepted."""
    if credentials.password is None or not travels_safely(session.base):
        return
    headers = {"Authorization": credentials.basic()}
    request = Request("GET", session.url("/v2/"), "ping", headers, deadline=session.deadline)
    response = yield from send(session, request)
    # One that wants a token instead has not looked at the password.
    wanted = {challenge.scheme for challenge in parse_challenges(response.headers.all("www-authenticate"))}
    if response.status == 401 and "bearer" not in wanted:
        raise credentials.not_accepted(what, url=safe_url(response.url), status=401)


def _less(scope: str, given: dict[str, set[str]]) -> str:
    """Return a scope with the actions alone that were not given, or nothing."""
    resource, _, actions = scope.rpartition(":")
    granted = given.get(resource, set())
    left = [] if "*" in granted else [action for action in actions.split(",") if action not in granted]
    return f"{resource}:{','.join(left)}" if left else ""
