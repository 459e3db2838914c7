"""What designs are worth on the reference sweep: FLOPs for the uniform grid's standard error.

    OMP_NUM_THREADS=1 python tests/bench/design_reference.py [--simulations 300]
        [--apart results/reference/uniform/records.parquet]
        [--trunks results/reference/trunks/records.parquet]

Both sweeps were trained with three seeds, so what a seed does to an answer can be measured without
a model of the noise. Each design is fitted to the mean of the seeds; then, for one independent part
of it at a time (a cell trained apart, or a whole trunk), to each seed of that part alone. The
variances of the parts add up to that of a sweep of one seed. Their sum has few degrees of freedom
(Satterthwaite's), which the F interval of a ratio shows. For a law that holds the squared error
falls as 1/price, so a design needs price x (error / uniform's error)^2 of the uniform grid's FLOPs.

Subsets: `tapered` are the cells of the uniform grid that the tapered one has; `design` begins with
a pilot of five sizes at the three cheapest budgets, and chooses among the rest, by that fit alone.

Beside it, planted sweeps on the very same cells, with the measured scatter: of the law fitted to
all cells, and of two that it does not hold (coupled as fitted here, and a cross term of .15).
"""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from analysis.design import Candidates, Situation, choose, covariance_of
from analysis.design_form import superset_of
from analysis.design_information import Noise, information
from analysis.engine import fit_law, rebuild, refit
from analysis.laws import LAWS
from results.store import flops_spent_of, read_records

HERE = Path(__file__).resolve().parents[2] / "results" / "reference"
TOP = 3.2e12  # the dearest budget that is fitted; the one above it is held out
TARGET = 10 * TOP
WHAT = ("N_opt", "loss")
FITTED = ("chinchilla", "coupled")  # the plain law, and the one that these data prefer
PILOT_BUDGETS, PILOT_SIZES = 3, 5
SHARES = (0.4, 0.6)  # of the uniform grid's FLOPs, the pilot's included
LEVEL = 0.9


@dataclass(frozen=True)
class Part:
    """Cells of one design. cells: budget, N, D, C, price and `part`, n rows. loss: (n, seeds)."""

    name: str
    cells: pd.DataFrame
    loss: np.ndarray

    @property
    def price(self) -> float:
        """FLOPs of one seed."""
        return float(self.cells.price.sum())

    def only(self, name: str, rows: np.ndarray) -> "Part":
        """Keep some of its cells, under another name."""
        return Part(name, self.cells[rows].reset_index(drop=True), self.loss[rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--apart", type=Path, default=HERE / "uniform" / "records.parquet")
    parser.add_argument("--trunks", type=Path, default=HERE / "trunks" / "records.parquet")
    parser.add_argument("--simulations", type=int, default=300)
    args = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    designs = all_designs(args.apart, args.trunks)
    print_scatter(designs)
    for law in FITTED:
        print(f"\nMeasured with {law}, at {TARGET:.3g} FLOPs")
        print(measured(designs, law).to_string(index=False))
    for truth, theta in truths(designs[0]).items():
        errors = simulated(designs, truth, theta, args.simulations)
        print(f"\nPlanted {truth}, {args.simulations} sweeps\n{errors.to_string(index=False)}")


def all_designs(apart: Path, trunks: Path) -> list[Part]:
    """Make the designs; the first is the uniform grid, which prices the others."""
    uniform = part_of("uniform", apart, trunk=False)
    branches = part_of("tapered, trunks", trunks, trunk=True)
    kept = set(map(tuple, branches.cells[["budget", "size_id"]].to_numpy()))
    pairs = uniform.cells[["budget", "size_id"]].to_numpy()
    tapered = uniform.only("tapered", np.array([tuple(p) in kept for p in pairs]))
    chosen = [designed(uniform, share, what) for what in (WHAT, ("N_opt",)) for share in SHARES]
    return [uniform, tapered, branches, *chosen]


def part_of(name: str, path: Path, trunk: bool) -> Part:
    """Read the cells that every seed finished; a trunk of one size is one part, else each cell."""
    rows = read_records(path)
    rows = rows[(rows.status == "finished") & rows.probe.isna() & (rows.budget < 1.01 * TOP)]
    rows = rows.drop_duplicates("cell_id").assign(price=flops_spent_of(rows))
    key = ["budget", "size_id"]
    loss = rows.pivot_table(index=key, columns="seed", values="val_loss").dropna()
    cells = rows.groupby(key)[["N_flops", "tokens", "flops", "price"]].mean().loc[loss.index]
    cells = cells.set_axis(["N", "D", "C", "price"], axis=1).reset_index()
    cells["part"] = pd.factorize(cells.size_id)[0] if trunk else np.arange(len(cells))
    return Part(name, cells, loss.to_numpy())


def designed(uniform: Part, share: float, what: tuple[str, ...]) -> Part:
    """Keep what `isoflop design` would run of these cells, by what the pilot says of seed 0."""
    cells = uniform.cells
    budgets = np.sort(cells.budget.unique())[:PILOT_BUDGETS]
    pilot = np.zeros(len(cells), bool)
    for budget in budgets:
        at = np.flatnonzero(cells.budget == budget)
        pilot[at[np.unique(np.linspace(0, len(at) - 1, PILOT_SIZES).round().astype(int))]] = True
    N, D, C = (cells[c].to_numpy(float) for c in "NDC")
    law = fit_law("chinchilla", N[pilot], D[pilot], uniform.loss[pilot, 0], C=C[pilot])
    parameters = dict(zip(law.law.parameters, map(float, law.theta), strict=True))
    form = superset_of("chinchilla", parameters, geometric(N[pilot]), geometric(D[pilot]))
    noise = Noise(scatter(uniform))
    told = information(form, noise, N[pilot], D[pilot], C[pilot])
    at_optimum = form.gradients_at_optimum(TARGET)
    gradients = np.stack([at_optimum[w] for w in what], axis=1)
    size = pd.factorize(cells.size_id)[0]
    has = {b: frozenset(size[pilot & (cells.budget == b)]) for b in budgets}
    now = Situation(form, noise, covariance_of(form, told), gradients, has)
    rest = np.flatnonzero(~pilot)
    offered = Candidates(N[rest], D[rest], C[rest], cells.budget.to_numpy(float)[rest], size[rest],
                         C[rest])  # fmt: skip
    found = choose(now, offered, share * uniform.price - float(C[pilot].sum()))
    steps = [] if found is None else [s.index for s in found.steps]
    keep = pilot.copy()
    keep[rest[steps]] = True
    return uniform.only(f"design for {' and '.join(what)}, {share:.0%}", keep)


def measured(designs: list[Part], law: str) -> pd.DataFrame:
    """Tell the standard errors of one seed's answer, and the FLOPs needed for uniform's."""
    found = [variances(d, law) for d in designs]
    base_sum, base_dof = found[0]
    lines = []
    for design, (total, dof) in zip(designs, found, strict=True):
        share = design.price / designs[0].price
        line = {"design": design.name, "cells": len(design.cells), "price": round(share, 2)}
        for k, what in enumerate(WHAT):
            needs = share * total[k] / base_sum[k]
            ends = f_distribution.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], dof[k], base_dof[k])
            low, high = needs / ends
            line |= {f"{what} s.e.": f"{np.sqrt(total[k]):.2%}", "dof": round(dof[k]),
                     f"{what} needs": f"{needs:.2f} [{low:.2f}, {high:.2f}]"}  # fmt: skip
        lines.append(
            line | dict(zip(WHAT, map(seeds_of, answers_by_seed(design, law).T), strict=True))
        )
    return pd.DataFrame(lines)


