"""How far laws of public sweeps miss what was trained later: sets forecast.DISCREPANCY.

    ISOFLOP_SHARED_DATA=... python tests/bench/backtest.py

Each sweep is cut at each budget that has three lower ones; the forms, averaged by AICc, predict
the mean log loss of every dearer budget. Printed: rms error by decades of extrapolation, for tuned
recipes (the learning rate was chosen per size, or the sweep is Hoffmann's) and for all others.
Rows with D/N outside 1..500 are left out, as in the project's own grids. Minutes on one core.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.averaging import weights_of
from analysis.fitted import Resampling, fit_points
from analysis.points import Points, load_points, points_from_frame

FORMS = ("chinchilla", "tied", "coupled")
FEWEST_ROWS = 40
PORIAN = ["dataset", "hparams", "warmup", "decay", "param_count"]
EDGES = [0, 0.35, 0.65, 0.95, 1.3, 1.7, 2.2, 3.0]


def sweeps(folder: Path) -> Iterator[tuple[str, bool, Points]]:
    """Name, whether its recipe was tuned, and the points of each public sweep."""
    porian = pd.read_csv(folder / "porian_isoflop_points.csv")
    for keys, rows in porian.groupby(PORIAN):
        yield "porian " + "/".join(keys), keys[1] == "tuned", points_from_frame(rows)
    epoch = folder / "chinchilla_epoch245.csv"
    yield "hoffmann", True, load_points(epoch, {"excluded": "excluded_by_epoch"})
    gadre = pd.read_csv(folder / "gadre_models.csv")
    for name, rows in gadre.groupby("dataset_name"):
        yield f"gadre {name}", False, points_from_frame(rows, {"loss": "loss_c4_val"})


def errors(points: Points) -> Iterator[tuple[float, float]]:
    """Decades of extrapolation and mean log error, for every origin and every dearer budget."""
    points = points.take((points.D / points.N > 1) & (points.D / points.N < 500))
    budgets = points.budgets
    for i in range(3, len(budgets)):
        train = points.take(points.budget < budgets[i] * 0.999)
        if len(train) < FEWEST_ROWS:
            continue
        fits = [fit_points(train, f, "t4", 1e-3, Resampling("size", 0, 0.9)) for f in FORMS]
        weight = weights_of(np.array([f.fit.aicc for f in fits]))
        for budget in budgets[i:]:
            test = points.take(points.budget == budget)
            seen = np.log(test.loss).mean()
            found = [np.log(f.loss(test.N, test.D, test.C)).mean() - seen for f in fits]
            yield float(np.log10(budget / budgets[i - 1])), float(weight @ np.array(found))


def main() -> None:
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        sys.exit("ISOFLOP_SHARED_DATA is not set: the public sweeps are not in the repository")
    warnings.simplefilter("ignore", RuntimeWarning)
    rows = [
        {"sweep": name, "tuned": tuned, "decades": decades, "error": error}
        for name, tuned, points in sweeps(Path(folder))
        for decades, error in errors(points)
    ]
    frame = pd.DataFrame(rows)
    groups = frame.groupby(["tuned", pd.cut(frame.decades, EDGES)], observed=True)
    table = groups.agg(
        n=("error", "size"), sweeps=("sweep", "nunique"), decades=("decades", "mean"),
        rms=("error", lambda e: np.sqrt(np.mean(e**2))),
    )  # fmt: skip
    print(table.assign(per_decade=table.rms / table.decades).round(4).to_string())


if __name__ == "__main__":
    main()
