"""A law fitted to a sweep, with its resampled draws: what every part of a fit predicts from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from analysis.engine import LawFit, fit_law
from analysis.flop_axis import FlopAxis, flop_axis
from analysis.laws import LAWS
from analysis.points import Points
from analysis.points_checks import inseparable
from analysis.resampling import bootstrap, percentile_interval

MANY_SIZES = 10
FEWEST_DRAWS = 20


@dataclass(frozen=True)
class Resampling:
    """What is drawn with replacement."""

    by: str  # size or rows
    draws: int
    level: float
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fit, its draws and the sweep's relation between N, D and C."""

    fit: LawFit
    draws: NDArray  # (draws, p) public parameters, NaN where a draw could not be fitted
    axis: FlopAxis
    clusters: int  # things that were drawn: model sizes, trunks or rows
    level: float
    converged: float = np.nan  # share of the draws that reached their minimum

    @property
    def usable(self) -> bool:
        return bool(np.all(np.isfinite(self.fit.theta)))

    def value(self, name: str) -> float:
        """Return a parameter, NaN where the law has no such one."""
        if name not in self.fit.law.parameters:
            return float("nan")
        return float(self.fit.theta[self.fit.law.index(name)])

    def loss(self, N: NDArray, D: NDArray, C: NDArray | None = None, **extra) -> NDArray:
        """Loss at the fit, shape of N."""
        return self.fit.law.loss(self.fit.theta, N, D, C=C, **self._seen_once(D, extra))

    def loss_draws(self, N: NDArray, D: NDArray, C: NDArray | None = None, **extra) -> NDArray:
        """Loss of every draw, (draws, n); NaN rows where a draw could not be fitted."""
        with np.errstate(invalid="ignore"):
            return self.fit.law.loss(self.draws[:, None, :], N, D, C=C, **self._seen_once(D, extra))

    def _seen_once(self, D: NDArray, extra: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Give a law of repeated data distinct tokens where the caller names none."""
        return {name: D for name in self.fit.law.needs} | dict(extra)

    def optimum(self, C: float) -> tuple[float, float]:
        """(N, D) at the fit."""
        N, D = self.axis.optimum(self.fit.law, self.fit.theta, C)
        return float(N), float(D)

    def optimum_draws(self, C: float) -> tuple[NDArray, NDArray]:
        """(N, D) of every draw, each (draws,)."""
        return self.axis.optimum(self.fit.law, self.draws, C)

    def exponent(self) -> float:
        """Exponent a of N_opt ~ C^a at the fit."""
        return float(self.axis.exponent(self.fit.law, self.fit.theta)) if self.usable else np.nan

    def exponent_draws(self) -> NDArray:
        """Give the exponent of every draw, (draws,)."""
        return self.axis.exponent(self.fit.law, self.draws)

    def interval(self, draws: NDArray, estimate: float) -> tuple[float, float]:
        """Percentile interval of a positive quantity, see `widened`."""
        if not np.isfinite(estimate) or np.isfinite(draws).sum() < FEWEST_DRAWS:
            return np.nan, np.nan
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = widened(np.log(draws), np.log(estimate), self.clusters, self.level)
        low, high = percentile_interval(logs, self.level, float(np.log(estimate)))
        return float(np.exp(low)), float(np.exp(high))


def widened(draws: NDArray, estimate: NDArray | float, clusters: int, level: float) -> NDArray:
    """Spread draws about the estimate as few clusters need.

    A bootstrap of G clusters is too narrow by sqrt((G - 1) / G), and a normal quantile stands
    where Student's t with G - 1 degrees of freedom belongs; from ten clusters on neither matters.
    """
    if clusters >= MANY_SIZES or clusters < 2:
        return draws
    tail = (1 + level) / 2
    factor = np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, tail) / ndtri(tail)
    return estimate + factor * (draws - estimate)


def drawn_by(points: Points, by: str) -> str:
    """Say what is drawn: size, where that is asked for and sizes repeat; else trunk or rows.

    Runs that share a trunk share its noise, and are drawn together also where rows are asked for.
    """
    n = len(points)
    if by == "size" and 3 < len(np.unique(points.size_id)) < n:
        return "size"  # all runs of a trunk are of one size
    return "trunk" if points.trunk is not None and len(np.unique(points.trunk)) < n else "rows"


def clusters_of(points: Points, by: str) -> NDArray | None:
    """(n,) cluster ids, or None where rows are drawn."""
    return {"size": points.size_id, "trunk": points.trunk, "rows": None}[drawn_by(points, by)]


def fit_points(
    points: Points,
    law: str,
    estimator: str,
    delta: float,
    resampling: Resampling,
    *,
    fixed: Mapping[str, float] | None = None,
    axis: FlopAxis | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Fit a law to a sweep and resample it.

    Raises:
        ValueError: unknown law, estimator or fixed parameter; a column that the law needs.
    """
    extra = extra_columns(points, law)
    arrays = (points.N, points.D, points.loss)
    fit = fit_law(
        law, *arrays, estimator=estimator, delta=delta, C=points.C, fixed=fixed, extra=extra,
        weights=points.weight,
    )  # fmt: skip
    apart = inseparable(points.N, points.D)
    if fit.status == "ok" and apart is not None and not fixed and fit.law.has_optimum:
        fit = replace(fit, status="flat", reason=apart)
    clusters = clusters_of(points, resampling.by)
    count = len(points) if clusters is None else len(np.unique(clusters))
    theta, converged = np.full((0, len(fit.theta)), np.nan), np.nan
    if np.all(np.isfinite(fit.theta)) and resampling.draws > 0:
        drawn = bootstrap(
            fit, *arrays, draws=resampling.draws, clusters=clusters, seed=resampling.seed,
            C=points.C, extra=extra, weights=points.weight, progress=progress,
        )  # fmt: skip
        theta, converged = drawn.theta, float(drawn.converged.mean())
    axis = axis or flop_axis(points)
    return Fitted(fit, theta, axis, count, resampling.level, converged)


def extra_columns(points: Points, law: str) -> dict[str, NDArray]:
    """Pick the columns that a law needs beyond N, D and C.

    Raises:
        ValueError: the table has no such column.
    """
    needs = LAWS[law].needs if law in LAWS else ()
    if "unique_tokens" in needs and points.unique_tokens is None:
        raise ValueError(f"{law} needs the column unique_tokens: columns.unique_tokens=NAME")
    return {name: getattr(points, name) for name in needs}
