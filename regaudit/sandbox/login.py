"""Who may do what in the sandbox: Basic, or tokens that the sandbox issues itself.

`Login` is what a person writes down, `Authority` is what refuses, grants and remembers tokens. The token
endpoint knows both dialects: GET with Basic ("Token Authentication Specification" of the distribution
project) and POST ("OAuth2 Token Authentication"), with a password or with a refresh token.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple
from urllib.parse import parse_qs

from regaudit.errors import UsageError
from regaudit.sandbox.store import ApiError

SERVICE = "regaudit-sandbox"
_KINDS = ("basic", "bearer")
# Every user may do everything, unless the login says otherwise.
_EVERYTHING = "*:*:*"
# The identity of somebody without a name or a password; no user can be called so.
_ANONYMOUS = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A kind of login, for ``Sandbox(users=..., auth=Login(...))``.

    Rights are written as the scopes that a client asks for: ``repository:NAME:ACTIONS`` and
    ``registry:catalog:*``, several with a space in between. In a name, ``*`` stands for anything, slashes
    included; among the actions (``pull``, ``push``, ``delete``) it stands for all of them.

    Parameters
    ----------
    kind : str
        ``basic`` or ``bearer``.
    rights : mapping
        Scopes by user name. A user who is not named may do everything. With Basic, what a user may not do
        is 403 DENIED; a token server grants what is left without a word, as real ones do.
    anonymous : str
        Scopes for whoever has no credentials; nothing unless given.
    identity_tokens : mapping
        By user name, a refresh token that is good from the start (what ``docker login`` keeps as ``identitytoken``).
    token_seconds : float
        How long a token is good for.
    states_expiry : bool
        False leaves ``expires_in`` out; a client then has to count on 60 seconds.
    oauth2 : bool
        False makes a token server that answers POST with 404, as those do that know GET alone.
    star_only : bool
        True makes a token server that does not know the action ``delete``: only who asks for ``*`` may delete.

    Examples
    --------
    >>> Login(rights={"bob": "repository:team/*:pull"}, anonymous="repository:public/*:pull").kind
    'bearer'
    """

    kind: str = "bearer"
    rights: Mapping[str, str] = field(default_factory=dict)
    anonymous: str = ""
    identity_tokens: Mapping[str, str] = field(default_factory=dict)
    # Long enough for any audit page, short enough that a client's renewal is exercised in a long session.
    token_seconds: float = 300
    states_expiry: bool = True
    oauth2: bool = True
    star_only: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise UsageError(f"{self.kind!r} is no kind of login: write 'basic' or 'bearer'")
        for scope in " ".join([self.anonymous, *self.rights.values()]).split():
            if not list(_rights([scope])):
                raise UsageError(f"{scope!r} is no scope: write repository:NAME:pull,push or registry:catalog:*")


class Right(NamedTuple):
    """One action on one thing: ``repository``, ``team/app``, ``pull``."""

    kind: str
    name: str
    action: str


class OAuthError(Exception):
    """A request to the token endpoint that OAuth2 answers with 400 (RFC 6749, 5.2).

    Parameters
    ----------
    error, description : str
        One of the RFC's codes, and a sentence.
    """

    def __init__(self, error: str, description: str) -> None:
        super().__init__(f"{error}: {description}")
        self.document = {"error": error, "error_description": description}


@dataclass(frozen=True, slots=True)
class _Token:
    expiry: float
    granted: frozenset[Right]


