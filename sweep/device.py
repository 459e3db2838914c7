"""The device that a cell is trained on: what it is, what it could do, how it is set up."""

import math
import os
import resource
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from models.attention import attention_version, choose_attention, is_deterministic
from models.config import Attention, CrossEntropy
from models.hardware import TF32, find_peak
from models.hf_config import HFConfig
from models.kernel_rules import choose_cross_entropy
from models.size import Size
from sweep.errors import UsageError
from sweep.host_memory import keep_freed_memory
from sweep.memory import why_too_large
from sweep.nvml import BoardReading, read_board
from sweep.settings import HardwareSettings


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device ready to train on, as one of `ranks` that train a cell together."""

    device: torch.device
    dtype: torch.dtype
    attention: Attention
    cross_entropy: CrossEntropy
    threads: int
    compile: bool
    deterministic: bool
    hardware: HardwareSettings  # as asked, for the other ranks

    @property
    def ranks(self) -> int:
        """Processes that train one cell together."""
        return self.hardware.ranks

    @property
    def board(self) -> str:
        """Name of the device as its driver gives it."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return _cpu_name()

    @property
    def boards(self) -> tuple[str, ...]:
        """Ids of the boards of the ranks that the leading process sees; none on a CPU."""
        if self.device.type != "cuda":
            return ()
        here = min(self.ranks, torch.cuda.device_count())
        return tuple(str(torch.cuda.get_device_properties(i).uuid) for i in range(here))

    @property
    def dtype_name(self) -> str:
        """Name of the dtype, without `torch.`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def matmul_dtype(self) -> str:
        """What the matmuls run in, by which datasheets list peaks."""
        on_tensor_cores = torch.get_float32_matmul_precision() != "highest"
        if self.dtype is torch.float32 and self.device.type == "cuda" and on_tensor_cores:
            return TF32
        return self.dtype_name

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

    def memory_bytes(self) -> float:
        """All memory of the device, bytes."""
        if self.device.type == "cuda":
            return float(torch.cuda.get_device_properties(self.device).total_memory)
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

    def free_memory_bytes(self) -> float:
        """Memory that a cell may still take, bytes."""
        if self.device.type == "cuda":
            ours = torch.cuda.memory_reserved(self.device)
            return float(torch.cuda.mem_get_info(self.device)[0] + ours)
        return min(_available_bytes(), self.memory_bytes())


def open_device(
    asked: HardwareSettings,
    rank: int = 0,
    head_dims: Collection[int | None] = (),
    documents: bool = False,
    ranks_here: int | None = None,
) -> Device:
    """Choose and set up the device of one rank: threads, determinism, matmul precision.

    Args:
        asked: what a person asked.
        rank: which of this machine's processes of the cell this is; on a GPU, which board.
        head_dims: widths of the heads of every size of the sweep, which share one attention; None of
            a size without any.
        documents: whether packed documents are masked from each other.
        ranks_here: processes of the cell on this machine; None: all of them.

    Raises:
        ValueError: the machine lacks what was asked.
    """
    on_gpu = check_device(asked, ranks_here)
    name = "cuda" if on_gpu else "cpu"
    dtype: torch.dtype = getattr(torch, asked.dtype)
    if on_gpu:
        rank %= torch.cuda.device_count()  # a site may show each task its own GPU alone
        torch.cuda.set_device(rank)
        if dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError(
                f"hardware.dtype=bfloat16, but {torch.cuda.get_device_name()} multiplies no "
                "bfloat16; try hardware.dtype=float32"
            )
    head_dims = {K for K in head_dims if K is not None}
    implementation = choose_attention(name, dtype, asked.attention, head_dims, documents)
    torch.set_num_threads(asked.threads)
    if asked.matmul_precision != "auto":
        torch.set_float32_matmul_precision(asked.matmul_precision)
    else:
        torch.set_float32_matmul_precision("high" if on_gpu else "highest")
    if not on_gpu:
        keep_freed_memory()
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    compiles = on_gpu if asked.compile == "auto" else asked.compile == "true"
    _choose_algorithms(not on_gpu or asked.deterministic, compiles)  # free on a CPU
    deterministic = torch.are_deterministic_algorithms_enabled()
    if deterministic and not is_deterministic(implementation, name):
        raise ValueError(
            f"hardware.deterministic=true, but the backward of {implementation} adds up in any "
            "order; try hardware.attention=auto, or hardware.deterministic=false"
        )
    return Device(
        device=torch.device(name, rank) if on_gpu else torch.device(name),
        dtype=dtype,
        attention=implementation,
        cross_entropy=choose_cross_entropy(name, asked.cross_entropy),
        threads=asked.threads,
        compile=compiles,
        deterministic=deterministic,
        hardware=asked,
    )


def share_memory(device: Device, processes: int) -> None:
    """Keep this process to its share of a GPU that several use; a CPU's memory is not shared out."""
    if processes > 1 and device.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1 / processes, device.device)


