"""One cell's training against a plain trainer, and what must not change its losses."""

import math
from dataclasses import replace

import pytest
import torch
from helpers_cells import CPU, MODEL, data_settings, tiny_cell
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainer import plain_losses

from models.config import Positions
from sweep.arguments import parse
from sweep.batches import batch
from sweep.data import open_data
from sweep.device import open_device
from sweep.resolve import resolve
from sweep.schedule import Schedule
from sweep.train import Diverged, Trainer, train


@pytest.fixture(scope="module")
def device():
    """Open the CPU with one thread."""
    return open_device(CPU)


@pytest.fixture(scope="module")
def data(text_folder, shards):
    """Open rows of 32 tokens."""
    return open_data(shards, data_settings(text_folder), MODEL.seq_len)


def losses_of(trainer: Trainer, steps: int) -> list[float]:
    return [trainer.train_step().item() for _ in range(steps)]


@pytest.mark.parametrize(
    ("seed", "recipe"),
    [
        (0, {}),
        (5, {"batch_rows": 1}),
        (1, {"grad_clip": 0.05}),  # always clipped
        (2, {"warmup_steps": 1, "decay_steps": 23, "weight_decay": 1.0}),
    ],
)
def test_first_20_losses_are_those_of_a_plain_trainer(shards, data, device, seed, recipe):
    """To an ulp or two: the kernels differ (fused AdamW, flash attention), so not to the bit."""
    cell = tiny_cell(steps=24, seed=seed, **recipe)
    got = losses_of(Trainer(cell, data.train, device), 20)
    assert got == pytest.approx(plain_losses(cell, shards / "train.bin", 20), abs=1e-6, rel=0)
    assert got[0] - got[-1] > 0.5  # it learns, so that the later losses say something


def test_first_20_losses_of_a_cell_of_the_demo_are_those_of_a_plain_trainer(
    text_folder, shards, device
):
    cell = resolve(parse("plan", ["grid=demo"], ("grid",)).app).grid.cells[-1]
    data = open_data(shards, data_settings(text_folder), cell.model.seq_len)
    got = losses_of(Trainer(cell, data.train, device), 20)
    assert got == pytest.approx(plain_losses(cell, shards / "train.bin", 20), abs=1e-6, rel=0)


@pytest.mark.parametrize("micro_rows", [1, 2, 4, 5, 6])
def test_micro_batches_give_the_same_losses(data, device, micro_rows):
    cell = tiny_cell()
    whole = losses_of(Trainer(cell, data.train, device), 20)
    split = losses_of(Trainer(cell, data.train, device, micro_rows=micro_rows), 20)
    assert split == pytest.approx(whole, abs=1e-5, rel=0)


def test_the_same_cell_gives_the_same_bits(data, device):
    cell = tiny_cell()
    torch.manual_seed(99)
    one = losses_of(Trainer(cell, data.train, device), 12)
    torch.manual_seed(98)
    assert losses_of(Trainer(cell, data.train, device), 12) == one
    assert losses_of(Trainer(replace(cell, seed=1), data.train, device), 12) != one


@settings(max_examples=8)
@given(stop=st.integers(1, 11), schedule=st.sampled_from(Schedule), tied=st.booleans())
def test_a_restored_trainer_goes_on_with_the_same_bits(data, device, stop, schedule, tied):
    period = 3 if schedule is Schedule.WSD_STEPPED else None
    model = replace(MODEL, tied=tied)
    cell = tiny_cell(12, model=model, schedule=schedule, period_steps=period)
    whole = losses_of(Trainer(cell, data.train, device), 12)
    first = Trainer(cell, data.train, device)
    assert losses_of(first, stop) == whole[:stop]
    second = Trainer(cell, data.train, device)
    second.restore(first.state())
    assert losses_of(second, 12 - stop) == whole[stop:]


