"""One attempt at one cell, from a claimed folder to a record.

The record is the truth. Killed before it is written, the attempt is resumed to the same loss;
killed after, it is done, whatever status.json says.
"""

import json
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from models.flops import FlopRule, flops_per_token
from models.moe import watch_load
from results.provenance import now
from results.record import Record, RecordStatus
from results.store import write_record
from slurm.lease import LeaseLost
from sweep import checkpoint
from sweep.cell import Cell
from sweep.cells import cell_to_row
from sweep.claim import Attempt, StatusFile, describe_attempt, forget_parts
from sweep.data import CellData, DataSettings
from sweep.device import Device, describe, measure_matmul_peak
from sweep.evaluate import Validation, evaluate_small, validate
from sweep.folder import SweepFolder
from sweep.health import complaints, load_columns
from sweep.measure import Measurements
from sweep.micro_batch import out_of_memory
from sweep.nvml import energy_of
from sweep.outcome import loss_columns, make_record
from sweep.ranks import Job, lead
from sweep.resume import drop_curve_after, resume
from sweep.settings import RunSettings
from sweep.tracking import Speed, Tracking, follow
from sweep.train import Diverged, Trainer, train
from sweep.trunk_store import drop_before, save_branching


@dataclass(frozen=True)
class Progress:
    """Where an attempt is, for a progress line."""

    cell_id: str
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    utilisation: float  # of `peak`, PaLM FLOPs, at the median step
    peak: str  # "datasheet": then it is MFU; "measured": a matmul rate measured here
    seconds_left: float  # of training, at the median step


class Stopped(Exception):
    """The attempt was asked to stop; it has saved a checkpoint and can be resumed."""


class Hopeless(Exception):
    """The curve says that the attempt is not worth its end; it has saved a checkpoint."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason)
        self.step = step


def run_attempt(
    attempt: Attempt,
    folder: SweepFolder,
    data: CellData,
    asked: DataSettings,
    device: Device,
    settings: RunSettings,
    on_progress: Callable[[Progress], None] = lambda p: None,
    should_stop: Callable[[], bool] = lambda: False,
    should_save: Callable[[], bool] = lambda: False,
    shards: Path | None = None,
    node_cache: Path | None = None,
    meet: Path | None = None,
    hopeless: Callable[[], str | None] = lambda: None,
) -> Record:
    """Train a claimed attempt to its end and record it, whatever the end is.

    Args:
        attempt: claimed.
        folder: its sweep.
        data: opened.
        asked: what was asked of the data.
        device: opened.
        settings: how it goes.
        on_progress: told twice a second.
        should_stop: asked after every step, and after what it has saved.
        should_save: asked after every step.
        shards: folder of the data, for other ranks to open; needed where the device has any.
        node_cache: folder of this node's own disk that `data` was opened from, for them too.
        meet: file by which ranks that are there already find this one; None: it starts them.
        hopeless: asked after each evaluation but the last: why to end here, or None.

    Returns:
        The record as written: finished, diverged, stopped (hopeless() said so) or failed.

    Raises:
        Stopped: should_stop() said so.
        LeaseLost: somebody else took the attempt over; nothing of theirs was touched.
        UsageError: another attempt at this cell saw other data.
    """
    forget_parts(attempt, folder)
    describe_attempt(attempt, asked, data)
    job = Job(cell_to_row(attempt.cell), asked.to_columns(), shards, node_cache, meet)
    asks = (on_progress, should_stop, should_save, hopeless)
    run = _Run(attempt, folder, data, device, settings, *asks)
    try:
        final = run.to_the_end(job)
        ended = {"status": RecordStatus.FINISHED, **loss_columns(final)}
    except Diverged as e:
        ended = {"status": RecordStatus.DIVERGED, "reason": str(e), "diverged_step": e.step}
    except Hopeless as e:
        ended = {"status": RecordStatus.STOPPED, "reason": str(e)[:500], "stopped_step": e.step}
    except Stopped:
        run.status.say("stopped", run.trainer.step)
        run.tracking.end()
        raise
    except LeaseLost:
        run.tracking.end()
        raise
    except Exception as e:
        attempt.lease.check()
        (attempt.path / "error.txt").write_text(traceback.format_exc())
        ended = {"status": RecordStatus.FAILED, "reason": run.why(e)[:500]}
    ended |= {"micro_batch": run.micro_rows, "resumed_from": run.resumed_from}
    record = make_record(attempt, folder.name, data, device, run.measured, ended)
    lease = attempt.lease
    write_record(
        record, folder.records, lease.stage("record.part"), partial(lease.put, only_once=True)
    )
    notes = complaints(asdict(record)) if record.status == RecordStatus.FINISHED else []
    run.status.say(record.status, run.measured.steps_done, record.reason, notes)
    run.tracking.end(asdict(record))
    if RecordStatus(record.status).terminal:
        _drop_checkpoints(attempt, folder, settings.keep_checkpoints, run.resumed_from)
    return record


def _drop_checkpoints(
    attempt: Attempt, folder: SweepFolder, keep: str, resumed_from: int | None
) -> None:
    """Leave of the cell's checkpoints what run.keep_checkpoints says, once its end is on record."""
    checkpoint.drop(attempt.checkpoint, keep)
    if keep == "none":
        drop_before(folder, attempt.cell, _warn)
    if resumed_from is not None:
        theirs = attempt.path.parent / str(resumed_from)
        checkpoint.drop(theirs / "checkpoint" / "state.pt", "none")


