"""Prepared tokens on disk: two memory-mapped shards and a manifest that says where they came from.

    <folder>/{train.bin, validation.bin, manifest.json}     and, of a set to judge on, no train.bin
    <folder>/validation_bytes.bin                           where a token is no single byte

A shard is a stream of tokens (uint8, uint16 or uint32, by the vocabulary) in which every stretch of
text ends with the end-of-document token. validation_bytes holds the bytes of text that each token
of validation.bin stands for.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweep.documents import DataError
from sweep.stamps import file_sha256

MANIFEST_SCHEMA = 1
SHARDS = ("train", "validation")

_REBUILD = "rebuild it with isoflop prepare"


@dataclass(frozen=True)
class Tokens:
    """Tokenised text, memory-mapped: opening it reads no token."""

    train: np.ndarray  # 1-D memory map; empty of a set to judge on
    validation: np.ndarray  # 1-D memory map
    vocab_size: int
    eod: int  # end-of-document token
    sha256: str  # of both shards: the data hash of records
    manifest: dict[str, Any]
    validation_bytes: np.ndarray | None = None  # bytes of each validation token; None: one each

    @property
    def largest_id(self) -> int:
        """Largest token in the shards, or that they may hold."""
        return int(self.manifest.get("largest_id", self.vocab_size - 1))

    def bytes_of(self, targets: np.ndarray) -> int:
        """Bytes of text that byte tokens stand for, before any byte was mapped to `other`.

        End-of-document stands for none, every other token for one byte. Loss in nats summed over
        all targets / (ln 2 x bytes_of(targets)) is bits per byte.
        """
        return int(np.count_nonzero(np.asarray(targets) != self.eod))


def open_tokens(folder: Path, verify: bool = False) -> Tokens:
    """Map the shards of a prepared folder.

    Args:
        folder: what prepare returned.
        verify: compare checksums, each taken once on this node; else only sizes are compared.

    Raises:
        DataError: not prepared, made by another version of this code, or damaged.
    """
    manifest = read_sealed(folder / "manifest.json")
    shards = {}
    for name, facts in manifest["shards"].items():
        path = folder / f"{name}.bin"
        dtype = np.dtype(facts.get("dtype", manifest["dtype"]))
        if not path.is_file() or path.stat().st_size != facts["tokens"] * dtype.itemsize:
            raise DataError(f"{folder}: shard {path.name} is cut short: {_REBUILD}")
        if verify:
            _check_sum(path, facts["sha256"])
        shards[name] = np.memmap(path, dtype=dtype, mode="r")
    nothing = np.empty(0, dtype=manifest["dtype"])
    return Tokens(
        train=shards.get("train", nothing),
        validation=shards["validation"],
        vocab_size=manifest["vocab_size"],
        eod=manifest["eod"],
        sha256=manifest["sha256"],
        manifest=manifest,
        validation_bytes=shards.get("validation_bytes"),
    )


def _check_sum(path: Path, expected: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as e:
        raise DataError(
            f"{path.parent}: can't check shard {path.name} ({e.filename}: {e.strerror}); checksums "
            "are kept in the folder that TMPDIR names"
        ) from None
    if found != expected:
        raise DataError(f"{path.parent}: shard {path.name} does not match its checksum: {_REBUILD}")


def is_whole(folder: Path, say: Callable[[str], None] | None = None) -> bool:
    """Whether a prepared folder is there and its checksums are right; `say` takes what is wrong."""
    if not folder.exists():
        return False
    try:
        open_tokens(folder, verify=True)
    except DataError as e:
        if say:
            say(f"building again: {e}")
        return False
    return True


def seal(manifest: dict[str, Any]) -> str:
    """sha256 (hex) of a manifest without its seal: tells a damaged or edited one."""
    rest = {k: v for k, v in manifest.items() if k != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_sealed(manifest: dict[str, Any], path: Path) -> None:
    """Write a manifest with its seal, and have it on disk before returning."""
    with path.open("w") as f:
        sealed = {**manifest, "seal": seal(manifest)}
        json.dump(sealed, f, indent=1, sort_keys=True, allow_nan=False)
        f.flush()
        os.fsync(f.fileno())


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a manifest or index.

    Raises:
        DataError: not there, damaged, edited, or of another version.
    """
    if not path.is_file():
        raise DataError(f"{path.parent} has no prepared data: type isoflop prepare first")
    try:
        manifest = json.loads(path.read_text())
    except ValueError:
        raise DataError(f"{path} is damaged: {_REBUILD}") from None
    found = manifest.get("schema") if isinstance(manifest, dict) else None
    if found != MANIFEST_SCHEMA:
        raise DataError(f"{path} has schema {found}, this code reads {MANIFEST_SCHEMA}: {_REBUILD}")
    if seal(manifest) != manifest.get("seal"):
        raise DataError(f"{path} was changed since it was written: {_REBUILD}")
    return manifest
