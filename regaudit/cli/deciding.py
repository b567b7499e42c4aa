"""Deciding: plans and their approval. Nothing here talks to a registry."""

from __future__ import annotations

import json
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
from regaudit.text import clean, count_of, owned_folder

if TYPE_CHECKING:
    import pandas as pd

    from regaudit.analysis.policy import Policy
    from regaudit.analysis.retention import Retention
    from regaudit.inventory.snapshot import Snapshot

_policy_option = click.option("--policy", "policy_file", required=True, metavar="FILE", help="The retention policy.")


@main.command()
@snapshot_argument
@click.option("-o", "--out", required=True, metavar="FILE", help="Where the plan goes.")
@click.option("--policy", "policy_file", metavar="FILE", help="A retention policy, instead of the options of a rule.")
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
    out: str,
    policy_file: str | None,
    candidates: str | None,
    include: tuple[str, ...],
    allow_empty: bool,
    untag: bool,
    strict: bool,
    protect: tuple[str, ...],
    rule: dict[str, Any],
) -> None:
    """Write a plan: what would be deleted, what goes along, what is refused and why. Deletes nothing."""
    from regaudit.analysis.policy import Policy
    from regaudit.cleaner.plan import plan as make_plan

    _check_one_way(policy_file, candidates, rule)
    snapshot = load_snapshot(snapshot_folder)
    if policy_file is not None:
        policy = Policy.load(policy_file)
        chosen, untag = _judged(snapshot, policy).expired, untag or policy.untag
    else:
        chosen = stale_of(snapshot, rule, protect) if candidates is None else _read_candidates(candidates)
    made = make_plan(snapshot, chosen, protect=protect, include=include, allow_empty=allow_empty, untag=untag)
    made.save(out)
    click.echo(made)
    if made.refused:
        click.echo("\nrefused:")
        refused = made.frame().dropna(subset="refusal")
        show(refused, ["repository", "tags", "refusal", "detail"])
    then = f"read it, then: regaudit approve {out} --by NAME" if made.rows else "nothing in it would go"
    click.echo(f"written: {out}; {then}")
    finish(bad=bool(made.refused), strict=strict, why="some candidates are refused")


def _check_one_way(policy: str | None, candidates: str | None, rule: dict[str, Any]) -> None:
    """Refuse more than one way to say what may go, of which one would silently not count."""
    typed = [f"--{name.replace('_', '-')}" for name, value in rule.items() if value is not None and name != "clock"]
    clock = click.get_current_context().get_parameter_source("clock")
    typed += ["--clock"] if clock is not None and clock.name == "COMMANDLINE" else []
    ways = [("--policy", policy), ("--candidates", candidates)]
    first, *others = [*(name for name, value in ways if value is not None), *typed] or [""]
    if others and first.startswith(("--policy", "--candidates")):
        raise UsageError(f"{first} says what may go, and so does {', '.join(others)}: give one of them")


def _judged(snapshot: Snapshot, policy: Policy) -> Retention:
    """Return what a policy says about a snapshot, and print it."""
    from regaudit.analysis.retention import retention

    found = retention(snapshot, policy)
    click.echo(found)
    return found


@main.command()
@snapshot_argument
@_policy_option
@click.option("--out", metavar="DIR", help="Write expired.csv and held.csv there.")
@click.option("--held", is_flag=True, help="List what the rules let go and something holds back, and why.")
def expired(snapshot_folder: str, policy_file: str, out: str | None, held: bool) -> None:
    """List the tags that a policy lets go, with the rule that condemns each."""
    from regaudit.analysis.policy import Policy
    from regaudit.inventory.spreadsheet import write_csv

    found = _judged(load_snapshot(snapshot_folder), Policy.load(policy_file))
    if out is not None:
        folder = owned_folder(out)
        for name, frame in (("expired", found.expired), ("held", found.held)):
            click.echo(f"{count_of(len(frame), 'row')} written to {write_csv(frame, folder / f'{name}.csv')}")
        return
    if held:
        show(found.held, ["repository", "tag", "rule", "held_by", "detail"])
    else:
        show(found.expired, ["repository", "tag", "created", "content_bytes", "rule", "reason"])


@main.command()
@snapshot_argument
@_policy_option
@click.argument("reference", metavar="REPOSITORY:TAG")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(snapshot_folder: str, policy_file: str, reference: str, as_json: bool) -> None:
    """Say what a policy means for one tag: which rule keeps or condemns it, and what would change that.

    A manifest without a tag is named REPOSITORY@DIGEST.
    """
    from regaudit.analysis.policy import Policy
    from regaudit.analysis.retention import explain as explain_tag

    found = explain_tag(load_snapshot(snapshot_folder), Policy.load(policy_file), reference)
    click.echo(json.dumps(found.to_dict(), indent=4) if as_json else found)


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
