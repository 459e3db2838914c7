"""A mixture of experts in the place of a block's MLP: tokens are sorted by expert, none is dropped.

Suffixes: B rows, T tokens of a row, N = B x T, C d_model, E experts, S experts that a token is sent
to (top_k), M = N x S.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import GPTConfig
from models.loss import Loss, at_least_float, matmul_dtype
from models.mlp import bend, up_width


class Routing(NamedTuple):
    """What a router did with the tokens of one forward pass."""

    balance: Tensor  # scalar, float32: 1 where tokens and probabilities are spread evenly
    z: Tensor  # scalar, float32
    load: Tensor  # (E,) int64: tokens sent to each expert, N x S together


class Experts(nn.Module):
    """One matrix of every expert, as a single parameter (E, outputs, inputs)."""

    def __init__(self, n_expert: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_expert, outputs, inputs))


class MoE(nn.Module):
    """Sum over a token's top_k experts of weight x MLP, plus the shared experts' MLP.

    Weights are the softmax over the chosen logits (Shazeer et al. 2017, arXiv:1701.06538, eq. 3 to
    5, without noise). With top_k = 1 that would be 1 whatever the router says, so there the weight
    is the softmax over all (Fedus et al. 2021, arXiv:2101.03961, eq. 1 and 2). Shared experts are
    one MLP of their joint width, with weight 1 (Dai et al. 2024, arXiv:2401.06066, eq. 9).
    """

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        d, width, shared = cfg.d_model, cfg.expert_width, cfg.n_shared_expert * cfg.expert_width
        self.mlp, self.top_k, self.n_expert = cfg.mlp, cfg.top_k, cfg.n_expert
        self.router = nn.Linear(d, cfg.n_expert, bias=False)
        self.up = Experts(cfg.n_expert, d, up_width(cfg.mlp, width))
        self.down = Experts(cfg.n_expert, width, d)
        self.shared_up = nn.Linear(d, up_width(cfg.mlp, shared), bias=False) if shared else None
        self.shared_down = nn.Linear(shared, d, bias=False) if shared else None
        self.one_by_one = one_by_one

    def forward(self, x_BTC: Tensor) -> tuple[Tensor, Routing]:
        """(B, T, C) -> (B, T, C), and what the router did."""
        weight_BTS, expert_BTS, routing = self.route(x_BTC)
        x_NC = x_BTC.to(matmul_dtype(x_BTC)).flatten(0, 1)
        order_M = expert_BTS.flatten().argsort(stable=True)
        back_M = order_M.argsort()
        ends_E = routing.load.cumsum(0).to(torch.int32)
        x_MC = _Take.apply(x_NC, order_M, back_M, self.top_k)
        y_MC = self.multiply(x_MC, self.up.weight, ends_E)
        y_MC = self.multiply(bend(self.mlp, y_MC), self.down.weight, ends_E)
        y_BTSC = _Take.apply(y_MC, back_M, order_M, 1).view(*expert_BTS.shape, -1)
        out_BTC = (y_BTSC * weight_BTS[..., None].to(y_BTSC.dtype)).sum(2)
        if self.shared_up is not None:
            out_BTC = out_BTC + self.shared_down(bend(self.mlp, self.shared_up(x_BTC)))
        return out_BTC, routing

    def route(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Routing]:
        """Choose the experts of each token, in float32 whatever the dtype of the rest.

        balance: E sum_e f_e P_e, f the share of a row's S x T choices that fell on an expert, P the
        mean of its probability, averaged over rows (DeepSeek-AI 2024, arXiv:2412.19437, eq. 17 to
        20; over a batch it is Fedus et al. 2021, eq. 4). z: mean of logsumexp(logits)^2 (Zoph et al.
        2022, arXiv:2202.08906, eq. 5). Both are means over rows, so that a batch may be split.

        Returns:
            Weights (B, T, S), experts (B, T, S), routing.
        """
        logits_BTE = self._logits(x_BTC)
        log_z_BT1 = logits_BTE.logsumexp(-1, keepdim=True)
        top_BTS, expert_BTS = logits_BTE.topk(self.top_k, dim=-1)
        one = self.top_k == 1
        weight_BTS = (top_BTS - log_z_BT1).exp() if one else top_BTS.softmax(-1)
        every_E = torch.arange(self.n_expert, device=x_BTC.device)
        sent_BE = (expert_BTS.flatten(1)[..., None] == every_E).sum(1)
        f_BE = sent_BE.to(logits_BTE.dtype) / (expert_BTS.size(1) * self.top_k)
        P_BE = (logits_BTE - log_z_BT1).exp().mean(1)
        balance = self.n_expert * (f_BE * P_BE).sum(-1).mean()
        return weight_BTS, expert_BTS, Routing(balance, log_z_BT1.square().mean(), sent_BE.sum(0))

    def multiply(self, x_MC: Tensor, weight: Tensor, ends_E: Tensor) -> Tensor:
        """Multiply each expert's rows with its matrix; expert e has rows ends[e - 1] to ends[e]."""
        weight = weight.to(x_MC.dtype)
        if grouped_mm_runs(x_MC, weight):
            return F.grouped_mm(x_MC, weight.mT, offs=ends_E)
        return self.one_by_one(x_MC, weight, ends_E)

    def ready_to_compile(self) -> None:
        """Have a compiler leave alone the loop over experts, which waits for their loads."""
        self.one_by_one = torch.compiler.disable(one_by_one)

    def _logits(self, x_BTC: Tensor) -> Tensor:
        device = x_BTC.device.type
        known = torch.amp.is_autocast_available(device)
        with torch.autocast(device, enabled=False) if known else contextlib.nullcontext():
            return F.linear(at_least_float(x_BTC), at_least_float(self.router.weight))


