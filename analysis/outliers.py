"""Rows that lie far off the headline law: suggestions to look at, never left out by themselves."""

import numpy as np

from analysis.fits_file import OutlierRow, Skipped
from analysis.fitted import Fitted, extra_columns
from analysis.points import Points
from analysis.surface import robust_sd

FAR = 6.0  # robust sd; Student's t with 4 degrees of freedom goes there once in 400 rows
SMALL = 2e-3  # of the loss: what is nearer is no outlier however exact the rest
FEWEST = 10
LISTED = 50


def outliers(points: Points, fitted: Fitted) -> tuple[OutlierRow | Skipped, ...]:
    """List the rows more than 6 robust sd off the law, farthest first.

    Args:
        points: the sweep.
        fitted: the headline law on these points.

    Returns:
        At most 50 rows, with log(observed / predicted) and that over the robust sd of all rows; a
        Skipped where the law was not fitted or there are too few rows to tell.
    """
    if not fitted.usable or len(points) < FEWEST:
        return (Skipped(f"no law, or fewer than {FEWEST} rows: nothing to be far from"),)
    extra = extra_columns(points, fitted.fit.law.name)
    residual = np.log(points.loss) - np.log(fitted.loss(points.N, points.D, points.C, **extra))
    sd = robust_sd(residual)
    far = np.flatnonzero(np.abs(residual) > max(FAR * sd, SMALL))
    far = far[np.argsort(-np.abs(residual[far]), kind="stable")][:LISTED]
    return tuple(
        OutlierRow(points.row[i], str(points.name[i]), float(points.budget[i]),
                   float(residual[i]), float(residual[i] / sd) if sd > 0 else float("nan"))
        for i in far
    )  # fmt: skip
