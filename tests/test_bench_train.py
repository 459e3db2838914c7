"""The pieces of tests/bench/bench_train.py work, so that a benchmark does not fail after an hour."""

import sys
from pathlib import Path

import pytest
import torch

from models.config import GPTConfig
from models.flops import count_params

sys.path.append(str(Path(__file__).parent / "bench"))
import bench_train_parts as parts

TINY = GPTConfig(n_layer=1, d_model=16, n_head=1, vocab_size=256, seq_len=128)


@pytest.fixture(autouse=True)
def the_mode_of_the_other_tests():
    """Contestants set torch's matmul mode for their own process."""
    yield
    parts.open_device(parts.CPU)


def test_contestants_have_one_shape_and_take_steps():
    transformers = pytest.importorskip("transformers")
    for name in ("ours:medium", "ours:bfloat16", "gpt2:eager,highest"):
        parts.contestant(name, TINY)()
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=256, n_positions=128, n_embd=16, n_layer=1, n_head=1)
    )
    matrices = sum(p.numel() for n, p in theirs.named_parameters() if "c_" in n and p.ndim == 2)
    assert matrices + 256 * 16 == count_params(TINY).matmul


def test_matmul_floor_is_over_the_model_s_own_shapes():
    shapes = parts.layer_shapes(TINY)
    assert sum(a * b for a, b in shapes) * TINY.n_layer == count_params(TINY).matrices
    assert 0 < parts.best_of_libraries(16, 16) < 1


def test_a_cell_ends_at_a_loss_in_every_mode():
    found = dict(parts.end_losses(TINY, 24))
    exact = found["ours:highest"]["loss"]
    assert set(found) == {"ours:highest", "ours:medium", "ours:bfloat16"}
    assert exact < torch.log(torch.tensor(256.0))  # better than a guess
    assert all(abs(r["loss"] / exact - 1) < 0.02 for r in found.values())
