"""L_min(C) = E + A C^-gamma through the minima of a few budgets, with an honest interval.

Four noisy minima don't identify E and gamma: least squares then jumps between E = 0 and a curve
that is flat past the last budget. So the shape is integrated over, not maximised: on a grid of
gamma, each with a grid of the reducible share u (L = level x (1 - u + u (C/C_ref)^-gamma)) about
its best value, the level has a closed form, and a prediction is the mixture of the Student-t
predictions of all shapes, weighted by how well they fit. With many or precise minima the weights
concentrate and the result is the least-squares curve.

Prior: gamma log-uniform in [0.02, 0.5] (Kaplan et al. 2020: 0.05 with E = 0; Hoffmann et al. 2022:
0.15; gamma = alpha beta / (alpha + beta) reaches 0.5 only where both exponents are 1), E uniform
between 0 and the loss at the middle budget.
"""

from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, stdtr, stdtrit

GAMMA = (0.02, 0.5)
GAMMAS, SHARES = 81, 25  # nodes
REACH = 5.0  # standard deviations of the share about its best value
LIKELY = 1e-5  # of the best weight: what is below is left out
FEWEST = 3
GAUSS_NEWTON = 15
ITERATIONS = 60
IDENTIFIED = 2.0  # largest ratio of the ends of gamma's 90% interval
SLOWEST = 1e-3  # -d log L / d log C that still is a fall


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
        """Quantile of the log loss: Newton on the mixture's distribution, kept in a bracket."""
        reach = stdtrit(self.dof, min(p, 1 - p) * 1e-3) * self.scale.max()
        low, high = self.location.min() + reach, self.location.max() - reach
        at = float(self.weight @ self.location)
        for _ in range(ITERATIONS):
            t = (at - self.location) / self.scale
            excess = float(self.weight @ stdtr(self.dof, t)) - p
            low, high = (low, at) if excess > 0 else (at, high)
            power = -(self.dof + 1) / 2
            density = float((self.weight / self.scale) @ (1 + t**2 / self.dof) ** power)
            step = excess / (density * _t_constant(self.dof)) if density > 0 else np.inf
            if abs(step) < 1e-10:
                break
            at = at - step if low < at - step < high else (low + high) / 2
        return float(at)


def _t_constant(dof: int) -> float:
    """Density of Student's t at 0."""
    return float(np.exp(gammaln((dof + 1) / 2) - gammaln(dof / 2)) / np.sqrt(dof * np.pi))


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
    _share: NDArray | None = None  # (k,) reducible share u
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
    data = _Data(np.log(C / C_ref), np.log(loss), 1 / np.asarray(leverage), residual_ss, dof)
    nodes = _nodes(data, *GAMMA)
    likely = nodes.gamma[nodes.log_weight > nodes.log_weight.max() + np.log(LIKELY)]
    step = (GAMMA[1] / GAMMA[0]) ** (1 / (GAMMAS - 1))
    low, high = max(likely.min() / step, GAMMA[0]), min(likely.max() * step, GAMMA[1])
    return _curve(C_ref, data, _nodes(data, low, high))


@dataclass(frozen=True, eq=False)
class _Data:
    x: NDArray  # (k,) log(C / C_ref)
    y: NDArray  # (k,) log loss
    w: NDArray  # (k,) weights
    residual_ss: float
    residual_dof: int

    @property
    def dof(self) -> int:
        """Degrees of freedom of the noise: one level is fitted, the shape is integrated over."""
        return self.residual_dof + len(self.x) - 1

    @property
    def slope(self) -> float:
        """Slope d log L / d log C of a straight line through the minima."""
        x = self.x - np.average(self.x, weights=self.w)
        return float((self.w * x) @ self.y / ((self.w * x) @ x))

    def misfit(self, shape: NDArray) -> tuple[NDArray, NDArray]:
        """Best level of each shape (..., k), and the sum of squares of everything that is left."""
        level = ((self.y - shape) @ self.w) / self.w.sum()
        left = ((self.y - shape - level[..., None]) ** 2) @ self.w
        # Equal losses to the last bit would make a zero variance: no loss is known that well.
        return level, self.residual_ss + left + len(self.x) * 1e-16


