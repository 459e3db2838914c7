"""The named rules: what each gives a cell, and the regime that it was fitted on.

They disagree, and each is an extrapolation outside its regime; docs/method.md section 3 has them
side by side. A value that a source does not state is not decided by its rule.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sweep.recipe_regime import Regime, Target


class Asked(Protocol):
    """What rules read of a recipe's settings, beside the names that each decides or needs."""

    @property
    def rule(self) -> str:
        """Name of the rule."""

    @property
    def lr(self) -> float | None:
        """Peak learning rate."""

    @property
    def lr_embedding(self) -> float | None:
        """That of tables and norms."""

    @property
    def batch_rows(self) -> int | None:
        """Sequences of one optimizer step."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a rule decides for one cell; None where a person or a default does."""

    lr: float
    lr_embedding: float
    batch_tokens: float  # before rounding to whole sequences
    warmup_share: float | None = None
    lr_floor: float | None = None
    beta2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None

    def rows(self, seq_len: int) -> int:
        """Sequences of one optimizer step: batch_tokens in whole sequences, at least one."""
        return max(1, round(self.batch_tokens / seq_len))


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A named rule, the settings that it decides or needs, and the regime it was fitted on."""

    choose: Callable[[Asked, Target], Choice]
    decides: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    regime: Regime | None = None

    def check(self, settings: Asked) -> None:
        """Refuse settings that are missing, or that would be silently ignored."""
        for name in self.decides:
            if getattr(settings, name) is not None:
                raise ValueError(
                    f"recipe.{name} is not used by recipe.rule={settings.rule}, which decides it: "
                    f"leave it out (recipe.{name}=null where a grid or recipe file sets it); "
                    "for a value of your own: recipe=fixed"
                )
        for name in self.needs:
            if getattr(settings, name) is None:
                raise ValueError(f"recipe.rule={settings.rule} needs recipe.{name}")


def nine_digits(x: float) -> float:
    """Round to nine digits, so that a power's last bit can't give a cell another id elsewhere."""
    return float(f"{x:.9g}")


def _fixed(settings: Asked, at: Target) -> Choice:
    """One learning rate and one batch for all cells."""
    lr, rows = settings.lr, settings.batch_rows
    return Choice(
        lr=lr, lr_embedding=settings.lr_embedding or lr, batch_tokens=rows * at.cfg.seq_len
    )


def _demo(settings: Asked, at: Target) -> Choice:
    """Matrices at .008 x 32/d, tables and norms at .016, 8 rows a step.

    lr falls as 1/d, as muP would have it (Yang et al. 2022, arXiv:2203.03466, table 8); a batch
    that grows with d would starve the wide models of steps.
    """
    lr = 0.008 * 32 / at.cfg.d_model
    return Choice(lr=lr, lr_embedding=0.016, batch_tokens=8 * at.cfg.seq_len)


def _porian(settings: Asked, at: Target) -> Choice:
    """Give lr = .0047 (N/108e6)^(-1/3), B = 160 x 2048 tokens x (N/108e6)^(2/3).

    Warm-up of N tokens. Porian et al. 2024, arXiv:2406.19146; N with the head, without embedding.
    """
    N = at.params("matmul")
    lr = nine_digits(0.0047 * (N / 108e6) ** (-1 / 3))
    return Choice(
        lr=lr,
        lr_embedding=lr,
        batch_tokens=nine_digits(160 * 2048 * (N / 108e6) ** (2 / 3)),
        warmup_share=min(0.1, N / at.tokens),
    )


def _steplaw(settings: Asked, at: Target) -> Choice:
    """Give lr = 1.79 N^-.713 D^.307, B = .58 D^.571 tokens, decayed to a rate of 1e-5.

    Li et al. 2025, arXiv:2503.04715; N non-embedding.
    """
    lr = nine_digits(1.79 * at.params("non_embedding") ** -0.713 * at.tokens**0.307)
    return Choice(
        lr=lr,
        lr_embedding=lr,
        batch_tokens=nine_digits(0.58 * at.tokens**0.571),
        lr_floor=min(1.0, nine_digits(1e-5 / lr)),
    )


def _deepseek(settings: Asked, at: Target) -> Choice:
    """Give lr = .3118 C^-.125, B = .2920 C^.3271 tokens, C without vocabulary.

    DeepSeek-AI 2024, arXiv:2401.02954, section 3.1.
    """
    C = at.flops_without_vocabulary
    lr = nine_digits(0.3118 * C**-0.125)
    return Choice(lr=lr, lr_embedding=lr, batch_tokens=nine_digits(0.2920 * C**0.3271))


_MARIN_SEQUENCE = 4096  # tokens: its batch counts sequences of this length


def _marin(settings: Asked, at: Target) -> Choice:
    """Give lr = .0063 sqrt(B/B0) (T0/T)^.3, beta2 = .9999^(B/B0), with B0 = 64 and T0 = 2.5e9.

    Embeddings and norms at 6.56e-4 sqrt(r), eps = 1.85e-8 / sqrt(r), r = (B/B0) (T0/T). B, in
    sequences of 4096, is the power of two that makes at most 2^16 steps, from 8 to 8192, halved
    until both learning rates are below .01 and beta2 above .9. Marin's "completed AdamH"
    (marin-community/marin, experiments/scaling_law_sweeps/completed_adamh.py), where these
    learning rates are AdamH's.
    """
    T = at.tokens
    B = 2 ** math.ceil(math.log2(max(1.0, T / (2**16 * _MARIN_SEQUENCE))))
    B = min(8192, max(8, B))
    while B > 8 and not _marin_allows(B, T):
        B //= 2
    lr, lr_embedding, beta2 = _marin_rates(B, T)
    return Choice(
        lr=min(0.01, nine_digits(lr)),
        lr_embedding=min(0.01, nine_digits(lr_embedding)),
        batch_tokens=B * _MARIN_SEQUENCE,
        beta2=min(0.9999, max(0.9, nine_digits(beta2))),
        eps=nine_digits(1.85e-8 / math.sqrt(B / 64 * 2.5e9 / T)),
    )


def _marin_rates(B: int, T: float) -> tuple[float, float, float]:
    """Return the learning rates and beta2 before their bounds."""
    batch, tokens = B / 64, 2.5e9 / T
    return 0.0063 * batch**0.5 * tokens**0.3, 6.56e-4 * (batch * tokens) ** 0.5, 0.9999**batch


def _marin_allows(B: int, T: float) -> bool:
    lr, lr_embedding, beta2 = _marin_rates(B, T)
    return lr < 0.01 and lr_embedding < 0.01 and beta2 > 0.9


_NUMBERS = ("lr", "lr_embedding", "batch_rows")

RULES = {
    "fixed": Rule(choose=_fixed, needs=("lr", "batch_rows")),
    "demo": Rule(
        choose=_demo,
        decides=_NUMBERS,
        regime=Regime(
            N_convention="flops",
            N=(1e4, 6e5),
            D=(1.5e5, 9e6),
            tokens_per_param=(1, 500),
            schedule="wsd",
            final_lr="0",
            trained_with="betas .9 .95, decay .1, clip 1, warm-up .1",
            source="micro ladder on English bytes, seq_len 128: LOG.md",
        ),
    ),
    # The sweep was fitted on five sizes at D = 20 N (min_params_for_fit and max_params_for_fit in
    # its analysis.py); within x2 of that D/N counts as inside, which is ours.
    "porian": Rule(
        choose=_porian,
        decides=(*_NUMBERS, "warmup_share"),
        regime=Regime(
            N_convention="matmul",
            N=(2.87e7, 1.085e8),
            tokens_per_param=(10, 40),
            schedule="constant",
            final_lr="the peak",
            trained_with="seq_len 2048, beta2 tuned by size, independent weight decay, QK-norm",
            source="arXiv:2406.19146; used there from 5.2M to 902M",
        ),
    ),
    # N and D are those of the dense grid on the authors' page (step-law.github.io).
    "steplaw": Rule(
        choose=_steplaw,
        decides=(*_NUMBERS, "lr_floor"),
        regime=Regime(
            N_convention="non_embedding",
            N=(2.146e8, 1.074e9),
            D=(4e9, 1e11),
            tokens_per_param=(18.6, 466),
            schedule="cosine",
            final_lr="1e-5",
            trained_with="seq_len 2048, lr and batch tuned jointly",
            source="arXiv:2503.04715",
        ),
    ),
    "deepseek": Rule(
        choose=_deepseek,
        decides=_NUMBERS,
        regime=Regime(
            N_convention="non_embedding",
            C=(1e17, 2e19),
            schedule="multi_step",
            final_lr=".1 of the peak (.316 after 80% of the tokens, .1 after 90%)",
            trained_with="betas .9 .95, decay .1, clip 1, warm-up of 2000 steps",
            source="arXiv:2401.02954, section 3.1; checked there at 1e20",
        ),
    ),
    # Calibrated at one point, so N has no range; D is where its batch lies within 8..8192.
    "marin": Rule(
        choose=_marin,
        decides=(*_NUMBERS, "beta2", "eps"),
        regime=Regime(
            N_convention="total",
            D=(4 * 2**16 * _MARIN_SEQUENCE, 8192 * 2**16 * _MARIN_SEQUENCE),
            tokens_per_param=(1e-3, 250),
            schedule="wsd_linear",
            final_lr="0",
            optimizer="AdamH",
            trained_with="beta1 .9, no decay, clip .1, warm-up .1, decay .2, z-loss 1e-7",
            source="marin-community/marin; calibrated at 130M, 2.5e9 tokens, 64 x 4096",
        ),
    ),
}
