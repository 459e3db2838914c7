"""One form that holds the others, for designs: what a cell tells of it, and of its optimum.

    L = E + (t_N + t_D)^gamma + cross * scale * t_N t_D,    t_N = A/N^alpha,  t_D = B/D^beta

holds chinchilla (gamma 1, cross 0), tied (alpha = beta), no_E (E 0), coupled (cross 0), interaction
(gamma 1) and Kaplan's joint form (beta 1). A design that is best for one of them alone puts its
cells where that form can't be told from the others; one that is best for the whole form does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws_optima import lowest_along

COORDINATES = ("E", "A", "B", "alpha", "beta", "gamma", "cross")
# What is known of each coordinate without any run, as a standard deviation: next to nothing of the
# first five, so that only rows speak. log gamma and cross are how wrong the plain law may be: the
# coupled fits of sweeps here and in Busbridge et al. 2025 have gamma within e^-.35 .. e^.35, and a
# cross term of a tenth of the reducible loss makes the plain law's intervals miss the truth.
PRIOR_SD = np.array([1.0, 3.0, 3.0, 1.0, 1.0, 0.3, 0.1])  # E: of the loss at the middle
_BARE = ("E", "A", "B", "alpha", "beta")
FREE = {  # which coordinates a law fits; a name twice: it moves them together
    "chinchilla": _BARE,
    "tied": ("E", "A", "B", ("alpha", "beta")),
    "no_E": ("A", "B", "alpha", "beta"),
    "coupled": (*_BARE, "gamma"),
    "interaction": (*_BARE, "cross"),
    "kaplan": ("A", "B", "alpha", "gamma"),
    "kaplan_E": ("E", "A", "B", "alpha", "gamma"),
    "superset": COORDINATES,
}
_NEAR = 0.01  # of log N, for derivatives along a profile
_REACH, _ROUNDS = 40.0, 7  # e-folds of the search for an optimum, to 40/20^7 of one


@dataclass(frozen=True)
class Superset:
    """The form at one point, in coordinates that are centred and of order one.

    Attributes:
        E: nats per token (or any unit of the loss).
        size_term, data_term: logarithms of the two terms at the middle.
        alpha, beta, gamma: exponents.
        cross: the cross term at the middle, as a share of the reducible loss there.
        middle: (log N, log D) at which the terms are given.
    """

    E: float
    size_term: float
    data_term: float
    alpha: float
    beta: float
    gamma: float
    cross: float
    middle: tuple[float, float]

    @property
    def reducible(self) -> float:
        """(t_N + t_D)^gamma at the middle."""
        return float((np.exp(self.size_term) + np.exp(self.data_term)) ** self.gamma)

    def loss(self, N: ArrayLike, D: ArrayLike) -> NDArray:
        """Loss, of the shape of N and D."""
        t_N, t_D, cross = self._terms(N, D)
        return self.E + (t_N + t_D) ** self.gamma + cross

    def gradient(self, N: ArrayLike, D: ArrayLike) -> NDArray:
        """Differentiate log loss in E, log t_N, log t_D, alpha, beta, log gamma, cross: (..., 7)."""
        t_N, t_D, cross = self._terms(N, D)
        total = t_N + t_D
        core = total**self.gamma
        slope = self.gamma * core / total
        by_N, by_D = slope * t_N + cross, slope * t_D + cross
        x, y = np.log(N) - self.middle[0], np.log(D) - self.middle[1]
        unit_cross = self.reducible * np.exp(-self.alpha * x - self.beta * y)
        columns = (np.ones_like(core), by_N, by_D, -x * by_N, -y * by_D,
                   self.gamma * core * np.log(total), unit_cross)  # fmt: skip
        return np.stack(columns, axis=-1) / (self.E + core + cross)[..., None]

    def N_opt(self, C: ArrayLike) -> NDArray:
        """N of least loss at C = 6ND, of the shape of C; NaN where there is no interior minimum."""
        log_spend = np.log(np.asarray(C, dtype=float) / 6)

        def along(log_N: NDArray) -> NDArray:
            with np.errstate(over="ignore", invalid="ignore"):
                return self.loss(np.exp(log_N), np.exp(log_spend - log_N))

        return np.exp(lowest_along(along, log_spend / 2, _REACH, _ROUNDS))

    def gradients_at_optimum(self, C: float) -> dict[str, NDArray]:
        """Differentiate log loss and log N at the optimum: (7,) each, by their names.

        The loss at an optimum moves as the loss itself does; its place moves by minus the change
        of the slope over the curvature (the implicit function theorem).
        """
        N = float(self.N_opt(C))
        around = N * np.exp(np.array([-_NEAR, 0.0, _NEAR]))
        D = C / 6 / around
        below, at, above = self.gradient(around, D)
        log_loss = np.log(self.loss(around, D))
        curvature = (log_loss[0] - 2 * log_loss[1] + log_loss[2]) / _NEAR**2
        return {"loss": at, "N_opt": -(above - below) / (2 * _NEAR) / curvature}

    def prior_precision(self) -> NDArray:
        """Diagonal of the information that there is before any run, (7,)."""
        sd = PRIOR_SD.copy()
        sd[0] *= self.E + self.reducible
        return sd**-2

    def _terms(self, N: ArrayLike, D: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
        n = np.exp(-self.alpha * (np.log(N) - self.middle[0]))
        d = np.exp(-self.beta * (np.log(D) - self.middle[1]))
        cross = self.cross * self.reducible * n * d
        return np.exp(self.size_term) * n, np.exp(self.data_term) * d, cross


def superset_of(law: str, parameters: Mapping[str, float], N: float, D: float) -> Superset:
    """Write a fitted law as a point of the superset.

    Args:
        law: one of FREE. parameters: its public constants.
        N, D: the middle of the sweep.

    Raises:
        ValueError: a law that the superset does not hold, or constants without an optimum.
    """
    if law not in FREE or law == "superset":
        raise ValueError(f"{law} is not among the laws that a design can use: {', '.join(FREE)}")
    p = dict(parameters)
    if not all(v is not None and np.isfinite(v) for v in p.values()):
        raise ValueError(f"{law} has no finite constants")
    beta = p.get("beta", 1.0 if law.startswith("kaplan") else p["alpha"])
    if not (p["A"] > 0 and p["B"] > 0 and p["alpha"] > 0 and beta > 0):
        raise ValueError(f"{law} has no interior optimum: a term does not fall")
    size_term, data_term = (
        np.log(p["A"]) - p["alpha"] * np.log(N),
        np.log(p["B"]) - beta * np.log(D),
    )
    gamma = p.get("gamma", 1.0)
    reducible = (np.exp(size_term) + np.exp(data_term)) ** gamma
    cross = p.get("G", 0.0) / (p["A"] * p["B"]) * np.exp(size_term + data_term) / reducible
    return Superset(p.get("E", 0.0), float(size_term), float(data_term), p["alpha"], beta, gamma,
                    float(cross), (float(np.log(N)), float(np.log(D))))  # fmt: skip


def free_directions(law: str) -> NDArray:
    """Return the coordinates that a law fits, as columns: (7, q)."""
    columns = []
    for names in FREE[law]:
        moved = names if isinstance(names, tuple) else (names,)
        columns.append([float(c in moved) for c in COORDINATES])
    return np.array(columns).T
