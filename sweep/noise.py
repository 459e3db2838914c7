"""The gradient noise scale, from squared gradient norms at two batch sizes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class GradientNorms:
    """Sums of squared gradient norms of a small and of the whole batch, over steps.

    Sums stay on the device: reading them at every step would make the host wait.
    """

    small_rows: float  # sequences behind the small norm; the harmonic mean where ranks differ
    big_rows: int
    sums: Tensor  # small, big, steps; float64

    @classmethod
    def empty(cls, small_rows: float, big_rows: int, device: torch.device) -> "GradientNorms":
        """Start with nothing summed up."""
        return cls(small_rows, big_rows, torch.zeros(3, dtype=torch.float64, device=device))

    def add(self, small_squared: Tensor, big_squared: Tensor) -> None:
        """Note one step."""
        one = torch.ones_like(self.sums[0])
        self.sums += torch.stack([small_squared.double(), big_squared.double(), one])

    def state(self) -> dict[str, object]:
        """Plain values and a tensor, for the checkpoint."""
        return {"small_rows": self.small_rows, "big_rows": self.big_rows, "sums": self.sums.cpu()}

    def restore(self, state: dict[str, object]) -> None:
        """Go on from `state()`; sums over other batch sizes mean nothing here and are dropped."""
        if (state["small_rows"], state["big_rows"]) == (self.small_rows, self.big_rows):
            self.sums.copy_(state["sums"])

    def noise_rows(self) -> float:
        """B_noise in sequences; NaN before the first step."""
        small, big, steps = self.sums.tolist()
        return noise_scale(small / steps, big / steps, self.small_rows, self.big_rows) if steps else math.nan  # fmt: skip


def noise_scale(small_squared: float, big_squared: float, small: float, big: float) -> float:
    """B_simple = tr(Sigma) / |G|^2, the batch at which noise and signal of a gradient are equal.

    McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1: unbiased |G|^2 and tr(Sigma) from
    mean squared norms of gradients over batches of two sizes. The ratio is biased, the less so
    the more steps are behind the means.

    Args:
        small_squared: mean |g|^2 of gradients over `small` samples.
        big_squared: the same over `big` samples.
        small: samples in the small batch.
        big: samples in the big batch, more than `small`.

    Returns:
        In samples; NaN where noise drowns the signal, so that |G|^2 comes out negative.
    """
    signal = (big * big_squared - small * small_squared) / (big - small)
    noise = (small_squared - big_squared) / (1 / small - 1 / big)
    return noise / signal if signal > 0 else math.nan
