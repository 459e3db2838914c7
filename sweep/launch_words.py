"""The words of a sweep's last launch, kept so that the commands that status prints are complete."""

import json
from collections.abc import Sequence
from pathlib import Path

from sweep import checkpoint
from sweep.folder import SweepFolder

_OF_ONE_LAUNCH = ("root", "sweep", "launch.dry_run", "launch.only", "launch.code")


def keep_words(folder: SweepFolder, words: Sequence[str]) -> None:
    """Write them down, in the place of those of the launch before."""
    path = _place(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(list(words), path)


def read_words(folder: SweepFolder) -> list[str]:
    """Return what every launch of the sweep needs to be told; empty where nobody wrote it down.

    Root and sweep are left out: whoever reads has words of their own for them.
    """
    try:
        words = json.loads(_place(folder).read_text())
    except (OSError, ValueError):
        return []
    return [w for w in words if w.partition("=")[0] not in _OF_ONE_LAUNCH]


def _place(folder: SweepFolder) -> Path:
    return folder.path / "launch" / "words.json"
