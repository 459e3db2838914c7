"""One attempt at one cell: claim a folder, train or resume, measure, record.

    cells/<cell_id>/<attempt>/{config.yaml, env.json, train.jsonl, status.json, checkpoint/}

The record is the truth. Killed before it is written, the attempt is resumed to the same loss;
killed after, it is done, whatever status.json says.
"""

import fcntl
import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from models.flops import FlopRule, flops_per_token
from results.provenance import environment, now
from results.record import Record, RecordStatus
from results.store import write_record
from sweep import checkpoint
from sweep.cells import cell_to_row
from sweep.data import CellData, DataSettings
from sweep.data_columns import sets_column, sources_column
from sweep.device import Device, describe, measure_matmul_peak
from sweep.errors import UsageError
from sweep.evaluate import Validation, evaluate_small, validate
from sweep.folder import SweepFolder
from sweep.grid import Cell
from sweep.measure import Measurements, measured_columns
from sweep.settings import RunSettings
from sweep.train import Diverged, Trainer, train


@dataclass(frozen=True)
class Progress:
    """Where an attempt is, for a progress line."""

    cell_id: str
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    utilisation: float  # of the matmul peak measured here, PaLM FLOPs
    seconds_left: float  # of training, at the median step


class Stopped(Exception):
    """The attempt was asked to stop; it has saved a checkpoint and can be resumed."""


@dataclass(frozen=True)
class Attempt:
    """A claimed folder; the lock is held until the process ends or `release`."""

    cell: Cell
    number: int
    path: Path
    lock: int

    @property
    def checkpoint(self) -> Path:
        """The last whole checkpoint."""
        return self.path / "checkpoint" / "state.pt"

    @property
    def curve(self) -> Path:
        """Evaluations along the way, a JSON line each."""
        return self.path / "train.jsonl"

    def release(self) -> None:
        """Let another process resume it."""
        os.close(self.lock)


def claim(folder: SweepFolder, cell: Cell, resume: bool) -> Attempt:
    """Take the last unrecorded attempt that nobody works on (resume), or a new number."""
    base = folder.cell(cell.id)
    base.mkdir(parents=True, exist_ok=True)
    numbers = sorted(int(p.name) for p in base.iterdir() if p.name.isdigit())
    for number in reversed(numbers if resume else []):
        if not (folder.records / f"{cell.id}.{number}.parquet").exists():
            lock = _try_lock(base / str(number))
            if lock is not None:
                return Attempt(cell, number, base / str(number), lock)
    number = numbers[-1] + 1 if numbers else 0
    while True:
        try:
            (base / str(number)).mkdir()
        except FileExistsError:
            number += 1
            continue
        lock = _try_lock(base / str(number))
        if lock is not None:
            return Attempt(cell, number, base / str(number), lock)


def run_attempt(
    attempt: Attempt,
    folder: SweepFolder,
    data: CellData,
    asked: DataSettings,
    device: Device,
    settings: RunSettings,
    on_progress: Callable[[Progress], None] = lambda p: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Record:
    """Train a claimed attempt to its end and record it, whatever the end is.

    Returns:
        The record as written: finished, diverged or failed.

    Raises:
        Stopped: should_stop() said so.
        UsageError: another attempt at this cell saw other data.
    """
    _forget_parts(attempt, folder)
    _describe_attempt(attempt, asked, data)
    run = _Run(attempt, data, device, settings, on_progress, should_stop)
    try:
        final = run.to_the_end()
        ended = {"status": RecordStatus.FINISHED, **_loss_columns(final)}
    except Diverged as e:
        ended = {"status": RecordStatus.DIVERGED, "reason": str(e)}
    except Stopped:
        _write_status(attempt, "stopped", run.trainer.step)
        raise
    except Exception as e:
        (attempt.path / "error.txt").write_text(traceback.format_exc())
        ended = {"status": RecordStatus.FAILED, "reason": f"{type(e).__name__}: {e}"[:500]}
    record = _record(attempt, folder.name, data, device, run.measured, ended)
    write_record(record, folder.records)
    _write_status(attempt, record.status, run.measured.steps_done)
    return record


class _Run:
    """The training loop with its evaluations, checkpoints and progress."""

    def __init__(self, attempt, data, device, settings, on_progress, should_stop) -> None:
        self.attempt, self.data, self.device = attempt, data, device
        self.settings, self.on_progress, self.should_stop = settings, on_progress, should_stop
        self.measured = Measurements(started_at=now(), matmul_peak=_matmul_peak(device))

    def to_the_end(self) -> Validation:
        self.trainer = Trainer(self.attempt.cell, self.data.train, self.device)
        self._resume()
        self.clock = self.saved = self.told = time.perf_counter()
        train(self.trainer, self._after_step)
        if self.saved_step != self.trainer.step:
            self._save()
        final = validate(self.trainer.model, self.data, self.device)
        self.measured.seconds += time.perf_counter() - self.saved
        self.measured.peak_memory_bytes = self.device.peak_memory_bytes()
        return final

    def _resume(self) -> None:
        self.saved_step = 0
        state = checkpoint.load(self.attempt.checkpoint)
        if state is not None:
            self.trainer.restore(state["trainer"])
            self.measured.restore(state["measured"])
            self.saved_step = self.trainer.step
        _drop_curve_after(self.attempt.curve, self.saved_step)
        _write_status(self.attempt, "running", self.trainer.step)

    def _after_step(self, step: int, loss: float) -> None:
        cell, measured = self.attempt.cell, self.measured
        self.device.synchronize()
        measured.add_step(loss, time.perf_counter() - self.clock, step, cell.steps)
        if _evaluates(step, cell.steps, self.settings.evaluations):
            self._add_to_curve(step)
        if time.perf_counter() - self.saved > self.settings.checkpoint_seconds:
            self._save()
        if time.perf_counter() - self.told > 0.5:
            self.told = time.perf_counter()
            self.on_progress(_progress(cell, step, measured))
        if self.should_stop() and step < cell.steps:
            self._save()
            raise Stopped(cell.id)
        self.clock = time.perf_counter()

    def _add_to_curve(self, step: int) -> None:
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
        }
        self.measured.add_evaluation(evaluation.loss)
        with self.attempt.curve.open("a") as f:
            f.write(json.dumps(row) + "\n")

    def _save(self) -> None:
        at = time.perf_counter()
        self.measured.seconds += at - self.saved
        state = {"trainer": self.trainer.state(), "measured": self.measured.state()}
        checkpoint.save(state, self.attempt.checkpoint)
        self.saved, self.saved_step = at, self.trainer.step
        _write_status(self.attempt, "running", self.trainer.step)


