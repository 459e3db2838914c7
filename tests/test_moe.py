"""Experts: the sorted products against a naive loop, one expert against an MLP, losses of the router."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import MLP, Attention, GPTConfig
from models.gpt import GPT, Block
from models.mlp import bend
from models.moe import MoE, grouped_mm_runs, watch_load

SHAPE = {"n_layer": 2, "d_model": 24, "n_head": 2, "vocab_size": 50, "seq_len": 19}
CFG = GPTConfig(**SHAPE, n_expert=6, top_k=2)


def drawn(module: torch.nn.Module, seed: int = 3, sd: float = 0.3) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0, sd, generator=generator)
    return module


def by_loop(moe: MoE, cfg: GPTConfig, x: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """Every token by itself: its experts found by sorting, its losses by counting."""
    out, shares, squares = torch.zeros_like(x), [], []
    E, S = cfg.n_expert, cfg.top_k
    balance = 0.0
    for b in range(len(x)):
        sent, P = [0] * E, torch.zeros(E, dtype=x.dtype)
        for t in range(x.size(1)):
            logits = moe.router.weight @ x[b, t]
            p = logits.softmax(0)
            chosen = sorted(range(E), key=lambda e: -logits[e].item())[:S]
            weights = p[chosen] if S == 1 else p[chosen] / p[chosen].sum()
            for weight, e in zip(weights, chosen, strict=True):
                hidden = bend(cfg.mlp, moe.up.weight[e] @ x[b, t])
                out[b, t] = out[b, t] + weight * (moe.down.weight[e] @ hidden)
                sent[e] += 1
            if moe.shared_up is not None:
                hidden = bend(cfg.mlp, moe.shared_up.weight @ x[b, t])
                out[b, t] = out[b, t] + moe.shared_down.weight @ hidden
            P = P + p / x.size(1)
            squares.append(logits.exp().sum().log() ** 2)
        shares.append(sent)
        balance = balance + E * sum(n / (S * x.size(1)) * P[e] for e, n in enumerate(sent)) / len(x)
    return out, balance, sum(squares) / len(squares)


@pytest.mark.parametrize("double", [True, False])  # one by one, and torch's grouped product
@pytest.mark.parametrize("mlp", MLP)
@pytest.mark.parametrize("experts", [(6, 2, 0), (6, 1, 0), (4, 3, 1), (5, 5, 3), (40, 2, 0)])
def test_outputs_losses_and_gradients_are_those_of_a_loop_over_tokens(experts, mlp, double):
    n_expert, top_k, shared = experts
    cfg = replace(CFG, mlp=mlp, n_expert=n_expert, top_k=top_k, n_shared_expert=shared,
                  granularity=2 if mlp is MLP.SWIGLU else None)  # fmt: skip
    moe = drawn(MoE(cfg))
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(1))
    if double:
        moe, x = moe.double(), x.double()
    assert grouped_mm_runs(x[0], moe.up.weight) is not double
    x.requires_grad_()
    found = []
    for forward in (moe, lambda x, moe=moe: by_loop(moe, cfg, x)):
        got = forward(x)
        out, balance, z = (got[0], *got[1][:2]) if isinstance(got[1], tuple) else got
        objective = (out * torch.linspace(-1, 1, 24)).sum() + 0.7 * balance + 0.2 * z
        gradients = torch.autograd.grad(objective, [x, *moe.parameters()])
        found.append((out, balance, z, *gradients))
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if double else {"rtol": 2e-5, "atol": 2e-5}
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, **tolerance)


def test_widths_that_torchs_grouped_product_refuses_are_multiplied_one_by_one():
    moe = drawn(MoE(replace(CFG, granularity=32)))
    assert moe.up.weight.shape == (6, 3, 24)  # rows of 12 bytes
    x = torch.randn(2, 5, 24)
    assert not grouped_mm_runs(x[0], moe.down.weight)
    out, routing = moe(x)
    torch.testing.assert_close(out, by_loop(moe, replace(CFG, granularity=32), x)[0])
    out.sum().backward()
    assert all(moe.up.weight.grad[e].any() == bool(n) for e, n in enumerate(routing.load))


@pytest.mark.parametrize("mlp", MLP)
def test_one_expert_is_the_mlp_of_its_width(mlp):
    cfg = replace(CFG, mlp=mlp, n_expert=1, top_k=1, granularity=1)
    dense = GPTConfig(**SHAPE, mlp=mlp)
    assert cfg.expert_width == dense.mlp_width
    one, plain = (drawn(Block(c, Attention.REFERENCE)) for c in (cfg, dense))
    with torch.no_grad():
        plain.attn.load_state_dict(one.attn.state_dict())
        for norm in ("norm_1", "norm_2"):
            getattr(plain, norm).weight.copy_(getattr(one, norm).weight)
        plain.up.weight.copy_(one.moe.up.weight[0])
        plain.down.weight.copy_(one.moe.down.weight[0])
    x = torch.randn(3, 19, 24, generator=torch.Generator().manual_seed(1))
    turn = GPT(dense, Attention.REFERENCE).turn_TK2
    torch.testing.assert_close(one(x, turn, None), plain(x, turn, None), rtol=1e-6, atol=1e-6)
    routing = one.moe(x)[1]
    assert routing.balance.item() == pytest.approx(1.0)
    assert routing.load.tolist() == [3 * 19]


def test_the_router_has_a_gradient_from_the_task_also_with_one_expert_a_token():
    for top_k in (1, 2):
        moe = drawn(MoE(replace(CFG, top_k=top_k, granularity=1)))
        moe(torch.randn(2, 5, 24))[0].square().sum().backward()
        assert moe.router.weight.grad.abs().max() > 1e-4


@settings(max_examples=30)
@given(
    B=st.integers(1, 4), T=st.integers(1, 30), E=st.integers(1, 9), seed=st.integers(0, 99),
    data=st.data(),
)  # fmt: skip
def test_no_token_is_dropped_and_even_routing_has_a_balance_of_one(B, T, E, seed, data):
    top_k = data.draw(st.integers(1, E))
    moe = drawn(MoE(replace(CFG, n_expert=E, top_k=top_k, granularity=1)), seed)
    x = torch.randn(B, T, 24, generator=torch.Generator().manual_seed(seed))
    routing = moe(x)[1]
    assert routing.load.sum() == B * T * top_k
    assert routing.load.max() <= B * T
    with torch.no_grad():
        moe.router.weight.zero_()  # all probabilities equal, whoever is chosen
    even = moe(x)[1]
    assert even.balance.item() == pytest.approx(1, rel=1e-5)
    assert even.z.item() == pytest.approx(math.log(E) ** 2, rel=1e-5, abs=1e-9)


def test_losses_of_the_routers_are_in_what_is_minimised_and_nowhere_else():
    model = drawn(GPT(replace(CFG, balance_loss=0.3, router_z_loss=0.2), Attention.REFERENCE))
    rows = torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(4))
    tokens, targets = rows[:, :-1], rows[:, 1:]
    routed = []
    model.hidden(tokens, None, routed)
    loss = model(tokens, None, targets)
    wanted = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    more = sum(0.3 * r.balance + 0.2 * r.z for r in routed)
    assert len(routed) == CFG.n_layer
    torch.testing.assert_close(loss.cross_entropy, wanted)
    torch.testing.assert_close(model.token_losses(tokens, targets).mean(), wanted)
    torch.testing.assert_close(loss.objective, wanted + more)
    assert more > 0.5


def test_a_batch_may_be_split_without_a_change_of_any_gradient():
    model = drawn(GPT(CFG, Attention.REFERENCE).double(), sd=0.1)
    rows = torch.randint(50, (4, 20), generator=torch.Generator().manual_seed(4))

    def gradients(parts):
        model.zero_grad()
        for part in rows.split(parts):
            loss = model(part[:, :-1], None, part[:, 1:]).objective
            (loss * len(part) / len(rows)).backward()
        return [p.grad.clone() for p in model.parameters()]

    whole = gradients(4)
    for parts in (1, 3):
        torch.testing.assert_close(gradients(parts), whole, rtol=1e-5, atol=1e-8)


def test_experts_are_one_graph_for_the_compiler_where_torch_can_trace_a_grouped_product():
    """Eager backend: this is about breaks in the graph, and needs no C++ compiler."""
    torch._dynamo.reset()
    cfg = replace(CFG, n_layer=1, n_shared_expert=1, granularity=2)
    model = drawn(GPT(cfg, Attention.REFERENCE))
    rows = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(4))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    found = []
    for f in (compiled, model):
        with torch.autocast("cpu", torch.bfloat16):
            loss = f(rows[:, :-1], None, rows[:, 1:]).objective
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    torch.testing.assert_close(*found, rtol=0.1, atol=0.01)


@pytest.mark.slow
def test_a_loop_over_experts_is_left_alone_by_the_compiler():
    """In float32 it breaks the graph, and what is left is compiled once whatever the loads are."""
    torch._dynamo.reset()
    model = drawn(GPT(replace(CFG, n_layer=1), Attention.REFERENCE))
    model.ready_to_compile()
    graphs, seen = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, dynamic=False)
    for seed in range(3):
        rows = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(seed))
        given = (rows[:, :-1], None, rows[:, 1:])
        torch.testing.assert_close(compiled(*given).objective, model(*given).objective)
        seen.append(len(graphs))
    assert seen[0] == seen[-1] > 1


def test_planted_routing_is_what_the_meter_reads():
    model = drawn(GPT(replace(CFG, top_k=1, granularity=1), Attention.REFERENCE))
    tokens = torch.arange(19)[None]
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            block.moe.router.weight.zero_()
            block.norm_2.weight.zero_()
            block.norm_2.weight[0] = 1.0
            block.moe.router.weight[i, 0] = (
                1.0  # above the others where the first number is positive
            )
            block.moe.router.weight[i + 3, 0] = -1.0
    with watch_load(model) as loads:
        model.token_losses(tokens, tokens)
        model.token_losses(tokens, tokens)
    assert [load.sum().item() for load in loads] == [38, 38]
    for i, load in enumerate(loads):
        assert load[i] + load[i + 3] == 38
    model.token_losses(tokens, tokens)
    assert loads[0].sum() == 38  # closed
    with watch_load(GPT(GPTConfig(**SHAPE), Attention.REFERENCE)) as none:
        assert none == []
