"""What bench_train.py measures: contestants, matmul rates, losses, and what is beside a step."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from models.config import GPTConfig
from models.flops import FlopRule, count_params, flops_per_token
from sweep.batches import Rows
from sweep.cell import Cell, DataRef
from sweep.device import open_device
from sweep.host_memory import keep_freed_memory
from sweep.recipe import Recipe
from sweep.schedule import Schedule
from sweep.settings import HardwareSettings
from sweep.train import Trainer

CPU = HardwareSettings(device="cpu", dtype="float32", attention="auto", threads=1)
RECIPE = Recipe(
    rule="fixed", lr=2e-3, lr_embedding=2e-3, batch_rows=1, warmup_steps=20, schedule=Schedule.WSD,
    decay_steps=60, lr_floor=0.0, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_clip=1.0,
)  # fmt: skip
TOKENS = 2048


def corpus() -> np.ndarray:
    """Bytes of Python's own standard library: text that is there on every machine."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    return np.frombuffer(b"\0".join(f.read_bytes() for f in files), dtype=np.uint8)


def trainer(cfg: GPTConfig, how: str, steps: int, text: np.ndarray) -> Trainer:
    """Our trainer: `highest` and `medium` in float32, or `bfloat16`."""
    half = how == "bfloat16"
    hardware = replace(
        CPU, dtype=how if half else "float32", matmul_precision="auto" if half else how
    )
    recipe = replace(RECIPE, batch_rows=TOKENS // cfg.seq_len)
    cell = Cell(
        budget=steps * TOKENS * flops_per_token(cfg, FlopRule.PALM), flop_rule=FlopRule.PALM,
        model=cfg, recipe=recipe, steps=steps, seed=0,
        data=DataRef(name="text_folder", revision="1", tokenizer="bytes256"),
    )  # fmt: skip
    return Trainer(cell, Rows(text, cfg.seq_len), open_device(hardware))


def contestant(name: str, cfg: GPTConfig) -> Callable[[], None]:
    """Make a function that takes one step."""
    who, words = name.split(":")
    if who == "ours":
        ours = trainer(cfg, words, 10_000, corpus())
        return lambda: ours.train_step().item()
    return gpt2(cfg, *words.split(","))


def gpt2(cfg: GPTConfig, attention: str, mode: str, kept: str = "") -> Callable[[], None]:
    """Make a step of transformers' GPT2LMHeadModel, dropout off, on tokens that lie ready."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(mode)
    if kept:
        keep_freed_memory()
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=cfg.vocab_size, n_positions=cfg.seq_len, n_embd=cfg.d_model,
            n_layer=cfg.n_layer, n_head=cfg.n_head, attn_implementation=attention, use_cache=False,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    rows = torch.from_numpy(
        Rows(corpus(), cfg.seq_len).batch(0, 0, TOKENS // cfg.seq_len)
    )  # real text: attention on noise is slower
    tokens = rows[:, :-1].contiguous()

    def take() -> None:
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return take


@contextmanager
def matmul_mode(mode: str) -> Iterator[None]:
    """Set torch's float32 matmul mode for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(mode)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def matmul_modes() -> dict[str, object]:
    """Rate of a 1,024 matmul in each mode and in bfloat16, and its error against float64."""
    torch.set_num_threads(1)
    a = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ a.double()
    found = {}
    for mode in ("highest", "medium", "bfloat16"):
        z = a.bfloat16() if mode == "bfloat16" else a
        with matmul_mode("highest" if mode == "bfloat16" else mode):
            error = (((z @ z).double() - exact).norm() / exact.norm()).item()
            found[mode] = {"gflop_per_second": 2 * 1.024**3 / best_seconds(lambda z=z: z @ z),
                           "relative_error": error}  # fmt: skip
    return {"matmul_1024": found}


def best_seconds(f: Callable[[], object], seconds: float = 0.15) -> float:
    """Least CPU seconds of a call."""
    f()
    best, stop = float("inf"), time.process_time() + seconds
    while (began := time.process_time()) < stop:
        f()
        best = min(best, time.process_time() - began)
    return best


def matmul_share(cfg: GPTConfig) -> dict[str, float]:
    """Share of the best library's float32 matmul rate that a whole step reaches.

    The floor is the sum of the model's own weight matmuls (forward, and the two of the backward),
    each in the library that is best at it: MKL, as torch calls it, or oneDNN. The step spends the rest on attention,
    element-wise work and the optimizer; all modes here are float32 to 1e-6.
    """
    keep_freed_memory()
    ours = trainer(cfg, "highest", 10_000, corpus())
    for _ in range(4):
        ours.train_step()
    taken = []
    for _ in range(15):
        began = time.process_time()
        ours.train_step().item()
        taken.append(time.process_time() - began)
    floor = cfg.n_layer * sum(map(best_of_libraries, *zip(*layer_shapes(cfg), strict=True)))
    floor += best_of_libraries(cfg.d_model, cfg.vocab_size)
    flops = 6 * count_params(cfg).matmul * TOKENS
    return {
        "best_library_gflop_per_second": flops / floor / 1e9,
        "step_gflop_per_second": flops / statistics.median(taken) / 1e9,
        "share": floor / statistics.median(taken),
    }


def layer_shapes(cfg: GPTConfig) -> list[tuple[int, int]]:
    """List inputs and outputs of a layer's matrices."""
    d, f = cfg.d_model, cfg.mlp_width
    return [(d, 3 * d), (d, d), (d, f), (f, d)]


def best_of_libraries(inputs: int, outputs: int) -> float:
    """Least seconds of the three matmuls of a matrix."""
    x, w = torch.randn(TOKENS, inputs), 0.02 * torch.randn(outputs, inputs)
    g, w_t = torch.randn(TOKENS, outputs), w.t().contiguous()
    onednn = torch.ops.mkldnn._linear_pointwise
    ways = [
        [lambda: F.linear(x, w), lambda: onednn(x, w, None, "none", [], "")],
        [lambda: g @ w, lambda: onednn(g, w_t, None, "none", [], "")],
        [lambda: g.t() @ x, lambda: (x.t() @ g).t()],
    ]
    return sum(min(best_seconds(f, 0.05) for f in each) for each in ways)


def end_losses(cfg: GPTConfig, steps: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Train a size to its end in each mode, and judge it on text that it has not seen."""
    text = corpus()
    cut = len(text) * 9 // 10
    held = Rows(text[cut:], cfg.seq_len).take(np.arange(512 * 128 // cfg.seq_len))
    tokens = torch.from_numpy(held)
    for how in ("highest", "medium", "bfloat16"):
        ours = trainer(cfg, how, steps, text[:cut])
        began = time.process_time()
        for _ in range(steps):
            ours.train_step()
        seconds = time.process_time() - began
        half = torch.autocast("cpu", torch.bfloat16, enabled=how == "bfloat16")
        with torch.no_grad(), half:
            loss = ours.model.token_losses(tokens[:, :-1], tokens[:, 1:]).mean().item()
        yield f"ours:{how}", {"steps": steps, "loss": loss, "cpu_seconds": seconds}
    open_device(CPU)


def beside_the_step(folder: Path) -> dict[str, object]:
    """CPU time of an attempt's loop that is neither the model's nor the optimizer's.

    A real attempt at a cell of the demo's width 32 (2 layers, 8 rows of 128 tokens, 400 steps) with
    its default checkpoints. Evaluations along the way are apart: they are work that was asked for.
    """
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from helpers_cells import data_settings, tiny_cell, write_text

    from sweep import attempt as attempts
    from sweep.claim import claim
    from sweep.data import open_data, prepare_data
    from sweep.folder import SweepFolder
    from sweep.settings import RunSettings

    cfg = GPTConfig(n_layer=2, d_model=32, n_head=2, vocab_size=128, seq_len=128)
    cell = tiny_cell(400, model=cfg, batch_rows=8)
    asked = data_settings(write_text(folder / "text", 2_000_000))
    sweep = SweepFolder(folder, "bench")
    sweep.make()
    shards = prepare_data(asked, sweep.data_cache, lambda line: None)
    data = open_data(shards, asked, cfg.seq_len)
    spent = {"load": 0.0, "after": 0.0, "evaluate": 0.0, "step": 0.0}
    timed(Trainer, "_next_rows", spent, "load")
    timed(Trainer, "train_step", spent, "step")
    timed(attempts._Run, "_after_step", spent, "after")
    timed(attempts._Run, "_add_to_curve", spent, "evaluate")
    claimed = claim(sweep, cell, resume=False)
    run = RunSettings(evaluations=12, checkpoint_seconds=20.0)
    record = attempts.run_attempt(claimed, sweep, data, asked, open_device(CPU), run)
    claimed.release()
    assert record.status == "finished", record.reason
    bookkeeping = spent["after"] - spent["evaluate"]
    return {
        "cell": cell.model.size_id,
        "steps": cell.steps,
        "step_milliseconds": 1e3 * spent["step"] / cell.steps,
        "load_share": spent["load"] / spent["step"],
        "bookkeeping_share": bookkeeping / spent["step"],
        "share": (spent["load"] + bookkeeping) / spent["step"],
        "evaluation_share": spent["evaluate"] / spent["step"],
    }


def timed(owner: type, name: str, spent: dict[str, float], key: str) -> None:
    """Have a method add its CPU seconds to `spent`; for the rest of this process."""
    method = getattr(owner, name)

    def with_clock(self, *args):
        began = time.process_time()
        try:
            return method(self, *args)
        finally:
            spent[key] += time.process_time() - began

    setattr(owner, name, with_clock)


def first_step(folder: Path, repeats: int) -> dict[str, object]:
    """Seconds of a whole command that takes one step of a cell whose data is prepared."""
    from helpers_cli import isoflop, tiny_grid

    words = tiny_grid(folder / "out", folder / "text")
    assert isoflop("prepare", *words).returncode == 0
    listed = isoflop("plan", *words, "plan.format=json").stdout
    cell = listed.split('"cell_id": "')[1].split('"')[0]
    wall, cpu = [], []
    for _ in range(repeats):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = isoflop("run", *words, f"cell={cell}", "run.steps=1")
        wall.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if done.returncode:
            raise subprocess.SubprocessError(done.stderr)
    return {
        "repeats": repeats,
        "cpu_seconds": [min(cpu), statistics.median(cpu), max(cpu)],
        "wall_seconds": [min(wall), statistics.median(wall), max(wall)],
    }
