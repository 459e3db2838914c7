"""Sharp and smooth metrics of one loss: why an ability may seem to appear at once.

Schaeffer et al. 2023, arXiv:2304.15004: with a loss of L nats a token, a token is right
with probability p = exp(-L), if errors are independent. A metric that wants all k tokens right
falls with the k-th power of p; one that counts wrong tokens falls with p itself. A test of few
questions cannot tell the first from zero until p is large, and then it rises at once.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def token_accuracy(loss: ArrayLike) -> NDArray:
    """Probability p = exp(-L) that a token is right, at a loss in nats per token."""
    return np.exp(-np.asarray(loss, dtype=float))


def exact_match(loss: ArrayLike, k: int) -> NDArray:
    """Probability exp(-k L) that all k tokens are right: sharp.

    Raises:
        ValueError: k is less than 1.
    """
    return token_accuracy(loss) ** _tokens(k)


def edit_distance(loss: ArrayLike, k: int) -> NDArray:
    """Count the wrong tokens expected among k, k (1 - p): smooth.

    Raises:
        ValueError: k is less than 1.
    """
    return _tokens(k) * (1 - token_accuracy(loss))


def loss_of_first_success(k: int, questions: int) -> float:
    """Loss at which a test of so many questions expects one exact match of k tokens: log(n)/k.

    Above it the sharp metric reads 0 whatever the model has learned.

    Raises:
        ValueError: k or questions is less than 1.
    """
    if questions < 1:
        raise ValueError(f"questions={questions} must be at least 1")
    return float(np.log(questions) / _tokens(k))


def _tokens(k: int) -> int:
    if k < 1:
        raise ValueError(f"k={k} must be at least 1 token")
    return k
