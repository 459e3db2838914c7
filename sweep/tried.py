"""Which cells a launch trains: all that have no result, or those that launch.only names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from results.store import stopped_cells
from sweep.folder import PlannedCell, SweepFolder


@dataclass(frozen=True)
class Chosen:
    """Cells to train; `anew`: those of them that were stopped, with their last stopped attempt."""

    cells: list[PlannedCell]
    anew: Mapping[str, int]


def choose_cells(
    folder: SweepFolder, only: str | None, whole: Sequence[PlannedCell], done: Mapping[str, str]
) -> Chosen:
    """Choose among the cells of a plan.

    Args:
        folder: the sweep.
        only: launch.only.
        whole: the plan.
        done: status of the result of each cell that has one.
    """
    if only == "stopped":
        anew = stopped_cells(folder.records, [i for i, status in done.items() if status == only])
        return Chosen([p for p in whole if p.cell.id in anew], anew)
    left = [p for p in whole if p.cell.id not in done]
    if only == "failed":
        tried = tried_cells(folder, [p.cell.id for p in left])
        left = [p for p in left if p.cell.id in tried]
    return Chosen(left, {})


def tried_cells(folder: SweepFolder, cell_ids: Iterable[str]) -> set[str]:
    """Cells with a folder of an attempt; of those without a terminal record, they failed or fell."""
    found = set()
    for cell_id in cell_ids:
        base = folder.cell(cell_id)
        if base.is_dir() and any(p.name.isdigit() for p in base.iterdir()):
            found.add(cell_id)
    return found
