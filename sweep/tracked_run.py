"""A run as packages see it that show runs, and what such a package is to us."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """What a package that shows runs is to us."""

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Show one evaluation: values that are finite, `tokens` and `flops` among them."""

    def end(self, summary: Mapping[str, Any]) -> None:
        """Send what is left. summary: columns of the record; empty where the attempt goes on later."""


@dataclass(frozen=True)
class TrackedRun:
    """One run as trackers see it: an attempt, with those that it went on from.

    Attributes:
        id: of this run alone, also among sweeps of one name. name: the cell's id.
        group: the sweep. project: of wandb and trackio.
        folder: for what a tracker keeps on disk. config: what was asked of the cell.
    """

    id: str
    name: str
    group: str
    project: str
    folder: Path
    config: Mapping[str, Any]
