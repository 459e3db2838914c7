"""Which parameters get which learning rate and decay."""

from inspect import unwrap
from typing import Any

import torch

from models.gpt import GPT
from models.parametrisation import factors
from sweep.cell import Cell
from sweep.recipe_regime import Optimizer


class AdamW(torch.optim.AdamW):
    """Torch's AdamW, which does not wake torch's compiler.

    Torch wraps these methods of an optimizer so that its compiler leaves them alone, and imports
    it to say so: 1.3 s of CPU before the first step, where nothing is compiled. An optimizer is
    not compiled here, so the methods are taken as they are below the wrapper.
    """


for _name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    setattr(AdamW, _name, unwrap(getattr(torch.optim.AdamW, _name)))
AdamW.step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class Muon(torch.optim.Muon):
    """Torch's Muon (Jordan 2024; lr by Liu et al. 2025, arXiv:2502.16982), as AdamW above.

    It takes matrices alone. The experts of a block are one tensor, so each of its matrices is a
    parameter here that shares its numbers, and takes its part of the gradient before a step.
    """

    def __init__(self, weights: list[torch.nn.Parameter], **settings: Any) -> None:
        parts = [(w, list(w.detach())) for w in weights if w.ndim == 3]
        self.experts = parts
        super().__init__(
            [*(w for w in weights if w.ndim == 2), *(m for _, each in parts for m in each)],
            **settings,
        )

    def take_gradients(self) -> None:
        """Give each expert's matrix its own gradient."""
        for weight, each in self.experts:
            for matrix, grad in zip(each, weight.grad, strict=True):
                matrix.grad = grad

    def forget_gradients(self) -> None:
        """Drop what `take_gradients` gave."""
        for weight, each in self.experts:
            weight.grad = None
            for matrix in each:
                matrix.grad = None


for _name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    setattr(Muon, _name, unwrap(getattr(torch.optim.Muon, _name)))


class MuonWithAdamW:
    """Muon for the matrices of the blocks, AdamW for all else: two optimizers that act as one."""

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        self.parts = (muon, adamw)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of both; a learning rate that is set in one is used."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[torch.Tensor, Any]:
        """Momenta of all parameters; a copy."""
        return {p: state for part in self.parts for p, state in part.state.items()}

    def step(self) -> None:
        """One step of both."""
        self.parts[0].take_gradients()
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of both."""
        self.parts[0].forget_gradients()
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Both, for a checkpoint."""
        return dict(zip(("muon", "adamw"), (part.state_dict() for part in self.parts), strict=True))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name, part in zip(("muon", "adamw"), self.parts, strict=True):
            part.load_state_dict(state[name])


def make_optimizer(model: GPT, cell: Cell) -> torch.optim.Optimizer | MuonWithAdamW:
    """AdamW, or Muon for the matrices of the blocks and AdamW for the rest, by names.

    Matrices decay at `lr`, tables and gains do not and have `lr_embedding`. Under Muon the head and
    routers are matrices of AdamW's: their rows are tokens and experts, not directions of one map.
    Each group is split where muP or CompleteP has its parameters step differently.
    """
    recipe = cell.recipe
    tables = {
        id(p) for m in (model.embed, model.positions) if m is not None for p in m.parameters()
    }
    named = dict(model.named_parameters())
    rest = {name: p for name, p in named.items() if p.ndim < 2 or id(p) in tables}
    matrices = {name: p for name, p in named.items() if name not in rest}
    muon = recipe.optimizer is Optimizer.MUON
    of_muon = {
        n: p for n, p in matrices.items()
        if muon and n.startswith("blocks.") and not n.endswith("router.weight")
    }  # fmt: skip
    of_adamw = {n: p for n, p in matrices.items() if n not in of_muon}
    groups = [
        *_groups(of_adamw, recipe.lr, recipe.weight_decay, cell),
        *_groups(rest, recipe.lr_embedding, 0.0, cell),
    ]
    adamw = AdamW(groups, betas=(recipe.beta1, recipe.beta2), fused=True)
    if not muon:
        return adamw
    return MuonWithAdamW(
        Muon(list(of_muon.values()), lr=recipe.lr, weight_decay=recipe.weight_decay,
             momentum=recipe.momentum, adjust_lr_fn=recipe.adjust_lr_fn),
        adamw,
    )  # fmt: skip


def _groups(
    named: dict[str, torch.nn.Parameter], lr: float, weight_decay: float, cell: Cell
) -> list[dict[str, Any]]:
    """Return one group for each set of factors; in the standard parametrisation one, or none."""
    alike: dict[tuple[float, float, float], list[torch.nn.Parameter]] = {}
    for name, p in named.items():
        of = factors(cell.model, name)
        alike.setdefault((of.lr, of.weight_decay, of.eps), []).append(p)
    return [
        {"params": ps, "lr": lr * x, "weight_decay": weight_decay * y, "eps": cell.recipe.eps * z}
        for (x, y, z), ps in alike.items()
    ]


def forget(optimizer: torch.optim.Optimizer | MuonWithAdamW) -> None:
    """Drop all momenta, as before the first step."""
    for part in getattr(optimizer, "parts", (optimizer,)):
        part.state.clear()
