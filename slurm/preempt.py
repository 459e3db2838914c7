"""What a job does when it is told that its time is up.

A signal does not say why it comes. SIGUSR2 comes before a time limit and, on some sites, before a
preemption; SIGTERM comes before a preemption elsewhere, and from scancel everywhere. So a job saves at
any signal, then asks SLURM what it is about to do, and leaves only where it is safe: a job that ends
in the grace before a preemption counts as completed and does not come back, and one that queues itself
again after scancel comes back though somebody cancelled it.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from enum import StrEnum


class Answer(StrEnum):
    """What to do once the work is saved."""

    GO_ON = "go on"
    """Until SLURM ends the job, if it does."""
    REQUEUE = "requeue"
    """Queue the job again, and leave."""


@dataclass(frozen=True)
class JobFacts:
    """What scontrol says of the job."""

    state: str
    preempted: bool  # SLURM has decided to take its nodes away


def answer(name: str, facts: JobFacts | None, restarts: int, max_requeues: int) -> Answer:
    """Say what a job that was told `name` should do.

    Args:
        name: SIGUSR2 or SIGTERM.
        facts: what scontrol says; None where it does not answer.
        restarts: how often the job was queued again already.
        max_requeues: how often it may be.
    """
    if facts is None or facts.state != "RUNNING" or restarts >= max_requeues:
        return Answer.GO_ON
    if facts.preempted or name == "SIGUSR2":
        return Answer.REQUEUE
    return Answer.GO_ON


class Notice:
    """Remembers the last signal that a job was sent."""

    def __init__(self) -> None:
        self._name: str | None = None

    def is_there(self) -> bool:
        """Whether a signal came that nobody has taken."""
        return self._name is not None

    def install(self) -> None:
        """Catch both signals, in the place of whoever caught them before."""
        for one in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(one, self._note)

    def take(self) -> str | None:
        """Name of the signal since the last call, if any."""
        name, self._name = self._name, None
        return name

    def _note(self, number: int, frame: object) -> None:
        self._name = signal.Signals(number).name


def ignore_signals() -> None:
    """For ranks but the first, which decides for all."""
    for one in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)


def own_task() -> str:
    """Name of the task that this process runs in, as scontrol is to be told.

    One task of an array has the array's own id for its SLURM_JOB_ID, and scontrol takes that id for
    every task: asked to queue it again, it starts them all anew, the finished ones too.

    Raises:
        KeyError: outside of a job.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def job_facts(task: str) -> JobFacts | None:
    """Ask scontrol about one task; None where it does not answer."""
    said = _scontrol("show", "job", "-o", task)
    if said is None:
        return None
    fields = dict(re.findall(r"(\w+)=(\S+)", said))
    preempted = fields.get("PreemptTime", "None") not in ("None", "Unknown", "N/A")
    return JobFacts(fields.get("JobState", "UNKNOWN"), preempted)


def scontrol_is_here() -> bool:
    """Whether SLURM can be asked at all: it can't from most containers."""
    return shutil.which("scontrol") is not None


def requeue(task: str) -> bool:
    """Queue a running task again; returns whether SLURM took it."""
    return _scontrol("requeue", task) is not None


def exclude_nodes(job_ids: list[str], nodes: list[str]) -> None:
    """Keep what has not started yet of some jobs off more nodes, as far as SLURM lets us."""
    for job_id in job_ids:
        said = _scontrol("show", "job", "-o", job_id) or ""
        before = re.search(r"\bExcNodeList=(?!\(null\))(\S+)", said)
        names = [*([before.group(1)] if before else []), *nodes]
        _scontrol("update", f"jobid={job_id}", f"excnodelist={','.join(names)}")


def _scontrol(*words: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=20)
        return done.stdout if done.returncode == 0 else None
    return None
