"""Train cells on several ranks that this process forks, and print what rank 0 saw.

    python ranks_driver.py JOB.json      (folders, runs) -> a JSON line for each run

A run names ranks, micro_rows, a seed, and where to stop and to start again in new processes. Forks
share one import of torch; that real followers do the same is tested by test_ranks.py.
"""

import hashlib
import itertools
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch._dynamo  # DDP imports it: once, here, for all forks
import torch.distributed as dist
from helpers_cells import CPU, MODEL, data_settings, tiny_cell

from sweep import checkpoint
from sweep.data import open_data
from sweep.device import open_device
from sweep.ranks import Ranks, join
from sweep.train import Trainer

STEPS = 12


def train_rank(run: dict, rank: int, port: int, rows, folder: Path, lives: tuple) -> dict:
    """Train one rank from lives[0] to lives[1] steps."""
    first, last = lives
    device = open_device(replace(CPU, ranks=run["ranks"], micro_rows=run["micro_rows"]))
    cell = tiny_cell(STEPS, seed=run["seed"], batch_rows=10)  # over 4 ranks: 3, 3, 2 and 2
    ranks = Ranks()
    if run["ranks"] > 1:
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
        ranks = join(device, rank, store)
    trainer = Trainer(cell, rows, device, ranks=ranks)
    if first:
        trainer.restore(checkpoint.load(folder / f"{first}.pt"))
    losses = [trainer.train_step().item() for _ in range(first, last)]
    if rank == 0:
        checkpoint.save(trainer.state(), folder / f"{last}.pt")
    digest = hashlib.sha256()
    for p in trainer.model.state_dict().values():
        digest.update(p.numpy().tobytes())
    return {"losses": losses, "weights": digest.hexdigest(), "noise": trainer.noise_tokens(),
            "micro_rows": trainer.micro_rows}  # fmt: skip


def life(run: dict, rows, folder: Path, lives: tuple) -> list[dict]:
    """Fork one process a rank; returns what each saw."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pids = []
    for rank in range(run["ranks"]):
        pid = os.fork()
        if pid == 0:
            try:
                saw = train_rank(run, rank, store.port, rows, folder, lives)
                (folder / f"rank{rank}.json").write_text(json.dumps(saw))
                os._exit(0)
            except BaseException as e:
                print(f"rank {rank}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
                os._exit(1)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * run["ranks"]
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in range(run["ranks"])]


def main() -> None:
    """Run the job."""
    job = json.loads(Path(sys.argv[1]).read_text())
    rows = open_data(Path(job["shards"]), data_settings(job["text"]), MODEL.seq_len).train
    for run in job["runs"]:
        with tempfile.TemporaryDirectory() as folder:
            borders = [0, *run["stops"], STEPS]
            lives = list(itertools.pairwise(borders))
            seen = [life(run, rows, Path(folder), lived) for lived in lives]
        print(
            json.dumps(
                {
                    "losses": [loss for ranks in seen for loss in ranks[0]["losses"]],
                    "weights": sorted({rank["weights"] for rank in seen[-1]}),
                    "noise": seen[-1][0]["noise"],
                    "micro_rows": seen[-1][0]["micro_rows"],
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
