"""Other intervals beside the bootstrap's: delta method, delete-one-cluster jackknife, profile.

They rest on other assumptions. Where they agree with the bootstrap an interval is safe to quote;
where they are far apart the parameter is not known, whatever the status says.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtri, stdtrit

from analysis.engine import LawFit, rebuild, refit
from analysis.estimators import final_estimator, log_likelihood
from analysis.fits_file import CrossCheck, Pair
from analysis.fitted import Fitted, clusters_of, extra_columns
from analysis.newton import minimise
from analysis.points import Points
from analysis.problem import Problem

MOST_CLUSTERS = 500  # refits of the jackknife
STEPS = np.array([0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0])  # sd from the minimum
PROFILED = ("E", "G", "alpha", "beta", "gamma", "eta", "bend", "R_D", "R_N")


def cross_checks(fitted: Fitted, points: Points, by: str) -> dict[str, CrossCheck]:
    """Give intervals of the parameters and of a by three other methods.

    Args:
        fitted: the law. points: the rows that it was fitted to.
        by: what the bootstrap drew, size or rows.
    """
    fit = fitted.fit
    if not fitted.usable:
        skipped = CrossCheck(status="skipped", reason=f"the law was not fitted: {fit.reason}")
        return dict.fromkeys(("delta", "jackknife", "profile"), skipped)
    rows = (points.N, points.D, points.loss)
    extra = extra_columns(points, fit.law.name)
    with np.errstate(all="ignore"):
        problem = rebuild(fit, *rows, C=points.C, extra=extra)
        return {
            "delta": delta_method(fitted),
            "jackknife": jackknife(fitted, problem, clusters_of(points, by), points.row_weights),
            "profile": profile(fit, problem, fitted.level, points.row_weights),
        }


def delta_method(fitted: Fitted) -> CrossCheck:
    """Give normal intervals from the sandwich covariance, positive parameters on a log scale."""
    fit = fitted.fit
    if fit.estimator in ("huber", "l1"):
        reason = "under huber and l1 its 95% intervals cover .74: not offered"
        return CrossCheck(status="skipped", reason=reason)
    if fit.covariance is None:
        return CrossCheck(status="failed", reason="the Hessian has no inverse at the minimum")
    tail = float(ndtri((1 + fitted.level) / 2))
    slopes = _exponent_slopes(fit)
    sd_a = float(np.sqrt(slopes @ fit.covariance @ slopes))
    scale = np.where(fit.law.positive, fit.theta, 1.0)
    sd = np.sqrt(np.diag(fit.covariance)) / scale
    ci = _from_internal(fit, tail * sd)
    a = float(fit.law.a(fit.theta))
    return CrossCheck(ci=ci | {"a": (a - tail * sd_a, a + tail * sd_a)})


def _exponent_slopes(fit: LawFit) -> NDArray:
    """Differentiate a with respect to the public parameters, centrally."""
    slopes = np.zeros(len(fit.theta))
    for i, value in enumerate(fit.theta):
        step = 1e-5 * max(abs(value), 1e-8)
        up, down = fit.theta.copy(), fit.theta.copy()
        up[i], down[i] = value + step, value - step
        slopes[i] = (fit.law.a(up) - fit.law.a(down)) / (2 * step)
    return slopes


def jackknife(
    fitted: Fitted, problem: Problem, clusters: NDArray | None, own: NDArray
) -> CrossCheck:
    """Give Student t intervals from fits that each leave one cluster out.

    var = (G - 1)/G sum (theta_g - theta)^2 over G clusters, G - 1 degrees of freedom: the
    cluster-robust variance CR3 up to its linearisation (Bell & McCaffrey 2002; MacKinnon, Nielsen
    & Webb 2023, section 2.2).
    """
    fit, n = fitted.fit, len(problem.log_loss)
    members = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    G = int(members.max()) + 1
    if not 2 < G <= MOST_CLUSTERS:
        return CrossCheck(status="skipped", reason=f"{G} clusters; 3 to {MOST_CLUSTERS} are needed")
    weights = (members[None, :] != np.arange(G)[:, None]) * own
    theta, converged = refit(fit, problem, weights)
    if not converged.all():
        lost = int(np.sum(~converged))
        return CrossCheck(status="failed", reason=f"{lost} of {G} fits did not converge")
    share = (G - 1) / G
    tail = float(stdtrit(G - 1, (1 + fitted.level) / 2))
    positive = fit.law.positive
    moved = np.where(positive, np.log(theta / fit.theta), theta - fit.theta)
    ci = _from_internal(fit, tail * np.sqrt(share * np.sum(moved**2, axis=0)))
    a = float(fit.law.a(fit.theta))
    reach = tail * float(np.sqrt(share * np.sum((fit.law.a(theta) - a) ** 2)))
    return CrossCheck(ci=ci | {"a": (a - reach, a + reach)})


def profile(fit: LawFit, problem: Problem, level: float, own: NDArray) -> CrossCheck:
    """Give likelihood-ratio intervals: how far a parameter moves, all others refitted.

    An end is NaN where no likelihood falls low enough within ten standard errors: open. Rows count
    as independent. A and B are left out: they are known only through the loss that they predict.
    """
    names = problem.free_names()
    columns = [i for i, name in enumerate(names) if name in PROFILED]
    if fit.covariance is None or not columns:
        return CrossCheck(status="skipped", reason="no parameter with a standard error to step by")
    positive = fit.law.positive
    ci = {}
    for i in columns:
        at = fit.law.index(names[i])
        sd = float(np.sqrt(fit.covariance[at, at])) / (fit.theta[at] if positive[at] else 1.0)
        low, high = _profile_ends(fit, problem, i, sd, level, own) if sd > 0 else (np.nan, np.nan)
        centre = fit.theta[at]
        ci[names[i]] = (
            (float(centre * np.exp(low)), float(centre * np.exp(high)))
            if positive[at]
            else (float(centre + low), float(centre + high))
        )
    return CrossCheck(ci=ci)


def _profile_ends(
    fit: LawFit, problem: Problem, column: int, sd: float, level: float, own: NDArray
) -> Pair:
    """Offsets of one searched coordinate at which the likelihood has fallen by chi^2/2."""
    offsets = np.concatenate([-sd * STEPS, sd * STEPS])
    start = np.repeat(fit.searched[None, :], len(offsets), axis=0)
    start[:, column] += offsets
    frozen = np.zeros(start.shape, dtype=bool)
    frozen[:, column] = True
    estimator = final_estimator(fit.estimator, fit.delta)
    weights = own[None, :]
    linear = problem.multipliers(extra=len(fit.searched) - problem.size)
    held = minimise(
        problem, estimator, start, weights, frozen=frozen, correct=linear, iterations=60
    )
    free = minimise(problem, estimator, fit.searched[None, :], weights)
    name = "huber" if fit.estimator == "l1" else fit.estimator
    delta = getattr(estimator, "delta", fit.delta)
    n = float(weights.sum())
    best = log_likelihood(name, float(free.value[0]), n, delta)
    drop = np.array([
        best - log_likelihood(name, float(v), n, delta) if np.isfinite(v) else np.inf
        for v in held.value
    ])  # fmt: skip
    goal = chdtri(1, 1 - level) / 2
    half = len(STEPS)
    return -_crossing(sd * STEPS, drop[:half], goal), _crossing(sd * STEPS, drop[half:], goal)


def _crossing(distance: NDArray, drop: NDArray, goal: float) -> float:
    """Distance at which the drop first reaches its goal, linear in its root; NaN where never."""
    distance, root = np.concatenate([[0.0], distance]), np.concatenate([[0.0], np.maximum(drop, 0)])
    root = np.sqrt(np.minimum(root, 1e12))
    beyond = np.flatnonzero(root >= np.sqrt(goal))
    if not len(beyond):
        return float("nan")
    i = int(beyond[0])
    share = (np.sqrt(goal) - root[i - 1]) / (root[i] - root[i - 1])
    return float(distance[i - 1] + share * (distance[i] - distance[i - 1]))


def _from_internal(fit: LawFit, reach: NDArray) -> Mapping[str, Pair]:
    """Turn half-widths into intervals of the public parameters, in logarithms of the positive ones."""
    out = {}
    for i, name in enumerate(fit.law.parameters):
        value, width = float(fit.theta[i]), float(reach[i])
        if name in fit.held:
            continue
        out[name] = (
            (value * float(np.exp(-width)), value * float(np.exp(width)))
            if fit.law.positive[i]
            else (value - width, value + width)
        )
    return out
