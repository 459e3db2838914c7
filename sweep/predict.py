"""What a cell will cost: seconds, memory and disk, from arithmetic and an assumed rate."""

from collections.abc import Iterable
from dataclasses import dataclass

from models.flops import FlopRule, count_params, flops_per_token
from sweep.cell import Cell
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
    ranks: int
    devices: int

    def __post_init__(self) -> None:
        if not self.flops_per_second > 0:
            raise ValueError(
                f"hardware.flops_per_second={self.flops_per_second:g} must be positive"
            )
        for name in ("token_seconds", "step_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"hardware.{name}={getattr(self, name):g} is negative")
        for name in ("ranks", "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"hardware.{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class Cost:
    """Predicted cost of one cell; memory is of one replica."""

    seconds: float  # from its start to its end
    memory_bytes: float
    disk_bytes: float


def predict_cost(cell: Cell, rates: Rates, val_tokens: int, shared_steps: int = 0) -> Cost:
    """Predict one cell, but for steps of its trunk that another cell takes.

    Seconds: PaLM FLOPs over the assumed rate, plus a cost for each token and each step, Muon's own
    FLOPs among it, which every rank pays. Ranks share the training tokens at an efficiency of 1, as
    if gradients met in no time; one of them does the validation, a third of the training cost of
    its tokens. Memory: sweep.memory, a rank's whole share of the batch at once, in float32. Disk:
    the last checkpoint, for a cell on a trunk that at its branch step too, and a few kB of records.
    """
    cfg, N = cell.model, count_params(cell.model).total
    per_token = flops_per_token(cfg, FlopRule.PALM) / rates.flops_per_second + rates.token_seconds
    steps = cell.steps - shared_steps
    tokens = steps * cell.batch_tokens / rates.ranks + val_tokens / 3
    per_step = rates.step_seconds + cell.optimizer_flops / cell.steps / rates.flops_per_second
    seconds = tokens * per_token + steps * per_step
    memory = memory_needed(cfg, -(-cell.recipe.batch_rows // rates.ranks), half=False)
    return Cost(seconds, memory, 12.0 * N * (1 + cell.on_trunk) + 50_000)


def predict_wall(seconds: Iterable[float], devices: int) -> float:
    """Wall-clock seconds of what runs one by one, the longest first, `devices` at once."""
    free = [0.0] * devices
    for one in sorted(seconds, reverse=True):
        soonest = free.index(min(free))
        free[soonest] += one
    return max(free, default=0.0)
