"""Which parameters get which learning rate and decay."""

import torch

from models.gpt import GPT
from sweep.grid import Cell


def make_optimizer(model: GPT, cell: Cell) -> torch.optim.Optimizer:
    """AdamW; matrices decay at `lr`, tables and gains do not and have `lr_embedding`."""
    recipe = cell.recipe
    tables = {
        id(p) for m in (model.embed, model.positions) if m is not None for p in m.parameters()
    }
    rest = [p for p in model.parameters() if p.ndim < 2 or id(p) in tables]
    ids = {id(p) for p in rest}
    matrices = [p for p in model.parameters() if id(p) not in ids]
    groups = [
        {"params": matrices, "lr": recipe.lr, "weight_decay": recipe.weight_decay},
        {"params": rest, "lr": recipe.lr_embedding, "weight_decay": 0.0},
    ]
    betas = (recipe.beta1, recipe.beta2)
    return torch.optim.AdamW(groups, betas=betas, eps=recipe.eps, fused=True)
