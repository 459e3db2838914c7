"""Points: the runs that a fit sees, mapped, checked and grouped into budgets.

A points table has any two of N (parameters), D (tokens) and C (FLOPs), and a loss. Everything
that is wrong with one is said in one line, with rows, before any fit starts.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.grouping import Grouping, group_by_compute
from analysis.points_checks import check_units, suspicious
from analysis.tables import PointsError, read_table, sha256_of
from results.record import RecordStatus
from results.store import results_of

__all__ = [
    "Excluded",
    "Points",
    "PointsError",
    "check_comparable",
    "load_points",
    "points_from_frame",
    "points_from_records",
]

SIX_ND_TOLERANCE = 0.01
N_COLUMNS = {
    "flops": "N_flops",
    "total": "N_total",
    "non_embedding": "N_non_embedding",
    "matmul": "N_matmul",
}
_CORE = ("N", "D", "C", "loss")
_OPTIONAL = ("budget", "size_id", "unique_tokens", "N_active", "seed", "loss_sd", "excluded")
_NAMES = ("name", "cell_id", "run", "run_name", "model_name")
# Losses are not comparable across these, so runs that differ in one are never pooled.
_ONE_VALUE = ("tokenizer", "dataset", "data_sha256", "vocab_size", "seq_len", "flop_rule", "recipe")
_TRUE = {"true", "1", "1.0", "yes", "y", "t"}
_FALSE = {"false", "0", "0.0", "no", "n", "f", "", "nan", "none"}


@dataclass(frozen=True)
class Excluded:
    """A run that no fit sees."""

    row: int | str
    reason: str


@dataclass(frozen=True, eq=False)
class Points:
    """Runs that enter a fit; arrays share their length n and are read-only."""

    N: NDArray  # (n,) parameters under N_convention
    D: NDArray  # (n,) training tokens
    C: NDArray  # (n,) training FLOPs under flop_rule
    loss: NDArray  # (n,) loss_unit
    budget: NDArray  # (n,) FLOPs; runs of one budget share the value
    size_id: NDArray  # (n,) of str; runs of one model size share the value
    row: NDArray  # (n,) of int or str: row of the table from 0, or a cell id
    name: NDArray  # (n,) of str: what a person calls the run
    excluded: tuple[Excluded, ...] = ()
    warnings: tuple[str, ...] = ()
    grouping: Grouping = Grouping.GIVEN
    flop_rule: str = "6nd"
    N_convention: str = "given"
    path: str | None = None
    sha256: str | None = None
    loss_unit: str = "nats"
    unique_tokens: NDArray | None = None  # (n,) distinct tokens, where the table has them
    other: pd.DataFrame | None = None  # every column of the table, for fit.by

    def __post_init__(self) -> None:
        for values in (self.N, self.D, self.C, self.loss, self.budget):
            values.setflags(write=False)

    def __len__(self) -> int:
        return len(self.N)

    @property
    def six_nd(self) -> bool:
        """Whether C = 6ND within 1% everywhere, so that optima have their closed form."""
        return bool(np.all(np.abs(self.C / (6 * self.N * self.D) - 1) <= SIX_ND_TOLERANCE))

    @property
    def budgets(self) -> NDArray:
        """Distinct budgets, ascending, FLOPs."""
        return np.unique(self.budget)

    def take(self, keep: NDArray) -> "Points":
        """Return the runs where the boolean mask `keep` (n,) is true, their budgets unchanged."""
        return replace(
            self,
            **{k: getattr(self, k)[keep] for k in (*_CORE, "budget", "size_id", "row", "name")},
            unique_tokens=None if self.unique_tokens is None else self.unique_tokens[keep],
            other=None if self.other is None else self.other[keep].reset_index(drop=True),
        )


def load_points(
    path: Path, columns: Mapping[str, str] | None = None, where: str | None = None
) -> Points:
    """Read a points table.

    Args:
        path: csv, parquet or JSON lines.
        columns: our name -> the table's name, e.g. {"N": "params"}.
        where: a pandas query over the table's own columns, e.g. "D > 1e9 and data == 'c4'".

    Raises:
        PointsError: the file, a column or a value can't be used; one line says which and why.
    """
    path = Path(path)
    points = points_from_frame(read_table(path), columns, where, source=str(path))
    return replace(points, path=str(path), sha256=sha256_of(path))


def points_from_frame(
    frame: pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    *,
    source: str = "the table",
) -> Points:
    """Make points from a DataFrame; as load_points, and `source` names it in errors.

    Raises:
        PointsError: as load_points.
    """
    frame = _renamed(frame.reset_index(drop=True), columns or {}, source)
    frame = _selected(frame, where, source)
    excluded = _flags(frame, source)
    used = frame[~excluded]
    if used.empty:
        raise PointsError(f"{source}: every row is excluded: nothing is left to fit")
    N, D, C = _two_of_three(used, source)
    loss = _numbers(used, "loss", source)
    check_units(N, D, C, source)
    budget, grouping = _budgets(used, C, source)
    points = Points(
        N=N, D=D, C=C, loss=loss, budget=budget, grouping=grouping,
        size_id=_size_ids(used, N), row=used.index.to_numpy(), name=_names(used, N, D),
        excluded=tuple(Excluded(int(i), "marked in the column excluded")
                       for i in frame.index[excluded]),
        unique_tokens=_numbers(used, "unique_tokens", source) if "unique_tokens" in used else None,
        other=used.reset_index(drop=True),
    )  # fmt: skip
    return replace(
        points,
        flop_rule="6nd" if points.six_nd else "given",
        warnings=tuple(suspicious(N, D, loss, points.row)),
    )


def points_from_records(records: pd.DataFrame, N_convention: str = "flops") -> Points:
    """Make points from our own records: each cell's result, finished ones only.

    Args:
        records: columns of results.record.Record, one row per attempt.
        N_convention: flops (C / 6D: C = 6ND holds under any flop rule), total, non_embedding
            or matmul.

    Raises:
        PointsError: unknown convention, nothing finished, or cells that can't be compared.
    """
    if N_convention not in N_COLUMNS:
        raise PointsError(f"fit.N={N_convention} is unknown: use one of {', '.join(N_COLUMNS)}")
    cells = results_of(records)
    usable = (cells["status"] == RecordStatus.FINISHED) & np.isfinite(cells["val_loss"])
    used = cells[usable].reset_index(drop=True)
    if used.empty:
        raise PointsError("no finished cell to fit: see isoflop status, then isoflop launch")
    points = Points(
        N=used[N_COLUMNS[N_convention]].to_numpy(float), D=used["tokens"].to_numpy(float),
        C=used["flops"].to_numpy(float), loss=used["val_loss"].to_numpy(float),
        budget=used["budget"].to_numpy(float), size_id=used["size_id"].to_numpy(object),
        row=used["cell_id"].to_numpy(object), name=used["cell_id"].to_numpy(object),
        excluded=tuple(Excluded(r.cell_id, f"{r.status}: {r.reason or 'no reason recorded'}")
                       for r in cells[~usable].itertuples()),
        flop_rule=str(used["flop_rule"].iloc[0]), N_convention=N_convention,
        unique_tokens=used["unique_tokens"].to_numpy(float), other=used,
    )  # fmt: skip
    notes = suspicious(points.N, points.D, points.loss, points.row)
    return replace(points, warnings=tuple(notes))


def check_comparable(points: Points) -> None:
    """Refuse runs whose losses can't be compared.

    Raises:
        PointsError: two tokenizers, data sets, vocabularies, context lengths or flop rules.
    """
    for column in _ONE_VALUE if points.other is not None else ():
        values = points.other[column].dropna().unique() if column in points.other else ()
        if len(values) > 1:
            shown = ", ".join(sorted(map(str, values))[:4])
            raise PointsError(
                f"{points.path or 'the table'} pools {len(values)} values of {column} ({shown}): "
                f'their losses can\'t be compared; try fit.where="{column} == {values[0]!r}" or '
                f"fit.by={column}"
            )


def _renamed(frame: pd.DataFrame, columns: Mapping[str, str], source: str) -> pd.DataFrame:
    known = (*_CORE, *_OPTIONAL)
    for ours, theirs in columns.items():
        if ours not in known:
            raise PointsError(f"columns.{ours}: unknown; use one of {', '.join(known)}")
        if theirs not in frame:
            raise PointsError(
                f"columns.{ours}={theirs}: {source} has no column {theirs!r}"
                f"{_nearest(theirs, frame)}"
            )
    # A copy, not a rename: fit.where and fit.by keep the table's own names.
    frame = frame.assign(**{ours: frame[theirs] for ours, theirs in columns.items()})
    if "loss" not in frame:
        raise PointsError(f"{source} has no column 'loss'{_nearest('loss', frame)}")
    missing = [c for c in ("N", "D", "C") if c not in frame]
    if len(missing) > 1:
        raise PointsError(
            f"{source} has no column {missing[0]!r} nor {missing[1]!r} and two of N, D, C are "
            f"needed{_nearest(missing[0], frame)}"
        )
    return frame


def _nearest(name: str, frame: pd.DataFrame) -> str:
    """Name the column that was probably meant."""
    usual = {
        "N": ("params", "parameters", "n_params", "num_params", "model_size", "size"),
        "D": ("tokens", "n_tokens", "num_tokens", "training_tokens", "train_tokens", "data"),
        "C": ("flops", "flop", "compute", "train_flops", "training_flops"),
        "loss": ("val_loss", "valid_loss", "test_loss", "eval_loss", "final_loss", "ce"),
    }.get(name, ())
    lower = {str(c).lower(): str(c) for c in frame.columns}
    hits = [lower[w] for w in (name.lower(), *usual) if w in lower]
    if not hits:
        close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
        hits = [lower[c] for c in close] or [lower[c] for word in usual for c in lower if word in c]
    if hits and name in (*_CORE, *_OPTIONAL):
        return f"; the nearest is {hits[0]!r}: columns.{name}={hits[0]}"
    if hits:
        return f"; the nearest is {hits[0]!r}"
    return f"; it has {', '.join(map(str, frame.columns[:8]))}"


def _selected(frame: pd.DataFrame, where: str | None, source: str) -> pd.DataFrame:
    if not where:
        return frame
    try:
        chosen = frame.query(where, engine="python")
    except Exception as e:  # pandas raises a dozen types for a wrong expression
        raise PointsError(f"fit.where={where!r}: {type(e).__name__}: {e}".split("\n")[0]) from None
    if not isinstance(chosen, pd.DataFrame) or chosen.empty:
        raise PointsError(f"fit.where={where!r} selects no row of {source} ({len(frame)} rows)")
    return chosen


def _flags(frame: pd.DataFrame, source: str) -> NDArray:
    if "excluded" not in frame:
        return np.zeros(len(frame), dtype=bool)
    text = frame["excluded"].astype(str).str.strip().str.lower()
    unclear = ~text.isin(_TRUE | _FALSE)
    if unclear.any():
        row = frame.index[unclear][0]
        raise PointsError(
            f"{source}: excluded is {frame['excluded'][row]!r} in row {row}: use true or false"
        )
    return text.isin(_TRUE).to_numpy()


def _two_of_three(frame: pd.DataFrame, source: str) -> tuple[NDArray, NDArray, NDArray]:
    have = {c: _numbers(frame, c, source) for c in ("N", "D", "C") if c in frame}
    with np.errstate(over="ignore", under="ignore"):
        if "C" not in have:
            have["C"] = 6 * have["N"] * have["D"]
        elif "D" not in have:
            have["D"] = have["C"] / (6 * have["N"])
        elif "N" not in have:
            have["N"] = have["C"] / (6 * have["D"])
    for name, values in have.items():
        if not np.all(np.isfinite(values) & (values > 0)):
            raise PointsError(f"{source}: {name} made from C = 6ND leaves the range of floats")
    return have["N"], have["D"], have["C"]


def _numbers(frame: pd.DataFrame, column: str, source: str) -> NDArray:
    """(n,) finite positive floats of a column, or an error that names the rows."""
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        rows = frame.index[bad]
        listed = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        raise PointsError(
            f"{source}: {column} is not a positive number in {bad.sum()} of {len(values)} rows "
            f"(row {listed}; the first is {frame[column][rows[0]]!r}): mend them, mark them in a "
            "column excluded, or leave them out with fit.where="
        )
    return values


def _budgets(frame: pd.DataFrame, C: NDArray, source: str) -> tuple[NDArray, Grouping]:
    if "budget" in frame:
        return _numbers(frame, "budget", source), Grouping.GIVEN
    return group_by_compute(C)


def _size_ids(frame: pd.DataFrame, N: NDArray) -> NDArray:
    """Model sizes as given, else runs whose N agree to six digits."""
    if "size_id" in frame:
        return frame["size_id"].astype(str).to_numpy(object)
    return np.array([f"{n:.5e}" for n in N], dtype=object)


def _names(frame: pd.DataFrame, N: NDArray, D: NDArray) -> NDArray:
    for column in _NAMES:
        if column in frame and frame[column].notna().all():
            return frame[column].astype(str).to_numpy(object)
    return np.array([f"N={n:.3g} D={d:.3g}" for n, d in zip(N, D, strict=True)], dtype=object)
