"""Judge trained cells on sets that training did not know, as it judges on those of eval=."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sweep import checkpoint
from sweep.cell import Cell
from sweep.checkpoint import CheckpointError
from sweep.data import CellData, HeldOut, open_data, prepare_data
from sweep.data_columns import names_of_sets, set_numbers
from sweep.data_settings import DataSettings, TextSet
from sweep.device import Device, open_device
from sweep.errors import UsageError
from sweep.evaluate import evaluate
from sweep.evaluation_targets import NotEvaluated, Target
from sweep.settings import HardwareSettings
from sweep.train import Trainer
from sweep.trained import asked_of


@dataclass
class _Bench:
    """What all sets and cells share: the device, opened data, and the last model that was loaded."""

    sets: Sequence[TextSet]
    hardware: HardwareSettings
    workers: int | None
    say: Callable[[str], None]
    opened: dict[tuple[DataSettings, int], CellData] = field(default_factory=dict)
    device: Device | None = None
    loaded: tuple[Target, Trainer] | None = None

    def data(self, target: Target, cell: Cell, asked: DataSettings) -> CellData:
        settings, T = replace(asked, evals=tuple(self.sets)), cell.model.seq_len
        if (settings, T) not in self.opened:
            cache = target.folder.data_cache
            shards = prepare_data(settings, cache, self.say, self.workers)
            self.opened[settings, T] = open_data(shards, settings, T, verify=True)
        return self.opened[settings, T]

    def model(self, target: Target, cell: Cell, data: CellData) -> Trainer:
        if self.loaded is None or self.loaded[0] != target:
            self.loaded = None
            self.loaded = (target, _load(target, cell, data, self._device(cell, data)))
        return self.loaded[1]

    def _device(self, cell: Cell, data: CellData) -> Device:
        if self.device is None:
            masked = data.train.border is not None
            try:
                self.device = open_device(self.hardware, 0, {cell.model.head_dim}, masked)
            except ValueError as e:
                raise UsageError(str(e)) from None
        return self.device


@dataclass(frozen=True)
class SetEvaluator:
    """One set."""

    text: TextSet
    bench: _Bench
    kind = "set"

    @property
    def name(self) -> str:
        """What it is, in a line for a person."""
        return self.text.name

    def asked(self, target: Target) -> Mapping[str, Any]:
        """Say which set it is, by the hash of its tokens, and how much of it is read."""
        _, held, _ = self._of(target)
        return {
            "name": self.text.name,
            "sha256": held.sha256,
            "tokens": held.val_rows * held.rows.seq_len,
            "document_mask": held.rows.border is not None,
        }

    def evaluate(self, target: Target, work: Path) -> Mapping[str, Any]:
        """Judge one cell; returns found and made_by of an Evaluation.

        Raises:
            NotEvaluated: the checkpoint can't be read, or is not of the end.
        """
        data, held, cell = self._of(target)
        trainer = self.bench.model(target, cell, data)
        found = evaluate(trainer.model, held, held.val_rows, trainer.device)
        where = {"board": trainer.device.board, "dtype": trainer.device.dtype_name}
        return {"found": set_numbers(found), "made_by": {**where, "text": asdict(self.text)}}

    def _of(self, target: Target) -> tuple[CellData, HeldOut, Cell]:
        cell, asked = _asked_of(target)
        data = self.bench.data(target, cell, asked)
        return data, next(h for h in data.extra if h.name == self.text.name), cell


def set_evaluators(
    sets: Sequence[TextSet],
    targets: Sequence[Target],
    hardware: HardwareSettings,
    workers: int | None,
    say: Callable[[str], None],
) -> list[SetEvaluator]:
    """Make an evaluator of each set, which share what they open.

    Raises:
        UsageError: training judged a cell on a set of that name already.
    """
    for target in targets:
        twice = names_of_sets(target.val_sets) & {s.name for s in sets}
        if twice:
            name = min(twice)
            raise UsageError(
                f"eval: training judged {target.cell_id} on {name} already; call another set by "
                f"another name (fit.loss={name} fits that one)"
            )
    bench = _Bench(sets, hardware, workers, say)
    return [SetEvaluator(text, bench) for text in sets]


def _asked_of(target: Target) -> tuple[Cell, DataSettings]:
    try:
        return asked_of(target.path)
    except ValueError as e:
        raise NotEvaluated(str(e)) from None


def _load(target: Target, cell: Cell, data: CellData, device: Device) -> Trainer:
    """Load a model as training would go on with it, which makes it as training did."""
    try:
        trainer = Trainer(cell, data.train, device)
        trainer.restore(checkpoint.load(target.checkpoint)["trainer"])
    except (CheckpointError, ValueError, KeyError, RuntimeError) as e:
        raise NotEvaluated(" ".join(str(e).split())[:300]) from None
    if trainer.step != cell.steps:
        raise NotEvaluated(f"{target.checkpoint} is of step {trainer.step} of {cell.steps}")
    return trainer
