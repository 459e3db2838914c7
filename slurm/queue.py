"""What SLURM says of jobs: one squeue and one sacct call for any number of them."""

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ACTIVE = frozenset(
    {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED",
     "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT"}
)  # fmt: skip
Key = tuple[str, int | None]  # job id (of the array), index in the array


@dataclass(frozen=True)
class JobState:
    """What SLURM says of one job or one task of an array."""

    state: str
    reason: str | None = None
    nodes: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    restarts: int | None = None
    elapsed: float | None = None  # seconds
    limit: float | None = None  # seconds
    name: str | None = None

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE


class NoSlurm(Exception):
    """SLURM's commands are not here, or do not answer; the text says which and why."""


def read_queue(job_ids: Iterable[str], names: Sequence[str] = ()) -> dict[Key, JobState]:
    """Ask squeue and sacct -D once each.

    Args:
        job_ids: ids of jobs and arrays.
        names: job names, for jobs whose ids are not known.

    Returns:
        The last known state by (job id, array index); index None for a job that is no array. A
        state of squeue goes before one of sacct, which lags.

    Raises:
        NoSlurm: squeue does not answer. (Without accounting sacct's part is simply missing.)
    """
    ids = list(job_ids)
    found = _sacct(ids, names)
    found.update(_squeue(ids, names))
    return found


def _squeue(ids: Sequence[str], names: Sequence[str]) -> dict[Key, JobState]:
    done = _run(["squeue", "-h", "-r", "-a", "-t", "all", "-o", "%F|%K|%i|%T|%r|%N|%j"])
    if done.returncode:
        raise NoSlurm(f"squeue does not answer: {done.stderr.strip()}")
    rows = [line.split("|") for line in done.stdout.splitlines()]
    wanted_ids, wanted_names = set(ids), set(names)
    return {
        (job, int(index) if index.isdigit() else None): JobState(
            state, reason=reason, nodes=nodes or None, name=name
        )
        for job, index, _, state, reason, nodes, name in rows
        if job in wanted_ids or name in wanted_names
    }


def _sacct(ids: Sequence[str], names: Sequence[str]) -> dict[Key, JobState]:
    found: dict[Key, JobState] = {}
    for flag, values in (("-j", ids), ("--name", names)):
        if not values:
            continue
        since = [] if flag == "-j" else ["-S", "now-7days"]
        asked = ["sacct", "-D", "-X", "-n", "-P", "-o", "JobID,State,ExitCode,NodeList,JobName"]
        done = _run([*asked, *since, flag, ",".join(values)])
        for line in done.stdout.splitlines() if done.returncode == 0 else ():
            job_id, state, code, nodes, name = line.split("|", 4)
            job, _, index = job_id.partition("_")
            if index and not index.isdigit():
                continue  # pending tasks, which squeue knows one by one
            exit_code, _, signal = code.partition(":")
            found[job, int(index) if index else None] = JobState(
                state.split()[0],
                nodes=nodes,
                exit_code=int(exit_code),
                signal=int(signal or 0),
                name=name,
            )
    return found


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise NoSlurm(f"no {command[0]} here") from None
    except subprocess.TimeoutExpired:
        raise NoSlurm(f"{command[0]} does not answer") from None
