"""The design verb: from a fit and a budget to the next cells, in rounds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.design import LEAST_AT_TOP, Candidates, Situation, Step, choose, covariance_of
from analysis.design_form import Superset
from analysis.design_information import information, quantile
from analysis.design_prior import Prior, PriorError, prior_from_fits
from analysis.discrepancy import discrepancy_factor
from analysis.fits_file import FitsError
from analysis.points import PointsError
from analysis.points_rows import points_of
from conf.schema import AppConf
from sweep.cells import cell_from_row
from sweep.collected import collected_records, sweep_points
from sweep.data import find_prepared, open_data
from sweep.design_settings import DesignSettings
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.folder import SweepFolder, read_plan
from sweep.grid import Cell, Grid, GridSettings, isoflop_grid, si, window_of
from sweep.predict import predict_cost
from sweep.probes import with_probes
from sweep.resolve import Resolved, fitting_on_a_device

MOST_ROUNDS = 50
_MORE_BUDGETS = 12  # above the sweep's own, at its own steps


@dataclass(frozen=True, eq=False)
class Known:
    """What a design starts from.

    Attributes:
        prior: the fitted law. form: the same as a superset, at the middle of the runs.
        told: (7, 7) information of the runs. rows: how many runs, 0 where a covariance speaks.
        budgets: FLOPs of the runs. cells: frozen or recorded cells and probes of the sweep.
        coming: those of them without a result that a fit would see.
    """

    prior: Prior
    form: Superset
    told: NDArray
    rows: int
    budgets: tuple[float, ...]
    cells: tuple[Cell, ...]
    coming: tuple[Cell, ...]


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
    pool, left_out = _candidates(resolved, app, known, asked, target)
    price = _price_of(resolved, asked.unit)
    gradients = known.form.gradients_at_optimum(target)
    wanted = np.stack([gradients[q] for q in asked.quantities], axis=1)
    coming = _information(known, known.coming)
    covariance = covariance_of(known.form, known.told + coming)
    level = float(known.prior.fits["level"])
    plan = Plan(asked, known, target, gradients, covariance, (), len(pool), left_out, None, level)
    rounds: list[Round] = []
    reached = _is_reached(plan, covariance, max((*known.budgets, *_budgets(known.cells))))
    while not reached and len(rounds) < (1 if asked.until is None else MOST_ROUNDS):
        done = (*known.cells, *(c for r in rounds for c in (*r.cells, *r.probes)))
        now = Situation(known.form, known.prior.noise, covariance, wanted, _has(done))
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


def what_is_known(resolved: Resolved, app: AppConf) -> Known:
    """Read the fit and the runs behind it.

    Raises:
        UsageError: no fit, none that can be used, or one of other runs than were collected.
    """
    folder, rule = resolved.folder, resolved.inputs.settings.flop_rule
    own = app.design.fits is None
    path = folder.fits if own else expand(app.design.fits)
    try:
        prior = prior_from_fits(path)
    except PriorError as e:
        hint = f"; first: isoflop fit sweep={folder.name}" if own and not path.exists() else ""
        raise UsageError(f"{'the sweep' if own else 'design.fits'}: {e}{hint}") from None
    told_of = prior.fits["points"]
    if told_of["N_convention"] != "flops" or told_of["flop_rule"] != rule:
        raise UsageError(
            f"{path} is of N={told_of['N_convention']} and flop_rule={told_of['flop_rule']}, cells "
            f"are planned by N=flops and flop_rule={rule}: first, isoflop fit sweep={folder.name} "
            "fit.N=flops of a sweep with that rule"
        )
    planned = tuple(p.cell for p in read_plan(folder))
    return _with_records(resolved, prior, planned) if own else _with_fits(prior, planned)


def _with_records(resolved: Resolved, prior: Prior, planned: tuple[Cell, ...]) -> Known:
    folder = resolved.folder
    try:
        points = sweep_points(folder, "flops")
    except PointsError as e:
        raise UsageError(str(e)) from None
    if len(points) != prior.fits["points"]["n"]:
        raise UsageError(
            f"{folder.fits} is a fit to {prior.fits['points']['n']} cells, and {len(points)} are "
            f"collected: first, isoflop fit sweep={folder.name}"
        )
    form = prior.form(_middle(points.N), _middle(points.D))
    told = information(form, prior.noise, points.N, points.D, points.C)
    seen = {*map(str, points.row), *(str(e.row) for e in points.excluded)}
    coming = tuple(c for c in planned if c.id not in seen and c.probe is None)
    budgets = tuple(map(float, points.budgets))
    recorded = {c.id: c for c in _recorded(folder)}
    cells = tuple({**recorded, **{c.id: c for c in planned}}.values())
    return Known(prior, form, told, len(points), budgets, cells, coming)


def _recorded(folder: SweepFolder) -> list[Cell]:
    """Rebuild the cells and probes of a sweep's records."""
    try:
        return [cell_from_row(row) for row in collected_records(folder).to_dict("records")]
    except ValueError as e:
        raise UsageError(f"{folder.collected}: {e}") from None


