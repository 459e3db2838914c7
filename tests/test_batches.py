"""Rows and their order: bijection, prefix property, epochs, and an order that never drifts."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.batches import Rows, batch, permute, row_index

SEEDS = st.integers(-(2**70), 2**70)


@settings(deadline=None)  # the machine may be busy
@given(length=st.integers(0, 500), seq_len=st.integers(1, 40))
def test_each_token_but_the_first_is_a_target_once(length, seq_len):
    rows = Rows(np.arange(length), seq_len)
    targets = [t for i in range(len(rows)) for t in rows.row(i)[1:]]
    assert len(rows) == max(0, (length - 1) // seq_len)
    assert targets == list(range(1, len(rows) * seq_len + 1))
    assert rows.unique_tokens == len(targets) > length - 1 - seq_len or not targets


def test_a_row_has_its_inputs_and_their_next_tokens():
    rows = Rows(np.array([5, 6, 7, 8, 9], dtype=np.uint8), 2)
    assert rows.row(1).tolist() == [7, 8, 9]
    assert rows.row(1).dtype == np.int64
    with pytest.raises(IndexError, match="row 2 of 2"):
        rows.row(2)
    with pytest.raises(IndexError, match="row -1 of 2"):
        rows.row(-1)
    with pytest.raises(ValueError, match="seq_len=0"):
        Rows(np.arange(4), 0)


@settings(deadline=None)  # the machine may be busy
@given(n=st.integers(1, 3000), seed=SEEDS, epoch=st.integers(0, 2**40))
def test_permute_is_a_bijection(n, seed, epoch):
    image = permute(np.arange(n), n, seed, epoch)
    assert np.array_equal(np.sort(image), np.arange(n))


@settings(deadline=None)  # the machine may be busy
@given(n=st.integers(1, 2**62), seed=SEEDS, data=st.data())
def test_permute_keeps_range_and_distinctness_in_huge_domains(n, seed, data):
    some = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True))
    image = permute(np.array(some), n, seed, 0)
    assert len(set(image.tolist())) == len(some)
    assert 0 <= image.min() <= image.max() < n


@settings(deadline=None)  # the machine may be busy
@given(n=st.integers(1, 200), seed=SEEDS, start=st.integers(0, 400), count=st.integers(1, 200))
def test_every_stretch_of_positions_is_cut_from_one_endless_order(n, seed, start, count):
    epochs = range((start + count - 1) // n + 1)
    order = np.concatenate([permute(np.arange(n), n, seed, e) for e in epochs])
    assert np.array_equal(row_index(n, seed, start, count), order[start : start + count])


@settings(deadline=None)  # the machine may be busy
@given(
    n=st.integers(1, 300),
    seed=SEEDS,
    short=st.integers(1, 40),
    more=st.integers(0, 40),
    batch_rows=st.integers(1, 17),
)
def test_longer_training_sees_the_same_rows_first(n, seed, short, more, batch_rows):
    rows = Rows(np.arange(n + 1), 1)

    def seen(steps, batch_rows):
        return np.concatenate([batch(rows, seed, s, batch_rows) for s in range(steps)])

    few, many = seen(short, batch_rows), seen(short + more, batch_rows)
    assert np.array_equal(few, many[: len(few)])
    assert np.array_equal(few, seen(short * batch_rows, 1))  # nor does the batch size matter
    times = Counter(few[:, 0].tolist())
    assert max(times.values()) <= math.ceil(short * batch_rows / n)


def test_batches_do_not_depend_on_what_was_asked_before():
    rows = Rows(np.arange(100_001), 2)
    forward = [batch(rows, 3, s, 16) for s in (0, 1, 400, 4000)]
    backward = [batch(rows, 3, s, 16) for s in (4000, 400, 1, 0)][::-1]
    assert all(np.array_equal(f, b) for f, b in zip(forward, backward, strict=True))


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [permute(np.arange(1000), 1000, s, e) for s in range(5) for e in range(5)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(one == other) < 0.01  # 1 in 1000 by chance


def test_the_order_is_shuffled():
    n = 20_000
    image = permute(np.arange(n), n, 0, 0).astype(float)
    for lag in (1, 2, 4, 141, 142):  # 142 is the side of the Feistel square
        assert abs(np.corrcoef(image[:-lag], image[lag:])[0, 1]) < 4 / math.sqrt(n)
    assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 4 / math.sqrt(n)
    quarters = np.histogram2d(np.arange(n), image, bins=4)[0]
    assert np.all(np.abs(quarters - n / 16) < 4 * math.sqrt(n / 16))


def test_a_handful_of_rows_comes_in_every_order_alike():
    draws = 4800
    orders = Counter(tuple(permute(np.arange(4), 4, seed, 0)) for seed in range(draws))
    chi2 = sum((seen - draws / 24) ** 2 / (draws / 24) for seen in orders.values())
    assert len(orders) == 24
    assert chi2 < 49.7  # 99.9% point of chi-square with 23 degrees of freedom


def test_the_order_of_a_seed_never_changes():
    assert row_index(76_163, 0, 0, 4).tolist() == [14543, 26456, 24518, 51162]
    assert row_index(76_163, 1, 76_161, 4).tolist() == [41419, 69721, 10139, 75299]


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        batch(Rows(np.arange(5), 8), 0, 0, 4)
