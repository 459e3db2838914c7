"""One set of checks for every implementation of attention, on a CPU and on a GPU alike."""

import torch
from torch import Tensor

from models.attention import attention, borders, only
from models.config import Attention


def formula(q: Tensor, k: Tensor, v: Tensor, document_BT: Tensor | None = None) -> Tensor:
    """Causal softmax(q k^T / sqrt(K)) v of (B, T, H, K), a query at a time, in float64.

    Query head h reads key head h // (H / G); a query sees no key of another document.
    """
    q, k, v = q.double(), k.double(), v.double()
    T, H, K = q.shape[1:]
    head = torch.arange(H, device=q.device) // (H // k.size(2))
    k, v = k[:, :, head], v[:, :, head]
    rows = []
    for t in range(T):
        scores_BHS = torch.einsum("bhk,bshk->bhs", q[:, t], k[:, : t + 1]) * K**-0.5
        if document_BT is not None:
            other_BS = document_BT[:, : t + 1] != document_BT[:, t, None]
            scores_BHS = scores_BHS.masked_fill(other_BS[:, None], float("-inf"))
        rows.append(torch.einsum("bhs,bshk->bhk", scores_BHS.softmax(-1), v[:, : t + 1]))
    return torch.stack(rows, dim=1)


def draw(
    B: int, T: int, H: int, G: int, K: int, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Draw queries, keys and values; a gradient of the output; numbers of documents, (B, T)."""
    generator = torch.Generator().manual_seed(seed)
    qkv = [torch.randn(B, T, n, K, generator=generator) for n in (H, G, G)]
    gradient = torch.randn(B, T, H, K, generator=generator)
    border = torch.rand(B, T, generator=generator) < 0.2
    return (
        [z.to(device, dtype) for z in qkv],
        gradient.to(device, dtype),
        border.cumsum(1).to(device),
    )


def both_ways(function, qkv: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """Output and gradients to q, k and v, in float64."""
    leaves = [z.clone().requires_grad_() for z in qkv]
    out = function(*leaves)
    out.backward(gradient.to(out.dtype))
    return [out.detach().double(), *(z.grad.double() for z in leaves)]


def worst_error(
    implementation: Attention,
    qkv: list[Tensor],
    gradient: Tensor,
    document_BT: Tensor | None = None,
) -> float:
    """Largest error of the output and the three gradients, each over its largest value or 1."""
    within = None if document_BT is None else borders(document_BT, implementation)
    with only(implementation):
        got = both_ways(lambda *z: attention(*z, implementation, within), qkv, gradient)
    wanted = both_ways(lambda *z: formula(*z, document_BT), qkv, gradient)
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1.0)).item()
        for a, b in zip(got, wanted, strict=True)
    )
