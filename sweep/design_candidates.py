"""Cells that a design may choose from: what the grid makes, the device holds and the text allows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analysis.design import LEAST_AT_TOP, Candidates
from conf.schema import AppConf
from sweep.cell import Cell, si
from sweep.data import find_prepared, open_data
from sweep.design_known import Known, budgets_of
from sweep.design_settings import DesignSettings
from sweep.errors import UsageError
from sweep.grid import isoflop_grid
from sweep.grid_settings import GridSettings, window_of
from sweep.resolve import Resolved, fitting_on_a_device

_MORE_BUDGETS = 12  # above the sweep's own, at its own steps


def candidate_cells(
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
    taken, has = {c.id for c in known.cells}, sizes_by_budget(known.cells)
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
    own = sorted({*budgets_of(known.cells), *known.budgets}) if known.rows or known.cells else []
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


def as_candidates(cells: Sequence[Cell], price: Callable[[Cell], float]) -> Candidates:
    N, D, budget = (np.array([getattr(c, k) for c in cells], dtype=float)
                    for k in ("N", "tokens", "budget"))  # fmt: skip
    return Candidates(N, D, 6 * N * D, budget, _size_numbers(cells), np.array(list(map(price, cells))))  # fmt: skip


def _size_numbers(cells: Iterable[Cell]) -> NDArray:
    """Tell sizes by their parameters, different for all of one ladder."""
    return np.array([round(c.N) for c in cells], dtype=int)


def sizes_by_budget(done: Sequence[Cell]) -> dict[float, frozenset[int]]:
    has: dict[float, set[int]] = {}
    for cell in done:
        if cell.probe is None:
            has.setdefault(cell.budget, set()).add(round(cell.N))
    return {b: frozenset(sizes) for b, sizes in has.items()}
