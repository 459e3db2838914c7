"""Time the fit engine and compare its minima with scipy's; JSON lines on stdout.

Run from the checkout, on an idle machine and one core:

    OMP_NUM_THREADS=1 python tests/bench/bench_fit.py [--quick]

The 240 rows are simulated (chinchilla's constants, Student t noise), unless ISOFLOP_SHARED_DATA names
the folder of public sweeps: then they are Hoffmann et al.'s figure 4 as digitised by Epoch AI.
The package `chinchilla` is timed too where it can be imported (it is in no constraints of ours).
Seconds are CPU seconds of this process. `exp_ns` in the first line is what one double exponential
costs here, as a yardstick between machines and between loads of one machine.
"""

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from scipy.optimize import minimize
from scipy.special import logsumexp

from analysis.engine import fit_law, rebuild, refit
from analysis.laws import LAWS
from analysis.resampling import bootstrap, resampling_weights

TRUTH = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
CHINCHILLA = LAWS["chinchilla"]


def main() -> None:
    """Run every measurement and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, few resamples")
    quick = parser.parse_args().quick
    emit("machine", **machine())
    source, N, D, loss = rows_240()
    repeats = 3 if quick else 15
    for estimator in ("huber", "t4", "ls", "l1"):
        seconds = timed(lambda e=estimator: fit_law("chinchilla", N, D, loss, estimator=e), repeats)
        emit("point_fit", estimator=estimator, rows=len(N), data=source, **seconds)
    for estimator in ("huber", "t4", "ls"):
        fit = fit_law("chinchilla", N, D, loss, estimator=estimator)
        seconds = timed(lambda f=fit: bootstrap(f, N, D, loss, draws=4000), 2 if quick else 5)
        emit("bootstrap", estimator=estimator, rows=len(N), draws=4000, data=source, **seconds)
    for law in sorted(set(LAWS) - {"data_constrained"}):
        seconds = timed(lambda name=law: fit_law(name, N, D, loss, estimator="t4"), repeats)
        emit("point_fit_law", law=law, estimator="t4", rows=len(N), data=source, **seconds)
    growth(quick)
    against_chinchilla(N, D, loss, source, every=320 if quick else 64)
    against_lbfgs(N, D, loss, source, resamples=10 if quick else 200)


def growth(quick: bool) -> None:
    """Point fit and bootstrap from 100 to 10,000 rows, and from 500 to 4,000 draws."""
    for n in (100, 1000, 10_000):
        N, D, loss = simulated(n)
        fit = fit_law("chinchilla", N, D, loss, estimator="huber")
        seconds = timed(lambda: fit_law("chinchilla", N, D, loss, estimator="huber"), 3)  # noqa: B023
        emit("point_fit_rows", estimator="huber", rows=n, **seconds)
        draws = 50 if quick else 200
        seconds = timed(lambda: bootstrap(fit, N, D, loss, draws=draws), 2)  # noqa: B023
        emit("bootstrap_rows", estimator="huber", rows=n, draws=draws, **seconds)
    N, D, loss = simulated(240)
    fit = fit_law("chinchilla", N, D, loss, estimator="huber")
    for draws in (500, 1000, 2000, 4000):
        seconds = timed(lambda: bootstrap(fit, N, D, loss, draws=draws), 2)  # noqa: B023
        emit("bootstrap_draws", estimator="huber", rows=240, draws=draws, **seconds)


def against_lbfgs(N, D, loss, source: str, resamples: int, starts: int = 24) -> None:
    """Compare our minimum of each resample with the best of 24 converged L-BFGS runs."""
    fit = fit_law("chinchilla", N, D, loss, estimator="huber")
    problem = rebuild(fit, N, D, loss)
    weights = resampling_weights(np.random.default_rng(0), resamples, np.arange(len(N)))
    theta, converged = refit(fit, problem, weights)
    residual = np.log(CHINCHILLA.loss(theta[:, None, :], N, D) / loss)
    ours = (weights * huber(residual)).sum(axis=1)
    began = time.process_time()
    theirs = np.array([lbfgs_minimum(N, D, loss, row, starts) for row in weights])
    relative = ours / theirs - 1
    emit(
        "objective_against_lbfgs",
        data=source,
        resamples=resamples,
        starts=starts,
        converged=int(converged.sum()),
        above=int((relative > 1e-9).sum()),
        largest_excess=float(relative.max()),
        largest_gain=float(-relative.min()),
        lbfgs_seconds=time.process_time() - began,
    )


def against_chinchilla(N, D, loss, source: str, every: int) -> None:
    """Time PyPI's `chinchilla` on our objective, from the grid of its own first example.

    Of its 3,125 starts every `every`-th is run, in one process and without its plot; its seconds
    for the grid are those, scaled by the count. Both sums of Huber losses are computed here.
    """
    try:
        from chinchilla import Chinchilla
        from chinchilla._metrics import log_huber
    except ImportError as e:
        emit("chinchilla_package", status="skipped", reason=str(e))
        return
    rows = pd.DataFrame({"C": 6 * N * D, "N": N, "D": D, "loss": loss})
    ours = timed(lambda: fit_law("chinchilla", N, D, loss, estimator="huber"), 5)
    theta = fit_law("chinchilla", N, D, loss, estimator="huber").theta
    axes = (np.linspace(1, 2, 5), *[np.linspace(1, 10, 5)] * 2, *[np.linspace(0.1, 0.7, 5)] * 2)
    grid_starts = list(itertools.product(*axes))
    starts = grid_starts[every // 2 :: every]
    found, seconds = [], 0.0
    for start in starts:
        with tempfile.TemporaryDirectory() as folder:
            grid = {
                name: (x,) for name, x in zip(("E", "a", "b", "alpha", "beta"), start, strict=True)
            }
            theirs = Chinchilla(
                folder, grid, loss_fn=lambda y, p: log_huber(y, p, 1e-3), log_level=50
            )
            theirs.database.df = rows
            theirs.visualizer.optim = lambda *args, **options: None
            began = time.process_time()
            theirs.fit(parallel=False)
            seconds += time.process_time() - began
            found.append([float(theirs.params[name]) for name in CHINCHILLA.parameters])
    values = [objective_sum(p, N, D, loss) for p in found]
    whole = seconds / len(starts) * len(grid_starts)
    emit(
        "chinchilla_package",
        data=source,
        version=metadata.version("chinchilla"),
        starts_run=len(starts),
        starts_of_its_grid=len(grid_starts),
        seconds_per_start=seconds / len(starts),
        seconds_of_its_grid=whole,
        our_seconds=ours["seconds_median"],
        ratio=whole / ours["seconds_median"],
        our_objective=objective_sum(theta, N, D, loss),
        its_lowest_objective=float(np.nanmin(values)),
        its_median_objective=float(np.nanmedian(values)),
    )


def objective_sum(theta, N, D, loss) -> float:
    """Sum of Huber losses of the log-loss residuals at (E, A, B, alpha, beta)."""
    E, A, B, alpha, beta = theta
    return float(huber(np.log((E + A / N**alpha + B / D**beta) / loss)).sum())


def huber(r: np.ndarray, delta: float = 1e-3) -> np.ndarray:
    """Huber's function, elementwise."""
    clipped = np.clip(r, -delta, delta)
    return clipped * (r - clipped / 2)


