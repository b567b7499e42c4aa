"""Pictures of time: how old tags are, how storage grew, and when each tag of a repository came.

Only times that can be believed are drawn; how many are unknown is said, and unknown is never old.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from regaudit.analysis.drawing import (
    axes_of,
    byte_unit,
    check_top,
    date_axis,
    dates,
    ink_of,
    label_of,
    legend,
    nothing,
    plain,
    row_labels,
    titled,
)
from regaudit.analysis.tags import check_now, may_be_listed
from regaudit.errors import UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.stored import blob_sizes
from regaudit.text import clean, count_of, human_bytes, parse_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Up to so many days the bars are days, beyond that months.
_DAYS_AS_DAYS = 62
# A line of more points than a screen has columns takes long and looks the same.
_MOST_POINTS = 1500
_SHOWN_NAMES = 4
_UNSEEN = np.iinfo("int64").max


def plot_ages(
    snapshot: Snapshot,
    *,
    older_than: str | timedelta | None = None,
    now: datetime | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how many tags were created when; with `older_than`, which of them are older than that.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry. Signatures and attached tags are left out.
    older_than : str or timedelta, optional
        As for `regaudit.analysis.tags.stale_tags`; the cut is drawn as a line.
    now : datetime, optional
        The moment at which age is measured, with a time zone; by default ``snapshot.taken_at``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        `older_than` or `now` cannot be understood.
    """
    moment, limit = _moment(snapshot, now), None if older_than is None else parse_duration(older_than)
    tags = snapshot.tags[may_be_listed(snapshot.tags)]
    created = _plain_times(tags["created"].dropna())
    unknown = _unknown(len(tags) - len(created))
    if created.empty:
        return nothing(ax, "Tags by date of creation", unknown or "No tag was read.")
    ax = axes_of(ax, height=3.7)
    ink = ink_of(ax)
    edges, step = _bins(created.min(), max(created.max(), moment))
    said = [f"by {step}", unknown or "all of known age"]
    if limit is None:
        ax.bar(edges[:-1], _histogram(created, edges), width=np.diff(edges) * 0.9, align="edge", color=ink.blue)
    else:
        said.append(_draw_cut(ax, created, edges, moment - limit, _typed(older_than)))
    ax.set_ylabel("tags")
    ax.set_xlabel("date of creation (UTC)")
    _whole_numbers(ax)
    date_axis(ax, edges[0], edges[-1])
    titled(ax, f"{count_of(len(created), 'tag', 'tags')} by date of creation", "; ".join(said))
    plain(ax, grid="y")
    return ax


def plot_growth(
    snapshots: Snapshot | Sequence[Snapshot], *, now: datetime | None = None, ax: Axes | None = None
) -> Axes:
    """Draw how storage grew: over several readings what each found, of one what is there now by its first date.

    From one reading only what is still there can be drawn: a blob counts from the oldest image that holds it,
    and what was deleted since is not in the picture.

    Parameters
    ----------
    snapshots : Snapshot or sequence of Snapshot
        One reading of a registry, or several of the same one, in any order.
    now : datetime, optional
        Where the time axis of one reading ends, with a time zone; by default ``snapshot.taken_at``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        No snapshot is given, they are of several registries, or `now` has no time zone.
    """
    readings = [snapshots] if isinstance(snapshots, Snapshot) else list(snapshots)
    if not readings:
        raise UsageError("nothing to draw: give a snapshot, or several of one registry")
    if len(hosts := sorted({reading.registry for reading in readings})) > 1:
        raise UsageError(
            f"the snapshots are of several registries ({clean(', '.join(hosts), 200)}): draw one at a time"
        )
    if len(readings) > 1:
        return _growth_of_many(sorted(readings, key=lambda reading: reading.taken_at), ax)
    return _growth_of_one(readings[0], _moment(readings[0], now), ax)


