"""Signs that a loss is not what a law takes it for, and the gradient noise scale."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_cells import CPU, MODEL, data_settings, tiny_cell

from results.record import NAN
from sweep.data import open_data
from sweep.device import open_device
from sweep.health import complaints, health_columns, load_columns
from sweep.measure import Measurements
from sweep.noise import GradientNorms, noise_scale
from sweep.schedule import Schedule
from sweep.train import Trainer

HEALTHY = {"train_val_gap": 0.01, "val_loss": 2.0, "b_noise": 1e6, "epochs": 1.0, "spikes": 0,
           "cooldown_done": True, "batch_tokens": 1024, "suspect": None, "expert_dead": NAN,
           "expert_load_max": NAN}  # fmt: skip


def test_health_is_said_in_columns():
    cell = tiny_cell(24)
    columns = health_columns(cell, train_loss=2.0, val_loss=2.25, finished=True)
    assert columns == {"train_val_gap": 0.25, "warmup_share": 3 / 24, "cooldown_done": True}
    stopped = health_columns(cell, 2.0, NAN, finished=False)
    assert stopped["cooldown_done"] is False
    assert math.isnan(stopped["train_val_gap"])
    flat = tiny_cell(24, schedule=Schedule.CONSTANT, decay_steps=0)
    assert health_columns(flat, 2.0, 2.0, finished=True)["cooldown_done"] is False


def test_how_a_router_fares_is_said_in_columns():
    even, skewed, single = [5, 5, 5, 5], [0, 9, 1, 0], [20]
    columns = load_columns([even, skewed])
    assert columns["expert_load_max"] == 0.9
    assert columns["expert_dead"] == 2 / 8
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(4)
    assert columns["expert_load_entropy"] == pytest.approx((1 + entropy) / 2)
    assert load_columns([single]) == {
        "expert_load_max": 1.0, "expert_load_entropy": 1.0, "expert_dead": 0.0}  # fmt: skip
    assert load_columns([]) == {}
    assert complaints(HEALTHY) == []
    assert complaints({**HEALTHY, **load_columns([even])}) == []
    (said,) = complaints({**HEALTHY, **columns})
    assert said.startswith("25.0% of the experts got no validation token, and one got 90% of")


def test_a_spike_is_a_loss_a_nat_above_the_running_mean_and_a_restart_keeps_the_count():
    one = Measurements(started_at="", matmul_peak=NAN)
    losses = [3.0, 3.9, 2.0, 4.5, 2.0, 2.9, 2.0, 9.0]  # running means: 3, 3.05, 2.99, 3.07, ...
    for step, loss in enumerate(losses, 1):
        one.add_step(loss, 0.1, step, len(losses))
    assert one.spikes == 2
    again = Measurements(started_at="", matmul_peak=NAN)
    again.restore(one.state())
    again.add_step(9.0, 0.1, 9, 9)
    assert (again.spikes, again.restarts) == (3, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_val_gap": 0.3}, "validation loss is 0.3 above training loss"),
        ({"epochs": 1.5}, "1.50 epochs"),
        ({"spikes": 3}, "the loss spiked 3 times"),
        ({"cooldown_done": False}, "the learning rate was not decayed"),
        ({"b_noise": 500.0}, "the batch of 1,024 tokens is above b_noise=500"),
        ({"suspect": "mfu = 1.2"}, "mfu = 1.2: above 1"),
    ],
)
def test_each_complaint_has_its_words(change, words):
    (said,) = complaints({**HEALTHY, **change})
    assert words in said


def test_a_healthy_cell_and_an_old_record_have_none():
    assert complaints(HEALTHY) == []
    unknown = {**dict.fromkeys(HEALTHY, NAN), "cooldown_done": None, "suspect": None, "epochs": 1.0}
    assert complaints(unknown) == []


def test_the_noise_scale_of_known_noise_is_found():
    """Gradients G + noise of trace S per sample: B_simple = S / |G|^2."""
    rng, dim, steps, small, big = np.random.default_rng(0), 50, 4000, 2, 16
    G = np.full(dim, 0.1)
    each = G + rng.normal(0, 0.7, (steps, big, dim))
    small_squared = (each[:, :small].mean(1) ** 2).sum(1).mean()
    big_squared = (each.mean(1) ** 2).sum(1).mean()
    wanted = dim * 0.7**2 / (dim * 0.1**2)
    assert noise_scale(small_squared, big_squared, small, big) == pytest.approx(wanted, rel=0.05)
    assert math.isnan(noise_scale(4.0, 1.0, 1, 2))  # noise alone: |G|^2 comes out negative
    assert noise_scale(1.0, 1.0, 1, 2) == 0.0


def test_norms_are_kept_through_a_checkpoint_and_dropped_when_the_split_changes():
    norms = GradientNorms.empty(2.0, 8, torch.device("cpu"))
    assert math.isnan(norms.noise_rows())
    norms.add(torch.tensor(4.0), torch.tensor(2.0))
    wanted = noise_scale(4.0, 2.0, 2, 8)
    assert norms.noise_rows() == wanted
    same, other = (GradientNorms.empty(n, 8, torch.device("cpu")) for n in (2.0, 4.0))
    same.restore(norms.state())
    other.restore(norms.state())
    assert same.noise_rows() == wanted
    assert math.isnan(other.noise_rows())


def test_micro_batches_measure_the_noise_that_single_rows_have(shards, text_folder):
    """The same batches, looked at through a split and through every row's own gradient."""
    data = open_data(shards, data_settings(text_folder), MODEL.seq_len)
    device = open_device(CPU)

    def trainer(micro_rows: int | None, steps: int = 60) -> Trainer:
        cell = tiny_cell(steps, batch_rows=16, lr=1e-6, lr_embedding=1e-6)
        return Trainer(cell, data.train, device, micro_rows=micro_rows)

    def noise(micro_rows: int) -> float:
        one = trainer(micro_rows)
        for _ in range(one.cell.steps):
            one.train_step()
        return one.noise_tokens()

    by_rows = trainer(None)
    rows = data.train.take(np.arange(300))
    gradients = []
    for row in rows:
        by_rows.loss(torch.from_numpy(row[None])).objective.backward()
        g = [p.grad.flatten() for p in by_rows.model.parameters() if p.grad is not None]
        gradients.append(torch.cat(g))
        by_rows.optimizer.zero_grad(set_to_none=True)
    g_ND = torch.stack(gradients).double()
    trace = g_ND.var(0).sum()
    signal = (g_ND.mean(0) ** 2).sum() - trace / len(g_ND)
    wanted = float(trace / signal) * MODEL.seq_len
    assert noise(4) == pytest.approx(wanted, rel=0.25)
    undivided = trainer(None, steps=2)
    undivided.train_step()
    assert math.isnan(undivided.noise_tokens())


def test_a_batch_that_is_split_unevenly_has_the_small_batch_of_its_first_part(shards, text_folder):
    data = open_data(shards, data_settings(text_folder), MODEL.seq_len)
    one = Trainer(tiny_cell(4, batch_rows=10), data.train, open_device(replace(CPU, micro_rows=4)))
    one.settle()
    assert (one.norms.small_rows, one.norms.big_rows) == (4, 10)
