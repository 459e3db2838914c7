"""Which code trains a sweep: a snapshot in its folder, the same one from the first cell to the last."""

from pathlib import Path

from results.provenance import CHECKOUT, PACKAGES
from slurm.snapshot import Snapshot, SnapshotError, describe_code, list_snapshots, take_snapshot
from sweep.errors import UsageError
from sweep.folder import SweepFolder


def code_folder(folder: SweepFolder) -> Path:
    """Where the snapshots of a sweep lie."""
    return folder.path / "code"


def choose_code(folder: SweepFolder, asked: str | None, anything_to_do: bool) -> Snapshot:
    """Say which code a launch trains with; writes nothing.

    Args:
        folder: the sweep.
        asked: launch.code: None, frozen or new.
        anything_to_do: whether a cell is left to train.

    Raises:
        UsageError: the sweep was begun by other code, and nobody said which to take.
    """
    try:
        known, now = list_snapshots(code_folder(folder)), describe_code(CHECKOUT, PACKAGES)
    except SnapshotError as e:
        raise UsageError(f"{e}; start a new sweep: sweep=NAME") from None
    if not known or known[-1].content == now.content or asked == "new":
        return now
    if asked == "frozen" or not anything_to_do:
        return known[-1]
    raise UsageError(
        f"sweep={folder.name} was launched with code {known[-1].name}, this is {now.name}: "
        "launch.code=frozen trains the rest with the code that began it, launch.code=new with "
        "this one, sweep=NAME starts a new sweep"
    )


def keep_code(folder: SweepFolder, chosen: Snapshot) -> Path:
    """Make sure that the chosen snapshot is there; returns its folder."""
    path = code_folder(folder) / chosen.name
    if not path.exists():
        chosen = take_snapshot(CHECKOUT, PACKAGES, code_folder(folder))
    return code_folder(folder) / chosen.name
