"""The compute-optimal model at a budget that nobody has spent, with what its interval is made of.

Three variances of log loss are kept apart: sampling (other runs would have given another fit),
form (other laws fit as well), discrepancy (no law is true: what forecasts of public sweeps missed
beyond the other two).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri

from analysis.averaging import Average, Combined
from analysis.discrepancy import discrepancy_factor
from analysis.fits_file import (
    NAN,
    UNKNOWN,
    Conflict,
    Forecast,
    Holdout,
    OutlierRow,
    Pair,
    Plain,
    Skipped,
)
from analysis.fitted import Fitted, widened
from analysis.flop_axis import FlopAxis
from analysis.min_loss import MinLossCurve
from analysis.points import Points
from analysis.profiles import Minimum, MinimumStatus, PowerLaw

RANGES = {"p1": 1e-3, "p5": 5e-3}
SMALLEST = 0.98  # of the smallest budget, whose runs may fall short of it
CLAIM = 10.0  # times the largest ratio that was validated
SAME = {"N": 0.02, "loss": 0.001}  # of the log: what no decision turns on is no conflict
IDENTIFIED = 10.0  # an interval of N wider than this factor names no size
PASSED = 2.0  # sd between a held-out budget and its prediction


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a forecast is made from."""

    points: Points
    axis: FlopAxis
    headline: Fitted
    average: Average | None
    plain: Fitted | None
    minima: tuple[Minimum, ...]
    N_law: PowerLaw | None
    curve: MinLossCurve
    holdout: tuple[Holdout, ...]
    recipe: str
    level: float
    outliers: tuple[OutlierRow | Skipped, ...] = ()


@dataclass(frozen=True, eq=False)
class Quantity:
    """One of log loss, log N, log D: the estimate and draws with sampling and form in them."""

    estimate: float
    sampling: float
    form: float
    draws: NDArray

    def spread(self, more_variance: float = 0.0, stretch: float = 1.0) -> NDArray:
        """(draws,) with more variance in them, stretched about the estimate; NaN stays NaN."""
        known = np.isfinite(self.draws)
        count = int(known.sum())
        # Quantiles of a normal, one per draw, turn the draws into draws of the wider sum without
        # another random number.
        order = (np.argsort(np.argsort(_scramble(count))) + 0.5) / max(count, 1)
        wide = np.full(len(self.draws), np.nan)
        wide[known] = self.draws[known] + np.sqrt(more_variance) * ndtri(order)
        return self.estimate + stretch * (wide - self.estimate)

    def interval(self, level: float, more_variance: float = 0.0, stretch: float = 1.0) -> Pair:
        draws = self.spread(more_variance, stretch)
        draws = draws[np.isfinite(draws)]
        if not np.isfinite(self.estimate) or len(draws) < 20:
            return UNKNOWN
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return (float(np.exp(min(low, self.estimate))), float(np.exp(max(high, self.estimate))))


def forecast(evidence: Evidence, C: float) -> tuple[Forecast, ...]:
    """Forecast the optimum at C by the headline law and by the average of forms."""
    entries = [_by_law(evidence, float(C))]
    if evidence.average is not None:
        entries.append(_by_average(evidence, float(C)))
    return tuple(entries)


def conflicts_of(forecasts: tuple[Forecast, ...]) -> tuple[Conflict, ...]:
    """Where the plain answer and the headline each miss the other's interval."""
    found = []
    for f in forecasts:
        if f.law == "average":
            continue
        for quantity, same in SAME.items():
            first, second = getattr(f, quantity), getattr(f.plain, quantity)
            intervals = (
                getattr(f, f"{quantity}_interval"),
                getattr(f.plain, f"{quantity}_interval"),
            )
            if abs(np.log(first / second)) > same and disagree((first, second), intervals):
                text = f"{quantity} at C = {f.C:.3g}: {f.law} says {first:.4g}, plain {second:.4g}"
                found.append(Conflict(f"{quantity}({f.C:.3g})", f.law, "plain", (first, second),
                                      intervals, text))  # fmt: skip
    return tuple(found)


def disagree(values: Pair, intervals: tuple[Pair, Pair]) -> bool:
    """Whether neither interval holds the other's estimate."""
    if not np.isfinite([*values, *intervals[0], *intervals[1]]).all():
        return False
    outside_first = not intervals[0][0] <= values[1] <= intervals[0][1]
    outside_second = not intervals[1][0] <= values[0] <= intervals[1][1]
    return outside_first and outside_second


