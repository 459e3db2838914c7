"""Known models: parameters and training tokens, each with where it was read. Standard library only."""

from dataclasses import dataclass

from analysis.budget_laws import BudgetLaw


@dataclass(frozen=True)
class KnownModel:
    """A dense model and its pre-training."""

    name: str
    N: float  # parameters, as named by its authors
    D: float  # training tokens
    source: str

    @property
    def tokens_per_param(self) -> float:
        return self.D / self.N

    @property
    def flops(self) -> float:
        """C = 6ND."""
        return 6 * self.N * self.D


_GPT3 = "Brown et al. 2020, arXiv:2005.14165; 175B in OpenAI's model card; 6ND = 3.15e23"
_HOFFMANN = "Hoffmann et al. 2022, arXiv:2203.15556, which compares both at one budget"
_PALM = "Chowdhery et al. 2022, arXiv:2204.02311"
_LLAMA = "Touvron et al. 2023, arXiv:2307.09288, table 1, row Llama 1"
_LLAMA2 = "Meta's model card of Llama 2, meta-llama/llama MODEL_CARD.md"
_LLAMA3 = "Meta's model card of Llama 3, meta-llama/llama3 MODEL_CARD.md: 15T+"
_LLAMA31 = "Meta's model card of Llama 3.1, meta-llama/llama-models: about 15T"

MODELS = (
    KnownModel("GPT-3", 175e9, 300e9, _GPT3),
    KnownModel("Gopher", 280e9, 300e9, _HOFFMANN),
    KnownModel("Chinchilla", 70e9, 1.4e12, _HOFFMANN),
    KnownModel("PaLM", 540e9, 780e9, _PALM),
    KnownModel("LLaMA 7B", 7e9, 1.0e12, _LLAMA),
    KnownModel("LLaMA 13B", 13e9, 1.0e12, _LLAMA),
    KnownModel("LLaMA 33B", 33e9, 1.4e12, _LLAMA),
    KnownModel("LLaMA 65B", 65e9, 1.4e12, _LLAMA),
    KnownModel("Llama 2 7B", 7e9, 2.0e12, _LLAMA2),
    KnownModel("Llama 2 13B", 13e9, 2.0e12, _LLAMA2),
    KnownModel("Llama 2 70B", 70e9, 2.0e12, _LLAMA2),
    KnownModel("Llama 3 8B", 8e9, 15e12, _LLAMA3),
    KnownModel("Llama 3 70B", 70e9, 15e12, _LLAMA3),
    KnownModel("Llama 3.1 405B", 405e9, 15e12, _LLAMA31),
)


@dataclass(frozen=True)
class Verdict:
    """How a model stands to a law's optimum at its own budget."""

    optimum: tuple[float, float]  # N and D of least loss at its 6ND
    ratio: float  # its D/N over the optimal D/N
    excess_loss: float  # nats per token above the optimum's loss

    @property
    def word(self) -> str:
        """`over-trained` above 1.5 times the optimal D/N, `under-trained` below 1/1.5, else `near`."""
        if self.ratio > 1.5:
            return "over-trained"
        return "under-trained" if self.ratio < 1 / 1.5 else "near"


def judge(model: KnownModel, law: BudgetLaw) -> Verdict:
    """Compare a model's D/N with a law's optimum at C = 6ND."""
    N, D = law.optimum(model.flops)
    excess = law.loss(model.N, model.D) - law.loss(N, D)
    return Verdict((N, D), model.tokens_per_param / (D / N), excess)
