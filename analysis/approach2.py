"""Approach 2 as a part of the answer: minima with intervals, N_opt and D_opt with theirs."""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from analysis.fits_file import NAN, UNKNOWN, Approach2, MinimumRow, MinLossLaw, Pair, Power
from analysis.fitted import Fitted
from analysis.holdout import min_loss_curve
from analysis.min_loss import MinLossCurve
from analysis.points import Points
from analysis.profiles import (
    Method,
    Minimum,
    find_minima,
    pooled_noise,
    power_law,
    with_predicted_bias,
)


def approach2(
    points: Points, headline: Fitted | None, level: float
) -> tuple[Approach2, tuple[Minimum, ...], MinLossCurve]:
    """Find the minima, the power laws through them and L_min(C).

    Args:
        points: the sweep.
        headline: the fitted law on which the minima's bias is predicted; None leaves it unknown.
        level: of the intervals.

    Returns:
        The part, its minima with all they know, and the curve through their losses.
    """
    minima = find_minima(points)
    if headline is not None and headline.usable:
        minima = with_predicted_bias(minima, points, headline.loss, headline.optimum)
    curve = min_loss_curve(minima)
    usable = [m for m in minima if m.usable]
    status, reason = "ok", None
    if len(usable) < 2:
        status, reason = "too_few", _few(len(usable))
    part = Approach2(
        N_opt=exponent(usable, "N", level), D_opt=exponent(usable, "D", level),
        minima=tuple(_row(m, minima, level) for m in minima), method=str(Method.WINDOWED),
        methods={str(m): _by_method(points, m) for m in Method},
        min_loss=MinLossLaw(curve.E, curve.A, curve.gamma, curve.gamma_interval, curve.noise,
                            str(curve.status), curve.reason),
        status=status, reason=reason, exponent_bias=_exponent_bias(usable),
    )  # fmt: skip
    return part, minima, curve


def _few(usable: int) -> str:
    have = "budget has" if usable == 1 else "budgets have"
    return f"{usable} {have} a minimum, 2 are needed"


def exponent(usable: Sequence[Minimum], name: str, level: float) -> Power:
    """Power law of N or D through minima, least squares in logs.

    The exponent's variance is the larger of two: what the noise of the cells does to the minima
    (pooled over profiles), and the scatter of the minima about the line, which also holds what
    runs of one size share. Both with Student's t of their own degrees of freedom.
    """
    C = np.array([m.budget for m in usable])
    if len(np.unique(C)) < 2:
        return Power()
    y = np.log([getattr(m, name) for m in usable])
    law = power_law(C, np.exp(y))
    x = np.log(C) - np.mean(np.log(C))
    pull = x / np.sum(x**2)
    residual_ss, dof = pooled_noise(usable)
    widths = [0.0]
    if dof > 0:
        noise = residual_ss / dof * np.array([m.N_leverage for m in usable])
        widths.append(_t(level, dof) * np.sqrt(np.sum(pull**2 * noise)))
    if len(usable) > 2:
        scatter = y - np.log(law(C))
        variance = np.sum(scatter**2) / (len(usable) - 2) * np.sum(pull**2)
        widths.append(_t(level, len(usable) - 2) * np.sqrt(variance))
    if len(widths) == 1:
        return Power(law.coefficient, law.exponent)
    width = float(max(widths))
    return Power(law.coefficient, law.exponent, (law.exponent - width, law.exponent + width))


def _exponent_bias(usable: Sequence[Minimum]) -> float:
    """Exponent that the minima's predicted biases alone would show."""
    known = [m for m in usable if np.isfinite(m.predicted_bias)]
    C = np.array([m.budget for m in known])
    if len(np.unique(C)) < 2:
        return NAN
    return power_law(C, 1 + np.array([m.predicted_bias for m in known])).exponent


def _row(m: Minimum, minima: Sequence[Minimum], level: float) -> MinimumRow:
    residual_ss, dof = pooled_noise(minima)
    N_interval, loss_interval = UNKNOWN, UNKNOWN
    if m.usable and dof > 0:
        noise = residual_ss / dof
        N_interval = _around(m.N, noise * m.N_leverage, level, dof)
        loss_interval = _around(m.loss, noise * m.loss_leverage, level, dof)
    return MinimumRow(
        m.budget, m.N, m.D, m.loss, str(m.status), m.reason, m.predicted_bias, m.n, N_interval,
        loss_interval,
    )  # fmt: skip


def _around(value: float, log_variance: float, level: float, dof: int) -> Pair:
    reach = _t(level, dof) * np.sqrt(log_variance)
    if not reach < 50:  # a flat profile says nothing about where its minimum lies
        return UNKNOWN
    return float(value * np.exp(-reach)), float(value * np.exp(reach))


def _by_method(points: Points, method: Method) -> dict:
    found = [m for m in find_minima(points, method) if m.usable]
    if len(found) < 2:
        return {"N_opt": NAN, "D_opt": NAN, "n": len(found), "status": "too_few"}
    C = np.array([m.budget for m in found])
    N_law = power_law(C, np.array([m.N for m in found]))
    D_law = power_law(C, np.array([m.D for m in found]))
    return {"N_opt": N_law.exponent, "D_opt": D_law.exponent, "n": len(found), "status": "ok"}


def _t(level: float, dof: int) -> float:
    return float(stdtrit(dof, (1 + level) / 2))
