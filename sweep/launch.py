"""Launch on this machine: every planned cell without a terminal record, longest first.

Several launches of one sweep may run at once, here or on machines that share its folder: each cell is
trained by whoever holds its lease, and the others wait for its record.
"""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from rich.console import Console

from results.store import StoreError, terminal_cells
from slurm.local import NoWorker, WorkerCommand, WorkerRefused, map_on_workers
from sweep.amounts import duration
from sweep.bad_devices import bad_gpus
from sweep.cluster import ClusterSettings, LaunchSettings
from sweep.code import choose_code, keep_code
from sweep.data import LEAST_VAL_TOKENS, CellData, check_data, open_data, prepare_data
from sweep.errors import UsageError
from sweep.finish import finish, tally_of, tell
from sweep.folder import PlannedCell, SweepFolder, freeze_plan, join_plan
from sweep.launch_lease import launch_lease
from sweep.launch_price import check_price
from sweep.launch_words import keep_words
from sweep.live import AS_ASKED, LaunchTable
from sweep.local_launches import announced
from sweep.predict import predict_cost
from sweep.resolve import Resolved
from sweep.settings import HardwareSettings, RunSettings
from sweep.stop_law import freeze_rule
from sweep.tried import choose_cells
from sweep.trunks import before_it, chains, shared_steps
from sweep.workers import Attempts, cores_here, worker_commands


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
        UsageError: the plan can't be joined or trained.
    """
    folder = resolved.folder
    slots = _slots(hardware, cluster.workers, resolved)
    whole = join_plan(folder, resolved.planned)
    done = _done(folder, whole)
    chosen = choose_cells(folder, how.only, whole, done)
    to_train, done = _longest_first(resolved, chosen.cells, whole), _others(done, chosen.anew)
    rule = freeze_rule(folder, how, chosen.cells, run.evaluations)
    check_price(to_train, hardware.ranks, how.max_gpu_hours)
    code = choose_code(folder, how.code, bool(to_train))
    if how.dry_run:
        _say_dry_run(to_train, len(whole), slots, console)
        return {}
    folder.make()
    shards = prepare_data(
        resolved.data, folder.data_cache, console.print, resolved.handling.workers
    )
    data = open_data(shards, resolved.data, resolved.grid.cells[0].model.seq_len, verify=True)
    check_data(list(resolved.grid.trained), data, resolved.data.max_epochs)
    with launch_lease(folder, console.print):
        plan = freeze_plan(folder, resolved.planned)
        keep_words(folder, how.words)
        snapshot = keep_code(folder, code)
    bad = {i: s for i, s in done.items() if s not in AS_ASKED}
    if not to_train:
        left = len(plan) - len(done)
        console.print(
            "No cell is stopped."
            if how.only == "stopped"
            else f"All {len(plan)} cells of sweep={folder.name} are done."
            if not left
            else f"None of the {left} cells that are left was tried before."
        )
        return bad
    _warn_if_few_val_tokens(data, console)
    after = _trunk_order(to_train, whole)
    slots = _good(slots, folder)[: len(to_train) - len(after)]
    attempts = Attempts(
        shards.resolve(),
        resolved.handling.node_cache,
        hardware,
        run,
        how.retries,
        chosen.anew,
        rule,
    )
    console.print(
        f"Training {len(to_train)} of {len(plan)} cells of sweep={folder.name}, "
        f"{len(slots)} at once. Ctrl-C stops; the same command goes on."
    )
    with announced(folder):
        commands = worker_commands(folder, attempts, slots, snapshot)
        failed = _train(plan, done, to_train, after, commands, console)
    _end(folder, how)
    return {**bad, **failed}


def _done(folder: SweepFolder, plan: Sequence[PlannedCell]) -> dict[str, str]:
    try:
        return terminal_cells(folder.records, [p.cell.id for p in plan])
    except StoreError as e:
        raise UsageError(str(e)) from None


def _train(
    plan: Sequence[PlannedCell],
    done: dict[str, str],
    to_train: dict[str, float],
    after: dict[str, str],
    commands: Sequence[WorkerCommand],
    console: Console,
) -> dict[str, str]:
    with LaunchTable(console, plan, done, to_train, len(commands)) as table:
        try:
            map_on_workers(list(to_train), commands, table.on_event, after=after)
        except WorkerRefused as e:
            raise UsageError(str(e)) from None
        except NoWorker as e:
            return {**table.failures, "no worker could start": str(e)}
    return table.failures


def _longest_first(
    resolved: Resolved, cells: Sequence[PlannedCell], whole: Sequence[PlannedCell]
) -> dict[str, float]:
    """Predicted seconds by cell, in the order in which they are begun.

    The longest first; of cells that share a trunk, what counts is how long those together take that
    wait for it.
    """
    shared = shared_steps(p.cell for p in whole)
    costs = {
        p.cell.id: predict_cost(
            p.cell, resolved.rates, p.data.final_tokens, shared[p.cell.id]
        ).seconds
        for p in cells
    }
    rest = {}
    for chain in chains(list(costs), before_it(p.cell for p in whole)):
        for place, cell_id in enumerate(chain):
            rest[cell_id] = sum(costs[i] for i in chain[place:])
    return dict(sorted(costs.items(), key=lambda cost: -rest[cost[0]]))


def _trunk_order(to_train: Iterable[str], whole: Sequence[PlannedCell]) -> dict[str, str]:
    """Name of each cell that shares a trunk the one that is to be trained before it."""
    found = chains(list(to_train), before_it(p.cell for p in whole))
    return {later: sooner for chain in found for sooner, later in pairwise(chain)}


def _others(done: Mapping[str, str], anew: Mapping[str, int]) -> dict[str, str]:
    return {cell_id: status for cell_id, status in done.items() if cell_id not in anew}


def _say_dry_run(
    to_train: dict[str, float], whole: int, slots: Sequence[dict[str, str]], console: Console
) -> None:
    for cell_id, seconds in to_train.items():
        console.print(f"{cell_id}  {duration(seconds)}")
    console.print(
        f"{len(to_train)} of {whole} cells would be trained, {len(slots)} at once. "
        "Nothing was written: launch.dry_run=true."
    )


def _end(folder: SweepFolder, how: LaunchSettings) -> None:
    """Run the last stage where it is asked for, else only tell."""
    if how.finish:
        finish(folder, how.notify)
    elif how.notify:
        tell(how.notify, folder, tally_of(folder))


def _slots(
    hardware: HardwareSettings, workers: int | None, resolved: Resolved
) -> list[dict[str, str]]:
    """Environment of each worker: one for the GPUs of a cell where there are GPUs, else one a core.

    Raises:
        UsageError: what was asked is not there, or can't be shared out.
    """
    ranks = hardware.ranks
    least = min(resolved.grid.trained, key=lambda cell: cell.recipe.batch_rows)
    if least.recipe.batch_rows < ranks:
        raise UsageError(
            f"hardware.ranks={ranks} is more than the {least.recipe.batch_rows} sequences in a "
            f"batch of {least.id}: each rank needs one"
        )
    gpus = [] if hardware.device == "cpu" else _gpus(hardware)
    threads = {"OMP_NUM_THREADS": str(hardware.threads), "MKL_NUM_THREADS": str(hardware.threads)}
    n = workers or max(1, (len(gpus) or len(cores_here()) // hardware.threads) // ranks)
    if not gpus:
        return [threads] * n
    of_slot = [[gpus[(i * ranks + r) % len(gpus)] for r in range(ranks)] for i in range(n)]
    return [{**threads, "CUDA_VISIBLE_DEVICES": ",".join(own)} for own in of_slot]


def _good(slots: list[dict[str, str]], folder: SweepFolder) -> list[dict[str, str]]:
    """Slots without a GPU that failed too often here.

    Raises:
        UsageError: none is left.
    """
    bad = {gpu for node, gpu in bad_gpus(folder) if node == os.uname().nodename}
    good = [slot for slot in slots if slot.get("CUDA_VISIBLE_DEVICES", "-") not in bad]
    if not good:
        raise UsageError(
            f"every GPU here failed twice in this sweep ({', '.join(sorted(bad))}): mend them, "
            f"then remove {shlex.quote(str(folder.path / 'device_failures'))}"
        )
    return good


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


def _warn_if_few_val_tokens(data: CellData, console: Console) -> None:
    tokens = data.val_tokens
    if tokens < LEAST_VAL_TOKENS:
        console.print(
            f"Note: {tokens:,} validation tokens; with fewer than {LEAST_VAL_TOKENS:,} "
            "differences between cells are noisy. Raise data.val_tokens, or "
            "data.validation_share where the text is short."
        )
