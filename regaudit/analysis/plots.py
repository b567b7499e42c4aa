"""Pictures of what is stored: by repository, by layer, and what repositories share.

Matplotlib is imported when a picture is first asked for. Every function draws on the axes given and returns
them; without axes it makes a figure. Names come from a registry: they are drawn as plain text, never read as
formulas, and long ones are cut in the middle. Bytes that are not known are said, and never counted as 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from regaudit.analysis.drawing import (
    ALIKE,
    Ink,
    axes_of,
    byte_unit,
    check_top,
    ink_of,
    label_of,
    legend,
    lightness,
    nothing,
    plain,
    row_labels,
    titled,
)
from regaudit.analysis.footprint import footprint, shared_layers
from regaudit.analysis.largest import largest_layers
from regaudit.inventory.snapshot import Snapshot
from regaudit.inventory.stored import blob_sizes, total
from regaudit.text import clean, count_of, human_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OF_V1 = "The v1 interface does not tell what images share: see content_bytes of each tag."


def plot_storage(snapshot: Snapshot, *, top: int = 15, ax: Axes | None = None) -> Axes:
    """Draw the bytes of configs and layers that each repository holds, alone and together with others.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    top : int
        How many repositories, the largest first.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        `top` is no count.
    """
    title, count, frame = "Storage by repository", check_top(top), footprint(snapshot)
    shown = frame[frame["content_bytes"].fillna(0) > 0].head(count)
    if shown.empty:
        return nothing(ax, title, _why_nothing(snapshot, "No repository holds anything that was read."))
    ax = axes_of(ax, height=1.8 + 0.34 * len(shown))
    ink = ink_of(ax)
    unit, size = byte_unit(shown["content_bytes"].max())
    unique, shared = (shown[name].to_numpy("float64") / size for name in ("unique_bytes", "shared_bytes"))
    rows = np.arange(len(shown))
    ax.barh(rows, unique, height=0.74, color=ink.blue, label="in this repository only")
    ax.barh(rows, shared, height=0.74, left=unique, color=ink.pale, label="shared with other repositories")
    _amounts(ax, unique + shared, [human_bytes(size) for size in shown["content_bytes"]])
    row_labels(ax, [label_of(name) for name in shown["repository"]])
    ax.set_xlabel(f"configs and layers ({unit})")
    said = f"{_largest(shown, frame)}; {human_bytes(snapshot.stored_bytes())} stored in all, shared bytes once"
    titled(ax, title, said + _not_counted(frame))
    plain(ax, grid="x")
    legend(ax)
    return ax


def plot_treemap(snapshot: Snapshot, *, top: int = 40, ax: Axes | None = None) -> Axes:
    """Draw all that is stored as one area: what each repository alone holds, and what several share.

    Every byte is drawn once, so that areas can be compared with each other and with the whole.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    top : int
        How many repositories have a tile of their own, the largest first.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure. Tiles are laid out for the size that it has now.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        `top` is no count.
    """
    title, count, frame = "Where the bytes are", check_top(top), footprint(snapshot)
    tiles = _tiles(snapshot, frame, count)
    if not tiles:
        return nothing(ax, title, _why_nothing(snapshot, "No repository holds anything that was read."))
    ax = axes_of(ax, height=5.2)
    whole = sum(area for _, area, _ in tiles)
    said = f"{human_bytes(whole)} of configs and layers; a tile is what one repository alone holds"
    titled(ax, title, said + _not_counted(frame))
    ax.set_axis_off()
    ax.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]  # so that the layout is known
    box = ax.get_window_extent()
    width, height = (72 * length / ax.get_figure(root=True).dpi for length in (box.width, box.height))  # type: ignore[union-attr]  # axes are drawn on a figure
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    places = squarified([area / whole * width * height for _, area, _ in tiles], width, height)
    for (name, area, kind), place in zip(tiles, places, strict=True):
        _draw_tile(ax, place, name, human_bytes(area), kind)
    return ax


def plot_sharing(snapshot: Snapshot, *, top: int = 12, ax: Axes | None = None) -> Axes:
    """Draw how many bytes of layers each pair of repositories holds together.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    top : int
        How many repositories, those that share the most first.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        `top` is no count.
    """
    title, count, frame = "Layers shared between repositories", check_top(top), footprint(snapshot)
    sharing = frame[frame["shared_bytes"].fillna(0) > 0]
    sharing = sharing.sort_values(["shared_bytes", "repository"], ascending=[False, True])
    # One alone shares with none that is drawn.
    names = [str(name) for name in sharing["repository"].head(max(count, 2))]
    matrix = shared_layers(snapshot, names)
    np.fill_diagonal(matrix, 0)
    if not matrix.any():
        return nothing(ax, title, _why_nothing(snapshot, "No two repositories share a layer of known size."))
    ax = axes_of(ax, height=2.4 + 0.36 * len(names))
    unit, size = byte_unit(matrix.max())
    below = np.ma.masked_array(matrix / size, mask=np.triu(np.ones_like(matrix, dtype=bool)))[1:, :-1]
    _draw_cells(ax, below, ink_of(ax))
    ticks = np.arange(len(names) - 1) + 0.5
    ax.set_yticks(ticks, [label_of(name) for name in names[1:]], parse_math=False)
    columns = [label_of(name, 24) for name in names[:-1]]
    ax.set_xticks(ticks, columns, rotation=35, ha="right", rotation_mode="anchor", parse_math=False)
    of = f"the {len(names)} that share most, of {len(sharing)}" if len(sharing) > len(names) else "each pair once"
    titled(ax, title, f"in {unit}; {of}; no cell: nothing shared" + _not_counted(frame))
    plain(ax, grid=None)
    return ax


def plot_layers(snapshot: Snapshot, *, top: int = 15, ax: Axes | None = None) -> Axes:
    """Draw the biggest layers, and whether they are shared.

    Parameters
    ----------
    snapshot : Snapshot
        One reading of a registry.
    top : int
        How many layers, the largest first.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        `top` is no count.
    """
    title, frame = "Biggest layers", largest_layers(snapshot, limit=check_top(top))
    shown = frame[frame["size_bytes"] > 0]
    if shown.empty:
        return nothing(ax, title, _why_nothing(snapshot, "No layer of known size was read."))
    ax = axes_of(ax, height=1.8 + 0.34 * len(shown))
    ink = ink_of(ax)
    unit, size = byte_unit(shown["size_bytes"].max())
    sizes = shown["size_bytes"].to_numpy("float64") / size
    several = (shown["repository_count"] > 1).to_numpy()
    for chosen, colour, meaning in (
        (~several, ink.blue, "in one repository"),
        (several, ink.pale, "shared by several repositories"),
    ):
        if chosen.any():
            ax.barh(np.flatnonzero(chosen), sizes[chosen], height=0.74, color=colour, label=meaning)
    counts = [count_of(int(n), "manifest", "manifests") for n in shown["manifest_count"]]
    _amounts(ax, sizes, [f"{human_bytes(b)}, {n}" for b, n in zip(shown["size_bytes"], counts, strict=True)], room=1.5)
    row_labels(ax, [_layer_label(row) for row in shown.to_dict("records")])
    ax.set_xlabel(f"as manifests declare them ({unit})")
    layers = snapshot.blobs.loc[snapshot.blobs["role"] == "layer", "digest"].nunique()
    titled(ax, title, f"the {len(shown)} largest of {count_of(layers, 'layer', 'layers')}" + _unsized(snapshot))
    plain(ax, grid="x")
    legend(ax)
    return ax


# -- what is said -----------------------------------------------------------------------------


def _why_nothing(snapshot: Snapshot, otherwise: str) -> str:
    return _OF_V1 if snapshot.tags["image_id"].notna().any() else otherwise


def _largest(shown: pd.DataFrame, frame: pd.DataFrame) -> str:
    if len(frame) > len(shown):
        return f"the {len(shown)} largest of {len(frame):,} repositories"
    return count_of(len(shown), "repository", "repositories")


def _not_counted(frame: pd.DataFrame) -> str:
    """Return, as a line of its own, what the figures of a footprint lack; or nothing."""
    unsized, unread = int(frame["unsized_count"].fillna(0).sum()), int((~frame["complete"]).sum())
    parts = [f"blobs of unknown size, not counted: {unsized:,}"] if unsized else []
    parts += [f"repositories not fully read, which may hold more: {unread:,}"] if unread else []
    return "\n" + "; ".join(parts) if parts else ""


def _unsized(snapshot: Snapshot) -> str:
    blobs = snapshot.blobs
    of_layers = np.unique(blobs["digest"].cat.codes[blobs["role"] == "layer"])
    unknown = int((blob_sizes(snapshot)[of_layers[of_layers >= 0]] < 0).sum())
    parts = [f"layers of unknown size, not drawn: {unknown:,}"] if unknown else []
    parts += ["not everything was read"] if not snapshot.complete else []
    return "\n" + "; ".join(parts) if parts else ""


def _amounts(ax: Axes, lengths: Any, texts: list[str], room: float = 1.14) -> None:
    """Write behind each bar how much it is, and leave room for that."""
    colour = ink_of(ax).text
    for row, text in enumerate(texts):
        where: Any = (lengths[row], row)
        ax.annotate(text, where, (4, 0), textcoords="offset points", va="center", size=8, color=colour)
    ax.set_xlim(0, float(max(lengths)) * room)


def _layer_label(row: dict[Any, Any]) -> str:
    digest = str(row["digest"]).partition(":")[2][:8]
    more = row["repository_count"] - 1
    first = clean(row["repositories"]).split(", ")[0]
    return f"{label_of(first, 26)}{f' +{more}' if more else ''}  {label_of(digest)}"


# -- the treemap ------------------------------------------------------------------------------

_OWN, _SHARED, _REST = "own", "shared", "rest"
_POINTS = (10.0, 9.0, 8.0, 7.0)


def _tiles(snapshot: Snapshot, frame: pd.DataFrame, top: int) -> list[tuple[str, int, str]]:
    """Return name, bytes and kind of each tile, the largest first: together every byte, once."""
    alone = frame[frame["unique_bytes"].fillna(0) > 0].sort_values("unique_bytes", ascending=False, kind="stable")
    tiles = [(str(row.repository), int(row.unique_bytes), _OWN) for row in alone.head(top).itertuples()]
    rest = alone["unique_bytes"].iloc[top:]
    others = (count_of(len(rest), "other repository", "other repositories"), int(rest.sum()), _REST)
    shared = total(blob_sizes(snapshot)) - int(alone["unique_bytes"].sum())
    several = ("shared by several repositories", shared, _SHARED)
    of_v1 = snapshot.tags["image_id"].notna().any()
    both = [] if of_v1 else [tile for tile in (others, several) if tile[1] > 0]
    return sorted([*tiles, *both], key=lambda tile: -tile[1])


def squarified(areas: list[float], width: float, height: float) -> Iterator[tuple[float, float, float, float]]:
    """Yield x, y, width and height of a rectangle for each area, the largest first, as square as can be.

    Rows are filled along the shorter side for as long as that makes their worst rectangle squarer (Bruls, Huizing
    and van Wijk, "Squarified Treemaps").
    """
    x = y = 0.0
    start = 0
    while start < len(areas):
        side = max(min(width, height), 1e-9)
        row = _row(areas[start:], side)
        thickness, along = sum(row) / side, 0.0
        for area in row:
            length = area / max(thickness, 1e-12)
            yield (x, y + along, thickness, length) if width >= height else (x + along, y, length, thickness)
            along += length
        if width >= height:
            x, width = x + thickness, width - thickness
        else:
            y, height = y + thickness, height - thickness
        start += len(row)


def _row(areas: list[float], side: float) -> list[float]:
    """Return the areas, from the first, that make the best row along a side."""
    count, filled, best = 1, areas[0], _worst(areas[0], areas[0], areas[0], side)
    for area in areas[1:]:
        worst = _worst(filled + area, areas[0], area, side)
        if worst > best:
            break
        count, filled, best = count + 1, filled + area, worst
    return areas[:count]


def _worst(filled: float, largest: float, smallest: float, side: float) -> float:
    """Return how far from square the worst rectangle of a row is."""
    return max(side * side * largest / (filled * filled), filled * filled / (side * side * max(smallest, 1e-12)))


def _draw_tile(ax: Axes, place: tuple[float, float, float, float], name: str, size: str, kind: str) -> None:
    from matplotlib.patches import Rectangle

    ink = ink_of(ax)
    x, y, width, height = place
    face, on = {
        _OWN: (ink.tile, ink.on_tile),
        _SHARED: (ink.pale, _readable_on(ink.pale)),
        _REST: (ink.grid, ink.text),
    }[kind]
    hatch = "///" if kind == _SHARED else None
    tile = Rectangle((x, y), width, height, facecolor=face, edgecolor=ink.ground, linewidth=1.2, hatch=hatch)
    tile.set_label(name)
    if hatch:
        tile.set_hatch_linewidth(0.3)
    ax.add_patch(tile)
    fitted = _fitted(name, size, width - 8, height - 6)
    if fitted is None:
        return
    lines, points = fitted
    box = {"facecolor": face, "edgecolor": "none", "pad": 1.0} if hatch else None
    text = "\n".join(lines)
    written = ax.text(
        x + 4, y + 4, text, va="top", size=points, color=on, linespacing=1.2, bbox=box, clip_on=True, parse_math=False
    )
    written.set_clip_path(tile)


def _fitted(name: str, size: str, width: float, height: float) -> tuple[list[str], float] | None:
    """Return a tile's text in lines that fit into so many points, and their size; None where there is no room."""
    text = label_of(name, 80)
    letters, room = 0, 0
    for points in _POINTS:
        letters, room = int(width / (0.62 * points)), int(height / (1.25 * points))
        lines = _broken(text, letters)
        if lines and len(size) <= letters and len(lines) < room:
            return [*lines, size], points
    if letters < len(size) or room < 2:
        return None
    return [label_of(text.rpartition("/")[2], letters), size], _POINTS[-1]


