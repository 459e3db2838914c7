"""The tables behind the figures: parsed fits.json and result tables in, DataFrames out.

Each function returns the columns that its plot names in plots.py. They read only what the contract
of fits.json promises, and return an empty table where a part has failed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.laws import LAWS
from analysis.report_numbers import count, known, known_pair, loss, percent, power, ratio

USABLE = ("ok", "off_centre")
SAMPLES = 60
CURVE_LOSSES = ("eval_loss", "train_loss")
Fits = Mapping[str, Any]


def part(fits: Fits, name: str) -> Mapping[str, Any]:
    """Return a part of the fit, empty where it is absent or null."""
    value = fits.get(name)
    return value if isinstance(value, Mapping) else {}


def entries(fits: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the objects of a list, none where it is absent or null."""
    value = fits.get(name)
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def reason_of(value: Any, otherwise: str) -> str:
    """Why a part is missing, in words."""
    reason = value.get("reason") if isinstance(value, Mapping) else None
    return str(reason) if reason else otherwise


def loss_unit(fits: Fits) -> str:
    """Name the unit of the loss, for an axis."""
    unit = str(part(fits, "points").get("loss_unit") or "nats")
    return {"nats": "nats/token", "bits": "bits/token", "bpb": "bits/byte"}.get(unit, unit)


def cell_table(points: pd.DataFrame | None) -> pd.DataFrame:
    """Cells that were fitted: budget, N, D, C, loss, name, tip."""
    columns = ["budget", "N", "D", "C", "loss", "name", "tip"]
    if points is None or points.empty:
        return pd.DataFrame(columns=columns)
    table = points.reset_index(drop=True).copy()
    if "name" not in table:
        table["name"] = [f"row {i}" for i in range(len(table))]
    table["tip"] = [
        f"{c.name}\nN {count(c.N)}, D {count(c.D)}, D/N {count(c.D / c.N, 2)}\n"
        f"loss {loss(c.loss)} at {power(c.budget)} FLOPs"
        for c in table.itertuples()
    ]
    return table.sort_values(["budget", "N"], kind="stable", ignore_index=True)[columns]


def minimum_table(fits: Fits) -> pd.DataFrame:
    """Minima of approach 2: budget, N, D, loss, status, reason, usable, held_out, tip."""
    held_out = {
        known(h.get("budget"))
        for h in entries(fits, "holdout")[-1:]
        if known(h.get("predicted")) is not None or known(h.get("min_loss_predicted")) is not None
    }
    rows = []
    for m in entries(part(fits, "approach2"), "minima"):
        values = {k: _or_nan(m.get(k)) for k in ("budget", "N", "D", "loss", "predicted_bias")}
        complete = all(np.isfinite(values[k]) for k in ("budget", "N", "D", "loss"))
        usable = complete and m.get("status") in USABLE
        late = values["budget"] in held_out
        tip = (
            f"minimum at {power(values['budget'])} FLOPs{', held out' if late else ''}\n"
            f"N_opt {count(values['N'])}, D_opt {count(values['D'])}\nloss {loss(values['loss'])}"
        )
        rows.append(
            values
            | {"status": m.get("status"), "reason": m.get("reason"), "usable": usable}
            | {"held_out": late, "curvature": _or_nan(m.get("curvature")), "tip": tip}
        )
    columns = "budget N D loss predicted_bias status reason usable held_out curvature tip".split()
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"usable": bool, "held_out": bool}).sort_values("budget", ignore_index=True)


def profile_lines(cells: pd.DataFrame, minima: pd.DataFrame) -> pd.DataFrame:
    """One line a budget: the parabola through its minimum, else its cells joined.

    The parabola is in log N, with its vertex at the fitted minimum; its curvature is the one that
    lies closest to the cells within a factor 4 of the vertex.

    Returns:
        budget, N, loss, and `kind`: parabola; left or right, from its end to the cells outside the
        window; joined, where there is none.
    """
    found = {m.budget: m for m in minima[minima["usable"]].itertuples()}
    lines = [cells.iloc[:0][["budget", "N", "loss"]].assign(kind="")]
    for budget, own in cells.groupby("budget"):
        m = found.get(budget)
        if m is None:
            lines.append(own[["budget", "N", "loss"]].assign(kind="joined"))
            continue
        x = np.log(own["N"].to_numpy(float) / m.N)
        near = np.abs(x) <= np.log(4.01)
        # The farthest cells fix the curvature: x^2 weighs them so.
        curvature = np.sum((x**2 * (own["loss"] - m.loss))[near]) / np.sum(x[near] ** 4)
        at = np.linspace(min(x[near].min(), 0), max(x[near].max(), 0), SAMPLES)
        parabola = pd.DataFrame(
            {"budget": budget, "N": m.N * np.exp(at), "loss": m.loss + curvature * at**2}
        )
        lines.append(parabola.assign(kind="parabola"))
        for side, outside, end in (("left", x < at[0], 0), ("right", x > at[-1], -1)):
            if outside.any():
                rest = pd.concat([own.loc[outside, ["budget", "N", "loss"]], parabola.iloc[[end]]])
                lines.append(rest.sort_values("N").assign(kind=side))
    return pd.concat(lines, ignore_index=True)


