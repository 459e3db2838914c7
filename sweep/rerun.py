"""Rerun one cell, here and now, and say how its loss compares with what is on record."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from results.record import Record
from results.store import StoreError, read_records, results_of
from sweep.amounts import duration
from sweep.attempt import Progress, run_attempt
from sweep.cell import Cell
from sweep.cells import cell_from_row
from sweep.claim import claim
from sweep.compare import say_result
from sweep.data import CellData, check_data, open_data, prepare_data
from sweep.data_columns import tokens_of_a_set
from sweep.data_resolve import DataHandling
from sweep.data_settings import BYTES
from sweep.device import (
    Device,
    check_replica,
    describe,
    in_words,
    measure_matmul_peak,
    open_device,
)
from sweep.display import TerminalDisplay
from sweep.documents import expand
from sweep.errors import UsageError, find_one
from sweep.folder import PlannedCell, SweepFolder, read_plan
from sweep.live import utilisation_of
from sweep.measure import Measurements, measured_columns
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
    shards, data = _open(found, console)
    _refuse_other_data(found, data.sha256)
    device = _open_device(hardware, found)
    attempt = claim(folder, cell, resume=False)
    console.print(
        f"{cell.id}, attempt {attempt.number}: {cell.model.size_id}, N={cell.N:,.0f}, "
        f"D={cell.tokens:,} in {cell.steps:,} steps on {in_words(device, cell.model)}",
    )
    with _ProgressLine(console) as line:
        try:
            record = run_attempt(
                attempt, folder, data, found.planned.data, device, run,
                on_progress=line.show, shards=shards, node_cache=found.handling.node_cache,
            )  # fmt: skip
        finally:
            attempt.release()
    say_result(record, found.records, console)
    return record


def measure_speed(
    found: Found, hardware: HardwareSettings, steps: int, console: Console
) -> dict[str, Any]:
    """Take some steps of a cell and print speed and memory; records nothing."""
    cell = found.planned.cell
    if not 1 <= steps <= cell.steps:
        raise UsageError(f"run.steps={steps} must lie between 1 and the cell's {cell.steps}")
    if hardware.ranks > 1:
        raise UsageError(
            "run.steps measures one rank: leave hardware.ranks out, or leave run.steps out"
        )
    _, data = _open(found, console)
    device = _open_device(hardware, found)
    trainer = Trainer(cell, data.train, device)
    trainer.settle()
    measured = Measurements(started_at="", matmul_peak=measure_matmul_peak(device))
    for step in range(1, steps + 1):
        start = time.perf_counter()
        loss = trainer.train_step().item()
        measured.add_step(loss, time.perf_counter() - start, step, cell.steps)
    columns, memory = measured_columns(measured, cell, describe(device)), device.peak_memory_bytes()
    speed, mfu = columns["tokens_per_second"], columns["mfu"]
    of_measured = columns["mfu_of_measured_peak"]
    share = (
        utilisation_of(mfu, "datasheet") if mfu == mfu else utilisation_of(of_measured, "measured")
    )
    console.print(
        f"{cell.id}: {speed:,.0f} tokens/s ({share}) over {steps} steps of {trainer.micro_rows} "
        f"sequences at a time, {memory / 1e6:,.0f} MB, "
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


def _open(found: Found, console: Console) -> tuple[Path, CellData]:
    planned, handling = found.planned, found.handling
    shards = prepare_data(planned.data, found.folder.data_cache, console.print, handling.workers)
    T, node_cache = planned.cell.model.seq_len, handling.node_cache
    data = open_data(shards, planned.data, T, verify=True, node_cache=node_cache)
    check_data([planned.cell], data, planned.data.max_epochs)
    return shards, data


def _open_device(hardware: HardwareSettings, found: Found) -> Device:
    """Open the device with the attention that suits all sizes of the sweep, and check the cell."""
    planned = [found.planned, *read_plan(found.folder)]
    documents = any(p.data.document_mask for p in planned)
    try:
        device = open_device(hardware, 0, {p.cell.model.head_dim for p in planned}, documents)
    except ValueError as e:
        raise UsageError(str(e)) from None
    check_replica(found.planned.cell.model, found.planned.cell.recipe.batch_rows, device)
    return device


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


class _ProgressLine(TerminalDisplay):
    """One line that is rewritten on a terminal; a line every ten seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, transient=True)
        self.told = time.monotonic()

    def show(self, p: Progress) -> None:
        """Say where the attempt is."""
        text = (
            f"step {p.step:,}/{p.steps:,}  loss {p.loss:.4f}  {p.tokens_per_second:,.0f} tokens/s  "
            f"{utilisation_of(p.utilisation, p.peak)}  {duration(p.seconds_left)} to go"
        )
        if self.console.is_terminal:
            self.live.update(Text(text))
        elif time.monotonic() - self.told > 10:
            self.told = time.monotonic()
            self.console.print(text)
