"""What a fit of one law gives: parameters with a status, never a number that was not found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from analysis.laws_types import Law

Array = np.ndarray


@dataclass(frozen=True)
class LawFit:
    """A law fitted to n rows.

    Attributes:
        law: the law. theta: (p,) public parameters, NaN where `status` is too_few or failed.
        internal: (p,) centred internal parameters.
        estimator, delta: what was minimised.
        objective: its minimised sum over rows.
        gradient_norm: Euclidean, internal coordinates, of coordinates not at a bound.
        status: ok | flat | at_bound | not_converged | no_optimum | too_few | failed.
        reason: why, where the status is not ok.
        n: rows. starts_n: starts. starts_at_optimum: share of them that ended at the minimum.
        condition: of the Hessian, scaled to unit diagonal.
        covariance: (p, p) of theta by the sandwich and the delta method, or None.
        noise: t4: scale, slope, log_C, dof (sigma = scale * exp(slope (log C - log_C)));
            others: rms of log-loss residuals.
        log_likelihood, aicc: on log loss; comparable between laws under one estimator.
        held: public parameters that were given, not fitted.
    """

    law: Law
    theta: Array
    internal: Array
    estimator: str
    delta: float
    objective: float
    gradient_norm: float
    status: str
    reason: str | None
    n: int
    starts_n: int
    starts_at_optimum: float
    condition: float
    covariance: Array | None
    noise: dict[str, float]
    log_likelihood: float
    aicc: float
    held: Mapping[str, float] = field(default_factory=dict)
    searched: Array = field(default_factory=lambda: np.empty(0), repr=False)


def unfitted(
    law: Law,
    estimator: str,
    delta: float,
    n: int,
    held: Mapping[str, float],
    status: str,
    reason: str,
) -> LawFit:
    nan, nothing = float("nan"), np.full(len(law.parameters), np.nan)
    return LawFit(
        law=law,
        theta=nothing,
        internal=nothing,
        estimator=estimator,
        delta=delta,
        objective=nan,
        gradient_norm=nan,
        status=status,
        reason=reason,
        n=n,
        starts_n=0,
        starts_at_optimum=nan,
        condition=nan,
        covariance=None,
        noise={},
        log_likelihood=nan,
        aicc=nan,
        held=held,
    )
