"""How far forecasts of public sweeps missed what was trained later: sets discrepancy.DISCREPANCY.

    ISOFLOP_SHARED_DATA=... OMP_NUM_THREADS=1 python tests/bench/backtest.py [errors.csv]

Each sweep is cut at each budget that has three lower ones; the averaged forms, fitted below the
cut, predict every dearer budget: the mean log loss of its cells near the minimum, and the log N of
its minimum. An error is compared with the predicted sd (sampling and form, and the noise of what
was observed). Printed: errors by decades of extrapolation, and for four ways to widen the sd how
well each predicts the errors of a sweep whose errors did not set its scale (leave one sweep out).

Tuned: the learning rate was chosen per size, or the sweep is Hoffmann's. All others carry an error
of their recipe, which no fit can see, and are printed but set nothing. Porian's sweeps with other
counts of N are the same runs: they stay in one sweep. Rows with D/N outside 1..500 are left out, as
in the project's own grids. About two minutes on two cores.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.stats import norm

from analysis.averaging import FORMS, Average, average
from analysis.fitted import Fitted, Resampling, fit_points
from analysis.holdout import noise_sd
from analysis.points import Points, load_points, points_from_frame
from analysis.profiles import Minimum, find_minima, pooled_noise

DRAWS = 200
FEWEST_ROWS = 15
NEAR = np.log(2.5)  # cells this near to the minimum in log N are predicted
EDGES = [0, 0.35, 0.65, 0.95, 1.3, 1.7, 2.2, 3.5]
PORIAN = ["dataset", "hparams", "warmup", "decay"]


def main() -> None:
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        sys.exit("ISOFLOP_SHARED_DATA is not set: the public sweeps are not in the repository")
    with Pool() as pool:
        parts = pool.starmap(errors, list(sweeps(Path(folder))), chunksize=1)
    frame = pd.DataFrame([row for part in parts for row in part])
    if len(sys.argv) > 1:
        frame.to_csv(sys.argv[1], index=False)
    for what in ("loss", "N"):
        rows = frame[(frame.what == what) & np.isfinite(frame.sd)]
        print(f"\nErrors of log {what} by decades of extrapolation\n{by_decades(rows).to_string()}")
        for name, kept in (("tuned", rows[rows.tuned]), ("all", rows)):
            table = leave_one_out(kept)
            print(f"\nLog {what}, {name}: {kept.sweep.nunique()} sweeps\n{table.to_string()}")


def sweeps(folder: Path) -> Iterator[tuple[str, bool, Points]]:
    """Name, whether its recipe was tuned, and the points of each public sweep of real runs."""
    porian = pd.read_csv(folder / "porian_isoflop_points.csv")
    for keys, rows in porian.groupby([*PORIAN, "param_count"]):
        yield "porian " + "/".join(keys[:4]), keys[1] == "tuned", points_from_frame(rows)
    epoch = folder / "chinchilla_epoch245.csv"
    yield "hoffmann", True, load_points(epoch, {"excluded": "excluded_by_epoch"})
    gadre = pd.read_csv(folder / "gadre_models.csv")
    for name, rows in gadre.groupby("dataset_name"):
        yield f"gadre {name}", False, points_from_frame(rows, {"loss": "loss_c4_val"})
    blind = pd.read_csv(folder / "datablations_runs.csv").query("set == 'all' and D <= 1.001 * U")
    yield "datablations", False, points_from_frame(blind)


def errors(name: str, tuned: bool, points: Points) -> list[dict]:
    """One row for every origin, dearer budget and quantity: error, predicted sd, decades."""
    warnings.simplefilter("ignore", RuntimeWarning)
    points = points.take((points.D / points.N > 1) & (points.D / points.N < 500))
    budgets, minima = points.budgets, find_minima(points)
    rows = []
    for i in range(3, len(budgets)):
        train = points.take(points.budget < budgets[i] * 0.999)
        averaged = fitted_average(train) if len(train) >= FEWEST_ROWS else None
        for at in range(i, len(budgets) if averaged else i):
            test = points.take(points.budget == budgets[at])
            decades = np.log10(budgets[at] / budgets[i - 1])
            found = loss_error(averaged, test, minima[at]), N_error(averaged, minima, at)
            for what, (error, sd, noise) in zip(("loss", "N"), found, strict=True):
                rows.append({"sweep": name, "tuned": tuned, "what": what, "decades": decades,
                             "error": error, "sd": sd, "noise": noise})  # fmt: skip
    return rows


def fitted_average(train: Points) -> Average | None:
    side = Resampling("size", DRAWS, 0.9)
    return average(train, {f: fit_points(train, f, "t4", 1e-3, side) for f in FORMS}, side)


def loss_error(averaged: Average, test: Points, minimum: Minimum) -> tuple[float, float, float]:
    """Error of the mean log loss, its predicted sd, and the noise sd of what was observed."""
    near = np.abs(np.log(test.N / minimum.N)) < NEAR if minimum.usable else np.array([])
    test = test.take(near) if near.sum() >= 3 else test
    best = averaged.fits[int(np.argmax(averaged.weight))]
    noise = float(np.mean(noise_sd(best, test.C))) / np.sqrt(len(test))

    def log_loss(f: Fitted) -> tuple[float, np.ndarray]:
        at, draws = f.loss(test.N, test.D, test.C), f.loss_draws(test.N, test.D, test.C)
        return np.log(at).mean(), np.log(draws).mean(axis=1)

    return compared(averaged, log_loss, float(np.log(test.loss).mean()), noise)


def N_error(averaged: Average, minima: tuple[Minimum, ...], at: int) -> tuple[float, float, float]:
    """Error of log N_opt against the profile's minimum, its predicted sd, and that minimum's."""
    squares, dof = pooled_noise(minima)
    if not minima[at].usable or dof < 1:
        return np.nan, np.nan, np.nan
    noise = float(np.sqrt(squares / dof * minima[at].N_leverage))
    C = minima[at].budget

    def log_N(f: Fitted) -> tuple[float, np.ndarray]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(f.optimum(C)[0]), np.log(f.optimum_draws(C)[0])

    return compared(averaged, log_N, float(np.log(minima[at].N)), noise)


def compared(
    averaged: Average, quantity: Callable[[Fitted], tuple], seen: float, noise: float
) -> tuple[float, float, float]:
    found = [quantity(f) for f in averaged.fits]
    count = min(len(draws) for _, draws in found)
    at_fit = np.array([value for value, _ in found])
    if not np.isfinite(at_fit).any():
        return np.nan, np.nan, np.nan
    mixed = averaged.combine(at_fit, np.stack([draws[:count] for _, draws in found], axis=1))
    return mixed.estimate - seen, float(np.std(mixed.mixture)), noise


def by_decades(frame: pd.DataFrame) -> pd.DataFrame:
    z = frame.error / np.hypot(frame.sd, frame.noise)
    groups = frame.assign(z=z).groupby(["tuned", pd.cut(frame.decades, EDGES)], observed=True)
    return groups.agg(
        n=("error", "size"), sweeps=("sweep", "nunique"), mean=("error", "mean"), rms=("error", rms),
        sd=("sd", "median"), z=("z", rms),
    ).round(4)  # fmt: skip


def rms(x: pd.Series) -> float:
    return float(np.sqrt(np.mean(x**2)))


WAYS: dict[str, tuple[int, Callable]] = {
    "as predicted": (0, lambda q, x: x.sd**2),
    "(k decades)^2": (1, lambda q, x: x.sd**2 + (q[0] * x.decades) ** 2),
    "sd^2 (1 + k)": (1, lambda q, x: x.sd**2 * (1 + q[0])),
    "sd^2 (1 + k decades)": (1, lambda q, x: x.sd**2 * (1 + q[0] * x.decades)),
}


def leave_one_out(frame: pd.DataFrame) -> pd.DataFrame:
    """Score each way on each sweep with the scale that all others set; each sweep weighs the same.

    Columns: the scale from all sweeps and its 90% likelihood range, the mean log density of a
    sweep's errors, the share within the 90% interval, and that share's lowest over sweeps.
    """
    rows = {}
    for way, (free, variance) in WAYS.items():
        scores, inside = [], []
        for name in frame.sweep.unique():
            rest, out = frame[frame.sweep != name], frame[frame.sweep == name]
            q = best_scale(variance, rest) if free else np.array([])
            sd = np.sqrt(variance(q, out) + out.noise**2)
            scores.append(float(norm.logpdf(out.error, scale=sd).mean()))
            inside.append(float(np.mean(np.abs(out.error) < 1.645 * sd)))
        low, k, high = scale_range(variance, frame) if free else (np.nan, np.nan, np.nan)
        rows[way] = {"k": k, "low": low, "high": high, "log_density": np.mean(scores),
                     "inside_90": np.mean(inside), "worst": np.min(inside)}  # fmt: skip
    return pd.DataFrame(rows).T.round(3)


def misfit(variance: Callable, q: np.ndarray, frame: pd.DataFrame) -> float:
    """Negative log likelihood, as if each sweep were one observation: its errors move together."""
    sd = np.sqrt(variance(q, frame) + frame.noise**2)
    weight = 1 / frame.groupby("sweep").error.transform("size")
    return -float((weight * norm.logpdf(frame.error, scale=sd)).sum())


def best_scale(variance: Callable, frame: pd.DataFrame) -> np.ndarray:
    starts = (0.01, 0.1, 1.0, 10.0)
    runs = [minimize(lambda p: misfit(variance, np.exp(p), frame), np.log([s]), method="Nelder-Mead")
            for s in starts]  # fmt: skip
    return np.exp(min(runs, key=lambda run: run.fun).x)


def scale_range(variance: Callable, frame: pd.DataFrame) -> tuple[float, float, float]:
    """Scale with the ends of its 90% likelihood interval (a drop of 1.35)."""
    k = best_scale(variance, frame)[0]
    grid = k * np.exp(np.linspace(-4, 4, 161))
    drop = np.array([misfit(variance, np.array([g]), frame) for g in grid])
    near = grid[drop - misfit(variance, np.array([k]), frame) < 1.353]
    return float(near.min()), float(k), float(near.max())


if __name__ == "__main__":
    main()
