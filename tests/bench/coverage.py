"""Do the intervals hold the truth as often as they say? Planted sweeps, fitted as users' are.

    OMP_NUM_THREADS=1 python tests/bench/coverage.py sims.jsonl [--simulations 600] [--report]

Five budgets, 1e18 to 1e20 FLOPs, seven sizes of one ladder at each (x4 both ways of the optimum),
losses with sd .002 on log loss, 400 draws by model size, t4; forecasts of loss and N_opt at 10 and
100 times the top budget, 90% intervals. Each simulation is one line of the file; a second run
goes on where the first was stopped, and --report prints the tables only. About a CPU second a
simulation, two of the first 200: ten truths x 600 take an hour and a half on two cores.

What is kept of an interval is how far it would have to be stretched about its estimate to hold the
truth, so that the tables also tell what a wider one (the discrepancy) covers.
"""

import argparse
import json
import sys
import warnings
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from analysis.averaging import FORMS, Average, average
from analysis.discrepancy import discrepancy_factor
from analysis.fitted import Fitted, Resampling, fit_points, widened
from analysis.holdout import noise_sd
from analysis.laws import LAWS
from analysis.points import Points, points_from_frame

SD, LEVEL, DRAWS = 0.002, 0.9, 400
BUDGETS = 10 ** np.linspace(18, 20, 5)
TARGETS = (1e21, 1e22)
STEP = 4 ** (1 / 3)  # of the ladder: seven sizes span x4 each way
PLAIN_UNTIL = 200  # simulations that also fit the plain law
OTHERS_UNTIL = 200  # simulations that also weigh the forms by two other rules
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
    ways = {"": averaged}
    if seed < OTHERS_UNTIL:
        ways |= {"clusters_": by_clusters(averaged, points), "stacked_": stacked(averaged, points)}
    rows = []
    for C in TARGETS:
        row = {"truth": truth, "seed": seed, "C": C}
        by_form = [predictions(f, C) for f in averaged.fits]
        for k, (what, true) in enumerate(zip(("loss", "N"), true_optimum(truth, C), strict=True)):
            at_fit = np.array([p[k][0] for p in by_form])
            count = min(len(p[k][1]) for p in by_form)
            at_draws = np.stack([p[k][1][:count] for p in by_form], axis=1)
            for way, weighed in ways.items():
                mixed = weighed.combine(at_fit, at_draws)
                row |= scored(f"{what}_{way}", mixed.estimate, mixed.mixture, true)
            for name, f in single.items():
                row |= scored(f"{what}_{name}_", *predictions(f, C)[k], true)
        rows.append(row)
    return rows


def by_clusters(averaged: Average, points: Points) -> Average:
    """Weigh the same forms by AICc with the number of model sizes for n, where that is finite."""
    n, sizes = len(points), len(np.unique(points.size_id))
    k = np.array([f.draws.shape[1] + 2 for f in averaged.fits])  # two of the noise
    spare = sizes - k - 1
    wide = np.where(spare > 0, 2 * k * sizes / np.maximum(spare, 1), np.inf)
    change = wide - 2 * k * n / (n - k - 1)
    if not np.isfinite(change).any():
        return averaged
    factor = np.exp(-(change - change.min()) / 2)

    def again(weight: np.ndarray) -> np.ndarray:
        raw = weight * factor + 1e-300 * (factor > 0)
        return raw / raw.sum(axis=-1, keepdims=True)

    return replace(averaged, weight=again(averaged.weight), draw_weight=again(averaged.draw_weight))


def stacked(averaged: Average, points: Points) -> Average:
    """Weigh the same forms by one set of weights, that which best predicts the two dearest budgets."""
    densities = []
    for top in points.budgets[3:]:
        train, test = points.take(points.budget < top), points.take(points.budget == top)
        fits = [fit_points(train, name, "t4", 1e-3, Resampling("size", 0, LEVEL))
                for name in averaged.names]  # fmt: skip
        errors = [np.log(f.loss(test.N, test.D, test.C) / test.loss) for f in fits]
        sd = [noise_sd(f, test.C) for f in fits]
        densities.append(norm.pdf(errors, scale=sd).T)
    density = np.concatenate(densities) + 1e-300
    weight = np.full(len(averaged.names), 1 / len(averaged.names))
    for _ in range(500):  # EM for the shares of a mixture: Yao et al. 2018, eq. 3
        share = weight * density
        weight = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
    return replace(
        averaged, weight=weight, draw_weight=np.tile(weight, (len(averaged.draw_weight), 1))
    )


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
    for what in ("loss", "N"):
        rows = frame[(frame.C == TARGETS[0]) & (frame.seed < OTHERS_UNTIL)]
        print(f"\nHow the forms are weighed: log {what} at 10 times the top budget")
        print(weighings(rows, what).to_string())
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


def weighings(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """Rmse and coverage (sampling and form) by truth, for each way to weigh the forms."""
    out = []
    for truth in TRUTHS:
        x, line = rows[rows.truth == truth], {"truth": truth, "n": int((rows.truth == truth).sum())}
        for name, way in (("rows", ""), ("clusters", "clusters_"), ("stacking", "stacked_")):
            line[f"rmse, {name}"] = np.sqrt(np.mean(x[f"{what}_{way}error"] ** 2))
            line[f"covers, {name}"] = covered(x[f"{what}_{way}stretch"], 1.0)
        out.append(line)
    return pd.DataFrame(out).set_index("truth").round(4)


def covered(stretch: pd.Series, factor: float) -> float:
    return float(np.mean(stretch <= factor))


if __name__ == "__main__":
    main()
