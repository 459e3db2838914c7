"""How and on what an attempt runs. Nothing here changes what is asked of a cell."""

from dataclasses import dataclass

from models.config import Attention

DTYPES = ("float32", "bfloat16")


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
        if not 1 <= self.threads <= 1024:
            raise ValueError(f"hardware.threads={self.threads} must lie between 1 and 1024")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How an attempt goes; nothing here changes its loss.

    Raises:
        ValueError: a number out of range.
    """

    evaluations: int
    checkpoint_seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.evaluations <= 10_000:
            raise ValueError(f"run.evaluations={self.evaluations} must lie between 0 and 10,000")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"run.checkpoint_seconds={self.checkpoint_seconds:g} is negative")