def variances(design: Part, law: str) -> tuple[np.ndarray, np.ndarray]:
    """Variance of log N_opt and log loss of a sweep of one seed, and its degrees of freedom."""
    seeds = design.loss.shape[1]
    part = np.repeat(design.cells.part.to_numpy(), seeds)
    seed = np.tile(np.arange(seeds), len(design.cells))
    parts = np.unique(part)
    weights = np.full((len(parts), seeds, len(part)), 1 / seeds)
    for i, p in enumerate(parts):
        for s in range(seeds):
            weights[i, s, part == p] = seed[part == p] == s
    answers = refitted(design, law, weights.reshape(-1, len(part))).reshape(len(parts), seeds, 2)
    own = np.var(answers, axis=1, ddof=1)
    return own.sum(axis=0), (seeds - 1) * own.sum(axis=0) ** 2 / (own**2).sum(axis=0)


def answers_by_seed(design: Part, law: str) -> np.ndarray:
    """Return the answers of each seed alone, (seeds, 2)."""
    seeds = design.loss.shape[1]
    return refitted(design, law, np.tile(np.eye(seeds), len(design.cells)))


def refitted(design: Part, law: str, weights: np.ndarray) -> np.ndarray:
    """Return log N_opt and log loss at the target under (m, cells x seeds) weights, (m, 2)."""
    seeds = design.loss.shape[1]
    N, D, C = (np.repeat(design.cells[c].to_numpy(float), seeds) for c in "NDC")
    loss = design.loss.ravel()
    fit = fit_law(law, N, D, loss, C=C, weights=np.full(len(N), 1 / seeds))
    theta, _ = refit(fit, rebuild(fit, N, D, loss, C=C), weights)
    return np.array([at_optimum(fit.law, t) for t in theta])


def at_optimum(law, theta: np.ndarray) -> tuple[float, float]:
    N, D = law.optimum(theta, TARGET)
    return float(np.log(N)), float(np.log(law.loss(theta, N, D)))


def seeds_of(logs: np.ndarray) -> str:
    return ", ".join(f"{v:.4g}" for v in np.exp(logs))


