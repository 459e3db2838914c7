"""Where each law's loss is lowest at a fixed budget C = 6 N D."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
Optimum = Callable[[Mapping[str, Array], Array], tuple[Array, Array]]


def no_optimum(parameters: Mapping[str, Array], C: Array) -> tuple[Array, Array]:
    """NaN: the law has no interior minimum in N at fixed C."""
    missing = np.full(np.broadcast(next(iter(parameters.values())), C).shape, np.nan)
    return missing, missing.copy()


def balanced_terms(parameters: Mapping[str, Array], C: Array) -> tuple[Array, Array]:
    """Minimum of A/N^alpha + B/D^beta, and of any increasing function of that sum.

    N = G (C/6)^(beta/(alpha+beta)), D = C/(6N), G = (alpha A/(beta B))^(1/(alpha+beta)):
    Hoffmann et al. 2022, eq. 4. Without beta the exponents are tied; Kaplan's joint form has
    beta = 1.
    """
    alpha, A, B = parameters["alpha"], parameters["A"], parameters["B"]
    kaplan = "gamma" in parameters and "beta" not in parameters
    beta = np.ones_like(alpha) if kaplan else parameters.get("beta", alpha)
    log_G = (np.log(alpha) + np.log(A) - np.log(beta) - np.log(B)) / (alpha + beta)
    log_spend = np.log(C / 6.0)
    share = beta / (alpha + beta)
    interior = (alpha > 0) & (beta > 0)
    log_N = np.where(interior, log_G + share * log_spend, np.nan)
    return np.exp(log_N), np.exp(log_spend - log_N)


def gadre_optimum(parameters: Mapping[str, Array], C: Array) -> tuple[Array, Array]:
    """D/N = (B/A)^(1/(2 eta)), where a M^eta + b M^-eta is lowest (Gadre et al. 2024, eq. 4)."""
    eta = np.where(parameters["eta"] > 0, parameters["eta"], np.nan)
    log_ratio = (np.log(parameters["B"]) - np.log(parameters["A"])) / (2.0 * eta)
    log_spend = np.log(C / 6.0)
    return np.exp((log_spend - log_ratio) / 2.0), np.exp((log_spend + log_ratio) / 2.0)


def three_terms_optimum(parameters: Mapping[str, Array], C: Array) -> tuple[Array, Array]:
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
