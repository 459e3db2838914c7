"""What a fit returns, as frozen types, and the same as fits.json (the contract in DESIGN.md).

Every part has a status; a part that could not be made has a reason and unknown numbers. In memory
unknown is NaN or None, in the file it is null: JSON has no NaN.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

FITS_VERSION = 1
NAN = float("nan")
Pair = tuple[float, float]
UNKNOWN: Pair = (NAN, NAN)

_PARTS = (
    "schema_version",
    "level",
    "points",
    "provenance",
    "approach1",
    "approach2",
    "approach3",
    "laws",
    "refits",
    "conflicts",
    "leverage",
    "holdout",
    "forecast",
)


class FitsError(ValueError):
    """A fits.json that can't be read; the text is one line that says what to do."""


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
    resample: str  # what was drawn: size or rows
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
class Refit:
    """The headline under another N convention or flop rule."""

    flop_rule: str
    N_convention: str
    law: str
    a: float
    a_interval: Pair
    approach2_exponent: float
    status: str
    reason: str | None


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


@dataclass(frozen=True)
class Fits:
    """Everything that one fit says; to_json() is the file."""

    level: float
    points: PointsSummary
    provenance: dict[str, Any]
    approach1: Approach1 | Skipped
    approach2: Approach2 | Skipped
    approach3: Approach3 | Skipped
    laws: tuple[LawRow | Skipped, ...]
    refits: tuple[Refit | Skipped, ...]
    conflicts: tuple[Conflict | Skipped, ...]
    leverage: tuple[LeverageRow | Skipped, ...]
    holdout: tuple[Holdout | Skipped, ...]
    forecast: tuple[Forecast | Skipped, ...]
    groups: dict[str, "Fits"] = field(default_factory=dict)  # one a value of fit.by
    schema_version: int = FITS_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers, text and None."""
        return plain_json(self)

    def write(self, path: Path) -> Path:
        """Write fits.json so that `path` holds either the old bytes or the new ones."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        text = json.dumps(self.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)
        return path


def read_fits(path: Path) -> dict[str, Any]:
    """Read fits.json as plain values, its schema checked.

    Raises:
        FitsError: no such file, not JSON, another schema version, or a part is missing.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FitsError(f"{path} does not exist: isoflop fit makes it") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise FitsError(f"{path} can't be read as JSON ({e}): run isoflop fit again") from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise FitsError(f"{path} is not a fits.json: it has no schema_version")
    if content["schema_version"] != FITS_VERSION:
        raise FitsError(
            f"{path} has fits schema {content['schema_version']}, this code reads {FITS_VERSION}: "
            "run isoflop fit again"
        )
    missing = [p for p in _PARTS if p not in content]
    if missing:
        raise FitsError(f"{path} lacks {', '.join(missing)}: run isoflop fit again")
    return content


def plain_json(value: Any) -> Any:
    """Turn dataclasses, arrays, enums and numpy numbers into JSON values; unknown is None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain_json(value.tolist())
    if isinstance(value, list | tuple):
        items = [plain_json(v) for v in value]
        unknown_pair = len(items) == 2 and items == [None, None]
        return None if unknown_pair else items
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
