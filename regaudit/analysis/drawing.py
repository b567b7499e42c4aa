"""What every plot shares: the axes to draw on, colours that are read on any ground, titles, labels, units.

A plot follows the ground that it is drawn on, as matplotlib's own style says it: dark inks on a light one, light inks
on a dark one (``plt.style.use("dark_background")``), and greys that are read on both where it is transparent.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from regaudit.errors import UsageError
from regaudit.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

# In inches: as wide as a notebook's cell on a small screen, and no higher than a printer or a browser takes.
_WIDTH = 8.5
_HIGHEST = 40.0
_DPI = 110
# What a letter of a label or a subtitle takes of it, on average.
_LETTER = 0.068
# Two of them beside each other are as wide as a page, and as sharp as most screens.
_PAGE_WIDTH, _PAGE_DPI = 6.6, 140
_COLOURS = 96
# The ground of the page that a plot is made for, where it is made for one.
_paper: ContextVar[str | None] = ContextVar("paper", default=None)
LONGEST_LABEL = 34
# In points: under the numbers and the name of an axis.
_LEGEND_BELOW = 38
# Black and white stand out alike on a colour of this lightness (WCAG 2.2, "contrast ratio").
ALIKE = 0.179
# Backends that show nothing: a figure of pyplot's would stay in memory and never be looked at.
_UNSEEN = frozenset({None, "agg", "pdf", "svg", "ps", "cairo", "pgf", "template"})


@dataclass(frozen=True, slots=True)
class Ink:
    """The colours of a plot on one kind of ground.

    Blue and orange are Okabe and Ito's, which every kind of colour vision tells apart, or lighter ones of the same hue;
    what they mean is said by hatching, place or words as well.

    Attributes
    ----------
    text, soft, grid : str
        Of titles and labels; of what stands back; of lines behind the data.
    ground : str
        Between bars and tiles that touch.
    blue, pale, orange : str
        What is meant; its lesser half; what is old or goes.
    tile, on_tile : str
        Large areas, and text on them.
    heat : pair of str
        Of the smallest and of the largest value.
    """

    text: str
    soft: str
    grid: str
    ground: str
    blue: str
    pale: str
    orange: str
    tile: str
    on_tile: str
    heat: tuple[str, str]


_LIGHT = Ink(
    text="#1C2024",
    soft="#5C6169",
    grid="#DDDDDD",
    ground="#FFFFFF",
    blue="#0072B2",
    pale="#A9D3EC",
    orange="#D55E00",
    tile="#0072B2",
    on_tile="#FFFFFF",
    heat=("#E4F0F8", "#004B78"),
)
_DARK = Ink(
    text="#EDEEF0",
    soft="#A8ADB5",
    grid="#3A3E44",
    ground="#191B1F",
    blue="#56B4E9",
    pale="#2C5874",
    orange="#E58A2B",
    tile="#1D6A9E",
    on_tile="#FFFFFF",
    heat=("#17354A", "#9AD6FA"),
)
# Grey of this lightness is as far from white as from a notebook's black: 4.3 to 1 on both.
_EITHER = Ink(
    text="#797979",
    soft="#797979",
    grid="#80808055",
    ground="#808080",
    blue="#2F86BF",
    pale="#8FB9D3",
    orange="#D9742B",
    tile="#1D6A9E",
    on_tile="#FFFFFF",
    heat=("#8FB9D3", "#00568A"),
)


def ink_of(ax: Axes) -> Ink:
    """Return the colours for the ground that an axes has, its own or its figure's."""
    from matplotlib.colors import to_hex, to_rgba

    grounds = [to_rgba(ax.get_facecolor()), to_rgba(ax.get_figure(root=True).get_facecolor())]  # type: ignore[union-attr]  # an axes to draw on has one
    solid = [ground for ground in grounds if ground[3] > 0.5]
    if not solid:
        return _EITHER
    return replace(_LIGHT if lightness(solid[0]) > ALIKE else _DARK, ground=to_hex(solid[0]))


def lightness(colour: Any) -> float:
    """Return the relative luminance of a colour, from 0 to 1 (WCAG 2.2, "relative luminance")."""
    from matplotlib.colors import to_rgb

    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


# -- axes -------------------------------------------------------------------------------------


def axes_of(ax: Axes | None, height: float) -> Axes:
    """Return the axes given, or those of a new figure of this height in inches.

    Where a notebook or a window shows pyplot's figures, it is one of them, and seen without more ado. Anywhere
    else pyplot is left alone: a script that draws a hundred plots keeps none of them.
    """
    if ax is not None:
        return ax
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if ground := _paper.get():
        size = (_PAGE_WIDTH, min(height, _HIGHEST))
        ax = Figure(figsize=size, layout="constrained", dpi=_PAGE_DPI, facecolor=ground).subplots()
        ax.set_facecolor(ground)
        return ax
    options: dict[str, Any] = {
        "figsize": (_WIDTH, min(height, _HIGHEST)),
        "layout": "constrained",
        "dpi": _DPI,
    }
    backend = mpl.get_backend(auto_select=False)
    if backend is None or backend.lower() in _UNSEEN:
        return Figure(**options).subplots()
    from matplotlib import pyplot as plt

    return plt.figure(**options).subplots()


