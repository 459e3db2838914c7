"""Laws beyond the fit, asked of one table of runs: what the data allow, in one sentence each.

A law that wants columns which the runs lack says which, so that a reader knows what would have to be
measured. Formulas and sources: docs/method.md, section 15. Imports of the laws are late: most tables
allow few of them, and they bring scipy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.budget_inference import Prices, cheapest, trained_longer
from analysis.budget_laws import BudgetLaw, law_of_fits
from analysis.emergence import exact_match, token_accuracy
from analysis.figure_data import entries, part
from analysis.report_numbers import (
    count,
    exponent,
    known,
    minus,
    parameter,
    percent,
    power,
    ratio,
)

if TYPE_CHECKING:
    from analysis.engine import LawFit
    from analysis.power_fit import PowerFit

Fits = Mapping[str, Any]
COLUMNS = ("unique_tokens", "lr", "batch_tokens", "task_error", "task_loss", "task_accuracy",
           "granularity", "n_expert", "active_share", "D_F", "D_T")  # fmt: skip
SERVED = 10.0  # times the optimum's tokens: an example of a model that is used
LONGER = 0.5  # of the optimal size: an example of a model that is trained longer
WORD = 10  # tokens of an exact match
TWO_STEP_DRAWS = 60
_FEWEST = 6  # rows, or evaluations, that a law of four constants and more is fitted to
_MOE = ("krajewski", "clark", "abnar")
_REPEATED = 1.01  # D / unique_tokens above which a run repeats its data


@dataclass(frozen=True)
class Beyond:
    """One law: what it says of these runs, or what it would need; one of the two is empty."""

    law: str
    says: str = ""
    needs: str = ""


def laws_beyond(
    fits: Fits, points: pd.DataFrame | None, curves: pd.DataFrame | None
) -> tuple[Beyond, ...]:
    """Ask every law beyond the fit.

    Args:
        fits: parsed fits.json.
        points: the fitted runs: N, D, loss, and those of COLUMNS that the table has; or None.
        curves: training curves: cell_id, step, tokens, eval_loss, lr; or None.
    """
    asked: tuple[tuple[str, Callable[[], str]], ...] = (
        ("over-training (Gadre)", lambda: _overtraining(fits)),
        ("repeated data (Muennighoff)", lambda: _repeated(fits, points)),
        ("serving counted (Sardana)", lambda: _serving(fits)),
        ("loss to tasks (Gadre)", lambda: _task_error(points)),
        ("loss to tasks, two steps (Bhagia)", lambda: _two_steps(fits, points)),
        ("sharp and smooth metrics (Schaeffer)", lambda: _emergence(fits)),
        *((f"mixture of experts ({n.capitalize()})", lambda n=n: _experts(n, points)) for n in _MOE),
        ("transfer (Hernandez)", lambda: _transfer(points)),
        ("annealing (Tissue)", lambda: _annealing(curves)),
        *((f"best {n}", lambda n=n: _hyperparameter(n, points)) for n in ("lr", "batch_tokens")),
    )  # fmt: skip
    return tuple(_ask(law, of) for law, of in asked)


class _NeedsError(Exception):
    """What a law would need; the text completes "needs ..."."""


def _ask(law: str, of: Callable[[], str]) -> Beyond:
    try:
        return Beyond(law, says=of())
    except _NeedsError as e:
        return Beyond(law, needs=str(e))
    except ValueError as e:  # of the law's own checks: values that are no counts, too few rows
        return Beyond(law, needs=f"other values: {e}")


def _overtraining(fits: Fits) -> str:
    """Gadre's own law, its status, and what the headline says of a model half as large."""
    row = next((r for r in entries(fits, "laws") if r.get("name") == "overtraining"), {})
    eta = known(part(row, "parameters").get("eta"))
    if eta is None:
        raise _NeedsError(
            f"a fit of the law overtraining: {row.get('reason') or row.get('status')}"
        )
    said = f"eta = {parameter(eta)} ({_status(row)}): the reducible loss falls as C to the power {minus(parameter(-eta))} at any D/N"
    law, target = _law(fits), _target(fits)
    if law is None or target is None:
        return said
    N, loss = LONGER * target["N"], law.loss(target["N"], target["D"])
    longer = trained_longer(law, loss, [N])[0]
    if longer is None:
        return f"{said}. By the headline law no model of half of N* reaches its loss"
    more = longer.N * longer.D / (target["N"] * target["D"])
    return (
        f"{said}. By the headline law half of N* reaches the same loss with "
        f"{ratio(longer.D / target['D'])} the tokens, {ratio(more)} the compute"
    )


