"""From compute budgets to cells: the isoFLOP grid as a pure function.

No clock, no file, no device: the same arguments give the same cells, in the same order, with the
same ids, on every machine. A launch, a rerun and an analysis months later agree by that alone.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace

from models.config import GPTConfig
from models.flops import FlopRule, N_flops, count_params, flops_per_token
from results.record import Probe
from sweep.recipe import Recipe, RecipeSettings, choose, make_recipe, outside_regime
from sweep.recipe_regime import Target


@dataclass(frozen=True, kw_only=True)
class DataRef:
    """Which data a cell trains on, as asked; the bytes have a hash of their own in the record."""

    name: str
    revision: str
    tokenizer: str
    mix: str | None = None  # several sources: share, name and revision of each
    document_mask: bool = False  # attention stays within a document


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid: train `model` by `recipe` for `steps` steps, once, with `seed`."""

    budget: float  # C asked for, FLOPs under flop_rule
    flop_rule: FlopRule
    model: GPTConfig
    recipe: Recipe
    steps: int
    seed: int
    data: DataRef
    probe: Probe | None = None  # how it differs from probe_of
    probe_of: str | None = None  # id of the cell whose recipe it tests

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.recipe.batch_rows * self.model.seq_len

    @property
    def tokens(self) -> int:
        """D, training tokens."""
        return self.steps * self.batch_tokens

    @property
    def N(self) -> float:
        """N_flops: parameters for which C = 6 N D."""
        return N_flops(self.model, self.flop_rule)

    @property
    def flops(self) -> float:
        """C spent; differs from `budget` only by rounding to whole steps."""
        return self.tokens * flops_per_token(self.model, self.flop_rule)

    @property
    def outside_regime(self) -> str | None:
        """In which way the cell lies outside the regime of its recipe, or None."""
        return outside_regime(self.recipe, Target(self.model, self.flop_rule, self.tokens))

    @property
    def id(self) -> str:
        """Readable prefix for people, content hash for machines: changes iff what is asked does."""
        content = json.dumps(_content(self), sort_keys=True)
        digest = hashlib.blake2s(content.encode(), digest_size=4).hexdigest()
        budget = f"{self.budget:.3g}".replace("e+", "e")
        probe = f"-{self.probe}" if self.probe else ""
        return f"c{budget}-n{si(self.N)}-s{self.seed}{probe}-{digest}"


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


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """What a person asked of the grid.

    Raises:
        ValueError: a number that makes no grid; names its key.
    """

    budgets: tuple[float, ...]
    flop_rule: str
    tokens_per_param: float
    window: float
    tokens_per_param_range: tuple[float, ...]
    seeds: tuple[int, ...]
    tolerance: float
    probe: bool

    def __post_init__(self) -> None:
        if self.flop_rule not in list(FlopRule):
            raise ValueError(
                f"grid.flop_rule={self.flop_rule} is unknown; it may be {', '.join(FlopRule)}"
            )
        for key, low, high in (
            ("budgets", 1.0, 1e30),
            ("tokens_per_param", 1e-3, 1e6),
            ("window", 1.0, 1e4),
            ("tolerance", 1e-6, 0.01),
            ("seeds", 0, 2**31 - 1),
        ):
            value = getattr(self, key)
            values = value if isinstance(value, tuple) else (value,)
            bad = [v for v in values if not low <= v <= high]
            if bad or not values:
                got = f"{bad[0]:g}" if bad else "nothing"
                raise ValueError(f"grid.{key} must lie between {low:g} and {high:g}, got {got}")
            if len(set(values)) < len(values):
                raise ValueError(f"grid.{key} names a value twice: {list(values)}")
        bounds = self.tokens_per_param_range
        if len(bounds) != 2 or not 0 < bounds[0] < bounds[1]:
            raise ValueError(
                f"grid.tokens_per_param_range={list(bounds)} must be [low, high] with 0 < low < high"
            )


