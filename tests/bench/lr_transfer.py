"""Whether the best learning rate stays where it is as models grow: standard, muP and CompleteP.

    PYTHONPATH=tests python tests/bench/lr_transfer.py [seed ...]

Sizes of the smoke grid's ladder (and deeper ones) on its corpus, 50 steps of 8 rows of 128 tokens
each, one learning rate for everything. Every run is a line when it ends; after each seed comes a table
of the mean loss over the seeds so far, and the best learning rate: the minimum of a parabola in its
logarithm through the best one and its neighbours. Needs `isoflop prepare grid=smoke` in outputs/.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers_cells import CPU, tiny_cell

from models.config import GPTConfig, Parametrisation
from sweep.cell import DataRef
from sweep.data import CellData, DataSettings, find_prepared, open_data
from sweep.device import open_device
from sweep.evaluate import validate
from sweep.train import Trainer, train

STEPS, ROWS = 50, 8
RATES = (0.008, 0.016, 0.032, 0.064, 0.128)
BASE = GPTConfig(n_layer=2, d_model=16, n_head=1, vocab_size=128, seq_len=128)
KINDS = {
    "standard": {},
    "mup": {"parametrisation": Parametrisation.MUP, "base_d_model": 16},
    "completep": {
        "parametrisation": Parametrisation.COMPLETEP, "base_d_model": 16, "base_n_layer": 2
    },
}  # fmt: skip
WIDTHS = [{"d_model": d, "n_head": d // 16} for d in (16, 64, 32)]  # both ends first
DEPTHS = [{"n_layer": L} for L in (8, 4)]
RUNS = [(kind, size) for size in WIDTHS for kind in ("standard", "mup")]
RUNS += [(kind, size) for size in DEPTHS for kind in ("standard", "completep")]


def main() -> None:
    seeds = [int(word) for word in sys.argv[1:]] or [0]
    settings = DataSettings(source="english", tokenizer="bytes128", path=None, validation_share=0.06,
                            val_tokens=32_768, eval_tokens=4_096, max_epochs=1)  # fmt: skip
    folder = find_prepared(settings, Path("outputs/.data"))
    if folder is None:
        sys.exit("first: isoflop prepare grid=smoke")
    data = open_data(folder, settings, BASE.seq_len)
    losses: dict[tuple[str, str], list[list[float]]] = {}
    for seed in seeds:
        for kind, size in RUNS:
            cfg = replace(BASE, **size, **KINDS[kind])
            of_rates = [loss(cfg, lr, seed, data) for lr in RATES]
            losses.setdefault((kind, cfg.size_id), []).append(of_rates)
            print(seed, kind, cfg.size_id, *(f"{x:.4f}" for x in of_rates), flush=True)
        table(losses)


def loss(cfg: GPTConfig, lr: float, seed: int, data: CellData) -> float:
    """Return the validation loss of one run, nats per token."""
    cell = tiny_cell(STEPS, seed, cfg, lr=lr, lr_embedding=lr, batch_rows=ROWS, warmup_steps=5,
                     decay_steps=10)  # fmt: skip
    cell = replace(cell, data=DataRef(name="english", revision="1", tokenizer="bytes128"))
    trainer = Trainer(cell, data.train, open_device(CPU))
    train(trainer, lambda step, loss: None)
    return validate(trainer.model, data, trainer.device).total.loss


def table(losses: dict[tuple[str, str], list[list[float]]]) -> None:
    """Print mean losses, and the best learning rate of each row with its spread over seeds."""
    print("\n| parametrisation | size |", *(f"{lr:g} |" for lr in RATES), "best lr | seeds |")
    print("|---" * (len(RATES) + 4) + "|")
    for (kind, size), seeds in losses.items():
        mean = np.mean(seeds, axis=0)
        each = ", ".join(f"{best(row):.3g}" for row in seeds)
        print(f"| {kind} | {size} |", *(f"{x:.3f} |" for x in mean), f"{best(mean):.3g} | {each} |")
    print(flush=True)


def best(row: list[float]) -> float:
    """Learning rate at the minimum of a parabola through the best point and its neighbours.

    At an edge, or where no parabola opens upwards, the best point itself.
    """
    i = int(np.argmin(row))
    if not 0 < i < len(RATES) - 1:
        return RATES[i]
    c, b, _ = np.polyfit(np.log(RATES[i - 1 : i + 2]), row[i - 1 : i + 2], 2)
    return float(np.exp(-b / (2 * c))) if c > 0 else RATES[i]


if __name__ == "__main__":
    main()
