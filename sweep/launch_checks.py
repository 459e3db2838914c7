"""Checks before a launch on SLURM: what can be known to fail is refused in words."""

import shutil
from collections.abc import Sequence

from rich.console import Console

from slurm.site import Ask, check_ask, read_site
from sweep.errors import UsageError
from sweep.launch_asked import SlurmLaunch
from sweep.launch_price import disk_needed
from sweep.launch_said import say_disk
from sweep.packs import Pack
from sweep.resources import Sized


def check_request(asked: SlurmLaunch) -> None:
    """Refuse what can't be shared out, and what would change nothing.

    Raises:
        UsageError: it is one of these.
    """
    ranks, nodes = asked.hardware.ranks, asked.cluster.nodes
    if ranks % nodes:
        raise UsageError(
            f"hardware.ranks={ranks} can't be shared out evenly among cluster.nodes={nodes}"
        )
    if asked.cluster.workers is not None:
        raise UsageError("cluster.workers is read by cluster=local; here it is cluster.parallelism")
    root = str(asked.folder.root.resolve())
    if "%" in root or "\n" in root:
        raise UsageError(
            f"root={root}: SLURM would read % in the name of a log as a pattern; "
            "name a folder without it: root=FOLDER"
        )
    least = min(asked.resolved.grid.trained, key=lambda cell: cell.recipe.batch_rows)
    if least.recipe.batch_rows < ranks:
        raise UsageError(
            f"hardware.ranks={ranks} is more than the {least.recipe.batch_rows} sequences in a "
            f"batch of {least.id}: each rank needs one"
        )


def check_site(asked: SlurmLaunch, packs: Sequence[Pack]) -> None:
    """Make sure that the site has nodes for what is asked.

    Raises:
        SiteRefuses: it has none.
        NoSlurm: no SLURM here, or it does not answer.
    """
    site = read_site()
    for res in {p.resources for p in packs}:
        check_ask(
            Ask(
                partition=asked.cluster.partition,
                nodes=res.nodes,
                gpus=res.gpus,
                gpu_type=asked.cluster.gpu_type,
                cpus=res.cpus * res.tasks_per_node,
                memory_mb=res.memory_mb,
                minutes=res.minutes,
            ),
            site,
        )


def check_disk(asked: SlurmLaunch, sized: Sequence[Sized], console: Console) -> None:
    """Say what checkpoints take of the disk.

    Raises:
        UsageError: there is no room for them.
    """
    needed, free = disk_needed(sized, asked.run), shutil.disk_usage(asked.folder.path).free
    say_disk(needed, free, console)
    if needed > free:
        raise UsageError(
            f"root={asked.folder.root}: {free / 1e9:.3g} GB free for {needed / 1e9:.3g} GB of "
            "checkpoints: make room, keep fewer (run.keep_checkpoints=none), or root=FOLDER"
        )
