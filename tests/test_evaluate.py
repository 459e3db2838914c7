"""Validation loss in nats, its bits per byte and its standard error, against plain numpy."""

import math

import numpy as np
import pytest
from helpers_cells import CPU, MODEL, data_settings, tiny_cell

from sweep.batches import Rows
from sweep.data import HeldOut, open_data
from sweep.device import open_device
from sweep.evaluate import Evaluation, combine, evaluate, evaluate_small, validate
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


@pytest.fixture(scope="module")
def held(data):
    """Return the validation rows of the one text."""
    (held,) = data.validation
    return held


def held_out(tokens: np.ndarray, n_bytes: np.ndarray | None = None, border=None) -> HeldOut:
    """Return rows of 32 tokens of a stream."""
    rows = Rows(tokens, 32, "made up", border)
    return HeldOut("made up", 1.0, rows, EOD, n_bytes, len(rows), 1, "hash")


def numpy_losses(model, rows: np.ndarray, document: np.ndarray | None = None) -> np.ndarray:
    """Nats of each target of (B, T + 1) rows, in float64."""
    import torch

    mask = None if document is None else torch.from_numpy(document)
    logits = model(torch.from_numpy(rows[:, :-1]), mask).detach().double().numpy()
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return -np.take_along_axis(log_p, rows[:, 1:, None], axis=-1)[..., 0]


@pytest.mark.parametrize("n_rows", [1, 31, 32, 33, 128])
def test_loss_is_nats_a_target_and_bpb_is_bits_a_byte(model, held, device, n_rows):
    rows = held.rows.take(np.arange(n_rows))
    losses = numpy_losses(model, rows)
    got = evaluate(model, held, n_rows, device)
    assert got.tokens == losses.size == n_rows * 32
    assert got.loss == pytest.approx(losses.mean(), rel=1e-5)
    n_bytes = np.count_nonzero(rows[:, 1:] != EOD)
    assert got.bpb == pytest.approx(losses.sum() / np.log(2) / n_bytes, rel=1e-5)


def test_an_untrained_model_of_equal_logits_has_the_entropy_of_a_fair_draw(data, held, device):
    model = Trainer(tiny_cell(), data.train, device).model
    model.head.weight.data.zero_()
    got = evaluate(model, held, 256, device)
    assert got.loss == pytest.approx(math.log(128), rel=1e-6)
    assert got.se == pytest.approx(0, abs=1e-6)
    assert got.bpb >= 7  # 7 bits a token; an end of document is a token and no byte


def test_ends_of_documents_are_targets_but_no_bytes(model, device):
    held = held_out(np.tile(np.array([5, 9, EOD, 3], dtype=np.uint8), 100))
    got = evaluate(model, held, held.val_rows, device)
    assert got.bpb == pytest.approx(got.loss / math.log(2) * 4 / 3, rel=1e-9)


def test_standard_error_is_taken_over_blocks_of_neighbouring_rows(model, held, device):
    n_rows = 3 * 128 + 7  # three blocks of 4,096 tokens and a rest
    losses = numpy_losses(model, held.rows.take(np.arange(n_rows))).mean(1)
    means = losses[: 3 * 128].reshape(3, 128).mean(1)
    got = evaluate(model, held, n_rows, device)
    assert got.se == pytest.approx(means.std(ddof=1) / math.sqrt(3), rel=1e-3)
    assert math.isnan(evaluate(model, held, 255, device).se)


def test_validation_rows_are_of_the_text_that_was_held_out(text_folder, shards):
    data = open_data(shards, data_settings(text_folder), seq_len=64)
    train = data.train.tokens.tobytes()
    rows = data.validation[0].rows
    rows = rows.take(np.arange(len(rows))).astype(np.uint8)
    assert len(rows) > 100
    assert sum(row[1:].tobytes() in train for row in rows) == 0


