"""Collect: record files to records.parquet, evaluations along the way to curves.parquet."""

import json
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from results.store import StoreError, collect_records, read_records, results_of, write_table
from sweep.errors import UsageError
from sweep.folder import SweepFolder, read_plan


@dataclass(frozen=True)
class Collected:
    """What was collected."""

    records: pd.DataFrame
    curves: pd.DataFrame
    planned: int  # cells in the plan; 0 where there is none
    missing: tuple[str, ...]  # planned cells without a finished result


def collect(folder: SweepFolder) -> Collected:
    """Read every attempt's record and curve and write both tables.

    Raises:
        UsageError: no such sweep, or no record yet.
    """
    read_sweep_records(folder)
    records = collect_records(folder.records, folder.collected)
    curves = _read_curves(folder, records)
    write_table(pa.Table.from_pandas(curves, preserve_index=False), folder.curves)
    plan = [p.cell.id for p in read_plan(folder)]
    results = results_of(records)
    finished = set(results.loc[results["status"] == "finished", "cell_id"])
    missing = tuple(i for i in plan if i not in finished)
    return Collected(records, curves, len(plan), missing)


def read_sweep_records(folder: SweepFolder) -> pd.DataFrame:
    """Every attempt's record, straight from the record files.

    Raises:
        UsageError: no such sweep, or no record yet.
    """
    if not folder.path.is_dir():
        known = _known_sweeps(folder)
        raise UsageError(
            f"sweep={folder.name}: no folder {folder.path}; "
            + (f"there are: {', '.join(known)}" if known else "launch one first: isoflop launch")
        )
    try:
        return read_records(folder.records)
    except StoreError as e:
        raise UsageError(str(e)) from None


def _read_curves(folder: SweepFolder, records: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for r in records[["cell_id", "attempt", "budget", "N_flops", "seed"]].to_dict("records"):
        path = folder.cell(r["cell_id"]) / str(r["attempt"]) / "train.jsonl"
        if path.exists():
            lines = path.read_text().splitlines()
            rows += [{**r, **json.loads(line)} for line in lines if line.endswith("}")]
    return pd.DataFrame(rows, columns=_CURVE_COLUMNS if not rows else None)


_CURVE_COLUMNS = ["cell_id", "attempt", "budget", "N_flops", "seed", "step", "tokens", "flops",
                  "train_loss", "eval_loss", "eval_tokens", "lr", "seconds"]  # fmt: skip


def _known_sweeps(folder: SweepFolder) -> list[str]:
    if not folder.root.is_dir():
        return []
    return sorted(p.parent.name for p in folder.root.glob("*/plan.parquet"))
