"""Logging in from a notebook: with what docker knows, and else by asking, so that no secret is in a cell."""

from __future__ import annotations

from typing import Any, TypeVar

from regaudit.client.asking import ask_name, ask_password
from regaudit.client.registry import Registry
from regaudit.errors import AccessDenied, AuthenticationFailed, NotARegistry, RegauditError, UsageError

# As often as ssh and sudo ask.
_TRIES = 3
_INSTEAD = "log in with `docker login HOST` before, or set REGAUDIT_USERNAME and REGAUDIT_PASSWORD"

E = TypeVar("E", bound=RegauditError)


def login(host: str, username: str | None = None, *, scope: str | None = None, **options: Any) -> Registry:
    """Log in to a registry and return it; asks for what is missing, unseen, and keeps it nowhere but in memory.

    Credentials of the environment, of docker and of podman come first, as for `Registry`. Only where there are
    none, or they are not accepted, or a user name is given, is a person asked: in a notebook by a field below the
    cell, which is not saved with it. Nothing is written to docker's configuration.

    Parameters
    ----------
    host : str
        As for `Registry`.
    username : str, optional
        Who logs in; the password is then asked for in any case.
    scope : str, optional
        Rights to ask for, as for `Registry.login`.
    **options
        Of `Registry`: ``plain_http``, ``insecure``, ``ca``, ``trusted_realms`` …

    Returns
    -------
    Registry
        Logged in. One that lets anybody in is returned without asking.

    Raises
    ------
    AuthenticationFailed
        What was typed was not accepted three times.
    AccessDenied, NotARegistry, Unreachable
        With what to do about it.
    UsageError
        There is nobody to ask, nothing was typed, or a secret was given: it would stay in the notebook.

    Examples
    --------
    ``registry = ra.login("registry.example.com")``
    """
    if secret := {"password", "token"} & options.keys():
        raise UsageError(
            f"a {min(secret)} in a cell stays in the notebook: leave it out, and it is asked for; a script writes ra.Registry(…)"
        )
    if username is None:
        registry = Registry(host, **options)
        if _is_let_in(registry, scope):
            return registry
        anonymous = registry.session.credentials is None
        username = ask_name(f"User name for {registry.host}: ", instead=_INSTEAD)
        if not username:
            if anonymous and _is_open(registry, scope):
                return registry
            registry.close()
            raise UsageError(f"no user name was typed: run the cell again, or {_INSTEAD}")
        registry.close()
    return _asked(host, username, scope, options)


def _is_let_in(registry: Registry, scope: str | None) -> bool:
    """Return whether the credentials that were found work, or none are needed."""
    known = registry.session.credentials is not None
    failure: RegauditError
    try:
        return _try(registry, scope) == "none" or known
    except AuthenticationFailed:
        return False
    except AccessDenied as error:
        if not known:
            return False
        failure = error
    except RegauditError as error:
        failure = error
    registry.close()
    raise _bare(failure)


def _is_open(registry: Registry, scope: str | None) -> bool:
    try:
        _try(registry, scope)
    except AccessDenied:
        return False
    return True


def _try(registry: Registry, scope: str | None) -> str:
    """Log in, by whichever interface, and return the scheme."""
    try:
        return registry.login(scope).scheme
    except NotARegistry:
        if registry.find_version() != "v1":
            raise
    registry.v1.login()
    return "v1"


def _asked(host: str, username: str, scope: str | None, options: dict[str, Any]) -> Registry:
    failure: RegauditError = UsageError("nobody was asked")
    prompt = f"Password for {username} at {host}"
    for _ in range(_TRIES):
        registry = _with_password(host, username, options, f"{prompt}: ")
        try:
            _try(registry, scope)
            return registry
        except RegauditError as error:
            failure = error
        registry.close()
        if not isinstance(failure, AuthenticationFailed):
            break
        prompt = f"Not accepted. Password for {username} at {host}"
    raise _bare(failure)


def _with_password(host: str, username: str, options: dict[str, Any], prompt: str) -> Registry:
    failure: UsageError
    try:
        return Registry(host, username=username, password=ask_password(prompt, instead=_INSTEAD), **options)
    except UsageError as error:
        failure = error
    raise _bare(failure)


def _bare(error: E) -> E:
    """Return an error without the frames that it came through: a notebook in verbose mode shows what is in them."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


__all__ = ["login"]
