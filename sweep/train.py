"""Train one cell, a step at a time, from data order and seed alone."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from models.attention import only
from models.gpt import GPT
from sweep.batches import Rows, batch
from sweep.device import Device
from sweep.grid import Cell
from sweep.schedule import lr_share


class Diverged(Exception):
    """The loss is no longer a number."""


class Trainer:
    """Model, optimizer and position in the data of one cell.

    Everything that decides the next loss is in `state()`, so a run that is stopped anywhere and
    restored gives the same bits as one that was not.
    """

    def __init__(
        self, cell: Cell, rows: Rows, device: Device, micro_rows: int | None = None
    ) -> None:
        self.cell, self.rows, self.device = cell, rows, device
        self.micro_rows = micro_rows or cell.recipe.batch_rows
        self.step = 0
        torch.manual_seed(cell.seed)
        self.model = GPT(cell.model, device.attention)
        self.model.init_weights(cell.seed)
        self.model.to(device.device)
        self.optimizer = _optimizer(self.model, cell, fused=True)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    def train_step(self) -> torch.Tensor:
        """One optimizer step on the next batch_rows rows; returns its mean loss, nats per token."""
        recipe = self.cell.recipe
        share = self.lr_share()
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        rows_BT = torch.from_numpy(batch(self.rows, self.cell.seed, self.step, recipe.batch_rows))
        loss = self._accumulate(rows_BT.to(self.device.device, non_blocking=True))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss

    def lr_share(self) -> float:
        """Share of the peak learning rate of the next step."""
        recipe = self.cell.recipe
        return lr_share(
            self.step,
            steps=self.cell.steps,
            warmup_steps=recipe.warmup_steps,
            schedule=recipe.schedule,
            decay_steps=recipe.decay_steps,
            floor=recipe.lr_floor,
        )

    def state(self) -> dict[str, Any]:
        """Everything that decides the next loss, as tensors and plain values."""
        return {
            "cell_id": self.cell.id,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.device.device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`.

        Raises:
            ValueError: the state is of another cell.
        """
        if state["cell_id"] != self.cell.id:
            raise ValueError(f"checkpoint of {state['cell_id']}, not of {self.cell.id}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())

    def _accumulate(self, rows_BT: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), device=self.device.device)
        half = self.device.dtype.itemsize < 4
        for micro_BT in rows_BT.split(self.micro_rows):
            with torch.autocast(self.device.device.type, self.device.dtype, enabled=half):
                logits_BTV = self.model(micro_BT[:, :-1])
            loss = F.cross_entropy(logits_BTV.flatten(0, 1), micro_BT[:, 1:].flatten())
            share = len(micro_BT) / len(rows_BT)
            (loss * share).backward()
            total += loss.detach() * share
        return total


def train(trainer: Trainer, after_step: Callable[[int, float], None]) -> None:
    """Run a cell to its last step.

    Args:
        trainer: where to start from.
        after_step: called with the number of steps done and the loss of the last one.

    Raises:
        Diverged: a loss is not finite.
    """
    with only(trainer.device.attention):
        while trainer.step < trainer.cell.steps:
            loss = trainer.train_step().item()
            if not math.isfinite(loss):
                raise Diverged(f"loss is {loss} at step {trainer.step} of {trainer.cell.steps}")
            after_step(trainer.step, loss)


def _optimizer(model: GPT, cell: Cell, fused: bool) -> torch.optim.Optimizer:
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
    return torch.optim.AdamW(
        groups, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=fused
    )
