"""What failed before at a cell, from its records, and what follows from it."""

from dataclasses import dataclass

from results.record import Record
from results.store import read_record
from sweep.bad_devices import bad_nodes, note_failure
from sweep.folder import SweepFolder
from sweep.retry import Action, Failure, Past, classify, next_step, rows_after
from sweep.submissions import of_kind, read_submissions


@dataclass(frozen=True)
class After:
    """What a job does after a failure."""

    again: bool
    why: str
    tries: int  # failures of this cell in this job
    bad_nodes: list[str]  # of GPUs that failed too often, where one was added
    jobs: list[str]  # that should keep off them


def rows_to_try(folder: SweepFolder, cell_id: str, asked: int | None) -> int | None:
    """Sequences of a forward pass that have not run out of memory at this cell; None: as fit."""
    return rows_after([_past(row) for row in _failed(folder, cell_id)], asked)


def failures_here(folder: SweepFolder, record: Record, retries: int, job_id: str | None) -> After:
    """Say what follows the failure of an attempt, and note a failed GPU.

    Args:
        folder: the sweep.
        record: of the failed attempt.
        retries: how often what may pass is tried again.
        job_id: count failures of this SLURM job, or of none: a launch starts to count anew.
    """
    rows = [r for r in _failed(folder, record.cell_id) if _job(r) == job_id]
    step = next_step([_past(r) for r in rows], retries)
    bad, jobs = _note_device(folder, record.reason or "")
    return After(step.action is not Action.GIVE_UP, step.why, len(rows), bad, jobs)


def failure_unrecorded(folder: SweepFolder, reason: str) -> After:
    """Say what follows a failure of which there is no record, and note a failed GPU."""
    step = next_step([Past(reason, None)], retries=1)
    return After(step.action is Action.RETRY, step.why, 1, *_note_device(folder, reason))


def _note_device(folder: SweepFolder, reason: str) -> tuple[list[str], list[str]]:
    """Note a GPU that failed; where that was once too often, nodes and jobs to keep off them."""
    if classify(reason) is not Failure.DEVICE:
        return [], []
    before = bad_nodes(folder)
    note_failure(folder, reason)
    bad = bad_nodes(folder)
    if bad == before:
        return [], []
    return bad, [s.job_id for s in of_kind(read_submissions(folder), "cells") if s.job_id]


def _failed(folder: SweepFolder, cell_id: str) -> list[dict]:
    """Failed records of a cell, oldest first."""
    rows = [read_record(path) for path in folder.records.glob(f"{cell_id}.*.parquet")]
    return sorted((r for r in rows if r["status"] == "failed"), key=lambda r: r["attempt"])


def _job(row: dict) -> str | None:
    return row["slurm_job_id"] if isinstance(row["slurm_job_id"], str) else None


def _past(row: dict) -> Past:
    rows = row["micro_batch"]
    return Past(str(row["reason"]), None if rows is None else int(rows))
