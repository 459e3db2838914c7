"""A sweep's folder: where each thing lies, the frozen plan, and who holds the launch."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from conf.schema import AppConf
from results.store import write_table
from sweep.cell import Cell
from sweep.cells import cell_from_row, cell_to_row
from sweep.data_settings import DataSettings
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.recipe_rules import RULES

if TYPE_CHECKING:
    import pandas as pd  # half a second that a job and a status do without

PLAN_SCHEMA = "1"
_SHARED_FOLDERS = ("cells", "code", "launch", "logs", "records", "submissions")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class SweepFolder:
    """<root>/<sweep>/ and the paths in it.

    Raises:
        UsageError: a name that is not one plain folder name.
    """

    root: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"sweep={self.name!r} must be one folder name of letters, digits, and . _ + - "
                "(not first): try sweep=my-sweep"
            )

    @property
    def path(self) -> Path:
        """The sweep's folder."""
        return self.root / self.name

    @property
    def plan(self) -> Path:
        """Frozen cells."""
        return self.path / "plan.parquet"

    @property
    def records(self) -> Path:
        """One file an attempt."""
        return self.path / "records"

    @property
    def evaluations(self) -> Path:
        """One file an evaluation of a trained cell."""
        return self.path / "evaluations"

    @property
    def collected(self) -> Path:
        """All records in one table."""
        return self.path / "records.parquet"

    @property
    def curves(self) -> Path:
        """All training curves in one table."""
        return self.path / "curves.parquet"

    @property
    def fits(self) -> Path:
        """Fitted laws."""
        return self.path / "fits.json"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.path / "report"

    @property
    def data_cache(self) -> Path:
        """Prepared data, shared by all sweeps of the root; no sweep can have this name."""
        return self.root / ".data"

    @property
    def imports(self) -> Path:
        """Checkpoints that were judged on its cells' data, a JSON line each."""
        return self.path / "imports.jsonl"

    def fits_of(self, loss: str | None) -> Path:
        """Fitted laws of the loss on one set; of all sources where None."""
        return self.fits if loss is None else self.path / f"loss_{loss}" / "fits.json"

    def report_of(self, loss: str | None) -> Path:
        """Folder of the report on those laws."""
        return self.report if loss is None else self.path / f"loss_{loss}" / "report"

    def cell(self, cell_id: str) -> Path:
        """Folder of a cell's attempts."""
        return self.path / "cells" / cell_id

    def command(self, verb: str, *words: str) -> str:
        """Command of a verb on this sweep, to be pasted in any folder."""
        return shlex.join(["isoflop", verb, f"root={self.root}", f"sweep={self.name}", *words])

    def make(self) -> None:
        """Create the folder.

        Raises:
            UsageError: it can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".write-{os.getpid()}"
            try:
                probe.write_bytes(bytes(65_536))  # a full disk takes names, and no bytes
            finally:
                probe.unlink(missing_ok=True)
        except OSError as e:
            raise UsageError(
                f"root={self.root}: can't write {self.path} ({e.strerror}); "
                "name a folder that you can write: root=FOLDER"
            ) from None
        for path in (self.path / name for name in _SHARED_FOLDERS):
            if path.exists() and not os.access(path, os.W_OK | os.X_OK):
                raise UsageError(
                    f"can't write {path}, which {path.owner()} made: whoever launches a sweep "
                    f"with others needs umask 002; they can mend it: chmod -R g+w {self.path}"
                )


def sweep_folder(app: AppConf) -> SweepFolder:
    """Folder that sweep= names, or the grid's."""
    root = expand(app.root)
    return SweepFolder(root, app.sweep if app.sweep is not None else app.grid.name)


@dataclass(frozen=True)
class PlannedCell:
    """A frozen cell and the data it is trained and validated on."""

    cell: Cell
    data: DataSettings


def read_plan(folder: SweepFolder) -> list[PlannedCell]:
    """Return frozen cells in the order of their first launch; empty before it.

    Raises:
        UsageError: the plan was written by another version, or edited.
    """
    if not folder.plan.exists():
        return []
    try:
        table = pq.ParquetFile(folder.plan).read()
        if (table.schema.metadata or {}).get(b"plan_schema", b"").decode() != PLAN_SCHEMA:
            raise ValueError("it was written by another version")
        rows = table.to_pylist()
        return [PlannedCell(cell_from_row(r), DataSettings.from_columns(r)) for r in rows]
    except (pa.ArrowInvalid, ValueError, KeyError, OSError) as e:
        raise UsageError(f"{folder.plan} can't be used: {e}; start a new one: sweep=NAME") from None


