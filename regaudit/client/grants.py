"""Grants of the v1 interface: what a registry gives for one repository, and who may see it.

A registry answers the question for the images of a repository with a token or cookies, and with the
endpoint that has the images. All else is asked there, with that grant.

Secrets stay where they belong: a password goes to the registry itself, a token to the endpoint that it
was granted for, a cookie to the host that set it. An endpoint on another host is refused unless it was
named as trusted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from regaudit.client.challenges import parse_challenges
from regaudit.client.exchange import (
    PAGE_CAP,
    Conversation,
    Once,
    Request,
    Response,
    Session,
    error_of,
    follow,
    is_private,
    origin,
)
from regaudit.client.tokens import check_private
from regaudit.errors import (
    BadManifest,
    BadResponse,
    InvalidReference,
    RedirectRefused,
    RegistryError,
    TruncatedResponse,
)
from regaudit.manifest import load_json
from regaudit.reference import parse_registry
from regaudit.text import clean, safe_url

ACCEPT_JSON = {"Accept": "application/json"}

# 64 hexadecimal digits from docker; indexes abbreviate, and other builders made up ids of their own.
_IMAGE_ID = re.compile(r"[A-Za-z0-9]{1,128}")
# What may go into a header: a token of visible characters and blanks, a cookie as RFC 6265 has it.
_TOKEN = re.compile(r"[\x20-\x7e]{1,8192}")
_COOKIE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e\"]{0,4096})")
_MOST_COOKIES = 32


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image as a repository lists it; the checksum is missing where the registry does not tell."""

    id: str
    checksum: str | None = None

    def to_dict(self) -> dict[str, str]:
        """Return id and, where there is one, checksum."""
        return {"id": self.id} | ({"checksum": self.checksum} if self.checksum is not None else {})


@dataclass
class Grant:
    """What the registry gave for one repository.

    Attributes
    ----------
    endpoint : str
        ``https://host[:port]`` of whoever has the images.
    token : str or None
    cookies : dict
    images : tuple of ListedImage
        The list that came with it; empty for a grant to write.
    basic : bool
        Whether the endpoint asked for the user's own name and password instead; only the registry itself may.
    writes : bool
        Whether it was given for writing.
    peer : str or None
        The address that named the endpoint.
    """

    endpoint: str
    token: str | None = field(default=None, repr=False)
    cookies: dict[str, str] = field(default_factory=dict, repr=False)
    images: tuple[ListedImage, ...] = ()
    basic: bool = False
    writes: bool = False
    peer: str | None = None


@dataclass
class SessionV1:
    """What all v1 conversations with one registry share.

    Attributes
    ----------
    http : Session
        Where the registry is, and who we are.
    trusted_endpoints : sequence of str
        Hosts that the registry may send us on to, and that may see its tokens.
    grants : dict
        By repository.
    """

    http: Session
    trusted_endpoints: Sequence[str] = ()
    grants: dict[str, Grant] = field(default_factory=dict, repr=False)


# -- asking ----------------------------------------------------------------------------------


def ask(session: SessionV1, repository: str, path: str, request: Request) -> Conversation[Response]:
    """Send a request to the endpoint of a repository, with what was granted for it.

    A grant that is not accepted any more is renewed once.

    Parameters
    ----------
    path : str
        What is asked for; the URL of `request` is made of it and of the endpoint.
    """
    known = session.grants.get(repository)
    if known is None:
        yield Once(("v1", repository), open_grant(session, repository, None))
    grant = session.grants[repository]
    response = yield from _show(session, grant, path, request)
    if response.status != 401 or origin(response.url) != origin(grant.endpoint):
        return response
    if _wants_password(session, grant, response):
        grant.basic = True
    elif known is not None:
        yield Once(("v1", repository), open_grant(session, repository, grant))
    else:
        return response
    return (yield from _show(session, session.grants[repository], path, request))


def _show(session: SessionV1, grant: Grant, path: str, request: Request) -> Conversation[Response]:
    fields = dict(request.headers)
    ours = session.http.ours(grant.endpoint)
    password = basic(session) if ours and (grant.basic or not (grant.token or grant.cookies)) else None
    if password is not None:
        fields["Authorization"] = password
    elif grant.token is not None:
        fields["Authorization"] = f"Token {grant.token}"
    if grant.cookies:
        fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in grant.cookies.items())
    sent = replace(
        request,
        url=grant.endpoint + path,
        headers=fields,
        public_only=not ours and not is_private(grant.peer),
    )
    response: Response = yield from follow(session.http, sent)
    _keep_cookies(grant, response)
    return response


def open_grant(session: SessionV1, repository: str, stale: Grant | None) -> Conversation[None]:
    """Put a grant to read a repository in place of a stale one, unless somebody did so meanwhile."""
    if session.grants.get(repository) is not stale:
        return
    path = f"/v1/repositories/{repository}/images"
    response = yield from ask_registry(session, path, "images", {"X-Docker-Token": "true"})
    if response.status != 200:
        raise refusal(session, response, f"{session.http.host}/{repository}")
    listed = document_of(response)
    if not isinstance(listed, list):
        where = safe_url(response.url)
        raise BadResponse(f"{where}: the images are not a list", url=where)
    grant = grant_of(session, repository, response)
    grant.images = tuple(_listed_image(response, entry) for entry in listed)
    session.grants[repository] = grant


