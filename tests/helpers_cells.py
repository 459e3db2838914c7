"""Text, cells and settings so small that a test trains in a fraction of a second."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from models.config import GPTConfig
from models.flops import FlopRule, flops_per_token
from sweep.cell import Cell, DataRef
from sweep.data import DataSettings
from sweep.recipe import Recipe
from sweep.schedule import Schedule
from sweep.settings import HardwareSettings, RunSettings

MODEL = GPTConfig(n_layer=2, d_model=16, n_head=2, vocab_size=128, seq_len=32)
RECIPE = Recipe(
    rule="fixed",
    lr=0.01,
    lr_embedding=0.02,
    batch_rows=6,
    warmup_steps=3,
    schedule=Schedule.WSD,
    decay_steps=6,
    lr_floor=0.0,
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    grad_clip=1.0,
)
DATA = DataRef(name="text_folder", revision="1", tokenizer="bytes128")
CPU = HardwareSettings(device="cpu", dtype="float32", attention="auto", threads=1)
RUN = RunSettings(evaluations=4, checkpoint_seconds=1e9)


def write_text(folder: Path, size: int = 150_000, seed: int = 0) -> Path:
    """Write sentences of 200 made-up words, the k-th with frequency 1/k."""
    rng = np.random.default_rng(seed)
    letters = list("etaoinshrdlucmfwypvbgk")
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(200)]
    share = 1 / np.arange(1, 201)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("one.txt", "two.txt", "three.txt"):
        drawn = rng.choice(words, size // 15, p=share / share.sum())
        lines = [" ".join(drawn[i : i + 12]) for i in range(0, len(drawn), 12)]
        (folder / name).write_text(".\n".join(lines))
    return folder


def data_settings(folder: Path | str) -> DataSettings:
    """Return settings of that text; its small validation set is read whole."""
    return DataSettings(
        source="text_folder",
        tokenizer="bytes128",
        path=str(folder),
        validation_share=0.1,
        val_tokens=4096,
        eval_tokens=512,
        max_epochs=4.0,
    )


def tiny_cell(steps: int = 24, seed: int = 0, model: GPTConfig = MODEL, **recipe) -> Cell:
    """Return a cell of so many steps; `recipe` replaces fields of RECIPE."""
    numbers = replace(RECIPE, **recipe)
    tokens = steps * numbers.batch_rows * model.seq_len
    return Cell(
        budget=tokens * flops_per_token(model, FlopRule.PALM),
        flop_rule=FlopRule.PALM,
        model=model,
        recipe=numbers,
        steps=steps,
        seed=seed,
        data=DATA,
    )
