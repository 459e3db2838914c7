"""L_min(C) = E + A C^-gamma through the minima of a few budgets, with an honest interval.

Four noisy minima don't identify E and gamma: least squares then jumps between E = 0 and a curve
that is flat past the last budget. So the two shape parameters are integrated over, not maximised:
for each shape on a grid the level of the curve has a closed form, and a prediction is the mixture
of the Student-t predictions of all shapes, weighted by how well they fit. With many or precise
minima the weights concentrate and the result is the least-squares curve.

Prior: gamma log-uniform in [0.02, 0.5] (Kaplan et al. 2020: 0.05 with E = 0; Hoffmann et al. 2022:
0.15; gamma = alpha beta / (alpha + beta) reaches 0.5 only where both exponents are 1), E uniform
between 0 and the loss at the middle budget.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

GAMMA = (0.02, 0.5)
SLOPE = (1e-4, 0.8)  # -d log L / d log C at the middle budget
GRID = 41
ZOOMS = 3
FEWEST = 3


class CurveStatus(StrEnum):
    """What the minima say about the shape."""

    OK = "ok"
    FLAT = "flat"  # the prior decides between shapes; predictions stay valid
    AT_BOUND = "at_bound"
    TOO_FEW = "too_few"


@dataclass(frozen=True, eq=False)
class Prediction:
    """The predicted loss of a minimum: a mixture of Student-t in log loss."""

    location: NDArray  # (k,) log loss by shape
    scale: NDArray  # (k,)
    weight: NDArray  # (k,) sums to 1
    dof: int

    @property
    def loss(self) -> float:
        """Median of the predicted loss."""
        return float(np.exp(self.quantile(0.5)))

    def interval(self, level: float) -> tuple[float, float]:
        """Central interval of the loss."""
        tail = (1 - level) / 2
        return float(np.exp(self.quantile(tail))), float(np.exp(self.quantile(1 - tail)))

    def quantile(self, p: float) -> float:
        """Quantile of the log loss, by bisection on the mixture's distribution function."""
        reach = student_t.ppf(min(p, 1 - p) * 1e-3, self.dof) * self.scale.max()
        low, high = self.location.min() + reach, self.location.max() - reach
        for _ in range(60):
            middle = (low + high) / 2
            below = self.weight @ student_t.cdf((middle - self.location) / self.scale, self.dof)
            low, high = (middle, high) if below < p else (low, middle)
        return float((low + high) / 2)


@dataclass(frozen=True, eq=False)
class MinLossCurve:
    """E + A C^-gamma: the best shape, and every shape that the minima leave possible."""

    status: CurveStatus
    reason: str | None = None
    E: float = np.nan  # loss units
    A: float = np.nan  # loss units x FLOPs^gamma
    gamma: float = np.nan
    gamma_interval: tuple[float, float] = (np.nan, np.nan)
    noise: float = np.nan  # sd of one cell's log loss
    C_ref: float = np.nan
    _gamma: NDArray | None = None  # (k,) shapes, weights and levels
    _share: NDArray | None = None
    _weight: NDArray | None = None
    _level: NDArray | None = None
    _level_var: float = np.nan
    _variance: NDArray | None = None  # (k,) of one cell's log loss
    _dof: int = 0

    @property
    def usable(self) -> bool:
        return self._weight is not None

    def loss(self, C: NDArray | float) -> NDArray:
        """Loss of the best shape."""
        return self.E + self.A * np.asarray(C, dtype=float) ** -self.gamma

    def predict(self, C: float, leverage: float = 0.0) -> Prediction:
        """Predict the loss of a minimum at C.

        Args:
            C: FLOPs.
            leverage: variance of the observed minimum over that of a cell: 0 predicts the true
                minimum, Minimum.loss_leverage one that will be measured by such a profile.
        """
        shape = _shape(np.log(C / self.C_ref), self._gamma, self._share)
        scale = np.sqrt(self._variance * (self._level_var + leverage))
        return Prediction(self._level + shape, scale, self._weight, self._dof)


