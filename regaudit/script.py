"""The front of a small command: its options, its result as JSON, and how it ends.

A script is a function with click's own decorators for its arguments::

    @script
    @click.argument("repo", metavar="REPO")
    def tags(repo, connect):
        \"\"\"List the tags of a repository.\"\"\"
        named = parse_repo(repo)
        with connect(named.registry) as registry:
            return registry.repository(named.repository).tags()

    if __name__ == "__main__":
        tags()

What it returns goes to stdout as JSON, the log to stderr. It ends with 0; with 1 where what was asked could
not be done, and 2 where it was not typed as it can be, both with one sentence on stderr. The command line
``regaudit`` takes its options and its endings from here too.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import click

from regaudit.errors import RegauditError, UsageError
from regaudit.log import show_log
from regaudit.reference import RegistryName
from regaudit.text import clean

if TYPE_CHECKING:
    from regaudit.client.registry import Registry

# What a script is given: a function from a registry's name, typed or parsed, to a `Registry`.
Connect: TypeAlias = "Callable[[str | RegistryName], Registry]"

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Command(click.Command):
    """A command that ends in one sentence and an exit status, never in a traceback."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Read what was typed; what cannot be read ends the process."""
        try:
            return super().make_context(*arguments, **options)
        except click.UsageError as error:
            _show_usage(error, self.name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; its errors end the process."""
        try:
            with _warnings_as_sentences(self.name):
                return super().invoke(ctx)
        except click.UsageError as error:
            _show_usage(error, self.name)
        except UsageError as error:
            fail(error, 2, self.name)
        except RegauditError as error:
            fail(error, 1, self.name)
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            named = f"{clean(error.filename, 200)}: " if error.filename else ""
            fail(f"{named}{clean(error.strerror or error, 200)}", 1, self.name)
        except KeyboardInterrupt:
            fail("interrupted", 1, self.name)


class Group(Command, click.Group):
    """A group whose commands end as a `Command` does."""


def fail(message: object, status: int, program: str | None) -> NoReturn:
    """Say on stderr what went wrong, and end the process."""
    click.echo(f"{program}: {clean(message)}", err=True)
    sys.exit(status)


def _show_usage(error: click.UsageError, program: str | None) -> NoReturn:
    """Say in one line what was typed wrong, and how it is typed."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError) or error.ctx is None:
        raise error
    how = " ".join([error.ctx.command_path, *error.ctx.command.collect_usage_pieces(error.ctx)])
    said = error.format_message()
    end = "" if said.endswith((".", "?")) else "."
    fail(f"{said}{end} Write {how}, or -h for help", 2, program)


def script(function: Callable[..., Any]) -> click.Command:
    """Make a function a command that is given ``connect``, and prints what it returns as JSON."""
    return _command(connection_options(prompts=True)(function))


def script_without_registry(function: Callable[..., Any]) -> click.Command:
    """Make a function that asks no registry a command, and print what it returns as JSON."""
    return _command(log_options(function))


def _command(function: Callable[..., Any]) -> click.Command:
    @wraps(function)
    def printing(*arguments: Any, **options: Any) -> None:
        click.echo(json.dumps(function(*arguments, **options), indent=4))

    return click.command(function.__name__, cls=Command, context_settings=SETTINGS)(printing)


# -- options ---------------------------------------------------------------------------------


def log_options(function: Callable[..., Any]) -> Any:
    """Add ``-v`` and ``--log-json``, which show the log while the command runs."""

    @wraps(function)
    def logging(*arguments: Any, verbose: int, log_json: bool, **options: Any) -> Any:
        if verbose or log_json:
            show_log(verbose, as_json=log_json)
        return function(*arguments, **options)

    return _with_options(
        logging,
        click.option("-v", "--verbose", count=True, help="Log each request and response to stderr; -vv bodies too."),
        click.option("--log-json", is_flag=True, help="Log as lines of JSON."),
    )


def connection_options(*, prompts: bool) -> Callable[[Callable[..., Any]], Any]:
    """Add the options of everything that talks to a registry, handed on as one factory ``connect``.

    Parameters
    ----------
    prompts : bool
        Whether ``-u`` alone asks for the password on the terminal, or is an error: what runs
        unattended must not wait for somebody.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def connecting(
            *arguments: Any,
            username: str | None,
            password: str | None,
            password_stdin: bool,
            insecure: bool,
            ca: str | None,
            plain_http: bool,
            **options: Any,
        ) -> Any:
            secret = _password(username, password, from_stdin=password_stdin, prompts=prompts)
            connect = partial(
                open_registry, username=username, password=secret, insecure=insecure, ca=ca, plain_http=plain_http
            )
            return function(*arguments, connect=connect, **options)

        hidden = "; without it, -u asks for it" if prompts else ""
        return _with_options(
            log_options(connecting),
            click.option(
                "-u", "--username", metavar="USER", help="Log in as; otherwise as docker's configuration says."
            ),
            click.option(
                "-p",
                "--password",
                metavar="PASSWORD",
                help=f"Others on this machine may see it; - reads stdin{hidden}.",
            ),
            click.option("--password-stdin", is_flag=True, help="Read the password from the first line of stdin."),
            click.option("-k", "--insecure", is_flag=True, help="Do not verify the certificate."),
            click.option("--ca", metavar="FILE", help="Verify against this file of certificate authorities."),
            click.option("--plain-http", is_flag=True, help="Speak http, not https (always so for this machine)."),
        )

    return decorate


def open_registry(name: str | RegistryName, **options: Any) -> Registry:
    """Return a `Registry` by what was typed, or by what that was parsed to."""
    from regaudit.client.registry import Registry

    return Registry(name.address if isinstance(name, RegistryName) else name, **options)


def _with_options(function: Callable[..., Any], *options: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    for option in reversed(options):
        function = option(function)
    return function


# -- passwords and warnings ------------------------------------------------------------------


def _password(username: str | None, password: str | None, *, from_stdin: bool, prompts: bool) -> str | None:
    if password is not None and from_stdin:
        raise UsageError("-p and --password-stdin are two passwords: give one of them")
    if username is None and (password is not None or from_stdin):
        raise UsageError("a password goes with a user name: write -u USER")
    if from_stdin or password == "-":  # noqa: S105 -- no password, but where it is to be found
        return sys.stdin.readline().rstrip("\r\n")
    if username is None or password is not None:
        return password
    if not prompts:
        raise UsageError("a user name and a password go together: write -u USER --password-stdin")
    from regaudit.client.asking import ask_password

    return ask_password(f"Password for {clean(username, 80)}: ", instead="write -u USER --password-stdin")


@contextmanager
def _warnings_as_sentences(program: str | None) -> Iterator[None]:
    """Show a warning as a sentence on stderr, without the line of code that it came from."""

    def show(message: Warning | str, *_where: Any, **_more: Any) -> None:
        click.echo(f"{program}: {clean(message)}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
