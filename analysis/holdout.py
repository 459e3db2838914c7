"""Rolling hold-out: each budget predicted from all lower ones, by laws and by L_min(C).

It validates, it does not select. One budget is about one test whatever its number of cells, since
their prediction errors move together: n_eff says how many. What was fitted to the lower budgets
also predicts the dearer ones: errors at larger ratios for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from analysis.averaging import FORMS, average
from analysis.cell_noise import noise_at
from analysis.discrepancy import discrepancy_factor
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
        laws: the headline law, then others, which are checked on the top budget only; there the
            average of forms is checked too.
        estimator, delta: as in fit_points.
        resampling: its level is the intervals'.

    Returns:
        One entry per budget that has three lower ones (the last eight), and always the top one.
    """
    budgets = points.budgets
    first = max(min(FEWEST_LOWER, len(budgets) - 1), len(budgets) - MOST_ORIGINS)
    few = replace(resampling, draws=min(resampling.draws, ROLLING_DRAWS))
    origins: list[_Origin] = []
    entries = []
    for i in range(first, len(budgets)):
        top = i == len(budgets) - 1
        train = points.take(np.isin(points.budget, budgets[:i]))
        names = tuple(dict.fromkeys((*laws, *FORMS))) if top else laws[:1]
        origin = _fit(train, names, estimator, delta, resampling if top else few)
        test = points.take(points.budget == budgets[i])
        earlier = tuple(_check(o, test, laws[0]) for o in origins)
        others = [_check(origin, test, law) for law in laws[1:]] if top else []
        if top and (averaged := _check_average(origin, test)) is not None:
            others.append(averaged)
        entries.append(_entry(origin, test, _check(origin, test, laws[0]), others, earlier))
        origins.append(origin)
    return tuple(entries)


def min_loss_curve(minima: Sequence[Minimum]) -> MinLossCurve:
    """L_min(C) through the usable minima, noise pooled over all profiles."""
    usable = [m for m in minima if m.usable]
    columns = ([m.budget for m in usable], [m.loss for m in usable],
               [m.loss_leverage for m in usable])  # fmt: skip
    return fit_min_loss(*map(np.array, columns), *pooled_noise(usable))


@dataclass(frozen=True, eq=False)
class _Origin:
    """Laws fitted to the budgets below one; a law that could not be tried is a reason."""

    train: Points
    fits: dict[str, Fitted | str]
    resampling: Resampling


def _fit(
    train: Points, laws: Sequence[str], estimator: str, delta: float, resampling: Resampling
) -> _Origin:
    fits: dict[str, Fitted | str] = {}
    for law in laws:
        try:
            fits[law] = fit_points(train, law, estimator, delta, resampling)
        except ValueError as e:
            fits[law] = str(e)
    return _Origin(train, fits, resampling)


def _entry(
    origin: _Origin, test: Points, head: Check, others: Sequence[Check], earlier: tuple[Check, ...]
) -> Holdout:
    budget = float(test.budget[0])
    minimum = _check_minimum(origin.train, test, budget, origin.resampling.level)
    return Holdout(
        budget=budget, n=len(test), n_eff=head.n_eff, law=head.law, predicted=head.predicted,
        observed=head.observed, interval=head.interval, z=head.z, mean_error=head.mean_error,
        inside_interval=head.inside_interval, min_loss_error=minimum.mean_error,
        min_loss_interval=minimum.interval, min_loss_predicted=minimum.predicted,
        min_loss_observed=minimum.observed, min_loss_inside=minimum.inside_interval,
        min_loss_status=minimum.status, min_loss_reason=minimum.reason,
        ratio=_ratio(origin.train, test), status=head.status, reason=head.reason,
        others=tuple(others), earlier=earlier,
    )  # fmt: skip


def _ratio(train: Points, test: Points) -> float:
    return float(test.budget[0] / train.budgets[-1]) if len(train) else NAN


