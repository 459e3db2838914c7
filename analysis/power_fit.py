"""A product of powers, y = k x1^a1 x2^a2 ..., by least squares in logs with Student's t."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

NAN = float("nan")
COLLINEAR = 1e-6  # smallest over largest singular value of the centred columns


@dataclass(frozen=True)
class PowerFit:
    """A fitted product of powers.

    Attributes:
        coefficient: k. exponents: by name. intervals: of the exponents. rms: of log residuals.
        n: rows. status: ok | too_few | inseparable (the columns are powers of each other).
        reason: why, where the status is not ok.
    """

    coefficient: float
    exponents: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    rms: float
    n: int
    status: str
    reason: str | None = None

    def value(self, **columns: ArrayLike) -> NDArray:
        """Value of y at these columns, of their broadcast shape."""
        logs = sum(a * np.log(np.asarray(columns[name])) for name, a in self.exponents.items())
        return np.asarray(self.coefficient * np.exp(logs))


def fit_power(y: ArrayLike, columns: Mapping[str, ArrayLike], level: float = 0.9) -> PowerFit:
    """Fit y = k times powers of the columns.

    Args:
        y: (n,) positive. columns: name -> (n,) positive. level: of the intervals of exponents.

    Raises:
        ValueError: unequal lengths, or values that are not finite and positive.
    """
    given = {"y": y, **columns}
    logs = {name: _log(name, values) for name, values in given.items()}
    shapes = {v.shape for v in logs.values()}
    if len(shapes) != 1:
        raise ValueError(f"columns of unequal lengths: { {k: v.shape for k, v in logs.items()} }")
    target, names = logs.pop("y"), list(columns)
    n, X = len(target), np.stack([logs[name] for name in names], axis=1)
    wanted = len(names) + 1
    if len(np.unique(X, axis=0)) < wanted:
        return _unfitted(names, n, "too_few", f"{wanted} constants need as many distinct rows")
    centre = X.mean(axis=0)
    singular = np.linalg.svd(X - centre, compute_uv=False)
    if singular[-1] <= COLLINEAR * singular[0]:
        together = " and ".join(names)
        reason = f"{together} vary together (or not at all): their exponents can't be told apart"
        return _unfitted(names, n, "inseparable", reason)
    design = np.column_stack([np.ones(n), X - centre])
    solution, *_ = np.linalg.lstsq(design, target, rcond=None)
    residual, dof = target - design @ solution, n - wanted
    exponents = dict(zip(names, map(float, solution[1:]), strict=True))
    covariance = np.linalg.inv(design.T @ design)
    intervals = {name: (NAN, NAN) for name in names}
    if dof > 0:
        sd = np.sqrt(np.diag(covariance)[1:] * (residual @ residual) / dof)
        reach = stdtrit(dof, (1 + level) / 2) * sd
        intervals = {
            name: (float(a - r), float(a + r))
            for (name, a), r in zip(exponents.items(), reach, strict=True)
        }
    k = float(np.exp(solution[0] - solution[1:] @ centre))
    return PowerFit(k, exponents, intervals, float(np.sqrt(np.mean(residual**2))), n, "ok")


def _unfitted(names: list[str], n: int, status: str, reason: str) -> PowerFit:
    unknown = {name: (NAN, NAN) for name in names}
    return PowerFit(NAN, dict.fromkeys(names, NAN), unknown, NAN, n, status, reason)


def _log(name: str, values: ArrayLike) -> NDArray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"{name} must be a column of finite positive numbers")
    return np.log(array)