def test_a_token_may_stand_for_any_number_of_bytes(model, device):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 100, 4000).astype(np.uint8)
    n_bytes = rng.integers(0, 9, 4000).astype(np.uint32)
    held = held_out(tokens, n_bytes)
    got = evaluate(model, held, held.val_rows, device)
    rows = held.rows.take(np.arange(held.val_rows))
    total = numpy_losses(model, rows).sum()
    assert got.bpb == pytest.approx(total / math.log(2) / n_bytes[1 : 1 + rows[:, 1:].size].sum())


def test_error_of_bits_a_byte_is_that_of_a_ratio(model, held, device):
    n_rows = 4 * 128
    rows = held.rows.take(np.arange(n_rows))
    bits = numpy_losses(model, rows).sum(1).reshape(4, 128).sum(1) / math.log(2)
    n_bytes = (rows[:, 1:] != EOD).sum(1).reshape(4, 128).sum(1)
    got = evaluate(model, held, n_rows, device)
    jackknife = [(bits.sum() - b) / (n_bytes.sum() - n) for b, n in zip(bits, n_bytes, strict=True)]
    expected = math.sqrt(3 / 4 * ((np.array(jackknife) - np.mean(jackknife)) ** 2).sum())
    assert got.bpb_se == pytest.approx(expected, rel=0.05)
    assert got.bpb_se == pytest.approx(got.se / math.log(2), rel=0.05)  # a byte a token, nearly


def test_documents_are_masked_from_each_other_where_that_is_asked(model, device):
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 100, 2000).astype(np.uint8)
    tokens[::7] = EOD
    masked, open_ = held_out(tokens, border=EOD), held_out(tokens)
    rows = masked.rows.take(np.arange(masked.val_rows))
    document = (rows[:, :-1] == EOD).cumsum(1)
    got = evaluate(model, masked, masked.val_rows, device)
    assert got.loss == pytest.approx(numpy_losses(model, rows, document).mean(), rel=1e-5)
    assert got.loss != evaluate(model, open_, open_.val_rows, device).loss
    # A row is then worth what its documents are on their own.
    alone = numpy_losses(model, rows[:1, 7:15])  # the document that its end mark at 7 opens
    within = numpy_losses(model, rows[:1], document[:1])[0, 7:14]
    assert within == pytest.approx(alone[0], rel=1e-4)


def test_a_mixture_weighs_its_sources_as_training_does():
    one = Evaluation(loss=2.0, se=0.03, bpb=1.0, bpb_se=0.02, tokens=100)
    other = Evaluation(loss=3.0, se=0.04, bpb=2.0, bpb_se=0.05, tokens=300)
    got = combine([one, other], [0.75, 0.25])
    assert got.loss == 2.25
    assert got.se == pytest.approx(math.hypot(0.75 * 0.03, 0.25 * 0.04))
    assert got.tokens == 400
    bytes_one, bytes_other = 2.0 / math.log(2) / 1.0, 3.0 / math.log(2) / 2.0  # a token
    n_bytes = 0.75 * bytes_one + 0.25 * bytes_other
    assert got.bpb == pytest.approx(2.25 / math.log(2) / n_bytes)
    shares = 0.75 * bytes_one / n_bytes, 0.25 * bytes_other / n_bytes
    assert got.bpb == pytest.approx(shares[0] * 1.0 + shares[1] * 2.0)
    assert got.bpb_se == pytest.approx(math.hypot(shares[0] * 0.02, shares[1] * 0.05))
    assert combine([one], [1.0]) is one


def test_a_cell_is_judged_on_the_whole_set_at_its_end_and_on_a_small_one_before(
    model, data, held, device
):
    final = validate(model, data, device)
    assert final.total == evaluate(model, held, held.val_rows, device)
    assert list(final.sources) == ["text_folder"]
    assert final.extra == {}
    small = evaluate_small(model, data, device)
    assert small.tokens == 512 < final.total.tokens == 4096
