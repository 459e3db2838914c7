"""What pre-training is worth in data of the target: D_T = k D_F^alpha N^beta.

Hernandez et al. 2021, arXiv:2102.01293. D_T is the data that a model trained from
scratch would have needed beyond D_F, the data it is fine-tuned on, to reach the same loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from analysis.laws_types import Law
from analysis.power_fit import PowerFit, fit_power

FARTHEST = np.log(1e9)  # of effective from given data: beyond it the loss is out of reach


@dataclass(frozen=True)
class TransferFit:
    """D_T = k D_F^alpha N^beta, with intervals; NaN where `status` is not ok."""

    k: float
    alpha: float
    beta: float
    fit: PowerFit

    def transferred(self, D_F: ArrayLike, N: ArrayLike) -> NDArray:
        """D_T in tokens, of the broadcast shape."""
        return self.fit.value(D_F=D_F, N=N)


def fit_transfer(D_T: ArrayLike, D_F: ArrayLike, N: ArrayLike, level: float = 0.9) -> TransferFit:
    """Fit the law by least squares in logs.

    Args:
        D_T: (n,) tokens of effective data transferred. D_F: (n,) tokens of fine-tuning.
        N: (n,) parameters. level: of the intervals.

    Raises:
        ValueError: unequal lengths, or values that are not positive.
    """
    fit = fit_power(D_T, {"D_F": D_F, "N": N}, level=level)
    return TransferFit(fit.coefficient, fit.exponents["D_F"], fit.exponents["N"], fit)


def effective_data(law: Law, theta: ArrayLike, N: float, loss: float, D_F: float) -> float:
    """Tokens D_F + D_T from scratch that give N parameters the loss that fine-tuning gave.

    NaN where no amount within a factor of 1e9 of D_F does.

    Args:
        law: of training from scratch on the target. theta: (p,) its public parameters.
        N: parameters. loss: after fine-tuning, nats per token. D_F: tokens of fine-tuning.
    """
    theta = np.asarray(theta, dtype=float)

    def excess(log_D: float) -> float:
        return float(law.loss(theta, N, np.exp(log_D))) - loss

    centre = np.log(D_F)
    ends = centre - FARTHEST, centre + FARTHEST
    if excess(ends[0]) < 0 or excess(ends[1]) > 0:
        return float("nan")
    return float(np.exp(brentq(excess, *ends, xtol=1e-12)))