def plan_frame(planned: Sequence[PlannedCell]) -> pd.DataFrame:
    """One row a cell: what is asked of it and of its data."""
    import pandas as pd

    return pd.DataFrame([_row(p) for p in planned])


def join_plan(folder: SweepFolder, planned: Sequence[PlannedCell]) -> list[PlannedCell]:
    """Return the frozen plan with cells added to it; writes nothing.

    Raises:
        UsageError: a cell would stand beside one that differs in recipe, architecture or data
            only; such losses are not one law.
    """
    old = read_plan(folder)
    known = {p.cell.id: p for p in old}
    other = [p for p in planned if known.get(p.cell.id) != p]  # nearly all where it is typed again
    clash = _clash(other, old)
    if clash:
        raise UsageError(
            f"sweep={folder.name} was launched with {clash}; a sweep has one recipe, ladder "
            "and data: give this one its own name with sweep=NAME"
        )
    return old + [p for p in other if p.cell.id not in known]


def freeze_plan(folder: SweepFolder, planned: Sequence[PlannedCell]) -> list[PlannedCell]:
    """Add cells to the frozen plan; those that are in it already stay as they are.

    Returns:
        The whole plan.

    Raises:
        UsageError: as join_plan.
    """
    whole = join_plan(folder, planned)
    write_plan(folder, whole)
    return whole


def write_plan(folder: SweepFolder, whole: Sequence[PlannedCell]) -> None:
    """Write what `join_plan` returned, if that is more than is frozen."""
    if folder.plan.exists() and pq.read_metadata(folder.plan).num_rows == len(whole):
        return
    table = pa.Table.from_pylist([_row(p) for p in whole])
    meta = {**(table.schema.metadata or {}), b"plan_schema": PLAN_SCHEMA.encode()}
    write_table(table.replace_schema_metadata(meta), folder.plan)


def _row(planned: PlannedCell) -> dict[str, Any]:
    return {**cell_to_row(planned.cell), **planned.data.to_columns()}


_SHARED = ("recipe", "schedule", "lr_floor", "beta1", "beta2", "eps", "timescale", "weight_decay", "grad_clip",
           "optimizer", "momentum", "adjust_lr_fn",
           "vocab_size", "seq_len", "architecture", "positions", "tied", "flop_rule",
           "n_expert", "top_k", "n_shared_expert", "granularity", "balance_loss", "router_z_loss",
           "data", "data_revision", "tokenizer", "data_source", "data_path",
           "data_validation_share", "data_val_tokens", "data_mix", "document_mask",
           "data_sources", "data_evals")  # fmt: skip


def _clash(planned: Sequence[PlannedCell], old: Sequence[PlannedCell]) -> str | None:
    """Return the first setting in which a cell differs from the sweep that it would join."""
    if not old or not planned:
        return None
    rows = [_row(p) for p in old]  # all alike in what is shared: each was compared when it came
    at_point = {_point(row): row for row in rows}
    for p in planned:
        row = _row(p)
        by_rule = RULES[p.cell.recipe.rule].decides  # may differ from cell to cell
        if p.cell.recipe.timescale is not None:
            by_rule = (*by_rule, "weight_decay")
        shared = [k for k in _SHARED if k not in by_rule]
        if (row["trunk"] is None) != (rows[0]["trunk"] is None):
            had = str(rows[0]["trunk"] is not None).lower()
            return f"grid.trunks={had}, not {str(row['trunk'] is not None).lower()}"
        theirs = at_point.get(_point(row), {})
        compared = [(rows[0], shared), (theirs, [k for k in theirs if k != "cell_id"])]
        for other, keys in compared:  # what was set first, what follows from it after
            for key in keys:
                mine, had = (None if v != v else v for v in (row[key], other[key]))  # NaN: unset
                if mine != had:
                    return f"{key}={had}, not {mine}"
    return None


def _point(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("budget", "size_id", "seed", "probe"))