def plot_timeline(
    snapshot: Snapshot,
    repository: str,
    *,
    top: int = 30,
    older_than: str | timedelta | None = None,
    now: datetime | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the tags of a repository on a time line, the newest on top; tags on one digest share a row.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry. Signatures and attached tags are left out.
    repository : str
        Its name.
    top : int
        How many rows, the newest first.
    older_than : str or timedelta, optional
        As for `regaudit.analysis.tags.stale_tags`; the cut is drawn as a line.
    now : datetime, optional
        The moment at which age is measured, with a time zone; by default ``snapshot.taken_at``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        A dot is when an image was created, a ring when it was pushed, where the registry tells.

    Raises
    ------
    UsageError
        The snapshot has no such repository, or another argument cannot be understood.
    """
    count, moment = check_top(top), _moment(snapshot, now)
    cut = None if older_than is None else moment - parse_duration(older_than)
    title = f"Tags of {label_of(_known(snapshot, repository), 60)}"
    listed = snapshot.tags[may_be_listed(snapshot.tags)]
    tags = listed[listed["repository"] == repository]
    unknown = _unknown(int(tags["created"].isna().sum()))
    rows = _by_digest(tags)
    if rows.empty:
        return nothing(ax, title, unknown or "No tag was read.")
    shown = rows.head(count)
    ax = axes_of(ax, height=1.8 + 0.27 * len(shown))
    _draw_rows(ax, shown, cut)
    if cut is not None:
        _cut_line(ax, cut, _typed(older_than))
    row_labels(ax, [_names(names) for names in shown["names"]])
    first, last = _span(shown, moment, cut)
    date_axis(ax, first, last)
    ax.set_xlabel("date of creation (UTC)")
    of = f"the {len(shown)} newest of {len(rows):,} digests" if len(rows) > len(shown) else f"{_digests(len(rows))}"
    titled(ax, title, "; ".join([f"{count_of(len(tags), 'tag', 'tags')}, {of}", *filter(None, [unknown])]))
    plain(ax, grid="x")
    if cut is not None or shown["pushed"].notna().any():
        legend(ax)
    return ax


# -- times ------------------------------------------------------------------------------------


def _moment(snapshot: Snapshot, now: datetime | None) -> pd.Timestamp:
    return check_now(snapshot.taken_at if now is None else now).tz_localize(None)


def _plain_times(times: pd.Series[Any]) -> pd.Series[Any]:
    """Return times as UTC without saying so, which is what matplotlib reckons with."""
    return times.dt.tz_convert("UTC").dt.tz_localize(None)


def _number(time: Any) -> Any:
    return dates().date2num(time)


def _typed(older_than: str | timedelta | None) -> str:
    return f"{older_than.days}D" if isinstance(older_than, timedelta) else clean(older_than, 20)


def _unknown(count: int) -> str:
    if not count:
        return ""
    return f"{count_of(count, 'tag', 'tags')} of unknown age {'is' if count == 1 else 'are'} not drawn"


# -- ages -------------------------------------------------------------------------------------


def _bins(first: pd.Timestamp, last: pd.Timestamp) -> tuple[Any, str]:
    """Return the edges of the bars as matplotlib's days, and what a bar is."""
    step, frequency = ("day", "D") if last - first <= timedelta(days=_DAYS_AS_DAYS) else ("month", "MS")
    start = first.normalize() if step == "day" else first.normalize().replace(day=1)
    edges = pd.date_range(start, last + timedelta(days=1 if step == "day" else 31), freq=frequency)
    return _number(edges.to_pydatetime()), step


def _whole_numbers(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _histogram(created: pd.Series[Any], edges: Any) -> Any:
    return np.histogram(_number(created.to_numpy()), bins=edges)[0]


def _draw_cut(ax: Axes, created: pd.Series[Any], edges: Any, cut: datetime, typed: str) -> str:
    """Draw both sides of a retention cut and return what it says."""
    ink = ink_of(ax)
    older = created < cut
    counts = [_histogram(created[side], edges) for side in (older, ~older)]
    left, width = edges[:-1], np.diff(edges) * 0.9
    # Hatched as well as coloured: the two sides are told apart in print too.
    ax.bar(
        left,
        counts[0],
        width=width,
        align="edge",
        color=ink.orange,
        hatch="///",
        edgecolor=ink.ground,
        linewidth=0,
        label="older",
    )
    ax.bar(left, counts[1], bottom=counts[0], width=width, align="edge", color=ink.blue, label="not older")
    _cut_line(ax, cut, typed)
    legend(ax)
    return f"{count_of(int(older.sum()), 'tag is', 'tags are')} older than {typed} ({cut:%Y-%m-%d})"


def _cut_line(ax: Axes, cut: datetime, typed: str) -> None:
    colour = ink_of(ax).text
    ax.axvline(_number(cut), color=colour, linewidth=1.2, linestyle="--", label=f"{typed} before the reading")


# -- growth -----------------------------------------------------------------------------------


def _growth_of_one(snapshot: Snapshot, moment: pd.Timestamp, ax: Axes | None) -> Axes:
    title = "Growth of what is stored now"
    first, sizes = _first_seen(snapshot)
    there = sizes > 0
    dated = there & (first < _UNSEEN)
    undated = int(sizes[there & ~dated].sum(dtype="float64"))
    unsized = _unsized(snapshot)
    if not dated.any():
        why = f"Of {human_bytes(undated)} no date is known." if undated else "Nothing of known size was read."
        return nothing(ax, title, why)
    order = np.argsort(first[dated], kind="stable")
    times, grown = first[dated][order], np.cumsum(sizes[dated][order], dtype="float64")
    ends = np.append(np.flatnonzero(np.diff(times)), len(times) - 1)
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, _MOST_POINTS).astype(int))]
    days = _number(times[ends].astype("datetime64[us]"))
    ax = axes_of(ax, height=3.7)
    last = max(float(_number(moment)), float(days[-1]))
    unit, size = byte_unit(grown[-1])
    _draw_area(ax, np.append(days, last), np.append(grown[ends], grown[-1]) / size)
    _dated_span(ax, float(days[0]), last)
    ax.set_ylabel(unit)
    said = [f"{human_bytes(grown[-1])} by the oldest image that holds each blob; what was deleted is not seen"]
    said += [f"of unknown date, not drawn: {human_bytes(undated)}"] if undated else []
    titled(ax, title, "\n".join([said[0], "; ".join([*said[1:], *unsized])]).strip())
    plain(ax, grid="y")
    return ax


