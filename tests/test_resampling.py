"""Pairs bootstrap: which rows are drawn, what comes of each draw, and the intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.engine import fit_law
from analysis.estimators import ESTIMATORS
from analysis.laws import LAWS
from analysis.resampling import bootstrap, percentile_interval, resampling_weights
from tests.planted import TRUTHS, planted_sweep

CHINCHILLA = LAWS["chinchilla"]


@pytest.fixture(scope="module")
def sweep():
    return planted_sweep("chinchilla", budgets=6, sizes=10, noise=0.003)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_each_draw_is_the_fit_of_its_own_rows(sweep, estimator):
    """A draw warm-started in a batch equals a fit from scratch to the repeated rows."""
    fit = fit_law("chinchilla", sweep.N, sweep.D, sweep.loss, C=sweep.C, estimator=estimator)
    draws = bootstrap(fit, sweep.N, sweep.D, sweep.loss, C=sweep.C, draws=5, seed=4)
    assert draws.converged.all()
    weights = resampling_weights(np.random.default_rng(4), 5, np.arange(sweep.N.size))
    for theta, row in zip(draws.theta, weights, strict=True):
        again = fit_law(
            *("chinchilla", sweep.N, sweep.D, sweep.loss),
            C=sweep.C,
            estimator=estimator,
            weights=row,
        )
        # draws of l1 stop at a threshold of 1e-4; the others meet the same minimum
        assert theta == pytest.approx(again.theta, rel=0.05 if estimator == "l1" else 1e-4)


def test_same_seed_same_draws(sweep):
    fit = fit_law("chinchilla", sweep.N, sweep.D, sweep.loss, estimator="huber")
    one, two, other = (
        bootstrap(fit, sweep.N, sweep.D, sweep.loss, draws=50, seed=seed).theta
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, other)


def test_more_draws_begin_with_the_same_ones(sweep):
    """Chunks must not show: the first draws do not depend on how many follow."""
    fit = fit_law("chinchilla", sweep.N, sweep.D, sweep.loss, estimator="huber")
    few = bootstrap(fit, sweep.N, sweep.D, sweep.loss, draws=40).theta
    many = bootstrap(fit, sweep.N, sweep.D, sweep.loss, draws=400).theta
    np.testing.assert_allclose(many[:40], few, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=12),
    draws=st.integers(1, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_clusters_are_drawn_whole(sizes, draws, seed):
    members = np.repeat(np.arange(len(sizes)), sizes)
    weights = resampling_weights(np.random.default_rng(seed), draws, members)
    assert weights.shape == (draws, len(members))
    first = np.cumsum([0, *sizes[:-1]])
    np.testing.assert_array_equal(weights, weights[:, first][:, members])
    np.testing.assert_array_equal(weights[:, first].sum(axis=1), len(sizes))


def test_cluster_ids_may_be_text_in_any_order(sweep):
    fit = fit_law("chinchilla", sweep.N, sweep.D, sweep.loss, estimator="huber")
    ids = np.array([f"size{i % 10}" for i in range(sweep.N.size)])
    numbers = np.array([i % 10 for i in range(sweep.N.size)])
    by_text = bootstrap(fit, sweep.N, sweep.D, sweep.loss, draws=30, clusters=ids)
    by_number = bootstrap(fit, sweep.N, sweep.D, sweep.loss, draws=30, clusters=numbers)
    np.testing.assert_array_equal(by_text.theta, by_number.theta)


def test_effects_shared_by_a_size_widen_the_clustered_interval():
    size = np.repeat(np.arange(12), 8)
    N = np.geomspace(1e7, 2e9, 12)[size]
    D = np.tile(np.geomspace(1e9, 1e12, 8), 12)
    rng = np.random.default_rng(0)
    loss = CHINCHILLA.loss(TRUTHS["chinchilla"], N, D)
    loss = loss * np.exp(rng.normal(0, 0.004, 12)[size] + rng.normal(0, 1e-4, size.size))
    fit = fit_law("chinchilla", N, D, loss, estimator="ls")
    by_row, by_size = (
        bootstrap(fit, N, D, loss, draws=400, clusters=clusters) for clusters in (None, size)
    )
    alpha = CHINCHILLA.index("alpha")
    assert np.nanstd(by_size.theta[:, alpha]) > 1.5 * np.nanstd(by_row.theta[:, alpha])


@pytest.mark.parametrize("estimator", ["t4", "huber", "ls"])
def test_bootstrap_spread_matches_that_over_simulations(estimator):
    """Rows are independent here, so that resampling them must show what repeating would."""
    spreads, estimates = [], []
    for seed in range(40):
        sweep = planted_sweep("chinchilla", budgets=6, sizes=10, noise=0.002, seed=seed)
        fit = fit_law("chinchilla", sweep.N, sweep.D, sweep.loss, C=sweep.C, estimator=estimator)
        draws = bootstrap(fit, sweep.N, sweep.D, sweep.loss, C=sweep.C, draws=60, seed=seed)
        estimates.append(CHINCHILLA.a(fit.theta))
        spreads.append(np.nanstd(CHINCHILLA.a(draws.theta)))
    assert np.sqrt(np.mean(np.square(spreads))) == pytest.approx(np.std(estimates), rel=0.35)


def test_draws_that_creep_along_a_valley_are_kept_below_where_they_began():
    """Losses without an E leave chinchilla's E open; draws without those few end too soon."""
    sweep = planted_sweep("no_E", noise=0.003)
    fit = fit_law("chinchilla", sweep.N, sweep.D, sweep.loss, estimator="ls")
    draws = bootstrap(fit, sweep.N, sweep.D, sweep.loss, draws=150, seed=3)
    assert draws.converged.mean() > 0.9
    assert np.isfinite(draws.theta).all()
    weights = resampling_weights(np.random.default_rng(3), 150, np.arange(sweep.N.size))

    def objective(theta):
        return weights * np.log(CHINCHILLA.loss(theta, sweep.N, sweep.D) / sweep.loss) ** 2

    ends, began = objective(draws.theta[:, None, :]).sum(1), objective(fit.theta).sum(1)
    assert (ends <= began * (1 + 1e-9)).all()


