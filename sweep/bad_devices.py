"""GPUs that failed: noted by whoever saw it, and left out after the second time.

<sweep>/device_failures/<node>.<gpu>.<time>.json
"""

import json
import os
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from sweep.folder import SweepFolder

TOO_MANY = 2


def this_gpu() -> str:
    """Name of the GPU that this process was given, as its node numbers it; "" without one."""
    for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES"):
        if os.environ.get(name):
            return os.environ[name]
    return ""


def note_failure(folder: SweepFolder, reason: str) -> None:
    """Note that the GPU of this process failed."""
    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    name = ".".join(re.sub(r"[^\w,:-]", "_", part) for part in (node, this_gpu()))
    at = datetime.now(UTC)
    path = _folder(folder) / f"{name}.{at:%Y%m%dT%H%M%S%f}-{os.getpid()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"node": node, "gpu": this_gpu(), "reason": reason}) + "\n")


def bad_gpus(folder: SweepFolder) -> list[tuple[str, str]]:
    """(node, gpu) of those that failed too often."""
    seen: Counter[tuple[str, str]] = Counter()
    for path in _folder(folder).glob("*.json"):
        try:
            told = json.loads(path.read_text())
            seen[told["node"], told["gpu"]] += 1
        except (OSError, ValueError, KeyError):
            continue  # cut in the middle: no evidence
    return sorted(gpu for gpu, times in seen.items() if times >= TOO_MANY)


def bad_nodes(folder: SweepFolder) -> list[str]:
    """Nodes with a GPU that failed too often: SLURM can leave out nodes only."""
    return sorted({node for node, _ in bad_gpus(folder)})


def _folder(folder: SweepFolder) -> Path:
    return folder.path / "device_failures"