def _growth_of_many(readings: list[Snapshot], ax: Axes | None) -> Axes:
    stored = np.array([reading.stored_bytes() for reading in readings], dtype="float64")
    complete = np.array([reading.complete for reading in readings])
    ax = axes_of(ax, height=3.7)
    ink = ink_of(ax)
    unit, size = byte_unit(stored.max())
    days = np.array([float(_number(_moment(reading, None))) for reading in readings])
    ax.fill_between(days, stored / size, color=ink.blue, alpha=0.18, linewidth=0)
    ax.plot(days, stored / size, color=ink.blue, linewidth=1.6)
    ax.plot(days[complete], stored[complete] / size, "o", color=ink.blue, label="read completely")
    if not complete.all():
        style: dict[str, Any] = {"color": ink.blue, "markerfacecolor": ink.ground, "label": "not fully read: at least"}
        ax.plot(days[~complete], stored[~complete] / size, "o", **style)
        legend(ax)
    ax.set_ylim(0, float(stored.max()) / size * 1.12 or 1)
    _dated_span(ax, days[0], days[-1])
    ax.set_ylabel(unit)
    change = stored[-1] - stored[0]
    grew = f"{'+' if change >= 0 else '-'}{human_bytes(abs(change))} from the first to the last"
    titled(ax, "Growth of what is stored", f"{len(readings)} readings; {human_bytes(stored[-1])} at the last; {grew}")
    plain(ax, grid="y")
    return ax


def _draw_area(ax: Axes, days: Any, amounts: Any) -> None:
    ink = ink_of(ax)
    ax.fill_between(days, amounts, step="post", color=ink.blue, alpha=0.18, linewidth=0)
    ax.step(days, amounts, where="post", color=ink.blue, linewidth=1.6)
    ax.set_ylim(0, float(amounts[-1]) * 1.08)


def _dated_span(ax: Axes, first: float, last: float) -> None:
    margin = max((last - first) * 0.02, 0.5)
    date_axis(ax, first - margin, last + margin)
    ax.set_xlabel("date (UTC)")


