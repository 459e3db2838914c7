"""Worker processes of this machine: how each is started, and on which cores."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from slurm.local import WorkerCommand
from sweep.folder import SweepFolder
from sweep.local_launches import launches_here
from sweep.settings import HardwareSettings, RunSettings
from sweep.stop_rule import StopRule


@dataclass(frozen=True)
class Attempts:
    """What all attempts of a launch have in common."""

    shards: Path
    node_cache: Path | None
    hardware: HardwareSettings
    run: RunSettings
    retries: int
    anew: Mapping[str, int]  # as results.store.terminal_cells takes it
    stop: StopRule | None  # when a cell is hopeless


def worker_commands(
    folder: SweepFolder,
    attempts: Attempts,
    slots: Sequence[Mapping[str, str]],
    code: Path,
    share: int = 1,
) -> list[WorkerCommand]:
    """Say how to start a worker for each slot.

    Args:
        folder: the sweep.
        attempts: what they are told.
        slots: environment of each worker, beside this process's own.
        code: folder of the code that they run.
        share: workers that share one GPU, and so its memory.
    """
    logs = folder.path / "logs"
    logs.mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, (str(code.resolve()), os.environ.get("PYTHONPATH"))))
    on_gpu = "CUDA_VISIBLE_DEVICES" in slots[0] or share > 1
    # Two launches here would choose the same cores: then the machine shares them out.
    shared = on_gpu or launches_here(folder) > 1
    cores = [[]] * len(slots) if shared else own_cores(len(slots), attempts.hardware.threads)
    setup = {
        "root": str(folder.root.resolve()),
        "sweep": folder.name,
        "data": str(attempts.shards),
        "node_cache": str(attempts.node_cache or ""),
        "hardware": asdict(attempts.hardware),
        "run": asdict(attempts.run),
        "retries": attempts.retries,
        "anew": dict(attempts.anew),
        "stop": attempts.stop and attempts.stop.to_dict(),
        "share": share,
    }
    return [
        WorkerCommand(
            argv=[sys.executable, "-P", "-m", "sweep.worker"],
            setup={**setup, "cores": cores[i]},
            env={**env, "PYTHONPATH": path},
            log=logs / f"worker-{os.uname().nodename}-{os.getpid()}-{i}.log",
        )
        for i, env in enumerate(slots)
    ]


def cores_here() -> list[int]:
    """Cores that this process may use: a job may be given fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def own_cores(slots: int, threads: int) -> list[list[int]]:
    """Cores of each slot; none of its own where there are not enough."""
    cores = cores_here()
    if not hasattr(os, "sched_setaffinity") or slots * threads > len(cores):
        return [[]] * slots
    return [cores[i * threads : (i + 1) * threads] for i in range(slots)]
