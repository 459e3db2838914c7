"""When to stop: planted curves whose end is known, cut before it."""

import numpy as np
import pytest

from analysis.annealing import areas
from analysis.stopping import Curve, diverged, outlook, plateau, project

STEPS, EVALUATIONS = 1000, 20


def curve(
    level: float = 2.5, power: float = 0.5, tokens: float = 1e9, noise: float = 0.0, seed=0
) -> Curve:
    """One run under WSD by the annealing law, evaluated twenty times."""
    s = np.arange(1, STEPS + 1)
    lr = 3e-3 * np.minimum(1, s / 50) * (1 - np.sqrt(np.clip((s - 800) / 200, 0, 1)))
    S1, S2 = areas(lr)
    at = np.arange(STEPS // EVALUATIONS, STEPS + 1, STEPS // EVALUATIONS)
    loss = level + 0.6 * S1[at - 1] ** -power - 0.4 * S2[at - 1]
    loss = loss * np.exp(noise * np.random.default_rng(seed).normal(size=EVALUATIONS))
    return Curve(at / STEPS * tokens, loss, tokens, lr[at - 1], loss - 0.05)


def cut(whole: Curve, share: float, **changes) -> Curve:
    n = int(share * EVALUATIONS)
    values = {k: getattr(whole, k)[:n] for k in ("tokens", "eval_loss", "lr", "train_loss")}
    return Curve(**{**values, "planned_tokens": whole.planned_tokens, **changes})


FINISHED = [curve(level, power, tokens) for level, power, tokens in
            ((2.4, 0.5, 5e8), (2.6, 0.52, 1e9), (2.5, 0.48, 2e9), (2.3, 0.5, 2e9))]  # fmt: skip


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_end_is_projected_within_one_per_cent_before_the_decay(share):
    whole = curve(2.45)
    loss, (low, high), _ = project(cut(whole, share), FINISHED)
    assert loss == pytest.approx(whole.eval_loss[-1], rel=0.01)
    assert low < whole.eval_loss[-1] < high
    assert loss < 0.97 * whole.eval_loss[int(share * EVALUATIONS) - 1]  # the decay is counted in


def test_intervals_hold_the_end_about_as_often_as_they_say():
    inside = []
    for seed in range(200):
        runs = [curve(2.4 + 0.05 * (i % 3), noise=0.003, seed=8 * seed + i) for i in range(8)]
        low, high = project(cut(runs[0], 0.6), runs[1:])[1]
        inside.append(low < runs[0].eval_loss[-1] < high)
    assert 0.83 < np.mean(inside) < 0.96


def test_verdicts_follow_the_prediction():
    whole = curve(2.45)
    running, end = cut(whole, 0.6), whole.eval_loss[-1]
    for predicted, reach, verdict in (
        (end * 1.02, 0.005, "beats"),
        (end * 0.995, 0.005, "beats"),  # within one per cent
        (end * 0.97, 0.05, "behind"),  # the prediction's own interval holds it
        (end * 0.9, 0.02, "hopeless"),
    ):
        interval = (predicted * (1 - reach), predicted * (1 + reach))
        assert outlook(running, predicted, interval, FINISHED).verdict == verdict
    assert outlook(running, end * 0.5, (np.nan, np.nan), FINISHED).verdict == "behind"


def test_without_finished_cells_nothing_is_said_of_the_end():
    got = outlook(cut(curve(), 0.6), 2.0, (1.9, 2.1), FINISHED[:2])
    assert got.verdict == "unknown"
    assert got.reason == "2 finished cells show how curves go on, 3 are needed"
    assert np.isnan(got.loss)
    assert outlook(cut(curve(), 0.1), 2.0, (1.9, 2.1), FINISHED).verdict == "unknown"
    assert outlook(cut(curve(), 0.0), 2.0, (1.9, 2.1), FINISHED).share == 0


def test_the_whole_validation_set_is_what_is_projected_to():
    """Curves are on a small set; the law predicts the loss on the whole one."""
    moved = [Curve(c.tokens, c.eval_loss, c.planned_tokens, final_loss=1.05 * c.eval_loss[-1])
             for c in FINISHED]  # fmt: skip
    whole = curve(2.45)
    assert project(cut(whole, 0.6), moved)[0] == pytest.approx(1.05 * whole.eval_loss[-1], rel=0.01)


def test_divergence_is_two_evaluations_and_not_one():
    whole = cut(curve(), 0.6)
    loss = whole.eval_loss.copy()
    loss[-1] *= 1.5
    assert diverged(cut(whole, 0.6, eval_loss=loss[:12])) is None
    loss[-2] *= 1.5
    broken = Curve(whole.tokens, loss, whole.planned_tokens)
    assert "above its lowest" in diverged(broken)
    assert outlook(broken, 2.0, (1.9, 2.1), FINISHED).verdict == "diverged"
    loss[3] = np.nan
    assert "is no number at" in diverged(Curve(whole.tokens, loss, whole.planned_tokens))


def test_a_plateau_is_level_at_a_rate_that_has_not_begun_to_fall():
    running = cut(curve(), 0.7)
    assert plateau(running) is False
    level = np.where(np.arange(14) < 8, running.eval_loss, running.eval_loss[8])
    flat = Curve(running.tokens, level, running.planned_tokens, running.lr)
    assert plateau(flat) is True
    assert plateau(curve()) is None  # decayed
    assert plateau(cut(curve(), 0.2)) is None


def test_the_gap_and_overfitting():
    running = cut(curve(), 0.7)
    got = outlook(running, 2.0, (1.9, 2.1), FINISHED)
    assert got.train_val_gap == pytest.approx(0.05)
    assert got.overfits is False
    rising = running.eval_loss + np.linspace(0, 1.5, 14)
    over = Curve(running.tokens, rising, running.planned_tokens, running.lr, running.train_loss)
    assert outlook(over, 2.0, (1.9, 2.1), FINISHED).overfits is True
    assert outlook(Curve(running.tokens, rising, 1e9), 2.0, (1.9, 2.1)).overfits is None


def test_curves_that_make_no_sense_are_refused():
    for tokens, planned, message in (
        ([1.0, 1.0], 2.0, "ascend"), ([1.0, 3.0], 2.0, "beyond"), ([1.0], 2.0, "unequal"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Curve(np.array(tokens), np.array([3.0, 2.9]), planned)
