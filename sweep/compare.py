"""What an attempt ended with, beside what is on record of the same cell."""

import pandas as pd
from rich.console import Console

from results.record import Probe, Record
from results.store import results_of
from sweep.amounts import duration
from sweep.data_columns import set_lines
from sweep.health import complaints


def say_result(record: Record, records: pd.DataFrame | None, console: Console) -> None:
    """Say what an attempt ended with, how it compares, and what is unhealthy about it.

    Args:
        record: the attempt.
        records: earlier records of the sweep, or None where there are none.
        console: where to print.
    """
    if record.status != "finished":
        console.print(f"{record.status}: {record.reason}")
        return
    console.print(
        f"loss {record.val_loss:.6f} ± {record.val_loss_se:.4f} nats/token on "
        f"{record.val_tokens:,} tokens, {record.bpb:.4f} bits/byte, "
        f"{record.tokens_per_second:,.0f} tokens/s, {duration(record.seconds)}",
    )
    for line in set_lines(record.val_sets):
        console.print(line)
    for complaint in complaints(vars(record)):
        console.print(f"Note: {complaint}.")
    if records is None:
        return
    old = records[(records["cell_id"] == record.cell_id) & (records["status"] == "finished")]
    if old.empty:
        console.print("No finished record of this cell to compare with.")
        return
    first = results_of(old).iloc[0]
    before = first["val_loss"]
    console.print(
        f"recorded {before:.6f}, now {record.val_loss:.6f}, {_compare(record, before, records)}"
        f"{_what_differs(record, first)}"
    )


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


_DECIDE_BITS = ("device", "board", "threads", "dtype", "matmul_precision", "compiled", "attention",
                "cross_entropy", "deterministic", "micro_batch", "n_device", "torch_version")  # fmt: skip


def _what_differs(record: Record, first: pd.Series) -> str:
    """Name what bits depend on and is not as recorded; columns that a record lacks don't count."""
    pairs = {name: (first[name], getattr(record, name)) for name in _DECIDE_BITS}
    found = [f"{k} {b} (was {a})" for k, (a, b) in pairs.items() if not pd.isna(a) and a != b]
    return f"; here with {', '.join(found)}" if found else ""
