"""Sweeps simulated from known laws, for tests of fits and forecasts. No file is read."""

from dataclasses import dataclass

import numpy as np

from analysis.laws import LAWS, Law

# Constants near published ones, so that losses are between 1.5 and 6 nats on the planted sweeps.
TRUTHS: dict[str, tuple[float, ...]] = {
    "chinchilla": (1.69, 406.4, 410.7, 0.34, 0.28),
    "tied": (1.87, 521.0, 1488.0, 0.3527),
    "no_E": (20.0, 40.0, 0.1, 0.12),
    "coupled": (1.6, 900.0, 9000.0, 0.4, 0.5, 0.6),
    "interaction": (1.7, 400.0, 2000.0, 3e4, 0.34, 0.37),
    "multiplicative": (1.5, 300.0, 0.1, 0.12),
    "kaplan": (6.4e13 ** (0.076 / 0.103), 1.8e13, 0.076 / 0.103, 0.103),
    "kaplan_E": (1.5, 4e6, 3e9, 0.75, 0.25),
    "envelope": (1.7, 800.0, 0.15),
    "broken": (1.5, 50.0, 0.06, 0.08, 1e19, 0.6),
    "overtraining": (1.7, 150.0, 300.0, 0.13),
    "data_constrained": (1.87, 521.0, 1488.0, 0.35, 0.35, 15.4, 5.3),
}


@dataclass(frozen=True)
class Sweep:
    """Rows of a simulated sweep, (n,) each; `extra` holds the columns that the law needs."""

    law: Law
    theta: np.ndarray
    N: np.ndarray
    D: np.ndarray
    C: np.ndarray
    loss: np.ndarray
    extra: dict[str, np.ndarray]


def planted_sweep(
    name: str,
    theta: tuple[float, ...] | None = None,
    *,
    budgets: int = 5,
    sizes: int = 9,
    window: float = 6.0,
    noise: float = 0.0,
    seed: int = 0,
) -> Sweep:
    """Losses of a law on an isoFLOP grid, C = 6 N D from 1e17 to 1e21.

    Args:
        name: of the law. theta: its constants, `TRUTHS` where absent.
        budgets, sizes: of the grid; sizes run from 1/window to window times sqrt(C/120), which is
            D/N = 20. Laws in C alone get budgets * sizes budgets instead.
        noise: scale of Student t noise with 4 degrees of freedom on log loss.
        seed: of the noise.
    """
    law, constants = LAWS[name], np.array(theta or TRUTHS[name], dtype=float)
    if law.variables == "C":
        C = np.geomspace(1e16, 1e22, budgets * sizes)
        N = np.sqrt(C / 120)
    else:
        C = np.repeat(np.geomspace(1e17, 1e21, budgets), sizes)
        N = np.sqrt(C / 120) * np.tile(np.geomspace(1 / window, window, sizes), budgets)
    D = C / (6 * N)
    extra = {}
    if "unique_tokens" in law.needs:
        unique = np.resize(np.geomspace(1e8, 1e10, 3), C.size)
        extra["unique_tokens"] = np.minimum(unique, D)
    rng = np.random.default_rng(seed)
    loss = law.loss(constants, N, D, C=C, **extra)
    loss = loss * np.exp(noise * rng.standard_t(4, size=C.size))
    return Sweep(law, constants, N, D, C, loss, extra)