@dataclass(frozen=True, eq=False)
class _Nodes:
    gamma: NDArray  # (k,) like the rest
    share: NDArray
    level: NDArray
    ss: NDArray
    log_weight: NDArray


def _nodes(data: _Data, low: float, high: float) -> _Nodes:
    """Shapes that fit, on a grid of log gamma between two values and of the share for each."""
    gamma = np.exp(np.linspace(np.log(low), np.log(high), GAMMAS))[:, None]
    best, sd = _best_share(data, gamma)
    first, last = np.clip(best - REACH * sd, 1e-6, 1), np.clip(best + REACH * sd, 1e-6, 1)
    width = np.maximum(last - first, 1e-12)
    share = first + width * (np.arange(SHARES) + 0.5) / SHARES
    level, ss = data.misfit(_shape(data.x, gamma[..., None], share[..., None]))
    log_weight = -0.5 * data.dof * np.log(ss) + np.log(width / SHARES)
    wide = np.broadcast_to(gamma, share.shape)
    return _Nodes(*(v.ravel() for v in (wide, share, level, ss, log_weight)))


def _best_share(data: _Data, gamma: NDArray) -> tuple[NDArray, NDArray]:
    """Least-squares share of each gamma (g, 1) and its standard deviation, by Gauss-Newton."""
    share = np.full_like(gamma, 0.5)
    for _ in range(GAUSS_NEWTON):
        decay = np.exp(-gamma * data.x)
        total = 1 - share + share * decay
        slope = (decay - 1) / total
        slope = slope - (slope @ data.w)[:, None] / data.w.sum()
        level, ss = data.misfit(np.log(total))
        residual = data.y - np.log(total) - level[:, None]
        curvature = (slope**2 @ data.w)[:, None]
        share = np.clip(share + ((slope * residual) @ data.w)[:, None] / curvature, 1e-6, 1)
    return share, np.sqrt(ss[:, None] / data.dof / curvature)


def _curve(C_ref: float, data: _Data, nodes: _Nodes) -> MinLossCurve:
    kept = nodes.log_weight > nodes.log_weight.max() + np.log(LIKELY)
    nodes = _Nodes(*(getattr(nodes, f.name)[kept] for f in fields(nodes)))
    weight = np.exp(nodes.log_weight - nodes.log_weight.max())
    weight /= weight.sum()
    best = int(np.argmin(nodes.ss))
    gamma, share, scale = nodes.gamma[best], nodes.share[best], np.exp(nodes.level[best])
    cumulative = np.cumsum(weight)  # nodes are in order of gamma
    ends = np.searchsorted(cumulative, [0.05, 0.95])
    low, high = nodes.gamma[np.minimum(ends, len(weight) - 1)]
    status, reason = CurveStatus.OK, None
    if high / low > IDENTIFIED:
        status = CurveStatus.FLAT
        reason = f"gamma between {low:.2g} and {high:.2g} fits: E and gamma are not identified"
    if data.slope > -SLOWEST:
        status, reason = CurveStatus.AT_BOUND, "the minima's loss does not fall with C"
    return MinLossCurve(
        status, reason, E=float(scale * (1 - share)), gamma=float(gamma),
        A=float(scale * share * C_ref**gamma), gamma_interval=(float(low), float(high)),
        noise=float(np.sqrt(weight @ nodes.ss / data.dof)), C_ref=C_ref, _gamma=nodes.gamma,
        _share=nodes.share, _weight=weight, _level=nodes.level,
        _level_var=1 / float(data.w.sum()), _variance=nodes.ss / data.dof, _dof=data.dof,
    )  # fmt: skip


def _shape(x: NDArray | float, gamma: NDArray, share: NDArray) -> NDArray:
    """Log loss relative to the level, for log(C / C_ref) = x."""
    return np.log(1 - share + share * np.exp(-gamma * x))