def with_router_losses(loss: Loss, routed: list[Routing], cfg: GPTConfig) -> Loss:
    """Add the losses of every layer's router to what training minimises, and to nothing else."""
    balance = torch.stack([r.balance for r in routed]).sum()
    z = torch.stack([r.z for r in routed]).sum()
    more = cfg.balance_loss * balance + cfg.router_z_loss * z
    return loss._replace(objective=loss.objective + more)


@contextlib.contextmanager
def watch_load(model: object) -> Iterator[list[Tensor]]:
    """Count the tokens that are sent to each expert while this context is open.

    Yields:
        One (E,) int64 tensor a layer; none for a dense model.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    layers = [m for m in modules if isinstance(m, MoE)]
    loads = [torch.zeros(m.n_expert, dtype=torch.int64, device=m.router.weight.device)
             for m in layers]  # fmt: skip

    def count(load_E: Tensor):
        def hook(module: nn.Module, inputs: object, output: tuple[Tensor, Routing]) -> None:
            load_E.add_(output[1].load)  # whatever a hook returns would be the output

        return hook

    hooks = [
        m.register_forward_hook(count(load_E)) for m, load_E in zip(layers, loads, strict=True)
    ]
    try:
        yield loads
    finally:
        for hook in hooks:
            hook.remove()


def grouped_mm_runs(x_MC: Tensor, weight: Tensor) -> bool:
    """Whether torch has one kernel for all experts: of bfloat16, on a CPU also of float32.

    Rows must be whole pieces of 16 bytes. Torch 2.13 can't trace that of float32.
    """
    odd = any(n * weight.itemsize % 16 for n in weight.shape[1:])
    if odd or not hasattr(F, "grouped_mm"):  # which torch has since 2.10
        return False
    half = x_MC.dtype is torch.bfloat16
    if x_MC.is_cuda:
        return half
    single = x_MC.dtype is torch.float32 and not torch.compiler.is_compiling()
    return x_MC.device.type == "cpu" and (half or single)


def one_by_one(x_MC: Tensor, weight: Tensor, ends_E: Tensor) -> Tensor:
    """Multiply as `MoE.multiply` does, an expert at a time; waits for the device to know the ends."""
    return _OneByOne.apply(x_MC, weight, ends_E)


class _OneByOne(torch.autograd.Function):
    """Products into their places: views of the weights would have a backward that fills zeros."""

    @staticmethod
    def forward(ctx, x_MC: Tensor, weight: Tensor, ends_E: Tensor) -> Tensor:
        ctx.ends = ends_E.tolist()
        ctx.save_for_backward(x_MC, weight)
        out = x_MC.new_empty(len(x_MC), weight.size(1))
        for e, rows in _spans(ctx.ends):
            torch.mm(x_MC[rows], weight[e].T, out=out[rows])
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_MC, weight = ctx.saved_tensors
        grad_x, grad_weight = torch.empty_like(x_MC), torch.zeros_like(weight)
        for e, rows in _spans(ctx.ends):
            torch.mm(grad[rows], weight[e], out=grad_x[rows])
            torch.mm(grad[rows].T, x_MC[rows], out=grad_weight[e])
        return grad_x, grad_weight, None


def _spans(ends: list[int]) -> Iterator[tuple[int, slice]]:
    """Experts that have rows, and which."""
    starts = [0, *ends[:-1]]
    return ((e, slice(a, b)) for e, (a, b) in enumerate(zip(starts, ends, strict=True)) if b > a)


class _Take(torch.autograd.Function):
    """Rows of x, each `copies` times, in another order; the backward adds copies in a fixed order.

    Torch's own backward of indexing adds into places, on a GPU in any order.
    """

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, back: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(back)
        ctx.copies = copies
        return x.index_select(0, order // copies)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = ctx.saved_tensors
        grad = grad.index_select(0, back)
        grad = grad if ctx.copies == 1 else grad.unflatten(0, (-1, ctx.copies)).sum(1)
        return grad, None, None, None
