"""What a person asked of the data, as frozen values: the text, its sources, the sets to judge on."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

BYTES = ("bytes256", "bytes128")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """Documents of local files, or of a dataset on the hub.

    Raises:
        ValueError: neither or both, or a key that would not be read; names it.
    """

    name: str
    path: str | None = None  # file or folder: parquet, JSON lines, text
    dataset: str | None = None  # name on the hub
    subset: str | None = None  # of the dataset
    split: str | None = None  # of the dataset
    text_column: str = "text"
    revision: str = "main"  # commit, branch or tag of the dataset; of files, a word

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name={self.name!r} must be letters, digits and . _ - (not first): it names "
                "columns of the results"
            )
        if (self.path is None) == (self.dataset is None):
            raise ValueError(f"{self.name} needs one of path=FILE_OR_FOLDER and dataset=HUB_NAME")
        hub_only = [k for k in ("subset", "split") if getattr(self, k) is not None]
        if self.path is not None and hub_only:
            raise ValueError(
                f"{self.name}: {hub_only[0]} is not read with path: leave it out, or name a "
                "dataset of the hub with dataset="
            )
        if self.dataset is not None and self.split is None:
            raise ValueError(f"{self.name}: dataset={self.dataset} needs split=, such as train")


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One source of the training text, and its share of training tokens.

    Raises:
        ValueError: a weight that is no positive number, or a split that would not be read.
    """

    text: TextSet
    weight: float = 1.0
    validation_split: str | None = None  # of the dataset; None: hold text out of `text.split`

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"{self.text.name}: weight={self.weight:g} must be positive")
        if self.validation_split is not None and self.text.dataset is None:
            raise ValueError(f"{self.text.name}: validation_split is not read with path")

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.text.name


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What a person asked of the data, beside the name and revision that a cell carries.

    Raises:
        ValueError: a value out of range, missing, or not read by this source; names its key.
    """

    source: str
    tokenizer: str
    path: str | None
    validation_share: float
    val_tokens: int
    eval_tokens: int
    max_epochs: float
    tokenizer_revision: str | None = None
    document_mask: bool = False
    sources: tuple[SourceSettings, ...] = field(default=())
    evals: tuple[TextSet, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.val_tokens < 1 or self.eval_tokens < 1:
            raise ValueError("data.val_tokens and data.eval_tokens must be at least 1")
        if not self.max_epochs > 0:
            raise ValueError(f"data.max_epochs={self.max_epochs:g} must be positive")
        if self.source == "text_folder" and not self.path:
            raise ValueError("data=text_folder needs data.path=FOLDER, a folder of text files")
        self._check_tokenizer()
        names = [t.name for t in (*(s.text for s in self.sources), *self.evals)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} names two of data.sources and eval: rename one")

    def _check_tokenizer(self) -> None:
        if self.source != "hf":
            if self.tokenizer not in BYTES:
                raise ValueError(
                    f"data.tokenizer={self.tokenizer} is unknown; it may be {', '.join(BYTES)} with "
                    f"data={self.source}, or any tokenizer of transformers with data=hf"
                )
        elif self.tokenizer == "bytes128":
            raise ValueError(
                "data.tokenizer=bytes128 counts the bytes of one whole text, which data=hf does "
                "not hold: use bytes256, or a tokenizer of transformers"
            )
        if self.tokenizer_revision is not None and self.tokenizer in BYTES:
            raise ValueError(
                f"data.tokenizer_revision is not read with data.tokenizer={self.tokenizer}: "
                "leave it out"
            )

    @property
    def weights(self) -> tuple[float, ...]:
        """Share of training tokens of each source; they sum to 1."""
        total = sum(s.weight for s in self.sources)
        return tuple(s.weight / total for s in self.sources)

    @property
    def final_tokens(self) -> int:
        """Tokens of the full validation at the end of a run, over all sets."""
        return self.val_tokens * (max(1, len(self.sources)) + len(self.evals))

    def to_columns(self) -> dict[str, Any]:
        """Columns of the frozen plan, so that a rerun evaluates on the same text."""
        columns = {f"data_{name}": getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("sources", "evals"):
            values = [asdict(v) for v in getattr(self, name)]
            columns[f"data_{name}"] = json.dumps(values) if values else None
        return columns

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> "DataSettings":
        """Rebuild from the frozen plan; columns that an older plan lacks have their defaults."""
        values = {n: row[f"data_{n}"] for n in cls.__dataclass_fields__ if f"data_{n}" in row}
        texts = {k: v if isinstance(v, str) else None for k, v in values.items() if k in _TEXTS}
        sources = json.loads(texts.pop("sources", None) or "[]")
        evals = json.loads(texts.pop("evals", None) or "[]")
        return cls(
            **{
                **{k: v for k, v in values.items() if k not in _TEXTS},
                **texts,
                "sources": tuple(_source(s) for s in sources),
                "evals": tuple(TextSet(**e) for e in evals),
            }
        )


_TEXTS = ("path", "tokenizer_revision", "sources", "evals")  # NaN where a frame has none


def _source(values: Mapping[str, Any]) -> SourceSettings:
    return SourceSettings(**{**values, "text": TextSet(**values["text"])})


def mix_of(settings: DataSettings) -> str | None:
    """Write sources with their revisions and shares, as one text for ids and records.

    None where there is one source: then name and revision of the data say it.
    """
    if len(settings.sources) < 2:
        return None
    parts = zip(settings.sources, settings.weights, strict=True)
    return " + ".join(f"{share:.6g} {s.name}@{s.text.revision}" for s, share in parts)