class Authority:
    """The side that refuses and grants.

    Parameters
    ----------
    login : Login
        The kind of login and its rules.
    users : mapping
        Password by user name.
    realm : str
        The URL of the token endpoint.
    clock : callable, optional
        Seconds that never go backwards, for the expiry of tokens.
    """

    def __init__(
        self, login: Login, users: Mapping[str, str], realm: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.login = login
        self._users = dict(users)
        self._realm = realm
        self._clock = clock
        self._rights = {name: tuple(_rights(text.split())) for name, text in login.rights.items()}
        self._rights[_ANONYMOUS] = tuple(_rights(login.anonymous.split()))
        self._everything = tuple(_rights([_EVERYTHING]))
        self._tokens: dict[str, _Token] = {}
        self._refresh_tokens = {token: name for name, token in login.identity_tokens.items()}

    def revoke_tokens(self, *, refresh: bool = False) -> None:
        """Make every token that was issued invalid, and with `refresh` every refresh token too."""
        self._tokens.clear()
        if refresh:
            self._refresh_tokens.clear()

    def check(self, authorization: str, needed: Sequence[str]) -> None:
        """Raise `ApiError` 401 with the challenge, or 403, unless the header allows all the scopes needed."""
        rights = list(_rights(needed))
        if self.login.kind == "basic":
            self._check_basic(authorization, rights)
            return
        fault = self._token_fault(authorization, rights)
        if fault is not None:
            scope = f',scope="{" ".join(needed)}"' if needed else ""
            error = f',error="{fault}"' if fault else ""
            raise _refusal(f'Bearer realm="{self._realm}",service="{SERVICE}"{scope}{error}', rights)

    def issue(self, authorization: str, query: Mapping[str, Sequence[str]]) -> dict[str, object]:
        """Return the token endpoint's reply to GET: a token for what was asked and may be had.

        Parameters
        ----------
        authorization : str
            The header: Basic, or empty for an anonymous token.
        query : mapping
            ``scope``, any number of them; ``offline_token=true`` asks for a refresh token too.

        Raises
        ------
        ApiError
            401 UNAUTHORIZED for wrong credentials, or for none where nothing is granted to everybody.
        """
        user = self._user(authorization) if authorization else self._stranger()
        if user is None:
            raise _refusal(f'Basic realm="{SERVICE}"', ())
        token, _ = self._new_token(user, query.get("scope", ()))
        offline = query.get("offline_token", ("",))[0].lower() == "true"
        return {"token": token, "access_token": token, **self._expiry(), **self._refresh_token(user, offline=offline)}

    def exchange(self, form: bytes) -> dict[str, object]:
        """Return the token endpoint's reply to POST: OAuth2 with a password or a refresh token.

        Raises
        ------
        OAuthError
            invalid_request, unsupported_grant_type, or invalid_grant for wrong credentials.
        """
        fields = {name: values[0] for name, values in parse_qs(form.decode("latin-1")).items()}
        missing = [name for name in ("grant_type", "service", "client_id") if name not in fields]
        if missing:
            raise OAuthError("invalid_request", f"missing: {', '.join(missing)}")
        user = self._grantee(fields)
        if user is None:
            raise OAuthError("invalid_grant", "wrong user name, password or refresh token")
        token, granted = self._new_token(user, [fields.get("scope", "")])
        offline = fields.get("access_type") == "offline"
        refresh = self._refresh_token(user, offline=offline)
        return {"access_token": token, "scope": _scopes(granted), **self._expiry(), **refresh}

    def _check_basic(self, authorization: str, needed: Sequence[Right]) -> None:
        user = self._user(authorization) if authorization else self._stranger()
        if user is None or (user == _ANONYMOUS and not self._may(user, needed)):
            raise _refusal(f'Basic realm="{SERVICE}"', needed)
        if not self._may(user, needed):
            raise ApiError(403, "DENIED", "requested access to the resource is denied", _details(needed) or None)

    def _stranger(self) -> str | None:
        return _ANONYMOUS if self.login.anonymous else None

    def _user(self, authorization: str) -> str | None:
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            return None
        name, _, password = text.partition(":")
        return self._who(name, password)

    def _who(self, name: str, password: str) -> str | None:
        known = self._users.get(name)
        return name if known is not None and hmac.compare_digest(known.encode(), password.encode()) else None

    def _grantee(self, fields: Mapping[str, str]) -> str | None:
        if fields["grant_type"] == "password":
            return self._who(fields.get("username", ""), fields.get("password", ""))
        if fields["grant_type"] == "refresh_token":
            return self._refresh_tokens.get(fields.get("refresh_token", ""))
        raise OAuthError("unsupported_grant_type", "grant_type is password or refresh_token")

    def _may(self, user: str, needed: Iterable[Right]) -> bool:
        held = self._rights.get(user, self._everything)
        return all(any(_permits(right, wanted) for right in held) for wanted in needed)

    def _new_token(self, user: str, scopes: Sequence[str]) -> tuple[str, frozenset[Right]]:
        held = self._rights.get(user, self._everything)
        asked = _rights(scope for text in scopes for scope in text.split())
        granted = frozenset(right for wanted in asked for right in self._granted(held, wanted))
        token = secrets.token_urlsafe(32)
        self._tokens[token] = _Token(self._clock() + self.login.token_seconds, granted)
        return token, granted

    def _granted(self, held: Sequence[Right], wanted: Right) -> Iterator[Right]:
        if any(_permits(right, wanted) for right in held):
            if not (self.login.star_only and wanted.action == "delete"):
                yield wanted
        elif wanted.action == "*":  # everything was asked for: whatever there is
            yield from (wanted._replace(action=right.action) for right in held if _names(right, wanted))

    def _expiry(self) -> dict[str, object]:
        return {"expires_in": self.login.token_seconds} if self.login.states_expiry else {}

    def _refresh_token(self, user: str, *, offline: bool) -> dict[str, object]:
        if not offline or user == _ANONYMOUS:
            return {}
        token = secrets.token_urlsafe(32)
        self._refresh_tokens[token] = user
        return {"refresh_token": token}

    def _token_fault(self, authorization: str, needed: Sequence[Right]) -> str | None:
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return ""
        token = self._tokens.get(text.strip())
        if token is None or token.expiry <= self._clock():
            self._tokens.pop(text.strip(), None)
            return "invalid_token"
        covered = (right in token.granted or right._replace(action="*") in token.granted for right in needed)
        return None if all(covered) else "insufficient_scope"


def _rights(scopes: Iterable[str]) -> Iterator[Right]:
    for scope in scopes:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        yield from (Right(kind, name, action) for action in actions.split(",") if name and action)


def _names(right: Right, wanted: Right) -> bool:
    return fnmatchcase(wanted.kind, right.kind) and fnmatchcase(wanted.name, right.name)


def _permits(right: Right, wanted: Right) -> bool:
    return _names(right, wanted) and right.action in {"*", wanted.action}


def _scopes(granted: Iterable[Right]) -> str:
    actions: dict[tuple[str, str], list[str]] = {}
    for kind, name, action in sorted(granted):
        actions.setdefault((kind, name), []).append(action)
    return " ".join(f"{kind}:{name}:{','.join(some)}" for (kind, name), some in actions.items())


def _details(rights: Iterable[Right]) -> list[dict[str, str]]:
    return [{"Type": kind, "Name": name, "Action": action} for kind, name, action in rights]


def _refusal(challenge: str, needed: Sequence[Right]) -> ApiError:
    headers = {"WWW-Authenticate": challenge}
    return ApiError(401, "UNAUTHORIZED", "authentication required", _details(needed) or None, headers=headers)
