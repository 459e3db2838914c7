"""A smooth surface through the losses: what runs say of each other before any law is chosen.

log loss as a quadratic in log N and log D, fitted robustly. It is no law: its residuals tell noise,
outliers and runs that don't belong together.
"""

import numpy as np
from numpy.typing import NDArray

COEFFICIENTS = 6
REWEIGHTINGS = 10
TUNING = 1.345  # Huber's constant: 95% efficient under a normal law
MAD_TO_SD = 1.4826
LEAST_NOISE = 1e-6  # of log loss: no loss is known better


def surface_residuals(N: NDArray, D: NDArray, loss: NDArray) -> NDArray | None:
    """Residuals of log loss about a robust quadratic in log N and log D.

    Args:
        N, D, loss: (n,) positive.

    Returns:
        (n,), or None where fewer than four rows are left over by six coefficients.
    """
    x, y = (np.log(v) - np.log(v).mean() for v in (N, D))
    X = np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    target = np.log(loss)
    if len(target) < np.linalg.matrix_rank(X) + 4:
        return None
    weight = np.ones_like(target)
    for _ in range(REWEIGHTINGS):
        root = np.sqrt(weight)
        beta = np.linalg.lstsq(X * root[:, None], target * root, rcond=None)[0]
        residual = target - X @ beta
        reach = TUNING * max(robust_sd(residual), LEAST_NOISE)
        weight = np.minimum(1.0, reach / np.maximum(np.abs(residual), LEAST_NOISE))
    return residual


def robust_sd(residual: NDArray) -> float:
    """Median absolute residual, scaled to the standard deviation of a normal law."""
    return MAD_TO_SD * float(np.median(np.abs(residual)))


def measurement_weights(N: NDArray, D: NDArray, loss: NDArray, loss_sd: NDArray) -> NDArray:
    """Row weights from known measurement errors.

    A row's variance is s^2 + (loss_sd / loss)^2, with s the scatter of the rows about a smooth
    surface: an error far below the runs' own scatter earns nothing, and equal errors change
    nothing.

    Args:
        N, D, loss: (n,) the runs.
        loss_sd: (n,) standard errors of the losses, in their unit.

    Returns:
        (n,) weights 1 / (1 + (loss_sd / loss)^2 / s^2), scaled to mean 1. Where too few rows are
        there to tell s, it is the median of loss_sd / loss.
    """
    own = loss_sd / loss
    residual = surface_residuals(N, D, loss)
    s = float(np.median(own)) if residual is None else robust_sd(residual)
    s = max(s, LEAST_NOISE)
    weight = 1 / (1 + (own / s) ** 2)
    return weight / weight.mean()