def fit_min_loss(
    C: NDArray, loss: NDArray, leverage: NDArray, residual_ss: float, dof: int
) -> MinLossCurve:
    """Fit E + A C^-gamma to the minima of some budgets.

    Args:
        C: (k,) budgets, FLOPs.
        loss: (k,) losses of their minima.
        leverage: (k,) variance of each log loss over the variance of a cell's (profiles.Minimum).
        residual_ss: sum of squared relative residuals of the cells around their profiles.
        dof: degrees of freedom of residual_ss.
    """
    if len(C) < FEWEST:
        return MinLossCurve(CurveStatus.TOO_FEW, f"{len(C)} minima, {FEWEST} are needed")
    C_ref = float(np.exp(np.mean(np.log(C))))
    x, y, w = np.log(C / C_ref), np.log(loss), 1 / np.asarray(leverage)
    # Equal losses to the last bit would make a zero variance: no loss is known that well.
    floor = len(C) * 1e-16
    total_dof = dof + len(C) - 1
    slopes, gammas = np.log(SLOPE), np.log(GAMMA)
    for zoom in range(ZOOMS):
        s, g = (v.ravel() for v in np.exp(np.meshgrid(np.linspace(*slopes, GRID),
                                                      np.linspace(*gammas, GRID))))  # fmt: skip
        possible = s <= g * (1 + 1e-12)
        s, g = s[possible], g[possible]
        share = np.clip(1 - s / g, 0, 1)
        level, misfit = _levels(x, y, w, g, share)
        ss = residual_ss + misfit + floor
        # Density in (log slope, log gamma) of a uniform E share and a log-uniform gamma: s / g.
        log_weight = -0.5 * total_dof * np.log(ss) + np.log(s / g)
        weight = np.exp(log_weight - log_weight.max())
        if zoom < ZOOMS - 1:
            likely = weight > 1e-5
            slopes = _around(np.log(s[likely]), slopes)
            gammas = _around(np.log(g[likely]), gammas)
    weight /= weight.sum()
    return _curve(C_ref, g, share, level, ss, weight, total_dof, w)


def _curve(
    C_ref: float, g: NDArray, share: NDArray, level: NDArray, ss: NDArray, weight: NDArray,
    dof: int, w: NDArray,
) -> MinLossCurve:  # fmt: skip
    best = int(np.argmin(ss))
    scale = float(np.exp(level[best]))
    order = np.argsort(g)
    cumulative = np.cumsum(weight[order])
    low, high = (float(g[order][np.searchsorted(cumulative, p)]) for p in (0.05, 0.95))
    status, reason = CurveStatus.OK, None
    slope = float(weight @ ((1 - share) * g))
    if high / low > 3:
        status = CurveStatus.FLAT
        reason = f"gamma between {low:.2g} and {high:.2g} fits: E and gamma are not identified"
    if slope < 2 * SLOPE[0]:
        status, reason = CurveStatus.AT_BOUND, "the minima's loss does not fall with C"
    return MinLossCurve(
        status, reason, E=scale * float(share[best]), gamma=float(g[best]),
        A=scale * float(1 - share[best]) * C_ref ** float(g[best]), gamma_interval=(low, high),
        noise=float(np.sqrt(weight @ (ss / dof))), C_ref=C_ref, _gamma=g, _share=share,
        _weight=weight, _level=level, _level_var=1 / float(w.sum()), _variance=ss / dof, _dof=dof,
    )  # fmt: skip


def _shape(x: NDArray | float, gamma: NDArray, share: NDArray) -> NDArray:
    """Log loss relative to the level, for log(C / C_ref) = x."""
    return np.log(share + (1 - share) * np.exp(-gamma * x))


def _levels(
    x: NDArray, y: NDArray, w: NDArray, g: NDArray, share: NDArray
) -> tuple[NDArray, NDArray]:
    """Best level of each shape, and the weighted sum of squares that is left."""
    shape = np.stack([_shape(v, g, share) for v in x], axis=1)
    level = ((y - shape) @ w) / w.sum()
    return level, ((y - shape - level[:, None]) ** 2) @ w


def _around(values: NDArray, bounds: NDArray) -> tuple[float, float]:
    """Range of the likely values with a margin of a tenth, inside the old bounds."""
    margin = max(0.1 * np.ptp(values), (bounds[1] - bounds[0]) / GRID)
    return max(values.min() - margin, bounds[0]), min(values.max() + margin, bounds[1])
