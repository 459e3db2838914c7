"""From (N, D) to accuracy on a task in two steps, the form of OLMo's ladder.

Bhagia et al. 2024, arXiv:2412.04403: first the task's own loss as a law of (N, D), then accuracy as
a sigmoid of that loss, accuracy = a / (1 + exp(-k (L - L0))) + b with k < 0 for a > 0 (accuracy
falls with the loss). Both are resampled together, by model size, so that an interval of the
accuracy holds the uncertainty of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.special import expit

from analysis.engine import LawFit, fit_law, rebuild, refit
from analysis.fitted import widened
from analysis.resampling import percentile_interval, resampling_weights

NAN = float("nan")
DRAWS = 400
SLOPES = (2.0, 6.0, 20.0)  # starts, in units of one over the range of the losses
CENTRES = (0.2, 0.5, 0.8)  # starts, shares of that range
STEEPEST = 200.0  # in the same units: a step between two neighbouring losses
FLATTEST = 0.1


@dataclass(frozen=True)
class Sigmoid:
    """Accuracy as a function of the task's loss.

    Attributes:
        a, b: accuracy runs from b, at large loss, to a + b. k, L0: slope (negative) and centre.
        rms: of the residuals. n: rows.
        status: ok | flat (no bend, or a step: a, b, k and L0 are not identified) | too_few.
    """

    a: float
    b: float
    k: float
    L0: float
    rms: float
    n: int
    status: str
    reason: str | None = None

    def accuracy(self, loss: ArrayLike) -> NDArray:
        """Accuracy at a loss, of its shape."""
        return self.a * expit(self.k * (np.asarray(loss, dtype=float) - self.L0)) + self.b


@dataclass(frozen=True, eq=False)
class TwoSteps:
    """Both steps with their draws."""

    first: LawFit
    second: Sigmoid
    theta: NDArray  # (draws, p) of the first step
    sigmoids: tuple[Sigmoid, ...]  # (draws,)
    clusters: int  # sizes or rows that were drawn
    level: float

    def accuracy(self, N: float, D: float) -> tuple[float, tuple[float, float]]:
        """Accuracy of N parameters on D tokens, with its interval; NaN twice without draws."""
        at = float(self.second.accuracy(self.first.law.loss(self.first.theta, N, D)))
        with np.errstate(invalid="ignore"):
            losses = self.first.law.loss(self.theta, N, D)
        draws = [float(s.accuracy(loss)) for s, loss in zip(self.sigmoids, losses, strict=True)]
        return at, percentile_interval(
            widened(np.array(draws), at, self.clusters, self.level), self.level, at
        )


def fit_sigmoid(
    loss: ArrayLike,
    accuracy: ArrayLike,
    weights: ArrayLike | None = None,
    start: Sigmoid | None = None,
) -> Sigmoid:
    """Fit the second step by least squares on accuracy.

    Args:
        loss: (n,) of the task. accuracy: (n,) in [0, 1]. weights: (n,) of rows, 1 where absent.
        start: a fit to nearly the same rows, to search from; several starts where absent.

    Raises:
        ValueError: unequal lengths, or values that are not finite.
    """
    loss, accuracy = (np.asarray(v, dtype=float) for v in (loss, accuracy))
    if loss.shape != accuracy.shape or loss.ndim != 1:
        raise ValueError(f"loss has shape {loss.shape}, accuracy {accuracy.shape}: give (n,) each")
    if not np.isfinite([loss, accuracy]).all():
        raise ValueError("loss and accuracy must be finite: leave rows without either out")
    w = np.ones(len(loss)) if weights is None else np.asarray(weights, dtype=float)
    used = w > 0
    if len(np.unique(loss[used])) < 4:
        reason = f"{len(np.unique(loss[used]))} distinct losses cannot fix 4 constants"
        return Sigmoid(NAN, NAN, NAN, NAN, NAN, len(loss), "too_few", reason)
    return _best_sigmoid(loss[used], accuracy[used], np.sqrt(w[used]), start)


def fit_two_steps(
    N: ArrayLike,
    D: ArrayLike,
    task_loss: ArrayLike,
    accuracy: ArrayLike,
    *,
    draws: int = DRAWS,
    level: float = 0.9,
    seed: int = 0,
) -> TwoSteps:
    """Fit both steps to the same runs, and to resamples of them by model size.

    Args:
        N, D: (n,) parameters and tokens. task_loss: (n,) of the right answer, in any positive unit.
        accuracy: (n,) in [0, 1]. draws, level, seed: of the intervals.

    Raises:
        ValueError: as fit_law and fit_sigmoid.
    """
    N, D, task_loss, accuracy = (np.asarray(v, dtype=float) for v in (N, D, task_loss, accuracy))
    first = fit_law("chinchilla", N, D, task_loss, estimator="huber")
    second = fit_sigmoid(task_loss, accuracy)
    if not np.isfinite(first.theta).all() or second.status == "too_few":
        return TwoSteps(first, second, np.empty((0, 5)), (), 0, level)
    sizes = np.unique(N, return_inverse=True)[1]
    members = sizes if 3 < len(np.unique(sizes)) < len(N) else np.arange(len(N))
    weights = resampling_weights(np.random.default_rng(seed), draws, members)
    theta, converged = refit(first, rebuild(first, N, D, task_loss), weights)
    theta[~converged] = np.nan
    sigmoids = tuple(fit_sigmoid(task_loss, accuracy, w, second) for w in weights)
    return TwoSteps(first, second, theta, sigmoids, int(members.max()) + 1, level)


def _best_sigmoid(
    loss: NDArray, accuracy: NDArray, root: NDArray, start: Sigmoid | None
) -> Sigmoid:
    low, span = float(loss.min()), float(np.ptp(loss))
    x = (loss - low) / span

    def residual(v: NDArray) -> NDArray:
        shape, solution = _ends(x, accuracy, root, v)
        return root * (shape @ solution - accuracy)

    bounds = ([FLATTEST, -2.0], [STEEPEST, 3.0])
    starts = [(slope, centre) for slope in SLOPES for centre in CENTRES]
    if start is not None:
        near = np.clip([-start.k * span, (start.L0 - low) / span], *bounds)
        starts = [tuple(near)]
    found = [least_squares(residual, at, bounds=bounds) for at in starts]
    best = min(found, key=lambda f: f.cost)
    slope, centre = best.x
    a, b = _ends(x, accuracy, root, best.x)[1]
    rms = float(np.sqrt(2 * best.cost / np.sum(root**2)))
    made = (float(a), float(b), float(-slope / span), float(low + span * centre), rms, len(loss))
    if np.any(best.active_mask != 0) or not 0 <= centre <= 1:
        return Sigmoid(*made, "flat", "the rows show one end of the sigmoid, or no bend, or a step")
    return Sigmoid(*made, "ok")


def _ends(x: NDArray, accuracy: NDArray, root: NDArray, v: NDArray) -> tuple[NDArray, NDArray]:
    """Design (n, 2) at a slope and centre, and the best a and b: the law is linear in them."""
    design = np.column_stack([expit(-v[0] * (x - v[1])), np.ones_like(x)])
    return design, np.linalg.lstsq(design * root[:, None], accuracy * root, rcond=None)[0]
