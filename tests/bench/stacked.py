"""Whether small models train faster stacked: one batched step of K of them beside K steps of one.

    python tests/bench/stacked.py [d_model ...]

A two-layer GPT in plain torch (no norm gains, no rotary: the same kernels otherwise) with AdamW, in one
thread. `apart` takes a step of each of K models in turn, as K processes would on a core each; `stacked`
has every weight with a leading K and multiplies by torch.bmm. Seconds of CPU for a step of one model,
so that a busy machine shows little; the gradients of both are compared first.
"""

import sys
import time

import torch
import torch.nn.functional as F

K, B, T, V, LAYERS, HEAD = 8, 8, 128, 128, 2, 16
STEPS, ROUNDS = 15, 5


def weights(d: int, seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"embed": (V, d), "head": (d, V)}
    for i in range(LAYERS):
        shapes |= {f"qkv{i}": (d, 3 * d), f"out{i}": (d, d), f"up{i}": (d, 4 * d),
                   f"down{i}": (4 * d, d)}  # fmt: skip
    return {n: torch.randn(s, generator=rng) * s[0] ** -0.5 for n, s in shapes.items()}


def loss_of(w: dict[str, torch.Tensor], tokens: torch.Tensor, d: int) -> torch.Tensor:
    """Mean loss of one model, or (K,) losses of stacked ones; tokens are (B, T + 1) or (K, B, T + 1)."""
    stacked = tokens.dim() == 3
    k = tokens.shape[0] if stacked else 1
    x, y = tokens[..., :-1], tokens[..., 1:]
    if stacked:
        offset = (torch.arange(k) * V)[:, None, None]
        h = F.embedding(x + offset, w["embed"].reshape(k * V, d)).reshape(k, B * T, d)
    else:
        h = F.embedding(x, w["embed"]).reshape(B * T, d)
    heads = max(1, d // HEAD)
    for i in range(LAYERS):
        q, key, v = (F.layer_norm(h, (d,)) @ w[f"qkv{i}"]).chunk(3, -1)
        q, key, v = (t.reshape(k * B, T, heads, d // heads).transpose(1, 2) for t in (q, key, v))
        a = F.scaled_dot_product_attention(q, key, v, is_causal=True)
        h = h + a.transpose(1, 2).reshape(h.shape) @ w[f"out{i}"]
        h = h + F.gelu(F.layer_norm(h, (d,)) @ w[f"up{i}"]) @ w[f"down{i}"]
    logits = F.layer_norm(h, (d,)) @ w["head"]
    each = F.cross_entropy(logits.reshape(-1, V), y.reshape(-1), reduction="none")
    return each.reshape(k, -1).mean(1) if stacked else each.mean()


def step(w, optimizer, tokens, d) -> None:
    loss_of(w, tokens, d).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def trained(w: dict[str, torch.Tensor]):
    return torch.optim.AdamW(w.values(), lr=1e-3, fused=True)


def measure(d: int) -> None:
    tokens = torch.randint(V, (K, B, T + 1), generator=torch.Generator().manual_seed(1))
    apart = [{n: t.requires_grad_() for n, t in weights(d, k).items()} for k in range(K)]
    stacked = {n: torch.stack([w[n].detach() for w in apart]).requires_grad_() for n in apart[0]}
    for k, w in enumerate(apart):
        loss_of(w, tokens[k], d).backward()
    loss_of(stacked, tokens, d).sum().backward()
    worst = max(((stacked[n].grad[k] - w[n].grad).abs().max() / w[n].grad.abs().max()).item()
                for k, w in enumerate(apart) for n in w)  # fmt: skip
    optimizers, of_stack = [trained(w) for w in apart], trained(stacked)
    times: dict[str, list[float]] = {"apart": [], "stacked": []}
    for turn in range(ROUNDS + 1):
        start = time.process_time()
        for _ in range(STEPS):
            for k in range(K):
                step(apart[k], optimizers[k], tokens[k], d)
        middle = time.process_time()
        for _ in range(STEPS):
            step(stacked, of_stack, tokens, d)
        if turn:  # the first round warms up
            times["apart"].append(1e3 * (middle - start) / STEPS / K)
            times["stacked"].append(1e3 * (time.process_time() - middle) / STEPS / K)
    ratios = sorted(s / a for s, a in zip(times["stacked"], times["apart"], strict=True))
    mean = {n: sorted(t)[ROUNDS // 2] for n, t in times.items()}
    print(f"d={d}: apart {mean['apart']:.2f} ms, stacked {mean['stacked']:.2f} ms a step of one "
          f"model; stacked/apart {ratios[ROUNDS // 2]:.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]; "
          f"gradients differ by {worst:.1e}")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    for width in [int(a) for a in sys.argv[1:]] or [16, 32]:
        measure(width)
