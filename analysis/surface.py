"""A smooth surface through the losses: what runs say of each other before any law is chosen.

log loss as a quadratic in log N and log D, fitted robustly. It is no law: its residuals tell noise,
outliers and runs that don't belong together.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPARE_ROWS = 4
COLLINEAR = 3e-3  # smallest singular value of unit columns that still tells N from D
REWEIGHTINGS = 10
TUNING = 1.345  # Huber's constant: 95% efficient under a normal law
MAD_TO_SD = 1.4826
LEAST_NOISE = 1e-6  # of log loss: no loss is known better


@dataclass(frozen=True, eq=False)
class Surface:
    """A fitted surface: centre (2,) of log N and log D, coefficients (6,), residuals (n,)."""

    centre: NDArray
    coefficients: NDArray
    residual: NDArray
    identified: bool  # N and D vary apart from each other, so that each slope is known

    def log_loss(self, N: NDArray, D: NDArray) -> NDArray:
        """Log loss at (N, D), of their shape."""
        return _terms(N, D, self.centre) @ self.coefficients


def fit_surface(N: NDArray, D: NDArray, loss: NDArray) -> Surface | None:
    """Fit log loss as a quadratic in log N and log D by Huber's weights.

    Args:
        N, D, loss: (n,) positive.

    Returns:
        None where fewer than four rows are left over by its coefficients.
    """
    centre = np.array([np.log(N).mean(), np.log(D).mean()])
    X, target = _terms(N, D, centre), np.log(loss)
    if len(target) < np.linalg.matrix_rank(X) + SPARE_ROWS:
        return None
    weight = np.ones_like(target)
    for _ in range(REWEIGHTINGS):
        root = np.sqrt(weight)
        beta = np.linalg.lstsq(X * root[:, None], target * root, rcond=None)[0]
        residual = target - X @ beta
        reach = TUNING * max(robust_sd(residual), LEAST_NOISE)
        weight = np.minimum(1.0, reach / np.maximum(np.abs(residual), LEAST_NOISE))
    scaled = X / np.maximum(np.linalg.norm(X, axis=0), 1e-12)
    identified = bool(np.linalg.svd(scaled, compute_uv=False)[-1] > COLLINEAR)
    return Surface(centre, beta, residual, identified)


def _terms(N: NDArray, D: NDArray, centre: NDArray) -> NDArray:
    x, y = np.log(N) - centre[0], np.log(D) - centre[1]
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


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
    surface = fit_surface(N, D, loss)
    s = float(np.median(own)) if surface is None else robust_sd(surface.residual)
    s = max(s, LEAST_NOISE)
    weight = 1 / (1 + (own / s) ** 2)
    return weight / weight.mean()
