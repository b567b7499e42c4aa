"""Deciding: plans and their approval. Nothing here talks to a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from regaudit.cli.front import (
    finish,
    load_snapshot,
    main,
    protect_option,
    rule_options,
    snapshot_argument,
    stale_of,
    strict_option,
)
from regaudit.cli.shown import show
from regaudit.errors import UsageError
from regaudit.text import clean

if TYPE_CHECKING:
    import pandas as pd


@main.command()
@snapshot_argument
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the plan goes.")
@click.option("--candidates", metavar="CSV", help="Rows of repository and tag, instead of a rule (stale.csv, edited).")
@click.option(
    "--include", multiple=True, metavar="DIGEST", help="This digest may go with all its tags; may be repeated."
)
@click.option("--allow-empty", is_flag=True, help="A repository may be left without tags.")
@click.option("--untag", is_flag=True, help="Let a tag go alone where its digest must stay, if the registry can.")
@strict_option
@protect_option
@rule_options
def plan(
    snapshot_folder: str,
    output: str,
    candidates: str | None,
    include: tuple[str, ...],
    allow_empty: bool,
    untag: bool,
    strict: bool,
    protect: tuple[str, ...],
    rule: dict[str, Any],
) -> None:
    """Write a plan: what would be deleted, what goes along, what is refused and why. Deletes nothing."""
    from regaudit.cleaner.plan import plan as make_plan

    snapshot = load_snapshot(snapshot_folder)
    chosen = stale_of(snapshot, rule, protect) if candidates is None else _read_candidates(candidates)
    made = make_plan(snapshot, chosen, protect=protect, include=include, allow_empty=allow_empty, untag=untag)
    made.save(output)
    click.echo(made)
    if made.refused:
        click.echo("\nrefused:")
        refused = made.frame().query("refusal != ''")
        show(refused, ["repository", "tags", "refusal", "detail"])
    click.echo(f"written: {output}; read it, then: regaudit approve {output} --by NAME")
    finish(bad=bool(made.refused), strict=strict, why="some candidates are refused")


def _read_candidates(path: str) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype="string", keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise UsageError(f"{clean(path)} is no table of candidates: {clean(error, 120)}") from None
    return frame[[name for name in ("registry", "repository", "tag", "digest", "reason") if name in frame.columns]]


@main.command()
@click.argument("plan_file", metavar="PLAN")
@click.option("--by", required=True, metavar="NAME", help="Who approves.")
@click.option("--reason", default="", metavar="TEXT", help="Why.")
def approve(plan_file: str, by: str, reason: str) -> None:
    """Approve a plan as it stands: your name, the time and the plan's hash are written into it."""
    from regaudit.cleaner.plan import Plan

    approved = Plan.load(plan_file).approve(by=by, reason=reason)
    approved.save(plan_file)
    click.echo(approved.headline())
    click.echo(f"approved by {clean(by, 200)}, plan {approved.hash[:12]}; now: regaudit apply {plan_file}")
