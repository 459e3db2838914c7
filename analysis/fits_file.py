"""What a fit returns, whole, and the same as fits.json: written, read and checked.

Every part has a status; a part that could not be made has a reason and unknown numbers. In memory
unknown is NaN or None, in the file it is null: JSON has no NaN.
"""

import json
import os
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from analysis.fits_parts import (
    NAN,
    UNKNOWN,
    Approach1,
    Approach2,
    Approach3,
    Check,
    Conflict,
    CrossCheck,
    ExcludedRow,
    Forecast,
    Holdout,
    LawRow,
    LeverageRow,
    MinimumRow,
    MinLossLaw,
    OutlierRow,
    Pair,
    Plain,
    PointsSummary,
    Power,
    Refit,
    RefitAnswer,
    Skipped,
)

__all__ = [
    "FITS_VERSION",
    "NAN",
    "UNKNOWN",
    "Approach1",
    "Approach2",
    "Approach3",
    "Check",
    "Conflict",
    "CrossCheck",
    "ExcludedRow",
    "Fits",
    "FitsError",
    "Forecast",
    "Holdout",
    "LawRow",
    "LeverageRow",
    "MinLossLaw",
    "MinimumRow",
    "OutlierRow",
    "Pair",
    "Plain",
    "PointsSummary",
    "Power",
    "Refit",
    "RefitAnswer",
    "Skipped",
    "plain_json",
    "read_fits",
]

FITS_VERSION = 1

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
    outliers: tuple[OutlierRow | Skipped, ...] = ()
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


def no_fits(reason: str) -> dict[str, Any]:
    """Return what read_fits returns of a fit none of whose parts could be made, for this reason."""
    skipped = {"status": "skipped", "reason": reason}
    parts: dict[str, Any] = {name: skipped for name in _PARTS}
    lists = ("laws", "refits", "conflicts", "leverage", "holdout", "forecast")
    return parts | {name: [skipped] for name in lists} | {
        "schema_version": FITS_VERSION, "level": None, "provenance": {}, "groups": {},
    }  # fmt: skip


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
