"""Several processes that train one cell: who leads, which rows are whose, how gradients meet.

Rank 0 leads: it claims, evaluates, saves and records. The others (sweep/follower.py) are started by
it on the same machine, or by SLURM on several, and then find it by a file that it writes. They end
with it. Every rank has a replica and a share of each batch.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from sweep import checkpoint
from sweep.device import Device

_PATIENCE = timedelta(hours=1)  # the leader evaluates while the others wait
_GRACE_SECONDS = 10.0
GO_ON_FROM = "go_on_from"  # key of the store


@dataclass
class Ranks:
    """One process among those that train the cell."""

    rank: int = 0
    size: int = 1
    local_squared: list[Tensor] = field(default_factory=list)  # of gradients not yet shared

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Rows of a batch that are this rank's, in order; the first ranks have one more."""
        return rows if self.size == 1 else np.array_split(rows, self.size)[self.rank]

    def most_rows(self, batch_rows: int) -> int:
        """Rows of the rank that has most of them."""
        return -(-batch_rows // self.size)

    def mean_rows(self, batch_rows: int) -> float:
        """Harmonic mean of the ranks' rows: a rank's gradient has noise of 1 / rows."""
        each = map(len, np.array_split(np.empty(batch_rows), self.size))
        return self.size / sum(1 / rows for rows in each)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Have gradients averaged over ranks in the backward pass."""
        if self.size == 1:
            return model
        with warnings.catch_warnings():  # torch 2.13 has another word for it, older ones have not
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = DistributedDataParallel(
                model, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        wrapped.register_comm_hook(self, _note_and_share)
        return wrapped

    def alone(self, module: nn.Module) -> contextlib.AbstractContextManager:
        """While open, backward passes add to this rank's gradients and share nothing."""
        return contextlib.nullcontext() if self.size == 1 else module.no_sync()

    def add_up(self, values: Tensor) -> Tensor:
        """Sum over ranks, the same bits in each."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def least(self, value: int, device: torch.device) -> int:
        """Smallest value of any rank."""
        if self.size == 1:
            return value
        smallest = torch.tensor(value, device=device)
        dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
        return int(smallest)

    def take_local_squared(self) -> Tensor:
        """Squared norm of this rank's own mean gradient in the last backward pass."""
        total = torch.stack(self.local_squared).sum()
        self.local_squared.clear()
        return total


@dataclass(frozen=True)
class Job:
    """What the other ranks need to know to join."""

    cell: dict[str, Any]  # a row, as sweep.cells makes it
    data: dict[str, Any]  # columns, as DataSettings makes them
    shards: Path
    node_cache: Path | None  # the node's own disk that rank 0 reads from
    meet: Path | None = None  # where ranks that SLURM started look for the leader


@contextlib.contextmanager
def lead(device: Device, job: Job) -> Iterator[tuple[Ranks, Callable[[Path | None], None]]]:
    """Start the other ranks and lead them.

    Yields:
        The leader's Ranks, and a function that has the others go on from a checkpoint, or from
        the start where it is given None.
    """
    if device.ranks == 1:
        yield Ranks(), lambda checkpoint: None
        return
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    if job.meet is not None:
        yield from _lead_tasks(device, job.meet, store)
        return
    setup = {
        "port": store.port,
        "hardware": {**asdict(device.hardware), "attention": str(device.attention)},
        "cell": job.cell,
        "data": job.data,
        "shards": str(job.shards),
        "node_cache": job.node_cache and str(job.node_cache),
    }
    others = [_start({**setup, "rank": rank}) for rank in range(1, device.ranks)]
    try:
        ranks = join(device, 0, store)
        yield ranks, lambda path: [_tell(o, {"checkpoint": path and str(path)}) for o in others]
    finally:
        _end(others)
        if dist.is_initialized():
            dist.destroy_process_group()


def _lead_tasks(
    device: Device, meet: Path, store: dist.TCPStore
) -> Iterator[tuple[Ranks, Callable[[Path | None], None]]]:
    """Lead ranks that are there already; their end is the end of the step that SLURM runs."""
    checkpoint.write_json({"host": own_name(), "port": store.port}, meet)
    try:
        ranks = join(device, 0, store, one_machine=os.environ.get("SLURM_NNODES", "1") == "1")
        yield ranks, lambda path: store.set(GO_ON_FROM, str(path or ""))
    finally:
        meet.unlink(missing_ok=True)
        if dist.is_initialized():
            dist.destroy_process_group()


def own_name() -> str:
    """Name or address by which other nodes reach this one."""
    for name in (os.environ.get("SLURMD_NODENAME"), socket.gethostname()):
        with contextlib.suppress(OSError):
            if name and socket.gethostbyname(name):
                return name
    return "127.0.0.1"


def join(device: Device, rank: int, store: dist.Store, one_machine: bool = True) -> Ranks:
    """Meet the other ranks; returns when all are there."""
    loopback = one_machine and Path("/sys/class/net/lo").exists()
    if "GLOO_SOCKET_IFNAME" not in os.environ and loopback:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # one machine: its name need not resolve
    backend = "nccl" if device.device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=device.ranks, timeout=_PATIENCE
    )
    return Ranks(rank, device.ranks)


def _note_and_share(ranks: Ranks, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Note the norm of what this rank adds to a bucket of gradients, then average over ranks.

    Over gloo the average is waited for: torch's own hook would have gloo's threads run Python, and
    a group that is destroyed meanwhile waits for them while it holds Python's lock.
    """
    buffer = bucket.buffer()
    ranks.local_squared.append(torch.linalg.vector_norm(buffer) ** 2)
    if buffer.device.type == "cuda":
        return allreduce_hook(dist.group.WORLD, bucket)
    dist.all_reduce(buffer.div_(ranks.size))
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(buffer)
    return done


def _start(setup: dict[str, Any]) -> subprocess.Popen:
    follower = subprocess.Popen(
        [sys.executable, "-P", "-m", "sweep.follower"],
        stdin=subprocess.PIPE,
        stdout=2,  # stdout may be somebody's protocol
        start_new_session=True,  # Ctrl-C is for the leader
        text=True,
    )
    _tell(follower, setup)
    return follower


def _tell(follower: subprocess.Popen, message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # it died: the next meeting of ranks says so
        follower.stdin.write(json.dumps(message) + "\n")
        follower.stdin.flush()


def _end(followers: list[subprocess.Popen]) -> None:
    """Followers end with their last step, and at the latest when their stdin does."""
    for follower in followers:
        with contextlib.suppress(BrokenPipeError):
            follower.stdin.close()
    for follower in followers:
        try:
            follower.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            follower.kill()
            follower.wait()
