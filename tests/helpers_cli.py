"""Run the command line as a person would, on a grid whose cells train in a moment."""

import os
import subprocess
import sys
from pathlib import Path

ISOFLOP = Path(sys.executable).parent / "isoflop"
SIZES = "[{n_layer:1,d_model:8,n_head:1},{n_layer:1,d_model:12,n_head:1},{n_layer:1,d_model:16,n_head:1}]"


def tiny_grid(root: Path, text: Path, budgets: str = "[2e8,4e8]", **changes: object) -> list[str]:
    """Words of a sweep of 6 cells at most, of 50 to 300 steps a cell by default."""
    words = {
        "root": root,
        "sweep": "tiny",
        "data": "text_folder",
        "data.path": text,
        "data.tokenizer": "bytes128",
        "data.validation_share": 0.1,
        "data.val_tokens": 4096,
        "data.eval_tokens": 512,
        "data.max_epochs": 1000,
        "model.seq_len": 32,
        "model.ladder": SIZES,
        "recipe": "fixed",
        "recipe.lr": 0.01,
        "recipe.batch_rows": 8,
        "grid.budgets": budgets,
        "grid.tokens_per_param": 12,
        **{k.replace("__", "."): v for k, v in changes.items()},
    }
    return [f"{k}={v}" for k, v in words.items()]


def environment(**more: str) -> dict[str, str]:
    """Return this environment, with one thread a process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **more}


def isoflop(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [ISOFLOP, *words],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=240,
    )


def start(*words: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start a command in a session of its own."""
    return subprocess.Popen(
        [ISOFLOP, *words],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
