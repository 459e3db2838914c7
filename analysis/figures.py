"""A figure: its words, what draws its panels, its data; and how it is laid out and saved.

A Figure is drawn twice for the page, wide and for a phone; the wide one is also saved as SVG, PNG
and PDF. figure_list.py makes them, plots.py draws them.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.plot_style import RC
from results.record import describe

MOST_TIPS = 1500  # points of a figure; beyond it crowds are pixels, without words
CROWD = 100  # points of one kind; minima and forecasts are never so many

COLUMNS = {
    "N": "parameters, under the convention that the fit names",
    "D": "training tokens",
    "C": "training compute, FLOPs under the fit's flop rule",
    "loss": "validation loss, in the fit's unit (nats/token unless it says otherwise)",
    "fitted": "loss that the law of approach 3 gives",
    "residual": "observed over fitted loss, minus 1",
    "D_per_N": "tokens per parameter",
    "kind": "of line: parabola, or left, right, joined where it only joins cells",
    "name": "the run, or the law",
    "usable": "whether the budget's minimum enters laws",
    "held_out": "whether the budget was predicted from the ones below it",
    "status": "of the budget's minimum: ok, edge, concave, too_few, off_centre or failed",
    "reason": "why the status is not ok",
    "predicted_bias": "N of the minimum over the true N_opt, minus 1, on a fitted law without noise",
    "series": "what a row belongs to in its figure",
    "value": "N_opt or D_opt of a power law or a forecast",
    "low": "lower end of the interval",
    "high": "upper end of the interval",
    "ratio": "held-out budget over the largest budget used",
    "observed": "loss of the held-out minimum",
    "predicted": "its prediction from the budgets below",
    "predicted_low": "lower end of the prediction's interval",
    "predicted_high": "upper end of the prediction's interval",
    "error": "predicted over observed loss, minus 1",
    "of": "what was predicted: minimum (lowest loss, by L(C)) or law (mean of the cells)",
    "label": "who answers: an approach, a paper, a convention or a fit",
    "pick": "number of the convention, from 0: this report's own",
    "fit": "the fit, by name",
    "order": "number of the fit, from 0",
    "N_opt": "optimal parameters, under the fit's own convention",
    "lowest_loss": "lowest loss at C, in the fit's unit",
    "device": "kind of device: board, dtype, devices of a cell",
    "hours": "device-hours: wall-clock hours times devices",
    "money": "cost at report.price",
}


@dataclass(frozen=True)
class Figure:
    """One figure: its words, what draws its panels, and the data drawn."""

    name: str
    title: str
    caption: str
    alt: str
    panels: tuple[Callable[[Axes], Axes], ...]
    data: pd.DataFrame = field(repr=False)
    height: float | None = None  # of a panel, inches, where the usual one is not enough

    def draw(self, *, narrow: bool = False) -> Canvas:
        """Lay the panels out: side by side, or stacked for a screen of 390 px."""
        n = len(self.panels)
        width = 3.9 if narrow else 9.6 if n > 1 else 7.2
        tall = self.height or (3.4 if narrow else 3.9 if n > 1 else 4.1)
        height = (tall * n + 0.1) if narrow else tall
        canvas = Canvas(figsize=(width, height), dpi=100)
        axes = canvas.subplots(n, 1) if narrow else canvas.subplots(1, n)
        left, bottom = 0.48 / width, 0.52 / height
        space = {"hspace": 0.42} if narrow else {"wspace": 0.24}
        right = 1 - 0.12 / width
        canvas.subplots_adjust(
            left=left, right=right, bottom=bottom, top=1 - 0.32 / height, **space
        )
        for ax, panel in zip(np.ravel(axes), self.panels, strict=True):
            panel(ax)
        return canvas


@dataclass(frozen=True)
class Drawing:
    """A figure's SVG, and the words of the points in it by the id of their group."""

    svg: bytes
    words: dict[str, tuple[str, ...]]


def render(figure: Figure, *, narrow: bool = False) -> Drawing:
    """Draw a figure as SVG."""
    with rc_context(RC):
        return _svg(figure.draw(narrow=narrow), figure.name)


def save(figure: Figure, folder: Path) -> tuple[Drawing, list[Path]]:
    """Write SVG, PNG (twice the screen's density), PDF and the data as CSV, each at once or not.

    Nothing in the files depends on the day, so that equal data give equal bytes.

    Returns:
        The SVG, and the paths written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(RC):
        canvas = figure.draw()
        drawing = _svg(canvas, figure.name)
        png, pdf = io.BytesIO(), io.BytesIO()
        quick = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}}
        canvas.savefig(png, format="png", dpi=160, facecolor="white", **quick)
        nobody = {"CreationDate": None, "Creator": None, "Producer": None}
        canvas.savefig(pdf, format="pdf", metadata=nobody)
    table = figure.data.drop(columns=["tip"], errors="ignore").to_csv(index=False)
    files = {
        "svg": drawing.svg,
        "png": png.getvalue(),
        "pdf": pdf.getvalue(),
        "csv": table.encode(),
    }
    return drawing, [write_whole(folder / f"{figure.name}.{k}", v) for k, v in files.items()]


def _svg(canvas: Canvas, salt: str) -> Drawing:
    _rasterise_crowds(canvas)
    words = {}
    drawn = [a for ax in canvas.axes for a in (*ax.collections, *ax.lines, *ax.texts)]
    for i, artist in enumerate(drawn):
        pick, tips = getattr(artist, "chosen_by", None), getattr(artist, "tips", None)
        if pick is not None or tips is not None:
            artist.set_gid(f"mark-{i}" + ("" if pick is None else f".pick-{pick}"))
        if tips is not None:
            words[artist.get_gid()] = () if artist.get_rasterized() else tips
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": salt}):
        canvas.savefig(buffer, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    return Drawing(buffer.getvalue(), words)


def _rasterise_crowds(canvas: Canvas) -> None:
    """Make points pixels where there are too many: the page stays under 5 MB."""
    marks = [c for ax in canvas.axes for c in ax.collections if hasattr(c, "tips")]
    if sum(len(c.tips) for c in marks) > MOST_TIPS:
        for mark in marks:
            mark.set_rasterized(len(mark.tips) > CROWD)


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that its name holds either the old bytes or the new ones."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    return part.replace(path)


def column_dictionary(figures: list[Figure]) -> str:
    """Markdown list of every column in the figures' CSV files."""
    meaning = describe() | COLUMNS
    lines = ["# Columns of the figures' data", ""]
    for figure in figures:
        lines += [f"## {figure.name}.csv", "", figure.title + ".", ""]
        shown = [c for c in figure.data.columns if c != "tip"]
        lines += [f"- `{c}`: {meaning.get(c, 'as in the table given')}" for c in shown] + [""]
    return "\n".join(lines)
