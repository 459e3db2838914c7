"""More tables behind the figures: the surface of a law, and one quantity as several ways answer it.

A table of answers has `label`, `value`, `low`, `high`, `series`, `pick` (what a press on the page
chooses) and `tip`; plots.plot_intervals draws it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from analysis.figure_data import entries, law_losses, part
from analysis.report_numbers import count_with_interval, exponent, known, known_pair, loss, power

Fits = Mapping[str, Any]
LEVELS = 8
STEPS = 121  # of a contour, and of the search for its D
MARGIN = 1.25  # of the range of cells, on each side
FAR = 300.0  # forecasts farther than this from all cells do not stretch the surface
_ANSWERS = "label value low high series pick tip".split()


def contours(fits: Fits, cells: pd.DataFrame, targets: pd.DataFrame) -> pd.DataFrame:
    """Lines of equal loss of approach 3's law over the cells: loss, N, D.

    Args:
        fits: parsed fits.json.
        cells: figure_data.cell_table.
        targets: N and D of forecasts, which the lines reach where they are near.

    Returns:
        Empty where the law was not fitted. Each line is in the order of N.
    """
    law = str(part(fits, "approach3").get("law"))
    empty = pd.DataFrame({"loss": [], "N": [], "D": []}, dtype=float)
    if cells.empty or law_losses(fits, law, [1e6], [1e6]) is None:
        return empty
    N, D = (_span(cells[w], targets[w]) for w in "ND")
    surface = law_losses(fits, law, N[:, None], D[None, :])
    # Each row falls with D, or has no line: interp needs order.
    falls = np.isfinite(surface).all(axis=1) & (np.diff(surface, axis=1) < 0).all(axis=1)
    lowest = float(np.nanmin(surface))
    top = min(float(cells["loss"].max()), float(np.nanmax(surface)))
    ahead = law_losses(fits, law, targets["N"], targets["D"])
    levels = _levels(np.concatenate([cells["loss"], ahead]))
    lines = []
    for level in levels[(levels > lowest) & (levels <= top)]:
        at = [
            np.interp(-level, -row, np.log(D), left=np.nan, right=np.nan) for row in surface[falls]
        ]
        lines.append(pd.DataFrame({"loss": level, "N": N[falls], "D": np.exp(at)}).dropna())
    return pd.concat([w for w in lines if len(w) > 1] or [empty], ignore_index=True)


def _levels(losses: np.ndarray) -> np.ndarray:
    """Losses of two digits, as dense as the runs are; round steps where two digits are too few."""
    shares = np.quantile(losses, np.linspace(0.02, 0.95, LEVELS))
    levels = np.unique([float(f"{x:.1e}") for x in shares])
    if len(levels) >= LEVELS // 2:
        return levels
    return MaxNLocator(LEVELS).tick_values(float(losses.min()), float(losses.max()))


def _span(cells: pd.Series, targets: pd.Series) -> np.ndarray:
    low, high = float(cells.min()), float(cells.max())
    near = [t for t in targets if low / FAR < t < high * FAR]
    return np.geomspace(min([low, *near]) / MARGIN, max([high, *near]) * MARGIN, STEPS)


def target_points(forecasts: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """N, D and tip of each forecast that has both."""
    rows = []
    for f in forecasts:
        N, D = known(f.get("N")), known(f.get("D"))
        if N is not None and D is not None:
            tip = (
                f"forecast at {power(f.get('C'))} FLOPs\n"
                f"N* {count_with_interval(N, f.get('N_interval'))}\n"
                f"D* {count_with_interval(D, f.get('D_interval'))}\n"
                f"loss {loss(f.get('loss'), f.get('loss_interval'))}"
            )
            rows.append({"N": N, "D": D, "tip": tip})
    return pd.DataFrame(rows, columns=["N", "D", "tip"])


def approach_exponents(fits: Fits, published: Mapping[str, float]) -> pd.DataFrame:
    """Exponent a by each approach, and as published: a table of answers."""
    rows = [
        _exponent("approach 1, envelope", part(part(fits, "approach1"), "N_opt"), "approach"),
        _exponent("approach 2, minima", part(part(fits, "approach2"), "N_opt"), "approach"),
        _answer("approach 3, law", part(fits, "approach3").get("a"),
                part(part(fits, "approach3"), "ci").get("a"), "approach", exponent),
        *(_answer(name, a, None, "published", exponent) for name, a in published.items()),
    ]  # fmt: skip
    return _table(rows)


def convention_name(flop_rule: Any, N_convention: Any) -> str:
    """One way of counting, in a few words."""
    return f"{flop_rule}, N {N_convention}"


def conventions(fits: Fits) -> list[dict[str, Any]]:
    """List the headline and every refit, made or failed, as one list of plain values.

    Returns:
        name, flop_rule, N_convention, own (the report's own convention), a, a_interval, minima
        (approach 2's exponent), minima_interval, forecast (list), status, reason.
    """
    refits = [r for r in entries(fits, "refits") if r.get("flop_rule")]
    if not refits:
        return []
    points, law = part(fits, "points"), part(fits, "approach3")
    by_minima = part(part(fits, "approach2"), "N_opt")
    mine = [f for f in entries(fits, "forecast") if f.get("law") == law.get("law")]
    own = {
        "flop_rule": points.get("flop_rule"), "N_convention": points.get("N_convention"),
        "own": True, "a": law.get("a"), "a_interval": part(law, "ci").get("a"),
        "minima": by_minima.get("exponent"), "minima_interval": by_minima.get("ci"),
        "forecast": mine, "status": law.get("status"), "reason": law.get("reason"),
    }  # fmt: skip
    others = [
        {**r, "own": False, "minima": r.get("approach2_exponent"), "minima_interval": None,
         "forecast": entries(r, "forecast")}
        for r in refits
    ]  # fmt: skip
    return [
        {**c, "name": convention_name(c["flop_rule"], c["N_convention"])} for c in (own, *others)
    ]


def convention_exponents(fits: Fits) -> pd.DataFrame:
    """Exponent a under each convention, by the law and by the minima: a table of answers."""
    rows = []
    for i, c in enumerate(conventions(fits)):
        name = c["name"] + (" (this report)" if c["own"] else "")
        rows.append(_answer(name, c["a"], c["a_interval"], "law", exponent, i))
        rows.append(_answer(name, c["minima"], c["minima_interval"], "minima", exponent, i))
    return _table(rows)


def fit_exponents(named: Mapping[str, Fits]) -> pd.DataFrame:
    """Exponent a of several fits, by the law and by the minima: a table of answers."""
    rows = []
    for name, fits in named.items():
        law, minima = part(fits, "approach3"), part(part(fits, "approach2"), "N_opt")
        rows += [
            _answer(name, law.get("a"), part(law, "ci").get("a"), "law", exponent),
            _answer(name, minima.get("exponent"), minima.get("ci"), "minima", exponent),
        ]
    return _table(rows)


def convention_optima(fits: Fits) -> pd.DataFrame:
    """N* at the first target under each convention: a table of answers."""
    rows = []
    for i, c in enumerate(conventions(fits)):
        first = c["forecast"][0] if c["forecast"] else {}
        name = c["name"] + (" (this report)" if c["own"] else "")
        rows.append(
            _answer(name, first.get("N"), first.get("N_interval"), "law", count_with_interval, i)
        )
    return _table(rows)


def _exponent(label: str, law: Mapping[str, Any], series: str) -> dict[str, Any]:
    return _answer(label, law.get("exponent"), law.get("ci"), series, exponent)


def _answer(
    label: str, value: Any, interval: Any, series: str, show: Any, pick: int = -1
) -> dict[str, Any]:
    low, high = known_pair(interval) or (np.nan, np.nan)
    x = known(value)
    how = f" by the {series}" if series in ("law", "minima") else ""
    tip = f"{label}\n{show(value, interval)}{how}"
    return {"label": label, "value": np.nan if x is None else x, "low": low, "high": high,
            "series": series, "pick": pick, "tip": tip}  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=_ANSWERS)
    return table[np.isfinite(table["value"].astype(float))].reset_index(drop=True)
