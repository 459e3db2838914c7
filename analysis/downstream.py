"""From loss to the error on downstream tasks: err = eps - k exp(-gamma L).

Gadre et al. 2024, arXiv:2403.08540, eq. 5, fitted as in their code: least squares on the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

Array = np.ndarray

# Decays of the error from one that looks straight over any sweep to one that looks like a step,
# in units of one over the range of the losses.
DECAYS = np.geomspace(1e-3, 1e2, 61)


@dataclass(frozen=True)
class DownstreamFit:
    """Error on tasks as a function of loss.

    Attributes:
        eps: error without any skill. k, gamma: of k exp(-gamma L), L in nats per token.
        rms: of the errors' residuals.
        n: rows.
        status: ok | flat (gamma at the end of its search) | too_few.
        reason: why, where the status is not ok.
    """

    eps: float
    k: float
    gamma: float
    rms: float
    n: int
    status: str
    reason: str | None = None

    def error(self, loss: ArrayLike) -> Array:
        """Error at a loss in nats per token, of the shape of loss."""
        return self.eps - self.k * np.exp(-self.gamma * np.asarray(loss, dtype=float))


def fit_downstream(loss: ArrayLike, error: ArrayLike) -> DownstreamFit:
    """Fit the error on tasks to the loss, by least squares on the error.

    Given gamma the law is linear in eps and k, which leaves one dimension to search.

    Args:
        loss: (n,) nats per token. error: (n,) mean top-1 error, in [0, 1].

    Raises:
        ValueError: unequal lengths, or values that are not finite.
    """
    loss, error = (np.asarray(v, dtype=float) for v in (loss, error))
    if loss.shape != error.shape or loss.ndim != 1:
        raise ValueError(f"loss has shape {loss.shape} and error {error.shape}: give (n,) of each")
    if not np.isfinite([loss, error]).all():
        raise ValueError("loss and error must be finite: leave rows without either out")
    n, distinct = len(loss), len(np.unique(loss))
    if distinct < 3:
        reason = f"{distinct} distinct losses cannot fix 3 parameters"
        return DownstreamFit(*[float("nan")] * 4, n, "too_few", reason)
    span = float(np.ptp(loss))

    def squares(log_decay: float) -> float:
        return float(np.sum(_projected(np.exp(log_decay) / span, loss, error)[2] ** 2))

    best = int(np.argmin([squares(np.log(d)) for d in DECAYS]))
    ends = np.log(DECAYS[[max(best - 1, 0), min(best + 1, len(DECAYS) - 1)]])
    found = minimize_scalar(squares, bounds=tuple(ends), method="bounded", options={"xatol": 1e-10})
    gamma = float(np.exp(found.x)) / span
    eps, k, residual = _projected(gamma, loss, error)
    rms = float(np.sqrt(np.mean(residual**2)))
    if best in (0, len(DECAYS) - 1):
        reason = "gamma ran to the end of its search: the errors show no bend, or a step"
        return DownstreamFit(eps, k, gamma, rms, n, "flat", reason)
    return DownstreamFit(eps, k, gamma, rms, n, "ok")


def _projected(gamma: float, loss: Array, error: Array) -> tuple[float, float, Array]:
    """Best eps and k at a gamma, with the residuals (n,)."""
    centre = loss.mean()  # of the exponential: k in its own units may be beyond any float
    design = np.column_stack([np.ones_like(loss), -np.exp(-gamma * (loss - centre))])
    (eps, at_centre), *_ = np.linalg.lstsq(design, error, rcond=None)
    residual = design @ [eps, at_centre] - error
    return float(eps), float(at_centre * np.exp(gamma * centre)), residual
