"""The next cells to run: greedy c-optimal choice among candidates, within a budget.

Each step takes the cell that cuts the predicted variance of the targets most, per unit of price or
outright, and updates the covariance by Sherman and Morrison's formula. The dearest budget used gets
at least four sizes, since fewer have no minimum to look at. Of several targets, the product of the
variances counts: a step is worth the sum of the shares that it takes off each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.design_form import COORDINATES, Superset
from analysis.design_information import Noise

LEAST_AT_TOP = 4  # sizes of the dearest budget
SAME = 1e-9  # relative; budgets this close are one


@dataclass(frozen=True, eq=False)
class Candidates:
    """Cells that could be run, (n,) each.

    Attributes:
        N, D, C: parameters, tokens, FLOPs. budget: C asked for.
        size: number of the model size. price: in the unit of the funds.
    """

    N: NDArray
    D: NDArray
    C: NDArray
    budget: NDArray
    size: NDArray
    price: NDArray

    def __len__(self) -> int:
        return len(self.N)


@dataclass(frozen=True)
class Step:
    """One cell that was chosen, and why.

    Attributes:
        index: of the candidate. role: top (one of the four of the dearest budget) or gain.
        sd_before, sd_after: predicted standard error of each target's logarithm.
        sharpens: the coordinate whose predicted error falls most, relative to itself.
    """

    index: int
    role: str
    sd_before: tuple[float, ...]
    sd_after: tuple[float, ...]
    sharpens: str


@dataclass(frozen=True, eq=False)
class Design:
    """Chosen cells in order; `covariance` (7, 7) is what is expected once they are run."""

    steps: tuple[Step, ...]
    covariance: NDArray
    price: float
    top: float  # the dearest budget, FLOPs
    enough: bool = False  # whether no more cells are needed


@dataclass(frozen=True, eq=False)
class Situation:
    """What is known and wanted.

    Attributes:
        form: the superset at the fit. noise: of one cell.
        covariance: (7, 7) of the form's coordinates now, prior included.
        gradients: (7, targets). has: sizes there are already, by budget.
    """

    form: Superset
    noise: Noise
    covariance: NDArray
    gradients: NDArray
    has: dict[float, frozenset[int]]

    def sd(self, covariance: NDArray) -> NDArray:
        """Predicted standard error of each target, (targets,)."""
        return np.sqrt(np.einsum("ik,ij,jk->k", self.gradients, covariance, self.gradients))


def covariance_of(form: Superset, told: NDArray) -> NDArray:
    """Covariance (7, 7) of the superset's coordinates with this information and the prior."""
    return np.linalg.inv(told + np.diag(form.prior_precision()))


def choose(
    now: Situation,
    candidates: Candidates,
    funds: float,
    reserve: Callable[[float], float] = lambda top: 0.0,
    enough: Callable[[NDArray, float], bool] = lambda covariance, top: False,
) -> Design | None:
    """Choose cells for the least predicted variance of the targets, or the cheapest that do.

    Every candidate budget is tried as the dearest one, with four sizes there; the best is kept.

    Args:
        now: what is known. candidates: what could be run.
        funds: what all cells may cost together, in the unit of the candidates' price.
        reserve: what must be set aside (probes) if a budget is the dearest.
        enough: whether a covariance (7, 7), with this budget as the dearest, needs no more cells.

    Returns:
        None where the funds buy nothing.
    """
    g = now.form.gradient(candidates.N, candidates.D)
    rows = g * np.sqrt(now.noise.precision(candidates.C))[:, None]
    best: Design | None = None
    for top in _tops(now, candidates):
        left = funds - reserve(top)
        for per_price in (True, False):
            search = _Search(now, candidates, rows, left, top, per_price)
            found = search.fill(_sizes_at(now, top), enough)
            if found is not None and (best is None or _better(now, found, best)):
                best = found
    return best


