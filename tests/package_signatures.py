"""Read how the attention and loss packages are called from their own sources, pinned, unbuilt.

    python tests/package_signatures.py     writes tests/golden/package_signatures.json

flash-attn needs CUDA to build, so its signatures are parsed, not imported. Its source archive also
holds the interface of the Hopper build (FlashAttention 3), which has no release of its own.
"""

import ast
import inspect
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden" / "package_signatures.json"
FLASH = ("flash_attn_func", "flash_attn_varlen_func")
# what we call it: pinned requirement, file inside the archive (its end), functions
SOURCES = {
    "fa2": ("flash-attn==2.8.3.post2", "/flash_attn/flash_attn_interface.py", FLASH),
    "fa3": ("flash-attn==2.8.3.post2", "/hopper/flash_attn_interface.py", FLASH),
    "fa4": ("flash-attn-4==4.0.0b36", "flash_attn/cute/interface.py", FLASH),
    "liger": (
        "liger-kernel==0.8.5",
        "liger_kernel/transformers/functional.py",
        ("liger_fused_linear_cross_entropy",),
    ),
}


class NotFetched(Exception):
    """pip could not fetch a package; the text is its last line."""


def fetch_all(folder: Path) -> dict[str, Any]:
    """Download the pinned archives into `folder` and parse them.

    Raises:
        NotFetched: no network, or no tools to read the archive's metadata.
    """
    archives = {r: _download(r, folder) for r in {source[0] for source in SOURCES.values()}}
    found = {}
    for name, (requirement, path, functions) in SOURCES.items():
        inside, text = _read(archives[requirement], path)
        found[name] = {
            "requirement": requirement,
            "file": inside,
            "functions": {f: parameters(text, f) for f in functions},
        }
    return found


def parameters(source: str, function: str) -> list[str]:
    """Parameters of a function of a module: `name`, or `name=` with a default; `*` as in Python.

    Raises:
        KeyError: the module has no such function.
        ValueError: it takes any arguments, so that binding to it would prove nothing.
    """
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            break
    else:
        raise KeyError(function)
    a = node.args
    if a.vararg or a.kwarg or a.posonlyargs:
        raise ValueError(f"{function} has parameters that these rows can't say")
    without = len(a.args) - len(a.defaults)
    rows = [p.arg + "=" * (i >= without) for i, p in enumerate(a.args)]
    keywords = zip(a.kwonlyargs, a.kw_defaults, strict=True)
    only = [p.arg + "=" * (default is not None) for p, default in keywords]
    return [*rows, *(["*", *only] if only else [])]


def signature(rows: list[str]) -> inspect.Signature:
    """Build the signature that `parameters` described."""
    found, kind = [], inspect.Parameter.POSITIONAL_OR_KEYWORD
    for row in rows:
        if row == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        default = None if row.endswith("=") else inspect.Parameter.empty
        found.append(inspect.Parameter(row.removesuffix("="), kind, default=default))
    return inspect.Signature(found)


def _download(requirement: str, folder: Path) -> Path:
    target = folder / requirement.replace("==", "-")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "0"]
    command += ["--no-build-isolation", "--dest", str(target), requirement]
    env = {**os.environ, "FLASH_ATTENTION_SKIP_CUDA_BUILD": "TRUE"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    if done.returncode:
        raise NotFetched(f"{requirement}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return next(target.iterdir())


def _read(archive: Path, path: str) -> tuple[str, str]:
    """Name inside the archive, and text, of the file that ends in `path`."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as z:
            name = next(n for n in z.namelist() if n.endswith(path))
            return name, z.read(name).decode()
    with tarfile.open(archive) as t:
        member = next(m for m in t if m.name.endswith(path))
        return member.name, t.extractfile(member).read().decode()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        GOLDEN.write_text(json.dumps(fetch_all(Path(temporary)), indent=1) + "\n")
    print(f"wrote {GOLDEN}")
