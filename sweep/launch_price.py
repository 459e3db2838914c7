"""What a launch will take, said before it is paid for: cells, hours, money, disk, limits, nodes."""

from collections.abc import Mapping, Sequence

from rich.console import Console

from models.flops import count_params
from sweep.errors import UsageError
from sweep.folder import SweepFolder
from sweep.plan import duration, size_of
from sweep.resources import MEASURED_MARGIN, STARTUP_SECONDS, Sized
from sweep.settings import RunSettings
from sweep.submissions import Submission


def gpu_hours(seconds: Mapping[str, float], ranks: int) -> float:
    """Predicted hours of GPUs, or of ranks where they have none, of cells; without margins."""
    return sum(seconds.values()) * ranks / 3600


def check_price(seconds: Mapping[str, float], ranks: int, most: float | None) -> None:
    """Refuse what is predicted to take more than was allowed.

    Args:
        seconds: predicted, by cell.
        ranks: of each cell.
        most: launch.max_gpu_hours.

    Raises:
        UsageError: it is.
    """
    hours = gpu_hours(seconds, ranks)
    if most is not None and hours > most:
        dearest = max(seconds, key=lambda i: seconds[i])
        raise UsageError(
            f"launch.max_gpu_hours={most:g}, but {len(seconds)} cells are predicted to take "
            f"{hours:.4g} (the dearest, {dearest}, {seconds[dearest] * ranks / 3600:.3g}): "
            "raise it, or take budgets out of grid.budgets"
        )


def seconds_of(sized: Sequence[Sized]) -> dict[str, float]:
    """Predicted seconds by cell."""
    return {s.planned.cell.id: s.seconds for s in sized}


def disk_needed(sized: Sequence[Sized], run: RunSettings) -> float:
    """Bytes of checkpoints at most, by what is kept of a recorded attempt.

    A checkpoint is 12 bytes a parameter; a cell on a trunk leaves one there too. While it trains an attempt keeps two and writes a third;
    of all attempts, not only those that run at once, since how many do is SLURM's to say.
    """
    kept = {"none": 0, "last": 1, "all": max(1, run.evaluations) + 1}[run.keep_checkpoints]
    each = [12.0 * count_params(s.planned.cell.model).total for s in sized]
    of_trunks = sum(size for s, size in zip(sized, each, strict=True) if s.planned.cell.on_trunk)
    return of_trunks + sum(kept * size + 100_000 for size in each) + 3 * sum(sorted(each)[-100:])


def say_counts(
    folder: SweepFolder, whole: int, done: int, queued: int, todo: int, console: Console
) -> None:
    """Say how many cells there are, and how many of them are left to submit."""
    console.print(
        f"sweep={folder.name}: {whole} cells, {done} done, {queued} in the queue, {todo} to submit."
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
