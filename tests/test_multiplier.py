"""What one sweep's compute is worth in another's: the planted factor comes back."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fit import FitOptions, gather_evidence
from analysis.forecast import Evidence
from analysis.laws import LAWS
from analysis.multiplier import IncomparableError, multipliers
from analysis.points import points_from_frame

THETA = np.array([1.7, 400.0, 800.0, 0.34, 0.31])
LAW = LAWS["chinchilla"]


def swept(worth: float = 1.0, noise: float = 0.002, seed: int = 0, E: float = 1.7) -> Evidence:
    """Give evidence of a recipe whose N and D each count as N and D over sqrt(worth)."""
    C = np.repeat(1e17 * 8.0 ** np.arange(4), 7)
    N = np.tile(np.geomspace(0.25, 4, 7), 4) * 0.09 * np.sqrt(C)
    D = C / (6 * N)
    loss = LAW.loss([E, *THETA[1:]], N / np.sqrt(worth), D / np.sqrt(worth))
    loss = loss * np.exp(np.random.default_rng(seed).normal(0, noise, len(C)))
    points = points_from_frame(pd.DataFrame({"N": N, "D": D, "loss": loss}))
    return gather_evidence(points, FitOptions(draws=100))


@pytest.fixture(scope="module")
def plain():
    return swept()


def test_the_planted_factor_is_inside_its_interval(plain):
    worse = swept(worth=2.0, seed=1)
    for m, back in zip(
        multipliers(plain, worse, 5e19), multipliers(worse, plain, 5e19), strict=True
    ):
        assert m.interval[0] < 2 < m.interval[1]
        assert m.multiplier == pytest.approx(2, rel=0.15)
        assert back.interval[0] < 0.5 < back.interval[1]
        assert m.probability > 0.99
        assert m.probability + back.probability == pytest.approx(1)
        assert m.loss[0] < m.loss[1]
        assert m.status == "ok"


def test_without_noise_the_factor_is_exact():
    exact = swept(noise=0.0), swept(worth=1.5, noise=0.0)
    m = multipliers(*exact, 5e19)[0]
    assert m.multiplier == pytest.approx(1.5, rel=1e-3)
    assert m.interval == pytest.approx((1.5, 1.5), rel=1e-2)


def test_a_sweep_against_itself_is_even_and_its_luck_is_not_its_own(plain):
    """The same resamples in the same order would make every draw equal, and the interval a point."""
    for m in multipliers(plain, plain, 5e19):
        assert m.multiplier == pytest.approx(1)
        assert m.probability == pytest.approx(0.5)
        assert m.interval[0] < 0.99
        assert m.interval[1] > 1.01


def test_out_of_reach_is_infinite_and_not_validated(plain):
    stuck = swept(seed=2, E=3.0)
    m = multipliers(plain, stuck, 5e19)[0]
    assert np.isinf(m.multiplier)
    assert np.isinf(m.interval[1])
    assert m.probability == 1
    assert (m.status, m.reason) == ("unvalidated", "no C within 1000x makes their losses equal")


def test_beyond_what_either_validated_the_side_is_named(plain):
    m = multipliers(plain, plain, 1e26)[0]
    assert m.status == "unvalidated"
    assert m.reason.startswith("A at C=1e+26: ")


def test_what_does_not_mean_the_same_is_refused(plain):
    for change, message in (({"loss_unit": "bpb"}, "losses.*nats against bpb"),
                            ({"flop_rule": "palm"}, "FLOPs.*6nd against palm")):  # fmt: skip
        other = replace(plain, points=replace(plain.points, **change))
        with pytest.raises(IncomparableError, match=message):
            multipliers(plain, other, 5e19)
