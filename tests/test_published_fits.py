"""Fits of public sweeps against numbers that others published or that were computed apart.

The sweeps are not in this repository; ISOFLOP_SHARED_DATA names the folder that holds them.
"""

import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from analysis.engine import fit_law
from analysis.laws import LAWS
from analysis.resampling import bootstrap, percentile_interval

CHINCHILLA = LAWS["chinchilla"]


def read_sweep(name: str) -> pd.DataFrame:
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        pytest.skip("ISOFLOP_SHARED_DATA does not name the folder of public sweeps")
    return pd.read_csv(Path(folder) / name)


def fit_columns(rows: pd.DataFrame, law: str = "chinchilla", **options):
    return fit_law(law, rows["N"], rows["D"], rows["loss"], **options)


@pytest.fixture(scope="module")
def epoch() -> pd.DataFrame:
    """Hoffmann et al.'s figure 4 as digitised by Epoch AI, all 245 rows."""
    return read_sweep("chinchilla_epoch245.csv")


@pytest.fixture(scope="module")
def epoch240(epoch: pd.DataFrame) -> pd.DataFrame:
    return epoch[~epoch["excluded_by_epoch"]]


def test_huber_minimum_of_the_240_rows(epoch240):
    fit = fit_columns(epoch240, estimator="huber", delta=1e-3)
    assert fit.status == "ok"
    assert fit.objective == pytest.approx(1.018274018e-3, abs=1e-9)
    E, A, B, alpha, beta = fit.theta
    assert E == pytest.approx(1.81722, abs=5e-6)
    assert A == pytest.approx(477.83, abs=5e-3)
    assert B == pytest.approx(2143.4, abs=5e-2)
    assert alpha == pytest.approx(0.34731, abs=5e-6)
    assert beta == pytest.approx(0.36717, abs=5e-6)
    assert CHINCHILLA.a(fit.theta) == pytest.approx(0.5139, abs=5e-5)
    N, D = CHINCHILLA.optimum(fit.theta, 5.88e23)
    assert D / N == pytest.approx(17.91, abs=5e-3)


@pytest.mark.parametrize("options", [{"estimator": "huber", "delta": 1e-7}, {"estimator": "l1"}])
def test_published_constants_are_the_least_absolute_fit(epoch240, options):
    fit = fit_columns(epoch240, **options)
    assert fit.status == "ok"
    E, A, B, alpha, beta = fit.theta
    assert E == pytest.approx(1.81686, abs=1e-5)
    assert A == pytest.approx(482.00, abs=1e-2)
    assert B == pytest.approx(2085.4, abs=1e-1)
    assert alpha == pytest.approx(0.34781, abs=1e-5)
    assert beta == pytest.approx(0.36585, abs=1e-5)


def test_five_dropped_rows_move_the_exponent(epoch):
    fit = fit_columns(epoch, estimator="huber")
    assert fit.objective == pytest.approx(1.8260105e-3, abs=1e-9)
    assert fit.theta[CHINCHILLA.index("beta")] == pytest.approx(0.45305, abs=5e-6)
    assert CHINCHILLA.a(fit.theta) == pytest.approx(0.5646, abs=5e-5)


def test_standard_errors_of_4000_row_draws(epoch240):
    fit = fit_columns(epoch240, estimator="huber")
    draws = bootstrap(fit, epoch240["N"], epoch240["D"], epoch240["loss"], draws=4000, seed=0)
    assert draws.converged.all()
    a = CHINCHILLA.a(draws.theta)
    E, A, B, alpha, beta = draws.theta.std(axis=0)
    expected = {"A": 124.5, "B": 1293, "E": 0.0257, "alpha": 0.0154, "beta": 0.0206, "a": 0.0200}
    measured = {"A": A, "B": B, "E": E, "alpha": alpha, "beta": beta, "a": a.std()}
    assert measured == pytest.approx(expected, rel=0.1)
    low, high = percentile_interval(a, 0.8, float(CHINCHILLA.a(fit.theta)))
    assert high - low == pytest.approx(0.0514, rel=0.1)


@pytest.mark.parametrize("estimator", ["t4", "huber", "ls", "l1"])
def test_noise_free_surface_is_recovered(estimator):
    rows = read_sweep("cs336_isoflops.csv")
    fit = fit_columns(rows, estimator=estimator)
    assert fit.status == "ok"
    assert fit.theta == pytest.approx([2.69, 1606.4, 3210.7, 0.34, 0.36], rel=1e-5)
    N, _ = CHINCHILLA.optimum(fit.theta, [1e23, 1e24])
    assert N == pytest.approx([9.19e10, 3.00e11], rel=2e-3)


class TestRepeatedData:
    """Muennighoff et al. 2023: the half-life of repeated data is not fixed by their runs."""

    held: ClassVar[dict[str, float]] = {
        "A": np.exp(6.255414),
        "B": np.exp(7.3049974),
        "E": np.exp(0.6254804),
        "alpha": 0.3526596,
        "beta": 0.3526596,
    }
    law = LAWS["data_constrained"]

    @pytest.fixture
    def rows(self) -> pd.DataFrame:
        rows = read_sweep("datablations_runs.csv")
        return rows[rows["set"] == "fit182"]

    def fit(self, rows: pd.DataFrame, **held: float):
        extra = {"unique_tokens": rows["U"]}
        fixed = self.held | held
        return fit_columns(rows, "data_constrained", estimator="huber", fixed=fixed, extra=extra)

    def test_published_constants_score_what_was_published(self, rows):
        theta = [self.held[name] for name in ("E", "A", "B", "alpha", "beta")]
        predicted = self.law.loss(
            [*theta, 15.3878, 5.3097], rows["N"], rows["D"], unique_tokens=rows["U"]
        )
        r = np.log(predicted) - np.log(rows["loss"])
        clipped = np.clip(r, -1e-3, 1e-3)
        assert (clipped * (r - clipped / 2)).sum() == pytest.approx(0.015825935, abs=1e-9)
        residual, centred = rows["loss"] - predicted, rows["loss"] - rows["loss"].mean()
        assert 1 - (residual**2).sum() / (centred**2).sum() == pytest.approx(0.7722046, abs=1e-6)

    def test_a_better_optimum_exists_and_is_flat(self, rows):
        fit = self.fit(rows)
        assert fit.objective <= 0.015805
        assert fit.status == "flat"
        assert "R_D" in fit.reason
        for R_D in (14.0, 200.0):
            held = self.fit(rows, R_D=R_D)
            assert held.theta[self.law.index("R_D")] == pytest.approx(R_D)
            assert fit.log_likelihood - held.log_likelihood < 1.92
