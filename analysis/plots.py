"""Figures. Each draws on the Axes it is given and returns it; none reads, fits, saves or shows.

Tables come from figure_data.py, which names their columns; colours and ticks from plot_style.py.
A budget without a usable minimum is drawn hollow and dashed, the held-out one in the accent.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.plot_style import (
    ACCENT,
    INK,
    MUTED,
    PAPER,
    REFERENCE,
    SECOND,
    budget_colours,
    dress,
    hover,
    log_axis,
    make_room,
    spread,
)
from analysis.report_numbers import minus, power, short

MOST_LABELS = 9
FARTHEST = 30.0  # intervals are drawn to this factor beyond everything else
_LINE_COLOURS = (INK, SECOND, REFERENCE)
_SHAPES = ("o", "s", "^", "D", "v", "P")
_DASHES = ((0, (1, 2)), (0, (4, 2)), (0, (6, 2, 1, 2)))


def plot_profiles(
    ax: Axes, cells: pd.DataFrame, minima: pd.DataFrame, lines: pd.DataFrame, unit: str
) -> Axes:
    """IsoFLOP profiles: loss against N, one curve a budget, its fitted minimum a star.

    Args:
        ax: where to draw.
        cells: budget (FLOPs), N, loss, tip.
        minima: budget, N, loss, usable, held_out, tip.
        lines: budget, N, loss, kind (parabola, or else cells joined).
        unit: of the loss.
    """
    colours = budget_colours([*cells["budget"], *minima["budget"]])
    usable = set(minima.loc[minima["usable"], "budget"])
    held_out = set(minima.loc[minima["held_out"], "budget"])
    for (budget, kind), line in lines.groupby(["budget", "kind"]):
        style = {"ls": "-"} if kind == "parabola" else {"ls": (0, (3, 3)), "lw": 1.0}
        ax.plot(line["N"], line["loss"], color=colours[budget], zorder=2, **style)
    dots(ax, cells, "N", "loss", colours, hollow=~cells["budget"].isin(usable))
    stars(ax, minima, "N", "loss")
    ax.margins(x=0.08, y=0.06)
    log_axis(ax, "x", "count")
    _label_ends(ax, cells, held_out)
    return dress(ax, "parameters N", f"validation loss, {unit}")


def plot_optimum(
    ax: Axes,
    what: str,
    minima: pd.DataFrame,
    line: pd.DataFrame,
    references: Mapping[str, float],
    targets: pd.DataFrame,
) -> Axes:
    """N_opt or D_opt against C, its power law, published exponents through its middle.

    Args:
        ax: where to draw.
        what: "N" or "D", a column of minima.
        minima: budget, N, D, usable, held_out, tip; only usable ones are drawn.
        line: C and value of the fitted power law; may be empty.
        references: label -> exponent, each drawn as a slope through the middle of the minima.
        targets: C, value, low, high, tip: forecasts, with NaN where there is no interval.
    """
    found = minima[minima["usable"]]
    C_all = np.concatenate([found["budget"], line["C"], targets["C"]]).astype(float)
    if len(found):
        middle = np.exp(np.log(found[["budget", what]].astype(float)).mean())
        C = np.geomspace(C_all.min(), C_all.max(), 2)
        ends = []
        for dash, exponent in zip(_DASHES, references.values(), strict=False):
            value = middle[what] * (C / middle["budget"]) ** exponent
            ax.plot(C, value, color=REFERENCE, lw=0.9, ls=dash, zorder=1)
            ends.append(value[-1])
    ax.plot(line["C"], line["value"], color=INK, zorder=2)
    stars(ax, minima, "budget", what)
    _forecasts(ax, targets)
    ax.margins(x=0.06, y=0.08)
    _stay_near(ax, [*found[what], *line["value"], *targets["value"]])
    log_axis(ax, "x", "flops")
    log_axis(ax, "y", "count")
    if len(found) and references:
        label_lines(ax, C[-1], ends, list(references), REFERENCE)
    name = "parameters" if what == "N" else "tokens"
    return dress(ax, "C (FLOPs)", f"optimal {name}")


def plot_min_loss(
    ax: Axes, minima: pd.DataFrame, lines: pd.DataFrame, predictions: pd.DataFrame, unit: str
) -> Axes:
    """Loss of the minima against C, what laws say of it, and what was predicted of held-out ones.

    Args:
        ax: where to draw.
        minima: budget, loss, usable, held_out, tip.
        lines: name, C, loss: laws fitted on all rows.
        predictions: C, loss, low, high, tip: intervals of held-out budgets and of targets.
        unit: of the loss.
    """
    ends, names = [], []
    for colour, (name, line) in zip(_LINE_COLOURS, lines.groupby("name", sort=False), strict=False):
        ax.plot(line["C"], line["loss"], color=colour, lw=1.1, zorder=1)
        ends.append(float(line["loss"].iloc[-1]))
        names.append(str(name))
    stars(ax, minima, "budget", "loss")
    _forecasts(ax, predictions.rename(columns={"loss": "value"}))
    ax.margins(x=0.06, y=0.08)
    log_axis(ax, "x", "flops")
    if names:
        label_lines(ax, float(lines["C"].max()), ends, names, MUTED)
    return dress(ax, "C (FLOPs)", f"minimum loss, {unit}")


def plot_holdout_error(ax: Axes, errors: pd.DataFrame, targets: Sequence[float]) -> Axes:
    """Error of held-out predictions against how far each one extrapolated.

    Args:
        ax: where to draw.
        errors: ratio (held-out budget over the largest one used), error, low, high (shares of the
            loss), of (minimum: of the lowest loss; law: of the cells' mean, hollow), tip.
        targets: ratios that forecasts extrapolate by, marked on the axis.
    """
    ax.axhline(0, color=REFERENCE, lw=0.8, zorder=1)
    for target in targets:
        ax.axvline(target, color=ACCENT, lw=0.9, ls=(0, (3, 3)), zorder=1)
    colours = budget_colours(errors["budget"])
    # Equal steps of C would hide each other.
    same = errors.groupby(errors["ratio"].round(1))["ratio"]
    beside = same.cumcount() - (same.transform("size") - 1) / 2
    shown = errors[["budget", "tip"]].assign(
        x=errors["ratio"] * 1.05**beside, y=100 * errors["error"]
    )
    ax.vlines(shown["x"], 100 * errors["low"], 100 * errors["high"], lw=1.6, alpha=0.5, zorder=2,
              colors=[colours[b] for b in errors["budget"]])  # fmt: skip
    dots(ax, shown, "x", "y", colours, hollow=errors["of"] == "law", size=26)
    ratios = [*errors["ratio"], *targets]
    ax.set_xlim(min(1.0, *ratios), max(ratios, default=10) * 1.6)
    ends = np.abs(errors[["error", "low", "high"]].to_numpy(float) * 100)
    reach = 1.25 * ends[np.isfinite(ends)].max(initial=0.5)
    ax.set_ylim(-reach, reach)
    ax.yaxis.set_major_formatter(lambda v, _: minus(f"{v:g}"))
    log_axis(ax, "x", "ratio")
    for target in targets:
        ax.annotate("forecast", (target, reach), (4, -2), textcoords="offset points", va="top",
                    fontsize=8, color=ACCENT)  # fmt: skip
    return dress(ax, "times the largest budget used", "predicted over observed loss − 1, %")


def plot_residuals(ax: Axes, residuals: pd.DataFrame, x: str, x_label: str) -> Axes:
    """Residuals of a law: observed over predicted loss, in per cent, against one column.

    Args:
        ax: where to draw.
        residuals: budget, residual (a share), tip and the column x.
        x: column on the horizontal axis, positive.
        x_label: its name.
    """
    ax.axhline(0, color=REFERENCE, lw=0.8, zorder=1)
    shown = residuals.assign(percent=100 * residuals["residual"])
    dots(ax, shown, x, "percent", budget_colours(residuals["budget"]))
    reach = 1.2 * np.nanmax(np.abs(100 * residuals["residual"]), initial=0.1)
    ax.set_ylim(-reach, reach)
    ax.yaxis.set_major_formatter(lambda v, _: minus(f"{v:g}"))
    ax.margins(x=0.06)
    log_axis(ax, "x", "count" if x == "N" else "ratio")
    return dress(ax, x_label, "observed over fitted loss − 1, %")


def plot_curves(ax: Axes, curves: pd.DataFrame) -> Axes:
    """Training curves: loss against tokens, one line a cell, coloured by budget.

    Args:
        ax: where to draw.
        curves: cell_id, budget, tokens, loss, in the order of tokens.
    """
    colours = budget_colours(curves["budget"])
    for (budget, _), line in curves.groupby(["budget", "cell_id"], sort=True):
        ax.plot(line["tokens"], line["loss"], color=colours[budget], lw=0.9, alpha=0.85)
    last = curves.groupby("cell_id").tail(1)
    if len(last):
        top = float(np.quantile(curves["loss"], 0.97))
        ax.set_ylim(last["loss"].min() * 0.98, max(top, last["loss"].max() * 1.05))
    ax.margins(x=0.06)
    log_axis(ax, "x", "count")
    _label_ends(ax, last.rename(columns={"tokens": "N"}), set())
    return dress(ax, "training tokens", "loss on the small set, nats/token")


def plot_by_size(ax: Axes, cells: pd.DataFrame, y: str, y_label: str) -> Axes:
    """Throughput or utilisation against model size, one shape a kind of device.

    Args:
        ax: where to draw.
        cells: N, budget, device, tip and the column y.
        y: column on the vertical axis; NaN rows are left out.
        y_label: its name and unit.
    """
    shapes = dict(zip(dict.fromkeys(cells["device"]), cycle(_SHAPES), strict=False))
    colours = budget_colours(cells["budget"])
    for device, own in cells.groupby("device"):
        dots(ax, own, "N", y, colours, marker=shapes[device])
    room = 1.15 + (0.1 * len(shapes) if len(shapes) > 1 else 0)
    ax.set_ylim(0, room * np.nanmax(cells[y], initial=1e-9))
    ax.margins(x=0.08)
    log_axis(ax, "x", "count")
    if len(shapes) > 1:
        for device, shape in shapes.items():
            ax.scatter([], [], s=22, marker=shape, color=MUTED, label=_cut(str(device)))
        ax.legend(loc="upper left", frameon=False, fontsize=8, labelcolor=MUTED, handletextpad=0.2)
    ax.yaxis.set_major_formatter(lambda v, _: short(v))
    return dress(ax, "parameters N", y_label)


def _cut(name: str, most: int = 34) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def stars(ax: Axes, minima: pd.DataFrame, x: str, y: str) -> None:
    """Draw the usable minima of profiles, the held-out one ringed in the accent.

    Args:
        ax: where to draw.
        minima: budget, usable, held_out, tip and the columns x and y.
        x, y: columns on the axes.
    """
    found = minima[minima["usable"]]
    colours = budget_colours(minima["budget"])
    mark = ax.scatter(
        found[x], found[y], s=150, marker="*", zorder=5, linewidths=1.1,
        c=[colours[b] for b in found["budget"]],
        edgecolors=[ACCENT if held_out else PAPER for held_out in found["held_out"]],
    )  # fmt: skip
    hover(mark, found["tip"])


def dots(
    ax: Axes, cells: pd.DataFrame, x: str, y: str, colours: Mapping[float, str], *,
    hollow: pd.Series | None = None, marker: str = "o", size: float = 22,
) -> None:  # fmt: skip
    """Draw one dot a run; runs where x or y is unknown are left out.

    Args:
        ax: where to draw.
        cells: budget, tip and the columns x and y.
        x, y: columns on the axes.
        colours: of each budget.
        hollow: which ones are only an outline, a row a run; None for none.
        marker: matplotlib's name of their shape.
        size: of a dot, square points.
    """
    shown = np.isfinite(cells[[x, y]].astype(float)).all(axis=1)
    own = cells[shown]
    colour = [colours[b] for b in own["budget"]]
    rings = [False] * len(own) if hollow is None else list(hollow[shown])
    mark = ax.scatter(
        own[x], own[y], s=size, marker=marker, zorder=3,
        facecolors=[PAPER if ring else c for ring, c in zip(rings, colour, strict=True)],
        edgecolors=[c if ring else PAPER for ring, c in zip(rings, colour, strict=True)],
        linewidths=[1.1 if ring else 0.7 for ring in rings],
    )  # fmt: skip
    hover(mark, own["tip"])


def diamonds(
    ax: Axes, targets: pd.DataFrame, x: str, y: str, *, colour: str = ACCENT, zorder: int = 3
) -> None:
    """Draw forecasts as open diamonds.

    Args:
        ax: where to draw.
        targets: tip and the columns x and y.
        x, y: columns on the axes.
        colour: of all.
        zorder: matplotlib's order of what covers what.
    """
    mark = ax.scatter(targets[x], targets[y], s=38, marker="D", facecolors=PAPER, zorder=zorder,
                      edgecolors=colour, linewidths=1.4)  # fmt: skip
    hover(mark, targets["tip"])


def _forecasts(ax: Axes, targets: pd.DataFrame) -> None:
    """Open accent diamonds with the bars of their intervals."""
    ax.vlines(targets["C"], targets["low"], targets["high"], color=ACCENT, lw=2.2, alpha=0.75,
              zorder=2)  # fmt: skip
    diamonds(ax, targets, "C", "value")


def _stay_near(ax: Axes, values: Sequence[float]) -> None:
    """Make y logarithmic and cut intervals without an end, which would flatten all else."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, min(values) / FARTHEST), min(high, max(values) * FARTHEST))


def _label_ends(ax: Axes, cells: pd.DataFrame, held_out: set[float]) -> None:
    """Name each budget beside the right end of its curve, apart from one another."""
    ends = cells.loc[cells.groupby("budget")["N"].idxmax()].sort_values("budget")
    ends = ends.iloc[np.unique(np.linspace(0, len(ends) - 1, MOST_LABELS).round().astype(int))]
    names = {b: power(b) + (" held out" if b in held_out else "") for b in ends["budget"]}
    make_room(ax, list(ends["N"]), list(names.values()))
    low, high = ax.get_xlim()
    span = ax.get_ylim()[1] - ax.get_ylim()[0]
    height = span * 10 / (ax.get_window_extent().height * 72 / ax.figure.dpi)
    # Only labels at about the same N can touch.
    near = np.cumsum(np.abs(np.diff(np.log(ends["N"]), prepend=np.nan)) > np.log(high / low) * 0.2)
    for _, group in ends.groupby(near):
        for end, y in zip(group.itertuples(), spread(list(group["loss"]), height), strict=True):
            ax.annotate(
                names[end.budget], (end.N, y), (6, 0), textcoords="offset points", va="center",
                fontsize=8, color=ACCENT if end.budget in held_out else MUTED,
            )  # fmt: skip


def label_lines(
    ax: Axes, C: float, ends: Sequence[float], names: Sequence[str], colour: str
) -> None:
    """Name lines beyond their right ends at C, apart from one another."""
    make_room(ax, [C] * len(names), names)
    transform, scale = ax.transData, 72 / ax.figure.dpi
    y = [float(transform.transform((C, end))[1]) * scale for end in ends]
    for end, own, moved, name in zip(ends, y, spread(y, 10.5), names, strict=True):
        ax.annotate(name, (C, end), (5, moved - own), textcoords="offset points", va="center",
                    fontsize=8, color=colour, annotation_clip=False)  # fmt: skip
