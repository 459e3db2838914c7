"""What an attempt measures of itself, kept through restarts."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.flops import FlopRule, flops_per_token
from models.hardware import mfu, suspects
from sweep.cell import Cell

_LAST_K = 3  # evaluations in eval_loss_last_k
_SPIKE = 1.0  # nats above the running mean
_RECENT_STEPS = 2000
_WARM_STEPS = 5  # of this process: allocators and caches fill


@dataclass
class Measurements:
    """Running sums; `state()` goes into the checkpoint."""

    started_at: str
    matmul_peak: float
    restarts: int = 0
    shared_steps: int = 0  # that another cell's attempt took and paid for
    seconds: float = 0.0
    train_seconds: float = 0.0
    steps_done: int = 0
    loss_sum: float = 0.0  # since the last evaluation
    loss_count: int = 0
    tail_sum: float = 0.0  # over the last tenth of the steps
    tail_count: int = 0
    smooth_loss: float = math.nan
    spikes: int = 0
    evaluations: list[float] = field(default_factory=list)
    peak_memory_bytes: float = math.nan
    compile_seconds: float = math.nan
    energy_joules: float = 0.0  # of earlier lives; NaN once a meter was silent
    b_noise: float = math.nan
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS))
    steps_here: int = 0

    def add_step(self, loss: float, seconds: float, step: int, steps: int) -> None:
        """Note the loss and the time of one step."""
        self.steps_done = step
        self.train_seconds += seconds
        self.steps_here += 1
        if self.steps_here > _WARM_STEPS or not self.step_seconds:
            self.step_seconds.append(seconds)
        if loss > self.smooth_loss + _SPIKE:  # false while smooth_loss is NaN
            self.spikes += 1
        first = math.isnan(self.smooth_loss)
        self.smooth_loss = loss if first else 0.95 * self.smooth_loss + 0.05 * loss
        self.loss_sum += loss
        self.loss_count += 1
        if step > steps - max(1, steps // 10):
            self.tail_sum += loss
            self.tail_count += 1

    def take_mean_loss(self) -> float:
        """Mean training loss since the last call."""
        mean = self.loss_sum / self.loss_count
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    def add_evaluation(self, loss: float) -> None:
        """Keep the last evaluations on the small set."""
        self.evaluations = [*self.evaluations, loss][-_LAST_K:]

    def add_compilation(self, seconds: float) -> None:
        """Note what compiling took in this life of the attempt."""
        earlier = 0.0 if math.isnan(self.compile_seconds) else self.compile_seconds
        self.compile_seconds = earlier + seconds

    def train_loss(self) -> float:
        """Mean loss of the last tenth of the steps; NaN before it."""
        return self.tail_sum / self.tail_count if self.tail_count else math.nan

    def median_step(self) -> float:
        """Seconds of the median step of this process, warm-up left out; NaN before the first."""
        return statistics.median(self.step_seconds) if self.step_seconds else math.nan

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint; step times are of one process and stay behind."""
        skip = ("step_seconds", "steps_here", "matmul_peak")
        return {k: v for k, v in vars(self).items() if k not in skip}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`, one restart later."""
        vars(self).update(state)
        self.restarts += 1

    def branch_off(self, state: dict[str, Any]) -> None:
        """Go on from another cell's `state()` at a step of the trunk: its losses, not its costs."""
        self.shared_steps = self.steps_done = state["steps_done"]
        for name in ("loss_sum", "loss_count", "smooth_loss", "spikes", "evaluations"):
            setattr(self, name, state[name])


def measured_columns(m: Measurements, cell: Cell, device: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the record that say what was measured; NaN where nothing was.

    Args:
        m: what was measured.
        cell: what was trained.
        device: columns of sweep.device.describe; peaks are of one device of `n_device`.
    """
    per_token = flops_per_token(cell.model, FlopRule.PALM)
    rate = cell.batch_tokens / m.median_step()
    done = (m.steps_done - m.shared_steps) * cell.batch_tokens
    whole = done / m.train_seconds if m.train_seconds else math.nan
    peak, measured_peak = (device["n_device"] * p for p in (device["peak_flops"], m.matmul_peak))
    utilisations = {
        "mfu": mfu(rate, per_token, peak),
        "mfu_whole_run": mfu(whole, per_token, peak),
        "mfu_of_measured_peak": mfu(rate, per_token, measured_peak),
    }
    return {
        "train_loss": m.train_loss(),
        "eval_loss_last_k": statistics.fmean(m.evaluations) if m.evaluations else math.nan,
        "tokens_per_second": rate,
        **utilisations,
        "suspect": suspects(utilisations),
        "measured_peak_flops": m.matmul_peak,
        "peak_memory_bytes": m.peak_memory_bytes,
        "train_seconds": m.train_seconds,
        "seconds": m.seconds,
        "compile_seconds": m.compile_seconds,
        "energy_joules": m.energy_joules or math.nan,
        "b_noise": m.b_noise,
        "spikes": m.spikes,
        "restarts": m.restarts,
        "shared_steps": m.shared_steps if cell.on_trunk else None,
        "started_at": m.started_at,
    }
