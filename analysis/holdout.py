"""Rolling hold-out: each budget predicted from all lower ones, by laws and by L_min(C).

It validates, it does not select. One budget is about one test whatever its number of cells, since
their prediction errors move together: n_eff says how many.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from analysis.fits_file import NAN, UNKNOWN, Check, Holdout
from analysis.fitted import Fitted, Resampling, extra_columns, fit_points, widened
from analysis.min_loss import MinLossCurve, fit_min_loss
from analysis.points import Points
from analysis.profiles import Minimum, find_minima, pooled_noise

FEWEST_LOWER = 3
MOST_ORIGINS = 8
ROLLING_DRAWS = 100  # of the earlier budgets: their sd is known within 7%


def roll(
    points: Points, laws: Sequence[str], estimator: str, delta: float, resampling: Resampling
) -> tuple[Holdout, ...]:
    """Hold out each budget in turn, ascending; the last is the top one.

    Args:
        points: the sweep.
        laws: the headline law, then others, which are checked on the top budget only.
        estimator, delta: as in fit_points.
        resampling: its level is the intervals'.

    Returns:
        One entry per budget that has three lower ones (the last eight), and always the top one.
    """
    budgets = points.budgets
    first = max(min(FEWEST_LOWER, len(budgets) - 1), len(budgets) - MOST_ORIGINS)
    few = replace(resampling, draws=min(resampling.draws, ROLLING_DRAWS))
    entries = []
    for i in range(first, len(budgets)):
        top = i == len(budgets) - 1
        tried, drawn = (laws, resampling) if top else (laws[:1], few)
        entries.append(_hold_out(points, budgets[:i], budgets[i], tried, estimator, delta, drawn))
    return tuple(entries)


def min_loss_curve(minima: Sequence[Minimum]) -> MinLossCurve:
    """L_min(C) through the usable minima, noise pooled over all profiles."""
    usable = [m for m in minima if m.usable]
    columns = ([m.budget for m in usable], [m.loss for m in usable],
               [m.loss_leverage for m in usable])  # fmt: skip
    return fit_min_loss(*map(np.array, columns), *pooled_noise(usable))


def _hold_out(
    points: Points, lower: NDArray, budget: float, laws: Sequence[str], estimator: str,
    delta: float, resampling: Resampling,
) -> Holdout:  # fmt: skip
    train, test = points.take(np.isin(points.budget, lower)), points.take(points.budget == budget)
    checks = [_check(train, test, law, estimator, delta, resampling) for law in laws]
    minimum = _check_minimum(train, test, budget, resampling.level)
    head = checks[0]
    return Holdout(
        budget=float(budget), n=len(test), n_eff=head.n_eff, law=head.law,
        predicted=head.predicted, observed=head.observed, interval=head.interval, z=head.z,
        mean_error=head.mean_error, inside_interval=head.inside_interval,
        min_loss_error=minimum.mean_error, min_loss_interval=minimum.interval,
        min_loss_predicted=minimum.predicted, min_loss_observed=minimum.observed,
        min_loss_inside=minimum.inside_interval, min_loss_status=minimum.status,
        min_loss_reason=minimum.reason, ratio=float(budget / lower[-1]) if len(lower) else NAN,
        status=head.status, reason=head.reason, others=tuple(checks[1:]),
    )  # fmt: skip


def _check(
    train: Points, test: Points, law: str, estimator: str, delta: float, resampling: Resampling
) -> Check:
    observed = float(np.mean(test.loss))
    budgets = len(train.budgets)
    if budgets < 2:
        what = f"{budgets} lower budget{'s' * (budgets != 1)}, 2 are needed"
        return Check(law, observed=observed, status="too_few", reason=what)
    try:
        fitted = fit_points(train, law, estimator, delta, resampling)
        extra = extra_columns(test, law)
    except ValueError as e:
        return Check(law, observed=observed, status="skipped", reason=str(e))
    if not fitted.usable:
        reason = fitted.fit.reason
        return Check(law, observed=observed, status=fitted.fit.status, reason=reason)
    return _scored(fitted, test, extra, observed)


def _scored(fitted: Fitted, test: Points, extra: dict, observed: float) -> Check:
    """Compare the mean loss of the held-out cells with its prediction.

    The predictive variance of the mean is the draws' (what the law does not know) plus the noise of
    the cells themselves over their number.
    """
    level, n = fitted.level, len(test)
    at = np.log(fitted.loss(test.N, test.D, test.C, **extra))
    error = float(np.mean(at - np.log(test.loss)))
    predicted = float(np.mean(np.exp(at)))
    draws = np.log(fitted.loss_draws(test.N, test.D, test.C, **extra))
    draws = widened(draws[np.isfinite(draws).all(axis=1)], at, fitted.clusters, level)
    if len(draws) < 20:
        return Check(fitted.fit.law.name, predicted, observed, mean_error=error,
                     status="failed", reason="too few bootstrap draws converged")  # fmt: skip
    noise = noise_sd(fitted, test.C)
    mean_variance = float(np.var(draws.mean(axis=1)) + np.mean(noise**2) / n)
    cell_variance = float(np.mean(np.var(draws, axis=0) + noise**2))
    sd = np.sqrt(mean_variance)
    tail = norm.ppf((1 + level) / 2)
    center = np.log(predicted)
    interval = (float(np.exp(center - tail * sd)), float(np.exp(center + tail * sd)))
    status, reason = fitted.fit.status, fitted.fit.reason
    return Check(
        law=fitted.fit.law.name, predicted=predicted, observed=observed, interval=interval,
        z=error / sd if sd > 0 else NAN, mean_error=error,
        inside_interval=bool(interval[0] <= observed <= interval[1]),
        n_eff=min(cell_variance / mean_variance, float(n)) if mean_variance > 0 else NAN,
        status=status, reason=reason,
    )  # fmt: skip


def noise_sd(fitted: Fitted, C: NDArray) -> NDArray:
    """Return the standard deviation of one cell's log loss at C, (n,); t4's scale is less."""
    noise = fitted.fit.noise
    if "scale" not in noise:
        return np.full(len(C), noise.get("rms", NAN))
    dof = noise["dof"]
    scale = noise["scale"] * np.exp(noise["slope"] * (np.log(C) - noise["log_C"]))
    return scale * np.sqrt(dof / (dof - 2))


def _check_minimum(train: Points, test: Points, budget: float, level: float) -> Check:
    """Predict the held-out profile's minimum by the curve through the lower budgets' minima.

    The interval is for the minimum as this profile will measure it: the curve's own uncertainty
    and the noise of the held-out minimum, by its leverage.
    """
    lower = find_minima(train)
    observed = find_minima(test)[0]
    usable = [m for m in lower if m.usable]
    curve = min_loss_curve(usable)
    seen = observed.loss if observed.usable else NAN
    if not curve.usable:
        return Check("min_loss", observed=seen, status="too_few", reason=curve.reason)
    if not observed.usable:
        predicted = curve.predict(budget).loss
        reason = f"the held-out budget has no minimum: {observed.reason}"
        return Check(
            "min_loss", predicted, NAN, UNKNOWN, status=str(observed.status), reason=reason
        )
    prediction = curve.predict(budget, observed.loss_leverage)
    low, high = prediction.interval(level)
    return Check(
        "min_loss", prediction.loss, seen, (low, high),
        mean_error=float(np.log(prediction.loss / seen)), inside_interval=bool(low <= seen <= high),
        status=str(curve.status), reason=curve.reason,
    )  # fmt: skip
