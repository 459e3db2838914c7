"""Approach 1: the lower envelope of training curves, and which size is on it at each compute."""

import pandas as pd

from analysis.fits_file import Approach1, Power
from analysis.tables import PointsError

SKIPPED = "no training curves: give curves=FILE, or collect them"


def approach1(curves: pd.DataFrame | None, level: float) -> Approach1:
    """Fit N_opt and D_opt to the models on the envelope (Hoffmann et al. 2022, section 3.1)."""
    if curves is None:
        return Approach1(Power(), Power(), "skipped", SKIPPED)
    raise PointsError("curves are not fitted yet")
