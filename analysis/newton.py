"""Damped Newton on a batch of small problems; each row leaves the batch when it has converged."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from analysis.estimators import Estimator
from analysis.objective import Evaluation, evaluate
from analysis.problem import Problem
from analysis.small_solves import solved

Array = np.ndarray

LONGEST_STEP = 2.0  # in coordinates of order one: beyond it a quadratic model says nothing
RELATIVE_DECREASE = 1e-15
# Of a log loss. By Cauchy-Schwarz n residuals then blur the objective by ROUNDING sqrt(n objective).
ROUNDING = 4e-16
LIGHT_DAMPING = 1e-2
AFTER_REFUSAL = 1e-4  # at least: from a lighter one it would take many more refusals to matter
STUCK = 1e12  # damping at which a step is rounding
LAST_DAMPING = 1e-6  # of the step after which a row leaves; not 0: a valley may be flat
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
    lower, upper = problem.box
    searched = problem.size + 2 * estimator.has_noise
    return lower[:searched], upper[:searched]


def active_bounds(z: Array, gradient: Array, lower: Array, upper: Array) -> Array:
    """Coordinates held at a bound that the objective would cross, (m, r) bool."""
    return ((z <= lower) & (gradient > 0)) | ((z >= upper) & (gradient < 0))


@dataclass(frozen=True)
class _Active:
    """Rows that are still moving: their numbers, state, weights and step counts."""

    rows: Array
    z: Array
    damping: Array
    steps: Array
    weights: Array
    now: Evaluation

    def keep(self, stay: Array) -> _Active:
        """Rows where `stay` is true."""
        now = Evaluation(self.now.value[stay], self.now.gradient[stay], self.now.hessian[stay])
        weights = self.weights if len(self.weights) == 1 else self.weights[stay]
        return _Active(
            self.rows[stay], self.z[stay], self.damping[stay], self.steps[stay], weights, now
        )

    def join(self, other: _Active) -> _Active:
        """Rows of both, each with weights of its own."""
        mine, theirs = self.now, other.now
        now = Evaluation(
            np.concatenate([mine.value, theirs.value]),
            np.concatenate([mine.gradient, theirs.gradient]),
            np.concatenate([mine.hessian, theirs.hessian]),
        )
        names = ("rows", "z", "damping", "steps", "weights")
        parts = [np.concatenate([getattr(self, n), getattr(other, n)]) for n in names]
        return _Active(*parts, now)


def minimise(
    problem: Problem,
    estimator: Estimator,
    start: Array,
    weights: Array,
    *,
    tolerance: float = RELATIVE_DECREASE,
    iterations: int = 200,
    frozen: Array | None = None,
    width: int | None = None,
    correct: Array | None = None,
) -> Minimum:
    """Minimise from each row of `start`.

    Args:
        problem, estimator: what to minimise.
        start: (m, r).
        weights: (m, n), or (1, n) for all rows.
        tolerance: stop once a Newton step would lower the objective by less than this share.
        iterations: most steps of a row; a row that needs more is not converged.
        frozen: (m, r) bool, coordinates that stay where they start.
        width: most rows at a time; others enter as those leave. All at once where absent. Needs
            weights for every row.
        correct: (r,) bool, coordinates to correct by a step of their own where the joint step falls
            short; see `_corrected`.
    """
    lower, upper = bounds(problem, estimator)
    start = np.clip(start, lower, upper)
    m, r = start.shape
    width = m if width is None else width
    result = Minimum(
        np.empty((m, r)),
        np.empty(m),
        np.empty((m, r)),
        np.empty((m, r, r)),
        np.zeros(m, dtype=bool),
        np.zeros(m, dtype=int),
    )

    def enter(rows: Array) -> _Active:
        own = weights if len(weights) == 1 else weights[rows]
        now = evaluate(problem, estimator, start[rows], own)
        return _Active(
            rows, start[rows], np.full(len(rows), 1e-3), np.zeros(len(rows), dtype=int), own, now
        )

    active, waiting = enter(np.arange(min(width, m))), width
    while len(active.rows):
        held = None if frozen is None else frozen[active.rows]
        active, negligible = _advance(problem, estimator, active, tolerance, held, correct)
        leave = negligible | (active.damping >= STUCK) | (active.steps >= iterations)
        if leave.any():
            _store(result, active.keep(leave), negligible[leave])
            active = active.keep(~leave)
            # entering few at a time would evaluate small batches, whose overhead is all they cost
            if waiting < m and len(active.rows) <= 0.6 * width:
                last = min(m, waiting + width - len(active.rows))
                active, waiting = active.join(enter(np.arange(waiting, last))), last
    return result


def _advance(
    problem: Problem,
    estimator: Estimator,
    active: _Active,
    tolerance: float,
    frozen: Array | None,
    correct: Array | None,
) -> tuple[_Active, Array]:
    """One damped step of every active row; and which had no decrease left to make."""
    now, damping, z = active.now, active.damping, active.z
    step, predicted = damped_step(problem, estimator, now, z, damping, frozen)
    total, size = active.weights.sum(axis=1), np.abs(now.value)
    rounding = ROUNDING * (np.sqrt(total * size) + total * ROUNDING)
    # a damped step is short whatever the gradient, so only a nearly free one can tell
    negligible = (damping <= LIGHT_DAMPING) & (predicted <= tolerance * size + rounding)
    if negligible.any():  # its damping would leave a hundredth of the gradient
        step[negligible] = _last_step(
            problem, estimator, active.keep(negligible), frozen, negligible
        )
    trial_z = np.clip(z + step, *bounds(problem, estimator))
    trial = evaluate(problem, estimator, trial_z, active.weights)
    if correct is not None:
        trial_z, trial = _corrected(
            problem, estimator, active, trial_z, trial, predicted, correct, frozen
        )
    gain = now.value - trial.value
    slack = np.where(negligible, -1e-13 * size - 4.0 * rounding, 0.0)
    better = np.isfinite(trial.value) & (gain >= slack)
    ratio = gain / np.maximum(predicted, 1e-300)
    damping = np.where(
        better, damping * np.interp(ratio, *TRUST), np.maximum(5.0 * damping, AFTER_REFUSAL)
    )
    advanced = _Active(
        active.rows,
        np.where(better[:, None], trial_z, z),
        np.minimum(np.maximum(damping, 1e-14), STUCK),
        active.steps + 1,
        active.weights,
        choose(better, trial, now),
    )
    return advanced, negligible


def _last_step(
    problem: Problem, estimator: Estimator, active: _Active, frozen: Array | None, rows: Array
) -> Array:
    held = None if frozen is None else frozen[rows]
    damping = np.full(len(active.rows), LAST_DAMPING)
    return damped_step(problem, estimator, active.now, active.z, damping, held)[0]


def _corrected(
    problem: Problem,
    estimator: Estimator,
    active: _Active,
    trial_z: Array,
    trial: Evaluation,
    predicted: Array,
    correct: Array,
    frozen: Array | None,
) -> tuple[Array, Evaluation]:
    """Where a joint step disappoints, step once more in the multipliers alone.

    The valley between the exponents and the multipliers is curved: a straight step leaves it. The
    loss is nearly linear in the multipliers, so that one step in them returns to its floor.
    """
    gain = active.now.value - trial.value
    rows = np.flatnonzero(~(gain > 0.5 * predicted) & np.isfinite(trial.value))
    if not len(rows):
        return trial_z, trial
    fixed = np.broadcast_to(~correct, (len(rows), len(correct)))
    if frozen is not None:
        fixed = fixed | frozen[rows]
    part = Evaluation(trial.value[rows], trial.gradient[rows], trial.hessian[rows])
    light = np.full(len(rows), 1e-3)
    step, _ = damped_step(problem, estimator, part, trial_z[rows], light, fixed)
    weights = active.weights if len(active.weights) == 1 else active.weights[rows]
    again_z = np.clip(trial_z[rows] + step, *bounds(problem, estimator))
    again = evaluate(problem, estimator, again_z, weights)
    better = again.value < part.value
    rows = rows[better]
    trial_z = trial_z.copy()
    trial_z[rows] = again_z[better]
    merged = Evaluation(trial.value.copy(), trial.gradient.copy(), trial.hessian.copy())
    merged.value[rows] = again.value[better]
    merged.gradient[rows] = again.gradient[better]
    merged.hessian[rows] = again.hessian[better]
    return trial_z, merged


def choose(better: Array, trial: Evaluation, now: Evaluation) -> Evaluation:
    """Per row the trial where it is better, else what there was."""
    if better.all():
        return trial
    return Evaluation(
        np.where(better, trial.value, now.value),
        np.where(better[:, None], trial.gradient, now.gradient),
        np.where(better[:, None, None], trial.hessian, now.hessian),
    )


def _store(result: Minimum, done: _Active, converged: Array) -> None:
    result.z[done.rows] = done.z
    result.value[done.rows] = done.now.value
    result.gradient[done.rows] = done.now.gradient
    result.hessian[done.rows] = done.now.hessian
    result.converged[done.rows] = converged
    result.iterations[done.rows] = done.steps


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
    scale = np.maximum(diagonal, 1e-2 * diagonal.max(axis=1, keepdims=True) + 1e-300)
    damped = hessian.copy()
    size = z.shape[1]
    damped.reshape(len(z), -1)[:, :: size + 1] += damping[:, None] * scale + held
    step = _descent(damped, gradient, scale)
    longest = np.abs(step).max(axis=1, keepdims=True)
    if np.fmax.reduce(longest, axis=None) > LONGEST_STEP:
        step = step * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300))
    change = gradient + 0.5 * (hessian @ step[:, :, None])[:, :, 0]
    return step, np.maximum(-(change * step).sum(axis=1), 0.0)


def _descent(damped: Array, gradient: Array, scale: Array) -> Array:
    """-damped^-1 gradient, or with the eigenvalues made positive where that is not downhill."""
    step = -solved(damped, gradient)
    finite = np.isfinite(damped).all(axis=(1, 2))  # elsewhere there is no step: it stays NaN
    uphill = np.flatnonzero(~((step * gradient).sum(axis=1) <= 0) & finite)
    if len(uphill):
        root = np.sqrt(scale[uphill])
        scaled = damped[uphill] / (root[:, :, None] * root[:, None, :])
        values, vectors = np.linalg.eigh(scaled)
        values = np.maximum(np.abs(values), 1e-8)
        along = np.einsum("ijk,ij->ik", vectors, gradient[uphill] / root) / values
        step[uphill] = -np.einsum("ijk,ik->ij", vectors, along) / root
    return step
