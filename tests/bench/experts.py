"""What a step with experts costs beside a dense one of equal active FLOPs.

    python tests/bench/experts.py [d_model ...]

A two-layer GPT of this project with fused AdamW, in one thread, 8 x 128 tokens a step. With granularity
= top_k as wide an MLP works on a token as in the dense model, so FLOPs differ by the router's alone.
Seconds of CPU, so that a busy machine shows little; models take turns.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from models.config import Attention, GPTConfig
from models.flops import FlopRule, count_params, flops_per_token
from models.gpt import GPT

ROWS, T, V, STEPS, ROUNDS = 8, 128, 128, 3, 5
EXPERTS = [
    {},
    {"n_expert": 8, "top_k": 1},
    {"n_expert": 8, "top_k": 2},
    {"n_expert": 8, "top_k": 1, "n_shared_expert": 1},
    {"n_expert": 64, "top_k": 4},
]


def steps_of(cfg: GPTConfig) -> Callable[[], float]:
    """Return a function that takes STEPS steps and returns seconds of CPU for one."""
    model = GPT(cfg, Attention.CPU_FLASH)
    model.init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    rows = torch.randint(V, (ROWS, T + 1), generator=torch.Generator().manual_seed(0))

    def run() -> float:
        start = time.process_time()
        for _ in range(STEPS):
            model(rows[:, :-1], None, rows[:, 1:]).objective.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return (time.process_time() - start) / STEPS

    return run


def main(widths: list[int]) -> None:
    """Print a row a width and choice of experts."""
    torch.set_num_threads(1)
    print(
        "| width | experts | N total / active | FLOPs / dense | ms a step | / dense |\n"
        + 6 * "|---"
        + "|"
    )
    for d in widths:
        shape = {"n_layer": 2, "d_model": d, "n_head": d // 16, "vocab_size": V, "seq_len": T}
        models = [GPTConfig(**shape, **experts) for experts in EXPERTS]
        runs = [steps_of(cfg) for cfg in models]
        for run in runs:
            run()
        rounds = [[run() for run in runs] for _ in range(ROUNDS)]
        dense = flops_per_token(models[0], FlopRule.PALM)
        for i, cfg in enumerate(models):
            N, ratios = count_params(cfg), sorted(r[i] / r[0] for r in rounds)
            print(
                f"| {d} | {cfg.size_id.partition('-h')[2].partition('-')[2] or 'dense'} "
                f"| {N.total / N.active:.2f} | {flops_per_token(cfg, FlopRule.PALM) / dense:.3f} "
                f"| {1e3 * statistics.median(r[i] for r in rounds):.1f} "
                f"| {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] |"
            )  # fmt: skip


if __name__ == "__main__":
    main([int(d) for d in sys.argv[1:]] or [32, 64, 128])
