"""Figures of the law: its surface, and the exponent by approach and by convention."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis import figure_tables as tables
from analysis import plots_laws
from analysis.figures import Figure
from analysis.report_numbers import power

Fits = Mapping[str, Any]
_ROW = 0.4  # inches of a row of intervals
_FRAME = 0.95  # inches around them


def surface(
    fits: Fits, cells: pd.DataFrame, minima: pd.DataFrame, forecasts: list[Mapping[str, Any]]
) -> Figure | None:
    """Cells over N and D, on lines of equal loss of the law where it was fitted."""
    if cells.empty:
        return None
    targets = tables.target_points(forecasts)
    lines = tables.contours(fits, cells, targets)
    of_law = (
        "Grey lines join what approach 3's law gives the same loss, which stands at their right end."
        if len(lines)
        else "No law was fitted, so there are no lines of equal loss."
    )
    return Figure(
        "surface",
        "The loss surface",
        f"Each dot is a trained model, coloured by budget. {of_law} Stars are the minima of the "
        "profiles, diamonds the forecasts: what lies beyond the dots is extrapolated.",
        f"{len(cells)} runs over parameters and tokens, with {lines['loss'].nunique()} lines of "
        "equal loss.",
        (lambda ax: plots_laws.plot_surface(ax, cells, minima, lines, targets),),
        stacked(cells=cells, contour=lines, minimum=minima[minima["usable"]], forecast=targets),
    )


def approaches(fits: Fits, published: Mapping[str, float]) -> Figure | None:
    """Exponent of N_opt by every approach, beside the published ones."""
    answers = tables.approach_exponents(fits, published)
    if not (answers["series"] == "approach").any():
        return None
    return Figure(
        "approaches",
        "The exponent by every approach",
        "Exponent a of N_opt ~ Cᵃ with its interval, by each approach; published ones in grey. The "
        "broken line is one half, where size and data grow alike.",
        "The exponent of the optimal size, one row an approach.",
        (lambda ax: plots_laws.plot_intervals(ax, answers, "exponent a", line=0.5),),
        answers,
        height=_tall(answers),
    )


def of_conventions(fits: Fits) -> Figure | None:
    """Exponent of N_opt, and N* where refits hold it, under every convention."""
    exponents = tables.convention_exponents(fits)
    if exponents.empty:
        return None
    optima = tables.convention_optima(fits)
    panels = [lambda ax: plots_laws.plot_intervals(ax, exponents, "exponent a", line=0.5)]
    if len(optima) > 1:
        panels.append(
            lambda ax: plots_laws.plot_intervals(ax, optima, "N* at the first target", unit="count")
        )
    return Figure(
        "conventions",
        "The answer under every way of counting",
        "The same runs under each rule for FLOPs and each count of parameters. Dots are by the law, "
        "open diamonds by the minima, bars their intervals; the broken line is one half.",
        "Exponent and optimal size, one row a convention.",
        tuple(panels),
        stacked(exponent=exponents, optimum=optima),
        height=_tall(exponents),
    )


def compared(optima: pd.DataFrame, exponents: pd.DataFrame, units: set[str]) -> list[Figure]:
    """Figures that put several fits side by side.

    Args:
        optima: report_compare.optima_table: fit, order, kind, C, N_opt, lowest_loss, low, high, tip.
        exponents: a table of answers, one label a fit.
        units: of the fits' losses; their losses are drawn only where there is one.
    """
    made = []
    if len(optima):
        panels = [
            lambda ax: plots_laws.plot_optima(
                ax, _with(optima, "N"), "N_opt", "optimal parameters", "count"
            )
        ]
        if len(units) == 1 and optima["lowest_loss"].notna().any():
            unit = next(iter(units))
            panels.append(lambda ax: plots_laws.plot_optima(
                ax, _with(optima, "L"), "lowest_loss", f"lowest loss, {unit}", ""))  # fmt: skip
        top = power(np.nanmax(optima["C"].to_numpy(float)))
        made.append(Figure(
            "compared",
            "The fits side by side",
            "Stars are the minima of profiles, lines the power law through them and the loss curve "
            "L(C), each drawn as far as the farthest forecast; diamonds are forecasts with their "
            "intervals. One colour a fit.",
            f"Optimal parameters and lowest loss against compute up to {top} FLOPs, a line a fit.",
            tuple(panels), optima,
        ))  # fmt: skip
    if len(exponents):
        made.append(Figure(
            "exponents",
            "The exponent of every fit",
            "Exponent a of N_opt ~ Cᵃ with its interval: dots by the law, open diamonds by the "
            "minima. The broken line is one half.",
            "The exponent of the optimal size, one row a fit.",
            (lambda ax: plots_laws.plot_intervals(ax, exponents, "exponent a", line=0.5),),
            exponents, height=_tall(exponents),
        ))  # fmt: skip
    return made


def stacked(**series: pd.DataFrame) -> pd.DataFrame:
    """Several tables under one another, told apart by a column `series`."""
    named = [t.assign(series=name) for name, t in series.items() if len(t)]
    whole = pd.concat([t.dropna(axis=1, how="all") for t in named], ignore_index=True)
    rest = [c for c in whole.columns if c not in ("series", "tip")]
    return whole[["series", *rest]]


def _with(optima: pd.DataFrame, what: str) -> pd.DataFrame:
    """Rows of one panel: its ends of intervals under the names low and high."""
    return optima.rename(columns={f"{what}_low": "low", f"{what}_high": "high"})


def _tall(answers: pd.DataFrame) -> float:
    return _FRAME + _ROW * answers["label"].nunique()
