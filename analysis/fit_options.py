"""What a person may choose about a fit; the names are those of the fit group of the config."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from analysis.laws import LAWS
from analysis.points import N_COLUMNS, PointsError

ESTIMATORS = ("t4", "huber", "ls", "l1")
LOSS_UNITS = ("nats", "bits", "bpb")
RESAMPLES = ("size", "rows")
SIDE_DRAWS = 400


@dataclass(frozen=True)
class FitOptions:
    """Choices of one fit.

    Raises:
        PointsError: a value that is unknown or out of range; the text lists what is valid.
    """

    law: str = "chinchilla"
    estimator: str = "t4"
    delta: float = 1e-3  # of huber, on log-loss residuals
    resample: str = "size"  # what the bootstrap draws
    draws: int = 4000  # of the headline law; the other parts take at most 400
    level: float = 0.9  # of every interval
    N: str = "flops"  # convention, for our own records
    fix: Mapping[str, float] = field(default_factory=dict)  # parameters held at a value
    targets: tuple[float, ...] = ()  # FLOPs; 10x the top budget where empty
    by: str | None = None  # one fit per value of this column
    loss_unit: str = "nats"  # a label
    seed: int = 0
    recipe: str = "not_probed"  # what the sweep's probes said

    def __post_init__(self) -> None:
        _one_of("law", self.law, tuple(LAWS))
        _one_of("estimator", self.estimator, ESTIMATORS)
        _one_of("resample", self.resample, RESAMPLES)
        _one_of("N", self.N, tuple(N_COLUMNS))
        _one_of("loss_unit", self.loss_unit, LOSS_UNITS)
        if not 0 < self.delta < float("inf"):
            raise PointsError(f"fit.delta={self.delta} must be a positive number")
        if not 0.5 <= self.level < 1:
            raise PointsError(f"fit.level={self.level} must be in [0.5, 1): 0.9 is 90%")
        if not 0 <= self.draws <= 1_000_000:
            raise PointsError(f"fit.draws={self.draws} must be between 0 and 1,000,000")
        for name in self.fix:
            _one_of("fix", name, LAWS[self.law].parameters)
        if not all(0 < t < 1e60 for t in self.targets):
            raise PointsError(f"fit.targets={list(self.targets)} must be positive FLOPs")


def options_of(options: FitOptions | None, overrides: Mapping[str, Any]) -> FitOptions:
    """Replace single choices.

    Raises:
        PointsError: there is no such choice, or a value of it can't be used.
    """
    known = tuple(f.name for f in fields(FitOptions))
    for name in overrides:
        if name not in known:
            raise PointsError(f"fit has no option {name!r}: use one of {', '.join(known)}")
    return replace(options or FitOptions(), **overrides)


def _one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise PointsError(f"fit.{key}={value} is unknown: use one of {', '.join(valid)}")
