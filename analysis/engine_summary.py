"""A minimum with what it is worth: status, covariance, likelihood, noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.diagnosis import (
    condition_number,
    relative_gradient,
    searched_covariance,
    unidentified,
)
from analysis.engine_result import LawFit, unfitted
from analysis.engine_search import SAME_MINIMUM
from analysis.estimators import DOF, Estimator, StudentT, final_estimator, log_likelihood
from analysis.newton import Minimum, active_bounds, bounds
from analysis.problem import Problem

Array = np.ndarray

GRADIENT_TOLERANCE = 1e-6  # of the size that the gradient's own terms have before they cancel


def summary(
    problem: Problem,
    minimum: Minimum,
    counts: Array,
    starts: int,
    name: str,
    delta: float,
    weights: Array,
    held: Mapping[str, float],
) -> LawFit:
    law, coordinates, q = problem.law, problem.coordinates, problem.size
    estimator = final_estimator(name, delta)
    value = np.where(np.isfinite(minimum.value), minimum.value, np.inf)
    best = int(np.argmin(value))
    n = len(problem.log_loss)
    if not np.isfinite(value[best]):
        return unfitted(law, name, delta, n, held, "failed", "no start led to a finite objective")
    z, gradient = minimum.z[best], minimum.gradient[best]
    active = active_bounds(z, gradient, *bounds(problem, estimator))
    same = value <= value[best] + SAME_MINIMUM * (abs(value[best]) + n * 1e-12)
    covariance = searched_covariance(problem, estimator, z, weights, ~active[:q])
    jacobian = coordinates.jacobian(law, z[:q])
    objective = _objective(problem, name, z, weights, float(value[best]))
    likelihood = log_likelihood(name, objective, float(weights.sum()), delta)
    free = ~active
    gradient_share = relative_gradient(problem, estimator, minimum, best, weights, free)
    condition = condition_number(minimum.hessian[best][np.ix_(free, free)])
    status, reason = _status(problem, estimator, name, delta, z, weights, covariance, active[:q])
    if not gradient_share <= GRADIENT_TOLERANCE:
        status = "not_converged"
        reason = f"the gradient is {gradient_share:.0e} of its terms where the search ended"
    return LawFit(
        law=law,
        theta=coordinates.public(law, z[:q]),
        internal=coordinates.internal(z[:q]),
        estimator=name,
        delta=delta,
        objective=objective,
        gradient_norm=float(np.linalg.norm(gradient[free])),
        status=status,
        reason=reason,
        n=n,
        starts_n=starts,
        starts_at_optimum=float(counts[same[: len(counts)]].sum() / starts),
        condition=condition,
        covariance=None if covariance is None else jacobian @ covariance @ jacobian.T,
        noise=_noise(problem, estimator, z, weights),
        log_likelihood=likelihood,
        aicc=aicc(likelihood, q + (2 if estimator.has_noise else 1), n),
        held=held,
        searched=z,
    )


def _status(
    problem: Problem,
    estimator: Estimator,
    name: str,
    delta: float,
    z: Array,
    weights: Array,
    covariance: Array | None,
    active: Array,
) -> tuple[str, str | None]:
    """Status of a converged minimum, and why it is not ok."""
    law, names = problem.law, problem.free_names()
    if active.any():
        at = ", ".join(p for p, held in zip(names, active, strict=True) if held)
        return "at_bound", f"{at} ran to the edge of the search: the rows do not need it"
    loose = unidentified(problem, estimator, name, delta, z, weights, covariance)
    if loose:
        return "flat", f"{', '.join(loose)} not identified: a factor of 3 fits as well"
    if not law.has_optimum:
        return "no_optimum", f"{law.name} has no interior minimum in N at fixed C"
    theta = problem.coordinates.public(law, z[: problem.size])
    if not np.isfinite(law.optimum(theta, np.exp(problem.data["log_C"].max()))[0]):
        return "no_optimum", "an exponent is not positive: the loss has no minimum in N at fixed C"
    return "ok", None


def aicc(log_likelihood: float, parameters: int, n: float) -> float:
    """Corrected Akaike criterion; infinite when n leaves no degree of freedom for the correction."""
    if n - parameters - 1 <= 0:
        return float("inf")
    return -2 * log_likelihood + 2 * parameters * n / (n - parameters - 1)


def _objective(problem: Problem, name: str, z: Array, weights: Array, minimised: float) -> float:
    if name != "l1":
        return minimised
    return float(weights @ np.abs(problem.residuals(z[None, : problem.size])[0]))


def _noise(problem: Problem, estimator: Estimator, z: Array, weights: Array) -> dict[str, float]:
    if isinstance(estimator, StudentT):
        q = problem.size
        log_C = float(np.mean(problem.data["log_C"]))
        return {"scale": float(np.exp(z[q])), "slope": float(z[q + 1]), "log_C": log_C, "dof": DOF}
    residual = problem.residuals(z[None, : problem.size])[0]
    return {"rms": float(np.sqrt(np.average(residual**2, weights=weights)))}
