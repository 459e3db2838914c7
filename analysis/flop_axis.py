"""From C to (N, D): which D a model of N parameters gets for C FLOPs, in one sweep.

With C = 6ND optima have a closed form. Elsewhere log(C / 6ND) is taken as linear in log N and
log D, which the sweep's own rows give, and the optimum is searched along the line of constant C.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws import Law
from analysis.points import Points

POINTS = 41
ZOOMS = 5
REACH = np.log(1e4)  # of the search, on both sides of the optimum at C = 6ND


@dataclass(frozen=True)
class FlopAxis:
    """log(C / 6ND) = constant + N_slope log N + D_slope log D."""

    constant: float = 0.0
    N_slope: float = 0.0
    D_slope: float = 0.0
    span: tuple[float, float] = (1e18, 1e21)  # lowest and highest C of the rows, FLOPs

    @property
    def six_nd(self) -> bool:
        return self.constant == self.N_slope == self.D_slope == 0

    def tokens(self, N: ArrayLike, C: ArrayLike) -> NDArray:
        """D that N parameters train on for C FLOPs."""
        log_N = np.log(N)
        over = np.log(C) - np.log(6) - self.constant - (1 + self.N_slope) * log_N
        return np.exp(over / (1 + self.D_slope))

    def flops(self, N: ArrayLike, D: ArrayLike) -> NDArray:
        """C that N parameters cost on D tokens, FLOPs: `tokens` turned round."""
        more = self.constant + self.N_slope * np.log(N) + self.D_slope * np.log(D)
        return 6 * np.asarray(N) * np.asarray(D) * np.exp(more)

    def optimum(self, law: Law, theta: NDArray, C: float, **extra: ArrayLike) -> tuple:
        """(N, D) of least loss at C, for every row of theta; NaN where there is none.

        Args:
            law: any law.
            theta: (..., p) public parameters.
            C: FLOPs.
            extra: what the law needs beyond N, D, C.
        """
        start, D = law.optimum(theta, C)
        if self.six_nd or not law.has_optimum:
            return start, D
        flat = np.atleast_2d(theta).reshape(-1, theta.shape[-1])
        N = np.full(len(flat), np.nan)
        sound = np.isfinite(np.ravel(start))
        if sound.any():
            N[sound] = self._search(law, flat[sound], np.ravel(start)[sound], C, extra)
        N = N.reshape(np.shape(start))
        return N, self.tokens(N, C)

    def exponent(self, law: Law, theta: NDArray) -> NDArray:
        """Exponent a of N_opt ~ C^a, (...); between the ends of the rows' C where not 6ND."""
        if self.six_nd or self.N_slope == self.D_slope == 0:
            return law.a(theta)
        low, high = (self.optimum(law, theta, C)[0] for C in self.span)
        return np.log(high / low) / np.log(self.span[1] / self.span[0])

    def _search(self, law: Law, theta: NDArray, start: NDArray, C: float, extra: dict) -> NDArray:
        centre, reach = np.log(start), REACH
        first = np.zeros(len(theta), dtype=bool)
        for zoom in range(ZOOMS):
            x = centre[:, None] + np.linspace(-reach, reach, POINTS)
            N = np.exp(np.clip(x, -300, 300))
            loss = law.loss(theta[:, None, :], N, self.tokens(N, C), C=np.full_like(N, C), **extra)
            best = np.argmin(loss, axis=1)
            if zoom == 0:
                first = (best == 0) | (best == POINTS - 1)
            centre, reach = x[np.arange(len(x)), best], 2 * reach / (POINTS - 1)
        return np.where(first, np.nan, np.exp(np.clip(centre, -300, 300)))


def flop_axis(points: Points) -> FlopAxis:
    """Fit the relation of a sweep's rows, exactly 6ND where all obey it within 1%."""
    span = (float(points.C.min()), float(points.C.max()))
    if points.six_nd or span[0] == span[1]:
        return FlopAxis(span=span)
    log_N, log_D = np.log(points.N), np.log(points.D)
    y = np.log(points.C) - np.log(6) - log_N - log_D
    if np.ptp(y) < 0.02:
        return FlopAxis(constant=float(y.mean()), span=span)
    X = np.column_stack([np.ones(len(y)), log_N, log_D])
    constant, N_slope, D_slope = np.linalg.lstsq(X, y, rcond=None)[0]
    # Beyond these slopes the relation says that a larger model costs no more.
    if max(abs(N_slope), abs(D_slope)) > 0.9:
        return FlopAxis(constant=float(y.mean()), span=span)
    return FlopAxis(float(constant), float(N_slope), float(D_slope), span)
