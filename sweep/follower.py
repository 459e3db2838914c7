"""One rank but the first of several that train a cell: `python -P -m sweep.follower`.

Reads two lines of JSON on stdin: what to join, and the checkpoint to go on from. Ends after the
last step, or when its stdin ends: then the leader has stopped, or is dead.
"""

import json
import os
import sys
import threading
from pathlib import Path

import torch.distributed as dist

from sweep import checkpoint
from sweep.cells import cell_from_row
from sweep.data import DataSettings, open_data
from sweep.device import open_device
from sweep.ranks import join
from sweep.settings import HardwareSettings
from sweep.train import Diverged, Trainer, train


def main() -> None:
    """Train this rank's share."""
    setup = json.loads(sys.stdin.readline())
    device = open_device(HardwareSettings(**setup["hardware"]), setup["rank"])
    cell = cell_from_row(setup["cell"])
    node_cache = setup["node_cache"]
    data = open_data(
        Path(setup["shards"]),
        DataSettings.from_columns(setup["data"]),
        cell.model.seq_len,
        node_cache=Path(node_cache) if node_cache else None,
    )
    store = dist.TCPStore("127.0.0.1", setup["port"], is_master=False)
    ranks = join(device, setup["rank"], store)
    trainer = Trainer(cell, data.train, device, ranks=ranks)
    path = json.loads(sys.stdin.readline())["checkpoint"]
    if path is not None:
        trainer.restore(checkpoint.load(Path(path))["trainer"])
    threading.Thread(target=_end_with_the_leader, daemon=True).start()
    trainer.settle()
    try:
        train(trainer, lambda step, loss: None)
    except Diverged:
        pass  # the leader saw the same loss, and says so
    os._exit(0)  # nothing to clean up, and a process group can be slow to end


def _end_with_the_leader() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
