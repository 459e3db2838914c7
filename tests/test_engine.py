"""The fit engine: planted laws, agreement with another minimiser, invariances, and statuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp

from analysis.engine import LawFit, fit_law, rebuild, refit
from analysis.estimators import ESTIMATORS
from analysis.laws import LAWS
from analysis.resampling import resampling_weights
from tests.planted import TRUTHS, Sweep, planted_sweep

CHINCHILLA = LAWS["chinchilla"]


def fit_sweep(sweep: Sweep, law: str | None = None, **options) -> LawFit:
    return fit_law(
        law or sweep.law, sweep.N, sweep.D, sweep.loss, C=sweep.C, extra=sweep.extra, **options
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", sorted(LAWS))
def test_every_estimator_recovers_every_planted_law(name, estimator):
    sweep = planted_sweep(name)
    fit = fit_sweep(sweep, estimator=estimator)
    assert fit.status == ("ok" if sweep.law.has_optimum else "no_optimum")
    assert fit.theta == pytest.approx(sweep.theta, rel=1e-6)
    assert fit.starts_at_optimum > 0.5


@settings(max_examples=25, deadline=None)
@given(
    E=st.floats(0.5, 3.0),
    reducible_N=st.floats(0.2, 2.0),
    reducible_D=st.floats(0.2, 2.0),
    alpha=st.floats(0.2, 0.6),
    beta=st.floats(0.2, 0.6),
    estimator=st.sampled_from(ESTIMATORS),
)
def test_well_posed_planted_laws_are_recovered(E, reducible_N, reducible_D, alpha, beta, estimator):
    """Terms of .2 to 2 nats in the middle of the sweep, at N 4e8 and D 8e9."""
    theta = (E, reducible_N * 4e8**alpha, reducible_D * 8e9**beta, alpha, beta)
    sweep = planted_sweep("chinchilla", theta)
    fit = fit_sweep(sweep, estimator=estimator)
    assert fit.status == "ok"
    assert fit.theta == pytest.approx(theta, rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=10, deadline=None)
@given(log_N=st.floats(-6, 6), log_D=st.floats(-6, 6), seed=st.integers(0, 99))
def test_units_of_n_and_d_do_not_matter(estimator, log_N, log_D, seed):
    sweep = planted_sweep("chinchilla", noise=0.003, seed=seed)
    k, m = 10**log_N, 10**log_D
    plain = fit_sweep(sweep, estimator=estimator)
    moved = fit_law(
        "chinchilla", sweep.N * k, sweep.D * m, sweep.loss, C=sweep.C, estimator=estimator
    )
    E, A, B, alpha, beta = plain.theta
    expected = [E, A * k**alpha, B * m**beta, alpha, beta]
    assert moved.objective == pytest.approx(plain.objective, rel=1e-9)
    assert moved.theta == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_unit_of_the_loss_scales_the_multipliers(estimator):
    sweep = planted_sweep("chinchilla", noise=0.003)
    plain = fit_sweep(sweep, estimator=estimator)
    bits = fit_law(
        "chinchilla", sweep.N, sweep.D, sweep.loss / np.log(2), C=sweep.C, estimator=estimator
    )
    scale = np.array([1 / np.log(2)] * 3 + [1.0, 1.0])
    assert bits.theta == pytest.approx(plain.theta * scale, rel=1e-5)


class TestAgainstLbfgs:
    """scipy's L-BFGS from many starts, on the published parametrisation, must not do better."""

    @staticmethod
    def objective(p, log_N, log_D, log_L, weights, delta):
        a, b, e, alpha, beta = p
        terms = np.stack([a - alpha * log_N, b - beta * log_D, np.full_like(log_N, e)])
        predicted = logsumexp(terms, axis=0)
        r = predicted - log_L
        clipped = np.clip(r, -delta, delta)
        shares = np.exp(terms - predicted) * (weights * clipped)
        gradient = [
            shares[0].sum(),
            shares[1].sum(),
            shares[2].sum(),
            -(shares[0] @ log_N),
            -(shares[1] @ log_D),
        ]
        scale = 1.0 / delta if np.isfinite(delta) else 1.0  # L-BFGS stops early on tiny numbers
        value = (weights * clipped * (r - clipped / 2)).sum()
        return scale * value, scale * np.array(gradient)

    def best(self, sweep: Sweep, weights, delta, starts=6) -> float:
        log_N, log_D = np.log(sweep.N) - np.log(4e8), np.log(sweep.D) - np.log(8e9)
        log_L = np.log(sweep.loss)
        rng = np.random.default_rng(1)
        scale = 1.0 / delta if np.isfinite(delta) else 1.0
        values = []
        for _ in range(starts):
            start = rng.uniform([-2, -2, -1, 0.1, 0.1], [1, 1, 1, 0.7, 0.7])
            found = minimize(
                self.objective,
                start,
                args=(log_N, log_D, log_L, weights, delta),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-12},
            )
            values.append(found.fun / scale)
        return min(values)

    @pytest.mark.parametrize(
        ("estimator", "delta"), [("huber", 1e-3), ("huber", 1e-2), ("ls", np.inf)]
    )
    def test_never_above_on_resamples(self, estimator, delta):
        sweep = planted_sweep("chinchilla", noise=0.004, seed=5)
        delta_given = 1e-3 if np.isinf(delta) else delta
        fit = fit_sweep(sweep, estimator=estimator, delta=delta_given)
        problem = rebuild(fit, sweep.N, sweep.D, sweep.loss, C=sweep.C)
        rows = np.arange(sweep.N.size)
        weights = resampling_weights(np.random.default_rng(0), 3, rows)
        theta, converged = refit(fit, problem, weights)
        assert converged.all()
        predicted = CHINCHILLA.loss(theta[:, None, :], sweep.N, sweep.D)
        r = np.log(predicted / sweep.loss)
        clipped = np.clip(r, -delta, delta)
        ours = (weights * clipped * (r - clipped / 2)).sum(axis=1)
        theirs = [self.best(sweep, row, delta) for row in weights]
        assert (ours <= np.array(theirs) * (1 + 1e-9)).all()


