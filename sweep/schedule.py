"""The learning rate of a step, as a share of its peak."""

import math
from enum import StrEnum


class Schedule(StrEnum):
    """Shape of the learning rate after a linear warm-up."""

    WSD = "wsd"
    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


def lr_share(
    step: int, *, steps: int, warmup_steps: int, schedule: Schedule, decay_steps: int, floor: float
) -> float:
    """Share of the peak learning rate used by step `step` (from 0) of `steps`.

    wsd: constant, then 1 - sqrt over the last decay_steps (Haegele et al. 2024,
    arXiv:2405.18392, eq. 1). cosine and linear decay over all steps after the warm-up. All but
    constant end at `floor` just after the last step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    match schedule:
        case Schedule.CONSTANT:
            return 1.0
        case Schedule.WSD:
            done = (step - (steps - decay_steps)) / decay_steps if decay_steps else 0.0
            shape = 1 - math.sqrt(max(done, 0.0))
        case Schedule.COSINE:
            done = (step - warmup_steps) / (steps - warmup_steps)
            shape = (1 + math.cos(math.pi * done)) / 2
        case Schedule.LINEAR:
            shape = 1 - (step - warmup_steps) / (steps - warmup_steps)
    return floor + (1 - floor) * shape