def scatter(design: Part) -> float:
    """Return the standard deviation of log loss between seeds, pooled over cells."""
    return float(np.sqrt(np.log(design.loss).var(axis=1, ddof=1).mean()))


def together(design: Part) -> float:
    """Correlation of what a seed does to two branches of a trunk, over all pairs."""
    left = np.log(design.loss) - np.log(design.loss).mean(axis=1, keepdims=True)
    part = design.cells.part.to_numpy()
    pairs = [(i, j) for i in range(len(part)) for j in range(i) if part[i] == part[j]]
    product = np.mean([(left[i] * left[j]).sum() for i, j in pairs])
    return float(product / (left**2).sum(axis=1).mean())


def print_scatter(designs: list[Part]) -> None:
    for design in (designs[0], designs[2]):
        said = "; ".join(
            f"{budget:.3g} FLOPs {scatter(design.only('', (design.cells.budget == budget).to_numpy())):.2%}"
            for budget in np.sort(design.cells.budget.unique())
        )
        print(f"{design.name}: scatter between seeds {scatter(design):.2%} ({said})")
    print(f"branches of a trunk: correlation {together(designs[2]):.2f}")
    print_branches(designs[1], designs[2])


def print_branches(apart: Part, branches: Part) -> None:
    """Compare the same cells from a trunk and trained apart: seeds and trunks are what is drawn."""
    key = ["budget", "size_id"]
    log = [
        pd.DataFrame(np.log(d.loss), index=pd.MultiIndex.from_frame(d.cells[key]))
        for d in (branches, apart)
    ]
    change = (log[0] - log[1]).dropna()
    by_trunk = change.groupby(level="size_id").mean().to_numpy().ravel()  # of each seed
    mean, error = change.to_numpy().mean(), by_trunk.std(ddof=1) / np.sqrt(len(by_trunk))
    print(f"branches minus separate runs, {len(change)} cells x {change.shape[1]} seeds: "
          f"{mean:+.2%}, s.e. {error:.2%}")  # fmt: skip
    for budget, rows in change.groupby(level="budget"):
        values = rows.to_numpy().ravel()
        print(
            f"  {budget:.3g} FLOPs: {values.mean():+.2%}, s.e. {values.std(ddof=1) / np.sqrt(len(values)):.2%}"
        )


def truths(uniform: Part) -> dict[str, tuple[str, np.ndarray]]:
    """Return the laws to plant, as fitted to the mean of the seeds, and one with a cross term."""
    N, D, C = (uniform.cells[c].to_numpy(float) for c in "NDC")
    mean = np.exp(np.log(uniform.loss).mean(axis=1))
    plain, coupled = (fit_law(name, N, D, mean, C=C).theta for name in ("chinchilla", "coupled"))
    E, A, B, alpha, beta = plain
    crossed = np.array([E, A, B, 0.15 * A * B, alpha, beta])
    return {
        "chinchilla, as fitted": ("chinchilla", plain),
        "coupled, as fitted": ("coupled", coupled),
        "interaction, chinchilla's with a cross term of .15": ("interaction", crossed),
    }


def simulated(
    designs: list[Part], truth: str, planted: tuple[str, np.ndarray], simulations: int
) -> pd.DataFrame:
    """Return median absolute errors of the plain law on planted sweeps, and FLOPs for uniform's.

    Medians, for now and then a sweep of this scatter has no optimum, or a very far one.
    """
    law, theta = LAWS[planted[0]], planted[1]
    true, shared = np.array(at_optimum(law, theta)), together(designs[2])
    lines, base = [], None
    for number, design in enumerate(designs):
        rng = np.random.default_rng([number, len(truth)])
        N, D, C = (design.cells[c].to_numpy(float) for c in "NDC")
        sd, rho = scatter(design), shared if design is designs[2] else 0.0
        part = design.cells.part.to_numpy()
        errors = []
        for _ in range(simulations):
            common = rng.standard_normal(part.max() + 1)[part]
            noise = sd * (np.sqrt(rho) * common + np.sqrt(1 - rho) * rng.standard_normal(len(N)))
            fit = fit_law("chinchilla", N, D, law.loss(theta, N, D) * np.exp(noise), C=C)
            errors.append(np.array(at_optimum(fit.law, fit.theta)) - true)
        error = np.nanmedian(np.abs(errors), axis=0)
        base = error if base is None else base
        share = design.price / designs[0].price
        line = {"design": design.name, "price": round(share, 2)}
        for k, what in enumerate(WHAT):
            needs = share * (error[k] / base[k]) ** 2
            line |= {f"{what} error": f"{error[k]:.2%}", f"{what} needs": round(needs, 2)}
        lines.append(line)
    return pd.DataFrame(lines)


def geometric(x: np.ndarray) -> float:
    return float(np.exp(np.log(x).mean()))


if __name__ == "__main__":
    main()
