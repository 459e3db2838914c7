"""What a dev cluster is made of: its settings, its paths, its ports."""

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

_LONGEST_ROOT = 60  # a path of a Unix socket has 108 bytes in all, and spool/NODE/... lies below


class ClusterError(Exception):
    """Why the cluster can't be brought up or down, and what to do about it."""


@dataclass(frozen=True)
class DevCluster:
    """One cluster; every path lies under `root`.

    Raises:
        ClusterError: a value that no cluster can have.
    """

    root: Path = Path("/tmp/devcluster")
    port: int = 16810  # first of the ports: database, accounting, controller, then the nodes
    prefix: str = "n"  # nodes are n1, n2, ...
    nodes: int = 4
    gpus: int = 2  # of a node
    cpus: int = 4  # of a node, whatever this machine has
    memory_mb: int = 4000  # of a node
    user_signal: bool = True  # preemption sends what --signal names; else SIGTERM
    grace: int = 20  # seconds from that signal to SIGKILL
    accounting: bool = True

    def __post_init__(self) -> None:
        if not self.root.is_absolute() or re.search(r"[^\w/.+-]", str(self.root)):
            raise ClusterError(f"root={self.root} must be an absolute path of plain characters")
        if len(str(self.root)) > _LONGEST_ROOT or len(self.root.parts) < 3:
            raise ClusterError(
                f"root={self.root}: sockets lie below it, so it may have {_LONGEST_ROOT} characters "
                "at most, and must be a folder of its own: try root=/tmp/devcluster"
            )
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}[a-z]|[a-z]", self.prefix):
            raise ClusterError(f"prefix={self.prefix}: letters, at most 20: nodes are named d1, d2")
        for name, low, high in (("port", 1024, 65000), ("nodes", 1, 64), ("gpus", 1, 16),
                                ("cpus", 1, 256), ("memory_mb", 500, 10**6), ("grace", 0, 3600)):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ClusterError(f"{name}={getattr(self, name)} must be {low} to {high}")

    @property
    def conf(self) -> Path:
        """What SLURM_CONF must name."""
        return self.root / "etc" / "slurm.conf"

    @property
    def run(self) -> Path:
        """Folder of sockets and pid files."""
        return self.root / "run"

    @property
    def log(self) -> Path:
        """Folder of the daemons' logs."""
        return self.root / "log"

    @property
    def names(self) -> list[str]:
        """Names of the nodes."""
        return [f"{self.prefix}{i}" for i in range(1, self.nodes + 1)]

    @property
    def database_port(self) -> int:
        return self.port

    @property
    def accounting_port(self) -> int:
        return self.port + 1

    @property
    def controller_port(self) -> int:
        return self.port + 2

    def node_port(self, name: str) -> int:
        """Port of a node's slurmd."""
        return self.port + 10 + self.names.index(name)

    @property
    def ports(self) -> list[int]:
        """Every port that it listens on."""
        first = self.port if self.accounting else self.controller_port
        return [*range(first, self.port + 3), *map(self.node_port, self.names)]

    @property
    def environment(self) -> dict[str, str]:
        """Environment of its daemons and clients; the mark is how `down` knows what is its own."""
        return {**os.environ, "SLURM_CONF": str(self.conf), MARK: str(self.root)}

    def save(self) -> None:
        """Remember the settings, for `down` and for the next `up`."""
        values = {**asdict(self), "root": str(self.root)}
        (self.root / "settings.json").write_text(json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, root: Path) -> Self | None:
        """Return the cluster that `up` made at `root`; None where there is none.

        Raises:
            ClusterError: the folder is something else.
        """
        try:
            values = json.loads((root / "settings.json").read_text())
            known = {f.name for f in fields(cls)}
            return cls(**{k: v for k, v in values.items() if k in known} | {"root": root})
        except FileNotFoundError:
            if root.is_dir() and any(root.iterdir()):
                raise ClusterError(f"root={root} holds other files: name a new folder") from None
            return None
        except (ValueError, TypeError, AttributeError) as e:
            raise ClusterError(f"root={root} holds no dev cluster ({e})") from None


MARK = "ISOFLOP_DEVCLUSTER"
