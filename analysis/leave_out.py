"""Which rows carry the answer: refit without each one, and list those that move it the most."""

import numpy as np

from analysis.engine import rebuild, refit
from analysis.fits_file import LeverageRow, Skipped
from analysis.fitted import Fitted, extra_columns
from analysis.points import Points

MOST_ROWS = 2000
LISTED = 10


def leave_out(points: Points, fitted: Fitted, C: float) -> tuple[LeverageRow | Skipped, ...]:
    """Leave each row out in turn and report the change of a, and of log N and log loss at C.

    Args:
        points: the sweep.
        fitted: the headline law.
        C: the first target, FLOPs.

    Returns:
        The ten rows that move any of the three the most, most first; suggestions, never applied.
    """
    if not fitted.usable:
        return (Skipped("the headline law was not fitted"),)
    if len(points) > MOST_ROWS:
        return (Skipped(f"more than {MOST_ROWS} rows: one row hardly matters"),)
    law, n = fitted.fit.law, len(points)
    extra = extra_columns(points, law.name)
    problem = rebuild(fitted.fit, points.N, points.D, points.loss, C=points.C, extra=extra)
    theta, converged = refit(fitted.fit, problem, (1 - np.eye(n)) * points.row_weights)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        N, D = fitted.axis.optimum(law, theta, C)
        at_N, at_D = fitted.optimum(C)
        moved_a = fitted.axis.exponent(law, theta) - fitted.exponent()
        moved_N = np.log(N / at_N)
        if extra or not law.has_optimum:
            moved_loss = np.full(n, np.nan)
        else:
            loss = law.loss(theta, N, D, C=np.full(n, C))
            moved_loss = np.log(loss / fitted.loss(np.array(at_N), np.array(at_D), np.array(C)))
    moves = np.stack([moved_a, moved_N, moved_loss], axis=1)
    moves[~converged] = np.nan
    size = np.nan_to_num(np.abs(moves))
    score = (size / np.maximum(size.max(axis=0), 1e-300)).max(axis=1)
    order = np.argsort(-score, kind="stable")[:LISTED]
    return tuple(
        LeverageRow(points.row[i], str(points.name[i]), *map(float, moves[i])) for i in order
    )
