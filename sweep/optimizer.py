"""Which parameters get which learning rate and decay."""

from inspect import unwrap

import torch

from models.gpt import GPT
from sweep.cell import Cell


class AdamW(torch.optim.AdamW):
    """Torch's AdamW, which does not wake torch's compiler.

    Torch wraps these methods of an optimizer so that its compiler leaves them alone, and imports
    it to say so: 1.3 s of CPU before the first step, where nothing is compiled. An optimizer is
    not compiled here, so the methods are taken as they are below the wrapper.
    """


for _name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    setattr(AdamW, _name, unwrap(getattr(torch.optim.AdamW, _name)))
AdamW.step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


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
    return AdamW(groups, betas=betas, eps=recipe.eps, fused=True)
