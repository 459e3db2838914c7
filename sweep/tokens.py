"""Text to tokens, once: two memory-mapped shards and a manifest that says where they came from.

    <cache>/<name>-<hash of spec>/{train.bin, validation.bin, manifest.json}
    <cache>/sources/                 what pip fetched, so that a rebuild needs no network

A shard is a stream of one-byte tokens in which every stretch of text ends with the end-of-document
token. The folder appears under its name only when it is whole.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sweep import corpus, split
from sweep.documents import DataError, Source, folder_revision, text_folder

__all__ = ["DataError", "DataSpec", "Tokens", "open_tokens", "prepare", "revision_of"]

MANIFEST_SCHEMA = 1
NAMES = ("english", "text_folder")
VOCABULARY = {"bytes256": 256, "bytes128": 128}
SHARDS = ("train", "validation")

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


@dataclass(frozen=True)
class Tokens:
    """Tokenised text, memory-mapped: opening it reads no token."""

    train: np.ndarray  # 1-D uint8 memory map
    validation: np.ndarray  # 1-D uint8 memory map
    vocab_size: int
    eod: int  # end-of-document token
    sha256: str  # of both shards: the data hash of records
    manifest: dict[str, Any]

    def bytes_of(self, targets: np.ndarray) -> int:
        """Bytes of text that target tokens stand for, before any byte was mapped to `other`.

        End-of-document stands for none, every other token for one byte. Loss in nats summed over
        all targets / (ln 2 x bytes_of(targets)) is bits per byte.
        """
        return int(np.count_nonzero(np.asarray(targets) != self.eod))


def revision_of(name: str, path: str | None = None) -> str:
    """Revision of a text: pinned for english, from every file's content for text_folder.

    Raises:
        DataError: the folder can't be read or is empty.
    """
    if name == "english":
        return corpus.ENGLISH_SHA256[:16]
    return folder_revision(Path(path or "").expanduser())[:16]


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
    if _is_whole(folder):
        return folder
    try:
        with _lock(cache, say):
            if not _is_whole(folder, say):
                _build(spec, cache, folder, say)
    except OSError as e:
        raise DataError(f"can't write prepared data in {cache} ({e.strerror}: {e.filename})") from e
    return folder


def open_tokens(folder: Path, verify: bool = False) -> Tokens:
    """Map the shards of a prepared folder.

    Args:
        folder: what prepare returned.
        verify: read every byte and compare checksums; else only sizes are compared.

    Raises:
        DataError: not prepared, made by another version of this code, or damaged.
    """
    manifest = _read_manifest(folder)
    shards = {}
    for name in SHARDS:
        path, facts = folder / f"{name}.bin", manifest["shards"][name]
        if not path.is_file() or path.stat().st_size != facts["tokens"]:
            raise DataError(f"{folder}: shard {path.name} is cut short: {_REBUILD}")
        if verify and _sha256(path) != facts["sha256"]:
            raise DataError(f"{folder}: shard {path.name} does not match its checksum: {_REBUILD}")
        shards[name] = np.memmap(path, dtype=np.uint8, mode="r")
    return Tokens(
        train=shards["train"],
        validation=shards["validation"],
        vocab_size=manifest["vocab_size"],
        eod=manifest["eod"],
        sha256=manifest["sha256"],
        manifest=manifest,
    )


_REBUILD = "rebuild it with isoflop prepare"


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
    for leftover in cache.glob(".build-*"):  # ours alone: the lock is held
        shutil.rmtree(leftover)
    part = cache / f".build-{folder.name}"
    part.mkdir()
    source = _source(spec, cache, say)
    say(f"tokenising data={spec.name} ({source.size / 1e6:.1f} MB) into {folder}")
    counts, source_sha256 = _write_text(spec, source, part)
    repeated = _check_split(spec, source, part)
    table = vocabulary(spec.tokenizer, counts["train"])
    for name in SHARDS:
        _map_bytes(part / f"{name}.bin", table)
    manifest = _manifest(spec, source, counts, table, part)
    manifest["source"]["sha256"] = source_sha256
    manifest["validation_windows_in_training"] = repeated
    with (part / "manifest.json").open("w") as f:
        json.dump(manifest, f, indent=1, sort_keys=True, allow_nan=False)
        _sync(f)
    if folder.exists():  # damaged: readers of its shards keep their open files
        folder.rename(cache / f".build-damaged-{os.getpid()}")
    part.rename(folder)
    say(_summary(manifest))


def _source(spec: DataSpec, cache: Path, say: Callable[[str], None]) -> Source:
    if spec.name == "text_folder":
        return text_folder(Path(spec.path or "").expanduser(), spec.revision)
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


def _check_split(spec: DataSpec, source: Source, part: Path) -> float:
    sizes = {name: (part / f"{name}.bin").stat().st_size for name in SHARDS}
    if not all(sizes.values()):
        empty = next(name for name in SHARDS if not sizes[name])
        raise DataError(
            f"data={spec.name} has {source.size} bytes, and {empty} gets none of them at "
            f"data.validation_share={spec.validation_share}: give it more text"
        )
    train, held = (np.memmap(part / f"{name}.bin", dtype=np.uint8, mode="r") for name in SHARDS)
    repeated = split.repeated_share(train, held)
    return 0.0 if np.isnan(repeated) else repeated


def _manifest(
    spec: DataSpec, source: Source, counts: dict[str, np.ndarray], table: np.ndarray, part: Path
) -> dict[str, Any]:
    shards = {}
    for name in SHARDS:
        other = (
            int(counts[name][1:][table[1:] == _KEPT].sum()) if spec.tokenizer == "bytes128" else 0
        )
        text = int(counts[name][1:].sum())
        shards[name] = {
            "tokens": int(counts[name].sum()),
            "bytes": text,
            "stretches": int(counts[name][0]),
            "other_share": other / text,
            "sha256": _sha256(part / f"{name}.bin"),
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
        "source": {"licence": source.licence, "counts": dict(source.counts)},
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }


def _summary(manifest: dict[str, Any]) -> str:
    train, held = (manifest["shards"][name]["tokens"] for name in SHARDS)
    left_out = {k: v for k, v in manifest["source"]["counts"].items() if k != "documents" and v}
    skipped = (
        f"; left out: {', '.join(f'{v} {k}' for k, v in left_out.items())}" if left_out else ""
    )
    return (
        f"prepared {manifest['source']['counts']['documents']} documents: {train:,} training and "
        f"{held:,} validation tokens; {manifest['validation_windows_in_training']:.2%} of "
        f"validation's 64-byte windows are in training too{skipped}"
    )


def _map_bytes(path: Path, table: np.ndarray) -> None:
    shard = np.memmap(path, dtype=np.uint8, mode="r+")
    for start in range(0, len(shard), _CHUNK):
        shard[start : start + _CHUNK] = table[shard[start : start + _CHUNK]]
    shard.flush()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError(f"{folder} has no prepared data: type isoflop prepare first")
    try:
        manifest = json.loads(path.read_text())
    except ValueError:
        raise DataError(f"{path} is damaged: {_REBUILD}") from None
    found = manifest.get("schema") if isinstance(manifest, dict) else None
    if found != MANIFEST_SCHEMA:
        raise DataError(f"{path} has schema {found}, this code reads {MANIFEST_SCHEMA}: {_REBUILD}")
    return manifest


def _is_whole(folder: Path, say: Callable[[str], None] | None = None) -> bool:
    if not folder.exists():
        return False
    try:
        open_tokens(folder, verify=True)
    except DataError as e:
        if say:
            say(f"building again: {e}")
        return False
    return True


@contextmanager
def _lock(cache: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One builder per cache. The system lets go of the lock of a process that is killed."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "prepare.lock").open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another prepare in {cache}")
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(f: BinaryIO | Any) -> None:
    f.flush()
    os.fsync(f.fileno())
