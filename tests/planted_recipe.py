"""Records of simulated sweeps whose best learning rate is known, for tests of recipe transfer."""

import numpy as np
import pandas as pd

from analysis.laws import LAWS
from models.config import GPTConfig
from results.record import RecordStatus
from sweep.cell import Cell, DataRef
from sweep.cells import cell_to_row
from sweep.grid import Grid, isoflop_grid
from sweep.grid_settings import GridSettings
from sweep.probes import with_probes
from sweep.recipe import RecipeSettings

LADDER = [
    GPTConfig(n_layer=n, d_model=64 * h, n_head=h, vocab_size=256, seq_len=1024)
    for n, h in ((3, 2), (4, 3), (5, 4), (6, 5), (7, 6), (8, 8), (10, 10), (12, 12), (16, 16))
]
GRID = GridSettings(
    budgets=(3e15, 1e16, 3e16, 1e17, 3e17),
    flop_rule="palm",
    tokens_per_param=20.0,
    window=4.0,
    tokens_per_param_range=(1.0, 500.0),
    seeds=(0,),
    tolerance=0.01,
    probe=True,
)
RECIPE = RecipeSettings(
    rule="fixed",
    lr=1e-3,
    lr_embedding=None,
    batch_rows=32,
    schedule="cosine",
    warmup_share=None,
    decay_share=None,
    lr_floor=0.1,
    beta1=0.9,
    beta2=None,
    eps=None,
    weight_decay=0.1,
    grad_clip=1.0,
)
CHINCHILLA = np.array([1.69, 406.4, 410.7, 0.34, 0.28])


def probed_grid(**changes) -> Grid:
    """Return a grid of five budgets with its probes; `changes` replace fields of GRID."""
    settings = GridSettings(**{**vars(GRID), **changes})
    cells = isoflop_grid(
        settings, LADDER, RECIPE, DataRef(name="words", revision="1", tokenizer="bytes256")
    )
    return with_probes(cells, settings, RECIPE)


def planted_records(
    grid: Grid,
    *,
    drift: float = 0.0,
    noise: float = 0.0,
    sharpness: float = 0.01,
    batch_gain: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Return finished records with losses of a law and of the distance from the best lr.

    Args:
        grid: cells and probes.
        drift: exponent of the best learning rate in D; the recipe's is best at the cell of the
            cheapest budget that lies nearest to D/N = 20.
        noise: standard deviation of log loss, independent between runs.
        sharpness: log loss per squared log of the distance; .01 costs .48% at x2.
        batch_gain: fall of log loss at twice the batch.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    first = [c for c in grid.cells if c.budget == grid.cells[0].budget]
    tuned_at = min(first, key=lambda c: abs(np.log(c.tokens / c.N / 20))).tokens
    rows = []
    for cell in grid.trained:
        best = RECIPE.lr * (cell.tokens / tuned_at) ** drift
        log_loss = np.log(LAWS["chinchilla"].loss(CHINCHILLA, cell.N, cell.tokens))
        log_loss += sharpness * np.log(cell.recipe.lr / best) ** 2 + rng.normal(0, noise)
        log_loss -= batch_gain * np.log2(cell.recipe.batch_rows / RECIPE.batch_rows)
        rows.append(_row(cell) | {"val_loss": float(np.exp(log_loss))})
    return pd.DataFrame(rows)


def _row(cell: Cell) -> dict:
    return cell_to_row(cell) | {
        "attempt": 0,
        "status": str(RecordStatus.FINISHED),
        "reason": None,
        "unique_tokens": cell.tokens,
    }