def optimum_line(fits: Fits, what: str, C: Iterable[float]) -> pd.DataFrame:
    """Sample the power law of approach 2 over a range of C: C, value."""
    law = part(part(fits, "approach2"), f"{what}_opt")
    coefficient, exponent = known(law.get("coefficient")), known(law.get("exponent"))
    C = np.array([c for c in C if known(c)], dtype=float)
    if coefficient is None or exponent is None or not len(C):
        return pd.DataFrame({"C": [], "value": []}, dtype=float)
    ends = np.geomspace(C.min(), C.max(), 2)
    return pd.DataFrame({"C": ends, "value": coefficient * ends**exponent})


def target_table(forecasts: Iterable[Mapping[str, Any]], what: str) -> pd.DataFrame:
    """Headline forecasts of N, D or loss: C, value, low, high, tip."""
    rows = []
    for f in forecasts:
        value, interval = known(f.get(what)), known_pair(f.get(f"{what}_interval"))
        if value is None or known(f.get("C")) is None:
            continue
        low, high = interval or (np.nan, np.nan)
        shown = loss(value, interval) if what == "loss" else f"{what} {count(value)}"
        tip = f"forecast at {power(f['C'])} FLOPs\n{shown}"
        rows.append({"C": known(f["C"]), "value": value, "low": low, "high": high, "tip": tip})
    return pd.DataFrame(rows, columns=["C", "value", "low", "high", "tip"])


def law_losses(fits: Fits, name: str, N: Any, D: Any) -> np.ndarray | None:
    """Loss of a law of `laws[]` at (N, D), or None where it was not fitted or needs more columns."""
    law, theta = LAWS.get(name), law_theta(fits, name)
    if law is None or theta is None or law.needs:
        return None
    return law.loss(theta, np.asarray(N, float), np.asarray(D, float))


def law_theta(fits: Fits, name: str) -> list[float] | None:
    """Parameters of a law of `laws[]` in the order of analysis.laws, or None where it failed."""
    entry = next((e for e in entries(fits, "laws") if e.get("name") == name), {})
    values = entry.get("parameters")
    if name not in LAWS or not isinstance(values, Mapping):
        return None
    theta = [known(values.get(p)) for p in LAWS[name].parameters]
    return None if None in theta else theta


def min_loss_lines(fits: Fits, C: Iterable[float]) -> pd.DataFrame:
    """Lowest loss at each C as the minima's own curve and the laws say: name, C, loss."""
    C = np.array([c for c in C if known(c)], dtype=float)
    tables = []
    at = np.geomspace(C.min(), C.max(), SAMPLES) if len(C) else C
    curve = part(part(fits, "approach2"), "min_loss")
    E, A, gamma = (known(curve.get(k)) for k in ("E", "A", "gamma"))
    if None not in (E, A, gamma):
        tables.append(pd.DataFrame({"name": "L(C)", "C": at, "loss": E + A * at**-gamma}))
    for name in ("chinchilla", "coupled"):
        theta = law_theta(fits, name)
        if theta is None:
            continue
        N, D = LAWS[name].optimum(theta, at)
        values = LAWS[name].loss(theta, N, D)
        if np.isfinite(values).all():
            tables.append(pd.DataFrame({"name": name, "C": at, "loss": values}))
    empty = pd.DataFrame({"name": [], "C": [], "loss": []})
    return pd.concat(tables, ignore_index=True) if tables else empty