def _progress(cell: Cell, step: int, measured: Measurements) -> Progress:
    seconds = measured.median_step()
    rate = cell.batch_tokens / seconds
    flops = rate * flops_per_token(cell.model, FlopRule.PALM)
    return Progress(
        cell_id=cell.id,
        step=step,
        steps=cell.steps,
        loss=measured.smooth_loss,
        tokens_per_second=rate,
        utilisation=flops / measured.matmul_peak,
        seconds_left=(cell.steps - step) * seconds,
    )


def read_status(path: Path) -> dict[str, Any]:
    """Last status of an attempt; empty where none was written."""
    try:
        return json.loads((path / "status.json").read_text())
    except (OSError, ValueError):
        return {}


def _evaluates(step: int, steps: int, evaluations: int) -> bool:
    """Evaluate `evaluations` times, evenly, the last at the last step."""
    return step * evaluations // steps != (step - 1) * evaluations // steps


def _forget_parts(attempt: Attempt, folder: SweepFolder) -> None:
    """Remove what an earlier life of this attempt was killed in the middle of writing."""
    of_record = folder.records.glob(f"{attempt.cell.id}.{attempt.number}.*.part")
    for part in [*attempt.path.rglob("*.part"), *of_record]:
        part.unlink()


def _describe_attempt(attempt: Attempt, asked: DataSettings, data: CellData) -> None:
    """Freeze what is asked and where it runs; refuse data that other attempts did not see."""
    for env in attempt.path.parent.glob("*/env.json"):
        seen = json.loads(env.read_text())["data_sha256"]
        if seen != data.sha256:
            raise UsageError(
                f"{attempt.cell.id}: attempt {env.parent.name} was trained on data {seen[:12]}, "
                f"this is {data.sha256[:12]}: set data.revision to a new word"
            )
    asked_columns = {**cell_to_row(attempt.cell), **asked.to_columns()}
    checkpoint.write_text(_yaml(asked_columns), attempt.path / "config.yaml")
    env = {**environment(), "data_sha256": data.sha256}
    checkpoint.write_json(env, attempt.path / "env.json")


def _yaml(values: dict[str, Any]) -> str:
    """YAML of plain values: each as JSON, of which YAML is a superset."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


def _record(attempt, sweep, data, device, measured, ended) -> Record:
    cell, env = attempt.cell, environment()
    used = data.train.usage(cell.seed, cell.steps * cell.recipe.batch_rows)
    unique = sum(u.unique_tokens for u in used)
    return Record(
        **cell_to_row(cell),
        sweep=sweep,
        attempt=attempt.number,
        unique_tokens=unique,
        epochs=cell.tokens / unique,
        micro_batch=cell.recipe.batch_rows,
        **describe(device),
        **measured_columns(measured, cell, describe(device)["peak_flops"]),
        flop_source="formula",
        python_version=env["versions"]["python"],
        numpy_version=env["versions"]["numpy"],
        git_sha=env["git_sha"],
        git_dirty=env["git_dirty"],
        code_sha256=env["code_sha256"],
        host=env["host"],
        data_sha256=data.sha256,
        tokenizer_revision=data.tokenizer.revision,
        tokenizer_sha256=data.tokenizer.sha256,
        sources=sources_column(data, used),
        slurm_job_id=os.environ.get("SLURM_JOB_ID"),
        finished_at=now(),
        **ended,
    )


def _loss_columns(final: Validation) -> dict[str, Any]:
    return {
        "val_loss": final.total.loss,
        "val_loss_se": final.total.se,
        "val_tokens": final.total.tokens,
        "bpb": final.total.bpb,
        "bpb_se": final.total.bpb_se,
        "val_sets": sets_column(final),
    }


def _write_status(attempt: Attempt, state: str, step: int) -> None:
    status = {"state": str(state), "step": step, "steps": attempt.cell.steps, "at": now()}
    checkpoint.write_json({**status, "pid": os.getpid()}, attempt.path / "status.json")


def _drop_curve_after(path: Path, step: int) -> None:
    """Forget evaluations made after the checkpoint that training goes on from."""
    if path.exists():
        rows = [line for line in path.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in rows if json.loads(line)["step"] <= step]
        checkpoint.write_text("".join(f"{line}\n" for line in kept), path)


def _try_lock(path: Path) -> int | None:
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


@cache
def _matmul_peak(device: Device) -> float:
    return measure_matmul_peak(device)
