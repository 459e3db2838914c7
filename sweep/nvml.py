"""What NVIDIA's management library tells of a board: power limit, energy, clocks, memory.

Its Python side is the extra `nvidia` (package nvidia-ml-py). Without it, without a driver, or where a
board keeps something to itself, the answer is NaN: no run fails for want of a meter.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NAN = math.nan


@dataclass(frozen=True, kw_only=True)
class BoardReading:
    """One look at one board."""

    power_limit_watts: float = NAN
    energy_joules: float = NAN  # since the driver was loaded
    clock_mhz: float = NAN  # of the SMs, now
    max_clock_mhz: float = NAN
    memory_bytes: float = NAN


def read_board(uuid: str) -> BoardReading:
    """Look at the board with this id, with or without its prefix `GPU-`."""
    try:
        import pynvml as nvml  # an extra; and a driver that comes and goes is no reason to fail
    except ImportError:
        return BoardReading()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return BoardReading()
    try:
        name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        return _read(nvml, nvml.nvmlDeviceGetHandleByUUID(name))
    except nvml.NVMLError:
        return BoardReading()
    finally:
        nvml.nvmlShutdown()


def energy_of(uuids: Sequence[str]) -> float:
    """Joules of several boards together; NaN where one of them does not tell."""
    return math.fsum(read_board(uuid).energy_joules for uuid in uuids) if uuids else NAN


def _read(nvml, board) -> BoardReading:
    def ask(question: Callable[[], float], unit: float = 1.0) -> float:
        try:
            return float(question()) * unit
        except nvml.NVMLError:
            return NAN

    return BoardReading(
        power_limit_watts=ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(board), 1e-3),
        energy_joules=ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(board), 1e-3),
        clock_mhz=ask(lambda: nvml.nvmlDeviceGetClockInfo(board, nvml.NVML_CLOCK_SM)),
        max_clock_mhz=ask(lambda: nvml.nvmlDeviceGetMaxClockInfo(board, nvml.NVML_CLOCK_SM)),
        memory_bytes=ask(lambda: nvml.nvmlDeviceGetMemoryInfo(board).total),
    )