def isoflop_grid(
    settings: GridSettings,
    ladder: Sequence[GPTConfig],
    recipe: RecipeSettings,
    data: DataRef,
) -> Grid:
    """Every budget x size of the ladder in its window, x seed, in (budget, N, seed) order.

    A budget's window is centred where D/N = tokens_per_param, so N = sqrt(C / (6 D/N)). D is a
    whole number of steps; a size whose rounding would move C by more than `tolerance` is left
    out, since its loss would not lie on the profile.
    """
    rule = FlopRule(settings.flop_rule)
    sizes = sorted(ladder, key=lambda cfg: N_flops(cfg, rule))
    cells: list[Cell] = []
    skipped: list[Skip] = []
    for budget in sorted(settings.budgets):
        for cfg in sizes:
            cell = _cell(budget, rule, cfg, recipe, data, settings.seeds[0])
            reason = _reason_to_skip(cell, settings)
            if reason:
                skipped.append(Skip(budget, cfg.size_id, cell.N, reason))
            else:
                cells += [replace(cell, seed=seed) for seed in settings.seeds]
    return Grid(tuple(cells), tuple(skipped))


def target_of(budget: float, rule: FlopRule, cfg: GPTConfig) -> Target:
    """Return what a recipe's rule sees: a shape, and the D that the budget buys of it."""
    return Target(cfg, rule, budget / flops_per_token(cfg, rule))


def window_centre(budget: float, settings: GridSettings) -> float:
    """N in the middle of a budget's window of sizes."""
    return math.sqrt(budget / (6 * settings.tokens_per_param))


def _cell(
    budget: float,
    rule: FlopRule,
    cfg: GPTConfig,
    recipe: RecipeSettings,
    data: DataRef,
    seed: int,
) -> Cell:
    choice = choose(recipe, target_of(budget, rule, cfg))
    rows, T = choice.rows(cfg.seq_len), cfg.seq_len
    steps = max(1, round(budget / (rows * T * flops_per_token(cfg, rule))))
    numbers = make_recipe(recipe, choice, steps=steps, batch_rows=rows, seq_len=T)
    return Cell(
        budget=budget, flop_rule=rule, model=cfg, recipe=numbers, steps=steps, seed=seed, data=data
    )


def _reason_to_skip(cell: Cell, settings: GridSettings) -> str | None:
    centre = window_centre(cell.budget, settings)
    low, high = settings.tokens_per_param_range
    ratio = cell.tokens / cell.N
    if not 1 / settings.window <= cell.N / centre <= settings.window:
        return (
            f"N={si(cell.N)} outside the window {si(centre / settings.window)}.."
            f"{si(centre * settings.window)}"
        )
    if not low <= ratio <= high:
        return f"D/N={ratio:.3g} outside {low:g}..{high:g}"
    miss = cell.flops / cell.budget - 1
    if abs(miss) > settings.tolerance:
        return f"{cell.steps} whole steps miss C by {miss:+.1%}"
    return None


def params_of(cell: Cell) -> dict[str, float]:
    """N under every convention, by the record's column names."""
    N = count_params(cell.model)
    return {
        "N_flops": cell.N,
        "N_total": N.total,
        "N_non_embedding": N.non_embedding,
        "N_matmul": N.matmul,
        "N_active": N.total,
    }


def flops_of(cell: Cell) -> dict[str, float]:
    """Training FLOPs of the cell under every rule, by the record's column names."""
    return {f"flops_{rule}": cell.tokens * flops_per_token(cell.model, rule) for rule in FlopRule}


def cell_to_dict(cell: Cell) -> dict:
    """Return plain values, for a frozen plan or config file."""
    return asdict(cell)


def _content(value: object) -> object:
    """Return what enters the id: all fields, but one with a default only where it differs from it.

    So a field that is added later, with a default, leaves the ids of old cells as they were.
    """
    if not is_dataclass(value):
        return value
    return {
        f.name: _content(getattr(value, f.name))
        for f in fields(value)
        if f.default is MISSING or getattr(value, f.name) != f.default
    }


def si(x: float) -> str:
    """Two significant digits with a magnitude: 423_000 -> '420k', 41_900_000 -> '42M'."""
    x = float(f"{x:.2g}")
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:g}{letter}"
    return f"{x:g}"
