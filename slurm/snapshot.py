"""A copy of the code that jobs run, so that no later edit of the checkout reaches them.

<sweep>/code/<commit>/                     packages, and SNAPSHOT.json
<sweep>/code/<commit>-dirty-<hash>/        the same of a checkout with changes, and dirty.patch
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

SUFFIXES = (".py", ".yaml", ".css", ".js", ".html", ".txt", ".json")
FILE = "SNAPSHOT.json"


@dataclass(frozen=True)
class Snapshot:
    """What a copy was made of."""

    name: str  # of its folder
    git_sha: str | None
    git_dirty: bool | None
    content: str  # hash of every file by path and bytes
    files: int
    untracked: tuple[str, ...]  # files that git does not know and that were copied too
    made_at: str  # UTC, ISO 8601


class SnapshotError(Exception):
    """A copy that can't be made or read; the text says why."""


def take_snapshot(checkout: Path, packages: Sequence[str], code: Path) -> Snapshot:
    """Copy the packages of a checkout, unless a copy of the same content is there.

    Args:
        checkout: folder that holds the packages.
        packages: their names.
        code: folder of the copies.
    """
    now = describe_code(checkout, packages)
    same = next((s for s in list_snapshots(code) if s.content == now.content), None)
    if same is not None:
        return same
    part = code / f".part-{os.uname().nodename}-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    for path in _files(checkout, packages)[0]:
        place = part / path.relative_to(checkout)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
    if now.git_dirty:
        (part / "dirty.patch").write_bytes(_git(checkout, "diff", "--binary", "HEAD") or b"")
    (part / FILE).write_text(json.dumps(asdict(now), indent=1) + "\n")
    try:
        part.rename(code / now.name)
    except OSError:  # somebody made the same at the same time
        shutil.rmtree(part, ignore_errors=True)
    return read_snapshot(code / now.name)


def describe_code(checkout: Path, packages: Sequence[str]) -> Snapshot:
    """Say what a copy of this checkout would be; writes nothing."""
    if (checkout / FILE).exists():  # a copy launches too
        return read_snapshot(checkout)
    files, untracked = _files(checkout, packages)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(checkout).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    content, sha = digest.hexdigest(), _sha(checkout)
    changed = _git(checkout, "status", "--porcelain", "--", *packages) if sha else None
    dirty = None if changed is None else bool(changed.strip())
    name = content[:12] if sha is None else sha[:12]
    return Snapshot(
        name=f"{name}-dirty-{content[:8]}" if dirty else name,
        git_sha=sha,
        git_dirty=dirty,
        content=content,
        files=len(files),
        untracked=tuple(p.relative_to(checkout).as_posix() for p in untracked),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def list_snapshots(code: Path) -> list[Snapshot]:
    """Read what each copy says of itself, oldest first."""
    found = [read_snapshot(path.parent) for path in code.glob(f"*/{FILE}")]
    return sorted(found, key=lambda s: s.made_at)


def read_snapshot(path: Path) -> Snapshot:
    """Read what a copy says of itself.

    Raises:
        SnapshotError: it says nothing that can be read.
    """
    try:
        values = json.loads((path / FILE).read_text())
        return Snapshot(**{**values, "untracked": tuple(values["untracked"])})
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise SnapshotError(f"{path / FILE} can't be read ({type(e).__name__}: {e})") from None


def _files(checkout: Path, packages: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Source files of the packages, and those among them that git does not track."""
    tracked = _git(checkout, "ls-files", "-z", "--", *packages)
    if not tracked:
        found = [p for name in packages for p in (checkout / name).rglob("*") if p.is_file()]
        return sorted(p for p in found if p.suffix in SUFFIXES), []
    others = _git(checkout, "ls-files", "-z", "--others", "--exclude-standard", "--", *packages)
    known = [checkout / name for name in tracked.decode().split("\0") if name]
    new = [checkout / name for name in (others or b"").decode().split("\0") if name]
    whole = {p for p in known + new if p.is_file() and p.suffix in SUFFIXES}
    return sorted(p for p in whole if "reference" not in p.parts), sorted(whole & set(new))


def _sha(checkout: Path) -> str | None:
    top = _git(checkout, "rev-parse", "--show-toplevel")
    if top is None or Path(top.decode().strip()).resolve() != checkout.resolve():
        return None  # another repository's folder
    sha = _git(checkout, "rev-parse", "HEAD")
    return sha.decode().strip() if sha else None


def _git(checkout: Path, *args: str) -> bytes | None:
    try:
        return subprocess.run(
            ["git", *args], cwd=checkout, capture_output=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
