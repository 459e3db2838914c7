"""Pairs bootstrap of a fitted law: rows, or whole clusters of rows, drawn with replacement.

Every draw is the fit's own objective under other row weights, started at the fit's own minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.engine import LawFit, rebuild, refit

Array = np.ndarray

WEIGHTS_HELD = 1_000_000  # draws times rows of weights in memory at once, 8 MB


@dataclass(frozen=True)
class Draws:
    """theta: (draws, p) public parameters; converged: (draws,) bool.

    A draw that ran out of steps is kept where it was: it was on its way along a flat valley, and to
    leave it out would cut off the ends of the interval. NaN where there is no finite objective.
    """

    theta: Array
    converged: Array


def bootstrap(
    fit: LawFit,
    N: ArrayLike,
    D: ArrayLike,
    loss: ArrayLike,
    *,
    draws: int = 4000,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    C: ArrayLike | None = None,
    extra: Mapping[str, ArrayLike] | None = None,
    weights: ArrayLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Draws:
    """Refit the law to resampled rows.

    Args:
        fit: the law as fitted to these same rows.
        N, D, loss, C, extra, weights: as given to `fit_law`.
        draws: number of resamples.
        clusters: (n,) ids; rows of one id are drawn together. None draws rows.
        seed: of the resampling; the same seed gives the same draws whatever the law.
        progress: called with (draws done, draws) after each chunk.

    Raises:
        ValueError: the fit has no parameters, or `clusters` has another length.
    """
    problem = rebuild(fit, N, D, loss, C=C, extra=extra)
    n = len(problem.log_loss)
    members = _members(clusters, n)
    own = 1.0 if weights is None else np.asarray(weights, dtype=float)
    theta = np.full((draws, len(fit.theta)), np.nan)
    converged = np.zeros(draws, dtype=bool)
    rng = np.random.default_rng(seed)
    chunk = max(50, WEIGHTS_HELD // n // 8)
    for first in range(0, draws, chunk):
        rows = slice(first, min(first + chunk, draws))
        counts = resampling_weights(rng, rows.stop - rows.start, members)
        theta[rows], converged[rows] = refit(fit, problem, own * counts)
        if progress is not None:
            progress(rows.stop, draws)
    return Draws(theta, converged)


def _members(clusters: ArrayLike | None, n: int) -> Array:
    if clusters is None:
        return np.arange(n)
    ids = np.asarray(clusters)
    if ids.shape != (n,):
        raise ValueError(f"clusters has shape {ids.shape} where the rows are ({n},)")
    return np.unique(ids, return_inverse=True)[1]


def resampling_weights(rng: np.random.Generator, draws: int, members: Array) -> Array:
    """How often each row is in each resample, (draws, n).

    Args:
        rng: source of randomness. draws: number of resamples.
        members: (n,) cluster number of each row, 0..k-1; k clusters are drawn from k.
    """
    k = int(members.max()) + 1
    picked = rng.integers(0, k, size=(draws, k)) + k * np.arange(draws)[:, None]
    counts = np.bincount(picked.ravel(), minlength=draws * k).reshape(draws, k).astype(float)
    return counts if k == len(members) else counts[:, members]


def percentile_interval(
    values: ArrayLike, level: float, estimate: float | None = None
) -> tuple[float, float]:
    """Central interval of the finite draws, widened where needed to contain the estimate.

    Args:
        values: draws of one quantity; NaN is left out.
        level: coverage, in (0, 1).
        estimate: the quantity at the fit itself; None where there is none to contain.

    Returns:
        (low, high), or NaN twice with fewer than two finite draws.
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    if estimate is not None and np.isfinite(estimate):
        low, high = min(low, estimate), max(high, estimate)
    return float(low), float(high)
