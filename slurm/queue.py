"""What SLURM says of jobs: one call of squeue, one of sacct, read together.

A hint, never the truth: accounting lags by seconds, COMPLETED may lack a result, TIMEOUT, FAILED and
CANCELLED may have one, and NODE_FAIL, PREEMPTED and REQUEUED are not final.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

_CALL_SECONDS = 60.0
_ID = re.compile(r"\d+(_(\d+|\[[\d,:%-]+\]))?")
# Times as seconds since 1970; array expressions whole, which SLURM else cuts after 64 characters.
_FORMAT = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
# The name comes last: it alone may hold the separator.
_SQUEUE = "%i|%T|%r|%N|%M|%l|%V|%S|%P|%j"
_SACCT = ("JobID,State,Reason,NodeList,ElapsedRaw,TimelimitRaw,Submit,Start,End,ExitCode,"
          "DerivedExitCode,Partition,JobName")  # fmt: skip
_OUT_OF_MEMORY = 125  # signal by which a step says that its memory limit was hit
_ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL",
          "OUT_OF_MEMORY", "PREEMPTED", "REQUEUED", "REVOKED", "TIMEOUT")  # fmt: skip
_CUT_SHORT = ("NODE_FAIL", "PREEMPTED", "REQUEUED")  # ends of a start after which there may be more


Key = tuple[str, int | None]  # job id (of the array), index in the array


class NoSlurm(Exception):
    """SLURM can't be asked: its commands are not here, or its controller does not answer."""


@dataclass(frozen=True)
class JobState:
    """One job, or one element of an array. Unknown is None."""

    job_id: str
    index: int | None  # of the array; None for a job that is none
    name: str
    state: str  # as SLURM spells it: PENDING, RUNNING, COMPLETED, ...
    reason: str | None = None  # why it is pending
    partition: str | None = None
    nodes: str | None = None
    exit_code: int | None = None
    signal: int | None = None  # that ended it, or one of its steps
    out_of_memory: bool = False  # the job or one of its steps hit its memory limit
    restarts: int | None = None  # times SLURM started it again; None without accounting
    lost_nodes: tuple[str, ...] = ()  # nodes that failed under it
    elapsed: float | None = None  # seconds of this start
    limit: float | None = None  # seconds
    submit: float | None = None  # seconds since 1970, as are those below
    start: float | None = None
    end: float | None = None
    active: bool = False  # the controller lists it as not ended: it waits or runs

    @property
    def key(self) -> Key:
        """What names it."""
        return self.job_id, self.index


class Queue(dict[Key, JobState]):
    """Jobs by (job id, array index), and what could not be asked."""

    notes: tuple[str, ...] = ()


def read_queue(job_ids: Collection[str], names: Collection[str] = ()) -> Queue:
    """Ask squeue once and sacct once.

    Args:
        job_ids: jobs and arrays to know about.
        names: names of jobs, for those whose id nobody wrote down.

    Returns:
        What is known. Jobs that the controller forgot and accounting never had are missing; where
        accounting can't be asked, `notes` says so.

    Raises:
        NoSlurm: no SLURM here, or the controller does not answer.
    """
    listed = [j for j in parse_squeue(_squeue()) if _is_ours(j, job_ids, names)]
    asked = sorted({*job_ids, *(j.job_id for j in listed)})
    queue = Queue()
    rows: list[JobState] = []
    if asked:
        try:
            rows = [j for j in parse_sacct(_sacct(asked)) if _is_ours(j, asked, names)]
        except NoSlurm as e:
            queue.notes = (f"{e}: how ended jobs ended is not known",)
    queue.update(merge(listed, rows))
    return queue


def merge(listed: Collection[JobState], accounted: Collection[JobState]) -> dict[Key, JobState]:
    """Join what the controller lists with accounting's rows, of which a requeued job has several.

    The controller is right about what is in the queue; the last row is right about what ended.
    """
    rows: dict[Key, list[JobState]] = {}
    for job in accounted:
        rows.setdefault(job.key, []).append(job)
    now = {job.key: job for job in listed}
    found = {key: _of_starts(starts, now.get(key)) for key, starts in rows.items()}
    return {**now, **found}


def _of_starts(rows: Collection[JobState], now: JobState | None) -> JobState:
    """Join the rows of one job, one a start, with what the controller says of it now."""
    last = max(rows, key=lambda j: (j.submit or 0.0, j.start or 0.0))
    cut = sum(j.state in _CUT_SHORT for j in rows)
    of_all = {
        "out_of_memory": any(j.out_of_memory for j in rows),
        "lost_nodes": tuple(j.nodes for j in rows if j.state == "NODE_FAIL" and j.nodes),
    }
    # A job that ended a moment ago still runs by accounting, which lags.
    if now is not None and (now.active or last.state not in _ENDED):
        return replace(now, restarts=cut, **of_all)
    return replace(last, restarts=cut - (last.state in _CUT_SHORT), **of_all)


