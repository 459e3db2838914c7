"""Does the recipe transfer? The verdict of its probes on a sweep.

A fit and its hold-out share a recipe, so neither sees that the recipe is off at one end; the probes
do (analysis/recipe_probes.py): the same cells at half and twice the learning rate, at twice the
batch, and with other seeds. docs/method.md section 3 has the rule and how often it is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import fdtri

from analysis.fits_file import plain_json
from analysis.recipe_probes import (
    FALSE_ALARM,
    LEVEL,
    LIMIT,
    NAN,
    NO_SEEDS,
    CellStatus,
    Curvatures,
    Noise,
    ProbedCell,
    curvatures,
    excess_of,
    judge,
    noise_of,
    probed_cells,
)
from results.store import results_of


class Verdict(StrEnum):
    """What the probes say; `not_probed` also where there are some and they can't tell."""

    TRANSFERRED = "transferred"
    NOT_TRANSFERRED = "not_transferred"
    NOT_PROBED = "not_probed"


@dataclass(frozen=True)
class Transfer:
    """The verdict on a sweep's recipe."""

    verdict: Verdict
    reason: str
    cells: tuple[ProbedCell, ...] = ()
    noise: Noise = NO_SEEDS
    hidden: float = NAN  # excess that the noise would hide where learning rate matters least
    drift: float = NAN  # exponent of (best lr / recipe's lr) in D, over all probed cells
    drift_interval: tuple[float, float] = (NAN, NAN)

    @property
    def line(self) -> str:
        """One line for a person."""
        return f"recipe {self.verdict}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values; unknown is None."""
        return plain_json(self) | {"limit": LIMIT, "level": LEVEL}


def transfer(records: pd.DataFrame) -> Transfer:
    """Judge the recipe of one sweep by its probes.

    `not_transferred` needs a cell whose excess is above LIMIT or whose best learning rate is at the
    probes' edge, beyond what noise does to one cell of so many; or the same of a smooth
    dependence on D through all cells. `transferred` needs every probe ended, no such cell even
    within the noise, and noise that would not hide LIMIT. Else the probes can't tell, and the
    verdict is `not_probed`.

    Args:
        records: columns of results.record.Record, one row an attempt.
    """
    results = results_of(records)
    cells, noise = probed_cells(results), noise_of(results)
    complete = [c for c in cells if c.complete]
    if not complete:
        why = (
            f"none of {len(cells)} probed cells has ended"
            if cells
            else "there are no probes (grid.probe=false)"
        )
        return Transfer(Verdict.NOT_PROBED, why, tuple(cells), noise)
    bends = curvatures(complete, noise)
    judged = {c.cell_id: c for c in judge(complete, bends, noise)}
    drift, drift_interval = _drift(complete, bends, noise)
    found = Transfer(
        verdict=Verdict.NOT_PROBED, reason="", noise=noise, hidden=_hidden(complete, bends, noise),
        cells=tuple(judged.get(c.cell_id, c) for c in cells),
        drift=drift, drift_interval=drift_interval,
    )  # fmt: skip
    verdict, reason = _verdict(found, _together(complete, bends, noise))
    return replace(found, verdict=verdict, reason=reason)


def _hidden(cells: Sequence[ProbedCell], bends: Curvatures, noise: Noise) -> float:
    """Upper end of the interval of a perfectly tuned cell, in the least resolved one."""
    if not noise.df:
        return NAN
    p = (1 + LEVEL) / 2
    return max(excess_of(noise.far(p, 0.5 / c.seeds), bends.of[c.cell_id]) for c in cells)


@dataclass(frozen=True)
class _AlongD:
    """Slopes of cells with a parabola, linear in log2 D."""

    coefficients: NDArray  # (2,): at the mean of log2 D, and per octave of D
    fitted: NDArray  # (n,)
    spread: float  # sum of squares of centred log2 D
    variance: float  # of one slope, in variances of one run


def _along_D(cells: Sequence[ProbedCell]) -> _AlongD | None:
    """Fit a line; None with fewer than three distinct D."""
    whole = [c for c in cells if c.has_parabola]
    if len({c.D for c in whole}) < 3:
        return None
    x = np.log2([c.D for c in whole])
    X = np.column_stack([np.ones(len(x)), x - x.mean()])
    found = np.linalg.lstsq(X, np.array([c.slope for c in whole]), rcond=None)[0]
    variance = float(np.mean([0.5 / c.seeds for c in whole]))
    return _AlongD(found, X @ found, float((X[:, 1] ** 2).sum()), variance)


