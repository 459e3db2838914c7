"""The device that a cell is trained on: what it is, what it could do, how it is set up."""

import resource
import sys
import time
from dataclasses import dataclass

import torch

from models.attention import choose_attention
from models.config import Attention
from models.hardware import find_peak
from sweep.settings import HardwareSettings


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device ready to train on."""

    device: torch.device
    dtype: torch.dtype
    attention: Attention
    threads: int

    @property
    def board(self) -> str:
        """Name of the device as its driver gives it."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return _cpu_name()

    @property
    def dtype_name(self) -> str:
        """Name of the dtype, without `torch.`."""
        return str(self.dtype).removeprefix("torch.")

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_memory_bytes(self) -> float:
        """Largest memory so far: of the device on a GPU, of the process on a CPU."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def open_device(asked: HardwareSettings) -> Device:
    """Choose and set up the device: threads, determinism, matmul precision.

    Raises:
        ValueError: the machine lacks what was asked.
    """
    has_cuda = torch.cuda.is_available()
    if asked.device == "cuda" and not has_cuda:
        raise ValueError("hardware.device=cuda, but torch sees no GPU here; try hardware=cpu")
    name = "cuda" if has_cuda and asked.device != "cpu" else "cpu"
    dtype: torch.dtype = getattr(torch, asked.dtype)
    implementation = choose_attention(name, dtype, asked.attention)
    torch.set_num_threads(asked.threads)
    if name == "cpu":  # costs nothing there; on a GPU it forbids the fast kernels
        torch.use_deterministic_algorithms(True)
    else:
        torch.set_float32_matmul_precision("high")
    return Device(
        device=torch.device(name), dtype=dtype, attention=implementation, threads=asked.threads
    )


def describe(device: Device) -> dict[str, object]:
    """Columns of the record that say what measured it."""
    on_cpu = device.device.type == "cpu"
    peak = find_peak(device.board, device.dtype_name)
    return {
        "device": device.device.type,
        "board": device.board,
        "peak_flops": peak.flops if peak else float("nan"),
        "peak_source": peak.source if peak else None,
        "n_device": 1,
        "threads": device.threads,
        "dtype": device.dtype_name,
        "attention": str(device.attention),
        "attention_version": f"torch {torch.__version__}",
        "deterministic": on_cpu,
        "torch_version": torch.__version__,
    }


def measure_matmul_peak(device: Device, seconds: float = 0.2) -> float:
    """Best square-matmul rate of the device at its dtype and threads, FLOP/s."""
    best = 0.0
    for n in (512, 1024) if device.device.type == "cpu" else (4096, 8192):
        a = torch.randn(n, n, device=device.device, dtype=device.dtype)
        a @ a
        device.synchronize()
        stop = time.perf_counter() + seconds / 2
        while (start := time.perf_counter()) < stop:
            a @ a
            device.synchronize()
            best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"
