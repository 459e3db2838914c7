"""Delta, jackknife and profile intervals: near each other where all assumptions hold."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from analysis.cross_checks import cross_checks
from analysis.engine import fit_law
from analysis.fitted import Resampling, fit_points
from analysis.laws import LAWS
from analysis.points import Points, points_from_frame

THETA = np.array([1.7, 400.0, 800.0, 0.34, 0.31])
LAW = LAWS["chinchilla"]
NONE_DRAWN = Resampling("size", 0, 0.9)
SHARED = ("E", "alpha", "beta")


def sweep(noise: float, seed: int = 0) -> Points:
    """Six budgets of eleven sizes, of which each shows at several budgets."""
    rng = np.random.default_rng(seed)
    rows = []
    for C in 10 ** np.linspace(18, 21, 6):
        middle = LAW.optimum(THETA, C)[0]
        sizes = 1e8 * 1.3 ** np.arange(-40, 40)
        rows += [(N, C / 6 / N) for N in sizes if middle / 4 < N < middle * 4]
    N, D = np.array(rows).T
    loss = LAW.loss(THETA, N, D) * np.exp(rng.normal(0, noise, len(N)))
    return points_from_frame(pd.DataFrame({"N": N, "D": D, "loss": loss}))


def checks(points: Points, estimator: str, law: str = "chinchilla"):
    fitted = fit_points(points, law, estimator, 1e-3, NONE_DRAWN)
    return fitted, cross_checks(fitted, points, "size")


@pytest.mark.parametrize("estimator", ["t4", "ls"])
def test_three_methods_agree_on_independent_noise(estimator):
    points = sweep(0.003)
    fitted, found = checks(points, estimator)
    assert {c.status for c in found.values()} == {"ok"}
    for name in SHARED:
        for method in ("jackknife", "profile"):
            assert np.ptp(found[method].ci[name]) == pytest.approx(
                np.ptp(found["delta"].ci[name]), rel=0.6
            )
        for c in found.values():
            assert c.ci[name][0] < fitted.value(name) < c.ci[name][1]
    low, high = found["delta"].ci["a"]
    assert low < fitted.exponent() < high
    assert found["jackknife"].ci["a"] == pytest.approx((low, high), abs=0.5 * (high - low))


@pytest.mark.slow
def test_the_jackknife_holds_the_truth_as_often_as_it_says():
    """90% intervals of a in 60 sweeps: 54 expected, 2.3 their sd."""
    inside = 0
    for seed in range(60):
        low, high = checks(sweep(0.003, seed), "ls")[1]["jackknife"].ci["a"]
        inside += low <= LAW.a(THETA) <= high
    assert 47 <= inside <= 60


def test_a_profile_ends_where_the_likelihood_says():
    """Hold E at an end of its interval and fit the rest: 2 log likelihood falls by chi^2(.9)."""
    points = sweep(0.003)
    fitted, found = checks(points, "ls")
    n = len(points)
    for end in found["profile"].ci["E"]:
        held = fit_law("chinchilla", points.N, points.D, points.loss, estimator="ls",
                       fixed={"E": end})  # fmt: skip
        drop = n * np.log(held.objective / fitted.fit.objective)
        assert drop == pytest.approx(chi2.ppf(0.9, 1), rel=0.1)


def test_what_is_not_fixed_by_the_rows_has_an_open_end():
    """Two budgets say little of E: losses allow none at all."""
    points = sweep(0.01)
    points = points.take(points.budget < 1e19)
    fitted, found = checks(points, "ls")
    low, high = found["profile"].ci["E"]
    assert np.isnan(low) or high / low > 3
    assert fitted.fit.status != "ok"


def test_what_can_not_be_had_says_why():
    points = sweep(0.003)
    _, found = checks(points, "huber")
    assert (found["delta"].status, found["jackknife"].status) == ("skipped", "ok")
    assert "not offered" in found["delta"].reason
    few = points.take(np.arange(len(points)) < 3)
    _, found = checks(few, "t4")
    assert {c.status for c in found.values()} == {"skipped"}
    assert "cannot fix" in found["profile"].reason
