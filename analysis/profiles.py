"""Approach 2: the minimum of each isoFLOP profile, and the power laws through them.

A parabola of the loss in log N is drawn through the cells of a budget; its vertex is the budget's
(N_opt, D_opt, loss). A real profile is not a parabola: a wide window biases the vertex (Czech et
al. 2026), so the default fits only the cells near the minimum, and
`predicted_bias` measures what is left of the bias on a fitted law.

Cells that differ in C by more than 2% are no profile: where runs share no budget (bins of log C), the
losses are first moved to the bin's C at their own N, along a smooth surface through all losses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from analysis.points import Points
from analysis.surface import fit_surface

WINDOW = 4.0  # cells within this factor of the lowest cell's N
FEWEST = 4  # cells of different N that make a minimum
WANTED = 5  # cells that a window takes where the budget has them
SAME_BUDGET = 0.03  # spread of log C of cells that are compared as they are
FLAT = 1e-9  # change of the loss over a window, relative, that is rounding


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
    points = at_budgets(points)
    return tuple(
        _minimum(points, budget, np.flatnonzero(points.budget == budget), method)
        for budget in points.budgets
    )


def at_budgets(points: Points, loss: NDArray | None = None) -> Points:
    """Move each run to its budget's C at its own N, with the loss that it would have there.

    Args:
        points: the sweep; returned as it is where the runs of each budget agree in C.
        loss: (n,) losses to move instead of the measured ones.
    """
    loss = points.loss if loss is None else loss
    off = np.log(points.C / points.budget)
    if not len(off) or np.ptp(off) <= SAME_BUDGET:
        return replace(points, loss=loss)
    surface = fit_surface(points.N, points.D, loss)
    if surface is None or not surface.identified:
        return replace(points, loss=loss)
    D = points.D * points.budget / points.C
    moved = surface.log_loss(points.N, D) - surface.log_loss(points.N, points.D)
    return replace(points, D=D, C=points.budget.copy(), loss=loss * np.exp(moved))


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
    planted = at_budgets(points, loss(points.N, points.D)).loss
    out = []
    for m in minima:
        bias = np.nan
        if m.usable and m.cells is not None:
            x, _, curve = _vertex(
                np.log(points.N[m.cells]), planted[m.cells], _weight(points, m.cells)
            )
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
        cells = cells[_window(x, y, _weight(points, cells))]
    return _parabola_minimum(points, budget, cells, lowest=float(x[y.argmin()]))


def _window(x: NDArray, y: NDArray, w: NDArray) -> NDArray:
    """Mask of the cells near the lowest; at least WANTED sizes where the budget has them."""
    centre = x[np.argmin(y)]
    for _ in range(2):
        distance = np.abs(x - centre)
        sizes = np.unique(np.round(distance, 9))
        reach = max(np.log(WINDOW), sizes[min(WANTED, len(sizes)) - 1])
        keep = distance <= reach * (1 + 1e-9)
        if len(np.unique(x[keep])) < FEWEST:
            return np.ones_like(keep)
        vertex, _, curvature = _vertex(x[keep], y[keep], w[keep])
        # A flat profile can have its lowest cell far from the middle: centre once on the vertex.
        if curvature <= 0 or not x[keep].min() <= vertex <= x[keep].max():
            break
        centre = vertex
    return keep


def _parabola_minimum(points: Points, budget: float, cells: NDArray, lowest: float) -> Minimum:
    x, y, w = np.log(points.N[cells]), points.loss[cells], _weight(points, cells)
    vertex, loss, curvature = _vertex(x, y, w)
    bare = Minimum(budget, MinimumStatus.FAILED, n=len(cells), cells=cells)
    if np.ptp(y) <= FLAT * np.abs(y).max():
        return replace(bare, reason="all losses of this budget are equal")
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
    X, root = np.vander(x - vertex, 3), np.sqrt(w)
    weighted = X * root[:, None]
    cov = np.linalg.pinv(weighted.T @ weighted)
    residual = root * (y - X @ np.linalg.lstsq(weighted, y * root, rcond=None)[0]) / loss
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
    weight = _weight(points, cells)
    total = np.bincount(where, weights=weight)
    loss = np.bincount(where, weights=weight * points.loss[cells]) / total
    log_D = np.bincount(where, weights=weight * np.log(points.D[cells])) / total
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
        return MinimumStatus.OFF_CENTRE, f"sizes: {below} below the minimum, {above} above"
    return MinimumStatus.OK, None


def _weight(points: Points, cells: NDArray) -> NDArray:
    """(n,) weights of some cells: what the table's loss_sd makes of them, else 1."""
    return np.ones(len(cells)) if points.weight is None else points.weight[cells]


def _vertex(x: NDArray, y: NDArray, w: NDArray) -> tuple[float, float, float]:
    """Vertex, value there and second-order coefficient of the least-squares parabola."""
    centre, scale, root = x.mean(), max(np.ptp(x), 1e-12), np.sqrt(w)
    X = np.vander((x - centre) / scale, 3) * root[:, None]
    c2, c1, c0 = np.linalg.lstsq(X, y * root, rcond=None)[0]
    if c2 == 0:
        return np.nan, np.nan, 0.0
    at = -c1 / (2 * c2)
    return float(centre + scale * at), float(c0 + c1 * at / 2), float(c2 / scale**2)