def _with_fits(prior: Prior, planned: tuple[Cell, ...]) -> Known:
    """Know the runs by fits.json alone, of another sweep; by its covariance where it lacks them."""
    coming = tuple(c for c in planned if c.probe is None)
    try:
        points = points_of(prior.fits["points"])
    except FitsError as e:
        raise UsageError(f"design.fits: {e}") from None
    if points is not None:
        form = prior.form(_middle(points.N), _middle(points.D))
        told = information(form, prior.noise, points.N, points.D, points.C)
        return Known(prior, form, told, len(points), prior.budgets, planned, coming)
    C = float(np.exp(np.log(prior.budgets).mean()))
    N = prior.N_opt(C)
    form = prior.form(N, C / 6 / N)
    try:
        told = prior.information_at(form)
    except PriorError as e:
        raise UsageError(
            f"design.fits: {e}, and the file is of before fits held their runs: run isoflop fit again"
        ) from None
    return Known(prior, form, told, 0, prior.budgets, planned, coming)


def _target(known: Known, asked: DesignSettings) -> float:
    top = max((*known.budgets, *_budgets(known.coming)))
    if asked.target is None:
        return 10 * top
    if asked.target <= top:
        key = "design.target" if asked.until is None else "design.until"
        raise UsageError(
            f"{key}: C={asked.target:g} lies inside the data, whose budgets reach {top:g}: the "
            f"optimum there is in fits.json; name a compute above it, such as {10 * top:g}"
        )
    return asked.target


def _candidates(
    resolved: Resolved, app: AppConf, known: Known, asked: DesignSettings, target: float
) -> tuple[list[Cell], tuple[str, ...]]:
    """Cells that could be run next: sizes about the fit's N_opt at each budget, not yet planned.

    Raises:
        UsageError: there are none, with the reasons.
    """
    settings = replace(
        resolved.inputs.settings, budgets=_candidate_budgets(resolved, known, asked, target),
        tokens_per_param=None, prior=known.prior, design="uniform", probe=False,
    )  # fmt: skip
    grid = fitting_on_a_device(isoflop_grid(*replace(resolved.inputs, settings=settings)), app.hardware)  # fmt: skip
    new = _not_planned(known, grid.cells)
    most = _most_tokens(resolved, new)
    fresh = [c for c in new if c.tokens <= most]
    reasons = [f"C={s.budget:.3g} {s.size_id}: {s.reason}" for s in reversed(grid.skipped)
               if "outside the window" not in s.reason]  # fmt: skip
    reasons += _too_few_sizes(known, settings, grid.cells)
    if len(fresh) < len(new):
        worst = max(new, key=lambda c: c.tokens)
        reasons.append(f"{len(new) - len(fresh)} cells need more epochs than data.max_epochs, up to D={worst.tokens:,}")  # fmt: skip
    if not fresh:
        said = (
            "; ".join(reasons[:3]) or "all of them are planned already, or lie outside the ladder"
        )
        raise UsageError(
            f"no candidate cell is left at budgets {', '.join(f'{b:.3g}' for b in settings.budgets[:6])}: "
            f"{said}. Add sizes to model.ladder, seeds to grid.seeds, or name others with design.budgets"
        )
    return fresh, tuple(reasons)


def _not_planned(known: Known, cells: Sequence[Cell]) -> list[Cell]:
    """Leave out what is planned or has a result; ids are made only where they could be the same."""
    taken, has = {c.id for c in known.cells}, _has(known.cells)
    return [c for c in cells if round(c.N) not in has.get(c.budget, ()) or c.id not in taken]


