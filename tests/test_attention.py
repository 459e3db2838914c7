"""Every implementation of attention that runs on a CPU against the formula in float64.

tests/gpu/test_attention_gpu.py puts those of a GPU through the same checks.
"""

import pytest
import torch
from helpers_attention import both_ways, draw, formula, worst_error
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import attention, attention_version, borders, choose_attention, only
from models.config import Attention
from models.kernel_rules import NEEDS, Place, choose, why_not

ON_CPU = [Attention.CPU_FLASH, Attention.REFERENCE]
A100 = Place(device="cuda", dtype="bfloat16", capability=(8, 0))
H100 = Place(device="cuda", dtype="bfloat16", capability=(9, 0))
B200 = Place(device="cuda", dtype="bfloat16", capability=(10, 0))


@pytest.fixture
def precision():
    """Return a function that sets torch's float32 matmul mode until the test ends."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def product_error() -> float:
    """Relative error of a float32 product in the mode that is set; the mode's own, on this CPU."""
    a = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ a.double()
    return (((a @ a) - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("implementation", ON_CPU)
@settings(max_examples=40)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 70),
    G=st.integers(1, 3),
    R=st.integers(1, 3),
    K=st.sampled_from([2, 6, 8, 12, 16, 24, 32, 64, 96, 128]),
    packed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_forward_and_backward_are_those_of_the_formula(implementation, B, T, G, R, K, packed, seed):
    qkv, gradient, document = draw(B, T, G * R, G, K, torch.float32, "cpu", seed)
    assert worst_error(implementation, qkv, gradient, document if packed else None) < 1e-5


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("T", [127, 129, 513])  # on both sides of the kernels' block lengths
def test_odd_lengths_beyond_a_block(implementation, T, packed):
    qkv, gradient, document = draw(1, T, 2, 1, 16, torch.float32, "cpu")
    assert worst_error(implementation, qkv, gradient, document if packed else None) < 2e-5


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("K", [8, 64, 128])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.02)],
)
@pytest.mark.parametrize("mode", ["highest", "medium"])
def test_any_dtype_under_any_matmul_mode(
    implementation, dtype, tolerance, mode, K, packed, precision
):
    precision(mode)
    qkv, gradient, document = draw(2, 65, 4, 2, K, dtype, "cpu")
    if implementation is Attention.REFERENCE and dtype is torch.float32:
        tolerance = max(tolerance, 10 * product_error())  # AMX: medium rounds to bfloat16
    assert worst_error(implementation, qkv, gradient, document if packed else None) < tolerance
    assert torch.get_float32_matmul_precision() == mode


def test_cpu_flash_computes_half_precision_and_the_fast_mode_in_true_float32(precision):
    """So that it is as exact, and as fast, as in float32 (models/attention_cpu.py)."""
    qkv, gradient, _ = draw(2, 65, 4, 2, 16, torch.bfloat16, "cpu")

    def run(*z):
        return attention(*z, Attention.CPU_FLASH)

    exact = both_ways(formula, qkv, gradient)
    for a, b in zip(both_ways(run, qkv, gradient), exact, strict=True):
        rounded = b.bfloat16().double()  # nothing but the result was rounded
        assert ((a - rounded).abs() <= 2**-7 * b.abs() + 1e-6).all()
    wide = [z.float() for z in qkv]
    highest = both_ways(run, wide, gradient)
    precision("medium")
    medium = both_ways(run, wide, gradient)
    assert all(torch.equal(a, b) for a, b in zip(highest, medium, strict=True))


@pytest.mark.parametrize("implementation", ON_CPU)
def test_no_query_sees_a_later_key(implementation):
    (q, k, v), _, _ = draw(2, 9, 3, 3, 8, torch.float32, "cpu")
    with only(implementation):
        before = attention(q, k, v, implementation)
        k[:, 5:], v[:, 5:] = 7.0, -7.0
        after = attention(q, k, v, implementation)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("implementation", ON_CPU)
def test_packed_documents_are_as_if_each_were_alone(implementation):
    (q, k, v), _, _ = draw(1, 20, 4, 2, 8, torch.float32, "cpu")
    document = torch.tensor([[0] * 7 + [1] + [2] * 12])
    with only(implementation):
        packed = attention(q, k, v, implementation, borders(document, implementation))
        for part in (slice(0, 7), slice(7, 8), slice(8, 20)):
            alone = attention(q[:, part], k[:, part], v[:, part], implementation)
            torch.testing.assert_close(packed[:, part], alone, rtol=1e-5, atol=1e-6)


def test_one_document_in_each_row_changes_nothing():
    qkv, _, _ = draw(2, 33, 4, 2, 8, torch.float32, "cpu")
    document = torch.tensor([[4], [9]]).expand(2, 33)
    for implementation in ON_CPU:
        one = attention(*qkv, implementation, borders(document, implementation))
        torch.testing.assert_close(one, attention(*qkv, implementation), rtol=1e-5, atol=1e-6)


def test_starts_count_documents_through_the_whole_batch():
    document = torch.tensor([[5, 5, 6, 7], [7, 7, 7, 7], [0, 1, 1, 1]])
    for implementation in (Attention.FA2, Attention.FA3, Attention.FA4, Attention.SDPA_FLASH):
        starts = borders(document, implementation).starts
        assert starts.dtype == torch.int32
        assert starts.tolist() == [0, 2, 3, 4, 8, 9, 12, 12, 12]  # 6 documents, 2 empty ones
        assert borders(document[:1, :2], implementation).starts.tolist() == [0, 2]


