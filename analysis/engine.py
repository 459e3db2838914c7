"""Fit a law to rows of (N, D, loss): centred coordinates, many starts, exact second derivatives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from analysis.engine_result import LawFit, unfitted
from analysis.engine_rows import checked_rows, distinct_points, law_named
from analysis.engine_search import search
from analysis.engine_summary import aicc, summary
from analysis.estimators import Huber, check_estimator, final_estimator
from analysis.laws_types import Law
from analysis.newton import minimise
from analysis.problem import Problem, build_problem

__all__ = ["LawFit", "aicc", "fit_law", "rebuild", "refit"]

Array = np.ndarray

# On rows that follow no law a step of the search may leave the range of floats. Such a trial is
# refused because its objective is not finite; that it overflowed is no news to anybody.
quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")

# Draws of narrower thresholds (l1) stop here: their spread differs by less than a hundredth of it.
REFIT_DELTA = 1e-4
# Rows times draws in work at once: of 128 KiB arrays the dozen in use stay in the second-level
# cache, and are large enough that calls cost more than their overhead.
CACHED = 16_384
REFIT_STEPS = 120  # a draw that needs more creeps along a valley and hardly moves what it predicts
REFIT_TOLERANCE = 1e-10  # of the objective: a millionth of a draw's own standard error


@quiet
def fit_law(
    law: Law | str,
    N: ArrayLike,
    D: ArrayLike,
    loss: ArrayLike,
    *,
    estimator: str = "t4",
    delta: float = 1e-3,
    C: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    fixed: Mapping[str, float] | None = None,
    extra: Mapping[str, ArrayLike] | None = None,
) -> LawFit:
    """Fit one law.

    Args:
        law: a law or its name in `LAWS`.
        N: (n,) parameters. D: (n,) tokens. loss: (n,) nats per token.
        estimator: t4, huber, ls or l1, on log loss.
        delta: Huber's threshold on log-loss residuals.
        C: (n,) FLOPs, 6 N D where absent; used by t4's noise and by laws in C.
        weights: (n,) of rows, 1 where absent.
        fixed: public parameters held at a value.
        extra: the columns that the law needs beyond N, D, C.

    Raises:
        ValueError: unknown law or estimator, a value that is not finite and positive, unequal
            lengths, or a missing column.
    """
    law = law_named(law)
    check_estimator(estimator)
    data, log_loss = checked_rows(law, N, D, loss, C, extra or {})
    row_weights = np.ones(len(log_loss)) if weights is None else np.asarray(weights, dtype=float)
    held = dict(fixed or {})
    for name in held:
        law.index(name)
    wanted, distinct = len(law.parameters) - len(held), distinct_points(law, data)
    if distinct < wanted:
        reason = f"{distinct} distinct points cannot fix {wanted} parameters of {law.name}"
        return unfitted(law, estimator, delta, len(log_loss), held, "too_few", reason)
    problem = build_problem(law, data, log_loss, held=held, weights=row_weights)
    minimum, counts, starts = search(problem, estimator, delta, row_weights)
    return summary(problem, minimum, counts, starts, estimator, delta, row_weights, held)


def rebuild(
    fit: LawFit,
    N: ArrayLike,
    D: ArrayLike,
    loss: ArrayLike,
    *,
    C: ArrayLike | None = None,
    extra: Mapping[str, ArrayLike] | None = None,
) -> Problem:
    """Build again the problem that a fit solved, from the rows that it was given.

    Raises:
        ValueError: the fit has no parameters, or the rows are not valid.
    """
    if not np.all(np.isfinite(fit.theta)):
        raise ValueError(f"{fit.law.name} was not fitted: {fit.reason}")
    data, log_loss = checked_rows(fit.law, N, D, loss, C, extra or {})
    return build_problem(fit.law, data, log_loss, held=fit.held, weights=np.ones(len(log_loss)))


@quiet
def refit(fit: LawFit, problem: Problem, weights: Array) -> tuple[Array, Array]:
    """Fit again from the fit's own minimum under (m, n) row weights.

    Returns:
        theta (m, p), and whether each converged (m,). One that did not ran out of steps along a
        flat valley, or is NaN.
    """
    start = np.broadcast_to(fit.searched, (len(weights), len(fit.searched)))
    final = final_estimator(fit.estimator, fit.delta)
    options = {
        "tolerance": REFIT_TOLERANCE,
        "iterations": REFIT_STEPS,
        "width": max(8, CACHED // len(problem.log_loss)),
        "correct": problem.multipliers(extra=len(fit.searched) - problem.size),
    }
    if isinstance(final, Huber) and final.delta < REFIT_DELTA:
        start = minimise(problem, Huber(10 * REFIT_DELTA), start, weights, **options).z
        final = Huber(REFIT_DELTA)
    minimum = minimise(problem, final, start, weights, **options)
    return problem.coordinates.public(fit.law, minimum.z[:, : problem.size]), minimum.converged
