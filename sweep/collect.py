"""Collect: record files to records.parquet, evaluations along the way to curves.parquet."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.json as pa_json

from results.store import StoreError, collect_records, read_records, results_of, write_table
from sweep.errors import UsageError
from sweep.evaluations import read_evaluations
from sweep.folder import SweepFolder
from sweep.sweep_facts import read_plan_rows
from sweep.task_columns import join_evaluations


@dataclass(frozen=True)
class Collected:
    """What was collected."""

    records: pd.DataFrame
    curves: pd.DataFrame
    planned: int  # cells in the plan; 0 where there is none
    missing: tuple[str, ...]  # planned cells without a finished result
    tasks: str | None = None  # what task_accuracy is of, in words


def collect(folder: SweepFolder) -> Collected:
    """Read every attempt's record and curve and write both tables.

    Raises:
        UsageError: no such sweep, no record yet, or an evaluation that can't be read.
    """
    _check_folder(folder)
    evaluations, lines = read_evaluations(folder), []

    def later(table: pa.Table) -> Mapping[str, Mapping[tuple[str, int], Any]]:
        columns = (table[c].to_pylist() for c in ("cell_id", "attempt", "val_sets"))
        val_sets = {(c, n): text for c, n, text in zip(*columns, strict=True)}
        joined = join_evaluations(evaluations, val_sets)
        lines.append(joined.line)
        return joined.columns

    try:
        records = collect_records(folder.records, folder.collected, later)
    except StoreError as e:
        raise UsageError(str(e)) from None
    curves = _read_curves(folder, records)
    write_table(pa.Table.from_pandas(curves, preserve_index=False), folder.curves)
    plan = [row.cell_id for row in read_plan_rows(folder)] if folder.plan.exists() else []
    results = results_of(records)
    finished = set(results.loc[results["status"] == "finished", "cell_id"])
    missing = tuple(i for i in plan if i not in finished)
    return Collected(records, curves, len(plan), missing, lines[0])


def read_sweep_records(folder: SweepFolder) -> pd.DataFrame:
    """Every attempt's record, straight from the record files.

    Raises:
        UsageError: no such sweep, or no record yet.
    """
    _check_folder(folder)
    try:
        return read_records(folder.records)
    except StoreError as e:
        raise UsageError(str(e)) from None


def _check_folder(folder: SweepFolder) -> None:
    if not folder.path.is_dir():
        known = _known_sweeps(folder)
        raise UsageError(
            f"sweep={folder.name}: no folder {folder.path}; "
            + (f"there are: {', '.join(known)}" if known else "launch one first: isoflop launch")
        )


def _read_curves(folder: SweepFolder, records: pd.DataFrame) -> pd.DataFrame:
    """Read every attempt's curve; a last line that was cut off by a kill is left out."""
    texts, lengths = [], []
    for cell_id, attempt in zip(records["cell_id"], records["attempt"], strict=True):
        text = _whole_lines(folder.cell(cell_id) / str(attempt) / "train.jsonl")
        texts.append(text)
        lengths.append(text.count(b"\n"))
    if not any(lengths):
        return pd.DataFrame(columns=_CURVE_COLUMNS)
    points = pa_json.read_json(io.BytesIO(b"".join(texts)), parse_options=_CURVE_SCHEMA)
    keys = records[["cell_id", "attempt", "budget", "N_flops", "seed"]]
    keys = keys.loc[keys.index.repeat(lengths)].reset_index(drop=True)
    return pd.concat([keys, points.to_pandas()], axis=1)


def _whole_lines(path: Path) -> bytes:
    try:
        text = path.read_bytes()
    except OSError:
        return b""
    if text.endswith(b"}\n") and text.count(b"}\n") == text.count(b"\n"):
        return text
    lines = text.splitlines()
    return b"".join(line + b"\n" for line in lines if line.endswith(b"}"))


_CURVE_SCHEMA = pa_json.ParseOptions(
    explicit_schema=pa.schema(
        [
            ("step", pa.int64()),
            ("tokens", pa.int64()),
            ("flops", pa.float64()),
            ("train_loss", pa.float64()),
            ("eval_loss", pa.float64()),
            ("eval_tokens", pa.int64()),
            ("lr", pa.float64()),
            ("seconds", pa.float64()),
            ("expert_load_max", pa.float64()),
            ("expert_load_entropy", pa.float64()),
            ("expert_dead", pa.float64()),
        ]
    )
)
_CURVE_COLUMNS = ["cell_id", "attempt", "budget", "N_flops", "seed", "step", "tokens", "flops",
                  "train_loss", "eval_loss", "eval_tokens", "lr", "seconds",
                  "expert_load_max", "expert_load_entropy", "expert_dead"]  # fmt: skip


def _known_sweeps(folder: SweepFolder) -> list[str]:
    if not folder.root.is_dir():
        return []
    return sorted(p.parent.name for p in folder.root.glob("*/plan.parquet"))
