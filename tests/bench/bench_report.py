"""How long a report takes, and how much memory: 10,000 records with 50 curve rows each, and the demo.

    python tests/bench/bench_report.py [records] [curve rows]

Each report is made by the command line in a process of its own, so that its start is in the figure.
Prints CPU seconds (workers in), wall seconds, peak memory of the largest process, and the page's
size. On a busy machine only CPU seconds mean something.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from results.record import arrow_schema  # noqa: E402
from results.store import write_table  # noqa: E402
from tests.report_inputs import as_records, planted_loss, record_row  # noqa: E402

ISOFLOP = Path(sys.executable).parent / "isoflop"
BUDGETS = 10


def write_sweep(root: Path, n: int, steps: int) -> None:
    """Write a collected sweep of n finished cells over ten budgets, each with a curve of so many rows."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        C = 1e15 * 3.0 ** (i % BUDGETS)
        N = np.sqrt(C / 6 / 20) * 4 ** rng.uniform(-1, 1)
        loss = planted_loss(N, C / 6 / N) * np.exp(0.004 * rng.standard_normal())
        rows.append(record_row(i, C, N, float(loss)))
    folder = root / "large"
    folder.mkdir(parents=True)
    records = [vars(r) for r in as_records(pd.DataFrame(rows))]
    write_table(pa.Table.from_pylist(records, schema=arrow_schema()), folder / "records.parquet")
    share = np.geomspace(0.02, 1, steps)
    frame = pd.DataFrame(rows)
    tokens = np.outer(frame["tokens"], share)
    curves = pd.DataFrame({
        "cell_id": np.repeat(frame["cell_id"].to_numpy(), steps), "attempt": 0,
        "tokens": tokens.ravel(), "train_loss": np.nan,
        "eval_loss": planted_loss(np.repeat(frame["N_flops"].to_numpy(), steps), tokens.ravel()),
        "N_flops": np.repeat(frame["N_flops"].to_numpy(), steps), "lr": 0.01,
        "flops": np.outer(frame["flops"], share).ravel(),
    })  # fmt: skip
    curves.to_parquet(folder / "curves.parquet")


def timed(*words: str) -> tuple[float, float, float]:
    """Run a command; CPU seconds with its workers, wall seconds, peak bytes of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([ISOFLOP, *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start, after.ru_maxrss * 1024


def show(name: str, folder: Path, *words: str) -> None:
    """Print one line of the table."""
    cpu, wall, peak = timed(*words)
    page = (folder / "report" / "report.html").stat().st_size
    print(
        f"{name:32} {cpu:6.1f} s CPU {wall:6.1f} s wall {peak / 1e9:5.2f} GB {page / 1e6:5.2f} MB"
    )


def main() -> None:
    """Make both reports and print what they took."""
    n, steps = (int(w) for w in (*sys.argv[1:], "10000", "50")[:2]) if len(sys.argv) != 2 else (
        int(sys.argv[1]), 50)  # fmt: skip
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        demo = root / "demo"
        demo.mkdir()
        for file in ("records.parquet", "curves.parquet", "fits.json"):
            shutil.copy(ROOT / "results" / "reference" / "demo" / file, demo)
        # Laws of a real fit: a report reads them, it does not fit.
        write_sweep(root, n, steps)
        shutil.copy(demo / "fits.json", root / "large")
        show("demo", demo, "report", f"root={root}", "sweep=demo")
        show(f"{n} records x {steps} curve rows", root / "large", "report", f"root={root}",
             "sweep=large")  # fmt: skip


if __name__ == "__main__":
    main()
