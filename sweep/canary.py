"""The canary: one short job that checks what cells need, before arrays of them start.

`python -P -m sweep.canary SUBMISSION.json` writes <sweep>/canary/<submission>.json with every check in
words, and ends with 3 where one failed. The arrays depend on it (afterok, kill-on-invalid-dep), so that
they never start where it fails.
"""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from results.provenance import PACKAGES, now, versions
from slurm.submit import SAID_WHY
from sweep import checkpoint
from sweep.canary_words import canary_file
from sweep.errors import UsageError
from sweep.folder import SweepFolder, read_plan
from sweep.frozen import Frozen, open_submission
from sweep.submissions import Submission

COMPARED = ("torch", "numpy", "pyarrow")


@dataclass(frozen=True)
class Check:
    """One thing that cells need."""

    name: str
    ok: bool
    found: str  # what there is, or what is wrong and what to do


def main() -> int:
    """Check, say, and write it down."""
    folder, submission, frozen = open_submission(Path(sys.argv[1]))
    checks = run_checks(folder, submission, frozen)
    for check in checks:
        print(f"{'ok ' if check.ok else 'BAD'} {check.name}: {check.found}", flush=True)
    bad = [c for c in checks if not c.ok]
    said = {
        "ok": not bad,
        "at": now(),
        "host": os.environ.get("SLURMD_NODENAME") or os.uname().nodename,
        "checks": [asdict(c) for c in checks],
    }
    path = canary_file(folder, submission)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(said, path)
    return SAID_WHY if bad else 0


def run_checks(folder: SweepFolder, submission: Submission, frozen: Frozen) -> list[Check]:
    """Make every check that can be made; one that fails does not hide the next."""
    asked = submission.settings["canary"]
    checks: list[tuple[str, Callable[[], str]]] = [
        ("code", _check_code),
        ("environment", lambda: _check_versions(asked["versions"])),
        ("shards", lambda: _check_shards(folder, frozen)),
        ("device", lambda: _check_device(folder, frozen)),
        ("disk", lambda: _check_disk(folder, asked["disk_bytes"])),
    ]
    return [_check(name, look) for name, look in checks]


def environment_here() -> dict[str, Any]:
    """Versions that a canary compares with those of the launcher."""
    return versions(COMPARED)


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except Exception as e:
        text = str(e) if isinstance(e, UsageError) else f"{type(e).__name__}: {e}"
        return Check(name, False, " ".join(text.split())[:500])


def _check_code() -> str:
    here = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        origin = Path(__import__(name).__file__).resolve().parent.parent
        if origin != here:
            raise UsageError(f"{name} comes from {origin}, not from {here}: unset PYTHONPATH")
    return str(here)


def _check_versions(wanted: dict[str, str]) -> str:
    found = environment_here()
    other = [f"{k} {found[k]}, not {v}" for k, v in wanted.items() if found[k] != v]
    if other:
        raise UsageError(
            f"{', '.join(other)}, as where it was launched: load the same environment "
            "(cluster.setup, cluster.python)"
        )
    import torch

    return f"{sys.executable}, torch {torch.__version__}"


def _check_shards(folder: SweepFolder, frozen: Frozen) -> str:
    from sweep.data import open_data

    first = read_plan(folder)[0]
    data = open_data(
        frozen.shards,
        first.data,
        first.cell.model.seq_len,
        verify=True,
        node_cache=frozen.node_cache,
    )
    return f"{data.train_tokens:,} training tokens in {frozen.shards}, checksums right"


def _check_device(folder: SweepFolder, frozen: Frozen) -> str:
    """Open the device as a cell would, and train a step of the smallest cell."""
    from models.attention import attention_version
    from sweep.data import open_data
    from sweep.job import open_device_here
    from sweep.train import Trainer

    device = open_device_here(folder, frozen, ranks_here=1)
    smallest = min(read_plan(folder), key=lambda p: p.cell.N)
    data = open_data(frozen.shards, smallest.data, smallest.cell.model.seq_len)
    loss = Trainer(smallest.cell, data.train, device, micro_rows=1).train_step().item()
    return (
        f"{device.board}, {device.dtype_name}, attention {device.attention} "
        f"{attention_version(device.attention)}; loss {loss:.3f} at the first step of "
        f"{smallest.cell.id}"
    )


def _check_disk(folder: SweepFolder, needed: float) -> str:
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise UsageError(
            f"{free / 1e9:.3g} GB free for {needed / 1e9:.3g} GB of checkpoints: make room, or "
            "run.keep_checkpoints=none"
        )
    probe = folder.path / f".canary-{os.getpid()}"
    probe.write_bytes(b"x" * 65536)
    probe.unlink()
    return f"{free / 1e9:.3g} GB free, {needed / 1e9:.3g} GB needed"


if __name__ == "__main__":
    sys.exit(main())
