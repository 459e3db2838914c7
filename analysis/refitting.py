"""From a fits.json back to what its forecasts were made of, by fitting its own runs again.

The runs are in the file (points.rows), so a forecast at any target needs nothing else. The fit is
deterministic: with the code and libraries that wrote the file it gives the stored forecasts to
the bit. With others it may not, and `drift` says by how much.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from analysis.fit import gather_evidence
from analysis.fit_options import FitOptions
from analysis.fits_file import FitsError
from analysis.forecast import Evidence, forecast
from analysis.points import Points, PointsError
from analysis.points_rows import points_of

SAME = 1e-6  # relative difference of a loss that is rounding


def options_of(fits: Mapping[str, Any]) -> FitOptions:
    """Options that a fits.json was made with.

    Raises:
        FitsError: it does not say, or says what this code does not know.
    """
    stored = fits["provenance"].get("options")
    if not isinstance(stored, Mapping):
        raise FitsError("it does not say with which options it was fitted: run isoflop fit again")
    known = {f.name for f in fields(FitOptions)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known}
    try:
        return FitOptions(**values)
    except (PointsError, TypeError, KeyError) as e:
        raise FitsError(f"its options can't be used ({e}): run isoflop fit again") from None


def evidence_of(fits: Mapping[str, Any], points: Points | None = None) -> Evidence:
    """Fit the runs of a fits.json again.

    Args:
        fits: from read_fits.
        points: the runs, for a file of before they were in it; its own where None.

    Raises:
        FitsError: it holds one fit a group, or no runs, or runs and options that can't be used.
    """
    if fits.get("groups"):
        names = ", ".join(list(fits["groups"])[:5])
        raise FitsError(
            f"it holds one fit for each of {names}: choose one by fit.where=, and fit it alone"
        )
    own = points_of(fits["points"])
    points = own if own is not None else points
    if points is None:
        raise FitsError("it is of before fits held their runs: run isoflop fit again")
    try:
        return gather_evidence(points, options_of(fits))
    except PointsError as e:
        raise FitsError(f"its runs can't be fitted again ({e})") from None


def drift(fits: Mapping[str, Any], evidence: Evidence) -> str | None:
    """Say where a stored forecast is not what this code makes of the same runs; None where it is.

    Args:
        fits: from read_fits. evidence: of the same file.
    """
    stored = [f for f in fits["forecast"] if f.get("loss") is not None]
    for C in dict.fromkeys(f["C"] for f in stored):
        again = {f.law: f.loss for f in forecast(evidence, C)}
        for f in (f for f in stored if f["C"] == C and f["law"] in again):
            change = abs(np.log(again[f["law"]] / f["loss"]))
            if not change <= SAME:
                return (
                    f"fitted again, its {f['law']} gives {again[f['law']]:.5f} at C={C:.3g} where "
                    f"it says {f['loss']:.5f}: other code or libraries made it; run isoflop fit"
                )
    return None
