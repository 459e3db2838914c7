"""What the network must be: causal, turned by position, and started by its seed alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import MLP, Attention, GPTConfig, Init, Norm, Positions
from models.gpt import GPT, rotary, rotate

SHAPE = {"n_layer": 2, "d_model": 24, "n_head": 2, "vocab_size": 50, "seq_len": 19}
ATTENTION = [Attention.CPU_FLASH, Attention.REFERENCE]
OPTIONS = [
    {},
    {"positions": Positions.LEARNED},
    {"tied": True},
    {"norm": Norm.RMSNORM},
    {"mlp": MLP.SWIGLU},
    {"mlp": MLP.RELU2},
    {"n_kv_head": 1},
    {"qk_norm": True},
    {"z_loss": 0.3},
    {"norm": Norm.RMSNORM, "mlp": MLP.SWIGLU, "n_kv_head": 1, "qk_norm": True, "z_loss": 1e-4},
]


def started(cfg: GPTConfig, attention: Attention = Attention.REFERENCE, seed: int = 3) -> GPT:
    """Return a model no part of which is zero."""
    model = GPT(cfg, attention)
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(0, 0.3, generator=generator)
    return model


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_a_later_token_changes_no_earlier_logit(attention, option):
    model = started(GPTConfig(**SHAPE, **option), attention)
    tokens = torch.randint(50, (3, 19), generator=torch.Generator().manual_seed(0))
    logits = model(tokens)
    for at in (1, 9, 18):
        changed = tokens.clone()
        changed[:, at] = (changed[:, at] + 7) % 50
        other = model(changed)
        assert torch.equal(logits[:, :at], other[:, :at])
        assert (logits[:, at:] != other[:, at:]).any(-1).all()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_implementations_of_attention_make_one_model(option, packed):
    cfg = GPTConfig(**SHAPE, **option)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(50, (2, 19), generator=generator)
    document = (torch.rand(2, 19, generator=generator) < 0.2).cumsum(1) if packed else None
    a, b = (started(cfg, implementation)(tokens, document) for implementation in ATTENTION)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_a_packed_document_is_as_if_it_were_alone(attention, option):
    if option.get("positions") is Positions.LEARNED:
        pytest.skip("learned positions count from the start of the row")
    model = started(GPTConfig(**SHAPE, **option), attention)
    tokens = torch.randint(50, (1, 19), generator=torch.Generator().manual_seed(5))
    packed = model(tokens, torch.tensor([[0] * 8 + [1] * 11]))
    for part in (slice(0, 8), slice(8, 19)):
        torch.testing.assert_close(packed[:, part], model(tokens[:, part]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_losses_are_those_of_the_logits(option):
    model = started(GPTConfig(**SHAPE, **option))
    rows = torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(4))
    tokens, targets = rows[:, :-1], rows[:, 1:]
    document = (rows[:, :-1] % 7 == 0).cumsum(1)
    log_p = model(tokens, document).double().log_softmax(-1)
    wanted = -log_p.gather(-1, targets[..., None]).squeeze(-1)
    got = model.token_losses(tokens, targets, document)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)
    loss = model(tokens, document, targets)
    assert loss.cross_entropy.item() == pytest.approx(wanted.mean().item(), rel=1e-6)
    log_z = model(tokens, document).double().logsumexp(-1)
    penalty = option.get("z_loss", 0.0) * log_z.square().mean().item()
    assert loss.objective.item() == pytest.approx(wanted.mean().item() + penalty, rel=1e-6)


def test_norms_bends_and_heads_are_their_formulas():
    """One block of every kind, written out with einsum, against the module."""
    for option in OPTIONS:
        cfg = GPTConfig(**SHAPE, **option)
        block = started(cfg).blocks[0].double()
        x = torch.randn(2, 19, 24, generator=torch.Generator().manual_seed(6)).double()
        turn = None if cfg.positions is Positions.LEARNED else rotary(19, cfg.head_dim)
        wanted = block_by_hand(block, cfg, x)
        torch.testing.assert_close(block(x, turn, None), wanted, rtol=1e-6, atol=1e-6)


def block_by_hand(block, cfg: GPTConfig, x):
    def norm(x, gain):
        if cfg.norm is Norm.LAYERNORM:
            x = x - x.mean(-1, keepdim=True)
        return gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def unit(x, gain):
        return gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    H, G, K = cfg.n_head, cfg.kv_heads, cfg.head_dim
    w_q, w_k, w_v = block.attn.qkv.weight.split((H * K, G * K, G * K))
    y = norm(x, block.norm_1.weight)
    heads = [(y @ w.T).unflatten(-1, (-1, K)) for w in (w_q, w_k, w_v)]
    q, k, v = (z.repeat_interleave(H // z.size(2), 2) for z in heads)
    if cfg.qk_norm:
        q, k = unit(q, block.attn.q_norm.weight), unit(k, block.attn.k_norm.weight)
    if cfg.positions is Positions.ROTARY:
        q, k = (turned_by_sines(z) for z in (q, k))
    scores = torch.einsum("bthk,bshk->bhts", q, k) / K**0.5
    scores = scores + torch.full((19, 19), -torch.inf).triu(1)
    mixed = torch.einsum("bhts,bshk->bthk", scores.softmax(-1), v).flatten(-2)
    x = x + mixed @ block.attn.out.weight.T
    y = norm(x, block.norm_2.weight) @ block.up.weight.T
    match cfg.mlp:
        case MLP.GELU:
            y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
        case MLP.RELU2:
            y = torch.where(y > 0, y * y, 0.0)
        case MLP.SWIGLU:
            gate, value = y[..., : cfg.mlp_width], y[..., cfg.mlp_width :]
            y = gate / (1 + (-gate).exp()) * value
    return x + y @ block.down.weight.T


def turned_by_sines(x):
    T, K = x.size(1), x.size(-1)
    angle = torch.arange(T)[:, None].double() * 10_000 ** (-torch.arange(0, K, 2).double() / K)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


@pytest.mark.parametrize("positions", Positions)
def test_shorter_rows_are_the_beginning_of_longer_ones(positions):
    model = started(GPTConfig(**SHAPE, positions=positions))
    tokens = torch.randint(50, (1, 19), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(tokens)[:, :7], model(tokens[:, :7]), rtol=1e-5, atol=1e-6)


@given(K=st.integers(1, 32).map(lambda k: 2 * k), seed=st.integers(0, 999))
def test_turns_are_the_same_in_complex_and_in_real_numbers(K, seed):
    x = torch.randn(2, 17, 3, K, generator=torch.Generator().manual_seed(seed))
    turn = rotary(17, K)
    real, imaginary = (rotate(x, turn, as_complex=c) for c in (False, True))
    torch.testing.assert_close(real, imaginary, rtol=1e-6, atol=1e-6)
    assert torch.equal(rotate(x, turn), imaginary)  # on a CPU


@given(K=st.integers(1, 32).map(lambda k: 2 * k), seed=st.integers(0, 999))
def test_a_turn_keeps_the_length_of_every_pair(K, seed):
    x = torch.randn(1, 40, 3, K, generator=torch.Generator().manual_seed(seed))
    turned = rotate(x, rotary(40, K))
    pairs, turned_pairs = (z.unflatten(-1, (-1, 2)).norm(dim=-1) for z in (x, turned))
    torch.testing.assert_close(pairs, turned_pairs, rtol=1e-5, atol=1e-6)
    assert torch.equal(turned[:, 0], x[:, 0])
    assert turned.dtype == x.dtype


@settings(max_examples=25)
@given(K=st.integers(1, 32).map(lambda k: 2 * k), by=st.integers(0, 60), seed=st.integers(0, 999))
def test_scores_depend_on_the_distance_of_two_positions_only(K, by, seed):
    q, k = torch.randn(2, K, generator=torch.Generator().manual_seed(seed))
    turn = rotary(128, K)
    at_each = torch.stack((q, k)).expand(1, 128, 2, K)
    turned = rotate(at_each.contiguous(), turn)[0].double()
    scores = turned[:, 0] @ turned[:, 1].T  # query at row, key at column
    shifted = scores[by:, by:]
    torch.testing.assert_close(scores[: 128 - by, : 128 - by], shifted, rtol=1e-4, atol=2e-4)


def test_turns_have_the_frequencies_of_roformer():
    turn = rotary(5, 6)[:, 0]
    for t in range(5):
        for i in range(3):
            angle = t * 10_000 ** (-2 * i / 6)
            assert turn[t, i].tolist() == pytest.approx([math.cos(angle), math.sin(angle)])


def weights(model: GPT) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_start_depends_on_the_seed_and_on_nothing_else():
    cfg = GPTConfig(**SHAPE)
    torch.manual_seed(1)
    one = GPT(cfg, Attention.REFERENCE)
    one.init_weights(7)
    torch.manual_seed(2)
    two = GPT(cfg, Attention.CPU_FLASH)
    state = torch.get_rng_state()
    two.init_weights(7)
    assert torch.equal(state, torch.get_rng_state())
    for name, p in weights(one).items():
        assert torch.equal(p, weights(two)[name]), name
    two.init_weights(8)
    assert not torch.equal(weights(one)["head.weight"], weights(two)["head.weight"])


@pytest.mark.parametrize("tied", [False, True])
def test_a_start_is_the_identity_through_its_layers(tied):
    cfg = GPTConfig(**{**SHAPE, "d_model": 256, "n_layer": 3}, tied=tied)
    model = GPT(cfg, Attention.REFERENCE)
    model.init_weights(0)
    tokens = torch.arange(19)[None]
    logits = model(tokens)
    torch.testing.assert_close(logits, model.head(model.norm(model.embed(tokens))))
    for name, p in model.named_parameters():
        if p.ndim < 2:
            assert (p == 1).all()
        elif name.endswith(("out.weight", "down.weight")):
            assert not p.any()
        else:
            assert p.std().item() == pytest.approx(p.size(1) ** -0.5, rel=0.05), name


@pytest.mark.parametrize("mlp", MLP)
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("init", Init)
def test_a_start_has_the_spreads_of_its_rule(init, scale, mlp):
    shape = {**SHAPE, "d_model": 256, "vocab_size": 512}
    cfg = GPTConfig(**shape, init=init, init_scale=scale, mlp=mlp)
    model = GPT(cfg, Attention.REFERENCE)
    model.init_weights(0)
    for name, p in model.named_parameters():
        if p.ndim < 2:
            continue
        sd = scale * (0.02 if init is Init.GPT2 else p.size(1) ** -0.5)
        if name.endswith(("out.weight", "down.weight")):
            sd = 0.0 if init is Init.ZERO_OUT else sd / 4**0.5  # 2 L = 4
        assert p.std().item() == pytest.approx(sd, rel=0.03), name
        assert abs(p.mean().item()) <= 4 * sd / p.numel() ** 0.5, name


def test_the_default_start_is_the_one_of_the_first_records():
    """The sums as they were before there were options: records of the demo rest on them."""
    model = GPT(GPTConfig(**SHAPE), Attention.REFERENCE)
    model.init_weights(7)
    drawn = [p.double().sum().item() for p in model.parameters() if p.ndim > 1 and p.any()]
    first = [8.7428529, -6.9222474, 14.8197643, 10.2316522, 7.3087535, 3.6588278]
    assert drawn == pytest.approx(first, abs=1e-6)
    assert model(torch.arange(19)[None]).sum().item() == pytest.approx(-27.8188416, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"n_head": 6, "n_kv_head": 4},
            "n_kv_head=4 does not divide n_head=6; n_kv_head may be 2, 3, 6",
        ),
        ({"n_kv_head": 0}, "n_kv_head=0 does not divide n_head=2"),
        ({"z_loss": -1.0}, "z_loss=-1 must lie between 0 and 1"),
        ({"z_loss": math.nan}, "z_loss=nan must lie between 0 and 1"),
        ({"init_scale": 0.0}, "init_scale=0 must lie between 0.001 and 1000"),
        ({"n_head": 5}, "n_head=5 does not divide d_model=24; n_head may be 3, 4, 6"),
        ({"n_head": 8}, "head_dim=3; rotary positions turn pairs"),
        ({"n_layer": 0}, "n_layer=0 must be at least 1"),
        ({"seq_len": -1}, "seq_len=-1 must be at least 1"),
    ],
)
def test_shapes_that_can_not_be_built_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{**SHAPE, **change})
    assert GPTConfig(**{**SHAPE, "n_head": 8}, positions=Positions.LEARNED).head_dim == 3


@pytest.mark.parametrize("option", [OPTIONS[0], OPTIONS[-1]], ids=str)
def test_a_model_and_its_loss_are_one_graph_for_the_compiler(option):
    """Eager backend: this is about breaks in the graph, and needs no C++ compiler."""
    torch._dynamo.reset()
    model = started(GPTConfig(**{**SHAPE, "n_layer": 1}, **option))
    rows = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(4))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    a, b = (f(rows[:, :-1], None, rows[:, 1:]).objective for f in (compiled, model))
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    a.backward()
    assert all(p.grad is not None for p in model.parameters())
