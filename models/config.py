"""The shape of a model: everything that decides its parameters and FLOPs, and nothing else."""

from dataclasses import dataclass
from enum import StrEnum


class Positions(StrEnum):
    """How a model knows the order of its tokens."""

    ROTARY = "rotary"
    LEARNED = "learned"


class Attention(StrEnum):
    """Implementations of causal attention."""

    CPU_FLASH = "cpu_flash"
    SDPA_FLASH = "sdpa_flash"
    SDPA_CUDNN = "sdpa_cudnn"
    SDPA_EFFICIENT = "sdpa_efficient"
    REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Shape of one size of the ladder.

    Raises:
        ValueError: a size is not positive, the heads do not divide the width, or rotary
            positions are asked for with an odd head.
    """

    n_layer: int
    d_model: int
    n_head: int
    vocab_size: int
    seq_len: int
    positions: Positions = Positions.ROTARY
    tied: bool = False

    def __post_init__(self) -> None:
        for name in ("n_layer", "d_model", "n_head", "vocab_size", "seq_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.d_model % self.n_head:
            divisors = [h for h in range(1, self.d_model + 1) if self.d_model % h == 0]
            near = sorted(divisors, key=lambda h: abs(h - self.n_head))[:3]
            raise ValueError(
                f"n_head={self.n_head} does not divide d_model={self.d_model}; "
                f"n_head may be {', '.join(map(str, sorted(near)))}"
            )
        if self.positions is Positions.ROTARY and self.head_dim % 2:
            raise ValueError(
                f"d_model={self.d_model} over n_head={self.n_head} gives head_dim={self.head_dim}; "
                "rotary positions turn pairs, so head_dim must be even"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head, K."""
        return self.d_model // self.n_head

    @property
    def size_id(self) -> str:
        """Shape in words; cells that share it share a model size."""
        return f"L{self.n_layer}-d{self.d_model}-h{self.n_head}"
