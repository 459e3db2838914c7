"""Parquet store of records: one file per attempt, written once, merged on read.

    <root>/<sweep>/records/<cell_id>.<attempt>.parquet

A thousand workers can write at once because no two share a file; a killed one leaves no half row
because a file appears under its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.record import (
    READABLE,
    SCHEMA_VERSION,
    Record,
    RecordStatus,
    arrow_schema,
    column_types,
    default_of,
)

if TYPE_CHECKING:
    import pandas as pd  # half a second that a job and a status do without
    from numpy.typing import NDArray

_COPY = f'{{"schema": {SCHEMA_VERSION}, "columns": '.encode()  # begins the copy of a row
_JSON = json.JSONDecoder()
_COLUMNS = column_types().keys()
_READERS = 8


class StoreError(Exception):
    """A record that can't be written or read; the text says what to do."""


def write_record(
    record: Record,
    folder: Path,
    part: Path | None = None,
    put: Callable[[Path, Path], None] = os.link,
) -> Path:
    """Write one row; an attempt that already has a record is never overwritten.

    Args:
        record: the row.
        folder: of the sweep's records.
        part: where to write it first; None: beside its place.
        put: gives a whole file its place, and raises FileExistsError where that is taken.

    Raises:
        StoreError: the attempt has a record.
    """
    path = folder / f"{record.cell_id}.{record.attempt}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    part = part or path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as f:
        f.write(_encode(asdict(record)))
        f.flush()
        os.fsync(f.fileno())
    try:
        put(part, path)  # link, unlike rename, fails when path exists: a twin can't replace a row
    except FileExistsError:
        raise StoreError(f"{path} exists: an attempt is recorded once") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def read_records(path: Path) -> pd.DataFrame:
    """Every attempt under a folder of record files, or in one collected file.

    Returns:
        Columns are exactly Record's fields, typed, ordered by (cell_id, attempt).

    Raises:
        StoreError: nothing there, not parquet, or another schema version.
    """
    return _read_folder(path).to_pandas()


def read_record(path: Path) -> dict[str, Any]:
    """Read one attempt's record, fast.

    Raises:
        StoreError: as read_records.
    """
    row = _read_row(path)
    return row if isinstance(row, dict) else _read(path, arrow_schema()).to_pylist()[0]


def collect_records(
    folder: Path,
    path: Path,
    later: Callable[[pa.Table], Mapping[str, Mapping[tuple[str, int], Any]]] = lambda table: {},
) -> pd.DataFrame:
    """Write every record under `folder` to one file, and return them.

    Args:
        folder: of the records.
        path: of the file.
        later: given the table, what became known after the records were written: by column, by
            cell id and number of the attempt.

    Raises:
        StoreError: as read_records.
    """
    table = _read_folder(folder)
    for column, values in later(table).items():
        table = _with_values(table, column, values) if values else table
    write_table(table, path)  # as Arrow: pandas would turn NaN, which is a value here, into null
    return table.to_pandas()


def results_of(records: pd.DataFrame) -> pd.DataFrame:
    """One row a cell: its first finished attempt, else its last terminal one, else its last.

    Later finished attempts are reruns: they measure spread, they don't replace the result.
    """
    finished = (records["status"] == str(RecordStatus.FINISHED)).to_numpy()
    terminal = (records["status"] != str(RecordStatus.FAILED)).to_numpy()
    attempt = records["attempt"].to_numpy()
    order = records.assign(_class=2 - terminal.astype(int) - finished, _rank=attempt)
    order.loc[~finished, "_rank"] = -attempt[~finished]
    order = order.sort_values(["cell_id", "_class", "_rank"])
    return order.drop_duplicates("cell_id").drop(columns=["_class", "_rank"]).reset_index(drop=True)


def shared_steps_of(records: pd.DataFrame) -> NDArray:
    """Count steps of each attempt that another one took for it, (n,); 0 where it took them all."""
    return records["shared_steps"].astype(float).fillna(0).to_numpy(int)


def flops_spent(record: Mapping[str, Any]) -> float:
    """FLOPs of one attempt that ran to its end: its path but for steps another took for it."""
    return record["flops"] * (1 - (record["shared_steps"] or 0) / record["steps"])


def flops_spent_of(records: pd.DataFrame) -> NDArray:
    """flops_spent of each attempt, (n,)."""
    return records["flops"].to_numpy() * (
        1 - shared_steps_of(records) / records["steps"].to_numpy()
    )


def rerun_spread(records: pd.DataFrame) -> pd.DataFrame:
    """Spread of the losses of cells that finished more than once: what a rerun moves.

    Returns:
        A row a cell: cell_id, attempts, spread (largest minus smallest val_loss, nats per token).
    """
    import pandas as pd

    finished = records[records["status"] == str(RecordStatus.FINISHED)]
    by_cell = finished.groupby("cell_id")["val_loss"]
    found = pd.DataFrame({"attempts": by_cell.size(), "spread": by_cell.max() - by_cell.min()})
    return found[found["attempts"] > 1].reset_index()


def write_table(table: pa.Table, path: Path) -> None:
    """Write parquet so that `path` holds either the old bytes or the new ones."""
    part = path.with_suffix(f".{os.getpid()}.part")
    pq.write_table(table, part)
    part.replace(path)


