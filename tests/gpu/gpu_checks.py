"""The checks of gpu_check.py: each a function of a scale, the same on a GPU and, tiny, on a CPU."""

import math
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers_attention import draw, worst_error

from models.attention import attention_version, choose_attention, is_deterministic
from models.bounds import COMPILED_SECONDS, EAGER_SECONDS, kernels
from models.config import Attention, CrossEntropy, GPTConfig
from models.flops import FlopRule, count_params, flops_per_token
from models.kernel_rules import choose_cross_entropy
from models.loss import mean_loss
from sweep.batches import Rows
from sweep.cell import Cell, DataRef
from sweep.device import describe, measure_matmul_peak, open_device
from sweep.measure import Measurements, measured_columns
from sweep.recipe import Recipe
from sweep.schedule import Schedule
from sweep.settings import HardwareSettings
from sweep.train import Trainer

RECIPE = Recipe(
    rule="fixed", lr=3e-4, lr_embedding=3e-4, batch_rows=1, warmup_steps=5, schedule=Schedule.WSD,
    decay_steps=5, lr_floor=0.0, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_clip=1.0,
)  # fmt: skip
# Half precision rounds weights to 8 (bfloat16) or 11 bits before the second product.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.005}


@dataclass(frozen=True)
class Scale:
    """How large the checks are."""

    device: str
    sizes: dict[str, GPTConfig]
    dtype: str
    batch_rows: int
    steps: int
    head_dims: tuple[int, ...]
    length: int  # of the rows that attention is compared on: odd, and beyond a block of a GPU's
    vocabulary: int  # of the check of the loss

    @classmethod
    def of(cls, device: str) -> "Scale":
        """Return the sizes that GPUs are judged at, or ones that a CPU trains in a moment."""
        if device == "cuda":
            shape = {"vocab_size": 50_304, "seq_len": 1024}
            sizes = {
                "125M": GPTConfig(n_layer=12, d_model=768, n_head=12, **shape),
                "350M": GPTConfig(n_layer=24, d_model=1024, n_head=16, **shape),
                "1.3B": GPTConfig(n_layer=24, d_model=2048, n_head=32, **shape),
            }
            return cls(device, sizes, "bfloat16", 64, 20, (8, 16, 32, 64, 96, 128), 129, 32_000)
        shape = {"vocab_size": 128, "seq_len": 64}
        sizes = {
            "tiny": GPTConfig(n_layer=1, d_model=32, n_head=2, **shape),
            "less tiny": GPTConfig(n_layer=2, d_model=48, n_head=3, **shape),
        }
        return cls(device, sizes, "float32", 8, 8, (8,), 17, 512)

    @property
    def hardware(self) -> HardwareSettings:
        """What a cell would be trained on."""
        return HardwareSettings(device=self.device, dtype=self.dtype, attention="auto", threads=1)


Result = dict[str, Any]


def result(status: str, reason: str | None = None, **values: Any) -> Result:
    """Make one result: passed, failed or skipped, with the reason of the last two."""
    return {"status": status, "reason": reason, **values}


def verdict(holds: bool, words: str, **values: Any) -> Result:
    """Make a result of something that must hold, in words of what does not."""
    return result("passed" if holds else "failed", None if holds else words, **values)


def checks(scale: Scale) -> dict[str, Callable[[], Iterator[Result]]]:
    """List the checks by name."""
    everything = (gpu_tests, attention, loss, launches, compiled, deterministic, training)
    return {check.__name__: partial(check, scale) for check in everything}


