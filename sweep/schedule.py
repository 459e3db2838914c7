"""The learning rate of a step, as a share of its peak."""

import math
from enum import StrEnum


class Schedule(StrEnum):
    """Shape of the learning rate after a linear warm-up."""

    WSD = "wsd"
    WSD_LINEAR = "wsd_linear"
    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"

    @property
    def has_decay_phase(self) -> bool:
        """Whether the decay takes a share of the run at its end, not all that follows warm-up."""
        return self in (Schedule.WSD, Schedule.WSD_LINEAR)


def lr_share(
    step: int, *, steps: int, warmup_steps: int, schedule: Schedule, decay_steps: int, floor: float
) -> float:
    """Share of the peak learning rate used by step `step` (from 0) of `steps`.

    wsd: constant, then 1 - sqrt over the last decay_steps (Haegele et al. 2024,
    arXiv:2405.18392, eq. 1); wsd_linear: constant, then linear over them. cosine and linear decay
    over all steps after the warm-up. All but constant end at `floor` just after the last step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    match schedule:
        case Schedule.CONSTANT:
            return 1.0
        case Schedule.WSD:
            shape = 1 - math.sqrt(_decay_done(step, steps, decay_steps))
        case Schedule.WSD_LINEAR:
            shape = 1 - _decay_done(step, steps, decay_steps)
        case Schedule.COSINE:
            done = (step - warmup_steps) / (steps - warmup_steps)
            shape = (1 + math.cos(math.pi * done)) / 2
        case Schedule.LINEAR:
            shape = 1 - (step - warmup_steps) / (steps - warmup_steps)
    return floor + (1 - floor) * shape


def _decay_done(step: int, steps: int, decay_steps: int) -> float:
    """Share of the decay at the end of the run that is done before this step."""
    done = (step - (steps - decay_steps)) / decay_steps if decay_steps else 0.0
    return max(done, 0.0)
