"""Is one recipe better than another? The same cells under both, one beside the other.

    python tests/bench/comparison.py A/records.parquet B/records.parquet [...]

`isoflop forecast fits=[A,B]` compares two laws that it takes for independent, and so with wide
intervals. Cells of two sweeps on one grid come in pairs: a budget, a shape, a seed. What B's loss is
over A's, cell by cell, needs no law. Printed: the mean of that on each budget and on all, with the
standard error that its scatter gives; what it is worth in compute, by the slope of A's lowest losses
(least squares on the minima observed); how that changes a decade; scatter between seeds; what lr
probes say; and the seconds of training that a FLOP takes.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from results.store import results_of

SAME = ["budget", "n_layer", "d_model", "seed"]
LEVEL = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    args = parser.parse_args()
    paths = [args.first, *args.others]
    if missing := [str(p) for p in paths if not p.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    first, *others = [(p.parent.name, results_of(pd.read_parquet(p))) for p in paths]
    for name, rows in (first, *others):
        print(f"{name}: {len(grid(rows))} cells; {seed_noise(rows)}; {lr_probes(rows)}")
    for name, rows in others:
        print(f"\n{name} beside {first[0]}, cell by cell")
        compare(grid(first[1]), grid(rows))


def grid(rows: pd.DataFrame) -> pd.DataFrame:
    """Finished cells that laws see."""
    return rows[(rows["status"] == "finished") & rows["probe"].isna()]


def compare(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Print what B's losses are over A's, and what that is worth."""
    pairs = a.merge(b, on=SAME, suffixes=("_a", "_b"))
    if pairs.empty:
        print("  none: no budget, shape and seed is in both")
        return
    pairs["ratio"] = np.log(pairs["val_loss_b"] / pairs["val_loss_a"])
    for C, own in pairs.groupby("budget"):
        print(f"  C={C:.3g}: {said(own['ratio'])}")
    print(f"  all:       {said(pairs['ratio'])}")
    slope, slope_se = slope_of_minima(a)
    mean, se, n = moments(pairs["ratio"])
    # B's loss is A's at mean/slope more of log C; errors of both, to first order
    worth, error = mean / slope, np.hypot(se / slope, mean * slope_se / slope**2)
    reach = student.ppf((1 + LEVEL) / 2, n - 1) * error
    low, high = np.exp(worth - reach), np.exp(worth + reach)
    print(f"  log loss falls by {-slope:.4f} (s.e. {slope_se:.4f}) for each e-fold of C: a FLOP of the second is "
          f"worth {np.exp(worth):.2f} [{low:.2f}, {high:.2f}] of the first's")  # fmt: skip
    x = np.log10(pairs["budget"] / pairs["budget"].min()).to_numpy()
    change, change_se = line(x, pairs["ratio"].to_numpy())
    print(f"  the difference changes by {change:+.2%} (s.e. {change_se:.2%}) a decade of C")
    time = (pairs["train_seconds_b"] / pairs["flops_b"]) / (
        pairs["train_seconds_a"] / pairs["flops_a"]
    )
    print(
        f"  seconds a FLOP: {time.median():.2f} of the first's [{time.min():.2f}, {time.max():.2f}]"
    )


def slope_of_minima(rows: pd.DataFrame) -> tuple[float, float]:
    """Slope of log lowest loss on log C, and its standard error."""
    lowest = rows.groupby("budget")["val_loss"].min()
    return line(np.log(lowest.index.to_numpy()), np.log(lowest.to_numpy()))


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of y on x by least squares, and its standard error."""
    dx = x - x.mean()
    slope = dx @ y / (dx @ dx)
    rest = y - y.mean() - slope * dx
    return float(slope), float(np.sqrt(rest @ rest / (len(x) - 2) / (dx @ dx)))


def moments(x: pd.Series) -> tuple[float, float, int]:
    """Mean, its standard error, and how many."""
    return float(x.mean()), float(x.std() / np.sqrt(len(x))), len(x)


def said(x: pd.Series) -> str:
    mean, se, n = moments(x)
    return f"{mean:+.2%} (s.e. {se:.2%}, {n} cells; {x.min():+.2%} to {x.max():+.2%})"


def seed_noise(rows: pd.DataFrame) -> str:
    """Scatter of log loss between the seeds of a cell."""
    done = rows[(rows["status"] == "finished") & (rows["probe"].isna() | (rows["probe"] == "seed"))]
    by_cell = np.log(done["val_loss"]).groupby([done["budget"], done["d_model"]])
    spare = (by_cell.count() - 1).clip(lower=0)
    variance = (by_cell.var().fillna(0) * spare).sum() / spare.sum()
    return (
        f"seeds of a cell differ with sd {np.sqrt(variance):.2%} ({spare.sum()} degrees of freedom)"
    )


def lr_probes(rows: pd.DataFrame) -> str:
    """Log loss of half and of twice the learning rate, over the cell's own."""
    done = rows[rows["status"] == "finished"]
    own = np.log(done[done["probe"].isna()].set_index(SAME)["val_loss"])
    words = []
    for probe in ("lr_half", "lr_double"):
        at = np.log(done[done["probe"] == probe].set_index(SAME)["val_loss"])
        over = (at - own.reindex(at.index)).dropna()
        words.append(f"{probe} {over.mean():+.2%} ({over.min():+.2%} to {over.max():+.2%})")
    return ", ".join(words)


if __name__ == "__main__":
    main()