def holdout_table(fits: Fits) -> pd.DataFrame:
    """Held-out budgets, each predicted from budgets below it.

    Returns:
        of (minimum: the lowest loss by L(C); law: the cells' mean by the law, `earlier` ones
        from fewer budgets), budget, ratio (to the largest budget used), observed, predicted,
        predicted_low, predicted_high (losses), error, low, high (predicted over observed - 1), tip.
    """
    rows = []
    for h in entries(fits, "holdout"):
        rows.append(_held_out("minimum", h.get("budget"), h.get("ratio"),
                              h.get("min_loss_observed"), h.get("min_loss_predicted"),
                              h.get("min_loss_interval")))  # fmt: skip
        rows += [
            _held_out("law", h.get("budget"), c.get("ratio"), c.get("observed"),
                      c.get("predicted"), c.get("interval"))
            for c in (h, *entries(h, "earlier"))
        ]  # fmt: skip
    columns = "of budget ratio observed predicted predicted_low predicted_high error low high tip"
    return pd.DataFrame([r for r in rows if r], columns=columns.split())


def _held_out(
    of: str, budget: Any, far: Any, seen: Any, predicted: Any, interval: Any
) -> dict[str, Any] | None:
    budget, far, seen, predicted = map(known, (budget, far, seen, predicted))
    if None in (budget, far, seen, predicted):
        return None
    low, high = known_pair(interval) or (np.nan, np.nan)
    error = predicted / seen - 1
    what = "lowest loss, by L(C)" if of == "minimum" else "mean of its cells, by the law"
    tip = (
        f"{power(budget)} FLOPs, {ratio(far)} the largest budget used\n{what}\n"
        f"predicted {loss(predicted, (low, high))}\nobserved {loss(seen)} ({percent(error)})"
    )
    return {
        "of": of, "budget": budget, "ratio": far, "observed": seen, "predicted": predicted,
        "predicted_low": low, "predicted_high": high, "error": error,
        "low": low / seen - 1, "high": high / seen - 1, "tip": tip,
    }  # fmt: skip


def residual_table(fits: Fits, cells: pd.DataFrame) -> pd.DataFrame:
    """Observed over fitted loss - 1 of approach 3: the cells' columns, fitted, residual, D_per_N."""
    name = str(part(fits, "approach3").get("law"))
    fitted = None if cells.empty else law_losses(fits, name, cells["N"], cells["D"])
    if fitted is None:
        return cells.iloc[:0].assign(fitted=[], residual=[], D_per_N=[])
    residual = cells["loss"].to_numpy(float) / fitted - 1
    tips = [f"{t}\nresidual {percent(r)}" for t, r in zip(cells["tip"], residual, strict=True)]
    return cells.assign(fitted=fitted, residual=residual, D_per_N=cells["D"] / cells["N"], tip=tips)


def curve_table(
    cells: pd.DataFrame | None, curves: pd.DataFrame | None, most_cells: int, most_steps: int
) -> pd.DataFrame:
    """Learning curves thinned for a page: cell_id, budget, tokens, loss.

    Args:
        cells: one row a cell, with cell_id, attempt and budget.
        curves: cell_id, attempt, tokens and a loss of CURVE_LOSSES, the first that was measured.
        most_cells: lines shown, taken evenly through the budgets.
        most_steps: points of one line.
    """
    empty = pd.DataFrame({"cell_id": [], "budget": [], "tokens": [], "loss": []})
    if cells is None or curves is None or cells.empty or "tokens" not in curves:
        return empty
    measured = [c for c in CURVE_LOSSES if c in curves and curves[c].notna().any()]
    if not measured:
        return empty
    order = cells.sort_values(["budget", "N_flops"])["cell_id"].to_numpy()
    take = np.unique(np.linspace(0, len(order) - 1, most_cells).round().astype(int))
    keys = ["cell_id", "attempt"] if "attempt" in curves else ["cell_id"]
    chosen = cells[cells["cell_id"].isin(order[take])][list({*keys, "cell_id", "budget"})]
    lines = curves.drop(columns="budget", errors="ignore").merge(chosen, on=keys)
    lines = lines.assign(loss=lines[measured[0]])
    lines = lines[["cell_id", "budget", "tokens", "loss"]].dropna()
    lines = lines[lines["tokens"] > 0].sort_values(["budget", "cell_id", "tokens"])
    rank = lines.groupby("cell_id").cumcount()
    length = lines.groupby("cell_id")["loss"].transform("size")
    step = np.ceil(length / most_steps).clip(lower=1)
    return lines[(rank % step == 0) | (rank == length - 1)].reset_index(drop=True)


def _or_nan(value: Any) -> float:
    x = known(value)
    return np.nan if x is None else x
