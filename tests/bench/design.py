"""What a design is worth: errors of N_opt and loss by planted sweeps, and the time that one takes.

    OMP_NUM_THREADS=1 python tests/bench/design.py sims.jsonl [--simulations 300] [--report]
    OMP_NUM_THREADS=1 python tests/bench/design.py --speed

Budgets 1e18 to 1e20 FLOPs by half a decade, windows around D/N = 20, noise with sd .002 on log
loss, forecasts at 1e21 and 1e22. Each sweep is fitted by the plain law (chinchilla, t4) and by the
average of forms. The truth is the plain law, or one that it does not hold (coupled, interaction).
The sequential design sees a pilot first: five sizes at each of the three cheapest budgets. It then
knows no more than the pilot's fit says.

For a law that holds, the squared error falls as 1/price, so a design needs price x (rmse / rmse of
uniform)^2 of the uniform grid's FLOPs for its error. Where the law is wrong, part of the error is
no matter of price, and the errors themselves are to be read. One line of the file is one sweep;
a second run goes on where the first was stopped.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.averaging import FORMS, weights_of
from analysis.design import Candidates, Situation, choose, covariance_of
from analysis.design_form import Superset, superset_of
from analysis.design_information import Noise, information
from analysis.engine import fit_law
from analysis.laws import LAWS

DEMO = Path(__file__).resolve().parents[2] / "results" / "reference" / "demo"
SD = 0.002
BUDGETS = 10 ** np.linspace(18, 20, 5)
TARGETS = (1e21, 1e22)
CENTRE = 20.0  # D/N
LADDER = np.geomspace(1e7, 1e11, 121)  # x1.08 apart
TRUTHS = {
    "chinchilla": ("chinchilla", (1.69, 406.4, 410.7, 0.34, 0.28)),
    "coupled": ("coupled", (1.69, 406.4**1.4, 410.7**1.4, 0.34 * 1.4, 0.28 * 1.4, 1 / 1.4)),
    "interaction": ("interaction", (1.69, 406.4, 410.7, 0.15 * 406.4 * 410.7, 0.34, 0.28)),
}
GRIDS = {  # sizes at each budget, and the window
    "uniform x4": ((7, 7, 7, 7, 7), 4.0),
    "tapered x4": ((15, 12, 9, 6, 4), 4.0),
    "uniform x8": ((7, 7, 7, 7, 7), 8.0),
    "tapered x8, three at the top": ((15, 12, 9, 6, 3), 8.0),
    "13,10,7,4,1 x8": ((13, 10, 7, 4, 1), 8.0),
}
PILOT = ((5, 5, 5), 4.0)
BOTH = ("N_opt", "loss")
SEQUENTIAL = ((0.3, BOTH), (0.4, BOTH), (0.6, BOTH), (0.4, ("N_opt",)), (0.4, ("loss",)))
# shares of the uniform grid's FLOPs, the pilot's included, and what is designed for
FULL = 7 * float(BUDGETS.sum())
AVERAGE_UNTIL = 20  # simulations that also average forms, which takes five times as long


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--simulations", type=int, default=300)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--speed", action="store_true")
    args = parser.parse_args()
    if args.speed:
        return print_speed()
    if args.file is None:
        parser.error("name a file for the simulations")
    if not args.report:
        simulate(args.file, args.simulations)
    print_tables(pd.DataFrame([json.loads(line) for line in args.file.read_text().splitlines()]))


def simulate(file: Path, simulations: int) -> None:
    done = set()
    if file.exists():
        lines = map(json.loads, file.read_text().splitlines())
        done = {(r["truth"], r["seed"]) for r in lines}
    with file.open("a") as out:
        for seed in range(simulations):
            for truth in TRUTHS:
                if (truth, seed) not in done:
                    rows = one_simulation(truth, seed)
                    out.writelines(json.dumps(row) + "\n" for row in rows)
                    out.flush()
            print(f"\r{seed + 1} of {simulations}", end="", file=sys.stderr)


def one_simulation(truth: str, seed: int) -> list[dict]:
    """Errors of every design on one draw of noise."""
    warnings.simplefilter("ignore", RuntimeWarning)
    rng = np.random.default_rng([seed, list(TRUTHS).index(truth)])
    rows = []
    for name, (counts, window) in GRIDS.items():
        N, C = grid(counts, window)
        rows.append(scored(truth, seed, name, N, C, run(truth, N, C, rng)))
    N0, C0 = grid(*PILOT)
    loss0 = run(truth, N0, C0, rng)
    pilot = fit_law("chinchilla", N0, C0 / 6 / N0, loss0)
    for share, quantities in SEQUENTIAL:
        more = next_cells(pilot, N0, C0, quantities, share * FULL - C0.sum())
        N, C = (np.concatenate(pair) for pair in zip((N0, C0), more, strict=True))
        loss = np.concatenate([loss0, run(truth, *more, rng)])
        rows.append(
            scored(truth, seed, f"design for {'+'.join(quantities)} {share:.0%}", N, C, loss)
        )
    return rows


def grid(counts: tuple[int, ...], window: float) -> tuple[np.ndarray, np.ndarray]:
    """Return N and C of an isoFLOP grid, sizes equally far apart in log N."""
    sides = [np.geomspace(1 / window, window, k) if k > 1 else np.ones(1) for k in counts]
    N = [np.sqrt(C / 6 / CENTRE) * side for C, side in zip(BUDGETS, sides, strict=False)]
    return np.concatenate(N), np.repeat(BUDGETS[: len(counts)], counts)


def run(truth: str, N: np.ndarray, C: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Train: losses of the truth with noise."""
    law, theta = TRUTHS[truth]
    loss = LAWS[law].loss(np.array(theta), N, C / 6 / N)
    return loss * np.exp(SD * rng.standard_normal(len(N)))


