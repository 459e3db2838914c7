"""Names of the nodes in /etc/hosts, each line tagged with the cluster that it is of."""

import fcntl
import socket
from pathlib import Path

from slurm.devcluster.cluster import DevCluster
from slurm.devcluster.config_files import host

_HOSTS = Path("/etc/hosts")


def add_names(cluster: DevCluster) -> None:
    """Make this machine's name, and the nodes', resolve to it (MASTER_ADDR is a node's name)."""
    new = [name for name in (host(), *cluster.names) if not _resolves(name)]
    _rewrite(cluster, [f"127.0.0.1 {name} {_tag(cluster)}" for name in new], keep_old=True)


def remove_names(cluster: DevCluster) -> None:
    """Take them out again."""
    _rewrite(cluster, [], keep_old=False)


def _rewrite(cluster: DevCluster, new: list[str], keep_old: bool) -> None:
    """Rewrite in place: in a container the file is a mount, which can't be replaced."""
    with _HOSTS.open("r+") as f:
        fcntl.flock(f, fcntl.LOCK_EX)  # two clusters may come up at once
        old = f.read().splitlines()
        kept = [line for line in old if keep_old or not line.endswith(_tag(cluster))]
        if kept + new == old:
            return
        f.seek(0)
        f.write("".join(f"{line}\n" for line in kept + new))
        f.truncate()


def _tag(cluster: DevCluster) -> str:
    return f"# isoflop-devcluster {cluster.root}"


def _resolves(name: str) -> bool:
    try:
        socket.gethostbyname(name)
    except OSError:
        return False
    return True
