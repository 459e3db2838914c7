"""The parts of a fit as frozen types: what each says, under the names of fits.json.

Every part has a status; a part that could not be made has a reason and unknown numbers: NaN or None
here, null in the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NAN = float("nan")
Pair = tuple[float, float]
UNKNOWN: Pair = (NAN, NAN)


@dataclass(frozen=True)
class Skipped:
    """A part that does not apply or could not be made."""

    reason: str
    status: str = "skipped"


@dataclass(frozen=True)
class ExcludedRow:
    row: int | str
    reason: str


@dataclass(frozen=True)
class PointsSummary:
    """What was fitted."""

    n: int
    path: str | None
    sha256: str | None
    flop_rule: str
    N_convention: str
    loss_unit: str
    grouping: str  # given, within_2_percent or log_bins
    budgets: tuple[float, ...]  # FLOPs, ascending
    sizes: int
    excluded: tuple[ExcludedRow, ...] = ()
    warnings: tuple[str, ...] = ()
    status: str = "ok"
    reason: str | None = None
    rows: dict[str, list] | None = None  # the runs themselves, for forecasts at other targets


@dataclass(frozen=True)
class Power:
    """N_opt or D_opt = coefficient * C^exponent; ci is the exponent's."""

    coefficient: float = NAN
    exponent: float = NAN
    ci: Pair = UNKNOWN


@dataclass(frozen=True)
class MinimumRow:
    """One budget's minimum; predicted_bias is N over the true N_opt minus 1 without noise."""

    budget: float
    N: float
    D: float
    loss: float
    status: str
    reason: str | None
    predicted_bias: float
    n: int
    N_interval: Pair = UNKNOWN
    loss_interval: Pair = UNKNOWN


@dataclass(frozen=True)
class MinLossLaw:
    """L_min(C) = E + A C^-gamma through the minima."""

    E: float
    A: float
    gamma: float
    gamma_interval: Pair
    noise: float  # sd of one cell's log loss
    status: str
    reason: str | None


@dataclass(frozen=True)
class Approach2:
    """Profiles; `methods` holds the exponents by every way to find a minimum."""

    N_opt: Power
    D_opt: Power
    minima: tuple[MinimumRow, ...]
    method: str
    methods: dict[str, dict[str, Any]]
    min_loss: MinLossLaw
    status: str
    reason: str | None
    exponent_bias: float = NAN  # of N_opt's exponent, from the predicted biases of the minima


@dataclass(frozen=True)
class Approach1:
    """Envelope of training curves."""

    N_opt: Power
    D_opt: Power
    status: str
    reason: str | None
    undecayed: bool | None = None  # curves end with a learning rate that has not decayed
    envelope: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True)
class CrossCheck:
    """Intervals of parameters, and of a, by another method than the bootstrap."""

    ci: Mapping[str, Pair] = field(default_factory=dict)
    status: str = "ok"
    reason: str | None = None


@dataclass(frozen=True)
class Approach3:
    """The headline law; a and b are the exponents of N_opt and D_opt."""

    law: str
    estimator: str
    delta: float | None
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    a: float
    b: float
    objective: float
    gradient_norm: float
    status: str
    reason: str | None
    n: int
    parameters: dict[str, float]
    ci: dict[str, Pair]
    starts: dict[str, float]
    resample: str  # what was drawn: size, trunk or rows
    clusters: int
    draws: int
    draws_converged: float  # share
    noise: dict[str, float] = field(default_factory=dict)
    fixed: dict[str, float] = field(default_factory=dict)
    checks: dict[str, CrossCheck] = field(default_factory=dict)  # delta, jackknife, profile


@dataclass(frozen=True)
class LawRow:
    """One form among those tried; weight is null for what never enters an average."""

    name: str
    estimator: str
    parameters: dict[str, float]
    covariance: tuple[tuple[float, ...], ...] | None
    noise: dict[str, float]
    objective: float
    gradient_norm: float
    aicc: float
    weight: float
    status: str
    reason: str | None
    source: str = ""


@dataclass(frozen=True)
class RefitAnswer:
    """What a refit answers at a target: C counted by its flop rule, N under its convention."""

    C: float
    N: float
    D: float
    loss: float
    loss_interval: Pair = UNKNOWN
    N_interval: Pair = UNKNOWN
    D_interval: Pair = UNKNOWN


@dataclass(frozen=True)
class Refit:
    """The headline under another N convention or flop rule; `forecast` has one a target."""

    flop_rule: str
    N_convention: str
    law: str
    a: float
    a_interval: Pair
    approach2_exponent: float
    status: str
    reason: str | None
    forecast: tuple[RefitAnswer, ...] = ()


@dataclass(frozen=True)
class Conflict:
    """Two answers to one question, neither inside the other's interval."""

    quantity: str
    first: str
    second: str
    values: Pair
    intervals: tuple[Pair, Pair]
    text: str


@dataclass(frozen=True)
class LeverageRow:
    """What leaving one row out does, in the answers' own units (N and loss: relative)."""

    row: int | str
    name: str
    change_in_a: float
    change_in_N: float  # noqa: N815 (a contract name)
    change_in_loss: float


@dataclass(frozen=True)
class OutlierRow:
    """One row far off the headline law; still in every fit."""

    row: int | str
    name: str
    budget: float  # FLOPs
    residual: float  # log(observed / predicted)
    sds: float  # the residual over the robust sd of all rows


@dataclass(frozen=True)
class Check:
    """One law's prediction of a held-out budget."""

    law: str
    predicted: float = NAN
    observed: float = NAN
    interval: Pair = UNKNOWN
    z: float = NAN
    mean_error: float = NAN
    inside_interval: bool | None = None
    n_eff: float = NAN
    ratio: float = NAN  # budget over the dearest one that was fitted
    status: str = "ok"
    reason: str | None = None


@dataclass(frozen=True)
class Holdout:
    """One budget predicted from all lower ones, by a law and by L_min(C).

    `others`: other laws and the average from the same budgets. `earlier`: the law from fewer, so
    at larger ratios.
    """

    budget: float
    n: int
    n_eff: float
    law: str
    predicted: float
    observed: float
    interval: Pair
    z: float
    mean_error: float
    inside_interval: bool | None
    min_loss_error: float
    min_loss_interval: Pair
    min_loss_predicted: float
    min_loss_observed: float
    min_loss_inside: bool | None
    min_loss_status: str
    min_loss_reason: str | None
    ratio: float  # budget over the next lower one
    status: str
    reason: str | None
    others: tuple[Check, ...] = ()
    earlier: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Plain:
    """Chinchilla + Huber + bootstrap; the minima's own curve; the last D/N kept."""

    loss: float = NAN
    N: float = NAN
    D: float = NAN
    loss_interval: Pair = UNKNOWN
    N_interval: Pair = UNKNOWN
    D_interval: Pair = UNKNOWN
    minima: dict[str, Any] = field(default_factory=dict)
    naive: dict[str, Any] = field(default_factory=dict)
    status: str = "ok"
    reason: str | None = None


@dataclass(frozen=True)
class Forecast:
    """The optimum at a compute that nobody has spent; variances are of log loss."""

    law: str
    C: float
    N: float
    D: float
    loss: float
    loss_interval: Pair
    N_interval: Pair
    D_interval: Pair
    N_range: dict[str, Pair]
    extrapolation: dict[str, float]
    variance: dict[str, float]
    plain: Plain
    flop_rule: str
    N_convention: str
    recipe: str
    status: str
    reason: str | None