def _check(origin: _Origin, test: Points, law: str) -> Check:
    train, fitted = origin.train, origin.fits[law]
    bare = Check(law, observed=float(np.mean(test.loss)), ratio=_ratio(train, test))
    budgets = len(train.budgets)
    if budgets < 2:
        what = f"{budgets} lower budget{'s' * (budgets != 1)}, 2 are needed"
        return replace(bare, status="too_few", reason=what)
    try:
        extra = extra_columns(test, law)
    except ValueError as e:
        return replace(bare, status="skipped", reason=str(e))
    if isinstance(fitted, str):
        return replace(bare, status="skipped", reason=fitted)
    if not fitted.usable:
        return replace(bare, status=fitted.fit.status, reason=fitted.fit.reason)
    return _scored(bare, fitted, test, extra)


def _scored(bare: Check, fitted: Fitted, test: Points, extra: dict) -> Check:
    """Compare the mean loss of the held-out cells with its prediction.

    The predictive variance of the mean is the draws' (what the law does not know) plus the noise of
    the cells themselves over their number.
    """
    n = len(test)
    at = np.log(fitted.loss(test.N, test.D, test.C, **extra))
    draws = np.log(fitted.loss_draws(test.N, test.D, test.C, **extra))
    draws = widened(draws[np.isfinite(draws).all(axis=1)], at, fitted.clusters, fitted.level)
    if len(draws) < 20:
        return replace(bare, predicted=float(np.mean(np.exp(at))), status="failed",
                       mean_error=float(np.mean(at - np.log(test.loss))),
                       reason="too few bootstrap draws converged")  # fmt: skip
    noise = noise_sd(fitted, test.C) / np.sqrt(test.row_weights)
    mean_variance = float(np.var(draws.mean(axis=1)) + np.mean(noise**2) / n)
    cell_variance = float(np.mean(np.var(draws, axis=0) + noise**2))
    check = _compared(bare, at, test, np.sqrt(mean_variance), fitted.level)
    n_eff = min(cell_variance / mean_variance, float(n)) if mean_variance > 0 else NAN
    return replace(check, n_eff=n_eff, status=fitted.fit.status, reason=fitted.fit.reason)


def _compared(bare: Check, at: NDArray, test: Points, sd: float, level: float) -> Check:
    """Fill in a check from predicted log losses of the cells and the sd of their mean."""
    error = float(np.mean(at - np.log(test.loss)))
    predicted = float(np.mean(np.exp(at)))
    reach = float(ndtri((1 + level) / 2) * sd)
    interval = (predicted * np.exp(-reach), predicted * np.exp(reach))
    return replace(
        bare, predicted=predicted, interval=(float(interval[0]), float(interval[1])),
        z=error / sd if sd > 0 else NAN, mean_error=error,
        inside_interval=bool(interval[0] <= bare.observed <= interval[1]),
    )  # fmt: skip


def _check_average(origin: _Origin, test: Points) -> Check | None:
    """Check the average of forms with the whole variance that a forecast by it claims."""
    fitted = {name: f for name, f in origin.fits.items() if isinstance(f, Fitted)}
    if len(origin.train.budgets) < 2:
        return None
    averaged = average(origin.train, fitted, origin.resampling)
    if averaged is None:
        return None
    cells = np.array([np.log(f.loss(test.N, test.D, test.C)) for f in averaged.fits])
    rows = len(averaged.draw_weight)
    draws = [
        widened(np.log(f.loss_draws(test.N, test.D, test.C)[:rows]).mean(axis=1), at.mean(),
                f.clusters, f.level)
        for f, at in zip(averaged.fits, cells, strict=True)
    ]  # fmt: skip
    combined = averaged.combine(cells.mean(axis=1), np.stack(draws, axis=1))
    bare = Check("average", observed=float(np.mean(test.loss)), ratio=_ratio(origin.train, test))
    best = averaged.fits[int(np.argmax(averaged.weight))]
    noise = float(np.mean(noise_sd(best, test.C) ** 2 / test.row_weights)) / len(test)
    variance = (combined.sampling + combined.form) * discrepancy_factor(bare.ratio) ** 2
    return _compared(bare, averaged.weight @ cells, test, np.sqrt(variance + noise), best.level)


def noise_sd(fitted: Fitted, C: NDArray) -> NDArray:
    """Return the standard deviation of one cell's log loss at C, (n,); t4's scale is less."""
    return noise_at(fitted.fit.noise, C)


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
