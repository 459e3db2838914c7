"""Who works on what: an attempt's folder, its lease, and what its files say of it.

    cells/<cell_id>/<attempt>/{config.yaml, env.json, train.jsonl, status.json, checkpoint/, lease/}

An attempt without a record can be resumed by anybody who gets its lease; one with a record never is.
"""

import json
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.provenance import environment, now
from results.store import terminal_cells
from slurm.lease import Holder, Lease, Watch
from sweep import checkpoint
from sweep.cell import Cell
from sweep.cells import cell_to_row
from sweep.data import CellData, DataSettings
from sweep.errors import UsageError
from sweep.folder import SweepFolder


@dataclass(frozen=True)
class Attempt:
    """A claimed folder; the lease is held until `release`, or until it is lost."""

    cell: Cell
    number: int
    path: Path
    lease: Lease

    @property
    def checkpoint(self) -> Path:
        """The last whole checkpoint."""
        return self.path / "checkpoint" / "state.pt"

    @property
    def curve(self) -> Path:
        """Evaluations along the way, a JSON line each."""
        return self.path / "train.jsonl"

    def release(self) -> None:
        """Let another process resume it."""
        self.lease.release()


def claim(folder: SweepFolder, cell: Cell, resume: bool) -> Attempt:
    """Take the last unrecorded attempt that nobody works on (resume), or a new number."""
    watch, numbers = Watch(math.inf), _numbers(folder, cell)
    for number in reversed(numbers if resume else []):
        if not _record(folder, cell, number).exists():
            taken = _take(folder, cell, number, watch)
            if isinstance(taken, Attempt):
                return taken
    number = max(numbers, default=-1) + 1
    while True:
        try:
            (folder.cell(cell.id) / str(number)).mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        taken = _take(folder, cell, number, watch)
        if isinstance(taken, Attempt):
            return taken


def claim_for_launch(
    folder: SweepFolder, cell: Cell, watch: Watch, anew: Mapping[str, int] | None = None
) -> Attempt | Holder | str:
    """Take a cell that a launch is to finish, unless it is done or somebody is at it.

    Ask again later, with the same watch, where somebody is: the watch notices when they fall
    silent.

    Args:
        folder: the sweep.
        cell: which.
        watch: of this process, one for all cells.
        anew: as results.store.terminal_cells takes it.

    Returns:
        The attempt; or who works on the cell; or the status of its terminal record.
    """
    while True:
        numbers = _numbers(folder, cell)  # before the look at records, which come before leases go
        unrecorded = [n for n in numbers if not _record(folder, cell, n).exists()]
        done = terminal_cells(folder.records, [cell.id], anew)
        if done:
            return done[cell.id]
        number = unrecorded[-1] if unrecorded else max(numbers, default=-1) + 1
        (folder.cell(cell.id) / str(number)).mkdir(parents=True, exist_ok=True)
        taken = _take(folder, cell, number, watch)
        if taken is not None:
            return taken


def _take(folder: SweepFolder, cell: Cell, number: int, watch: Watch) -> Attempt | Holder | None:
    """Take the lease of an attempt; None where it was recorded meanwhile."""
    path = folder.cell(cell.id) / str(number)
    taken = watch.take(path)
    if not isinstance(taken, Lease):
        return taken
    if _record(folder, cell, number).exists():
        taken.release()
        return None
    return Attempt(cell, number, path, taken)


def _numbers(folder: SweepFolder, cell: Cell) -> list[int]:
    """Numbers of a cell's attempts, ascending."""
    base = folder.cell(cell.id)
    return sorted(int(p.name) for p in base.glob("*") if p.name.isdigit())


def _record(folder: SweepFolder, cell: Cell, number: int) -> Path:
    return folder.records / f"{cell.id}.{number}.parquet"


def describe_attempt(attempt: Attempt, asked: DataSettings, data: CellData) -> None:
    """Freeze what is asked and where it runs.

    Raises:
        UsageError: an earlier attempt at this cell saw other data.
    """
    for env in attempt.path.parent.glob("*/env.json"):
        seen = json.loads(env.read_text())["data_sha256"]
        if seen != data.sha256:
            raise UsageError(
                f"{attempt.cell.id}: attempt {env.parent.name} was trained on data {seen[:12]}, "
                f"this is {data.sha256[:12]}: set data.revision to a new word"
            )
    asked_columns = {**cell_to_row(attempt.cell), **asked.to_columns()}
    checkpoint.write_text(_yaml(asked_columns), attempt.path / "config.yaml")
    env = {**environment(), "data_sha256": data.sha256}
    checkpoint.write_json(env, attempt.path / "env.json", attempt.lease)


def forget_parts(attempt: Attempt, folder: SweepFolder) -> None:
    """Remove what an earlier life of this attempt was killed in the middle of writing."""
    of_record = folder.records.glob(f"{attempt.cell.id}.{attempt.number}.*.part")
    for part in [*attempt.path.rglob("*.part"), *of_record]:
        part.unlink()


def read_status(path: Path) -> dict[str, Any]:
    """Last status of an attempt; empty where none was written."""
    try:
        return json.loads((path / "status.json").read_text())
    except (OSError, ValueError):
        return {}


class StatusFile:
    """An attempt's status.json: where it is, for people and for `isoflop status`.

    Two threads write it, the one that trains and the one that keeps the lease.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.attempt, self.step = attempt, 0
        self._writing, self._state = threading.Lock(), "running"

    def say(
        self, state: str, step: int, reason: str | None = None, notes: Sequence[str] = ()
    ) -> None:
        """Say where the attempt is.

        Args:
            state: running, stopped, or the status of its record.
            step: steps taken.
            reason: why it did not finish.
            notes: what to look at before its loss is believed; `isoflop status` shows them.

        Raises:
            LeaseLost: it is somebody else's by now; the file is as it was.
        """
        with self._writing:
            self._state, self.step = str(state), step
            self._write(reason, notes)

    def beat(self) -> None:
        """Say again that it runs, and at which step; nothing once it has ended."""
        with self._writing:
            if self._state == "running":
                self._write(None)

    def _write(self, reason: str | None, notes: Sequence[str] = ()) -> None:
        values = {"state": self._state, "step": self.step, "steps": self.attempt.cell.steps}
        values |= {"at": now(), **where(), "reason": reason, "notes": list(notes)}
        checkpoint.write_json(values, self.attempt.path / "status.json", self.attempt.lease)


def where() -> dict[str, Any]:
    """Host, process and job of this process, as status.json says them."""
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    return {
        "host": os.environ.get("SLURMD_NODENAME") or os.uname().nodename,
        "pid": os.getpid(),
        "slurm_job_id": os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID"),
        "index": int(index) if index is not None else None,
        "restart_count": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }


def _yaml(values: dict[str, Any]) -> str:
    """YAML of plain values: each as JSON, of which YAML is a superset."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
