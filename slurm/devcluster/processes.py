"""Which processes are a cluster's: found by what they were started with, never by name alone."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from slurm.devcluster.cluster import MARK, DevCluster


@dataclass(frozen=True)
class Process:
    """A live process of the cluster."""

    pid: int
    argv: tuple[str, ...]
    environment: frozenset[str]

    @property
    def program(self) -> str:
        """Name of the program, such as slurmd."""
        return os.path.basename(self.argv[0].split(":")[0]) if self.argv else ""


def daemons(cluster: DevCluster, program: str | None = None) -> list[Process]:
    """Daemons that `up` started; those of one program where it is named."""
    mark = f"{MARK}={cluster.root}"
    return [
        p
        for p in _all_processes()
        if mark in p.environment
        and p.program in ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
        and program in (None, p.program)
    ]


def node_daemon(cluster: DevCluster, node: str) -> Process | None:
    """Return the slurmd of a node; None where it does not run."""
    return next((p for p in daemons(cluster, "slurmd") if node in p.argv), None)


def job_processes(cluster: DevCluster) -> list[Process]:
    """Step daemons, and what jobs of the cluster started."""
    conf = f"SLURM_CONF={cluster.conf}"
    return [
        p
        for p in _all_processes()
        if conf in p.environment
        and (
            any(e.startswith("SLURM_JOB_ID=") for e in p.environment)
            or p.program in ("slurmstepd", "slurmscriptd")
        )
    ]


def stop(processes: Iterable[Process], seconds: float) -> None:
    """Send SIGTERM, and SIGKILL to what is still there after so many seconds."""
    left = list(processes)
    for number, wait in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        for process in left:
            _send(process.pid, number)
        end = time.monotonic() + wait
        while (left := [p for p in left if is_alive(p)]) and time.monotonic() < end:
            time.sleep(0.05)


def is_alive(process: Process) -> bool:
    """Whether it runs still; a zombie, or another process under its number, does not."""
    now = _read(process.pid)
    return now is not None and now.environment == process.environment


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds; returns whether it came to hold."""
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return held


def _all_processes() -> Iterable[Process]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid() and (found := _read(int(entry))):
            yield found


def _read(pid: int) -> Process | None:
    """Return a process; None where it is gone, a zombie, or somebody else's."""
    folder = Path(f"/proc/{pid}")
    try:
        environment = (folder / "environ").read_bytes()  # empty for a zombie
        argv = (folder / "cmdline").read_bytes()
    except OSError:
        return None
    if not environment:
        return None
    return Process(pid, tuple(_texts(argv)), frozenset(_texts(environment)))


def _texts(raw: bytes) -> list[str]:
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
