"""Starting points by variable projection: a grid of exponents, each with its best multipliers.

Given the exponents, a loss that adds powers is linear in its multipliers, so that a whole grid
costs one batch of tiny least-squares problems. Log-loss residuals are not linear in them, which is
why the projection gives starts only.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from analysis.laws import Law
from analysis.objective import Problem

Array = np.ndarray

STARTS = 24
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
_COUPLING = (0.25, 0.5, 1.0, 2.0)
_E_SHARES = (0.0, 0.3, 0.6, 0.85)


def starting_points(problem: Problem, weights: Array, count: int = STARTS) -> Array:
    """Best `count` points of the grid, (<= count, q), in searched coordinates.

    Args:
        problem: the law and its rows.
        weights: (n,) of rows.
        count: how many.
    """
    law, free = problem.law, _free_names(problem)
    z = _grid(law, free, problem)
    z = (
        _project_coupled(problem, free, z, weights)
        if _is_coupled(law)
        else _project(problem, free, z, weights)
    )
    z = np.clip(z, problem.coordinates.lower + 0.05, problem.coordinates.upper - 0.05)
    error = (weights * np.abs(problem.residuals(z))).sum(axis=1)
    order = np.argsort(np.where(np.isfinite(error), error, np.inf), kind="stable")
    return z[order[:count]]


def _free_names(problem: Problem) -> list[str]:
    rows = np.argmax(problem.coordinates.free == 1.0, axis=0)
    return [problem.law.parameters[i] for i in rows]


def _is_coupled(law: Law) -> bool:
    return any(form.intercept == "gamma" for form in law.forms)


def _grid(law: Law, free: list[str], problem: Problem) -> Array:
    axes = []
    for name in free:
        if _is_coupled(law) and name == "gamma":
            axes.append(tuple(np.log(_COUPLING)))
        elif _is_coupled(law) and name == "E":
            lowest = float(problem.log_loss.min())
            axes.append(tuple(lowest + np.log(np.maximum(_E_SHARES, 1e-5))))
        else:
            axes.append(_GRID.get(name, (_ABSENT,)))
    z = np.array(list(product(*axes)))
    if _is_coupled(law) and "gamma" in free:  # the grid is in the powers that the loss itself shows
        gamma = np.exp(z[:, free.index("gamma")])
        for name in ("alpha", "beta"):
            if name in free:
                z[:, free.index(name)] /= gamma
    return z


def _project(problem: Problem, free: list[str], z: Array, weights: Array) -> Array:
    """Fill in the multipliers that are linear in the loss."""
    linear = [free.index(name) for name in _MULTIPLIERS if name in free]
    if not linear:
        return z
    loss = np.exp(problem.log_loss)
    base = problem.law.formula(problem.forms(z), problem.data) / loss
    units = []
    for column in linear:
        alone = z.copy()
        alone[:, column] = 0.0
        units.append(problem.law.formula(problem.forms(alone), problem.data) / loss - base)
    return _with_multipliers(z, linear, units, 1.0 - base, weights)


def _project_coupled(problem: Problem, free: list[str], z: Array, weights: Array) -> Array:
    """As `_project` on (loss - E)^(1/gamma), which is linear in A and B at given E and gamma."""
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
    moment = weighted @ np.broadcast_to(target, shape)[:, :, None]
    shares = np.maximum(np.linalg.solve(gram, moment)[:, :, 0], 1e-3)
    z = z.copy()
    z[:, linear] = np.log(shares / size[:, :, 0])
    return z
