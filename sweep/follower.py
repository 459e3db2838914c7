"""One rank but the first of several that train a cell: `python -P -m sweep.follower`.

Reads two lines of JSON on stdin: what to join, and the checkpoint to go on from. Ends after the
last step, or when its stdin ends: then the leader has stopped, or is dead.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from sweep import checkpoint
from sweep.batches import Batches
from sweep.cell import Cell
from sweep.cells import cell_from_row
from sweep.data import DataSettings, open_data
from sweep.device import Device, open_device
from sweep.ranks import GO_ON_FROM, Ranks, join
from sweep.settings import HardwareSettings
from sweep.train import Diverged, Trainer, train

_LEADER_LEAVES = 15.0  # seconds in which a follower notices that its leader has left


def main() -> None:
    """Train this rank's share, as the leader says on stdin."""
    setup = json.loads(sys.stdin.readline())
    said: queue.Queue[str] = queue.Queue()
    threading.Thread(
        target=_listen, args=(said,), daemon=True
    ).start()  # the leader may die any time
    device = open_device(HardwareSettings(**setup["hardware"]), setup["rank"])
    node_cache = setup["node_cache"]
    rows = open_rows(
        cell_from_row(setup["cell"]),
        DataSettings.from_columns(setup["data"]),
        Path(setup["shards"]),
        Path(node_cache) if node_cache else None,
    )
    store = dist.TCPStore("127.0.0.1", setup["port"], is_master=False)
    ranks = join(device, setup["rank"], store)

    def go_on_from() -> str | None:
        return json.loads(said.get())["checkpoint"]

    follow(cell_from_row(setup["cell"]), rows, device, ranks, go_on_from)


def follow_task(
    cell: Cell, rows: Batches, device: Device, rank: int, meet: Path, seconds: float = 300.0
) -> None:
    """Train this rank's share as a task that SLURM started; ends this process.

    Args:
        cell: what is trained.
        rows: its training rows.
        device: of this rank.
        rank: of all tasks of the job's step.
        meet: file in which the leader says where it is.
        seconds: to wait for that.
    """
    store = _find_leader(meet, seconds)
    one_machine = os.environ.get("SLURM_NNODES", "1") == "1"
    ranks = join(device, rank, store, one_machine)

    def go_on_from() -> str | None:
        path = store.get(GO_ON_FROM).decode() or None
        threading.Thread(target=_end_with_the_store, args=(meet,), daemon=True).start()
        return path

    follow(cell, rows, device, ranks, go_on_from)


def follow(
    cell: Cell, rows: Batches, device: Device, ranks: Ranks, go_on_from: Callable[[], str | None]
) -> None:
    """Take every step that the leader takes; ends this process."""
    trainer = Trainer(cell, rows, device, ranks=ranks)
    path = go_on_from()
    if path is not None:
        trainer.restore(checkpoint.load(Path(path))["trainer"])
    trainer.settle()
    try:
        train(trainer, lambda step, loss: None)
    except Diverged:
        pass  # the leader saw the same loss, and says so
    except RuntimeError:
        # The leader may have ended the cell. Then a thread ends this process, with 0: srun takes any
        # other exit for a failure, and would kill the leader before it has written its record.
        time.sleep(_LEADER_LEAVES)
        raise
    os._exit(0)  # nothing to clean up, and a process group can be slow to end


def open_rows(cell: Cell, asked: DataSettings, shards: Path, node_cache: Path | None) -> Batches:
    """Open a cell's training rows."""
    return open_data(shards, asked, cell.model.seq_len, node_cache=node_cache).train


def _find_leader(meet: Path, seconds: float) -> dist.TCPStore:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            told = json.loads(meet.read_text())
            return dist.TCPStore(told["host"], told["port"], is_master=False)
        except (OSError, ValueError):
            time.sleep(0.2)
    raise TimeoutError(f"rank 0 did not say in {seconds:.0f} s where it is ({meet})")


def _end_with_the_store(meet: Path) -> None:
    """End when the leader takes its file away, which it does before it evaluates or leaves."""
    while meet.exists():
        time.sleep(1.0)
    time.sleep(10.0)  # the last step may be on its way
    os._exit(0)


def _listen(said: queue.Queue[str]) -> None:
    """Pass on what the leader says, and end with it."""
    for line in sys.stdin:
        said.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
