"""Muon: which matrices it steps, its price, its identity in a cell, and that it resumes to the same bits."""

from dataclasses import replace

import pytest
import torch
from helpers_cells import CPU, MODEL, data_settings, tiny_cell
from helpers_cli import tiny_grid
from torch.optim._muon import _zeropower_via_newtonschulz
from torch.utils.flop_counter import FlopCounterMode

from models.config import MLP
from models.flops import orthogonalise_flops
from models.gpt import GPT
from results.store import read_records
from sweep.cells import cell_from_row, cell_to_row
from sweep.data import open_data
from sweep.device import open_device
from sweep.optimizer import MuonWithAdamW, make_optimizer
from sweep.predict import Rates, predict_cost
from sweep.recipe_regime import Optimizer
from sweep.train import Trainer

NUMBERS = {"optimizer": Optimizer.MUON, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}


def muon_cell(steps: int, **changes):
    cell = tiny_cell(steps, **changes)
    return replace(cell, recipe=replace(cell.recipe, **NUMBERS))


@pytest.fixture
def rows(shards, text_folder):
    return open_data(shards, data_settings(text_folder), MODEL.seq_len).train


EXPERTS = {"n_expert": 4, "n_shared_expert": 2, "mlp": MLP.RELU2}


def matrices(model: GPT):
    """(name, matrix) of each that Muon steps; experts one by one."""
    for name, p in model.named_parameters():
        if name.startswith("blocks.") and p.ndim > 1 and not name.endswith("router.weight"):
            yield from ((name, m) for m in (p if p.ndim == 3 else (p,)))


@pytest.mark.parametrize("tied", [False, True])
def test_it_steps_the_matrices_of_the_blocks_and_adamw_all_else(tied):
    cfg = replace(MODEL, tied=tied, qk_norm=True)
    model = GPT(cfg, open_device(CPU).attention)
    muon, adamw = make_optimizer(model, muon_cell(4, model=cfg)).parts
    name_of = {id(p): name for name, p in model.named_parameters()}
    stepped = [
        [name_of[id(p)] for group in part.param_groups for p in group["params"]]
        for part in (muon, adamw)
    ]
    assert sorted(stepped[0] + stepped[1]) == sorted(name_of.values())
    ends = ("qkv.weight", "out.weight", "up.weight", "down.weight")
    assert len(stepped[0]) == len(ends) * cfg.n_layer
    assert all(name.endswith(ends) for name in stepped[0])
    decayed = [g["params"] for g in adamw.param_groups if g["weight_decay"]]
    assert [name_of[id(p)] for g in decayed for p in g] == ([] if tied else ["head.weight"])


def test_each_expert_is_a_matrix_of_its_own_and_the_router_adamws(rows):
    cfg = replace(MODEL, **EXPERTS)
    cell = muon_cell(4, model=cfg)
    trainer = Trainer(cell, rows, open_device(CPU))
    muon, adamw = trainer.optimizer.parts
    stepped = {p.data_ptr(): p.shape for g in muon.param_groups for p in g["params"]}
    assert stepped == {m.data_ptr(): m.shape for _, m in matrices(trainer.model)}
    routers = {block.moe.router.weight for block in trainer.model.blocks}
    assert routers < {p for g in adamw.param_groups for p in g["params"] if g["weight_decay"]}
    trainer.train_step()  # so that no matrix is zero
    rows_BT = torch.randint(128, (4, 33), generator=torch.Generator().manual_seed(1))
    trainer.loss(rows_BT).objective.backward()
    alone = []
    for name, p in trainer.model.named_parameters():
        if name.endswith(("moe.up.weight", "moe.down.weight")):
            for m, grad in zip(p.detach(), p.grad, strict=True):
                alone.append(torch.nn.Parameter(m.clone()))
                alone[-1].grad = grad.clone()
    trainer.optimizer.parts[0].state.clear()
    group = muon.param_groups[0]
    kept = ("lr", "weight_decay", "momentum", "adjust_lr_fn")
    torch.optim.Muon(alone, **{k: group[k] for k in kept}).step()
    trainer.optimizer.step()
    together = [m for name, m in matrices(trainer.model) if "moe.up" in name or "moe.down" in name]
    assert len(together) == 2 * 2 * cfg.n_expert
    for m, own in zip(together, alone, strict=True):
        assert torch.equal(m, own)
    trainer.optimizer.zero_grad()
    assert all(p.grad is None for p in trainer.model.parameters())


@pytest.mark.parametrize("options", [{}, {"mlp": MLP.SWIGLU, "n_kv_head": 1}, EXPERTS])
def test_its_price_is_what_torch_counts(options):
    cfg = replace(MODEL, **options)
    model = GPT(cfg, open_device(CPU).attention)
    with FlopCounterMode(display=False) as counter:
        for _, m in matrices(model):
            _zeropower_via_newtonschulz(m.detach(), (3.4445, -4.775, 2.0315), 5, 1e-7)
    assert counter.get_total_flops() == orthogonalise_flops(cfg)