def grant_of(session: SessionV1, repository: str, response: Response) -> Grant:
    """Return what the registry grants in the headers of a response.

    Raises
    ------
    RedirectRefused
        It sends us on to a host that was not named as trusted.
    """
    grant = Grant(_endpoint(session, repository, response), peer=response.peer)
    if not (session.http.ours(response.url) or _trusted(session, response.url)):
        return grant  # whoever the list came from in the end speaks for himself alone
    token = ",".join(value.removeprefix("Token ").strip() for value in response.headers.all("x-docker-token"))
    if token and _TOKEN.fullmatch(token) is None:
        raise BadResponse(f"{session.http.host}/{repository}: the registry sent no usable token", url=session.http.base)
    grant.token = token or None
    _keep_cookies(grant, response)
    return grant


def _endpoint(session: SessionV1, repository: str, response: Response) -> str:
    """Return the first endpoint that is the registry itself or trusted; the registry itself where none is named."""
    named = [name.strip() for value in response.headers.all("x-docker-endpoints") for name in value[:4096].split(",")]
    foreign = ""
    for name in filter(None, named):
        endpoint = _endpoint_url(session, name)
        if endpoint is None:
            raise BadResponse(
                f"{session.http.host}/{repository}: the registry names the endpoint {clean(name, 100)!r}, which is none",
                url=session.http.base,
            )
        if session.http.ours(endpoint) or _trusted(session, endpoint):
            return endpoint
        foreign = foreign or clean(name, 120)
    if not foreign:
        return session.http.base
    raise RedirectRefused(
        f"{session.http.host}/{repository}: the registry sends us on to {foreign}, which is not known to belong to it: "
        f"nothing was sent there; if you trust it, give trusted_endpoints=[{foreign!r}]",
        url=session.http.base,
        status=response.status,
    )


def _endpoint_url(session: SessionV1, name: str) -> str | None:
    """Return the URL of an endpoint, which is spoken to as the registry is; None where the name is none."""
    try:
        endpoint = parse_registry(name)
    except InvalidReference:
        return None
    return None if endpoint.scheme else f"{urlsplit(session.http.base).scheme}://{endpoint.server}"


def _trusted(session: SessionV1, url: str) -> bool:
    parts = urlsplit(url)
    listed = {name.lower() for name in session.trusted_endpoints}
    return (parts.hostname or "").lower() in listed or parts.netloc.lower() in listed


def _keep_cookies(grant: Grant, response: Response) -> None:
    """Keep the cookies that the endpoint sets; they go back to it and to no other host, whatever they say of that."""
    if origin(response.url) != origin(grant.endpoint):
        return
    pairs = [_COOKIE.fullmatch(value.partition(";")[0].strip()) for value in response.headers.all("set-cookie")]
    set_now = {pair[1]: pair[2] for pair in pairs[:_MOST_COOKIES] if pair is not None}
    if set_now and len(grant.cookies.keys() | set_now.keys()) <= _MOST_COOKIES:
        grant.cookies = grant.cookies | set_now  # never in place: other threads are reading it


def _wants_password(session: SessionV1, grant: Grant, response: Response) -> bool:
    """Return whether the registry itself, behind a gate of its own, asks for the password and not for the token."""
    asked = any(c.scheme == "basic" for c in parse_challenges(response.headers.all("www-authenticate")))
    return asked and not grant.basic and session.http.ours(grant.endpoint) and basic(session) is not None


def ask_registry(
    session: SessionV1, path: str, purpose: str, headers: Mapping[str, str] | None = None, cap: int = PAGE_CAP
) -> Conversation[Response]:
    """Ask the registry itself, with user name and password from the start: v1 hides what it would let a user see."""
    fields = {**ACCEPT_JSON, **(headers or {})}
    password = basic(session)
    if password is not None:
        fields["Authorization"] = password
    request = Request("GET", session.http.url(path), purpose, fields, cap=cap, deadline=session.http.deadline)
    return (yield from follow(session.http, request))


def basic(session: SessionV1) -> str | None:
    """Return the Authorization header with user name and password, None where there are none.

    Raises
    ------
    AccessDenied
        They would go over plain http to another machine.
    """
    credentials = session.http.credentials
    if credentials is None or credentials.username is None or credentials.password is None:
        return None
    check_private(session.http, session.http.base)
    return credentials.basic()


def refusal(session: SessionV1, response: Response, what: str, *, granted: bool = False) -> RegistryError:
    """Return the error for a response that is a no; `granted` where a grant was shown, not a password."""
    if basic(session) is None:
        return error_of(response, what)
    return error_of(response, what, shown="rights" if granted else "credentials")


# -- parsing ---------------------------------------------------------------------------------


def document_of(response: Response) -> Any:
    """Return the JSON in a response; raises `BadResponse` where it is none."""
    where = safe_url(response.url)
    if not response.body:
        raise TruncatedResponse(f"{where}: the answer is empty", url=where)
    try:
        return load_json(response.body)
    except BadManifest as error:
        raise BadResponse(f"{where}: {error}", url=where) from None


def _listed_image(response: Response, entry: Any) -> ListedImage:
    if not isinstance(entry, dict) or not is_image_id(entry.get("id")):
        raise BadResponse(f"{safe_url(response.url)}: a listed image has no id", url=safe_url(response.url))
    checksum = entry.get("checksum")
    return ListedImage(entry["id"], checksum if isinstance(checksum, str) and checksum else None)


def is_image_id(value: Any) -> bool:
    """Return whether something is an image id, which may stand in a path as it is."""
    return isinstance(value, str) and _IMAGE_ID.fullmatch(value) is not None
