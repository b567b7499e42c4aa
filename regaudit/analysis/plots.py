"""Three pictures of a Snapshot: who holds the bytes, how old the tags are, who shares layers.

Matplotlib is imported when a picture is first asked for. Every function draws on the axes given,
without pyplot, and returns them; without axes it makes a figure that a notebook shows by itself.
Names come from a registry: they are drawn as plain text, never read as formulas, and long ones are
cut in the middle.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from regaudit.analysis.footprint import footprint, shared_layers
from regaudit.analysis.tags import may_be_listed
from regaudit.errors import UsageError
from regaudit.inventory.snapshot import Snapshot
from regaudit.text import clean, human_bytes, parse_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which every kind of colour vision tells apart; the pale blue is the same
# hue as the blue, for the lighter half of one bar.
_BLUE, _PALE, _ORANGE, _GREY = "#0072B2", "#A9D3EC", "#D55E00", "#6B6B6B"
_LONGEST_LABEL = 34
# Up to so many days the bars are days, beyond that months.
_DAYS_AS_DAYS = 62


def plot_storage(snapshot: Snapshot, ax: Axes | None = None, top: int = 15) -> Axes:
    """Draw the bytes of configs and layers that each repository holds, alone and together with others.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    top : int
        How many repositories, the largest first.

    Returns
    -------
    matplotlib.axes.Axes
    """
    frame = footprint(snapshot)
    shown = frame[frame["content_bytes"] > 0].head(_check_top(top))
    if shown.empty:
        return _nothing(ax, "Storage by repository", "No repository holds anything that was read.")
    ax = _axes(ax, height=1.7 + 0.34 * len(shown))
    unit, size = _byte_unit(shown["content_bytes"].max())
    unique, shared = (shown[name].to_numpy("float64") / size for name in ("unique_bytes", "shared_bytes"))
    rows = np.arange(len(shown))
    ax.barh(rows, unique, color=_BLUE, label="in this repository only")
    ax.barh(rows, shared, left=unique, color=_PALE, label="shared with other repositories")
    for row, total in enumerate(shown["content_bytes"]):
        ax.annotate(
            human_bytes(total),
            (unique[row] + shared[row], row),
            (4, 0),
            textcoords="offset points",
            va="center",
            size=8,
        )
    ax.set_yticks(rows, [_label(name) for name in shown["repository"]], parse_math=False)
    ax.invert_yaxis()
    ax.set_xlim(0, float((unique + shared).max()) * 1.14)
    ax.set_xlabel(f"configs and layers ({unit})")
    rest = len(frame) - len(shown)
    which = (
        f"the {len(shown)} largest of {len(frame)} repositories"
        if rest
        else _count(len(shown), "repository", "repositories")
    )
    _title(
        ax, "Storage by repository", f"{which}; {human_bytes(snapshot.stored_bytes())} stored in all, shared bytes once"
    )
    _plain(ax, grid="x")
    ax.legend(loc="lower right", frameon=False, fontsize=8)
    return ax


def plot_ages(snapshot: Snapshot, ax: Axes | None = None, older_than: str | timedelta | None = None) -> Axes:
    """Draw how many tags were created when; with `older_than`, which of them are older than that.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry. Signatures and attached tags are left out.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    older_than : str or timedelta, optional
        As for `regaudit.analysis.tags.stale_tags`; drawn as a line, measured at ``taken_at``.

    Returns
    -------
    matplotlib.axes.Axes
    """
    tags = snapshot.tags[may_be_listed(snapshot.tags)]
    created = tags["created"].dropna().dt.tz_convert("UTC").dt.tz_localize(None)
    unknown = _unknown(len(tags) - len(created))
    if created.empty:
        return _nothing(ax, "Tags by date of creation", unknown or "No tag was read.")
    ax = _axes(ax, height=3.6)
    taken = pd.Timestamp(snapshot.taken_at).tz_convert("UTC").tz_localize(None)
    edges, step = _bins(created.min(), max(created.max(), taken))
    left, width = edges[:-1], np.diff(edges)
    said = [f"by {step}", unknown] if unknown else [f"by {step}, all of known age"]
    if older_than is None:
        ax.bar(left, _histogram(created, edges), width=width * 0.9, align="edge", color=_BLUE)
    else:
        said.append(_draw_cut(ax, created, edges, taken - parse_duration(older_than), str(older_than)))
    ax.set_ylabel("tags")
    ax.set_xlabel("date of creation (UTC)")
    _whole_numbers(ax)
    _date_axis(ax, edges)
    _title(ax, f"{_count(len(created), 'tag', 'tags')} by date of creation", "; ".join(said))
    _plain(ax, grid="y")
    return ax


def plot_sharing(snapshot: Snapshot, ax: Axes | None = None, top: int = 12) -> Axes:
    """Draw how many bytes of layers each pair of repositories holds together.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    top : int
        How many repositories, those that share the most first.

    Returns
    -------
    matplotlib.axes.Axes
    """
    title = "Layers shared between repositories"
    frame = footprint(snapshot)
    sharing = frame[frame["shared_bytes"] > 0].sort_values(["shared_bytes", "repository"], ascending=[False, True])
    names = [str(name) for name in sharing["repository"].head(_check_top(top))]
    matrix = shared_layers(snapshot, names)
    np.fill_diagonal(matrix, 0)
    if not matrix.any():
        return _nothing(ax, title, "No two repositories share a layer.")
    ax = _axes(ax, height=1.9 + 0.42 * len(names))
    unit, size = _byte_unit(matrix.max())
    below = np.ma.masked_array(matrix / size, mask=np.triu(np.ones_like(matrix, dtype=bool)))[1:, :-1]
    image = ax.pcolormesh(below, cmap="Blues", vmin=0, edgecolors="white", linewidth=2)
    ax.invert_yaxis()
    _write_cells(ax, below)
    ax.set_yticks(np.arange(len(names) - 1) + 0.5, [_label(name) for name in names[1:]], parse_math=False)
    columns = [_label(name, 22) for name in names[:-1]]
    ax.set_xticks(
        np.arange(len(names) - 1) + 0.5, columns, rotation=35, ha="right", rotation_mode="anchor", parse_math=False
    )
    ax.figure.colorbar(image, ax=ax, label=f"layers held by both ({unit})", shrink=0.9)
    of = f"the {len(names)} that share most, of {len(sharing)}" if len(sharing) > len(names) else "each pair once"
    _title(ax, title, f"in {unit}; {of}; an empty cell: nothing shared")
    _plain(ax, grid=None)
    return ax


# -- figures ----------------------------------------------------------------------------------


def _check_top(top: int) -> int:
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise UsageError(f"top={clean(repr(top), 40)} is not a count: write 1, 2, 3 …")
    return top


def _axes(ax: Axes | None, height: float) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(8.5, height), layout="constrained")[1]


def _nothing(ax: Axes | None, title: str, sentence: str) -> Axes:
    ax = _axes(ax, height=2.2)
    ax.set_axis_off()
    ax.text(0.5, 0.5, sentence, ha="center", va="center", color=_GREY, transform=ax.transAxes, parse_math=False)
    _title(ax, title, "")
    return ax


def _title(ax: Axes, title: str, subtitle: str) -> None:
    ax.set_title(title, loc="left", weight="bold", size=11, pad=22 if subtitle else 8, parse_math=False)
    ax.annotate(
        subtitle,
        (0, 1),
        (0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        size=9,
        color=_GREY,
        parse_math=False,
    )


def _plain(ax: Axes, grid: Any) -> None:
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(length=0, labelsize=8.5)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color="#DDDDDD", linewidth=0.7)
    else:
        ax.spines["bottom"].set_visible(False)


def _label(name: object, limit: int = _LONGEST_LABEL) -> str:
    """Return a name for an axis: plain ASCII, as valid names are (others may lack a glyph), cut in the middle."""
    text = clean(name).encode("ascii", "replace").decode()
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _byte_unit(largest: Any) -> tuple[str, float]:
    """Return the unit in which the largest value has at least one whole digit, and its bytes."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = min(int(np.log2(max(float(largest), 1.0)) // 10), len(units) - 1)
    return units[power], 1024.0**power


