"""Approach 1: the lower envelope of training curves, and which size is on it at each compute.

Hoffmann et al. 2022, section 3.1: at each of many C the run with the least loss is the optimal
size. It is right only where every point of a curve could have ended a run there: points of a run
whose learning rate had not decayed are too high, the more the earlier they are.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from analysis.fits_file import Approach1, Pair, Power
from analysis.profiles import power_law
from analysis.tables import PointsError

SKIPPED = "no training curves: give curves=FILE"
GRID = 150  # values of C, equal in log, of which those on one run count once
RUN_COLUMNS = ("run", "cell_id", "name", "size_id")
DECAYED = 0.2  # of the peak learning rate


def approach1(curves: pd.DataFrame | None, level: float) -> Approach1:
    """Fit N_opt and D_opt to the runs on the envelope of their curves.

    Args:
        curves: one row per evaluation: run (or cell_id, name, size_id), N, D and loss, optionally
            C (6ND where absent) and lr (the learning rate there, to see whether it had decayed).
        level: of the exponents' intervals, from the scatter about the line, one point per run.

    Raises:
        PointsError: a column is missing.
    """
    if curves is None:
        return Approach1(Power(), Power(), "skipped", SKIPPED)
    run, N, D, C, loss = _columns(curves)
    # A run that diverged ends with losses that are no numbers: its curve ends before them.
    fine = np.all([np.isfinite(v) & (v > 0) for v in (N, D, C, loss)], axis=0)
    if fine.sum() < 2:
        reason = "no two rows with positive N, D, C and loss"
        return Approach1(Power(), Power(), "too_few", reason)
    curves, run, N, D, C, loss = curves[fine], *(v[fine] for v in (run, N, D, C, loss))
    grid = np.geomspace(C.min(), C.max(), GRID)
    losses = np.stack([_on_grid(grid, C[run == r], loss[run == r]) for r in np.unique(run)])
    sizes = np.array([np.median(N[run == r]) for r in np.unique(run)])
    seen = np.isfinite(losses).any(axis=0)
    best = np.argmin(np.where(np.isfinite(losses), losses, np.inf), axis=0)
    # A stretch of the envelope that one run owns is one observation, at its middle.
    edges = np.flatnonzero(np.diff(best, prepend=-1) != 0)
    stretches = [s for s in np.split(np.arange(GRID), edges[1:]) if seen[s].all()]
    inner = [s for s in stretches if 0 < _rank(sizes, best[s[0]]) < len(np.unique(sizes)) - 1]
    undecayed = _undecayed(curves, run)
    envelope = tuple(_stretch(grid, s, losses, sizes, best) for s in inner)
    if len(inner) < 3:
        reason = f"{len(inner)} sizes are on the envelope inside its ends, 3 are needed"
        return Approach1(Power(), Power(), "too_few", reason, undecayed, envelope)
    at, N_opt = (np.array([e[k] for e in envelope]) for k in ("C", "N"))
    D_opt = np.exp(np.interp(np.log(at), *_sorted(np.log(C), np.log(D * N)))) / N_opt
    reason = None
    if undecayed:
        reason = "the curves' learning rate had not decayed: their early losses are too high"
    return Approach1(_power(at, N_opt, level), _power(at, D_opt, level), "ok", reason, undecayed,
                     envelope)  # fmt: skip


def _columns(curves: pd.DataFrame) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    run_column = next((c for c in RUN_COLUMNS if c in curves), None)
    missing = [c for c in ("N", "D", "loss") if c not in curves]
    if run_column is None or missing:
        what = missing[0] if missing else "run"
        raise PointsError(f"curves have no column {what!r}; they have {', '.join(curves.columns)}")
    C = curves["C"] if "C" in curves else 6 * curves["N"] * curves["D"]
    values = [pd.to_numeric(v, errors="coerce").to_numpy(float)
              for v in (curves["N"], curves["D"], C, curves["loss"])]  # fmt: skip
    return curves[run_column].astype(str).to_numpy(), *values


def _on_grid(grid: NDArray, C: NDArray, loss: NDArray) -> NDArray:
    """Loss of one run at each C, NaN outside its curve."""
    order = np.argsort(C)
    inside = (grid >= C.min()) & (grid <= C.max())
    at = np.exp(np.interp(np.log(grid), np.log(C[order]), np.log(loss[order])))
    return np.where(inside, at, np.nan)


def _rank(sizes: NDArray, index: int) -> int:
    return int(np.searchsorted(np.unique(sizes), sizes[index]))


def _stretch(
    grid: NDArray, stretch: NDArray, losses: NDArray, sizes: NDArray, best: NDArray
) -> dict[str, float]:
    middle = stretch[len(stretch) // 2]
    return {
        "C": float(np.exp(np.mean(np.log(grid[stretch[[0, -1]]])))),
        "N": float(sizes[best[middle]]), "loss": float(losses[best[middle], middle]),
    }  # fmt: skip


def _sorted(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    order = np.argsort(x)
    return x[order], y[order]


def _power(C: NDArray, values: NDArray, level: float) -> Power:
    law = power_law(C, values)
    dof = len(C) - 2
    scatter = np.log(values) - np.log(law(C))
    error = np.sqrt(np.sum(scatter**2) / dof / np.sum((np.log(C) - np.log(C).mean()) ** 2))
    reach = float(stdtrit(dof, (1 + level) / 2) * error)
    ci: Pair = (law.exponent - reach, law.exponent + reach)
    return Power(law.coefficient, law.exponent, ci)


def _undecayed(curves: pd.DataFrame, run: NDArray) -> bool | None:
    """Whether runs have points far from their end at a learning rate that had not decayed."""
    if "lr" not in curves:
        return None
    lr = pd.to_numeric(curves["lr"], errors="coerce").to_numpy(float)
    peak = pd.Series(lr).groupby(run).transform("max").to_numpy()
    return bool(np.mean(lr > DECAYED * peak) > 0.5)
