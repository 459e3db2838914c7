"""What a collected sweep holds for a fit and a report: records, points without probes, curves."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.points import Excluded, Points, PointsError, points_from_records
from results.store import StoreError, read_records
from sweep.data_columns import with_loss_of
from sweep.errors import UsageError
from sweep.folder import SweepFolder


def sweep_points(folder: SweepFolder, N_convention: str, loss: str | None = None) -> Points:
    """Points of a collected sweep, N under a convention, with the loss of one set or of all.

    Probes of the recipe are excluded.

    Raises:
        UsageError: nothing collected yet, or no such set.
        PointsError: no finished cell, or cells that can't be compared.
    """
    return points_without_probes(judged_on(folder, loss), N_convention)


def record_points(path: Path, N_convention: str) -> Points:
    """Points of one file of records, N under a convention, without probes of the recipe.

    Raises:
        PointsError: no records in it, no finished cell, or cells that can't be compared.
    """
    try:
        return points_without_probes(read_records(path), N_convention)
    except StoreError as e:
        raise PointsError(str(e)) from None


def fitted_curves(folder: SweepFolder, records: pd.DataFrame) -> pd.DataFrame | None:
    """Read collected training curves, without those of probes; None where none were collected."""
    if not folder.curves.exists():
        return None
    curves = pd.read_parquet(folder.curves)
    return curves[~curves["cell_id"].isin(_probes(records))]


def collected_records(folder: SweepFolder) -> pd.DataFrame:
    """Read records.parquet.

    Raises:
        UsageError: it is not there, or damaged.
    """
    if not folder.collected.exists():
        raise UsageError(
            f"sweep={folder.name} is not collected: no {folder.collected}; "
            f"first: isoflop collect sweep={folder.name}"
        )
    try:
        return read_records(folder.collected)
    except StoreError as e:
        raise UsageError(str(e)) from None


def judged_on(folder: SweepFolder, loss: str | None) -> pd.DataFrame:
    """Read the records, their loss that on one set, or on all sources where None."""
    records = collected_records(folder)
    return records if loss is None else with_loss_of(records, loss)


def points_without_probes(records: pd.DataFrame, N_convention: str) -> Points:
    """Points without probes, whose recipe or seed is not the grid's."""
    probes = _probes(records)
    points = points_from_records(records[~records["cell_id"].isin(probes)], N_convention)
    excluded = tuple(Excluded(cell_id, "probe") for cell_id in probes)
    return replace(points, excluded=points.excluded + excluded)


def _probes(records: pd.DataFrame) -> list[str]:
    return sorted(records.loc[records["probe"].notna(), "cell_id"].unique())
