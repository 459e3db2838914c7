"""Open the data of a cell: prepared once, cut into rows, checked against what the cell asks."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from sweep.batches import Batches, Rows
from sweep.cell import Cell
from sweep.data_cache import copy_to_node
from sweep.data_prepare import find_prepared, id_of_shards, parts_of, prepare_data, tokenizer_of
from sweep.data_settings import DataSettings
from sweep.data_tokenizer import TokenizerId
from sweep.documents import DataError
from sweep.errors import UsageError
from sweep.mixture import Mixture
from sweep.shards import Tokens, open_tokens

__all__ = ["CellData", "DataSettings", "HeldOut", "check_data", "find_prepared", "open_data",
           "prepare_data", "tokenizer_of"]  # fmt: skip

LEAST_VAL_TOKENS = 262_144


@dataclass(frozen=True)
class HeldOut:
    """A set of rows to judge a model on."""

    name: str
    weight: float  # in the loss of the cell; 0 of an extra set
    rows: Rows
    eod: int
    n_bytes: np.ndarray | None  # of text, of each token of rows.tokens; None: one, an end none
    val_rows: int  # read at the end of a run
    eval_rows: int  # read along the way
    sha256: str

    def bytes_of(self, index: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Bytes of text that the targets of rows stand for, (B,).

        Args:
            index: (B,) numbers of the rows.
            rows: (B, T + 1) their tokens.
        """
        if self.n_bytes is None:
            return (rows[:, 1:] != self.eod).sum(1)
        return Rows(self.n_bytes, self.rows.seq_len).take(index)[:, 1:].sum(1)


@dataclass(frozen=True)
class CellData:
    """Rows to train and validate on."""

    sha256: str  # of all training and validation tokens of the sources
    tokenizer: TokenizerId
    train: Batches
    validation: tuple[HeldOut, ...]  # one for each source; their weights sum to 1
    extra: tuple[HeldOut, ...]  # sets of eval=
    train_tokens: int  # tokens of all sources
    commits: str | None  # name@commit of each source that is of the hub

    @property
    def val_tokens(self) -> int:
        """Tokens behind the cell's loss."""
        return sum(h.val_rows for h in self.validation) * self.train.seq_len


def open_data(
    folder: Path,
    settings: DataSettings,
    seq_len: int,
    verify: bool = False,
    node_cache: Path | None = None,
) -> CellData:
    """Map prepared shards and cut them into rows.

    Args:
        folder: what prepare_data returned.
        settings: what is asked of the data.
        seq_len: T, tokens of a row.
        verify: compare checksums, each taken once on this node.
        node_cache: folder of this node's own disk to read from; shards are copied there once.

    Raises:
        UsageError: damaged shards, of another tokenizer, or too little text for one row.
    """
    try:
        sources, evals = _open_all(folder, settings, verify, node_cache)
    except DataError as e:
        raise UsageError(str(e)) from None
    weights = settings.weights or (1.0,)
    held = [
        _held_out(name, weight, tokens, settings, seq_len)
        for (name, tokens), weight in zip(sources.items(), weights, strict=True)
    ]
    first = next(iter(sources.values()))
    return CellData(
        sha256=_sha256_of_all(sources),
        tokenizer=id_of_shards(first),
        train=_training_rows(sources, settings, seq_len),
        validation=tuple(held),
        extra=tuple(_held_out(n, 0.0, t, settings, seq_len) for n, t in evals.items()),
        train_tokens=sum(len(t.train) for t in sources.values()),
        commits=_commits(sources),
    )


def check_data(cells: list[Cell], data: CellData, max_epochs: float) -> None:
    """Refuse data that the cells can't be trained on.

    Raises:
        UsageError: tokens of another tokenizer or of a larger vocabulary, or a largest D that
            passes over some source too often; says how often.
    """
    for cell in cells:
        _check_tokenizer(cell, data.tokenizer)
    worst = max(cells, key=lambda cell: cell.tokens)
    n_rows = worst.tokens // data.train.seq_len
    most = max(data.train.usage(worst.seed, n_rows), key=lambda used: used.epochs)
    if most.epochs > max_epochs:
        raise UsageError(
            f"{worst.id} needs D={worst.tokens:,} tokens, {most.epochs:.2f} epochs of the "
            f"{most.unique_tokens:,} in data={most.name}; more than "
            f"data.max_epochs={max_epochs:g} is refused: lower grid.budgets, give more text, "
            f"or allow repeats with data.max_epochs={most.epochs:.1f}"
        )


