"""Which runs share a budget, for tables that don't say: docs/data.md has the rule."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.02
FULL_BUDGET = 4
PER_BIN = 10
MOST_BUDGETS = 40  # of an isoFLOP sweep: more are a continuum that happens to be dense


class Grouping(StrEnum):
    """Where the budgets of a table come from."""

    GIVEN = "given"  # its column `budget`
    WITHIN_2_PERCENT = "within_2_percent"  # C within 2% of the group's lowest
    LOG_BINS = "log_bins"  # bins equal in log C: no two budgets are really shared


def group_by_compute(C: NDArray) -> tuple[NDArray, Grouping]:
    """Give each run a budget, the geometric mean of its group's C.

    Runs within 2% of a group's lowest C share a budget. Where fewer than half of the runs are
    then in budgets of at least 4, or where there are more than 40 budgets, C is cut into bins
    equal in log C, about ten runs to a bin and at most twelve bins.

    Args:
        C: (n,) FLOPs, positive.

    Returns:
        (n,) budgets in FLOPs, and how they were made.
    """
    group = _within_tolerance(C)
    sizes = np.bincount(group)
    if sizes[sizes >= FULL_BUDGET].sum() * 2 >= len(C) and len(sizes) <= MOST_BUDGETS:
        return _budget_values(C, group), Grouping.WITHIN_2_PERCENT
    return _budget_values(C, _log_bins(C)), Grouping.LOG_BINS


def _within_tolerance(C: NDArray) -> NDArray:
    order = np.argsort(C, kind="stable")
    group = np.empty(len(C), dtype=int)
    lowest, number = -np.inf, -1
    for i in order:
        if not C[i] <= lowest * (1 + TOLERANCE):
            lowest, number = C[i], number + 1
        group[i] = number
    return group


def _log_bins(C: NDArray) -> NDArray:
    count = int(np.clip(round(len(C) / PER_BIN), 1, 12))
    x = np.log(C)
    edges = np.linspace(x.min(), x.max(), count + 1)[1:-1]
    used = np.searchsorted(edges, x, side="right")
    return np.unique(used, return_inverse=True)[1]


def _budget_values(C: NDArray, group: NDArray) -> NDArray:
    x = np.log(C)
    return np.exp(np.bincount(group, weights=x) / np.bincount(group))[group]
