"""Standing approvals: whether the one that a policy carries covers a plan, and the plan with it. Pure.

Somebody approved in advance, with limits. A plan within all of them is approved as if they had read it;
of any other nothing is approved, not a part of it either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from regaudit.analysis.policy import Policy, StandingApproval
from regaudit.cleaner.plan import Plan
from regaudit.cleaner.rows import PUT_INDEX
from regaudit.errors import PlanError
from regaudit.inventory.snapshot import Snapshot
from regaudit.text import clean


def approve_in_advance(plan: Plan, policy: Policy, at: datetime | None = None) -> Plan:
    """Return a plan with the standing approval of the policy that it was made of.

    Parameters
    ----------
    plan : Plan
        As `plan` returned it, with its snapshot.
    at : datetime, optional
        When; now unless given.

    Raises
    ------
    PlanError
        The policy carries no approval, its last day has passed, or the plan exceeds a limit of it.
    """
    moment = at or datetime.now(UTC)
    approval = policy.approval
    if approval is None:
        raise PlanError("the policy carries no approval for runs that nobody watches ([approval])")
    if approval.expired(moment):
        raise PlanError(f"the standing approval of {clean(approval.by, 200)} was given until {approval.until}")
    if exceeded := next(_exceeded(plan, approval), None):
        raise PlanError(f"the standing approval of {clean(approval.by, 200)} does not cover the plan: {exceeded}")
    return plan.approve(by=approval.by, reason=approval.reason, at=moment, policy_hash=policy.hash)


def _exceeded(plan: Plan, approval: StandingApproval) -> Iterator[str]:
    """Yield a sentence for each limit that a plan exceeds."""
    snapshot = plan.snapshot
    if snapshot is None:
        raise PlanError("the plan's snapshot is needed to measure it: make the plan again")
    going = Counter(row.repository for row in plan.rows if row.action != PUT_INDEX)
    read = _manifests(snapshot)
    yield from _over("it", going.total(), read.total(), approval.maximum_deletions, approval.maximum_percent, "")
    most, percent = approval.maximum_deletions_per_repository, approval.maximum_percent_per_repository
    for repository, count in sorted(going.items()):
        yield from _over(clean(repository, 255), count, read[repository], most, percent, "_per_repository")


def _over(what: str, count: int, of: int, most: int | None, percent: float | None, where: str) -> Iterator[str]:
    loses = "has" if what == "it" else "would lose"
    if most is not None and count > most:
        yield f"{what} {loses} {count:,} deletions, and maximum_deletions{where} = {most:,}"
    if percent is not None and count * 100 > percent * of:
        share = f"{count:,} of {of:,} manifests ({count * 100 / max(of, 1):.1f} %)"
        yield f"{what} {loses} {share}, and maximum_percent{where} = {percent:g}"


def _manifests(snapshot: Snapshot) -> Counter[str]:
    return Counter({str(name): int(n) for name, n in snapshot.manifests["repository"].value_counts().items()})


__all__ = ["approve_in_advance"]