def next_cells(
    pilot, N: np.ndarray, C: np.ndarray, quantities: tuple[str, ...], funds: float
) -> tuple[np.ndarray, np.ndarray]:
    """N and C of the cells that the design adds to the pilot, at the pilot's own fit."""
    parameters = dict(zip(pilot.law.parameters, map(float, pilot.theta), strict=True))
    D = C / 6 / N
    form = superset_of("chinchilla", parameters, geometric(N), geometric(D))
    noise = Noise(SD)
    told = information(form, noise, N, D, C)
    at_optimum = form.gradients_at_optimum(TARGETS[0])
    gradients = np.stack([at_optimum[q] for q in quantities], axis=1)
    sizes = {float(b): frozenset(range(-5, 0)) for b in np.unique(C)}
    now = Situation(form, noise, covariance_of(form, told), gradients, sizes)
    candidates = all_candidates()
    steps = choose(now, candidates, funds).steps
    chosen = [step.index for step in steps]
    return candidates.N[chosen], candidates.C[chosen]


def all_candidates() -> Candidates:
    """Sizes of the ladder within x4 of D/N = 20 at every budget."""
    C, N = (a.ravel() for a in np.meshgrid(BUDGETS, LADDER, indexing="ij"))
    inside = np.abs(np.log(N / np.sqrt(C / 6 / CENTRE))) <= np.log(4) + 1e-9
    size = np.tile(np.arange(len(LADDER)), len(BUDGETS))[inside]
    N, C = N[inside], C[inside]
    return Candidates(N, C / 6 / N, C, C, size, C)


def geometric(x: np.ndarray) -> float:
    return float(np.exp(np.log(x).mean()))


def scored(
    truth: str, seed: int, design: str, N: np.ndarray, C: np.ndarray, loss: np.ndarray
) -> dict:
    """Errors of log N_opt and log loss by the plain law and by the average of forms."""
    row = {"truth": truth, "seed": seed, "design": design, "price": float(C.sum()) / FULL,
           "cells": len(N)}  # fmt: skip
    forms = FORMS if seed < AVERAGE_UNTIL else FORMS[:1]
    fits = [fit_law(name, N, C / 6 / N, loss) for name in forms]
    weight = weights_of(np.array([f.aicc for f in fits]))
    law, theta = LAWS[TRUTHS[truth][0]], np.array(TRUTHS[truth][1])
    for C_t in TARGETS:
        true = np.array(at_optimum(law, theta, C_t))
        by_form = np.array([at_optimum(f.law, f.theta, C_t) for f in fits])
        known = np.isfinite(by_form).all(axis=1)
        mean = np.average(by_form[known], axis=0, weights=weight[known])
        if len(forms) == 1:
            mean = np.full(2, np.nan)
        for name, value in (("plain", by_form[0]), ("average", mean)):
            for what, error in zip(("N_opt", "loss"), value - true, strict=True):
                row[f"{name} {what} {C_t:.0e}"] = float(error)
    return row


def at_optimum(law, theta: np.ndarray, C: float) -> tuple[float, float]:
    N, D = law.optimum(theta, C)
    return float(np.log(N)), float(np.log(law.loss(theta, N, D)))