class _Run:
    """The training loop with its evaluations, checkpoints and progress."""

    def __init__(
        self, attempt, folder, data, device, settings, on_progress, should_stop, should_save,
        hopeless,
    ) -> None:  # fmt: skip
        self.attempt, self.folder, self.data, self.device = attempt, folder, data, device
        self.settings, self.on_progress = settings, on_progress
        self.should_stop, self.should_save, self.hopeless = should_stop, should_save, hopeless
        self.measured = Measurements(started_at=now(), matmul_peak=_matmul_peak(device))
        self.peak = describe(device)["peak_flops"] * device.ranks
        self.micro_rows: int | None = None
        self.resumed_from: int | None = None
        self.tracking = Tracking()
        self.status, self.lost = StatusFile(attempt), threading.Event()
        attempt.lease.keep(settings.lease_seconds, self.lost.set, self.status.beat)

    def to_the_end(self, job: Job) -> Validation:
        with lead(self.device, job) as (ranks, go_on_from):
            self.trainer = Trainer(self.attempt.cell, self.data.train, self.device, ranks=ranks)
            go_on_from(self._resume())
            self.tracking = self._follow()
            self.trainer.settle()
            self.micro_rows = self.trainer.micro_rows
            if self.device.compile:
                self.measured.add_compilation(self.trainer.compile_seconds)
            self.joules = energy_of(self.device.boards)
            self.clock = self.saved = self.told = time.perf_counter()
            train(self.trainer, self._after_step)
            self.measured.b_noise = self.trainer.noise_tokens()
            self._save()
        final = validate(self.trainer.model, self.data, self.device)
        self._pass_time()
        self.measured.peak_memory_bytes = self.device.peak_memory_bytes()
        if not math.isfinite(final.total.loss):  # the last step's loss is of the weights before it
            raise Diverged(final.total.loss, self.trainer.step, self.attempt.cell.steps)
        return final

    def why(self, e: Exception) -> str:
        """Say what ended the attempt; where memory ran out in training, what to type next."""
        said = f"{type(e).__name__}: {e}"
        if self.micro_rows is None or not out_of_memory(e):
            return said
        fewer = (
            f"type it again with hardware.micro_rows={self.micro_rows // 2}"
            if self.micro_rows > 1
            else "take this size out of model.ladder, or a device with more memory"
        )
        return (
            f"out of memory at step {self.trainer.step} with {self.micro_rows} sequences at a "
            f"time: {fewer} ({said})"
        )

    def _resume(self) -> Path | None:
        self.saved_step = 0
        found = resume(self.trainer, self.attempt, self.folder, self.data.sha256, _warn)
        if found is not None and found.of_trunk:
            self.measured.branch_off(found.measured)
            self.saved_step = self.trainer.step
        elif found is not None:
            self.measured.restore(found.measured)
            self.saved_step, self.resumed_from = self.trainer.step, found.attempt
        drop_curve_after(self.attempt.curve, self.saved_step)
        self.status.say("running", self.trainer.step)
        return found and found.path

    def _follow(self) -> Tracking:
        column, peak = _peak(self.peak, self.measured, self.device.ranks)
        per_token = flops_per_token(self.attempt.cell.model, FlopRule.PALM)
        speed = Speed("mfu" if column == "datasheet" else "mfu_of_measured_peak", per_token / peak)
        return follow(self.attempt, self.folder, self.settings, self.resumed_from, speed, _warn)

    def _after_step(self, step: int, loss: float) -> None:
        cell, measured = self.attempt.cell, self.measured
        if self.lost.is_set():
            raise LeaseLost(f"{cell.id} was taken over by another process")
        self.status.step = step
        self.device.synchronize()
        measured.add_step(loss, time.perf_counter() - self.clock, step, cell.steps)
        if _evaluates(step, cell.steps, self.settings.evaluations):
            self._add_to_curve(step)
            if self.settings.keep_checkpoints == "all":
                self._save()
                checkpoint.keep_as(self.attempt.checkpoint, step)
            if step < cell.steps and (why := self.hopeless()) is not None:
                self._save()
                self.measured.peak_memory_bytes = self.device.peak_memory_bytes()
                raise Hopeless(why, step)
        if cell.on_trunk and step == cell.branch_step:
            self._keep_branching()
        if self._is_time_to_save(step) or self.should_save():
            self._save()
        if time.perf_counter() - self.told > 0.5:
            self.told = time.perf_counter()
            self.on_progress(_progress(cell, step, measured, self.peak, self.device.ranks))
        if self.should_stop() and step < cell.steps:
            self._save()
            raise Stopped(cell.id)
        self.clock = time.perf_counter()

    def _is_time_to_save(self, step: int) -> bool:
        """By the clock, or by steps, where a number of them is asked for."""
        asked = self.settings
        by_steps = asked.checkpoint_steps and step - self.saved_step >= asked.checkpoint_steps
        return bool(by_steps) or time.perf_counter() - self.saved > asked.checkpoint_seconds

    def _add_to_curve(self, step: int) -> None:
        with watch_load(self.trainer.model) as loads:
            evaluation = evaluate_small(self.trainer.model, self.data, self.device)
        cell = self.attempt.cell
        row = {
            "step": step,
            "tokens": step * cell.batch_tokens,
            "flops": step / cell.steps * cell.flops,
            "train_loss": self.measured.take_mean_loss(),
            "eval_loss": evaluation.loss,
            "eval_tokens": evaluation.tokens,
            "lr": self.trainer.optimizer.param_groups[0]["lr"],
            "seconds": self.measured.train_seconds,
            **load_columns([load.tolist() for load in loads]),
        }
        self.measured.add_evaluation(evaluation.loss)
        self.attempt.lease.check()
        with self.attempt.curve.open("a") as f:
            f.write(json.dumps(row) + "\n")
        self.tracking.nudge()

    def _keep_branching(self) -> None:
        """Leave the state at which this cell leaves its trunk to longer ones."""
        attempt = self.attempt
        save_branching(
            self.folder, attempt.cell, self._state(), attempt.curve, self.data.sha256, attempt.lease
        )

    def _state(self) -> dict[str, Any]:
        return {"trainer": self.trainer.state(), "measured": self.measured.state()}

    def _save(self) -> None:
        if self.saved_step == self.trainer.step:
            return
        self._pass_time()
        checkpoint.save(self._state(), self.attempt.checkpoint, self.attempt.lease)
        self.saved_step = self.trainer.step
        self.status.say("running", self.trainer.step)

    def _pass_time(self) -> None:
        """Count seconds and joules since the last time."""
        at, joules = time.perf_counter(), energy_of(self.device.boards)
        self.measured.seconds += at - self.saved
        self.measured.energy_joules += joules - self.joules
        self.saved, self.joules = at, joules


