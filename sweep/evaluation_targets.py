"""Which models are evaluated: of finished attempts, where the last checkpoint was kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from results.record import RecordStatus
from results.store import results_of
from sweep.errors import UsageError, find_one
from sweep.folder import SweepFolder
from sweep.stamps import file_sha256


class NotEvaluated(Exception):
    """One cell could not be evaluated; the text says why."""


@dataclass(frozen=True)
class Target:
    """A finished attempt."""

    folder: SweepFolder
    cell_id: str
    attempt: int
    val_sets: str | None  # of its record

    @property
    def path(self) -> Path:
        """Folder of the attempt."""
        return self.folder.cell(self.cell_id) / str(self.attempt)

    @property
    def checkpoint(self) -> Path:
        """File of the trained model."""
        return self.path / "checkpoint" / "state.pt"

    @cached_property
    def sha256(self) -> str:
        """Hash of that file.

        Raises:
            NotEvaluated: it is not there.
        """
        try:
            return file_sha256(self.checkpoint)
        except FileNotFoundError:
            raise NotEvaluated(
                f"its model was not kept ({self.checkpoint}): train it again with "
                "run.keep_checkpoints=last"
            ) from None


def targets_of(
    folder: SweepFolder, records: pd.DataFrame, asked: str | None, every: bool
) -> Sequence[Target]:
    """Return the finished attempts of a sweep that are evaluated.

    Args:
        folder: the sweep.
        records: its records.
        asked: a cell's id, or what begins it or its hash; None: all.
        every: probes and reruns too, which a law of another loss is checked with; else each cell's
            result, without probes unless one is asked for.

    Raises:
        UsageError: none has finished, or none has that name.
    """
    rows = records if every else results_of(records)
    rows = rows[rows["status"] == str(RecordStatus.FINISHED)]
    if asked is not None:
        rows = rows[rows["cell_id"] == find_one(asked, sorted(set(rows["cell_id"])))]
    elif not every:
        rows = rows[rows["probe"].isna()]
    if rows.empty:
        raise UsageError(f"sweep={folder.name} has no finished cell to evaluate: isoflop status")
    found = zip(rows["cell_id"], rows["attempt"], rows["val_sets"], strict=True)
    return [Target(folder, c, int(n), s if isinstance(s, str) else None) for c, n, s in found]
