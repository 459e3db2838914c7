"""What a launch will take, checked before it is paid for: hours and disk."""

from collections.abc import Mapping, Sequence

from models.flops import count_params
from sweep.errors import UsageError
from sweep.resources import Sized
from sweep.settings import RunSettings


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
