"""Text to tokens, once: fetch or read, split, number, and write shards that training maps.

<cache>/<name>-<hash of spec>/   shards and manifest (sweep/shards.py); appears only when whole
<cache>/sources/                 what pip fetched, so that a rebuild needs no network
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sweep import corpus, split
from sweep.documents import DataError, Source, expand, folder_revision, text_folder
from sweep.shards import MANIFEST_SCHEMA, SHARDS, Tokens, is_whole, open_tokens, write_sealed
from sweep.stamps import read_sha256

__all__ = ["DataError", "DataSpec", "Tokens", "open_tokens", "prepare", "revision_of"]

NAMES = ("english", "text_folder")
VOCABULARY = {"bytes256": 256, "bytes128": 128}

_KEPT = 126  # bytes128: the commonest bytes; then other, then end of document
_CHUNK = 1 << 24


@dataclass(frozen=True)
class DataSpec:
    """What to tokenise and how. Two specs that differ only in `path` are the same data.

    Raises:
        DataError: a value outside its range.
    """

    name: str  # english | text_folder
    revision: str  # of the text: revision_of(name, path)
    tokenizer: str  # bytes256 | bytes128
    path: str | None = None  # text_folder: the folder
    validation_share: float = 0.06  # of the text's bytes

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise DataError(f"data.name={self.name}: one of {', '.join(NAMES)}")
        if self.tokenizer not in VOCABULARY:
            raise DataError(f"data.tokenizer={self.tokenizer}: one of {', '.join(VOCABULARY)}")
        if not 0 < self.validation_share < 1:
            raise DataError(f"data.validation_share={self.validation_share}: between 0 and 1")
        if (self.name == "text_folder") != (self.path is not None):
            raise DataError("data.path=FOLDER goes with data=text_folder, and only with it")

    @property
    def folder_name(self) -> str:
        """Name of its folder in a cache, the same on every machine."""
        asked = {k: v for k, v in asdict(self).items() if k != "path"}
        text = json.dumps({**asked, "schema": MANIFEST_SCHEMA}, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def revision_of(name: str, path: str | None = None) -> str:
    """Revision of a text: pinned for english, from every file's content for text_folder.

    Raises:
        DataError: the folder can't be read or is empty.
    """
    if name == "english":
        return corpus.ENGLISH_REVISION
    return folder_revision(expand(path or ""))


def prepare(spec: DataSpec, cache: Path, say: Callable[[str], None] = print) -> Path:
    """Have the tokens of a spec in the cache; build them if they are missing or damaged.

    Any number of processes may call it at once: one builds, the others wait. Killed at any
    moment, it leaves nothing under the final name.

    Args:
        spec: what to tokenise.
        cache: folder for prepared data; made if missing.
        say: takes a line for a person.

    Returns:
        The folder for open_tokens.

    Raises:
        DataError: text that can't be fetched, read or split, or a cache that can't be written.
    """
    folder = cache / spec.folder_name
    if is_whole(folder):
        return folder
    try:
        with one_builder(cache, "prepare.lock", say):
            if not is_whole(folder, say):
                try:
                    _build(spec, cache, folder, say)
                finally:
                    _clear_leftovers(cache)
    except OSError as e:
        where = e.filename or cache
        raise DataError(f"can't write prepared data: {e.strerror} ({where})") from None
    return folder


def vocabulary(tokenizer: str, byte_counts: np.ndarray) -> np.ndarray:
    """Token of each byte, (256,) uint8; byte 0 stands for end of document.

    bytes256: the byte itself. bytes128: the 126 commonest of bytes 1..255 in the training text
    are 0..125 (equally common ones by value), 126 is every other byte, 127 end of document.

    Args:
        tokenizer: bytes256 | bytes128.
        byte_counts: (256,), of the training text.
    """
    if tokenizer == "bytes256":
        return np.arange(256, dtype=np.uint8)
    table = np.full(256, _KEPT, dtype=np.uint8)
    commonest = 1 + np.argsort(-byte_counts[1:], kind="stable")[:_KEPT]
    table[commonest] = np.arange(_KEPT)
    table[0] = _KEPT + 1
    return table


def _build(spec: DataSpec, cache: Path, folder: Path, say: Callable[[str], None]) -> None:
    _clear_leftovers(cache)
    part = cache / f".build-{uuid.uuid4().hex}"
    part.mkdir()
    source = _source(spec, cache, say)
    say(f"tokenising data={spec.name} ({source.size / 1e6:.1f} MB) into {folder}")
    counts, text_sha256 = _write_text(spec, source, part)
    repeated = _check_split(spec, part)
    table = vocabulary(spec.tokenizer, counts["train"])
    for name in SHARDS:
        _map_bytes(part / f"{name}.bin", table)
    manifest = {
        **_describe(spec, counts, table, part),
        "source": {
            "sha256": text_sha256,  # of the documents, each with a NUL after it
            "licence": source.licence,
            "counts": dict(source.counts),
        },
        "validation_windows_in_training": repeated,
    }
    write_sealed(manifest, part / "manifest.json")
    if folder.exists():  # damaged; who has mapped its shards keeps them
        folder.rename(part.with_name(f"{part.name}-damaged"))
    part.rename(folder)
    say(_summary(manifest))


def _clear_leftovers(cache: Path) -> None:
    for leftover in cache.glob(".build-*"):  # nobody else's: the lock is held
        shutil.rmtree(leftover, ignore_errors=True)


def _source(spec: DataSpec, cache: Path, say: Callable[[str], None]) -> Source:
    if spec.name == "text_folder":
        return text_folder(expand(spec.path or ""), spec.revision)
    if spec.revision != revision_of("english"):
        raise DataError(
            f"data=english has revision {revision_of('english')} here, not {spec.revision}: "
            "use the commit that the sweep was planned with"
        )
    return corpus.english(cache / "sources", say)


def _write_text(spec: DataSpec, source: Source, part: Path) -> tuple[dict[str, np.ndarray], str]:
    """Split documents into two raw byte streams; returns byte counts (256,) of each, and a hash."""
    counts = {name: np.zeros(256, dtype=np.int64) for name in SHARDS}
    longest = split.block_bytes(source.size, spec.validation_share)
    whole, owed = hashlib.sha256(), 0.0
    with (part / "train.bin").open("wb") as train, (part / "validation.bin").open("wb") as held:
        for text in source.documents:
            whole.update(text + b"\0")
            stretches, owed = split.split_document(text, spec.validation_share, owed, longest)
            for s in stretches:
                name, f = ("validation", held) if s.validation else ("train", train)
                stretch = text[s.start : s.end] + b"\0"
                f.write(stretch)
                counts[name] += np.bincount(np.frombuffer(stretch, np.uint8), minlength=256)
        _sync(train)
        _sync(held)
    return counts, whole.hexdigest()


def _check_split(spec: DataSpec, part: Path) -> float | None:
    files = [part / f"{name}.bin" for name in SHARDS]
    sizes = [f.stat().st_size for f in files]
    if not all(sizes):
        raise DataError(
            f"data={spec.name} has {sum(sizes)} bytes of text, too little to cut in training and "
            f"validation at data.validation_share={spec.validation_share}: "
            "give it more text (100 kB at least), or another share"
        )
    train, held = (np.memmap(f, dtype=np.uint8, mode="r") for f in files)
    repeated = split.repeated_share(train, held)
    return None if np.isnan(repeated) else repeated


def _describe(
    spec: DataSpec, counts: dict[str, np.ndarray], table: np.ndarray, part: Path
) -> dict[str, Any]:
    mapped = (table == _KEPT) & (spec.tokenizer == "bytes128")
    shards = {}
    for name in SHARDS:
        text = int(counts[name][1:].sum())
        shards[name] = {
            "tokens": int(counts[name].sum()),
            "bytes": text,
            "stretches": int(counts[name][0]),
            "other_share": int(counts[name][mapped].sum()) / text,
            "sha256": read_sha256(part / f"{name}.bin"),
        }
    both = "".join(shards[name]["sha256"] for name in SHARDS)
    return {
        "schema": MANIFEST_SCHEMA,
        "spec": asdict(spec),
        "sha256": hashlib.sha256(both.encode()).hexdigest(),
        "dtype": "uint8",
        "vocab_size": VOCABULARY[spec.tokenizer],
        "eod": int(table[0]),
        "token_of_byte": table.tolist(),
        "shards": shards,
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }


def _summary(manifest: dict[str, Any]) -> str:
    counts = dict(manifest["source"]["counts"])
    train, held = (manifest["shards"][name]["tokens"] for name in SHARDS)
    parts = [
        f"prepared {counts.pop('documents')} documents: "
        f"{train:,} training and {held:,} validation tokens"
    ]
    repeated = manifest["validation_windows_in_training"]
    if repeated is not None:
        parts.append(f"{repeated:.2%} of validation's 64-byte windows are in training too")
    if any(counts.values()):
        left_out = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        parts.append(f"files left out: {left_out}")
    return "; ".join(parts)


def _map_bytes(path: Path, table: np.ndarray) -> None:
    shard = np.memmap(path, dtype=np.uint8, mode="r+")
    for start in range(0, len(shard), _CHUNK):
        shard[start : start + _CHUNK] = table[shard[start : start + _CHUNK]]
    shard.flush()


@contextmanager
def one_builder(cache: Path, lock: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock file of a cache. The system lets go of the lock of a process that is killed."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / lock).open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another prepare in {cache}")
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _sync(f: BinaryIO | Any) -> None:
    f.flush()
    os.fsync(f.fileno())
