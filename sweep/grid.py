"""From compute budgets to cells: the isoFLOP grid as a pure function.

No clock, no file, no device: the same arguments give the same cells, in the same order, with the
same ids, on every machine. A launch, a rerun and an analysis months later agree by that alone.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace

from analysis.design_prior import Prior
from models.config import GPTConfig
from models.flops import FlopRule, N_flops, count_params, flops_per_token
from results.record import Probe
from sweep.recipe import Recipe, RecipeSettings, make_recipe, outside_regime
from sweep.recipe_regime import Target
from sweep.trunk_recipe import cell_choice

DESIGNS = ("uniform", "tapered")
LEAST_SIZES = 4  # of a budget: fewer have no minimum to look at
DEFAULT_WINDOW = 4.0


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
    on_trunk: bool = False  # branches off a trunk that cells of other budgets share

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
        digest = _digest(_content(self))
        budget = f"{self.budget:.3g}".replace("e+", "e")
        probe = f"-{self.probe}" if self.probe else ""
        return f"c{budget}-n{si(self.N)}-s{self.seed}{probe}-{digest}"

    @property
    def branch_step(self) -> int:
        """Steps before the final decay: there a cell on a trunk leaves it."""
        return self.steps - self.recipe.decay_steps

    @property
    def trunk(self) -> str | None:
        """Id of the trunk, the same for all cells that share their steps before the decay."""
        if not self.on_trunk:
            return None
        shared = _content(replace(self, probe=None, probe_of=None))
        del shared["budget"], shared["steps"], shared["recipe"]["decay_steps"]
        return f"n{si(self.N)}-s{self.seed}-{_digest(shared)}"


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
    tokens_per_param: float | None  # None: the prior's N_opt is the middle of the window
    window: float | None  # None: as wide as the prior's doubt asks for
    tokens_per_param_range: tuple[float, ...]
    seeds: tuple[int, ...]
    tolerance: float
    probe: bool
    design: str = "uniform"
    taper: tuple[int, ...] = (15, 4)
    prior: Prior | None = None
    trunks: bool = False

    def __post_init__(self) -> None:
        self._check_design()
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
            if value is None:
                continue
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

    def _check_design(self) -> None:
        if self.design not in DESIGNS:
            raise ValueError(
                f"grid.design={self.design} is unknown; it may be {', '.join(DESIGNS)}"
            )
        ends = self.taper
        if len(ends) != 2 or not LEAST_SIZES <= ends[1] <= ends[0] <= 10_000:
            raise ValueError(
                f"grid.taper={list(ends)} must be [sizes at the cheapest budget, sizes at the "
                f"dearest], the first not less than the second, and both at least {LEAST_SIZES}"
            )
        if self.prior is None and None in (self.tokens_per_param, self.window):
            raise ValueError("grid.tokens_per_param=null and grid.window=null need grid.prior")


def isoflop_grid(
    settings: GridSettings,
    ladder: Sequence[GPTConfig],
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


def target_of(budget: float, rule: FlopRule, cfg: GPTConfig) -> Target:
    """Return what a recipe's rule sees: a shape, and the D that the budget buys of it."""
    return Target(cfg, rule, budget / flops_per_token(cfg, rule))


def window_centre(budget: float, settings: GridSettings) -> float:
    """N in the middle of a budget's window of sizes."""
    if settings.tokens_per_param is None:
        return settings.prior.N_opt(budget)
    return math.sqrt(budget / (6 * settings.tokens_per_param))


def window_of(budget: float, settings: GridSettings) -> tuple[float, float]:
    """Middle of a budget's window in N, and its width to each side as a factor.

    Where the prior sets the width it is 4, or wider where its 90% interval of N_opt asks for that:
    a factor of 2 beyond both ends, so that the minimum has cells on both sides wherever it lies.
    """
    width = settings.window
    if width is None:
        width = max(DEFAULT_WINDOW, 2 * math.exp(min(5.0, 1.645 * settings.prior.spread(budget))))
    return window_centre(budget, settings), width


def make_cell(
    budget: float,
    rule: FlopRule,
    cfg: GPTConfig,
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


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2s(text.encode(), digest_size=4).hexdigest()


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
