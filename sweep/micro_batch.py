"""How many sequences go through the model at once: as many as fit, found by trying."""

import resource
from typing import Protocol

import torch

from models.config import CrossEntropy
from models.loss import Loss
from sweep.cell import Cell
from sweep.device import Device
from sweep.memory import memory_needed, rows_that_fit
from sweep.ranks import Ranks


class DoesNotFit(Exception):
    """Not even one sequence goes through the model."""


class Trains(Protocol):
    """What this file asks of a trainer, which looks for its own micro-batch."""

    cell: Cell
    device: Device
    ranks: Ranks
    model: torch.nn.Module
    shared: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def loss(self, tokens_BT: torch.Tensor) -> Loss:
        """Return the loss of some sequences."""


def find_micro_rows(trainer: Trains, most: int) -> int:
    """Start at what arithmetic allows and halve while the device runs out of memory.

    A device with room to spare by arithmetic is not tried, so that a small cell starts at once. All
    ranks take the smallest number that any of them can.

    Args:
        trainer: not yet stepped; its weights, generators and optimizer stay as they are.
        most: sequences of a rank's share of the batch.

    Raises:
        DoesNotFit: one sequence is too much.
    """
    cfg, device, ranks = trainer.cell.model, trainer.device, trainer.ranks
    half, pieces = device.dtype.itemsize < 4, device.cross_entropy is not CrossEntropy.PLAIN
    on_gpu = device.device.type == "cuda"
    room = device.free_memory_bytes() / (1 if on_gpu else ranks.size) + _held_bytes(trainer)
    rows = max(1, rows_that_fit(cfg, most, half, room, pieces))
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    if on_gpu or limited or memory_needed(cfg, rows, half, pieces) > room / 2:
        # One sequence first: libraries write their kernels while there is room for them. Not where
        # that would be one more shape to compile.
        if rows > 1 and not device.compile and not _fits(trainer, 1):
            rows = 0
        while rows and not _fits(trainer, rows):
            rows = -(-rows // 2) if rows > 1 else 0
    rows = ranks.least(rows, device.device)
    if not rows:
        raise DoesNotFit(
            f"{cfg.size_id} ran out of memory with one sequence of {cfg.seq_len} tokens at a time "
            f"({room / 1e9:.3g} GB were free, {memory_needed(cfg, 1, half, pieces) / 1e9:.3g} GB predicted): "
            "take a smaller size out of model.ladder, or a device with more memory"
        )
    return rows


def _fits(trainer: Trains, rows: int) -> bool:
    """Try two backward passes with all that a step holds: gradients and both moments."""
    device, cfg = trainer.device.device, trainer.cell.model
    generators = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(generators), trainer.ranks.alone(trainer.shared):
            moments = [] if trainer.optimizer.state else 2 * list(trainer.model.parameters())
            held = [torch.zeros_like(p) for p in moments]
            tokens_BT = torch.zeros(rows, cfg.seq_len + 1, dtype=torch.int64, device=device)
            for _ in range(2):
                trainer.loss(tokens_BT).objective.backward()
            del held
            return True
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        return False
    finally:
        trainer.optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def out_of_memory(e: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU torch and oneDNN raise a RuntimeError.

    oneDNN writes the code of a kernel when it first needs it, and has one text for all that can
    hinder it, memory foremost.
    """
    said = ("can't allocate memory", "could not create a primitive")
    return isinstance(e, (torch.OutOfMemoryError, MemoryError)) or any(s in str(e) for s in said)


def _held_bytes(trainer: Trains) -> int:
    """Bytes of weights and moments that are there already."""
    moments = [v for s in trainer.optimizer.state.values() for v in s.values()]
    tensors = [*trainer.model.parameters(), *(v for v in moments if torch.is_tensor(v))]
    return sum(t.nbytes for t in tensors)