def _broken(text: str, letters: int) -> list[str]:
    """Break a name into lines behind ``/``, ``-``, ``_`` or a blank; none where a part is too long for a line."""
    lines = [""]
    for piece in _parts(text):
        if len(piece.rstrip()) > letters:
            return []
        if len(lines[-1]) + len(piece.rstrip()) > letters:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _parts(text: str) -> Iterator[str]:
    start = 0
    for place, letter in enumerate(text):
        if letter in "/-_ ":
            yield text[start : place + 1]
            start = place + 1
    yield text[start:]


# -- sharing ----------------------------------------------------------------------------------


def _draw_cells(ax: Axes, cells: Any, ink: Ink) -> None:
    """Colour the cells that hold something, and write each number in the colour that is read on it."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    heat = LinearSegmentedColormap.from_list("shared", list(ink.heat))
    largest = float(cells.max())
    ax.set_xlim(0, cells.shape[1])
    ax.set_ylim(cells.shape[0], 0)
    for row, column in np.argwhere(~np.ma.getmaskarray(cells) & (cells.filled(0) > 0)):
        value = float(cells[row, column])
        number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else "<0.01"
        face = heat(value / largest)
        ax.add_patch(Rectangle((column + 0.02, row + 0.03), 0.96, 0.94, facecolor=face, linewidth=0))
        ax.text(column + 0.5, row + 0.5, number, ha="center", va="center", size=8, color=_readable_on(face))


def _readable_on(colour: Any) -> str:
    """Return black or white, whichever stands out more."""
    return "#FFFFFF" if lightness(colour) < ALIKE else "#101214"
