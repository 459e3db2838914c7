"""The next cells to run: greedy c-optimal choice among candidates, within a budget.

Each step takes the cell that cuts the predicted variance of the targets most, per unit of price or
outright, and updates the covariance by Sherman and Morrison's formula. The dearest budget used gets
at least four sizes, since fewer have no minimum to look at. Of several targets, the sum of the
variances counts, each over what it is before any new cell.
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
    weight = now.noise.precision(candidates.C)
    best: Design | None = None
    for top in _tops(now, candidates):
        left = funds - reserve(top)
        for per_price in (True, False):
            found = _fill(now, candidates, g, weight, left, top, per_price, enough)
            if found is not None and (best is None or _better(now, found, best)):
                best = found
    return best


def _better(now: Situation, found: Design, best: Design) -> bool:
    if found.enough or best.enough:
        return found.enough and not (best.enough and best.price <= found.price)
    left = [
        float(np.sum((now.sd(d.covariance) / now.sd(now.covariance)) ** 2)) for d in (found, best)
    ]
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


def _fill(
    now: Situation,
    candidates: Candidates,
    g: NDArray,
    weight: NDArray,
    funds: float,
    top: float,
    per_price: bool,
    enough: Callable[[NDArray, float], bool],
) -> Design | None:
    """Take sizes of the dearest budget until it has four, then whatever helps most, until enough."""
    state = _State(now.covariance.copy(), candidates.budget <= top * (1 + SAME), funds)
    at_top = np.abs(candidates.budget / top - 1) < SAME
    sizes, steps = _sizes_at(now, top), []
    while len(sizes) < LEAST_AT_TOP:
        new_size = at_top & ~np.isin(candidates.size, list(sizes))
        step = state.take(now, candidates, g, weight, new_size, per_price=False, role="top")
        if step is None:
            return None
        steps.append(step)
        sizes.add(int(candidates.size[step.index]))
    anywhere = np.ones(len(candidates), dtype=bool)
    while not (done := bool(steps) and enough(state.covariance, top)):
        step = state.take(now, candidates, g, weight, anywhere, per_price, role="gain")
        if step is None:
            break
        steps.append(step)
    if not steps:
        return None
    return Design(tuple(steps), state.covariance, funds - state.funds, top, done)


@dataclass(eq=False)
class _State:
    """What is left while cells are being chosen."""

    covariance: NDArray
    open: NDArray  # (n,) candidates that may still be taken
    funds: float

    def take(
        self,
        now: Situation,
        candidates: Candidates,
        g: NDArray,
        weight: NDArray,
        among: NDArray,
        per_price: bool,
        role: str,
    ) -> Step | None:
        """Take the best affordable candidate, or return None where none is left."""
        allowed = self.open & among & (candidates.price <= self.funds)
        if not allowed.any():
            return None
        spread = g @ self.covariance  # (n, 7)
        scaled = now.gradients / now.sd(now.covariance)
        fall = weight * np.sum((spread @ scaled) ** 2, axis=1)
        fall /= 1 + weight * np.einsum("ij,ij->i", spread, g)
        score = np.where(allowed, fall / candidates.price if per_price else fall, -1.0)
        best = int(np.argmax(score))
        before, old = now.sd(self.covariance), np.diag(self.covariance)
        share = weight[best] / (1 + weight[best] * float(spread[best] @ g[best]))
        self.covariance = self.covariance - share * np.outer(spread[best], spread[best])
        self.open[best] = False
        self.funds -= float(candidates.price[best])
        sharper = COORDINATES[int(np.argmin(np.diag(self.covariance) / old))]
        after = now.sd(self.covariance)
        return Step(best, role, tuple(map(float, before)), tuple(map(float, after)), sharper)
