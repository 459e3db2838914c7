"""Fit everything to one sweep: approaches 1, 2 and 3 side by side, hold-out, forecast.

    from analysis.fit import fit
    fits = fit(frame, law="chinchilla", estimator="huber")   # a DataFrame with N, D (or C), loss
    fits.approach3.alpha, fits.forecast[0].loss_interval

A part that can't be made says so in its status; only points that can't be used at all raise.
"""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy

from analysis.approach2 import approach2
from analysis.averaging import FORMS, Average, average
from analysis.envelope import approach1
from analysis.fit_options import SIDE_DRAWS, FitOptions
from analysis.fits_file import Approach2, Conflict, Fits, Holdout, PointsSummary, Skipped
from analysis.fitted import Fitted, Resampling, fit_points
from analysis.flop_axis import flop_axis
from analysis.forecast import Evidence, conflicts_of, disagree, forecast
from analysis.holdout import roll
from analysis.laws import LAWS
from analysis.leave_out import leave_out
from analysis.parametric import approach3, law_row
from analysis.points import (
    Points,
    PointsError,
    check_comparable,
    points_from_frame,
    with_warnings,
)
from analysis.points_rows import rows_of
from analysis.profiles import power_law
from analysis.refits import refits

__all__ = ["FitOptions", "fit", "gather_evidence"]

Progress = Callable[[str, float], None]
SAME_EXPONENT = 0.005  # what no decision turns on: 1.2% of N_opt a decade of C on


