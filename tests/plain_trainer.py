"""The same training, written plainly: torch, a cell's numbers, and the bytes of a shard.

Shares no code with models/ or sweep/train: attention is a masked softmax, positions turn by sine
and cosine, the batch is not split, AdamW is torch's unfused one. Only the order of rows, a pure
function with tests of its own, is ours.
"""

import math

import numpy as np
import torch
from torch.nn.functional import cross_entropy, gelu, layer_norm

from sweep.batches import row_index


def first_weights(cell) -> dict[str, torch.Tensor]:
    """Draw tables and matrices in the order of the network; what a layer adds starts at zero."""
    m, g, w = cell.model, torch.Generator().manual_seed(cell.seed), {}
    d, V = m.d_model, m.vocab_size
    shapes = [("embed", (V, d))]
    for i in range(m.n_layer):
        shapes += [(f"{i}.qkv", (3 * d, d)), (f"{i}.up", (4 * d, d))]
        w |= {f"{i}.out": torch.zeros(d, d), f"{i}.down": torch.zeros(d, 4 * d)}
        w |= {f"{i}.gain1": torch.ones(d), f"{i}.gain2": torch.ones(d)}
    for name, shape in [*shapes, ("head", (V, d))]:
        w[name] = torch.empty(shape).normal_(0, 1 / math.sqrt(d), generator=g)
    w["gain"] = torch.ones(d)
    return {name: p.requires_grad_() for name, p in w.items()}


def turn(x: torch.Tensor) -> torch.Tensor:
    """Rotate pair (2i, 2i+1) at position t of (B, H, T, K) by t / 10000^(2i / K)."""
    T, K = x.shape[-2:]
    angle = torch.arange(T)[:, None].double() * 10_000 ** (-torch.arange(0, K, 2).double() / K)
    cos, sin = angle.cos().float(), angle.sin().float()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def loss_of(w: dict[str, torch.Tensor], cell, rows: torch.Tensor) -> torch.Tensor:
    """Mean nats a token of (B, T + 1) rows."""
    m, inputs = cell.model, rows[:, :-1]
    B, T = inputs.shape
    future = torch.full((T, T), -torch.inf).triu(1)
    x = w["embed"][inputs]
    for i in range(m.n_layer):
        y = layer_norm(x, (m.d_model,), w[f"{i}.gain1"])
        q, k, v = (y @ w[f"{i}.qkv"].T).view(B, T, 3, m.n_head, -1).permute(2, 0, 3, 1, 4)
        scores = turn(q) @ turn(k).mT / math.sqrt(q.shape[-1]) + future
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1)
        x = x + mixed @ w[f"{i}.out"].T
        y = layer_norm(x, (m.d_model,), w[f"{i}.gain2"])
        x = x + gelu(y @ w[f"{i}.up"].T) @ w[f"{i}.down"].T
    logits = layer_norm(x, (m.d_model,), w["gain"]) @ w["head"].T
    return cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def rate(cell, step: int) -> float:
    """Share of the peak: up linearly, flat, down as 1 - square root."""
    r = cell.recipe
    left = step - (cell.steps - r.decay_steps)
    return min((step + 1) / r.warmup_steps, 1.0) * (1 - math.sqrt(max(left, 0) / r.decay_steps))


def plain_losses(cell, shard: str, steps: int) -> list[float]:
    """Losses of the first steps of a cell with a wsd schedule and rotary positions."""
    w, r, T = first_weights(cell), cell.recipe, cell.model.seq_len
    tables = [p for name, p in w.items() if "gain" in name or name == "embed"]
    matrices = [p for p in w.values() if all(p is not t for t in tables)]
    adam = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": r.weight_decay}, {"params": tables, "weight_decay": 0}],
        betas=(r.beta1, r.beta2), eps=r.eps, foreach=False,
    )  # fmt: skip
    text, losses = np.fromfile(shard, dtype=np.uint8), []
    for step in range(steps):
        chosen = row_index((len(text) - 1) // T, cell.seed, step * r.batch_rows, r.batch_rows)
        rows = np.stack([text[i * T : i * T + T + 1] for i in chosen])
        loss = loss_of(w, cell, torch.from_numpy(rows).long())
        adam.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in w.values()))
        for p in w.values():
            p.grad *= min(1.0, r.grad_clip / (norm + 1e-6))
        adam.param_groups[0]["lr"] = r.lr * rate(cell, step)
        adam.param_groups[1]["lr"] = r.lr_embedding * rate(cell, step)
        adam.step()
        losses.append(loss.item())
    return losses
