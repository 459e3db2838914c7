"""Bring a cluster up, or what is not up of it."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence

from slurm.devcluster.cluster import ClusterError, DevCluster
from slurm.devcluster.config_files import (
    CLUSTER,
    DATABASE,
    DATABASE_PASSWORD,
    DATABASE_USER,
    write_config,
)
from slurm.devcluster.hosts import add_names
from slurm.devcluster.packages import install_packages, why_not_here
from slurm.devcluster.processes import daemons, node_daemon, wait_until


def up(cluster: DevCluster, say: Callable[[str], None]) -> None:
    """Start what does not run, put nodes that are down or drained back to work.

    Raises:
        ClusterError: it can't be brought up here, or something did not start; says which log.
    """
    if reason := why_not_here():
        raise ClusterError(reason)
    _refuse_other_settings(cluster)
    install_packages(cluster.accounting, say)
    _make_folders(cluster)
    cluster.save()
    _refuse_taken_ports(cluster)
    add_names(cluster)
    changed = write_config(cluster)
    _start_munge(cluster)
    if cluster.accounting:
        _start_accounting(cluster)
    _start_controller(cluster, changed)
    start_nodes(cluster)
    say(f"Up: {cluster.nodes} nodes of {cluster.gpus} GPUs, partitions main and preempt.")


def client(cluster: DevCluster, *argv: str, timeout: float = 20) -> subprocess.CompletedProcess:
    """Run one of SLURM's commands against the cluster; its output as text."""
    return subprocess.run(
        argv, env=cluster.environment, capture_output=True, text=True, timeout=timeout
    )


def start_nodes(cluster: DevCluster) -> None:
    """Start each slurmd that does not run, and wait until all nodes take jobs.

    Raises:
        ClusterError: they do not, with what SLURM says of them.
    """
    for name in cluster.names:
        if node_daemon(cluster, name) is None:
            _run(cluster, "slurmd", "-N", name)
    if not wait_until(lambda: _all_work(cluster), 40):
        states = client(cluster, "sinfo", "-N", "-h", "-o", "%N %T %E").stdout.split("\n")
        raise ClusterError(f"nodes did not come up ({'; '.join(states)}): see {cluster.log}")


def _refuse_other_settings(cluster: DevCluster) -> None:
    old = DevCluster.load(cluster.root)
    if old is None:
        return
    for name in ("port", "prefix", "nodes", "gpus", "cpus", "memory_mb", "accounting"):
        if getattr(old, name) != getattr(cluster, name):
            raise ClusterError(
                f"root={cluster.root} holds a cluster with {name}={getattr(old, name)}: take it "
                f"down first: python -m slurm.devcluster down root={cluster.root}"
            )


def _refuse_taken_ports(cluster: DevCluster) -> None:
    if daemons(cluster):
        return  # they are its own
    for port in cluster.ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise ClusterError(
                    f"port {port} is taken: choose a free range of {cluster.nodes + 10} with port="
                ) from None


def _make_folders(cluster: DevCluster) -> None:
    for name in ("etc", "run", "log", "state", "spool", "dev", "database"):
        (cluster.root / name).mkdir(parents=True, exist_ok=True, mode=0o755)
    for i in range(cluster.gpus):
        # SLURM counts a GPU where it finds a character device; a link to one will do.
        link = cluster.root / "dev" / f"gpu{i}"
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")


def _start_munge(cluster: DevCluster) -> None:
    socket_path = cluster.run / "munge.sock"
    if not daemons(cluster, "munged"):
        for stale in cluster.run.glob("munge.sock*"):
            stale.unlink()
        _run(
            cluster,
            "munged",
            f"--key-file={cluster.conf.parent / 'munge.key'}",
            f"--socket={socket_path}",
            f"--pid-file={cluster.run / 'munged.pid'}",
            f"--log-file={cluster.log / 'munged.log'}",
            f"--seed-file={cluster.run / 'munged.seed'}",
        )
    _wait_for(cluster, 10, "munged.log", "munge", "-S", str(socket_path), "-n")


