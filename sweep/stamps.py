"""Checksums taken once a node: a file that was read whole here before is not read again.

    <tmp>/isoflop-stamps-<user id>/<hash of the file's identity>

A stamp is keyed on the file's device, inode, size and time of change, so a file that was replaced,
cut or written to is read again. The folder lies on the node's own disk: another node checks for
itself what its mount shows it.
"""

import fcntl
import hashlib
import os
import tempfile
import time
from pathlib import Path

_YOUNG = 2.0  # seconds; within a clock tick a second write could leave the same time of change


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's content, from this node's stamp where there is one.

    Several processes of a node that ask at once read the file once: the others wait.
    """
    before = path.stat()
    if time.time() - before.st_mtime < _YOUNG:
        return read_sha256(path)
    folder = stamp_folder()
    key = f"{before.st_dev} {before.st_ino} {before.st_size} {before.st_mtime_ns}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    with (folder / name).open("a+") as stamp:
        fcntl.flock(stamp, fcntl.LOCK_EX)
        stamp.seek(0)
        known = stamp.read()
        if len(known) == 64:
            return known
        digest = read_sha256(path)
        stamp.truncate(0)
        stamp.write(digest)
    return digest


def read_sha256(path: Path) -> str:
    """sha256 (hex) of a file, every byte read now."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def stamp_folder() -> Path:
    """Folder of this node's stamps, writable by this user alone.

    Raises:
        PermissionError: somebody else made a folder of that name.
    """
    folder = Path(tempfile.gettempdir()) / f"isoflop-stamps-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    owner = folder.lstat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022 or folder.is_symlink():
        raise PermissionError(1, "is not this user's alone: remove it", str(folder))
    return folder
