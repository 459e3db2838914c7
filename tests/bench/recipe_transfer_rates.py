"""How often the verdict on a recipe is right.

    PYTHONPATH=tests python tests/bench/recipe_transfer_rates.py [sweeps]

Simulated sweeps of five budgets with their probes. Tuned: every cell at its best learning rate.
Drifting: best learning rate ~ D^-.3, the recipe's fixed and best at the cheapest budget.
"""

import sys
from collections import Counter

from planted_recipe import planted_records, probed_grid

from analysis.recipe_transfer import Verdict, transfer

SHARPNESS = (0.01, 0.02)  # log loss per squared log of learning rate: x2 costs .48% and .96%
CASES = [(1, noise, s) for noise in (0.002, 0.005, 0.01) for s in SHARPNESS]
CASES += [(3, noise, 0.01) for noise in (0.005, 0.01)]


def main() -> None:
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(f"{sweeps} sweeps each")
    print(
        "seeds  cells  probes  noise  cost of x2  recipe    " + "".join(f"{v:>17}" for v in Verdict)
    )
    for seeds, noise, sharpness in CASES:
        grid = probed_grid(seeds=tuple(range(seeds)))
        for name, drift in (("tuned", 0.0), ("drifting", -0.3)):
            truth = {"drift": drift, "noise": noise, "sharpness": sharpness}
            counts = Counter(
                transfer(planted_records(grid, **truth, seed=seed)).verdict
                for seed in range(sweeps)
            )
            shares = "".join(f"{counts[v] / sweeps:17.1%}" for v in Verdict)
            size = f"{seeds:5}  {len(grid.cells):5}  {len(grid.probes):6}"
            print(f"{size}  {noise:5.1%}  {sharpness * 0.48:10.2%}  {name:9}{shares}", flush=True)


if __name__ == "__main__":
    main()
