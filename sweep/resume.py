"""Where an attempt goes on from: its checkpoints, those of an unfinished one before it, its trunk's."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.record import RecordStatus
from results.store import read_records
from sweep import checkpoint
from sweep.checkpoint import CheckpointError
from sweep.claim import Attempt, read_status
from sweep.folder import SweepFolder
from sweep.train import Trainer
from sweep.trunk_store import branchings, load_branching


@dataclass(frozen=True)
class Resumed:
    """What a trainer goes on from."""

    path: Path
    measured: dict[str, Any]
    attempt: int | None  # the one before, whose checkpoint it is; None: the attempt's own
    of_trunk: bool = False  # another cell's, at a step of the trunk that both share


def resume(
    trainer: Trainer, attempt: Attempt, folder: SweepFolder, data: str, say: Callable[[str], None]
) -> Resumed | None:
    """Restore a trainer from the newest checkpoint that can be used, or leave it at step 0.

    The older checkpoint is for the day on which the newer one is damaged. An attempt that has a
    record is never written to again, so what follows a failed or stopped one takes over its checkpoint.

    Args:
        trainer: at its start.
        attempt: the claimed attempt.
        folder: its sweep.
        data: sha256 of what it is trained on.
        say: told of every checkpoint that is passed over.

    Raises:
        CheckpointError: the attempt has checkpoints and none can be used.
    """
    own = checkpoint.newest_first(attempt.checkpoint)
    errors = []
    for path in own:
        try:
            return Resumed(path, _restore(trainer, path), None)
        except CheckpointError as e:
            errors.append(e)
            say(str(e))
    if errors:
        raise errors[0]
    found = _from_unfinished(trainer, attempt, folder, say)
    found = found or _from_trunk(trainer, attempt, folder, data, say)
    step = read_status(attempt.path).get("step")
    if found is None and step and attempt.curve.exists():
        say(f"{attempt.path} was at step {step} and has no checkpoint: it starts at step 0")
    return found


def _from_unfinished(
    trainer: Trainer, attempt: Attempt, folder: SweepFolder, say: Callable[[str], None]
) -> Resumed | None:
    number = _unfinished_before(attempt, folder)
    if number is None:
        return None
    theirs = attempt.path.parent / str(number)
    for path in checkpoint.newest_first(theirs / "checkpoint" / "state.pt"):
        try:
            resumed = Resumed(path, _restore(trainer, path), number)
        except CheckpointError as e:
            say(str(e))
            trainer.start_over()
            continue
        if (theirs / "train.jsonl").exists() and not attempt.curve.exists():
            shutil.copyfile(theirs / "train.jsonl", attempt.curve)
        return resumed
    return None


def _from_trunk(
    trainer: Trainer,
    attempt: Attempt,
    folder: SweepFolder,
    data: str,
    say: Callable[[str], None],
) -> Resumed | None:
    """Go on from where a shorter cell of the same trunk left it."""
    for path in branchings(folder, attempt.cell):
        try:
            state = load_branching(path, data)
            resumed = Resumed(path, _restore_from(trainer, state, path), None, of_trunk=True)
        except CheckpointError as e:
            say(str(e))
            trainer.start_over()
            continue
        checkpoint.write_text(state["curve"], attempt.curve)
        return resumed
    return None


def drop_curve_after(path: Path, step: int) -> None:
    """Forget evaluations made after the checkpoint that training goes on from."""
    if path.exists():
        rows = [line for line in path.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in rows if json.loads(line)["step"] <= step]
        checkpoint.write_text("".join(f"{line}\n" for line in kept), path)


def _restore(trainer: Trainer, path: Path) -> dict[str, Any]:
    return _restore_from(trainer, checkpoint.load(path), path)


def _restore_from(trainer: Trainer, state: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        trainer.restore(state["trainer"])
        return state["measured"]
    except (ValueError, KeyError, RuntimeError) as e:
        raise CheckpointError(f"{path} can't be used: {' '.join(str(e).split())}") from None


def _unfinished_before(attempt: Attempt, folder: SweepFolder) -> int | None:
    """Return the number of the attempt just before, if its record says that it failed or was stopped."""
    before = attempt.number - 1
    record = folder.records / f"{attempt.cell.id}.{before}.parquet"
    if not record.exists():
        return None
    status = read_records(record)["status"].iloc[0]
    return before if status in (RecordStatus.FAILED, RecordStatus.STOPPED) else None
