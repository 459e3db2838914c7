"""Hold-outs and the curve of minima: right on planted laws, honest under noise."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fitted import Resampling
from analysis.holdout import min_loss_curve, roll
from analysis.min_loss import CurveStatus, fit_min_loss
from analysis.points import points_from_frame
from analysis.profiles import find_minima

# A sweep as `isoflop demo` makes: 5 budgets, 7 sizes of which 4 or 5 at each, 23 cells.
SIZES = np.array([1.4e4, 2.0e4, 3.2e4, 4.6e4, 8.5e4, 1.3e5, 2.6e5])
BUDGETS = {6e10: (0, 4), 1.5e11: (0, 5), 3.75e11: (1, 6), 9.375e11: (2, 7), 2.34e12: (3, 7)}
DRAWS = Resampling("size", 100, 0.9)


def law(N, D):
    return 1.0 + 250 / N**0.55 + 2500 / D**0.6


def demo_sweep(noise: float = 0.0, seed: int = 0, truth=law) -> pd.DataFrame:
    rows = [
        {"N": N, "D": C / (6 * N), "C": C, "budget": C}
        for C, (first, last) in BUDGETS.items()
        for N in SIZES[first:last]
    ]
    frame = pd.DataFrame(rows)
    rng = np.random.default_rng(seed)
    return frame.assign(loss=truth(frame.N, frame.D) * np.exp(rng.normal(0, noise, len(frame))))


def test_every_budget_above_three_is_held_out_in_order():
    entries = roll(points_from_frame(demo_sweep()), ["chinchilla"], "huber", 1e-3, DRAWS)
    assert [e.budget for e in entries] == list(BUDGETS)[3:]
    assert [e.n for e in entries] == [5, 4]
    assert entries[-1].ratio == pytest.approx(2.34e12 / 9.375e11)


def test_a_law_without_noise_is_predicted_exactly():
    top = roll(points_from_frame(demo_sweep()), ["chinchilla", "coupled"], "huber", 1e-3, DRAWS)[-1]
    assert top.mean_error == pytest.approx(0, abs=1e-8)
    assert top.predicted == pytest.approx(top.observed, rel=1e-8)
    assert abs(top.min_loss_error) < 0.01
    assert [c.law for c in top.others] == ["coupled", "average"]
    for check in (*top.others, *top.earlier):
        assert check.mean_error == pytest.approx(0, abs=1e-6)


def test_fewer_budgets_predict_the_top_one_too():
    """The law of the three lowest budgets meets the top one at a larger ratio, with more doubt."""
    points = points_from_frame(demo_sweep(0.005))
    first, top = roll(points, ["chinchilla"], "t4", 1e-3, DRAWS)
    (earlier,) = top.earlier
    assert first.earlier == ()
    assert earlier.ratio == pytest.approx(2.34e12 / 3.75e11)
    assert earlier.observed == top.observed
    assert earlier.interval[0] < earlier.predicted < earlier.interval[1]


def test_errors_and_intervals_agree_with_their_own_numbers():
    for e in roll(points_from_frame(demo_sweep(0.01)), ["chinchilla"], "t4", 1e-3, DRAWS):
        assert e.interval[0] < e.predicted < e.interval[1]
        assert e.inside_interval == (e.interval[0] <= e.observed <= e.interval[1])
        assert e.min_loss_error == pytest.approx(np.log(e.min_loss_predicted / e.min_loss_observed))
        low, high = e.min_loss_interval
        assert low < e.min_loss_predicted < high
        assert e.min_loss_inside == (low <= e.min_loss_observed <= high)
        assert 1 <= e.n_eff <= e.n
        assert np.sign(e.z) == np.sign(e.mean_error)


def test_a_drifting_top_budget_is_seen():
    """All top cells 5% worse than the law of the lower ones: z says so, n_eff is near one test."""
    frame = demo_sweep(0.002)
    frame.loc[frame.budget == 2.34e12, "loss"] *= 1.05
    top = roll(points_from_frame(frame), ["chinchilla"], "t4", 1e-3, DRAWS)[-1]
    assert top.mean_error < -0.03
    assert not top.inside_interval
    assert not top.min_loss_inside


def test_what_can_not_be_held_out_says_so():
    two = demo_sweep()[lambda f: f.budget < 2e11]
    (entry,) = roll(points_from_frame(two), ["chinchilla"], "huber", 1e-3, DRAWS)
    assert entry.status == "too_few"
    assert entry.min_loss_status == "too_few"
    assert np.isnan(entry.predicted)
    assert entry.reason
    edge = demo_sweep()
    edge = edge[(edge.budget < 2e12) | (edge.N < 1.1e5)]
    top = roll(points_from_frame(edge), ["chinchilla"], "huber", 1e-3, DRAWS)[-1]
    assert np.isnan(top.min_loss_error)
    assert "held-out budget has no minimum" in top.min_loss_reason


# Four minima and a prior: the coverage of a 90% interval depends on the truth (0.78 where E is 0,
# 0.95 where it is half of the loss), so its mean over truths is what must be near nominal.
TRUTHS = {
    "no floor": lambda N, D: 6 / N**0.15 + 12 / D**0.18,
    "low floor": lambda N, D: 0.9 + 12 / N**0.30 + 60 / D**0.36,
    "high floor": law,
}


@pytest.mark.slow
def test_min_loss_intervals_hold_the_observed_minimum_on_average():
    """60 sweeps of each truth at 1% noise, seeds 0..59; Monte Carlo error of the mean .025."""
    inside, width = [], []
    for truth in TRUTHS.values():
        for seed in range(60):
            minima = find_minima(points_from_frame(demo_sweep(0.01, seed, truth)))
            if not minima[-1].usable or sum(m.usable for m in minima[:-1]) < 3:
                continue
            curve = min_loss_curve(minima[:-1])
            prediction = curve.predict(minima[-1].budget, minima[-1].loss_leverage)
            low, high = prediction.interval(0.9)
            inside.append(low <= minima[-1].loss <= high)
            width.append((high - low) / 2 / prediction.loss)
    assert len(inside) > 120
    assert 0.83 <= np.mean(inside) <= 0.97
    assert np.median(width) < 0.04


def curve(E, A, gamma, C, leverage=0.3, residual_ss=1e-10, dof=8):
    return fit_min_loss(C, E + A * C**-gamma, np.full(len(C), leverage), residual_ss, dof)


def test_precise_minima_give_their_curve_back():
    C = np.geomspace(1e18, 1e22, 8)
    fitted = curve(1.8, 900.0, 0.16, C)
    assert fitted.status is CurveStatus.OK
    assert fitted.gamma == pytest.approx(0.16, abs=2e-3)
    assert fitted.E == pytest.approx(1.8, abs=0.02)
    assert fitted.predict(1e24).loss == pytest.approx(1.8 + 900 * 1e24**-0.16, rel=1e-3)


def test_four_noisy_minima_do_not_identify_the_floor():
    C = np.array(list(BUDGETS)[:4])
    fitted = curve(1.0, 1e3, 0.18, C, residual_ss=8 * 0.04**2)
    assert fitted.status is CurveStatus.FLAT
    assert "not identified" in fitted.reason
    low, high = fitted.predict(2.34e12, 0.3).interval(0.9)
    assert low < 1.0 + 1e3 * 2.34e12**-0.18 < high


def test_two_minima_or_a_rising_loss_are_no_curve():
    assert curve(1.8, 900.0, 0.16, np.array([1e18, 1e19])).status is CurveStatus.TOO_FEW
    C = np.geomspace(1e18, 1e20, 5)
    rising = fit_min_loss(C, 2.0 * C**0.05, np.full(5, 0.3), 1e-6, 8)
    assert rising.status is CurveStatus.AT_BOUND


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0.0, 3.0), st.floats(0.03, 0.45), st.floats(0.2, 3.0), st.floats(1e-9, 1e-2),
    st.integers(3, 9), st.floats(0.5, 0.99),
)  # fmt: skip
def test_any_curve_gives_ordered_finite_predictions(E, gamma, decades, noise, k, level):
    C = 10 ** np.linspace(18, 18 + decades, k)
    fitted = curve(E, 5 * 1e18**gamma, gamma, C, residual_ss=10 * noise**2)
    prediction = fitted.predict(10 * C[-1], 0.4)
    low, high = prediction.interval(level)
    assert 0 < low < prediction.loss < high < np.inf
    wider = fitted.predict(10 * C[-1], 0.8).interval(level)
    assert wider[1] - wider[0] >= 0.99 * (high - low)  # the mixture has finitely many parts
