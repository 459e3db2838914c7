"""Fit a law to rows of (N, D, loss): centred coordinates, many starts, exact second derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from analysis.continuation import follow, thresholds
from analysis.diagnosis import (
    SHAPES,
    condition_number,
    profile_points,
    relative_gradient,
    searched_covariance,
    unidentified,
)
from analysis.estimators import (
    DOF,
    Estimator,
    Huber,
    StudentT,
    check_estimator,
    final_estimator,
    log_likelihood,
)
from analysis.laws import LAWS, Law, columns
from analysis.newton import Minimum, active_bounds, bounds, joined, minimise
from analysis.objective import LOG_SIGMA_RANGE, Problem, build_problem, evaluate
from analysis.starts import merged, starting_points

Array = np.ndarray

SAME_MINIMUM = 1e-6  # relative difference of objectives of starts that ended at one minimum
# Draws of narrower thresholds (l1) stop here: their spread differs by less than a hundredth of it.
REFIT_DELTA = 1e-4
HOPS = 4
FINALISTS = 6  # starts still apart after the wide thresholds; those above count as not arrived
# Rows times draws in work at once: of 128 KiB arrays the dozen in use stay in the second-level
# cache, and are large enough that calls cost more than their overhead.
CACHED = 16_384
REFIT_TOLERANCE = 1e-10  # of the objective: a millionth of a draw's own standard error
GRADIENT_TOLERANCE = 1e-6  # of the size that the gradient's own terms have before they cancel


@dataclass(frozen=True)
class LawFit:
    """A law fitted to n rows.

    Attributes:
        law: the law. theta: (p,) public parameters, NaN where `status` is too_few or failed.
        internal: (p,) centred internal parameters.
        estimator, delta: what was minimised.
        objective: its minimised sum over rows.
        gradient_norm: Euclidean, internal coordinates, of coordinates not at a bound.
        status: ok | flat | at_bound | not_converged | no_optimum | too_few | failed.
        reason: why, where the status is not ok.
        n: rows. starts_n: starts. starts_at_optimum: share of them that ended at the minimum.
        condition: of the Hessian, scaled to unit diagonal.
        covariance: (p, p) of theta by the sandwich and the delta method, or None.
        noise: t4: scale, slope, log_C, dof (sigma = scale * exp(slope (log C - log_C)));
            others: rms of log-loss residuals.
        log_likelihood, aicc: on log loss; comparable between laws under one estimator.
        held: public parameters that were given, not fitted.
    """

    law: Law
    theta: Array
    internal: Array
    estimator: str
    delta: float
    objective: float
    gradient_norm: float
    status: str
    reason: str | None
    n: int
    starts_n: int
    starts_at_optimum: float
    condition: float
    covariance: Array | None
    noise: dict[str, float]
    log_likelihood: float
    aicc: float
    held: Mapping[str, float] = field(default_factory=dict)
    searched: Array = field(default_factory=lambda: np.empty(0), repr=False)


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
    law = _law(law)
    check_estimator(estimator)
    data, log_loss = _checked(law, N, D, loss, C, extra or {})
    row_weights = np.ones(len(log_loss)) if weights is None else np.asarray(weights, dtype=float)
    held = dict(fixed or {})
    for name in held:
        law.index(name)
    wanted, distinct = len(law.parameters) - len(held), _distinct(law, data)
    if distinct < wanted:
        reason = f"{distinct} distinct points cannot fix {wanted} parameters of {law.name}"
        return _unfitted(law, estimator, delta, len(log_loss), held, "too_few", reason)
    problem = build_problem(law, data, log_loss, held=held, weights=row_weights)
    minimum, counts, starts = search(problem, estimator, delta, row_weights)
    return _summary(problem, minimum, counts, starts, estimator, delta, row_weights, held)


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
    data, log_loss = _checked(fit.law, N, D, loss, C, extra or {})
    return build_problem(fit.law, data, log_loss, held=fit.held, weights=np.ones(len(log_loss)))


def refit(fit: LawFit, problem: Problem, weights: Array) -> tuple[Array, Array]:
    """Fit again from the fit's own minimum under (m, n) row weights.

    Returns:
        theta (m, p) and whether each converged (m,).
    """
    start = np.broadcast_to(fit.searched, (len(weights), len(fit.searched)))
    final = final_estimator(fit.estimator, fit.delta)
    options = {"tolerance": REFIT_TOLERANCE, "width": max(8, CACHED // len(problem.log_loss))}
    if isinstance(final, Huber) and final.delta < REFIT_DELTA:
        start = minimise(problem, Huber(10 * REFIT_DELTA), start, weights, **options).z
        final = Huber(REFIT_DELTA)
    minimum = minimise(problem, final, start, weights, **options)
    return problem.coordinates.public(fit.law, minimum.z[:, : problem.size]), minimum.converged


def search(problem: Problem, name: str, delta: float, weights: Array) -> tuple[Minimum, Array, int]:
    """Minimise from every start.

    Starts that have come to one point go on as one.

    Returns:
        The batch of minima, how many starts stand behind each (none behind rows that a hop
        appended), and the number of starts.
    """
    z, counts = starting_points(problem, weights)
    total = int(counts.sum())
    row = weights[None, :]
    final = final_estimator(name, delta)
    deltas = thresholds(name, delta)
    if deltas:
        z, counts = merged(follow(problem, deltas[:1], deltas[0], z, row, 12), counts)
        z = follow(problem, deltas[1:], _target(final), z, row, 30)
        z, counts = merged(z, counts)
    if final.has_noise:
        z = with_noise(problem, z)
    if len(z) > FINALISTS:
        lowest = np.argsort(evaluate(problem, final, z, row).value, kind="stable")[:FINALISTS]
        z, counts = z[lowest], counts[lowest]
    linear = problem.multipliers(extra=z.shape[1] - problem.size)
    minimum = minimise(problem, final, z, row, correct=linear)
    return _hop(problem, final, minimum, weights), counts, total


def _hop(problem: Problem, estimator: Estimator, minimum: Minimum, weights: Array) -> Minimum:
    """Leave the best minimum along its shape parameters; append what lies lower.

    Repeated data and couplings bend the loss so that a search ends in one of several hollows of a
    flat valley. Held a factor of three away and then released, it finds the next.
    """
    columns = [i for i, name in enumerate(problem.free_names()) if name in SHAPES]
    for _ in range(HOPS if columns and np.isfinite(minimum.value).any() else 0):
        lowest = np.nanmin(minimum.value)
        z = minimum.z[np.nanargmin(minimum.value)]
        away = profile_points(problem, estimator, z, weights, columns)
        linear = problem.multipliers(extra=len(z) - problem.size)
        landed = minimise(
            problem, estimator, away.z, weights[None, :], correct=linear, iterations=80
        )
        minimum = joined(minimum, landed)
        if not np.nanmin(minimum.value) < lowest - SAME_MINIMUM * abs(lowest):
            break
    return minimum


def _target(estimator: Estimator) -> float:
    return estimator.delta if isinstance(estimator, Huber) else np.inf


def with_noise(problem: Problem, z: Array) -> Array:
    """Append log sigma from the median absolute residual, and slope 0, to (m, q) z."""
    spread = np.median(np.abs(problem.residuals(z)), axis=1) * 1.4
    log_sigma = np.log(np.maximum(spread, np.exp(LOG_SIGMA_RANGE[0])))
    return np.column_stack([z, log_sigma, np.zeros(len(z))])


def _law(law: Law | str) -> Law:
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        raise ValueError(f"law {law!r} is not one of {list(LAWS)}")
    return LAWS[law]


def _checked(
    law: Law,
    N: ArrayLike,
    D: ArrayLike,
    loss: ArrayLike,
    C: ArrayLike | None,
    extra: Mapping[str, ArrayLike],
) -> tuple[dict[str, Array], Array]:
    given = {"N": N, "D": D, "loss": loss} | ({} if C is None else {"C": C})
    missing = [name for name in law.needs if name not in extra]
    if missing:
        raise ValueError(f"law {law.name} needs the column {missing[0]}")
    given |= {name: extra[name] for name in law.needs}
    arrays = {name: np.asarray(value, dtype=float) for name, value in given.items()}
    n = arrays["N"].size
    for name, array in arrays.items():
        if array.shape != (n,):
            raise ValueError(f"{name} has shape {array.shape} where N has ({n},)")
        bad = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
        if len(bad):
            raise ValueError(f"{name} must be finite and positive; row {bad[0]} is {array[bad[0]]}")
    log_loss = np.log(arrays.pop("loss"))
    return columns(**arrays), log_loss


def _distinct(law: Law, data: Mapping[str, Array]) -> int:
    axes = ("log_C",) if law.variables == "C" else ("log_N", "log_D")
    axes += tuple(f"log_{name}" for name in law.needs)
    return len(np.unique(np.stack([data[name] for name in axes], axis=1), axis=0))


def _unfitted(
    law: Law,
    estimator: str,
    delta: float,
    n: int,
    held: Mapping[str, float],
    status: str,
    reason: str,
) -> LawFit:
    nan, nothing = float("nan"), np.full(len(law.parameters), np.nan)
    return LawFit(
        law=law,
        theta=nothing,
        internal=nothing,
        estimator=estimator,
        delta=delta,
        objective=nan,
        gradient_norm=nan,
        status=status,
        reason=reason,
        n=n,
        starts_n=0,
        starts_at_optimum=nan,
        condition=nan,
        covariance=None,
        noise={},
        log_likelihood=nan,
        aicc=nan,
        held=held,
    )


def _summary(
    problem: Problem,
    minimum: Minimum,
    counts: Array,
    starts: int,
    name: str,
    delta: float,
    weights: Array,
    held: Mapping[str, float],
) -> LawFit:
    law, coordinates, q = problem.law, problem.coordinates, problem.size
    estimator = final_estimator(name, delta)
    value = np.where(np.isfinite(minimum.value), minimum.value, np.inf)
    best = int(np.argmin(value))
    n = len(problem.log_loss)
    if not np.isfinite(value[best]):
        return _unfitted(law, name, delta, n, held, "failed", "no start led to a finite objective")
    z, gradient = minimum.z[best], minimum.gradient[best]
    active = active_bounds(z, gradient, *bounds(problem, estimator))
    same = value <= value[best] + SAME_MINIMUM * (abs(value[best]) + n * 1e-12)
    covariance = searched_covariance(problem, estimator, z, weights, ~active[:q])
    jacobian = coordinates.jacobian(law, z[:q])
    objective = _objective(problem, name, z, weights, float(value[best]))
    likelihood = log_likelihood(name, objective, float(weights.sum()), delta)
    free = ~active
    gradient_share = relative_gradient(problem, estimator, minimum, best, weights, free)
    condition = condition_number(minimum.hessian[best][np.ix_(free, free)])
    status, reason = _status(problem, estimator, name, delta, z, weights, covariance, active[:q])
    if gradient_share > GRADIENT_TOLERANCE:
        status = "not_converged"
        reason = f"the gradient is {gradient_share:.0e} of its terms where the search ended"
    return LawFit(
        law=law,
        theta=coordinates.public(law, z[:q]),
        internal=coordinates.internal(z[:q]),
        estimator=name,
        delta=delta,
        objective=objective,
        gradient_norm=float(np.linalg.norm(gradient[free])),
        status=status,
        reason=reason,
        n=n,
        starts_n=starts,
        starts_at_optimum=float(counts[same[: len(counts)]].sum() / starts),
        condition=condition,
        covariance=None if covariance is None else jacobian @ covariance @ jacobian.T,
        noise=_noise(problem, estimator, z, weights),
        log_likelihood=likelihood,
        aicc=aicc(likelihood, q + (2 if estimator.has_noise else 1), n),
        held=held,
        searched=z,
    )


def _status(
    problem: Problem,
    estimator: Estimator,
    name: str,
    delta: float,
    z: Array,
    weights: Array,
    covariance: Array | None,
    active: Array,
) -> tuple[str, str | None]:
    """Status of a converged minimum, and why it is not ok."""
    law, names = problem.law, problem.free_names()
    if active.any():
        at = ", ".join(p for p, held in zip(names, active, strict=True) if held)
        return "at_bound", f"{at} ran to the edge of the search: the rows do not need it"
    loose = unidentified(problem, estimator, name, delta, z, weights, covariance)
    if loose:
        return "flat", f"{', '.join(loose)} not identified: a factor of 3 fits as well"
    if not law.has_optimum:
        return "no_optimum", f"{law.name} has no interior minimum in N at fixed C"
    theta = problem.coordinates.public(law, z[: problem.size])
    if not np.isfinite(law.optimum(theta, np.exp(problem.data["log_C"].max()))[0]):
        return "no_optimum", "an exponent is not positive: the loss has no minimum in N at fixed C"
    return "ok", None


def aicc(log_likelihood: float, parameters: int, n: float) -> float:
    """Corrected Akaike criterion; infinite when n leaves no degree of freedom for the correction."""
    if n - parameters - 1 <= 0:
        return float("inf")
    return -2 * log_likelihood + 2 * parameters * n / (n - parameters - 1)


def _objective(problem: Problem, name: str, z: Array, weights: Array, minimised: float) -> float:
    if name != "l1":
        return minimised
    return float(weights @ np.abs(problem.residuals(z[None, : problem.size])[0]))


def _noise(problem: Problem, estimator: Estimator, z: Array, weights: Array) -> dict[str, float]:
    if isinstance(estimator, StudentT):
        q = problem.size
        log_C = float(np.mean(problem.data["log_C"]))
        return {"scale": float(np.exp(z[q])), "slope": float(z[q + 1]), "log_C": log_C, "dof": DOF}
    residual = problem.residuals(z[None, : problem.size])[0]
    return {"rms": float(np.sqrt(np.average(residual**2, weights=weights)))}
