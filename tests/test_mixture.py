"""Several sources under one order: shares, prefixes, epochs, and no index in memory."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.batches import Rows, batch, documents, row_index
from sweep.mixture import BLOCK, Mixture

SEEDS = st.integers(0, 2**31 - 1)
SHARES = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6)


def mixture(shares: list[float], sizes: list[int] | None = None) -> Mixture:
    """Rows of one token whose targets tell source and row: 1,000,000 x source + row + 1."""
    sizes = sizes or [1000] * len(shares)
    parts = tuple(Rows(1_000_000 * k + np.arange(n + 1), 1) for k, n in enumerate(sizes))
    total = sum(shares)
    return Mixture(
        tuple(f"s{k}" for k in range(len(shares))), parts, tuple(s / total for s in shares)
    )


@settings(deadline=None, max_examples=40)
@given(shares=SHARES, seed=SEEDS)
def test_every_block_has_each_share_to_one_row(shares, seed):
    mix = mixture(shares)
    assert sum(mix.quotas) == BLOCK
    for k in (0, 1, 7):
        counts = np.bincount(mix.source_at(seed, k * BLOCK, BLOCK), minlength=len(shares))
        assert counts.tolist() == list(mix.quotas)
        assert np.abs(counts / BLOCK - np.array(mix.shares)).max() <= 1 / BLOCK


@settings(deadline=None, max_examples=40)
@given(shares=SHARES, seed=SEEDS, start=st.integers(0, 3 * BLOCK), count=st.integers(1, 2 * BLOCK))
def test_counts_are_those_of_the_order(shares, seed, start, count):
    mix = mixture(shares)
    order = mix.source_at(seed, 0, start + count)
    assert np.array_equal(mix.source_at(seed, start, count), order[start:])
    assert mix.counts(seed, start) == [int((order[:start] == k).sum()) for k in range(len(shares))]


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, short=st.integers(1, 30), batch_rows=st.integers(1, 40))
def test_longer_training_sees_the_same_rows_first_whatever_the_batch(seed, short, batch_rows):
    mix = mixture([3, 1, 1], [50, 70, 2000])
    by_batch = np.concatenate([batch(mix, seed, s, batch_rows) for s in range(short)])
    one_by_one = np.concatenate([batch(mix, seed, s, 1) for s in range(short * batch_rows)])
    assert np.array_equal(by_batch, one_by_one)


def test_each_source_is_read_in_its_own_order_of_epochs():
    mix, seed = mixture([0.7, 0.3], [60, 40]), 5
    targets = np.concatenate([batch(mix, seed, s, 16) for s in range(20)])[:, 1]
    first = targets[targets < 1_000_000] - 1
    assert np.array_equal(first, row_index(60, seed, 0, len(first)))  # source 0 is as if alone
    second = targets[targets > 1_000_000] - 1_000_001
    for epoch in range(len(second) // 40):
        assert sorted(second[40 * epoch : 40 * (epoch + 1)]) == list(range(40))


def test_sources_of_equal_size_have_orders_of_their_own():
    mix = mixture([1, 1], [500, 500])
    rows = np.concatenate([batch(mix, 0, s, 100) for s in range(8)])[:, 1] - 1
    one, other = rows[rows < 1_000_000][:300], rows[rows >= 1_000_000][:300] - 1_000_000
    assert np.mean(one == other) < 0.03


def test_usage_counts_tokens_unique_tokens_and_epochs_of_each_source():
    mix, n_rows = mixture([0.75, 0.25], [100, 5000]), 4000
    taken = np.concatenate([batch(mix, 3, s, 50) for s in range(n_rows // 50)])[:, 1]
    for k, used in enumerate(mix.usage(3, n_rows)):
        mine = taken[(taken > 1_000_000 * k) & (taken <= 1_000_000 * (k + 1))]
        assert (used.name, used.tokens) == (f"s{k}", len(mine))
        assert used.unique_tokens == len(np.unique(mine))
        assert used.epochs == used.tokens / used.unique_tokens
    assert mix.usage(3, n_rows)[0].epochs == pytest.approx(30, rel=0.05)
    assert [u.epochs for u in mix.usage(3, 0)] == [0.0, 0.0]


def test_the_mix_of_a_batch_is_as_even_as_chance_makes_it():
    mix = mixture([0.5, 0.5])
    per_batch = mix.source_at(0, 0, BLOCK).reshape(-1, 100).sum(1)
    assert abs(per_batch.mean() - 50) < 1e-9
    assert 3 < per_batch.std() < 7  # 5 by chance


def test_a_huge_position_costs_no_more_than_an_early_one():
    mix = mixture([0.9, 0.1], [10**6, 10**6])
    far = mix.batch(0, 10**12, 64)
    assert far.shape == (64, 2)
    counts = mix.counts(0, 64 * 10**12)
    assert sum(counts) == 64 * 10**12
    assert counts[1] / sum(counts) == pytest.approx(0.1, abs=1e-12)


def test_the_order_of_a_mixture_never_changes():
    mix = mixture([0.7, 0.3])
    assert mix.source_at(0, 0, 12).tolist() == ORDER_0
    assert mix.source_at(1, BLOCK - 3, 6).tolist() == ORDER_1


ORDER_0 = [1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0]
ORDER_1 = [0, 0, 1, 0, 0, 0]


def test_a_share_too_small_for_one_row_is_refused():
    with pytest.raises(ValueError, match=r"data\.sources: s1 has less than 1/10,000"):
        mixture([1.0, 1e-5])
    with pytest.raises(ValueError, match="a mixture has sources"):
        Mixture((), (), ())


def test_documents_of_a_row_are_told_apart_by_their_ends():
    tokens = np.array([[5, 9, 7, 9, 9, 3], [1, 2, 3, 4, 5, 6], [9, 1, 1, 1, 1, 9]])
    expected = [[0, 1, 1, 2, 3, 3], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 2]]
    assert documents(tokens, 9).tolist() == expected
    import torch

    found = documents(torch.from_numpy(tokens), 9)
    assert found.tolist() == expected
    assert found.dtype == torch.int64


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=40))
def test_tokens_of_a_document_are_those_up_to_the_next_end(row):
    found = documents(np.array([row]), 0)[0]
    assert np.all(np.diff(found) == (np.array(row[1:]) == 0))
    assert found[0] == (row[0] == 0)
    assert math.prod(np.diff(found) >= 0) == 1
