"""What the probes of one cell say: the loss that its learning rate and its batch give away.

With y the log loss and x the octaves of learning rate, a parabola goes through the runs at half,
once and twice the recipe's. Its slope b and curvature c at the recipe give the best learning rate,
x = -b / 2c, and the excess loss over it, b^2 / 4c. Other seeds give the noise of y. docs/method.md
section 3 has the formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from results.record import Probe, RecordStatus

LIMIT = 0.005  # excess loss above which a recipe is not tuned
LEVEL = 0.9  # of intervals
FALSE_ALARM = 0.05  # over all cells of a tuned sweep, for each test
NAN = float("nan")
_LR = {Probe.LR_HALF: "loss_half", Probe.LR_DOUBLE: "loss_double"}


class CellStatus(StrEnum):
    """What the probes of one cell say."""

    WITHIN = "within"  # the best estimate is at most LIMIT, and bracketed
    OVER = "over"  # above LIMIT or at the probes' edge, beyond the noise
    UNCLEAR = "unclear"  # the same within the noise
    INCOMPLETE = "incomplete"  # a run is missing


@dataclass(frozen=True)
class ProbedCell:
    """One cell, its probes, and what they say.

    Losses in nats/token, inf where a run diverged; geometric means where the grid has seeds.
    """

    cell_id: str
    budget: float  # FLOPs
    size_id: str
    N: float  # N_flops
    D: float  # tokens
    lr: float
    loss: float
    loss_half: float  # at half the learning rate
    loss_double: float
    loss_batch_double: float  # NaN where the batch was not probed
    seeds: int = 1  # that each loss is the mean of
    status: CellStatus = CellStatus.INCOMPLETE
    best_factor: float = NAN  # best learning rate over the recipe's; NaN where it is not resolved
    at_edge: bool = False  # the best learning rate is at or beyond x1/2 or x2
    excess: float = NAN  # of log loss over the tuned learning rate; at the edge, at least this
    interval: tuple[float, float] = (NAN, NAN)  # of excess, from the noise floor
    batch_excess: float = NAN  # of log loss over that at twice the batch
    batch_interval: tuple[float, float] = (NAN, NAN)

    @property
    def complete(self) -> bool:
        """Whether every learning rate ended, be it by diverging."""
        return bool(
            np.isfinite(self.loss) and not np.isnan([self.loss_half, self.loss_double]).any()
        )

    @property
    def has_parabola(self) -> bool:
        """Whether none diverged."""
        return bool(np.isfinite([self.loss_half, self.loss, self.loss_double]).all())

    @property
    def slope(self) -> float:
        """Change of log loss per octave of learning rate at the recipe; variance s^2/2 a seed."""
        return float(np.log(self.loss_double / self.loss_half) / 2)

    @property
    def bend(self) -> float:
        """Curvature of log loss per squared octave; variance 3 s^2/2 a seed."""
        return float(np.log(self.loss_half * self.loss_double / self.loss**2) / 2)


@dataclass(frozen=True)
class Noise:
    """Standard deviation of log loss between seeds, pooled over cells; NaN without seeds."""

    sd: float
    df: int

    def far(self, p: float, variance: float) -> float:
        """Student's t at p times the error of a number with so many variances of one run.

        0 without seeds: then point estimates are all there is.
        """
        return float(stdtrit(self.df, p)) * self.sd * variance**0.5 if self.df else 0.0


NO_SEEDS = Noise(NAN, 0)


@dataclass(frozen=True)
class Curvatures:
    """Curvature of each cell, and whether noise leaves their mean above twice its error."""

    of: dict[str, float]  # by cell id; at least 0
    resolved: bool

    @property
    def mean(self) -> float:
        """Mean over cells."""
        return float(np.mean(list(self.of.values())))


def probed_cells(results: pd.DataFrame) -> list[ProbedCell]:
    """Cells with a learning-rate probe, run or failed, by budget and N; nothing judged yet.

    Cells that differ in nothing but the seed are one.

    Args:
        results: one row a cell, columns of results.record.Record.
    """
    probes = results[results["probe"].notna() & (results["probe"] != Probe.SEED)]
    by_cell: dict[str, dict[str, float]] = {}
    for row in probes.itertuples():
        by_cell.setdefault(row.probe_of, {})[row.probe] = _loss(row)
    own = results[results["cell_id"].isin(by_cell)].sort_values(["budget", "N_flops", "seed"])
    cells = [
        ProbedCell(
            cell_id=row.cell_id, budget=row.budget, size_id=row.size_id, N=row.N_flops,
            D=float(row.tokens), lr=row.lr, loss=_loss(row),
            loss_batch_double=by_cell[row.cell_id].get(Probe.BATCH_DOUBLE, NAN),
            **{field: by_cell[row.cell_id].get(kind, NAN) for kind, field in _LR.items()},
        )
        for row in own.itertuples()
        if by_cell[row.cell_id].keys() & _LR.keys()
    ]  # fmt: skip
    same = groupby(cells, key=lambda c: (c.budget, c.N, c.size_id, c.D, c.lr))
    return [_mean_of_seeds(list(group)) for _, group in same]


def _mean_of_seeds(cells: list[ProbedCell]) -> ProbedCell:
    """Return the first cell with mean log losses; NaN and inf stay what they are."""
    losses = ("loss", "loss_half", "loss_double", "loss_batch_double")
    mean = {k: float(np.exp(np.mean(np.log([getattr(c, k) for c in cells])))) for k in losses}
    return replace(cells[0], seeds=len(cells), **mean) if len(cells) > 1 else cells[0]


def noise_of(results: pd.DataFrame) -> Noise:
    """Pool log-loss variances over cells that differ in nothing but the seed."""
    usable = (results["status"] == RecordStatus.FINISHED) & np.isfinite(results["val_loss"])
    seeds = results[usable & (results["probe"].isna() | (results["probe"] == Probe.SEED))]
    same = ["budget", "size_id", "lr", "batch_tokens", "steps"]
    log_loss = np.log(seeds["val_loss"].astype(float)).groupby([seeds[k] for k in same])
    free = log_loss.size() - 1
    df = int(free.sum())
    if not df:
        return NO_SEEDS
    return Noise((float((log_loss.var(ddof=1).fillna(0) * free).sum()) / df) ** 0.5, df)


def curvatures(cells: Sequence[ProbedCell], noise: Noise) -> Curvatures:
    """Give each cell its own curvature as far as noise lets it speak, and else their mean.

    Empirical Bayes (Efron and Morris 1975): the weight of the own one is the share of true
    differences in what the cells differ by. A cell of which a run diverged has the mean.
    """
    whole = [c for c in cells if c.has_parabola]
    own = np.array([c.bend for c in whole])
    mean = float(own.mean()) if len(own) else 0.0
    variance = (
        float(np.mean([1.5 * noise.sd**2 / c.seeds for c in whole or cells])) if noise.df else 0.0
    )
    between = max(0.0, float(own.var(ddof=1)) - variance) if len(own) > 1 else 0.0
    weight = between / (between + variance) if variance else 1.0
    shrunk = {c.cell_id: mean + weight * (c.bend - mean) for c in whole}
    resolved = len(own) > 0 and mean > 2 * (variance / len(own)) ** 0.5
    return Curvatures({c.cell_id: max(0.0, shrunk.get(c.cell_id, mean)) for c in cells}, resolved)


def judge(cells: Sequence[ProbedCell], bends: Curvatures, noise: Noise) -> list[ProbedCell]:
    """Judge complete cells; what counts as beyond the noise allows for how many tests there are."""
    tests = len(cells) + sum(np.isfinite(c.loss_batch_double) for c in cells)
    beyond = 1 - FALSE_ALARM / (2 * tests)
    judged = []
    for c in cells:
        c, lr_over, lr_unclear = _judge_lr(c, bends, noise, beyond)
        c, batch_over, batch_unclear = _judge_batch(c, noise, beyond)
        status = CellStatus.UNCLEAR if lr_unclear or batch_unclear else CellStatus.WITHIN
        judged.append(replace(c, status=CellStatus.OVER if lr_over or batch_over else status))
    return judged


def excess_of(slope: float, curvature: float) -> float:
    """Log loss above the parabola's vertex, b^2 / 4c; beyond an octave, above its value there."""
    if slope < 2 * curvature:
        return float(slope**2 / (4 * curvature))
    return float(slope - curvature)


