"""Who works on what: an attempt's folder, its lock, and what its files say of it.

    cells/<cell_id>/<attempt>/{config.yaml, env.json, train.jsonl, status.json, checkpoint/}

An attempt without a record can be resumed by anybody who gets its lock; one with a record never is.
"""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.provenance import environment, now
from sweep import checkpoint
from sweep.cells import cell_to_row
from sweep.data import CellData, DataSettings
from sweep.errors import UsageError
from sweep.folder import SweepFolder
from sweep.grid import Cell


@dataclass(frozen=True)
class Attempt:
    """A claimed folder; the lock is held until the process ends or `release`."""

    cell: Cell
    number: int
    path: Path
    lock: int

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
        os.close(self.lock)


def claim(folder: SweepFolder, cell: Cell, resume: bool) -> Attempt:
    """Take the last unrecorded attempt that nobody works on (resume), or a new number."""
    base = folder.cell(cell.id)
    base.mkdir(parents=True, exist_ok=True)
    numbers = sorted(int(p.name) for p in base.iterdir() if p.name.isdigit())
    for number in reversed(numbers if resume else []):
        if not (folder.records / f"{cell.id}.{number}.parquet").exists():
            lock = _try_lock(base / str(number))
            if lock is not None:
                return Attempt(cell, number, base / str(number), lock)
    number = numbers[-1] + 1 if numbers else 0
    while True:
        try:
            (base / str(number)).mkdir()
        except FileExistsError:
            number += 1
            continue
        lock = _try_lock(base / str(number))
        if lock is not None:
            return Attempt(cell, number, base / str(number), lock)


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
    checkpoint.write_json(env, attempt.path / "env.json")


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


def write_status(attempt: Attempt, state: str, step: int) -> None:
    """Say where the attempt is, for people and for `isoflop status`."""
    status = {"state": str(state), "step": step, "steps": attempt.cell.steps, "at": now()}
    checkpoint.write_json({**status, "pid": os.getpid()}, attempt.path / "status.json")


def _yaml(values: dict[str, Any]) -> str:
    """YAML of plain values: each as JSON, of which YAML is a superset."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


def _try_lock(path: Path) -> int | None:
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
