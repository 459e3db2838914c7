"""Documents: the text to train on, before it is cut and numbered; here, from any folder of files."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

REVISION_DIGITS = 16  # hex digits of a sha256: enough to tell texts apart, short enough to show
UNDECODABLE_SHARE = 0.05  # of a file's bytes; above it the file is binary
_NAMES_SHOWN = 5


class DataError(ValueError):
    """Data that can't be fetched, read or used; the text says what to do."""


def expand(path: str) -> Path:
    """Path with ~ as the shell reads it: a ~name that is no user is a name like any other."""
    return Path(os.path.expanduser(path))


def first_line(e: Exception) -> str:
    """Take what an error of another library says first, short enough for our one line."""
    said = str(e).strip().splitlines()
    return said[0][:200] if said else type(e).__name__


def missing_package(name: str, what: str = "data=hf") -> str:
    """Say how to have a package of the extra `hf`, which `what` needs."""
    return f"{what} needs the package {name}: pip install -c constraints.txt -e '.[hf]'"


@dataclass(frozen=True)
class Source:
    """Documents to read once, in a fixed order.

    `counts` is complete when `documents` is used up: it says what was kept and what was left out.
    """

    documents: Iterable[bytes]
    size: int  # bytes of all files, an upper bound on what `documents` yields
    licence: str
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Listing:
    """Regular files of a folder, by path relative to it in byte order, and what was left out."""

    root: Path
    names: tuple[bytes, ...]
    size: int
    hidden: int
    links: int

    def path(self, name: bytes) -> Path:
        return self.root / os.fsdecode(name)


def list_folder(root: Path) -> Listing:
    """List the files under a folder. Hidden ones, links and what is no plain file are left out.

    Links are not followed: what they point to inside the folder is listed anyway, and what lies
    outside is not the folder's text.

    Raises:
        DataError: no such folder, not readable, or nothing in it.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"data.path={root} {what}: name a folder of text files")
    names, size, hidden, links = [], 0, 0, 0
    for folder, subfolders, files in os.walk(root, onerror=_refuse):
        here = Path(folder)
        for name in [*subfolders, *files]:
            hidden += name.startswith(".")
            links += (here / name).is_symlink() and not name.startswith(".")
        subfolders[:] = [s for s in subfolders if not s.startswith(".")]
        plain = [here / f for f in files if not f.startswith(".")]
        for path in (p for p in plain if p.is_file() and not p.is_symlink()):
            names.append(os.fsencode(path.relative_to(root).as_posix()))
            size += path.stat().st_size
    if not names:
        left_out = f" (left out: {hidden} hidden, {links} links)" if hidden or links else ""
        raise DataError(f"data.path={root} has no files{left_out}: name a folder of text files")
    return Listing(root, tuple(sorted(names)), size, hidden, links)


def folder_revision(root: Path) -> str:
    """Hash (16 hex digits of a sha256) of the sorted file list and of each file's content.

    Raises:
        DataError: as list_folder, or a file that can't be read.
    """
    listing = list_folder(root)
    revision = hashlib.sha256()
    for name in listing.names:
        _add_file(revision, name, _read(listing.path(name)))
    return revision.hexdigest()[:REVISION_DIGITS]


def text_folder(root: Path, revision: str) -> Source:
    """Every text file of a folder, once each, in the order of the listing.

    Binary files are skipped and counted; so are files whose bytes an earlier file had (a copy
    could otherwise land in training and in validation).

    Raises:
        DataError: as list_folder; while reading: only binary files, or content that no longer
            has this revision.
    """
    listing = list_folder(root)
    counts = Counter({"hidden": listing.hidden, "links": listing.links})
    documents = _text_files(listing, revision, counts)
    return Source(documents, listing.size, "that of the folder's files (not stated)", counts)


def is_text(content: bytes) -> bool:
    """Whether bytes read as text: no NUL (it ends a document), and UTF-8 but for a few bytes."""
    if b"\0" in content:
        return False
    wrong = content.decode("utf-8", errors="replace").count("\ufffd")
    return wrong <= UNDECODABLE_SHARE * len(content)


def _text_files(listing: Listing, revision: str, counts: Counter[str]) -> Iterator[bytes]:
    found, seen, binary = hashlib.sha256(), set(), []
    for name in listing.names:
        content = _read(listing.path(name))
        digest = _add_file(found, name, content)
        if not content:
            counts["empty"] += 1
        elif not is_text(content):
            counts["binary"] += 1
            binary.append(os.fsdecode(name))
        elif digest in seen:
            counts["duplicate"] += 1
        else:
            counts["documents"] += 1
            seen.add(digest)
            yield content
    if not seen:
        raise DataError(f"data.path={listing.root} has no text: {_why_no_text(binary)}")
    if found.hexdigest()[:REVISION_DIGITS] != revision:
        raise DataError(
            f"data.path={listing.root} changed since its revision {revision} was taken: "
            "type the command again, when nothing writes there"
        )


def _why_no_text(binary: list[str]) -> str:
    if not binary:
        return "its files are empty"
    more = f" and {len(binary) - _NAMES_SHOWN} more" if len(binary) > _NAMES_SHOWN else ""
    names = ", ".join(repr(n) for n in binary[:_NAMES_SHOWN])
    return f"binary (NUL bytes, or not UTF-8): {names}{more}"


def _add_file(revision: "hashlib._Hash", name: bytes, content: bytes) -> bytes:
    digest = hashlib.sha256(content).digest()
    revision.update(
        len(name).to_bytes(8, "big") + name + digest
    )  # length: names can't run together
    return digest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise DataError(f"data.path: can't read {path} ({e.strerror})") from None


def _refuse(e: OSError) -> None:
    raise DataError(f"data.path: can't list {e.filename} ({e.strerror})")
