"""Tokenizers: which one it is, told from its files alone, and encoding that any process can do.

A name is bytes256, bytes128, a folder with a tokenizer.json, or a tokenizer of the hub. Telling
what it is needs neither transformers nor torch, so a plan stays light. Encoding is what
transformers' fast tokenizer does: its pipeline is taken from transformers once and handed as text
to the processes that tokenise, which need the `tokenizers` library only.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sweep.data_settings import BYTES
from sweep.documents import DataError, expand, first_line, missing_package

_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")
_WIDTHS = (np.uint8, np.uint16, np.uint32)


@dataclass(frozen=True, kw_only=True)
class TokenizerId:
    """Which tokenizer, so that two machines agree on it."""

    name: str  # as in cell ids and records: a folder is its last name and a hash
    revision: str | None  # commit, where it came from the hub
    vocab_size: int  # largest id + 1
    eod: int  # id that ends a document
    sha256: str  # of its files; of bytes128, of its table

    @property
    def dtype(self) -> str:
        """Narrowest of uint8, uint16 and uint32 that holds every id."""
        return next(np.dtype(w).name for w in _WIDTHS if self.vocab_size - 1 <= np.iinfo(w).max)


@dataclass(frozen=True)
class Encoded:
    """Tokens of some texts, end to end, each text ended by the end-of-document token."""

    ids: np.ndarray  # (n,) int64
    n_bytes: np.ndarray | None  # (n,) bytes of text each token stands for; ends stand for none


@dataclass(frozen=True)
class ByteEncoder:
    """A token is a byte, by a table."""

    id: TokenizerId
    table: tuple[int, ...]  # (256,); byte 0 is the end of a document

    def encode(self, texts: Sequence[bytes], count_bytes: bool) -> Encoded:
        """Encode texts that hold no byte 0."""
        joined = np.frombuffer(b"".join(text + b"\0" for text in texts), np.uint8)
        n_bytes = (joined != 0).astype(np.int64) if count_bytes else None
        return Encoded(np.array(self.table)[joined], n_bytes)


@dataclass(frozen=True)
class FastEncoder:
    """A fast tokenizer of transformers, as its serialised pipeline."""

    id: TokenizerId
    pipeline: str = field(repr=False)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.pipeline)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        """Leave the live tokenizer behind: another process makes its own."""
        return {"id": self.id, "pipeline": self.pipeline}

    def encode(self, texts: Sequence[bytes], count_bytes: bool) -> Encoded:
        """Encode texts; bytes that are no UTF-8 are read as U+FFFD."""
        decoded = [text.decode("utf-8", errors="replace") for text in texts]
        batch = self._tokenizer.encode_batch(decoded, add_special_tokens=False)
        ids = [np.array([*e.ids, self.id.eod], dtype=np.int64) for e in batch]
        n_bytes = None
        if count_bytes:
            parts = zip(batch, decoded, texts, strict=True)
            n_bytes = np.concatenate([_bytes_of_tokens(e.offsets, d, len(t)) for e, d, t in parts])
        return Encoded(np.concatenate(ids), n_bytes)


Encoder = ByteEncoder | FastEncoder


def identify(name: str, revision: str | None, cache: Path) -> TokenizerId:
    """Say which tokenizer a name stands for, from its files; loads no library that trains.

    Args:
        name: bytes256, a folder, or a name of the hub (bytes128 has a table of its own for each
            text: byte_id).
        revision: of the hub; None: main.
        cache: folder of prepared data; a tokenizer of the hub that prepare saw once is known there.

    Raises:
        DataError: no such tokenizer, or one that can't be used; says what to do.
    """
    if name == "bytes256":
        return byte_id(name, tuple(range(256)))
    folder = expand(name)
    if folder.is_dir():
        if revision is not None:
            raise DataError(
                f"data.tokenizer_revision is not read with a folder ({name}): leave it out"
            )
        digest = _files_sha256(folder)
        return _read_id(folder, f"{folder.resolve().name}-{digest[:8]}", None)
    if _looks_like_path(name):
        raise DataError(f"data.tokenizer={name} is no folder: name one with a tokenizer.json in it")
    kept = _kept(cache, name, revision)
    if kept.is_file():
        return TokenizerId(**json.loads(kept.read_text()))
    snapshot = _snapshot(name, revision)
    return _read_id(snapshot, name, snapshot.name)


def byte_id(name: str, table: Sequence[int]) -> TokenizerId:
    """Identity of a byte tokenizer with a table (256,)."""
    sha256 = hashlib.sha256(json.dumps(list(table)).encode()).hexdigest()
    vocab_size = 256 if name == "bytes256" else 128
    return TokenizerId(name=name, revision=None, vocab_size=vocab_size, eod=table[0], sha256=sha256)


def load_encoder(name: str, revision: str | None, cache: Path) -> Encoder:
    """Load the tokenizer of a name; one of the hub is known offline from then on.

    Raises:
        DataError: as identify; or transformers reads it otherwise than its files say.
    """
    found = identify(name, revision, cache)
    if name in BYTES:
        return ByteEncoder(found, tuple(range(256)))
    folder = expand(name)
    if not folder.is_dir():
        folder = _snapshot(name, found.revision)
    loaded = _from_transformers(name, folder)
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise DataError(f"data.tokenizer={name} has no fast form in transformers: {_SAVE_FAST}")
    largest = max(backend.get_vocab(with_added_tokens=True).values())
    if (largest + 1, loaded.eos_token_id) != (found.vocab_size, found.eod):
        raise DataError(
            f"data.tokenizer={name}: its files say {found.vocab_size:,} ids and end of document "
            f"{found.eod}, transformers says {largest + 1:,} and {loaded.eos_token_id}: {_SAVE_FAST}"
        )
    if found.revision is not None:
        _keep(_kept(cache, name, revision), found)
    return FastEncoder(found, backend.to_str())


_SAVE_FAST = "save it with transformers' save_pretrained(FOLDER) and name that folder"


def _bytes_of_tokens(offsets: list[tuple[int, int]], text: str, size: int) -> np.ndarray:
    """Bytes of each token and of the end of document (0); what no token covers goes to the next.

    A token has the bytes from the end of the one before to its own, so that they sum to the whole
    text: what a tokenizer drops (white space, say) must be paid for by the tokens that it keeps.
    """
    lengths = np.fromiter((len(c.encode()) for c in text), dtype=np.int64, count=len(text))
    upto = np.concatenate([[0], np.cumsum(lengths)])
    ends = np.array([end for _, end in offsets], dtype=np.int64)
    if len(ends):
        ends[-1] = len(text)
    ends = np.maximum.accumulate(ends) if len(ends) else ends
    scale = np.concatenate([[0], upto[ends]])
    counts = np.append(np.diff(scale), 0)
    if len(offsets):
        counts[-2] += size - int(upto[-1])  # U+FFFD in place of bytes that were no UTF-8
    return counts


def _read_id(folder: Path, name: str, revision: str | None) -> TokenizerId:
    try:
        whole = json.loads((folder / "tokenizer.json").read_text())
        ids = dict(_vocabulary(whole["model"]["vocab"]))
        ids |= {t["content"]: t["id"] for t in whole.get("added_tokens", [])}
        eod = _end_of_document(folder, ids)
    except FileNotFoundError:
        raise DataError(
            f"data.tokenizer={name}: no tokenizer.json in {folder}: {_SAVE_FAST}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise DataError(f"data.tokenizer={name}: {folder} is damaged ({e}): {_SAVE_FAST}") from None
    if eod is None:
        raise DataError(
            f"data.tokenizer={name} has no eos_token, which ends documents: set one with "
            "transformers' add_special_tokens and save it in a folder"
        )
    return TokenizerId(
        name=name,
        revision=revision,
        vocab_size=max(ids.values()) + 1,
        eod=eod,
        sha256=_files_sha256(folder),
    )


def _end_of_document(folder: Path, ids: dict[str, int]) -> int | None:
    """Id of eos_token where transformers looks for it: its own files, else the model's config."""
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / file
        eos = json.loads(path.read_text()).get("eos_token") if path.is_file() else None
        eos = eos.get("content") if isinstance(eos, dict) else eos
        if eos in ids:
            return ids[eos]
    path = folder / "config.json"  # gpt2's own files name no eos_token
    found = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    return found[0] if isinstance(found, list) else found


