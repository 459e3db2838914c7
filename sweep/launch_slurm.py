"""Launch on a SLURM cluster: freeze, submit arrays, and return within seconds.

Whatever can be known to fail is refused before anything is written. Each sbatch is written into the
ledger before it is called, so a launcher that is killed anywhere can be followed by another that
submits no cell twice.
"""

import contextlib
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from results.store import read_records, terminal_cells
from slurm.queue import NoSlurm
from slurm.site import Ask, SiteRefuses, check_ask, max_array_size, read_site
from slurm.submit import Refused, Request, batch_text, submit
from sweep.bad_devices import bad_nodes
from sweep.canary import canary_file, environment_here
from sweep.cluster import ClusterSettings, LaunchSettings
from sweep.code import choose_code, code_folder, keep_code
from sweep.data import check_data, find_prepared, open_data, prepare_data
from sweep.errors import UsageError
from sweep.folder import PlannedCell, SweepFolder, freeze_plan, join_plan
from sweep.frozen import Frozen
from sweep.in_queue import active_jobs, cells_in_queue, settle_submissions
from sweep.launch_lease import launch_lease
from sweep.launch_price import check_price, disk_needed, say_disk, say_sizes, seconds_of
from sweep.packs import Pack, cells_of, pack_cells
from sweep.resolve import Resolved
from sweep.resources import Resources, Sized, classes, measured_factor, size_cells
from sweep.settings import HardwareSettings, RunSettings
from sweep.submissions import (
    Submission,
    new_submission,
    refused,
    submissions_folder,
    submitted,
    write_submission,
)
from sweep.tried import tried_cells
from sweep.trunks import before_it, shared_steps

CANARY_MINUTES, FINISH_MINUTES, FINISH_MB = 15, 120, 3000


@dataclass(frozen=True)
class SlurmLaunch:
    """Everything that a launch on SLURM was asked."""

    resolved: Resolved
    hardware: HardwareSettings
    run: RunSettings
    cluster: ClusterSettings
    launch: LaunchSettings
    price: float | None

    @property
    def folder(self) -> SweepFolder:
        """Folder of the sweep."""
        return self.resolved.folder


@dataclass(frozen=True)
class Submitted:
    """What a launch did."""

    cells: int
    jobs: tuple[str, ...]
    bad: Mapping[str, str]  # cells whose result is not "finished"


def launch_on_slurm(asked: SlurmLaunch, console: Console) -> Submitted:
    """Submit every planned cell that is not finished, running or queued.

    Raises:
        UsageError: something that can be known to fail; nothing was submitted.
    """
    try:
        if asked.launch.dry_run:
            return _dry_run(asked, console)
        _check_request(asked)
        _check_site(asked, _packs(asked, asked.resolved.planned))
        asked.folder.make()
        shards = prepare_data(
            asked.resolved.data,
            asked.folder.data_cache,
            console.print,
            asked.resolved.handling.workers,
        )
        data = open_data(
            shards, asked.resolved.data, asked.resolved.grid.cells[0].model.seq_len, verify=True
        )
        check_data(list(asked.resolved.grid.trained), data, asked.resolved.data.max_epochs)
        with launch_lease(asked.folder, console.print):
            return _submit_what_is_left(asked, shards, console)
    except (NoSlurm, SiteRefuses) as e:
        raise UsageError(str(e)) from None


def _submit_what_is_left(asked: SlurmLaunch, shards: Path, console: Console) -> Submitted:
    folder = asked.folder
    whole = join_plan(folder, asked.resolved.planned)
    ledger, queue = settle_submissions(folder)
    # After the queue: a cell that left it meanwhile has its record by now.
    done = terminal_cells(folder.records, [p.cell.id for p in whole])
    queued = cells_in_queue(ledger, queue)
    bad = {i: s for i, s in done.items() if s != "finished"}
    todo = [p for p in whole if p.cell.id not in done and p.cell.id not in queued]
    todo = _only(asked, todo)
    code = choose_code(folder, asked.launch.code, bool(todo))
    packs = _packs(asked, todo)
    sized = cells_of(packs)
    check_price(seconds_of(sized), asked.hardware.ranks, asked.launch.max_gpu_hours)
    _check_site(asked, packs)
    freeze_plan(folder, asked.resolved.planned)
    console.print(
        f"sweep={folder.name}: {len(whole)} cells, {len(done)} done, {len(queued)} in the queue, "
        f"{len(todo)} to submit."
    )
    if not todo:
        return Submitted(0, tuple(active_jobs(ledger, queue)), bad)
    say_sizes(
        sized, asked.hardware.ranks, asked.price, asked.cluster.margin, _factor(asked), console
    )
    _check_disk(asked, sized, console)
    path = keep_code(folder, code)
    frozen = _frozen(asked, shards)
    arrays = _arrays(asked, packs, path, frozen)
    first = _canary(asked, sized, path, frozen) if asked.launch.canary else None
    jobs = _submit_all(asked, first, arrays, path, console)
    if asked.launch.finish is not False:
        waits_for = [*jobs, *active_jobs(ledger, queue)]
        _submit_one(asked, _finish(asked, path, frozen), path, f"afterany:{':'.join(waits_for)}")
    return Submitted(len(todo), tuple(jobs), bad)


