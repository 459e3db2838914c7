"""Cut documents into blocks and hold some out, so that no training text is validation text."""

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

BLOCK_BYTES = 16_384
MIN_BLOCK_BYTES = 1024
GAP_BYTES = 512  # longer than nearly every sentence, so none is on both sides
REACH_BYTES = 256  # how far a cut looks for a whitespace
WINDOW_BYTES = 64

_WHITESPACE = b" \n\t\r"
_SAMPLE = 1 << 22  # validation windows compared: bounds the memory of a large folder
_CHUNK = 1 << 23
_FILTER_BITS = 24


@dataclass(frozen=True)
class Stretch:
    """Bytes start..end of a document, all in validation or all in training."""

    start: int
    end: int
    validation: bool


def block_bytes(size: int, share: float) -> int:
    """Longest block (bytes) of a text of `size` bytes: small text gets smaller ones.

    The aim is 16 validation blocks, so that a share can be held out of a small folder as well.
    """
    return int(min(BLOCK_BYTES, max(MIN_BLOCK_BYTES, size * share / 16)))


def cut_blocks(text: bytes, longest: int) -> list[int]:
    """Offsets 0 = o_0 < o_1 < ... < o_k = len(text) of blocks of at most `longest` bytes.

    A cut is made after a whitespace where there is one, else between characters, if it can be.
    """
    offsets = [0]
    while (left := len(text) - offsets[-1]) > longest:
        even = -(-left // -(-left // longest))  # equal parts: no tiny block at the end
        offsets.append(_cut_before(text, offsets[-1] + even, offsets[-1] + 1))
    return [*offsets, len(text)] if text else [0]


def split_document(
    text: bytes, share: float, owed: float, longest: int = BLOCK_BYTES
) -> tuple[list[Stretch], float]:
    """Hold out about `share` of one document's bytes: the blocks whose sha256 is lowest.

    Args:
        text: the document.
        share: of the bytes of all documents that validation gets, 0..1.
        owed: bytes that the documents before this one left owing to validation (0 for the first).
        longest: bytes of the longest block.

    Returns:
        Stretches in order (neighbours of one kind are joined; training keeps GAP_BYTES away from
        validation), and what is owed now: within half a block of 0 after every document.
    """
    offsets = cut_blocks(text, longest)
    blocks = list(pairwise(offsets))
    owed += share * len(text)
    chosen = set()
    for start, end in sorted(blocks, key=lambda b: hashlib.sha256(text[b[0] : b[1]]).digest()):
        if owed < (end - start) / 2:
            break
        owed -= end - start
        chosen.add(start)
    return _stretches(text, blocks, chosen), owed


def hold_out(text: bytes, share: float, longest: int = BLOCK_BYTES) -> list[Stretch]:
    """Hold out each block of a document with probability `share`, drawn from its own sha256.

    Unlike split_document it looks at nothing but the document: equal documents land on the same
    side, wherever they stand in the corpus, and no order or memory is needed.

    Args:
        text: the document.
        share: 0 keeps all for training, 1 holds all out.
        longest: bytes of the longest block; shorter documents are one block.

    Returns:
        Stretches in order, as split_document.
    """
    blocks = list(pairwise(cut_blocks(text, longest)))
    return _stretches(text, blocks, {i for i, j in blocks if _draw(text[i:j]) < share})


def _draw(block: bytes) -> float:
    """Uniform on [0, 1) for random text, a function of the bytes."""
    return int.from_bytes(hashlib.sha256(block).digest()[:6], "big") / 2**48


def _stretches(text: bytes, blocks: list[tuple[int, int]], chosen: set[int]) -> list[Stretch]:
    joined: list[Stretch] = []
    for start, end in blocks:
        held_out = start in chosen
        if joined and joined[-1].validation == held_out:
            start = joined.pop().start
        joined.append(Stretch(start, end, held_out))
    trimmed = (s if s.validation else _trim(text, s) for s in joined)
    return [s for s in trimmed if s.start < s.end]


def repeated_share(train: np.ndarray, validation: np.ndarray) -> float:
    """Share of validation's 64-byte windows that occur in training as well; NaN if there is none.

    Both are bytes (uint8, 1-D) with a 0 between documents; no window spans a 0. The source text
    repeats itself (formulas, refrains, copied passages), so the share is small but seldom 0.
    Of a large validation set a regular sample of 4 million windows is looked up.
    """
    wanted = _window_hashes(validation)
    stride = max(1, len(wanted) // _SAMPLE)
    hashes, counts = np.unique(wanted[::stride], return_counts=True)
    if not len(hashes):
        return float("nan")
    low = np.zeros(1 << _FILTER_BITS, dtype=bool)  # most windows are ruled out by one look-up
    mask = np.uint64((1 << _FILTER_BITS) - 1)
    low[hashes & mask] = True
    seen = np.zeros(len(hashes), dtype=bool)
    for start in range(0, len(train), _CHUNK):
        found = _window_hashes(train[start : start + _CHUNK + WINDOW_BYTES - 1])
        seen |= np.isin(hashes, found[low[found & mask]])
    return float(counts[seen].sum() / counts.sum())


def _window_hashes(text: np.ndarray) -> np.ndarray:
    """64-bit hash of every window of WINDOW_BYTES that has no 0, in order (uint64, 1-D)."""
    if len(text) < WINDOW_BYTES:
        return np.empty(0, dtype=np.uint64)
    text = np.asarray(text)
    codes = np.random.default_rng(64).integers(1, 2**64, 256, dtype=np.uint64)
    hashes, power = codes[text], 0x9E3779B97F4A7C15
    width = 1
    while width < WINDOW_BYTES:  # hash of 2w bytes = hash of w x power + hash of the next w
        hashes = hashes[:-width] * np.uint64(power) + hashes[width:]
        power = power * power % 2**64
        width *= 2
    ends = np.concatenate([[0], np.cumsum(text == 0)])
    return hashes[ends[WINDOW_BYTES:] == ends[:-WINDOW_BYTES]]


def _trim(text: bytes, s: Stretch) -> Stretch:
    start = s.start if s.start == 0 else _cut_after(text, s.start + GAP_BYTES, s.end)
    end = s.end if s.end == len(text) else _cut_before(text, s.end - GAP_BYTES, s.start)
    return Stretch(start, max(start, end), s.validation)


def _cut_before(text: bytes, at: int, lowest: int) -> int:
    """Last good place to cut in lowest..at: after a whitespace, else before a character."""
    lowest = max(lowest, at - REACH_BYTES)
    for i in range(at, lowest - 1, -1):
        if text[i - 1] in _WHITESPACE:
            return i
    return next((i for i in range(at, lowest - 1, -1) if not _inside(text, i)), at)


def _cut_after(text: bytes, at: int, highest: int) -> int:
    """First good place to cut in at..highest: after a whitespace, else before a character."""
    if at >= highest:
        return highest
    highest = min(highest, at + REACH_BYTES)
    for i in range(at, highest + 1):
        if text[i - 1] in _WHITESPACE:
            return i
    return next((i for i in range(at, highest + 1) if not _inside(text, i)), at)


def _inside(text: bytes, i: int) -> bool:
    """Whether a cut at i would part the bytes of one UTF-8 character."""
    return i < len(text) and text[i] & 0xC0 == 0x80
