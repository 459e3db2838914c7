"""What SLURM is asked for each cell, and which cells share an array.

Limits are predicted times and memory with a margin, rounded up to a ladder, so that a few arrays do.
Where cells of this sweep were measured, the prediction is corrected by them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, TypeVar

import pandas as pd

from models.flops import count_params
from results.store import shared_steps_of
from sweep.cluster import ClusterSettings
from sweep.folder import PlannedCell
from sweep.memory import memory_needed
from sweep.predict import Rates, predict_cost
from sweep.settings import HardwareSettings

STARTUP_SECONDS = 180.0  # imports, shards, compilation
LEAST_MINUTES = 10
MEASURED_MARGIN = 1.5  # at most, once cells were measured
PROCESS_MB = 900.0  # Python, torch and its threads: 450 MB measured, twice that asked for
HOST_MB_OF_GPU = 3000.0  # CUDA's libraries and pinned buffers beside that


@dataclass(frozen=True, order=True)
class Resources:
    """A class of cells that ask for the same."""

    nodes: int
    tasks_per_node: int
    gpus: int  # of a node
    cpus: int  # of a task
    memory_mb: int  # of a node
    minutes: int


@dataclass(frozen=True)
class Sized:
    """A cell with what it is predicted to take."""

    planned: PlannedCell
    seconds: float  # of training and validation
    resources: Resources
    lives: int  # jobs one after another, where a time limit cuts it


def size_cells(
    cells: Sequence[PlannedCell],
    rates: Rates,
    hardware: HardwareSettings,
    cluster: ClusterSettings,
    factor: float | None,
    shared_steps: Mapping[str, int] = MappingProxyType({}),
) -> list[Sized]:
    """Predict each cell and say what to ask for it.

    Args:
        cells: to submit.
        rates: what the plan assumes of a device.
        hardware: ranks, threads, dtype.
        cluster: margins and limits.
        factor: measured seconds / predicted seconds of finished cells; None: none was measured.
        shared_steps: by cell, steps of its trunk that another cell takes.
    """
    found = []
    for planned in cells:
        shared = shared_steps.get(planned.cell.id, 0)
        predicted = predict_cost(planned.cell, rates, planned.data.final_tokens, shared).seconds
        seconds = predicted * (factor or 1.0)
        minutes, lives = time_limit(seconds, cluster, factor)
        found.append(
            Sized(planned, seconds, _resources(planned, hardware, cluster, minutes), lives)
        )
    return found


def time_limit(seconds: float, cluster: ClusterSettings, factor: float | None) -> tuple[int, int]:
    """Minutes to ask for work of so many predicted seconds, and jobs one after another that it takes.

    Args:
        seconds: predicted, corrected by what was measured.
        cluster: margin and longest limit.
        factor: as size_cells has it; where there is one, the margin is smaller.
    """
    margin = cluster.margin if factor is None else min(cluster.margin, MEASURED_MARGIN)
    asked = math.ceil((seconds * margin + STARTUP_SECONDS) / 60)
    most = int(cluster.max_hours * 60)
    minutes = min(_rung(asked, LEAST_MINUTES), most)
    useful = 60 * minutes - STARTUP_SECONDS - cluster.signal_seconds
    lives = max(1, math.ceil(seconds * margin / max(useful, 1.0))) if asked > most else 1
    return minutes, lives


def job_memory_mb(
    cells: Iterable[PlannedCell], at_once: int, hardware: HardwareSettings, cluster: ClusterSettings
) -> int:
    """Memory of a job that trains so many of these cells at once, the largest together, MB."""
    if cluster.memory_gb:
        return int(cluster.memory_gb * 1000)
    each = sorted((hardware.ranks * _task_mb(p, hardware) for p in cells), reverse=True)
    return _rung(math.ceil(PROCESS_MB + sum(each[:at_once])), 1000)


def measured_factor(
    records: pd.DataFrame, cells: Iterable[PlannedCell], rates: Rates, device: str
) -> float | None:
    """Seconds that finished cells took over those predicted, the 90th percentile; None: no cell.

    Args:
        records: of the sweep.
        cells: its plan.
        rates: by which they were predicted.
        device: cpu, cuda or auto; cells of another kind of device tell nothing.
    """
    own = records[(records["status"] == "finished") & (records["n_device"] == rates.ranks)]
    if device != "auto":
        own = own[own["device"] == device]
    planned = {p.cell.id: p for p in cells}
    ratios = [
        row.seconds / predict_cost(p.cell, rates, p.data.final_tokens, shared).seconds
        for row, shared in zip(own.itertuples(), shared_steps_of(own), strict=True)
        if (p := planned.get(row.cell_id)) is not None and row.seconds > 0
    ]
    return float(pd.Series(ratios).quantile(0.9)) if ratios else None


class _Asks(Protocol):
    seconds: float
    resources: Resources


_T = TypeVar("_T", bound=_Asks)


def classes(asking: Sequence[_T]) -> dict[Resources, list[_T]]:
    """Cells or packs of them by what they ask for, the dearest class and in it the dearest first."""
    found: dict[Resources, list[_T]] = {}
    for one in sorted(asking, key=lambda s: -s.seconds):
        found.setdefault(one.resources, []).append(one)
    return dict(sorted(found.items(), reverse=True, key=lambda kv: kv[0].minutes))


def _resources(
    planned: PlannedCell, hardware: HardwareSettings, cluster: ClusterSettings, minutes: int
) -> Resources:
    tasks = hardware.ranks // cluster.nodes
    asked = cluster.memory_gb and cluster.memory_gb * 1000
    return Resources(
        nodes=cluster.nodes,
        tasks_per_node=tasks,
        gpus=cluster.gpus_of(hardware.device, hardware.ranks),
        cpus=cluster.cpus or hardware.threads,
        memory_mb=int(asked or _rung(math.ceil(tasks * _task_mb(planned, hardware)), 1000)),
        minutes=minutes,
    )


def _task_mb(planned: PlannedCell, hardware: HardwareSettings) -> float:
    """Memory of a rank's process on its node, MB: the replica itself only where there is no GPU."""
    cfg, N = planned.cell.model, count_params(planned.cell.model).total
    if hardware.device == "cpu":
        share = -(-planned.cell.recipe.batch_rows // hardware.ranks)
        rows = min(share, hardware.micro_rows or share)
        return PROCESS_MB + 1.5 * memory_needed(cfg, rows, half=hardware.dtype != "float32") / 1e6
    return PROCESS_MB + HOST_MB_OF_GPU + 2 * 12 * N / 1e6  # two copies of a checkpoint


def _rung(value: int, least: int) -> int:
    """Round up on a ladder of doublings from `least`."""
    return least * 2 ** max(0, math.ceil(math.log2(value / least)))
