"""Checkpoints at which cells leave their trunk: what the next longer one goes on from.

    <root>/<sweep>/trunks/<trunk>/step-<steps>.pt

They spare work and decide nothing: a cell that finds none trains from its first step to the same
bits. Each holds the evaluations along the way too, so that the curve of a branch is whole.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slurm.lease import Lease
from sweep import checkpoint
from sweep.cell import Cell
from sweep.checkpoint import CheckpointError
from sweep.folder import SweepFolder


def save_branching(
    folder: SweepFolder, cell: Cell, state: dict[str, Any], curve: Path, data: str, lease: Lease
) -> None:
    """Keep the state of a cell that is at its branch step.

    Args:
        folder: the sweep.
        cell: which.
        state: of its attempt, as its own checkpoint holds it.
        curve: its evaluations so far.
        data: sha256 of what it was trained on.
        lease: of the attempt.

    Raises:
        LeaseLost: the attempt is somebody else's by now; nothing was written.
    """
    path = _place(folder, cell) / f"step-{cell.branch_step:08d}.pt"
    if path.exists():
        return
    text = curve.read_text() if curve.exists() else ""
    checkpoint.save({**state, "curve": text, "data_sha256": data}, path, lease)


def branchings(folder: SweepFolder, cell: Cell) -> list[Path]:
    """Checkpoints of the cell's trunk up to its branch step, the longest first."""
    if not cell.on_trunk:
        return []
    found = {int(p.stem.removeprefix("step-")): p for p in _place(folder, cell).glob("step-*.pt")
             if p.stem.removeprefix("step-").isdigit()}  # fmt: skip
    return [found[step] for step in sorted(found, reverse=True) if step <= cell.branch_step]


def load_branching(path: Path, data: str) -> dict[str, Any]:
    """Read one.

    Raises:
        CheckpointError: it is damaged, or of a run that saw other data.
    """
    state = checkpoint.load(path)
    if state.get("data_sha256") != data:
        raise CheckpointError(f"{path} is of a run on other data")
    return state


def drop_before(folder: SweepFolder, cell: Cell, say: Callable[[str], None]) -> None:
    """Remove what a cell that is done, and those longer than it, have no use for."""
    for path in branchings(folder, cell)[1:]:
        try:
            path.unlink(missing_ok=True)
        except OSError as e:
            say(f"{path} can't be removed ({e.strerror})")


def _place(folder: SweepFolder, cell: Cell) -> Path:
    return folder.path / "trunks" / str(cell.trunk)
