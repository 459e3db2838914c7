"""The learning rate of a step, as a share of its peak."""

import math
from enum import StrEnum


class Schedule(StrEnum):
    """Shape of the learning rate after a linear warm-up."""

    WSD = "wsd"
    WSD_LINEAR = "wsd_linear"
    WSD_STEPPED = "wsd_stepped"
    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"

    @property
    def has_decay_phase(self) -> bool:
        """Whether the decay takes a share of the run at its end, not all that follows warm-up."""
        return self in (Schedule.WSD, Schedule.WSD_LINEAR, Schedule.WSD_STEPPED)


def lr_share(
    step: int,
    *,
    steps: int,
    warmup_steps: int,
    schedule: Schedule,
    decay_steps: int,
    floor: float,
    period_steps: int | None = None,
) -> float:
    """Share of the peak learning rate used by step `step` (from 0) of `steps`.

    wsd: constant, then 1 - sqrt over the last decay_steps (Haegele et al. 2024,
    arXiv:2405.18392, eq. 1); wsd_linear: constant, then linear over them. wsd_stepped: as wsd, but
    the constant falls by 1/sqrt(2) after period_steps, and again each time the steps have doubled,
    as in OLMo-core's ladder (model_ladder/wsds_chinchilla_run_configurator.py, stepped_schedule).
    cosine and linear decay over all steps after the warm-up. All but constant end at `floor` just
    after the last step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    level = 1.0
    match schedule:
        case Schedule.CONSTANT:
            return 1.0
        case Schedule.WSD:
            shape = 1 - math.sqrt(_decay_done(step, steps, decay_steps))
        case Schedule.WSD_STEPPED:
            shape = 1 - math.sqrt(_decay_done(step, steps, decay_steps))
            level = _stepped(min(step, max(0, steps - decay_steps - 1)), period_steps)
        case Schedule.WSD_LINEAR:
            shape = 1 - _decay_done(step, steps, decay_steps)
        case Schedule.COSINE:
            done = (step - warmup_steps) / (steps - warmup_steps)
            shape = (1 + math.cos(math.pi * done)) / 2
        case Schedule.LINEAR:
            shape = 1 - (step - warmup_steps) / (steps - warmup_steps)
    return floor + (max(level, floor) - floor) * shape


def _stepped(step: int, period_steps: int) -> float:
    """1/sqrt(c), where c is the least power of two with step < c x period_steps."""
    return 2.0 ** (-0.5 * (step // period_steps).bit_length())


def _decay_done(step: int, steps: int, decay_steps: int) -> float:
    """Share of the decay at the end of the run that is done before this step."""
    done = (step - (steps - decay_steps)) / decay_steps if decay_steps else 0.0
    return max(done, 0.0)
