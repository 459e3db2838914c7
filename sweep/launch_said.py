"""What a launch on SLURM says: cells, hours, money, disk, limits, nodes that are left out."""

from collections.abc import Sequence

from rich.console import Console

from sweep.amounts import duration, size_of
from sweep.folder import SweepFolder
from sweep.launch_price import gpu_hours, seconds_of
from sweep.resources import MEASURED_MARGIN, STARTUP_SECONDS, Sized
from sweep.submissions import Submission


def say_counts(
    folder: SweepFolder, whole: int, done: int, queued: int, to_train: int, console: Console
) -> None:
    """Say how many cells there are, and how many of them are left to submit."""
    console.print(
        f"sweep={folder.name}: {whole} cells, {done} done, {queued} in the queue, {to_train} to submit."
    )


def say_sizes(
    sized: Sequence[Sized],
    ranks: int,
    price: float | None,
    margin: float,
    factor: float | None,
    console: Console,
) -> None:
    """Say hours, money and how limits were set."""
    hours, what = gpu_hours(seconds_of(sized), ranks), _unit(sized)
    money = "" if price is None else f", {hours * price:,.2f} at hardware.price={price:g} an hour"
    measured = (
        "as the plan assumes"
        if factor is None
        else f"{factor:.2f} x what the plan assumes, as measured here"
    )
    shown = margin if factor is None else min(margin, MEASURED_MARGIN)
    console.print(
        f"Predicted: {hours:.4g} {what}{money} ({measured}). Time limits are {shown:g} x that "
        f"and {duration(STARTUP_SECONDS)}, rounded up."
    )


def _unit(sized: Sequence[Sized]) -> str:
    return "GPU-hours" if all(s.resources.gpus for s in sized) else "hours of a device"


def say_array(job_id: str, array: Submission, console: Console) -> None:
    """Say what SLURM was asked for an array's cells."""
    res = array.resources
    console.print(
        f"Array {job_id}: {tasks_in_words(array)}, {res['nodes']} x {res['tasks_per_node']} "
        f"ranks, {res['gpus']} GPUs a node, {res['memory_mb'] / 1000:g} GB, {res['minutes']} min"
    )


def tasks_in_words(array: Submission) -> str:
    """Say how many cells an array has, and in how many tasks where some share one."""
    cells, tasks = len(array.cells), len(array.tasks)
    return f"{cells} cells" if cells == tasks else f"{cells} cells in {tasks} tasks"


def say_bad_nodes(folder: SweepFolder, nodes: Sequence[str], console: Console) -> None:
    """Say which nodes are left out, and how to have them back."""
    if nodes:
        console.print(
            f"Left out: {', '.join(nodes)}, of which a GPU failed twice; once it is mended, remove "
            f"{folder.path / 'device_failures'}"
        )


def say_disk(bytes_needed: float, free: float, console: Console) -> None:
    """Say what checkpoints take of the disk; the canary looks again from a node."""
    console.print(f"Disk: {size_of(bytes_needed)} of checkpoints at most, {size_of(free)} free.")
