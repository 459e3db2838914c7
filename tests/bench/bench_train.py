"""Time a training step beside transformers' GPT-2 in the same run; JSON lines on stdout.

Run from the checkout, on one core (at least 3 GB of memory):

    OMP_NUM_THREADS=1 python tests/bench/bench_train.py [--quick] [--sizes 64x4 ...] [--seq-len 128]
                                                        [--rounds 41] [--contestants NAME ...]

What is compared: float32 models of equal shape (B x T = 2,048 tokens a step, V 256, head_dim
min(32, d_model); ours with rotary positions), each with fused AdamW and clipped gradients, a step
of ours with its data loading and bookkeeping, a step of theirs on tokens that lie ready. Every
contestant lives in a process of its own, as people run it, one size after another, and all are stepped
in turn, so that a busy machine is busy for all of them alike. Seconds are CPU seconds of a contestant's process; a ratio is
the median over rounds of theirs over ours, with quartiles.

FLOP/s are PaLM FLOPs of our model (the matmuls of both are the same). Words after a colon say how a
contestant is set up: attention of transformers, torch's float32 matmul mode, and `kept` where the
C library keeps freed memory, which ours always does (sweep/host_memory.py).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

SIZES = ("16x2", "32x2", "64x4", "128x4", "192x6")
OURS = ("ours:highest", "ours:medium", "ours:bfloat16")
THEIRS = (
    "gpt2:sdpa,highest",  # the default
    "gpt2:eager,highest",
    "gpt2:sdpa,medium",
    "gpt2:eager,medium",
    "gpt2:sdpa,highest,kept",
    "gpt2:eager,medium,kept",
)
DEFAULT = "gpt2:sdpa,highest"
TOKENS, VOCABULARY = 2048, 256
CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run every measurement and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, for a look")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="WIDTHxLAYERS")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--rounds", type=int, help="of each size; default: 41, 9 with --quick")
    parser.add_argument("--contestants", nargs="+", default=(*OURS, *THEIRS), metavar="NAME")
    parser.add_argument("--serve", metavar="CONTESTANT", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    sys.path.insert(0, str(CHECKOUT))
    if asked.serve:
        serve(asked.serve, asked.seq_len)
        return
    import bench_train_parts as parts

    emit("machine", **machine(), **parts.matmul_modes())
    rounds = asked.rounds or (9 if asked.quick else 41)
    contestants = {name: start(name, asked.seq_len) for name in asked.contestants}
    try:
        for size in asked.sizes:
            compare(contestants, size, asked.seq_len, rounds)
    finally:
        for process in contestants.values():
            process.stdin.close()
            process.wait(30)
    for size in asked.sizes:
        emit("matmul_share", size=size, **parts.matmul_share(shape(size, asked.seq_len)))
    end = ["64x4"] if not asked.quick else [asked.sizes[0]]
    for size in end:
        for name, result in parts.end_losses(
            shape(size, asked.seq_len), 30 if asked.quick else 300
        ):
            emit("loss_at_the_end", size=size, contestant=name, **result)
    with tempfile.TemporaryDirectory() as folder:
        emit("beside_the_step", **parts.beside_the_step(Path(folder)))
        emit("first_step", **parts.first_step(Path(folder), 3 if asked.quick else 7))


def compare(
    contestants: dict[str, subprocess.Popen[str]], size: str, seq_len: int, rounds: int
) -> None:
    """Step every contestant of a size in turn, and print its rate and our ratio to it."""
    from models.flops import FlopRule, flops_per_token

    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 4):  # the first steps warm up
        for name, process in contestants.items():
            taken = step(process, size)
            if round_ >= 4:
                seconds[name].append(taken)
    flops = TOKENS * flops_per_token(shape(size, seq_len), FlopRule.PALM)
    for name, taken in seconds.items():
        emit(
            "step",
            size=size,
            seq_len=seq_len,
            contestant=name,
            rounds=rounds,
            milliseconds=[1e3 * q for q in quartiles(taken)],
            gflop_per_second=flops / statistics.median(taken) / 1e9,
        )
    theirs = sorted(
        (n for n in THEIRS if n in seconds), key=lambda n: statistics.median(seconds[n])
    )
    exact = [name for name in theirs if ",highest" in name]
    default = [name for name in theirs if name == DEFAULT]
    for those, words in ((default, "default"), (theirs, "best"), (exact, "best in float32")):
        for ours, against in ((o, t) for o in OURS if o in seconds for t in those[:1]):
            pairs = zip(seconds[against], seconds[ours], strict=True)
            ratio = quartiles([theirs / own for theirs, own in pairs])
            emit("ratio", size=size, seq_len=seq_len, ours=ours, theirs=against, which=words,
                 ratio=ratio[1], quartiles=[ratio[0], ratio[2]])  # fmt: skip


def shape(size: str, seq_len: int):
    """Make the shape of a size of ours."""
    from models.config import GPTConfig

    width, layers = map(int, size.split("x"))
    return GPTConfig(n_layer=layers, d_model=width, n_head=max(1, width // 32),
                     vocab_size=VOCABULARY, seq_len=seq_len)  # fmt: skip


def start(name: str, seq_len: int) -> subprocess.Popen[str]:
    """Start a contestant; it answers each line, a size, with the CPU seconds of a step."""
    return subprocess.Popen(
        [sys.executable, __file__, "--serve", name, "--seq-len", str(seq_len)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        text=True,
    )


def step(process: subprocess.Popen[str], size: str) -> float:
    """Have a contestant take a step, and wait for it."""
    process.stdin.write(f"{size}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def serve(name: str, seq_len: int) -> None:
    """Be a contestant: one size after another, each new one in the place of the last."""
    import bench_train_parts as parts

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library says is no answer
    size, take = "", None
    for asked in map(str.strip, sys.stdin):
        if asked != size:
            size, take = asked, None  # lets go of the last model first
            take = parts.contestant(name, shape(size, seq_len))
        began = time.process_time()
        take()
        answers.write(f"{time.process_time() - began}\n")


def machine() -> dict[str, object]:
    """Say what measured it, and how busy it was."""
    with open("/proc/cpuinfo") as f:
        pairs = [line.split(":", 1) for line in f if ":" in line]
    lines = {name.strip(): value.strip() for name, value in pairs}
    flags = lines.get("flags", "").split()
    return {
        "cpu": lines.get("model name", platform.processor()),
        "matrix_units": [f for f in ("avx512f", "avx512_bf16", "amx_bf16") if f in flags],
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "threads": 1,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "numpy")},
    }


def quartiles(values: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return statistics.quantiles(values, n=4)


def emit(what: str, **values: object) -> None:
    """Print one measurement."""
    print(json.dumps({"measured": what, **values}), flush=True)


if __name__ == "__main__":
    main()