def test_the_first_update_of_a_matrix_is_nearly_orthogonal(rows):
    """Its singular values lie about lr x .2 sqrt(longest side): in .5 to 1.5 of that, roughly."""
    cell = muon_cell(4)
    cell = replace(cell, recipe=replace(cell.recipe, weight_decay=0.0, warmup_steps=0))
    trainer = Trainer(cell, rows, open_device(CPU))
    weight = trainer.model.blocks[0].down.weight  # starts at zero, and has a gradient
    trainer.train_step()
    scale = cell.recipe.lr * 0.2 * max(weight.shape) ** 0.5
    values = torch.linalg.svdvals(weight.detach()) / scale
    assert 0.4 < values.median() < 1.4
    assert values.max() < 1.6


@pytest.mark.parametrize("options", [{}, EXPERTS])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(rows, options):
    cell = muon_cell(8, model=replace(MODEL, **options))
    whole = Trainer(cell, rows, open_device(CPU))
    losses = [whole.train_step().item() for _ in range(8)]
    first = Trainer(cell, rows, open_device(CPU))
    assert isinstance(first.optimizer, MuonWithAdamW)
    for _ in range(3):
        first.train_step()
    second = Trainer(cell, rows, open_device(CPU))
    second.restore(first.state())
    assert [second.train_step().item() for _ in range(5)] == losses[3:]
    second.start_over()
    assert [second.train_step().item() for _ in range(8)] == losses
    plain = Trainer(tiny_cell(8), rows, open_device(CPU))
    assert [plain.train_step().item() for _ in range(8)] != losses


def test_a_cell_knows_its_optimizer_and_others_keep_their_ids():
    cell, plain = muon_cell(4), tiny_cell(4)
    assert cell.id != plain.id
    assert cell_from_row(cell_to_row(cell)) == cell
    row = cell_to_row(plain)
    for name in (*NUMBERS, "optimizer_flops"):  # as a row of an earlier day
        del row[name]
    assert cell_from_row(row) == plain
    assert cell.optimizer_flops == cell.steps * orthogonalise_flops(cell.model)
    assert plain.optimizer_flops == 0
    assert cell.flops == plain.flops


def test_a_plan_prices_its_own_flops_which_every_rank_pays_in_full():
    cell, plain = muon_cell(40), tiny_cell(40)
    for ranks, shared in ((1, 0), (4, 10)):
        rates = Rates(
            flops_per_second=1e9, token_seconds=1e-6, step_seconds=1e-3, ranks=ranks, devices=1
        )
        with_muon, without = (predict_cost(c, rates, 4096, shared).seconds for c in (cell, plain))
        steps = cell.steps - shared
        assert with_muon - without == pytest.approx(steps * orthogonalise_flops(MODEL) / 1e9)


def test_it_is_planned_trained_and_recorded(command, tmp_path, text_folder):
    words = tiny_grid(tmp_path / "root", text_folder, "[4e8]", recipe__optimizer="muon")
    code, out, err = command("plan", *words)
    assert code == 0, err
    assert "Muon on the matrices of the blocks (momentum 0.95, lr by match_rms_adamw" in out
    code, _, err = command("launch", *words)
    assert code == 0, err
    (folder,) = (tmp_path / "root").glob("*/records")
    records = read_records(folder)
    assert set(records["optimizer"]) == {"muon"}
    assert (records["optimizer_flops"] > 0).all()
    assert (records["status"] == "finished").all()


def test_a_rule_that_was_fitted_with_adamw_is_outside_its_regime(command):
    code, out, err = command("plan", "grid=smoke", "recipe.optimizer=muon")
    assert code == 0, err
    assert "optimizer Muon is not AdamW" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipe.optimizer=lion"], "recipe.optimizer=lion is unknown; it may be adamw, muon"),
        (["recipe.momentum=.9"], "recipe.momentum is Muon's: recipe.optimizer=muon, or leave it"),
        (["recipe.adjust_lr_fn=original"], "recipe.adjust_lr_fn is Muon's: recipe.optimizer=muon"),
        (["recipe.optimizer=muon", "recipe.adjust_lr_fn=none"], "it may be match_rms_adamw, orig"),
        (["recipe.optimizer=muon", "recipe.momentum=1"], "recipe.momentum=1 must lie between 0"),
    ],
)
def test_what_makes_no_optimizer_is_refused(command, words, said):
    code, _, err = command("plan", "grid=smoke", *words)
    assert code == 2
    assert said in err
