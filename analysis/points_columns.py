"""Columns of a table that a person brings: found by name, chosen, and turned into numbers.

Everything that is wrong with one is one line that names the column and the rows.
"""

import difflib
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.tables import PointsError

CORE = ("N", "D", "C", "loss")
OPTIONAL = ("budget", "size_id", "unique_tokens", "N_active", "seed", "loss_sd", "excluded", "trunk",
            "lr", "batch_tokens", "task_error", "task_loss", "task_accuracy", "granularity",
            "n_expert", "active_share", "D_F", "D_T")  # fmt: skip
ROWS_SHOWN = 8
COLUMNS_SHOWN = 12
_USUAL = {  # what others call ours, likeliest first
    "N": ("params", "parameters", "n_params", "num_params", "model_size", "size"),
    "D": ("tokens", "n_tokens", "num_tokens", "training_tokens", "train_tokens", "data"),
    "C": ("flops", "flop", "compute", "train_flops", "training_flops"),
    "loss": ("val_loss", "valid_loss", "test_loss", "eval_loss", "final_loss", "bpb",
             "bits_per_byte", "cross_entropy", "nll", "loss", "ce"),
}  # fmt: skip
_OF_RECORDS = {"N": "N_flops", "D": "tokens", "C": "flops", "loss": "val_loss"}
_TRUE = {"true", "1", "1.0", "yes", "y", "t"}
_FALSE = {"false", "0", "0.0", "no", "n", "f", "", "nan", "none"}


def renamed(frame: pd.DataFrame, columns: Mapping[str, str], source: str) -> pd.DataFrame:
    """Give the table our names as well as its own.

    Raises:
        PointsError: an unknown name of ours, a column that is not there, or too few columns.
    """
    known = (*CORE, *OPTIONAL)
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
    missing = [c for c in ("N", "D", "C") if c not in frame]
    wanted = [] if "loss" in frame else ["loss"]
    # One of the three may be missing; of two or three, those that have a likely column are asked.
    wanted += sorted(missing, key=lambda c: _likely(c, frame) is None)[: len(missing) - 1]
    if wanted:
        raise PointsError(_missing(wanted, frame, source))
    return frame


def _missing(wanted: list[str], frame: pd.DataFrame, source: str) -> str:
    """Say which columns are not there, and which were probably meant."""
    likely = {c: _likely(c, frame) for c in wanted}
    found = {c: v for c, v in likely.items() if v is not None}
    lacks = f"{source} has no column {' and no '.join(map(repr, wanted))}"
    if len(wanted) > ("loss" in wanted):
        lacks += " (loss and any two of N, D, C are needed)"
    have = ", ".join(map(str, frame.columns[:COLUMNS_SHOWN]))
    more = ", ..." if len(frame.columns) > COLUMNS_SHOWN else ""
    if _are_records(frame):
        named = {ours: theirs for ours, theirs in _OF_RECORDS.items() if ours not in frame}
        keys = " ".join(f"columns.{ours}={theirs}" for ours, theirs in named.items())
        return (
            f"{lacks}; it has records of isoflop, of which the sweep is reported with root=FOLDER "
            f'sweep=NAME, and these runs with {keys} fit.where=\'status == "finished" and '
            "probe.isnull()'"
        )
    if not found:
        return f"{lacks}; it has {have}{more}"
    nearest = " and ".join(map(repr, found.values()))
    keys = " ".join(f"columns.{c}={_quoted(v)}" for c, v in found.items())
    return f"{lacks}; the nearest {'is' if len(found) == 1 else 'are'} {nearest}: {keys}"


def _are_records(frame: pd.DataFrame) -> bool:
    """Whether a table has what a sweep of ours measured."""
    return {"cell_id", *_OF_RECORDS.values()} <= set(frame.columns)


def probes_among(frame: pd.DataFrame) -> list[str]:
    """Say that records of ours have probes among them, which the fit of a sweep leaves out."""
    if (
        not _are_records(frame)
        or "probe" not in frame
        or not (n := int(frame["probe"].notna().sum()))
    ):
        return []
    return [
        f"{n} of {len(frame)} rows are probes of a sweep, whose recipe or seed is not the grid's: "
        "leave them out with fit.where='probe.isnull()'"
    ]


