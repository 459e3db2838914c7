"""Rerun one cell, here and now, and say how its loss compares with what is on record."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.text import Text

from results.record import Probe, Record
from results.store import StoreError, read_records, results_of
from sweep.attempt import Progress, claim, run_attempt
from sweep.cells import cell_from_row
from sweep.data import CellData, check_data, open_data, prepare_data
from sweep.data_columns import tokens_of_a_set
from sweep.data_resolve import DataHandling
from sweep.data_settings import BYTES
from sweep.device import Device, open_device
from sweep.documents import expand
from sweep.errors import UsageError, find_one
from sweep.folder import PlannedCell, SweepFolder, read_plan
from sweep.grid import Cell
from sweep.measure import Measurements, measured_columns
from sweep.plan import duration
from sweep.resolve import Resolved
from sweep.settings import HardwareSettings, RunSettings
from sweep.train import Trainer


@dataclass(frozen=True)
class Found:
    """A cell to run, and the results that it can be compared with."""

    planned: PlannedCell
    folder: SweepFolder
    records: pd.DataFrame | None
    handling: DataHandling


def find_cell(
    resolved: Resolved, asked: str, record_file: str | None, changed: frozenset[str]
) -> Found:
    """Look a cell up in the file of records, else in the frozen plan, else in the composed grid.

    Args:
        resolved: the composed config.
        asked: an id, or a beginning or hash that names one cell.
        record_file: a records.parquet to rebuild the cell from.
        changed: config groups that the person changed; they must not be ignored.

    Raises:
        UsageError: no cell, or several; or a change that the frozen cell does not have.
    """
    if record_file is not None:
        return _from_records(resolved, asked, expand(record_file))
    folder = resolved.folder
    composed = {p.cell.id: p for p in resolved.planned}
    frozen = {p.cell.id: p for p in read_plan(folder)}
    cell_id = find_one(asked, list({**frozen, **composed}))
    if cell_id in frozen and frozen[cell_id] != composed.get(cell_id) and changed:
        raise UsageError(
            f"{cell_id} is frozen in sweep={folder.name} and {', '.join(sorted(changed))} as typed "
            "would change it: leave that out, or name another sweep with sweep=NAME"
        )
    records = None
    if folder.records.is_dir():
        records = read_records(folder.records)
    planned = frozen.get(cell_id) or composed[cell_id]
    return Found(planned, folder, records, resolved.handling)


def rerun(found: Found, hardware: HardwareSettings, run: RunSettings, console: Console) -> Record:
    """Train a new attempt, with a progress line, and say how it compares.

    Raises:
        UsageError: the data can't be had, differ from the record's, or are too few.
    """
    cell, folder = found.planned.cell, found.folder
    folder.make()
    data = _open(found, console)
    _refuse_other_data(found, data.sha256)
    device = _open_device(hardware)
    attempt = claim(folder, cell, resume=False)
    console.print(
        f"{cell.id}, attempt {attempt.number}: {cell.model.size_id}, N={cell.N:,.0f}, "
        f"D={cell.tokens:,} in {cell.steps:,} steps on {device.board} "
        f"({device.dtype_name}, attention {device.attention})",
    )
    with _ProgressLine(console) as line:
        try:
            record = run_attempt(
                attempt, folder, data, found.planned.data, device, run, on_progress=line.show
            )
        finally:
            attempt.release()
    _say_result(record, found.records, console)
    return record


def measure_speed(
    found: Found, hardware: HardwareSettings, steps: int, console: Console
) -> dict[str, Any]:
    """Take some steps of a cell and print speed and memory; records nothing."""
    cell = found.planned.cell
    if not 1 <= steps <= cell.steps:
        raise UsageError(f"run.steps={steps} must lie between 1 and the cell's {cell.steps}")
    data = _open(found, console)
    device = _open_device(hardware)
    trainer = Trainer(cell, data.train, device)
    measured = Measurements(started_at="", matmul_peak=float("nan"))
    for step in range(1, steps + 1):
        start = time.perf_counter()
        loss = trainer.train_step().item()
        measured.add_step(loss, time.perf_counter() - start, step, cell.steps)
    speed = measured_columns(measured, cell, float("nan"))["tokens_per_second"]
    memory = device.peak_memory_bytes()
    console.print(
        f"{cell.id}: {speed:,.0f} tokens/s over {steps} steps, {memory / 1e6:,.0f} MB, "
        f"so about {duration(cell.tokens / speed)} for the cell. Nothing was recorded.",
    )
    return {"tokens_per_second": speed, "peak_memory_bytes": memory}


def _from_records(resolved: Resolved, asked: str, path: Path) -> Found:
    try:
        records = read_records(path)
        rows: dict[str, Mapping] = {r["cell_id"]: r for r in results_of(records).to_dict("records")}
        row = rows[find_one(asked, list(rows))]
        cell = cell_from_row(row)
    except (StoreError, ValueError) as e:
        raise UsageError(f"record={path}: {e}") from None
    data = replace(resolved.data, document_mask=cell.data.document_mask)
    val_tokens = tokens_of_a_set(row)  # the same text, or the losses can't be compared
    if val_tokens is not None:
        data = replace(data, val_tokens=val_tokens)
    if {data.tokenizer, cell.data.tokenizer} <= set(BYTES):  # else check_data compares them
        data = replace(data, tokenizer=cell.data.tokenizer)
    return Found(PlannedCell(cell, data), resolved.folder, records, resolved.handling)


def _open(found: Found, console: Console) -> CellData:
    planned, handling = found.planned, found.handling
    shards = prepare_data(planned.data, found.folder.data_cache, console.print, handling.workers)
    T, node_cache = planned.cell.model.seq_len, handling.node_cache
    data = open_data(shards, planned.data, T, verify=True, node_cache=node_cache)
    check_data([planned.cell], data, planned.data.max_epochs)
    return data


def _open_device(hardware: HardwareSettings) -> Device:
    try:
        return open_device(hardware)
    except ValueError as e:
        raise UsageError(str(e)) from None


def _refuse_other_data(found: Found, sha256: str) -> None:
    same = _recorded(found.planned.cell, found.records)
    if same is not None and isinstance(same["data_sha256"], str) and same["data_sha256"] != sha256:
        raise UsageError(
            f"{same['cell_id']} was recorded on data {same['data_sha256'][:12]}, here is "
            f"{sha256[:12]}: name the same text with data=, data.path= and data.tokenizer="
        )


def _recorded(cell: Cell, records: pd.DataFrame | None) -> pd.Series | None:
    if records is None:
        return None
    rows = results_of(records[records["status"] == "finished"])
    rows = rows[rows["cell_id"] == cell.id]
    return None if rows.empty else rows.iloc[0]


def _say_result(record: Record, records: pd.DataFrame | None, console: Console) -> None:
    if record.status != "finished":
        console.print(f"{record.status}: {record.reason}")
        return
    console.print(
        f"loss {record.val_loss:.6f} ± {record.val_loss_se:.4f} nats/token on "
        f"{record.val_tokens:,} tokens, {record.bpb:.4f} bits/byte, "
        f"{record.tokens_per_second:,.0f} tokens/s, {duration(record.seconds)}",
    )
    if records is None:
        return
    old = records[(records["cell_id"] == record.cell_id) & (records["status"] == "finished")]
    if old.empty:
        console.print("No finished record of this cell to compare with.")
        return
    before = results_of(old).iloc[0]["val_loss"]
    console.print(f"recorded {before:.6f}, now {record.val_loss:.6f}, {_compare(record, before, records)}")  # fmt: skip


def _compare(record: Record, before: float, records: pd.DataFrame) -> str:
    difference = record.val_loss - before
    if difference == 0:
        return "equal to the bit"
    seeds = results_of(records)
    seeds = seeds[
        (seeds["status"] == "finished")
        & (seeds["budget"] == record.budget)
        & (seeds["size_id"] == record.size_id)
        & (seeds["probe"].isna() | (seeds["probe"] == Probe.SEED))
    ]
    if seeds["seed"].nunique() < 2:
        return f"difference {difference:+.6f} (seed sd unknown: the cell has one seed)"
    sd = seeds["val_loss"].std(ddof=1)
    return f"difference {difference:+.6f}, {difference / sd:+.2f} seed sd"


class _ProgressLine:
    """One line that is rewritten on a terminal; a line every ten seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console, self.told = console, time.monotonic()
        self.live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "_ProgressLine":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def show(self, p: Progress) -> None:
        """Say where the attempt is."""
        text = (
            f"step {p.step:,}/{p.steps:,}  loss {p.loss:.4f}  {p.tokens_per_second:,.0f} tokens/s  "
            f"{p.utilisation:.0%} of the measured matmul peak  {duration(p.seconds_left)} to go"
        )
        if self.console.is_terminal:
            self.live.update(Text(text))
        elif time.monotonic() - self.told > 10:
            self.told = time.monotonic()
            self.console.print(text)
