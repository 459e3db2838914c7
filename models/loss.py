"""Cross-entropy of the next token in pieces, so that the vocabulary does not set the memory.

All logits of a micro-batch, B x T x V float32, are often the largest tensor of a step (V 50,257,
32 rows of 1,024 tokens: 6.6 GB, and twice that with their gradient). Here at most LOGITS of them
exist at once: a piece's logits give its loss and at once their own gradient, so that nothing is
computed twice. Where all of them are no more than that, it is the plain formula to the bit.

Suffixes: B rows, T tokens of a row, N = B x T, C d_model, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import LOGITS, CrossEntropy


class Loss(NamedTuple):
    """Two scalars, float32."""

    objective: Tensor  # what training minimises: cross_entropy + z_loss x mean of log(Z)^2
    cross_entropy: Tensor  # mean of -log p over the targets, nats per token


def mean_loss(
    x_BTC: Tensor,
    head_VC: Tensor,
    targets_BT: Tensor,
    z_loss: float,
    implementation: CrossEntropy,
    logits_at_once: int = LOGITS,
) -> Loss:
    """Loss of the logits x head^T, each target weighing the same.

    Args:
        x_BTC: outputs of the last norm.
        head_VC: weights of the head.
        targets_BT: ids of the next tokens.
        z_loss: weight of the mean of log(Z)^2, Z being the sum of exp(logits), which keeps logits
            from drifting (Chowdhery et al. 2022, arXiv:2204.02311, section 5).
        implementation: as chosen.
        logits_at_once: most logits that exist at one time; less than a token's V counts as V.
    """
    targets_N = targets_BT.flatten()
    if implementation is CrossEntropy.LIGER:
        return _liger(x_BTC.flatten(0, 1), head_VC, targets_N, z_loss)
    too_many = targets_N.numel() * head_VC.size(0) > logits_at_once
    if implementation is CrossEntropy.CHUNKED and too_many:
        x_NC, rows = x_BTC.flatten(0, 1), max(1, logits_at_once // head_VC.size(0))
        return Loss(*_Chunked.apply(x_NC, head_VC, targets_N, z_loss, rows))
    logits_NV = at_least_float(F.linear(x_BTC, head_VC)).flatten(0, 1)
    cross_entropy = F.cross_entropy(logits_NV, targets_N)
    if not z_loss:
        return Loss(cross_entropy, cross_entropy.detach())
    log_z_N = logits_NV.logsumexp(-1)
    return Loss(cross_entropy + z_loss * log_z_N.square().mean(), cross_entropy.detach())


def token_losses(
    x_BTC: Tensor, head_VC: Tensor, targets_BT: Tensor, logits_at_once: int = LOGITS
) -> Tensor:
    """-log p of every target, (B, T) float32, whole rows at a time; for evaluation.

    Args:
        x_BTC: outputs of the last norm.
        head_VC: weights of the head.
        targets_BT: ids of the next tokens.
        logits_at_once: most logits that exist at one time; less than a row's counts as a row.
    """
    rows = max(1, logits_at_once // (targets_BT.size(1) * head_VC.size(0)))
    pieces = zip(x_BTC.split(rows), targets_BT.split(rows), strict=True)
    losses = [
        F.cross_entropy(at_least_float(F.linear(x, head_VC)).mT, targets, reduction="none")
        for x, targets in pieces
    ]
    return losses[0] if len(losses) == 1 else torch.cat(losses)


class _Chunked(torch.autograd.Function):
    """Both losses, and the gradients of the objective, a piece of the tokens at a time."""

    @staticmethod
    def forward(
        ctx, x_NC: Tensor, head_VC: Tensor, targets_N: Tensor, z_loss: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        n, dtype = len(targets_N), matmul_dtype(x_NC)
        head = head_VC.to(dtype)
        grad_x, grad_head = torch.empty_like(x_NC), torch.zeros_like(head_VC)
        sums = []
        for i in range(0, n, rows):
            x, targets = x_NC[i : i + rows].to(dtype), targets_N[i : i + rows, None]
            logits = at_least_float(x @ head.T)
            log_z = logits.logsumexp(-1, keepdim=True)
            sums.append(
                torch.stack(((log_z - logits.gather(1, targets)).sum(), log_z.square().sum()))
            )
            grad = _gradient_of_logits(logits, log_z, targets, z_loss, n).to(dtype)
            grad_x[i : i + rows] = grad @ head
            grad_head += grad.T @ x
        cross_entropy, squares = (torch.stack(sums).sum(0) / n).unbind()
        ctx.save_for_backward(grad_x, grad_head)
        ctx.mark_non_differentiable(cross_entropy)
        return cross_entropy + z_loss * squares, cross_entropy

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_head = ctx.saved_tensors
        return grad * grad_x, grad * grad_head, None, None, None


def _gradient_of_logits(
    logits: Tensor, log_z: Tensor, targets: Tensor, z_loss: float, n: int
) -> Tensor:
    """(p (1 + 2 z_loss log Z) - one at the target) / n, in the place of the logits."""
    grad = logits.sub_(log_z).exp_()
    if z_loss:
        grad.mul_(1 + 2 * z_loss * log_z)
    return grad.scatter_(1, targets, grad.gather(1, targets) - 1).div_(n)


def _liger(x_NC: Tensor, head_VC: Tensor, targets_N: Tensor, z_loss: float) -> Loss:
    """Have Liger's Triton kernel do it, its sums over pieces in float32."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    call = torch.compiler.disable(liger_fused_linear_cross_entropy)
    out = call(x_NC, head_VC, targets_N, **liger_arguments(z_loss))
    if not z_loss:
        return Loss(out, out.detach())
    return Loss(out.loss, (out.loss - out.z_loss).detach())


def liger_arguments(z_loss: float) -> dict[str, object]:
    """Keywords of the call; a test binds them to the package's own signature."""
    return {
        "lse_square_scale": z_loss,
        "return_z_loss": bool(z_loss),
        "accum_dtype": torch.float32,
    }


def matmul_dtype(x: Tensor) -> torch.dtype:
    """Return what a linear layer would multiply x in."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def at_least_float(x: Tensor) -> Tensor:
    """Widen what is narrower than float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
