"""What a minimum is worth: gradient, conditioning, covariance, and which parameters are not fixed."""

from __future__ import annotations

import numpy as np

from analysis.estimators import L1_DELTA, Estimator, Huber, log_likelihood
from analysis.newton import Minimum, minimise
from analysis.objective import evaluate
from analysis.problem import Problem
from analysis.small_solves import solved

Array = np.ndarray

# Public parameters whose own size is a claim. A and B are not: they trade off against the exponents
# and are known only through the loss that they predict.
SCALES = ("E", "G")
SHAPES = ("gamma", "R_D", "R_N", "width")
FLAT_FACTOR = 3.0
SUSPICIOUS_SD = 0.25  # of a logarithm; with less, a factor of three is four standard errors away
HALF_CHI_SQUARED_95 = 1.92  # drop in log likelihood at the ends of a 95% profile interval
HOPELESS_CONDITION = 1e12  # of the scaled Hessian: beyond it the inverse has no digits left
RESIDUAL_ROUNDING = 1e-9  # in log loss: what is below is rounding, of the data or of the arithmetic


def relative_gradient(
    problem: Problem, estimator: Estimator, minimum: Minimum, best: int, weights: Array, free: Array
) -> float:
    """Largest gradient component over the size of the terms that cancel in it.

    Args:
        problem, estimator, minimum, weights: the fit. best: its row.
        free: (r,) coordinates that are not at a bound.
    """
    q = problem.size
    z = minimum.z[best]
    slopes = log_loss_slopes(problem, z[:q])
    residual = problem.residuals(z[None, :q])
    log_sigma = z[q:] @ problem.noise_features if estimator.has_noise else None
    terms = estimator.terms(residual, log_sigma)
    floor = RESIDUAL_ROUNDING * np.max(np.abs(terms.second), initial=1.0)
    size = (weights * (np.abs(terms.first[0]) + floor)) @ np.abs(slopes)
    gradient = np.abs(minimum.gradient[best][:q])
    shares = gradient / np.maximum(size, np.finfo(float).tiny)
    if estimator.has_noise:
        shares = np.concatenate([shares, np.abs(minimum.gradient[best][q:]) / weights.sum()])
    return float(np.max(shares[free], initial=0.0))


def log_loss_slopes(problem: Problem, z: Array) -> Array:
    """Differentiate the log predicted loss with respect to z at one z: (n, q)."""
    loss, slopes, _ = problem.law.derivatives(problem.forms(z[None, :]), problem.data)
    result = np.zeros((problem.log_loss.size, problem.size))
    for index, feature, slope in zip(problem.indices, problem.features, slopes, strict=True):
        result[:, index] += ((slope / loss) * feature).T
    return result


def condition_number(hessian: Array) -> float:
    """Condition of a Hessian scaled to unit diagonal; infinite where it is not positive definite."""
    root = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    scaled = hessian / np.outer(root, root)
    if not np.isfinite(scaled).all():
        return float("inf")
    values = np.linalg.eigvalsh(scaled)
    return float(values[-1] / values[0]) if len(values) and values[0] > 0 else float("inf")


def searched_covariance(
    problem: Problem, estimator: Estimator, z: Array, weights: Array, free: Array
) -> Array | None:
    """Sandwich covariance (q, q) in searched coordinates; zero for those at a bound.

    Args:
        problem, estimator: the fit. z: (r,) its minimum. weights: (n,) of rows.
        free: (q,) coordinates that are not at a bound.

    Returns:
        None with no more rows than parameters, or where the Hessian is not positive definite.
    """
    q, n = problem.size, problem.log_loss.size
    if n <= q or not free.any():
        return None
    slopes = log_loss_slopes(problem, z[:q])[:, free]
    residual = problem.residuals(z[None, :q])
    log_sigma = z[q:] @ problem.noise_features if estimator.has_noise else None
    score = weights * estimator.terms(residual, log_sigma).first[0]
    hessian = _smooth_hessian(problem, estimator, z, weights, residual[0])[np.ix_(free, free)]
    if not condition_number(hessian) < HOPELESS_CONDITION:
        return None
    root = np.sqrt(np.diag(hessian))
    inverse = np.linalg.inv(hessian / np.outer(root, root)) / np.outer(root, root)
    middle = (slopes * score[:, None] ** 2).T @ slopes
    covariance = np.zeros((q, q))
    covariance[np.ix_(free, free)] = inverse @ middle @ inverse * (n / (n - q))
    return covariance


