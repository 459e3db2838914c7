"""A sweep of thousands of cells on disk, as if it had been trained, without training."""

import json
from pathlib import Path

from helpers_cells import MODEL, data_settings, tiny_cell

from results.record import Record
from results.store import write_record
from sweep.cells import cell_to_row
from sweep.folder import PlannedCell, SweepFolder, freeze_plan, read_plan
from sweep.submissions import new_submission, submitted

CURVE_ROWS = 50


def make_sweep(root: Path, n: int, finished: int, name: str = "many") -> SweepFolder:
    """Freeze a plan of n cells and write records, statuses and curves of the first of them."""
    folder = SweepFolder(root, name)
    folder.make()
    folder.records.mkdir(exist_ok=True)
    cells = [tiny_cell(steps=24 + 24 * (i % 5), seed=i // 5, model=MODEL) for i in range(n)]
    freeze_plan(folder, [PlannedCell(c, data_settings("text")) for c in cells])
    for cell in cells[:finished]:
        record = Record(
            **cell_to_row(cell),
            sweep=name,
            attempt=0,
            unique_tokens=cell.tokens,
            epochs=1.0,
            val_loss=3.0,
            seconds=2.0,
            status="finished",
        )
        write_record(record, folder.records)
        path = folder.cell(cell.id) / "0"
        path.mkdir(parents=True)
        status = {"state": "finished", "step": cell.steps, "steps": cell.steps, "notes": [],
                  "at": "2026-01-01T00:00:00+00:00", "reason": None}  # fmt: skip
        (path / "status.json").write_text(json.dumps(status))
        (path / "train.jsonl").write_text("".join(map(_curve_row, range(1, CURVE_ROWS + 1))))
    return folder


def fail_jobs(folder: SweepFolder, cells: int, commands: Path) -> str:
    """Write a squeue and a sacct that say of each cell that its job failed; returns the array's id."""
    tasks = tuple((p.cell.id,) for p in read_plan(folder)[:cells])
    array = new_submission(folder, "cells", code="abc", tasks=tasks)
    submitted(folder, array, "7")
    rows = "".join(
        f"7_{i}|FAILED|None|n1|10|10|100|110|120|9:0|0:0|main|{array.job_name}\n"
        for i in range(cells)
    )
    commands.mkdir()
    for name, text in (("squeue", ""), ("sacct", rows)):
        (commands / f"{name}.txt").write_text(text)
        (commands / name).write_text(f"#!/bin/sh\nexec cat {commands / name}.txt\n")
        (commands / name).chmod(0o755)
    (folder.path / "logs").mkdir(exist_ok=True)
    return "7"


def _curve_row(step: int) -> str:
    row = {"step": step, "tokens": step * 192, "flops": step * 1e6, "train_loss": 3 + 1 / step,
           "eval_loss": 3 + 1 / step, "eval_tokens": 512, "lr": 0.01, "seconds": step / 7}  # fmt: skip
    return json.dumps(row) + "\n"
