"""Causal attention behind one function, its implementation named, chosen once, and recorded.

Two cells whose attention ran on different kernels are not the same measurement of MFU.
"""

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.config import Attention

_BACKENDS = {
    Attention.CPU_FLASH: SDPBackend.FLASH_ATTENTION,
    Attention.SDPA_FLASH: SDPBackend.FLASH_ATTENTION,
    Attention.SDPA_CUDNN: SDPBackend.CUDNN_ATTENTION,
    Attention.SDPA_EFFICIENT: SDPBackend.EFFICIENT_ATTENTION,
}


def choose_attention(device: str, dtype: torch.dtype, asked: str = "auto") -> Attention:
    """Turn what was asked into the implementation that will run.

    Raises:
        ValueError: one that can't run on this device; says why.
    """
    on_cpu = device == "cpu"
    if asked == "auto":
        if on_cpu:
            return Attention.CPU_FLASH
        half = dtype in (torch.bfloat16, torch.float16)
        return Attention.SDPA_FLASH if half else Attention.SDPA_EFFICIENT
    implementation = Attention(asked)
    if implementation is Attention.REFERENCE or on_cpu == (implementation is Attention.CPU_FLASH):
        return implementation
    raise ValueError(
        f"hardware.attention={asked} does not run on device {device}; try hardware.attention=auto"
    )


def attention(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, implementation: Attention) -> Tensor:
    """Causal softmax(q k^T / sqrt(K)) v in FlashAttention's own (B, T, H, K) layout."""
    q, k, v = (z.transpose(1, 2) for z in (q_BTHK, k_BTHK, v_BTHK))
    if implementation is Attention.REFERENCE:
        return _reference(q, k, v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def only(implementation: Attention) -> AbstractContextManager:
    """Forbid torch every SDPA backend but the named one while this context is open.

    Torch would otherwise fall back to another kernel without a word; here it raises instead.
    """
    if implementation is Attention.REFERENCE:
        return sdpa_kernel(list(SDPBackend.__members__.values())[1:])
    return sdpa_kernel(_BACKENDS[implementation])


def _reference(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    """Attention as written in the paper: every score made, masked and normalised."""
    T = q_BHTK.size(-2)
    scores_BHTT = q_BHTK @ k_BHTK.mT / q_BHTK.size(-1) ** 0.5
    future_TT = torch.ones(T, T, dtype=torch.bool, device=q_BHTK.device).triu(1)
    return scores_BHTT.masked_fill(future_TT, float("-inf")).softmax(-1) @ v_BHTK
