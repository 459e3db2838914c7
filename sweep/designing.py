"""The design verb: from a fit and a budget to the next cells, in rounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from analysis.design import LEAST_AT_TOP, Situation, Step, choose, covariance_of
from analysis.design_information import quantile
from analysis.discrepancy import discrepancy_factor
from conf.schema import AppConf
from sweep.cell import Cell
from sweep.design_candidates import as_candidates, candidate_cells, sizes_by_budget
from sweep.design_known import Known, budgets_of, information_of, what_is_known
from sweep.design_settings import DesignSettings
from sweep.errors import UsageError
from sweep.grid import Grid
from sweep.predict import predict_cost
from sweep.probes import with_probes
from sweep.resolve import Resolved

MOST_ROUNDS = 50


@dataclass(frozen=True, eq=False)
class Round:
    """Cells that are launched together, with the probes that come with them."""

    cells: tuple[Cell, ...]
    steps: tuple[Step, ...]
    probes: tuple[Cell, ...]
    price: float  # of cells and probes, in the unit of the funds
    covariance: NDArray
    top: float  # the dearest budget once it is run, FLOPs


@dataclass(frozen=True, eq=False)
class Plan:
    """Rounds, and all that is needed to speak of them."""

    asked: DesignSettings
    known: Known
    target: float
    gradients: dict[str, NDArray]
    covariance: NDArray  # with what is coming, before any new cell
    rounds: tuple[Round, ...]
    candidates: int
    left_out: tuple[str, ...]  # reasons for which candidates fell
    reached: bool | None  # whether design.until is; None where it was not asked
    level: float

    def sd(self, quantity: str, covariance: NDArray, top: float) -> float:
        """Predicted standard error of a log quantity; of the loss, with what all laws miss."""
        return _sd(self.gradients[quantity], quantity, covariance, self.target / top)

    def share(self, sd: float) -> float:
        """Half an interval, as a share of the quantity."""
        return float(np.expm1(quantile(self.level) * sd))


def plan_design(resolved: Resolved, app: AppConf, asked: DesignSettings) -> Plan:
    """Choose the next cells.

    Raises:
        UsageError: no usable fit, a target inside the data, a budget that buys nothing, no
            candidate that the hardware holds; each with the nearest thing that works.
    """
    known = what_is_known(resolved, app)
    target = _target(known, asked)
    pool, left_out = candidate_cells(resolved, app, known, asked, target)
    price = _price_of(resolved, asked.unit)
    gradients = known.form.gradients_at_optimum(target)
    wanted = np.stack([gradients[q] for q in asked.quantities], axis=1)
    coming = information_of(known, known.coming)
    covariance = covariance_of(known.form, known.told + coming)
    level = float(known.prior.fits["level"])
    plan = Plan(asked, known, target, gradients, covariance, (), len(pool), left_out, None, level)
    rounds: list[Round] = []
    reached = _is_reached(plan, covariance, max((*known.budgets, *budgets_of(known.cells))))
    while not reached and len(rounds) < (1 if asked.until is None else MOST_ROUNDS):
        done = (*known.cells, *(c for r in rounds for c in (*r.cells, *r.probes)))
        now = Situation(known.form, known.prior.noise, covariance, wanted, sizes_by_budget(done))
        found = _one_round(resolved, now, pool, price, asked.funds, done, plan)
        if found is None:
            break
        rounds.append(found)
        covariance = found.covariance
        chosen = {step.index for step in found.steps}
        pool = [c for i, c in enumerate(pool) if i not in chosen]
        reached = _is_reached(plan, covariance, found.top)
    if not rounds and not reached:
        least = _least_funds(resolved, now, pool, price, known.cells, plan)
        raise UsageError(_too_little(pool, price, asked, least))
    return replace(plan, rounds=tuple(rounds), reached=None if asked.until is None else reached)


def _target(known: Known, asked: DesignSettings) -> float:
    top = max((*known.budgets, *budgets_of(known.coming)))
    if asked.target is None:
        return 10 * top
    if asked.target <= top:
        key = "design.target" if asked.until is None else "design.until"
        raise UsageError(
            f"{key}: C={asked.target:g} lies inside the data, whose budgets reach {top:g}: the "
            f"optimum there is in fits.json; name a compute above it, such as {10 * top:g}"
        )
    return asked.target


def _one_round(
    resolved: Resolved,
    now: Situation,
    pool: Sequence[Cell],
    price: Callable[[Cell], float],
    funds: float,
    done: tuple[Cell, ...],
    plan: Plan,
) -> Round | None:
    """Choose cells and add the probes that a launch of them would add."""
    candidates = as_candidates(pool, price)

    @cache
    def reserve(top: float) -> float:
        return sum(map(price, _new_probes(resolved, done, [c for c in pool if c.budget <= top])))

    spare = funds
    for _ in range(4):  # the chosen cells' probes may differ a little from those set aside
        found = choose(now, candidates, spare, reserve, lambda V, top: _is_reached(plan, V, top))
        if found is None:
            return None
        cells = tuple(pool[s.index] for s in found.steps)
        probes = tuple(_new_probes(resolved, done, cells))
        total = found.price + sum(map(price, probes))
        if total <= funds * (1 + 1e-9):
            top = max(max(now.has, default=0.0), *budgets_of(cells))
            return Round(cells, found.steps, probes, total, found.covariance, top)
        spare -= total - funds
    return None


def _is_reached(plan: Plan, covariance: NDArray, top: float) -> bool:
    until = plan.asked.until
    if until is None:
        return False
    return plan.share(plan.sd(until.quantity, covariance, top)) <= until.share


def _new_probes(resolved: Resolved, done: tuple[Cell, ...], cells: Sequence[Cell]) -> list[Cell]:
    """Probes that the sweep would have with these cells, and does not have yet."""
    settings = resolved.inputs.settings
    if not settings.probe:
        return []
    all_cells = {c.id: c for c in (*done, *cells) if c.probe is None}
    order = sorted(all_cells.values(), key=lambda c: (c.budget, c.N, c.seed))
    seeded = tuple(c for c in order if c.seed == settings.seeds[0])
    if not seeded:
        return []
    has = {c.id for c in done}
    probes = with_probes(Grid(seeded, ()), settings, resolved.inputs.recipe).probes
    return [p for p in probes if p.id not in has]


def _price_of(resolved: Resolved, unit: str) -> Callable[[Cell], float]:
    if unit == "flops":
        return lambda cell: cell.flops
    rates, val_tokens = resolved.rates, resolved.data.final_tokens
    return lambda cell: rates.ranks * predict_cost(cell, rates, val_tokens).seconds / 3600


def _least_funds(
    resolved: Resolved,
    now: Situation,
    pool: Sequence[Cell],
    price: Callable[[Cell], float],
    done: tuple[Cell, ...],
    plan: Plan,
) -> float | None:
    """Find funds that buy something, in steps of a fifth; None where none in reach do."""
    funds = min(map(price, pool))
    for _ in range(60):
        if _one_round(resolved, now, pool, price, funds, done, plan) is not None:
            return funds
        funds *= 1.2
    return None


def _too_little(
    pool: Sequence[Cell], price: Callable[[Cell], float], asked: DesignSettings, least: float | None
) -> str:
    cheapest = min(pool, key=price)
    said = (
        f"design.{asked.unit}={asked.funds:g} buys no cell: the cheapest candidate, "
        f"{cheapest.id}, costs {price(cheapest):.3g}"
    )
    if price(cheapest) <= asked.funds:
        said += f", and comes with {LEAST_AT_TOP} sizes of the dearest budget and its probes"
    if least is None:
        return f"{said}. No budget buys one: add sizes to model.ladder or budgets to design.budgets"
    return f"{said}. Try design.{asked.unit}={1.05 * least:.2g}"


def _sd(gradient: NDArray, quantity: str, covariance: NDArray, ratio: float) -> float:
    sd = float(np.sqrt(gradient @ covariance @ gradient))
    return sd * discrepancy_factor(ratio) if quantity == "loss" else sd
