"""How often the verdict on a recipe is right.

    PYTHONPATH=tests python tests/bench/recipe_transfer_rates.py [sweeps]

Simulated sweeps of five budgets with their probes. Tuned: every cell at its best learning rate.
Drifting: best learning rate ~ D^-.3, the recipe's fixed and best at the cheapest budget.
"""

import sys
from collections import Counter

from planted_recipe import planted_records, probed_grid

from analysis.recipe_transfer import Verdict, transfer


def main() -> None:
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    grid = probed_grid()
    print(f"{sweeps} sweeps each, {len(grid.cells)} cells, {len(grid.probes)} probes")
    print("seed noise  cost of x2  recipe    " + "".join(f"{v:>18}" for v in Verdict))
    for noise in (0.002, 0.005, 0.01):
        for sharpness in (0.01, 0.02):
            for name, drift in (("tuned", 0.0), ("drifting", -0.3)):
                counts = Counter(
                    transfer(
                        planted_records(
                            grid, drift=drift, noise=noise, sharpness=sharpness, seed=seed
                        )
                    ).verdict
                    for seed in range(sweeps)
                )
                shares = "".join(f"{counts[v] / sweeps:18.1%}" for v in Verdict)
                print(f"{noise:10.2%}  {sharpness * 0.48:10.2%}  {name:9}{shares}")


if __name__ == "__main__":
    main()
