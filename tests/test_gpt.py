"""What the network must be: causal, turned by position, and started by its seed alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import Attention, GPTConfig, Positions
from models.gpt import GPT, rotary, rotate

SHAPE = {"n_layer": 2, "d_model": 24, "n_head": 2, "vocab_size": 50, "seq_len": 19}
ATTENTION = [Attention.CPU_FLASH, Attention.REFERENCE]


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
@pytest.mark.parametrize("positions", Positions)
def test_a_later_token_changes_no_earlier_logit(attention, positions):
    model = started(GPTConfig(**SHAPE, positions=positions), attention)
    tokens = torch.randint(50, (3, 19), generator=torch.Generator().manual_seed(0))
    logits = model(tokens)
    for at in (1, 9, 18):
        changed = tokens.clone()
        changed[:, at] = (changed[:, at] + 7) % 50
        other = model(changed)
        assert torch.equal(logits[:, :at], other[:, :at])
        assert (logits[:, at:] != other[:, at:]).any(-1).all()


@pytest.mark.parametrize("positions", Positions)
def test_implementations_of_attention_make_one_model(positions):
    cfg = GPTConfig(**SHAPE, positions=positions)
    tokens = torch.randint(50, (2, 19), generator=torch.Generator().manual_seed(1))
    a, b = (started(cfg, implementation)(tokens) for implementation in ATTENTION)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", Positions)
def test_shorter_rows_are_the_beginning_of_longer_ones(positions):
    model = started(GPTConfig(**SHAPE, positions=positions))
    tokens = torch.randint(50, (1, 19), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(tokens)[:, :7], model(tokens[:, :7]), rtol=1e-5, atol=1e-6)


@given(K=st.integers(1, 32).map(lambda k: 2 * k), seed=st.integers(0, 999))
def test_a_turn_keeps_the_length_of_every_pair(K, seed):
    x = torch.randn(1, 40, 2, 3, K, generator=torch.Generator().manual_seed(seed))
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
    at_each = torch.stack((q, k)).expand(128, 2, K).view(1, 128, 2, 1, K)
    turned = rotate(at_each.contiguous(), turn)[0, :, :, 0].double()
    scores = turned[:, 0] @ turned[:, 1].T  # query at row, key at column
    shifted = scores[by:, by:]
    torch.testing.assert_close(scores[: 128 - by, : 128 - by], shifted, rtol=1e-4, atol=2e-4)


def test_turns_have_the_frequencies_of_roformer():
    turn = rotary(5, 6)[:, 0, 0]
    for t in range(5):
        for i in range(3):
            angle = t * 10_000 ** (-2 * i / 6)
            assert turn[t, i].item() == pytest.approx(complex(math.cos(angle), math.sin(angle)))


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
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