def _by_law(e: Evidence, C: float) -> Forecast:
    return _entry(e, C, e.headline.fit.law.name, _law_quantities(e, C))


def _by_average(e: Evidence, C: float) -> Forecast:
    return _entry(e, C, "average", _average_quantities(e.average, C))


def loss_at_optimum(e: Evidence, law: str, C: float) -> tuple[Quantity, float, float]:
    """Log loss of the optimum at C, and what spreads its draws to the whole uncertainty.

    Args:
        e: of a fit. law: the headline's name, or average. C: FLOPs.

    Returns:
        The quantity, with the variance and the stretch for its `spread` and `interval`.
    """
    averaged = law == "average"
    q = (_average_quantities(e.average, C) if averaged else _law_quantities(e, C))[0]
    return q, _variance_beyond(q, law), discrepancy_factor(C / e.points.C.max())


def _variance_beyond(q: Quantity, law: str) -> float:
    """Variance between forms, unless the draws hold it already."""
    return 0.0 if law == "average" or not np.isfinite(q.form) else q.form


def _law_quantities(e: Evidence, C: float) -> tuple[Quantity, Quantity, Quantity]:
    quantities = quantities_at(e.headline, C)
    if e.average is None:
        return quantities
    return tuple(
        Quantity(q.estimate, q.sampling, _between(e.average, C, q.estimate, i), q.draws)
        for i, q in enumerate(quantities)
    )


def _average_quantities(average: Average, C: float) -> tuple[Quantity, Quantity, Quantity]:
    by_form = [quantities_at(f, C) for f in average.fits]
    combined = [_combine(average, [q[i] for q in by_form]) for i in range(3)]
    return tuple(Quantity(c.estimate, c.sampling, c.form, c.mixture) for c in combined)


def _combine(average: Average, quantities: list[Quantity]) -> Combined:
    rows = len(average.draw_weight)
    draws = np.stack([q.draws[:rows] for q in quantities], axis=1)
    return average.combine(np.array([q.estimate for q in quantities]), draws)


def _between(average: Average, C: float, estimate: float, index: int) -> float:
    """Weighted mean square distance of the forms' estimates from this law's."""
    values = np.array([_at_optimum(f, C)[index] for f in average.fits])
    known = np.isfinite(values)
    if not known.any() or not np.isfinite(estimate):
        return NAN
    return float(
        np.average((values[known] - estimate) ** 2, weights=average.weight[known] + 1e-300)
    )


def _at_optimum(f: Fitted, C: float) -> tuple[float, float, float]:
    N, D = f.optimum(C)
    if not np.isfinite(N):
        return NAN, NAN, NAN
    loss = f.loss(np.array(N), np.array(D), np.array(C))
    return float(np.log(loss)), float(np.log(N)), float(np.log(D))


def quantities_at(f: Fitted, C: float) -> tuple[Quantity, Quantity, Quantity]:
    """Log loss, log N and log D at the optimum, by one law."""
    estimates = _at_optimum(f, C)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        N, D = f.optimum_draws(C)
        extra = {name: D for name in f.fit.law.needs}  # at the optimum every token is distinct
        loss = f.fit.law.loss(f.draws, N, D, C=np.full_like(N, C), **extra)
        most = np.log(C / 6)  # one parameter and one token are the ends of what can be trained
        logs = (np.log(loss), np.clip(np.log(N), 0, most), np.clip(np.log(D), 0, most))
    out = []
    for estimate, draws in zip(estimates, logs, strict=True):
        wide = widened(draws, estimate, f.clusters, f.level)
        known = wide[np.isfinite(wide)]
        out.append(Quantity(estimate, float(np.var(known)) if len(known) else NAN, NAN, wide))
    return tuple(out)


