"""What a fit minimises: functions of log-loss residuals with their derivatives.

Residuals are r = log(predicted loss) - log(observed loss), so that 1e-3 means .1% of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Array = np.ndarray
EstimatorName = Literal["t4", "huber", "ls", "l1"]
ESTIMATORS: tuple[str, ...] = get_args(EstimatorName)

DOF = 4.0
# Prior sd of d log sigma / d log C: weak, since a factor e^.25 per e-fold of compute is 18-fold
# over five decades, yet it keeps the slope defined when all rows share one budget.
SLOPE_PRIOR_SD = 0.25
L1_DELTA = 1e-7  # the Huber minimum here agrees with the L1 one to five digits


@dataclass(frozen=True)
class Residuals:
    """One estimator's terms for every residual: (m, n) each, before row weights.

    `noise` derivatives (with respect to log sigma) are None for estimators without a noise model.
    """

    value: Array
    first: Array
    second: Array
    noise_first: Array | None = None
    noise_cross: Array | None = None
    noise_second: Array | None = None


@dataclass(frozen=True)
class Huber:
    """r^2/2 for |r| <= delta, else delta (|r| - delta/2). Infinite delta is least squares."""

    delta: float
    has_noise = False

    def terms(self, r: Array, log_sigma: Array | None = None) -> Residuals:
        """Values and derivatives; the second derivative is 1 inside and 0 outside."""
        clipped = np.minimum(np.maximum(r, -self.delta), self.delta)
        value = r - 0.5 * clipped
        value *= clipped
        return Residuals(value=value, first=clipped, second=clipped == r)


@dataclass(frozen=True)
class StudentT:
    """Negative log density of sigma t with `DOF` degrees of freedom, less its constant."""

    has_noise = True

    def terms(self, r: Array, log_sigma: Array) -> Residuals:
        """Values and derivatives in r and log sigma."""
        inverse = np.exp(-log_sigma)
        scaled = r * inverse
        squared = scaled * scaled
        share = 1.0 / (DOF + squared)
        pull = (DOF + 1.0) * share
        first = pull * scaled * inverse
        bend = 2.0 * DOF * share  # 1 - squared share + ... collapses to this in every derivative
        return Residuals(
            value=log_sigma + 0.5 * (DOF + 1.0) * np.log1p(squared / DOF),
            first=first,
            second=pull * (bend - 1.0) * inverse * inverse,
            noise_first=1.0 - pull * squared,
            noise_cross=-bend * first,
            noise_second=bend * pull * squared,
        )


Estimator = Huber | StudentT


def check_estimator(name: str) -> None:
    """Raise ValueError, listing the names there are, for an unknown estimator."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator {name!r} is not one of {list(ESTIMATORS)}")


def final_estimator(name: str, delta: float) -> Estimator:
    """Estimator that a fit of this name minimises at last."""
    check_estimator(name)
    return {
        "t4": StudentT(),
        "huber": Huber(delta),
        "ls": Huber(np.inf),
        "l1": Huber(L1_DELTA),
    }[name]


def log_likelihood(name: str, objective: float, n: float, delta: float) -> float:
    """Maximised log likelihood on log loss, so that forms fitted alike can be compared.

    t4: its own. ls: normal with fitted variance. huber, l1: the density proportional to
    exp(-kappa Huber_delta(r)), maximised over kappa (for l1, Laplace).

    Args:
        name: estimator. objective: its minimised sum. n: number of rows, or their total weight.
        delta: Huber's.
    """
    if name == "t4":
        from scipy.special import gammaln

        constant = gammaln((DOF + 1) / 2) - gammaln(DOF / 2) - 0.5 * np.log(DOF * np.pi)
        return n * constant - objective
    # an exact fit would have infinite likelihood; residuals of a billionth are as good as none
    objective = max(objective, n * (1e-9 if name == "l1" else 0.5e-18))
    if name == "ls":
        return -0.5 * n * (np.log(2 * np.pi * 2 * objective / n) + 1)
    if name == "l1":
        return -n * (np.log(2 * objective / n) + 1)
    return _huber_log_likelihood(objective, n, delta)


def _huber_log_likelihood(objective: float, n: float, delta: float) -> float:
    from scipy.optimize import minimize_scalar
    from scipy.special import erf

    def negative(log_kappa: float) -> float:
        kappa = np.exp(log_kappa)
        inside = np.sqrt(2 * np.pi / kappa) * erf(delta * np.sqrt(kappa / 2))
        outside = 2 * np.exp(-kappa * delta**2 / 2) / (kappa * delta)
        return n * np.log(inside + outside) + kappa * objective

    centre = np.log(n / objective)
    best = minimize_scalar(negative, bounds=(centre - 5, centre + 5), method="bounded")
    return -float(best.fun)
