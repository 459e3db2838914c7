"""Launch on a SLURM cluster: freeze, submit arrays, and return within seconds.

Whatever can be known to fail is refused before anything is written. Each sbatch is written into the
ledger before it is called, so a launcher that is killed anywhere can be followed by another that
submits no cell twice.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from results.store import StoreError, terminal_cells
from slurm.queue import NoSlurm
from slurm.site import SiteRefuses
from slurm.submit import Refused, submit
from sweep.bad_devices import bad_nodes
from sweep.canary_words import canary_file
from sweep.code import choose_code, keep_code
from sweep.data import check_data, open_data, prepare_data
from sweep.errors import UsageError
from sweep.folder import join_plan, write_plan
from sweep.in_queue import active_jobs, cells_in_queue, settle_submissions
from sweep.launch_asked import SlurmLaunch, Submitted, measured_of, packs_asked
from sweep.launch_checks import check_disk, check_request, check_site
from sweep.launch_dry_run import dry_run
from sweep.launch_lease import launch_lease
from sweep.launch_price import check_price, seconds_of
from sweep.launch_requests import (
    frozen_settings,
    new_arrays,
    new_canary,
    new_finish,
    request_of,
)
from sweep.launch_said import say_array, say_bad_nodes, say_counts, say_sizes
from sweep.launch_words import keep_words
from sweep.live import AS_ASKED
from sweep.packs import cells_of
from sweep.stop_law import freeze_rule
from sweep.submissions import Submission, refused, submitted, write_submission
from sweep.tried import choose_cells


def launch_on_slurm(asked: SlurmLaunch, console: Console) -> Submitted:
    """Submit every planned cell that is not finished, running or queued.

    Raises:
        UsageError: something that can be known to fail; nothing was submitted.
    """
    try:
        if asked.launch.dry_run:
            return dry_run(asked, console)
        check_request(asked)
        whole = join_plan(asked.folder, asked.resolved.planned)
        check_site(asked, packs_asked(asked, asked.resolved.planned, whole))
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
    except (NoSlurm, SiteRefuses, StoreError) as e:
        raise UsageError(str(e)) from None


def _submit_what_is_left(asked: SlurmLaunch, shards: Path, console: Console) -> Submitted:
    folder = asked.folder
    whole = join_plan(folder, asked.resolved.planned)
    ledger, queue = settle_submissions(folder)
    # After the queue: a cell that left it meanwhile has its record by now.
    done = terminal_cells(folder.records, [p.cell.id for p in whole])
    queued = cells_in_queue(ledger, queue)
    bad = {i: s for i, s in done.items() if s not in AS_ASKED}
    chosen = choose_cells(folder, asked.launch.only, whole, done)
    to_train = [p for p in chosen.cells if p.cell.id not in queued]
    rule = freeze_rule(folder, asked.launch, to_train, asked.run.evaluations)
    code = choose_code(folder, asked.launch.code, bool(to_train))
    packs = packs_asked(asked, to_train, whole)
    sized = cells_of(packs)
    check_price(seconds_of(sized), asked.hardware.ranks, asked.launch.max_gpu_hours)
    check_site(asked, packs)
    write_plan(folder, whole)
    say_counts(folder, len(whole), len(done), len(queued), len(to_train), console)
    if not to_train:
        return Submitted(0, tuple(active_jobs(ledger, queue)), bad)
    factor = measured_of(asked, whole)
    say_sizes(sized, asked.hardware.ranks, asked.price, asked.cluster.margin, factor, console)
    check_disk(asked, sized, console)
    say_bad_nodes(folder, bad_nodes(folder), console)
    path = keep_code(folder, code)
    frozen = frozen_settings(asked, shards, chosen.anew, rule)
    arrays = new_arrays(asked, packs, path, frozen)
    first = new_canary(asked, sized, path, frozen) if asked.launch.canary else None
    keep_words(folder, asked.launch.words)
    jobs = _submit_all(asked, first, arrays, path, console)
    if asked.launch.finish is not False:
        last = new_finish(asked, path, frozen)
        bad |= _submit_last(asked, last, path, [*jobs, *active_jobs(ledger, queue)])
    return Submitted(len(to_train), tuple(jobs), bad)


def _submit_all(
    asked: SlurmLaunch,
    canary: Submission | None,
    arrays: Sequence[Submission],
    code: Path,
    console: Console,
) -> list[str]:
    """Submit the canary, then the arrays that wait for it; returns their ids.

    Raises:
        UsageError: sbatch refused one; those before it are in the queue, and none after it is.
    """
    for one in arrays:  # what is asked is on disk before the first sbatch
        write_submission(asked.folder, one)
    jobs: list[str] = []
    try:
        wait = None if canary is None else _submit_canary(asked, canary, code, console)
        for one in arrays:
            jobs.append(_submit_one(asked, one, code, wait))
            say_array(jobs[-1], one, console)
    except Refused as e:
        for one in arrays[len(jobs) :]:
            refused(asked.folder, one, str(e))
        raise UsageError(_refusal(str(e), arrays, jobs)) from None
    return jobs


def _refusal(words: str, arrays: Sequence[Submission], jobs: Sequence[str]) -> str:
    left = sum(len(one.cells) for one in arrays[len(jobs) :])
    if not jobs:
        return f"sbatch refused it: {words}"
    return (
        f"sbatch refused {left} of {sum(len(one.cells) for one in arrays)} cells: {words}; the "
        f"others are in the queue ({', '.join(jobs)}). Mend it, or wait for room, and launch again"
    )


def _submit_canary(asked: SlurmLaunch, canary: Submission, code: Path, console: Console) -> str:
    """Submit the canary; returns the dependency by which arrays wait for it."""
    job_id = _submit_one(asked, canary, code, None)
    console.print(f"Canary: job {job_id}; it says {canary_file(asked.folder, canary)}")
    return f"afterok:{job_id}"


def _submit_last(
    asked: SlurmLaunch, last: Submission, code: Path, jobs: Sequence[str]
) -> dict[str, str]:
    """Submit the last stage; the cells are in the queue by now, whatever becomes of it."""
    try:
        _submit_one(asked, last, code, f"afterany:{':'.join(jobs)}")
    except Refused as e:
        return {"last stage": f"sbatch refused it ({e}): isoflop collect when the cells have ended"}
    return {}


def _submit_one(asked: SlurmLaunch, one: Submission, code: Path, dependency: str | None) -> str:
    """Submit what is written in the ledger, and write down what became of it.

    Raises:
        Refused: sbatch did not take it.
    """
    write_submission(asked.folder, one)
    try:
        job_id = submit(request_of(asked, one, code, dependency))
    except Refused as e:
        refused(asked.folder, one, str(e))
        raise
    submitted(asked.folder, one, job_id)
    return job_id
