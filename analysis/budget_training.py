"""What training costs: FLOPs, GPU-hours, days, money, energy. Standard library only."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """How fast one GPU trains or serves: a peak in FLOP/s and the share of it that is reached (MFU).

    Raises:
        ValueError: a peak that is not positive, an MFU outside (0, 1], less than 1 FLOP/s of both.
    """

    peak: float
    mfu: float

    def __post_init__(self) -> None:
        if not 0 < self.peak < math.inf:
            raise ValueError(f"a peak of {self.peak:g} FLOP/s must be positive")
        if not 0 < self.mfu <= 1:
            raise ValueError(
                f"an MFU of {self.mfu:g} must lie in (0, 1]: it is a share of the peak"
            )
        if self.peak * self.mfu < 1:
            raise ValueError(
                f"a peak of {self.peak:g} FLOP/s at an MFU of {self.mfu:g} is less than 1 FLOP/s"
            )

    @property
    def flops_per_hour(self) -> float:
        """FLOPs that one GPU does in an hour."""
        return self.peak * self.mfu * 3600


def training_flops(N: float, D: float) -> float:
    """C = 6ND: 2 FLOPs a parameter and token forward, 4 backward; attention scores left out."""
    return 6 * N * D


def gpu_hours(flops: float, rate: Rate) -> float:
    """Hours of one GPU for so many FLOPs."""
    return flops / rate.flops_per_hour


def days(hours: float, gpus: float) -> float:
    """Days that GPU-hours take on `gpus` at once, as if they shared the work for nothing."""
    return hours / gpus / 24


def hours_of_money(money: float, price: float) -> float:
    """GPU-hours that money buys at a price per GPU-hour."""
    return money / price


def sized_by_ratio(C: float, tokens_per_param: float) -> tuple[float, float]:
    """N and D at C = 6ND with D = rN: N = sqrt(C / (6 r)), not C / (6 r^2)."""
    N = math.sqrt(C / (6 * tokens_per_param))
    return N, tokens_per_param * N


def energy_kwh(hours: float, watts: float, pue: float) -> float:
    """Energy in kWh of GPU-hours at a board's power, times what a data centre adds (PUE)."""
    return hours * watts * pue / 1000


def emissions_kg(kwh: float, carbon: float) -> float:
    """Emissions in kg CO2-equivalent at `carbon` kg per kWh."""
    return kwh * carbon