def parse_squeue(text: str) -> Iterator[JobState]:
    """Read lines of squeue in the format _SQUEUE, one job for each element of an array."""
    for cells in _rows(text, 10):
        job_id, state, reason, nodes, elapsed, limit, submit, start, partition, name = cells
        values = dict(
            name=name,
            state=state,
            reason=_known(reason),
            partition=partition,
            nodes=_known(nodes),
            elapsed=_duration(elapsed),
            limit=_duration(limit),
            submit=_number(submit),
            start=_number(start),
            active=state not in _ENDED,
        )
        for job, index in _elements(job_id):
            yield JobState(job, index, **values)


def parse_sacct(text: str) -> Iterator[JobState]:
    """Read rows of `sacct -P -n -X -D` in the format _SACCT."""
    for cells in _rows(text, 13):
        job_id, state, reason, nodes, elapsed, limit, submit, start, end, *rest = cells
        code, derived, partition, name = rest
        (exit_code, number), (_, step_signal) = _code(code), _code(derived)
        minutes = _number(limit)
        values = dict(
            name=name,
            state=state.split(" ")[0],  # CANCELLED by 1000
            reason=_known(reason),
            partition=partition,
            nodes=_known(nodes),
            exit_code=exit_code,
            signal=number or step_signal,
            out_of_memory=state == "OUT_OF_MEMORY" or step_signal == _OUT_OF_MEMORY,
            elapsed=_number(elapsed),
            limit=None if minutes is None else minutes * 60,
            submit=_number(submit),
            start=_number(start),
            end=_number(end),
        )
        for job, index in _elements(job_id):
            yield JobState(job, index, **values)


def _squeue() -> str:
    return _call("squeue", "--noheader", "--all", "--states=all", f"--format={_SQUEUE}")


def _sacct(job_ids: Collection[str]) -> str:
    return _call("sacct", "--parsable2", "--noheader", "--allocations", "--duplicates",
                 "--allusers", f"--jobs={','.join(job_ids)}", f"--format={_SACCT}")  # fmt: skip


def _call(program: str, *words: str) -> str:
    """Run one of SLURM's commands.

    Raises:
        NoSlurm: it is not here, fails, or does not answer in a minute.
    """
    if shutil.which(program) is None:
        raise NoSlurm(f"there is no {program} on this machine: ask on a node of the cluster")
    try:
        done = subprocess.run(
            [program, *words],
            env={**os.environ, **_FORMAT},
            capture_output=True,
            text=True,
            timeout=_CALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise NoSlurm(f"{program} did not answer in {_CALL_SECONDS:.0f} s") from None
    if done.returncode:
        said = " ".join(done.stderr.split())[-200:] or f"exit status {done.returncode}"
        raise NoSlurm(f"{program} failed ({said})")
    return done.stdout


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    """Split lines into cells.

    What is no row is left out: a part of another user's name with a line break in it, a component
    of a heterogeneous job (`7+1`), which none of ours is.
    """
    for line in text.splitlines():
        cells = line.split("|", columns - 1)
        if len(cells) == columns and _ID.fullmatch(cells[0]):
            yield cells


def _elements(job_id: str) -> Iterator[tuple[str, int | None]]:
    """Expand `7`, `7_3` and `7_[0-10:2,12%4]` into (job id, index)."""
    job, underscore, array = job_id.partition("_")
    if not underscore:
        yield job, None
        return
    for part in array.strip("[]").partition("%")[0].split(","):
        span, _, step = part.partition(":")
        low, _, high = span.partition("-")
        for index in range(int(low), int(high or low) + 1, int(step or 1)):
            yield job, index


def _is_ours(job: JobState, job_ids: Collection[str], names: Collection[str]) -> bool:
    return job.job_id in job_ids or job.name in names


def _known(text: str) -> str | None:
    return None if text in ("", "None", "None assigned", "N/A", "Unknown") else text


def _number(text: str) -> float | None:
    """Read seconds or minutes; None for Unknown, N/A, UNLIMITED, Partition_Limit, ..."""
    return float(text) if text.isdigit() else None


def _duration(text: str) -> float | None:
    """Seconds of `[days-][[hours:]minutes:]seconds`."""
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(p.isdigit() for p in [*parts, *([days] if dash else [])]):
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return float(seconds + 86400 * int(days or 0))


def _code(text: str) -> tuple[int | None, int | None]:
    """Return exit status and signal of `3:0`; None for none."""
    code, colon, number = text.partition(":")
    return (int(code), int(number) or None) if colon else (None, None)
