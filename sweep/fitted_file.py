"""A fits.json of a person: its forecasts, and the fit of its runs where more is asked."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.fits_file import FitsError, plain_json, read_fits
from analysis.forecast import Evidence, forecast
from analysis.points import Points, PointsError
from analysis.refitting import drift, evidence_of
from analysis.tables import sha256_of
from sweep.collected import record_points
from sweep.errors import UsageError

Entry = dict[str, Any]


@dataclass(frozen=True, eq=False)
class FittedFile:
    """A fits.json, and what can be asked of it."""

    path: Path
    fits: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Hash of its bytes."""
        return sha256_of(self.path)

    @cached_property
    def evidence(self) -> Evidence:
        """Fit its runs again; seconds.

        Raises:
            UsageError: it can't be.
        """
        try:
            return evidence_of(self.fits, self._collected())
        except FitsError as e:
            raise UsageError(f"{self.path}: {e}") from None

    def warnings(self) -> list[str]:
        """Say what is odd about the runs, and about their second fit where there was one."""
        found = list(self.fits["points"].get("warnings") or [])
        if "evidence" in vars(self) and (changed := drift(self.fits, self.evidence)):
            found.append(changed)
        return [f"{self.path}: {text}" for text in found]

    def at_budget(self, C: float) -> list[Entry]:
        """Entries of forecast[] at C: those of the file, or else made from its runs."""
        stored = [f for f in self.fits["forecast"] if f.get("C") == C]
        return stored or plain_json(forecast(self.evidence, C))

    def _collected(self) -> Points | None:
        """Take the records beside a fits.json that holds no runs, if they are as many."""
        records = self.path.parent / "records.parquet"
        if self.fits["points"].get("rows") or not records.exists():
            return None
        try:
            points = record_points(records, self.fits["points"]["N_convention"])
        except PointsError as e:
            raise UsageError(f"{records}: {e}") from None
        return points if len(points) == self.fits["points"]["n"] else None


def read_fitted(path: Path, hint: str = "") -> FittedFile:
    """Read a fits.json.

    Raises:
        UsageError: it is none; `hint` says what to do first.
    """
    try:
        return FittedFile(path, read_fits(path))
    except FitsError as e:
        raise UsageError(f"{e}{hint}") from None
