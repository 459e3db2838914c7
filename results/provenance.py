"""What made a result: commit, source hash, versions, host."""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = ("analysis", "conf", "models", "results", "slurm", "sweep")


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit of the code and whether it had uncommitted changes; None where nobody can tell.

    A snapshot says what it was made of: git would tell of whatever repository it happens to lie in.
    """
    snapshot = CHECKOUT / "SNAPSHOT.json"
    if snapshot.exists():
        made_of = json.loads(snapshot.read_text())
        return made_of["git_sha"], made_of["git_dirty"]
    try:
        sha = _git("rev-parse", "HEAD")
        dirty = _git("status", "--porcelain", "--untracked-files=no", "--", *PACKAGES)
    except (OSError, subprocess.SubprocessError):
        return None, None
    return sha, bool(dirty)


@cache
def code_sha256() -> str:
    """Hash of every Python and YAML file of our packages, by relative path and content."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((CHECKOUT / package).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.relative_to(CHECKOUT).as_posix().encode() + b"\0")
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Installed version of each package, and of Python, without importing any."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def environment() -> dict[str, object]:
    """Everything above as plain values, for env.json."""
    sha, dirty = git_state()
    return {
        "git_sha": sha,
        "git_dirty": dirty,
        "code_sha256": code_sha256(),
        "host": platform.node(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "versions": versions(["torch", "numpy", "pandas", "pyarrow", "scipy", "hydra-core"]),
    }


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*args: str) -> str:
    done = subprocess.run(
        ["git", *args], cwd=CHECKOUT, capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()
