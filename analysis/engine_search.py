"""From many starts to the lowest minimum: wide thresholds first, then the estimator itself."""

from __future__ import annotations

import numpy as np

from analysis.continuation import follow, thresholds
from analysis.diagnosis import SHAPES, profile_points
from analysis.estimators import Estimator, Huber, final_estimator
from analysis.newton import Minimum, joined, minimise
from analysis.objective import evaluate
from analysis.problem import LOG_SIGMA_RANGE, Problem
from analysis.starts import merged, starting_points

Array = np.ndarray

SAME_MINIMUM = 1e-6  # relative difference of objectives of starts that ended at one minimum
HOPS = 4
FINALISTS = 6  # starts still apart after the wide thresholds; those above count as not arrived


def search(problem: Problem, name: str, delta: float, weights: Array) -> tuple[Minimum, Array, int]:
    """Minimise from every start.

    Starts that have come to one point go on as one.

    Returns:
        The batch of minima, how many starts stand behind each (none behind rows that a hop
        appended), and the number of starts.
    """
    z, counts = starting_points(problem, weights)
    total = int(counts.sum())
    row = weights[None, :]
    final = final_estimator(name, delta)
    deltas = thresholds(name, delta)
    if deltas:
        z, counts = merged(follow(problem, deltas[:1], deltas[0], z, row, 12), counts)
        z = follow(problem, deltas[1:], _target(final), z, row, 30)
        z, counts = merged(z, counts)
    if final.has_noise:
        z = with_noise(problem, z)
    if len(z) > FINALISTS:
        lowest = np.argsort(evaluate(problem, final, z, row).value, kind="stable")[:FINALISTS]
        z, counts = z[lowest], counts[lowest]
    linear = problem.multipliers(extra=z.shape[1] - problem.size)
    minimum = minimise(problem, final, z, row, correct=linear)
    return _hop(problem, final, minimum, weights), counts, total


def _hop(problem: Problem, estimator: Estimator, minimum: Minimum, weights: Array) -> Minimum:
    """Leave the best minimum along its shape parameters; append what lies lower.

    Repeated data and couplings bend the loss so that a search ends in one of several hollows of a
    flat valley. Held a factor of three away and then released, it finds the next.
    """
    columns = [i for i, name in enumerate(problem.free_names()) if name in SHAPES]
    for _ in range(HOPS if columns and np.isfinite(minimum.value).any() else 0):
        lowest = np.nanmin(minimum.value)
        z = minimum.z[np.nanargmin(minimum.value)]
        away = profile_points(problem, estimator, z, weights, columns)
        linear = problem.multipliers(extra=len(z) - problem.size)
        landed = minimise(
            problem, estimator, away.z, weights[None, :], correct=linear, iterations=80
        )
        minimum = joined(minimum, landed)
        if not np.nanmin(minimum.value) < lowest - SAME_MINIMUM * abs(lowest):
            break
    return minimum


def _target(estimator: Estimator) -> float:
    return estimator.delta if isinstance(estimator, Huber) else np.inf


def with_noise(problem: Problem, z: Array) -> Array:
    """Append log sigma from the median absolute residual, and slope 0, to (m, q) z."""
    spread = np.median(np.abs(problem.residuals(z)), axis=1) * 1.4
    log_sigma = np.log(np.maximum(spread, np.exp(LOG_SIGMA_RANGE[0])))
    return np.column_stack([z, log_sigma, np.zeros(len(z))])
