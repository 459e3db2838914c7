"""Laws beyond the fit: what is planted comes back, and what can't be known is not claimed."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.annealing import ANNEALING, NOTHING, areas, fit_annealing
from analysis.downstream import fit_downstream
from analysis.downstream_steps import fit_sigmoid, fit_two_steps
from analysis.emergence import edit_distance, exact_match, loss_of_first_success, token_accuracy
from analysis.engine import fit_law
from analysis.hyperparameters import best_values, fit_hyperparameter
from analysis.laws import LAWS
from analysis.laws_moe import ABNAR, ABNAR_PUBLISHED, CLARK, CLARK_S_BASE, KRAJEWSKI, KRAJEWSKI_64
from analysis.power_fit import fit_power
from analysis.transfer import effective_data, fit_transfer

# mixtures of experts


def moe_grid(column: str, values: list[float]) -> tuple[np.ndarray, np.ndarray, dict]:
    N, D, x = (
        v.ravel()
        for v in np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 3e11, 4), values)
    )
    return N, D, {column: x}


@pytest.mark.parametrize(
    ("law", "theta", "values"),
    [
        (KRAJEWSKI, KRAJEWSKI_64, [1, 4, 16]),
        (CLARK, CLARK_S_BASE, [2, 8, 32, 128, 512, 2048]),
        (ABNAR, ABNAR_PUBLISHED, [1, 0.3, 0.05]),
    ],
)
def test_constants_of_a_moe_law_come_back_by_the_common_engine(law, theta, values):
    N, D, extra = moe_grid(law.needs[0], values)
    loss = law.loss(theta, N, D, **extra)
    fit = fit_law(law, N, D, loss, estimator="ls", extra=extra)
    np.testing.assert_allclose(fit.theta, theta, rtol=2e-3)
    np.testing.assert_allclose(law.loss(fit.theta, N, D, **extra), loss, rtol=1e-8)


def test_moe_losses_are_the_formulas_of_their_papers():
    a, b, c, d, start, most = CLARK_S_BASE
    N, E = 1.3e9, 64.0
    saturated = 1 / (1 / (E - 1 + 1 / (1 / start - 1 / most)) + 1 / most)
    log10 = -a * np.log10(N) - b * np.log10(saturated) + c * np.log10(N) * np.log10(saturated) + d
    assert CLARK.loss(CLARK_S_BASE, N, 1.0, n_expert=E) == pytest.approx(10**log10)
    right = 0.47 + (2.1 / 8**0.58 + 18.1) / N**0.115 + 30.8 / 1e11**0.147
    assert KRAJEWSKI.loss(KRAJEWSKI_64, N, 1e11, granularity=8) == pytest.approx(right)
    S = 0.75
    right = 16612.5 / N**0.5962 + 5455.67 / 1e11**0.3954 + 0.4598 / (1 - S) ** -0.1666
    right += 17.26 / ((1 - S) ** 0.1603 * N**0.1595) + 0.94
    assert ABNAR.loss(ABNAR_PUBLISHED, N, 1e11, active_share=1 - S) == pytest.approx(right)


def test_a_moe_law_wants_its_column():
    with pytest.raises(ValueError, match="krajewski needs the column granularity"):
        fit_law(KRAJEWSKI, [1e9], [1e10], [3.0])


# annealing


def wsd(steps: int = 2000) -> np.ndarray:
    s = np.arange(1, steps + 1)
    return (
        3e-3
        * np.minimum(1, s / 100)
        * (1 - np.sqrt(np.clip((s - 0.8 * steps) / (0.2 * steps), 0, 1)))
    )


def test_annealing_areas_are_the_sums_that_define_them():
    lr, memory = np.array([1.0, 2.0, 2.0, 1.0, 0.5]), 0.9
    S1, S2 = areas(lr, memory)
    np.testing.assert_allclose(S1, [1, 3, 5, 6, 6.5])
    momentum = [0, 0, 0, 1, 0.9 + 0.5]
    np.testing.assert_allclose(S2, np.cumsum(momentum))
    for bad in ([-1.0], [np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="learning rates"):
            areas(bad)
    with pytest.raises(ValueError, match="between 0 and 1"):
        areas(lr, 1.0)


def test_a_planted_annealing_law_comes_back_and_extends_the_schedule():
    theta, lr, step = [2.6, 0.6, 0.4, 0.5], wsd(), np.arange(100, 2001, 50)
    S1, S2 = areas(lr)
    at = {"lr_area": S1[step - 1], "annealing_area": np.maximum(S2[step - 1], NOTHING)}
    loss = ANNEALING.loss(theta, 1.0, 1.0, **at)
    np.testing.assert_allclose(loss, 2.6 + 0.6 * S1[step - 1] ** -0.5 - 0.4 * S2[step - 1])
    fit = fit_annealing(step, loss, lr)
    assert fit.status == "ok"
    np.testing.assert_allclose(fit.theta, theta, rtol=1e-4)
    early = step <= 1500
    assert fit_annealing(step[early], loss[early], lr).status == "flat"
    with pytest.raises(ValueError, match="between 1 and the 2000 steps"):
        fit_annealing([2001], [3.0], lr)


# transfer


def test_planted_transfer_comes_back_from_losses():
    """D_T is read off the law of training from scratch, then fitted."""
    k, alpha, beta = 2e4, 0.2, 0.35
    law, theta = LAWS["chinchilla"], [1.7, 400.0, 800.0, 0.34, 0.31]
    N, D_F = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e6, 1e9, 5)))
    D_T = k * D_F**alpha * N**beta
    loss = law.loss(theta, N, D_F + D_T)
    found = [effective_data(law, theta, *row) - row[2] for row in zip(N, loss, D_F, strict=True)]
    np.testing.assert_allclose(found, D_T, rtol=1e-6)
    fit = fit_transfer(found, D_F, N)
    assert (fit.k, fit.alpha, fit.beta) == pytest.approx((k, alpha, beta), rel=1e-5)
    assert fit.transferred(1e7, 1e8) == pytest.approx(k * 1e7**alpha * 1e8**beta, rel=1e-5)
    assert np.isnan(effective_data(law, theta, 1e8, 1.0, 1e7))  # below what any data gives


# emergence


def test_one_loss_looks_sudden_or_smooth_by_the_metric():
    """Ten times the tokens a step: a power of p jumps from nothing, a count of tokens does not."""
    loss = 3.0 * 0.75 ** np.arange(9)  # 3 to 0.3 nats
    np.testing.assert_allclose(exact_match(loss, 5), np.exp(-5 * loss))
    np.testing.assert_allclose(edit_distance(loss, 5), 5 * (1 - np.exp(-loss)))
    sharp, smooth = np.diff(exact_match(loss, 10)), np.diff(token_accuracy(loss))
    assert sharp.max() > 0.6 * sharp.sum()  # most of the rise is in one step of eight
    assert smooth.max() < 0.25 * smooth.sum()
    seen = exact_match(loss, 10) * 100 >= 1
    assert (seen == (loss <= loss_of_first_success(10, 100))).all()
    assert 0 < seen.sum() < len(loss)
    for wrong in (lambda: exact_match(loss, 0), lambda: loss_of_first_success(3, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            wrong()


# downstream


def ladder(noise: float = 0.0) -> tuple[np.ndarray, ...]:
    N = np.repeat(np.geomspace(1e8, 3e9, 6), 5)
    D = N * np.tile([10, 20, 40, 80, 160], 6)
    task = 0.4 + 60 / N**0.3 + 80 / D**0.28
    right = 0.7 / (1 + np.exp(6 * (task - 0.7))) + 0.25
    rng = np.random.default_rng(0)
    return N, D, task * np.exp(noise * rng.normal(size=30)), right + noise * rng.normal(size=30)


def test_both_steps_come_back():
    N, D, task, accuracy = ladder()
    both = fit_two_steps(N, D, task, accuracy, draws=30)
    assert (both.second.a, both.second.k, both.second.L0, both.second.b) == pytest.approx(
        (0.7, -6, 0.7, 0.25), rel=1e-3
    )
    assert both.second.status == "ok"
    np.testing.assert_allclose(both.first.theta, [0.4, 60, 80, 0.3, 0.28], rtol=1e-3)
    loss = 0.4 + 60 / 13e9**0.3 + 80 / 5e12**0.28
    assert both.accuracy(13e9, 5e12)[0] == pytest.approx(
        0.7 / (1 + np.exp(6 * (loss - 0.7))) + 0.25
    )


def test_an_accuracy_has_an_interval_from_both_steps():
    at, (low, high) = fit_two_steps(*ladder(0.004), draws=100).accuracy(13e9, 5e12)
    loss = 0.4 + 60 / 13e9**0.3 + 80 / 5e12**0.28
    assert low < at < high
    assert low < 0.7 / (1 + np.exp(6 * (loss - 0.7))) + 0.25 < high


def test_one_end_of_a_sigmoid_does_not_identify_it():
    _, _, task, accuracy = ladder()
    end = task > 0.75
    assert fit_sigmoid(task[end], accuracy[end]).status == "flat"
    assert fit_sigmoid(task[:3], accuracy[:3]).status == "too_few"
    with pytest.raises(ValueError, match="finite"):
        fit_sigmoid([1.0, np.nan], [0.1, 0.2])


def test_the_second_step_on_a_published_sweep():
    """Gadre et al.'s runs: a sigmoid of the C4 loss fits their 17-task error as their law does."""
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        pytest.skip("ISOFLOP_SHARED_DATA does not name the folder of public sweeps")
    runs = pd.read_csv(Path(folder) / "gadre_models.csv").dropna(
        subset=["loss_c4_val", "err_avg_subset"]
    )
    loss, error = runs["loss_c4_val"].to_numpy(), runs["err_avg_subset"].to_numpy()
    exponential, sigmoid = fit_downstream(loss, error), fit_sigmoid(loss, 1 - error)
    assert len(runs) > 50
    assert sigmoid.rms < 1.02 * exponential.rms


