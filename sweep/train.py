"""Train one cell, a step at a time, from data order and seed alone."""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from models.attention import only
from models.build import make_model
from models.loss import Loss
from sweep.batches import Batches, documents
from sweep.cell import Cell
from sweep.device import Device
from sweep.micro_batch import find_micro_rows
from sweep.noise import GradientNorms
from sweep.optimizer import forget, make_optimizer
from sweep.ranks import Ranks
from sweep.schedule import lr_share


class Diverged(Exception):
    """The loss is no longer a number."""

    def __init__(self, loss: float, step: int, steps: int) -> None:
        super().__init__(f"loss is {loss} at step {step} of {steps}")
        self.step = step


class Trainer:
    """Model, optimizer and position in the data of one cell, on one rank.

    Everything that decides the next loss is in `state()`, so a run that is stopped anywhere and
    restored gives the same bits as one that was not. `settle()` comes before the first step.
    """

    def __init__(
        self,
        cell: Cell,
        rows: Batches,
        device: Device,
        micro_rows: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Make the model and its optimizer.

        Args:
            cell: what to train.
            rows: its training rows.
            device: where.
            micro_rows: sequences of a forward pass; None: what the device was asked, or what fits.
            ranks: this process among those of the cell; None: it is alone.
        """
        self.cell, self.rows, self.device = cell, rows, device
        self.ranks = ranks or Ranks()
        self.micro_rows = micro_rows or device.hardware.micro_rows
        self.settled, self.compile_seconds = False, 0.0
        torch.manual_seed(cell.seed)
        self.model = make_model(cell.model, device.attention, device.cross_entropy)
        self.model.init_weights(cell.seed)
        self.model.to(device.device)
        self.optimizer = make_optimizer(self.model, cell)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.shared = self.ranks.wrap(self.model)
        if device.compile:  # of all cells of a process, only the first few would be compiled else
            torch.compiler.reset()
            self.model.ready_to_compile()
        self.forward = torch.compile(self.shared, dynamic=False) if device.compile else self.shared
        self.norms: GradientNorms | None = None
        self.step, self.restored = 0, {}
        self._first_rng = torch.get_rng_state()

    def start_over(self) -> None:
        """Forget what a failed `restore` has left: first weights, no moments, step 0."""
        self.model.init_weights(self.cell.seed)
        forget(self.optimizer)
        self.step, self.restored = 0, {}
        torch.set_rng_state(self._first_rng)

    def settle(self) -> None:
        """Fix the micro-batch, compile, and have every rank lay out its gradients.

        Decides no loss: weights, generators and optimizer are as before.

        Raises:
            DoesNotFit: not one sequence goes through the model.
        """
        batch_rows, ranks = self.cell.recipe.batch_rows, self.ranks
        most, start = ranks.most_rows(batch_rows), time.perf_counter()
        with only(self.model.implementation):
            if self.micro_rows is None:
                same = self.restored.get("ranks") == ranks.size  # the same split, the same bits
                most = min(most, self.restored["micro_rows"]) if same else most
                self.micro_rows = find_micro_rows(self, most)
            self.micro_rows = min(self.micro_rows, most)
            if self.device.compile or ranks.size > 1:
                self._warm_up()
        if self.device.compile:  # the search for a micro-batch met the shapes first
            self.compile_seconds += time.perf_counter() - start
        small = ranks.mean_rows(batch_rows) if ranks.size > 1 else self.micro_rows
        if small < batch_rows:
            self.norms = GradientNorms.empty(small, batch_rows, self.device.device)
            if self.restored.get("norms"):
                self.norms.restore(self.restored["norms"])
        self.settled = True

    def train_step(self) -> torch.Tensor:
        """One optimizer step on the next batch_rows rows; returns its mean loss, nats per token."""
        if not self.settled:
            self.settle()
        recipe = self.cell.recipe
        share = self.lr_share()
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        with only(self.model.implementation):  # also where nobody opened it around all steps
            loss, small_squared = self._accumulate(self._next_rows())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.grad_clip)
        if self.norms is not None and small_squared is not None:
            self.norms.add(small_squared, norm**2)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss

    def loss(self, rows_BT: torch.Tensor) -> Loss:
        """Mean loss of (B, T + 1) rows, each token the target of those before it."""
        inputs_BT, border = rows_BT[:, :-1], self.rows.border
        document_BT = None if border is None else documents(inputs_BT, border)
        half = self.device.dtype.itemsize < 4
        with torch.autocast(self.device.device.type, self.device.dtype, enabled=half):
            return self.forward(inputs_BT, document_BT, rows_BT[:, 1:])

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
            period_steps=recipe.period_steps,
        )

    def noise_tokens(self) -> float:
        """Gradient noise scale in tokens; NaN where batches are never split."""
        return self.norms.noise_rows() * self.cell.model.seq_len if self.norms else math.nan

    def state(self) -> dict[str, Any]:
        """Everything that decides the next loss, as tensors and plain values."""
        return {
            "cell_id": self.cell.id,
            "trunk": self.cell.trunk,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.device.device.type == "cuda" else None,
            "micro_rows": self.micro_rows,
            "ranks": self.ranks.size,
            "norms": self.norms.state() if self.norms else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`, before `settle()`.

        Raises:
            ValueError: the state is of another cell, and not of a step of the trunk that this one
                branches off.
        """
        own = state["cell_id"] == self.cell.id
        if not own and not self._branches_off(state):
            raise ValueError(f"checkpoint of {state['cell_id']}, not of {self.cell.id}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())
        self.restored = {k: state[k] for k in ("micro_rows", "ranks", "norms")}
        if not own:  # whose second half of the steps is another
            self.restored["norms"] = None

    def _branches_off(self, state: dict[str, Any]) -> bool:
        trunk = state.get("trunk")
        return (
            trunk is not None
            and trunk == self.cell.trunk
            and state["step"] <= self.cell.branch_step
        )

    def _next_rows(self) -> torch.Tensor:
        """Draw this rank's rows of the next batch, (B, T + 1)."""
        rows = self.rows.batch(self.cell.seed, self.step, self.cell.recipe.batch_rows)
        own = torch.from_numpy(self.ranks.share(rows))
        return own.to(self.device.device, non_blocking=True)

    def _accumulate(self, rows_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Gradients of the whole batch's mean loss, and that loss.

        Returns:
            Mean cross-entropy; squared norm of the mean gradient of a part of the batch, a
            micro-batch or a rank's share, where it is asked for and there are parts.
        """
        ranks, n = self.ranks, self.cell.recipe.batch_rows
        total, small_squared = torch.zeros((), device=self.device.device), None
        parts = rows_BT.split(self.micro_rows)
        for i, part_BT in enumerate(parts):
            share, last = len(part_BT) / n, i == len(parts) - 1
            with contextlib.nullcontext() if last else ranks.alone(self.shared):
                loss = self.loss(part_BT)
                (loss.objective * (share * ranks.size)).backward()  # ranks average: sum instead
            total += loss.cross_entropy.detach() * share
            if i == 0 and not last and ranks.size == 1 and self._looks_at_noise():
                small_squared = (self._gradient_norm() / share) ** 2
        if ranks.size == 1:
            return total, small_squared
        local_squared = ranks.take_local_squared() / (len(rows_BT) * ranks.size / n) ** 2
        total, small_squared = ranks.add_up(torch.stack([total.double(), local_squared.double()]))
        return total, small_squared / ranks.size if self._looks_at_noise() else None

    def _looks_at_noise(self) -> bool:
        """In the second half: early gradients are of another kind."""
        return self.step >= self.cell.steps // 2

    def _gradient_norm(self) -> torch.Tensor:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _warm_up(self) -> None:
        """One pass that is thrown away: compiles every shape, and has DDP order its buckets.

        DDP orders them by the first backward pass, and sums differ by the order: every life of an
        attempt has to take its steps after that.
        """
        generators = [self.device.device] if self.device.device.type == "cuda" else []
        with torch.random.fork_rng(generators):
            self._accumulate(self._next_rows())
            self.optimizer.zero_grad(set_to_none=True)
        self.device.synchronize()


def train(trainer: Trainer, after_step: Callable[[int, float], None]) -> None:
    """Run a cell to its last step.

    Args:
        trainer: where to start from.
        after_step: called with the number of steps done and the loss of the last one.

    Raises:
        Diverged: a loss is not finite.
    """
    with only(trainer.model.implementation):
        while trainer.step < trainer.cell.steps:
            loss = trainer.train_step().item()
            if not math.isfinite(loss):
                raise Diverged(loss, trainer.step, trainer.cell.steps)
            after_step(trainer.step, loss)
