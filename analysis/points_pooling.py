"""Rows that should not be in one fit: checkpoints among final losses, and sweeps pooled into one.

The first pair of functions warns; check_columns refuses, since losses under two tokenizers, data
sets, context lengths or recipes are not one quantity.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtrc

from analysis.surface import fit_surface
from analysis.tables import PointsError

# Losses are not comparable across these: spellings of a column, lower case -> what it says.
ONE_VALUE = {
    **dict.fromkeys(("tokenizer", "tokenizer_name"), "tokenizer"),
    **dict.fromkeys(("dataset", "dataset_name", "data_name", "train_data", "training_data",
                     "train_dataset", "corpus", "data_sha256"), "training data"),
    **dict.fromkeys(("vocab_size", "n_vocab"), "vocabulary"),
    **dict.fromkeys(("seq_len", "seq_length", "sequence_length", "context_length", "context_len",
                     "ctx_len", "max_seq_len", "block_size"), "context length"),
    "flop_rule": "FLOP rule", "recipe": "recipe",
}  # fmt: skip
RUN_COLUMNS = ("run", "run_id", "run_name", "runid", "wandb_id", "cell_id", "experiment", "exp",
               "trial", "name")  # fmt: skip
MANY_TOKENS = 12  # D of one size: more than isoFLOP sweeps have budgets
EVEN = 0.02  # relative spread of steps that still are a grid
MOST_VALUES = 30
FEWEST_ROWS = 3  # of a value that is compared with others
SURE = 1e-4  # probability of such ranks where a column says nothing
HEAP = 0.1  # share of the rows that is more than outliers
LEAST_APART = 0.02  # of the loss
SMALL_SHIFT = 1e-3  # of the loss


def check_columns(frame: pd.DataFrame, source: str) -> None:
    """Refuse runs whose losses can't be compared.

    Raises:
        PointsError: a column of ONE_VALUE holds two values.
    """
    for column in frame.columns:
        what = ONE_VALUE.get(str(column).lower())
        values = frame[column].dropna().unique() if what else ()
        if len(values) > 1:
            raise PointsError(
                f"{source} pools {len(values)} values of {column} ({_shown(values)}): losses under "
                f"more than one {what} can't be compared; try "
                f'fit.where="{_name(column)} == {_plain(values[0])!r}" or fit.by={column}'
            )


def mixtures(
    frame: pd.DataFrame, N: NDArray, D: NDArray, loss: NDArray, shared_budgets: bool
) -> Iterator[str]:
    """Say what looks like several things in one table; none of it stops a fit.

    Args:
        frame: the rows in use, with the table's own columns.
        N, D, loss: (n,) of the same rows.
        shared_budgets: whether most runs share a budget with others.
    """
    text = _checkpoints_by_run(frame, N, D) or _checkpoints_by_grid(N, D, shared_budgets)
    if text:
        tokens = "D" if "D" in frame else "C"
        run = text[1]
        yield (
            f"{text[0]}. If they are checkpoints along a run, their learning rate had not decayed "
            "and their losses are higher than those of runs that end there: the loss then seems to "
            "fall faster with D than it does, and exponents and optimum are off. Keep each run's "
            f"last: fit.where=\"{tokens} == {tokens}.groupby({run}).transform('max')\""
        )
    surface = fit_surface(N, D, loss)
    if surface is not None:
        shifted = list(_shifted(frame, N, D, surface.residual))
        yield from shifted or _heaps(surface.residual)


def _checkpoints_by_run(frame: pd.DataFrame, N: NDArray, D: NDArray) -> tuple[str, str] | None:
    """Find runs that a column names and that appear at several D; the text and the column."""
    for column in frame.columns:
        if str(column).lower() not in RUN_COLUMNS or frame[column].isna().any():
            continue
        table = pd.DataFrame({"run": frame[column].to_numpy(), "N": N, "D": D})
        seen = table.groupby("run", sort=False).agg(
            low=("N", "min"), high=("N", "max"), D=("D", "nunique")
        )
        repeated = seen[(seen.D > 1) & (seen.high <= 1.01 * seen.low)]
        if len(repeated) > 1 or (len(repeated) == 1 and repeated.D.iloc[0] > 2):
            first = repeated.index[0]
            return (
                f"{len(repeated)} of {len(seen)} values of {column} appear at several D "
                f"({first} at {repeated.D.iloc[0]})",
                _name(column),
            )
    return None


def _checkpoints_by_grid(N: NDArray, D: NDArray, shared_budgets: bool) -> tuple[str, str] | None:
    """Sizes whose D are evenly spaced, as evaluations along a run are, or very many."""
    even, many = 0, 0
    for size in np.unique(N):
        tokens = np.unique(D[N == size])
        steps = np.diff(tokens)
        if len(tokens) >= 5 and np.std(steps) <= EVEN * np.mean(steps):
            even += int(np.sum(N == size))
        if len(tokens) >= MANY_TOKENS:
            many += int(np.sum(N == size))
    if 2 * even > len(N):
        return f"{even} of {len(N)} rows are of sizes whose D are evenly spaced", "N"
    if 2 * many > len(N) and not shared_budgets:
        return f"{many} of {len(N)} rows are of sizes seen at {MANY_TOKENS} or more D", "N"
    return None


def _heaps(residual: NDArray) -> Iterator[str]:
    """Losses in two heaps with nothing between them: two units, or two sweeps without a name."""
    ordered = np.sort(residual)
    gap = int(np.argmax(np.diff(ordered)))
    low, high = ordered[: gap + 1], ordered[gap + 1 :]
    if min(len(low), len(high)) < max(FEWEST_ROWS, HEAP * len(residual)):
        return
    apart = np.median(high) - np.median(low)
    spread = max(np.ptp(low), np.ptp(high))
    if apart > LEAST_APART and high[0] - low[-1] > spread:
        factor = float(np.exp(apart))
        unit = " (nats and bits differ by 1.44)" if abs(factor - 1 / np.log(2)) < 0.1 else ""
        yield (
            f"at the same N and D, losses fall into two heaps a factor of {factor:.3g} apart, "
            f"{len(low)} and {len(high)} rows{unit}: two units or two sweeps in one table? One law "
            "for both fits neither; fit.where= chooses"
        )


def _shifted(
    frame: pd.DataFrame, N: NDArray, D: NDArray, residual: NDArray
) -> Iterator[str]:  # fmt: skip
    """Columns of words whose values differ in loss at the same N and D, by Kruskal & Wallis."""
    for column in frame.columns:
        if not _is_words(frame[column]) or str(column).lower() in (*RUN_COLUMNS, "trunk"):
            continue
        code, values = pd.factorize(frame[column])
        rows = np.bincount(code[code >= 0], minlength=len(values))
        kept = np.flatnonzero(rows >= FEWEST_ROWS)
        used = np.isin(code, kept)
        if not 1 < len(kept) <= MOST_VALUES or 2 * used.sum() < len(N):
            continue
        if any(_apart(axis[used], code[used]) for axis in (N, D, N * D)):
            continue  # names of sizes or budgets, not of recipes
        middle = np.array([np.median(residual[code == k]) for k in kept])
        if np.ptp(middle) > SMALL_SHIFT and _kruskal(residual[used], code[used]) < SURE:
            yield (
                f"at the same N and D, losses differ by {np.expm1(np.ptp(middle)):.2g} of "
                f"themselves between values of {column} ({_shown(values[kept])}): one law for all "
                f"fits none of them; fit.by={column} fits each"
            )


def _is_words(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)


def _apart(axis: NDArray, code: NDArray) -> bool:
    """Whether the values' ranges along an axis don't overlap."""
    ranges = sorted((axis[code == k].min(), axis[code == k].max()) for k in np.unique(code))
    return all(low[1] < high[0] for low, high in pairwise(ranges))


def _kruskal(residual: NDArray, code: NDArray) -> float:
    """P value of Kruskal & Wallis (1952): whether ranks differ between groups, no ties assumed."""
    n = len(residual)
    rank = np.argsort(np.argsort(residual)) + 1.0
    groups = np.unique(code)
    sums = sum(rank[code == k].sum() ** 2 / np.sum(code == k) for k in groups)
    return float(chdtrc(len(groups) - 1, 12 / (n * (n + 1)) * sums - 3 * (n + 1)))


def _shown(values: NDArray) -> str:
    shown = sorted(str(v) for v in values)
    return ", ".join(shown[:4]) + (", ..." if len(shown) > 4 else "")


def _name(column: str) -> str:
    """Spell a column as a query does."""
    return column if str(column).isidentifier() else f"`{column}`"


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
