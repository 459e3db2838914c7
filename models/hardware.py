"""Datasheet peaks, so that MFU means what the field means by it. A board that is not here has none.

Every row is the *dense* rate: datasheets print the figure with 2:4 sparsity, twice as high, beside or
instead of it, and no training reaches it. B300 is absent because its sources disagree, the TF32 rate
of an RTX 4090 because no source of NVIDIA's was read for it.
"""

import math
from dataclasses import dataclass

TF32 = "tfloat32"  # float32 matmuls on tensor cores: torch's matmul precision "high"


@dataclass(frozen=True)
class Peak:
    """Peak matmul rate of one board at one kind of matmul."""

    board: str  # as the driver names it, in full: "NVIDIA A10" is no "NVIDIA A100" and no "NVIDIA A10G"
    max_watts: float  # largest power limit of the variant that the datasheet speaks of
    dtype: str
    flops: float  # FLOP/s, dense
    source: str
    needs_watts: bool = False  # sold under one name at several powers: without a limit, no peak


_A100 = "NVIDIA A100 datasheet, nvidia-1758950 r4 (BF16 312, TF32 156; with sparsity twice that)"
_H100 = "NVIDIA H100 datasheet, SXM: half of BF16 1978.9 and TF32 989.4, with sparsity"
_NVL = "NVIDIA H100 NVL and H200 NVL datasheets: half of BF16 1671 and TF32 835, with sparsity"
_H100_PCIE = (
    "NVIDIA H100 GPU architecture whitepaper, table 3, PCIe: BF16 756, TF32 378 without sparsity"
)
_H200 = "NVIDIA H200 datasheet, SXM: half of BF16 1979 and TF32 989, with sparsity, as of an H100"
_L40S = "NVIDIA L40S datasheet: BF16 362.05, TF32 183, with sparsity 733 and 366"
_A10 = "NVIDIA A10 datasheet: BF16 125, TF32 62.5, with sparsity 250 and 125"
_4090 = "NVIDIA Ada GPU architecture whitepaper v2.02, appendix A, table 2: BF16 with FP32 accumulate 165.2"
_B200 = "NVIDIA Blackwell datasheet, HGX B200, up to 1,000 W: half of BF16 4,500 and TF32 2,200 (sparse)"
_GB200 = (
    "NVIDIA Blackwell datasheet, GB200, up to 1,200 W: half of BF16 5,000 and TF32 2,500 (sparse)"
)


def _rows(
    boards: tuple[str, ...],
    watts: float,
    bf16: float,
    tf32: float | None,
    source: str,
    needs: bool = False,
) -> tuple[Peak, ...]:
    return tuple(
        Peak(board, watts, dtype, flops, source, needs)
        for board in boards
        for dtype, flops in (("bfloat16", bf16), (TF32, tf32))
        if flops is not None
    )


PEAKS = (
    *_rows(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"), 400, 312e12, 156e12, _A100),
    *_rows(("NVIDIA A100-PCIE-40GB",), 250, 312e12, 156e12, _A100),
    *_rows(("NVIDIA A100 80GB PCIe",), 300, 312e12, 156e12, _A100),
    *_rows(("NVIDIA H100 80GB HBM3",), 700, 989.4e12, 494.7e12, _H100),
    *_rows(("NVIDIA H100 NVL",), 400, 835.5e12, 417.5e12, _NVL),
    *_rows(("NVIDIA H100 PCIe",), 350, 756e12, 378e12, _H100_PCIE),
    *_rows(("NVIDIA H200",), 700, 989.4e12, 494.7e12, _H200),
    *_rows(("NVIDIA H200 NVL",), 600, 835.5e12, 417.5e12, _NVL),
    *_rows(("NVIDIA L40S",), 350, 362.05e12, 183e12, _L40S),
    *_rows(("NVIDIA A10",), 150, 125e12, 62.5e12, _A10),
    *_rows(("NVIDIA GeForce RTX 4090",), 450, 165.2e12, None, _4090),
    *_rows(("NVIDIA B200",), 1000, 2.25e15, 1.1e15, _B200, needs=True),
    *_rows(("NVIDIA GB200",), 1200, 2.5e15, 1.25e15, _GB200, needs=True),
)


def find_peak(board: str, dtype: str, watts: float) -> Peak | None:
    """Return the datasheet peak of the very board, or None: nothing is guessed.

    A limit below the datasheet's is a board that somebody throttled, and its peak is still the
    datasheet's; a limit above it is another variant under the same name.

    Args:
        board: name that the driver gives.
        dtype: of the matmuls: bfloat16, tfloat32, float32.
        watts: power limit of the board; NaN where it is not known.
    """
    for peak in PEAKS:
        if (peak.board, peak.dtype) == (board, dtype):
            if math.isnan(watts):
                return None if peak.needs_watts else peak
            return peak if watts <= 1.02 * peak.max_watts else None
    return None


def mfu(tokens_per_second: float, palm_flops_per_token: float, peak_flops: float) -> float:
    """Model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

    Recomputation earns nothing: the numerator is the model's FLOPs, not the hardware's. In [0, 1]
    where clock and peak are right; a larger value is kept, for `suspects` to name.
    """
    return tokens_per_second * palm_flops_per_token / peak_flops


def suspects(utilisations: dict[str, float]) -> str | None:
    """Name the utilisations above 1, which no board can reach; None where there are none."""
    high = [f"{name} = {value:.3g}" for name, value in utilisations.items() if value > 1]
    return ", ".join(high) or None
