"""How a task of SLURM leaves after a signal: whether it is to be queued again, and by whom."""

import os
from pathlib import Path

from slurm.preempt import Answer, answer, job_facts, requeue, scontrol_is_here
from slurm.submit import wish
from sweep.job_log import say


def should_leave(signal: str, task: str, most: int) -> bool:
    """With the work saved after a signal, say whether the job is to be queued again.

    Args:
        signal: its name.
        task: its name, as SLURM is told it.
        most: times that a job may be queued again.
    """
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if not scontrol_is_here():  # the batch file asks, when this process has left
        say(f"{signal}: saved; there is no scontrol here")
        return restarts < most
    facts = job_facts(task)
    decided = answer(signal, facts, restarts, most)
    say(f"{signal}: saved; SLURM says {facts}; {decided}")
    return decided is Answer.REQUEUE


def queue_again(logs: Path, task: str) -> bool:
    """Have the job queued again; where SLURM can't be asked, the batch file does it.

    Returns:
        Whether somebody took it.
    """
    if scontrol_is_here():
        return requeue(task)
    try:
        wish(logs, task).touch()
    except OSError as e:  # a full disk
        say(f"can't have the job queued again ({e})")
        return False
    return True
