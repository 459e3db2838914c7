"""Where a cell is, and why it does not move: from its files first, from SLURM second.

`cell_state` is a pure function. A record decides. Without one, a job in the queue says where the cell
is; without a job, the last attempt's status and the way its job ended say why nothing happens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from slurm.queue import JobState
from sweep.explain import (
    Commands,
    Explanation,
    explain_divergence,
    explain_end,
    explain_failure,
    explain_wait,
    job_name_of,
)
from sweep.submissions import Submission

SILENT_SECONDS = 300.0  # a heartbeat older than this comes from a process that hangs, or is gone
_START_SECONDS = 300.0  # a job may take this long to open its data before it first says something


class State(StrEnum):
    """Where a cell is. The last three but FAILED are terminal: `launch` leaves them alone."""

    PLANNED = "planned"
    QUEUED = "queued"
    RUNNING = "running"
    FAILED = "failed"
    FINISHED = "finished"
    DIVERGED = "diverged"
    STOPPED = "stopped"


@dataclass(frozen=True)
class PlanRow:
    """What status needs to know of a planned cell."""

    cell_id: str
    budget: float  # FLOPs
    flops: float
    steps: int


@dataclass(frozen=True)
class AttemptFacts:
    """One attempt, by its files."""

    number: int
    status: Mapping[str, Any]  # status.json; empty where none was written
    record: str | None = None  # status of its record; None where it has none
    reason: str | None = None  # of its record
    held: bool = False  # whether a process that may live holds its lease


@dataclass(frozen=True)
class CellFacts:
    """All that is known of a cell; attempts in order of their numbers."""

    plan: PlanRow
    attempts: Sequence[AttemptFacts] = ()
    submission: Submission | None = None  # the last one that holds the cell
    job: JobState | None = None  # of that submission, else of an earlier one that is active
    asked: bool = True  # whether SLURM could be asked
    canary: str | None = None  # what the canary that the cell waited for found wrong
    shares_job: bool = False  # with other cells, which its job may train before this one


@dataclass(frozen=True)
class CellState:
    """Where a cell is."""

    cell_id: str
    budget: float
    state: State
    step: int
    steps: int
    flops: float
    explanation: Explanation | None = None  # None: all is well
    node: str | None = None  # that its job runs on

    @property
    def stuck(self) -> bool:
        """Whether it will not move unless somebody does something."""
        return self.explanation is not None and self.explanation.stuck


def cell_state(facts: CellFacts, now: float, commands: Commands) -> CellState:
    """Say where a cell is, and what to do where it does not move.

    Args:
        facts: plan, attempts, submission and job of the cell.
        now: seconds since 1970.
        commands: words of the commands to type.
    """
    state, explanation = _decide(facts, now, commands)
    last = _last(facts)
    return CellState(
        cell_id=facts.plan.cell_id,
        budget=facts.plan.budget,
        state=state,
        step=facts.plan.steps if state is State.FINISHED else int(last.get("step") or 0),
        steps=facts.plan.steps,
        flops=facts.plan.flops,
        explanation=explanation,
        node=facts.job.nodes if facts.job else None,
    )


def _decide(facts: CellFacts, now: float, commands: Commands) -> tuple[State, Explanation | None]:
    for status in (State.FINISHED, State.DIVERGED):
        if of_it := _recorded_as(facts, status):
            return status, _of_terminal(of_it[-1], status, commands)
    job = facts.job
    if job is not None and job.active:
        return _in_queue(facts, job, now, commands)
    if facts.attempts and facts.attempts[-1].held and _beats(_last(facts), now):
        return State.RUNNING, None if job is None else _outlived(job)
    if of_it := _recorded_as(facts, State.STOPPED):  # launch.only=stopped trains it after all
        return State.STOPPED, _of_terminal(of_it[-1], State.STOPPED, commands)
    if facts.attempts and facts.attempts[-1].record == State.FAILED:
        return State.FAILED, explain_failure(
            facts.plan.cell_id, facts.attempts[-1].reason, commands
        )
    return _without_record(facts, now, commands)


def _recorded_as(facts: CellFacts, status: State) -> list[AttemptFacts]:
    return [a for a in facts.attempts if a.record == status]


def _of_terminal(attempt: AttemptFacts, status: State, commands: Commands) -> Explanation | None:
    if status is State.FINISHED:
        return None
    if status is State.DIVERGED:
        return explain_divergence(attempt.reason, commands)
    mend = f"{commands.launch} launch.only=stopped"
    return Explanation(attempt.reason or str(status), mend, stuck=False)


def _in_queue(
    facts: CellFacts, job: JobState, now: float, commands: Commands
) -> tuple[State, Explanation | None]:
    if job.state in ("PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "STOPPED"):
        return State.QUEUED, explain_wait(job, commands)
    last = _last(facts)
    age = _age(last, now)
    if facts.shares_job and not _of_this_start(age, job, now):
        return State.QUEUED, None  # other cells of the job are before it
    fresh = _of_this_start(age, job, now)
    quiet = age if fresh else (job.elapsed if job.elapsed is not None else 0.0)
    if quiet <= (SILENT_SECONDS if fresh else _START_SECONDS):
        return State.RUNNING, None
    said = f"at step {last.get('step', 0):,}" if fresh else "since its start"
    where = (
        f"job {job_name_of(job)} runs on {job.nodes}"
        if job.nodes
        else f"job {job_name_of(job)} runs"
    )
    return State.RUNNING, Explanation(
        f"{where} and has said nothing for {quiet / 60:.0f} minutes, {said}: it hangs, or its node "
        "or filesystem does",
        f"scontrol requeue {job_name_of(job)}",
    )


def _of_this_start(age: float | None, job: JobState, now: float) -> bool:
    """Whether a status so many seconds old was written since the job started."""
    return age is not None and (job.start is None or now - age >= job.start - 1)


def _without_record(
    facts: CellFacts, now: float, commands: Commands
) -> tuple[State, Explanation | None]:
    """No record that counts, no job in the queue, no sign of life."""
    last, submission, job = _last(facts), facts.submission, facts.job
    if not facts.asked and submission is not None and submission.state != "refused":
        return State.QUEUED, Explanation(
            f"it was handed to SLURM as job {submission.job_id or submission.job_name}, and SLURM "
            "can't be asked from here",
            None,
            stuck=False,
        )
    if _failed_before_training(last, job):
        return State.FAILED, explain_failure(facts.plan.cell_id, last["reason"], commands)
    if facts.canary and job is not None and job.state == "CANCELLED" and job.start is None:
        return State.PLANNED, Explanation(f"the canary failed: {facts.canary}", commands.launch)
    if job is not None:
        return State.FAILED, explain_end(job, last, commands)
    if submission is not None:
        return _lost(submission, last, commands)
    if last.get("state") == "stopped":
        return State.PLANNED, Explanation(
            f"it was stopped at step {last.get('step', 0):,} and goes on from there",
            commands.launch,
        )
    if facts.attempts:
        return State.FAILED, Explanation(
            f"its process is gone: last sign of life {_ago(last, now)}, and it left no record",
            commands.launch,
        )
    return State.PLANNED, None


def _failed_before_training(last: Mapping[str, Any], job: JobState | None) -> bool:
    """Whether the last job said itself why it could not train; then there is no record."""
    if last.get("state") != "failed" or not last.get("reason"):
        return False
    return job is None or job.start is None or job.end is None or _at(last) >= job.start - 1


def _lost(
    submission: Submission, last: Mapping[str, Any], commands: Commands
) -> tuple[State, Explanation | None]:
    """Explain a cell of a submission of which SLURM knows nothing."""
    at = f" (step {last['step']:,})" if last.get("step") else ""
    if submission.state == "refused":
        return State.PLANNED, Explanation(
            f"sbatch refused it: {submission.reason}{at}", commands.launch
        )
    if submission.state == "frozen":
        return State.PLANNED, Explanation(
            f"the launch at {submission.at} ended before sbatch: no job came of it{at}",
            commands.launch,
        )
    return State.FAILED, Explanation(
        f"job {submission.job_id} is in neither the queue nor accounting, and left no record{at}",
        commands.launch,
    )


def _outlived(job: JobState) -> Explanation:
    return Explanation(
        f"its process lives on though SLURM says {job.state}; nobody else can write its record "
        "while it does",
        None,
        stuck=False,
    )


def _last(facts: CellFacts) -> Mapping[str, Any]:
    return facts.attempts[-1].status if facts.attempts else {}


def _beats(status: Mapping[str, Any], now: float) -> bool:
    """Whether an attempt says that it runs, and said so lately."""
    age = _age(status, now)
    return (
        status.get("state") in ("starting", "running") and age is not None and age <= SILENT_SECONDS
    )


def _age(status: Mapping[str, Any], now: float) -> float | None:
    at = _at(status)
    return None if math.isnan(at) else max(0.0, now - at)


def _at(status: Mapping[str, Any]) -> float:
    """Time of a status, seconds since 1970; NaN where there is none."""
    try:
        return datetime.fromisoformat(status["at"]).timestamp()
    except (KeyError, TypeError, ValueError):  # none written, or by hand
        return math.nan


def _ago(status: Mapping[str, Any], now: float) -> str:
    age = _age(status, now)
    return "unknown" if age is None else f"{age / 60:.0f} minutes ago"