def _choose_algorithms(deterministic: bool, compiles: bool) -> None:
    """Allow only algorithms that give the same bits again, or all.

    torch.use_deterministic_algorithms also tells torch's compiler, and imports it to do so: over a
    second, where nothing is compiled. The debug mode "error" is the same setting without that.
    """
    if compiles:
        torch.use_deterministic_algorithms(deterministic)
    else:
        torch.set_deterministic_debug_mode("error" if deterministic else "default")


def check_device(asked: HardwareSettings, ranks_here: int | None = None) -> bool:
    """Say whether cells go to a GPU, without waking one up.

    Raises:
        ValueError: there are fewer GPUs than were asked, or without one, what needs one was asked.
    """
    gpus = 0 if asked.device == "cpu" else torch.cuda.device_count()
    if asked.device == "cuda" and not gpus:
        raise ValueError("hardware.device=cuda, but torch sees no GPU here; try hardware=cpu")
    ranks = asked.ranks if ranks_here is None else ranks_here
    if 0 < gpus < ranks:
        raise ValueError(
            f"hardware.ranks={ranks}, but torch sees {gpus} GPUs here: each rank needs one"
        )
    if not gpus:
        choose_attention("cpu", getattr(torch, asked.dtype), asked.attention)
        choose_cross_entropy("cpu", asked.cross_entropy)
    return gpus > 0


def check_replica(cfg: Size, batch_rows: int, device: Device) -> None:
    """Refuse a cell that the device can't train, before anything is allocated.

    Raises:
        UsageError: a replica is larger than the device, or there are more ranks than sequences.
    """
    reason = why_too_large(cfg, device.dtype.itemsize < 4, device.memory_bytes())
    if reason:
        raise UsageError(f"{cfg.size_id} does not fit on {device.board}: {reason}")
    if batch_rows < device.ranks:
        raise UsageError(
            f"hardware.ranks={device.ranks} is more than the {batch_rows} sequences of a batch of "
            f"{cfg.size_id}: set hardware.ranks to {batch_rows} at most"
        )


def describe(device: Device) -> dict[str, object]:
    """Columns of the record that say what measured it."""
    board = read_board(device.boards[0]) if device.boards else BoardReading()
    peak = find_peak(device.board, device.matmul_dtype, board.power_limit_watts)
    return {
        "device": device.device.type,
        "board": device.board,
        "power_limit_watts": board.power_limit_watts,
        "clock_mhz": board.clock_mhz,
        "max_clock_mhz": board.max_clock_mhz,
        "device_memory_bytes": device.memory_bytes(),
        "peak_flops": peak.flops if peak else float("nan"),
        "peak_source": peak.source if peak else None,
        "n_device": device.ranks,
        "threads": device.threads,
        "dtype": device.dtype_name,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "compiled": device.compile,
        "attention": str(device.attention),
        "attention_version": attention_version(device.attention),
        "cross_entropy": str(device.cross_entropy),
        "deterministic": device.deterministic,
        "torch_version": torch.__version__,
    }


def in_words(device: Device, cfg: Size) -> str:
    """Say what a cell is trained on: board, dtype, attention with its version, determinism."""
    attention = f"{device.attention} of {attention_version(device.attention)}"
    if isinstance(cfg, HFConfig):
        attention = "of transformers"
    return (
        f"{device.board} ({device.dtype_name}, matmuls {torch.get_float32_matmul_precision()}, "
        f"attention {attention}, "
        f"{'' if device.deterministic else 'not '}deterministic)"
    )


def measure_matmul_peak(device: Device, seconds: float = 0.2) -> float:
    """Best square-matmul rate of one device at its dtype, threads and matmul mode, FLOP/s."""
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


def _available_bytes() -> float:
    """Memory that this process may still take: of the machine, or of its container."""
    left = [math.inf]
    try:
        with open("/proc/meminfo") as f:
            words = [line.split() for line in f]
        left += [float(w[1]) * 1024 for w in words if w[0] == "MemAvailable:"]
    except OSError:
        pass  # not Linux: all memory counts as free
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text()
        left.append(float(limit.replace("max", "inf")) - float(used))
    except (OSError, ValueError):
        pass  # no container, or one that does not say
    return min(left)
