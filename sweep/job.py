"""One task of an array: `python -P -m sweep.job SUBMISSION.json`, inside the code snapshot.

Several cells are handed to worker processes (sweep/pack_job.py); what follows is of a single one. It
leaves at once when its cell is done or somebody else is at it. It goes on from the cell's last
checkpoint, saves when SLURM tells it to, and tries again what may pass. Exit status: 0 the cell is
done, or will be by another; 3 it failed, and status.json says why; any other: it was lost.
"""

import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from results.record import Record, RecordStatus
from slurm.lease import Holder, LeaseLost, Watch
from slurm.preempt import Notice, exclude_nodes, ignore_signals, own_task
from slurm.submit import SAID_WHY
from sweep.claim import Attempt, StatusFile, claim_for_launch, read_status
from sweep.errors import UsageError
from sweep.folder import PlannedCell, SweepFolder
from sweep.frozen import Frozen, open_submission, own_cells
from sweep.job_log import say
from sweep.leaving import queue_again, should_leave
from sweep.past import failure_unrecorded, failures_here, rows_to_try
from sweep.stop_rule import why_end

LOST = 1  # exit status: the batch file queues the job again, a few times
_PAUSE = 5.0  # seconds before a failure that may pass is tried again, doubled each time


def main() -> int:
    """Run this task; returns its exit status."""
    rank, notice = int(os.environ.get("SLURM_PROCID", "0")), Notice()
    notice.install() if rank == 0 else ignore_signals()
    try:
        folder, submission, frozen = open_submission(Path(sys.argv[1]))
        planned, *others = own_cells(folder, submission)
        at_once = submission.settings.get("at_once")
        if at_once is not None:
            from sweep.pack_job import PackJob

            return PackJob(folder, [planned, *others], frozen, at_once, notice).run()
        if rank > 0:
            _follow(folder, planned, frozen, rank)
        return _Task(folder, planned, frozen, notice).run()
    except UsageError as e:
        say(f"failed: {e}")
        return SAID_WHY


