"""Which cells were tried and did not finish, for launch.only=failed."""

from collections.abc import Iterable

from sweep.folder import SweepFolder


def tried_cells(folder: SweepFolder, cell_ids: Iterable[str]) -> set[str]:
    """Cells with a folder of an attempt; of those without a terminal record, they failed or fell."""
    found = set()
    for cell_id in cell_ids:
        base = folder.cell(cell_id)
        if base.is_dir() and any(p.name.isdigit() for p in base.iterdir()):
            found.add(cell_id)
    return found
