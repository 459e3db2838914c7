"""A folder that appears under its name when it is whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweep.errors import UsageError
from sweep.retry import Failure, classify


def refuse_what_is_there(out: Path) -> None:
    """Refuse to write into anything but a new or an empty folder.

    Raises:
        UsageError: a file, or a folder with something in it.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    what = "is not empty" if out.is_dir() else "is a file"
    raise UsageError(f"out={out} {what}: name a new folder, an export replaces nothing")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` to write into; it takes the place of `out` when all went well.

    Raises:
        UsageError: `out` is taken, can't be made, or the disk is full.
    """
    refuse_what_is_there(out)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with _said(out):
            part.mkdir(parents=True)
        yield part
        for file in part.iterdir():
            _sync(file)
        with _said(out):
            part.rename(out)
    except Exception as e:  # each library has a type of its own for a full disk
        if classify(f"{type(e).__name__}: {e}") is not Failure.DISK_FULL:
            raise
        raise UsageError(
            f"out={out}: the disk is full, and nothing was kept; make room, or name a folder elsewhere"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _said(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UsageError(
            f"out={out}: can't make it ({e.strerror}); name a folder that you can write"
        ) from None


def _sync(file: Path) -> None:
    with file.open("rb") as f:
        os.fsync(f.fileno())