class _Task:
    def __init__(
        self, folder: SweepFolder, planned: PlannedCell, frozen: Frozen, notice: Notice
    ) -> None:
        self.folder, self.planned, self.frozen, self.notice = folder, planned, frozen, notice
        self.task = own_task()

    def run(self) -> int:
        """Claim the cell, if it is ours to train, and train it."""
        while True:
            claimed = self._claim()
            if not isinstance(claimed, Attempt):
                return 0
            try:
                code = self._train(claimed)
            except LeaseLost as e:
                say(f"{e}: this process leaves it alone")
                return 0
            finally:
                claimed.release()
            if code is not None:
                return code
            if self._queue_again():  # the lease is given back: the next life need not wait
                say("saved; queued again")
                return 0
            say("saved; SLURM ends the job, or did not take it back: it goes on while it can")
            if self.frozen.hardware.ranks > 1:  # the others have left
                time.sleep(3600)
                return 1

    def _queue_again(self) -> bool:
        return queue_again(self.folder.path / "logs", self.task)

    def _claim(self) -> Attempt | Holder | str:
        """Take the cell; wait as long as it takes to know whether who holds it is alive."""
        watch = Watch(self.frozen.run.lease_seconds)
        give_up = time.monotonic() + 2 * self.frozen.run.lease_seconds
        first: int | None = None
        while True:
            got = claim_for_launch(self.folder, self.planned.cell, watch, self.frozen.anew)
            if isinstance(got, str):
                say(f"{self.planned.cell.id} is {got} already")
                return got
            if isinstance(got, Attempt):
                return got
            beat = got.beat()
            first = beat if first is None else first
            if beat != first or time.monotonic() > give_up:
                say(f"{self.planned.cell.id} is trained by {got.in_words()}")
                return got
            time.sleep(0.5)

    def _train(self, attempt: Attempt) -> int | None:
        """Train a claimed attempt; None: stopped, so as to queue the job again."""
        status = StatusFile(attempt)
        status.say("starting", read_status(attempt.path).get("step", 0))
        try:
            record = self._attempt(attempt)
        except LeaseLost:
            raise
        except _ToBeQueued:
            return None
        except Exception as e:  # before or after training, so no record tells of it
            reason = str(e) if isinstance(e, UsageError) else f"{type(e).__name__}: {e}"
            traceback.print_exc()
            status.say("failed", 0, " ".join(reason.split())[:500])
            say(f"failed: {reason}")
            return SAID_WHY if isinstance(e, UsageError) else self._after_no_record(reason)
        return self._after(record)

    def _attempt(self, attempt: Attempt) -> Record:
        from sweep.attempt import Stopped, run_attempt  # late: a task that leaves needs no torch
        from sweep.data import check_data, open_data
        from sweep.device import check_replica

        planned, frozen = self.planned, self.frozen
        rows = rows_to_try(self.folder, planned.cell.id, frozen.hardware.micro_rows)
        hardware = replace(frozen.hardware, micro_rows=rows)
        device = open_device_here(self.folder, replace(frozen, hardware=hardware))
        check_replica(planned.cell.model, planned.cell.recipe.batch_rows, device)
        data = open_data(
            frozen.shards,
            planned.data,
            planned.cell.model.seq_len,
            verify=True,
            node_cache=frozen.node_cache,
        )
        check_data([planned.cell], data, planned.data.max_epochs)
        try:
            return run_attempt(
                attempt, self.folder, data, planned.data, device, frozen.run,
                should_stop=self._should_leave,
                should_save=self.notice.is_there,
                shards=frozen.shards,
                node_cache=frozen.node_cache,
                meet=meeting_place(self.folder, planned) if hardware.ranks > 1 else None,
                hopeless=why_end(frozen.stop, self.folder, attempt),
            )  # fmt: skip
        except Stopped:
            raise _ToBeQueued from None

    def _should_leave(self) -> bool:
        """After a step, with the work saved if a signal came: whether to queue the job again."""
        name = self.notice.take()
        if name is None:
            return False
        return should_leave(name, self.task, self.frozen.max_requeues)

    def _after(self, record: Record) -> int:
        """Say how it ended; try again what may pass."""
        if RecordStatus(record.status).terminal:
            loss = f", loss {record.val_loss:.4f}" if record.status == "finished" else ""
            say(f"{record.cell_id} {record.status}{loss} {record.reason or ''}")
            return 0
        say(f"{record.cell_id} failed: {record.reason}")
        step = failures_here(self.folder, record, self.frozen.retries, os.environ["SLURM_JOB_ID"])
        say(step.why)
        exclude_nodes(step.jobs, step.bad_nodes)
        return self._try_again(step.tries) if step.again else SAID_WHY

    def _try_again(self, tries: int) -> int:
        """Try again in a process of its own; with other ranks, which have left, in a new life."""
        if self.frozen.hardware.ranks > 1:
            return 0 if self._queue_again() else LOST
        time.sleep(_PAUSE * 2 ** min(tries, 6))
        os.execv(sys.executable, [sys.executable, "-P", "-m", "sweep.job", *sys.argv[1:]])

    def _after_no_record(self, reason: str) -> int:
        """Say what follows a failure before or after training: what may pass is queued again."""
        after = failure_unrecorded(self.folder, reason)
        exclude_nodes(after.jobs, after.bad_nodes)
        return LOST if after.again else SAID_WHY


class _ToBeQueued(Exception):
    """The attempt has stopped so that the job can be queued again."""


def meeting_place(folder: SweepFolder, planned: PlannedCell) -> Path:
    """File by which the ranks of this life of this job find each other."""
    life = f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return folder.cell(planned.cell.id) / f"meet.{life}.json"


def _follow(folder: SweepFolder, planned: PlannedCell, frozen: Frozen, rank: int) -> None:
    from sweep.follower import follow_task, open_rows

    device = open_device_here(folder, frozen)
    rows = open_rows(planned.cell, planned.data, frozen.shards, frozen.node_cache)
    follow_task(planned.cell, rows, device, rank, meeting_place(folder, planned))


def open_device_here(folder: SweepFolder, frozen: Frozen, ranks_here: int | None = None):
    """Open this task's device with the attention that suits all sizes of the sweep.

    Raises:
        UsageError: the machine lacks what was asked.
    """
    from sweep.device import open_device
    from sweep.folder import read_plan

    plan = read_plan(folder)
    tasks, nodes = (int(os.environ.get(f"SLURM_{n}", "1")) for n in ("NTASKS", "NNODES"))
    try:
        return open_device(
            frozen.hardware,
            int(os.environ.get("SLURM_LOCALID", "0")),
            {p.cell.model.head_dim for p in plan},
            any(p.data.document_mask for p in plan),
            ranks_here=ranks_here or tasks // nodes,
        )
    except ValueError as e:
        raise UsageError(str(e)) from None


if __name__ == "__main__":
    sys.exit(main())
