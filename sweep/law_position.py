"""Where a finished cell lies against its sweep's fitted law."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.fits_file import FitsError, Pair
from sweep.folder import SweepFolder
from sweep.outlooks import expected_of, law_for


@dataclass(frozen=True)
class Position:
    """A cell's loss beside the law's; with no law, the reason alone.

    Attributes:
        law: name of the headline law of the sweep's fits.json.
        predicted: by it, nats per token. interval: for one cell at `level`; None where none is
            claimed, for `reason`.
        residual: log of observed over predicted.
    """

    law: str | None = None
    predicted: float = math.nan
    interval: Pair | None = None
    level: float = math.nan
    residual: float = math.nan
    reason: str | None = None

    @property
    def in_words(self) -> str:
        """One line for a person."""
        if self.law is None:
            return f"No law to compare with: {self.reason}"
        line = f"{self.law} predicts {self.predicted:.4f}"
        if self.interval is not None:
            low, high = self.interval
            line += f" ({self.level:.0%} for one cell: {low:.4f} .. {high:.4f})"
        else:
            line += f" (no interval: {self.reason})"
        return f"{line}; this cell is at {math.expm1(self.residual):+.2%}"


def position_of(folder: SweepFolder, record: Mapping[str, Any]) -> Position:
    """Compare a finished record with the law of its sweep's fits.json."""
    if not folder.fits.exists():
        return Position(reason="the sweep has no fits.json")
    try:
        law = law_for(folder.fits, record["flop_rule"])
    except FitsError as e:
        return Position(reason=str(e))
    found = expected_of(law, record)
    return Position(
        law=law.law,
        predicted=found.loss,
        interval=found.interval if found.reason is None else None,
        level=law.level,
        residual=math.log(record["val_loss"] / found.loss),
        reason=found.reason,
    )
