"""Cancel: stop what a sweep has in the queue or on this machine, and nothing else."""

import os
import signal
import subprocess
from collections.abc import Sequence

from rich.console import Console

from slurm.lease import me
from slurm.queue import JobState
from sweep.arguments import Arguments
from sweep.cell_state import CellState, State
from sweep.errors import UsageError, find_one
from sweep.explain import job_name_of
from sweep.folder import SweepFolder
from sweep.launch_lease import launch_lease
from sweep.local_launches import local_launches
from sweep.status import Status, commands_of, read_status
from sweep.sweep_facts import read_plan_rows

_AT_ONCE = 500  # jobs of one scancel: a command line has an end


def cancel(folder: SweepFolder, cell: str | None, args: Arguments, console: Console) -> int:
    """Cancel a sweep's jobs and its launches on this machine, or one cell's job.

    Jobs are those of the sweep's own ledger. What a cell has learned stays: a launch goes on from
    its last checkpoint.

    Returns:
        0, or 1 where something still runs that can't be stopped from here.

    Raises:
        UsageError: no such sweep or cell, or the cell can't be stopped alone; SLURM does not answer.
    """
    read_plan_rows(folder)  # refuses a sweep that is not there, before anything is written
    with launch_lease(folder, console.print):  # nobody submits meanwhile
        status = read_status(folder, commands_of(folder, args))
        if not status.facts.asked:
            raise UsageError(" ".join(status.facts.notes))
        if cell is not None:
            return _cancel_cell(status, find_one(cell, [c.cell_id for c in status.cells]), console)
        jobs = sorted({job.job_id for job in _active(status)})
        _scancel(jobs)
        if jobs:
            console.print(f"Cancelled {len(jobs)} jobs of sweep={folder.name}: {', '.join(jobs)}")
    left = _stop_local(folder, console)
    if not jobs and not left and not local_launches(folder):
        console.print(f"Nothing of sweep={folder.name} is in the queue.")
    return 1 if left else 0


def _cancel_cell(status: Status, cell_id: str, console: Console) -> int:
    facts = next(f for f in status.facts.cells if f.plan.cell_id == cell_id)
    state = next(c for c in status.cells if c.cell_id == cell_id)
    if facts.job is not None and facts.job.active:
        name = job_name_of(facts.job)
        if facts.shares_job:
            raise UsageError(
                f"{cell_id} shares job {name} with other cells, and would be stopped with them: "
                f"all of them with scancel {name}, the whole sweep without cell="
            )
        _scancel([name])
        console.print(f"Cancelled job {name} of {cell_id}")
        return 0
    raise UsageError(f"{cell_id} is {state.state}{_why_not(state)}")


def _why_not(state: CellState) -> str:
    if state.state is State.RUNNING:
        return ", in a launch without SLURM, which is stopped as a whole: leave out cell="
    return " and has no job in the queue: there is nothing to cancel"


def _active(status: Status) -> list[JobState]:
    names = {s.job_name for s in status.facts.submissions}
    return [j for j in status.facts.queue.values() if j.active and j.name in names]


def _scancel(jobs: Sequence[str]) -> None:
    for start in range(0, len(jobs), _AT_ONCE):
        command = ["scancel", *jobs[start : start + _AT_ONCE]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise UsageError(f"scancel failed: {' '.join(done.stderr.split())}")


def _stop_local(folder: SweepFolder, console: Console) -> bool:
    """Have launches of this machine save and stop; returns whether there are others elsewhere."""
    here, elsewhere = me()["machine"], False
    for launch in local_launches(folder):
        if here is not None and launch.owner.get("machine") == here:
            os.kill(launch.owner["pid"], signal.SIGTERM)  # its workers save when it dies
            console.print(f"Told {launch.in_words()} to save and stop")
        else:
            console.print(f"{launch.in_words()} trains cells too: cancel on that machine")
            elsewhere = True
    return elsewhere
