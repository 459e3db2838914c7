"""Approach 3 as a part of the answer: the headline law with intervals, and every other form."""

import numpy as np

from analysis.cross_checks import cross_checks
from analysis.fit_options import FitOptions
from analysis.fits_file import UNKNOWN, Approach3, LawRow, Pair
from analysis.fitted import Fitted, drawn_by, widened
from analysis.points import Points
from analysis.resampling import percentile_interval

PARAMETERS = ("E", "A", "B", "alpha", "beta")


def approach3(headline: Fitted, points: Points, options: FitOptions) -> Approach3:
    """Describe the headline fit to these points."""
    fit = headline.fit
    a = headline.exponent()
    return Approach3(
        law=fit.law.name, estimator=fit.estimator,
        delta=fit.delta if fit.estimator == "huber" else None,
        **{p: headline.value(p) for p in PARAMETERS}, a=a, b=1 - a, objective=fit.objective,
        gradient_norm=fit.gradient_norm, status=fit.status, reason=fit.reason, n=fit.n,
        parameters=_parameters(headline), ci=_intervals(headline, a),
        starts={"n": fit.starts_n, "at_optimum": fit.starts_at_optimum},
        resample=drawn_by(points, options.resample), clusters=headline.clusters,
        draws=len(headline.draws),
        draws_converged=headline.converged, noise=dict(fit.noise),
        fixed=dict(fit.held),
        checks=cross_checks(headline, points, options.resample),
    )  # fmt: skip


def law_row(fitted: Fitted, weight: float) -> LawRow:
    """Describe one of the forms that were tried."""
    fit = fitted.fit
    return LawRow(
        name=fit.law.name, estimator=fit.estimator, parameters=_parameters(fitted),
        covariance=None if fit.covariance is None else tuple(map(tuple, fit.covariance.tolist())),
        noise=dict(fit.noise), objective=fit.objective, gradient_norm=fit.gradient_norm,
        aicc=fit.aicc, weight=weight, status=fit.status, reason=fit.reason, source=fit.law.source,
    )  # fmt: skip


def exponent_interval(fitted: Fitted, a: float) -> Pair:
    """Interval of the exponent of N_opt from the draws."""
    return _interval(fitted, fitted.exponent_draws(), a)


def _parameters(fitted: Fitted) -> dict[str, float]:
    return dict(zip(fitted.fit.law.parameters, map(float, fitted.fit.theta), strict=True))


def _intervals(fitted: Fitted, a: float) -> dict[str, Pair]:
    """Intervals of every parameter of the law and of a; a parameter that it lacks has none."""
    law = fitted.fit.law
    out: dict[str, Pair] = dict.fromkeys(PARAMETERS, UNKNOWN)
    for i, name in enumerate(law.parameters):
        if name in fitted.fit.held:
            out[name] = (float(fitted.fit.theta[i]),) * 2
        elif law.positive[i]:
            out[name] = fitted.interval(fitted.draws[:, i], float(fitted.fit.theta[i]))
        else:
            out[name] = _interval(fitted, fitted.draws[:, i], float(fitted.fit.theta[i]))
    out["a"] = exponent_interval(fitted, a)
    return out


def _interval(fitted: Fitted, draws: np.ndarray, estimate: float) -> Pair:
    if not np.isfinite(estimate) or np.isfinite(draws).sum() < 20:
        return UNKNOWN
    wide = widened(draws, estimate, fitted.clusters, fitted.level)
    return percentile_interval(wide, fitted.level, estimate)