def _start_accounting(cluster: DevCluster) -> None:
    data = cluster.root / "database"
    if not (data / "mysql").is_dir():
        _run(cluster, "mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
             f"--tmpdir={cluster.run}",  # two that install at once take the same names in /tmp
             "--skip-test-db", "--auth-root-authentication-method=normal")  # fmt: skip
    if not daemons(cluster, "mariadbd"):
        _start_database(cluster)
    sql = ("mariadb", "--no-defaults", f"--socket={cluster.run / 'db.sock'}", "-u", "root", "-e")
    user = f"{DATABASE_USER}@'127.0.0.1'"
    _wait_for(cluster, 40, "mariadbd.log", *sql, "select 1")
    _run(
        cluster,
        *sql,
        f"create database if not exists {DATABASE};"
        f"create user if not exists {user} identified by '{DATABASE_PASSWORD}';"
        f"grant all on {DATABASE}.* to {user}",
    )
    if not daemons(cluster, "slurmdbd"):
        _run(cluster, "slurmdbd")
    _wait_for(cluster, 40, "slurmdbd.log", "sacctmgr", "-n", "show", "cluster")
    known = client(cluster, "sacctmgr", "-n", "show", "cluster", "format=cluster%30").stdout
    if CLUSTER not in known.split():
        _run(cluster, "sacctmgr", "-i", "add", "cluster", CLUSTER)


def _start_database(cluster: DevCluster) -> None:
    subprocess.Popen(
        [
            "mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={cluster.root / 'database'}",
            f"--tmpdir={cluster.run}",
            f"--socket={cluster.run / 'db.sock'}",
            f"--pid-file={cluster.run / 'mariadbd.pid'}",
            "--bind-address=127.0.0.1",
            f"--port={cluster.database_port}",
            f"--log-error={cluster.log / 'mariadbd.log'}",
            "--skip-name-resolve",
            "--performance-schema=OFF",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=32M",
            "--innodb-flush-log-at-trx-commit=0",  # it may lose its last second: it is for tests
            "--innodb-lock-wait-timeout=900",  # slurmdbd complains of less
        ],
        env=cluster.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _start_controller(cluster: DevCluster, changed: bool) -> None:
    running = bool(daemons(cluster, "slurmctld"))
    if not running:
        _run(cluster, "slurmctld")
    if not wait_until(lambda: "is UP" in client(cluster, "scontrol", "ping").stdout, 30):
        raise ClusterError(f"slurmctld does not answer: see {cluster.log / 'slurmctld.log'}")
    if running and changed:
        _run(cluster, "scontrol", "reconfigure")


def _all_work(cluster: DevCluster) -> bool:
    listed = client(cluster, "sinfo", "-N", "-h", "-p", "main", "-o", "%N %T").stdout.split("\n")
    states = dict(line.split() for line in listed if line.strip())
    ill = [n for n, s in states.items() if s.startswith(("down", "drain", "fail"))]
    for name in ill:
        client(cluster, "scontrol", "update", f"nodename={name}", "state=resume")
    well = ("idle", "mixed", "allocated", "completing")
    return sum(s.rstrip("*") in well and "*" not in s for s in states.values()) == cluster.nodes


def _wait_for(cluster: DevCluster, seconds: float, log: str, *argv: str) -> None:
    if not wait_until(lambda: client(cluster, *argv).returncode == 0, seconds):
        raise ClusterError(f"{argv[0]} does not answer: see {cluster.log / log}")


def _run(cluster: DevCluster, *argv: str) -> None:
    """Run a command, or a daemon that goes to the background by itself.

    Raises:
        ClusterError: it is not there, or failed.
    """
    program = shutil.which(argv[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise ClusterError(f"{argv[0]} is not installed")
    log = cluster.log / f"{argv[0]}.out"
    with log.open("ab") as out:
        done = subprocess.run(
            [program, *argv[1:]],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=cluster.root,
            timeout=120,
        )
    if done.returncode:
        said: Sequence[str] = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise ClusterError(f"{argv[0]} failed and said: {said[-1]} (see {cluster.log})")
