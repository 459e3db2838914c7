"""Every implementation of attention that runs here against the formula in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import attention, choose_attention, only
from models.config import Attention

HERE = "cuda" if torch.cuda.is_available() else "cpu"
HALF_ONLY = (Attention.SDPA_FLASH, Attention.SDPA_CUDNN)
RUNS_HERE = [
    a
    for a in Attention
    if a is Attention.REFERENCE or (a is Attention.CPU_FLASH) == (HERE == "cpu")
]


def formula(q, k, v):
    """Causal softmax(q k^T / sqrt(K)) v of (B, T, H, K), a query at a time, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    rows = []
    for t in range(q.size(1)):
        scores_BHS = torch.einsum("bhk,bshk->bhs", q[:, t], k[:, : t + 1]) * q.size(-1) ** -0.5
        rows.append(torch.einsum("bhs,bshk->bhk", scores_BHS.softmax(-1), v[:, : t + 1]))
    return torch.stack(rows, dim=1)


def draw(B: int, T: int, H: int, K: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    qkv = [torch.randn(B, T, H, K, generator=generator) for _ in range(4)]
    return [z.to(HERE, dtype) for z in qkv]


def both_ways(function, q, k, v, out_gradient):
    """Output and gradients to q, k and v, in float64."""
    leaves = [z.clone().requires_grad_() for z in (q, k, v)]
    out = function(*leaves)
    out.backward(out_gradient.to(out.dtype))
    return [out.detach().double(), *(z.grad.double() for z in leaves)]


@pytest.mark.parametrize("implementation", RUNS_HERE)
@settings(max_examples=40)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 70),
    H=st.integers(1, 5),
    K=st.sampled_from([2, 4, 6, 8, 12, 16, 24, 32, 64]),
    seed=st.integers(0, 2**31),
)
def test_forward_and_backward_are_those_of_the_formula(implementation, B, T, H, K, seed):
    half = implementation in HALF_ONLY
    if half and K % 8:
        return  # these kernels take heads of a multiple of 8
    *qkv, gradient = draw(B, T, H, K, torch.bfloat16 if half else torch.float32, seed)
    with only(implementation):
        got = both_ways(lambda *z: attention(*z, implementation), *qkv, gradient)
    wanted = both_ways(formula, *qkv, gradient)
    for a, b in zip(got, wanted, strict=True):
        scale = b.abs().max().clamp(min=1.0)
        assert ((a - b).abs().max() / scale).item() < (0.03 if half else 1e-5)


@pytest.mark.parametrize("implementation", [a for a in RUNS_HERE if a not in HALF_ONLY])
@pytest.mark.parametrize("T", [127, 129, 513])  # on both sides of the kernels' block lengths
def test_odd_lengths_beyond_a_block(implementation, T):
    *qkv, gradient = draw(1, T, 2, 16, torch.float32)
    with only(implementation):
        got = both_ways(lambda *z: attention(*z, implementation), *qkv, gradient)
    for a, b in zip(got, both_ways(formula, *qkv, gradient), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("implementation", [a for a in RUNS_HERE if a not in HALF_ONLY])
def test_no_query_sees_a_later_key(implementation):
    q, k, v, _ = draw(2, 9, 3, 8, torch.float32)
    with only(implementation):
        before = attention(q, k, v, implementation)
        k[:, 5:], v[:, 5:] = 7.0, -7.0
        after = attention(q, k, v, implementation)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


def test_another_backend_than_the_named_one_is_refused_not_replaced():
    if HERE == "cuda":
        pytest.skip("a CPU has no memory-efficient kernel; a GPU does")
    q, k, v, _ = draw(1, 4, 1, 8, torch.float32)
    with (
        only(Attention.SDPA_EFFICIENT),
        pytest.raises(RuntimeError, match=r"No (viable backend|available kernel)"),
    ):
        attention(q, k, v, Attention.SDPA_EFFICIENT)


def test_what_is_chosen_and_what_is_refused():
    assert choose_attention("cpu", torch.float32) is Attention.CPU_FLASH
    assert choose_attention("cpu", torch.float32, "reference") is Attention.REFERENCE
    assert choose_attention("cuda", torch.bfloat16) is Attention.SDPA_FLASH
    assert choose_attention("cuda", torch.float32) is Attention.SDPA_EFFICIENT
    assert choose_attention("cuda", torch.bfloat16, "sdpa_cudnn") is Attention.SDPA_CUDNN
    with pytest.raises(ValueError, match="sdpa_flash does not run on device cpu"):
        choose_attention("cpu", torch.float32, "sdpa_flash")
    with pytest.raises(ValueError, match="cpu_flash does not run on device cuda"):
        choose_attention("cuda", torch.float32, "cpu_flash")