def gpu_tests(scale: Scale) -> Iterator[Result]:
    """Run the tests that are marked gpu; without one each skips, and says so."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.xml"
        words = ["-q", "-m", "gpu", str(Path(__file__).parent), f"--junitxml={out}"]
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words], cwd=root, capture_output=True, text=True
        )
        suite = ET.parse(out).getroot().find("testsuite")
        bad = [c for c in suite if c.find("failure") is not None or c.find("error") is not None]
        skipped = [c.find("skipped").get("message") for c in suite if c.find("skipped") is not None]
    count = int(suite.get("tests", 0))
    reasons = {re.sub(r"\s+", " ", reason)[:120] for reason in skipped}
    status = "skipped" if count == len(skipped) else "failed" if bad else "passed"
    yield result(
        status,
        done.stdout[-2000:] if bad else "; ".join(sorted(reasons)) if status == "skipped" else None,
        what="pytest -m gpu", tests=count, failures=len(bad), skipped=len(skipped),
        failed=[f"{c.get('classname')}::{c.get('name')}" for c in bad],
    )  # fmt: skip


def attention(scale: Scale) -> Iterator[Result]:
    """Compare every implementation that runs here, forward and backward, with float64; and time it."""
    with matmuls_in("highest"):
        for implementation in Attention:
            for dtype in TOLERANCE:
                yield one_attention(scale, implementation, dtype)


def one_attention(scale: Scale, implementation: Attention, dtype: torch.dtype) -> Result:
    """Compare one implementation in one dtype, over head widths that it takes."""
    what = f"{implementation} {str(dtype).removeprefix('torch.')}"
    errors, refused = {}, None
    for K in scale.head_dims:
        for packed in (False, True):
            try:
                choose_attention(scale.device, dtype, str(implementation), [K], packed)
            except ValueError as e:
                refused = str(e)
                continue
            qkv, gradient, document = draw(2, scale.length, 4, 2, K, dtype, scale.device, seed=K)
            error = worst_error(implementation, qkv, gradient, document if packed else None)
            errors[f"head_dim={K}, packed={packed}"] = error
    if not errors:
        return result("skipped", refused, what=what)
    worst = max(errors.values())
    return verdict(
        worst < TOLERANCE[dtype], f"error {worst:.3g} is above {TOLERANCE[dtype]:g}", what=what,
        version=attention_version(implementation), errors=errors, seconds=timed(scale, implementation, dtype),
    )  # fmt: skip


def timed(scale: Scale, implementation: Attention, dtype: torch.dtype) -> float:
    """Seconds of one forward and backward pass at the shape of the largest size; NaN if refused."""
    from models.attention import attention as attend
    from models.attention import only

    cfg = list(scale.sizes.values())[-1]
    try:
        choose_attention(scale.device, dtype, str(implementation), [cfg.head_dim])
    except ValueError:
        return math.nan
    z, gradient, _ = draw(4, cfg.seq_len, cfg.n_head, cfg.n_head, cfg.head_dim, dtype, scale.device)
    leaves = [(0.2 * t).requires_grad_() for t in z]  # as activations are, not noise

    def both_ways() -> None:
        with only(implementation):
            attend(*leaves, implementation).backward(gradient)

    return best_of(scale, both_ways, 5)


def loss(scale: Scale) -> Iterator[Result]:
    """Compare the losses in pieces and of Liger, with their gradients, with the plain one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 256, 64, generator=generator).to(scale.device).requires_grad_()
    V = scale.vocabulary
    head = (0.05 * torch.randn(V, 64, generator=generator)).to(scale.device).requires_grad_()
    targets = torch.randint(V, (2, 256), generator=generator).to(scale.device)
    with matmuls_in("highest"):
        plain = with_gradients(x, head, targets, CrossEntropy.PLAIN)
        for name in (CrossEntropy.CHUNKED, CrossEntropy.LIGER):
            try:
                chosen = choose_cross_entropy(scale.device, str(name))
            except ValueError as e:
                yield result("skipped", str(e), what=str(name))
                continue
            pairs = zip(with_gradients(x, head, targets, chosen), plain, strict=True)
            error = max(((a - b).norm() / b.norm()).item() for a, b in pairs)
            yield verdict(error < 1e-3, f"differs by {error:.3g}", what=str(name), error=error)


def with_gradients(x, head, targets, chosen: CrossEntropy) -> list[torch.Tensor]:
    """Loss and its gradients; in pieces of 64 tokens, so that there are some."""
    out = mean_loss(x, head, targets, 1e-4, chosen, logits_at_once=64 * len(head))
    return [out.cross_entropy, *torch.autograd.grad(out.objective, (x, head))]


def launches(scale: Scale) -> Iterator[Result]:
    """Time a step whose kernels have next to nothing to do: that is what launching them costs."""
    cfg = replace(next(iter(scale.sizes.values())), n_layer=8, d_model=64, n_head=1, vocab_size=128,
                  seq_len=64)  # fmt: skip
    hardware = replace(scale.hardware, compile="false")
    seconds = median_step(Trainer(cell(cfg, 1, scale.steps), rows(cfg), open_device(hardware)))
    n = kernels(cfg, scale.dtype != "float32", compiled=False)
    yield result(
        "passed", what="eager", kernels=n, seconds_a_kernel=seconds / n,
        assumed_by_plan_bounds={"eager": EAGER_SECONDS, "compiled": COMPILED_SECONDS},
    )  # fmt: skip


def compiled(scale: Scale) -> Iterator[Result]:
    """Train the smallest size eager and compiled: near losses, and what compiling takes and gives."""
    name, cfg = next(iter(scale.sizes.items()))
    found = {}
    for how in ("false", "true"):
        device = open_device(replace(scale.hardware, compile=how))
        trainer = Trainer(cell(cfg, scale.batch_rows, scale.steps), rows(cfg), device)
        losses = [trainer.train_step().item() for _ in range(4)]
        found[how] = (losses, median_step(trainer), trainer.compile_seconds)
    (eager, slow, _), (fused, fast, seconds) = found["false"], found["true"]
    worst = max(abs(a / b - 1) for a, b in zip(fused, eager, strict=True))
    yield verdict(
        worst < 5e-3, f"losses differ by {worst:.3g}", what=name, largest_difference=worst,
        compile_seconds=seconds, eager_step_seconds=slow, compiled_step_seconds=fast,
    )  # fmt: skip


