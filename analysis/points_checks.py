"""What is suspicious about a table whose numbers are all positive: units, swaps, wrong signs."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from analysis.tables import PointsError

FEWEST_TOKENS_PER_PARAM = 0.1
MOST_TOKENS_PER_PARAM = 1e6
COMPUTE_FACTOR = 100.0
ODD_FACTOR = 3.0  # C over 6ND that asks for a look
LEAST_COUNT = 1e4  # no sweep has fewer parameters and fewer tokens in every row
ONE_VALUE = 0.1  # spread in log that is none
GAP = 1e3  # between neighbouring values of N or of D: no ladder has such a step


def check_units(N: NDArray, D: NDArray, C: NDArray, source: str) -> None:
    """Refuse a table whose units are absurd.

    Raises:
        PointsError: two units in N or in D; counts that must be in millions; the middle D/N below
            0.1 or above 1e6; C more than 100x away from 6ND in a row.
    """
    _check_one_unit("N", "parameters", N, source)
    _check_one_unit("D", "tokens", D, source)
    ratio = D / N
    middle = float(np.median(ratio))
    if max(N.max(), D.max()) < LEAST_COUNT:
        raise PointsError(
            f"{source}: N is at most {N.max():.3g} and D at most {D.max():.3g}: N is in parameters "
            "and D in tokens, not in millions or billions"
        )
    if middle < FEWEST_TOKENS_PER_PARAM:
        raise PointsError(
            f"{source}: D/N is {middle:.2g} in the middle row and at most {ratio.max():.2g}: are N "
            "(parameters) and D (tokens) swapped? Swap them with columns.N= and columns.D="
        )
    if middle > MOST_TOKENS_PER_PARAM:
        raise PointsError(
            f"{source}: D/N is {middle:.2g} in the middle row: N is in parameters (not millions), "
            "D in tokens"
        )
    off = np.abs(np.log(C / (6 * N * D))) > np.log(COMPUTE_FACTOR)
    if np.any(off):
        first = int(np.flatnonzero(off)[0])
        raise PointsError(
            f"{source}: C is {C[first] / (6 * N[first] * D[first]):.2g} x 6ND in {off.sum()} of "
            f"{len(C)} rows (the {first + 1}. used row first): C is in FLOPs, N in parameters, D "
            "in tokens, in every row"
        )


def _check_one_unit(name: str, unit: str, values: NDArray, source: str) -> None:
    """Refuse a column whose values fall into two heaps a thousandfold apart."""
    ordered = np.sort(values)
    gap = int(np.argmax(ordered[1:] / ordered[:-1])) if len(values) > 1 else 0
    if len(values) > 1 and ordered[gap + 1] > GAP * ordered[gap]:
        low = int(np.sum(values <= ordered[gap]))
        raise PointsError(
            f"{source}: {name} is at most {ordered[gap]:.3g} in {low} of {len(values)} rows and at "
            f"least {ordered[gap + 1]:.3g} in the others: two units in one column? {name} is in "
            f"{unit} in every row"
        )


def suspicious(N: NDArray, D: NDArray, C: NDArray, loss: NDArray, row: NDArray) -> Iterator[str]:
    """Say what a person should look at; none of it stops a fit."""
    yield from _twins(N, D, loss, row)
    text = inseparable(N, D)
    if text is not None:
        yield f"{text}; the optimum is the law's guess, not the data's"
    if len(loss) > 1 and np.ptp(np.log(loss)) < 1e-9:
        yield f"loss is {loss[0]:.6g} in every row: wrong column?"
    if np.median(D / N) < 1:
        yield (
            f"D/N is {np.median(D / N):.2g} in the middle row: fewer tokens than parameters; are N "
            "and D swapped?"
        )
    off = float(np.median(C / (6 * N * D)))
    if not 1 / ODD_FACTOR < off < ODD_FACTOR:
        yield f"C is {off:.2g} x 6ND in the middle row: another unit, or not all of N in use?"
    if N.max() < 1_000:
        yield "N is below 1,000 parameters in every row: is it in millions or billions?"
    slopes = _slopes(N, D, loss)
    if slopes is not None:
        for name, slope in zip(("N", "D"), slopes, strict=True):
            if slope > 0:
                yield (
                    f"loss grows with {name} (slope {slope:+.2g} in logs, the other held "
                    "fixed): wrong column, or runs that overfit?"
                )


def inseparable(N: NDArray, D: NDArray) -> str | None:
    """Say that N and D move together, or not at all: no law can tell what the loss owes to each."""
    if len(N) < 2:
        return None
    spread = {"N": np.ptp(np.log(N)), "D": np.ptp(np.log(D)), "D/N": np.ptp(np.log(D / N))}
    for name, width in spread.items():
        if width < ONE_VALUE < max(spread.values()):
            return (
                f"{name} hardly varies (all rows within {np.expm1(max(width, 0.005)):.0%}): what "
                "the loss owes to N and what to D can't be told apart"
            )
    return None


def _twins(N: NDArray, D: NDArray, loss: NDArray, row: NDArray) -> Iterator[str]:
    seen: dict[tuple[float, float, float], object] = {}
    pairs = []
    for i in range(len(N)):
        key = (float(N[i]), float(D[i]), float(loss[i]))
        if key in seen:
            pairs.append((seen[key], row[i]))
        seen.setdefault(key, row[i])
    if pairs:
        listed = ", ".join(f"{a} = {b}" for a, b in pairs[:4])
        yield f"{len(pairs)} rows repeat another's N, D and loss (rows {listed}): counted as given"


def _slopes(N: NDArray, D: NDArray, loss: NDArray) -> NDArray | None:
    """(2,) slopes of log loss in log N and log D, each only where 3 standard errors from zero."""
    X = np.column_stack([np.ones(len(N)), np.log(N), np.log(D)])
    if len(N) < 6 or np.linalg.matrix_rank(X) < 3:
        return None
    y = np.log(loss)
    beta, *_ = np.linalg.lstsq(X, y, rcond=None)
    noise = np.sum((y - X @ beta) ** 2) / (len(N) - 3)
    error = np.sqrt(noise * np.diag(np.linalg.inv(X.T @ X)))
    return np.where(np.abs(beta) > 3 * error, beta, 0.0)[1:]
