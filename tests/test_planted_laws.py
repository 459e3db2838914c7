"""Every law by every estimator on noisy sweeps of known constants; without noise: test_engine.py."""

import numpy as np
import pytest

from analysis.engine import LawFit, fit_law
from analysis.estimators import ESTIMATORS
from analysis.laws import LAWS
from analysis.resampling import bootstrap
from tests.planted import Sweep, planted_sweep

NOISE = 0.003
DRAWS = 40
FAR = 4.0  # sd: the truth is farther once in fifteen thousand fits of normal error


def fit_sweep(sweep: Sweep, estimator: str) -> LawFit:
    return fit_law(
        *(sweep.law, sweep.N, sweep.D, sweep.loss),
        C=sweep.C,
        extra=sweep.extra,
        estimator=estimator,
    )


def predicted(sweep: Sweep, theta: np.ndarray) -> np.ndarray:
    """Losses of (..., p) theta at the sweep's own points, (..., n)."""
    return sweep.law.loss(theta[..., None, :], sweep.N, sweep.D, C=sweep.C, **sweep.extra)


@pytest.mark.parametrize(
    "estimator",
    [e if e in ("t4", "huber") else pytest.param(e, marks=pytest.mark.slow) for e in ESTIMATORS],
)
@pytest.mark.parametrize("name", sorted(LAWS))
def test_with_noise_the_truth_is_within_the_draws(name, estimator):
    """At every point of the sweep, the loss without noise is within four sd of the resamples."""
    sweep = planted_sweep(name, noise=NOISE, seed=1)
    truth = np.log(planted_sweep(name).loss)
    fit = fit_sweep(sweep, estimator)
    assert np.isfinite(fit.theta).all(), fit.reason
    draws = bootstrap(
        *(fit, sweep.N, sweep.D, sweep.loss), C=sweep.C, extra=sweep.extra, draws=DRAWS
    )
    assert draws.converged.mean() > 0.5
    spread = np.std(np.log(predicted(sweep, draws.theta[draws.converged])), axis=0, ddof=1)
    off = np.abs(np.log(predicted(sweep, fit.theta)) - truth)
    assert (off < FAR * spread).all()
    assert np.median(spread) < NOISE  # else any truth would be within it
