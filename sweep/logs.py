"""Logs: what a cell's last job or process said, and its last error in words."""

from collections import deque
from pathlib import Path

from rich.console import Console

from slurm.queue import JobState
from sweep.arguments import Arguments
from sweep.cell_state import CellFacts, CellState
from sweep.errors import find_one
from sweep.folder import SweepFolder
from sweep.status import commands_of, read_status

_LINES = 40  # of each file


def print_logs(folder: SweepFolder, cell: str, args: Arguments, console: Console) -> int:
    """Print where a cell is, its attempts, the ends of its logs, and its last error.

    Raises:
        UsageError: no such sweep or cell.
    """
    status = read_status(folder, commands_of(folder, args))
    cell_id = find_one(cell, [c.cell_id for c in status.cells])
    place = next(i for i, c in enumerate(status.cells) if c.cell_id == cell_id)
    facts, state = status.facts.cells[place], status.cells[place]
    for attempt in facts.attempts:
        where = attempt.status.get("host", "?")
        job = attempt.status.get("slurm_job_id")
        console.print(
            f"attempt {attempt.number}: {attempt.record or attempt.status.get('state', 'begun')}, "
            f"step {attempt.status.get('step', 0):,}, on {where}{f', job {job}' if job else ''}"
        )
    for path in _files(folder, facts):
        _print_end(path, console)
    console.print(_in_words(state))
    return 0


def _in_words(state: CellState) -> str:
    line = f"{state.cell_id} is {state.state}, at step {state.step:,} of {state.steps:,}"
    if state.explanation is None:
        return f"{line}."
    mend = f"\n    {state.explanation.mend}" if state.explanation.mend else ""
    return f"{line}: {state.explanation.why}{mend}"


def _files(folder: SweepFolder, facts: CellFacts) -> list[Path]:
    """Return what was written for the cell, the traceback of its last attempt last."""
    logs = folder.path / "logs"
    files = _of_job(logs, facts.job) if facts.job is not None else []
    last = (
        folder.cell(facts.plan.cell_id) / str(facts.attempts[-1].number) if facts.attempts else None
    )
    return [*files, *([last / "error.txt"] if last is not None else [])]


def _of_job(logs: Path, job: JobState) -> list[Path]:
    """Return stdout and stderr of each task of a job, as submitit names them."""
    stem = job.job_id if job.index is None else f"{job.job_id}_{job.index}"
    return [*sorted(logs.glob(f"{stem}_*_log.out")), *sorted(logs.glob(f"{stem}_*_log.err"))]


def _print_end(path: Path, console: Console) -> None:
    try:
        with path.open(errors="replace") as f:
            lines = deque(f, maxlen=_LINES)
    except FileNotFoundError:
        return
    if not lines:
        return
    console.print(f"--- {path}" + (f" (the last {_LINES} lines)" if len(lines) == _LINES else ""))
    for line in lines:
        console.print(line.rstrip("\n"))