def _drift(
    cells: Sequence[ProbedCell], bends: Curvatures, noise: Noise
) -> tuple[float, tuple[float, float]]:
    """How the best learning rate drifts from the recipe's as D grows: an exponent, its interval.

    Over twice the mean curvature, slopes are octaves, so this is octaves per octave of D.
    """
    along = _along_D(cells)
    if along is None or not bends.resolved:
        return NAN, (NAN, NAN)
    drift = -float(along.coefficients[1]) / (2 * bends.mean)
    far = noise.far((1 + LEVEL) / 2, along.variance / along.spread) / (2 * bends.mean)
    return drift, (drift - far, drift + far) if noise.df else (NAN, NAN)


def _together(cells: Sequence[ProbedCell], bends: Curvatures, noise: Noise) -> float:
    """Largest excess of slopes linear in log D; 0 unless they differ from 0 by more than noise.

    An F test of offset and slope together: it sees what no single cell shows.
    """
    along = _along_D(cells)
    if along is None or not noise.sd > 0:
        return 0.0
    F = float((along.fitted**2).sum()) / 2 / (along.variance * noise.sd**2)
    if F <= fdtri(2, noise.df, 1 - FALSE_ALARM):
        return 0.0
    return max(excess_of(abs(s), bends.mean) for s in along.fitted)


def _verdict(t: Transfer, together: float) -> tuple[Verdict, str]:
    of = {status: [c for c in t.cells if c.status is status] for status in CellStatus}
    if over := of[CellStatus.OVER]:
        worst = max(over, key=lambda c: max(c.excess, np.nan_to_num(c.batch_excess)))
        others = f", and {len(over) - 1} more" if len(over) > 1 else ""
        return Verdict.NOT_TRANSFERRED, f"{_in_words(worst)}{_held(worst)}{others}{_of_drift(t)}"
    if together > LIMIT:
        return Verdict.NOT_TRANSFERRED, (
            "no single cell shows it beyond the noise, but together the probes put the excess at "
            f"{together:.2%} somewhere{_of_drift(t)}"
        )
    if missing := of[CellStatus.INCOMPLETE]:
        names = ", ".join(c.cell_id for c in missing)
        return Verdict.NOT_PROBED, f"runs of the probed cells {names} have not ended"
    if t.hidden > LIMIT:
        return Verdict.NOT_PROBED, (
            f"probed, but a seed noise of {t.noise.sd:.2%} would hide an excess of {t.hidden:.2%} "
            f"(limit {LIMIT:.1%}), so the probes can't tell: more grid.seeds, or larger budgets"
        )
    if unclear := of[CellStatus.UNCLEAR]:
        return Verdict.NOT_PROBED, (
            f"probed, but {_in_words(unclear[0])}, which a seed noise of {t.noise.sd:.2%} explains "
            "too, so the probes can't tell: more grid.seeds"
        )
    return Verdict.TRANSFERRED, _all_well(t)


def _in_words(c: ProbedCell) -> str:
    """Say what is wrong with one cell."""
    if np.nan_to_num(c.batch_excess) > max(c.excess, LIMIT):
        return (
            f"{c.cell_id} is {c.batch_excess:.2%} better at twice the batch"
            f"{_span(c.batch_interval)}"
        )
    if not c.at_edge:
        return f"{c.cell_id} is {c.excess:.2%} above its tuned loss{_span(c.interval)}"
    side = "half" if c.loss_half < c.loss_double else "twice"
    return (
        f"{c.cell_id} is best at or beyond {side} the learning rate, "
        f"{c.excess:.2%} or more below{_span(c.interval)}"
    )


def _span(interval: tuple[float, float]) -> str:
    low, high = interval
    if np.isnan(low):
        return " (no seeds, so no interval)"
    return f" ({LEVEL:.0%}: {low:.2%} .. {high:.2%})"


def _held(c: ProbedCell) -> str:
    """Say which side decides where a bracketed cell's interval holds the limit."""
    low, high = c.interval
    if c.at_edge or not low <= LIMIT <= high:
        return ""
    return f"; that holds {LIMIT:.1%}, and the best estimate decides"


def _of_drift(t: Transfer) -> str:
    low, high = t.drift_interval
    if np.isnan(low) or low <= 0 <= high:
        return ""
    span = f"({low:.2f} .. {high:.2f})"
    return f"; the best learning rate drifts from the recipe's as D^{t.drift:.2f} {span}"


def _all_well(t: Transfer) -> str:
    worst = max(t.cells, key=lambda c: c.excess)
    budgets = len({c.budget for c in t.cells})
    text = f"{len(t.cells)} cells of {budgets} budgets: at most {worst.excess:.2%} above tuned"
    text += _span(worst.interval)
    farthest = max(c.interval[1] for c in t.cells)
    if farthest > LIMIT:
        text += f"; an interval reaches {farthest:.2%}, but no best estimate is above {LIMIT:.1%}"
    if t.noise.df:
        text += f"; seed noise {t.noise.sd:.2%} ({t.noise.df} degrees of freedom)"
    return text + ("; one budget can't show drift" if budgets == 1 else "")
