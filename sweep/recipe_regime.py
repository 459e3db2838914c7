"""What a rule of a recipe sees of a cell, and where the rule was fitted."""

from dataclasses import dataclass
from enum import StrEnum

from models.config import Parametrisation
from models.flops import FlopRule, N_flops, count_params, flops_per_token
from models.size import Size

Range = tuple[float, float]


class Optimizer(StrEnum):
    """What takes the steps: AdamW, or torch's Muon on the matrices of the blocks beside it."""

    ADAMW = "adamw"
    MUON = "muon"

    @property
    def title(self) -> str:
        """Its name as papers write it."""
        return {"adamw": "AdamW", "muon": "Muon"}[self]


@dataclass(frozen=True)
class Target:
    """A shape, and the tokens D that its budget buys."""

    cfg: Size
    flop_rule: FlopRule
    tokens: float

    def params(self, convention: str) -> float:
        """N under a convention: flops, total, non_embedding or matmul."""
        if convention == "flops":
            return N_flops(self.cfg, self.flop_rule)
        return float(getattr(count_params(self.cfg), convention))

    @property
    def flops_without_vocabulary(self) -> float:
        """Training FLOPs of layers and attention, the head out.

        C = M D with M = 72 L d^2 + 12 L d T for an MLP of 4d (DeepSeek-AI 2024,
        arXiv:2401.02954, section 3.2).
        """
        head = 6 * count_params(self.cfg).head
        return self.tokens * (flops_per_token(self.cfg, FlopRule.PALM) - head)


@dataclass(frozen=True, kw_only=True)
class Regime:
    """Where a rule was fitted, as its source states it; None where the source gives no range."""

    N_convention: str  # of N and D/N
    N: Range | None = None  # parameters
    D: Range | None = None  # tokens
    tokens_per_param: Range | None = None  # D/N
    C: Range | None = None  # FLOPs without vocabulary
    schedule: str
    final_lr: str  # what the learning rate decays to
    optimizer: str = "AdamW"
    trained_with: str  # what else the source trained with
    source: str

    def outside(self, target: Target, schedule: str, optimizer: Optimizer) -> str | None:
        """Say in which ways a cell lies outside, or None."""
        N = target.params(self.N_convention)
        ways = [
            f"{name}={value:.3g} outside {allowed[0]:.3g}..{allowed[1]:.3g}"
            for name, value, allowed in (
                ("N", N, self.N),
                ("D", target.tokens, self.D),
                ("D/N", target.tokens / N, self.tokens_per_param),
                ("C", target.flops_without_vocabulary, self.C),
            )
            if allowed is not None and not allowed[0] <= value <= allowed[1]
        ]
        if schedule != self.schedule:
            ways.append(f"schedule {schedule} is not {self.schedule}")
        if target.cfg.n_expert is not None:
            ways.append("a mixture of experts is not dense")
        if optimizer.title != self.optimizer:
            ways.append(f"optimizer {optimizer.title} is not {self.optimizer}")
        if target.cfg.parametrisation is not Parametrisation.STANDARD:
            ways.append(f"parametrisation {target.cfg.parametrisation} is not standard")
        return "; ".join(ways) or None

    def in_words(self) -> str:
        """One sentence for a plan."""
        given = (
            (f"N ({self.N_convention})", self.N),
            ("D", self.D),
            ("D/N", self.tokens_per_param),
            ("C without vocabulary", self.C),
        )
        ranges = [f"{name} {r[0]:.3g}..{r[1]:.3g}" for name, r in given if r is not None]
        return (
            f"Fitted on {', '.join(ranges)}, schedule {self.schedule}, final learning rate "
            f"{self.final_lr}, {self.optimizer}, {self.trained_with} ({self.source})."
        )
