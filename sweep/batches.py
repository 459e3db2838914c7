"""Which tokens a training step sees: a formula of (seed, step, batch_rows), with no index in memory.

Rows are visited in a seeded order that is a permutation of all rows in each epoch. A run that is
longer, at the same seed, sees the rows of a shorter one first and then more.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

_ROUNDS = 12  # large n would do with 4; a handful of rows needs more to be shuffled evenly
_BLOCK = 4096  # positions computed together: numpy's cost per call is spread over many steps
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # odd, with bits spread evenly: carries low bits upwards
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Rows:
    """A token stream cut in rows of seq_len inputs and their targets.

    Row i is tokens[i x seq_len : (i + 1) x seq_len + 1]: rows overlap by one token, so each token
    but the first is a target once. A rest shorter than a row is left out.
    """

    tokens: np.ndarray  # 1-D, integers; may be a memory map
    seq_len: int
    name: str = "text"
    border: int | None = None  # token that ends a document, where attention stays within one

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise ValueError(f"seq_len={self.seq_len}: at least 1")

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.seq_len)

    @property
    def unique_tokens(self) -> int:
        """Targets in one epoch."""
        return len(self) * self.seq_len

    def row(self, i: int) -> np.ndarray:
        """Tokens of row i, (T + 1,) int64.

        Raises:
            IndexError: i is outside 0..len-1.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        return self.take(np.array([i]))[0]

    def take(self, index: np.ndarray) -> np.ndarray:
        """Tokens of the rows in `index` (B,), each in 0..len-1: (B, T + 1) int64."""
        offsets = index[:, None] * self.seq_len + np.arange(self.seq_len + 1)
        return self.tokens.view(np.ndarray)[offsets].astype(np.int64)

    def batch(self, seed: int, step: int, batch_rows: int) -> np.ndarray:
        """Rows of one optimizer step, (B, T + 1) int64, as the function batch."""
        return self.take(row_index(len(self), seed, step * batch_rows, batch_rows))

    def usage(self, seed: int, n_rows: int) -> "tuple[Usage, ...]":
        """Count what the first n_rows rows of the order take; the same for every seed."""
        return (Usage.of(self.name, self, n_rows),)


@dataclass(frozen=True)
class Usage:
    """What a run takes from one source."""

    name: str
    tokens: int  # targets, repeats counted
    unique_tokens: int  # targets, each once

    @property
    def epochs(self) -> float:
        """Passes over what was seen: tokens / unique tokens; 0 where nothing was taken."""
        return self.tokens / self.unique_tokens if self.tokens else 0.0

    @classmethod
    def of(cls, name: str, rows: Rows, n_rows: int) -> "Usage":
        """Usage of n_rows rows in the seeded order, whose every epoch is a permutation."""
        return cls(name, n_rows * rows.seq_len, min(n_rows, len(rows)) * rows.seq_len)


class Batches(Protocol):
    """Rows under a seeded order: of one source, or of several (sweep.mixture)."""

    @property
    def seq_len(self) -> int:
        """Inputs of a row."""

    @property
    def border(self) -> int | None:
        """Token that ends a document, where attention stays within one."""

    def batch(self, seed: int, step: int, batch_rows: int) -> np.ndarray:
        """Rows of one optimizer step, (B, T + 1) int64."""

    def usage(self, seed: int, n_rows: int) -> tuple[Usage, ...]:
        """Count what the first n_rows rows of the order take from each source."""


def documents(tokens: Any, border: int) -> Any:
    """Tell the number of each token's document within its row, from 0.

    The end-of-document token counts to the document after it, as the token that opens it: so the
    first token of a document is predicted from that mark alone, and no token from another
    document than its own.

    Args:
        tokens: (B, T) integers, inputs of the model: an array of numpy or a tensor of torch.
        border: the token that ends a document.

    Returns:
        (B, T) int64 of the same kind, non-decreasing along a row.
    """
    return (tokens == border).cumsum(1)


def batch(rows: Batches, seed: int, step: int, batch_rows: int) -> np.ndarray:
    """Rows of one optimizer step: positions step x B .. (step + 1) x B - 1 of the seeded order.

    Args:
        rows: the training rows.
        seed: any integer; another seed is another order.
        step: from 0.
        batch_rows: B, rows in a step over all devices and micro-batches.

    Returns:
        (B, T + 1) int64.

    Raises:
        ValueError: no rows.
    """
    return rows.batch(seed, step, batch_rows)


def row_index(n: int, seed: int, start: int, count: int) -> np.ndarray:
    """Rows at positions start .. start + count - 1 of the order over epochs, (count,) int64.

    Epoch e holds positions e x n .. (e + 1) x n - 1 and has a permutation of its own.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError("no rows to draw a batch from")
    first, last = start // n, (start + count - 1) // n
    parts = []
    for epoch in range(first, last + 1):
        low, high = max(start, epoch * n), min(start + count, (epoch + 1) * n)
        parts.extend(_positions(n, seed, epoch, low - epoch * n, high - epoch * n))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def permute(i: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Images of i under a pseudo-random permutation of 0..n-1 chosen by (seed, epoch).

    A Feistel network on pairs (l, r), 0 <= l < a, 0 <= r < b, whose domain a x b is the smallest
    near-square that holds n; a result >= n is sent through again until it falls below n, which
    keeps it a bijection (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite
    Domains", 2002, section 2 and the generalized Feistel of section 5).

    Args:
        i: integers in 0..n-1, any shape.
        n: size of the domain, 1..2^62.
        seed: any integer.
        epoch: any integer.

    Returns:
        int64, the shape of i.
    """
    a = np.uint64(math.isqrt(n - 1) + 1)
    b = np.uint64(-(-n // int(a)))
    keys = _keys(seed, epoch)
    x = _feistel(i.astype(np.uint64), a, b, keys)
    while (outside := x >= np.uint64(n)).any():
        x[outside] = _feistel(x[outside], a, b, keys)
    return x.astype(np.int64)


def _feistel(x: np.ndarray, a: np.uint64, b: np.uint64, keys: tuple[np.uint64, ...]) -> np.ndarray:
    left, right = x // b, x % b
    for j, key in enumerate(keys):
        if j % 2:
            right = (right + _hash(left, key) % b) % b
        else:
            left = (left + _hash(right, key) % a) % a
    return left * b + right


def _hash(x: np.ndarray, key: np.uint64) -> np.ndarray:
    x = (x + key) * _MIX
    x = (x ^ (x >> _HALF)) * _MIX
    return x ^ (x >> _HALF)


def _positions(n: int, seed: int, epoch: int, low: int, high: int) -> list[np.ndarray]:
    blocks = range(low // _BLOCK, (high - 1) // _BLOCK + 1)
    return [
        _block(n, seed, epoch, k)[max(low - k * _BLOCK, 0) : min(high - k * _BLOCK, _BLOCK)]
        for k in blocks
    ]


@lru_cache(maxsize=64)  # one for each source of a mixture, and room
def _block(n: int, seed: int, epoch: int, k: int) -> np.ndarray:
    block = permute(np.arange(k * _BLOCK, min((k + 1) * _BLOCK, n)), n, seed, epoch)
    block.setflags(write=False)
    return block


@lru_cache(maxsize=64)
def _keys(seed: int, epoch: int) -> tuple[np.uint64, ...]:
    text = f"{seed}/{epoch}".encode()
    digest = hashlib.shake_256(text).digest(8 * _ROUNDS)
    return tuple(np.frombuffer(digest, dtype="<u8"))