def _too_few_sizes(known: Known, settings: GridSettings, cells: Sequence[Cell]) -> list[str]:
    """Name the budgets that can't be the dearest, since the ladder has too few sizes for them."""
    dearest, found = max(known.budgets), []
    for budget in settings.budgets:
        count = len({c.model for c in cells if c.budget == budget})
        if budget > dearest and count < LEAST_AT_TOP:
            centre, width = window_of(budget, settings)
            found.append(f"C={budget:.3g} as the dearest budget: {count} of the {LEAST_AT_TOP} sizes "
                         f"that it needs, model.ladder has few in N {si(centre / width)}..{si(centre * width)}")  # fmt: skip
    return found[:2]


def _candidate_budgets(
    resolved: Resolved, known: Known, asked: DesignSettings, target: float
) -> tuple[float, ...]:
    """Budgets below the target: as asked, or the sweep's own and on at its own steps."""
    if asked.budgets is not None:
        if inside := tuple(b for b in asked.budgets if b < target):
            return inside
        raise UsageError(f"design.budgets must lie below the target, C={target:g}")
    own = sorted({*_budgets(known.cells), *known.budgets}) if known.rows or known.cells else []
    own = own or sorted(resolved.inputs.settings.budgets)
    step = float(np.median(np.diff(np.log(own)))) if len(own) > 1 else np.log(2.0)
    more = [float(f"{own[-1] * np.exp(step * k):.3g}") for k in range(1, _MORE_BUDGETS + 1)]
    return tuple(sorted({b for b in (*own, *more) if b < target}))


def _most_tokens(resolved: Resolved, cells: Sequence[Cell]) -> float:
    """Largest D that the prepared text allows; any where it is not prepared yet."""
    shards = find_prepared(resolved.data, resolved.folder.data_cache)
    if shards is None or not cells:
        return np.inf
    seq_len, limit = cells[0].model.seq_len, resolved.data.max_epochs
    train = open_data(shards, resolved.data, seq_len).train
    tokens = sorted({c.tokens for c in cells})
    low, high = 0, len(tokens)  # epochs grow with D: the first that is too many
    while low < high:
        middle = (low + high) // 2
        too_many = max(u.epochs for u in train.usage(0, tokens[middle] // seq_len)) > limit
        low, high = (low, middle) if too_many else (middle + 1, high)
    return tokens[low - 1] if low else 0


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
    candidates = _as_candidates(pool, price)

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
            top = max(max(now.has, default=0.0), *_budgets(cells))
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


def _as_candidates(cells: Sequence[Cell], price: Callable[[Cell], float]) -> Candidates:
    N, D, budget = (np.array([getattr(c, k) for c in cells], dtype=float)
                    for k in ("N", "tokens", "budget"))  # fmt: skip
    return Candidates(N, D, 6 * N * D, budget, _size_numbers(cells), np.array(list(map(price, cells))))  # fmt: skip


def _size_numbers(cells: Iterable[Cell]) -> NDArray:
    """Tell sizes by their parameters, different for all of one ladder."""
    return np.array([round(c.N) for c in cells], dtype=int)


def _has(done: Sequence[Cell]) -> dict[float, frozenset[int]]:
    has: dict[float, set[int]] = {}
    for cell in done:
        if cell.probe is None:
            has.setdefault(cell.budget, set()).add(round(cell.N))
    return {b: frozenset(sizes) for b, sizes in has.items()}


def _budgets(cells: Iterable[Cell]) -> list[float]:
    return sorted({c.budget for c in cells})


def _information(known: Known, cells: Sequence[Cell]) -> NDArray:
    if not cells:
        return np.zeros_like(known.told)
    N, D = (np.array([getattr(c, k) for c in cells], dtype=float) for k in ("N", "tokens"))
    return information(known.form, known.prior.noise, N, D, 6 * N * D)


def _sd(gradient: NDArray, quantity: str, covariance: NDArray, ratio: float) -> float:
    sd = float(np.sqrt(gradient @ covariance @ gradient))
    return sd * discrepancy_factor(ratio) if quantity == "loss" else sd


def _middle(x: NDArray) -> float:
    return float(np.exp(np.log(x).mean()))


def fits_path(resolved: Resolved, app: AppConf) -> Path:
    """Where the fit of a design lies."""
    return resolved.folder.fits if app.design.fits is None else expand(app.design.fits)
