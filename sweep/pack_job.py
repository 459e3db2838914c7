"""A task of an array with several cells: a queue, and worker processes that take from it.

Each cell has its own claim, checkpoints, retries and record, as anywhere; the task adds only who
trains what when. Told that its time is up, it has the workers save, and is queued again; its next
life finds by the records what is left.
"""

import contextlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from results.store import terminal_cells
from slurm.local import Event, NoWorker, WorkerRefused, map_on_workers
from slurm.mps import shared_gpu
from slurm.preempt import Notice, own_task
from slurm.submit import SAID_WHY
from sweep.folder import PlannedCell, SweepFolder
from sweep.frozen import Frozen
from sweep.job_log import say
from sweep.leaving import queue_again, should_leave
from sweep.trunks import before_it, chains
from sweep.workers import Attempts, worker_commands

_GRACE_SECONDS = 60.0  # for a step and a checkpoint of each worker
_LOST = 1


class PackJob:
    """The queue of one task."""

    def __init__(
        self,
        folder: SweepFolder,
        cells: Sequence[PlannedCell],
        frozen: Frozen,
        at_once: int,
        notice: Notice,
    ) -> None:
        self.folder, self.cells, self.frozen = folder, cells, frozen
        self.at_once, self.notice = at_once, notice
        self.task = own_task()
        self.failed: dict[str, str] = {}
        self.lost: set[str] = set()
        self.elsewhere: set[str] = set()

    def run(self) -> int:
        """Train what is left of the queue; returns the exit status of the task."""
        with self._device() as env:
            while to_train := self._left():
                try:
                    self._train(to_train, env)
                except (WorkerRefused, NoWorker) as e:
                    say(f"failed: {e}")
                    return SAID_WHY if isinstance(e, WorkerRefused) else _LOST
                name = self.notice.take()
                if name is not None and self._left() and self._leaves(name):
                    return 0
        if self.lost:
            return _LOST
        return SAID_WHY if self.failed else 0

    def _left(self) -> list[str]:
        ids = [p.cell.id for p in self.cells]
        done = {**terminal_cells(self.folder.records, ids), **self.failed}
        return [i for i in ids if i not in done and i not in self.lost]

    @contextlib.contextmanager
    def _device(self):
        """Yield what workers need in their environment to share a GPU, where several do."""
        if self.at_once == 1 or self.frozen.hardware.device == "cpu":
            yield {}
            return
        with shared_gpu() as (env, found):
            say(found)
            yield env

    def _train(self, to_train: Sequence[str], env: Mapping[str, str]) -> None:
        """Have workers train the queue until it is empty or a signal comes."""
        frozen, hardware = self.frozen, self.frozen.hardware
        runs = chains(to_train, before_it(p.cell for p in self.cells))
        workers = min(self.at_once, len(runs))
        attempts = Attempts(
            frozen.shards,
            frozen.node_cache,
            hardware,
            frozen.run,
            frozen.retries,
            frozen.anew,
            frozen.stop,
        )
        share = 1 if hardware.device == "cpu" else self.at_once
        code = Path(__file__).resolve().parent.parent
        say(f"{len(to_train)} cells to train, {workers} at once")
        map_on_workers(
            to_train,
            worker_commands(self.folder, attempts, [dict(env)] * workers, code, share),
            self._on_event,
            after={later: sooner for run in runs for sooner, later in pairwise(run)},
            should_stop=self.notice.is_there,
            grace_seconds=_GRACE_SECONDS,
        )

    def _on_event(self, event: Event) -> None:
        data, cell = event.data, event.item
        if event.kind == "done":
            loss = f", loss {data['val_loss']:.4f}" if data["status"] == "finished" else ""
            say(f"{cell} {data['status']}{loss} {data['reason'] or ''}")
            if data["status"] == "failed":
                self.failed[cell] = data["reason"]
        elif event.kind == "died":
            say(
                f"{cell}: its process died ({data['how']}); {'again' if data['again'] else 'given up'}"
            )
            if not data["again"]:
                self.lost.add(cell)
        elif event.kind == "held" and cell not in self.elsewhere:
            self.elsewhere.add(cell)
            say(f"{cell} is trained by {data['by']}: waiting for it")
        elif event.kind == "done_elsewhere":
            say(f"{cell} is {data['status']} already")

    def _leaves(self, name: str) -> bool:
        """All is saved: whether the job was queued again; if not it goes on while it can."""
        if not should_leave(name, self.task, self.frozen.max_requeues):
            return False
        if queue_again(self.folder.path / "logs", self.task):
            say("queued again")
            return True
        say("SLURM did not take it back: it goes on while it can")
        return False
