"""What a site offers: its partitions, their nodes, and the longest array."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from slurm.queue import NoSlurm


@dataclass(frozen=True)
class NodeKind:
    """Nodes of one partition that are alike."""

    partition: str
    default: bool
    nodes: int
    cpus: int
    memory_mb: int
    gpus: int
    gpu_types: frozenset[str]
    max_minutes: float


@dataclass(frozen=True)
class Ask:
    """What one task of an array asks for, a node."""

    partition: str | None
    nodes: int
    gpus: int
    gpu_type: str | None
    cpus: int
    memory_mb: int
    minutes: int


class SiteRefuses(Exception):
    """No node of the site fits; the text says which key, what there is, and what to type."""


def read_site() -> list[NodeKind]:
    """Ask sinfo what nodes there are.

    Raises:
        NoSlurm: no SLURM here, or it does not answer.
    """
    lines = _ask(["sinfo", "-h", "-o", "%P|%D|%c|%m|%G|%l"]).splitlines()
    return [_kind(line) for line in lines if line.strip()]


def max_array_size() -> int:
    """Tasks of the longest array that the site takes.

    Raises:
        NoSlurm: no SLURM here, or it does not answer.
    """
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]))
    return max(1, int(found.group(1)) - 1) if found else 1000


def check_ask(ask: Ask, site: Sequence[NodeKind]) -> None:
    """Make sure that some nodes fit.

    Raises:
        SiteRefuses: none do.
    """
    names = sorted({kind.partition for kind in site})
    if ask.partition is not None and ask.partition not in names:
        raise SiteRefuses(
            f"cluster.partition={ask.partition} is not here; it may be {', '.join(names)}"
        )
    own = [k for k in site if k.partition == ask.partition or (not ask.partition and k.default)]
    own = own or list(site)
    where = f"partition {own[0].partition}"
    most = max(k.gpus for k in own)
    if ask.gpus > most:
        raise SiteRefuses(
            f"cluster.gpus={ask.gpus}: a node of {where} has {most}; ask for fewer, name another "
            "partition, or use more nodes: cluster.nodes="
        )
    types = frozenset().union(*(k.gpu_types for k in own))
    if ask.gpus and ask.gpu_type and types and ask.gpu_type not in types:
        raise SiteRefuses(
            f"cluster.gpu_type={ask.gpu_type}: {where} has {', '.join(sorted(types))}"
        )
    for key, value, known in (
        ("cluster.nodes", ask.nodes, sum(k.nodes for k in own)),
        ("cluster.cpus", ask.cpus, max(k.cpus for k in own)),
        ("cluster.memory_gb", ask.memory_mb / 1000, max(k.memory_mb for k in own) / 1000),
        ("cluster.max_hours", ask.minutes / 60, max(k.max_minutes for k in own) / 60),
    ):
        if value > known:
            raise SiteRefuses(f"{key}: {value:g} is asked for, {where} allows {known:g}: set {key}")


def _kind(line: str) -> NodeKind:
    name, nodes, cpus, memory, gres, limit = line.split("|")
    gpus, types = _gpus(gres)
    return NodeKind(
        partition=name.rstrip("*"),
        default=name.endswith("*"),
        nodes=_number(nodes),
        cpus=_number(cpus),
        memory_mb=_number(memory),
        gpus=gpus,
        gpu_types=types,
        max_minutes=_minutes(limit),
    )


def _gpus(gres: str) -> tuple[int, frozenset[str]]:
    """Read gres such as gpu:2, gpu:a100:4(S:0-1), (null)."""
    found = re.findall(r"gpu(?::([A-Za-z][\w.-]*))?:(\d+)", gres)
    return sum(int(n) for _, n in found), frozenset(t for t, _ in found if t)


def _minutes(limit: str) -> float:
    """Read a time limit such as infinite, 30:00, 1-00:00:00."""
    days, _, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(p.isdigit() for p in parts):
        return float("inf")
    hours, minutes, _seconds = ([0, 0, 0] + [int(p) for p in parts])[-3:]
    return (int(days or 0) * 24 + hours) * 60 + minutes


def _number(text: str) -> int:
    return int(re.match(r"\d*", text).group() or 0)


def _ask(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise NoSlurm(
            f"no {command[0]} here: cluster=slurm is for a machine that submits jobs; "
            "use cluster=local, or a login node of the cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise NoSlurm(f"{command[0]} does not answer: is SLURM's controller up?") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        said = re.sub(r"^\w+: (error|fatal): ", "", last)[:200]
        raise NoSlurm(
            f"{command[0]} failed: {said}. Is this machine set up for a cluster, and its controller "
            "up? Without one: cluster=local"
        )
    return done.stdout
