"""Open the data of a cell: prepared once, cut into rows, checked against what the cell asks."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweep.batches import Rows
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.grid import Cell
from sweep.tokens import DataError, DataSpec, Tokens, open_tokens, prepare, revision_of

LEAST_VAL_TOKENS = 262_144


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What a person asked of the data, beside the name and revision that a cell carries."""

    source: str
    tokenizer: str
    path: str | None
    validation_share: float
    val_tokens: int
    eval_tokens: int
    max_epochs: float

    def __post_init__(self) -> None:
        if self.val_tokens < 1 or self.eval_tokens < 1:
            raise ValueError("data.val_tokens and data.eval_tokens must be at least 1")
        if not self.max_epochs > 0:
            raise ValueError(f"data.max_epochs={self.max_epochs:g} must be positive")
        if self.source == "text_folder" and not self.path:
            raise ValueError("data=text_folder needs data.path=FOLDER, a folder of text files")

    def to_columns(self) -> dict[str, Any]:
        """Columns of the frozen plan, so that a rerun evaluates on the same text."""
        return {f"data_{name}": value for name, value in asdict(self).items()}

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> "DataSettings":
        """Rebuild from the frozen plan."""
        values = {name: row[f"data_{name}"] for name in cls.__dataclass_fields__}
        path = values["path"]
        return cls(**{**values, "path": path if isinstance(path, str) else None})


@dataclass(frozen=True)
class CellData:
    """Rows to train and validate on."""

    tokens: Tokens
    train: Rows
    validation: Rows
    val_rows: int
    eval_rows: int


def prepare_data(settings: DataSettings, cache: Path, say: Callable[[str], None]) -> Path:
    """Fetch and tokenise once; returns the folder of shards.

    Raises:
        UsageError: text that can't be had, read or split.
    """
    try:
        return prepare(_spec(settings), cache, say)
    except DataError as e:
        raise UsageError(str(e)) from None


def find_prepared(settings: DataSettings, cache: Path) -> Path | None:
    """Return the folder of shards if they are prepared; fetches nothing.

    Raises:
        UsageError: the text's folder can't be read.
    """
    try:
        folder = cache / _spec(settings).folder_name
    except DataError as e:
        raise UsageError(str(e)) from None
    return folder if folder.is_dir() else None


def _spec(settings: DataSettings) -> DataSpec:
    path = None if settings.path is None else str(expand(settings.path).resolve())
    return DataSpec(
        name=settings.source,
        revision=revision_of(settings.source, path),
        tokenizer=settings.tokenizer,
        path=path,
        validation_share=settings.validation_share,
    )


def open_data(folder: Path, settings: DataSettings, seq_len: int, verify: bool = False) -> CellData:
    """Map prepared shards and cut them into rows.

    Raises:
        UsageError: damaged shards, or too little validation text for one row.
    """
    try:
        tokens = open_tokens(folder, verify=verify)
    except DataError as e:
        raise UsageError(str(e)) from None
    train, validation = Rows(tokens.train, seq_len), Rows(tokens.validation, seq_len)
    if not len(validation) or not len(train):
        raise UsageError(
            f"data={settings.source} has {len(tokens.train):,} training and "
            f"{len(tokens.validation):,} validation tokens, less than one row of "
            f"model.seq_len={seq_len}: give more text or a shorter seq_len"
        )
    return CellData(
        tokens=tokens,
        train=train,
        validation=validation,
        val_rows=min(len(validation), max(1, settings.val_tokens // seq_len)),
        eval_rows=min(len(validation), max(1, settings.eval_tokens // seq_len)),
    )


def check_epochs(cells: list[Cell], data: CellData, max_epochs: float) -> None:
    """Refuse a plan whose largest D passes over the text too often.

    Raises:
        UsageError: says how many epochs the largest D would be.
    """
    worst = max(cells, key=lambda cell: cell.tokens)
    epochs = worst.tokens / data.train.unique_tokens
    if epochs > max_epochs:
        raise UsageError(
            f"{worst.id} needs D={worst.tokens:,} tokens, {epochs:.2f} epochs of the "
            f"{data.train.unique_tokens:,} in data={worst.data.name}; more than "
            f"data.max_epochs={max_epochs:g} is refused: lower grid.budgets, give more text, "
            f"or allow repeats with data.max_epochs={epochs:.1f}"
        )
