"""Damped Newton on a batch of small problems; each row leaves the batch when it has converged."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from analysis.estimators import Estimator
from analysis.objective import LOG_SIGMA_RANGE, SIGMA_SLOPE_RANGE, Evaluation, Problem, evaluate

Array = np.ndarray

LONGEST_STEP = 2.0  # in coordinates of order one: beyond it a quadratic model says nothing
RELATIVE_DECREASE = 1e-15
# Of a log loss. By Cauchy-Schwarz n residuals then blur the objective by ROUNDING sqrt(n objective).
ROUNDING = 4e-16
LIGHT_DAMPING = 1e-2
# Factor on the damping for a ratio of actual to predicted decrease.
TRUST = ((0.1, 0.25, 0.6, 0.9), (4.0, 1.5, 0.5, 0.1))


@dataclass(frozen=True)
class Minimum:
    """Where each row of the batch ended: z (m, r), value (m,), gradient, Hessian, flags."""

    z: Array
    value: Array
    gradient: Array
    hessian: Array
    converged: Array
    iterations: Array


def joined(first: Minimum, second: Minimum) -> Minimum:
    """Rows of both."""
    parts = [
        np.concatenate([getattr(first, f.name), getattr(second, f.name)]) for f in fields(Minimum)
    ]
    return Minimum(*parts)


def bounds(problem: Problem, estimator: Estimator) -> tuple[Array, Array]:
    """Box of the searched coordinates, with log sigma's where there is a noise model."""
    lower, upper = problem.coordinates.lower, problem.coordinates.upper
    if not estimator.has_noise:
        return lower, upper
    noise = np.array([LOG_SIGMA_RANGE, SIGMA_SLOPE_RANGE])
    return np.concatenate([lower, noise[:, 0]]), np.concatenate([upper, noise[:, 1]])


def active_bounds(z: Array, gradient: Array, lower: Array, upper: Array) -> Array:
    """Coordinates held at a bound that the objective would cross, (m, r) bool."""
    return ((z <= lower) & (gradient > 0)) | ((z >= upper) & (gradient < 0))


def minimise(
    problem: Problem,
    estimator: Estimator,
    start: Array,
    weights: Array,
    *,
    tolerance: float = RELATIVE_DECREASE,
    iterations: int = 200,
    frozen: Array | None = None,
) -> Minimum:
    """Minimise from each row of `start`.

    Args:
        problem, estimator: what to minimise.
        start: (m, r).
        weights: (m, n) or (1, n) row weights.
        frozen: (m, r) bool, coordinates that stay where they start.
        tolerance: stop once a Newton step would lower the objective by less than this share.
        iterations: most steps of a row; a row that needs more is not converged.
    """
    lower, upper = bounds(problem, estimator)
    z = np.clip(start, lower, upper)
    m = len(z)
    now = evaluate(problem, estimator, z, weights)
    result = Minimum(
        z.copy(),
        now.value.copy(),
        now.gradient.copy(),
        now.hessian.copy(),
        np.zeros(m, dtype=bool),
        np.zeros(m, dtype=int),
    )
    shared = len(weights) == 1
    rows, damping = np.arange(m), np.full(m, 1e-3)
    total = weights.sum(axis=1)
    for count in range(1, iterations + 1):
        step, predicted = damped_step(problem, estimator, now, z, damping, frozen)
        # a damped step is short whatever the gradient, so only a nearly free one can tell
        free = damping <= LIGHT_DAMPING
        size = np.abs(now.value)
        rounding = ROUNDING * (np.sqrt(total * size) + total * ROUNDING)
        negligible = free & (predicted <= tolerance * size + rounding)
        trial_z = np.clip(z + step, lower, upper)
        trial = evaluate(problem, estimator, trial_z, weights)
        gain = now.value - trial.value
        slack = 1e-13 * size + 4.0 * rounding
        better = np.isfinite(trial.value) & (gain >= np.where(negligible, -slack, 0.0))
        ratio = gain / np.maximum(predicted, 1e-300)
        damping = damping * np.where(better, np.interp(ratio, *TRUST), 5.0)
        damping = np.minimum(np.maximum(damping, 1e-14), 1e12)
        now = choose(better, trial, now)
        z = np.where(better[:, None], trial_z, z)
        stuck = damping >= 1e12
        leave = negligible | stuck
        _store(result, rows, z, now, negligible, count)
        if leave.any():
            stay = ~leave
            rows, z, damping = rows[stay], z[stay], damping[stay]
            now = Evaluation(now.value[stay], now.gradient[stay], now.hessian[stay])
            weights = weights if shared else weights[stay]
            total = total if shared else total[stay]
            frozen = None if frozen is None else frozen[stay]
        if not len(rows):
            break
    return result


def choose(better: Array, trial: Evaluation, now: Evaluation) -> Evaluation:
    """Per row the trial where it is better, else what there was."""
    return Evaluation(
        np.where(better, trial.value, now.value),
        np.where(better[:, None], trial.gradient, now.gradient),
        np.where(better[:, None, None], trial.hessian, now.hessian),
    )


def _store(
    result: Minimum, rows: Array, z: Array, now: Evaluation, done: Array, count: int
) -> None:
    result.z[rows] = z
    result.value[rows] = now.value
    result.gradient[rows] = now.gradient
    result.hessian[rows] = now.hessian
    result.converged[rows] = done
    result.iterations[rows] = count


def damped_step(
    problem: Problem,
    estimator: Estimator,
    now: Evaluation,
    z: Array,
    damping: Array,
    frozen: Array | None = None,
) -> tuple[Array, Array]:
    """Damped Newton step (m, r) of each row and the decrease (m,) that its quadratic predicts."""
    lower, upper = bounds(problem, estimator)
    gradient, hessian = now.gradient, now.hessian
    held = active_bounds(z, gradient, lower, upper)
    if frozen is not None:
        held = held | frozen
    if held.any():
        gradient = np.where(held, 0.0, gradient)
        hessian = np.where(held[:, :, None] | held[:, None, :], 0.0, hessian)
    diagonal = np.abs(np.diagonal(hessian, axis1=1, axis2=2))
    scale = np.maximum(diagonal, 1e-8 * diagonal.max(axis=1, keepdims=True) + 1e-300)
    damped = hessian.copy()
    size = z.shape[1]
    damped.reshape(len(z), -1)[:, :: size + 1] += damping[:, None] * scale + held
    step = _descent(damped, gradient, scale)
    longest = np.abs(step).max(axis=1, keepdims=True)
    if longest.max() > LONGEST_STEP:
        step = step * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300))
    change = gradient + 0.5 * (hessian @ step[:, :, None])[:, :, 0]
    return step, np.maximum(-(change * step).sum(axis=1), 0.0)


def _descent(damped: Array, gradient: Array, scale: Array) -> Array:
    """-damped^-1 gradient, or with the eigenvalues made positive where that is not downhill."""
    try:
        step = -np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        step = np.full_like(gradient, np.nan)
    uphill = np.flatnonzero(~((step * gradient).sum(axis=1) <= 0))
    if len(uphill):
        root = np.sqrt(scale[uphill])
        scaled = damped[uphill] / (root[:, :, None] * root[:, None, :])
        values, vectors = np.linalg.eigh(scaled)
        values = np.maximum(np.abs(values), 1e-8)
        along = np.einsum("ijk,ij->ik", vectors, gradient[uphill] / root) / values
        step[uphill] = -np.einsum("ijk,ik->ij", vectors, along) / root
    return step