def picture(draw: Callable[[], Axes], *, dark: bool) -> bytes:
    """Return a plot as PNG for a light or a dark page, whatever matplotlib's style is; pyplot is left alone.

    Parameters
    ----------
    draw : callable
        Draws on a new figure, which is as wide as half a page.
    dark : bool
        On which ground.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    ground = (_DARK if dark else _LIGHT).ground
    # The user's backend is no matter of style, and to set one chooses it for good.
    ours = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    small = BytesIO()
    token = _paper.set(ground)
    try:
        with mpl.rc_context(ours):
            canvas = FigureCanvasAgg(draw().get_figure(root=True))
            canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib is typed in part
    finally:
        _paper.reset(token)
    # A plot has few colours: with a palette it is a third of the bytes.
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]  # likewise
    drawn.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def nothing(ax: Axes | None, title: str, sentence: str) -> Axes:
    """Return axes that say why there is nothing to draw."""
    ax = axes_of(ax, height=2.2)
    ax.set_axis_off()
    colour = ink_of(ax).soft
    ax.text(
        0.5, 0.5, sentence, ha="center", va="center", wrap=True, color=colour, transform=ax.transAxes, parse_math=False
    )
    titled(ax, title, "")
    return ax


def titled(ax: Axes, title: str, subtitle: str) -> None:
    """Set the title, and under it what must be known to read the plot."""
    ink = ink_of(ax)
    subtitle = "\n".join(chain.from_iterable(wrap(line, _letters(ax)) for line in subtitle.splitlines()))
    lines = subtitle.count("\n") + 1 if subtitle else 0
    ax.set_title(title, loc="left", weight="bold", size=11, pad=8 + 13 * lines, color=ink.text, parse_math=False)
    if subtitle:
        ax.annotate(
            subtitle,
            (0, 1),
            (0, 6),
            xycoords="axes fraction",
            textcoords="offset points",
            size=8.5,
            linespacing=1.3,
            color=ink.soft,
            parse_math=False,
        )


def _letters(ax: Axes) -> int:
    """Return how many letters of a subtitle have room beside the labels of the rows, before the layout is known."""
    figure: Any = ax.get_figure(root=True)
    longest = max((len(label.get_text()) for label in ax.get_yticklabels()), default=0)
    # An axes alone in a figure begins with this share of its width.
    inches = figure.get_figwidth() * ax.get_position().width / 0.775 - 0.4 - _LETTER * longest
    return max(int(inches / _LETTER), 24)


def plain(ax: Axes, grid: Any) -> None:
    """Take away every line that says nothing; `grid` names the axis of which lines stay."""
    ink = ink_of(ax)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(ink.grid)
    ax.tick_params(length=0, labelsize=8.5, labelcolor=ink.text)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=ink.soft, size=9)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=ink.grid, linewidth=0.7)
    else:
        ax.grid(visible=False)
        ax.spines["bottom"].set_visible(False)


def legend(ax: Axes) -> None:
    """Add a legend below the axis, where it hides no data, in the plot's own colours."""
    from matplotlib.transforms import ScaledTranslation

    figure: Any = ax.get_figure(root=True)
    below = ax.transAxes + ScaledTranslation(0, -_LEGEND_BELOW / 72, figure.dpi_scale_trans)
    entries = len(ax.get_legend_handles_labels()[1])
    shown = ax.legend(
        loc="upper right",
        bbox_to_anchor=(1, 0),
        bbox_transform=below,
        borderaxespad=0,
        ncols=entries,
        frameon=False,
        fontsize=8.5,
        labelcolor=ink_of(ax).text,
    )
    for text in shown.get_texts():
        text.set_parse_math(False)


def row_labels(ax: Axes, labels: list[str]) -> None:
    """Name the rows of a plot, the first one on top."""
    ax.set_yticks(np.arange(len(labels)), labels, parse_math=False)
    ax.set_ylim(len(labels) - 0.4, -0.6)


# -- words ------------------------------------------------------------------------------------


def check_top(top: int) -> int:
    """Return how many are to be drawn; raises `UsageError` where that is no count."""
    if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
        raise UsageError(f"top={clean(repr(top), 40)} is not a count: write 1, 2, 3 …")
    return int(top)


def label_of(name: object, limit: int = LONGEST_LABEL) -> str:
    """Return a name for an axis: plain ASCII, as valid names are (others may lack a glyph), cut in the middle."""
    text = "".join(letter if letter.isascii() or letter == "…" else "?" for letter in clean(name))
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[len(text) - half :]}"


def byte_unit(largest: Any) -> tuple[str, float]:
    """Return the unit in which the largest value has at least one whole digit, and its bytes."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = min(int(np.log2(max(float(largest), 1.0)) // 10), len(units) - 1)
    return units[power], 1024.0**power


# -- dates ------------------------------------------------------------------------------------


def dates() -> Any:
    """Return `matplotlib.dates`, of which only a half is typed."""
    from matplotlib import dates as module

    return module


def date_axis(ax: Axes, first: Any, last: Any) -> None:
    """Write dates under a plot, as few as tell them apart."""
    locator = dates().AutoDateLocator(minticks=3, maxticks=9)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates().ConciseDateFormatter(locator, show_offset=False))
    ax.set_xlim(first, last)
