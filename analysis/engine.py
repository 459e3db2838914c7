"""Fit a law to rows of (N, D, loss): centred coordinates, many starts, exact second derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

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
from analysis.newton import Minimum, active_bounds, bounds, minimise
from analysis.objective import LOG_SIGMA_RANGE, Problem, build_problem
from analysis.starts import merged, starting_points

Array = np.ndarray

SAME_MINIMUM = 1e-6  # relative difference of objectives of starts that ended at one minimum
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
    if _distinct(law, data, log_loss) < len(law.parameters) - len(held):
        return _unfitted(law, estimator, delta, len(log_loss), held, "too_few")
    problem = build_problem(law, data, log_loss, held=held, weights=row_weights)
    minimum, counts = search(problem, estimator, delta, row_weights)
    return _summary(problem, minimum, counts, estimator, delta, row_weights, held)


def rebuild(
    fit: LawFit,
    N: ArrayLike,
    D: ArrayLike,
    loss: ArrayLike,
    *,
    C: ArrayLike | None = None,
    extra: Mapping[str, ArrayLike] | None = None,
) -> Problem:
    """The problem that a fit solved, from the rows that it was given.

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
    minimum = minimise(problem, final_estimator(fit.estimator, fit.delta), start, weights)
    return problem.coordinates.public(fit.law, minimum.z[:, : problem.size]), minimum.converged


def search(problem: Problem, name: str, delta: float, weights: Array) -> tuple[Minimum, Array]:
    """Minimise from every start.

    Starts that have come to one point go on as one.

    Returns:
        The batch of minima, and how many starts stand behind each.
    """
    z, counts = starting_points(problem, weights)
    row = weights[None, :]
    final = final_estimator(name, delta)
    for stage in stages(name, delta):
        z = minimise(problem, stage, z, row, tolerance=1e-3, iterations=12).z
        z, counts = merged(z, counts)
    if final.has_noise:
        z = with_noise(problem, z)
    return minimise(problem, final, z, row), counts


def stages(name: str, delta: float) -> list[Estimator]:
    """Huber losses of falling threshold that lead to the final one.

    A wide threshold is nearly least squares, which converges from anywhere; each narrower one
    starts where the last ended.
    """
    end = {"ls": np.inf, "t4": 1e-2, "l1": 1e-8}.get(name, delta)
    wide = 3e-2
    if end >= wide:
        return []
    steps = int(np.ceil(np.log(wide / end) / np.log(3.0)))
    return [
        Huber(float(d)) for d in np.geomspace(wide, end, steps + 1)[: None if name == "t4" else -1]
    ]


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


def _distinct(law: Law, data: Mapping[str, Array], log_loss: Array) -> int:
    axes = ("log_C",) if law.variables == "C" else ("log_N", "log_D")
    if not len(log_loss):
        return 0
    return len(np.unique(np.stack([data[name] for name in axes], axis=1), axis=0))


def _unfitted(
    law: Law, estimator: str, delta: float, n: int, held: Mapping[str, float], status: str
) -> LawFit:
    p = len(law.parameters)
    nothing = np.full(p, np.nan)
    reason = f"{law.name} has {p - len(held)} parameters; {n} rows cannot fix them"
    nan = float("nan")
    return LawFit(
        law,
        nothing,
        nothing,
        estimator,
        delta,
        nan,
        nan,
        status,
        reason,
        n,
        0,
        nan,
        nan,
        None,
        {},
        nan,
        nan,
        held,
    )


def _summary(
    problem: Problem,
    minimum: Minimum,
    counts: Array,
    name: str,
    delta: float,
    weights: Array,
    held: Mapping[str, float],
) -> LawFit:
    law, coordinates, q = problem.law, problem.coordinates, problem.size
    estimator = final_estimator(name, delta)
    value = np.where(np.isfinite(minimum.value), minimum.value, np.inf)
    best = int(np.argmin(value))
    z = minimum.z[best]
    n = len(problem.log_loss)
    lower, upper = bounds(problem, estimator)
    active = active_bounds(z, minimum.gradient[best], lower, upper)
    gradient_norm = float(np.linalg.norm(np.where(active, 0.0, minimum.gradient[best])))
    theta = coordinates.public(law, z[:q])
    size = abs(value[best]) + n * 1e-12
    at_optimum = float(np.average(value <= value[best] + SAME_MINIMUM * size, weights=counts))
    hessian = minimum.hessian[best]
    free = ~active
    scaled, condition = _condition(hessian[np.ix_(free, free)])
    residual = problem.residuals(z[None, :q])[0]
    likelihood = log_likelihood(name, float(value[best]), float(weights.sum()), delta)
    parameters = q + (2 if estimator.has_noise else 1)
    status, reason = "ok", None
    if not minimum.converged[best]:
        status, reason = "not_converged", "the search ended before the gradient vanished"
    elif active[:q].any():
        names = [p for p, fixed in zip(_free(problem), active[:q], strict=True) if fixed]
        status, reason = "at_bound", f"{', '.join(names)} at the edge of the search"
    elif not law.has_optimum:
        status, reason = "no_optimum", f"{law.name} has no interior minimum in N at fixed C"
    return LawFit(
        law=law,
        theta=theta,
        internal=coordinates.internal(z[:q]),
        estimator=name,
        delta=delta,
        objective=float(value[best]),
        gradient_norm=gradient_norm,
        status=status,
        reason=reason,
        n=n,
        starts_n=int(counts.sum()),
        starts_at_optimum=at_optimum,
        condition=condition,
        covariance=None,
        noise=_noise(problem, estimator, z, residual, weights),
        log_likelihood=likelihood,
        aicc=aicc(likelihood, parameters, n),
        held=held,
        searched=z,
    )


def _free(problem: Problem) -> list[str]:
    rows = np.argmax(problem.coordinates.free == 1.0, axis=0)
    return [problem.law.parameters[i] for i in rows]


def aicc(log_likelihood: float, parameters: int, n: float) -> float:
    """Corrected Akaike criterion; infinite when n leaves no degree of freedom for the correction."""
    if n - parameters - 1 <= 0:
        return float("inf")
    return -2 * log_likelihood + 2 * parameters * n / (n - parameters - 1)


def _condition(hessian: Array) -> tuple[Array, float]:
    root = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    scaled = hessian / np.outer(root, root)
    values = np.linalg.eigvalsh(scaled)
    return scaled, float(values[-1] / values[0]) if values[0] > 0 else float("inf")


def _noise(
    problem: Problem, estimator: Estimator, z: Array, residual: Array, weights: Array
) -> dict[str, float]:
    if isinstance(estimator, StudentT):
        q = problem.size
        log_C = float(np.mean(problem.data["log_C"]))
        return {"scale": float(np.exp(z[q])), "slope": float(z[q + 1]), "log_C": log_C, "dof": DOF}
    return {"rms": float(np.sqrt(np.average(residual**2, weights=weights)))}
