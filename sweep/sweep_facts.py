"""What is known of every cell of a sweep, read fast: ten thousand cells in a second or two.

Of a cell that has a terminal record nothing but its status.json is opened: that a record is there
says that the attempt ended, and status.json, written right after it, says how. Where it does not (the
process was killed in between) the record itself is read.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.record import RecordStatus
from slurm.lease import holder
from slurm.queue import JobState, Key, NoSlurm, Queue, read_queue
from sweep.canary_words import canary_words
from sweep.cell_state import AttemptFacts, CellFacts, PlanRow
from sweep.errors import UsageError
from sweep.folder import PLAN_SCHEMA, SweepFolder
from sweep.submissions import Submission, job_ids, read_submissions

_MEMORY = re.compile(rb"exceeded .*memory limit|oom.kill|out of memory", re.IGNORECASE)
_LOG = re.compile(r"(\d+)(?:_(\d+))?_\w+_log\.err$")
_TERMINAL = tuple(str(s) for s in RecordStatus if s.terminal)
_DONE = ("finished", "diverged")  # a stopped cell may be trained again, where somebody asks for it


@dataclass(frozen=True)
class SweepFacts:
    """Every planned cell, and what could not be asked."""

    cells: Sequence[CellFacts]
    submissions: Sequence[Submission]
    queue: Queue
    asked: bool  # whether SLURM answered, where anything was handed to it
    notes: tuple[str, ...]


def read_facts(folder: SweepFolder) -> SweepFacts:
    """Read plan, records, statuses, ledger, and ask SLURM once where anything was handed to it.

    Raises:
        UsageError: no plan, or a file of another version.
    """
    plan = read_plan_rows(folder)
    submissions = read_submissions(folder)
    queue, notes = _ask(submissions)
    recorded = recorded_attempts(folder)
    begun = set(_listed(folder.path / "cells"))
    jobs, canaries = _Jobs(submissions, queue or {}), _canaries(folder, submissions)
    logs = _Logs(folder)
    records, cells_at = str(folder.records), str(folder.path / "cells")
    cells = []
    for row in plan:
        numbers = sorted(recorded.get(row.cell_id, ()))
        attempts = _attempts(records, f"{cells_at}/{row.cell_id}", numbers, row.cell_id in begun)
        submission, job, shares = jobs.of(row.cell_id)
        if job is not None and job.state == "FAILED" and not recorded.get(row.cell_id):
            job = replace(job, out_of_memory=job.out_of_memory or logs.say_memory(job))
        canary = canaries.get(submission.name) if submission is not None else None
        cells.append(CellFacts(row, attempts, submission, job, queue is not None, canary, shares))
    return SweepFacts(cells, submissions, queue or Queue(), queue is not None, notes)


class _Logs:
    """What jobs wrote on stderr: logs/<job>[_<index>]_<task>_log.err."""

    def __init__(self, folder: SweepFolder) -> None:
        self.path = folder.path / "logs"

    def say_memory(self, job: JobState) -> bool:
        """Whether a killed job's log says that its memory ran out: without cgroups nothing else does."""
        return any(_MEMORY.search(self._end(name)) for name in self._of_job[job.key])

    @cached_property
    def _of_job(self) -> dict[Key, list[str]]:
        """Names of the files by job; the folder is listed once, however many jobs failed."""
        found: dict[Key, list[str]] = defaultdict(list)
        for name in _listed(self.path):
            if named := _LOG.match(name):
                job_id, index = named.groups()
                found[job_id, index and int(index)].append(name)
        return found

    def _end(self, name: str) -> bytes:
        with (self.path / name).open("rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - 4000))
            return f.read()


def read_plan_rows(folder: SweepFolder) -> list[PlanRow]:
    """Read the few columns of the frozen plan that status needs.

    Raises:
        UsageError: there is none, or it is of another version.
    """
    if not folder.plan.exists():
        raise UsageError(
            f"sweep={folder.name} has no plan in {folder.path}: launch it first: isoflop launch"
        )
    try:
        table = pq.ParquetFile(folder.plan).read(["cell_id", "budget", "flops", "steps"])
        if (table.schema.metadata or {}).get(b"plan_schema", b"").decode() != PLAN_SCHEMA:
            raise ValueError("it was written by another version")
        return [PlanRow(**row) for row in table.to_pylist()]
    except (pa.ArrowInvalid, ValueError, OSError, TypeError) as e:
        raise UsageError(f"{folder.plan} can't be used: {e}; start a new one: sweep=NAME") from None


def _ask(submissions: Sequence[Submission]) -> tuple[Queue | None, tuple[str, ...]]:
    """Ask SLURM of all that was handed to it; None where it does not answer."""
    handed = [s for s in submissions if s.state != "refused"]
    if not handed:
        return Queue(), ()
    try:
        queue = read_queue(job_ids(handed), [s.job_name for s in handed if s.job_id is None])
    except NoSlurm as e:
        return None, (f"{e}: states are those of the files alone",)
    return queue, queue.notes


def _canaries(folder: SweepFolder, submissions: Sequence[Submission]) -> dict[str, str | None]:
    """Return what the canary found wrong, by name of each submission that waits for it."""
    found: dict[str, str | None] = {}
    words: str | None = None
    for submission in reversed(submissions):  # a launch names its arrays before its canary
        if submission.kind == "canary":
            words = canary_words(folder, submission)
        elif submission.kind == "finish":
            words = None  # of the launch before
        else:
            found[submission.name] = words
    return found


class _Jobs:
    """Which job a cell is in."""

    def __init__(self, submissions: Sequence[Submission], queue: Mapping) -> None:
        self.queue = queue
        self.by_name = {job.name: job.job_id for job in queue.values()}
        self.holding: dict[str, list[tuple[Submission, int]]] = defaultdict(list)
        for submission in submissions:
            if submission.kind == "cells":
                for index, task in enumerate(submission.tasks):
                    for cell_id in task:
                        self.holding[cell_id].append((submission, index))

    def of(self, cell_id: str) -> tuple[Submission | None, JobState | None, bool]:
        """Return the last submission that holds a cell, its job, and whether that has other cells.

        An active one goes first.
        """
        held = [(s, self._job(s, i), len(s.tasks[i]) > 1)
                for s, i in reversed(self.holding.get(cell_id, ()))]  # fmt: skip
        active = [one for one in held if one[1] is not None and one[1].active]
        return next(iter(active or held), (None, None, False))

    def _job(self, submission: Submission, index: int) -> JobState | None:
        job_id = submission.job_id or self.by_name.get(submission.job_name)
        if job_id is None:
            return None
        job = self.queue.get((job_id, index)) or self.queue.get((job_id, None))
        # Ids wrap on a cluster that lives long: a namesake of another sweep is not ours.
        return job if job is not None and job.name == submission.job_name else None


# Paths of the many are text: ten thousand Path objects cost as much as the files themselves.


def _attempts(records: str, base: str, recorded: Sequence[int], begun: bool) -> list[AttemptFacts]:
    ended = [_recorded_attempt(records, base, n) for n in recorded]
    if not begun or any(a.record in _DONE for a in ended):
        return ended
    others = {int(n) for n in _listed(base) if n.isdigit()} - set(recorded)
    open_ones = [_open_attempt(f"{base}/{n}", n) for n in others]
    return sorted([*ended, *open_ones], key=lambda a: a.number)


def _open_attempt(path: str, number: int) -> AttemptFacts:
    held = holder(Path(path))
    return AttemptFacts(number, _status(path), held=held is not None and not held.is_dead())


def _recorded_attempt(records: str, base: str, number: int) -> AttemptFacts:
    status = _status(f"{base}/{number}")
    if status.get("state") in (*_TERMINAL, "failed"):
        return AttemptFacts(number, status, status["state"], status.get("reason"))
    path = f"{records}/{os.path.basename(base)}.{number}.parquet"
    try:
        row = pq.ParquetFile(path).read(["status", "reason"]).to_pylist()[0]
    except (pa.ArrowInvalid, OSError, IndexError) as e:
        return AttemptFacts(number, status, "failed", f"{path} can't be read ({e})")
    return AttemptFacts(number, status, row["status"], row["reason"])


def _status(path: str) -> dict[str, Any]:
    try:
        with open(f"{path}/status.json", "rb") as f:
            return json.loads(f.read())
    except (OSError, ValueError):
        return {}


def recorded_attempts(folder: SweepFolder) -> dict[str, list[int]]:
    """Return the recorded attempts by cell, from names of files alone."""
    found: dict[str, list[int]] = defaultdict(list)
    for name in _listed(folder.records):
        stem, _, number = name.removesuffix(".parquet").rpartition(".")
        if name.endswith(".parquet") and number.isdigit():
            found[stem].append(int(number))
    return found


def _listed(path: str | Path) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
