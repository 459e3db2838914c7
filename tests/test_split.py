"""Cutting documents and holding blocks out: sizes, gaps, shares, and text that repeats."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep import split

LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz    \n.", np.uint8)


def random_text(size: int, seed: int) -> bytes:
    """Text in which no 64 bytes occur twice."""
    return np.random.default_rng(seed).choice(LETTERS, size).tobytes()


def windows_of(shard: bytes, width: int = 64) -> set[bytes]:
    found = (shard[i : i + width] for i in range(len(shard) - width + 1))
    return {w for w in found if b"\0" not in w}


@given(
    text=st.text(alphabet="ab \n\u00e9\u4e2d\U0001f600", max_size=400), longest=st.integers(8, 90)
)
def test_blocks_tile_a_document_and_part_no_character(text, longest):
    raw = text.encode()
    offsets = split.cut_blocks(raw, longest)
    assert (offsets[0], offsets[-1]) == (0, len(raw))
    blocks = [raw[i:j] for i, j in pairwise(offsets)]
    assert all(0 < len(block) <= longest for block in blocks)
    assert "".join(block.decode() for block in blocks) == text


def test_a_cut_is_at_a_whitespace_where_there_is_one():
    words = random_text(200_000, 3)
    for offset in split.cut_blocks(words, 16_384)[1:-1]:
        assert words[offset - 1 : offset] in (b" ", b"\n")


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60_000), min_size=1, max_size=8),
    share=st.floats(0.01, 0.9),
    longest=st.sampled_from([1024, 4096, 16_384]),
    seed=st.integers(0, 99),
)
def test_the_share_comes_out_right_and_the_sides_stay_apart(sizes, share, longest, seed):
    owed, held = 0.0, 0
    for i, size in enumerate(sizes):
        text = random_text(size, 1000 * seed + i)
        stretches, owed = split.split_document(text, share, owed, longest)
        held += sum(s.end - s.start for s in stretches if s.validation)
        assert abs(held - share * sum(sizes[: i + 1])) <= longest / 2 + 1e-6
        for one, other in pairwise(stretches):
            assert one.end <= other.start
            if one.validation != other.validation:
                assert other.start - one.end >= split.GAP_BYTES
    assert abs(owed) <= longest / 2


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9999), copied=st.integers(0, 300), at=st.integers(0, 1500))
def test_repeated_text_is_measured_exactly(seed, copied, at):
    held = random_text(2000, seed) + b"\0" + random_text(500, seed + 1) + b"\0"
    train = random_text(1000, seed + 2) + held[at : at + copied] + random_text(90, seed + 3) + b"\0"
    found = [held[i : i + 64] for i in range(len(held) - 63)]
    in_training = windows_of(train)
    expected = np.mean([w in in_training for w in found if b"\0" not in w])
    as_array = (np.frombuffer(text, np.uint8) for text in (train, held))
    assert split.repeated_share(*as_array) == pytest.approx(expected, abs=1e-12)


def test_the_share_of_repeated_text_is_found_across_chunks(monkeypatch):
    monkeypatch.setattr(split, "_CHUNK", 100)
    train = np.frombuffer(random_text(1000, 1), np.uint8)
    assert split.repeated_share(train, train[130:400]) == 1.0
    assert np.isnan(split.repeated_share(train, train[:63]))
