"""What a person asked of the cluster and of the launch, checked."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from conf.schema import ClusterConf, LaunchConf
from sweep.errors import UsageError
from sweep.placeholders import names_in

NOTIFY_FIELDS = ("sweep", "state", "finished", "planned", "folder")
_OWN = ("array", "chdir", "dependency", "error", "job-name", "open-mode", "output", "requeue",
        "no-requeue", "signal", "kill-on-invalid-dep")  # fmt: skip
_NAMED = ("partition", "account", "qos", "constraint", "comment", "mail_user", "mail_type")
_BY_A_KEY = {k.replace("_", "-"): f"cluster.{k}" for k in (*_NAMED, "exclude", "nodes")} | {
    "cpus-per-task": "cluster.cpus",
    "ntasks": "hardware.ranks",
    "ntasks-per-node": "hardware.ranks",
    "time": "cluster.max_hours and cluster.margin",
}


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Where cells are trained; docs/config.md says what each means.

    Raises:
        ValueError: an unknown name, a number out of range, or a key that would change nothing.
    """

    kind: str
    workers: int | None
    partition: str | None
    account: str | None
    qos: str | None
    nodes: int
    gpus: int | None
    gpu_type: str | None
    cpus: int | None
    memory_gb: float | None
    pack: int | None
    max_hours: float
    margin: float
    parallelism: int | None
    max_requeues: int
    signal_seconds: int
    constraint: str | None
    exclude: str | None
    comment: str | None
    mail_user: str | None
    mail_type: str | None
    setup: tuple[str, ...]
    python: str | None
    container: str | None
    container_runtime: str
    container_mounts: tuple[str, ...]
    additional: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ("local", "slurm"):
            raise ValueError(f"cluster.kind={self.kind} is unknown; it may be local or slurm")
        if self.container_runtime not in ("apptainer", "pyxis"):
            raise ValueError(
                f"cluster.container_runtime={self.container_runtime} is unknown; "
                "it may be apptainer or pyxis"
            )
        for key, low in (("workers", 1), ("nodes", 1), ("gpus", 0), ("cpus", 1),
                         ("pack", 1), ("parallelism", 1), ("max_requeues", 0), ("signal_seconds", 10)):  # fmt: skip
            value = getattr(self, key)
            if value is not None and value < low:
                raise ValueError(f"cluster.{key}={value} must be at least {low}")
        for key, low in (("memory_gb", 0.1), ("max_hours", 0.05), ("margin", 1.0)):
            value = getattr(self, key)
            if value is not None and not value >= low:
                raise ValueError(f"cluster.{key}={value:g} must be at least {low:g}")
        self._check_texts()

    def _check_texts(self) -> None:
        for key in ("partition", "account", "qos", "gpu_type", "constraint", "exclude", "comment",
                    "mail_user", "mail_type", "python", "container"):  # fmt: skip
            if re.search(r"[\x00-\x1f]", getattr(self, key) or ""):
                raise ValueError(f"cluster.{key} has a line break in it: leave that out")
        for key in self.additional:
            if not re.fullmatch(r"[a-z][a-z0-9_-]*", key):
                raise ValueError(f"cluster.additional.{key} is no option of sbatch")
            option = key.replace("_", "-")
            if option in _OWN:
                raise ValueError(f"cluster.additional.{key}: the launcher itself sets --{option}")
            if option in _BY_A_KEY:
                raise ValueError(f"cluster.additional.{key}: say it by {_BY_A_KEY[option]}")
            if re.search(r"[\x00-\x1f]", str(self.additional[key])):
                raise ValueError(f"cluster.additional.{key} has a line break in it: leave that out")

    def gpus_of(self, device: str, ranks: int) -> int:
        """GPUs of each node of a cell."""
        if self.gpus is not None:
            return self.gpus
        return 0 if device == "cpu" else ranks // self.nodes

    def options(self) -> dict[str, Any]:
        """Options of sbatch that are handed on as they are."""
        given = {k.replace("_", "-"): getattr(self, k) for k in _NAMED if getattr(self, k)}
        return given | {k.replace("_", "-"): v for k, v in self.additional.items()}


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """How a launch goes; docs/config.md says what each means.

    Raises:
        ValueError: an unknown name or a number out of range.
    """

    dry_run: bool
    only: str | None
    max_gpu_hours: float | None
    canary: bool
    finish: bool | None
    notify: str | None
    code: str | None
    retries: int
    stop_hopeless: bool = False
    fits: str | None = None
    words: tuple[str, ...] = ()  # as typed

    def __post_init__(self) -> None:
        if self.only not in (None, "failed", "stopped"):
            raise ValueError(f"launch.only={self.only} is unknown; it may be failed or stopped")
        if self.fits is not None and not self.stop_hopeless:
            raise ValueError(
                "launch.fits is read with launch.stop_hopeless=true only: leave it out"
            )
        if self.code not in (None, "frozen", "new"):
            raise ValueError(f"launch.code={self.code} is unknown; it may be frozen or new")
        if self.max_gpu_hours is not None and not self.max_gpu_hours > 0:
            raise ValueError(f"launch.max_gpu_hours={self.max_gpu_hours:g} must be positive")
        if not 0 <= self.retries <= 100:
            raise ValueError(f"launch.retries={self.retries} must lie between 0 and 100")
        if self.notify is not None:
            names_in("launch.notify", self.notify, NOTIFY_FIELDS)


def cluster_settings(conf: ClusterConf) -> ClusterSettings:
    """Check a cluster's config.

    Raises:
        UsageError: a value that can't be.
    """
    values = asdict(conf)
    del values["name"]
    values |= {k: tuple(values[k]) for k in ("setup", "container_mounts")}
    try:
        return ClusterSettings(**values)
    except ValueError as e:
        raise UsageError(str(e)) from None


def launch_settings(conf: LaunchConf, words: tuple[str, ...] = ()) -> LaunchSettings:
    """Check how a launch is to go.

    Args:
        conf: what was asked.
        words: in which it was typed, to be shown by status.

    Raises:
        UsageError: a value that can't be.
    """
    try:
        return LaunchSettings(**asdict(conf), words=words)
    except ValueError as e:
        raise UsageError(str(e)) from None
