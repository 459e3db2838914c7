"""What launch.stop_hopeless freezes: the losses that a law predicts of the cells to be trained.

Frozen with the launch, what a cell is judged by was written down before it began, whatever is fitted
meanwhile.
"""

from collections.abc import Sequence
from pathlib import Path

from analysis.fits_file import FitsError
from analysis.tables import sha256_of
from sweep.cells import cell_to_row
from sweep.cluster import LaunchSettings
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.folder import PlannedCell, SweepFolder
from sweep.outlooks import expected_of, law_for
from sweep.stop_rule import StopRule

FEWEST_EVALUATIONS = (
    4  # three that show anything, and the last, after which there is nothing to end
)


def freeze_rule(
    folder: SweepFolder, how: LaunchSettings, to_train: Sequence[PlannedCell], evaluations: int
) -> StopRule | None:
    """Predict the cells of a launch; None where it is to end nobody.

    Raises:
        UsageError: no law, one that claims no interval at any of the cells, or too few evaluations.
    """
    if not how.stop_hopeless or not to_train:
        return None
    if evaluations < FEWEST_EVALUATIONS:
        raise UsageError(
            f"launch.stop_hopeless judges by evaluations along the way: run.evaluations={evaluations} "
            f"must be at least {FEWEST_EVALUATIONS}"
        )
    path = folder.fits if how.fits is None else fits_file(how.fits)
    try:
        law = law_for(path, str(to_train[0].cell.flop_rule))
    except FitsError as e:
        raise UsageError(
            f"launch.stop_hopeless needs a law: {e}; another one: launch.fits=FILE"
        ) from None
    grid = [p.cell for p in to_train if p.cell.probe is None]
    found = {cell.id: expected_of(law, cell_to_row(cell)) for cell in grid}
    claimed = {i: e for i, e in found.items() if e.reason is None}
    if not claimed:
        why = next((e.reason for e in found.values()), "only probes are left to train")
        raise UsageError(f"launch.stop_hopeless would end no cell by {path}: {why}; leave it out")
    expected = {i: (e.loss, *e.interval) for i, e in claimed.items()}
    return StopRule(str(path), sha256_of(path), law.level, expected)


def fits_file(name: str) -> Path:
    """Path of a fits.json that a person named, or of the one in a folder that they named."""
    path = expand(name)
    return path / "fits.json" if path.is_dir() else path
