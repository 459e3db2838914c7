"""Do the intervals hold the truth as often as they say? Planted sweeps, fitted as users' are.

    OMP_NUM_THREADS=1 python tests/bench/coverage.py sims.jsonl [--simulations 600] [--report]

Five budgets, 1e18 to 1e20 FLOPs, seven sizes of one ladder at each (x4 both ways of the optimum),
losses with sd .002 on log loss, 400 draws by model size, t4; forecasts of loss and N_opt at 10 and
100 times the top budget, 90% intervals. Each simulation is one line of the file; a second run
goes on where the first was stopped, and --report prints the tables only. About 1.5 CPU seconds a
simulation: ten truths x 600 take two hours on two cores.

What is kept of an interval is how far it would have to be stretched about its estimate to hold the
truth, so that the tables also tell what a wider one (the discrepancy) covers.
"""

import argparse
import json
import sys
import warnings
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.averaging import FORMS, average
from analysis.discrepancy import discrepancy_factor
from analysis.fitted import Fitted, Resampling, fit_points, widened
from analysis.laws import LAWS
from analysis.points import Points, points_from_frame

SD, LEVEL, DRAWS = 0.002, 0.9, 400
BUDGETS = 10 ** np.linspace(18, 20, 5)
TARGETS = (1e21, 1e22)
STEP = 4 ** (1 / 3)  # of the ladder: seven sizes span x4 each way
PLAIN_UNTIL = 200  # simulations that also fit the plain law
CHINCHILLA = (1.69, 406.4, 410.7, 0.34, 0.28)  # Hoffmann et al. 2022, appendix D.3
COUPLED = (1.69, 406.4**1.4, 410.7**1.4, 0.34 * 1.4, 0.28 * 1.4, 1 / 1.4)
CROSS = (1.69, 406.4, 410.7, 0.15 * 406.4 * 410.7, 0.34, 0.28)
TRUTHS: dict[str, tuple[str, tuple[float, ...]]] = {
    "chinchilla": ("chinchilla", CHINCHILLA),
    "tied": ("tied", (1.69, 406.4, 1000.0, 0.32)),
    "no_E": ("no_E", (12.0, 14.0, 0.10, 0.08)),
    "coupled": ("coupled", COUPLED),
    "interaction": ("interaction", CROSS),
    "bend in log C": ("chinchilla", CHINCHILLA),
    "heavy tails": ("chinchilla", CHINCHILLA),  # Student t with 2.5 degrees of freedom
    "size effects": ("chinchilla", CHINCHILLA),  # as large as the noise
    "8% bad runs": ("chinchilla", CHINCHILLA),  # 1 to 5% too high
    "seven sizes": ("chinchilla", CHINCHILLA),  # the same seven at every budget
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--simulations", type=int, default=600)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if not args.report:
        simulate(args.file, args.simulations)
    lines = [json.loads(line) for line in args.file.read_text().splitlines()]
    print_tables(pd.DataFrame(lines))


def simulate(file: Path, simulations: int) -> None:
    done = set()
    if file.exists():
        done = {(r["truth"], r["seed"]) for r in map(json.loads, file.read_text().splitlines())}
    jobs = [(t, s) for s in range(simulations) for t in TRUTHS if (t, s) not in done]
    with Pool() as pool, file.open("a") as out:
        for i, rows in enumerate(pool.imap_unordered(one_simulation, jobs)):
            out.writelines(json.dumps(row) + "\n" for row in rows)
            out.flush()
            print(f"\r{i + 1} of {len(jobs)} simulations", end="", file=sys.stderr)


def one_simulation(job: tuple[str, int]) -> list[dict]:
    """Simulate, fit and forecast once: one row for each target."""
    warnings.simplefilter("ignore", RuntimeWarning)
    truth, seed = job
    points = planted(truth, np.random.default_rng([seed, list(TRUTHS).index(truth)]))
    side = Resampling("size", DRAWS, LEVEL, seed=seed)
    fits = {name: fit_points(points, name, "t4", 1e-3, side) for name in FORMS}
    single = {"oracle": fits[TRUTHS[truth][0]]}
    if seed < PLAIN_UNTIL:
        single["plain"] = fit_points(points, "chinchilla", "huber", 1e-3, side)
    averaged = average(points, fits, side)
    rows = []
    for C in TARGETS:
        row = {"truth": truth, "seed": seed, "C": C}
        by_form = [predictions(f, C) for f in averaged.fits]
        for k, (what, true) in enumerate(zip(("loss", "N"), true_optimum(truth, C), strict=True)):
            count = min(len(p[k][1]) for p in by_form)
            mixed = averaged.combine(
                np.array([p[k][0] for p in by_form]),
                np.stack([p[k][1][:count] for p in by_form], axis=1),
            )
            row |= scored(f"{what}_", mixed.estimate, mixed.mixture, true)
            row |= {f"{what}_sampling": mixed.sampling, f"{what}_form": mixed.form}
            for name, f in single.items():
                row |= scored(f"{what}_{name}_", *predictions(f, C)[k], true)
        rows.append(row)
    return rows


def planted(truth: str, rng: np.random.Generator) -> Points:
    """Sample a sweep from a truth."""
    law, theta = LAWS[TRUTHS[truth][0]], np.array(TRUTHS[truth][1])
    rows = []
    for C in BUDGETS:
        centre = 1e19 if truth == "seven sizes" else C
        rung = round(np.log(numerical_optimum(law, theta, centre)[1] / 1e8) / np.log(STEP))
        rows += [(1e8 * STEP ** (rung + j), C) for j in range(-3, 4)]
    N, C = np.array(rows).T
    D = C / 6 / N
    log_loss = np.log(law.loss(theta, N, D))
    noise = SD * rng.standard_normal(len(N))
    if truth == "bend in log C":
        log_loss += bend(C)
    elif truth == "heavy tails":
        noise = SD * rng.standard_t(2.5, len(N))
    elif truth == "size effects":
        sizes, which = np.unique(N.round(), return_inverse=True)
        noise += SD * rng.standard_normal(len(sizes))[which]
    elif truth == "8% bad runs":
        noise += np.where(rng.random(len(N)) < 0.08, rng.uniform(0.01, 0.05, len(N)), 0)
    return points_from_frame(pd.DataFrame({"N": N, "D": D, "loss": np.exp(log_loss + noise)}))


def bend(C: np.ndarray | float) -> np.ndarray:
    """Log loss above the law: .4% at the top budget, 1.6% at 10 times, 3.6% at 100 times."""
    return 0.004 * np.log10(C / 1e19) ** 2


def true_optimum(truth: str, C: float) -> tuple[float, float]:
    """Log loss and log N at the optimum."""
    law, theta = TRUTHS[truth]
    loss, N = numerical_optimum(LAWS[law], np.array(theta), C)
    return np.log(loss) + (float(bend(C)) if truth == "bend in log C" else 0.0), float(np.log(N))


def numerical_optimum(law, theta: np.ndarray, C: float) -> tuple[float, float]:
    """Loss and N on a fine grid, so that no closed form is its own judge."""
    N = np.sqrt(C / 6) * np.exp(np.linspace(-7, 7, 14_001))
    loss = law.loss(theta, N, C / 6 / N)
    return float(loss.min()), float(N[loss.argmin()])


def predictions(f: Fitted, C: float) -> tuple[tuple[float, np.ndarray], tuple[float, np.ndarray]]:
    """Log loss and log N at the optimum: estimate and draws of each."""
    with np.errstate(all="ignore"):
        N, D = f.optimum(C)
        drawn_N, drawn_D = f.optimum_draws(C)
        drawn = f.fit.law.loss(f.draws, drawn_N, drawn_D, C=np.full_like(drawn_N, C))
        loss = float(np.log(f.loss(np.array(N), np.array(D), np.array(C))))
        pairs = (loss, np.log(drawn)), (float(np.log(N)), np.log(drawn_N))
    return tuple((at, widened(draws, at, f.clusters, f.level)) for at, draws in pairs)


def scored(prefix: str, estimate: float, draws: np.ndarray, true: float) -> dict[str, float]:
    """Error, width of the interval, and the stretch about the estimate that reaches the truth."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws[np.isfinite(draws)], [tail, 1 - tail])
    reach = max(high - estimate, 0.0) if true > estimate else max(estimate - low, 0.0)
    stretch = abs(true - estimate) / reach if reach > 0 else np.inf
    return {f"{prefix}error": estimate - true, f"{prefix}width": high - low,
            f"{prefix}stretch": min(stretch, 1e9)}  # fmt: skip


def print_tables(frame: pd.DataFrame) -> None:
    for what in ("loss", "N"):
        for C, rows in frame.groupby("C"):
            factor = discrepancy_factor(C / BUDGETS[-1]) if what == "loss" else 1.0
            title = f"log {what} at {C / BUDGETS[-1]:.0f} times the top budget"
            print(f"\n{title}; 90% intervals, discrepancy x{factor:.2f}")
            print(table(rows, what, factor).to_string())
    n = frame.groupby(["truth", "C"]).size().min()
    print(f"\nAt least {n} simulations a row: Monte-Carlo error of a coverage of .90 is "
          f"{np.sqrt(0.09 / n):.3f}")  # fmt: skip


def table(rows: pd.DataFrame, what: str, factor: float) -> pd.DataFrame:
    """Coverage and width by truth; oracle: the true form alone, plain: chinchilla by Huber."""
    out = []
    for truth in TRUTHS:
        x = rows[rows.truth == truth]
        width = x[f"{what}_width"] / x[f"{what}_oracle_width"]
        out.append({
            "truth": truth, "n": len(x), "bias": x[f"{what}_error"].mean(),
            "rmse": np.sqrt(np.mean(x[f"{what}_error"] ** 2)),
            "sampling+form": covered(x[f"{what}_stretch"], 1.0),
            "with discrepancy": covered(x[f"{what}_stretch"], factor),
            "oracle": covered(x[f"{what}_oracle_stretch"], 1.0),
            "plain": covered(x[f"{what}_plain_stretch"].dropna(), 1.0),
            "half-width": x[f"{what}_width"].median() / 2,
            "/oracle": width.median(), "with disc./oracle": width.median() * factor,
        })  # fmt: skip
    return pd.DataFrame(out).set_index("truth").round(4)


def covered(stretch: pd.Series, factor: float) -> float:
    return float(np.mean(stretch <= factor))


if __name__ == "__main__":
    main()
