"""Minima of profiles: exact on parabolas, biased as much as simulations say, never invented."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.approach2 import approach2
from analysis.fitted import Resampling, fit_points
from analysis.points import load_points, points_from_frame
from analysis.profiles import (
    Method,
    MinimumStatus,
    at_budgets,
    find_minima,
    power_law,
    with_predicted_bias,
)

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28  # Hoffmann et al. 2022, eq. 10
G = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
BUDGETS = np.geomspace(1e17, 1e21, 5)


def hoffmann(N, D):
    return E + A / N**ALPHA + B / D**BETA


def optimum(C):
    N = G * (C / 6) ** (BETA / (ALPHA + BETA))
    return N, C / (6 * N)


def profiles(k: float, n: int = 15, shift: float = 1.0) -> pd.DataFrame:
    """D from D*/k to k D* at five budgets, losses without noise."""
    rows = []
    for C in BUDGETS:
        D = shift * optimum(C)[1] * np.geomspace(1 / k, k, n)
        rows.append(pd.DataFrame({"D": D, "C": C, "N": C / (6 * D)}))
    frame = pd.concat(rows, ignore_index=True)
    return frame.assign(loss=hoffmann(frame.N, frame.D))


def one_profile(loss, N=(1e6, 2e6, 4e6, 8e6, 16e6)):
    C = 6e15
    frame = pd.DataFrame({"N": N, "loss": loss}).assign(C=C)
    return find_minima(points_from_frame(frame))[0]


# Hoffmann et al.'s printed constants without noise, 1e17 to 1e21, 15 points each; known to .005 points.
@pytest.mark.parametrize(("k", "bias"), [(2, -0.327), (4, -1.301), (8, -2.903), (16, -5.100)])
def test_parabola_bias_to_1e24(k, bias):
    minima = find_minima(points_from_frame(profiles(k)), Method.PARABOLA)
    law = power_law(np.array([m.budget for m in minima]), np.array([m.D for m in minima]))
    assert 100 * (law(1e24) / optimum(1e24)[1] - 1) == pytest.approx(bias, abs=5e-3)


@pytest.mark.parametrize("k", [2, 4, 8])
def test_predicted_bias_is_the_bias(k):
    points = points_from_frame(profiles(k, n=9))
    for method in (Method.PARABOLA, Method.WINDOWED):
        minima = with_predicted_bias(find_minima(points, method), points, hoffmann, optimum)
        for m in minima:
            assert m.predicted_bias == pytest.approx(m.N / optimum(m.budget)[0] - 1, abs=1e-9)


def test_the_bias_of_the_exponent_is_what_its_minima_make():
    """Noise-free losses of a law with unequal exponents: fitted minus true exponent."""
    points = points_from_frame(profiles(4))
    fitted = fit_points(points, "chinchilla", "ls", 1e-3, Resampling("rows", 0, 0.9))
    part, _, _ = approach2(points, fitted, 0.9)
    off = part.N_opt.exponent - fitted.exponent()
    assert off != 0
    assert part.exponent_bias == pytest.approx(off, abs=1e-6)


def test_a_window_or_a_spline_is_less_biased_than_the_whole_profile():
    points = points_from_frame(profiles(16))
    bias = {
        method: max(abs(m.N / optimum(m.budget)[0] - 1) for m in find_minima(points, method))
        for method in Method
    }
    assert bias[Method.AKIMA] < 0.01
    assert bias[Method.WINDOWED] < bias[Method.PARABOLA] / 3


@given(
    st.floats(-0.9, 0.9), st.floats(0.01, 2.0), st.floats(1.0, 8.0),
)  # fmt: skip
def test_a_parabola_is_recovered_exactly(offset, curvature, floor):
    x = np.log(np.geomspace(1e6, 1e8, 7))
    centre = x.mean() + offset
    m = one_profile(floor + curvature * (x - centre) ** 2, np.exp(x))
    assert m.N == pytest.approx(np.exp(centre), rel=1e-6)
    assert m.loss == pytest.approx(floor, rel=1e-8)
    assert m.N * m.D * 6 == pytest.approx(m.budget, rel=1e-9)


def test_statuses():
    ok = one_profile([3.2, 3.05, 3.0, 3.06, 3.2])
    assert (ok.status, ok.reason) == (MinimumStatus.OK, None)
    assert one_profile([3.0, 3.05, 3.2, 3.4, 3.8]).status is MinimumStatus.EDGE
    assert one_profile([3.8, 3.4, 3.2, 3.05, 3.0]).status is MinimumStatus.EDGE
    assert one_profile([3.0, 3.2, 3.3, 3.2, 3.0]).status is MinimumStatus.CONCAVE
    assert one_profile([3.05, 3.0, 3.1, 3.3, 3.6]).status is MinimumStatus.OFF_CENTRE
    few = one_profile([3.2, 3.0, 3.1], (1e6, 2e6, 4e6))
    assert few.status is MinimumStatus.TOO_FEW
    assert "3 model sizes, 4 are needed" in few.reason
    flat = one_profile([3.0] * 5)
    assert not flat.usable


def test_what_is_not_usable_has_no_numbers():
    for losses in ([3.0, 3.05, 3.2, 3.4, 3.8], [3.0, 3.2, 3.3, 3.2, 3.0]):
        m = one_profile(losses)
        assert np.isnan([m.N, m.D, m.loss, m.predicted_bias]).all()
        assert m.reason


def test_the_minimum_does_not_depend_on_the_order_of_rows():
    frame = profiles(4, n=7)
    shuffled = frame.sample(frac=1, random_state=1)
    for a, b in zip(
        find_minima(points_from_frame(frame)), find_minima(points_from_frame(shuffled)), strict=True
    ):
        assert a.N == pytest.approx(b.N, rel=1e-9)


def test_repeated_sizes_count_once_as_sizes_and_twice_as_evidence():
    frame = profiles(4, n=7)
    points = points_from_frame(pd.concat([frame, frame]))
    once = find_minima(points_from_frame(frame), Method.AKIMA)
    for a, b in zip(once, find_minima(points, Method.AKIMA), strict=True):
        assert a.N == pytest.approx(b.N, rel=1e-9)


def test_power_law_weights_and_unknown_deviations():
    C = np.array([1e18, 1e19, 1e20, 1e21])
    N = 3.0 * C**0.5 * np.array([1, 1, 1, 50.0])
    assert power_law(C[:3], N[:3]).exponent == pytest.approx(0.5)
    assert power_law(C, N, np.array([1, 1, 1, 1e6])).exponent == pytest.approx(0.5, abs=1e-9)
    assert power_law(C, N, np.array([1, 1, 1, np.nan])).exponent == pytest.approx(0.5, abs=1e-12)
    with pytest.raises(ValueError, match="two budgets"):
        power_law(C[:1], N[:1])


@pytest.mark.slow
def test_exponent_intervals_hold_the_truth_as_often_as_they_say():
    """200 sweeps of 5 budgets x 5 sizes, 1% noise: the 90% interval of the exponent."""
    rng = np.random.default_rng(0)
    frame = profiles(4, n=5)
    hits = []
    for _ in range(200):
        noisy = frame.assign(loss=frame.loss * np.exp(rng.normal(0, 0.01, len(frame))))
        part, _, _ = approach2(points_from_frame(noisy), None, 0.9)
        low, high = part.N_opt.ci
        if np.isfinite(low):
            hits.append(low <= BETA / (ALPHA + BETA) <= high)
    assert len(hits) > 150
    # Monte Carlo error is .02; the larger of two variances errs on the wide side.
    assert 0.86 <= np.mean(hits) <= 1.0


STAGES = {  # Porian et al. 2024: what was changed in Kaplan's set-up, one thing after another
    0.8353: ("base", "long", "kaplan", "kaplan"),
    0.7065: ("base", "long", "kaplan", "standard"),
    0.6020: ("base", "short", "kaplan", "standard"),
    0.5715: ("base", "short", "chinchilla", "standard"),
    0.4969: ("tuned", "short", "const", "standard"),
}
KEYS = ("hparams", "warmup", "decay", "param_count")


@pytest.mark.parametrize("exponent", STAGES)
def test_porian_exponents(exponent):
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        pytest.skip("ISOFLOP_SHARED_DATA is not set")
    where = " and ".join(f"{k} == '{v}'" for k, v in zip(KEYS, STAGES[exponent], strict=True))
    where += " and dataset == 'rw'"
    pairs = pd.read_csv(Path(folder) / "porian_optimal_pairs.csv").query(where)
    law = power_law(pairs.C.to_numpy(), pairs.N_opt.to_numpy(), pairs.n_star_std.to_numpy())
    assert law.exponent == pytest.approx(exponent, abs=1e-4)
    points = load_points(Path(folder) / "porian_isoflop_points.csv", where=where)
    part, _, _ = approach2(points, None, 0.9)
    assert part.methods["akima"]["N_opt"] == pytest.approx(exponent, abs=0.01)


def scattered(noise: float, seed: int, n: int = 120) -> pd.DataFrame:
    """Draw runs of Hoffmann's law of which no two share a budget."""
    rng = np.random.default_rng(seed)
    N = np.exp(rng.uniform(np.log(2e7), np.log(4e9), n))
    D = N * np.exp(rng.uniform(np.log(3), np.log(200), n))
    loss = hoffmann(N, D) * np.exp(noise * rng.standard_normal(n))
    return pd.DataFrame({"N": N, "D": D, "loss": loss})


