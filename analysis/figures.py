"""Which figures a report has, what data each draws, and how they are saved.

A Figure is drawn twice for the page, wide and for a phone, and once wide for SVG, PNG and PDF
files; all by the same functions of plots.py.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis import figure_data as data
from analysis import plots
from analysis.plot_style import RC
from analysis.report_numbers import known
from results.record import describe

KAPLAN_ET_AL = 0.73  # Kaplan et al. 2020, arXiv:2001.08361, eq. 1.7: N_opt ~ C^.73
HOFFMANN_ET_AL = 0.50  # Hoffmann et al. 2022, arXiv:2203.15556, table 2, approach 1
BESIROGLU_ET_AL = 0.513  # Besiroglu et al. 2024, arXiv:2404.10102: a of the refitted approach 3
EXPONENTS = {"Kaplan": KAPLAN_ET_AL, "Epoch": BESIROGLU_ET_AL, "Hoffmann": HOFFMANN_ET_AL}
_MOST_CURVES, _MOST_STEPS = 60, 120

COLUMNS = {
    "N": "parameters, under the convention that the fit names",
    "D": "training tokens",
    "C": "training compute, FLOPs under the fit's flop rule",
    "loss": "validation loss, in the fit's unit (nats/token unless it says otherwise)",
    "fitted": "loss that the law of approach 3 gives",
    "residual": "observed over fitted loss, minus 1",
    "D_per_N": "tokens per parameter",
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

    def draw(self, *, narrow: bool = False, width: float | None = None) -> Canvas:
        """Lay the panels out: side by side, or stacked for a phone.

        Args:
            narrow: for a screen of 390 px.
            width: inches, where the usual one does not fit.
        """
        n = len(self.panels)
        width = width or (3.9 if narrow else 9.6 if n > 1 else 7.2)
        height = (3.4 * n + 0.1) if narrow else (3.9 if n > 1 else 4.1)
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


def make_figures(
    fits: Mapping[str, Any],
    points: pd.DataFrame | None,
    cells: pd.DataFrame | None,
    curves: pd.DataFrame | None,
    forecasts: list[Mapping[str, Any]],
) -> list[Figure]:
    """Every figure that the data allow.

    Args:
        fits: parsed fits.json.
        points: N, D, C, loss, budget, and name where runs have one.
        cells: one row a cell (results.store.results_of).
        curves: curves.parquet.
        forecasts: the headline forecast of each target.
    """
    fitted = data.cell_table(points)
    minima = data.minimum_table(fits)
    made = [
        _profiles(fitted, minima),
        _optimum(fits, minima, forecasts),
        _min_loss(fits, minima, forecasts),
        _residuals(fits, fitted),
        _curves(cells, curves),
        _utilisation(cells),
    ]
    return [f for f in made if f is not None]


def summary(figures: list[Figure]) -> Figure | None:
    """Profiles and N_opt(C) side by side: the sweep in one picture."""
    by_name = {f.name: f for f in figures}
    if not {"profiles", "optimum"} <= set(by_name):
        return None
    profiles, optimum = by_name["profiles"], by_name["optimum"]
    return replace(
        profiles, name="summary", title="The sweep in one picture",
        caption=f"{profiles.caption} {optimum.caption}",
        panels=(profiles.panels[0], optimum.panels[0]),
    )  # fmt: skip


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
    words = {}
    for artist in (c for ax in canvas.axes for c in ax.collections if hasattr(c, "tips")):
        artist.set_gid(f"tips-{len(words)}")
        words[artist.get_gid()] = () if artist.get_rasterized() else artist.tips
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": salt}):
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Drawing(buffer.getvalue(), words)


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


def _profiles(cells: pd.DataFrame, minima: pd.DataFrame) -> Figure | None:
    if cells.empty:
        return None
    lines = data.profile_lines(cells, minima)
    found, n = int(minima["usable"].sum()), cells["budget"].nunique()
    return Figure(
        "profiles",
        "IsoFLOP profiles",
        "Each dot is a trained model, each colour a compute budget (FLOPs). Curves are parabolas "
        "through the cells near each minimum; stars are the minima. Hollow dots on a dashed line: "
        "no minimum was fitted.",
        f"Loss against parameters for {n} budgets; {found} have a fitted minimum.",
        (lambda ax: plots.plot_profiles(ax, cells, minima, lines),),
        _stacked(cells=cells, minima=minima, fitted=lines),
    )


def _optimum(
    fits: Mapping[str, Any], minima: pd.DataFrame, forecasts: list[Mapping[str, Any]]
) -> Figure | None:
    if not minima["usable"].any():
        return None
    C = [*minima.loc[minima["usable"], "budget"], *(known(f.get("C")) or 0 for f in forecasts)]
    C = [c for c in C if c]
    line = {w: data.optimum_line(fits, w, C) for w in "ND"}
    target = {w: data.target_table(forecasts, w) for w in "ND"}
    references = {
        "N": {_slope(name, a): a for name, a in EXPONENTS.items()},
        "D": {_slope(name, 1 - a): 1 - a for name, a in EXPONENTS.items()},
    }

    def panel(what: str) -> Callable[[Axes], Axes]:
        return lambda ax: plots.plot_optimum(
            ax, what, minima, line[what], references[what], target[what]
        )

    series = {f"{w}_opt power law": line[w] for w in "ND"}
    series |= {f"{w} forecast": target[w] for w in "ND"}
    return Figure(
        "optimum",
        "The optimal size and data against compute",
        "Stars are the minima of the profiles, the line the power law through them; diamonds are "
        "forecasts with their intervals. Broken lines show published exponents, drawn through the "
        "middle of these minima: only their slopes are comparable.",
        "Optimal parameters and optimal tokens against training compute, on logarithmic axes.",
        (panel("N"), panel("D")),
        _stacked(minima=minima, **series),
    )


def _slope(name: str, exponent: float) -> str:
    return f"{name} {exponent:.2f}".replace("0.", ".")


def _min_loss(
    fits: Mapping[str, Any], minima: pd.DataFrame, forecasts: list[Mapping[str, Any]]
) -> Figure | None:
    if not minima["usable"].any():
        return None
    errors = data.holdout_table(fits)
    targets = data.target_table(forecasts, "loss").rename(columns={"value": "loss"})
    before = errors.tail(1).rename(
        columns={"budget": "C", "predicted": "loss", "predicted_low": "p", "predicted_high": "q"}
    )
    before = before[["C", "loss", "p", "q", "tip"]].rename(columns={"p": "low", "q": "high"})
    both = [t for t in (before, targets) if len(t)]
    predictions = pd.concat(both, ignore_index=True) if both else targets
    found = minima[minima["usable"]]
    lines = data.min_loss_lines(fits, [*found["budget"], *targets["C"]])
    ratios = [known(data.part(f, "extrapolation").get("C")) for f in forecasts]
    ratios = sorted({r for r in ratios if r is not None and r > 1})
    panels = [lambda ax: plots.plot_min_loss(ax, minima, lines, predictions)]
    if len(errors):
        panels.append(lambda ax: plots.plot_holdout_error(ax, errors, ratios))
    return Figure(
        "holdout",
        "The lowest loss at each budget, and how well it was predicted",
        "Left: stars are the minima; the diamond at the top budget is its prediction from the "
        "budgets below, diamonds beyond it are forecasts, all with their intervals. Right: the "
        "error of each such prediction against how far it extrapolated; the dashed line is how far "
        "the forecast goes.",
        "Minimum loss against compute with predictions, and their errors by extrapolation ratio.",
        tuple(panels),
        _stacked(minima=minima, law=lines, prediction=predictions, holdout=errors),
    )


def _residuals(fits: Mapping[str, Any], cells: pd.DataFrame) -> Figure | None:
    residuals = data.residual_table(fits, cells)
    if residuals.empty:
        return None
    return Figure(
        "residuals",
        "What approach 3 leaves unexplained",
        "Observed over fitted loss of every cell. A pattern, rather than a cloud around zero, means "
        "that the law has the wrong form here.",
        "Relative residuals of the parametric law against parameters and tokens per parameter.",
        (
            lambda ax: plots.plot_residuals(ax, residuals, "N", "parameters N"),
            lambda ax: plots.plot_residuals(ax, residuals, "D_per_N", "tokens per parameter D/N"),
        ),
        residuals,
    )


def _curves(cells: pd.DataFrame | None, curves: pd.DataFrame | None) -> Figure | None:
    lines = data.curve_table(cells, curves, _MOST_CURVES, _MOST_STEPS)
    if lines.empty:
        return None
    shown, of = lines["cell_id"].nunique(), curves["cell_id"].nunique()
    some = "" if shown == of else f" {shown} of {of} cells, evenly through the budgets."
    return Figure(
        "curves",
        "Learning curves",
        "Loss along the way on a small fixed set, so a little apart from the final validation loss "
        f"in the table of cells.{some}",
        "Loss against training tokens, one line for each cell.",
        (lambda ax: plots.plot_curves(ax, lines),),
        lines,
    )


def _utilisation(cells: pd.DataFrame | None) -> Figure | None:
    table, rate = data.speed_table(cells)
    if table.empty:
        return None
    panels = [lambda ax: plots.plot_by_size(ax, table, "tokens_per_second", "tokens per second")]
    names = {"mfu": "MFU, %", "mfu_of_measured_peak": "share of a measured matmul peak, %"}
    if rate is not None:
        panels.append(lambda ax: plots.plot_by_size(ax, table, "percent", names[rate]))
    return Figure(
        "utilisation",
        "Speed by model size",
        "Throughput at the median step, and what share of the peak rate the model's FLOPs reach.",
        "Tokens per second and utilisation against parameters.",
        tuple(panels),
        table,
    )


def _stacked(**tables: pd.DataFrame) -> pd.DataFrame:
    """Several tables under one another, told apart by a column `series`."""
    named = [t.assign(series=name) for name, t in tables.items() if len(t)]
    stacked = pd.concat([t.dropna(axis=1, how="all") for t in named], ignore_index=True)
    rest = [c for c in stacked.columns if c not in ("series", "tip")]
    return stacked[["series", *rest]]
