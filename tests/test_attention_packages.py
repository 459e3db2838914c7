"""Calls into packages that need a GPU: they fit the packages' own signatures, parsed from sources.

Where a package can't run, a stand-in with its very signature computes the formula, so that all of
our side runs: which function, what is flattened, and what comes back.
"""

import inspect
import json
import sys
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from helpers_attention import both_ways, draw, formula, worst_error
from package_signatures import GOLDEN, SOURCES, NotFetched, fetch_all, signature
from torch.nn.attention.varlen import varlen_attn

from models.attention import attention, attention_version, choose_attention, load_flash
from models.config import Attention, CrossEntropy
from models.loss import liger_arguments, mean_loss

RECORDED = json.loads(GOLDEN.read_text())
PACKAGES = {
    Attention.FA2: ("flash_attn",),
    Attention.FA3: ("flash_attn_interface",),
    Attention.FA4: ("flash_attn", "flash_attn.cute"),
}


@pytest.mark.slow
def test_recorded_signatures_are_those_of_the_pinned_sources(tmp_path):
    try:
        found = fetch_all(tmp_path)
    except NotFetched as e:
        pytest.skip(f"not fetched: {e}")
    assert found == RECORDED, "run: python tests/package_signatures.py"


def test_the_recorded_sources_are_the_pinned_ones():
    assert {name: r["requirement"] for name, r in RECORDED.items()} == {
        name: source[0] for name, source in SOURCES.items()
    }


def stand_in(name: str, function: str, as_tuple: bool):
    """Return a function with the package's signature that computes the formula in float64."""
    shape = signature(RECORDED[name]["functions"][function])

    def call(*args, **keywords):
        given = shape.bind(*args, **keywords).arguments
        assert given["causal"] is True
        assert given["deterministic"] is torch.are_deterministic_algorithms_enabled()
        q, k, v = (given[z] for z in "qkv")
        if function == "flash_attn_func":
            out = formula(q, k, v)
        else:
            ends = given["cu_seqlens_q"]
            assert ends.dtype == torch.int32
            assert torch.equal(ends, given["cu_seqlens_k"])
            longest = int(ends.diff().max())
            assert given["max_seqlen_q"] == given["max_seqlen_k"] >= longest
            assert longest > 0
            pieces = [p for p in pairwise(ends.tolist()) if p[0] < p[1]]
            parts = [formula(*(z[None, a:b] for z in (q, k, v)))[0] for a, b in pieces]
            out = torch.cat(parts)
        out = out.to(q.dtype)
        return (out, None) if as_tuple else out

    return call


@pytest.fixture
def stand_ins(monkeypatch):
    """Return a function that puts stand-ins where a package would be."""

    def stand_ins(implementation: Attention, as_tuple: bool) -> None:
        for path in PACKAGES[implementation]:
            module = ModuleType(path)
            for function in ("flash_attn_func", "flash_attn_varlen_func"):
                setattr(module, function, stand_in(str(implementation), function, as_tuple))
            monkeypatch.setitem(sys.modules, path, module)
            parent, _, child = path.rpartition(".")
            if parent:
                monkeypatch.setattr(sys.modules[parent], child, module, raising=False)

    return stand_ins


@pytest.mark.parametrize("as_tuple", [False, True])  # versions differ in whether they add the lse
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("implementation", PACKAGES)
def test_our_side_of_the_call_is_right(implementation, packed, as_tuple, stand_ins):
    stand_ins(implementation, as_tuple)
    for B, T, H, G, K in [(1, 1, 1, 1, 8), (2, 33, 4, 2, 16), (3, 7, 6, 1, 8)]:
        qkv, gradient, document = draw(B, T, H, G, K, torch.float64, "cpu")
        error = worst_error(implementation, qkv, gradient, document if packed else None)
        assert error < 1e-12


def test_determinism_is_passed_on(stand_ins):
    stand_ins(Attention.FA2, False)
    before = torch.are_deterministic_algorithms_enabled()
    qkv, gradient, _ = draw(1, 5, 2, 2, 8, torch.float64, "cpu")
    try:
        for wanted in (True, False):
            torch.use_deterministic_algorithms(wanted)
            both_ways(lambda *z: attention(*z, Attention.FA2), qkv, gradient)  # asserts inside
    finally:
        torch.use_deterministic_algorithms(before)


def test_torchs_own_call_for_documents_fits_its_signature():
    shape = inspect.signature(varlen_attn)
    q, starts = torch.empty(8, 2, 8), torch.tensor([0, 8], dtype=torch.int32)
    bound = shape.bind(q, q, q, starts, starts, 8, 8, window_size=(-1, 0), enable_gqa=True)
    assert bound.arguments["max_q"] == 8


@pytest.mark.parametrize("z_loss", [0.0, 1e-3])
def test_our_side_of_ligers_call_is_right(z_loss, monkeypatch):
    shape = signature(RECORDED["liger"]["functions"]["liger_fused_linear_cross_entropy"])

    class Output:
        def __init__(self, loss, z_loss):
            self.loss, self.z_loss = loss, z_loss

    def call(*args, **keywords):
        given = shape.bind(*args, **keywords).arguments
        logits = given["input"] @ given["weight"].T
        loss = torch.nn.functional.cross_entropy(logits, given["target"])
        penalty = given["lse_square_scale"] * logits.logsumexp(-1).square().mean()
        assert given["accum_dtype"] is torch.float32
        return Output(loss + penalty, penalty) if given["return_z_loss"] else loss + penalty

    module = ModuleType("liger_kernel.transformers.functional")
    module.liger_fused_linear_cross_entropy = call
    for path in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, path, ModuleType(path))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    x, head = torch.randn(2, 3, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    targets = torch.randint(9, (2, 3))
    got, wanted = (
        mean_loss(x, head, targets, z_loss, implementation)
        for implementation in (CrossEntropy.LIGER, CrossEntropy.PLAIN)
    )
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)
    assert got.objective.requires_grad
    assert not got.cross_entropy.requires_grad
    assert set(liger_arguments(z_loss)) < set(shape.parameters)


def test_a_package_built_for_another_torch_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # importing it raises ImportError
    monkeypatch.setattr("models.attention.package_version", {"flash-attn": "2.8.3"}.get)
    with pytest.raises(ValueError, match=r"flash-attn 2\.8\.3 does not import .*install-flash"):
        load_flash(Attention.FA2)


def test_an_absent_package_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="fa2 can't run here: it needs device cuda"):
        choose_attention("cpu", torch.bfloat16, "fa2")


def test_versions_of_packages_and_of_the_torch_they_stand_in_for(monkeypatch):
    monkeypatch.setattr("models.attention.package_version", lambda name: "9.9")
    assert attention_version(Attention.FA4) == "flash-attn-4 9.9"
    assert attention_version(Attention.SDPA_FA4) == f"flash-attn-4 9.9, torch {torch.__version__}"
