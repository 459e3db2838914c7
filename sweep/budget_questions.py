"""The questions of `isoflop budget`: which keys each reads, and the command that asks one."""

import shlex

from sweep.arguments import Arguments

CLUSTER = ("hardware", "peak", "gpus", "mfu", "records", "price")
_QUALITY = ("N", "D", "loss", "law")
_SERVED = ("serve_tokens", "queries", "tokens_per_query", "serve_hardware", "serve_peak",
           "serve_mfu", "serve_price", "hardware", "peak", "mfu", "records", "price")  # fmt: skip

READS: dict[str, tuple[str, ...]] = {
    "train": ("N", "D", "C", "law", *CLUSTER),
    "optimal": ("C", "gpu_hours", "money", "tokens_per_param", "law", *CLUSTER),
    "inference": (*_QUALITY, *_SERVED),
    "overtrain": (*_QUALITY, *_SERVED, "sizes"),
    "serve": ("N", "dtype", "hardware", "peak", "gpus", "mfu", "price", "memory",
              "bandwidth", "context", "batch", "n_layer", "n_kv_head", "head_dim"),
    "data": ("N", "D", "C", "law", "unique_tokens", "R_D"),
    "energy": ("N", "D", "hardware", "peak", "mfu", "records", "watts", "pue", "carbon"),
    "budgets": ("budgets", "law", *CLUSTER),
    "models": ("law",),
    "laws": (),
    "hardware": (),
}  # fmt: skip
"""Keys of the group budget, by question."""


def reads(ask: str, key: str) -> bool:
    """Whether a question reads a key as it is typed: budget.N, say, or fits, which stands for a law."""
    return ("budget.law" if key == "fits" else key) in {f"budget.{name}" for name in READS[ask]}


def again(args: Arguments, ask: str, drop: tuple[str, ...] = (), **changes: str) -> str:
    """Return a command for another question, with what it reads of what was typed."""
    left_out = {*drop, *changes}
    if ask == "optimal":
        left_out |= {"C", "gpu_hours", "money"}  # what is spent is one of these, and in changes
    typed = [(word.partition("=")[0], word) for word in args.words]
    kept = [
        w for key, w in typed if reads(ask, key) and key.removeprefix("budget.") not in left_out
    ]
    new = [f"budget.{k}={v}" for k, v in changes.items()]
    return shlex.join(["isoflop", "budget", f"budget.ask={ask}", *new, *kept])
