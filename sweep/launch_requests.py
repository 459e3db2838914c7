"""From cells to entries of the ledger, and from those to sbatch requests."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slurm.queue import NoSlurm
from slurm.site import max_array_size
from slurm.submit import Request
from sweep.bad_devices import bad_nodes
from sweep.canary import environment_here
from sweep.cluster import ClusterSettings
from sweep.folder import SweepFolder
from sweep.frozen import Frozen
from sweep.launch_asked import SlurmLaunch
from sweep.launch_price import disk_needed
from sweep.packs import Pack
from sweep.resources import Resources, Sized, classes
from sweep.stop_rule import StopRule
from sweep.submissions import Submission, new_submission, submissions_folder

CANARY_MINUTES, FINISH_MINUTES, FINISH_MB = 15, 120, 3000


def frozen_settings(
    asked: SlurmLaunch, shards: Path, anew: Mapping[str, int], rule: StopRule | None
) -> Frozen:
    """Return what the attempts of this launch have in common.

    Args:
        asked: the launch.
        shards: folder of its data.
        anew: cells that were stopped and are trained after all, as `choose_cells` says.
        rule: when a cell is hopeless; None: none is ended.
    """
    return Frozen(
        shards=shards.resolve(),
        node_cache=asked.resolved.handling.node_cache,
        hardware=asked.hardware,
        run=asked.run,
        max_requeues=asked.cluster.max_requeues,
        retries=asked.launch.retries,
        anew=dict(anew),
        stop=rule,
    )


def new_arrays(
    asked: SlurmLaunch, packs: Sequence[Pack], code: Path, frozen: Frozen
) -> list[Submission]:
    """Make an array of each class of resources, in chunks that the site takes."""
    try:
        most = max_array_size()
    except NoSlurm:
        most = 1000  # a dry run elsewhere
    found = []
    for res, alike in classes(packs).items():
        for start in range(0, len(alike), most):
            chunk = alike[start : start + most]
            at_once = max((p.at_once for p in chunk if p.at_once is not None), default=None)
            more = {} if at_once is None else {"at_once": at_once}
            tasks = tuple(p.ids for p in chunk)
            found.append(_new(asked, "cells", code, frozen, res, more, tasks=tasks))
    return found


def new_canary(
    asked: SlurmLaunch, sized: Sequence[Sized], code: Path, frozen: Frozen
) -> Submission:
    """Make the canary: one task with a GPU and the memory of the smallest class."""
    like = min(s.resources for s in sized)
    res = replace(like, nodes=1, tasks_per_node=1, gpus=min(like.gpus, 1), minutes=CANARY_MINUTES)
    wanted = {"versions": environment_here(), "disk_bytes": disk_needed(sized, asked.run)}
    return _new(asked, "canary", code, frozen, res, {"canary": wanted})


def new_finish(asked: SlurmLaunch, code: Path, frozen: Frozen) -> Submission:
    """Make the last stage, which collects, fits and reports."""
    res = Resources(1, 1, 0, 1, FINISH_MB, FINISH_MINUTES)
    return _new(asked, "finish", code, frozen, res, {"notify": asked.launch.notify})


def _new(
    asked: SlurmLaunch,
    kind: str,
    code: Path,
    frozen: Frozen,
    res: Resources,
    more: Mapping[str, Any],
    **values: Any,
) -> Submission:
    resources = {**vars(res), "partition": asked.cluster.partition}
    settings = {
        **frozen.of_cells({i for ids in values.get("tasks", ()) for i in ids}).to_dict(),
        **more,
    }
    return new_submission(
        asked.folder, kind, code=code.name, resources=resources, settings=settings, **values
    )


def request_of(asked: SlurmLaunch, one: Submission, code: Path, dependency: str | None) -> Request:
    """Return the sbatch call of an entry of the ledger.

    Args:
        asked: the launch.
        one: the entry.
        code: folder of the code that it runs from.
        dependency: as sbatch takes it.
    """
    cluster, folder, res = asked.cluster, asked.folder, one.resources
    module = {"cells": "sweep.job", "canary": "sweep.canary", "finish": "sweep.finish"}[one.kind]
    path = submissions_folder(folder).resolve() / f"{one.name}.json"
    options, nodes = cluster.options(), bad_nodes(folder)
    if nodes or cluster.exclude:
        options["exclude"] = ",".join([*([cluster.exclude] if cluster.exclude else []), *nodes])
    return Request(
        job_name=one.job_name,
        command=[
            *_inside(cluster, folder, res["gpus"]),
            *_python(cluster),
            "-P",
            "-m",
            module,
            str(path),
        ],
        logs=(folder.path / "logs").resolve(),
        minutes=res["minutes"],
        memory_mb=res["memory_mb"],
        nodes=res["nodes"],
        tasks_per_node=res["tasks_per_node"],
        cpus=res["cpus"],
        gpus=res["gpus"],
        gpu_type=cluster.gpu_type,
        tasks=len(one.tasks) if one.kind == "cells" else None,
        parallelism=cluster.parallelism,
        signal_seconds=cluster.signal_seconds,
        dependency=dependency,
        chdir=code.resolve(),
        setup=_setup(asked, code),
        again_if_lost=min(asked.launch.retries, cluster.max_requeues),
        srun_args=_srun_args(cluster, folder),
        options=options,
    )


def _setup(asked: SlurmLaunch, code: Path) -> list[str]:
    threads = asked.hardware.threads
    return [
        *asked.cluster.setup,
        f"export PYTHONPATH={shlex.quote(str(code.resolve()))}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}",
    ]


def _python(cluster: ClusterSettings) -> list[str]:
    return [cluster.python or ("python3" if cluster.container else sys.executable)]


def _mounts(cluster: ClusterSettings, folder: SweepFolder) -> list[str]:
    root = folder.root.resolve()
    return [f"{root}:{root}", *cluster.container_mounts]


def _inside(cluster: ClusterSettings, folder: SweepFolder, gpus: int) -> list[str]:
    """Words that put a command into an Apptainer image."""
    if cluster.container is None or cluster.container_runtime != "apptainer":
        return []
    binds = [word for m in _mounts(cluster, folder) for word in ("--bind", m)]
    return ["apptainer", "exec", *["--nv"] * bool(gpus), *binds, cluster.container]


def _srun_args(cluster: ClusterSettings, folder: SweepFolder) -> list[str]:
    """Options of srun that put a command into an image by pyxis."""
    if cluster.container is None or cluster.container_runtime != "pyxis":
        return []
    mounts = ",".join(_mounts(cluster, folder))
    return [f"--container-image={cluster.container}", f"--container-mounts={mounts}"]
