"""What a person asked of isoflop design, as values."""

import re
from dataclasses import dataclass

from analysis.design_information import QUANTITIES
from conf.schema import DesignConf
from sweep.errors import UsageError

_UNTIL = re.compile(r"\s*(\w+)\s*@\s*([0-9.eE+-]+)\s*<=\s*([0-9.]+)\s*%\s*")
_EXAMPLE = "design.until=N_opt@1e15<=10%"


@dataclass(frozen=True)
class Until:
    """Go on until the interval of a quantity is within this share of it to either side."""

    quantity: str
    target: float  # FLOPs
    share: float


@dataclass(frozen=True, kw_only=True)
class DesignSettings:
    """A budget for the next cells, and what they are for.

    Attributes:
        target: FLOPs, None where ten times the top budget is meant.
        quantities: names among QUANTITIES.
        funds: in `unit`, flops or device_hours. budgets: of candidates, None for the sweep's own.
    """

    target: float | None
    quantities: tuple[str, ...]
    funds: float
    unit: str
    until: Until | None
    budgets: tuple[float, ...] | None


def design_settings(conf: DesignConf, named: frozenset[str]) -> DesignSettings:
    """Check what was asked.

    Args:
        conf: the group design. named: keys that the person named.

    Raises:
        UsageError: no budget or two, an unknown quantity, an interval that can't be read.
    """
    given = {"flops": conf.flops, "device_hours": conf.device_hours}
    funds = {unit: value for unit, value in given.items() if value is not None}
    if len(funds) != 1:
        raise UsageError(
            "design needs what the next cells may cost: design.flops=1e18 or "
            "design.device_hours=100, one of the two"
        )
    ((unit, value),) = funds.items()
    if not 0 < value < 1e36:
        raise UsageError(f"design.{unit}={value:g} must be a positive number")
    until = None if conf.until is None else _until(conf.until)
    if until is not None and {"design.target", "design.quantity"} & named:
        raise UsageError("design.until names its own quantity and target: leave design.target and design.quantity out")  # fmt: skip
    target = conf.target if until is None else until.target
    if target is not None and not 1 <= target <= 1e36:
        raise UsageError(f"design.target={target:g} must lie between 1 and 1e+36 FLOPs")
    quantities = _quantities(conf.quantity) if until is None else (until.quantity,)
    budgets = None if conf.budgets is None else tuple(sorted(set(conf.budgets)))
    if budgets is not None and not (budgets and all(1 <= b <= 1e30 for b in budgets)):
        raise UsageError("design.budgets must lie between 1 and 1e+30 FLOPs, one or more")
    return DesignSettings(target=target, quantities=quantities, funds=value, unit=unit,
                          until=until, budgets=budgets)  # fmt: skip


def _quantities(word: str) -> tuple[str, ...]:
    if word == "both":
        return QUANTITIES
    if word not in QUANTITIES:
        raise UsageError(
            f"design.quantity={word} is unknown; it may be both, {', '.join(QUANTITIES)}"
        )
    return (word,)


def _until(text: str) -> Until:
    match = _UNTIL.fullmatch(text)
    try:
        quantity, target, percent = match.groups()
        until = Until(quantity, float(target), float(percent) / 100)
    except (AttributeError, ValueError):
        raise UsageError(f"design.until={text} can't be read; type it as {_EXAMPLE}") from None
    if until.quantity not in QUANTITIES or not 0 < until.share < 10:
        raise UsageError(
            f"design.until={text}: the quantity may be {', '.join(QUANTITIES)}, the interval above "
            f"0% and below 1000%, as in {_EXAMPLE}"
        )
    return until