def _repeated(fits: Fits, points: pd.DataFrame | None) -> str:
    frame = _rows(points, ("unique_tokens",), "runs that see their text more than once")
    share = float(np.mean(frame["D"] > _REPEATED * frame["unique_tokens"]))
    if not share:
        raise _NeedsError("runs that see their text more than once: here none does")
    row = next((r for r in entries(fits, "laws") if r.get("name") == "data_constrained"), {})
    R = known(part(row, "parameters").get("R_D"))
    if R is None:
        raise _NeedsError(f"a fit of data_constrained: {row.get('reason') or row.get('status')}")
    return (
        f"R* = {parameter(R)} repetitions by {percent(share, signed=False)} of the runs "
        f"({_status(row)}): repeated tokens are worth at most {parameter(1 + R)} times the distinct ones"
    )


def _serving(fits: Fits) -> str:
    law, target = _law(fits), _target(fits)
    if law is None or target is None:
        raise _NeedsError("a forecast by a law with terms in N and D")
    N, D = target["N"], target["D"]
    loss, served = law.loss(N, D), SERVED * D
    best, prices = cheapest(law, loss, served), Prices()
    saved = 1 - prices.cost(best.N, best.D, served) / prices.cost(N, D, served)
    return (
        f"at the loss of the optimum of {power(target['C'])} FLOPs, and {count(served)} tokens served: "
        f"N {count(best.N)} on D {count(best.D)} costs {percent(saved, signed=False)} less than N* in "
        "training and serving FLOPs together (isoflop budget budget.ask=inference)"
    )


def _task_error(points: pd.DataFrame | None) -> str:
    frame = _rows(points, ("task_error",), "the mean error on tasks, 0 to 1")
    from analysis.downstream import fit_downstream

    fit = fit_downstream(frame["loss"], frame["task_error"])
    if fit.status == "too_few":
        raise _NeedsError(f"more runs with task_error: {fit.reason}")
    return (
        f"error = {parameter(fit.eps)} - k exp(-{parameter(fit.gamma)} L), off by "
        f"{parameter(fit.rms)} (rms of {fit.n} runs); {_with(fit.status, fit.reason)}"
    )


def _two_steps(fits: Fits, points: pd.DataFrame | None) -> str:
    what = "the tasks' own loss and their accuracy, 0 to 1"
    frame = _rows(points, ("task_loss", "task_accuracy"), what)
    from analysis.downstream_steps import fit_two_steps

    columns = (frame[c].to_numpy() for c in ("N", "D", "task_loss", "task_accuracy"))
    both = fit_two_steps(*columns, draws=TWO_STEP_DRAWS, level=float(fits.get("level") or 0.9))
    target = _target(fits)
    if both.second.status == "too_few" or target is None:
        raise _NeedsError(f"more runs with task_accuracy: {both.second.reason or 'no forecast'}")
    at, (low, high) = both.accuracy(target["N"], target["D"])
    return (
        f"accuracy {percent(at, signed=False)} [{percent(low, signed=False)}, "
        f"{percent(high, signed=False)}] at the optimum of {power(target['C'])} FLOPs; "
        f"{_with(both.second.status, both.second.reason)}"
    )


def _emergence(fits: Fits) -> str:
    target = _target(fits)
    if part(fits, "points").get("loss_unit") != "nats" or target is None:
        raise _NeedsError("a forecast of a loss in nats per token")
    budgets = [known(m.get("loss")) for m in entries(part(fits, "approach2"), "minima")]
    seen = [x for x in budgets if x is not None]
    if not seen:
        raise _NeedsError("a minimum to start from")
    losses = np.array([seen[-1], target["loss"]])
    smooth, sharp = token_accuracy(losses), exact_match(losses, WORD)
    shown = [*(percent(v, signed=False) for v in smooth), *(power(v) for v in sharp)]
    return (
        f"from the last minimum to {power(target['C'])} FLOPs a token is right in {shown[0]}, then "
        f"{shown[1]} of cases, and {WORD} in a row with probability {shown[2]}, then {shown[3]}: one fall of the loss"
    )


def _experts(name: str, points: pd.DataFrame | None) -> str:
    column = {"krajewski": "granularity", "clark": "n_expert", "abnar": "active_share"}[name]
    what = {"granularity": "how finely experts are cut", "n_expert": "how many experts there are",
            "active_share": "the share of experts that work on a token"}[column]  # fmt: skip
    counted = "N_total" if name == "abnar" else "N_active"
    if points is not None and counted in points:  # else N is taken to be what the law counts
        points = points.assign(N=points[counted])
    frame = _rows(points, (column,), what)
    if frame[column].nunique() < 2:
        raise _NeedsError(f"runs of several values of {column}: here there is one")
    from analysis.engine import fit_law
    from analysis.laws_moe import MOE_LAWS

    law, extra = MOE_LAWS[name], {column: frame[column].to_numpy()}
    fit = fit_law(
        law, *(frame[c].to_numpy() for c in ("N", "D", "loss")), estimator="ls", extra=extra
    )
    return _constants(fit)


