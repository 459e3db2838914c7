"""muP and CompleteP: the coordinate check, each factor by itself, and what makes none of them."""

import json
from dataclasses import replace

import pytest
import torch
from coordinate_check import slopes
from helpers_cells import tiny_cell
from helpers_cli import tiny_grid

import models.gpt
import sweep.optimizer
from models.config import MLP, Attention, GPTConfig, Init, Parametrisation, Positions
from models.flops import FlopRule
from models.gpt import GPT, SelfAttention
from models.parametrisation import (
    Factors,
    as_standard,
    base_shape,
    factors,
    query_factor,
)
from results.store import read_records
from sweep.optimizer import make_optimizer
from sweep.recipe import RecipeSettings, choose
from sweep.recipe_regime import Target

BASE = GPTConfig(n_layer=2, d_model=32, n_head=2, vocab_size=64, seq_len=16)
MUP = {"parametrisation": Parametrisation.MUP, "base_d_model": 32}
COMPLETEP = {"parametrisation": Parametrisation.COMPLETEP, "base_d_model": 32, "base_n_layer": 2}
DEMO = RecipeSettings(
    rule="demo", lr=None, lr_embedding=None, batch_rows=None, schedule="wsd", warmup_share=None,
    decay_share=None, lr_floor=None, beta1=0.9, beta2=None, eps=None, weight_decay=None, grad_clip=1.0,
)  # fmt: skip
WIDTHS = ("d_model", (32, 64, 128, 256))  # with two heads, whose width grows
DEPTHS = ("n_layer", (2, 4, 8))
FLAT, STEEP = 0.3, 0.6  # slopes of log rms over log size


@pytest.mark.parametrize("init", [Init.ZERO_OUT, Init.FAN_IN])
@pytest.mark.parametrize(
    ("kind", "along"), [(MUP, WIDTHS), (COMPLETEP, WIDTHS), (COMPLETEP, DEPTHS)]
)
def test_activations_and_their_changes_stay_of_order_one(kind, along, init):
    found = slopes(replace(BASE, init=init, **kind), *along)
    assert all(abs(slope) < FLAT for slope in found.values()), found


@pytest.mark.parametrize("init", [Init.ZERO_OUT, Init.FAN_IN])
@pytest.mark.parametrize(("kind", "along"), [({}, WIDTHS), ({}, DEPTHS), (MUP, DEPTHS)])
def test_without_the_factors_they_grow(kind, along, init):
    found = slopes(replace(BASE, init=init, **kind), *along)
    branches = ["attention", "mlp"] if along is WIDTHS else []
    for place in ("stream", *branches):
        assert found[place] > STEEP, found
        assert found[f"change of {place}"] > STEEP, found


def test_the_check_notices_a_learning_rate_that_is_not_divided(monkeypatch):
    monkeypatch.setattr(sweep.optimizer, "factors", lambda cfg, name: Factors())
    assert slopes(replace(BASE, **MUP), *WIDTHS)["change of stream"] > STEEP


def test_the_check_notices_logits_that_are_not_divided(monkeypatch):
    monkeypatch.setattr(models.gpt, "output_factor", lambda cfg: 1.0)
    assert slopes(replace(BASE, **MUP), *WIDTHS)["change of logits"] > FLAT


@pytest.mark.parametrize("kind", [MUP, COMPLETEP], ids=["mup", "completep"])
@pytest.mark.parametrize("init", Init)
def test_the_base_shape_is_the_standard_model_to_the_bit(kind, init):
    plain = replace(BASE, init=init)
    losses = [_losses(cfg) for cfg in (plain, replace(plain, **kind))]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def _losses(cfg: GPTConfig, steps: int = 3) -> list[float]:
    torch.manual_seed(1)
    tokens_BT = torch.randint(0, cfg.vocab_size, (4, cfg.seq_len + 1))
    model = GPT(cfg, Attention.REFERENCE)
    model.init_weights(0)
    optimizer = make_optimizer(model, tiny_cell(steps, model=cfg, lr=0.003))
    losses = []
    for _ in range(steps):
        loss = model(tokens_BT[:, :-1], targets_BT=tokens_BT[:, 1:]).objective
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_scores_go_as_one_over_the_width_of_a_head_from_the_base_on():
    cfg = replace(BASE, d_model=128, n_head=1, positions=Positions.LEARNED, **MUP)
    torch.manual_seed(0)
    attn, x_TC = SelfAttention(cfg, Attention.REFERENCE), torch.randn(5, 128)
    q, k, v = (x_TC @ attn.qkv.weight.T).chunk(3, dim=-1)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    weights = (q @ k.T * 32**0.5 / 128).masked_fill(hidden, float("-inf")).softmax(-1)
    torch.testing.assert_close(attn(x_TC[None], None, None)[0], weights @ v @ attn.out.weight.T)


