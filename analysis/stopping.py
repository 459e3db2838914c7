"""When to stop: what a running cell's curve says of the loss that it will end at.

The end is not on the curve: most of the last fall comes while the learning rate decays. So the
rest is taken from cells of the sweep that have finished: from the share of its steps that the cell
has done, each of them fell by a factor to its end, and those factors, with their spread, are what
is still to come. Equal schedules have equal shares, so this holds within one recipe only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

NAN = float("nan")
FEWEST = 3  # finished cells that show how a curve goes on, evaluations that show anything
SMOOTHED = 3  # evaluations whose mean stands for the present
DIVERGED = 0.1  # of log loss above the lowest so far, in two evaluations running
LEVEL_RATE = 0.002  # fall of log loss a doubling of tokens that is none
WITHIN = 0.01  # "will beat the prediction" forgives one per cent


@dataclass(frozen=True, eq=False)
class Curve:
    """Evaluations of one cell so far, ascending in tokens.

    Attributes:
        tokens: (n,) D so far. eval_loss: (n,) nats per token, on the small validation set.
        lr: (n,) learning rate, or None where unknown. train_loss: (n,) mean since the evaluation
            before, or None.
        planned_tokens: D that the cell was planned for.
        final_loss: of a finished cell, on the whole validation set; its last evaluation where NaN.

    Raises:
        ValueError: unequal lengths, tokens that do not ascend, or beyond the plan.
    """

    tokens: NDArray
    eval_loss: NDArray
    planned_tokens: float
    lr: NDArray | None = None
    train_loss: NDArray | None = None
    final_loss: float = NAN

    def __post_init__(self) -> None:
        columns = [self.tokens, self.eval_loss, self.lr, self.train_loss]
        lengths = {len(c) for c in columns if c is not None}
        if len(lengths) != 1:
            raise ValueError(f"columns of unequal lengths: {sorted(lengths)}")
        if len(self.tokens) and not (np.diff(self.tokens) > 0).all():
            raise ValueError("tokens must ascend: rows of one attempt, each evaluation once")
        if len(self.tokens) and not self.tokens[-1] <= 1.01 * self.planned_tokens:
            raise ValueError(
                f"{self.tokens[-1]:g} tokens are beyond the {self.planned_tokens:g} planned"
            )

    @property
    def share(self) -> float:
        """Share of the planned tokens that is done; 0 before the first evaluation."""
        return float(self.tokens[-1] / self.planned_tokens) if len(self.tokens) else 0.0


@dataclass(frozen=True)
class Outlook:
    """What a curve says; NaN and None where it can't.

    Attributes:
        verdict: beats (the projected end is at most 1% above the prediction), behind (it is above,
            but the interval reaches), hopeless (the whole interval lies above the prediction's, by
            more than 1%), diverged, or unknown (no end can be projected, or nothing is predicted).
        reason: why, in words.
        share: of the planned tokens. loss: projected final loss. loss_interval: of it.
        plateau: whether the loss fell by less than .2% a doubling of tokens over the last third of
            the curve at an undecayed learning rate; None where there are too few evaluations.
        train_val_gap: mean of eval_loss - train_loss over the last evaluations, nats per token.
        overfits: whether eval_loss rose while train_loss fell over the last third; None likewise.
    """

    verdict: str
    reason: str
    share: float
    loss: float = NAN
    loss_interval: tuple[float, float] = (NAN, NAN)
    plateau: bool | None = None
    train_val_gap: float = NAN
    overfits: bool | None = None


def outlook(
    curve: Curve,
    predicted: float,
    predicted_interval: tuple[float, float],
    finished: Sequence[Curve] = (),
    level: float = 0.9,
) -> Outlook:
    """Judge a running cell.

    Args:
        curve: so far.
        predicted: final loss by the law, nats per token, at the cell's N and D; NaN where there is
            no law, and then the end is projected and not judged.
        predicted_interval: of it; (NaN, NaN) where unknown, and then nothing is hopeless.
        finished: whole curves of cells of the same recipe.
        level: of the projected interval.
    """
    about = {"share": curve.share, "plateau": plateau(curve), **_gap(curve)}
    if (at := diverged(curve)) is not None:
        return Outlook("diverged", at, **about)
    loss, interval, reason = project(curve, finished, level)
    if not np.isfinite(loss):
        return Outlook("unknown", reason, **about)
    words = f"will end at {loss:.4g} [{interval[0]:.4g}, {interval[1]:.4g}]"
    verdict = "behind"
    if not np.isfinite(predicted):
        verdict = "unknown"
    elif loss <= (1 + WITHIN) * predicted:
        verdict = "beats"
    elif interval[0] > (1 + WITHIN) * predicted_interval[1]:  # False where it is unknown
        verdict = "hopeless"
    if verdict != "unknown":
        words += f", {predicted:.4g} predicted"
    return Outlook(verdict, words, loss=loss, loss_interval=interval, **about)


def project(
    curve: Curve, finished: Sequence[Curve], level: float = 0.9
) -> tuple[float, tuple[float, float], str]:
    """Project a curve's final loss, with its interval, and say why not where it is NaN.

    The present is the log loss on a line through the last evaluations, and so it is for the
    finished cells at the same share; Student's t of their number.
    """
    unknown = NAN, (NAN, NAN)
    if len(curve.tokens) < FEWEST:
        return *unknown, f"{len(curve.tokens)} evaluations, {FEWEST} are needed"
    falls = np.array([_fall_from(c, curve.share) for c in finished])
    falls = falls[np.isfinite(falls)]
    if len(falls) < FEWEST:
        return *unknown, f"{len(falls)} finished cells show how curves go on, {FEWEST} are needed"
    centre = _level_at(curve, curve.share) + float(falls.mean())
    sd = float(falls.std(ddof=1)) * np.sqrt(1 + 1 / len(falls))
    reach = float(stdtrit(len(falls) - 1, (1 + level) / 2)) * sd
    return float(np.exp(centre)), (float(np.exp(centre - reach)), float(np.exp(centre + reach))), ""


def diverged(curve: Curve) -> str | None:
    """Say how a curve has diverged; None where it has not.

    A loss that is no number, or two evaluations running more than 10% above the lowest so far.
    """
    bad = np.flatnonzero(~np.isfinite(curve.eval_loss))
    if len(bad):
        return f"the loss is no number at {curve.tokens[bad[0]]:.3g} tokens"
    if len(curve.eval_loss) < FEWEST:
        return None
    log_loss = np.log(curve.eval_loss)
    above = float(log_loss[-2:].min() - log_loss.min())
    if above > DIVERGED:
        return f"the loss is {np.expm1(above):.0%} above its lowest, in two evaluations running"
    return None


def plateau(curve: Curve) -> bool | None:
    """Whether the last third of the curve is level, while the rate has not begun to decay."""
    last = max(FEWEST, len(curve.tokens) // 3)
    if len(curve.tokens) < 2 * FEWEST or not np.isfinite(curve.eval_loss[-last:]).all():
        return None
    if curve.lr is not None and curve.lr[-1] < 0.99 * curve.lr.max():
        return None  # decay makes it fall whatever the trunk does
    slope = _slope(np.log2(curve.tokens[-last:]), np.log(curve.eval_loss[-last:]))
    return bool(slope > -LEVEL_RATE)


def _gap(curve: Curve) -> dict:
    if curve.train_loss is None or len(curve.tokens) < FEWEST:
        return {}
    gap = float(np.mean((curve.eval_loss - curve.train_loss)[-SMOOTHED:]))
    last = max(FEWEST, len(curve.tokens) // 3)
    x = np.log2(curve.tokens[-last:])
    rises = _slope(x, curve.eval_loss[-last:]) > 0 > _slope(x, curve.train_loss[-last:])
    return {
        "train_val_gap": gap,
        "overfits": bool(rises) if len(curve.tokens) >= 2 * FEWEST else None,
    }


def _fall_from(curve: Curve, share: float) -> float:
    """Log of the end of a finished curve over its level at a share; NaN where it has no level."""
    if curve.share < 0.99 or not np.isfinite(curve.eval_loss).all():
        return NAN
    end = curve.final_loss if np.isfinite(curve.final_loss) else curve.eval_loss[-1]
    return float(np.log(end)) - _level_at(curve, share)


def _level_at(curve: Curve, share: float) -> float:
    """Log loss at a share: a line in log tokens through the last evaluations up to it."""
    x = np.log(curve.tokens / curve.planned_tokens)
    done = x <= np.log(share) + 1e-3
    if done.sum() < FEWEST:
        return NAN
    x, y = x[done][-SMOOTHED:], np.log(curve.eval_loss[done][-SMOOTHED:])
    return float(y.mean() + _slope(x, y) * (np.log(share) - x.mean()))


def _slope(x: ArrayLike, y: ArrayLike) -> float:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    x = x - x.mean()
    return float(x @ (y - y.mean()) / (x @ x))
