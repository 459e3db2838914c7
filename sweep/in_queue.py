"""Which cells of a sweep wait or run in SLURM's queue, by the ledger and one look at the queue."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from slurm.queue import JobState, Key, read_queue
from sweep.folder import SweepFolder
from sweep.submissions import Submission, read_submissions, refused, submitted

_YOUNG = 15.0  # seconds in which an sbatch of a launcher that was killed may still arrive


def look_at_queue(folder: SweepFolder) -> tuple[list[Submission], dict[Key, JobState]]:
    """Read the ledger, and the state of every job and task in it; write nothing.

    A job whose id nobody wrote down is found by its name.

    Raises:
        NoSlurm: the queue can't be read.
    """
    ledger = read_submissions(folder)
    ids = [s.job_id for s in ledger if s.job_id is not None]
    names = [s.job_name for s in ledger if s.state == "frozen"]
    queue = read_queue(ids, names) if ids or names else {}
    by_name = {state.name: job for (job, _), state in queue.items() if state.name}
    return [replace(s, job_id=s.job_id or by_name.get(s.job_name)) for s in ledger], queue


def settle_submissions(folder: SweepFolder) -> tuple[list[Submission], dict[Key, JobState]]:
    """Look at ledger and queue, and settle what a killed launcher left open.

    Held by the launch lease: a frozen submission is then nobody's who still lives.

    Raises:
        NoSlurm: the queue can't be read.
    """
    left = [s for s in read_submissions(folder) if s.state == "frozen"]
    if left:
        time.sleep(max(0.0, _YOUNG - min(map(_age, left))))
    ledger, queue = look_at_queue(folder)
    return [s if s.state != "frozen" else _settle(folder, s) for s in ledger], queue


def cells_in_queue(ledger: Sequence[Submission], queue: dict[Key, JobState]) -> dict[str, Key]:
    """Cells that wait or run, each with its job and index."""
    jobs = {s.job_id: s for s in ledger if s.kind == "cells" and s.job_id is not None}
    return {
        cell: (job, index)
        for (job, index), state in queue.items()
        if job in jobs and index is not None and state.active
        for cell in jobs[job].tasks[index]
    }


def active_jobs(ledger: Sequence[Submission], queue: dict[Key, JobState]) -> list[str]:
    """Ids of arrays of cells of which something waits or runs."""
    ids = {s.job_id for s in ledger if s.kind == "cells"}
    return sorted({job for (job, _), state in queue.items() if job in ids and state.active})


def _settle(folder: SweepFolder, frozen: Submission) -> Submission:
    if frozen.job_id is not None:
        return submitted(folder, frozen, frozen.job_id)
    return refused(folder, frozen, "its launcher ended before sbatch took it")


def _age(submission: Submission) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(submission.at)).total_seconds()
