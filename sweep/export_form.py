"""What an export needs of a kind of model: its name in transformers, its files, and how far logits are off.

Suffixes: B rows, T tokens of a row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sweep.checkpoint_folder import transformers_of

WEIGHTS = "model.safetensors"
# Of a logit's difference at equal angles, over the largest logit or 1. Rounding leaves a tenth of it
# where attention is sharp and rows are long; one matrix in a wrong order, ten times as much.
LIMIT = 1e-4
_ROWS = 2  # of random tokens, on which logits are compared


@dataclass(frozen=True)
class Compared:
    """Logits of a checkpoint beside those of the trained weights, on a CPU in float32.

    Attributes:
        as_loaded: largest difference. same_angles: the same where rotary angles are those of
            training, which transformers rounds to float32. largest: logit of ours.
    """

    as_loaded: float
    same_angles: float
    largest: float

    @property
    def is_the_same_model(self) -> bool:
        """Whether no more than rounding lies between them."""
        return self.same_angles <= LIMIT * max(1.0, self.largest)

    @property
    def in_words(self) -> str:
        """Say how large the difference is, for the end of a sentence."""
        rounded = self.same_angles < self.as_loaded / 2
        angles = f" ({self.same_angles:.1e} at the rotary angles of training)" if rounded else ""
        return f"{self.as_loaded:.1e} at most{angles}, the largest is {self.largest:.1f}"


@dataclass(frozen=True)
class Written:
    """What was found when config and weights were written and read again.

    Attributes:
        compared: logits. changes: of the weights since training, a sentence each.
    """

    compared: Compared
    changes: tuple[str, ...]


class Form(Protocol):
    """A trained model as a class of transformers."""

    @property
    def class_name(self) -> str:
        """That AutoModelForCausalLM makes of it."""

    def write(self, eod: int, part: Path) -> Written:
        """Write config and weights into a folder, load them again, and compare logits.

        Raises:
            UsageError: the attempt's weights can't be had, or have no place there.
        """


def write_generation_config(eod: int, seq_len: int, part: Path) -> None:
    """Write generation_config.json: where a text ends, and how long it may be."""
    kind = transformers_of("isoflop export").GenerationConfig
    kind(eos_token_id=eod, pad_token_id=eod, max_length=seq_len).save_pretrained(part)


def random_tokens(vocab_size: int, seq_len: int) -> Tensor:
    """Return the (B, T) tokens on which logits are compared, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (_ROWS, seq_len), generator=generator)


def largest(values: Tensor) -> float:
    """Return the largest absolute value."""
    return values.abs().max().item()
