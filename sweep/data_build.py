"""Tokenise a set of documents into shards: by many processes, with the same bytes from any number.

    <cache>/<name>-<hash of spec>/       shards and manifest; appears only when whole
    <cache>/.part-<name>-<hash>/         a build on its way, and how far it is

One process reads documents, cuts them and hands out chunks; workers number the words; the reader
writes what comes back in the order in which it was handed out. A killed build goes on from its last
note of progress.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from sweep import split
from sweep.data_documents import documents, fingerprint, revision_of, size_of
from sweep.data_encode import Chunk, Parts, count_cores, encode_chunks
from sweep.data_settings import TextSet
from sweep.data_tokenizer import Encoder, TokenizerId
from sweep.documents import DataError
from sweep.shards import MANIFEST_SCHEMA, SHARDS, is_whole, write_sealed
from sweep.stamps import read_sha256
from sweep.tokens import one_builder

_CHUNK_BYTES = 1 << 20
_NOTE_SECONDS = 5.0
_SMALL = 16 << 20  # bytes of text for which starting processes costs more than it saves
_COUNTED = ("documents", "empty", "binary")
_FILES = (*SHARDS, "validation_bytes")


@dataclass(frozen=True)
class Stream:
    """Documents, and the share of their bytes that validation gets."""

    text: TextSet
    held_out: float  # 0: all for training; 1: all to judge on


@dataclass(frozen=True)
class BuildSpec:
    """What to tokenise and how."""

    name: str
    streams: tuple[Stream, ...]
    tokenizer: str  # what tells its tokenizer from others

    @property
    def folder_name(self) -> str:
        """Name of its folder in a cache: the same for the same files, splits and tokenizer."""
        asked = {
            "streams": [{**fingerprint(s.text), "held_out": s.held_out} for s in self.streams],
            "tokenizer": self.tokenizer,
            "schema": MANIFEST_SCHEMA,
        }
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"

    @property
    def trains(self) -> bool:
        """Whether any of it is training text."""
        return any(s.held_out < 1 for s in self.streams)


@dataclass
class _Progress:
    """How far a build is: what a new process needs to go on."""

    commits: list[str]  # of each stream
    stream: int = 0
    documents: int = 0  # read of that stream
    size: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FILES, 0))  # of files
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    text: dict[str, int] = field(default_factory=lambda: {"train": 0, "validation": 0})
    stretches: dict[str, int] = field(default_factory=lambda: {"train": 0, "validation": 0})
    largest_id: int = 0
    read_bytes: int = 0


def build(
    spec: BuildSpec,
    load: Callable[[], Encoder],
    cache: Path,
    say: Callable[[str], None],
    workers: int | None = None,
) -> Path:
    """Have the shards of a spec in the cache.

    Any number of processes may call it at once: one builds, the others wait. The shards are the
    same bytes whatever the number of workers, and however often the build was killed.

    Args:
        spec: what to tokenise.
        load: loads the tokenizer that the spec names; called only where something is to be built.
        cache: folder for prepared data; made if missing.
        say: takes a line for a person.
        workers: processes that tokenise; None: one a core, or this one alone for a small text.

    Raises:
        DataError: text that can't be read, too little of it, or a cache that can't be written.
    """
    folder = cache / spec.folder_name
    if is_whole(folder):
        return folder
    try:
        with one_builder(cache, f".{folder.name}.lock", say):
            if not is_whole(folder, say):
                _build(spec, load(), folder, say, workers)
    except OSError as e:
        where = e.filename or cache
        raise DataError(f"can't write prepared data: {e.strerror} ({where})") from None
    return folder


def _build(
    spec: BuildSpec, encoder: Encoder, folder: Path, say: Callable, workers: int | None
) -> None:
    part = folder.with_name(f".part-{folder.name}")
    progress = _resume(spec, part, say)
    sizes = [size_of(s.text) for s in spec.streams]
    total = None if None in sizes else sum(sizes)
    n_workers = workers or (1 if total is not None and total < _SMALL else count_cores())
    say(f"tokenising {spec.name} with {encoder.id.name}, {n_workers} at once, into {folder}")
    with _files(part, progress) as files, _bar(spec.name, total) as tell:
        noted = time.monotonic()
        for chunk, got in encode_chunks(encoder, chunks(spec, progress, total), n_workers):
            _write(files, encoder.id.dtype, progress, chunk, got)
            tell(progress.read_bytes)
            if time.monotonic() - noted > _NOTE_SECONDS:
                _note(part, files, progress)
                noted = time.monotonic()
        _note(part, files, progress)
    _finish(spec, encoder.id, part, folder, progress)
    say(_summary(spec.name, progress, np.dtype(encoder.id.dtype).itemsize))


def _summary(name: str, progress: _Progress, width: int) -> str:
    counts = progress.counts
    left_out = "".join(f", {counts[k]:,} {k} left out" for k in ("empty", "binary") if counts[k])
    train, held = (progress.size[shard] // width for shard in SHARDS)
    return (
        f"prepared {name}: {counts['documents']:,} documents, {train:,} training and "
        f"{held:,} validation tokens{left_out}"
    )


def chunks(spec: BuildSpec, progress: _Progress, total: int | None) -> Iterator[Chunk]:
    """Cut documents and gather about a megabyte of them at a time."""
    first, skip = progress.stream, progress.documents  # progress moves on while this is read
    for k in range(first, len(spec.streams)):
        stream = spec.streams[k]
        longest = split.BLOCK_BYTES
        if total is not None and 0 < stream.held_out < 1:
            longest = split.block_bytes(total, stream.held_out)
        empty = Chunk([], [], k, skip if k == first else 0, dict.fromkeys(_COUNTED, 0), 0)
        yield from _chunks_of(stream, progress.commits[k], longest, empty)


def _chunks_of(stream: Stream, commit: str, longest: int, start: Chunk) -> Iterator[Chunk]:
    train, held, counts = [], [], dict.fromkeys(_COUNTED, 0)
    n_bytes, done = 0, start.documents
    for text in documents(stream.text, commit, skip=start.documents):
        done += 1
        n_bytes += len(text)
        kind = "empty" if not text else "binary" if b"\0" in text else "documents"
        counts[kind] += 1
        if kind == "documents":
            for s in split.hold_out(text, stream.held_out, longest):
                (held if s.validation else train).append(text[s.start : s.end])
        if n_bytes >= _CHUNK_BYTES:
            yield Chunk(train, held, start.stream, done, counts, n_bytes)
            train, held, counts, n_bytes = [], [], dict.fromkeys(_COUNTED, 0), 0
    # The last one also moves the mark to the next stream.
    yield Chunk(train, held, start.stream + 1, 0, counts, n_bytes)


def _write(
    files: dict[str, BinaryIO], dtype: str, progress: _Progress, chunk: Chunk, got: Parts
) -> None:
    for name, texts, encoded in zip(SHARDS, (chunk.train, chunk.held), got, strict=True):
        if encoded is None:
            continue
        progress.size[name] += files[name].write(encoded.ids.astype(dtype).tobytes())
        progress.text[name] += sum(map(len, texts))
        progress.stretches[name] += len(texts)
        progress.largest_id = max(progress.largest_id, int(encoded.ids.max()))
        if encoded.n_bytes is not None:
            raw = encoded.n_bytes.astype(np.uint32).tobytes()
            progress.size["validation_bytes"] += files["validation_bytes"].write(raw)
    progress.stream, progress.documents = chunk.stream, chunk.documents
    progress.read_bytes += chunk.n_bytes
    for kind, n in chunk.counts.items():
        progress.counts[kind] += n


def _resume(spec: BuildSpec, part: Path, say: Callable[[str], None]) -> _Progress:
    """Take up a build where its last note left it, or begin one."""
    note = part / "progress.json"
    commits = [revision_of(s.text) for s in spec.streams]
    if note.is_file():
        progress = _Progress(**json.loads(note.read_text()))
        if progress.commits == commits:
            say(f"going on with {spec.name} after {progress.read_bytes / 1e6:,.0f} MB")
            return progress
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return _Progress(commits)


def _note(part: Path, files: dict[str, BinaryIO], progress: _Progress) -> None:
    """Have what was written on disk, then say so."""
    for f in files.values():
        f.flush()
        os.fsync(f.fileno())
    new = part / "progress.new"
    new.write_text(json.dumps(asdict(progress)))
    new.replace(part / "progress.json")


@contextmanager
def _files(part: Path, progress: _Progress) -> Iterator[dict[str, BinaryIO]]:
    """Open the shards at their noted ends; what was written after the note is cut off."""
    files = {name: (part / f"{name}.bin").open("ab") for name in _FILES}
    try:
        for name, f in files.items():
            f.truncate(progress.size[name])
        yield files
    finally:
        for f in files.values():
            f.close()


def _finish(
    spec: BuildSpec, tokenizer: TokenizerId, part: Path, folder: Path, progress: _Progress
) -> None:
    """Check, describe and put in place."""
    if not progress.size["validation"] or (spec.trains and not progress.size["train"]):
        shutil.rmtree(part)
        raise DataError(
            f"{spec.name} has {sum(progress.text.values()):,} bytes of text in "
            f"{progress.counts['documents']:,} documents, too little for what is asked of it: give "
            "it more text (100 kB at least), or another data.validation_share"
        )
    if not spec.trains:
        (part / "train.bin").unlink()
    (part / "progress.json").unlink()
    write_sealed(_manifest(spec, tokenizer, part, progress), part / "manifest.json")
    if folder.exists():  # damaged; who has mapped its shards keeps them
        damaged = folder.with_name(f".damaged-{folder.name}")
        folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    part.rename(folder)


def _manifest(
    spec: BuildSpec, tokenizer: TokenizerId, part: Path, progress: _Progress
) -> dict[str, Any]:
    shards = {}
    for name in _FILES if spec.trains else _FILES[1:]:
        dtype = "uint32" if name == "validation_bytes" else tokenizer.dtype
        shards[name] = {
            "tokens": progress.size[name] // np.dtype(dtype).itemsize,
            "dtype": dtype,
            "sha256": read_sha256(part / f"{name}.bin"),
        }
        if name in progress.text:
            shards[name]["bytes"] = progress.text[name]
            shards[name]["stretches"] = progress.stretches[name]
    hashes = "".join(shards[n]["sha256"] for n in ("train", "validation") if n in shards)
    return {
        "schema": MANIFEST_SCHEMA,
        "sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "dtype": tokenizer.dtype,
        "vocab_size": tokenizer.vocab_size,
        "eod": tokenizer.eod,
        "largest_id": progress.largest_id,
        "tokenizer": asdict(tokenizer),
        "streams": [
            {**asdict(s.text), "held_out": s.held_out, "commit": commit}
            for s, commit in zip(spec.streams, progress.commits, strict=True)
        ],
        "counts": progress.counts,
        "shards": shards,
    }


@contextmanager
def _bar(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far the reading is, on a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"tokenising {name}", total=total)
        yield lambda done: bar.update(task, completed=done)