def test_scores_are_the_usual_ones_where_all_heads_are_equal():
    assert query_factor(replace(BASE, d_model=128, n_head=8, **MUP)) == 1


@pytest.mark.parametrize("init", Init)
def test_a_start_keeps_the_spread_of_tables_and_narrows_matrices(init):
    """Four times as wide and eight times as deep as the base."""
    shape = {"n_layer": 16, "d_model": 128, "n_head": 2, "vocab_size": 512, "seq_len": 128}
    of_base = 0.02 if init is Init.GPT2 else 32**-0.5
    last = 0.0 if init is Init.ZERO_OUT else 4**-0.5  # 1 / sqrt(2 L) of the base
    cfg = GPTConfig(**shape, init=init, positions=Positions.LEARNED, **COMPLETEP)
    model = GPT(cfg, Attention.REFERENCE)
    model.init_weights(0)
    sds = {
        "embed": of_base, "positions": of_base, "head": of_base,
        "qkv": of_base / 2, "up": of_base / 2, "out": of_base / 2 * last,
        "down": of_base / 2 * last * (1.0 if init is Init.GPT2 else 0.5),
    }  # fmt: skip
    for name, p in model.named_parameters():
        if p.ndim == 2:
            assert p.std().item() == pytest.approx(sds[name.split(".")[-2]], rel=0.05), name


def test_each_parameter_steps_as_the_table_says():
    """Four times as wide and three times as deep as the base."""
    cfg = replace(BASE, n_layer=6, d_model=128, qk_norm=True, **COMPLETEP)
    cell = tiny_cell(4, model=cfg, lr=0.01, lr_embedding=0.02, weight_decay=0.1, eps=1e-8)
    matrices, gains = (0.01 / 4, 0.1 * 4, 1e-8 / 12), (0.02, 0.0, 1e-8 / 12)
    steps = dict.fromkeys(("qkv", "out", "up", "down"), matrices)
    steps |= dict.fromkeys(("norm_1", "norm_2", "q_norm", "k_norm"), gains)
    steps |= {"embed": (0.02, 0.0, 1e-8 / 4), "norm": (0.02, 0.0, 1e-8 / 4)}
    steps |= {"head": (0.01, 0.1, 1e-8 / 4)}
    model = GPT(cfg, Attention.REFERENCE)
    groups = make_optimizer(model, cell).param_groups
    group_of = {id(p): g for g in groups for p in g["params"]}
    assert len(group_of) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        group = group_of[id(p)]
        given = (group["lr"], group["weight_decay"], group["eps"])
        assert given == pytest.approx(steps[name.split(".")[-2]], rel=1e-12), name
    assert cell.lr_blocks == matrices[0]


def test_the_standard_optimizer_has_the_two_groups_that_checkpoints_know():
    cell = tiny_cell(4, eps=3e-9)
    groups = make_optimizer(GPT(cell.model, Attention.REFERENCE), cell).param_groups
    assert [(g["lr"], g["weight_decay"], g["eps"]) for g in groups] == [
        (0.01, 0.1, 3e-9), (0.02, 0.0, 3e-9)
    ]  # fmt: skip
    assert cell.lr_blocks == cell.recipe.lr


@pytest.mark.parametrize(
    "options",
    [
        {}, {"tied": True}, {"qk_norm": True}, {"mlp": MLP.SWIGLU, "n_kv_head": 1},
        {"positions": Positions.LEARNED, "tied": True, "qk_norm": True},
    ],
    ids=str,
)  # fmt: skip
def test_multipliers_can_be_written_into_the_weights(options):
    cfg = replace(BASE, d_model=64, n_layer=4, init=Init.FAN_IN, **COMPLETEP, **options)
    model = GPT(cfg, Attention.REFERENCE)
    model.init_weights(3)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    plain, weights = as_standard(cfg, model.state_dict())
    other = GPT(plain, Attention.REFERENCE)
    other.load_state_dict(weights)
    tokens_BT = torch.arange(2 * 16).view(2, 16)
    torch.testing.assert_close(other(tokens_BT), model(tokens_BT), atol=2e-6, rtol=1e-5)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