def _progress(
    cell: Cell, step: int, measured: Measurements, datasheet_peak: float, ranks: int
) -> Progress:
    seconds = measured.median_step()
    rate = cell.batch_tokens / seconds
    of, peak = _peak(datasheet_peak, measured, ranks)
    return Progress(
        cell_id=cell.id,
        step=step,
        steps=cell.steps,
        loss=measured.smooth_loss,
        tokens_per_second=rate,
        utilisation=rate * flops_per_token(cell.model, FlopRule.PALM) / peak,
        peak=of,
        seconds_left=(cell.steps - step) * seconds,
    )


def _peak(datasheet: float, measured: Measurements, ranks: int) -> tuple[str, float]:
    """Which peak a utilisation is of, and that peak of all ranks, FLOP/s."""
    if datasheet == datasheet:
        return "datasheet", datasheet
    return "measured", measured.matmul_peak * ranks


def _evaluates(step: int, steps: int, evaluations: int) -> bool:
    """Evaluate `evaluations` times, evenly, the last at the last step."""
    return step * evaluations // steps != (step - 1) * evaluations // steps


def _warn(text: str) -> None:
    """Tell the log of a worker, or a person at a terminal."""
    print(text, file=sys.stderr, flush=True)


@cache
def _matmul_peak(device: Device) -> float:
    return measure_matmul_peak(device)
