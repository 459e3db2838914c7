"""A node's own copy of prepared data: made once, whole or not at all, by any number of processes."""

import fcntl
import os
import shutil
from pathlib import Path

from sweep.documents import DataError
from sweep.shards import open_tokens


def copy_to_node(folder: Path, cache: Path) -> Path:
    """Have a prepared folder's copy in a folder of this node's own disk.

    The copy is checked against its checksums before it appears under its name, and again whenever
    its files change; a damaged one is copied anew.

    Returns:
        The copy.

    Raises:
        DataError: the disk is full or can't be written, or the copy does not match.
    """
    target = cache / folder.name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f".{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _same(folder, target):
                _copy(folder, target)
    except (OSError, shutil.Error) as e:
        said = getattr(e, "strerror", None) or e
        raise DataError(
            f"data.cache={cache}: can't copy {folder.name} there ({said}): name a folder of this "
            "node with room for it, or leave data.cache out"
        ) from None
    return target


def _same(folder: Path, target: Path) -> bool:
    """Whether the copy is of this very build, and whole."""
    if not target.is_dir():
        return False
    try:
        return open_tokens(target, verify=True).manifest == open_tokens(folder).manifest
    except DataError:
        return False


def _copy(folder: Path, target: Path) -> None:
    part = target.with_name(f".copy-{target.name}")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed: the lock is held
    try:
        shutil.copytree(folder, part)
        open_tokens(part, verify=True)
        if target.exists():
            old = target.with_name(f".old-{target.name}-{os.getpid()}")
            target.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
