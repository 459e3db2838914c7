"""Power laws of the best learning rate, or the best batch, from sweeps that vary it.

In each group of runs that differ in nothing else the best value is the vertex of the same windowed
parabola that finds the minimum of an isoFLOP profile (analysis/profiles.py), here in the log of
the hyper-parameter. A group whose best value lies at or beyond the edge of what was tried is listed
as `edge` and enters no law: its best value is not known, and leaving the edge in bends the law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.points import Points
from analysis.power_fit import PowerFit, fit_power
from analysis.profiles import Minimum, MinimumStatus, find_minima

MOSTLY = 0.5  # share of groups at the edge above which the law is not to be used
_REASONS = {
    MinimumStatus.TOO_FEW: "fewer than four values were tried",
    MinimumStatus.EDGE: "the best value lies at or beyond the edge of those tried: widen the sweep",
    MinimumStatus.CONCAVE: "the losses bend down: no best value",
    MinimumStatus.OFF_CENTRE: "fewer than two values on one side of the best",
    MinimumStatus.FAILED: "the losses have no finite minimum",
}


@dataclass(frozen=True)
class BestValue:
    """The best value of a hyper-parameter in one group of runs; NaN where it is not bracketed."""

    at: dict[str, float]  # the columns that name the group
    value: float
    loss: float
    n: int
    status: str  # ok | off_centre | edge | concave | too_few | failed
    reason: str | None


@dataclass(frozen=True)
class HyperparameterLaw:
    """value* = k times powers of the columns.

    Attributes:
        name: of the hyper-parameter. best: every group. fit: through those that are bracketed.
        status: ok; edge, where more than half of the groups lie at the edge; else the fit's own.
    """

    name: str
    best: tuple[BestValue, ...]
    fit: PowerFit
    status: str
    reason: str | None


def fit_hyperparameter(
    frame: pd.DataFrame, name: str, by: Sequence[str] = ("N", "D"), level: float = 0.9
) -> HyperparameterLaw:
    """Fit value* = k N^a D^b, or powers of other columns.

    Args:
        frame: one row a run, with `loss`, the hyper-parameter, and the columns of `by`; all
            positive. Runs of one group differ in nothing else that matters.
        name: column of the hyper-parameter, such as lr or batch_tokens.
        by: columns that name a group and enter the law, such as N and D, or C.
        level: of the intervals of the exponents.

    Raises:
        ValueError: a column that is missing, or values that are not positive numbers.
    """
    best = best_values(frame, name, by)
    usable = [b for b in best if MinimumStatus(b.status).usable]
    columns = {c: [b.at[c] for b in usable] for c in by}
    fit = fit_power([b.value for b in usable], columns, level)
    edges = sum(b.status == MinimumStatus.EDGE for b in best)
    status, reason = fit.status, fit.reason
    if edges > MOSTLY * len(best):
        status = "edge"
        reason = f"the best {name} lies at the edge of the sweep in {edges} of {len(best)} groups"
    return HyperparameterLaw(name, best, fit, status, reason)


def best_values(frame: pd.DataFrame, name: str, by: Sequence[str]) -> tuple[BestValue, ...]:
    """Find the best value in each group, as fit_hyperparameter does."""
    _check(frame, (name, "loss", *by))
    keys = frame[list(by)].astype(float)
    groups = keys.groupby(list(by), sort=True).ngroup().to_numpy() + 1.0
    found = find_minima(_as_profiles(frame, name, groups))
    first = [int(np.flatnonzero(groups == m.budget)[0]) for m in found]
    return tuple(
        _best(m, dict(keys.iloc[i].items()), int(np.sum(groups == m.budget)))
        for m, i in zip(found, first, strict=True)
    )


def _as_profiles(frame: pd.DataFrame, name: str, groups: np.ndarray) -> Points:
    """Make profiles of runs: the group stands for the budget, the hyper-parameter for N."""
    value = frame[name].to_numpy(float)
    tried = np.array([f"{v:.6g}" for v in value], dtype=object)
    return Points(
        N=value, D=np.ones(len(frame)), C=groups.copy(), loss=frame["loss"].to_numpy(float),
        budget=groups, size_id=tried, row=np.arange(len(frame)), name=tried,
    )  # fmt: skip


def _best(m: Minimum, at: dict[str, float], n: int) -> BestValue:
    return BestValue(at, m.N, m.loss, n, str(m.status), _REASONS.get(m.status))


def _check(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in frame:
            raise ValueError(f"no column {column}; there are {', '.join(map(str, frame.columns))}")
        values = frame[column].to_numpy(float)
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"{column} must hold finite positive numbers")