def terminal_cells(
    folder: Path, cell_ids: Iterable[str], anew: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Cells that need no training, each with the status of its result.

    Reads only records of the named cells, so it stays cheap in a large sweep.

    Args:
        folder: of the sweep's records.
        cell_ids: whose.
        anew: cells that are trained although they were stopped: of each, the last attempt whose
            `stopped` does not count.
    """
    rows = _records_of(folder, cell_ids)
    if rows is None:
        return {}
    forgiven = rows["attempt"] <= rows["cell_id"].map(anew or {}).fillna(-1)
    rows = results_of(rows[~(forgiven & (rows["status"] == str(RecordStatus.STOPPED)))])
    rows = rows[rows["status"] != str(RecordStatus.FAILED)]
    return dict(zip(rows["cell_id"], rows["status"], strict=True))


def stopped_cells(folder: Path, cell_ids: Iterable[str]) -> dict[str, int]:
    """Cells whose result is `stopped`, each with the number of its last record."""
    rows = _records_of(folder, cell_ids)
    if rows is None:
        return {}
    results = results_of(rows)
    stopped = set(results.loc[results["status"] == str(RecordStatus.STOPPED), "cell_id"])
    last = rows.groupby("cell_id")["attempt"].max()
    return {cell_id: int(last[cell_id]) for cell_id in sorted(stopped)}


def _records_of(folder: Path, cell_ids: Iterable[str]) -> pd.DataFrame | None:
    wanted = set(cell_ids)
    paths = [p for p in sorted(folder.glob("*.parquet")) if p.name.rsplit(".", 2)[0] in wanted]
    return _read_all(paths).to_pandas() if paths else None


def _read_folder(path: Path) -> pa.Table:
    paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not paths or not paths[0].exists():
        raise StoreError(f"no records in {path}: has a cell finished? try: isoflop launch")
    return _read_all(paths)


def _read_all(paths: Iterable[Path]) -> pa.Table:
    schema = arrow_schema()
    with ThreadPoolExecutor(_READERS) as pool:  # a shared filesystem answers many as fast as one
        found = list(pool.map(_read_row, paths))
    rows = [row for row in found if isinstance(row, dict)]
    tables = [_read(path, schema) for path in found if isinstance(path, Path)]
    table = pa.concat_tables([pa.Table.from_pylist(rows, schema=schema), *tables])
    return table.sort_by([("cell_id", "ascending"), ("attempt", "ascending")])


def _encode(row: dict[str, Any]) -> bytes:
    """Return a parquet file of one row, which its footer holds as JSON too.

    To open a file of more than a hundred columns for one number of each takes a millisecond or
    more; to find the JSON in its footer, a twentieth. The hash of the columns ties the two together.
    """
    table = pa.Table.from_pylist([row], schema=arrow_schema())
    file = io.BytesIO()
    with pq.ParquetWriter(
        file, table.schema, use_dictionary=False, write_statistics=False
    ) as writer:
        writer.write_table(table)
        columns = hashlib.sha256(file.getvalue()).hexdigest()
        copy = {"schema": SCHEMA_VERSION, "columns": columns, "row": row}
        writer.add_key_value_metadata({"copy": json.dumps(copy)})
    return file.getvalue()


def _read_row(path: Path) -> dict[str, Any] | Path:
    """Return the row of a record from the footer of its file; the path where it has none there.

    A footer keeps texts as they are, and ends with its own length and four bytes of magic.
    """
    try:
        file = path.read_bytes()
        columns_end = len(file) - 8 - int.from_bytes(file[-8:-4], "little")
        start = file.index(_COPY, columns_end)
        copy, _ = _JSON.raw_decode(file[start:].decode(errors="replace"))
    except (OSError, ValueError):
        return path
    if hashlib.sha256(file[:columns_end]).hexdigest() != copy["columns"]:
        return path  # somebody rewrote the columns and kept the rest
    return copy["row"] if copy["row"].keys() == _COLUMNS else path


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read()  # not read_table, which imports pandas
    except (pa.ArrowInvalid, OSError) as e:
        raise StoreError(f"{path} is not a parquet file of records ({e})") from None
    found = (table.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if found not in READABLE:
        raise StoreError(
            f"{path} has record schema {found}, this code reads {' and '.join(READABLE)}: "
            "use the commit that wrote it (its git_sha column)"
        )
    return _complete(table, schema, path)


def _with_values(table: pa.Table, column: str, values: Mapping[tuple[str, int], Any]) -> pa.Table:
    """Replace a column's values of some attempts."""
    keys = zip(table["cell_id"].to_pylist(), table["attempt"].to_pylist(), strict=True)
    old = zip(keys, table[column].to_pylist(), strict=True)
    place = table.schema.get_field_index(column)
    new = pa.array([values.get(key, value) for key, value in old], table.schema.field(place).type)
    return table.set_column(place, table.schema.field(place), new)


def _complete(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """Give a file of an earlier day the columns that came later, each with its default."""
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table[field.name])
            continue
        try:
            columns.append(pa.array([default_of(field.name)] * len(table), field.type))
        except KeyError:
            raise StoreError(
                f"{path} has no column {field.name}: it is no file of records"
            ) from None
    unknown = sorted(set(table.column_names) - set(schema.names))
    if unknown:
        raise StoreError(
            f"{path} has columns that this code does not know ({', '.join(unknown)}): "
            "use the commit that wrote it (its git_sha column)"
        )
    return pa.table(columns, names=schema.names).cast(schema)
