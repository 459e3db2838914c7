"""Launch on this machine: every planned cell without a terminal record, longest first."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from results.store import terminal_cells
from slurm.local import NoWorker, WorkerCommand, WorkerRefused, map_on_workers
from sweep.cluster import ClusterSettings, LaunchSettings
from sweep.data import LEAST_VAL_TOKENS, CellData, check_data, open_data, prepare_data
from sweep.errors import UsageError
from sweep.folder import LaunchLock, SweepFolder, freeze_plan
from sweep.live import LaunchTable
from sweep.predict import predict_cost
from sweep.resolve import Resolved
from sweep.settings import HardwareSettings, RunSettings

_WAIT_FOR_LOCK = 10.0  # seconds; workers of a killed launcher need a moment to save and leave


def launch(
    resolved: Resolved,
    hardware: HardwareSettings,
    run: RunSettings,
    cluster: ClusterSettings,
    how: LaunchSettings,
    console: Console,
) -> dict[str, str]:
    """Train what is not trained yet.

    Returns:
        What went wrong, by cell; empty when every planned cell has finished.

    Raises:
        UsageError: another launch holds the sweep, or the plan can't be joined or trained.
    """
    folder = resolved.folder
    slots = _slots(hardware, cluster.workers, resolved)
    folder.make()
    lock = _hold(folder)
    try:
        shards = prepare_data(
            resolved.data, folder.data_cache, console.print, resolved.handling.workers
        )
        data = open_data(shards, resolved.data, resolved.grid.cells[0].model.seq_len, verify=True)
        check_data(list(resolved.grid.trained), data, resolved.data.max_epochs)
        plan = freeze_plan(folder, resolved.planned)
        done = terminal_cells(folder.records, [p.cell.id for p in plan])
        todo = [p for p in plan if p.cell.id not in done]
        bad = {i: s for i, s in done.items() if s != "finished"}
        if not todo:
            console.print(f"All {len(plan)} cells of sweep={folder.name} are done.")
            return bad
        _warn_if_few_val_tokens(data, console)
        costs = {p.cell.id: predict_cost(p.cell, resolved.rates, p.data.final_tokens) for p in plan}
        todo.sort(key=lambda p: -costs[p.cell.id].seconds)
        slots = slots[: len(todo)]
        setup = {
            "root": str(folder.root.resolve()),
            "sweep": folder.name,
            "data": str(shards.resolve()),
            "node_cache": str(resolved.handling.node_cache or ""),
            "hardware": asdict(hardware),
            "run": asdict(run),
        }
        commands = _commands(folder, slots, setup, lock.fd)
        console.print(
            f"Training {len(todo)} of {len(plan)} cells of sweep={folder.name}, "
            f"{len(slots)} at once. Ctrl-C stops; the same command goes on."
        )
        predicted = {i: c.seconds for i, c in costs.items()}
        with LaunchTable(console, plan, done, predicted, len(slots)) as table:
            try:
                map_on_workers([p.cell.id for p in todo], commands, table.on_event)
            except WorkerRefused as e:
                raise UsageError(str(e)) from None
            except NoWorker as e:
                return {**bad, **table.failures, "no worker could start": str(e)}
        return {**bad, **table.failures}
    finally:
        lock.release()


def _hold(folder: SweepFolder) -> LaunchLock:
    lock = LaunchLock(folder)
    give_up = time.monotonic() + _WAIT_FOR_LOCK
    while not lock.try_hold():
        if lock.holder_lives() or time.monotonic() > give_up:
            holder = lock.holder()
            lock.release()
            raise UsageError(
                f"sweep={folder.name} is being launched already ({holder}): wait for it, "
                "stop it with Ctrl-C, or launch under another name with sweep=NAME"
            )
        time.sleep(0.2)
    return lock


def _slots(
    hardware: HardwareSettings, workers: int | None, resolved: Resolved
) -> list[dict[str, str]]:
    """Environment of each worker: one for the GPUs of a cell where there are GPUs, else one a core.

    Raises:
        UsageError: what was asked is not there, or can't be shared out.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"cluster.workers={workers} must be at least 1")
    ranks = hardware.ranks
    least = min(resolved.grid.trained, key=lambda cell: cell.recipe.batch_rows)
    if least.recipe.batch_rows < ranks:
        raise UsageError(
            f"hardware.ranks={ranks} is more than the {least.recipe.batch_rows} sequences in a "
            f"batch of {least.id}: each rank needs one"
        )
    gpus = [] if hardware.device == "cpu" else _gpus(hardware)
    threads = {"OMP_NUM_THREADS": str(hardware.threads), "MKL_NUM_THREADS": str(hardware.threads)}
    n = workers or max(1, (len(gpus) or _count_cores() // hardware.threads) // ranks)
    if not gpus:
        return [threads] * n
    of_slot = [[gpus[(i * ranks + r) % len(gpus)] for r in range(ranks)] for i in range(n)]
    return [{**threads, "CUDA_VISIBLE_DEVICES": ",".join(own)} for own in of_slot]


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # a job may be given fewer cores than there are
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus(hardware: HardwareSettings) -> list[str]:
    """Check what was asked; names of the GPUs here, by which workers see the same as this process.

    Raises:
        UsageError: what was asked does not run here.
    """
    import torch  # late: two seconds that a launch on a CPU does not need

    from sweep.device import check_device

    try:
        check_device(hardware)
    except ValueError as e:
        raise UsageError(str(e)) from None
    n = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:n] if given else [str(i) for i in range(n)]


def _commands(
    folder: SweepFolder,
    slots: Sequence[dict[str, str]],
    setup: dict[str, object],
    lock_fd: int,
) -> list[WorkerCommand]:
    logs = folder.path / "logs"
    logs.mkdir(exist_ok=True)
    return [
        WorkerCommand(
            argv=[sys.executable, "-P", "-m", "sweep.worker"],
            setup=setup,
            env=env,
            log=logs / f"worker-{i}.log",
            inherit=(lock_fd,),
        )
        for i, env in enumerate(slots)
    ]


def _warn_if_few_val_tokens(data: CellData, console: Console) -> None:
    tokens = data.val_tokens
    if tokens < LEAST_VAL_TOKENS:
        console.print(
            f"Note: {tokens:,} validation tokens; with fewer than {LEAST_VAL_TOKENS:,} "
            "differences between cells are noisy. Raise data.val_tokens, or "
            "data.validation_share where the text is short."
        )