def _submit_all(
    asked: SlurmLaunch,
    canary: Submission | None,
    arrays: Sequence[Submission],
    code: Path,
    console: Console,
) -> list[str]:
    """Submit the canary, then the arrays that wait for it; returns their ids."""
    for one in arrays:  # what is asked is on disk before the first sbatch
        write_submission(asked.folder, one)
    wait = None
    if canary is not None:
        job_id = _submit_one(asked, canary, code, None)
        wait = f"afterok:{job_id}"
        console.print(f"Canary: job {job_id}; it says {canary_file(asked.folder, canary)}")
    jobs = []
    for one in arrays:
        job_id = _submit_one(asked, one, code, wait)
        jobs.append(job_id)
        res = one.resources
        console.print(
            f"Array {job_id}: {_tasks_in_words(one)}, {res['nodes']} x {res['tasks_per_node']} "
            f"ranks, {res['gpus']} GPUs a node, {res['memory_mb'] / 1000:g} GB, {res['minutes']} min"
        )
    return jobs


def _submit_one(asked: SlurmLaunch, one: Submission, code: Path, dependency: str | None) -> str:
    """Submit what is written in the ledger, and write down what became of it."""
    write_submission(asked.folder, one)
    try:
        job_id = submit(_request(asked, one, code, dependency))
    except Refused as e:
        refused(asked.folder, one, str(e))
        raise UsageError(f"sbatch refused {one.job_name}: {e}") from None
    submitted(asked.folder, one, job_id)
    return job_id


def _dry_run(asked: SlurmLaunch, console: Console) -> Submitted:
    """Print what would be submitted; write nothing, ask the site only where there is one."""
    folder = asked.folder
    _check_request(asked)
    whole = join_plan(folder, asked.resolved.planned)
    done = terminal_cells(folder.records, [p.cell.id for p in whole])
    todo = _only(asked, [p for p in whole if p.cell.id not in done])
    packs = _packs(asked, todo)
    sized = cells_of(packs)
    check_price(seconds_of(sized), asked.hardware.ranks, asked.launch.max_gpu_hours)
    with contextlib.suppress(NoSlurm):
        _check_site(asked, packs)
    code = code_folder(folder) / choose_code(folder, asked.launch.code, bool(todo)).name
    shards = find_prepared(asked.resolved.data, folder.data_cache)
    frozen = _frozen(asked, shards or folder.data_cache / "not-prepared-yet")
    arrays = _arrays(asked, packs, code, frozen)
    canary = _canary(asked, sized, code, frozen) if asked.launch.canary and sized else None
    say_sizes(
        sized, asked.hardware.ranks, asked.price, asked.cluster.margin, _factor(asked), console
    )
    for one in [*([canary] if canary else []), *arrays]:
        wait = "afterok:CANARY" if canary and one.kind == "cells" else None
        console.print(f"\n# {one.job_name}, {_tasks_in_words(one)}")
        console.print(batch_text(_request(asked, one, code, wait)))
    console.print("\nNothing was written or submitted: launch.dry_run=true.")
    return Submitted(0, (), {})


def _tasks_in_words(one: Submission) -> str:
    cells, tasks = len(one.cells), len(one.tasks)
    return f"{cells} cells" if cells == tasks else f"{cells} cells in {tasks} tasks"


def _packs(asked: SlurmLaunch, cells: Sequence[PlannedCell]) -> list[Pack]:
    rates, factor = asked.resolved.rates, _factor(asked)
    whole = {p.cell.id: p.cell for p in join_plan(asked.folder, asked.resolved.planned)}
    shared = shared_steps(whole.values())
    sized = size_cells(cells, rates, asked.hardware, asked.cluster, factor, shared)
    packs = pack_cells(sized, before_it(whole.values()), asked.hardware, asked.cluster, factor)
    for pack in packs:
        if pack.lives - 1 > asked.cluster.max_requeues:
            raise UsageError(
                f"{', '.join(pack.ids[:3])} {'is' if len(pack.ids) == 1 else 'are'} predicted to "
                f"need {pack.lives} jobs of {pack.resources.minutes} min one after another, "
                f"cluster.max_requeues={asked.cluster.max_requeues} allows "
                f"{asked.cluster.max_requeues + 1}: raise that, cluster.max_hours or hardware.ranks"
            )
    return packs