def _first_seen(snapshot: Snapshot) -> tuple[Any, Any]:
    """Return by digest's code when the oldest holder of known age was created, in microseconds, and the bytes."""
    manifests, blobs, children = snapshot.manifests, snapshot.blobs, snapshot.children
    sizes = blob_sizes(snapshot, with_manifests=True)
    created = manifests["created"]
    known = created.notna().to_numpy()
    first = np.full(len(sizes) + 1, _UNSEEN)
    code = manifests["digest"].cat.codes.to_numpy()[known]
    np.minimum.at(first, code, created.to_numpy("datetime64[us]")[known].astype("int64"))
    when = first.copy()
    when[-1] = _UNSEEN  # where a missing code, -1, looks
    for holder, held in ((blobs["manifest_digest"], blobs["digest"]), (children["index_digest"], children["digest"])):
        np.minimum.at(first, held.cat.codes.to_numpy(), when[holder.cat.codes.to_numpy()])
    return first[:-1], sizes


def _unsized(snapshot: Snapshot) -> list[str]:
    codes = np.unique(snapshot.blobs["digest"].cat.codes)
    unknown = int((blob_sizes(snapshot)[codes[codes >= 0]] < 0).sum())
    said = [f"blobs of unknown size, not counted: {unknown:,}"] if unknown else []
    return said if snapshot.complete else [*said, "not everything was read"]


# -- the time line ----------------------------------------------------------------------------


def _known(snapshot: Snapshot, repository: str) -> str:
    if repository in snapshot.repositories:
        return repository
    near = get_close_matches(str(repository), snapshot.repositories, n=3)
    names = ", ".join(near or snapshot.repositories[:3]) or "none"
    raise UsageError(
        f"the snapshot has no repository {clean(repository, 160)!r}: it has for example {clean(names, 300)}"
    )


def _by_digest(tags: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each digest of known age, the newest first: names, created, pushed."""
    tags = tags[tags["created"].notna()]
    held = (
        tags["digest"].astype("object").fillna(tags["image_id"].astype("object")).fillna(tags["tag"].astype("object"))
    )
    rows = tags.assign(held=held.astype(str)).groupby("held", sort=False)
    frame = rows.agg(names=("tag", list), created=("created", "min"), pushed=("pushed", "max")).reset_index()
    return frame.sort_values(["created", "held"], ascending=[False, True], ignore_index=True)


def _draw_rows(ax: Axes, rows: pd.DataFrame, cut: datetime | None) -> None:
    ink = ink_of(ax)
    created, places = _plain_times(rows["created"]), np.arange(len(rows))
    older = np.zeros(len(rows), dtype=bool) if cut is None else (created < cut).to_numpy()
    days = _number(created.to_numpy())
    pushed = rows["pushed"].notna().to_numpy()
    if pushed.any():
        later = _number(_plain_times(rows["pushed"][pushed]).to_numpy())
        ax.hlines(places[pushed], days[pushed], later, color=ink.pale, linewidth=1.4, zorder=1)
        ax.plot(later, places[pushed], "o", color=ink.blue, markerfacecolor="none", markersize=6, label="pushed")
    for side, colour, mark, meaning in ((~older, ink.blue, "o", "created"), (older, ink.orange, "X", "created, older")):
        if side.any():
            ax.plot(days[side], places[side], mark, color=colour, markersize=6, label=meaning)


def _names(names: list[str]) -> str:
    # As people read them: the longest version says most, and comes first.
    ordered = sorted(map(str, names), key=lambda name: (-name.count("."), name))
    shown = ", ".join(label_of(name, 30) for name in ordered[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return label_of(shown, 46) + (f" +{more}" if more > 0 else "")


def _digests(count: int) -> str:
    return f"on {count_of(count, 'digest', 'digests')}"


def _span(rows: pd.DataFrame, moment: pd.Timestamp, cut: datetime | None) -> tuple[float, float]:
    times = [*_plain_times(rows["created"]), *_plain_times(rows["pushed"].dropna()), moment]
    times += [pd.Timestamp(cut)] if cut is not None else []
    first, last = float(_number(min(times))), float(_number(max(times)))
    margin = max((last - first) * 0.03, 0.5)
    return first - margin, last + margin
