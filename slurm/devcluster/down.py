"""Take a cluster down: its jobs, its daemons, its names, its folder."""

import shutil
import subprocess
from collections.abc import Callable

from slurm.devcluster.cluster import ClusterError, DevCluster
from slurm.devcluster.hosts import remove_names
from slurm.devcluster.packages import why_not_here
from slurm.devcluster.processes import daemons, job_processes, stop, wait_until
from slurm.devcluster.up import client

# In this order: nodes before the controller that would call them dead, the database last but one.
_ORDER = (("slurmd", 10), ("slurmctld", 20), ("slurmdbd", 20), ("mariadbd", 30), ("munged", 5))


def down(cluster: DevCluster, say: Callable[[str], None], keep: bool = False) -> None:
    """Stop exactly what `up` started, and leave no process, no name, no file.

    Args:
        cluster: what to take down.
        say: told what was done.
        keep: leave the folder, so that the next `up` knows the old jobs.

    Raises:
        ClusterError: no root, or processes that would not end.
    """
    if reason := why_not_here():
        raise ClusterError(reason)
    if daemons(cluster, "slurmctld"):
        _cancel_jobs(cluster)
    for program, seconds in _ORDER:
        stop(daemons(cluster, program), seconds)
    stop(job_processes(cluster), 2)
    remove_names(cluster)
    left = [*daemons(cluster), *job_processes(cluster)]
    if left:
        raise ClusterError(f"did not end: {', '.join(f'{p.pid} {p.program}' for p in left)}")
    if not keep:
        shutil.rmtree(cluster.root, ignore_errors=True)
    say(f"Down{'' if keep else ' and removed'}: {cluster.root}")


def _cancel_jobs(cluster: DevCluster) -> None:
    """Kill first, then cancel, and look again: a job may requeue itself on a polite signal."""
    for _ in range(4):
        try:
            listed = client(cluster, "squeue", "-h", "-o", "%A").stdout.split()
            if not listed:
                return
            jobs = sorted(set(listed))
            client(cluster, "scancel", "--full", "--signal=KILL", *jobs)
            client(cluster, "scancel", *jobs)
            wait_until(lambda: not client(cluster, "squeue", "-h").stdout.strip(), 3)
        except subprocess.TimeoutExpired:
            return  # a controller that hangs is stopped with the rest
