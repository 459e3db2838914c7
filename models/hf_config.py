"""An architecture of transformers as data: what one size is made from, and what a count of it found.

Imports neither torch nor transformers, so a plan of a thousand cells stays light: who builds and counts
is models/hf_count.py, in a process of its own.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from models.config import Parametrisation

Keys = dict[str, Any]  # of a configuration of transformers, plain values


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a walk over the modules of one size found.

    Products are multiply-adds of one token in a forward pass, at rows of seq_len tokens.
    """

    n_layer: int
    d_model: int
    n_head: int | None  # None: no attention
    head_dim: int | None  # of the queries
    tied: bool  # whether the head shares the embedding's weights
    embedding: int  # parameters of the table of tokens
    positions: int  # of other tables
    head: int
    matrices: int  # weights of layers that multiply, those of all experts
    resting: int  # of them, those of experts that a token does not visit: (1 - top_k / E) of each layer's
    rest: int  # gains, biases, and what else stands in no product
    scores: int  # of attention: H (K of keys + K of values) x keys that a query reads, over layers
    softmax: int  # scores that are normalised: H x keys that a query reads, over layers
    scan: int  # of recurrences, by formula
    row_bytes: float  # kept of one row for the backward pass, float32
    source: str  # who counted, and what was not counted exactly

    def to_json(self) -> str:
        """Return a text for a column."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Counts":
        """Rebuild what `to_json` made.

        Raises:
            ValueError: another set of fields.
        """
        try:
            return Counts(**json.loads(text))
        except TypeError as e:
            raise ValueError(f"counts of another version: {e}") from None


@dataclass(frozen=True, kw_only=True)
class HFConfig:
    """One size of an architecture of transformers."""

    architecture: str  # model_type
    config: str  # JSON of the keys that are given, sorted; all others have the class's defaults
    vocab_size: int
    seq_len: int
    counts: Counts = field(metadata={"asked": False})  # found, so in no id

    # What code for both kinds of size asks, and only our GPT can answer otherwise.
    n_expert: ClassVar[None] = None
    parametrisation: ClassVar[Parametrisation] = Parametrisation.STANDARD
    base_d_model: ClassVar[None] = None
    base_n_layer: ClassVar[None] = None

    @property
    def keys(self) -> Keys:
        """Keys of the configuration that are given."""
        return json.loads(self.config)

    @property
    def n_layer(self) -> int:
        """Layers."""
        return self.counts.n_layer

    @property
    def d_model(self) -> int:
        """Width."""
        return self.counts.d_model

    @property
    def head_dim(self) -> int | None:
        """Width of a head of queries; None without attention."""
        return self.counts.head_dim

    @property
    def size_id(self) -> str:
        """Shape in words, and a hash of all keys; cells that share it share a model size."""
        digest = hashlib.blake2s(self.config.encode(), digest_size=2).hexdigest()
        return f"{self.architecture}-L{self.n_layer}-d{self.d_model}-{digest}"


def plain_json(keys: Keys) -> str:
    """Write keys as one text that is the same whatever their order."""
    return json.dumps(keys, sort_keys=True)
