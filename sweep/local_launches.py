"""Launches on machines without SLURM that are under way: who they are, so that they can be stopped."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from slurm.lease import Holder, me
from sweep.folder import SweepFolder


@contextlib.contextmanager
def announced(folder: SweepFolder) -> Iterator[None]:
    """Say, as long as it lasts, that this process trains cells of a sweep."""
    own = me()
    path = _place(folder) / f"{own['host']}-{own['pid']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(own) + "\n")
    part.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def local_launches(folder: SweepFolder) -> list[Holder]:
    """Return launches that have not ended, as far as can be told from here."""
    found = []
    for path in sorted(_place(folder).glob("*.json")):
        try:
            owner = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        launch = Holder(0, path, owner)
        if launch.is_dead():
            path.unlink(missing_ok=True)
        else:
            found.append(launch)
    return found


def launches_here(folder: SweepFolder) -> int:
    """Count launches of a sweep on this machine, this one among them."""
    here = me()["machine"]
    return sum(launch.owner.get("machine") == here for launch in local_launches(folder))


def _place(folder: SweepFolder) -> Path:
    return folder.path / "launch" / "local"
