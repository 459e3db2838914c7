"""A law that the package has never seen: forms and a formula are all that it takes to fit it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from analysis.engine import fit_law
from analysis.estimators import ESTIMATORS
from analysis.laws import LAWS, Form, Law
from analysis.laws_jets import exp, log
from analysis.resampling import bootstrap

THETA = np.array([1.7, 300.0, 2000.0, 0.3, 0.36, 0.04])


def euclidean(forms: Sequence, data: Mapping[str, np.ndarray]):
    """E + sqrt(t_A^2 + t_B^2), of logarithms of E, t_A and t_B."""
    log_E, s_A, s_B = forms
    return exp(log_E) + exp(0.5 * log(exp(2.0 * s_A) + exp(2.0 * s_B)))


LAW = Law(
    name="euclidean",
    parameters=("E", "A", "B", "alpha", "beta", "spill"),
    source="made up for this test: t_A = A N^-alpha D^-spill, t_B = B D^-beta",
    forms=(
        Form("E"),
        Form("A", (("alpha", "log_N", -1.0), ("spill", "log_D", -1.0))),
        Form("B", (("beta", "log_D", -1.0),)),
    ),
    exponents=frozenset({"alpha", "beta", "spill"}),
    formula=euclidean,
)


def sweep(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    C = np.repeat(np.geomspace(1e17, 1e21, 6), 11)
    N = np.sqrt(C / 120) * np.tile(np.geomspace(0.1, 10, 11), 6)
    D = C / (6 * N)
    t_A, t_B = THETA[1] * N ** -THETA[3] * D ** -THETA[5], THETA[2] * D ** -THETA[4]
    loss = THETA[0] + np.hypot(t_A, t_B)
    return N, D, loss * np.exp(noise * np.random.default_rng(0).normal(size=C.size))


def test_its_loss_is_its_formula():
    N, D, loss = sweep()
    np.testing.assert_allclose(LAW.loss(THETA, N, D), loss, rtol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_fits_it(estimator):
    N, D, loss = sweep()
    fit = fit_law(LAW, N, D, loss, estimator=estimator)
    assert fit.status == "ok"
    assert fit.theta == pytest.approx(THETA, rel=1e-5)
    np.testing.assert_allclose(LAW.loss(fit.theta, N, D), loss, rtol=1e-8)


def test_it_is_resampled_by_the_same_engine():
    N, D, loss = sweep(noise=0.002)
    fit = fit_law(LAW, N, D, loss)
    draws = bootstrap(fit, N, D, loss, draws=200)
    at = (N.max(), D.max())
    low, high = np.nanquantile(LAW.loss(draws.theta, *at), [0.005, 0.995])
    assert low < LAW.loss(THETA, *at) < high
    assert draws.converged.mean() > 0.95


def test_its_optimum_is_searched():
    N, D = LAW.optimum(THETA, np.array([1e19, 1e22]))
    assert 6 * N * D == pytest.approx([1e19, 1e22])
    for factor in (0.99, 1.01):
        assert (LAW.loss(THETA, N * factor, D / factor) > LAW.loss(THETA, N, D)).all()
    many = LAW.optimum(np.stack([THETA, THETA])[:, None, :], [1e19, 1e22])[0]
    np.testing.assert_allclose(many, [N, N])
    assert np.isnan(LAW.a(THETA))


def test_a_searched_optimum_is_the_closed_one():
    """Chinchilla as a law of which only the formula is known."""
    theta, C = [1.69, 406.4, 410.7, 0.34, 0.28], np.geomspace(1e18, 1e25, 4)
    bare = replace(LAWS["chinchilla"], optimum_rule=None)
    np.testing.assert_allclose(
        bare.optimum(theta, C), LAWS["chinchilla"].optimum(theta, C), rtol=1e-6
    )
    assert np.isnan(bare.optimum([1.69, 406.4, 410.7, 0.34, -0.1], C)).all()
