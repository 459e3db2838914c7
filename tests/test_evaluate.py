"""Validation loss in nats, its bits per byte and its standard error, against plain numpy."""

import math

import numpy as np
import pytest
from helpers_cells import CPU, MODEL, data_settings, tiny_cell

from sweep.batches import Rows
from sweep.data import open_data
from sweep.device import open_device
from sweep.evaluate import evaluate
from sweep.train import Trainer

EOD = 127


@pytest.fixture(scope="module")
def device():
    """Open the CPU with one thread."""
    return open_device(CPU)


@pytest.fixture(scope="module")
def data(text_folder, shards):
    """Open rows of 32 tokens."""
    return open_data(shards, data_settings(text_folder), MODEL.seq_len)


@pytest.fixture(scope="module")
def model(data, device):
    """Train a little, so that no two tokens have one probability."""
    trainer = Trainer(tiny_cell(), data.train, device)
    for _ in range(10):
        trainer.train_step()
    return trainer.model


def numpy_losses(model, rows: np.ndarray) -> np.ndarray:
    """Nats of each target of (B, T + 1) rows, in float64."""
    import torch

    logits = model(torch.from_numpy(rows[:, :-1])).detach().double().numpy()
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return -np.take_along_axis(log_p, rows[:, 1:, None], axis=-1)[..., 0]


@pytest.mark.parametrize("n_rows", [1, 31, 32, 33, 128])
def test_loss_is_nats_a_target_and_bpb_is_bits_a_byte(model, data, device, n_rows):
    rows = data.validation.take(np.arange(n_rows))
    losses = numpy_losses(model, rows)
    got = evaluate(model, data.validation, n_rows, EOD, device)
    assert got.tokens == losses.size == n_rows * 32
    assert got.loss == pytest.approx(losses.mean(), rel=1e-5)
    n_bytes = np.count_nonzero(rows[:, 1:] != EOD)
    assert got.bpb == pytest.approx(losses.sum() / np.log(2) / n_bytes, rel=1e-5)


def test_an_untrained_model_of_equal_logits_has_the_entropy_of_a_fair_draw(data, device):
    model = Trainer(tiny_cell(), data.train, device).model
    model.head.weight.data.zero_()
    got = evaluate(model, data.validation, 256, EOD, device)
    assert got.loss == pytest.approx(math.log(128), rel=1e-6)
    assert got.se == pytest.approx(0, abs=1e-6)
    assert got.bpb >= 7  # 7 bits a token; an end of document is a token and no byte


def test_ends_of_documents_are_targets_but_no_bytes(model, device):
    rows = Rows(np.tile(np.array([5, 9, EOD, 3], dtype=np.uint8), 100), 32)
    got = evaluate(model, rows, len(rows), EOD, device)
    assert got.bpb == pytest.approx(got.loss / math.log(2) * 4 / 3, rel=1e-9)


def test_standard_error_is_taken_over_blocks_of_neighbouring_rows(model, data, device):
    n_rows = 3 * 128 + 7  # three blocks of 4,096 tokens and a rest
    losses = numpy_losses(model, data.validation.take(np.arange(n_rows))).mean(1)
    means = losses[: 3 * 128].reshape(3, 128).mean(1)
    got = evaluate(model, data.validation, n_rows, EOD, device)
    assert got.se == pytest.approx(means.std(ddof=1) / math.sqrt(3), rel=1e-3)
    assert math.isnan(evaluate(model, data.validation, 255, EOD, device).se)


def test_validation_rows_are_of_the_text_that_was_held_out(text_folder, shards):
    data = open_data(shards, data_settings(text_folder), seq_len=64)
    train = data.tokens.train.tobytes()
    rows = data.validation.take(np.arange(len(data.validation))).astype(np.uint8)
    assert len(rows) > 100
    assert sum(row[1:].tobytes() in train for row in rows) == 0
