"""Train cells on several ranks and print what rank 0 saw.

    python ranks_driver.py JOB.json      (folders, runs) -> a JSON line for each run

A run names ranks, micro_rows, a seed, options of the model, and steps at which it stops and goes on with new trainers from
its checkpoint. Four processes take part in all runs, one after another, so that torch is imported
once each; that real followers do the same is tested by test_ranks.py.
"""

import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from helpers_cells import CPU, MODEL, data_settings, tiny_cell

from sweep import checkpoint
from sweep.data import open_data
from sweep.device import open_device
from sweep.ranks import Ranks, join
from sweep.train import Trainer

STEPS, MOST = 12, 4


def life(
    run: dict, rank: int, store: dist.Store, rows, folder: Path, first: int, last: int
) -> dict:
    """Train one rank from step `first` to step `last`."""
    device = open_device(replace(CPU, ranks=run["ranks"], micro_rows=run["micro_rows"]))
    model = replace(MODEL, **run["model"])
    cell = tiny_cell(STEPS, seed=run["seed"], model=model, batch_rows=10)  # of 4 ranks: 3, 3, 2, 2
    ranks = join(device, rank, store) if run["ranks"] > 1 else Ranks()
    trainer = Trainer(cell, rows, device, ranks=ranks)
    if first:
        trainer.restore(checkpoint.load(folder / f"{first}.pt"))
    losses = [trainer.train_step().item() for _ in range(first, last)]
    digest = hashlib.sha256()
    for p in trainer.model.state_dict().values():
        digest.update(p.numpy().tobytes())
    if rank == 0:
        checkpoint.save(trainer.state(), folder / f"{last}.pt")
    weights = [digest.hexdigest()] * run["ranks"]
    if run["ranks"] > 1:
        dist.all_gather_object(weights, digest.hexdigest())
        time.sleep(0.1)  # gloo's threads let go of tensors, which a group's end may deadlock with
        dist.destroy_process_group()
    return {"losses": losses, "weights": sorted(set(weights)), "noise": trainer.noise_tokens(),
            "micro_rows": trainer.micro_rows}  # fmt: skip


def take_part(job: dict, rank: int, store: dist.Store, folder: Path) -> None:
    """Take part in all runs that have this rank; rank 0 prints."""
    rows = open_data(Path(job["shards"]), data_settings(job["text"]), MODEL.seq_len).train
    for i, run in enumerate(job["runs"]):
        if rank >= run["ranks"]:
            continue
        own, seen = folder / str(i), []
        own.mkdir(exist_ok=True)
        for first, last in itertools.pairwise([0, *run["stops"], STEPS]):
            meeting = dist.PrefixStore(f"{i}/{first}", store)
            seen.append(life(run, rank, meeting, rows, own, first, last))
        if rank == 0:
            losses = [loss for lived in seen for loss in lived["losses"]]
            print(json.dumps({**seen[-1], "losses": losses}), flush=True)


def main() -> None:
    """Run the job as rank 0 and start the others, or be one of them."""
    job = json.loads(Path(sys.argv[1]).read_text())
    if len(sys.argv) > 2:
        rank, port, folder = int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
        store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=120))
        take_part(job, rank, store, folder)
        return
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        others = [
            subprocess.Popen([sys.executable, *sys.argv, str(rank), str(store.port), folder])
            for rank in range(1, MOST)
        ]
        take_part(job, 0, store, Path(folder))
        assert [other.wait() for other in others] == [0] * (MOST - 1)


if __name__ == "__main__":
    main()
