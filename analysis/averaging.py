"""Which law? Predictions of several forms averaged by AICc, the weights chosen anew in each draw.

The set of forms is fixed beforehand: those with an interior optimum. In every resample each form
is refitted and its weight follows from that resample's own likelihood, so that the uncertainty of
choosing is in the spread of the averages (Burnham & Anderson 2002, sections 2.9 and 4.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fitted import Fitted, Resampling, clusters_of
from analysis.points import Points
from analysis.resampling import resampling_weights

FORMS = ("chinchilla", "tied", "no_E", "coupled", "interaction")
DOF = 4.0
EM_STEPS = 12


@dataclass(frozen=True, eq=False)
class Average:
    """Forms with their weights at the fit and in each draw."""

    names: tuple[str, ...]
    fits: tuple[Fitted, ...]
    weight: NDArray  # (forms,)
    draw_weight: NDArray  # (draws, forms), rows sum to 1

    def combine(self, at_fit: NDArray, at_draws: NDArray, seed: int = 0) -> "Combined":
        """Average one log quantity over forms.

        Args:
            at_fit: (forms,) the quantity by each form.
            at_draws: (draws, forms).
            seed: of the choice of a form per draw.
        """
        known = np.isfinite(at_fit)
        if not (self.weight[known] > 0).any():
            return Combined(np.nan, np.nan, np.nan, np.empty(0))
        weight = np.where(known, self.weight, 0)
        draws_known = np.isfinite(at_draws)
        by_draw = np.where(draws_known, self.draw_weight, 0)
        total = by_draw.sum(axis=1)
        keep = total > 0.5  # most of the weight has a finite prediction
        by_draw = by_draw[keep] / total[keep, None]
        values = np.where(draws_known, at_draws, 0.0)[keep]
        estimate = float(weight @ np.where(known, at_fit, 0.0) / weight.sum())
        means = np.sum(by_draw * values, axis=1)
        form = float(np.mean(np.sum(by_draw * (values - means[:, None]) ** 2, axis=1)))
        picked = _pick(by_draw, seed)
        return Combined(
            estimate, float(np.var(means)), form, values[np.arange(len(values)), picked]
        )


@dataclass(frozen=True, eq=False)
class Combined:
    """An averaged log quantity; `mixture` (draws,) carries sampling and form uncertainty."""

    estimate: float
    sampling: float
    form: float
    mixture: NDArray


def average(points: Points, fitted: Mapping[str, Fitted], resampling: Resampling) -> Average | None:
    """Weigh the forms of FORMS that were fitted; None without any.

    Args:
        points: the sweep.
        fitted: name -> a fit with draws.
        resampling: how they were drawn; one seed, so that draw i of every form saw one resample.
    """
    names = tuple(n for n in FORMS if n in fitted and _sound(fitted[n]))
    if not names:
        return None
    fits = tuple(fitted[n] for n in names)
    criterion = np.array([f.fit.aicc for f in fits])
    if not np.isfinite(criterion).any():
        return None
    rows = min(len(f.draws) for f in fits)
    weights = resamples(points, resampling.by, rows, resampling.seed) * points.row_weights
    log_loss = np.log(points.loss)
    scores = np.stack([_draw_criterion(f, log_loss, points, weights) for f in fits], axis=1)
    return Average(names, fits, weights_of(criterion), weights_of(scores))


def weights_of(criterion: NDArray) -> NDArray:
    """Akaike weights along the last axis; an infinite or unknown criterion weighs nothing."""
    value = np.where(np.isfinite(criterion), criterion, np.inf)
    best = value.min(axis=-1, keepdims=True)
    best = np.where(np.isfinite(best), best, 0.0)
    raw = np.exp(-0.5 * np.minimum(value - best, 1400.0)) * np.isfinite(value)
    total = raw.sum(axis=-1, keepdims=True)
    return np.where(total > 0, raw / np.where(total > 0, total, 1), 1 / criterion.shape[-1])


def _sound(f: Fitted) -> bool:
    return f.usable and f.fit.status != "not_converged" and np.isfinite(f.draws).all(1).sum() >= 20


def _draw_criterion(f: Fitted, log_loss: NDArray, points: Points, weights: NDArray) -> NDArray:
    """AICc of each draw, (draws,), from the t4 likelihood of its residuals on its own resample."""
    n, parameters = len(points), f.draws.shape[1] - len(f.fit.held) + 2
    fine = np.isfinite(f.draws[: len(weights)]).all(axis=1)
    theta = f.draws[: len(weights)][fine][:, None, :]
    residual = np.log(f.fit.law.loss(theta, points.N, points.D, C=points.C)) - log_loss
    out = np.full(len(weights), np.inf)
    out[fine] = -2 * _profiled_likelihood(residual, weights[fine])
    spare = n - parameters - 1
    return out + (2 * parameters * n / spare if spare > 0 else np.inf)


def _profiled_likelihood(residual: NDArray, weights: NDArray) -> NDArray:
    """Log likelihood of rows of residuals under t4 with the best scale, up to a constant."""
    square, n = residual**2, weights.sum(axis=1, keepdims=True)
    variance = np.maximum(np.sum(weights * square, axis=1, keepdims=True) / n, 1e-18)
    for _ in range(EM_STEPS):
        share = weights * (DOF + 1) / (DOF + square / variance)
        variance = np.maximum(np.sum(share * square, axis=1, keepdims=True) / n, 1e-18)
    tails = np.sum(weights * np.log1p(square / (DOF * variance)), axis=1)
    return -0.5 * (DOF + 1) * tails - 0.5 * n[:, 0] * np.log(variance[:, 0])


def resamples(points: Points, by: str, draws: int, seed: int) -> NDArray:
    """Row weights (draws, n) that resampling.bootstrap used with the same seed."""
    clusters, n = clusters_of(points, by), len(points)
    members = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    return resampling_weights(np.random.default_rng(seed), draws, members)


def _pick(weight: NDArray, seed: int) -> NDArray:
    u = np.random.default_rng(seed).random(len(weight))
    return np.minimum((np.cumsum(weight, axis=1) < u[:, None]).sum(axis=1), weight.shape[1] - 1)
