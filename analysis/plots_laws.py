"""Figures of laws: their surface, and one quantity as several approaches or fits answer it.

As in plots.py, each draws on the Axes it is given and returns it.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.plot_style import (
    INK,
    MUTED,
    PAPER,
    REFERENCE,
    SECOND,
    budget_colours,
    choose,
    dress,
    hover,
    log_axis,
)
from analysis.plots import FARTHEST, diamonds, dots, label_lines, stars

_SERIES = {"published": REFERENCE, "minima": SECOND}


def plot_surface(
    ax: Axes, cells: pd.DataFrame, minima: pd.DataFrame, lines: pd.DataFrame, targets: pd.DataFrame
) -> Axes:
    """Cells in the plane of N and D, on lines of equal loss of the law.

    Args:
        ax: where to draw.
        cells: budget, N, D, tip.
        minima: budget, N, D, usable, held_out, tip.
        lines: loss, N, D, each line in the order of N.
        targets: N, D, tip: forecasts.
    """
    ends, names = [], []
    right = float(lines["N"].max()) if len(lines) else 1.0
    for level, line in lines.groupby("loss"):
        ax.plot(line["N"], line["D"], color=REFERENCE, lw=0.8, zorder=1)
        if line["N"].iloc[-1] > right * 0.999:
            ends.append(float(line["D"].iloc[-1]))
            names.append(f"{level:g}")
    colours = budget_colours([*cells["budget"], *minima["budget"]])
    for budget, own in cells.sort_values("N").groupby("budget"):
        if (own["N"].diff()[1:] > 0).all() and (own["D"].diff()[1:] < 0).all():  # one C, no bin
            ax.plot(own["N"], own["D"], color=colours[budget], lw=1.0, alpha=0.5, zorder=2)
    dots(ax, cells, "N", "D", colours)
    stars(ax, minima, "N", "D")
    diamonds(ax, targets, "N", "D", zorder=6)
    ax.margins(x=0.04, y=0.06)
    log_axis(ax, "x", "count")
    log_axis(ax, "y", "count")
    if names:
        label_lines(ax, right, ends, names, MUTED)
    return dress(ax, "parameters N", "training tokens D")


def plot_intervals(
    ax: Axes, answers: pd.DataFrame, quantity: str, *, unit: str = "", line: float | None = None
) -> Axes:
    """One quantity, a row an answer: a dot, and a bar for its interval; the name stands above it.

    Args:
        ax: where to draw.
        answers: label, value, low, high, series, pick, tip, in the order from the top; rows of one
            label share a line.
        quantity: name of the axis.
        unit: count, for a logarithmic axis; else linear.
        line: a value to mark, such as an exponent of one half.
    """
    labels = list(dict.fromkeys(answers["label"]))
    if line is not None:
        ax.axvline(line, color=REFERENCE, lw=0.8, ls=(0, (3, 3)), zorder=1)
    rows = answers.assign(y=[-labels.index(label) for label in answers["label"]])
    for (series, pick), own in rows.groupby(["series", "pick"], sort=False):
        colour, hollow = _SERIES.get(series, INK), series == "minima"
        bars = ax.hlines(own["y"], own["low"], own["high"], color=colour, lw=2, alpha=0.5, zorder=2)
        mark = ax.scatter(own["value"], own["y"], s=34, zorder=4 if hollow else 3, linewidths=1.3,
                          marker="D" if hollow else "o", facecolors=PAPER if hollow else colour,
                          edgecolors=colour if hollow else PAPER)  # fmt: skip
        hover(mark, own["tip"])
        for artist in (bars, mark):
            choose(artist, pick)
    values = answers[["value", "low", "high"]].to_numpy(float)
    _set_range(ax, answers["value"].to_numpy(float), values[np.isfinite(values)], unit)
    for i, label in enumerate(labels):
        name = ax.text(0.0, -i + 0.13, label, fontsize=8, color=MUTED, va="bottom", ha="left",
                       transform=ax.get_yaxis_transform())  # fmt: skip
        choose(name, int(answers.loc[answers["label"] == label, "pick"].iloc[0]))
    ax.set_ylim(-len(labels) + 0.4, 0.9)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    dress(ax, "", quantity)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    return ax


def _set_range(ax: Axes, values: np.ndarray, ends: np.ndarray, unit: str) -> None:
    """Show every value, and intervals up to where they would flatten all else."""
    if unit == "count":
        ends = ends[(ends > values.min() / FARTHEST) & (ends < values.max() * FARTHEST)]
        low, high = ends.min(), max(ends.max(), ends.min() * 1.05)
        ax.set_xlim(low * (low / high) ** 0.06, high * (high / low) ** 0.06)
        log_axis(ax, "x", unit)
        return
    middle, reach = float(np.median(values)), max(float(np.ptp(values)), 0.2)
    ends = np.clip(ends, middle - 2.5 * reach, middle + 2.5 * reach)
    pad = 0.05 * max(float(np.ptp(ends)), 0.1)
    ax.set_xlim(ends.min() - pad, ends.max() + pad)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def plot_optima(ax: Axes, table: pd.DataFrame, what: str, quantity: str, unit: str) -> Axes:
    """Minima of several fits and the curve through each, one colour a fit.

    Args:
        ax: where to draw.
        table: fit (its name), order (a number), kind (minimum, line or forecast), C and the column
            `what`; forecasts also low and high; tip on all but lines.
        what: column on the vertical axis.
        quantity: name of the vertical axis.
        unit: count, for a logarithmic axis; else linear.
    """
    colours = budget_colours(table["order"])
    ends, names = [], []
    for order, own in table.groupby("order"):
        colour, name = colours[order], str(own["fit"].iloc[0])
        line = own[(own["kind"] == "line") & np.isfinite(own[what])]
        ax.plot(line["C"], line[what], color=colour, zorder=2)
        if len(line):
            ends.append(float(line[what].iloc[-1]))
            names.append(name if len(name) <= 18 else name[:17] + "…")
        found = own[(own["kind"] == "minimum") & np.isfinite(own[what])]
        mark = ax.scatter(found["C"], found[what], s=90, marker="*", color=colour, zorder=4,
                          edgecolors=PAPER, linewidths=0.8)  # fmt: skip
        hover(mark, found["tip"])
        ahead = own[own["kind"] == "forecast"]
        ax.vlines(
            ahead["C"], ahead["low"], ahead["high"], color=colour, lw=2.2, alpha=0.5, zorder=3
        )
        diamonds(ax, ahead, "C", what, colour=colour, zorder=5)
    ax.margins(x=0.06, y=0.08)
    log_axis(ax, "x", "flops")
    if unit == "count":
        values = table[what].to_numpy(float)
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, np.nanmin(values) / FARTHEST), min(high, np.nanmax(values) * FARTHEST))
        log_axis(ax, "y", "count")
    if names:
        label_lines(ax, float(table.loc[table["kind"] == "line", "C"].max()), ends, names, MUTED)
    return dress(ax, "C (FLOPs)", quantity)