def test_held_parameters_are_held_in_every_draw(sweep):
    fit = fit_law("chinchilla", sweep.N, sweep.D, sweep.loss, fixed={"E": 1.7})
    draws = bootstrap(fit, sweep.N, sweep.D, sweep.loss, draws=20)
    np.testing.assert_allclose(draws.theta[:, 0], 1.7, rtol=1e-12)


def test_progress_ends_at_the_number_of_draws(sweep):
    fit = fit_law("chinchilla", sweep.N, sweep.D, sweep.loss, estimator="huber")
    seen = []
    bootstrap(
        *(fit, sweep.N, sweep.D, sweep.loss),
        draws=500,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (500, 500)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_fit_without_parameters_cannot_be_resampled(sweep):
    fit = fit_law("chinchilla", sweep.N[:3], sweep.D[:3], sweep.loss[:3])
    with pytest.raises(ValueError, match="chinchilla was not fitted: 3 distinct points"):
        bootstrap(fit, sweep.N[:3], sweep.D[:3], sweep.loss[:3])


def test_clusters_of_another_length_are_refused(sweep):
    fit = fit_law("chinchilla", sweep.N, sweep.D, sweep.loss, estimator="huber")
    with pytest.raises(ValueError, match=r"clusters has shape \(3,\)"):
        bootstrap(fit, sweep.N, sweep.D, sweep.loss, clusters=[1, 2, 3])


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50),
    level=st.floats(0.05, 0.99),
    estimate=st.floats(-1e6, 1e6),
)
def test_interval_contains_its_own_estimate(values, level, estimate):
    low, high = percentile_interval(values, level, estimate)
    assert low <= estimate <= high
    bare = percentile_interval(values, level)
    assert low <= bare[0] <= bare[1] <= high


def test_interval_of_known_draws():
    values = [*np.linspace(0, 1, 1001), np.nan, np.inf]
    assert percentile_interval(values, 0.9) == pytest.approx((0.05, 0.95))
    assert np.isnan(percentile_interval([np.nan, 1.0], 0.9)).all()
