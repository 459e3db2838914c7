"""The weights of a finished cell: which attempt has them, and what it was asked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.record import RecordStatus
from results.store import StoreError, read_record
from sweep.cell import Cell
from sweep.cells import cell_from_row
from sweep.checkpoint import CheckpointError, load, newest_first
from sweep.claim import read_status
from sweep.data_settings import DataSettings
from sweep.errors import UsageError, find_one
from sweep.folder import SweepFolder, read_plan

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Finished:
    """A finished attempt: the cell, the data as asked, its record, and its folder."""

    cell: Cell
    data: DataSettings
    record: Mapping[str, Any]
    path: Path

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint of its end; None where none was kept."""
        return next(iter(newest_first(self.path / "checkpoint" / "state.pt")), None)


def find_finished(folder: SweepFolder, asked: str) -> list[Finished]:
    """Finished attempts at the cell that `asked` names, the one that is its result first.

    Raises:
        UsageError: no such sweep or cell, or none of its attempts finished; says where it is.
    """
    cell_id = find_one(asked, _cells(folder))
    records = _records(folder, cell_id)
    found = [
        _finished(folder, row) for row in records if row["status"] == str(RecordStatus.FINISHED)
    ]
    if not found:
        raise UsageError(
            f"{cell_id} has no finished attempt ({_where(folder, cell_id, records)}): train it "
            f"first: {folder.command('run', f'cell={cell_id}')}"
        )
    return found


def with_weights(folder: SweepFolder, asked: str) -> Finished:
    """Return the first finished attempt at a cell whose weights were kept.

    Raises:
        UsageError: as find_finished; or no weights are left, and how to have them.
    """
    found = find_finished(folder, asked)
    kept = next((f for f in found if f.checkpoint is not None), None)
    if kept is not None:
        return kept
    cell_id = found[0].cell.id
    again = folder.command("run", f"cell={cell_id}", "run.keep_checkpoints=last")
    raise UsageError(
        f"the weights of {cell_id} are gone: run.keep_checkpoints=last keeps them, none does not; "
        f"train it again: {again}"
    )


def load_weights(finished: Finished) -> "dict[str, Tensor]":
    """Read the weights of a finished attempt, and nothing that could run code.

    Raises:
        UsageError: a checkpoint that is damaged, or not of the cell's end.
    """
    path, cell = finished.checkpoint, finished.cell
    try:
        state = load(path)["trainer"]
        of = (state["cell_id"], state["step"])
    except (CheckpointError, KeyError, TypeError):
        raise UsageError(f"{path} is damaged: train {cell.id} again with isoflop run") from None
    if of != (cell.id, cell.steps):
        raise UsageError(
            f"{path} is of step {of[1]} of {of[0]}, not of the end of {cell.id}: train it again "
            "with isoflop run"
        )
    return state["model"]


def _cells(folder: SweepFolder) -> list[str]:
    """Ids of planned cells, and of those that were only run."""
    ids = [p.cell.id for p in read_plan(folder)]
    ids += sorted(p.name for p in (folder.path / "cells").glob("*") if p.name not in set(ids))
    if not ids:
        raise UsageError(
            f"sweep={folder.name} has no cell in {folder.path}: name the sweep that trained it with "
            "sweep=NAME (and root=FOLDER)"
        )
    return ids


def _records(folder: SweepFolder, cell_id: str) -> list[dict[str, Any]]:
    try:
        rows = [read_record(p) for p in folder.records.glob(f"{cell_id}.*.parquet")]
    except StoreError as e:
        raise UsageError(str(e)) from None
    return sorted(rows, key=lambda row: row["attempt"])


def _finished(folder: SweepFolder, row: Mapping[str, Any]) -> Finished:
    path = folder.cell(row["cell_id"]) / str(row["attempt"])
    try:
        return Finished(*asked_of(path), row, path)
    except ValueError as e:
        raise UsageError(
            f"{e}: bring the sweep's folder back whole, or train the cell again with isoflop run"
        ) from None


def asked_of(attempt: Path) -> tuple[Cell, DataSettings]:
    """Read what an attempt was asked from its config.yaml, whose values are JSON.

    Raises:
        ValueError: it can't be read.
    """
    path = attempt / "config.yaml"
    try:
        lines = path.read_text().splitlines()
        asked = {key: json.loads(value) for key, _, value in (s.partition(": ") for s in lines)}
        return cell_from_row(asked), DataSettings.from_columns(asked)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(
            f"{path}, which says what the attempt was asked, can't be read ({e})"
        ) from None


def _where(folder: SweepFolder, cell_id: str, records: list[dict[str, Any]]) -> str:
    """Say how far a cell without a finished attempt is."""
    if records:
        last = records[-1]
        return f"{last['status']}: {' '.join(str(last['reason']).split())[:200]}"
    attempts = [p for p in folder.cell(cell_id).glob("*") if p.name.isdigit()]
    status = read_status(max(attempts, key=lambda p: int(p.name))) if attempts else {}
    if not status:
        return "it was not begun"
    return f"{status['state']}, at step {status['step']:,} of {status['steps']:,}"
