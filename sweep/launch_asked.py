"""What a launch on SLURM was asked, and what its cells are predicted to take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from results.store import read_records
from sweep.cluster import ClusterSettings, LaunchSettings
from sweep.errors import UsageError
from sweep.folder import PlannedCell, SweepFolder
from sweep.packs import Pack, pack_cells
from sweep.resolve import Resolved
from sweep.resources import measured_factor, size_cells
from sweep.settings import HardwareSettings, RunSettings
from sweep.trunks import before_it, shared_steps


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


def packs_asked(
    asked: SlurmLaunch, cells: Sequence[PlannedCell], whole: Sequence[PlannedCell]
) -> list[Pack]:
    """Predict cells, deal them out to tasks, and say what to ask of SLURM for each.

    Args:
        asked: the launch.
        cells: which.
        whole: the plan that they are of, as `join_plan` returns it.

    Raises:
        UsageError: one needs more jobs, one after another, than a job may queue itself again; or
            what would share a job can't.
    """
    rates, factor = asked.resolved.rates, measured_of(asked, whole)
    planned = [p.cell for p in whole]
    sized = size_cells(cells, rates, asked.hardware, asked.cluster, factor, shared_steps(planned))
    packs = pack_cells(sized, before_it(planned), asked.hardware, asked.cluster, factor)
    for pack in packs:
        if pack.lives - 1 > asked.cluster.max_requeues:
            raise UsageError(
                f"{', '.join(pack.ids[:3])} {'is' if len(pack.ids) == 1 else 'are'} predicted to "
                f"need {pack.lives} jobs of {pack.resources.minutes} min one after another, "
                f"cluster.max_requeues={asked.cluster.max_requeues} allows "
                f"{asked.cluster.max_requeues + 1}: raise that, cluster.max_hours or hardware.ranks"
            )
    return packs


def measured_of(asked: SlurmLaunch, whole: Sequence[PlannedCell]) -> float | None:
    """Return measured over predicted time, where this plan has finished cells; else None."""
    records = asked.folder.records
    if not any(records.glob("*.parquet")):
        return None
    frame: pd.DataFrame = read_records(records)
    return measured_factor(frame, whole, asked.resolved.rates, asked.hardware.device)