def _likely(name: str, frame: pd.DataFrame) -> str | None:
    """Name the column that was probably meant by one of ours."""
    lower = {"_".join(_words(str(c))): str(c) for c in frame.columns}
    usual = (name.lower(), *_USUAL.get(name, ()))
    exact = [lower[w] for w in usual if w in lower]
    within = [v for word in usual[1:] for c, v in lower.items() if word in c]
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    parts = {part: v for c, v in lower.items() for part in c.split("_")}
    misspelt = [parts[p] for p in difflib.get_close_matches(name.lower(), parts, n=1, cutoff=0.75)]
    return next(iter([*exact, *within, *(lower[c] for c in close), *misspelt]), None)


def _words(name: str) -> list[str]:
    """Lower-case words of a column's name: 'Bits per byte' and bits_per_byte are the same."""
    return re.findall(r"[^\W_]+", name.lower())


def _quoted(name: str) -> str:
    return name if name.replace("_", "").isalnum() else f"'{name}'"


def _nearest(name: str, frame: pd.DataFrame) -> str:
    """Name the column that a person probably meant by a word of their own."""
    lower = {str(c).lower(): str(c) for c in frame.columns}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    if close:
        return f"; the nearest is {lower[close[0]]!r}"
    return f"; it has {', '.join(map(str, frame.columns[:COLUMNS_SHOWN]))}"


def selected(frame: pd.DataFrame, where: str | None, source: str) -> pd.DataFrame:
    """Rows for which a pandas query holds.

    Raises:
        PointsError: the query can't be read, or no row is left.
    """
    if not where:
        return frame
    try:
        chosen = frame.query(where, engine="python")
    except Exception as e:  # pandas raises a dozen types for a wrong expression
        raise PointsError(f"fit.where={where!r}: {type(e).__name__}: {e}".split("\n")[0]) from None
    if not isinstance(chosen, pd.DataFrame) or chosen.empty:
        raise PointsError(f"fit.where={where!r} selects no row of {source} ({len(frame)} rows)")
    return chosen


def flags(frame: pd.DataFrame, source: str) -> NDArray:
    """(n,) bool: the rows that the column excluded marks.

    Raises:
        PointsError: a value that is neither true nor false.
    """
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


def two_of_three(frame: pd.DataFrame, source: str) -> tuple[NDArray, NDArray, NDArray]:
    """N, D and C, each (n,); the one that is not in the table by C = 6ND.

    Raises:
        PointsError: a value that is no positive number, or a product out of range.
    """
    have = {c: numbers(frame, c, source) for c in ("N", "D", "C") if c in frame}
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


def numbers(frame: pd.DataFrame, column: str, source: str) -> NDArray:
    """(n,) finite positive floats of a column, or an error that names the rows."""
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        rows = frame.index[bad]
        listed = ", ".join(map(str, rows[:ROWS_SHOWN])) + (
            ", ..." if len(rows) > ROWS_SHOWN else ""
        )
        first = frame[column][rows[0]]
        shown = repr(first) if isinstance(first, str) else str(first)
        other = f"write plain numbers such as 7e9, or name another column: columns.{column}="
        mend = (
            other
            if bad.all()
            else "mend them, mark them in a column excluded, or leave them out with fit.where="
        )
        raise PointsError(
            f"{source}: {column} is not a positive number in {bad.sum()} of {len(values)} rows "
            f"(row {listed}; the first is {shown}): {mend}"
        )
    return values


def errors_of(frame: pd.DataFrame, column: str, source: str) -> NDArray:
    """(n,) standard errors of a column; an unknown one is the median of the known.

    Raises:
        PointsError: one is negative, infinite or a word.
    """
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    unknown = frame[column].isna().to_numpy()
    bad = ~unknown & ~(np.isfinite(values) & (values >= 0))
    if bad.any() or unknown.all():
        row = frame.index[np.argmax(bad | unknown)]
        raise PointsError(
            f"{source}: {column} is {frame[column][row]!r} in row {row}: a standard error in the "
            "unit of the loss, or empty where it is unknown"
        )
    return np.where(unknown, np.median(values[~unknown]), values)
