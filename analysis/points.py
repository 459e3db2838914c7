"""Points: the runs that a fit sees, mapped, checked and grouped into budgets.

A points table has any two of N (parameters), D (tokens) and C (FLOPs), and a loss. Everything
that is wrong with one is said in one line, with rows, before any fit starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.grouping import Grouping, group_by_compute
from analysis.points_checks import check_units, suspicious
from analysis.points_columns import (
    CORE,
    errors_of,
    flags,
    numbers,
    probes_among,
    renamed,
    selected,
    two_of_three,
)
from analysis.points_pooling import check_columns, mixtures
from analysis.surface import measurement_weights
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
    "with_warnings",
]

SIX_ND_TOLERANCE = 0.01
N_COLUMNS = {
    "flops": "N_flops",
    "total": "N_total",
    "non_embedding": "N_non_embedding",
    "matmul": "N_matmul",
    "active": "N_active",
}
_NAMES = ("name", "cell_id", "run", "run_name", "model_name")


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
    weight: NDArray | None = None  # (n,) of rows, mean 1, where the table has loss_sd
    trunk: NDArray | None = None  # (n,) of str: runs that share a trunk share the value
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
    def row_weights(self) -> NDArray:
        """(n,) weights of the rows, mean 1 over the table; ones where no loss_sd was given."""
        return np.ones(len(self)) if self.weight is None else self.weight

    @property
    def budgets(self) -> NDArray:
        """Distinct budgets, ascending, FLOPs."""
        return np.unique(self.budget)

    def take(self, keep: NDArray) -> "Points":
        """Return the runs where the boolean mask `keep` (n,) is true, their budgets unchanged."""
        return replace(
            self,
            **{k: getattr(self, k)[keep] for k in (*CORE, "budget", "size_id", "row", "name")},
            unique_tokens=None if self.unique_tokens is None else self.unique_tokens[keep],
            weight=None if self.weight is None else self.weight[keep],
            trunk=None if self.trunk is None else self.trunk[keep],
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
    frame = renamed(frame.reset_index(drop=True), columns or {}, source)
    frame = selected(frame, where, source)
    excluded = flags(frame, source)
    used = frame[~excluded]
    if used.empty:
        raise PointsError(f"{source}: every row is excluded: nothing is left to fit")
    N, D, C = two_of_three(used, source)
    loss = numbers(used, "loss", source)
    check_units(N, D, C, source)
    budget, grouping = _budgets(used, C, source)
    loss_sd = errors_of(used, "loss_sd", source) if "loss_sd" in used else None
    points = Points(
        N=N, D=D, C=C, loss=loss, budget=budget, grouping=grouping,
        size_id=_size_ids(used, N), row=used.index.to_numpy(), name=_names(used, N, D),
        excluded=tuple(Excluded(int(i), "marked in the column excluded")
                       for i in frame.index[excluded]),
        unique_tokens=numbers(used, "unique_tokens", source) if "unique_tokens" in used else None,
        weight=None if loss_sd is None else measurement_weights(N, D, loss, loss_sd),
        trunk=_trunks(used),
        other=used.reset_index(drop=True),
    )  # fmt: skip
    return with_warnings(replace(points, flop_rule="6nd" if points.six_nd else "given"))


def with_warnings(points: Points) -> Points:
    """Return the runs with everything that is suspicious about them in `warnings`."""
    notes = list(suspicious(points.N, points.D, points.C, points.loss, points.row))
    if points.N_convention == "given" and points.other is not None:
        shared = points.grouping is not Grouping.LOG_BINS
        notes += probes_among(points.other)
        notes += mixtures(points.other, points.N, points.D, points.loss, shared)
    repeated = 0 if points.unique_tokens is None else np.sum(points.D > 4 * points.unique_tokens)
    if repeated:
        notes.append(
            f"{repeated} of {len(points)} rows see their data more than four times, where repeated "
            'tokens are worth less: fit.law=data_constrained, or fit.where="D <= 4 * unique_tokens"'
        )
    if points.weight is not None:
        low, high = points.weight.min(), points.weight.max()
        notes.append(f"loss_sd is used: rows weigh {low:.2g} to {high:.2g}, 1 on average")
    return replace(points, warnings=tuple(notes))


def points_from_records(records: pd.DataFrame, N_convention: str = "flops") -> Points:
    """Make points from our own records: each cell's result, finished ones only.

    Args:
        records: columns of results.record.Record, one row per attempt.
        N_convention: flops (C / 6D: C = 6ND holds under any flop rule), total, non_embedding,
            matmul or active.

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
        unique_tokens=used["unique_tokens"].to_numpy(float), trunk=_trunks(used), other=used,
    )  # fmt: skip
    return with_warnings(points)


def check_comparable(points: Points) -> None:
    """Refuse runs whose losses can't be compared.

    Raises:
        PointsError: two tokenizers, data sets, vocabularies, context lengths or flop rules.
    """
    if points.other is not None:
        check_columns(points.other, points.path or "the table")


def _budgets(frame: pd.DataFrame, C: NDArray, source: str) -> tuple[NDArray, Grouping]:
    if "budget" in frame:
        return numbers(frame, "budget", source), Grouping.GIVEN
    return group_by_compute(C)


def _size_ids(frame: pd.DataFrame, N: NDArray) -> NDArray:
    """Model sizes as given, else runs whose N agree to six digits."""
    if "size_id" in frame:
        return frame["size_id"].astype(str).to_numpy(object)
    return np.array([f"{n:.5e}" for n in N], dtype=object)


def _trunks(frame: pd.DataFrame) -> NDArray | None:
    """(n,) trunk of each run, one that shares none alone; None where no run names one."""
    if "trunk" not in frame or frame["trunk"].isna().all():
        return None
    own = pd.Series([f"row {i}" for i in range(len(frame))], frame.index)
    return frame["trunk"].where(frame["trunk"].notna(), own).astype(str).to_numpy(object)


def _names(frame: pd.DataFrame, N: NDArray, D: NDArray) -> NDArray:
    for column in _NAMES:
        if column in frame and frame[column].notna().all():
            return frame[column].astype(str).to_numpy(object)
    return np.array([f"N={n:.3g} D={d:.3g}" for n, d in zip(N, D, strict=True)], dtype=object)
