"""The files under etc/: texts from settings, and the key that the daemons share."""

import os
import socket
from pathlib import Path

from slurm.devcluster.cluster import DevCluster

CLUSTER = "devcluster"
DATABASE, DATABASE_USER, DATABASE_PASSWORD = "slurm_acct_db", "slurm", "devcluster"
# A requeued job waits this long before it starts again: SLURM's default of 120 s is for credentials
# that travel. It must outlast KillWait, or the job meets its own dying step on the node.
_CRED_EXPIRE, _KILL_WAIT = 7, 3


def write_config(cluster: DevCluster) -> bool:
    """Write every file; returns whether slurm.conf changed."""
    etc = cluster.conf.parent
    etc.mkdir(parents=True, exist_ok=True)
    key = etc / "munge.key"
    if not key.exists():
        _write_secret(key, os.urandom(1024))
    _write_secret(etc / "slurmdbd.conf", slurmdbd_conf(cluster).encode())
    gpus = f"{cluster.root}/dev/gpu[0-{cluster.gpus - 1}]"
    (etc / "gres.conf").write_text(f"NodeName={_nodes(cluster)} Name=gpu File={gpus}\n")
    old = cluster.conf.read_text() if cluster.conf.exists() else None
    new = slurm_conf(cluster, _first_job_id(etc))
    cluster.conf.write_text(new)
    return new != old


def slurm_conf(cluster: DevCluster, first_job_id: int) -> str:
    """Return slurm.conf."""
    lines = {
        "ClusterName": CLUSTER,
        "SlurmctldHost": f"{host()}(127.0.0.1)",
        "SlurmctldPort": cluster.controller_port,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        "AuthInfo": f"socket={cluster.run}/munge.sock,cred_expire={_CRED_EXPIRE}",
        "StateSaveLocation": f"{cluster.root}/state",
        "SlurmdSpoolDir": f"{cluster.root}/spool/%n",
        "SlurmctldPidFile": f"{cluster.run}/slurmctld.pid",
        "SlurmdPidFile": f"{cluster.run}/slurmd-%n.pid",
        "SlurmctldLogFile": f"{cluster.log}/slurmctld.log",
        "SlurmdLogFile": f"{cluster.log}/slurmd-%n.log",
        "MpiDefault": "none",
        "SwitchType": "switch/none",
        **_limits(),
        **_scheduling(cluster),
        "FirstJobId": first_job_id,
        **_accounting(cluster),
    }
    return "".join(f"{k}={v}\n" for k, v in lines.items()) + _nodes_and_partitions(cluster)


def slurmdbd_conf(cluster: DevCluster) -> str:
    """Return slurmdbd.conf, which holds a password, if one that opens nothing of worth."""
    lines = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={cluster.run}/munge.sock",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": cluster.accounting_port,
        "SlurmUser": "root",
        "PidFile": f"{cluster.run}/slurmdbd.pid",
        "LogFile": f"{cluster.log}/slurmdbd.log",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": cluster.database_port,
        "StorageUser": DATABASE_USER,
        "StoragePass": DATABASE_PASSWORD,
        "StorageLoc": DATABASE,
    }
    return "".join(f"{k}={v}\n" for k, v in lines.items())


def host() -> str:
    """Return this machine's short name."""
    return socket.gethostname().split(".")[0]


def _limits() -> dict[str, object]:
    """Return how processes are followed: by /proc, so that any container or VM will do.

    Without cgroups memory is polled: a step above its limit is killed with SIGKILL.
    """
    return {
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": 1,
        "JobAcctGatherParams": "OverMemoryKill",
        "KillWait": _KILL_WAIT,
        "SlurmdTimeout": 20,
        "ReturnToService": 2,
        "SlurmdParameters": "config_overrides",  # nodes may claim more CPUs than the host has
    }


def _scheduling(cluster: DevCluster) -> dict[str, object]:
    return {
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "GresTypes": "gpu",
        "DefMemPerCPU": 200,
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "sched_interval=5,batch_sched_delay=1,bf_interval=5",
        **({"SlurmctldParameters": "preempt_send_user_signal"} if cluster.user_signal else {}),
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "JobRequeue": 1,
        "MinJobAge": 600,
        "MaxArraySize": 10001,
        "MaxJobCount": 30000,
    }


def _accounting(cluster: DevCluster) -> dict[str, object]:
    if not cluster.accounting:
        return {"AccountingStorageType": "accounting_storage/none"}
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": cluster.accounting_port,
        "AccountingStoragePass": f"{cluster.run}/munge.sock",
        "AccountingStorageTRES": "gres/gpu",
        "AccountingStoreFlags": "job_comment",
    }


def _nodes_and_partitions(cluster: DevCluster) -> str:
    size = f"CPUs={cluster.cpus} RealMemory={cluster.memory_mb} Gres=gpu:{cluster.gpus}"
    nodes = "".join(
        f"NodeName={n} NodeHostname={host()} NodeAddr=127.0.0.1 Port={cluster.node_port(n)}\n"
        for n in cluster.names
    )
    return (
        f"NodeName=DEFAULT {size} State=UNKNOWN\n{nodes}"
        f"PartitionName=DEFAULT Nodes={_nodes(cluster)} MaxTime=1-0 DefaultTime=10 State=UP\n"
        "PartitionName=main Default=YES PriorityTier=10 PreemptMode=OFF\n"
        f"PartitionName=preempt PriorityTier=1 PreemptMode=REQUEUE GraceTime={cluster.grace}\n"
    )


def _nodes(cluster: DevCluster) -> str:
    return f"{cluster.prefix}[1-{cluster.nodes}]"


def _first_job_id(etc: Path) -> int:
    """Start elsewhere for each new cluster, so that files named after job ids never meet."""
    path = etc / "first_job_id"
    if not path.exists():
        path.write_text(str(int.from_bytes(os.urandom(3)) + 1000))
    return int(path.read_text())


def _write_secret(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
        f.write(content)