def _check_tokenizer(cell: Cell, found: TokenizerId) -> None:
    if cell.data.tokenizer != found.name:
        raise UsageError(
            f"{cell.id} is of tokenizer {cell.data.tokenizer}, and the shards are of {found.name}: "
            "type isoflop prepare with the cell's data.tokenizer, or name another sweep"
        )
    if cell.model.vocab_size < found.vocab_size:
        raise UsageError(
            f"{cell.id} has a vocabulary of {cell.model.vocab_size:,} tokens, and the data has ids "
            f"up to {found.vocab_size - 1:,} (tokenizer {found.name}): a cell planned with this "
            "data has the right one: type isoflop plan"
        )


def _open_all(
    folder: Path, settings: DataSettings, verify: bool, node_cache: Path | None
) -> tuple[dict[str, Tokens], dict[str, Tokens]]:
    """Open sources and extra sets of a prepared folder, by name; all of one tokenizer."""

    def open_one(name: str) -> Tokens:
        path = folder.parent / name
        if node_cache is not None:
            path = copy_to_node(path, node_cache)
        return open_tokens(path, verify=verify)

    names, eval_names = parts_of(folder, settings)
    sources = {name: open_one(path) for name, path in names.items()}
    evals = {name: open_one(path) for name, path in eval_names.items()}
    ids = {name: id_of_shards(t) for name, t in (*sources.items(), *evals.items())}
    first_name, first = next(iter(ids.items()))
    for name, found in ids.items():
        if found.sha256 != first.sha256:
            raise DataError(
                f"{folder}: {name} has shards of tokenizer {found.name} ({found.sha256[:8]}), "
                f"{first_name} of {first.name} ({first.sha256[:8]}): type isoflop prepare again"
            )
    return sources, evals


def _training_rows(
    sources: dict[str, Tokens], settings: DataSettings, seq_len: int
) -> Rows | Mixture:
    parts = {name: _rows(t.train, t, name, settings, seq_len) for name, t in sources.items()}
    for name, rows in parts.items():
        if not len(rows):
            raise _too_short(name, "training", len(rows.tokens), seq_len)
    if len(parts) == 1:
        return next(iter(parts.values()))
    try:
        return Mixture(tuple(parts), tuple(parts.values()), settings.weights)
    except ValueError as e:
        raise UsageError(str(e)) from None


def _held_out(
    name: str, weight: float, tokens: Tokens, settings: DataSettings, seq_len: int
) -> HeldOut:
    rows = _rows(tokens.validation, tokens, name, settings, seq_len)
    if not len(rows):
        raise _too_short(name, "validation", len(rows.tokens), seq_len)
    return HeldOut(
        name=name,
        weight=weight,
        rows=rows,
        eod=tokens.eod,
        n_bytes=tokens.validation_bytes,
        val_rows=min(len(rows), max(1, settings.val_tokens // seq_len)),
        eval_rows=min(len(rows), max(1, settings.eval_tokens // seq_len)),
        sha256=tokens.sha256,
    )


def _rows(
    shard: np.ndarray, tokens: Tokens, name: str, settings: DataSettings, seq_len: int
) -> Rows:
    return Rows(shard, seq_len, name, tokens.eod if settings.document_mask else None)


def _too_short(name: str, part: str, tokens: int, seq_len: int) -> UsageError:
    return UsageError(
        f"data={name} has {tokens:,} {part} tokens, less than one row of "
        f"model.seq_len={seq_len}: give more text or a shorter seq_len"
    )


def _commits(sources: dict[str, Tokens]) -> str | None:
    streams = [s for t in sources.values() for s in t.manifest.get("streams", ())]
    of_hub = {f"{s['name']}@{s['commit']}": None for s in streams if s["dataset"] is not None}
    return ", ".join(of_hub) or None


def _sha256_of_all(sources: dict[str, Tokens]) -> str:
    """Hash of the shards: of one source its own, else of all in their order."""
    hashes = [t.sha256 for t in sources.values()]
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()