def print_tables(frame: pd.DataFrame) -> None:
    for (truth, fit), C in [
        ((t, f), C) for t in TRUTHS for f in ("plain", "average") for C in TARGETS
    ]:
        rows = frame[frame.truth == truth]
        rows = rows[rows[f"{fit} loss {C:.0e}"].notna()]
        print(f"\ntruth {truth}, fitted by {fit}, at {C:.0e}; {rows.seed.nunique()} sweeps")
        print(table(rows, fit, C).to_string())


def table(rows: pd.DataFrame, fit: str, C: float) -> pd.DataFrame:
    """Root mean square errors, FLOPs for equal error (uniform x4 = 1), Monte-Carlo errors of both.

    The Monte-Carlo error of the FLOPs is by 400 bootstraps over sweeps.
    """
    out = []
    for design, part in rows.groupby("design", sort=False):
        line = {"design": design, "cells": part.cells.mean(), "price": part.price.mean()}
        for what in ("N_opt", "loss"):
            column = f"{fit} {what} {C:.0e}"
            error = part.set_index("seed")[column].to_numpy()
            base = rows[rows.design == "uniform x4"].set_index("seed")[column].to_numpy()
            line |= {f"{what} rmse": rms(error), f"{what} bias": error.mean()}
            low, high = ratio_interval(error, base)
            ratio = part.price.mean() * rms(error) ** 2 / rms(base) ** 2
            scale = part.price.mean()
            line |= {
                f"{what} FLOPs": ratio,
                f"{what} 90%": f"{scale * low:.2f}..{scale * high:.2f}",
            }
        out.append(line)
    return pd.DataFrame(out).set_index("design").round(4)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean(x**2)))


def ratio_interval(error: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(base), size=(400, len(base)))
    ratios = np.nanmean(error[drawn] ** 2, axis=1) / np.nanmean(base[drawn] ** 2, axis=1)
    return tuple(np.quantile(ratios, [0.05, 0.95]))


def print_speed() -> None:
    """CPU seconds of one choice among 10,000 candidates."""
    law, theta = TRUTHS["chinchilla"]
    form: Superset = superset_of(
        law, dict(zip(LAWS[law].parameters, theta, strict=True)), 1e9, 2e10
    )
    N, C = grid(*GRIDS["uniform x4"])
    noise = Noise(SD)
    told = information(form, noise, N, C / 6 / N, C)
    gradients = np.stack(list(form.gradients_at_optimum(1e22).values()), axis=1)
    sizes = {float(b): frozenset(range(7)) for b in BUDGETS}
    now = Situation(form, noise, covariance_of(form, told), gradients, sizes)
    rng = np.random.default_rng(0)
    budget = rng.choice(10 ** np.linspace(18, 21, 13), 10_000)
    N = np.sqrt(budget / 6 / CENTRE) * np.exp(rng.uniform(-np.log(4), np.log(4), 10_000))
    many = Candidates(N, budget / 6 / N, budget, budget, np.arange(10_000), budget)
    for share in (0.1, 1.0, 3.0):
        times = []
        for _ in range(5):
            start = time.process_time()
            design = choose(now, many, share * FULL)
            times.append(time.process_time() - start)
        print(f"10,000 candidates, funds of {share:g} uniform grids: {len(design.steps)} cells, "
              f"{min(times):.2f} to {max(times):.2f} s of CPU")  # fmt: skip
    print_speed_of_the_verb()


def print_speed_of_the_verb() -> None:
    """CPU seconds of isoflop design after its config is composed: cells made, priced, chosen."""
    from sweep.arguments import parse
    from sweep.design_settings import design_settings
    from sweep.designing import plan_design
    from sweep.resolve import resolve
    from sweep.verbs import VERBS

    sizes = [
        f"{{n_layer:{n},d_model:{d},n_head:1}}" for n in range(2, 14) for d in range(12, 240, 2)
    ]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "demo"
        folder.mkdir()
        for name in ("records.parquet", "fits.json"):
            shutil.copy(DEMO / name, folder / name)
        words = [f"root={root}", f"model.ladder=[{','.join(sizes)}]", "design.flops=1e14",
                 "design.target=1e15", "grid.seeds=[0,1]"]  # fmt: skip
        args = parse("design", words, VERBS["design"].reads)
        asked, resolved = design_settings(args.app.design, args.named), resolve(args.app)
        times = []
        for _ in range(5):
            start = time.process_time()
            plan = plan_design(resolved, args.app, asked)
            times.append(time.process_time() - start)
    print(f"the verb, {plan.candidates:,} candidates: {len(plan.rounds[0].cells)} cells, "
          f"{min(times):.2f} to {max(times):.2f} s of CPU")  # fmt: skip


if __name__ == "__main__":
    main()