def _judge_lr(
    c: ProbedCell, bends: Curvatures, noise: Noise, beyond: float
) -> tuple[ProbedCell, bool, bool]:
    """Return the cell with what its learning rates say, whether it is over, and whether unclear."""
    if c.has_parabola:
        slope, bend, variance = c.slope, bends.of[c.cell_id], 0.5 / c.seeds
    else:
        other = min(c.loss_half, c.loss_double)
        slope, bend, variance = _gain(c.loss, other), 0.0, 2.0 / c.seeds
    steep, far = abs(slope), noise.far((1 + LEVEL) / 2, variance)
    excess, at_edge = excess_of(steep, bend), slope != 0 and steep >= 2 * bend
    interval = (excess_of(max(0.0, steep - far), bend), excess_of(steep + far, bend))
    factor = 2 ** (-slope / (2 * bend)) if bends.resolved and bend > 0 else NAN
    too_much, certain = excess > LIMIT or at_edge, steep > noise.far(beyond, variance)
    c = replace(
        c, excess=excess, at_edge=at_edge, best_factor=factor,
        interval=interval if noise.df else (NAN, NAN),
    )  # fmt: skip
    return c, too_much and certain, too_much and not certain


def _judge_batch(c: ProbedCell, noise: Noise, beyond: float) -> tuple[ProbedCell, bool, bool]:
    """Return what twice the batch says; it has one side only, so nothing is at its edge."""
    if np.isnan(c.loss_batch_double):
        return c, False, False
    gain, variance = _gain(c.loss, c.loss_batch_double), 2.0 / c.seeds
    far = noise.far((1 + LEVEL) / 2, variance)
    too_much, certain = gain > LIMIT, gain > noise.far(beyond, variance)
    c = replace(
        c, batch_excess=gain,
        batch_interval=(max(0.0, gain - far), gain + far) if noise.df else (NAN, NAN),
    )  # fmt: skip
    return c, too_much and certain, too_much and not certain


def _gain(loss: float, other: float) -> float:
    """Fall of log loss from one run to another, 0 where that is worse; variance 2 sd^2."""
    return max(0.0, float(np.log(loss / other))) if np.isfinite(other) else 0.0


def _loss(row: Any) -> float:
    """Loss of a run: inf where it diverged, NaN where it did not end."""
    if row.status == RecordStatus.DIVERGED:
        return float("inf")
    return float(row.val_loss) if row.status == RecordStatus.FINISHED else NAN
