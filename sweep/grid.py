"""The isoFLOP grid: budgets x sizes of a ladder in their windows, as cells.

Pure: no file, no clock, no device: the same arguments give the same cells, in the same order, on every
machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from models.flops import FlopRule, N_flops, flops_per_token
from models.size import Size
from sweep.cell import Cell, DataRef, si
from sweep.grid_settings import GridSettings, window_of
from sweep.recipe import RecipeSettings, make_recipe
from sweep.recipe_regime import Target
from sweep.trunk_recipe import cell_choice


@dataclass(frozen=True)
class Skip:
    """A (budget, size) pair that is not in the grid, and why."""

    budget: float
    size_id: str
    N: float
    reason: str


@dataclass(frozen=True)
class Grid:
    """All cells in (budget, N, seed) order, and what was left out.

    Probes stand apart: they are trained with the cells and enter no fit.
    """

    cells: tuple[Cell, ...]
    skipped: tuple[Skip, ...]
    probes: tuple[Cell, ...] = ()

    @property
    def trained(self) -> tuple[Cell, ...]:
        """Cells and probes: everything that a launch trains."""
        return self.cells + self.probes


def isoflop_grid(
    settings: GridSettings,
    ladder: Sequence[Size],
    recipe: RecipeSettings,
    data: DataRef,
) -> Grid:
    """Every budget x size of the ladder in its window, x seed, in (budget, N, seed) order.

    A budget's window is centred where D/N = tokens_per_param, so N = sqrt(C / (6 D/N)), or at the
    prior's N_opt. D is a whole number of steps; a size whose rounding would move C by more than
    `tolerance` is left out, since its loss would not lie on the profile. A tapered design keeps
    fewer of a window's sizes the dearer the budget, equally far apart.
    """
    rule = FlopRule(settings.flop_rule)
    sizes = sorted(((N_flops(cfg, rule), cfg) for cfg in ladder), key=lambda size: size[0])
    profiles: list[list[Cell]] = []
    skipped: list[Skip] = []
    for budget in sorted(settings.budgets):
        window = window_of(budget, settings)
        profiles.append([])
        for N, cfg in sizes:
            reason = _outside(N, *window)
            if reason is None:
                cell = make_cell(
                    budget, rule, cfg, recipe, data, settings.seeds[0], settings.trunks
                )
                reason = _reason_to_skip(cell, N, settings)
            if reason:
                skipped.append(Skip(budget, cfg.size_id, N, reason))
            else:
                profiles[-1].append(cell)
    if settings.design == "tapered":
        profiles, thinned = _taper(profiles, settings.taper)
        skipped += thinned
    cells = [replace(c, seed=seed) for cells in profiles for c in cells for seed in settings.seeds]
    return Grid(tuple(cells), tuple(skipped))


def tapered_counts(available: Sequence[int], taper: tuple[int, ...]) -> list[int]:
    """Sizes to keep at each budget, cheapest first: fewer the dearer, as many as there are at most.

    From the first of `taper`, or the most that any budget has if that is less, down to the second
    in equal steps: 15, 12, 9, 6, 4 at five budgets of a fine ladder.
    """
    first = max(taper[1], min(taper[0], max(available)))
    steps = max(1, len(available) - 1)
    wanted = [first + (taper[1] - first) * i // steps for i in range(len(available))]
    return [min(have, w) for have, w in zip(available, wanted, strict=True)]


def _taper(
    profiles: Sequence[list[Cell]], taper: tuple[int, ...]
) -> tuple[list[list[Cell]], list[Skip]]:
    """Keep both ends of each profile and sizes equally far apart between them."""
    kept, skipped = [], []
    for cells, count in zip(
        profiles, tapered_counts([len(p) for p in profiles], taper), strict=True
    ):
        last = len(cells) - 1
        places = {round(i * last / max(1, count - 1)) for i in range(count)}
        kept.append([c for i, c in enumerate(cells) if i in places])
        reason = f"tapered: {count} of the {len(cells)} sizes in the window at this budget"
        skipped += [Skip(c.budget, c.model.size_id, c.N, reason)
                    for i, c in enumerate(cells) if i not in places]  # fmt: skip
    return kept, skipped


def target_of(budget: float, rule: FlopRule, cfg: Size) -> Target:
    """Return what a recipe's rule sees: a shape, and the D that the budget buys of it."""
    return Target(cfg, rule, budget / flops_per_token(cfg, rule))


def make_cell(
    budget: float,
    rule: FlopRule,
    cfg: Size,
    recipe: RecipeSettings,
    data: DataRef,
    seed: int,
    on_trunk: bool,
) -> Cell:
    """Return the cell of one budget and size; D is the budget's, in whole steps.

    Raises:
        ValueError: it is to branch off a trunk, and the recipe differs from budget to budget.
    """
    choice = cell_choice(recipe, target_of(budget, rule, cfg), on_trunk)
    rows, T = choice.rows(cfg.seq_len), cfg.seq_len
    steps = max(1, round(budget / (rows * T * flops_per_token(cfg, rule))))
    N = N_flops(cfg, rule)
    numbers = make_recipe(
        recipe, choice, steps=steps, batch_rows=rows, seq_len=T, N=N, on_trunk=on_trunk
    )
    return Cell(
        budget=budget, flop_rule=rule, model=cfg, recipe=numbers, steps=steps, seed=seed, data=data,
        on_trunk=on_trunk,
    )  # fmt: skip


def _outside(N: float, centre: float, width: float) -> str | None:
    if not 1 / width <= N / centre <= width:
        return f"N={si(N)} outside the window {si(centre / width)}..{si(centre * width)}"
    return None


def _reason_to_skip(cell: Cell, N: float, settings: GridSettings) -> str | None:
    low, high = settings.tokens_per_param_range
    ratio = cell.tokens / N
    if not low <= ratio <= high:
        return f"D/N={ratio:.3g} outside {low:g}..{high:g}"
    return why_unfit(cell, settings.tolerance)


def why_unfit(cell: Cell, tolerance: float) -> str | None:
    """Say why a cell can't stand in a grid: whole steps miss the budget, or a trunk warms up late."""
    miss, warmup = cell.flops / cell.budget - 1, cell.recipe.warmup_steps
    if abs(miss) > tolerance:
        return f"{cell.steps} whole steps miss C by {miss:+.1%}"
    if warmup > max(1, cell.steps // 10):
        return f"its trunk's warm-up of {warmup} steps is more than a tenth of its {cell.steps}"
    return None