def test_runs_that_share_no_budget_are_moved_to_one_before_a_profile_is_drawn():
    points = points_from_frame(scattered(0.0, 0))
    assert points.grouping == "log_bins"
    moved = at_budgets(points)
    there = np.log(hoffmann(moved.N, moved.D))
    error, unmoved = (np.std(np.log(p.loss) - there) for p in (moved, points))
    assert error < unmoved / 10
    np.testing.assert_allclose(6 * moved.N * moved.D, points.budget, rtol=1e-9)
    truth = BETA / (ALPHA + BETA)
    exponents = []
    for seed in range(12):
        part, _, _ = approach2(points_from_frame(scattered(0.004, seed)), None, 0.9)
        exponents.append(part.N_opt.exponent)
    assert np.mean(exponents) == pytest.approx(truth, abs=0.03)


def test_shared_budgets_are_left_as_they_are():
    points = points_from_frame(profiles(4, n=7))
    assert at_budgets(points).loss is points.loss


def test_a_ladder_of_one_ratio_gives_no_minimum():
    N = np.geomspace(1e7, 2e9, 25)
    points = points_from_frame(pd.DataFrame({"N": N, "D": 20 * N, "loss": hoffmann(N, 20 * N)}))
    assert not any(m.usable for m in find_minima(points))


def test_equal_losses_have_no_minimum():
    for method in Method:
        points = points_from_frame(profiles(4, n=7).assign(loss=3.0))
        assert {m.status for m in find_minima(points, method)} <= {"failed", "edge"}


def test_a_measurement_known_to_be_bad_hardly_moves_a_minimum():
    frame = profiles(4, n=7)
    spoilt = frame.assign(loss=frame.loss * np.where(np.arange(len(frame)) % 7 == 2, 1.05, 1.0))
    sd = np.where(np.arange(len(frame)) % 7 == 2, 0.15, 0.001)
    clean = find_minima(points_from_frame(frame))
    for m, known, unknown in zip(
        clean, find_minima(points_from_frame(spoilt.assign(loss_sd=sd))),
        find_minima(points_from_frame(spoilt)), strict=True,
    ):  # fmt: skip
        assert abs(np.log(known.N / m.N)) < 0.05
        assert not unknown.usable or abs(np.log(unknown.N / m.N)) > abs(np.log(known.N / m.N))
