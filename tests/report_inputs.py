"""What a report is made from, simulated: a planted law, its records, curves and fit. No training."""

import math
from dataclasses import MISSING, asdict, fields

import numpy as np
import pandas as pd

from results.record import Record, column_types

E, A, B, ALPHA, BETA = 1.2, 18.0, 160.0, 0.30, 0.38
BUDGETS = (6e10, 1.5e11, 3.75e11, 9.375e11, 2.34e12)
HOSTILE = "<script>window.hacked = 1</script>\"'&|`*"


def planted_loss(N, D):
    return E + A / N**ALPHA + B / D**BETA


def planted_records(noise: float = 0.004, sizes: int = 5, seed: int = 0) -> pd.DataFrame:
    """Simulate a sweep over BUDGETS, sizes within a factor 4 of the optimum; one cell diverged."""
    rng = np.random.default_rng(seed)
    G = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    rows = []
    for C in BUDGETS:
        for factor in np.geomspace(1 / 4, 4, sizes):
            N = 1.05 * factor * G * (C / 6) ** (BETA / (ALPHA + BETA))
            loss = planted_loss(N, C / 6 / N) * math.exp(noise * rng.standard_normal())
            rows.append(record_row(len(rows), C, N, loss))
    lost = {"val_loss": math.nan, "bpb": math.nan, "status": "diverged", "reason": HOSTILE}
    rows.append(record_row(len(rows), BUDGETS[0], 5e4, 3.0) | lost)
    return pd.DataFrame(rows)


def record_row(number: int, C: float, N: float, loss: float) -> dict:
    """One finished attempt, every field that must be set set."""
    D = C / 6 / N
    fill = {int: 1, float: 1.0, str: "x", bool: True}
    types = column_types()
    row = {f.name: fill[types[f.name]] for f in fields(Record) if f.default is MISSING}
    row |= {
        "sweep": "planted", "cell_id": f"c{C:.3g}-n{N / 1000:.0f}k-s0-{number:08x}", "attempt": 0,
        "budget": C, "flop_rule": "palm", "flops": C, "size_id": f"d{round(N)}", "N_flops": N,
        "N_total": int(1.2 * N), "N_active": int(1.2 * N), "N_non_embedding": int(0.8 * N), "N_matmul": int(N),
        "tokens": int(D), "unique_tokens": int(D), "epochs": 1.0, "lr": 0.016, "seed": 0,
        "val_loss": loss, "val_loss_se": 0.0021, "bpb": loss / math.log(2), "board": "a CPU",
        "tokens_per_second": 4e9 / N, "mfu_of_measured_peak": 0.2 + 0.05 * math.log10(N / 1e3),
        "seconds": 6 * D * N / 5e9, "status": "finished", "git_sha": "0123abcd",
        "git_dirty": False, "data_sha256": "ab" * 32,
    }  # fmt: skip
    return asdict(Record(**row))


def as_records(frame: pd.DataFrame) -> list[Record]:
    """Rows of a table as records; a table's NaN is no text and no count."""
    types = column_types()
    return [
        Record(**{k: None if types[k] is not float and v != v else v for k, v in row.items()})
        for row in frame.to_dict("records")
    ]


def planted_curves(records: pd.DataFrame) -> pd.DataFrame:
    """Learning curves of the finished cells: 30 evaluations each."""
    rows = [
        {"cell_id": c.cell_id, "attempt": c.attempt, "tokens": int(c.tokens * s),
         "eval_loss": planted_loss(c.N_flops, c.tokens * s), "train_loss": math.nan}
        for c in records[records["status"] == "finished"].itertuples()
        for s in np.geomspace(0.05, 1, 30)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def points_of(records: pd.DataFrame) -> pd.DataFrame:
    """Make the points table that the command line makes of fitted records."""
    used = records[records["status"] == "finished"]
    return pd.DataFrame({
        "N": used["N_flops"], "D": used["tokens"].astype(float), "C": used["flops"],
        "loss": used["val_loss"], "budget": used["budget"], "size_id": used["size_id"],
        "name": used["cell_id"],
    }).reset_index(drop=True)  # fmt: skip
