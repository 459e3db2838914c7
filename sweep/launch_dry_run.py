"""A dry run: print what a launch on SLURM would submit, and write nothing."""

import contextlib
from collections.abc import Collection, Sequence

from rich.console import Console

from results.store import terminal_cells
from slurm.queue import NoSlurm
from slurm.submit import batch_text
from sweep.code import choose_code, code_folder
from sweep.data import find_prepared
from sweep.folder import SweepFolder, join_plan
from sweep.in_queue import cells_in_queue, look_at_queue
from sweep.launch_asked import SlurmLaunch, Submitted, measured_of, packs_asked
from sweep.launch_checks import check_request, check_site
from sweep.launch_price import check_price, seconds_of
from sweep.launch_requests import (
    frozen_settings,
    new_arrays,
    new_canary,
    new_finish,
    request_of,
)
from sweep.launch_said import say_counts, say_sizes, tasks_in_words
from sweep.packs import Pack, cells_of
from sweep.stop_law import freeze_rule
from sweep.tried import Chosen, choose_cells


def dry_run(asked: SlurmLaunch, console: Console) -> Submitted:
    """Print what would be submitted; write nothing, ask the site only where there is one.

    Raises:
        UsageError: what a launch would refuse too.
    """
    folder = asked.folder
    check_request(asked)
    whole = join_plan(folder, asked.resolved.planned)
    queued = _in_queue(folder)
    done = terminal_cells(folder.records, [p.cell.id for p in whole])
    chosen = choose_cells(folder, asked.launch.only, whole, done)
    to_train = [p for p in chosen.cells if p.cell.id not in queued]
    packs = packs_asked(asked, to_train, whole)
    sized = cells_of(packs)
    check_price(seconds_of(sized), asked.hardware.ranks, asked.launch.max_gpu_hours)
    with contextlib.suppress(NoSlurm):
        check_site(asked, packs)
    say_counts(folder, len(whole), len(done), len(queued), len(to_train), console)
    if sized:
        say_sizes(
            sized,
            asked.hardware.ranks,
            asked.price,
            asked.cluster.margin,
            measured_of(asked, whole),
            console,
        )
        _print_files(asked, chosen, packs, console)
    console.print("\nNothing was written or submitted: launch.dry_run=true.")
    return Submitted(0, (), {})


def _in_queue(folder: SweepFolder) -> Collection[str]:
    try:
        return cells_in_queue(*look_at_queue(folder))
    except NoSlurm:  # a dry run elsewhere
        return ()


def _print_files(
    asked: SlurmLaunch, chosen: Chosen, packs: Sequence[Pack], console: Console
) -> None:
    """Print every batch file, in the order in which they would be submitted."""
    folder = asked.folder
    code = code_folder(folder) / choose_code(folder, asked.launch.code, True).name
    shards = find_prepared(asked.resolved.data, folder.data_cache)
    shards = shards or folder.data_cache / "not-prepared-yet"
    rule = freeze_rule(folder, asked.launch, chosen.cells, asked.run.evaluations)
    frozen = frozen_settings(asked, shards, chosen.anew, rule)
    first = [new_canary(asked, cells_of(packs), code, frozen)] if asked.launch.canary else []
    last = [] if asked.launch.finish is False else [new_finish(asked, code, frozen)]
    waits = {"cells": "afterok:CANARY" if first else None, "finish": "afterany:ARRAYS"}
    for one in [*first, *new_arrays(asked, packs, code, frozen), *last]:
        console.print(f"\n# {one.job_name}" + f", {tasks_in_words(one)}" * bool(one.cells))
        console.print(batch_text(request_of(asked, one, code, waits.get(one.kind))))
