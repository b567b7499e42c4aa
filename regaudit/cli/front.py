"""What every command of the command line has: the group, options that several share, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from regaudit._version import __version__
from regaudit.errors import UsageError
from regaudit.script import SETTINGS, Group, connection_options, fail, log_options

if TYPE_CHECKING:
    import pandas as pd

    from regaudit.inventory.snapshot import Snapshot

F = TypeVar("F", bound=Callable[..., Any])

end = partial(fail, program="regaudit")


# In the order in which a person meets them.
SECTIONS = {
    "See": ("audit", "report", "stale", "duplicates", "findings", "diff"),
    "Decide": ("expired", "explain", "plan", "approve"),
    "Delete, and put back": ("apply", "verify", "undo", "backup", "restore", "journal"),
    "Unattended": ("clean",),
    "Beside": ("demo", "sandbox", "cache"),
}
# Longer than any first sentence: none is cut.
_LONGEST_SENTENCE = 200


class _Front(Group):
    """The group of all commands, listed by what they are for."""

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list for each section."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                commands = [self.commands[name] for name in names]
                formatter.write_dl([(str(c.name), c.get_short_help_str(_LONGEST_SENTENCE)) for c in commands])


@click.group("regaudit", cls=_Front, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="regaudit")
@log_options
def main() -> None:
    """See what is in a container registry, decide what can go, and delete exactly that.

    \b
    The usual way:
      regaudit audit registry.example.com --out audit        read it into CSV files and a snapshot
      regaudit report audit/snapshot --out audit/report      plots and one HTML page
      regaudit stale audit/snapshot --older-than 180D        what is old
      regaudit plan audit/snapshot --older-than 180D --keep-latest 5 --out plan.json
      regaudit approve plan.json --by "Ada Lovelace"         after reading it
      regaudit apply plan.json                               delete; prints the name of the run
      regaudit undo RUN                                      put it back, until garbage is collected
      regaudit clean registry.example.com --policy policy.toml   all of it unattended, by a policy

    Try it without a registry: regaudit demo
    """  # noqa: D301 -- click looks for the character itself, not for its two letters


def finish(*, bad: bool, strict: bool, why: str) -> None:
    """End with 1 where the user wants results that are not all well to be failures."""
    if bad and strict:
        end(f"{why}, and --strict was given", 1)


# -- options that several commands share -----------------------------------------------------


# Nothing here asks: what is typed once today runs unattended tomorrow.
connection = connection_options(prompts=False)


def rule_options(command: F) -> F:
    """Add the options that say what is stale, handed on as one dict ``rule``."""

    @wraps(command)
    def with_rule(
        *arguments: Any,
        older_than: str | None,
        keep_latest: int | None,
        clock: str,
        match: tuple[str, ...],
        **options: Any,
    ) -> Any:
        rule = {"older_than": older_than, "keep_latest": keep_latest, "clock": clock, "match": match or None}
        return command(*arguments, rule=rule, **options)

    decorators = [
        click.option("--older-than", metavar="AGE", help="Only what is older: 180D, 12h, 2w."),
        click.option(
            "--keep-latest",
            type=click.IntRange(min=0),
            metavar="N",
            help="Keep the newest N images of each repository.",
        ),
        click.option("--clock", type=click.Choice(["created", "pushed"]), default="created", show_default=True),
        click.option("--match", multiple=True, metavar="PATTERN", help="Only tags like this (pr-*); may be repeated."),
    ]
    for decorate in reversed(decorators):
        with_rule = decorate(with_rule)
    return with_rule  # type: ignore[return-value]  # its options are other ones than the command's


strict_option = click.option("--strict", is_flag=True, help="Exit 1 where anything was not read, refused or skipped.")
protect_option = click.option(
    "--protect", multiple=True, metavar="PATTERN", help="Tags like this never go; may be repeated."
)
snapshot_argument = click.argument("snapshot_folder", metavar="SNAPSHOT")
cache_option = click.option(
    "--cache",
    "cache_folder",
    metavar="DIR",
    help="Where what was read is remembered; the user's cache folder by default.",
)


def cache_options(command: F) -> F:
    """Add ``--cache`` and ``--no-cache``, handed on as one value ``cache``, as `collect` takes it."""

    @wraps(command)
    def with_cache(*arguments: Any, cache_folder: str | None, no_cache: bool, **options: Any) -> Any:
        if no_cache and cache_folder is not None:
            raise UsageError("--cache and --no-cache contradict each other: give one of them")
        return command(*arguments, cache=None if no_cache else cache_folder or True, **options)

    forgetful = click.option("--no-cache", is_flag=True, help="Read everything again, and remember nothing.")
    return cache_option(forgetful(with_cache))  # type: ignore[return-value]  # its options are other ones than the command's


journal_option = click.option(
    "--journal", "journal_path", metavar="FILE", help="The record of deletions; one for each registry by default."
)


# -- what several commands do -----------------------------------------------------------------


def load_snapshot(folder: str) -> Snapshot:
    """Return the snapshot in a folder."""
    from regaudit.inventory.snapshot import Snapshot

    return Snapshot.load(folder)


def stale_of(snapshot: Snapshot, rule: dict[str, Any], protect: tuple[str, ...]) -> pd.DataFrame:
    """Return what the options of a rule call stale."""
    from regaudit.analysis.tags import stale_tags

    if rule["older_than"] is None and rule["keep_latest"] is None:
        raise UsageError("say what is stale: --older-than 180D, --keep-latest 5, or both")
    return stale_tags(snapshot, protect=protect, **rule)
