"""Checkpoints: a whole one or the one before, and never a pickle that could run code."""

import json
import os
from pathlib import Path
from typing import Any

import torch


class CheckpointError(Exception):
    """A checkpoint that can't be read or is of something else."""


def save(state: dict[str, Any], path: Path) -> None:
    """Write so that `path` holds either the old bytes or the new ones, also when the disk fills."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, or None where there is none.

    Raises:
        CheckpointError: the file is damaged, or holds more than tensors and plain values.
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises a different type for every kind of damage
        raise CheckpointError(
            f"{path} can't be read ({type(e).__name__}): delete it to start the attempt over"
        ) from None


def write_json(value: Any, path: Path) -> None:
    """Write JSON so that `path` holds either the old text or the new one."""
    write_text(json.dumps(value, indent=1, default=str) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write text so that `path` holds either the old text or the new one."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)
