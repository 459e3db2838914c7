"""How and on what an attempt runs. Nothing here changes what is asked of a cell."""

from dataclasses import dataclass

from models.config import Attention, CrossEntropy
from models.kernel_rules import Place, choose, choose_cross_entropy

DTYPES = ("float32", "bfloat16")
MATMUL_PRECISIONS = ("auto", "highest", "high", "medium")  # auto: high on a GPU, else highest
KEEP = ("none", "last", "all")  # checkpoints that outlive their attempt
TRACKERS = ("tensorboard", "wandb", "trackio")  # each is named as its package


@dataclass(frozen=True, kw_only=True)
class HardwareSettings:
    """What a person asked of the device.

    Raises:
        ValueError: an unknown name or a number out of range.
    """

    device: str
    dtype: str
    attention: str
    threads: int
    cross_entropy: str = "chunked"
    ranks: int = 1
    micro_rows: int | None = None
    compile: str = "auto"
    deterministic: bool = False
    memory_bytes: float | None = None
    matmul_precision: str = "auto"

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"hardware.device={self.device} is unknown; it may be auto, cpu, cuda")
        if self.dtype not in DTYPES:
            raise ValueError(
                f"hardware.dtype={self.dtype} is unknown; it may be {', '.join(DTYPES)}"
            )
        known = ["auto", *Attention]
        if self.attention not in known:
            raise ValueError(
                f"hardware.attention={self.attention} is unknown; it may be {', '.join(known)}"
            )
        if self.cross_entropy not in list(CrossEntropy):
            raise ValueError(
                f"hardware.cross_entropy={self.cross_entropy} is unknown; "
                f"it may be {', '.join(CrossEntropy)}"
            )
        if self.device == "cpu":  # known without torch, and before anything is written
            choose(Place(device="cpu", dtype=self.dtype), self.attention)
            choose_cross_entropy("cpu", self.cross_entropy)
        if not 1 <= self.threads <= 1024:
            raise ValueError(f"hardware.threads={self.threads} must lie between 1 and 1024")
        if not 1 <= self.ranks <= 64:
            raise ValueError(f"hardware.ranks={self.ranks} must lie between 1 and 64")
        if self.micro_rows is not None and self.micro_rows < 1:
            raise ValueError(f"hardware.micro_rows={self.micro_rows} must be at least 1")
        if self.compile not in ("auto", "true", "false"):
            raise ValueError(
                f"hardware.compile={self.compile} is unknown; it may be auto, true, false"
            )
        if self.matmul_precision not in MATMUL_PRECISIONS:
            raise ValueError(
                f"hardware.matmul_precision={self.matmul_precision} is unknown; "
                f"it may be {', '.join(MATMUL_PRECISIONS)}"
            )
        if self.memory_bytes is not None and not self.memory_bytes > 0:
            raise ValueError(f"hardware.memory_bytes={self.memory_bytes:g} must be positive")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How an attempt goes; nothing here changes its loss.

    Raises:
        ValueError: a number out of range.
    """

    evaluations: int
    checkpoint_seconds: float
    checkpoint_steps: int | None = None
    keep_checkpoints: str = "last"
    lease_seconds: float = 30.0
    trackers: tuple[str, ...] = ()
    tracker_project: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "trackers", tuple(self.trackers))  # JSON has lists
        if not 0 <= self.evaluations <= 10_000:
            raise ValueError(f"run.evaluations={self.evaluations} must lie between 0 and 10,000")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"run.checkpoint_seconds={self.checkpoint_seconds:g} is negative")
        if self.checkpoint_steps is not None and self.checkpoint_steps < 1:
            raise ValueError(f"run.checkpoint_steps={self.checkpoint_steps} must be at least 1")
        if not 1 <= self.lease_seconds <= 3600:
            raise ValueError(
                f"run.lease_seconds={self.lease_seconds:g} must lie between 1 and 3600"
            )
        if self.keep_checkpoints not in KEEP:
            raise ValueError(
                f"run.keep_checkpoints={self.keep_checkpoints} is unknown; "
                f"it may be {', '.join(KEEP)}"
            )
        self._check_trackers()

    def _check_trackers(self) -> None:
        for name in self.trackers:
            if name not in TRACKERS:
                raise ValueError(
                    f"run.trackers: {name} is unknown; it may be {', '.join(TRACKERS)}"
                )
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError("run.trackers names one twice: leave it out")
        if self.tracker_project is None:
            return
        if not {"wandb", "trackio"} & set(self.trackers):
            raise ValueError(
                "run.tracker_project is read by wandb and trackio only: add one to run.trackers, "
                "or leave it out"
            )
        if not self.tracker_project.strip():
            raise ValueError("run.tracker_project is empty")
