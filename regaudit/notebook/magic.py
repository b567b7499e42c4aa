"""``%load_ext regaudit``, then ``%regaudit HOST [PATTERN ...]`` reads a registry.

What was read is shown, and is there for the next cells as ``snapshot``; ``registry`` is what it was read from.
The options are those of ``regaudit audit`` on the command line; ``%regaudit -h`` lists them.
"""

from __future__ import annotations

import shlex
from typing import Any

import click
from IPython.core.error import UsageError as MagicUsageError
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.display import display

from regaudit.client.registry import Registry
from regaudit.errors import AccessDenied, AuthenticationFailed, RegauditError, UsageError
from regaudit.inventory.collect import collect
from regaudit.inventory.snapshot import Snapshot
from regaudit.notebook.login import login
from regaudit.reference import parse_target
from regaudit.text import clean

_HOW = "write %regaudit HOST [PATTERN ...], for example %regaudit registry.example.com 'team/*', or %regaudit -h"
_LOGIN = ". In a cell: %regaudit -u USER HOST, which asks for the password, unseen"
_WANT_LOGIN = {AccessDenied.kind, AuthenticationFailed.kind}


@magics_class
class RegauditMagics(Magics):
    """The line magic ``%regaudit``."""

    @line_magic
    def regaudit(self, line: str) -> None:
        """Read a registry and show what there is: ``%regaudit [OPTIONS] HOST [PATTERN ...]``."""
        said = ""
        try:
            options = _parsed(line)
            names = {} if options is None else _read(**options)
        except RegauditError as error:
            said = _sentence(error)
        if said:  # outside, so that no traceback comes along: its frames hold the login
            raise MagicUsageError(said)
        if self.shell is not None:
            self.shell.user_ns.update(names)
        if names:
            display(list(names.values())[-1])  # type: ignore[no-untyped-call]  # IPython does not say its types


def load_ipython_extension(shell: Any) -> None:
    """Register the magic; ``%load_ext regaudit`` calls this."""
    shell.register_magics(RegauditMagics)


def _refuse_password(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError("a password in a cell stays in the notebook: write -u USER alone, and it is asked for")


@click.command("%regaudit", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("host")
@click.argument("patterns", nargs=-1)
@click.option("-u", "--username", metavar="USER", help="Log in as; the password is asked for, unseen.")
@click.option("-p", "--password", hidden=True, expose_value=False, callback=_refuse_password)
@click.option("-k", "--insecure", is_flag=True, help="Do not verify the certificate.")
@click.option("--ca", metavar="FILE", help="Verify against this file of certificate authorities.")
@click.option("--plain-http", is_flag=True, help="Speak http, not https (always so for this machine).")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out repositories like this; may be repeated.")
@click.option("--no-referrers", is_flag=True, help="Do not ask for signatures and SBOMs; nothing can be cleaned then.")
@click.option("--cache", metavar="DIR", help="Where what was read is remembered; the user's cache folder by default.")
@click.option("--no-cache", is_flag=True, help="Read everything again, and remember nothing.")
@click.option("--dry-run", is_flag=True, help="Only say what it would cost: requests, time, rate limit.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def _command(**options: Any) -> dict[str, Any]:
    """Read a registry; HOST may carry a pattern as in host/team/*, others may follow."""
    return options


def _parsed(line: str) -> dict[str, Any] | None:
    """Return the options that were typed; None where help was."""
    try:
        parsed = _command.main(shlex.split(line), prog_name="%regaudit", standalone_mode=False)
    except ValueError as error:  # a quotation mark without its other one
        raise UsageError(f"{clean(error, 100)}: {_HOW}") from None
    except click.UsageError as error:
        raise UsageError(f"{clean(error.format_message(), 300).rstrip('.')}: {_HOW}") from None
    return parsed if isinstance(parsed, dict) else None


def _read(
    host: str,
    patterns: tuple[str, ...],
    *,
    username: str | None,
    insecure: bool,
    ca: str | None,
    plain_http: bool,
    exclude: tuple[str, ...],
    no_referrers: bool,
    cache: str | None,
    no_cache: bool,
    dry_run: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Return what the next cells are given, by name; the last is what is shown."""
    if no_cache and cache is not None:
        raise UsageError("--cache and --no-cache contradict each other: give one of them")
    named, first = parse_target(host)
    # As on the command line, the host may stand before each pattern.
    wanted = [*filter(None, [first]), *(pattern.removeprefix(f"{named.host}/") for pattern in patterns)]
    connection: dict[str, Any] = {"insecure": insecure, "ca": ca, "plain_http": plain_http}
    if username is None:
        registry = Registry(named.address, **connection)
    else:
        registry = login(named.address, username, **connection)
    options: dict[str, Any] = {"exclude": exclude, "referrers": not no_referrers, "progress": not quiet}
    options |= {"cache": None if no_cache else cache or True, "dry_run": dry_run}
    try:
        found = collect(registry, *wanted, **options)
    except BaseException:
        registry.close()
        raise
    why = found.why_nothing if isinstance(found, Snapshot) else None
    if why is not None:
        registry.close()
        hint = _LOGIN if {*found.problems["error"]} & _WANT_LOGIN else ""
        raise UsageError(f"nothing could be read: {why}{hint}")
    return {"registry": registry, "estimate" if dry_run else "snapshot": found}


def _sentence(error: RegauditError) -> str:
    """Return an error with what to type in a notebook."""
    return f"{error}{_LOGIN if error.kind in _WANT_LOGIN else ''}"


__all__ = ["RegauditMagics", "load_ipython_extension"]