def _smooth_hessian(
    problem: Problem, estimator: Estimator, z: Array, weights: Array, residual: Array
) -> Array:
    """Hessian in the law's parameters; Huber's counts few rows at a small threshold.

    Its expectation is the share of residuals within delta, 2 delta f(0) for a density f; a wider
    window, scaled back, measures the same f(0) with more rows.
    """
    q = problem.size
    window, scale = estimator, 1.0
    if isinstance(estimator, Huber):
        spread = 1.4826 * float(np.median(np.abs(residual)))
        width = 1.06 * spread * residual.size**-0.2
        if width > estimator.delta:
            window, scale = Huber(width), estimator.delta / width
    hessian = evaluate(problem, window, z[None, :], weights[None, :]).hessian[0]
    if window.has_noise:
        noise = hessian[q:, q:]
        explained = solved(np.stack([noise] * q), hessian[:q, q:])
        hessian = hessian[:q, :q] - hessian[:q, q:] @ explained.T
    return scale * hessian


def profile_points(
    problem: Problem,
    estimator: Estimator,
    z: Array,
    weights: Array,
    columns: list[int],
    factor: float = FLAT_FACTOR,
) -> Minimum:
    """Minimise with one coordinate held a factor below and above z, for each of `columns`.

    Returns:
        Rows (below, above) for the first column, then for the next.
    """
    start = np.repeat(z[None, :], 2 * len(columns), axis=0)
    frozen = np.zeros(start.shape, dtype=bool)
    for i, column in enumerate(columns):
        start[2 * i, column] -= np.log(factor)
        start[2 * i + 1, column] += np.log(factor)
        frozen[2 * i : 2 * i + 2, column] = True
    linear = problem.multipliers(extra=len(z) - problem.size)
    return minimise(
        problem,
        estimator,
        start,
        weights[None, :],
        frozen=frozen,
        correct=linear,
        iterations=60,
    )


def unidentified(
    problem: Problem,
    estimator: Estimator,
    name: str,
    delta: float,
    z: Array,
    weights: Array,
    covariance: Array | None,
) -> list[str]:
    """Name the parameters that a factor of three barely worsens: their 95% profile reaches it."""
    names = problem.free_names()
    if problem.log_loss.size <= problem.size:
        return []
    sd = np.full(len(names), np.inf) if covariance is None else np.sqrt(np.diag(covariance))
    suspects = [i for i, p in enumerate(names) if p in SCALES + SHAPES and sd[i] > SUSPICIOUS_SD]
    if not suspects:
        return []
    total = float(weights.sum())
    if name == "l1":
        name, delta = "huber", L1_DELTA  # what is minimised is the Huber loss of that threshold
    best = evaluate(problem, estimator, z[None, :], weights[None, :]).value[0]
    held = profile_points(problem, estimator, z, weights, suspects)
    values = np.where(np.isfinite(held.value), held.value, np.inf)
    reference = log_likelihood(name, float(best), total, delta)
    drops = [
        reference - log_likelihood(name, float(value), total, delta)
        if np.isfinite(value)
        else np.inf
        for value in values
    ]
    nearest = np.min(np.reshape(drops, (-1, 2)), axis=1)
    return [
        names[i] for i, drop in zip(suspects, nearest, strict=True) if drop < HALF_CHI_SQUARED_95
    ]
