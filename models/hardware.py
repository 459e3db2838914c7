"""Datasheet peaks, so that MFU means what the field means by it. A board that is not here has none.

Every row is the *dense* rate; datasheets print the figure with 2:4 sparsity first, twice as high.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """Peak matmul rate of one board at one dtype."""

    board: str  # as the driver names it, or its unambiguous beginning
    dtype: str
    flops: float  # FLOP/s, dense
    source: str


PEAKS = (
    Peak("NVIDIA A100", "bfloat16", 312e12, "NVIDIA A100 Tensor Core GPU datasheet, June 2021"),
    Peak("NVIDIA H100 80GB HBM3", "bfloat16", 989e12, "NVIDIA H100 datasheet, SXM, sparsity off"),
    Peak("NVIDIA H200", "bfloat16", 989e12, "NVIDIA H200 datasheet, SXM, sparsity off"),
)


def find_peak(board: str, dtype: str) -> Peak | None:
    """Return the datasheet peak of `board` at `dtype`, or None: an unknown board is never guessed."""
    hits = [p for p in PEAKS if board.startswith(p.board) and p.dtype == dtype]
    return max(hits, key=lambda p: len(p.board)) if hits else None


def mfu(tokens_per_second: float, palm_flops_per_token: float, peak_flops: float) -> float:
    """Model FLOPs utilisation in [0, 1] (Chowdhery et al. 2022, appendix B).

    Recomputation earns nothing: the numerator is the model's FLOPs, not the hardware's.
    """
    return tokens_per_second * palm_flops_per_token / peak_flops
