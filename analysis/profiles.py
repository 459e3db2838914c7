"""Approach 2: the minimum of each isoFLOP profile, and the power laws through them.

A parabola of the loss in log N is drawn through the cells of a budget; its vertex is the budget's
(N_opt, D_opt, loss). A real profile is not a parabola: a wide window biases the vertex (Czech et
al. 2026; METHOD section 5), so the default fits only the cells near the minimum, and
`predicted_bias` measures what is left of the bias on a fitted law.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from analysis.points import Points

WINDOW = 4.0  # cells within this factor of the lowest cell's N
FEWEST = 4  # cells of different N that make a minimum
WANTED = 5  # cells that a window takes where the budget has them


class Method(StrEnum):
    """How the minimum of a profile is found."""

    WINDOWED = "windowed"
    PARABOLA = "parabola"
    AKIMA = "akima"


class MinimumStatus(StrEnum):
    """Whether a budget has a minimum; only the first two enter laws."""

    OK = "ok"
    OFF_CENTRE = "off_centre"
    EDGE = "edge"
    CONCAVE = "concave"
    TOO_FEW = "too_few"
    FAILED = "failed"

    @property
    def usable(self) -> bool:
        return self in (MinimumStatus.OK, MinimumStatus.OFF_CENTRE)


@dataclass(frozen=True, eq=False)
class Minimum:
    """The fitted optimum of one budget; NaN where its status is not usable."""

    budget: float  # FLOPs
    status: MinimumStatus
    reason: str | None = None
    N: float = np.nan  # parameters
    D: float = np.nan  # tokens
    loss: float = np.nan
    n: int = 0  # cells that the fit used
    cells: NDArray | None = None  # (n,) their indices into the points
    residual_ss: float = np.nan  # sum of squared residuals relative to `loss`
    N_leverage: float = np.nan  # var(log N) over the variance of a cell's log loss
    loss_leverage: float = np.nan  # var(log loss) of the minimum over the same
    predicted_bias: float = np.nan  # N over the true N_opt minus 1, without noise, on a fitted law

    @property
    def usable(self) -> bool:
        return self.status.usable


@dataclass(frozen=True)
class PowerLaw:
    """N_opt or D_opt = coefficient * C^exponent."""

    coefficient: float
    exponent: float

    def __call__(self, C: NDArray | float) -> NDArray | float:
        return self.coefficient * np.asarray(C) ** self.exponent


def find_minima(points: Points, method: Method = Method.WINDOWED) -> tuple[Minimum, ...]:
    """Find the minimum of each budget's profile, budgets ascending."""
    return tuple(
        _minimum(points, budget, np.flatnonzero(points.budget == budget), method)
        for budget in points.budgets
    )


def power_law(C: NDArray, values: NDArray, sd: NDArray | None = None) -> PowerLaw:
    """Fit values = coefficient * C^exponent by least squares in logs, weights 1/sd^2.

    Args:
        C: (k,) FLOPs.
        values: (k,) N_opt or D_opt.
        sd: (k,) standard deviation of log values, if known; pairs without a finite one are left
            out.

    Raises:
        ValueError: fewer than two different C.
    """
    if sd is not None:
        known = np.isfinite(sd) & (np.asarray(sd) > 0)
        C, values, sd = np.asarray(C)[known], np.asarray(values)[known], np.asarray(sd)[known]
    if len(np.unique(C)) < 2:
        raise ValueError("a power law needs minima at two budgets")
    x, y = np.log(C), np.log(values)
    w = np.ones_like(x) if sd is None else 1 / sd**2
    x_bar, y_bar = np.average(x, weights=w), np.average(y, weights=w)
    slope = np.sum(w * (x - x_bar) * (y - y_bar)) / np.sum(w * (x - x_bar) ** 2)
    return PowerLaw(float(np.exp(y_bar - slope * x_bar)), float(slope))


def pooled_noise(minima: Sequence[Minimum]) -> tuple[float, int]:
    """Sum of squared relative residuals around all parabolas, and its degrees of freedom.

    Budgets share one noise because four or five cells around three constants say next to nothing
    about the noise of their own budget.
    """
    used = [m for m in minima if m.usable and m.n > 3 and np.isfinite(m.residual_ss)]
    return sum(m.residual_ss for m in used), sum(m.n - 3 for m in used)


def with_predicted_bias(
    minima: Sequence[Minimum],
    points: Points,
    loss: Callable[[NDArray, NDArray], NDArray],
    optimum: Callable[[float], tuple[float, float]],
) -> tuple[Minimum, ...]:
    """Add the noise-free bias of each N: the same cells and parabola, losses from a fitted law.

    Args:
        minima: what find_minima gave by a parabola.
        points: the same points.
        loss: the fitted law's loss at (N, D).
        optimum: its (N_opt, D_opt) at C.
    """
    planted = loss(points.N, points.D)
    out = []
    for m in minima:
        bias = np.nan
        if m.usable and m.cells is not None:
            x, _, curve = _vertex(np.log(points.N[m.cells]), planted[m.cells])
            true_N = optimum(m.budget)[0]
            if curve > 0 and np.isfinite(true_N) and true_N > 0:
                bias = float(np.expm1(np.clip(x - np.log(true_N), -50, 50)))
        out.append(replace(m, predicted_bias=bias))
    return tuple(out)


def _minimum(points: Points, budget: float, cells: NDArray, method: Method) -> Minimum:
    budget = float(budget)
    x, y = np.log(points.N[cells]), points.loss[cells]
    different = len(np.unique(x))
    if different < FEWEST:
        what = f"{different} model size{'s' * (different != 1)}, {FEWEST} are needed"
        return Minimum(budget, MinimumStatus.TOO_FEW, what, n=len(cells), cells=cells)
    if method is Method.AKIMA:
        return _akima_minimum(points, budget, cells)
    if method is Method.WINDOWED:
        cells = cells[_window(x, y)]
    return _parabola_minimum(points, budget, cells, lowest=float(x[y.argmin()]))


