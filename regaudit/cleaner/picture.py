"""A picture of a plan: what each repository holds before and after it, and how many bytes come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from regaudit.analysis.drawing import (
    axes_of,
    byte_unit,
    check_top,
    ink_of,
    label_of,
    legend,
    nothing,
    plain,
    row_labels,
    titled,
)
from regaudit.analysis.footprint import Holders
from regaudit.cleaner.plan import Plan
from regaudit.cleaner.rows import DELETE_MANIFEST
from regaudit.errors import PlanError
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.stored import distinct
from regaudit.text import count_of, human_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_plan(plan: Plan, *, top: int = 15, ax: Axes | None = None) -> Axes:
    """Draw what the repositories of a plan hold before and after it, and what comes back.

    Parameters
    ----------
    plan : Plan
        Approved or not. One that was loaded from a file needs its snapshot:
        ``Plan.load(path, snapshot=Snapshot.load(folder))``.
    top : int
        How many repositories, those first in which the most comes back.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        A bar is all that a repository holds now: what stays, what it lets go and something else still holds,
        and what comes back after garbage collection. What two repositories let go together counts in the one
        that the plan deletes last, so that these parts add up to ``plan.reclaimable_bytes``.

    Raises
    ------
    PlanError
        The plan was loaded without its snapshot.
    UsageError
        `top` is no count.
    """
    count, title = check_top(top), "What the plan frees"
    if plan.snapshot is None:
        raise PlanError("the picture needs the plan's snapshot: Plan.load(path, snapshot=Snapshot.load(folder))")
    frame = _held(plan, plan.snapshot)
    if frame.empty:
        refused = count_of(len(plan.refused), "candidate is", "candidates are")
        return nothing(ax, title, f"No manifest would go; {refused} refused.")
    shown = frame.head(count)
    ax = axes_of(ax, height=2.0 + 0.34 * len(shown))
    ink = ink_of(ax)
    unit, size = byte_unit(max(shown["before"].max(), 1))
    stays, kept, freed = (shown[name].to_numpy("float64") / size for name in ("stays", "kept", "freed"))
    rows = np.arange(len(shown))
    ax.barh(rows, stays, height=0.74, color=ink.blue, label="stays")
    ax.barh(rows, kept, height=0.74, left=stays, color=ink.pale, label="let go; held, or freed, elsewhere")
    ax.barh(
        rows,
        freed,
        height=0.74,
        left=stays + kept,
        color=ink.orange,
        hatch="///",
        edgecolor=ink.ground,
        linewidth=0,
        label="comes back",
    )
    _amounts(ax, (stays + kept + freed), shown)
    row_labels(ax, [label_of(name) for name in shown["repository"]])
    ax.set_xlabel(f"manifests, configs and layers ({unit})")
    titled(ax, title, _said(plan, plan.snapshot, len(shown), len(frame)))
    plain(ax, grid="x")
    legend(ax)
    return ax


def _held(plan: Plan, snapshot: Snapshot) -> pd.DataFrame:
    """Return what each repository of the plan holds before it, keeps, and lets go; the most freed first."""
    going = pd.DataFrame(
        [(row.repository, row.digest, row.freed_bytes or 0) for row in plan.rows if row.action == DELETE_MANIFEST],
        columns=["repository", "digest", "freed"],
    )
    holders = Holders(snapshot)
    names = going["repository"].unique()
    table = snapshot.manifests
    mine = table[table["repository"].isin(names)]
    places = holders.places(mine)
    leaves = np.isin(places, holders.places(going))
    owner = mine["repository"].astype("object").to_numpy()
    records = []
    for name, freed in going.groupby("repository", sort=True)["freed"].sum().items():
        here = owner == name
        before = _bytes_of(holders, places[here])
        stays = _bytes_of(holders, places[here & ~leaves])
        # Claims of sizes can contradict each other; a part of a bar is never less than nothing.
        records.append((name, before, stays, max(before - stays - int(freed), 0), int(freed)))
    frame = pd.DataFrame(records, columns=["repository", "before", "stays", "kept", "freed"])
    return frame.sort_values(["freed", "repository"], ascending=[False, True], ignore_index=True)


def _bytes_of(holders: Holders, places: Any) -> int:
    items = distinct(holders.items_of_places(places[places >= 0]))
    sizes = holders.sizes[items]
    return int(sizes[sizes > 0].sum(dtype="float64"))


def _amounts(ax: Axes, lengths: Any, shown: pd.DataFrame) -> None:
    colour = ink_of(ax).text
    for row, (before, stays) in enumerate(zip(shown["before"], shown["stays"], strict=True)):
        where: Any = (lengths[row], row)
        text = f"{human_bytes(before)} → {human_bytes(stays)}"
        ax.annotate(text, where, (4, 0), textcoords="offset points", va="center", size=8, color=colour)
    ax.set_xlim(0, (float(lengths.max()) or 1.0) * 1.3)


def _said(plan: Plan, snapshot: Snapshot, shown: int, of: int) -> str:
    stored, back = snapshot.stored_bytes(), plan.reclaimable_bytes
    goes = f"{count_of(plan.tags, 'tag', 'tags')} on {count_of(plan.digests, 'digest', 'digests')} go"
    change = f"{plan.bytes_text(back)} come back: the registry {human_bytes(stored)} → {human_bytes(stored - back)}"
    which = f"the {shown} of {of} repositories in which most comes back" if of > shown else _repositories(of)
    return f"{goes}; {change}\n{which}, each before → after"


def _repositories(count: int) -> str:
    return count_of(count, "repository", "repositories")
