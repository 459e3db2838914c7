"""What a submission froze, read back by its jobs: one cell, and how and on what it is trained."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sweep.cells import cell_from_row
from sweep.data_settings import DataSettings
from sweep.errors import UsageError
from sweep.folder import PlannedCell, SweepFolder
from sweep.settings import HardwareSettings, RunSettings
from sweep.stop_rule import StopRule, read_rule
from sweep.submissions import Submission, read_submission


@dataclass(frozen=True)
class Frozen:
    """Settings of the attempts of a launch."""

    shards: Path
    node_cache: Path | None
    hardware: HardwareSettings
    run: RunSettings
    max_requeues: int
    retries: int
    # as results.store.terminal_cells takes it
    anew: Mapping[str, int] = field(default_factory=dict)
    stop: StopRule | None = None

    def of_cells(self, cell_ids: Collection[str]) -> "Frozen":
        """Keep of what is frozen cell by cell that of some cells."""
        anew = {i: n for i, n in self.anew.items() if i in cell_ids}
        return replace(self, anew=anew, stop=self.stop and self.stop.of_cells(cell_ids))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        values = {**asdict(self), "shards": str(self.shards)}
        values["run"]["trackers"] = list(self.run.trackers)
        return values | {"node_cache": self.node_cache and str(self.node_cache)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Frozen":
        """Rebuild what `to_dict` made."""
        return Frozen(
            shards=Path(values["shards"]),
            node_cache=Path(values["node_cache"]) if values["node_cache"] else None,
            hardware=HardwareSettings(**values["hardware"]),
            run=RunSettings(**values["run"]),
            max_requeues=values["max_requeues"],
            retries=values["retries"],
            anew=values["anew"],
            stop=read_rule(values["stop"]),
        )


def open_submission(path: Path) -> tuple[SweepFolder, Submission, Frozen]:
    """Read a submission's file and where it lies: <root>/<sweep>/submissions/<name>.json.

    Raises:
        UsageError: it is not one.
    """
    sweep = path.resolve().parent.parent
    submission = read_submission(path)
    return SweepFolder(sweep.parent, sweep.name), submission, Frozen.from_dict(submission.settings)


def own_cells(folder: SweepFolder, submission: Submission) -> list[PlannedCell]:
    """Return the cells of this task of the array, in the order in which they are begun.

    Raises:
        UsageError: the plan has no such cell.
    """
    return planned_cells(folder, submission.tasks[int(os.environ["SLURM_ARRAY_TASK_ID"])])


def planned_cells(folder: SweepFolder, cell_ids: Sequence[str]) -> list[PlannedCell]:
    """Read some cells of the frozen plan.

    Raises:
        UsageError: the plan has no such cell.
    """
    plan = pq.ParquetFile(folder.plan).read()  # not read_table, which imports pandas
    rows = plan.filter(pc.is_in(plan["cell_id"], pa.array(cell_ids, pa.string()))).to_pylist()
    found = {
        r["cell_id"]: PlannedCell(cell_from_row(r), DataSettings.from_columns(r)) for r in rows
    }
    for cell_id in cell_ids:
        if cell_id not in found:
            raise UsageError(f"{cell_id} is not in {folder.plan}")
    return [found[cell_id] for cell_id in cell_ids]
