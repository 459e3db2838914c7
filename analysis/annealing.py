"""A loss along its learning-rate schedule: L(s) = L0 + A S1^-alpha - C S2.

Tissue et al. 2024, arXiv:2408.11029. S1 is the area under the learning rate up to step s; S2, the
annealing area, adds up what the rate has fallen, each fall felt more and more in the steps after
it: S2 = sum over i <= s of sum over k <= i of (lr[k-1] - lr[k]) memory^(i-k).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.engine import LawFit, fit_law
from analysis.laws_jets import exp
from analysis.laws_optima import no_optimum
from analysis.laws_types import Form, Law

MEMORY = 0.999
NOTHING = 1e-30  # stands for no annealing yet: columns are logarithms


def annealed(forms: Sequence, data: Mapping[str, NDArray]):
    """L0 + A S1^-alpha - C S2, of logarithms of its constants."""
    log_E, s_A, log_G = forms
    return exp(log_E) + exp(s_A) - exp(log_G) * np.exp(data["log_annealing_area"])


ANNEALING = Law(
    name="annealing",
    parameters=("E", "A", "C", "alpha"),
    source="Tissue et al. 2024, arXiv:2408.11029: L0 + A S1^-alpha - C S2; E = L0",
    forms=(Form("E"), Form("A", (("alpha", "log_lr_area", -1.0),)), Form("C")),
    exponents=frozenset({"alpha"}),
    formula=annealed,
    optimum_rule=no_optimum,
    needs=("lr_area", "annealing_area"),
)


def areas(lr: ArrayLike, memory: float = MEMORY) -> tuple[NDArray, NDArray]:
    """S1 and S2 after each step.

    Args:
        lr: (steps,) learning rate of every step, warm-up included; only falls anneal.
        memory: share of a fall's momentum that is left after a step, in (0, 1).

    Raises:
        ValueError: a negative learning rate, or memory outside (0, 1).
    """
    lr = np.asarray(lr, dtype=float)
    if lr.ndim != 1 or not (np.isfinite(lr) & (lr >= 0)).all():
        raise ValueError("lr must be a column of learning rates, 0 or above")
    if not 0 < memory < 1:
        raise ValueError(f"memory={memory} must lie between 0 and 1")
    falls = np.maximum(-np.diff(lr, prepend=lr[0]), 0.0)
    momentum = np.empty_like(lr)
    now = 0.0
    for i, fall in enumerate(falls):
        now = memory * now + fall
        momentum[i] = now
    return np.cumsum(lr), np.cumsum(momentum)


def fit_annealing(
    step: ArrayLike, loss: ArrayLike, lr: ArrayLike, memory: float = MEMORY
) -> LawFit:
    """Fit the law to one run's losses by the common engine, least squares on log loss.

    A run whose rate has not begun to fall says nothing of C: its status is flat.

    Args:
        step: (n,) steps, from 1, at which the loss was measured. loss: (n,) nats per token.
        lr: (steps,) learning rate of every step.

    Raises:
        ValueError: a step outside the schedule, or values that are not positive.
    """
    step = np.asarray(step, dtype=int)
    lr = np.asarray(lr, dtype=float)
    if step.min(initial=1) < 1 or step.max(initial=1) > len(lr):
        raise ValueError(f"step must lie between 1 and the {len(lr)} steps of lr")
    S1, S2 = (v[step - 1] for v in areas(lr, memory))
    extra = {"lr_area": S1, "annealing_area": np.maximum(S2, NOTHING)}
    fit = fit_law(
        ANNEALING, np.ones(len(step)), step.astype(float), loss, estimator="ls", extra=extra
    )
    if np.count_nonzero(S2) < 2:
        return replace(fit, status="flat", reason="no fall of the learning rate was seen: no C")
    if fit.status == "no_optimum":  # in N, of which there is one
        return replace(fit, status="ok", reason=None)
    return fit
