"""The loss in pieces and by Liger on a GPU, against the plain one; memory as the device counts it."""

import pytest
import torch

from models.config import Attention, CrossEntropy, GPTConfig
from models.gpt import GPT
from models.kernel_rules import choose_cross_entropy
from models.loss import mean_loss

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def on_gpu():
    """Skip where there is no GPU."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")


def chosen(name: str) -> CrossEntropy:
    try:
        return choose_cross_entropy("cuda", name)
    except ValueError as e:
        pytest.skip(str(e))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("z_loss", [0.0, 1e-4])
@pytest.mark.parametrize("name", ["chunked", "liger"])
def test_loss_and_gradients_are_the_plain_ones(name, z_loss, half):
    implementation = chosen(name)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 512, 256, generator=generator).cuda().requires_grad_()
    head = (0.05 * torch.randn(32_000, 256, generator=generator)).cuda().requires_grad_()
    targets = torch.randint(32_000, (4, 512), generator=generator).cuda()
    found = []
    for one in (implementation, CrossEntropy.PLAIN):
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            loss = mean_loss(x, head, targets, z_loss, one)
        found.append([loss, torch.autograd.grad(loss.objective, (x, head))])
    (loss, gradients), (plain, wanted) = found
    assert loss.cross_entropy.item() == pytest.approx(plain.cross_entropy.item(), rel=1e-3)
    assert loss.objective.item() == pytest.approx(plain.objective.item(), rel=1e-3)
    for a, b in zip(gradients, wanted, strict=True):
        assert ((a - b).norm() / b.norm()).item() < (0.02 if half else 5e-3)  # TF32 at most


@pytest.mark.parametrize("name", ["chunked", "liger"])
def test_memory_does_not_grow_with_the_vocabulary(name):
    implementation = chosen(name)
    peaks = {}
    for V in (16_384, 131_072):
        cfg = GPTConfig(n_layer=1, d_model=64, n_head=1, vocab_size=V, seq_len=1024)
        model = GPT(cfg, Attention.REFERENCE, implementation).cuda()
        tokens = torch.zeros(16, 1024, dtype=torch.long, device="cuda")
        x = torch.randn(16, 1024, 64, device="cuda", requires_grad=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        mean_loss(x, model.head.weight, tokens, 0.0, implementation).objective.backward()
        of_weights = 3 * 4 * model.head.weight.numel()  # gradients, and the sum they are added to
        peaks[V] = torch.cuda.max_memory_allocated() - before - of_weights
        del model, x
    assert peaks[131_072] < 1.5 * peaks[16_384] + 2**28
    assert peaks[131_072] < 0.5 * 4 * 16 * 1024 * 131_072  # half of the logits alone
