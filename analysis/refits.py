"""The headline under other conventions: the same runs, N and C counted otherwise."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from analysis.fit_options import FitOptions
from analysis.fits_file import NAN, UNKNOWN, Refit, RefitAnswer, Skipped
from analysis.fitted import Fitted, Resampling, fit_points
from analysis.parametric import exponent_interval
from analysis.points import N_COLUMNS, Points
from analysis.profiles import find_minima, power_law

FLOP_RULES = ("palm", "palm_causal", "6nd", "kaplan", "chinchilla")


def refits(points: Points, options: FitOptions, resampling: Resampling) -> tuple:
    """Refit the headline law under every convention that the records hold but the headline's own.

    Args:
        points: from records; a points table has one N and one C, so nothing is refitted.
        options: law and estimator.
        resampling: draws of the interval of a.
    """
    if points.other is None or "N_flops" not in points.other:
        return (Skipped("a points table has one N and one C"),)
    return tuple(_refit(p, options, resampling) for p in _conventions(points))


def _conventions(points: Points) -> Iterator[Points]:
    """Other N under the sweep's own flop rule, then N = C / 6D under other rules."""
    rows = points.other
    for name, column in N_COLUMNS.items():
        if name == "active" and (rows["N_active"] == rows["N_total"]).all():
            continue  # dense: the same numbers twice
        if name != points.N_convention:
            yield replace(points, N=rows[column].to_numpy(float), N_convention=name)
    for rule in FLOP_RULES:
        if rule != points.flop_rule and f"flops_{rule}" in rows:
            C = rows[f"flops_{rule}"].to_numpy(float)
            if np.all(np.isfinite(C) & (C > 0)):
                yield replace(points, C=C, N=C / (6 * points.D), flop_rule=rule,
                              N_convention="flops")  # fmt: skip


def _refit(points: Points, options: FitOptions, resampling: Resampling) -> Refit:
    fitted = fit_points(points, options.law, options.estimator, options.delta, resampling,
                        fixed=dict(options.fix))  # fmt: skip
    a = fitted.exponent()
    interval = exponent_interval(fitted, a) if fitted.usable else UNKNOWN
    targets = options.targets or (10 * float(points.budgets[-1]),)
    known = fitted.usable and fitted.fit.law.has_optimum and not fitted.fit.law.needs
    answers = tuple(_answer(fitted, C) for C in targets) if known else ()
    return Refit(points.flop_rule, points.N_convention, options.law, a, interval,
                 _profile_exponent(points), fitted.fit.status, fitted.fit.reason, answers)  # fmt: skip


def _answer(fitted: Fitted, C: float) -> RefitAnswer:
    """Optimum and loss of the law at C, with intervals from its draws alone."""
    with np.errstate(all="ignore"):  # draws far off: their own answer is inf or NaN
        N, D = fitted.optimum(C)
        loss = float(fitted.loss(np.array(N), np.array(D), C=np.array(C)))
        N_draws, D_draws = fitted.optimum_draws(C)
        loss_draws = fitted.fit.law.loss(fitted.draws, N_draws, D_draws, C=np.full_like(N_draws, C))
        return RefitAnswer(
            C, N, D, loss, fitted.interval(loss_draws, loss), fitted.interval(N_draws, N),
            fitted.interval(D_draws, D),
        )  # fmt: skip


def _profile_exponent(points: Points) -> float:
    """Approach 2's exponent; unknown where cells of one budget differ in C under this rule."""
    shared = all(np.ptp(np.log(points.C[points.budget == b])) < 0.02 for b in points.budgets)
    usable = [m for m in find_minima(points) if m.usable] if shared else []
    C, N = np.array([m.budget for m in usable]), np.array([m.N for m in usable])
    return power_law(C, N).exponent if len(np.unique(C)) > 1 else NAN
