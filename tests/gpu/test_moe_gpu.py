"""Experts on a GPU: torch's grouped product against one expert at a time, its bits, its graph."""

import pytest
import torch
import torch.nn.functional as F

from models.config import Attention, GPTConfig
from models.gpt import GPT
from models.moe import grouped_mm_runs, one_by_one

pytestmark = pytest.mark.gpu
CFG = GPTConfig(n_layer=2, d_model=256, n_head=4, vocab_size=512, seq_len=256, n_expert=16,
                n_shared_expert=2)  # fmt: skip


@pytest.fixture(autouse=True)
def on_gpu():
    """Skip where there is no GPU."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")


def gradients(model: GPT, rows: torch.Tensor, forward=None) -> list[torch.Tensor]:
    with torch.autocast("cuda", torch.bfloat16):
        loss = (forward or model)(rows[:, :-1], None, rows[:, 1:]).objective
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.fixture
def model() -> GPT:
    model = GPT(CFG, Attention.SDPA_EFFICIENT)
    model.init_weights(0)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(0, 0.05)
    return model.cuda()


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randint(512, (8, 257), generator=torch.Generator().manual_seed(0)).cuda()


@pytest.mark.parametrize("loads", [[64, 0, 128, 33, 31], [0, 0, 0, 256, 0], [1, 1, 1, 1, 252]])
def test_the_grouped_product_is_that_of_one_expert_at_a_time(loads):
    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    ends = torch.tensor(loads, device="cuda").cumsum(0).to(torch.int32)
    x = torch.randn(256, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(5, 128, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    assert grouped_mm_runs(x, weight)
    grad = torch.randn(256, 128, device="cuda", dtype=torch.bfloat16)
    found = []
    for out in (F.grouped_mm(x, weight.mT, offs=ends), one_by_one(x, weight, ends)):
        found.append((out, *torch.autograd.grad(out, (x, weight), grad)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=5e-2)


def test_a_step_gives_the_same_bits_again(model, rows):
    one, two = gradients(model, rows), gradients(model, rows)
    experts = [i for i, (n, _) in enumerate(model.named_parameters(), 1) if ".moe." in n]
    assert torch.equal(one[0], two[0])
    for i in experts:  # those of attention may differ unless deterministic algorithms are asked for
        torch.testing.assert_close(one[i], two[i], rtol=1e-3, atol=1e-5)


def test_a_compiled_step_is_one_graph(model, rows):
    torch._dynamo.reset()
    forward = torch.compile(model, fullgraph=True, dynamic=False)
    for a, b in zip(gradients(model, rows, forward), gradients(model, rows), strict=True):
        assert ((a - b).norm() / b.norm()).item() < 0.1
