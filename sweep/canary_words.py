"""Where a canary (sweep/canary.py) writes what it found, and that in words."""

import json
from pathlib import Path

from sweep.folder import SweepFolder
from sweep.submissions import Submission


def canary_file(folder: SweepFolder, submission: Submission) -> Path:
    """Where a canary says what it found."""
    return folder.path / "canary" / f"{submission.name}.json"


def canary_words(folder: SweepFolder, submission: Submission) -> str | None:
    """Say what a canary found wrong; "" where all was well, None where it has not ended."""
    try:
        said = json.loads(canary_file(folder, submission).read_text())
    except (OSError, ValueError):
        return None
    return "; ".join(f"{c['name']}: {c['found']}" for c in said["checks"] if not c["ok"])
