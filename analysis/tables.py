"""Read a table that a person brings: CSV, parquet or JSON lines, with errors they can act on."""

import hashlib
from pathlib import Path

import pandas as pd
import pyarrow as pa

LARGEST_BYTES = 256 * 2**20
_READERS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".json": "json lines",
}


class PointsError(ValueError):
    """A table that can't be used; the text is one line that says where, what and what to do."""


def read_table(path: Path) -> pd.DataFrame:
    """Read one table of runs; column names keep their case, without spaces around them.

    Raises:
        PointsError: no such file, a directory, empty, too large, or not of the kind that its
            suffix says.
    """
    kind = _kind_of_readable(path)
    try:
        frame = _read(path, kind)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, pa.ArrowException) as e:
        raise PointsError(f"{path} can't be read as {kind}: {_one_line(e)}") from None
    except (ValueError, OSError, TypeError, AttributeError) as e:
        raise PointsError(f"{path} can't be read as {kind}: {_one_line(e)}") from None
    if frame.empty:
        raise PointsError(f"{path} has no rows: a points table has a header and one row per run")
    frame.columns = [str(c).strip() for c in frame.columns]
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise PointsError(f"{path} has two columns called {twice[0]!r}: rename one")
    return frame


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, so that a fit can say exactly what it read."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _kind_of_readable(path: Path) -> str:
    if path.is_dir():
        raise PointsError(f"{path} is a directory: points= takes one file (csv, parquet, jsonl)")
    if not path.exists():
        raise PointsError(f"{path} does not exist: points= takes a csv, parquet or jsonl file")
    if not path.is_file():
        raise PointsError(f"{path} is not a regular file: points= takes a csv, parquet or jsonl")
    size = path.stat().st_size
    if size == 0:
        raise PointsError(f"{path} is empty: a points table has a header and one row per run")
    if size > LARGEST_BYTES:
        raise PointsError(
            f"{path} has {size / 2**20:.0f} MB, more than {LARGEST_BYTES / 2**20:.0f}: a points "
            "table has one row per run; give training curves as curves= instead"
        )
    kind = _READERS.get(path.suffix.lower())
    if kind is None:
        raise PointsError(
            f"{path} has the unknown suffix {path.suffix!r}: use .csv, .parquet or .jsonl"
        )
    return kind


def _read(path: Path, kind: str) -> pd.DataFrame:
    if kind == "parquet":
        return pd.read_parquet(path)
    if kind == "json lines":
        return pd.read_json(path, lines=not _is_array(path), precise_float=True, dtype=False)
    sep = _separator(path, kind)
    # Where semicolons part the cells, a comma is what others write for a decimal point.
    decimal = "," if sep == ";" else "."
    frame = pd.read_csv(path, sep=sep, decimal=decimal, encoding="utf-8-sig")
    if not isinstance(frame.index, pd.RangeIndex):  # pandas turns surplus cells into an index
        raise ValueError("some rows have more cells than the header")
    return frame


def _is_array(path: Path) -> bool:
    """Whether a JSON file is one array of rows instead of a row a line."""
    with path.open("rb") as f:
        return f.read(256).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _separator(path: Path, kind: str) -> str:
    """Tell what stands between the names of the header; a comma unless another has more."""
    with path.open("rb") as f:
        header = f.readline(2**16).decode("utf-8", errors="replace")
    return max("\t,;" if kind == "tsv" else ",;\t", key=header.count)


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
