"""What a launch on SLURM was asked, and what its cells are predicted to take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from results.store import read_records
from sweep.cluster import ClusterSettings, LaunchSettings
from sweep.errors import UsageError
from sweep.folder import PlannedCell, SweepFolder, join_plan
from sweep.resolve import Resolved
from sweep.resources import Sized, measured_factor, size_cells
from sweep.settings import HardwareSettings, RunSettings


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
    bad: Mapping[str, str]  # cells whose result is not "finished", and what else went wrong


def size_asked(asked: SlurmLaunch, cells: Sequence[PlannedCell]) -> list[Sized]:
    """Predict cells, and say what to ask of SLURM for each.

    Raises:
        UsageError: one needs more jobs, one after another, than a job may queue itself again.
    """
    rates = asked.resolved.rates
    sized = size_cells(cells, rates, asked.hardware, asked.cluster, measured_of(asked))
    for cell in sized:
        if cell.lives - 1 > asked.cluster.max_requeues:
            raise UsageError(
                f"{cell.planned.cell.id} is predicted to need {cell.lives} jobs of "
                f"{cell.resources.minutes} min one after another, cluster.max_requeues="
                f"{asked.cluster.max_requeues} allows {asked.cluster.max_requeues + 1}: raise that, "
                "cluster.max_hours or hardware.ranks"
            )
    return sized


def measured_of(asked: SlurmLaunch) -> float | None:
    """Return measured over predicted time, where this sweep has finished cells; else None."""
    records = asked.folder.records
    if not any(records.glob("*.parquet")):
        return None
    frame: pd.DataFrame = read_records(records)
    planned = join_plan(asked.folder, asked.resolved.planned)
    return measured_factor(frame, planned, asked.resolved.rates, asked.hardware.device)
