"""Where each law's loss is lowest at a fixed budget C = 6 N D, and how that moves with C."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
Parameters = Mapping[str, Array]
Optimum = Callable[[Parameters, Array], tuple[Array, Array]]
Exponent = Callable[[Parameters], Array]

SEARCHED = 41  # points across the reach of one round, whose winner centres the next
FAR = 40.0  # e-folds of N on both sides of sqrt(C/6)
ROUNDS = 8  # to 40/20^8 e-folds, finer than the loss can tell


def no_optimum(parameters: Parameters, C: Array) -> tuple[Array, Array]:
    """NaN: the law has no interior minimum in N at fixed C."""
    missing = np.full(np.broadcast(next(iter(parameters.values())), C).shape, np.nan)
    return missing, missing.copy()


def balanced_terms(parameters: Parameters, C: Array) -> tuple[Array, Array]:
    """Minimum of A/N^alpha + B/D^beta, and of any increasing function of that sum.

    N = G (C/6)^(beta/(alpha+beta)), D = C/(6N), G = (alpha A/(beta B))^(1/(alpha+beta)):
    Hoffmann et al. 2022, eq. 4. Without beta the exponents are tied; Kaplan's joint form has
    beta = 1.
    """
    alpha, beta = _exponents(parameters)
    A, B = parameters["A"], parameters["B"]
    log_G = (np.log(alpha) + np.log(A) - np.log(beta) - np.log(B)) / (alpha + beta)
    log_spend = np.log(C / 6.0)
    share = beta / (alpha + beta)
    interior = (alpha > 0) & (beta > 0)
    log_N = np.where(interior, log_G + share * log_spend, np.nan)
    return np.exp(log_N), np.exp(log_spend - log_N)


def balanced_exponent(parameters: Parameters) -> Array:
    """Exponent beta / (alpha + beta) of balanced terms; NaN where either is not positive."""
    alpha, beta = _exponents(parameters)
    return np.where((alpha > 0) & (beta > 0), beta / (alpha + beta), np.nan)


def _exponents(parameters: Parameters) -> tuple[Array, Array]:
    """Give (alpha, beta): tied where there is no beta, but 1 in Kaplan's joint form."""
    alpha = parameters["alpha"]
    kaplan = "gamma" in parameters and "beta" not in parameters
    return alpha, np.ones_like(alpha) if kaplan else parameters.get("beta", alpha)


def even_exponent(parameters: Parameters) -> Array:
    """One half: the best D/N is the same at every budget."""
    return np.full(_shape(parameters), 0.5)


def no_exponent(parameters: Parameters) -> Array:
    """NaN: no single power of C holds at all budgets."""
    return np.full(_shape(parameters), np.nan)


def _shape(parameters: Parameters) -> tuple[int, ...]:
    return np.shape(next(iter(parameters.values())))


def searched(
    loss: Callable[[Array, Array], Array], leading: tuple[int, ...], C: Array
) -> tuple[Array, Array]:
    """Minimum along D = C/(6N) of any loss; NaN where it is lowest at the ends of the search.

    Args:
        loss: of N and D, which have one more leading axis than the result.
        leading: shape of the parameters, which broadcasts against C.
        C: FLOPs.
    """
    log_spend = np.broadcast_to(np.log(C / 6.0), np.broadcast_shapes(leading, C.shape))

    def along(log_N: Array) -> Array:
        return loss(np.exp(log_N), np.exp(log_spend - log_N))

    log_N = lowest_along(along, log_spend / 2.0, FAR, ROUNDS)
    return np.exp(log_N), np.exp(log_spend - log_N)


def lowest_along(loss: Callable[[Array], Array], centre: Array, reach: float, rounds: int) -> Array:
    """Find log N of least loss within `reach` of centre, by ever finer grids; NaN at an end.

    Args:
        loss: (points, ...) of log N of that shape. centre: (...) log N.
        reach: e-folds on both sides. rounds: each narrows the reach twentyfold.
    """
    interior = np.ones(np.shape(centre), dtype=bool)
    for count in range(rounds):
        steps = np.linspace(-reach, reach, SEARCHED).reshape(-1, *[1] * np.ndim(centre))
        x = centre + steps
        best = np.argmin(loss(x), axis=0)
        if count == 0:
            interior = (best > 0) & (best < SEARCHED - 1)
        centre = np.take_along_axis(x, best[None], axis=0)[0]
        reach = 2 * reach / (SEARCHED - 1)
    return np.where(interior, centre, np.nan)


def gadre_optimum(parameters: Parameters, C: Array) -> tuple[Array, Array]:
    """D/N = (B/A)^(1/(2 eta)), where a M^eta + b M^-eta is lowest (Gadre et al. 2024, eq. 4)."""
    eta = np.where(parameters["eta"] > 0, parameters["eta"], np.nan)
    log_ratio = (np.log(parameters["B"]) - np.log(parameters["A"])) / (2.0 * eta)
    log_spend = np.log(C / 6.0)
    return np.exp((log_spend - log_ratio) / 2.0), np.exp((log_spend + log_ratio) / 2.0)


def three_terms_optimum(parameters: Parameters, C: Array) -> tuple[Array, Array]:
    """Minimum of A/N^alpha + B/D^beta + G N^-alpha D^-beta along D = C/(6N).

    Each term is exp(linear in log N), so the sum is convex in log N and its slope, rewritten as
    the log ratio of falling to rising terms, is monotone: bisection over 80 e-folds, to 1e-12.
    """
    alpha, beta = parameters["alpha"], parameters["beta"]
    log_A, log_B, log_G = (np.log(parameters[name]) for name in ("A", "B", "G"))
    log_spend = np.log(C / 6.0)

    def slope(log_N: Array) -> Array:
        log_D = log_spend - log_N
        in_N = alpha * np.exp(log_A - alpha * log_N)
        in_D = beta * np.exp(log_B - beta * log_D)
        cross = (beta - alpha) * np.exp(log_G - alpha * log_N - beta * log_D)
        return in_D - in_N + cross

    shape = np.broadcast(alpha, log_spend).shape
    low = np.broadcast_to(log_spend / 2.0 - 40.0, shape).copy()
    high = np.broadcast_to(log_spend / 2.0 + 40.0, shape).copy()
    interior = (alpha > 0) & (beta > 0) & (slope(low) < 0) & (slope(high) > 0)
    for _ in range(60):
        middle = (low + high) / 2.0
        rising = slope(middle) > 0
        high = np.where(rising, middle, high)
        low = np.where(rising, low, middle)
    log_N = np.where(interior, (low + high) / 2.0, np.nan)
    return np.exp(log_N), np.exp(log_spend - log_N)