def fit(
    points: Points | pd.DataFrame,
    options: FitOptions | None = None,
    *,
    curves: pd.DataFrame | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Fits:
    """Fit a sweep.

    Args:
        points: from analysis.points, or a DataFrame of the points-table columns.
        options: choices; `overrides` replace single ones, as in fit(points, law="coupled").
        curves: training curves (run, N, D, loss; optionally C, lr), for approach 1.
        progress: called with a stage's name and the share of the work that is done.

    Raises:
        PointsError: the points or an option can't be used.
    """
    options = replace(options or FitOptions(), **overrides)
    if isinstance(points, pd.DataFrame):
        points = points_from_frame(points)
    points = replace(points, loss_unit=options.loss_unit)
    say = progress or (lambda stage, share: None)
    if options.by is not None:
        return _fit_groups(points, options, curves, say)
    check_comparable(points)
    return _fit_one(points, options, curves, say)


def _fit_one(
    points: Points, options: FitOptions, curves: pd.DataFrame | None, say: Progress
) -> Fits:
    side = _side(options)
    made = _gather(points, options, say)
    headline, held_out = made.evidence.headline, made.holdout
    targets = options.targets or (10 * float(points.budgets[-1]),)
    forecasts = tuple(f for C in targets for f in forecast(made.evidence, C))
    part1 = approach1(curves, options.level)
    part3 = approach3(headline, points, options)
    say("refits", 0.95)
    return Fits(
        level=options.level, points=_summary(points, rows_of(points)), provenance=_provenance(options, side),
        approach1=part1, approach2=made.approach2, approach3=part3,
        laws=_law_rows(made.others, made.evidence.average), refits=refits(points, options, side),
        conflicts=(*_exponent_conflicts(part1, made.approach2, part3), *conflicts_of(forecasts)),
        leverage=leave_out(points, headline, targets[0]), holdout=held_out, forecast=forecasts,
    )  # fmt: skip


def gather_evidence(points: Points, options: FitOptions) -> Evidence:
    """Fit again what forecasts are made from: the evidence behind a fits.json of these points.

    Raises:
        PointsError: the points or an option can't be used.
    """
    return _gather(points, options, lambda stage, share: None).evidence


@dataclass(frozen=True, eq=False)
class _Gathered:
    """The evidence, and parts of the answer that were made on the way to it."""

    evidence: Evidence
    approach2: Approach2
    others: dict[str, Fitted]
    holdout: tuple[Holdout | Skipped, ...]


def _side(options: FitOptions) -> Resampling:
    draws = min(options.draws, SIDE_DRAWS)
    return Resampling(options.resample, draws, options.level, options.seed)


def _gather(points: Points, options: FitOptions, say: Progress) -> _Gathered:
    side = _side(options)
    full = replace(side, draws=options.draws)
    say("law", 0.0)
    headline = _headline(points, options, full)
    say("profiles", 0.3)
    part2, minima, curve = approach2(points, headline, options.level)
    say("forms", 0.35)
    others = _other_laws(points, options, headline, side)
    averaged = average(points, others, side)
    say("hold-out", 0.6)
    held_out = _hold_out(points, options, side)
    say("forecast", 0.85)
    plain = _plain(points, headline, full, side)
    usable = [m for m in minima if m.usable]
    N_law = None
    if len({m.budget for m in usable}) >= 2:
        N_law = power_law(np.array([m.budget for m in usable]), np.array([m.N for m in usable]))
    evidence = Evidence(
        points, headline.axis, headline, averaged, plain, minima, N_law, curve,
        tuple(h for h in held_out if isinstance(h, Holdout)), options.recipe, options.level,
    )  # fmt: skip
    return _Gathered(evidence, part2, others, held_out)


def _headline(points: Points, options: FitOptions, resampling: Resampling) -> Fitted:
    try:
        return fit_points(points, options.law, options.estimator, options.delta, resampling,
                          fixed=dict(options.fix))  # fmt: skip
    except ValueError as e:
        raise PointsError(f"fit.law={options.law}: {e}") from None


def _other_laws(
    points: Points, options: FitOptions, headline: Fitted, side: Resampling
) -> dict[str, Fitted]:
    """Every law on the same rows; only those that may be averaged are resampled."""
    bare = replace(side, draws=0)
    found = {}
    for name in LAWS:
        if name == options.law and len(headline.draws) == side.draws:
            found[name] = headline
            continue
        if any(
            need == "unique_tokens" and points.unique_tokens is None for need in LAWS[name].needs
        ):
            continue
        resampling = side if name in FORMS else bare
        fixed = dict(options.fix) if name == options.law else None
        found[name] = fit_points(points, name, options.estimator, options.delta, resampling,
                                 fixed=fixed, axis=headline.axis)  # fmt: skip
    return found


def _law_rows(others: dict[str, Fitted], averaged: Average | None) -> tuple:
    weights = dict(zip(averaged.names, averaged.weight, strict=True)) if averaged else {}
    rows = [law_row(f, float(weights.get(name, np.nan))) for name, f in others.items()]
    return tuple(rows)


def _hold_out(points: Points, options: FitOptions, side: Resampling) -> tuple:
    if len(points.budgets) < 2:
        return (Skipped("one budget: nothing to predict it from"),)
    laws = list(dict.fromkeys([options.law, "chinchilla", "coupled"]))
    return roll(points, laws, options.estimator, options.delta, side)


def _plain(points: Points, headline: Fitted, full: Resampling, side: Resampling) -> Fitted | None:
    if headline.fit.law.name == "chinchilla" and headline.fit.estimator == "huber":
        if headline.fit.delta == 1e-3 and not headline.fit.held:
            return headline
    return fit_points(points, "chinchilla", "huber", 1e-3, side, axis=flop_axis(points))


def _exponent_conflicts(*parts: Any) -> tuple[Conflict, ...]:
    """Pairs of approaches whose exponents a miss each other's interval."""
    answers = []
    for number, part in enumerate(parts, start=1):
        if hasattr(part, "N_opt"):
            answers.append((f"approach{number}", part.N_opt.exponent, part.N_opt.ci))
        elif hasattr(part, "a"):
            answers.append((f"approach{number}", part.a, part.ci["a"]))
    found = []
    for i, (first, x, x_ci) in enumerate(answers):
        for second, y, y_ci in answers[i + 1 :]:
            if abs(x - y) > SAME_EXPONENT and disagree((x, y), (x_ci, y_ci)):
                text = f"N_opt ~ C^a: {first} says a = {x:.3f}, {second} {y:.3f}"
                found.append(Conflict("a", first, second, (x, y), (x_ci, y_ci), text))
    return tuple(found)


def _summary(points: Points, rows: dict[str, list] | None = None) -> PointsSummary:
    return PointsSummary(
        n=len(points), path=points.path, sha256=points.sha256, flop_rule=points.flop_rule,
        N_convention=points.N_convention, loss_unit=points.loss_unit,
        grouping=str(points.grouping), budgets=tuple(map(float, points.budgets)),
        sizes=len(np.unique(points.size_id)), excluded=points.excluded, warnings=points.warnings, rows=rows,
    )  # fmt: skip


def _provenance(options: FitOptions, side: Resampling) -> dict[str, Any]:
    return {
        "options": asdict(options),
        "draws": {"approach3": options.draws, "laws, holdout, refits, plain": side.draws},
        "python": platform.python_version(), "numpy": np.__version__,
        "scipy": scipy.__version__, "pandas": pd.__version__,
    }  # fmt: skip


def _fit_groups(
    points: Points, options: FitOptions, curves: pd.DataFrame | None, say: Progress
) -> Fits:
    """One fit per value of fit.by; the parts of the whole are skipped, since nothing is pooled.

    Raises:
        PointsError: no such column, or a group that can't be used.
    """
    column = options.by
    if points.other is None or column not in points.other:
        known = ", ".join(map(str, points.other.columns[:12])) if points.other is not None else ""
        raise PointsError(f"fit.by={column}: the table has no such column; it has {known}")
    values = points.other[column].to_numpy()
    groups = {}
    names = list(dict.fromkeys(values[pd.notna(values)].tolist()))
    for i, value in enumerate(names):
        part = with_warnings(points.take(values == value))
        check_comparable(part)
        groups[str(value)] = _fit_one(
            part, replace(options, by=None), curves,
            lambda stage, share, i=i, value=value: say(f"{value}: {stage}",
                                                       (i + share) / len(names)),
        )  # fmt: skip
    skipped = Skipped(f"one fit per value of {column}, under groups")
    return Fits(
        level=options.level, points=_summary(replace(points, warnings=())),
        provenance=_provenance(options, Resampling(options.resample, SIDE_DRAWS, options.level)),
        approach1=skipped, approach2=skipped, approach3=skipped, laws=(skipped,),
        refits=(skipped,), conflicts=(skipped,), leverage=(skipped,), holdout=(skipped,),
        forecast=(skipped,), groups=groups,
    )  # fmt: skip