def _window(x: NDArray, y: NDArray) -> NDArray:
    """Mask of the cells near the lowest; at least WANTED sizes where the budget has them."""
    centre = x[np.argmin(y)]
    for _ in range(2):
        distance = np.abs(x - centre)
        sizes = np.unique(np.round(distance, 9))
        reach = max(np.log(WINDOW), sizes[min(WANTED, len(sizes)) - 1])
        keep = distance <= reach * (1 + 1e-9)
        if len(np.unique(x[keep])) < FEWEST:
            return np.ones_like(keep)
        vertex, _, curvature = _vertex(x[keep], y[keep])
        # A flat profile can have its lowest cell far from the middle: centre once on the vertex.
        if curvature <= 0 or not x[keep].min() <= vertex <= x[keep].max():
            break
        centre = vertex
    return keep


def _parabola_minimum(points: Points, budget: float, cells: NDArray, lowest: float) -> Minimum:
    x, y = np.log(points.N[cells]), points.loss[cells]
    vertex, loss, curvature = _vertex(x, y)
    bare = Minimum(budget, MinimumStatus.FAILED, n=len(cells), cells=cells)
    if not np.isfinite([vertex, loss, curvature]).all() or loss <= 0:
        return replace(bare, reason="the parabola has no finite vertex with a positive loss")
    if curvature <= 0:
        reason = "the profile bends down: no minimum"
        return replace(bare, status=MinimumStatus.CONCAVE, reason=reason)
    outside = _outside(np.log(points.N[points.budget == budget]), vertex, lowest)
    if outside is not None:
        return replace(bare, status=MinimumStatus.EDGE, reason=outside)
    status, reason = _centring(np.log(points.N[points.budget == budget]), vertex, lowest)
    log_D = np.polyval(np.polyfit(x - vertex, np.log(points.D[cells]), 1), 0.0)
    X = np.vander(x - vertex, 3)
    cov = np.linalg.pinv(X.T @ X)
    residual = (y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) / loss
    return replace(
        bare, status=status, reason=reason, N=float(np.exp(vertex)), D=float(np.exp(log_D)),
        loss=float(loss), residual_ss=float(residual @ residual),
        # At the vertex the slope is 0, so only var(slope) / (2 curvature)^2 moves it.
        N_leverage=float(cov[1, 1] * (loss / (2 * curvature)) ** 2),
        loss_leverage=float(cov[2, 2]),
    )  # fmt: skip


def _akima_minimum(points: Points, budget: float, cells: NDArray) -> Minimum:
    """Minimum of the Akima spline through the cells, mean loss where sizes repeat."""
    sizes, where = np.unique(np.log(points.N[cells]), return_inverse=True)
    count = np.bincount(where)
    loss = np.bincount(where, weights=points.loss[cells]) / count
    log_D = np.bincount(where, weights=np.log(points.D[cells])) / count
    fine = np.linspace(sizes[0], sizes[-1], 4001)
    curve = Akima1DInterpolator(sizes, loss)(fine)
    best = int(np.argmin(curve))
    bare = Minimum(budget, MinimumStatus.EDGE, n=len(cells), cells=cells)
    if best in (0, len(fine) - 1):
        return replace(bare, reason="the lowest loss is at the smallest or largest model")
    status, reason = _centring(sizes, fine[best], sizes[loss.argmin()])
    return replace(
        bare, status=status, reason=reason, N=float(np.exp(fine[best])),
        D=float(np.exp(np.interp(fine[best], sizes, log_D))), loss=float(curve[best]),
    )  # fmt: skip


def _outside(x: NDArray, vertex: float, lowest: float) -> str | None:
    """Say why the minimum is not bracketed: beyond the sizes, or on the rim beside the lowest."""
    sizes = np.unique(x)
    if not sizes[0] <= vertex <= sizes[-1]:
        side = "below the smallest" if vertex < sizes[0] else "above the largest"
        return f"the minimum lies {side} model of this budget"
    if lowest == sizes[0] and vertex < sizes[1]:
        return "the smallest model has the lowest loss: nothing brackets the minimum"
    if lowest == sizes[-1] and vertex > sizes[-2]:
        return "the largest model has the lowest loss: nothing brackets the minimum"
    return None


def _centring(x: NDArray, vertex: float, lowest: float) -> tuple[MinimumStatus, str | None]:
    """off_centre: fewer than two sizes on a side of the minimum, or the lowest cell at an end."""
    sizes = np.unique(x)
    below, above = int(np.sum(sizes < vertex)), int(np.sum(sizes > vertex))
    if lowest in (sizes[0], sizes[-1]):
        end = "smallest" if lowest == sizes[0] else "largest"
        return MinimumStatus.OFF_CENTRE, f"the {end} model has the lowest loss"
    if min(below, above) < 2:
        return MinimumStatus.OFF_CENTRE, f"{below} sizes below the minimum, {above} above"
    return MinimumStatus.OK, None


def _vertex(x: NDArray, y: NDArray) -> tuple[float, float, float]:
    """Vertex, value there and second-order coefficient of the least-squares parabola."""
    centre, scale = x.mean(), max(np.ptp(x), 1e-12)
    c2, c1, c0 = np.linalg.lstsq(np.vander((x - centre) / scale, 3), y, rcond=None)[0]
    if c2 == 0:
        return np.nan, np.nan, 0.0
    at = -c1 / (2 * c2)
    return float(centre + scale * at), float(c0 + c1 * at / 2), float(c2 / scale**2)