def test_integer_weights_are_repeated_rows():
    sweep = planted_sweep("chinchilla", noise=0.003)
    weights = np.random.default_rng(3).integers(0, 3, sweep.N.size)
    weighted = fit_sweep(sweep, estimator="huber", weights=weights)
    repeated = fit_law(
        "chinchilla",
        np.repeat(sweep.N, weights),
        np.repeat(sweep.D, weights),
        np.repeat(sweep.loss, weights),
        estimator="huber",
    )
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-9)
    assert weighted.theta == pytest.approx(repeated.theta, rel=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_held_parameters_stay_and_the_rest_is_fitted(estimator):
    sweep = planted_sweep("chinchilla", noise=0.002)
    held = {"E": 1.69, "A": 406.4}
    fit = fit_sweep(sweep, estimator=estimator, fixed=held)
    assert fit.status == "ok"
    assert fit.theta[:2] == pytest.approx([1.69, 406.4], rel=1e-12)
    assert fit.theta == pytest.approx(sweep.theta, rel=0.2)
    free = fit_sweep(sweep, estimator=estimator)
    assert fit.objective >= free.objective


def test_t4_sees_noise_that_falls_with_compute():
    sweep = planted_sweep("chinchilla", budgets=8, sizes=15)
    centred = np.log(sweep.C) - np.log(sweep.C).mean()
    sigma = 0.002 * np.exp(-0.2 * centred)
    rng = np.random.default_rng(0)
    noisy = sweep.loss * np.exp(sigma * rng.standard_t(4, size=sigma.size))
    fit = fit_law("chinchilla", sweep.N, sweep.D, noisy, C=sweep.C, estimator="t4")
    assert fit.noise["slope"] == pytest.approx(-0.2, abs=0.08)
    assert fit.noise["scale"] == pytest.approx(0.002, rel=0.3)
    assert fit.noise["log_C"] == pytest.approx(np.log(sweep.C).mean())


@pytest.mark.parametrize("estimator", ["t4", "huber", "l1"])
def test_bad_runs_do_not_move_a_robust_fit(estimator):
    sweep = planted_sweep("chinchilla", budgets=6, sizes=11, noise=0.001)
    rng = np.random.default_rng(2)
    bad = rng.random(sweep.N.size) < 0.08
    loss = np.where(bad, sweep.loss * 1.1, sweep.loss)
    robust = fit_law("chinchilla", sweep.N, sweep.D, loss, estimator=estimator)
    naive = fit_law("chinchilla", sweep.N, sweep.D, loss, estimator="ls")
    truth = CHINCHILLA.a(sweep.theta)
    assert CHINCHILLA.a(robust.theta) == pytest.approx(truth, abs=0.02)
    assert abs(CHINCHILLA.a(robust.theta) - truth) < abs(CHINCHILLA.a(naive.theta) - truth)


@pytest.mark.parametrize("estimator", ["t4", "ls", "huber"])
def test_covariance_matches_the_spread_over_simulations(estimator):
    fits = [
        fit_sweep(
            planted_sweep("chinchilla", budgets=6, sizes=12, noise=0.002, seed=seed),
            estimator=estimator,
        )
        for seed in range(60)
    ]
    alpha = CHINCHILLA.index("alpha")
    spread = np.std([fit.theta[alpha] for fit in fits])
    predicted = np.sqrt(np.mean([fit.covariance[alpha, alpha] for fit in fits]))
    assert predicted == pytest.approx(spread, rel=0.35)


class TestStatus:
    def test_too_few(self):
        sweep = planted_sweep("chinchilla")
        fit = fit_law("chinchilla", sweep.N[:4], sweep.D[:4], sweep.loss[:4])
        assert fit.status == "too_few"
        assert fit.reason == "4 distinct points cannot fix 5 parameters of chinchilla"
        assert np.isnan(fit.theta).all()
        assert fit.covariance is None

    def test_repeated_points_are_not_distinct(self):
        sweep = planted_sweep("chinchilla")
        N, D, loss = (np.tile(v[:3], 5) for v in (sweep.N, sweep.D, sweep.loss))
        assert fit_law("chinchilla", N, D, loss).status == "too_few"

    def test_loss_without_an_irreducible_part_is_at_bound(self):
        fit = fit_sweep(planted_sweep("no_E", noise=1e-4), "chinchilla", estimator="ls")
        assert fit.status in {"at_bound", "flat"}
        assert "E" in fit.reason

    def test_loss_that_grows_with_tokens_has_no_optimum(self):
        sweep = planted_sweep("chinchilla")
        rising = 2.0 + 300 * sweep.N**-0.3 + 0.001 * sweep.D**0.2
        fit = fit_law("chinchilla", sweep.N, sweep.D, rising, estimator="ls")
        assert fit.status in {"no_optimum", "at_bound", "flat"}
        assert fit.reason

    def test_one_size_cannot_fix_two_terms(self):
        D = np.geomspace(1e9, 1e11, 12)
        N = np.full(12, 1e8)
        loss = CHINCHILLA.loss(TRUTHS["chinchilla"], N, D)
        fit = fit_law("chinchilla", N, D, loss, estimator="ls")
        assert fit.status in {"flat", "at_bound"}
        assert fit.covariance is None or np.isfinite(fit.covariance).all()

    def test_gradient_is_small_where_a_fit_is_ok(self):
        for seed in range(5):
            fit = fit_sweep(planted_sweep("chinchilla", noise=0.003, seed=seed), estimator="ls")
            assert fit.status == "ok"
            assert fit.gradient_norm < 1e-10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"law": "chinchila"}, "law 'chinchila' is not one of"),
        ({"estimator": "median"}, "estimator 'median' is not one of"),
        ({"fixed": {"gamma": 1.0}}, "no parameter gamma"),
        ({"loss": [1.0, 2.0]}, "loss has shape"),
    ],
)
def test_wrong_calls_say_what_is_right(change, message):
    sweep = planted_sweep("chinchilla")
    call = {"law": "chinchilla", "N": sweep.N, "D": sweep.D, "loss": sweep.loss} | change
    with pytest.raises((ValueError, KeyError), match=message):
        fit_law(call.pop("law"), call.pop("N"), call.pop("D"), call.pop("loss"), **call)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
