"""Torch's flash attention for CPUs, kept away from the settings under which it is slow.

Under torch.set_float32_matmul_precision('medium'), and in bfloat16, its many small products take
paths made for large ones: forward and backward were measured 1.3 to 9 times slower (LOG.md). So
its arithmetic is always float32 (or float64) in the 'highest' mode, forward and backward.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def cpu_flash(q: Tensor, k: Tensor, v: Tensor, seen_B1TT: Tensor | None) -> Tensor:
    """Causal attention of (B, H, T, K) queries over (B, G, T, K) keys and values.

    Args:
        q: queries.
        k: keys.
        v: values.
        seen_B1TT: which keys each query may see, causality included; None: all earlier ones.

    Returns:
        (B, H, T, K) in the dtype of q.
    """
    half = q.dtype.itemsize < 4
    fast = torch.get_float32_matmul_precision() == "highest" or q.dtype is torch.float64
    if fast and not half:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen_B1TT, is_causal=seen_B1TT is None,
            enable_gqa=q.size(1) != k.size(1),
        )  # fmt: skip
    bias = None
    if seen_B1TT is not None:
        bias = torch.zeros(seen_B1TT.shape).masked_fill_(~seen_B1TT, float("-inf"))
    wide = (q.float(), k.float(), v.float()) if half else (q, k, v)
    return _PreciseFlash.apply(*wide, bias).to(q.dtype)


class _PreciseFlash(torch.autograd.Function):
    """The kernel and its gradient, each in the 'highest' mode: autograd runs the latter later."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        with _highest_precision():
            out, lse = _forward(q, k, v, 0.0, bias is None, attn_mask=bias)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.bias = bias
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        bias = ctx.bias
        with _highest_precision():
            grads = _backward(grad, q, k, v, out, lse, 0.0, bias is None, attn_mask=bias)
        return *grads, None


@contextlib.contextmanager
def _highest_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