# hyper-parameters


def lr_sweep(tried: np.ndarray, noise: float = 0.0) -> pd.DataFrame:
    """Losses that rise by the square of log2(lr / lr*), lr* by Step Law's constants."""
    rows, rng = [], np.random.default_rng(0)
    for N in np.geomspace(2e8, 1e9, 4):
        for D in np.geomspace(4e9, 1e11, 4):
            best = 1.79 * N**-0.713 * D**0.307
            for lr in tried:
                loss = 2.5 * (1 + 0.01 * np.log2(lr / best) ** 2 + noise * rng.normal())
                rows.append({"N": N, "D": D, "lr": lr, "loss": loss})
    return pd.DataFrame(rows)


def test_a_planted_law_of_the_learning_rate_comes_back():
    law = fit_hyperparameter(lr_sweep(np.geomspace(1e-4, 2e-2, 16)), "lr")
    assert law.status == "ok"
    assert {b.status for b in law.best} == {"ok"}
    assert law.fit.coefficient == pytest.approx(1.79, rel=1e-6)
    assert law.fit.exponents == pytest.approx({"N": -0.713, "D": 0.307})
    noisy = fit_hyperparameter(lr_sweep(np.geomspace(1e-4, 2e-2, 16), 2e-3), "lr")
    for name, truth in (("N", -0.713), ("D", 0.307)):
        low, high = noisy.fit.intervals[name]
        assert low < truth < high


