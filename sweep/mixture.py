"""Several sources of rows with fixed shares, mixed by formula: no list of draws is kept.

Positions of the training order are cut into blocks of BLOCK. In each block source k holds exactly
its quota of positions, at places that a keyed permutation of the block gives. So the shares are
met to one row in every block, position -> (source, its row) needs one block at most, and a longer
run sees the rows of a shorter one first, whatever the batch size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sweep.batches import Rows, Usage, permute, row_index

BLOCK = 10_000  # positions; a share is met to 1 in BLOCK
_APART = 2**80  # between the seeds of two sources, beyond any seed that is asked for


@dataclass(frozen=True)
class Mixture:
    """Rows of several sources under one order.

    Raises:
        ValueError: no sources, other than one share each, or a share that rounds to no row.
    """

    names: tuple[str, ...]
    parts: tuple[Rows, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.parts or not len(self.names) == len(self.parts) == len(self.shares):
            raise ValueError("a mixture has sources, each with a name and a share")
        for name, quota in zip(self.names, self.quotas, strict=True):
            if quota < 1:
                raise ValueError(
                    f"data.sources: {name} has less than 1/{BLOCK:,} of the weight: raise it"
                )

    @property
    def seq_len(self) -> int:
        """Inputs of a row."""
        return self.parts[0].seq_len

    @property
    def border(self) -> int | None:
        """Token that ends a document, where attention stays within one."""
        return self.parts[0].border

    @property
    def quotas(self) -> tuple[int, ...]:
        """Positions of each source in a block; they sum to BLOCK."""
        return _quotas(self.shares)

    def batch(self, seed: int, step: int, batch_rows: int) -> np.ndarray:
        """Rows of one optimizer step, (B, T + 1) int64, as sweep.batches.batch."""
        start = step * batch_rows
        source = self.source_at(seed, start, batch_rows)
        before = self.counts(seed, start)
        rows = np.empty((batch_rows, self.seq_len + 1), dtype=np.int64)
        for k, part in enumerate(self.parts):
            mine = np.flatnonzero(source == k)
            if len(mine):
                own_seed = seed + k * _APART
                rows[mine] = part.take(row_index(len(part), own_seed, before[k], len(mine)))
        return rows

    def source_at(self, seed: int, start: int, count: int) -> np.ndarray:
        """Source of positions start .. start + count - 1, (count,) int64."""
        first, last = start // BLOCK, (start + count - 1) // BLOCK
        blocks = [_block(self.quotas, seed, k) for k in range(first, last + 1)]
        return np.concatenate(blocks)[start - first * BLOCK :][:count]

    def counts(self, seed: int, positions: int) -> list[int]:
        """Rows of each source among the first `positions`."""
        whole, rest = divmod(positions, BLOCK)
        part = np.bincount(_block(self.quotas, seed, whole)[:rest], minlength=len(self.parts))
        return [whole * q + int(n) for q, n in zip(self.quotas, part, strict=True)]

    def usage(self, seed: int, n_rows: int) -> tuple[Usage, ...]:
        """Count what the first n_rows rows of the order take from each source."""
        parts = zip(self.names, self.parts, self.counts(seed, n_rows), strict=True)
        return tuple(Usage.of(name, part, n) for name, part, n in parts)


@lru_cache(maxsize=64)
def _quotas(shares: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers nearest to shares x BLOCK that sum to BLOCK (largest remainders)."""
    exact = np.array(shares) / sum(shares) * BLOCK
    quotas = np.floor(exact).astype(int)
    by_rest = np.argsort(-(exact - quotas), kind="stable")
    quotas[by_rest[: BLOCK - quotas.sum()]] += 1
    return tuple(int(q) for q in quotas)


@lru_cache(maxsize=8)
def _block(quotas: tuple[int, ...], seed: int, block: int) -> np.ndarray:
    sorted_sources = np.repeat(np.arange(len(quotas)), quotas)
    # Epoch -1 - block: a key that no order of rows has.
    drawn = sorted_sources[permute(np.arange(BLOCK), BLOCK, seed, -1 - block)]
    drawn.setflags(write=False)
    return drawn
