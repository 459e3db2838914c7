"""Kill real attempts at chosen moments, restart them, and print what they recorded.

    python kill_driver.py JOB.json      (folders, moments) -> a JSON line for each moment

Every attempt runs in a forked child of this process, which is killed by SIGKILL in the middle of
what `at` names: nothing of it is cleaned up, nothing buffered is written.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from helpers_cells import CPU, data_settings, tiny_cell

from models import build
from models.gpt import GPT
from results import provenance
from results.store import read_records
from sweep import attempt, checkpoint, optimizer, train
from sweep.claim import claim
from sweep.data import open_data
from sweep.device import Device, open_device
from sweep.folder import SweepFolder
from sweep.settings import RunSettings


class NoisyGPT(GPT):
    """A model that draws from torch's generator, as dropout would."""

    def hidden(self, tokens_BT: torch.Tensor, document_BT=None, routed=None) -> torch.Tensor:
        """Add noise to what the head multiplies."""
        x_BTC = super().hidden(tokens_BT, document_BT, routed)
        return x_BTC + 0.1 * torch.randn(x_BTC.shape)


def die() -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(owner: object, name: str, nth: int, before: bool) -> None:
    """Have the nth call of owner.name end the process, before or after its work."""
    real, calls = getattr(owner, name), [0]

    def wrapped(*args, **kwargs):
        calls[0] += 1
        if before and calls[0] == nth:
            die()
        result = real(*args, **kwargs)
        if calls[0] == nth:
            die()
        return result

    setattr(owner, name, wrapped)


def half_a_checkpoint(nth: int) -> None:
    """Have the nth checkpoint end the process when half of its bytes are on disk."""
    real, calls = torch.save, [0]

    def save(state, f):
        real(state, f)
        calls[0] += 1
        if calls[0] == nth:
            f.flush()
            os.truncate(f.name, os.path.getsize(f.name) // 2)
            die()

    torch.save = save


def half_a_curve_row(nth: int) -> None:
    """Have the nth evaluation end the process when half of its row is on disk."""
    real, calls = attempt._Run._add_to_curve, [0]

    def add(run, step):
        real(run, step)
        calls[0] += 1
        if calls[0] == nth:
            os.truncate(run.attempt.curve, os.path.getsize(run.attempt.curve) - 20)
            die()

    attempt._Run._add_to_curve = add


def always(function: Callable[[], None]) -> Callable[[int], None]:
    """Take a count that does not matter, for what happens once."""
    return lambda nth: function()


MOMENTS: dict[str, Callable[[int], None]] = {
    "in a step": lambda n: kill_at(optimizer.AdamW, "step", n, before=True),
    "after a step": lambda n: kill_at(train.Trainer, "train_step", n, before=False),
    "in an evaluation": half_a_curve_row,
    "in a checkpoint": half_a_checkpoint,
    "before a checkpoint has its name": lambda n: kill_at(checkpoint.Path, "replace", n, True),
    "after a checkpoint": lambda n: kill_at(checkpoint, "save", n, before=False),
    "in the final evaluation": always(lambda: kill_at(attempt._Run, "_save", 1, before=False)),
    "between checkpoint and record": always(lambda: kill_at(attempt, "write_record", 1, True)),
    "in the record": always(lambda: kill_at(os, "link", 1, before=True)),
    "between record and status": always(lambda: kill_at(attempt, "write_record", 1, False)),
}


def in_a_child(work: Callable[[], None]) -> int:
    """Fork, work, and return the child's wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as e:
            print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def finish(folder: SweepFolder, cell, data, asked, device: Device, seconds: float) -> None:
    """Do what a relaunch does with one cell."""
    if list(folder.records.glob(f"{cell.id}.*.parquet")):
        return
    claimed = claim(folder, cell, resume=True)
    settings = RunSettings(evaluations=6, checkpoint_seconds=seconds)
    attempt.run_attempt(claimed, folder, data, asked, device, settings)


def final_weights(path: Path) -> str:
    """Return sha256 of the weights that a finished cell left."""
    digest = hashlib.sha256()
    for p in checkpoint.load(path)["trainer"]["model"].values():
        digest.update(p.numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    """Run the job."""
    job = json.loads(Path(sys.argv[1]).read_text())
    asked = data_settings(job["text"])
    data = open_data(Path(job["shards"]), asked, 32)
    device = open_device(CPU)
    attempt._matmul_peak(device)  # once, here, for all children; so is the next line
    provenance.environment()
    for i, moment in enumerate(job["moments"]):
        cell = tiny_cell(steps=12, seed=moment["seed"])
        folder = SweepFolder(Path(job["root"]), f"s{i}")

        def life(kills: list, folder=folder, cell=cell, moment=moment) -> None:
            if moment["noise"]:
                build.GPT = NoisyGPT
            for name, nth in kills:
                MOMENTS[name](nth)
            finish(folder, cell, data, asked, device, moment["checkpoint_seconds"])

        deaths = [in_a_child(lambda k=k, life=life: life([k])) for k in moment["kills"]]
        last = in_a_child(lambda life=life: life([]))
        rows = read_records(folder.records)
        own = folder.cell(cell.id) / "0"
        curve = own / "train.jsonl"
        print(
            json.dumps(
                {
                    "killed": [os.WIFSIGNALED(d) and os.WTERMSIG(d) == 9 for d in deaths],
                    "last": last,
                    "records": len(rows),
                    "status": rows["status"].tolist(),
                    "loss": rows["val_loss"].iloc[0].hex(),
                    "train_loss": rows["train_loss"].iloc[0].hex(),
                    "weights": final_weights(own / "checkpoint" / "state.pt"),
                    "restarts": int(rows["restarts"].iloc[0]),
                    "attempts": sorted(p.name for p in folder.cell(cell.id).iterdir()),
                    "curve": [json.loads(line) for line in curve.read_text().splitlines()],
                    "left": sorted(p.name for p in folder.path.rglob("*.part")),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
