"""Reach a narrow Huber threshold through wider ones.

A wide threshold is nearly least squares, which converges from anywhere. A narrow one leaves few
rows in its quadratic zone, so that Newton's step from afar says little; from the minimum of a
slightly wider one it is nearly exact.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from analysis.estimators import L1_DELTA, Huber, Residuals
from analysis.newton import minimise
from analysis.objective import evaluate
from analysis.problem import Problem
from analysis.small_solves import solved

Array = np.ndarray

WIDEST = 3e-2
DIRECT = 3e-4  # from here on a warm start at the target itself converges
COARSE, FINE = 6.0, 4.0  # steps of the threshold down to 1e-3 and below it


@dataclass(frozen=True)
class _Outside:
    """Slope of Huber's slopes in delta: the sign of every residual beyond it."""

    delta: float
    has_noise = False

    def terms(self, r: Array, log_sigma: Array | None = None) -> Residuals:
        outside = np.sign(r) * (np.abs(r) > self.delta)
        return Residuals(outside, outside, np.zeros_like(r))


def thresholds(name: str, delta: float) -> list[float]:
    """Huber thresholds to pass before the final minimisation, widest first.

    Args:
        name: estimator. delta: Huber's.
    """
    end = {"ls": np.inf, "t4": 1e-2, "l1": L1_DELTA}.get(name, delta)
    if end >= WIDEST:
        return [end, end]  # two rounds at the target itself, after each of which starts are merged
    if name == "t4":
        return _between(WIDEST, end, COARSE)
    if end >= DIRECT:
        return _between(WIDEST, end, COARSE)[:-1]
    return _between(WIDEST, 1e-3, COARSE)[:-1] + _between(1e-3, end, FINE)[:-1]


def _between(start: float, end: float, factor: float) -> list[float]:
    if end >= start:
        return []
    steps = int(np.ceil(np.log(start / end) / np.log(factor)))
    return [float(d) for d in np.geomspace(start, end, steps + 1)]


def follow(
    problem: Problem, deltas: list[float], target: float, z: Array, weights: Array, iterations: int
) -> Array:
    """Minimise at each threshold in turn, and step on along the path of minima.

    Args:
        problem: what is fitted. deltas: thresholds, widest first. target: the one after them.
        z: (m, q) start. weights: (m, n) or (1, n). iterations: at most, per threshold.

    Returns:
        (m, q), close to the minimum at `target`.
    """
    for delta, narrower in itertools.pairwise([*deltas, target]):
        z = minimise(
            problem,
            Huber(delta),
            z,
            weights,
            tolerance=1e-8,
            iterations=iterations,
            correct=problem.multipliers(),
        ).z
        if narrower < DIRECT:
            z = z + _tangent(problem, delta, narrower, z, weights)
    return z


def _tangent(problem: Problem, delta: float, narrower: float, z: Array, weights: Array) -> Array:
    """First-order move of the minimum from one threshold to the next.

    At the minimum the rows beyond delta pull with delta times `_Outside`, balanced by the others;
    differentiating in delta gives H dz = -d delta * (their pull).
    """
    hessian = evaluate(problem, Huber(delta), z, weights).hessian
    pull = evaluate(problem, _Outside(delta), z, weights).gradient
    size = np.trace(hessian, axis1=1, axis2=2)[:, None, None]
    guarded = hessian + 1e-12 * size * np.eye(problem.size)
    move = (delta - narrower) * solved(guarded, pull)
    far = np.abs(move).max(axis=1, keepdims=True) > 0.1
    return np.where(far | ~np.isfinite(move), 0.0, move)
