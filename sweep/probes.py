"""Probes: cells beside the grid that show whether the recipe suits its small and large ends.

A recipe that is off at one end bends the law without a trace in the fit or in the hold-out, which
share it. Only a run with another learning rate or batch can show that, and only runs with another
seed can say what counts as a difference.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from results.record import Probe
from sweep.cell import Cell
from sweep.grid import Grid, Skip, target_of
from sweep.grid_settings import GridSettings, window_centre
from sweep.recipe import Recipe, RecipeSettings, make_recipe
from sweep.recipe_rules import Choice
from sweep.trunk_recipe import cell_choice

NOISE_SEEDS = 3
_LR_FACTORS = {Probe.LR_HALF: 0.5, Probe.LR_DOUBLE: 2.0}


def with_probes(grid: Grid, settings: GridSettings, recipe: RecipeSettings) -> Grid:
    """Add the probes of a grid.

    Learning rate x1/2 and x2 at the smallest, best and largest size of two budgets, the batch x2
    at the best ones, each at every seed of the grid; and further seeds at the best ones. Best is
    what the grid predicts: nearest to the middle of the window. The budgets are the cheapest and
    the second-dearest; of two, both. A grid of one budget has further seeds at its largest too.
    """
    probes: list[Cell] = []
    skipped: list[Skip] = []
    budgets = probed_budgets({cell.budget for cell in grid.cells})
    for budget in budgets:
        sizes = [c for c in grid.cells if c.budget == budget and c.seed == settings.seeds[0]]
        best = min(sizes, key=lambda c: _distance(c.N, window_centre(budget, settings)))
        for cell in _with_seeds(dict.fromkeys((sizes[0], best, sizes[-1])), settings.seeds):
            probes += [_lr_probe(cell, recipe, kind) for kind in _LR_FACTORS]
        doubles = [_batch_probe(cell, recipe) for cell in _with_seeds((best,), settings.seeds)]
        miss = doubles[0].flops / budget - 1
        if abs(miss) > settings.tolerance:
            reason = f"probe batch_double: {doubles[0].steps} whole steps miss C by {miss:+.1%}"
            skipped.append(Skip(budget, best.model.size_id, best.N, reason))
        else:
            probes += doubles
        noisy = (best,) if len(budgets) > 1 else dict.fromkeys((best, sizes[-1]))
        for cell in noisy:
            probes += _seed_probes(cell, settings.seeds)
    return replace(grid, probes=tuple(probes), skipped=grid.skipped + tuple(skipped))


def probe_of_kind(cell: Cell, recipe: RecipeSettings, kind: Probe, seed: int) -> Cell:
    """Return one probe of a cell; `seed` is the probe's own."""
    if kind in _LR_FACTORS:
        return _lr_probe(cell, recipe, kind)
    if kind is Probe.BATCH_DOUBLE:
        return _batch_probe(cell, recipe)
    return replace(cell, seed=seed, probe=Probe.SEED, probe_of=cell.id)


def probed_budgets(budgets: set[float]) -> list[float]:
    """Return the cheapest budget and the second-dearest; of two, both; of one, that one."""
    ordered = sorted(budgets)
    return sorted({ordered[0], ordered[-2] if len(ordered) > 2 else ordered[-1]})


def _with_seeds(cells: Iterable[Cell], seeds: Sequence[int]) -> list[Cell]:
    return [replace(cell, seed=seed) for cell in cells for seed in seeds]


def _distance(N: float, centre: float) -> float:
    return max(N / centre, centre / N)


def _lr_probe(cell: Cell, settings: RecipeSettings, kind: Probe) -> Cell:
    """Scale every learning rate, at the same data order and decayed to the same end.

    A floor that the rule gives is a learning rate, so its share moves the other way.
    """
    choice, factor = _choice(cell, settings), _LR_FACTORS[kind]
    floor = choice.lr_floor
    scaled = replace(
        choice,
        lr=choice.lr * factor,
        lr_embedding=choice.lr_embedding * factor,
        lr_floor=None if floor is None else min(1.0, floor / factor),
    )
    recipe = _numbers(cell, settings, scaled, cell.steps, cell.recipe.batch_rows)
    return replace(cell, recipe=recipe, probe=kind, probe_of=cell.id)


def _batch_probe(cell: Cell, settings: RecipeSettings) -> Cell:
    """Twice the sequences in half the steps, in the same order, at the same learning rate."""
    choice = _choice(cell, settings)
    double = replace(choice, batch_tokens=2 * choice.batch_tokens)
    steps = max(1, round(cell.steps / 2))
    recipe = _numbers(cell, settings, double, steps, 2 * cell.recipe.batch_rows)
    return replace(cell, recipe=recipe, steps=steps, probe=Probe.BATCH_DOUBLE, probe_of=cell.id)


def _seed_probes(cell: Cell, seeds: Sequence[int]) -> list[Cell]:
    """Return the further seeds that a cell needs for its noise; the grid's own count."""
    free = (s for s in range(len(seeds) + NOISE_SEEDS) if s not in seeds)
    return [
        replace(cell, seed=next(free), probe=Probe.SEED, probe_of=cell.id)
        for _ in range(NOISE_SEEDS - len(seeds))
    ]


def _choice(cell: Cell, settings: RecipeSettings) -> Choice:
    target = target_of(cell.budget, cell.flop_rule, cell.model)
    return cell_choice(settings, target, cell.on_trunk)


def _numbers(
    cell: Cell, settings: RecipeSettings, choice: Choice, steps: int, batch_rows: int
) -> Recipe:
    return make_recipe(
        settings, choice, steps=steps, batch_rows=batch_rows, seq_len=cell.model.seq_len, N=cell.N,
        on_trunk=cell.on_trunk,
    )  # fmt: skip
