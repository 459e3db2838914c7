"""Forecasts: the planted optimum, intervals that hold their own estimate, claims with bounds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.averaging import weights_of
from analysis.discrepancy import DISCREPANCY
from analysis.fit import fit
from analysis.fitted import widened
from analysis.forecast import bracketed, disagree, identified
from analysis.laws import LAWS
from analysis.points import points_from_frame
from analysis.profiles import find_minima

THETA = np.array([1.7, 400.0, 800.0, 0.34, 0.31])
LAW = LAWS["chinchilla"]


def sweep(noise=0.0, seed=0, cost=lambda N, D: 6 * N * D, drift=0.0) -> pd.DataFrame:
    """Five budgets, nine sizes shared by all, losses from a planted law."""
    rows = []
    for i, C in enumerate(1e17 * 8.0 ** np.arange(5)):
        centre = LAW.optimum(THETA, C)[0]
        for N in np.geomspace(1e6, 2e10, 28):
            if centre / 6 < N < centre * 6:
                rows.append({"N": N, "budget": C, "D": C / (6 * N) * (6 * N) / cost(N, 1.0),
                             "drift": drift * (i == 4)})  # fmt: skip
    frame = pd.DataFrame(rows)
    noise_of = np.random.default_rng(seed).normal(0, noise, len(frame))
    loss = LAW.loss(THETA, frame.N, frame.D) * np.exp(noise_of + frame.pop("drift"))
    return frame.assign(loss=loss, C=cost(frame.N, frame.D))


@pytest.fixture(scope="module")
def noisy():
    return fit(sweep(0.003), draws=300, targets=(1e22, 1e24))


def test_without_noise_the_planted_optimum_comes_back():
    (first, *_) = fit(sweep(), draws=50, estimator="huber", targets=(1e24,)).forecast
    N, D = LAW.optimum(THETA, 1e24)
    assert first.N == pytest.approx(N, rel=1e-3)
    assert first.D == pytest.approx(D, rel=1e-3)
    assert first.loss == pytest.approx(float(LAW.loss(THETA, N, D)), rel=1e-5)


def test_the_default_target_is_ten_times_the_top_budget():
    fits = fit(sweep(0.003), draws=40)
    assert fits.forecast[0].C == pytest.approx(10 * 1e17 * 8**4)
    assert [f.law for f in fits.forecast] == ["chinchilla", "average"]


def test_intervals_hold_their_estimates_and_widen_with_distance(noisy):
    near, _, far, _ = noisy.forecast
    for f in noisy.forecast:
        for name in ("loss", "N", "D"):
            low, high = getattr(f, f"{name}_interval")
            assert low <= getattr(f, name) <= high
        assert f.N_range["p5"][0] < f.N_range["p1"][0] < f.N < f.N_range["p1"][1]
        assert f.variance["sampling"] > 0
        assert f.plain.loss_interval[0] <= f.plain.loss <= f.plain.loss_interval[1]
    assert np.log(far.N_interval[1] / far.N_interval[0]) > np.log(
        near.N_interval[1] / near.N_interval[0]
    )


def test_ranges_lose_what_they_say(noisy):
    f = noisy.forecast[0]
    theta = np.array([noisy.approach3.parameters[p] for p in LAW.parameters])
    for N in f.N_range["p1"]:
        assert LAW.loss(theta, N, f.C / (6 * N)) == pytest.approx(1.001 * f.loss, rel=1e-9)


def test_what_was_not_validated_is_not_claimed(noisy):
    near, far = noisy.forecast[0], noisy.forecast[2]
    # five budgets x8 apart: the top one was predicted from three lower ones too, 64 times below
    assert near.extrapolation["validated_C"] == pytest.approx(64, rel=1e-6)
    assert near.status == "ok"
    assert far.status == "unvalidated"
    assert "these data passed 64x" in far.reason


def test_where_nothing_was_passed_the_reason_has_no_number():
    """The second budget that can be held out is off, and so is every ratio that was tried."""
    frame = sweep(0.001)
    frame.loc[frame.budget == frame.budget.unique()[3], "loss"] *= 1.04
    f = fit(frame[frame.budget < 4e20], draws=60).forecast[0]
    assert f.status == "unvalidated"
    assert "nan" not in f.reason


def test_a_size_that_nothing_bounds_is_not_claimed():
    assert identified((1e9, 9e9)) == ("ok", None)
    assert identified((np.nan, np.nan)) == ("ok", None)  # other statuses say what is missing
    status, reason = identified((1e8, 2e9))
    assert status == "flat"
    assert reason == "N_opt is not identified: its interval spans a factor of 20"


def test_an_optimum_that_no_run_brackets_is_not_claimed():
    """All sizes above the optimum: the law finds it, no profile has seen it."""
    frame = sweep(0.002)
    above = frame[
        [n > LAW.optimum(THETA, C)[0] for n, C in zip(frame.N, frame.budget, strict=True)]
    ]
    f = fit(above, draws=40).forecast[0]
    assert f.status == "unvalidated"
    assert "no profile brackets its minimum" in f.reason


def test_an_optimum_outside_the_tokens_per_parameter_of_the_runs_is_not_claimed():
    points = points_from_frame(sweep())
    least = (points.D / points.N).min()
    assert bracketed(points, find_minima(points), 20.0) == ("ok", None)
    status, reason = bracketed(points, find_minima(points), least / 2)
    assert status == "unvalidated"
    assert f"D/N = {least / 2:.3g} lies outside the sweep's, {least:.3g} to" in reason


def test_the_three_variances_make_the_interval(noisy):
    """Discrepancy grows with the distance, and the average's interval is as wide as all three."""
    near, far = noisy.forecast[1], noisy.forecast[3]
    shares = [f.variance["discrepancy"] / (f.variance["sampling"] + f.variance["form"])
              for f in (near, far)]  # fmt: skip
    assert shares == pytest.approx(
        [DISCREPANCY * np.log10(f.extrapolation["C"]) for f in (near, far)]
    )
    for f in (near, far):
        half_width = np.log(f.loss_interval[1] / f.loss_interval[0]) / 2
        assert half_width == pytest.approx(1.645 * np.sqrt(sum(f.variance.values())), rel=0.25)