@pytest.mark.parametrize("column", ["N", "D", "loss"])
def test_values_that_are_not_positive_are_named(column, bad):
    sweep = planted_sweep("chinchilla")
    values = {"N": sweep.N.copy(), "D": sweep.D.copy(), "loss": sweep.loss.copy()}
    values[column][7] = bad
    with pytest.raises(ValueError, match=f"{column} must be finite and positive; row 7"):
        fit_law("chinchilla", values["N"], values["D"], values["loss"])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_positive_rows_give_a_fit_with_a_status(data):
    """Nonsense in, a status out: no exception, no warning, no NaN where the status is ok."""
    n = data.draw(st.integers(1, 14))
    positive = st.floats(-2, 2).map(lambda x: 10.0**x)
    N, D, loss = (np.array([data.draw(positive) for _ in range(n)]) for _ in range(3))
    law = data.draw(st.sampled_from(["chinchilla", "tied", "no_E", "multiplicative", "envelope"]))
    estimator = data.draw(st.sampled_from(ESTIMATORS))
    fit = fit_law(law, N * 1e8, D * 1e10, loss, estimator=estimator)
    known = {"ok", "flat", "at_bound", "not_converged", "no_optimum", "too_few", "failed"}
    assert fit.status in known
    assert (fit.reason is None) == (fit.status == "ok")
    if fit.status == "ok":
        assert np.isfinite(fit.theta).all()
        assert np.isfinite([fit.objective, fit.gradient_norm, fit.condition]).all()
