"""Every implementation of attention that a GPU has, through the checks that a CPU's pass."""

import pytest
import torch
from helpers_attention import draw, worst_error

from models.attention import (
    attention,
    attention_version,
    choose_attention,
    is_deterministic,
    only,
)
from models.config import Attention
from models.kernel_rules import NEEDS

pytestmark = pytest.mark.gpu

ON_GPU = [a for a in Attention if a is Attention.REFERENCE or NEEDS[a].device == "cuda"]
# Half precision rounds weights to 8 (bfloat16) or 11 bits before the second product.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.005}


def chosen(implementation: Attention, dtype: torch.dtype, head_dim: int, packed: bool) -> None:
    """Skip, with the reason, where this machine can't run it."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    try:
        choose_attention("cuda", dtype, str(implementation), [head_dim], packed)
    except ValueError as e:
        pytest.skip(str(e))


@pytest.fixture(autouse=True)
def true_float32():
    """Keep TF32 out of the reference's products and of the formula's."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("K", [8, 12, 16, 32, 48, 64, 96, 128])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("implementation", ON_GPU)
def test_forward_and_backward_are_those_of_the_formula(implementation, dtype, K, packed):
    chosen(implementation, dtype, K, packed)
    for B, T, H, G in [(2, 2, 2, 2), (1, 129, 4, 4), (3, 65, 6, 2), (2, 257, 4, 1)]:
        qkv, gradient, document = draw(B, T, H, G, K, dtype, "cuda", seed=T)
        error = worst_error(implementation, qkv, gradient, document if packed else None)
        assert error < TOLERANCE[dtype], (B, T, H, G)


@pytest.mark.parametrize("implementation", ON_GPU)
def test_the_same_bits_again_where_it_says_so(implementation):
    chosen(implementation, torch.bfloat16, 64, False)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        if not is_deterministic(implementation, "cuda"):
            pytest.skip(f"{implementation} has no deterministic backward")
        qkv, gradient, _ = draw(2, 1025, 8, 8, 64, torch.bfloat16, "cuda")
        runs = []
        for _ in range(3):
            leaves = [z.clone().requires_grad_() for z in qkv]
            with only(implementation):
                attention(*leaves, implementation).backward(gradient)
            runs.append([z.grad for z in leaves])
    finally:
        torch.use_deterministic_algorithms(before)
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, runs[0], strict=True))


def test_auto_runs_and_names_its_version():
    chosen(Attention.REFERENCE, torch.bfloat16, 64, False)
    for dtype in TOLERANCE:
        implementation = choose_attention("cuda", dtype, "auto", [64])
        qkv, gradient, _ = draw(1, 33, 2, 2, 64, dtype, "cuda")
        assert worst_error(implementation, qkv, gradient) < TOLERANCE[dtype]
        assert attention_version(implementation)
