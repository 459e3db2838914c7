"""Chunks of text to tokens by many processes, in the order in which the chunks were made."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from sweep.data_tokenizer import Encoded, Encoder


@dataclass(frozen=True)
class Chunk:
    """Stretches for one process, and where the reader stands after them."""

    train: list[bytes]
    held: list[bytes]
    stream: int
    documents: int
    counts: dict[str, int]
    n_bytes: int


Parts = tuple[Encoded | None, Encoded | None]  # training and validation tokens of a chunk


def encode_chunks(
    encoder: Encoder, chunks: Iterator[Chunk], n_workers: int
) -> Iterator[tuple[Chunk, Parts]]:
    """Give each chunk its numbers; results come in the order of the chunks."""
    if n_workers == 1:
        for chunk in chunks:
            yield chunk, _number(encoder, chunk)
        return
    with ProcessPoolExecutor(
        n_workers, get_context("spawn"), initializer=_start_worker, initargs=(encoder,)
    ) as pool:
        waiting: deque[tuple[Chunk, Future[Parts]]] = deque()
        try:
            for chunk in chunks:
                waiting.append((chunk, pool.submit(_number_here, chunk)))
                if len(waiting) >= 4 * n_workers:  # bounds memory, and keeps all of them busy
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


_here: Encoder | None = None  # of this worker process


def _start_worker(encoder: Encoder) -> None:
    global _here
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a worker
    _here = encoder


def _number_here(chunk: Chunk) -> Parts:
    assert _here is not None
    return _number(_here, chunk)


def _number(encoder: Encoder, chunk: Chunk) -> Parts:
    train = encoder.encode(chunk.train, count_bytes=False) if chunk.train else None
    held = encoder.encode(chunk.held, count_bytes=True) if chunk.held else None
    return train, held


def count_cores() -> int:
    """Cores that this process may use: a job may be given fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
