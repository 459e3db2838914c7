"""Which figures a report has, what each shows, and in which words. Tables come from figure_data."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis import figure_data as data
from analysis import plots
from analysis.figure_list_laws import approaches, of_conventions, stacked, surface
from analysis.figures import Figure
from analysis.report_numbers import known
from analysis.run_tables import speed_table

KAPLAN_ET_AL = 0.73  # Kaplan et al. 2020, arXiv:2001.08361, eq. 1.7: N_opt ~ C^.73
HOFFMANN_ET_AL = 0.50  # Hoffmann et al. 2022, arXiv:2203.15556, table 2, approach 1
BESIROGLU_ET_AL = 0.513  # Besiroglu et al. 2024, arXiv:2404.10102: a of the refitted approach 3
EXPONENTS = {"Kaplan": KAPLAN_ET_AL, "Epoch": BESIROGLU_ET_AL, "Hoffmann": HOFFMANN_ET_AL}
_MOST_CURVES, _MOST_STEPS = 60, 120


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
        _profiles(fits, fitted, minima),
        _optimum(fits, minima, forecasts),
        surface(fits, fitted, minima, forecasts),
        _residuals(fits, fitted),
        _min_loss(fits, minima, forecasts),
        approaches(fits, EXPONENTS),
        of_conventions(fits),
        _curves(cells, curves),
        _utilisation(cells),
    ]
    return [f for f in made if f is not None]


def summary_of(figures: list[Figure]) -> Figure | None:
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


def _profiles(fits: Mapping[str, Any], cells: pd.DataFrame, minima: pd.DataFrame) -> Figure | None:
    if cells.empty:
        return None
    lines, unit = data.profile_lines(cells, minima), data.loss_unit(fits)
    found, n = int(minima["usable"].sum()), cells["budget"].nunique()
    return Figure(
        "profiles",
        "IsoFLOP profiles",
        "Each dot is a trained model, each colour a compute budget (FLOPs). Curves are parabolas "
        "through the cells near each minimum, dashed to those farther out; stars are the minima. Hollow "
        "dots: no minimum was fitted.",
        f"Loss against parameters for {n} budgets; {found} have a fitted minimum.",
        (lambda ax: plots.plot_profiles(ax, cells, minima, lines, unit),),
        stacked(cells=cells, minima=minima, line=lines),
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
        stacked(minima=minima, **series),
    )


def _slope(name: str, exponent: float) -> str:
    return f"{name} {exponent:.2f}".replace("0.", ".")


def _min_loss(
    fits: Mapping[str, Any], minima: pd.DataFrame, forecasts: list[Mapping[str, Any]]
) -> Figure | None:
    if not minima["usable"].any():
        return None
    errors, unit = data.holdout_table(fits), data.loss_unit(fits)
    targets = data.target_table(forecasts, "loss").rename(columns={"value": "loss"})
    before = (
        errors[errors["of"] == "minimum"]
        .tail(1)
        .rename(
            columns={
                "budget": "C",
                "predicted": "loss",
                "predicted_low": "p",
                "predicted_high": "q",
            }
        )
    )
    before = before[["C", "loss", "p", "q", "tip"]].rename(columns={"p": "low", "q": "high"})
    both = [t for t in (before, targets) if len(t)]
    predictions = pd.concat(both, ignore_index=True) if both else targets
    found = minima[minima["usable"]]
    lines = data.min_loss_lines(fits, [*found["budget"], *targets["C"]])
    ratios = [known(data.part(f, "extrapolation").get("C")) for f in forecasts]
    ratios = sorted({r for r in ratios if r is not None and r > 1})
    errors_words = (
        " The second panel has the error of each prediction against how far it extrapolated: filled "
        "for the lowest loss by L(C), hollow for the mean of a budget's cells by the law; the "
        "dashed line is how far the forecast goes."
    )
    panels = [lambda ax: plots.plot_min_loss(ax, minima, lines, predictions, unit)]
    if len(errors):
        panels.append(lambda ax: plots.plot_holdout_error(ax, errors, ratios))
    return Figure(
        "holdout",
        "The lowest loss at each budget, and how well it was predicted",
        "Stars are the minima, lines what laws fitted to all runs say of them. The diamond at the "
        "top budget is its prediction from the budgets below, diamonds beyond it are forecasts, "
        "all with their intervals." + (errors_words if len(errors) else ""),
        "Minimum loss against compute with predictions, and their errors by extrapolation ratio.",
        tuple(panels),
        stacked(minima=minima, law=lines, prediction=predictions, holdout=errors),
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
    table, rate = speed_table(cells)
    if table.empty:
        return None
    panels = [lambda ax: plots.plot_by_size(ax, table, "tokens_per_second", "tokens per second")]
    names = {"mfu": "MFU, %", "mfu_of_measured_peak": "share of a measured matmul peak, %"}
    if rate is not None:
        panels.append(lambda ax: plots.plot_by_size(ax, table, "percent", names[rate]))
    return Figure(
        "utilisation",
        "Speed by model size",
        "Throughput at the median step, and what share of the peak rate the model's FLOPs reach. "
        "Each colour is a compute budget, each shape a kind of device.",
        "Tokens per second and utilisation against parameters.",
        tuple(panels),
        table.drop(columns="percent"),
    )
