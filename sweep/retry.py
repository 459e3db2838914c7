"""What follows a failure: one table, and a pure function of what happened before.

What SLURM does itself, a node that fails or a preemption, needs no row here: the job is queued again
and its next life goes on from the checkpoint.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Failure(StrEnum):
    """What ended an attempt."""

    MEMORY = "out of memory"
    DEVICE = "the device failed"
    NETWORK = "the ranks lost each other"
    FILES = "the filesystem failed"
    DISK_FULL = "the disk is full"
    CONFIG = "the config can't work"
    UNKNOWN = "an error"


class Action(StrEnum):
    """What is done about it."""

    RETRY = "retry"
    HALVE = "retry with half the micro-batch"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class Past:
    """A failed attempt, as its record says."""

    reason: str
    micro_rows: int | None


@dataclass(frozen=True)
class Step:
    """What to do next, and why, in words."""

    action: Action
    micro_rows: int | None
    why: str


_PATTERNS = (  # the first that fits; texts of torch, NCCL, gloo and the operating system
    (Failure.MEMORY, r"out of memory|can't allocate memory|MemoryError|DoesNotFit"),
    (Failure.DISK_FULL, r"Errno 28\b|Errno 122\b|No space left|Disk quota|unexpected pos \d+ vs"),
    (Failure.CONFIG, r"^UsageError|^ValueError|^TypeError|^KeyError|^AttributeError|^ImportError|"
                     r"^ModuleNotFoundError|^CheckpointError|^AssertionError|^FileNotFoundError"),
    (Failure.NETWORK, r"NCCL|gloo|Connection (closed|reset|refused)|DistBackendError|DistNetworkError|"
                      r"ProcessGroup|Broken pipe"),
    (Failure.DEVICE, r"CUDA|CUBLAS|CUDNN|cuda error|AcceleratorError|NVML|uncorrectable|XID"),
    (Failure.FILES, r"Errno (5|11|16|107|110|112|116|121)\b|Stale file handle|Input/output error|"
                    r"Transport endpoint|Remote I/O"),
)  # fmt: skip
_RETRIED = (Failure.DEVICE, Failure.NETWORK, Failure.FILES)


def classify(reason: str) -> Failure:
    """Say what kind of failure a record's reason tells of: `TypeName: message`."""
    return next((kind for kind, p in _PATTERNS if re.search(p, reason)), Failure.UNKNOWN)


def next_step(past: Sequence[Past], retries: int) -> Step:
    """Say what follows the last of these failures of one cell in one job.

    | failure | done |
    |---|---|
    | out of memory, micro-batch > 1 | again with half the micro-batch, the global batch stays |
    | out of memory at 1 | given up |
    | device, network, files | again, `retries` times in all |
    | disk full, config, anything else | given up: it would fail again |
    """
    last, kinds = past[-1], [classify(p.reason) for p in past]
    kind = kinds[-1]
    if kind is Failure.MEMORY:
        if last.micro_rows is None or last.micro_rows <= 1:
            return Step(Action.GIVE_UP, None, "out of memory with one sequence at a time")
        rows = last.micro_rows // 2
        return Step(Action.HALVE, rows, f"out of memory: again with {rows} sequences at a time")
    if kind not in _RETRIED:
        return Step(Action.GIVE_UP, None, f"{kind}: it would fail again")
    tries = sum(k in _RETRIED for k in kinds)
    if tries > retries:
        return Step(Action.GIVE_UP, None, f"{kind}, {tries} times")
    return Step(Action.RETRY, None, f"{kind}: try {tries + 1} of {retries + 1}")


def rows_after(past: Sequence[Past], asked: int | None) -> int | None:
    """Sequences of a forward pass that have not run out of memory yet; None: as many as fit."""
    failed = [p.micro_rows for p in past if p.micro_rows and classify(p.reason) is Failure.MEMORY]
    halves = [max(1, rows // 2) for rows in failed]
    return min([*halves, *([asked] if asked else [])], default=None)
