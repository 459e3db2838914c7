"""What a person asks of a grid, and the window of sizes that follows from it at each budget."""

import math
from dataclasses import dataclass

from analysis.design_prior import Prior
from models.flops import FlopRule

DESIGNS = ("uniform", "tapered")
LEAST_SIZES = 4  # of a budget: fewer have no minimum to look at
DEFAULT_WINDOW = 4.0


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