def _factor(asked: SlurmLaunch) -> float | None:
    """Measured over predicted time, where this sweep has finished cells."""
    records = asked.folder.records
    if not any(records.glob("*.parquet")):
        return None
    frame: pd.DataFrame = read_records(records)
    planned = join_plan(asked.folder, asked.resolved.planned)
    return measured_factor(frame, planned, asked.resolved.rates, asked.hardware.device)


def _only(asked: SlurmLaunch, todo: Sequence[PlannedCell]) -> list[PlannedCell]:
    if asked.launch.only is None:
        return list(todo)
    tried = tried_cells(asked.folder, [p.cell.id for p in todo])
    return [p for p in todo if p.cell.id in tried]


def _check_request(asked: SlurmLaunch) -> None:
    """Refuse what can't be shared out, and what would change nothing."""
    ranks, nodes = asked.hardware.ranks, asked.cluster.nodes
    if ranks % nodes:
        raise UsageError(
            f"hardware.ranks={ranks} can't be shared out evenly among cluster.nodes={nodes}"
        )
    if asked.cluster.workers is not None:
        raise UsageError("cluster.workers is read by cluster=local; here it is cluster.parallelism")
    root = str(asked.folder.root.resolve())
    if "%" in root or "\n" in root:
        raise UsageError(
            f"root={root}: SLURM would read % in the name of a log as a pattern; "
            "name a folder without it: root=FOLDER"
        )
    least = min(asked.resolved.grid.trained, key=lambda cell: cell.recipe.batch_rows)
    if least.recipe.batch_rows < ranks:
        raise UsageError(
            f"hardware.ranks={ranks} is more than the {least.recipe.batch_rows} sequences in a "
            f"batch of {least.id}: each rank needs one"
        )


def _check_site(asked: SlurmLaunch, packs: Sequence[Pack]) -> None:
    site = read_site()
    for res in {p.resources for p in packs}:
        check_ask(
            Ask(
                partition=asked.cluster.partition,
                nodes=res.nodes,
                gpus=res.gpus,
                gpu_type=asked.cluster.gpu_type,
                cpus=res.cpus * res.tasks_per_node,
                memory_mb=res.memory_mb,
                minutes=res.minutes,
            ),
            site,
        )


def _check_disk(asked: SlurmLaunch, sized: Sequence[Sized], console: Console) -> None:
    """Refuse what the disk has no room for."""
    needed, free = disk_needed(sized, asked.run), shutil.disk_usage(asked.folder.path).free
    say_disk(needed, free, console)
    if needed > free:
        raise UsageError(
            f"root={asked.folder.root}: {free / 1e9:.3g} GB free for {needed / 1e9:.3g} GB of "
            "checkpoints: make room, keep fewer (run.keep_checkpoints=none), or root=FOLDER"
        )


def _frozen(asked: SlurmLaunch, shards: Path) -> Frozen:
    return Frozen(
        shards=shards.resolve(),
        node_cache=asked.resolved.handling.node_cache,
        hardware=asked.hardware,
        run=asked.run,
        max_requeues=asked.cluster.max_requeues,
        retries=asked.launch.retries,
    )


def _arrays(
    asked: SlurmLaunch, packs: Sequence[Pack], code: Path, frozen: Frozen
) -> list[Submission]:
    """One submission a class of resources and chunk of the longest array that the site takes."""
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


def _canary(asked: SlurmLaunch, sized: Sequence[Sized], code: Path, frozen: Frozen) -> Submission:
    """One task with the GPUs and memory of the smallest class."""
    like = min(s.resources for s in sized)
    res = replace(like, nodes=1, tasks_per_node=1, gpus=min(like.gpus, 1), minutes=CANARY_MINUTES)
    wanted = {"versions": environment_here(), "disk_bytes": disk_needed(sized, asked.run)}
    return _new(asked, "canary", code, frozen, res, {"canary": wanted})


def _finish(asked: SlurmLaunch, code: Path, frozen: Frozen) -> Submission:
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
    settings = {**frozen.to_dict(), **more}
    return new_submission(
        asked.folder, kind, code=code.name, resources=resources, settings=settings, **values
    )


def _request(asked: SlurmLaunch, one: Submission, code: Path, dependency: str | None) -> Request:
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
        again_if_lost=min(asked.launch.retries, cluster.max_requeues) if one.kind == "cells" else 0,
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