def deterministic(scale: Scale) -> Iterator[Result]:
    """Train the smallest size twice as a sweep would with deterministic=true, and without it."""
    name, cfg = next(iter(scale.sizes.items()))
    speed = {}
    for asked in (True, False):
        hardware = replace(scale.hardware, deterministic=asked, compile="false")
        runs = []
        for _ in range(2):
            device = open_device(hardware)
            trainer = Trainer(cell(cfg, scale.batch_rows, scale.steps), rows(cfg), device)
            runs.append([trainer.train_step().item() for _ in range(scale.steps // 2)])
            speed[asked] = median_step(trainer)
        promised = device.deterministic and is_deterministic(device.attention, scale.device)
        spread = max(abs(a / b - 1) for a, b in zip(*runs, strict=True))
        yield verdict(
            runs[0] == runs[1] or not promised, f"two runs differ by {spread:.3g}",
            what=f"{name}, deterministic={asked}", promised=promised, spread=spread,
        )  # fmt: skip
    yield result("passed", what="cost", time_with_over_without=speed[True] / speed[False])


def training(scale: Scale) -> Iterator[Result]:
    """Train each size for some steps, as a sweep would: MFU, memory, micro-batch, kernels."""
    for name, cfg in scale.sizes.items():
        try:
            yield one_training(scale, name, cfg)
        except Exception as e:
            yield result("failed", f"{type(e).__name__}: {e}"[:500], what=name)


def one_training(scale: Scale, name: str, cfg: GPTConfig) -> Result:
    """Train one size; passes where the loss falls and no utilisation is above 1."""
    device = open_device(scale.hardware, 0, [cfg.head_dim])
    asked = cell(cfg, scale.batch_rows, scale.steps)
    if scale.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(asked, rows(cfg), device)
    trainer.settle()
    measured = Measurements(started_at="", matmul_peak=measure_matmul_peak(device))
    losses = []
    for step in range(1, scale.steps + 1):
        began = time.perf_counter()
        losses.append(trainer.train_step().item())
        measured.add_step(losses[-1], time.perf_counter() - began, step, scale.steps)
    about = describe(device)
    columns = measured_columns(measured, asked, about)
    falls = all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    problem = "the loss does not fall" if not falls else f"suspect: {columns['suspect']}"
    kept = ("tokens_per_second", "mfu", "mfu_of_measured_peak", "measured_peak_flops", "suspect")
    said = ("board", "dtype", "attention", "attention_version", "deterministic", "compiled",
            "power_limit_watts", "peak_flops", "peak_source")  # fmt: skip
    return verdict(
        falls and columns["suspect"] is None, problem, what=name, size_id=cfg.size_id,
        params=count_params(cfg).total, flops_per_token=flops_per_token(cfg, FlopRule.PALM),
        micro_rows=trainer.micro_rows, compile_seconds=trainer.compile_seconds,
        peak_memory_bytes=device.peak_memory_bytes(), losses=[losses[0], losses[-1]],
        **{k: columns[k] for k in kept}, **{k: about[k] for k in said},
    )  # fmt: skip


def cell(cfg: GPTConfig, batch_rows: int, steps: int) -> Cell:
    """Make a cell of so many steps."""
    recipe = replace(RECIPE, batch_rows=batch_rows)
    flops = steps * batch_rows * cfg.seq_len * flops_per_token(cfg, FlopRule.PALM)
    data = DataRef(name="text_folder", revision="1", tokenizer="bytes256")
    return Cell(budget=flops, flop_rule=FlopRule.PALM, model=cfg, recipe=recipe, steps=steps, seed=0,
                data=data)  # fmt: skip


def rows(cfg: GPTConfig) -> Rows:
    """Make text that can be learnt: a word of 17 tokens over and over, one in ten replaced."""
    rng = np.random.default_rng(0)
    n = 256 * cfg.seq_len + 1
    text = np.resize(rng.integers(0, cfg.vocab_size, 17), n)
    text[rng.random(n) < 0.1] = 0
    return Rows(text.astype(np.uint16), cfg.seq_len)


def median_step(trainer: Trainer, steps: int = 9) -> float:
    """Seconds of the median step, the first of them left out."""
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        trainer.train_step().item()
        taken.append(time.perf_counter() - began)
    return sorted(taken[2:])[len(taken[2:]) // 2]


def best_of(scale: Scale, f: Callable[[], None], n: int) -> float:
    """Least seconds of n calls after one that warms up."""
    f()
    taken = []
    for _ in range(n):
        began = time.perf_counter()
        f()
        if scale.device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken)


@contextmanager
def matmuls_in(mode: str) -> Iterator[None]:
    """Keep TF32 out of what is compared."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(mode)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
