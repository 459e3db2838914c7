"""The loss of a run that somebody chose: forecasts at (N, D) instead of at the optimum of a C.

The same three variances as in analysis/forecast.py. The distance that widens an interval is that
of the run's C from the top budget. Hold-outs try larger C at the sweep's own D/N and nothing else,
so outside the D/N that were seen a prediction is not validated, however small its C.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.discrepancy import discrepancy_factor
from analysis.fits_file import NAN, Pair
from analysis.fitted import Fitted, widened
from analysis.forecast import Evidence, Quantity, claim, validated

SLACK = 1.01  # on the D/N that were seen: rounding to whole steps moves them


@dataclass(frozen=True)
class LossForecast:
    """The loss at (N, D) by one law or by the average of forms; variances are of log loss."""

    law: str
    N: float
    D: float
    C: float  # FLOPs under flop_rule, by the sweep's own relation to N and D
    loss: float
    loss_interval: Pair
    extrapolation: dict[str, float]
    variance: dict[str, float]
    flop_rule: str
    N_convention: str
    recipe: str
    status: str
    reason: str | None


def forecast_at(evidence: Evidence, N: float, D: float) -> tuple[LossForecast, ...]:
    """Forecast the loss of N parameters on D tokens by the headline law and the average of forms.

    Args:
        evidence: of a fit.
        N: parameters under the fit's convention. D: tokens; distinct ones, for a law of repetition.

    Raises:
        ValueError: N or D is not a positive number.
    """
    if not all(np.isfinite(v) and v > 0 for v in (N, D)):
        raise ValueError(f"N={N:g}, D={D:g}: both must be positive numbers")
    average = evidence.average
    head = _quantity(evidence.headline, N, D)
    if average is None:
        return (_entry(evidence, N, D, evidence.headline.fit.law.name, head, 0.0),)
    parts = [_quantity(f, N, D) for f in average.fits]
    values = np.array([q.estimate for q in parts])
    between = float(np.average((values - head.estimate) ** 2, weights=average.weight))
    head = Quantity(head.estimate, head.sampling, between, head.draws)
    rows = len(average.draw_weight)
    both = average.combine(values, np.stack([q.draws[:rows] for q in parts], axis=1))
    mean = Quantity(both.estimate, both.sampling, both.form, both.mixture)
    return (
        _entry(evidence, N, D, evidence.headline.fit.law.name, head, between),
        _entry(evidence, N, D, "average", mean, 0.0),  # its draws hold the forms
    )


def _quantity(f: Fitted, N: float, D: float) -> Quantity:
    """Log loss at (N, D) by one law."""
    at = (np.array([N]), np.array([D]), f.axis.flops([N], [D]))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        estimate = float(np.log(f.loss(*at))[0])
        draws: NDArray = np.log(f.loss_draws(*at))[:, 0]
    draws = widened(draws, estimate, f.clusters, f.level)
    known = draws[np.isfinite(draws)]
    return Quantity(estimate, float(np.var(known)) if len(known) else NAN, NAN, draws)


def _entry(
    e: Evidence, N: float, D: float, law: str, loss: Quantity, more_variance: float
) -> LossForecast:
    C = float(e.headline.axis.flops(N, D))
    top = float(e.points.C.max())
    stretch = discrepancy_factor(C / top)
    known = np.nansum([loss.sampling, loss.form])
    seen = e.points.D / e.points.N
    ratio = D / N / float(np.clip(D / N, seen.min(), seen.max()))
    status, reason = claim(e, C, law, loss)
    if status == "no_optimum":  # of no matter here: N is given
        status, reason = "ok", None
    if status == "ok" and not 1 / SLACK <= ratio <= SLACK:
        status = "unvalidated"
        reason = (
            f"D/N = {D / N:.3g} lies outside the {seen.min():.3g} .. {seen.max():.3g} of these "
            "data, where no hold-out looked"
        )
    return LossForecast(
        law=law, N=float(N), D=float(D), C=C, loss=float(np.exp(loss.estimate)),
        loss_interval=loss.interval(e.level, more_variance, stretch),
        extrapolation={
            "C": C / top, "N": N / float(e.points.N.max()), "D": D / float(e.points.D.max()),
            "tokens_per_param": ratio, "validated_C": float(validated(e)),
        },
        variance={"sampling": loss.sampling, "form": loss.form,
                  "discrepancy": float((stretch**2 - 1) * known)},
        flop_rule=e.points.flop_rule, N_convention=e.points.N_convention, recipe=e.recipe,
        status=status, reason=reason,
    )  # fmt: skip