def _entry(e: Evidence, C: float, law: str, quantities: tuple[Quantity, ...]) -> Forecast:
    loss, N, D = quantities
    extra = [_variance_beyond(q, law) for q in quantities]
    stretch = discrepancy_factor(C / e.points.C.max())
    known = np.nansum([loss.sampling, loss.form])
    N_interval = N.interval(e.level, extra[1])
    status, reason = claim(e, C, law, loss)
    if status == "ok":
        status, reason = bracketed(e.points, e.minima, np.exp(D.estimate - N.estimate))
    if status == "ok":
        status, reason = identified(N_interval)
    return Forecast(
        law=law, C=C, N=float(np.exp(N.estimate)), D=float(np.exp(D.estimate)),
        loss=float(np.exp(loss.estimate)),
        loss_interval=loss.interval(e.level, extra[0], stretch),
        N_interval=N_interval, D_interval=D.interval(e.level, extra[2]),
        N_range=_ranges(e, law, C),
        extrapolation=_extrapolation(e, C, np.exp(N.estimate), np.exp(D.estimate)),
        variance={"sampling": loss.sampling, "form": loss.form,
                  "discrepancy": float((stretch**2 - 1) * known)},
        plain=plain_answer(e, C), flop_rule=e.points.flop_rule,
        N_convention=e.points.N_convention, recipe=e.recipe, status=status, reason=reason,
    )  # fmt: skip


def claim(e: Evidence, C: float, law: str, loss: Quantity) -> tuple[str, str | None]:
    """Bound what is claimed by what was validated: a status, and why it is not ok."""
    if not np.isfinite(loss.estimate):
        status = e.headline.fit.status
        reason = e.headline.fit.reason or "the law has no interior optimum at this C"
        return ("no_optimum" if status == "ok" else status), reason
    z = _top_z(e, law)
    if not np.isfinite(z):
        return "unvalidated", "the top budget could not be predicted from the lower ones"
    if abs(z) > PASSED:
        missed = f"the held-out top budget was missed by {abs(z):.1f} sd"
        return "unvalidated", missed + _bad_rows(e)
    if C < SMALLEST * e.points.budgets[0]:
        least = e.points.budgets[0]
        return "unvalidated", f"below the smallest budget, {least:.3g}: hold-outs only look up"
    ratio, passed = C / e.points.C.max(), validated(e)
    if np.isfinite(passed) and ratio <= CLAIM * passed:
        return "ok", None
    seen = f"these data passed {passed:.3g}x" if np.isfinite(passed) else "these data passed none"
    if ratio <= 1:
        return "unvalidated", f"{seen} of the ratios at which they were held out"
    return "unvalidated", f"{ratio:.3g}x the top budget; {seen}"


def bracketed(
    points: Points, minima: Sequence[Minimum], tokens_per_param: float
) -> tuple[str, str | None]:
    """Whether runs stand on both sides of the optimum: in some profile, and in D/N."""
    drawn = [m for m in minima if m.status is not MinimumStatus.TOO_FEW]
    if drawn and not any(m.usable for m in drawn):
        return "unvalidated", f"no profile brackets its minimum: {drawn[-1].reason}"
    seen = points.D / points.N
    if not 0.99 * seen.min() <= tokens_per_param <= 1.01 * seen.max():
        return "unvalidated", (
            f"D/N = {tokens_per_param:.3g} lies outside the sweep's, "
            f"{seen.min():.3g} to {seen.max():.3g}"
        )
    return "ok", None


def identified(N_interval: Pair) -> tuple[str, str | None]:
    """Status of a forecast that passed everything else: flat where N could be anything."""
    if np.isfinite(N_interval).all() and N_interval[1] > IDENTIFIED * N_interval[0]:
        factor = N_interval[1] / N_interval[0]
        return "flat", f"N_opt is not identified: its interval spans a factor of {factor:.2g}"
    return "ok", None


def _bad_rows(e: Evidence) -> str:
    """Say which rows of the top budget are outliers: then it may be they that were missed."""
    top = e.points.budgets[-1]
    rows = [str(o.row) for o in e.outliers if isinstance(o, OutlierRow) and o.budget == top]
    what = f"row{'s' * (len(rows) != 1)} {', '.join(rows[:6])}{', ...' * (len(rows) > 6)}"
    return f", where {what} lie{'s' * (len(rows) == 1)} far off the law" if rows else ""


def _top_z(e: Evidence, law: str) -> float:
    """Z of the held-out top budget by this law or the average."""
    if not e.holdout:
        return NAN
    top = e.holdout[-1]
    return next((check.z for check in top.others if check.law == law), top.z)


