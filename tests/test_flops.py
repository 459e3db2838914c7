"""Parameter and FLOP counts against published tables, against torch's own, and against modules."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers_models import any_config
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.attention.varlen import varlen_attn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from models.attention import attention
from models.config import MLP, Attention, CrossEntropy, GPTConfig, Positions
from models.flops import (
    FlopRule,
    N_flops,
    chinchilla_layers_forward,
    count_params,
    flops_per_token,
)
from models.gpt import GPT
from models.loss import mean_loss
from models.moe import Experts, MoE
from sweep.arguments import parse
from sweep.tokens import VOCABULARY

GPT2 = GPTConfig(
    n_layer=12,
    d_model=768,
    n_head=12,
    vocab_size=50_257,
    seq_len=1024,
    positions=Positions.LEARNED,
    tied=True,
)
LADDERS = sorted(p.stem for p in (Path(__file__).parents[1] / "conf" / "model").glob("*.yaml"))

# Hoffmann et al. 2022 (arXiv:2203.15556), table A4: n_layer, d_model, n_head, exact FLOPs / 6 N D.
TABLE_A4 = [
    (10, 640, 10, 1.03),
    (20, 1024, 16, 1.10),
    (24, 1280, 10, 1.08),
    (26, 1792, 14, 1.04),
    (28, 2048, 16, 1.03),
    (40, 3584, 28, 0.99),
]


def table_a4_ratio(cfg: GPTConfig) -> float:
    """FLOPs of the layers over 6 N D, with the N that the table's ratios imply.

    N counts the embedding, relative positions (the fifth d^2 of attention), biases and norms.
    """
    d, f, V = cfg.d_model, 4 * cfg.d_model, cfg.vocab_size
    layer = 5 * d * d + 2 * d * f + (3 * d + d + f + d) + 4 * d + 2 * d
    N = V * d + cfg.n_layer * layer + 2 * d
    return 3 * chinchilla_layers_forward(cfg) / (6 * N)


def a4_config(n_layer: int, d_model: int, n_head: int) -> GPTConfig:
    return GPTConfig(
        n_layer=n_layer, d_model=d_model, n_head=n_head, vocab_size=32_000, seq_len=2048
    )


def ladder(name: str) -> list[GPTConfig]:
    app = parse("plan", [f"model={name}"], ("model",)).app
    return [
        GPTConfig(
            n_layer=s.n_layer,
            d_model=s.d_model,
            n_head=s.n_head,
            vocab_size=VOCABULARY[app.data.tokenizer],
            seq_len=app.model.seq_len,
        )
        for s in app.model.ladder
    ]


def test_gpt2_has_its_published_parameters_and_flops():
    N = count_params(GPT2)
    assert N.total == 124_337_664
    biases = 12 * (3 + 1 + 4 + 1) * 768 + (2 * 12 + 1) * 768  # of layers and of norms
    assert N.total + biases == 124_439_808  # as released
    assert 1024 * flops_per_token(GPT2, FlopRule.PALM) == 874_944_921_600
    assert 1024 * flops_per_token(GPT2, FlopRule.PALM) / 3 == 291_648_307_200


@pytest.mark.parametrize(("n_layer", "d_model", "n_head", "ratio"), TABLE_A4)
def test_chinchilla_table_a4(n_layer, d_model, n_head, ratio):
    assert round(table_a4_ratio(a4_config(n_layer, d_model, n_head)), 2) == ratio


def test_chinchilla_table_a4_with_the_vocabulary_terms_is_not_the_table():
    cfg = a4_config(*TABLE_A4[0][:3])
    with_vocabulary = flops_per_token(cfg, FlopRule.CHINCHILLA)
    assert with_vocabulary == 3 * (chinchilla_layers_forward(cfg) + 4 * 32_000 * 640)
    layers_only = 3 * chinchilla_layers_forward(cfg)
    assert round(table_a4_ratio(cfg) * with_vocabulary / layers_only, 2) == 1.58


def test_another_reading_of_table_a4_differs_by_less_than_a_percent():
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        pytest.skip("ISOFLOP_SHARED_DATA names no folder of public sweeps")
    with (Path(folder) / "chinchilla_tableA4_flops.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == len(TABLE_A4)
    for row in rows:
        cfg = a4_config(*(int(row[k]) for k in ("n_layers", "d_model", "n_heads")))
        assert (int(row["kv_size"]), int(row["ffw_size"])) == (cfg.head_dim, 4 * cfg.d_model)
        assert table_a4_ratio(cfg) == pytest.approx(float(row["ratio_nanoGPT_noembed"]), rel=0.01)


def on_meta(cfg: GPTConfig) -> GPT:
    with torch.device("meta"):
        return GPT(cfg, Attention.REFERENCE)


def check_counts(cfg: GPTConfig) -> None:
    """Compare every convention of N with the parameters of the built module."""
    model, N = on_meta(cfg), count_params(cfg)
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    matmuls = [m.weight for m in model.modules() if isinstance(m, (torch.nn.Linear, Experts))]
    resting = sum(
        (m.n_expert - m.top_k) * (m.up.weight[0].numel() + m.down.weight[0].numel())
        for m in model.modules() if isinstance(m, MoE)
    )  # fmt: skip
    everything = sum(p.numel() for p in model.parameters())
    assert N.total == everything
    assert N.active == everything - resting
    assert N.matmul == sum(p.numel() for p in matmuls)
    assert N.embedding + N.positions == sum(p.numel() for p in tables)
    assert N.gains == sum(p.numel() for p in model.parameters() if p.ndim < 2)
    head = 0 if cfg.tied else model.head.weight.numel()
    assert N.non_embedding == everything - head - sum(p.numel() for p in tables)


@pytest.mark.parametrize("name", LADDERS)
def test_counts_are_those_of_the_built_module_at_every_size_of_every_ladder(name):
    sizes = ladder(name)
    assert len({N_flops(cfg, FlopRule.PALM) for cfg in sizes}) == len(sizes)
    for size in sizes:
        check_counts(size)


@settings(max_examples=150)
@given(any_config())
def test_counts_are_those_of_the_built_module_for_every_choice_of_options(cfg):
    check_counts(cfg)


@given(st.integers(2, 4096).map(lambda n: 2 * n))
def test_a_swiglu_layer_has_about_as_many_parameters_as_the_others(d):
    shape = {"n_layer": 1, "d_model": d, "n_head": 1, "vocab_size": 1, "seq_len": 1}
    swiglu, gelu = (
        count_params(GPTConfig(**shape, mlp=mlp)).matrices for mlp in (MLP.SWIGLU, MLP.GELU)
    )
    assert GPTConfig(**shape, mlp=MLP.SWIGLU).mlp_width % 8 == 0
    assert abs(swiglu - gelu) <= 12 * d or d < 6


def counted_flops(cfg: GPTConfig, attention: Attention, device: str, backward: bool) -> int:
    with torch.device(device):
        model = GPT(cfg, attention)
        tokens = torch.zeros(1, cfg.seq_len, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = model(tokens)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@settings(max_examples=30)
@given(any_config(experts=False))
@example(GPT2)
def test_palm_rule_is_exactly_what_torch_counts_for_every_choice_of_options(cfg):
    palm = cfg.seq_len * flops_per_token(cfg, FlopRule.PALM)
    assert 3 * counted_flops(cfg, Attention.REFERENCE, "meta", backward=False) == palm
    assert counted_flops(cfg, Attention.REFERENCE, "meta", backward=True) == palm


@settings(max_examples=20)
@given(any_config(experts=True), st.integers(1, 3))
def test_palm_rule_is_exactly_what_torch_counts_of_experts_that_share_the_tokens_evenly(cfg, n):
    """A twin on the meta device, whose grouped products are one batched product, which torch counts."""
    cfg = replace(cfg, seq_len=n * cfg.n_expert)

    def evenly(x_MC, weight, ends_E):
        return torch.bmm(x_MC.view(cfg.n_expert, -1, x_MC.size(-1)), weight.mT).flatten(0, 1)

    model = on_meta(cfg)
    for block in model.blocks:
        block.moe.multiply = evenly
    tokens = torch.zeros(2, cfg.seq_len, dtype=torch.long, device="meta")
    palm = 2 * cfg.seq_len * flops_per_token(cfg, FlopRule.PALM)
    with FlopCounterMode(display=False) as counter:
        logits = model(tokens)
        assert 3 * counter.get_total_flops() == palm
        logits.sum().backward()
    assert counter.get_total_flops() == palm


@settings(max_examples=10)
@given(any_config(largest_d=32, longest=20, experts=True))
def test_palm_rule_is_exactly_what_torch_counts_wherever_the_router_sends_tokens(cfg):
    """Expert by expert, as in float64, torch sees each product; one that has no rows costs nothing."""
    model = GPT(cfg, Attention.REFERENCE).double()
    model.init_weights(0)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, cfg.seq_len, dtype=torch.long)).sum().backward()
    assert counter.get_total_flops() == 2 * cfg.seq_len * flops_per_token(cfg, FlopRule.PALM)


def test_torch_does_not_see_a_grouped_product():
    """Why flop_source says that the formula counted."""
    x, weight = torch.ones(6, 16), torch.ones(2, 16, 16)
    with FlopCounterMode(display=False) as counter:
        F.grouped_mm(x, weight.mT, offs=torch.tensor([2, 6], dtype=torch.int32))
    assert counter.get_total_flops() == 0


@settings(max_examples=12)
@given(any_config(experts=False), st.integers(1, 5))
def test_neither_packed_documents_nor_a_loss_in_pieces_change_what_is_counted(cfg, pieces):
    model, T = on_meta(cfg), cfg.seq_len
    logits_at_once = 2 * T * cfg.vocab_size // pieces
    with torch.device("meta"):
        tokens, document = (torch.zeros(2, T, dtype=torch.long) for _ in range(2))
    with FlopCounterMode(display=False) as counter:
        loss = mean_loss(
            model.hidden(tokens, document),
            model.head.weight,
            tokens,
            cfg.z_loss,
            CrossEntropy.CHUNKED,
            logits_at_once,
        )
        loss.objective.backward()
    assert counter.get_total_flops() == 2 * T * flops_per_token(cfg, FlopRule.PALM)


SHAPE = {"n_layer": 2, "d_model": 64, "n_head": 4, "vocab_size": 128, "seq_len": 128}


@pytest.mark.parametrize("mode", ["highest", "medium"])
def test_torch_does_not_see_attention_on_a_cpu(mode):
    """One of the blind spots for which FLOPs come from the formula, as flop_source says."""
    cfg = GPTConfig(**SHAPE)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(mode)
    try:
        seen = counted_flops(cfg, Attention.CPU_FLASH, "cpu", backward=True)
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == cfg.seq_len * 6 * count_params(cfg).matmul
    assert seen < cfg.seq_len * flops_per_token(cfg, FlopRule.PALM)


@pytest.mark.parametrize("backend", ["flash", "efficient", "cudnn"])
def test_torch_counts_scores_that_fused_kernels_make_twice(backend):
    """14 L H K T where the model has 12: recomputation earns nothing in MFU."""
    B, H, T, K = 2, 4, 64, 16
    z = torch.empty(B, H, T, K, device="meta", dtype=torch.bfloat16)
    forward = getattr(torch.ops.aten, f"_scaled_dot_product_{backend}_attention")
    backward = getattr(torch.ops.aten, f"_scaled_dot_product_{backend}_attention_backward")
    given = {"flash": (0.0, True), "efficient": (None, True), "cudnn": (None, True)}[backend]
    with FlopCounterMode(display=False) as counter:
        out, lse, *rest = forward(z, z, z, *given)
        once = counter.get_total_flops()
        assert once == 4 * B * H * T * T * K
        state = {"flash": rest[4:6], "efficient": rest[:2], "cudnn": rest[4:6]}[backend]
        match backend:
            case "flash":
                backward(z, z, z, z, out, lse, None, None, T, T, 0.0, True, *state)
            case "efficient":
                backward(z, z, z, z, None, out, lse, *state, 0.0, [True, True, True, False], True)
            case "cudnn":
                backward(z, z, z, z, out, lse, *state, None, None, None, T, T, 0.0, True)
    assert counter.get_total_flops() == 14 * B * H * T * T * K
    assert 12 * B * H * T * T * K == 3 * once


def test_torch_counts_packed_documents_as_so_many_short_rows():
    """The palm rule does not: a mask changes what a row sees, not what its FLOPs are called."""
    q = torch.empty(64, 4, 16, device="meta", dtype=torch.bfloat16)
    starts = torch.empty(3, device="meta", dtype=torch.int32)
    with FlopCounterMode(display=False) as counter:
        varlen_attn(q, q, q, starts, starts, 32, 32, window_size=(-1, 0))
    assert counter.get_total_flops() == 2 * 4 * 4 * 16 * 32**2 < 4 * 4 * 16 * 64**2


def test_torch_knows_none_of_the_packages():
    assert not [k for k in flop_registry if "flash_attn::" in str(k) or "liger" in str(k)]


def test_torch_sees_attention_of_grouped_heads_in_the_reference():
    B, T, H, G, K = 2, 33, 6, 2, 8
    q, k = (torch.empty(B, T, n, K, device="meta") for n in (H, G))
    with FlopCounterMode(display=False) as counter:
        attention(q, k, k, Attention.REFERENCE)
    assert counter.get_total_flops() == 4 * B * H * T * T * K


@given(any_config(largest_d=320, longest=9000))
def test_rules_differ_by_what_they_leave_out(cfg):
    N, T = count_params(cfg), cfg.seq_len
    scores = 12 * cfg.n_layer * cfg.d_model * T
    by_rule = {rule: flops_per_token(cfg, rule) for rule in FlopRule}
    assert by_rule[FlopRule.PALM] - by_rule[FlopRule.PALM_CAUSAL] == scores / 2
    active = N.matrices - N.resting
    assert by_rule[FlopRule.PALM] == 6 * (active + N.head) + scores
    assert by_rule[FlopRule.SIX_ND] == 6 * N.active
    assert by_rule[FlopRule.SIX_ND] - by_rule[FlopRule.KAPLAN] == 6 * (N.total - N.non_embedding)
    # Appendix F: two FLOPs a weight, two for each number of a logit and a reduction, 3 of softmax.
    attended = cfg.n_layer * (4 * T * cfg.d_model + 3 * cfg.n_head * T)
    layers = 2 * active + attended
    assert chinchilla_layers_forward(cfg) == layers
    assert by_rule[FlopRule.CHINCHILLA] == 3 * (layers + 4 * cfg.vocab_size * cfg.d_model)
    for rule, flops in by_rule.items():
        assert 6 * N_flops(cfg, rule) == pytest.approx(flops, rel=1e-15)
