"""What runs took, as tables: speed by size and device, and cost by budget.

Device-hours are wall-clock hours of an attempt, restarts and evaluations in, times its devices.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.report_numbers import count, percent
from results.store import flops_spent_of

SHORT = 0.1  # hours; where no run is longer, seconds read better


def with_devices(records: pd.DataFrame) -> pd.DataFrame:
    """Add `device_kind` (board, dtype, devices of one cell) and `hours` (device-hours)."""
    devices = records["n_device"].astype(float).fillna(1.0)
    kinds = [_kind(*k) for k in zip(records["board"], records["dtype"], devices, strict=True)]
    return records.assign(device_kind=kinds, hours=records["seconds"] * devices / 3600)


def _kind(board: object, dtype: object, devices: float) -> str:
    words = [str(w) for w in (board, dtype) if isinstance(w, str)] or ["unknown device"]
    return ", ".join([*words, *([f"{devices:.0f} devices"] if devices > 1 else [])])


def time_unit(records: pd.DataFrame) -> tuple[str, float]:
    """Name the unit of device time that reads well, and how many of it are an hour."""
    kinds = tuple(set(records["device"].dropna()))
    what = {("cuda",): "GPU", ("cpu",): "CPU"}.get(kinds, "device")
    hours = with_devices(records)["hours"].max()
    return (f"{what}-seconds", 3600.0) if hours < SHORT else (f"{what}-hours", 1.0)


def speed_table(cells: pd.DataFrame | None) -> tuple[pd.DataFrame, str | None]:
    """Throughput by size, and which utilisation there is: mfu, else the one of a measured peak.

    Returns:
        cell_id, N, budget, device, tokens_per_second, that utilisation, percent, tip.
    """
    if cells is None or cells.empty or not np.isfinite(cells["tokens_per_second"]).any():
        return pd.DataFrame(), None
    rates = [r for r in ("mfu", "mfu_of_measured_peak") if np.isfinite(cells[r]).any()]
    rate = rates[0] if rates else None
    table = with_devices(cells)
    table = table.assign(N=table["N_flops"], device=table["device_kind"],
                         percent=100 * table[rate] if rate else np.nan)  # fmt: skip
    table["tip"] = [
        f"{c.cell_id}\nN {count(c.N)}\n{count(c.tokens_per_second)} tokens/s, "
        f"{percent(c.percent / 100, signed=False)}\n{c.device}"
        for c in table.itertuples()
    ]
    keep = ["cell_id", "N", "budget", "device", "tokens_per_second", *rates[:1], "percent", "tip"]
    return table.sort_values(["N", "budget"], ignore_index=True)[keep], rate


def device_table(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a kind of device: device, cells, least, most (tokens/s), rate (median share)."""
    rate = "mfu" if np.isfinite(cells["mfu"]).any() else "mfu_of_measured_peak"
    by = with_devices(cells).groupby("device_kind")
    table = by["tokens_per_second"].agg(cells="size", least="min", most="max")
    low, high = by[rate].min(), by[rate].max()
    table = table.assign(rate=by[rate].median(), rate_low=low, rate_high=high)
    return table.rename_axis("device").reset_index()


@dataclass(frozen=True)
class Costs:
    """What a sweep took.

    by_budget: budget, kind (cells, probes, or other attempts, which gave no result), runs, flops (of
    finished runs), hours and `each` (median hours of one).
    """

    by_budget: pd.DataFrame
    flops: float
    hours: float
    unit: str  # what to show hours in
    per_hour: float  # how many of it an hour is
    untimed: int  # runs whose seconds nobody knows


def costs(records: pd.DataFrame, results: pd.DataFrame) -> Costs:
    """Add up what every attempt took, also those that gave no result.

    Args:
        records: every attempt.
        results: one row a cell (results.store.results_of).
    """
    timed = with_devices(records)
    result = set(zip(results["cell_id"], results["attempt"], strict=True))
    counts = [k in result for k in zip(timed["cell_id"], timed["attempt"], strict=True)]
    kind = np.where(timed["probe"].notna(), "probes", "cells")
    # What a run that ended early had spent is not recorded; its hours are.
    flops = pd.Series(flops_spent_of(timed), timed.index).where(timed["status"] == "finished")
    table = timed.assign(kind=np.where(counts, kind, "other attempts"), flops=flops)
    by = table.groupby(["budget", "kind"], sort=True)
    summed = by.agg(runs=("kind", "size"), flops=("flops", "sum"), hours=("hours", "sum"),
                    each=("hours", "median"))  # fmt: skip
    return Costs(summed.reset_index(), float(flops.sum()), float(timed["hours"].sum()),
                 *time_unit(records), int(timed["seconds"].isna().sum()))  # fmt: skip