def test_an_optimum_is_at_least_one_parameter_and_one_token():
    """Losses that follow no law leave N_opt open: the interval ends where models end."""
    frame = sweep(0.05, seed=3)
    for f in fit(frame[frame.budget < 1e19], draws=100).forecast:
        ends = np.array([*f.N_interval, *f.D_interval])
        ends = ends[np.isfinite(ends)]
        assert ((ends >= 1) & (ends <= f.C / 6)).all()


def test_a_missed_top_budget_takes_the_claim_away():
    f = fit(sweep(0.002, drift=0.05), draws=100).forecast[0]
    assert f.status == "unvalidated"
    assert "missed by" in f.reason


def test_other_flop_rules_are_solved_numerically():
    """C = 6 N D (1 + overhead that shrinks with N): the optimum of the planted law at C, found by
    brute force.
    """

    def cost(N, D):
        return 6 * N**0.9 * D * 20.0

    f = fit(sweep(cost=cost), draws=40, estimator="huber", targets=(1e23,)).forecast[0]
    assert f.flop_rule == "given"
    N = np.geomspace(1e7, 1e13, 200_001)
    loss = LAW.loss(THETA, N, 1e23 / cost(N, 1.0))
    assert f.N == pytest.approx(N[loss.argmin()], rel=5e-3)
    assert f.loss == pytest.approx(loss.min(), rel=1e-4)
    assert cost(f.N, f.D) == pytest.approx(1e23, rel=1e-6)


def test_a_form_without_optimum_has_no_forecast_and_says_so():
    f = fit(sweep(0.002), draws=40, law="multiplicative").forecast[0]
    assert f.status == "no_optimum"
    assert np.isnan([f.N, f.D, f.loss]).all()


@given(st.lists(st.floats(-1e6, 1e6) | st.just(np.inf) | st.just(np.nan), min_size=1, max_size=9))
def test_akaike_weights_sum_to_one_and_ignore_the_unknown(criterion):
    weight = weights_of(np.array(criterion))
    assert weight.sum() == pytest.approx(1)
    if np.isfinite(criterion).any():
        assert not weight[~np.isfinite(criterion)].any()


@given(st.integers(2, 30), st.floats(0.6, 0.99))
def test_few_clusters_only_ever_widen(clusters, level):
    draws = np.linspace(-1, 2, 7)
    assert np.all(np.abs(widened(draws, 0.0, clusters, level)) >= np.abs(draws))
    if clusters >= 10:
        np.testing.assert_array_equal(widened(draws, 0.0, clusters, level), draws)


def test_disagreement_needs_both_to_miss():
    assert disagree((1.0, 2.0), ((0.5, 1.5), (1.6, 2.4)))
    assert not disagree((1.0, 2.0), ((0.5, 2.5), (1.6, 2.4)))
    assert not disagree((1.0, 2.0), ((0.5, 1.5), (np.nan, np.nan)))


def test_what_no_decision_turns_on_is_no_conflict():
    """Without noise every interval is a point, and approach 2 keeps its small bias."""
    assert fit(sweep(), draws=40, targets=(1e22,)).conflicts == ()
