"""Counts of sizes of transformers, from a cache beside the data, or from a process that makes them."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from models import hf_config
from models.hf_config import Counts, Keys, plain_json
from sweep.checkpoint import write_text
from sweep.errors import UsageError

_COUNTER = ("hf_build.py", "hf_config.py", "hf_count.py", "hf_walk.py")


def counted(
    architecture: str, sizes: Sequence[Keys], vocab_size: int, seq_len: int, cache: Path
) -> list[Counts]:
    """Count sizes, in one process for all that the cache lacks.

    Args:
        architecture: a model_type.
        sizes: keys of each.
        vocab_size: tokens in the vocabulary.
        seq_len: tokens of context.
        cache: folder of prepared data; counts are kept in its folder `counts`, if it can be written.

    Raises:
        ValueError: transformers does not know or refuses what is asked; says which size.
        UsageError: transformers is not installed, or does not work.
    """
    made_by = [transformers_version(), _source_hash()]
    asked = [
        {"architecture": architecture, "keys": k, "vocab_size": vocab_size, "seq_len": seq_len}
        for k in sizes
    ]
    paths = [_path(cache, [size, *made_by]) for size in asked]
    found = [_read(path) for path in paths]
    missing = [i for i, counts in enumerate(found) if counts is None]
    if missing:
        for i, counts in zip(missing, _count([asked[i] for i in missing], missing), strict=True):
            found[i] = counts
            _write(counts, paths[i])
    return [counts for counts in found if counts is not None]


def transformers_version() -> str:
    """Version of transformers, without importing it.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return version("transformers")
    except PackageNotFoundError:
        raise UsageError(
            "model.architecture needs the package transformers: "
            "pip install -c constraints.txt -e '.[hf]'"
        ) from None


def _count(sizes: Sequence[dict[str, Any]], indices: Sequence[int]) -> list[Counts]:
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "models.hf_count"],
        input=json.dumps({"sizes": list(sizes)}),
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
    )
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise UsageError(
            f"model.architecture: the count failed ({last[0]}); does transformers import with this "
            "torch? try: python -m models.hf_count"
        ) from None
    if "refused" in said:
        raise ValueError(f"model.rungs[{indices[said['size']]}]: {said['refused']}")
    return [Counts(**counts) for counts in said["counts"]]


def _path(cache: Path, key: list[Any]) -> Path:
    digest = hashlib.blake2s(plain_json({"key": key}).encode(), digest_size=16).hexdigest()
    return cache / "counts" / f"{digest}.json"


def _source_hash() -> str:
    """Hash of the code that counts: counts of another code are made anew."""
    digest = hashlib.sha256()
    for name in _COUNTER:
        digest.update(Path(hf_config.__file__).with_name(name).read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> Counts | None:
    try:
        return Counts(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(counts: Counts, path: Path) -> None:
    """Keep counts; where the folder can't be written, the next plan counts again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(json.dumps(asdict(counts)), path)
    except OSError:
        pass