# -- ages -------------------------------------------------------------------------------------


def _unknown(count: int) -> str:
    if not count:
        return ""
    return f"{_count(count, 'tag', 'tags')} of unknown age {'is' if count == 1 else 'are'} not drawn"


def _bins(first: pd.Timestamp, last: pd.Timestamp) -> tuple[Any, str]:
    """Return the edges of the bars as matplotlib's days, and what a bar is."""
    step, frequency = ("day", "D") if last - first <= timedelta(days=_DAYS_AS_DAYS) else ("month", "MS")
    start = first.normalize() if step == "day" else first.normalize().replace(day=1)
    edges = pd.date_range(start, last + timedelta(days=1 if step == "day" else 31), freq=frequency)
    return _dates().date2num(edges.to_pydatetime()), step


def _dates() -> Any:
    """Return `matplotlib.dates`, of which only a half is typed."""
    from matplotlib import dates

    return dates


def _whole_numbers(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _histogram(created: pd.Series[Any], edges: Any) -> Any:
    return np.histogram(_dates().date2num(created.to_numpy()), bins=edges)[0]


def _draw_cut(ax: Axes, created: pd.Series[Any], edges: Any, cut: datetime, typed: str) -> str:
    """Draw both sides of a retention cut and return what it says."""
    older = created < cut
    counts = [_histogram(created[side], edges) for side in (older, ~older)]
    left, width = edges[:-1], np.diff(edges) * 0.9
    # Hatched as well as coloured: the two sides are told apart in print too.
    ax.bar(
        left,
        counts[0],
        width=width,
        align="edge",
        color=_ORANGE,
        hatch="///",
        edgecolor="white",
        linewidth=0,
        label="older",
    )
    ax.bar(left, counts[1], bottom=counts[0], width=width, align="edge", color=_BLUE, label="not older")
    ax.axvline(
        _dates().date2num(cut),
        color="black",
        linewidth=1.2,
        linestyle="--",
        label=f"{clean(typed, 20)} before the reading",
    )
    ax.legend(frameon=False, fontsize=8, loc="best")
    return f"{_count(int(older.sum()), 'tag is', 'tags are')} older than {clean(typed, 20)} ({cut:%Y-%m-%d})"


def _date_axis(ax: Axes, edges: Any) -> None:
    dates = _dates()
    locator = dates.AutoDateLocator(minticks=3, maxticks=9)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, show_offset=False))
    ax.set_xlim(edges[0], edges[-1])


# -- sharing ----------------------------------------------------------------------------------


def _write_cells(ax: Axes, cells: Any) -> None:
    """Write each number into its cell, in the colour that is read on it."""
    half = cells.max() * 0.65
    for row, column in np.argwhere(~np.ma.getmaskarray(cells) & (cells.filled(0) > 0)):
        value = cells[row, column]
        colour = "white" if value > half else "black"
        number = f"{value:.3g}" if value >= 0.01 else "<0.01"
        ax.text(column + 0.5, row + 0.5, number, ha="center", va="center", size=8, color=colour)
