"""What a cell will cost: seconds, memory and disk, from arithmetic and an assumed rate."""

from dataclasses import dataclass

from models.flops import FlopRule, count_params, flops_per_token
from sweep.grid import Cell
from sweep.memory import memory_needed


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the plan assumes of one device.

    Raises:
        ValueError: a rate that is not positive.
    """

    flops_per_second: float
    token_seconds: float
    step_seconds: float
    devices: int

    def __post_init__(self) -> None:
        if not self.flops_per_second > 0:
            raise ValueError(
                f"hardware.flops_per_second={self.flops_per_second:g} must be positive"
            )
        for name in ("token_seconds", "step_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"hardware.{name}={getattr(self, name):g} is negative")
        if self.devices < 1:
            raise ValueError(f"hardware.devices={self.devices} must be at least 1")


@dataclass(frozen=True)
class Cost:
    """Predicted cost of one cell on one device."""

    seconds: float
    memory_bytes: float
    disk_bytes: float


def predict_cost(cell: Cell, rates: Rates, val_tokens: int) -> Cost:
    """Predict one cell.

    Seconds: PaLM FLOPs over the assumed rate, plus a cost for each token and each step; the
    validation is a third of the training cost of its tokens. Memory: sweep.memory, the whole
    batch at once, in float32. Disk: the last checkpoint and a few kB of records.
    """
    cfg, N = cell.model, count_params(cell.model).total
    per_token = flops_per_token(cfg, FlopRule.PALM) / rates.flops_per_second + rates.token_seconds
    seconds = (cell.tokens + val_tokens / 3) * per_token + cell.steps * rates.step_seconds
    memory = memory_needed(cfg, cell.recipe.batch_rows, half=False)
    return Cost(seconds, memory, 12.0 * N + 50_000)


def predict_wall(costs: list[Cost], devices: int) -> float:
    """Wall-clock seconds with the longest cells first on `devices` equal devices."""
    free = [0.0] * devices
    for cost in sorted(costs, key=lambda c: -c.seconds):
        soonest = free.index(min(free))
        free[soonest] += cost.seconds
    return max(free, default=0.0)
