"""Colours, type and axes that every figure shares, and the words that hover over its points.

The palette has a light and a dark member for each colour. Figures are drawn in the light one; the
page swaps the other in by name (report_svg.py), so that there is one figure code for all outputs.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from analysis.report_numbers import power, short

INK, MUTED, GRID, PAPER = "#24292f", "#6a737d", "#e3e6ea", "#fefefe"
ACCENT, REFERENCE, SECOND = "#c2501a", "#9aa2ab", "#7b4fa3"
_DARK = {
    INK: "#e4e8ec", MUTED: "#9aa4ae", GRID: "#2c333b", PAPER: "#15191e",
    ACCENT: "#ff9a5e", REFERENCE: "#77818c", SECOND: "#c9a2ec",
}  # fmt: skip
# Ordered in lightness for both backgrounds, so that budgets stay in order without colour vision.
_LIGHT_RAMP = ("#62b394", "#3d9a9c", "#2b7899", "#2b558b", "#2f3178")
_DARK_RAMP = ("#3c6a96", "#3c8fa8", "#52b6a9", "#8dd6a6", "#dcf0ac")
_STEPS = 48
LABEL_BELOW = 18.0  # distance from an axis to the top of its name, points
LETTER = 5.2  # width of an average letter at 8 points, points

RC = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": REFERENCE,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": REFERENCE,
    "ytick.color": REFERENCE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.7,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "path.simplify": True,
    "text.parse_math": False,  # a $ in a name is a $
}


def budget_colours(budgets: Iterable[float]) -> dict[float, str]:
    """Colour of each budget, in order of C: the largest stands out most."""
    ordered = sorted(set(budgets))
    low = 0.0 if len(ordered) > 2 else 0.4
    steps = np.linspace(low, 1, len(ordered)) if len(ordered) != 1 else [0.75]
    return {
        b: _ramp(_LIGHT_RAMP)[round(t * (_STEPS - 1))] for b, t in zip(ordered, steps, strict=True)
    }


def dark_of() -> dict[str, str]:
    """Each colour that a figure may use, with its member for a dark page."""
    return _DARK | dict(zip(_ramp(_LIGHT_RAMP), _ramp(_DARK_RAMP), strict=True))


def _ramp(anchors: Sequence[str]) -> list[str]:
    at = np.linspace(0, 1, len(anchors))
    rgb = np.array([to_rgb(a) for a in anchors])
    t = np.linspace(0, 1, _STEPS)
    return [to_hex(c) for c in np.stack([np.interp(t, at, rgb[:, k]) for k in range(3)], axis=1)]


def dress(ax: Axes, x: str, y: str) -> Axes:
    """Name the axes: y above its top end, where it is read without turning the head."""
    ax.set_xlabel(x, loc="right")
    ax.set_title(y, loc="left", y=1.03, pad=0)
    # Set coordinates save a search under the tick labels in every drawing.
    height = ax.get_window_extent().height * 72 / ax.figure.dpi
    ax.xaxis.set_label_coords(1.0, -LABEL_BELOW / height)
    ax.yaxis.set_label_coords(0.0, 0.5)
    ax.grid(axis="y")
    return ax


def log_axis(ax: Axes, which: str, unit: str) -> None:
    """Make an axis logarithmic, with few ticks in words that people use.

    Args:
        ax: the axes, its data already drawn.
        which: x or y.
        unit: flops (10¹²), count (100k) or ratio (20).
    """
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    show = {"flops": lambda v, _: power(v), "count": lambda v, _: short(v)}
    axis.set_major_formatter(FuncFormatter(show.get(unit, lambda v, _: f"{v:g}")))


def make_room(ax: Axes, x: Sequence[float], names: Sequence[str]) -> None:
    """Move the right end of a logarithmic axis until labels set to the right of x fit inside."""
    width = ax.get_window_extent().width * 72 / ax.figure.dpi
    low, high = np.log(ax.get_xlim())
    for at, name in zip(np.log(x), names, strict=True):
        share = min((LETTER * len(name) + 10) / width, 0.6)
        high = max(high, low + (at - low) / (1 - share))
    ax.set_xlim(np.exp(low), np.exp(high))
    ax.xaxis.set_major_locator(FixedLocator(log_ticks(np.exp(low), np.exp(high))))


def log_ticks(low: float, high: float) -> NDArray:
    """At most seven round values inside [low, high]: decades, or 1-2-5, or 1-3 in between."""
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = np.array([low])
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1, 3), (1,)):
        ticks = np.sort(np.outer(10**decades, steps).ravel())
        ticks = ticks[(ticks >= low * 0.999) & (ticks <= high * 1.001)]
        if len(ticks) <= 7:
            return ticks if len(ticks) > 1 else np.array([low, high])
    return ticks[:: int(np.ceil(len(ticks) / 7))]


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move values apart until neighbours differ by gap, as little as possible, order kept."""
    order = np.argsort(values, kind="stable")
    blocks: list[list[float]] = []  # [sum of (value - rank * gap), members]
    for rank, i in enumerate(order):
        blocks.append([values[i] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, members = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += members
    level = [total / members for total, members in blocks for _ in range(int(members))]
    moved = np.empty(len(values))
    moved[order] = np.array(level) + gap * np.arange(len(values))
    return moved.tolist()


def hover(artist: Artist, words: Sequence[str]) -> None:
    """Give each point of a scatter the words that the page shows when one points at it."""
    artist.tips = tuple(words)


def choose(artist: Artist, pick: int) -> None:
    """Say which choice on the page an artist belongs to, from 0; a negative one belongs to all."""
    artist.chosen_by = pick if pick >= 0 else None
