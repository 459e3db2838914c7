"""Shapes of the learning rate, against values worked out by hand and properties of all of them."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.schedule import Schedule, lr_share


def shares(schedule: Schedule, steps: int = 100, warmup: int = 5, decay: int = 20, floor=0.0):
    return [
        lr_share(
            step,
            steps=steps,
            warmup_steps=warmup,
            schedule=schedule,
            decay_steps=decay,
            floor=floor,
            period_steps=40 if schedule is Schedule.WSD_STEPPED else None,
        )
        for step in range(steps)
    ]


@given(
    schedule=st.sampled_from(Schedule),
    steps=st.integers(2, 400),
    warmup_share=st.floats(0, 0.1),
    decay_share=st.floats(0, 0.9),
    floor=st.floats(0, 1),
)
def test_every_shape_warms_up_linearly_and_never_rises_again(
    schedule, steps, warmup_share, decay_share, floor
):
    warmup, decay = int(warmup_share * steps), int(decay_share * steps)
    got = shares(schedule, steps, warmup, decay, floor)
    assert got[:warmup] == [pytest.approx((i + 1) / warmup) for i in range(warmup)]
    after = got[warmup:]
    assert after[0] == 1.0
    assert all(a >= b - 1e-12 for a, b in pairwise(after))
    assert min(after) >= floor - 1e-12
    assert max(got) <= 1 + 1e-12


def test_wsd_is_flat_and_then_one_minus_a_square_root():
    got = shares(Schedule.WSD)
    assert got[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert set(got[5:81]) == {1.0}
    assert got[85] == 0.5  # a quarter of the decay done
    assert got[80 + 5] == 1 - math.sqrt(5 / 20)
    assert got[99] == 1 - math.sqrt(19 / 20)
    assert shares(Schedule.WSD, floor=0.1)[85] == pytest.approx(0.1 + 0.9 * 0.5)


def test_wsd_linear_is_flat_and_then_a_line():
    got = shares(Schedule.WSD_LINEAR)
    assert set(got[5:81]) == {1.0}
    assert got[85:] == pytest.approx([1 - i / 20 for i in range(5, 20)])
    assert shares(Schedule.WSD_LINEAR, floor=0.1)[90] == pytest.approx(0.1 + 0.9 * 0.5)


def test_wsd_stepped_falls_by_the_root_of_two_when_the_steps_have_doubled():
    got = shares(Schedule.WSD_STEPPED, steps=400, decay=80)
    assert set(got[5:40]) == {1.0}
    assert set(got[40:80]) == {math.sqrt(1 / 2)}
    assert set(got[80:160]) == {1 / 2}
    assert set(got[160:321]) == {math.sqrt(1 / 8)}  # a branch decays from the rate of its trunk
    assert got[340] == math.sqrt(1 / 8) / 2  # a quarter of the decay done
    early = shares(Schedule.WSD_STEPPED, steps=100, decay=20)
    assert early[:80] == got[:80]
    assert early[80] == early[79]


def test_cosine_and_linear_are_halfway_at_half_of_what_follows_the_warm_up():
    for schedule in (Schedule.COSINE, Schedule.LINEAR):
        got = shares(schedule, steps=105)
        assert got[5] == 1.0
        assert got[55] == pytest.approx(0.5)
        assert got[104] < 0.011
    assert shares(Schedule.COSINE, steps=105)[30] == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert shares(Schedule.LINEAR, steps=105, floor=0.2)[55] == pytest.approx(0.6)


def test_constant_stays():
    assert set(shares(Schedule.CONSTANT, floor=0.3)[5:]) == {1.0}


@pytest.mark.parametrize("schedule", [s for s in Schedule if s is not Schedule.CONSTANT])
def test_the_step_after_the_last_would_be_at_the_floor(schedule):
    end = lr_share(100, steps=100, warmup_steps=5, schedule=schedule, decay_steps=20, floor=0.05,
                   period_steps=40)  # fmt: skip
    assert end == pytest.approx(0.05)
