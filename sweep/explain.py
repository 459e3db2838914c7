"""Why a cell does not move, in words, and the command that mends it.

What SLURM reports, and when, was seen on SLURM 22.05; the meanings of its reasons and states are
those of the manual pages of squeue and sacct.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from slurm.queue import JobState


@dataclass(frozen=True)
class Commands:
    """What to type, complete: for a whole sweep."""

    launch: str  # in the words of the last launch
    cancel: str
    logs: str  # cell=ID is added

    def launch_with(self, *words: str) -> str:
        """Return the launch with some words, which replace those of the same keys."""
        return _with(self.launch, words)

    def cancel_and_launch_with(self, *words: str) -> str:
        """Return one command after the other; the launch as `launch_with` returns it."""
        return _after(self.cancel, self.launch_with(*words))

    def value_of(self, key: str) -> str | None:
        """Return what the last launch said of a key."""
        words = [w.partition("=") for w in shlex.split(self.launch)]
        return next((value for own, _, value in words if own == key), None)


# Each is asked again for every cell that does not move, of which there may be ten thousand.
@cache
def _with(launch: str, words: tuple[str, ...]) -> str:
    keys = {word.partition("=")[0] for word in words}
    kept = [w for w in shlex.split(launch) if w.partition("=")[0] not in keys]
    return shlex.join([*kept, *words])


@cache
def _after(first: str, then: str) -> str:
    return f"{first} && {then}"


@dataclass(frozen=True)
class Explanation:
    """Why, and what to type."""

    why: str
    mend: str | None = None
    stuck: bool = True  # whether nothing happens until somebody does something


def job_name_of(job: JobState) -> str:
    """Return a job as SLURM's commands take it: 12, or 12_3."""
    return job.job_id if job.index is None else f"{job.job_id}_{job.index}"


def killed_by(job: JobState) -> int | None:
    """Signal that ended a job, or the command of its batch script, which then ends with 128 more."""
    if job.signal is None and job.exit_code is not None and job.exit_code > 128:
        return job.exit_code - 128
    return job.signal


def explain_wait(job: JobState, commands: Commands) -> Explanation | None:
    """Say why a job of the queue does not run; None where it only waits its turn."""
    reason, name = job.reason or "", job_name_of(job)
    if job.state in ("SUSPENDED", "STOPPED"):
        return Explanation(f"job {name} was suspended", f"scontrol resume {name}")
    if reason.startswith("launch failed requeued held") or "requeued held" in reason:
        return Explanation(
            f"a node could not start job {name}, so SLURM holds it; see also: sinfo --list-reasons",
            f"scontrol release {name}",
        )
    if reason.startswith(("JobHeldUser", "JobHoldMaxRequeue")) or job.state in _HELD_STATES:
        how = "after too many requeues" if "MaxRequeue" in reason else "by its user, or by itself"
        return Explanation(f"job {name} is held {how}", f"scontrol release {name}")
    for begin, why, mend in _WAITS:
        if reason.startswith(begin):
            return Explanation(f"job {name} {why} ({reason})", mend and mend(commands))
    for begin, why in _PATIENCE:
        if reason.startswith(begin):
            return Explanation(f"job {name} {why} ({reason})", None, stuck=False)
    return None


_HELD_STATES = ("REQUEUE_HOLD", "SPECIAL_EXIT")


def _cancel_and_launch(*words: str) -> Callable[[Commands], str]:
    return lambda commands: commands.cancel_and_launch_with(*words)


