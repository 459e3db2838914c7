"""Hand a command to sbatch, alone or as an array, by way of submitit.

submitit writes the batch file, names the logs and calls sbatch. Its pickles are left out: a job that
waits for a pickle which a killed launcher never moved fails, and code from a folder of results is
never loaded. A task learns its index from SLURM_ARRAY_TASK_ID.
"""

import contextlib
import io
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAID_WHY = 3  # exit status of a command that failed and said why: to run it again helps nobody


@dataclass(frozen=True, kw_only=True)
class Request:
    """One sbatch call."""

    job_name: str
    command: Sequence[str]
    logs: Path
    minutes: int
    memory_mb: int
    nodes: int = 1
    tasks_per_node: int = 1
    cpus: int = 1  # of a task
    gpus: int = 0  # of a node
    gpu_type: str | None = None
    tasks: int | None = None  # of an array; None: one job
    parallelism: int | None = None
    signal_seconds: int = 120
    dependency: str | None = None
    chdir: Path | None = None
    setup: Sequence[str] = ()
    again_if_lost: int = 0  # times that a job whose command was lost is queued again
    srun_args: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)  # of sbatch, by their long names


class Refused(Exception):
    """sbatch did not take it; the text holds its words."""


def batch_text(request: Request) -> str:
    """Return the batch file of a request."""
    from submitit import SlurmExecutor  # late: only a launch on a cluster needs it

    class Writer(SlurmExecutor):
        """Writes batch files where there is no SLURM too."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    executor = _executor(Writer, request)
    return executor._make_submission_file_text(shlex.join(request.command), "0")


def submit(request: Request) -> str:
    """Call sbatch; returns the job's id.

    Raises:
        Refused: sbatch did not take it.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    request.logs.mkdir(parents=True, exist_ok=True)
    before = set(request.logs.glob(".submission_file_*"))
    try:
        executor = _executor(SlurmExecutor, request)
        with contextlib.redirect_stderr(io.StringIO()):  # submitit passes sbatch's words on there
            return executor._submit_command(shlex.join(request.command)).job_id
    except (FailedJobError, FailedSubmissionError) as e:
        for orphan in set(request.logs.glob(".submission_file_*")) - before:
            orphan.unlink(missing_ok=True)
        raise Refused(_words(str(e))) from None


def _executor(kind: type, request: Request) -> Any:
    executor = kind(folder=request.logs)
    gres = f"gpu:{request.gpu_type}:" if request.gpu_type else "gpu:"
    fixed = {"requeue": True, "kill-on-invalid-dep": "yes"}
    fixed |= {"chdir": str(request.chdir)} if request.chdir else {}
    executor.update_parameters(
        job_name=request.job_name,
        time=request.minutes,
        mem=f"{request.memory_mb}M",
        nodes=request.nodes,
        ntasks_per_node=request.tasks_per_node,
        cpus_per_task=request.cpus,
        gres=f"{gres}{request.gpus}" if request.gpus else None,
        signal_delay_s=request.signal_seconds,
        dependency=request.dependency,
        setup=list(request.setup),
        teardown=[*_again_if_asked(request), *_again_if_lost(request)],
        # Since SLURM 22.05 srun does not take --cpus-per-task over from sbatch: its release notes.
        srun_args=[
            "--kill-on-bad-exit=1",
            f"--cpus-per-task={request.cpus}",
            *request.srun_args,
        ],
        wckey=None,
        additional_parameters={**fixed, **request.options},
    )
    if request.tasks is not None:
        executor.parameters["map_count"] = request.tasks
        executor.parameters["array_parallelism"] = request.parallelism or request.tasks
    return executor


# As preempt.own_task: the id of one task is the array's own, which scontrol takes for all of them.
_TASK = 'task="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
_RUNS = 'scontrol show job -o "$task" | grep -q " JobState=RUNNING "'


def wish(logs: Path, task: str) -> Path:
    """Return the file by which a command that can't call scontrol has its job queued again.

    In a container there is none; the batch file runs outside of it.
    """
    return logs / f"{task}_again"


def _again_if_asked(request: Request) -> list[str]:
    """Shell lines that queue a job again whose command wishes it, unless SLURM is ending the job."""
    return [
        "code=$?",
        _TASK,
        f'wish={shlex.quote(str(request.logs))}/"$task"_again',
        f'if rm "$wish" 2>/dev/null && {_RUNS}; then',
        '  scontrol requeue "$task"',
        "  exit 0",
        "fi",
    ]


def _again_if_lost(request: Request) -> list[str]:
    """Shell lines that queue a job again whose command was lost, unless SLURM is ending the job.

    Lost is any end but 0 and SAID_WHY: killed by a signal, or never started. A job that scancel or
    its time limit ends is not RUNNING any more, and must not come back. Lives are counted in a
    file: SLURM's own count has preemptions in it.
    """
    return [
        f'count={shlex.quote(str(request.logs))}/"$task"_lost',
        f'if [ "$code" -ne 0 ] && [ "$code" -ne {SAID_WHY} ] &&',
        f'  [ "$(cat "$count" 2>/dev/null | wc -l)" -lt {request.again_if_lost} ] &&',
        f"  {_RUNS} &&",
        '  echo "$code" >>"$count"; then',  # on a full disk it can't count, and must not come back
        '  echo "lost with exit status $code: queued again"',
        '  scontrol requeue "$task"',
        "fi",
        'exit "$code"',
    ]


def _words(text: str) -> str:
    """Keep of submitit's message what sbatch said."""
    said = re.findall(r"sbatch: (?:error: )?(.+)", text)
    return "; ".join(dict.fromkeys(s.strip() for s in said)) or " ".join(text.split())[:300]