def test_best_values_at_the_edge_of_a_sweep_are_flagged_and_left_out():
    frame = lr_sweep(np.geomspace(1e-4, 1.3e-3, 8))  # too low for small N on many tokens
    law = fit_hyperparameter(frame, "lr")
    best = {b.status for b in law.best}
    assert best >= {"ok", "edge"}
    assert all(np.isnan(b.value) for b in law.best if b.status == "edge")
    assert law.fit.n == sum(b.status in ("ok", "off_centre") for b in law.best)
    low = fit_hyperparameter(lr_sweep(np.geomspace(1e-5, 1e-4, 6)), "lr")
    assert low.status == "edge"
    assert "16 of 16 groups" in low.reason
    few = best_values(frame[frame.lr < 3e-4], "lr", ("N", "D"))
    assert {b.status for b in few} == {"too_few"}


def test_powers_that_move_together_are_not_told_apart():
    N = np.geomspace(1e8, 1e9, 6)
    fit = fit_power(N**-0.5, {"N": N, "D": 20 * N})
    assert fit.status == "inseparable"
    assert np.isnan(fit.exponents["N"])
    assert fit_power([1.0, 2.0], {"N": [1.0, 2.0], "D": [1.0, 3.0]}).status == "too_few"
    assert np.isnan(fit_power([1.0, 2.0], {"N": [1.0, 2.0]}).intervals["N"]).all()
    for y, x in (([1.0, -1.0], [1.0, 2.0]), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match=r"positive|lengths"):
            fit_power(y, {"N": x})
    with pytest.raises(ValueError, match="no column lr"):
        fit_hyperparameter(pd.DataFrame({"N": N, "D": N, "loss": N}), "lr")
