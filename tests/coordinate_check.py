"""How activations and their changes grow with a model: the coordinate check of Yang et al. 2022, section D.1."""

from dataclasses import replace

import numpy as np
import torch
from helpers_cells import tiny_cell

from models.config import Attention, GPTConfig
from models.gpt import GPT
from sweep.optimizer import make_optimizer

PLACES = ("stream", "attention", "mlp", "logits")


def coordinates(cfg: GPTConfig, steps: int, lr: float, seed: int) -> dict[str, float]:
    """Root mean squares after some steps on one batch, by name.

    The stream that enters the last norm, the branches of the last block, and the logits: each as it
    is (`stream`), and what has changed since the start (`change of stream`).
    """
    torch.manual_seed(0)
    tokens_BT = torch.randint(0, cfg.vocab_size, (4, cfg.seq_len + 1))
    model = GPT(cfg, Attention.REFERENCE)
    model.init_weights(seed)
    cell = tiny_cell(steps, model=cfg, lr=lr, lr_embedding=lr)
    optimizer = make_optimizer(model, cell)
    first = _activations(model, tokens_BT[:, :-1])
    for _ in range(steps):
        model(tokens_BT[:, :-1], targets_BT=tokens_BT[:, 1:]).objective.backward()
        optimizer.step()
        optimizer.zero_grad()
    last = _activations(model, tokens_BT[:, :-1])
    rms = {name: last[name].square().mean().sqrt().item() for name in PLACES}
    changes = {f"change of {n}": (last[n] - first[n]).square().mean().sqrt().item() for n in PLACES}
    return rms | changes


@torch.no_grad()
def _activations(model: GPT, tokens_BT: torch.Tensor) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    last = model.blocks[-1]
    places = {"stream": last, "attention": last.attn, "mlp": last.down}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name, module in places.items()
    ]
    seen["logits"] = model(tokens_BT)
    for hook in hooks:
        hook.remove()
    return seen


def slopes(cfg: GPTConfig, along: str, sizes: tuple[int, ...], *, steps: int = 4,
           lr: float = 0.01, seeds: int = 2) -> dict[str, float]:  # fmt: skip
    """Slope of each log root mean square over the log of a size, the mean of seeds at each."""
    logs = [
        [coordinates(replace(cfg, **{along: n}), steps, lr, seed) for seed in range(seeds)]
        for n in sizes
    ]
    return {
        name: float(np.polyfit(np.log(sizes),
                               [np.mean([np.log(c[name]) for c in at]) for at in logs], 1)[0])
        for name in logs[0][0]
    }  # fmt: skip