def _better(now: Situation, found: Design, best: Design) -> bool:
    if found.enough or best.enough:
        return found.enough and not (best.enough and best.price <= found.price)
    left = [float(np.sum(np.log(now.sd(d.covariance)))) for d in (found, best)]
    return (left[0], found.price) < (left[1], best.price)


def _tops(now: Situation, candidates: Candidates) -> list[float]:
    """Return the budgets that may be the dearest: from the dearest there is on."""
    dearest = max(now.has, default=0.0)
    offered = {float(b) for b in np.unique(candidates.budget) if b >= dearest * (1 - SAME)}
    if dearest and not any(abs(b / dearest - 1) < SAME for b in offered):
        offered.add(dearest)
    return sorted(offered)


def _sizes_at(now: Situation, top: float) -> set[int]:
    return {s for b, sizes in now.has.items() if abs(b / top - 1) < SAME for s in sizes}


class _Search:
    """One greedy search with a given dearest budget; holds what is left while cells are chosen."""

    def __init__(
        self,
        now: Situation,
        candidates: Candidates,
        rows: NDArray,
        funds: float,
        top: float,
        per_price: bool,
    ) -> None:
        """Arguments as of `choose`; `rows` are the gradients over the noise, (n, 7)."""
        self.now, self.top, self.funds, self.left = now, top, funds, funds
        self.index = np.flatnonzero(candidates.budget <= top * (1 + SAME))
        self.rows, self.price = rows[self.index], candidates.price[self.index]
        self.size, self.budget = candidates.size[self.index], candidates.budget[self.index]
        self.divisor = self.price if per_price else np.ones(len(self.index))
        self.covariance = now.covariance
        spread = self.rows @ self.covariance
        self.pull = spread @ now.gradients  # (m, targets): covariance of a cell and a target
        self.own = np.einsum("ij,ij->i", spread, self.rows)  # (m,) what a cell's loss varies by
        self.open = np.ones(len(self.index), dtype=bool)

    def fill(self, sizes: set[int], enough: Callable[[NDArray, float], bool]) -> Design | None:
        """Take sizes of the dearest budget until it has four, then what helps most, until enough."""
        steps: list[Step] = []
        at_top = np.abs(self.budget / self.top - 1) < SAME
        while len(sizes) < LEAST_AT_TOP:
            place = self._best(at_top & ~np.isin(self.size, list(sizes)), np.ones_like(self.price))
            if place is None:
                return None
            sizes = sizes | {int(self.size[place])}
            steps.append(self._take(place, "top"))
        while not (done := bool(steps) and enough(self.covariance, self.top)):
            place = self._best(np.ones_like(self.open), self.divisor)
            if place is None:
                break
            steps.append(self._take(place, "gain"))
        if not steps:
            return None
        return Design(tuple(steps), self.covariance, self.funds - self.left, self.top, done)

    def _best(self, among: NDArray, divisor: NDArray) -> int | None:
        """Find the affordable candidate that takes most off the targets' variances, in shares."""
        allowed = self.open & among & (self.price <= self.left)
        if not allowed.any():
            return None
        fall = self.pull**2 @ self.now.sd(self.covariance) ** -2.0 / (1 + self.own)
        return int(np.argmax(np.where(allowed, fall / divisor, -1.0)))

    def _take(self, place: int, role: str) -> Step:
        row, old = self.rows[place], self.covariance
        moved = old @ row
        left = 1 + float(row @ moved)
        self.covariance = old - np.outer(moved, moved) / left
        shared = self.rows @ moved
        self.pull -= np.outer(shared, moved @ self.now.gradients) / left
        self.own -= shared**2 / left
        self.open[place] = False
        self.left -= float(self.price[place])
        sharper = COORDINATES[int(np.argmin(np.diag(self.covariance) / np.diag(old)))]
        before, after = (tuple(map(float, self.now.sd(V))) for V in (old, self.covariance))
        return Step(int(self.index[place]), role, before, after, sharper)
