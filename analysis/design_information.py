"""What cells tell of an optimum before they are run: Fisher information, errors, coverage.

A cell at (N, D) adds g g' / sigma(C)^2 to the information, g the gradient of log loss in the
coordinates of a Superset. The predicted variance of a quantity with gradient c is c' M^-1 c
(Atkinson, Donev and Tobias 2007, sections 9 and 10: local and c-optimal designs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.design_form import Superset, free_directions
from analysis.estimators import DOF

QUANTITIES = ("N_opt", "loss")
_T_INFORMATION = (DOF + 1) / (
    DOF + 3
)  # of a Student t's centre, over that of a normal of its scale


@dataclass(frozen=True)
class Noise:
    """Scatter of one cell's log loss: sd * exp(slope (log C - middle)), constant outside `span`.

    Beyond the budgets that were run a fitted slope is a guess, so the scatter stays as at the end.
    """

    sd: float
    slope: float = 0.0
    middle: float = 0.0  # log C at which sd holds
    span: tuple[float, float] = (-np.inf, np.inf)  # of log C
    efficiency: float = 1.0

    def precision(self, C: ArrayLike) -> NDArray:
        """Information of one cell about its own log loss, of the shape of C."""
        x = np.clip(np.log(C), *self.span)
        scatter = self.sd * np.exp(self.slope * (x - self.middle)) if self.slope else self.sd
        return self.efficiency / np.broadcast_to(scatter, np.shape(x)) ** 2


def noise_of(noise: Mapping[str, float], budgets: tuple[float, ...]) -> Noise:
    """Take the noise of a law in fits.json.

    Raises:
        ValueError: none there, or not a positive number.
    """
    sd = noise.get("scale", noise.get("rms"))
    if sd is None or not np.isfinite(sd) or not sd > 0:
        raise ValueError("its noise is unknown")
    if "scale" not in noise:
        return Noise(float(sd))
    span = (float(np.log(min(budgets))), float(np.log(max(budgets))))
    return Noise(float(sd), float(noise["slope"]), float(noise["log_C"]), span, _T_INFORMATION)


@dataclass(frozen=True)
class Expected:
    """What a set of cells is expected to tell of one quantity by one law.

    Attributes:
        sd: predicted standard error of its logarithm, if the law holds.
        coverage: share of the law's intervals that hold the truth, if the truth is the superset.
    """

    sd: float
    coverage: float


def information(form: Superset, noise: Noise, N: NDArray, D: NDArray, C: NDArray) -> NDArray:
    """Fisher information of cells, (7, 7)."""
    g = form.gradient(N, D)
    return (g * noise.precision(C)[:, None]).T @ g


def in_common(
    form: Superset, noise: Noise, N: NDArray, D: NDArray, C: NDArray, group: NDArray, rho: float
) -> NDArray:
    """Scatter that cells of a group share, beside the information that takes all as independent.

    The law's constants are fitted as if cells were independent, and move by the sum of the cells'
    own pulls, g / sigma^2 times what scatter did to each. The sum's variance is the information
    plus, for each pair of a group, rho times what they pull together: the middle of a sandwich
    (White 1980), here with known scatter.

    Args:
        form, noise, N, D, C: as of `information`.
        group: (n,) of each cell, such as its trunk.
        rho: correlation of the scatter of two cells of a group.

    Returns:
        (7, 7), to be added to the information in the middle alone.
    """
    pull = form.gradient(N, D) * np.sqrt(noise.precision(C))[:, None]
    number = np.unique(group, return_inverse=True)[1]
    together = np.zeros((number.max() + 1, pull.shape[1]))
    np.add.at(together, number, pull)
    return rho * (together.T @ together - pull.T @ pull)


def variance(form: Superset, told: NDArray, law: str, gradient: NDArray) -> float:
    """Predicted variance of a quantity by a law, whose other coordinates are taken as known.

    Args:
        form: the point at which all is linearised.
        told: (7, 7) information of the runs.
        law: one of design_form.FREE.
        gradient: (7,) of the quantity.
    """
    P = free_directions(law)
    c = P.T @ gradient
    return float(c @ np.linalg.solve(_with_prior(form, told, P), c))


def expected(
    form: Superset,
    told: NDArray,
    law: str,
    gradient: NDArray,
    level: float,
    shared: NDArray | None = None,
) -> Expected:
    """Predict standard error and coverage; arguments as of `variance`, and the interval's level.

    `shared` is what `in_common` gives: an interval that draws groups whole is as wide as it says.
    Where the truth leaves the law by d (drawn from the superset's prior), the law's constants move
    by K d with K = (P'MP)^-1 P'M, and its prediction errs by c'(PK - 1) d beside the noise.
    """
    P = free_directions(law)
    inner = _with_prior(form, told, P)
    c = P.T @ gradient
    at = np.linalg.solve(inner, c)
    sampling = float(c @ at)
    if shared is not None:
        sampling += float(at @ P.T @ shared @ P @ at)
    missing = ~np.any(P != 0, axis=1)
    miss = (at @ P.T @ told - gradient)[missing]
    form_variance = float(np.sum(miss**2 / form.prior_precision()[missing]))
    reach = quantile(level) * np.sqrt(sampling / (sampling + form_variance))
    return Expected(float(np.sqrt(sampling)), 2 * NormalDist().cdf(float(reach)) - 1)


def quantile(level: float) -> float:
    """Give the standard errors to each side that a normal interval of this level has."""
    return NormalDist().inv_cdf((1 + level) / 2)


def _with_prior(form: Superset, told: NDArray, P: NDArray) -> NDArray:
    return P.T @ (told + np.diag(form.prior_precision())) @ P