def lbfgs_minimum(N, D, loss, weights, starts: int, delta: float = 1e-3) -> float:
    """Lowest of several scipy L-BFGS runs, centred and scaled so that it can converge."""
    x, y, log_L = np.log(N) - np.log(N).mean(), np.log(D) - np.log(D).mean(), np.log(loss)

    def objective(p):
        a, b, e, alpha, beta = p
        terms = np.stack([a - alpha * x, b - beta * y, np.full_like(x, e)])
        predicted = logsumexp(terms, axis=0)
        r = predicted - log_L
        shares = np.exp(terms - predicted) * (weights * np.clip(r, -delta, delta))
        gradient = np.array([*shares.sum(axis=1), -(shares[0] @ x), -(shares[1] @ y)])
        return (weights * huber(r, delta)).sum() / delta, gradient / delta

    rng = np.random.default_rng(1)
    found = []
    for _ in range(starts):
        start = rng.uniform([-2, -2, -1, 0.1, 0.1], [1, 1, 1, 0.7, 0.7])
        options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-12}
        run = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        found.append(run.fun * delta)
    return min(found)


def rows_240() -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """240 rows: Epoch's where the shared folder is named, else simulated."""
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        return ("simulated", *simulated(240))
    table = pd.read_csv(Path(folder) / "chinchilla_epoch245.csv")
    table = table[~table["excluded_by_epoch"]]
    return ("chinchilla_epoch245", *(table[c].to_numpy() for c in ("N", "D", "loss")))


def simulated(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N, D and loss of n rows, D/N from 2 to 200, C from 1e18 to 1e22."""
    rng = np.random.default_rng(0)
    C, ratio = 10 ** rng.uniform(18, 22, n), 10 ** rng.uniform(np.log10(2), np.log10(200), n)
    N = np.sqrt(C / 6 / ratio)
    D = N * ratio
    return N, D, CHINCHILLA.loss(TRUTH, N, D) * np.exp(0.004 * rng.standard_t(4, n))


def timed(run: Callable[[], object], repeats: int) -> dict[str, float]:
    """CPU seconds of repeated runs after one that is not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    low, middle, high = np.quantile(seconds, [0.0, 0.5, 1.0])
    return {"repeats": repeats, "seconds_median": middle, "seconds_min": low, "seconds_max": high}


def machine() -> dict[str, object]:
    """Describe what runs this: processor, cores, versions, load, and the price of an exponential."""
    x = np.random.default_rng(0).random(8192)
    exp_ns = timed(lambda: [np.exp(x) for _ in range(200)], 5)["seconds_median"] / 200 / 8192 * 1e9
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "exp_ns": exp_ns,
    }


def emit(what: str, **values: object) -> None:
    """Print one JSON line."""
    print(json.dumps({"what": what, **values}), flush=True)


if __name__ == "__main__":
    main()