def test_a_rule_gives_the_learning_rate_of_the_base_shape():
    wide = replace(BASE, d_model=96, n_head=6, **MUP)
    plain, tokens = replace(BASE, d_model=96, n_head=6), 1e6
    choice = choose(DEMO, Target(wide, FlopRule.PALM, tokens))
    assert (choice.lr, choice.lr_embedding) == (0.008, 0.016)
    of_demo = choose(DEMO, Target(plain, FlopRule.PALM, tokens)).lr
    assert choice.lr / 3 == pytest.approx(of_demo)  # what its blocks have is what demo gives
    porian = replace(DEMO, rule="porian", schedule="constant")
    given = choose(porian, Target(wide, FlopRule.PALM, tokens))
    base = choose(porian, Target(BASE, FlopRule.PALM, tokens))
    own = choose(porian, Target(plain, FlopRule.PALM, tokens))
    assert (given.lr, given.lr_embedding) == (base.lr, base.lr_embedding) != (own.lr, own.lr)
    assert given.batch_tokens == own.batch_tokens


@pytest.mark.parametrize(
    ("shape", "heads"),
    [
        ({"d_model": 96, "n_head": 6}, (2, None)),
        ({"d_model": 36, "n_head": 3}, (2, None)),  # heads of 12: 32 / 12 is no whole number
        ({"d_model": 64, "n_head": 4, "n_kv_head": 2}, (2, 1)),
    ],
)
def test_a_base_shape_has_heads_near_those_of_the_size(shape, heads):
    base = base_shape(replace(BASE, **shape, **MUP))
    assert (base.d_model, base.n_layer) == (32, 2)
    assert (base.n_head, base.n_kv_head) == heads


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_d_model": 32}, "base_d_model=32 is not used by parametrisation=standard: leave it out"),
        ({"base_n_layer": 2}, "base_n_layer=2 is not used by parametrisation=standard: leave it out"),
        ({**MUP, "base_d_model": None}, "parametrisation=mup needs model.base_d_model, the d_model at"),
        ({**MUP, "base_d_model": 0}, "base_d_model=0 must be at least 1"),
        ({**MUP, "base_n_layer": 2}, "base_n_layer=2 is not used by parametrisation=mup"),
        ({**COMPLETEP, "base_n_layer": None}, "parametrisation=completep needs model.base_n_layer"),
        ({**COMPLETEP, "base_n_layer": -1}, "base_n_layer=-1 must be at least 1"),
    ],
)  # fmt: skip
def test_a_base_that_is_missing_or_not_read_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(BASE, **change)


def test_what_has_no_factor_is_refused():
    with pytest.raises(ValueError, match=r"parametrisation=mup has no rule for blocks\.0\.router"):
        factors(replace(BASE, **MUP), "blocks.0.router.weight")
    with pytest.raises(ValueError, match=r"model\.base_d_model=7 can't be split into heads as in"):
        base_shape(replace(BASE, **{**MUP, "base_d_model": 7}))


MUP_WORDS = ["model.parametrisation=mup", "model.base_d_model=8"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.parametrisation=ntk"], "model.parametrisation=ntk is unknown; it may be standard, mup"),
        (["model.base_d_model=8"], "base_d_model=8 is not used by parametrisation=standard"),
        ([*MUP_WORDS, "recipe.optimizer=muon"], "recipe.optimizer=muon is not defined under model.param"),
    ],
)  # fmt: skip
def test_a_wrong_parametrisation_is_one_line_and_status_2(words, said, command):
    code, out, err = command("plan", "grid=smoke", *words)
    assert (code, err.count("\n")) == (2, 1), out + err
    assert said in err


@pytest.mark.slow
def test_it_is_planned_trained_and_recorded(command, tmp_path, text_folder):
    words = tiny_grid(tmp_path, text_folder, "[2e8]", grid__probe="false")
    words += MUP_WORDS
    code, out, err = command("plan", *words)
    assert code == 0, err
    assert "model: parametrisation=mup, base_d_model=8" in out
    assert "lr is that at d_model=8: matrices of blocks have it x 8/d_model" in out
    code, _, err = command("launch", *words)
    assert code == 0, err
    records = read_records(tmp_path / "tiny" / "records")
    assert (records["status"] == "finished").all()
    assert set(records["parametrisation"]) == {"mup"}
    assert (records["lr"] == 0.01).all()
    assert list(records["lr_blocks"]) == list(0.01 * 8 / records["d_model"])
    code, out, _ = command("plan", "plan.format=json", *words)
    cells = json.loads(out)["cells"]
    assert {c["cell_id"] for c in cells} == set(records["cell_id"])
    assert {c["base_d_model"] for c in cells} == {8}
