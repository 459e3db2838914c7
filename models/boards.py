"""Boards by short names, for planning: datasheet peak, power, and memory where a source was read.

A board without memory or bandwidth is one for which no source was read, or for which those that were
read disagree (B200: 8 or 7.68 TB/s). A plan then asks for the number.
"""

from dataclasses import dataclass

from models.hardware import PEAKS


@dataclass(frozen=True)
class Board:
    """One board at dense bfloat16."""

    name: str  # short name: h100
    board: str  # as the driver names it
    flops: float  # FLOP/s, dense bfloat16
    max_watts: float  # largest power limit of the variant that the datasheet speaks of
    source: str  # of the peak and the power
    memory_bytes: float | None = None
    bytes_per_second: float | None = None  # memory bandwidth
    memory_source: str | None = None


_R4 = "glennklockwood.com/garden/processors/A100, after NVIDIA's A100 datasheet r4"
_THUNDER = "thundercompute.com/blog/nvidia-a100-specs-full-guide"
_MORPH = "morphllm.com/nvidia-h200, after NVIDIA's H200 page"
_OPENMETAL = "openmetal.io, How the H200 is built for memory-bound AI workloads"
_L40S = "mullet.se, product 355414: NVIDIA's table of the L40 and L40S"

_MEMORY: dict[str, tuple[float, float, str]] = {
    "a100": (80e9, 2.039e12, _R4),
    "a100_40gb": (40e9, 1.555e12, _R4),
    "a100_pcie": (80e9, 1.935e12, _THUNDER),
    "a100_pcie_40gb": (40e9, 1.555e12, _THUNDER),
    "h100": (80e9, 3.35e12, _MORPH),
    "h200": (141e9, 4.8e12, _MORPH),
    "h200_nvl": (141e9, 4.8e12, _OPENMETAL),
    "l40s": (48e9, 864e9, _L40S),
}

_NAMES = {
    "a100": "NVIDIA A100-SXM4-80GB",
    "a100_40gb": "NVIDIA A100-SXM4-40GB",
    "a100_pcie": "NVIDIA A100 80GB PCIe",
    "a100_pcie_40gb": "NVIDIA A100-PCIE-40GB",
    "h100": "NVIDIA H100 80GB HBM3",
    "h100_nvl": "NVIDIA H100 NVL",
    "h100_pcie": "NVIDIA H100 PCIe",
    "h200": "NVIDIA H200",
    "h200_nvl": "NVIDIA H200 NVL",
    "l40s": "NVIDIA L40S",
    "a10": "NVIDIA A10",
    "rtx4090": "NVIDIA GeForce RTX 4090",
    "b200": "NVIDIA B200",
    "gb200": "NVIDIA GB200",
}


def _board(name: str, board: str) -> Board:
    (peak,) = (p for p in PEAKS if (p.board, p.dtype) == (board, "bfloat16"))
    memory = _MEMORY.get(name, (None, None, None))
    return Board(name, board, peak.flops, peak.max_watts, peak.source, *memory)


BOARDS: dict[str, Board] = {name: _board(name, board) for name, board in _NAMES.items()}
