"""Cross-entropy in pieces: the plain loss and gradients, in memory that the vocabulary does not set."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from models.config import Attention, CrossEntropy, GPTConfig
from models.gpt import GPT
from models.kernel_rules import choose_cross_entropy
from models.loss import LOGITS, mean_loss, token_losses

CHUNKED, PLAIN = CrossEntropy.CHUNKED, CrossEntropy.PLAIN


def draw(B: int, T: int, C: int, V: int, seed: int = 0, dtype=torch.float32, spread: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, T, C, generator=generator, dtype=dtype)
    head = spread * torch.randn(V, C, generator=generator, dtype=dtype)
    targets = torch.randint(V, (B, T), generator=generator)
    return x.requires_grad_(), head.requires_grad_(), targets


def loss_and_gradients(x, head, targets, z_loss, implementation, logits_at_once=LOGITS):
    loss = mean_loss(x, head, targets, z_loss, implementation, logits_at_once)
    gradients = torch.autograd.grad(0.7 * loss.objective, (x, head))
    return [loss.objective.detach(), loss.cross_entropy, *gradients]


@settings(max_examples=60)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 20),
    C=st.integers(1, 12),
    V=st.integers(1, 70),
    pieces=st.integers(1, 9),
    z_loss=st.sampled_from([0.0, 1e-4, 0.5]),
    spread=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 2**31),
)
def test_pieces_give_the_loss_and_gradients_of_the_whole(B, T, C, V, pieces, z_loss, spread, seed):
    drawn = draw(B, T, C, V, seed, torch.float64, spread)
    whole = loss_and_gradients(*drawn, z_loss, PLAIN)
    parts = loss_and_gradients(*drawn, z_loss, CHUNKED, B * T * V // pieces)
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("z_loss", [0.0, 1e-4])
def test_in_float32_they_differ_by_its_rounding(z_loss):
    drawn = draw(4, 64, 32, 1000)
    whole = loss_and_gradients(*drawn, z_loss, PLAIN)
    parts = loss_and_gradients(*drawn, z_loss, CHUNKED, 10_000)
    for a, b in zip(parts, whole, strict=True):
        assert ((a - b).abs().max() / b.abs().max()).item() < 2e-6


def test_under_autocast_they_differ_by_the_rounding_of_half_precision():
    x, head, targets = draw(4, 64, 32, 1000, spread=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        whole = loss_and_gradients(x, head, targets, 1e-4, PLAIN)
        parts = loss_and_gradients(x, head, targets, 1e-4, CHUNKED, 10_000)
    assert [z.dtype for z in parts] == [torch.float32] * 4
    assert parts[1].item() == pytest.approx(whole[1].item(), rel=1e-5)
    for a, b in zip(parts[2:], whole[2:], strict=True):
        assert ((a - b).norm() / b.norm()).item() < 0.01


def test_whatever_fits_at_once_is_the_plain_loss_to_the_bit():
    drawn = draw(3, 17, 8, 50)
    for a, b in zip(
        loss_and_gradients(*drawn, 0.0, CHUNKED),
        loss_and_gradients(*drawn, 0.0, PLAIN),
        strict=True,
    ):
        assert torch.equal(a, b)
    x, head, targets = drawn
    logits = torch.nn.functional.linear(x, head)
    wanted = torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none")
    assert torch.equal(token_losses(x, head, targets), wanted)


@given(rows=st.integers(1, 7))
def test_losses_of_tokens_do_not_depend_on_the_rows_at_once(rows):
    x, head, targets = draw(7, 5, 4, 30)
    wanted = token_losses(x, head, targets)
    got = token_losses(x, head, targets, rows * 5 * 30)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Remembers the numbers in the largest tensor that any operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for z in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(z, torch.Tensor):
                self.numbers = max(self.numbers, z.numel())
        return out


def largest_of_a_step(V: int, B: int, implementation: CrossEntropy) -> int:
    """Numbers in the largest tensor of a forward and backward pass, without making one."""
    cfg = GPTConfig(n_layer=1, d_model=16, n_head=1, vocab_size=V, seq_len=1024)
    with torch.device("meta"):
        model = GPT(cfg, Attention.REFERENCE, implementation)
        tokens = torch.zeros(B, 1024, dtype=torch.long)
    hidden = model.hidden(tokens)
    with LargestTensor() as largest:
        loss = mean_loss(hidden, model.head.weight, tokens, 1e-4, implementation)
        loss.objective.backward(inputs=(model.head.weight,))
    return largest.numbers


def test_the_vocabulary_times_the_tokens_never_exists_at_once():
    V, B = 50_257, 16
    assert largest_of_a_step(V, B, PLAIN) == V * B * 1024
    assert largest_of_a_step(V, B, CHUNKED) <= LOGITS
    assert largest_of_a_step(2 * V, B, CHUNKED) <= LOGITS
    assert largest_of_a_step(V, 2 * B, CHUNKED) <= LOGITS


@pytest.mark.slow
def test_the_peak_of_real_memory_does_not_grow_with_the_vocabulary():
    """Resident memory, of which a new process each reads its own peak."""
    plain, chunked = (peak_megabytes(v) for v in ("plain", "chunked"))
    assert plain > 125  # 1,024 x 32,000 logits alone are 131 MB
    assert chunked < 0.5 * plain


def peak_megabytes(implementation: str) -> float:
    import subprocess
    import sys
    from pathlib import Path

    # VmHWM and not ru_maxrss, which a process inherits from the one that starts it.
    code = f"""
import re, torch
from pathlib import Path
from models.loss import mean_loss
from models.config import CrossEntropy
x = torch.randn(1, 1024, 8, requires_grad=True)
head = torch.randn(32_000, 8, requires_grad=True)
t = torch.zeros(1, 1024, dtype=torch.long)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024
before = peak()
mean_loss(x, head, t, 0.0, CrossEntropy("{implementation}"), 2**20).objective.backward()
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return float(done.stdout)


def test_it_can_be_compiled_whole():
    """No break in the graph: eager backend, so that no compiler is needed."""
    x, head, targets = draw(2, 8, 4, 30)

    def step(x, head, targets):
        return mean_loss(x, head, targets, 1e-4, CHUNKED, 100).objective

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    a, b = (torch.autograd.grad(f(x, head, targets), (x, head)) for f in (compiled, step))
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_what_is_chosen_and_what_is_refused(monkeypatch):
    assert choose_cross_entropy("cpu", "chunked") is CHUNKED
    with pytest.raises(ValueError, match="it needs device cuda, this is cpu"):
        choose_cross_entropy("cpu", "liger")
    monkeypatch.setattr("models.kernel_rules.package_version", {}.get)
    with pytest.raises(ValueError, match="needs the package liger-kernel, which is not installed"):
        choose_cross_entropy("cuda", "liger")
    monkeypatch.setattr("models.kernel_rules.package_version", {"liger-kernel": "0.8.5"}.get)
    assert choose_cross_entropy("cuda", "liger") is CrossEntropy.LIGER
