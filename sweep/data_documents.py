"""Documents of local files or of a hub dataset, one after another: never all in memory.

Parquet, JSON lines and hub datasets are read by the `datasets` library in its streaming mode, a
document a row. A text file is one document; so is each text file of a folder.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweep.data_settings import TextSet
from sweep.documents import (
    DataError,
    expand,
    first_line,
    folder_revision,
    is_text,
    list_folder,
    missing_package,
    text_folder,
)

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
_PACKED = (".gz", ".bz2", ".xz")


def fingerprint(text: TextSet) -> dict[str, Any]:
    """Say what tells its documents from others': of files, their names, sizes and times of change.

    Raises:
        DataError: no such file or folder, or nothing in it.
    """
    if text.dataset is not None:
        keys = ("dataset", "subset", "split", "revision", "text_column")
        return {k: getattr(text, k) for k in keys}
    _, files = local_files(text)
    stats = [(path, path.stat()) for path in files]
    return {
        "files": [[p.name, s.st_size, s.st_mtime_ns] for p, s in stats],
        "text_column": text.text_column,
    }


def size_of(text: TextSet) -> int | None:
    """Bytes of its local files (packed ones as they lie there); None for a dataset of the hub."""
    if text.dataset is not None:
        return None
    return sum(path.stat().st_size for path in local_files(text)[1])


def revision_of(text: TextSet) -> str:
    """Commit that a dataset's revision stands for now; of files, the word that was given.

    Raises:
        DataError: the hub can't be reached, or has no such dataset.
    """
    if text.dataset is None:
        return text.revision
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise DataError(missing_package("huggingface_hub")) from None
    try:
        return str(HfApi().dataset_info(text.dataset, revision=text.revision).sha)
    except (HfHubHTTPError, HFValidationError, OSError) as e:
        raise DataError(
            f"dataset={text.dataset} at revision {text.revision} can't be had from the hub "
            f"({first_line(e)}): check the name and the network; compute nodes are often "
            "offline, so prepare on a login node"
        ) from None


def local_files(text: TextSet) -> tuple[str, list[Path]]:
    """Format (parquet, json, text) of a local set, and its files in byte order of their names.

    Raises:
        DataError: no such path, nothing in it, or tables of two formats.
    """
    root = expand(text.path or "")
    if root.is_file():
        return _format_of(root), [root]
    listing = list_folder(root)
    files = [listing.path(name) for name in listing.names]
    tables = [p for p in files if _format_of(p) != "text"]
    if not tables:
        return "text", files
    kinds = sorted({_format_of(p) for p in tables})
    if len(kinds) > 1:
        raise DataError(f"{text.name}: {root} holds {' and '.join(kinds)}: name one with path=")
    return kinds[0], tables


def documents(text: TextSet, commit: str, skip: int = 0) -> Iterator[bytes]:
    """Documents in a fixed order, UTF-8; some may be empty.

    Args:
        text: where they are.
        commit: revision_of(text), so that a build reads one state of a dataset from end to end.
        skip: documents to leave out at the start, so that a build can go on.

    Raises:
        DataError: while reading: a file that can't be read, a row without text.
    """
    kind, files = ("hub", []) if text.dataset is not None else local_files(text)
    if kind == "text":
        yield from itertools.islice(_texts(text, files), skip, None)
        return
    stream = _stream(text, kind, files, commit)
    rows = iter(stream.skip(skip) if skip else stream)
    for row in itertools.count(skip):
        values = _next_row(text, rows, row)
        if values is None:
            return
        yield _text_of(text, values, row)


def _next_row(text: TextSet, rows: Iterator[dict[str, Any]], row: int) -> dict[str, Any] | None:
    from datasets.exceptions import DatasetsError

    try:
        return next(rows, None)
    except (DatasetsError, ValueError, OSError) as e:
        raise DataError(f"{text.name}: can't read row {row} ({first_line(e)})") from None


def _texts(text: TextSet, files: list[Path]) -> Iterator[bytes]:
    root = expand(text.path or "")
    if root.is_dir():
        yield from text_folder(root, folder_revision(root)).documents
        return
    content = files[0].read_bytes()
    if not is_text(content):
        raise DataError(f"{text.name}: {root} is binary (NUL bytes, or not UTF-8)")
    yield content


def _stream(text: TextSet, kind: str, files: list[Path], commit: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(missing_package("datasets")) from None
    datasets.disable_progress_bars()
    try:
        if kind == "hub":
            return datasets.load_dataset(
                text.dataset, text.subset, split=text.split, revision=commit, streaming=True
            )
        names = [str(p) for p in files]
        return datasets.load_dataset(kind, data_files=names, split="train", streaming=True)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as e:
        raise DataError(f"{text.name}: datasets can't open it ({first_line(e)})") from None


def _text_of(text: TextSet, values: dict[str, Any], row: int) -> bytes:
    if text.text_column not in values:
        raise DataError(
            f"{text.name} has no column {text.text_column!r} (it has {', '.join(values)}): "
            "name the one with the text: text_column="
        )
    value = values[text.text_column]
    if not isinstance(value, str):
        raise DataError(
            f"{text.name}: row {row} has {type(value).__name__} in column {text.text_column!r}, "
            "not text"
        )
    return value.encode("utf-8", errors="replace")


def _format_of(path: Path) -> str:
    suffix = Path(path.stem).suffix if path.suffix in _PACKED else path.suffix
    return _FORMATS.get(suffix.lower(), "text")
