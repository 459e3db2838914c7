"""Starting points by variable projection: a grid of exponents, each with its best multipliers.

Given the exponents, a loss that adds powers is linear in its multipliers, so that a whole grid
costs one batch of tiny least-squares problems. Log-loss residuals are not linear in them, which is
why the projection gives starts only.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from analysis.estimators import Huber
from analysis.laws_formulas import coupled_terms
from analysis.laws_types import Law
from analysis.newton import choose, damped_step
from analysis.objective import evaluate
from analysis.problem import Problem
from analysis.small_solves import solved

Array = np.ndarray

STARTS = 24
IMPROVEMENTS = 4
_ABSENT = -80.0  # log of a term that is switched off
_MULTIPLIERS = ("E", "A", "B", "G")
_POWERS = (0.05, 0.12, 0.22, 0.35, 0.5, 0.75, 1.1)
_GRID: dict[str, tuple[float, ...]] = {
    "alpha": _POWERS,
    "beta": _POWERS,
    "eta": (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6),
    "gamma": (0.015, 0.03, 0.05, 0.08, 0.12, 0.2, 0.35, 0.6),
    "bend": (-0.1, -0.03, 0.03, 0.1, 0.3),
    "C_break": (-3.0, -1.0, 1.0, 3.0),
    "width": tuple(np.log([0.1, 0.5, 2.0])),
    "R_D": tuple(np.log([3.0, 12.0, 50.0])),
    "R_N": tuple(np.log([3.0, 12.0, 50.0])),
}
_ANY_POSITIVE = tuple(np.log([0.1, 1.0, 10.0]))  # of a parameter that has no grid of its own
_COUPLING = (0.25, 0.5, 1.0, 2.0)
_E_SHARES = (0.0, 0.3, 0.6, 0.85)


def starting_points(problem: Problem, weights: Array, count: int = STARTS) -> tuple[Array, Array]:
    """Improve the best `count` points of the grid.

    Args:
        problem: the law and its rows.
        weights: (n,) of rows.
        count: how many.

    Returns:
        Distinct points (k <= count, q) in searched coordinates, and how many starts came to each.
    """
    z = _project(problem, _grid(problem), weights)
    error = (weights * np.abs(problem.residuals(z))).sum(axis=1)
    order = np.argsort(np.where(np.isfinite(error), error, np.inf), kind="stable")
    z, counts = z[order[:count]], np.ones(min(count, len(z)))
    for _ in range(2):
        z, counts = merged(_improve(problem, z, weights), counts)
    return z, counts


def merged(z: Array, counts: Array) -> tuple[Array, Array]:
    """Rows of z that differ by more than a thousandth, with the counts of those they stand for."""
    near = np.abs(z[:, None, :] - z[None, :, :]).max(axis=2) < 1e-3
    kept, label = np.unique(near.argmax(axis=1), return_inverse=True)
    return z[kept], np.bincount(label, weights=counts)


def _improve(problem: Problem, z: Array, weights: Array) -> Array:
    """Least squares in the exponents, the multipliers projected out after every step.

    A joint search follows the curved valley between E and the exponents in many short steps; with
    the multipliers projected out there is no valley.
    """
    squares = Huber(np.inf)
    damping = np.full(len(z), 1e-3)
    now = evaluate(problem, squares, z, weights[None, :], gauss_newton=True)
    for _ in range(IMPROVEMENTS):
        step, _ = damped_step(problem, squares, now, z, damping)
        trial_z = _project(problem, z + step, weights)
        trial = evaluate(problem, squares, trial_z, weights[None, :], gauss_newton=True)
        better = trial.value <= now.value
        now = choose(better, trial, now)
        z = np.where(better[:, None], trial_z, z)
        damping = damping * np.where(better, 0.1, 10.0)
    return z


def _project(problem: Problem, z: Array, weights: Array) -> Array:
    """Replace the multipliers by their best values at the exponents of z, inside the bounds."""
    coordinates = problem.coordinates
    z = np.clip(z, coordinates.lower, coordinates.upper)
    solve = _coupled_multipliers if _is_coupled(problem.law) else _multipliers
    return np.clip(solve(problem, z, weights), coordinates.lower + 0.05, coordinates.upper - 0.05)


def _is_coupled(law: Law) -> bool:
    return law.formula is coupled_terms


def _grid(problem: Problem) -> Array:
    law, free, axes = problem.law, problem.free_names(), []
    for name in free:
        if _is_coupled(law) and name == "gamma":
            axes.append(tuple(np.log(_COUPLING)))
        elif _is_coupled(law) and name == "E":
            lowest = float(problem.log_loss.min())
            axes.append(tuple(lowest + np.log(np.maximum(_E_SHARES, 1e-5))))
        elif name in _MULTIPLIERS:
            axes.append((_ABSENT,))
        else:
            axes.append(_GRID.get(name, _POWERS if name in law.exponents else _ANY_POSITIVE))
    z = np.array(list(product(*axes)))
    if _is_coupled(law) and "gamma" in free:  # the grid is in the powers that the loss itself shows
        gamma = np.exp(z[:, free.index("gamma")])
        for name in ("alpha", "beta"):
            if name in free:
                z[:, free.index(name)] /= gamma
    return z


def _multipliers(problem: Problem, z: Array, weights: Array) -> Array:
    """Least squares of the relative loss on the terms that are linear in it."""
    free = problem.free_names()
    linear = [free.index(name) for name in _MULTIPLIERS if name in free]
    if not linear:
        return z
    z = z.copy()
    z[:, linear] = _ABSENT
    loss = np.exp(problem.log_loss)
    base = problem.law.formula(problem.forms(z), problem.data) / loss
    units = []
    for column in linear:
        alone = z.copy()
        alone[:, column] = 0.0
        units.append(problem.law.formula(problem.forms(alone), problem.data) / loss - base)
    return _with_multipliers(z, linear, units, 1.0 - base, weights)


def _coupled_multipliers(problem: Problem, z: Array, weights: Array) -> Array:
    """Do the same for (loss - E)^(1/gamma), which is linear in A and B at given E and gamma."""
    free = problem.free_names()
    linear = [free.index(name) for name in ("A", "B") if name in free]
    if not linear:
        return z
    log_gamma, s_A, s_B, *log_E = problem.forms(z)
    E = np.exp(log_E[0]) if log_E else 0.0
    reducible = np.maximum(np.exp(problem.log_loss) - E, 1e-3 * np.exp(problem.log_loss))
    log_target = np.log(reducible) * np.exp(-log_gamma)
    terms = {"A": s_A, "B": s_B}
    units, base = [], np.zeros_like(log_target)
    for name, term in terms.items():
        if name in free:
            bare = term - z[:, [free.index(name)]]
            units.append(np.exp(np.clip(bare - log_target, -50.0, 50.0)))
        else:
            base = base + np.exp(np.clip(term - log_target, -50.0, 50.0))
    return _with_multipliers(z, linear, units, 1.0 - base, weights)


def _with_multipliers(
    z: Array, linear: list[int], units: list[Array], target: Array, weights: Array
) -> Array:
    """Least squares of target on units, (g, n) each; a share below a thousandth is raised to it."""
    shape = np.broadcast_shapes(target.shape, *(u.shape for u in units))
    design = np.stack([np.broadcast_to(u, shape) for u in units], axis=1)
    size = np.maximum(np.abs(design).mean(axis=2, keepdims=True), 1e-300)
    design = design / size
    weighted = design * weights
    gram = weighted @ design.transpose(0, 2, 1)
    gram += 1e-9 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(len(linear))
    moment = (weighted @ np.broadcast_to(target, shape)[:, :, None])[:, :, 0]
    shares = np.fmax(solved(gram, moment), 1e-3)
    z = z.copy()
    z[:, linear] = np.log(shares / size[:, :, 0])
    return z
