"""Prepared tokens on disk: two memory-mapped shards and a manifest that says where they came from.

    <folder>/{train.bin, validation.bin, manifest.json}

A shard is a stream of one-byte tokens in which every stretch of text ends with the end-of-document
token.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweep.documents import DataError

MANIFEST_SCHEMA = 1
SHARDS = ("train", "validation")

_REBUILD = "rebuild it with isoflop prepare"


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
    for name, facts in manifest["shards"].items():
        path = folder / f"{name}.bin"
        if not path.is_file() or path.stat().st_size != facts["tokens"]:
            raise DataError(f"{folder}: shard {path.name} is cut short: {_REBUILD}")
        if verify and sha256_of(path) != facts["sha256"]:
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


def seal(manifest: dict[str, Any]) -> str:
    """sha256 (hex) of a manifest without its seal: tells a damaged or edited one."""
    rest = {k: v for k, v in manifest.items() if k != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


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
    if seal(manifest) != manifest.get("seal"):
        raise DataError(f"{path} was changed since it was written: {_REBUILD}")
    return manifest
