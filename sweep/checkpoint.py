"""Checkpoints: the last two, each whole, and never a pickle that could run code."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

from slurm.lease import Lease


class CheckpointError(Exception):
    """A checkpoint that can't be read or is of something else."""


def save(state: dict[str, Any], path: Path, lease: Lease | None = None) -> None:
    """Write a checkpoint beside the last one, which then becomes the one before.

    Whatever happens in between, also a full disk, at least one whole checkpoint is there.

    Raises:
        LeaseLost: the attempt is somebody else's by now; the checkpoints are as they were.
    """
    import torch  # late: the launcher and status write and read JSON alone

    path.parent.mkdir(parents=True, exist_ok=True)
    part = lease.stage("state.part") if lease else path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        if lease:
            lease.check()
        if path.exists():
            path.replace(_before(path))
        lease.put(part, path) if lease else part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def newest_first(path: Path) -> list[Path]:
    """Checkpoints that are there: the last one, and the one before it."""
    return [p for p in (path, _before(path)) if p.exists()]


def keep_as(path: Path, step: int) -> None:
    """Give the last checkpoint a name of its own that later ones don't take."""
    own = path.with_name(f"step-{step:08d}.pt")
    own.unlink(missing_ok=True)
    os.link(path, own)


def drop(path: Path, keep: str) -> None:
    """Leave of a recorded attempt's checkpoints what `run.keep_checkpoints` says."""
    if keep == "none":
        shutil.rmtree(path.parent, ignore_errors=True)
    else:
        _before(path).unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, and compare its checksums: torch writes them and does not look at them.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as parts:
            if damaged := parts.testzip():
                raise zipfile.BadZipFile(damaged)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises a different type for every kind of damage
        raise CheckpointError(
            f"{path} can't be read ({type(e).__name__}): delete it to start the attempt over"
        ) from None


def _before(path: Path) -> Path:
    return path.with_name("previous.pt")


def write_json(value: Any, path: Path, lease: Lease | None = None) -> None:
    """Write JSON so that `path` holds either the old text or the new one.

    Raises:
        LeaseLost: the attempt is somebody else's by now; the file is as it was.
    """
    text = json.dumps(value, indent=1, default=str) + "\n"
    if lease is None:
        write_text(text, path)
        return
    part = lease.stage(f"{path.name}.part")
    part.write_text(text)
    lease.put(part, path)


def write_text(text: str, path: Path) -> None:
    """Write text so that `path` holds either the old text or the new one."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)