def test_another_backend_than_the_named_one_is_refused_not_replaced():
    (q, k, v), _, _ = draw(1, 4, 1, 1, 8, torch.float32, "cpu")
    with (
        only(Attention.SDPA_EFFICIENT),
        pytest.raises(RuntimeError, match=r"No (viable backend|available kernel)"),
    ):
        attention(q, k, v, Attention.SDPA_EFFICIENT)


def test_torch_knows_the_kernels_that_may_stand_in_for_its_own():
    assert {"FA3", "FA4"} <= set(torch.nn.attention.list_flash_attention_impls())
    with pytest.raises(ImportError), only(Attention.SDPA_FA4):
        pass
    assert torch.nn.attention.current_flash_attention_impl() is None


@pytest.fixture
def installed(monkeypatch):
    """Return a function that makes the rules see exactly these packages."""

    def installed(*names: str) -> None:
        versions = dict.fromkeys(names, "1.0")
        monkeypatch.setattr("models.kernel_rules.package_version", versions.get)

    return installed


def test_auto_takes_the_best_that_runs(installed):
    installed()
    assert choose_attention("cpu", torch.float32) is Attention.CPU_FLASH
    assert choose_attention("cpu", torch.bfloat16) is Attention.CPU_FLASH
    for place in (A100, H100, B200):
        assert choose(place, "auto", [64]) is Attention.SDPA_FLASH
    installed("flash-attn", "flash-attn-3", "flash-attn-4")
    assert choose(A100, "auto", [64]) is Attention.SDPA_FLASH
    assert choose(H100, "auto", [64]) is Attention.FA3
    assert choose(B200, "auto", [64]) is Attention.FA4
    assert choose(B200, "auto", [64, 256]) is Attention.SDPA_FLASH
    assert choose(H100, "auto", [64, 12]) is Attention.SDPA_FLASH  # torch pads, fa3 does not
    assert choose(H100, "auto", [12], documents=True) is Attention.REFERENCE
    float32 = Place(device="cuda", dtype="float32", capability=(9, 0))
    assert choose(float32, "auto", [12]) is Attention.SDPA_EFFICIENT
    assert choose(float32, "auto", [6]) is Attention.REFERENCE
    float64 = Place(device="cuda", dtype="float64", capability=(9, 0))
    assert choose(float64, "auto", [64]) is Attention.REFERENCE


@pytest.mark.parametrize(
    ("asked", "place", "head_dims", "reason"),
    [
        ("sdpa_flash", Place(device="cpu", dtype="float32"), [], "needs device cuda, this is cpu"),
        ("cpu_flash", A100, [], "needs device cpu, this is cuda"),
        ("fa2", A100, [], "needs the package flash-attn, which is not installed: docs/install-flash"),
        ("fa3", A100, [], "needs compute capability 9.x, this is 8.0"),
        ("fa3", H100, [], "needs the package flash-attn-3, which is not installed"),
        ("fa4", A100, [], "needs compute capability 9.x or 10.x, this is 8.0"),
        ("sdpa_fa4", Place(device="cuda", dtype="bfloat16", capability=(10, 0), torch=(2, 8)), [],
         "needs torch 2.13 or newer (this is 2.8)"),
        ("sdpa_cudnn", H100, [64, 12], "needs head_dim (d_model / n_head) a multiple of 8 up to 128, not 12"),
        ("sdpa_flash", H100, [64, 512], "needs head_dim (d_model / n_head) at most 256, not 512"),
        ("sdpa_flash", Place(device="cuda", dtype="float32", capability=(8, 0)), [],
         "needs hardware.dtype bfloat16 or float16, not float32"),
    ],
)  # fmt: skip
def test_one_that_can_not_run_says_why_and_what_would(asked, place, head_dims, reason, installed):
    installed()
    with pytest.raises(ValueError, match="can't run here") as e:
        choose(place, asked, head_dims)
    assert f"hardware.attention={asked} can't run here: it {reason}" in str(e.value)
    assert f"hardware.attention=auto would take {choose(place, 'auto', head_dims)}" in str(e.value)


def test_every_name_has_rules_and_documents_have_theirs(installed):
    installed()
    assert set(NEEDS) | {Attention.REFERENCE} == set(Attention)
    old = Place(device="cuda", dtype="bfloat16", capability=(9, 0), torch=(2, 8))
    assert why_not(Attention.SDPA_FLASH, old, [64]) is None
    assert why_not(Attention.SDPA_FLASH, old, [64], documents=True) == (
        "needs torch 2.13 or newer to mask documents (this is 2.8)"
    )
    assert why_not(Attention.SDPA_FLASH, H100, [64], documents=True) is None
    assert "multiple of 8" in why_not(Attention.SDPA_FLASH, H100, [12], documents=True)


def test_versions_name_who_made_the_kernel():
    assert attention_version(Attention.CPU_FLASH) == f"torch {torch.__version__}"
    assert attention_version(Attention.SDPA_CUDNN).startswith(f"torch {torch.__version__}, cudnn ")
