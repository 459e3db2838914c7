"""What all laws miss: how much wider a forecast of the loss is than sampling and form make it."""

import numpy as np

# Variance of log loss that laws miss, per decade of C, over that of sampling and form
# (tests/bench/backtest.py).
DISCREPANCY = 3.1


def discrepancy_factor(ratio: float) -> float:
    """Factor on the width of an interval of the loss; an interval of N_opt needs none.

    Forecasts of public sweeps with a tuned recipe erred by 1.15 predicted sd at the next budget
    and by 3.7 at a hundred times the compute. A variance that grows by DISCREPANCY of itself per
    decade predicts those errors best, each sweep judged with the scale that the others set; log
    N_opt erred by one predicted sd at every distance. Where the recipe was not tuned the errors of
    the loss are twice as large again, which no sweep can see from within.

    Args:
        ratio: C over the top budget's.
    """
    return float(np.sqrt(1 + DISCREPANCY * np.log10(max(ratio, 1.0))))
