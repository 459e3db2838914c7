"""Which cells share a job: those of a trunk, in their order, and with cluster.pack many small ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sweep.cell import Cell
from sweep.cluster import ClusterSettings
from sweep.errors import UsageError
from sweep.predict import predict_wall
from sweep.resources import Resources, Sized, job_memory_mb, time_limit
from sweep.settings import HardwareSettings
from sweep.trunks import chains

PACK_SECONDS = 3600.0  # that a packed job is filled to, where no cell takes longer


@dataclass(frozen=True)
class Pack:
    """What one task of an array trains."""

    cells: tuple[Sized, ...]  # in the order in which they are begun
    at_once: int | None  # processes; None: the task is the process of its only cell
    seconds: float  # predicted, of the task
    resources: Resources
    lives: int  # jobs one after another, where a time limit cuts it

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of its cells."""
        return tuple(s.planned.cell.id for s in self.cells)


def pack_cells(
    sized: Sequence[Sized],
    before: Mapping[str, Cell],
    hardware: HardwareSettings,
    cluster: ClusterSettings,
    factor: float | None,
) -> list[Pack]:
    """Deal cells out to tasks.

    Cells of one trunk share a task. With cluster.pack=k a task has k processes and a queue of cells
    of an hour or so, the longest first; else every other cell has its own.

    Args:
        sized: cells to submit.
        before: `trunks.before_it` of the whole plan.
        hardware: threads, ranks, device.
        cluster: pack, margins and limits.
        factor: as size_cells has it.

    Raises:
        UsageError: what would share a job can't.
    """
    by_id = {s.planned.cell.id: s for s in sized}
    runs = [[by_id[i] for i in chain] for chain in chains(list(by_id), before)]
    if cluster.pack is None:
        return [_alone(run, hardware, cluster, factor) for run in runs]
    if cluster.pack > 1 and hardware.ranks > 1:
        raise UsageError(
            f"cluster.pack={cluster.pack} is for cells that are smaller than a device, and "
            f"hardware.ranks={hardware.ranks} spreads each over several: leave one of them out"
        )
    at_once, on_gpu = cluster.pack, _on_gpu(hardware, cluster)
    workers = 1 if on_gpu else at_once  # sharing a GPU is not taken to win anything
    dealt = _deal(runs, workers)
    return [_packed(runs, at_once, workers, hardware, cluster, factor) for runs in dealt]


def cells_of(packs: Sequence[Pack]) -> list[Sized]:
    """Return all cells of some tasks."""
    return [cell for pack in packs for cell in pack.cells]


def _alone(
    run: Sequence[Sized],
    hardware: HardwareSettings,
    cluster: ClusterSettings,
    factor: float | None,
) -> Pack:
    if len(run) == 1:
        (cell,) = run
        return Pack((cell,), None, cell.seconds, cell.resources, cell.lives)
    if cluster.nodes > 1:
        raise UsageError(
            f"cluster.nodes={cluster.nodes} with grid.trunks=true: a job trains all branches of a "
            "trunk, on one node: cluster.nodes=1, or grid.trunks=false"
        )
    return _packed([run], 1, 1, hardware, cluster, factor)


def _packed(
    runs: Sequence[Sequence[Sized]],
    at_once: int,
    workers: int,
    hardware: HardwareSettings,
    cluster: ClusterSettings,
    factor: float | None,
) -> Pack:
    """One task of `at_once` processes, each of which takes the next cell when it is free."""
    cells = sorted((c for run in runs for c in run), key=lambda s: -s.seconds)
    rest = {}  # as a launch on one machine orders them: by what waits for each
    for run in runs:
        for place, cell in enumerate(run):
            rest[cell.planned.cell.id] = sum(c.seconds for c in run[place:])
    order = sorted(cells, key=lambda s: -rest[s.planned.cell.id])
    at_once = min(at_once, len(runs))
    seconds = predict_wall((sum(c.seconds for c in run) for run in runs), workers)
    minutes, lives = time_limit(seconds, cluster, factor)
    resources = Resources(
        nodes=1,
        tasks_per_node=1,
        gpus=cluster.gpus_of(hardware.device, hardware.ranks),
        cpus=at_once * hardware.ranks * (cluster.cpus or hardware.threads),
        memory_mb=job_memory_mb([c.planned for c in cells], at_once, hardware, cluster),
        minutes=minutes,
    )
    same = tuple(replace(c, resources=resources) for c in order)
    return Pack(same, at_once, seconds, resources, lives)


def _deal(runs: Sequence[Sequence[Sized]], workers: int) -> list[list[Sequence[Sized]]]:
    """Deal runs out to as many tasks as hold an hour each, the longest first to the emptiest."""
    lengths = [sum(c.seconds for c in run) for run in runs]
    room = workers * max(PACK_SECONDS, *lengths) if lengths else 1.0
    tasks: list[list[Sequence[Sized]]] = [[] for _ in range(math.ceil(sum(lengths) / room))]
    filled = [0.0] * len(tasks)
    for length, run in sorted(zip(lengths, runs, strict=True), key=lambda r: -r[0]):
        emptiest = filled.index(min(filled))
        tasks[emptiest].append(run)
        filled[emptiest] += length
    return tasks


def _on_gpu(hardware: HardwareSettings, cluster: ClusterSettings) -> bool:
    return cluster.gpus_of(hardware.device, hardware.ranks) > 0 and hardware.device != "cpu"