def _vocabulary(vocab: Any) -> dict[str, int]:
    """Token -> id; unigram models list [token, score] in the order of their ids."""
    return vocab if isinstance(vocab, dict) else {token: i for i, (token, _) in enumerate(vocab)}


def _files_sha256(folder: Path) -> str:
    whole = hashlib.sha256()
    for name in _FILES:
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        whole.update(f"{name} {len(content)}\n".encode() + content)
    return whole.hexdigest()


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "~", ".")) or name.count("/") > 1


def _snapshot(name: str, revision: str | None) -> Path:
    """Folder of a hub tokenizer's files, named after the commit; fetched where it is missing."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError:
        raise DataError(missing_package("huggingface_hub")) from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        at = f" at revision {revision}" if revision else ""
        raise DataError(
            f"data.tokenizer={name}{at} can't be had from the hub ({first_line(e)}): check the "
            "name and the network, or name a folder with a tokenizer.json"
        ) from None


def _from_transformers(name: str, folder: Path) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise DataError(missing_package("transformers")) from None
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (ValueError, OSError, KeyError) as e:
        raise DataError(
            f"data.tokenizer={name}: transformers can't read {folder} ({first_line(e)})"
        ) from None


def _kept(cache: Path, name: str, revision: str | None) -> Path:
    key = hashlib.sha256(f"{name}@{revision or 'main'}".encode()).hexdigest()[:12]
    return cache / "tokenizers" / f"{key}.json"


def _keep(path: Path, found: TokenizerId) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(found)))
    part.replace(path)