_ELSEWHERE = _cancel_and_launch("cluster.partition=...")
_WAITS = (
    ("JobHeldAdmin", "is held by an administrator: ask them", None),
    ("DependencyNeverSatisfied", "waits for a job that failed, and will never run",
     _cancel_and_launch()),
    ("PartitionTimeLimit", "asks for more time than its partition allows", _ELSEWHERE),
    ("PartitionNodeLimit", "asks for more nodes than its partition allows", _ELSEWHERE),
    ("PartitionDown", "waits for a partition that is down: ask its administrator, or take another",
     _ELSEWHERE),
    ("PartitionInactive", "waits for a partition that is inactive: ask its administrator, or take "
     "another", _ELSEWHERE),
    ("BadConstraints", "asks for what no node has", _cancel_and_launch("cluster.constraint=...")),
    ("InvalidAccount", "names an account that is not valid",
     _cancel_and_launch("cluster.account=...")),
    ("InvalidQOS", "names a QOS that is not valid", _cancel_and_launch("cluster.qos=...")),
    ("ReqNodeNotAvail", "asks for nodes that are down, drained or reserved; why they are:",
     lambda commands: "sinfo --list-reasons"),
)  # fmt: skip
_PATIENCE = (
    ("Assoc", "waits for a limit of your account"),
    ("QOS", "waits for a limit of its QOS"),
    ("MaxCpu", "waits for a limit of your account"),
    ("NodeDown", "waits for a node that is down"),
    ("Nodes required", "waits for nodes that are down, drained or reserved"),
    ("Reservation", "waits for its reservation"),
    ("Licenses", "waits for a licence"),
)


def explain_failure(cell_id: str, reason: str | None, commands: Commands) -> Explanation:
    """Explain a cell whose last attempt was recorded as failed."""
    return Explanation(reason or "it failed and did not say why", f"{commands.logs} cell={cell_id}")


def explain_divergence(reason: str | None, commands: Commands) -> Explanation:
    """Explain a cell whose loss was no number: a result, which the same recipe would give again."""
    return Explanation(
        f"{reason or 'it diverged'}: it is not tried again; with another recipe, in another sweep:",
        commands.launch_with("sweep=NAME", "recipe=..."),
        stuck=False,
    )


def explain_end(job: JobState, status: Mapping[str, Any], commands: Commands) -> Explanation:
    """Explain a cell whose job ended and left no record.

    Args:
        job: its last job, no more in the queue.
        status: status.json of its last attempt; empty where none was written.
        commands: what to type.
    """
    name, where = job_name_of(job), f" on {job.nodes}" if job.nodes else ""
    reached = f"at step {status['step']:,} of {status['steps']:,}" if status.get("step") else ""
    if job.out_of_memory:
        return Explanation(
            f"job {name} hit its memory limit{where} {reached}".strip(),
            commands.launch_with("cluster.memory_gb=..."),
        )
    if job.state == "TIMEOUT":
        return _explain_timeout(job, reached, commands)
    if job.state == "FAILED":
        return Explanation(f"job {name} {_how(job)}{where} {reached}".strip(), commands.launch)
    why = _ENDS.get(job.state)
    if why is None:  # RUNNING or PENDING by accounting alone, or a state of a later SLURM
        why = f"is {job.state} by accounting, but not in the queue"
    return Explanation(f"job {name} {why}{where} {reached}".strip(), commands.launch)


_ENDS = {
    "COMPLETED": "ended without an error and without a record: its logs say why; is the disk full?",
    "CANCELLED": "was cancelled",
    "NODE_FAIL": "lost its node, and SLURM did not start it again",
    "BOOT_FAIL": "got a node that did not boot",
    "PREEMPTED": "was preempted, and SLURM did not start it again",
    "REQUEUED": "was requeued, and is not in the queue any more",
    "DEADLINE": "missed its deadline",
    "REVOKED": "was moved to another cluster",
}


def _explain_timeout(job: JobState, reached: str, commands: Commands) -> Explanation:
    limit = "its time limit" if job.limit is None else f"its limit of {job.limit / 60:.0f} minutes"
    name = job_name_of(job)
    if reached:
        return Explanation(
            f"job {name} reached {limit} {reached}, and goes on from its last checkpoint",
            commands.launch,
        )
    return Explanation(
        f"job {name} reached {limit} before it had taken a step: the limit is too short",
        commands.launch_with("cluster.margin=4"),
    )


def _how(job: JobState) -> str:
    if killed_by(job) is not None:
        meaning = ": by hand, or by its node's kernel" if killed_by(job) == 9 else ""
        return f"was ended by signal {killed_by(job)}{meaning}"
    if job.exit_code is not None:
        return f"ended with exit status {job.exit_code}, and without a record"
    return "failed"
