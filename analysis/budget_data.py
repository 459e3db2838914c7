"""The data wall: what repeated tokens are worth. Standard library only.

Muennighoff et al. 2023, arXiv:2305.16264, eq. 5: D' = U + U R* (1 - exp(-R/R*)), with U unique tokens
and R = D/U - 1 repetitions. Their R* is not identified by their own runs: the profile is flat from 14
to 200 (tests/test_published_fits.py), so both ends are shown. The law has no term that lets the loss
rise, which it does when data are repeated without more regularisation.
"""

import math

FLAT = (14.0, 200.0)  # R* between which the profile of the published runs is flat


def repetitions(D: float, unique: float) -> float:
    """Count passes over the data beyond the first."""
    return max(0.0, D / unique - 1)


def effective_tokens(D: float, unique: float, R_star: float) -> float:
    """Fresh tokens that D tokens of `unique` distinct ones are worth."""
    if unique >= D:
        return D
    return unique * (1 - R_star * math.expm1(-repetitions(D, unique) / R_star))


def most_effective(unique: float, R_star: float) -> float:
    """Bound what any number of passes is worth, in fresh tokens."""
    return unique * (1 + R_star)