def validated(e: Evidence) -> float:
    """Largest ratio of a held-out budget to the dearest one fitted that was predicted within 2 sd.

    Only ratios that were passed each time they were tried count: one lucky hit is no evidence.
    """
    tried = [(h.ratio, h.z) for h in e.holdout]
    tried += [(check.ratio, check.z) for h in e.holdout for check in h.earlier]
    tried = [(ratio, z) for ratio, z in tried if np.isfinite(z)]
    missed = min((ratio for ratio, z in tried if abs(z) > PASSED), default=np.inf)
    return max((ratio for ratio, z in tried if abs(z) <= PASSED and ratio < missed), default=NAN)


def _extrapolation(e: Evidence, C: float, N: float, D: float) -> dict[str, float]:
    p = e.points
    ratio, seen = D / N, p.D / p.N
    inside = np.clip(ratio, seen.min(), seen.max()) if np.isfinite(ratio) else NAN
    return {
        "C": float(C / p.C.max()), "N": float(N / p.N.max()), "D": float(D / p.D.max()),
        "tokens_per_param": float(ratio / inside), "validated_C": float(validated(e)),
    }  # fmt: skip


def _ranges(e: Evidence, law: str, C: float) -> dict[str, Pair]:
    """N whose loss at C is within .1% and .5% of the least, by the best form where averaged."""
    f = e.headline
    if law == "average":
        f = e.average.fits[int(np.argmax(e.average.weight))]
    best = f.optimum(C)[0]
    return {name: _range(f, C, best, excess) for name, excess in RANGES.items()}


def _range(f: Fitted, C: float, best: float, excess: float) -> Pair:
    if not np.isfinite(best):
        return UNKNOWN

    def loss(x: float) -> float:
        N = best * np.exp(x)
        return float(f.loss(np.array(N), f.axis.tokens(N, C), np.array(C)))

    goal = (1 + excess) * loss(0.0)
    ends = []
    for reach in (-12.0, 12.0):
        crosses = loss(reach) > goal
        ends.append(best * np.exp(brentq(lambda x: loss(x) - goal, *sorted((0.0, reach))))
                    if crosses else NAN)  # fmt: skip
    return float(ends[0]), float(ends[1])


def plain_answer(e: Evidence, C: float) -> Plain:
    """Chinchilla + Huber + bootstrap; L_min(C) with the minima's power law; the last D/N kept."""
    minima, naive = _by_minima(e, C), _naive(e, C)
    if e.plain is None or not e.plain.usable:
        reason = "too few points" if e.plain is None else e.plain.fit.reason
        return Plain(minima=minima, naive=naive, status="failed", reason=reason)
    loss, N, D = quantities_at(e.plain, C)
    return Plain(
        loss=float(np.exp(loss.estimate)), N=float(np.exp(N.estimate)),
        D=float(np.exp(D.estimate)), loss_interval=loss.interval(e.level),
        N_interval=N.interval(e.level), D_interval=D.interval(e.level), minima=minima,
        naive=naive, status=e.plain.fit.status, reason=e.plain.fit.reason,
    )  # fmt: skip


def _by_minima(e: Evidence, C: float) -> dict:
    if not e.curve.usable or e.N_law is None:
        return {"status": "too_few", "reason": e.curve.reason or "too few minima"}
    prediction = e.curve.predict(C)
    N = float(e.N_law(C))
    return {"loss": prediction.loss, "loss_interval": prediction.interval(e.level), "N": N,
            "D": float(e.axis.tokens(N, C)), "status": str(e.curve.status),
            "reason": e.curve.reason}  # fmt: skip


def _naive(e: Evidence, C: float) -> dict:
    """Keep D/N of the dearest budget that has a minimum."""
    last = [m for m in e.minima if m.usable][-1:]
    if not last:
        return {"status": "too_few", "reason": "no budget has a minimum"}
    ratio = last[0].D / last[0].N
    low, high = 0.0, 100.0
    x = brentq(lambda x: float(np.log(e.axis.tokens(np.exp(x), C))) - x - np.log(ratio), low, high)
    N = float(np.exp(x))
    return {"N": N, "D": float(e.axis.tokens(N, C)), "tokens_per_param": ratio, "status": "ok"}


def _scramble(n: int) -> NDArray:
    """Give numbers in a fixed order that has nothing to do with the draws' own."""
    return np.random.default_rng(12345).random(n)
