"""How much compute one sweep is worth against another: the effective-compute multiplier.

At C FLOPs the recipe A reaches the loss that B reaches at m C: m > 1 says that A makes compute
worth more. Both losses are those of the optimum at that C, with the whole uncertainty of a forecast
(sampling, form, discrepancy). The two sweeps are taken as independent: what they share (text,
sizes, a law wrong in the same way) makes the interval wider than it need be, never narrower.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fits_file import NAN, UNKNOWN, Pair
from analysis.forecast import Evidence, claim, loss_at_optimum

REACH = 1e3  # multipliers from 1/REACH to REACH are told apart
POINTS = 97
FEWEST = 20  # draws


class IncomparableError(ValueError):
    """Two sweeps whose losses or budgets don't mean the same; the text says which."""


@dataclass(frozen=True)
class Multiplier:
    """A against B at C.

    An end of the interval is infinite where no compute of B within REACH gets there, and 0 where
    all of it does.
    """

    law: str
    C: float  # FLOPs
    multiplier: float  # A at C is worth B at multiplier * C
    interval: Pair
    probability: float  # that A's loss at C is the lower one
    loss: Pair  # of A and of B at C
    status: str
    reason: str | None


def multipliers(a: Evidence, b: Evidence, C: float) -> tuple[Multiplier, ...]:
    """Compare two sweeps at C, by their headline laws and by their averages of forms.

    Raises:
        IncomparableError: loss units or flop rules differ.
    """
    check_comparable(a, b)
    pairs = [(a.headline.fit.law.name, b.headline.fit.law.name)]
    if a.average is not None and b.average is not None:
        pairs.append(("average", "average"))
    return tuple(_multiplier(a, b, pair, float(C)) for pair in pairs)


def check_comparable(a: Evidence, b: Evidence) -> None:
    """Refuse sweeps whose losses or FLOPs are of different kinds.

    Raises:
        IncomparableError: with the two values.
    """
    for name, what in (("loss_unit", "losses"), ("flop_rule", "FLOPs")):
        mine, theirs = getattr(a.points, name), getattr(b.points, name)
        if mine != theirs:
            raise IncomparableError(f"their {what} can't be compared: {mine} against {theirs}")


def _multiplier(a: Evidence, b: Evidence, laws: tuple[str, str], C: float) -> Multiplier:
    law = laws[0] if laws[0] == laws[1] else f"{laws[0]} against {laws[1]}"
    ratios = np.geomspace(1 / REACH, REACH, POINTS)
    at_A, draws_A = _curve(a, laws[0], np.array([C]), seed=0)
    at_B, draws_B = _curve(b, laws[1], C * ratios, seed=1)
    middle = POINTS // 2
    loss = (float(np.exp(at_A[0])), float(np.exp(at_B[middle])))
    if not np.isfinite(loss).all() or min(draws_A.shape[1], draws_B.shape[1]) < FEWEST:
        reason = "no optimum at this C, or too few draws of it"
        return Multiplier(law, C, NAN, UNKNOWN, NAN, loss, "failed", reason)
    n = min(draws_A.shape[1], draws_B.shape[1])
    crossing = _crossings(draws_A[0, :n], draws_B[:, :n], np.log(ratios))
    estimate = float(np.exp(_crossings(at_A, at_B[:, None], np.log(ratios))[0]))
    tail = (1 - a.level) / 2
    low, high = np.quantile(crossing, [tail, 1 - tail], method="nearest")
    probability = _share_below(draws_A[0], draws_B[middle])
    status, reason = _status(a, b, laws, C, estimate)
    return Multiplier(
        law, C, estimate, (float(np.exp(low)), float(np.exp(high))), probability, loss, status,
        reason,
    )  # fmt: skip


def _curve(e: Evidence, law: str, C: NDArray, seed: int) -> tuple[NDArray, NDArray]:
    """Log loss of the optimum at each C: (k,) estimates, (k, draws) with all three variances.

    The draws are put in an order of their own by the seed: two sweeps of one shape were resampled
    with the same random numbers, which would make their luck the same.
    """
    found = [loss_at_optimum(e, law, c) for c in C]
    draws = np.stack([q.spread(more, stretch) for q, more, stretch in found])
    draws = draws[:, np.isfinite(draws).all(axis=0)]
    order = np.random.default_rng(seed).permutation(draws.shape[1])
    return np.array([q.estimate for q, _, _ in found]), draws[:, order]


def _crossings(loss: NDArray, curves: NDArray, x: NDArray) -> NDArray:
    """Where each curve (k, n) over x (k,) first falls to its loss (n,): +-inf outside of x."""
    below = curves <= loss
    first = np.argmax(below, axis=0)
    before = np.maximum(first - 1, 0)
    column = np.arange(curves.shape[1])
    upper, lower = curves[before, column], curves[first, column]
    drop = np.where(upper > lower, upper - lower, 1.0)
    at = x[before] + (x[first] - x[before]) * np.clip((upper - loss) / drop, 0.0, 1.0)
    at = np.where(first == 0, -np.inf, at)
    return np.where(below.any(axis=0), at, np.inf)


def _share_below(first: NDArray, second: NDArray) -> float:
    """Share of all pairs of draws in which the first is lower; ties count half."""
    ordered = np.sort(second)
    left = np.searchsorted(ordered, first, side="left")
    right = np.searchsorted(ordered, first, side="right")
    return float(1 - np.mean(left + right) / (2 * len(ordered)))


def _status(
    a: Evidence, b: Evidence, laws: tuple[str, str], C: float, estimate: float
) -> tuple[str, str | None]:
    """Ok where A is validated at C and B both there and where it matches A."""
    reaches = [("A", a, laws[0], C), ("B", b, laws[1], C)]
    if not 1 / REACH < estimate < REACH:
        return "unvalidated", f"no C within {REACH:g}x makes their losses equal"
    reaches.append(("B", b, laws[1], C * estimate))
    for name, e, law, at in reaches:
        status, reason = claim(e, at, law, loss_at_optimum(e, law, at)[0])
        if status != "ok":
            return status, f"{name} at C={at:.3g}: {reason}"
    return "ok", None
