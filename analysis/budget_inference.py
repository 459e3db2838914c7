"""Training and serving together: the model that costs least over its life at a given loss.

Sardana & Frankle 2024, arXiv:2401.00448: least 6 N D + 2 N D_inf subject to L(N, D) = l. D_inf are
the tokens that are read and written while serving. Standard library only.
"""

import math
from dataclasses import dataclass

from analysis.budget_laws import BudgetLaw


@dataclass(frozen=True)
class Prices:
    """Cost of a training FLOP and of a serving FLOP, in one unit: 1 and 1 count FLOPs alone."""

    training: float = 1.0
    serving: float = 1.0

    def __post_init__(self) -> None:
        if not (self.training > 0 and self.serving > 0):
            raise ValueError("prices of training and of serving must both be positive")

    def cost(self, N: float, D: float, served: float) -> float:
        """6 N D training + 2 N D_inf serving, each at its price."""
        return self.training * 6 * N * D + self.serving * 2 * N * served


@dataclass(frozen=True)
class Trained:
    """A model of some quality, and how it was trained."""

    N: float
    D: float


def condition(law: BudgetLaw, model: Trained, served: float, prices: Prices) -> float:
    """How far a model is from the optimum: zero there, positive where N is too small.

    (alpha A N^-alpha) / (beta B D^-beta) = 1 + D_inf s / (3 D t), t and s the prices of a training
    and a serving FLOP; with t = s it is the paper's condition. Returned: left over right, less 1.
    """
    left = law.alpha * law.A * model.N**-law.alpha
    right = law.beta * law.B * model.D**-law.beta
    return left / right / (1 + served * prices.serving / (3 * model.D * prices.training)) - 1


def cheapest(law: BudgetLaw, loss: float, served: float, prices: Prices = Prices()) -> Trained:
    """N and D of least total cost at a loss, to 1e-12 in N.

    The condition falls in N from infinity (where D is infinite) to -1, so bisection finds its zero.

    Raises:
        ValueError: no model reaches the loss.
    """
    least = (law.A / law.term_sum(loss)) ** (1 / law.alpha)  # reaches the loss with infinite data
    low, high = math.log(least), math.log(least) + 1
    while condition(law, _at(law, high, loss), served, prices) > 0:
        high += high - low
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _too_small(law, middle, loss, served, prices):
            low = middle
        else:
            high = middle
    return _at(law, high, loss)


def compute_optimal_at(law: BudgetLaw, loss: float) -> Trained:
    """N and D of least training compute at a loss: the condition without serving, closed form.

    A/N^alpha : B/D^beta = beta : alpha there.
    """
    sum_ = law.term_sum(loss)
    share = law.beta / (law.alpha + law.beta)
    N = (law.A / (sum_ * share)) ** (1 / law.alpha)
    return Trained(N, (law.B / (sum_ * (1 - share))) ** (1 / law.beta))


def break_even(large: Trained, small: Trained, prices: Prices = Prices()) -> float:
    """Count the served tokens from which a smaller model that was trained longer has cost less in all.

    Raises:
        ValueError: the first model is not the larger one.
    """
    if not large.N > small.N:
        raise ValueError(f"{small.N:.3g} parameters are not fewer than {large.N:.3g}")
    extra = 6 * (small.N * small.D - large.N * large.D) * prices.training
    return max(0.0, extra / (2 * (large.N - small.N) * prices.serving))


def trained_longer(law: BudgetLaw, loss: float, sizes: list[float]) -> list[Trained | None]:
    """Models of these sizes trained until they reach a loss; None where none does."""
    return [_reaches(law, N, loss) for N in sizes]


def _reaches(law: BudgetLaw, N: float, loss: float) -> Trained | None:
    try:
        return Trained(N, law.tokens_for(N, loss))
    except ValueError:
        return None


def _at(law: BudgetLaw, log_N: float, loss: float) -> Trained:
    N = math.exp(log_N)
    return Trained(N, law.tokens_for(N, loss))


def _too_small(law: BudgetLaw, log_N: float, loss: float, served: float, prices: Prices) -> bool:
    reached = _reaches(law, math.exp(log_N), loss)
    return reached is None or condition(law, reached, served, prices) > 0