def test_noise_that_a_model_draws_is_drawn_again_after_a_restore(data, device):
    def noisy() -> Trainer:
        trainer = Trainer(tiny_cell(12), data.train, device)
        trainer.model.embed.register_forward_hook(
            lambda module, args, x: x + 0.1 * torch.randn(x.shape)
        )
        return trainer

    whole = losses_of(noisy(), 12)
    first = noisy()
    losses_of(first, 5)
    state = first.state()
    torch.randn(1000)  # what another cell in this process might draw
    second = noisy()
    second.restore(state)
    assert losses_of(second, 7) == whole[5:]
    plain = losses_of(Trainer(tiny_cell(12), data.train, device), 12)
    assert whole != plain


def test_a_state_of_another_cell_is_refused(data, device):
    trainer = Trainer(tiny_cell(12), data.train, device)
    other = Trainer(tiny_cell(13), data.train, device)
    with pytest.raises(ValueError, match=f"checkpoint of {trainer.cell.id}, not of"):
        other.restore(trainer.state())


def test_what_a_step_sees_is_its_rows_each_target_after_its_input(data, device):
    cell = tiny_cell(2, lr=1e-9, lr_embedding=1e-9)
    trainer = Trainer(cell, data.train, device)
    rows = torch.from_numpy(batch(data.train, cell.seed, 0, cell.recipe.batch_rows))
    log_p = trainer.model(rows[:, :-1]).log_softmax(-1)
    wanted = -log_p.gather(-1, rows[:, 1:, None]).mean().item()
    assert trainer.train_step().item() == pytest.approx(wanted, abs=1e-6)


def test_a_step_runs_the_named_attention_whoever_takes_it(data, device):
    """A benchmark that steps by itself must not measure what torch would choose."""
    trainer, seen = Trainer(tiny_cell(2), data.train, device), []
    trainer.model.embed.register_forward_hook(
        lambda *_: seen.append(torch.backends.cuda.math_sdp_enabled())
    )
    trainer.train_step()
    assert seen == [False]
    assert torch.backends.cuda.math_sdp_enabled()


def test_rates_and_decay_go_to_the_parameters_that_they_are_for(data, device):
    model = replace(MODEL, positions=Positions.LEARNED)
    trainer = Trainer(tiny_cell(model=model, lr=0.03, lr_embedding=0.07), data.train, device)
    by_id = {id(p): name for name, p in trainer.model.named_parameters()}
    matrices, rest = (
        {by_id[id(p)] for p in group["params"]} for group in trainer.optimizer.param_groups
    )
    assert matrices | rest == set(by_id.values())
    assert not matrices & rest
    assert matrices == {n for n in by_id.values() if "qkv" in n or "out" in n or "up" in n
                        or "down" in n or n == "head.weight"}  # fmt: skip
    assert [g["weight_decay"] for g in trainer.optimizer.param_groups] == [0.1, 0.0]
    trainer.train_step()
    rates = [g["lr"] for g in trainer.optimizer.param_groups]
    assert rates == pytest.approx([0.03 / 3, 0.07 / 3])


def test_a_tied_head_is_trained_once_as_a_table(data, device):
    trainer = Trainer(tiny_cell(model=replace(MODEL, tied=True)), data.train, device)
    counts = [sum(p.numel() for p in g["params"]) for g in trainer.optimizer.param_groups]
    assert sum(counts) == sum(p.numel() for p in trainer.model.parameters())
    assert any(p is trainer.model.head.weight for p in trainer.optimizer.param_groups[1]["params"])


def test_a_loss_that_is_no_number_ends_the_run_by_name(data, device):
    trainer = Trainer(tiny_cell(), data.train, device)
    seen = []

    def spoil(step: int, loss: float) -> None:
        seen.append(loss)
        if step == 3:
            trainer.model.norm.weight.data.fill_(math.inf)

    with pytest.raises(Diverged, match="at step 4 of 24"):
        train(trainer, spoil)
    assert len(seen) == 3
    assert all(map(math.isfinite, seen))