def _transfer(points: pd.DataFrame | None) -> str:
    what = "tokens of fine-tuning, and of training from scratch that they stand for beyond those"
    frame = _rows(points, ("D_F", "D_T"), what)
    from analysis.transfer import fit_transfer

    fit = fit_transfer(frame["D_T"], frame["D_F"], frame["N"])
    if fit.fit.status != "ok":
        raise _NeedsError(f"runs that tell its powers apart: {fit.fit.reason or fit.fit.status}")
    return f"D_T ~ {_powers(fit.fit)}"


def _annealing(curves: pd.DataFrame | None) -> str:
    """Fit the run of most tokens; its rate between evaluations is read off a line."""
    wanted = {"cell_id", "step", "eval_loss", "lr", "tokens"}
    if curves is None or not wanted <= set(curves.columns) or curves.empty:
        raise _NeedsError("training curves with step, eval_loss and lr")
    run = curves[curves["cell_id"] == curves["cell_id"].iloc[int(np.argmax(curves["tokens"]))]]
    run = run.dropna(subset=["eval_loss", "lr"]).drop_duplicates("step").sort_values("step")
    if len(run) < _FEWEST:
        raise _NeedsError(f"curves of {_FEWEST} evaluations; the longest has {len(run)}")
    from analysis.annealing import fit_annealing

    step = run["step"].to_numpy(int)
    lr = np.interp(np.arange(1, step[-1] + 1), step, run["lr"].to_numpy(float))
    fit = fit_annealing(step, run["eval_loss"].to_numpy(float), np.maximum(lr, 0.0))
    return f"{run['cell_id'].iloc[0]}: {_constants(fit)}"


def _hyperparameter(name: str, points: pd.DataFrame | None) -> str:
    frame = _rows(points, (name,), f"runs that differ in {name} alone")
    tried = frame.groupby(["N", "D"])[name].nunique()
    if tried.max() < 4:
        raise _NeedsError(f"four values of {name} at one N and D; here there is {tried.max()}")
    from analysis.hyperparameters import fit_hyperparameter

    many = tried[tried >= 4].index
    frame = frame.set_index(["N", "D"]).loc[many].reset_index()
    law = fit_hyperparameter(frame, name)
    edges = sum(b.status == "edge" for b in law.best)
    said = f"best at the edge of what was tried in {edges} of {len(law.best)} groups"
    if law.fit.status != "ok":
        raise _NeedsError(f"more groups of N and D: {law.reason or law.status}; {said}")
    return f"{name}* ~ {_powers(law.fit)}; {_with(law.status, law.reason)}; {said}"


def _rows(points: pd.DataFrame | None, columns: tuple[str, ...], what: str) -> pd.DataFrame:
    """Take the runs that have all of some columns, as numbers.

    Raises:
        _NeedsError: there are none.
    """
    named = " and ".join(columns)
    if points is None:
        raise _NeedsError(f"the runs themselves, with {named}: {what}")
    if any(c not in points for c in columns):
        raise _NeedsError(f"the column{'s' * (len(columns) > 1)} {named}: {what}")
    frame = points[["N", "D", "loss", *columns]].apply(pd.to_numeric, errors="coerce").dropna()
    if len(frame) < 1:
        raise _NeedsError(f"numbers in {named}: {what}")
    return frame


def _law(fits: Fits) -> BudgetLaw | None:
    """Return the headline law, where it has terms in N and D that are known."""
    try:
        return law_of_fits({k: part(fits, k) for k in ("approach3", "points")}, "fits.json")
    except (ValueError, KeyError, TypeError, AttributeError):  # whatever a file may hold
        return None


def _target(fits: Fits) -> dict[str, float] | None:
    """Return C, N, D and loss of the first forecast by the headline law; None where it has none."""
    for f in entries(fits, "forecast"):
        values = {k: known(f.get(k)) for k in ("C", "N", "D", "loss")}
        if None not in values.values():
            return values
    return None


def _constants(fit: LawFit) -> str:
    values = zip(fit.law.parameters, fit.theta, strict=True)
    shown = ", ".join(f"{name} {parameter(v)}" for name, v in values)
    return f"{shown}; {_with(fit.status, fit.reason)}"


def _powers(fit: PowerFit) -> str:
    return " ".join(
        f"{name}^{exponent(a, fit.intervals[name])}" for name, a in fit.exponents.items()
    )


def _status(row: Mapping[str, Any]) -> str:
    return _with(str(row.get("status")), row.get("reason"))


def _with(status: str, reason: str | None) -> str:
    return f"{status}, {reason}" if reason else status
